"""The events: one frozen value for each thing that happens, read by log, progress bars, systemd status and tests.

An event's name is its class name in kebab case, the same word in code, log and page. It never carries a secret or a
URL. Publishing never waits and never fails: a listener that raises is logged as a bug of that listener.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

from uploader.runtime.log import get_logger

log = get_logger(__name__)

LogLevel = Literal["debug", "info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. ``level``: its log level; None: it is not logged."""

    level: ClassVar[LogLevel | None] = "info"

    @classmethod
    def name(cls) -> str:
        """The event's name, e.g. ``chunk-acknowledged``."""
        return _kebab(cls.__name__)


@cache
def _kebab(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


# The daemon


@dataclass(frozen=True, slots=True)
class Started(Event):
    """The state is loaded and locked, and the stages run."""

    version: str
    server: str
    state: str
    unfinished: int
    finished: int


@dataclass(frozen=True, slots=True)
class ConfigWarning(Event):
    """Something the operator should know about this installation; logged at every start."""

    level: ClassVar[LogLevel | None] = "warning"
    what: str


@dataclass(frozen=True, slots=True)
class Stopping(Event):
    """A signal to stop came; chunks in flight get ``drain`` seconds to end."""

    signal: str
    drain: float


@dataclass(frozen=True, slots=True)
class Stopped(Event):
    """The process ends. What could not be saved was logged as ``state-not-saved``."""

    unfinished: int


@dataclass(frozen=True, slots=True)
class ConfigReloaded(Event):
    """The configuration was reloaded (SIGHUP) and is in force."""

    file: str


@dataclass(frozen=True, slots=True)
class ConfigRejected(Event):
    """The configuration was to be reloaded (SIGHUP) but has faults; the old one stays in force."""

    level: ClassVar[LogLevel | None] = "error"
    faults: str


@dataclass(frozen=True, slots=True)
class StateNotSaved(Event):
    """The state cannot be written, or its disk does not answer; nothing new is begun until it can.

    ``again_in``: seconds until the next try; None while a write is waited for, which is logged once.
    """

    level: ClassVar[LogLevel | None] = "error"
    reason: str
    again_in: float | None


@dataclass(frozen=True, slots=True)
class StateSaved(Event):
    """The state can be written again. ``after``: seconds without it."""

    after: float


# The folder


@dataclass(frozen=True, slots=True)
class FolderWatched(Event):
    """A folder is watched. ``mode``: by events and scans, or by scans alone; ``rescan``: seconds between scans."""

    folder: str
    mode: str
    rescan: float


@dataclass(frozen=True, slots=True)
class FolderOffline(Event):
    """A watched folder is offline; its uploads wait, other folders go on."""

    level: ClassVar[LogLevel | None] = "error"
    folder: str
    reason: str


@dataclass(frozen=True, slots=True)
class FolderUnreadable(Event):
    """A part of a watched folder cannot be read; files in it are not taken for deleted."""

    level: ClassVar[LogLevel | None] = "warning"
    folder: str
    reason: str


@dataclass(frozen=True, slots=True)
class EventsUnavailable(Event):
    """Events are no longer available for this folder; scans alone find its files."""

    level: ClassVar[LogLevel | None] = "warning"
    folder: str
    reason: str


@dataclass(frozen=True, slots=True)
class EventsMissed(Event):
    """A scan found files that no event had reported. ``total``: files since the start."""

    folder: str
    files: int
    total: int


@dataclass(frozen=True, slots=True)
class FolderBack(Event):
    """A watched folder that was offline is back."""

    folder: str


@dataclass(frozen=True, slots=True)
class WatcherRestarted(Event):
    """The event watcher failed and is started again; a scan finds what it missed."""

    level: ClassVar[LogLevel | None] = "warning"
    folder: str
    reason: str


@dataclass(frozen=True, slots=True)
class FileIgnored(Event):
    """A file is not taken. ``reason``: it is not a regular file, or no ``[[watch]]`` takes it any more."""

    level: ClassVar[LogLevel | None] = "warning"
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class FilesNotTaken(Event):
    """A scan found files that no include pattern takes. Published once for each suffix of a folder."""

    level: ClassVar[LogLevel | None] = "warning"
    folder: str
    suffix: str
    files: int
    hint: str


@dataclass(frozen=True, slots=True)
class FileFound(Event):
    """A new file was found."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class FileStillChanging(Event):
    """A file changed while it was waited for; the wait begins again."""

    level: ClassVar[LogLevel | None] = "debug"
    path: str
    size: int


@dataclass(frozen=True, slots=True)
class FileHeldBack(Event):
    """A file is unchanged but not complete."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class FileNotClosed(Event):
    """The recorder never closed this file; it is sent as it is, because its ``[[watch]]`` has ``gate = "playable"``."""

    level: ClassVar[LogLevel | None] = "warning"
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class FileSettled(Event):
    """A file is complete, or is no longer waited for; the next step decides whether it is sent."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class FileQueued(Event):
    """A file waits for a worker. ``record``: the name of the record that it will get."""

    path: str
    size: int
    record: str


@dataclass(frozen=True, slots=True)
class FileAlreadyUploaded(Event):
    """The file's metadata changed, its content is the one that was sent; nothing is done."""

    path: str
    record: str


@dataclass(frozen=True, slots=True)
class FileDuplicate(Event):
    """The same content was sent before from ``known_as``. ``decision``: ``sent`` again, or ``skipped``."""

    path: str
    known_as: str
    record: str
    decision: str


@dataclass(frozen=True, slots=True)
class FileRenamed(Event):
    """The file of an unfinished upload was renamed from ``before`` to ``path``; the upload goes on."""

    path: str
    before: str


@dataclass(frozen=True, slots=True)
class SentFileRenamed(Event):
    """A file was renamed from ``before`` to ``path`` after it was sent; it is not sent again."""

    path: str
    before: str
    record: str


@dataclass(frozen=True, slots=True)
class RecordRuleNotMatched(Event):
    """A rule of ``[watch.record]`` did not match this file; its record gets a safe name."""

    level: ClassVar[LogLevel | None] = "warning"
    path: str
    reason: str


# The server


@dataclass(frozen=True, slots=True)
class LoggedIn(Event):
    """The server gave a new token; all workers share it."""

    user: str


@dataclass(frozen=True, slots=True)
class AccountShared(Event):
    """Each token ends soon after its log-in: another program logs in as this user. Log-ins are spaced from now on."""

    level: ClassVar[LogLevel | None] = "warning"
    user: str
    hint: str


@dataclass(frozen=True, slots=True)
class OutageBegan(Event):
    """The server does not work; all calls wait. ``again_in``: seconds until the next try.

    Published once for an outage, and once more when somebody else must act.
    """

    level: ClassVar[LogLevel | None] = "error"
    reason: str
    again_in: float


@dataclass(frozen=True, slots=True)
class OutageContinues(Event):
    """The outage has not ended: another call has failed. ``again_in``: seconds until the next try."""

    level: ClassVar[LogLevel | None] = "debug"
    reason: str
    again_in: float


@dataclass(frozen=True, slots=True)
class OutageEnded(Event):
    """The server answers again, call after call. ``after``: seconds that the outage took."""

    after: float


@dataclass(frozen=True, slots=True)
class ServerLimitLearnt(Event):
    """A limit of the server was learnt from a refusal. ``limit``: which one, until when, and how to forget it."""

    level: ClassVar[LogLevel | None] = "warning"
    limit: str


@dataclass(frozen=True, slots=True)
class ServerChanged(Event):
    """The server has another version; what was learnt about its capabilities is forgotten."""

    before: str
    now: str


@dataclass(frozen=True, slots=True)
class ServerProbeBegan(Event):
    """The server is probed with a test video. Files that need more than one chunk wait until that is over."""

    server: str


@dataclass(frozen=True, slots=True)
class ServerProbed(Event):
    """The server was probed; null: it could not be told.

    ``chunks``: whether it puts the chunks of a file together; ``resend``: whether a chunk may be sent twice;
    ``transcodes``: whether it hands out other bytes than it got.
    """

    version: str
    chunks: bool | None
    resend: bool | None
    transcodes: bool | None


@dataclass(frozen=True, slots=True)
class ServerProbeFailed(Event):
    """The server could not be probed; files are sent whole until the next try."""

    level: ClassVar[LogLevel | None] = "warning"
    reason: str


@dataclass(frozen=True, slots=True)
class ProofUnavailable(Event):
    """Download links do not work, so arrivals cannot be proven; files are kept. Published once, not for each file."""

    level: ClassVar[LogLevel | None] = "warning"
    reason: str


@dataclass(frozen=True, slots=True)
class ProofAvailable(Event):
    """Download links work again. ``after``: seconds without them."""

    after: float


@dataclass(frozen=True, slots=True)
class OrphanCleared(Event):
    """An orphan (a record that will not be finished) was deleted from the server."""

    record: str
    path: str


@dataclass(frozen=True, slots=True)
class OrphanHasVideo(Event):
    """An orphan holds a video; it is never deleted automatically, an operator must decide."""

    level: ClassVar[LogLevel | None] = "warning"
    record: str
    path: str
    hint: str


@dataclass(frozen=True, slots=True)
class OrphanNotDeleted(Event):
    """The server refuses to delete an orphan. It is tried again daily; published once."""

    level: ClassVar[LogLevel | None] = "warning"
    record: str
    path: str
    reason: str


# One upload


@dataclass(frozen=True, slots=True)
class RecordCreated(Event):
    """The server made a record and its video; their ids are saved."""

    path: str
    record: str
    video: str


@dataclass(frozen=True, slots=True)
class RecordsNameless(Event):
    """The server makes records without a name and takes none afterwards; said once, with the first such record."""

    level: ClassVar[LogLevel | None] = "warning"
    path: str
    record: str
    reason: str


@dataclass(frozen=True, slots=True)
class RecordAdopted(Event):
    """A record whose creation was in doubt was found; the upload uses it."""

    path: str
    record: str


@dataclass(frozen=True, slots=True)
class UploadResumed(Event):
    """Sending goes on after the last acknowledged byte."""

    path: str
    record: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class BytesSent(Event):
    """Bytes were written to the socket, not acknowledged yet. ``position``: the offset in the file after them."""

    level: ClassVar[LogLevel | None] = None
    path: str
    position: int
    size: int


@dataclass(frozen=True, slots=True)
class ChunkAcknowledged(Event):
    """The server has acknowledged ``offset`` bytes, and that is saved."""

    level: ClassVar[LogLevel | None] = "debug"  # a large file has thousands
    path: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class UploadInDoubt(Event):
    """The answer to a request is not known; the server is asked before anything more is sent."""

    level: ClassVar[LogLevel | None] = "warning"
    path: str
    record: str
    what: str


@dataclass(frozen=True, slots=True)
class DoubtResolved(Event):
    """The server was asked about a request in doubt. ``outcome``: what became of it."""

    path: str
    record: str
    outcome: str


@dataclass(frozen=True, slots=True)
class UploadStartedOver(Event):
    """The upload begins again on a new record. ``orphan``: the old one, which will be deleted."""

    level: ClassVar[LogLevel | None] = "warning"
    path: str
    reason: str
    orphan: str | None


@dataclass(frozen=True, slots=True)
class FileTimeMoved(Event):
    """The mtime of a file moved while it was sent, but not its content; the upload goes on. ``sent``: bytes so far."""

    level: ClassVar[LogLevel | None] = "debug"
    path: str
    sent: int


@dataclass(frozen=True, slots=True)
class FileChangedWhileSending(Event):
    """The file changed while it was sent; the upload is dropped and the file settles again."""

    level: ClassVar[LogLevel | None] = "warning"
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class UploadSent(Event):
    """Every byte is acknowledged; now the server processes the video."""

    path: str
    record: str
    size: int
    chunks: int
    sha256: str


@dataclass(frozen=True, slots=True)
class UploadRetryScheduled(Event):
    """An upload failed and is tried again automatically in ``again_in`` seconds."""

    level: ClassVar[LogLevel | None] = "warning"
    path: str
    reason: str
    again_in: float


@dataclass(frozen=True, slots=True)
class UploadParked(Event):
    """An upload is parked. ``action_by``: who must act (``ours``: this program, ``file`` or ``operator``).

    ``command``: what an operator types to let it go on.
    """

    level: ClassVar[LogLevel | None] = "warning"
    path: str
    reason: str
    action_by: str
    command: str = ""


@dataclass(frozen=True, slots=True)
class UploadReleased(Event):
    """A parked upload goes on: by the operator, by time, or because its file changed."""

    path: str
    state: str


@dataclass(frozen=True, slots=True)
class UploadForgotten(Event):
    """The operator dropped an unfinished upload."""

    level: ClassVar[LogLevel | None] = "warning"
    path: str
    orphan: str | None


@dataclass(frozen=True, slots=True)
class VideoReady(Event):
    """The server reports the video as ready. ``seconds``: since the last byte was acknowledged."""

    path: str
    record: str
    seconds: float


@dataclass(frozen=True, slots=True)
class VideoStatus(Event):
    """The server reports another status of a video than ``created`` and ``ready``."""

    level: ClassVar[LogLevel | None] = "warning"
    path: str
    record: str
    status: str


@dataclass(frozen=True, slots=True)
class UploadProven(Event):
    """The arrival of a recording is proven. ``proof``: by its bytes, its size, its duration, or the server's word."""

    level: ClassVar[LogLevel | None] = "debug"
    path: str
    record: str
    proof: str


@dataclass(frozen=True, slots=True)
class AttributesNotKept(Event):
    """A file was moved by a copy to another file system, and the copy lacks something of it. Published once for each.

    ``what``: ``owner``, ``group``, ``rights``, ``times``, or the name of an extended attribute.
    """

    level: ClassVar[LogLevel | None] = "warning"
    folder: str
    what: str


@dataclass(frozen=True, slots=True)
class UploadFinished(Event):
    """An upload is in the ledger and its local file is disposed of. ``file``: kept, moved, deleted, gone or changed."""

    path: str
    record: str
    size: int
    sha256: str
    file: str
    seconds: float
    moved_to: str | None = None


# The limit


@dataclass(frozen=True, slots=True)
class BandwidthChanged(Event):
    """A bandwidth limit changed. ``rate``: bytes per second, None is no limit; ``folder``: None is all uploads."""

    rate: float | None
    reason: str
    folder: str | None = None


Listener = Callable[[Event], None]


class Bus:
    """Passes each event to every listener, in order, at once. A listener that raises does not disturb the others."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._logged: set[tuple[int, type[Event]]] = set()  # failures: listener's id and kind of event

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Add a listener. Returns a function that removes it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def publish(self, event: Event) -> None:
        """Call every listener. An exception of one ends here; cancellation and the end of the process pass through."""
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:  # a metric or a bar that fails must not stop an upload
                if (id(listener), type(event)) not in self._logged:  # logged once: it may happen with every chunk
                    self._logged.add((id(listener), type(event)))
                    with suppress(Exception):  # the log itself may be what has failed
                        log.exception("listener-failed", listener=_name_of(listener), told=repr(event))


def _name_of(listener: Listener) -> str:
    return getattr(listener, "__qualname__", type(listener).__qualname__)
