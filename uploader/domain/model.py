"""The values that travel through the house: frozen, plain, free of behaviour that touches the world.

Must never do I/O, read a clock or know a wire format. Sizes and offsets are bytes; times are Unix seconds
(float) unless a name says ``_ns``. Paths are ``str`` as ``os.fsdecode`` gives them, so that names that are not
UTF-8 survive (surrogateescape); ``shown`` makes them fit for people.
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
NOT_SAVED: Final = MappingProxyType({"saved": False})  # metadata of fields that are never written to a file
RARE: Final = MappingProxyType({"rare": True})  # of flags that are written only when they are true


class State(StrEnum):
    """Where an upload stands. ``lifecycle.TABLE`` says how it gets from one to the next."""

    QUEUED = "queued"  # complete on our side; the server knows nothing of it
    CREATING = "creating"  # the intent is saved; a record may or may not exist
    SENDING = "sending"  # a record exists and holds exactly ``offset`` bytes; nothing is in doubt
    IN_DOUBT = "in-doubt"  # the last byte of a chunk may have gone, and its answer is not known
    VERIFYING = "verifying"  # every byte was acknowledged; the server is processing
    FINISHING = "finishing"  # the server said ready; ledger and local file are still to do
    DONE = "done"  # in the ledger; no longer in the state
    PARKED = "parked"  # waits for somebody; ``trouble`` says whom


class ActionBy(StrEnum):
    """Whose turn it is when something does not go on by itself."""

    UPLOADER = "ours"  # we try again
    FILE = "file"  # the recording must change: still growing, empty, replaced, missing
    OPERATOR = "operator"  # a person must act: password, right, limit, disk


@dataclass(frozen=True, slots=True)
class Identity:
    """Which content a path had. The inode is not part of it: shares hand out new ones at will."""

    size: int
    mtime_ns: int
    edges: str  # sha256 (hex) over the first and the last block, see ``files.inspection.EDGE_SIZE``


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a file was at one moment. All of it must stand still before the file counts as complete."""

    identity: Identity
    ctime_ns: int
    inode: tuple[int, int]  # device, inode


@dataclass(frozen=True, slots=True)
class WriteState:
    """What speaks against a file that stands still. ``unfinished``: what its container lacks, empty when nothing."""

    writer: bool = False  # somebody on this host has it open for writing
    unfinished: str = ""


@dataclass(frozen=True, slots=True)
class Sighting:
    """One look at one file of a watched folder: a name and what its inode said, nothing read."""

    path: str
    root: str  # the watched folder it was found under, as configured
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class RecordSharing:
    """Who may see a record besides its owner: VALT's numeric ids of users and groups."""

    users: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class RecordSpec:
    """What we ask the server to create: protocol.md, *create record*."""

    name: str
    template: dict[str, str] = field(default_factory=dict)
    share: RecordSharing = RecordSharing()


@dataclass(frozen=True, slots=True)
class RecordIds:
    """The server's names for a record and its one video."""

    record: str
    video: str


@dataclass(frozen=True, slots=True)
class LastError:
    """Why an upload does not go on right now, whose turn it is, and when we look again."""

    reason: str
    turn: ActionBy
    attempts: int = 0  # failures in a row that count against this file
    not_ready: int = 0  # times in a row that its disk or share said "not yet": they count against nobody
    must_change: bool = False  # that the file is there is not enough: its content must be another
    next_try: float | None = None  # None: only by hand, or when the file changes
    cuts: int = 0  # times that this chunk ended before its last byte: perhaps it is too large (protocol.md, rule 5)

    @property
    def waits_for_file(self) -> bool:
        """True when it goes on as soon as the file is there again."""
        return self.turn is ActionBy.FILE and not self.must_change


@dataclass(frozen=True, slots=True)
class Upload:
    """One file's upload, as it stands in ``state.json``. Changed only through ``lifecycle.advance``."""

    path: str
    root: str  # the folder that ``path`` is opened beneath
    identity: Identity
    record: RecordSpec
    chunk_size: int  # bytes of the next chunk, as a rule; 0: the whole file as one range
    state: State = State.QUEUED
    after_upload: AfterUpload = "keep"
    move_to: str | None = None
    ids: RecordIds | None = None
    offset: int = 0  # bytes the server has acknowledged
    digest: str = ""  # sha256 (hex) of those bytes, as they were sent
    chunks: int = 0  # acknowledged requests
    doubt_end: int | None = None  # IN_DOUBT: first byte after the chunk whose answer is not known
    doubt_digest: str = ""  # IN_DOUBT: what ``digest`` becomes if that chunk has landed
    intent_at: float | None = None  # by the server's clock: its record cannot be older than this
    inode: tuple[int, ...] | None = None  # device, inode of the file that was sent
    renamed_to: str | None = None  # the name that the file was given while it was being sent
    doubt_at: float | None = None  # since when its answer has been missing
    begun_at: float | None = None
    sent_at: float | None = None
    ready_at: float | None = None
    restarts: int = 0  # records begun before this one
    gone: int = 0  # of them, those that somebody removed from the server
    trouble: LastError | None = None
    parked_from: State | None = None  # PARKED: where ``release`` leads back to
    by_hand: bool = field(default=False, metadata=RARE)  # found by ``upload PATH``, or named by its options
    forgotten: bool = field(default=False, metadata=RARE)  # dropped as soon as it is known whether a record was made
    moving_to: str | None = None  # FINISHING: the path at which the file lies when the move has ended
    serial: int = field(default=0, compare=False, repr=False, metadata=NOT_SAVED)  # see ``store.uploads``
    revision: int = field(default=0, compare=False, repr=False, metadata=NOT_SAVED)

    @property
    def where(self) -> str:
        """The path at which its file is to be found now."""
        return self.renamed_to or self.path


EVERYTHING: Final = "/"  # what ``pause`` without a path pauses


def covers(paused: Collection[str], path: str) -> bool:
    """True when *path*, or a folder above it, is among *paused*."""
    return any(path == each or path.startswith(each.rstrip("/") + "/") for each in paused)


@dataclass(frozen=True, slots=True)
class Orphan:
    """A record of ours that will not be finished, until it is cleared away (protocol.md, rule 7)."""

    record: str
    name: str
    path: str  # the file it was made for
    since: float
    next_look: float
    landed: bool = False  # it holds a video after all: ours to report, never to delete
    probe: bool = False  # made by ``check --probe``: what it holds is a test of ours, and is deleted with it


@dataclass(frozen=True, slots=True)
class MountIdentity:
    """Where a watched folder lies, so that it is known again: after a restart, a re-mount, under another mount table.

    ``inner`` is its place inside its file system, which is the same whether that is seen through one mount or
    another. ``source`` is empty for local disks, whose device names change from boot to boot. ``marker`` is what
    our marker file says, on network mounts where it could be made.
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
    """What this server has taught us; survives a restart, forgotten when it has aged."""

    whole_only_until: float | None = None  # it refuses ranges (rule 5)
    chunk_limit: int | None = None  # bytes; larger requests were answered 413
    chunk_limit_until: float | None = None  # then larger ones are tried again
    resend_is_safe: bool | None = None  # what ``check --probe`` has seen; None: nobody has looked
    probed_at: float | None = None
    version: str | None = None  # the server that all of the above was learnt from; empty: it does not tell
    login_refusals: int = 0
    login_not_before: float | None = None  # no log-in with the same password before this
    login_refused: str | None = None  # which password that is: ``credentials.fingerprint``


@dataclass(frozen=True, slots=True)
class FinishedUpload:
    """One line of ``ledger.jsonl``: a finished upload. The chain's hash is the ledger's own business."""

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

    @property
    def identity(self) -> Identity:
        """The content this line vouches for."""
        return Identity(self.size, self.mtime_ns, self.edges)


SHOWN_TEXT_LIMIT = 300  # characters; longer names and server texts are cut in logs and on terminals


def shown(text: str | PurePath, limit: int = SHOWN_TEXT_LIMIT) -> str:
    r"""Make a file name or a foreign text safe to print: one line, no control or bidi characters.

    Bytes that are not UTF-8 appear as ``\xNN``; the result always encodes to UTF-8.
    """
    text = str(text)
    safe = text if text.isprintable() else "".join(_shown_char(char) for char in text)
    return safe if len(safe) <= limit else safe[: limit - 1] + "…"


def _shown_char(char: str) -> str:
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # what surrogateescape made of a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code in {0x200C, 0x200D}:  # joiners: part of emoji and of several scripts' spelling, and they hide nothing
        return char
    # Cc control, Cf format (bidi overrides, zero width), Cs other surrogates, Zl/Zp line breaks
    if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
        return f"\\u{code:04x}" if code > 0xFF else f"\\x{code:02x}"
    return char
