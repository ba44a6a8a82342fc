"""The values that all packages share: frozen, and free of I/O, clocks and wire formats.

Sizes and offsets are bytes. Times are Unix seconds (float) unless a name ends in ``_ns``. Paths are ``str`` as
``os.fsdecode`` gives them, so that names that are not UTF-8 survive (surrogateescape); ``shown`` makes them printable.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePath
from types import MappingProxyType
from typing import Final, Literal

AfterUpload = Literal["keep", "move", "delete"]
GateRule = bool | Literal["playable"]  # whether a file is held back that its recorder has not closed
Proof = Literal["bytes", "size", "duration", "ready"]  # what has shown that a recording arrived; see ``domain.proof``
ProofRule = Literal["auto", "bytes", "ready"]  # what the operator wants to be shown
NOT_SAVED: Final = MappingProxyType({"saved": False})  # metadata of fields that are not written to a file
RARE: Final = MappingProxyType({"rare": True})  # of flags that are written only when they are true


class State(StrEnum):
    """How far an upload is. ``lifecycle.TABLE`` says which step leads from one state to the next."""

    QUEUED = "queued"  # the file is complete; the server knows nothing of it
    CREATING = "creating"  # the intent is saved; a record may or may not exist
    SENDING = "sending"  # a record exists and holds exactly ``offset`` bytes; nothing is in doubt
    IN_DOUBT = "in-doubt"  # the last byte of a chunk may have been sent, and its answer is not known
    VERIFYING = "verifying"  # every byte was acknowledged; the server is processing
    PROVING = "proving"  # the video is ready; that it is what was sent is still to be proven
    FINISHING = "finishing"  # its arrival is proven; ledger and local file are still to do
    DONE = "done"  # in the ledger; no longer in the state
    PARKED = "parked"  # somebody must act; ``last_error`` says who


class ActionBy(StrEnum):
    """Who must act before the upload can continue."""

    UPLOADER = "ours"  # this program tries again
    FILE = "file"  # the recording must change: still growing, empty, replaced, missing
    OPERATOR = "operator"  # a person must act: password, right, limit, disk


@dataclass(frozen=True, slots=True)
class Identity:
    """Which content a path had. The inode is not part of it: on shares it is not stable."""

    size: int
    mtime_ns: int
    edges: str  # sha256 (hex) over the first and the last block, see ``files.inspection.EDGE_SIZE``


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a file was at one moment. All of it must be unchanged before the file counts as complete."""

    identity: Identity
    ctime_ns: int
    inode: tuple[int, int]  # device, inode


@dataclass(frozen=True, slots=True)
class WriteState:
    """Why an unchanged file may still be written. ``unfinished``: what its container lacks; empty when nothing."""

    writer: bool = False  # somebody on this host has it open for writing
    unfinished: str = ""
    playable: bool = False  # unfinished, but its recorder never closed it, and it plays up to its end
    companion: str = ""  # which program has not finished it, by a file beside it; empty when none


@dataclass(frozen=True, slots=True)
class Sighting:
    """A file that was seen in a watched folder: its name and what its inode says. Its content was not read."""

    path: str
    root: str  # the watched folder that it was found in, as configured
    size: int
    mtime_ns: int
    inode: tuple[int, int] | None = field(default=None, compare=False)  # device, inode


@dataclass(frozen=True, slots=True)
class RecordSharing:
    """Who may see a record besides its owner: VALT's numeric ids of users and groups."""

    users: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RecordSpec:
    """What the server is asked to create (docs/protocol.md, *create record*)."""

    name: str
    template: dict[str, str] = field(default_factory=dict)
    share: RecordSharing = RecordSharing()


@dataclass(frozen=True, slots=True)
class RecordIds:
    """The server's ids of a record and its one video."""

    record: str
    video: str


@dataclass(frozen=True, slots=True)
class LastError:
    """Why an upload does not go on now, who must act, and when it is tried again."""

    reason: str
    action_by: ActionBy
    attempts: int = 0  # failures in a row that count against this file
    not_ready: int = 0  # times in a row that its disk or share was not ready: these are no failures
    must_change: bool = False  # that the file exists is not enough: its content must change
    next_try: float | None = None  # None: only by the operator, or when the file changes
    cuts: int = 0  # times that this chunk ended before its last byte: it may be too large (docs/protocol.md, rule 5)
    gone_looks: int = field(default=0, metadata=RARE)  # looks in a row at which the server had no such record
    send_again: bool = field(default=False, metadata=RARE)  # its record is gone, and the operator wants a new one

    @property
    def waits_for_file(self) -> bool:
        """True when the upload goes on as soon as the file is back."""
        return self.action_by is ActionBy.FILE and not self.must_change


@dataclass(frozen=True, slots=True)
class Upload:
    """The upload of one file, as ``state.json`` holds it. Its state changes only in ``lifecycle``."""

    path: str
    root: str  # the folder that ``path`` is opened beneath
    identity: Identity
    record: RecordSpec
    chunk_size: int  # bytes of a chunk; 0: the whole file as one range
    state: State = State.QUEUED
    after_upload: AfterUpload = "keep"
    move_to: str | None = None
    ids: RecordIds | None = None
    offset: int = 0  # bytes the server has acknowledged
    digest: str = ""  # sha256 (hex) of those bytes, as they were sent
    chunks: int = 0  # acknowledged requests
    doubt_end: int | None = None  # IN_DOUBT: first byte after the chunk whose answer is not known
    doubt_digest: str = ""  # IN_DOUBT: what ``digest`` becomes if that chunk has arrived
    intent_at: float | None = None  # by the server's clock; the record cannot be older than this
    inode: tuple[int, ...] | None = None  # device, inode of the file that was sent
    renamed_to: str | None = None  # the path that the file was renamed to since it was found
    doubt_at: float | None = None  # IN_DOUBT: since when the answer has been missing
    begun_at: float | None = None
    sent_at: float | None = None
    ready_at: float | None = None
    restarts: int = 0  # records begun before this one
    gone: int = 0  # of these, the ones that somebody removed from the server
    last_error: LastError | None = None
    parked_from: State | None = None  # PARKED: the state that ``release`` leads back to
    by_hand: bool = field(default=False, metadata=RARE)  # named on the command line of ``upload``
    forgotten: bool = field(default=False, metadata=RARE)  # CREATING: dropped when its record is known to exist or not
    moving_to: str | None = None  # FINISHING: the path that the file is moved to
    recorded: float = field(default=0.0, metadata=RARE)  # seconds, by the file's container; 0: unknown, or not needed
    duration: float = field(default=0.0, metadata=RARE)  # PROVING: seconds, by the server; 0: it does not say
    proof: Proof | None = field(default=None, metadata=RARE)  # FINISHING: what has shown that it arrived
    # ids of earlier records of it that hold something else than was sent; deleted when this one is proven
    spoilt: tuple[str, ...] = field(default=(), metadata=RARE)
    serial: int = field(default=0, compare=False, repr=False, metadata=NOT_SAVED)  # see ``store.uploads``
    revision: int = field(default=0, compare=False, repr=False, metadata=NOT_SAVED)

    @property
    def where(self) -> str:
        """The path of the file now."""
        return self.renamed_to or self.path


EVERYTHING: Final = "/"  # what ``pause`` without a path pauses


def covers(paused: Collection[str], path: str) -> bool:
    """True when *path*, or a folder above it, is among *paused*."""
    return any(path == each or path.startswith(each.rstrip("/") + "/") for each in paused)


@dataclass(frozen=True, slots=True)
class Orphan:
    """A record that this program made and will not finish, until it is deleted (docs/protocol.md, rule 7)."""

    record: str
    name: str
    path: str  # the file it was made for
    since: float
    next_look: float
    landed: bool = False  # it holds a video: it is reported, never deleted
    probe: bool = False  # made by a probe: it holds test data, and is deleted even so
    replaced: bool = field(default=False, metadata=RARE)  # it arrived spoilt, its replacement whole: deleted even so
    found: bool = field(default=False, metadata=RARE)  # by its name: another client of this account may have made it
    refused: bool = field(default=False, metadata=RARE)  # the server refuses to delete it, which was published
    # Given up in doubt about its last chunk, so it may land whole: what it takes to adopt it then.
    identity: Identity | None = field(default=None, metadata=RARE)
    video: str = field(default="", metadata=RARE)
    digest: str = field(default="", metadata=RARE)  # sha256 (hex) of all that was sent to it
    chunks: int = field(default=0, metadata=RARE)


@dataclass(frozen=True, slots=True)
class MountIdentity:
    """Which file system a watched folder is on, so that it is recognised after a restart or a re-mount.

    ``inner``: its path inside that file system, which is the same through every mount. ``source``: empty for local
    disks, whose device names change from boot to boot. ``marker``: the content of the marker file, on network mounts
    where it could be made.
    """

    root: str  # the watched folder, as configured
    fstype: str
    source: str
    inner: str
    marker: str = ""

    def __str__(self) -> str:
        return f"{self.fstype} {self.source or self.inner}"


@dataclass(frozen=True, slots=True)
class ServerCapabilities:
    """What was learnt about this server. It survives a restart, and expires."""

    whole_only_until: float | None = None  # it refuses ranges (rule 5)
    chunk_limit: int | None = None  # bytes; larger requests were answered 413
    chunk_limit_until: float | None = None  # then larger ones are tried again
    resend_is_safe: bool | None = None  # what a probe has found; None: there was none, or it could not tell
    chunks: bool | None = None  # likewise: whether it puts the chunks of a file together
    transcodes: bool | None = None  # likewise: whether it hands out other bytes than it got in one request
    probed_at: float | None = None
    nameless_until: float | None = None  # it makes records by GET alone, without a name; then by POST is tried again
    names_refused: bool | None = None  # nor does it take a name afterwards
    version: str | None = None  # of the server that this was learnt from; empty: it does not say
    login_refusals: int = 0
    login_not_before: float | None = None  # no log-in with the same password before this
    login_refused: str | None = None  # the refused password's ``credentials.fingerprint``


@dataclass(frozen=True, slots=True)
class FinishedUpload:
    """A finished upload, as ``ledger.jsonl`` holds it. ``LedgerLine`` adds the hash of the chain."""

    path: str
    size: int
    mtime_ns: int
    edges: str
    sha256: str
    record: str
    video: str
    name: str
    begun_at: float
    sent_at: float
    ready_at: float
    chunks: int
    after_upload: AfterUpload
    moved_to: str | None = None
    proof: Proof = "ready"  # what has shown that it arrived; lines of the first builds do not say it

    @property
    def identity(self) -> Identity:
        """The content that was sent."""
        return Identity(self.size, self.mtime_ns, self.edges)


SHOWN_TEXT_LIMIT = 300  # characters; longer names and server texts are cut in logs and on terminals


def shown(text: str | PurePath, limit: int = SHOWN_TEXT_LIMIT) -> str:
    r"""Make a file name or a text from outside safe to print: one line, no control or bidi characters.

    Bytes that are not UTF-8 appear as ``\xNN``; the result always encodes to UTF-8.
    """
    text = str(text)
    safe = text if text.isprintable() else "".join(_shown_char(char) for char in text)
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"


def _shown_char(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as surrogateescape shows it
        return f"\\x{code - 0xDC00:02x}"
    if code in {0x200C, 0x200D}:  # joiners: part of emoji and of several scripts' spelling, and they hide nothing
        return char
    # Cc control, Cf format (bidi overrides, zero width), Cs other surrogates, Zl/Zp line breaks
    if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
        return f"\\u{code:04x}" if code > 0xFF else f"\\x{code:02x}"
    return char
