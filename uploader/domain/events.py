"""What happens, as frozen values: the log, the progress bars, systemd's status and the tests all read these.

An event's name is its class name in kebab case, the same word in code, log and page. Must never carry a secret or
a URL, and publishing must never fail or wait: a listener that raises is a bug of the listener, and logged as one.
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
    """Something that happened. ``level`` is how loudly the log says it; None: not at all."""

    level: ClassVar[LogLevel | None] = "info"

    @classmethod
    def name(cls) -> str:
        """The event's one name, e.g. ``chunk-acknowledged``."""
        return _kebab(cls.__name__)


@cache
def _kebab(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower()


# The daemon


@dataclass(frozen=True, slots=True)
class Started(Event):
    """The state is loaded and locked, the stages run."""

    version: str
    server: str
    state: str
    unfinished: int
    finished: int


@dataclass(frozen=True, slots=True)
class ConfigWarning(Event):
    """Something the operator should know about this installation; said at every start."""

    level: ClassVar[LogLevel | None] = "warning"
    what: str


@dataclass(frozen=True, slots=True)
class Stopping(Event):
    """A signal came: chunks in flight get ``drain`` seconds."""

    signal: str
    drain: float


@dataclass(frozen=True, slots=True)
class Stopped(Event):
    """The process ends. What could be saved is saved; what could not, ``StateNotSaved`` has said."""

    unfinished: int


@dataclass(frozen=True, slots=True)
class ConfigReloaded(Event):
    """SIGHUP, and the new configuration is in force."""

    file: str


@dataclass(frozen=True, slots=True)
class ConfigRejected(Event):
    """SIGHUP, and the new configuration has faults: the old one stays."""

    level: ClassVar[LogLevel | None] = "error"
    faults: str


@dataclass(frozen=True, slots=True)
class StateNotSaved(Event):
    """The state could not be written, or its disk does not answer: nothing new is begun until it does.

    ``again_in``: seconds to the next try; None while a write is still waited for, which is said once.
    """

    level: ClassVar[LogLevel | None] = "error"
    reason: str
    again_in: float | None


@dataclass(frozen=True, slots=True)
class StateSaved(Event):
    """The state can be written again."""

    after: float


# The folder


@dataclass(frozen=True, slots=True)
class FolderWatched(Event):
    """A folder is being looked at; ``mode``: events hurry us, or scans alone."""

    folder: str
    mode: str
    rescan: float


@dataclass(frozen=True, slots=True)
class FolderOffline(Event):
    """A watched folder is away: its state is kept, nothing is inferred, the others go on."""

    level: ClassVar[LogLevel | None] = "error"
    folder: str
    reason: str


@dataclass(frozen=True, slots=True)
class FolderUnreadable(Event):
    """A part of a watched folder could not be looked at: nothing is inferred from that."""

    level: ClassVar[LogLevel | None] = "warning"
    folder: str
    reason: str


@dataclass(frozen=True, slots=True)
class EventsUnavailable(Event):
    """Events cannot be had for this folder any more: scans alone find its files."""

    level: ClassVar[LogLevel | None] = "warning"
    folder: str
    reason: str


@dataclass(frozen=True, slots=True)
class EventsMissed(Event):
    """A scan found files that no event had told of; ``total``: since the start."""

    folder: str
    files: int
    total: int


@dataclass(frozen=True, slots=True)
class FolderBack(Event):
    """A folder that was away is there again."""

    folder: str


@dataclass(frozen=True, slots=True)
class WatcherRestarted(Event):
    """The source of events failed; a scan covers for it."""

    level: ClassVar[LogLevel | None] = "warning"
    folder: str
    reason: str


@dataclass(frozen=True, slots=True)
class FileIgnored(Event):
    """A name that matches but is no regular file."""

    level: ClassVar[LogLevel | None] = "warning"
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class FileFound(Event):
    """A file we did not know."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class FileStillChanging(Event):
    """A file changed while we waited for it to stand still."""

    level: ClassVar[LogLevel | None] = "debug"
    path: str
    size: int


@dataclass(frozen=True, slots=True)
class FileHeldBack(Event):
    """A file stands still, and yet is not complete."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class FileSettled(Event):
    """A file is complete, or is given up waiting for: it goes on to be judged."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class FileQueued(Event):
    """A file waits for a worker. ``record``: the name its record will have."""

    path: str
    size: int
    record: str


@dataclass(frozen=True, slots=True)
class FileAlreadyUploaded(Event):
    """Metadata was touched, the content is the one that was sent: nothing to do."""

    path: str
    record: str


@dataclass(frozen=True, slots=True)
class FileDuplicate(Event):
    """The content was sent before from ``known_as``. ``decision``: ``sent`` all the same, or ``skipped``."""

    path: str
    known_as: str
    record: str
    decision: str


@dataclass(frozen=True, slots=True)
class FileRenamed(Event):
    """The file of an upload that is under way has got another name: it goes on, and ends under that."""

    path: str
    before: str


@dataclass(frozen=True, slots=True)
class RecordRuleNotMatched(Event):
    """A rule of ``[watch.record]`` did not fit this file; it goes under a safe name."""

    level: ClassVar[LogLevel | None] = "warning"
    path: str
    reason: str


# The server


@dataclass(frozen=True, slots=True)
class LoggedIn(Event):
    """A new token, shared by all workers."""

    user: str


@dataclass(frozen=True, slots=True)
class OutageBegan(Event):
    """The server cannot be talked to; all calls wait. ``again_in``: seconds."""

    level: ClassVar[LogLevel | None] = "error"
    reason: str
    again_in: float


@dataclass(frozen=True, slots=True)
class OutageEnded(Event):
    """The server answers again. ``after``: seconds of silence."""

    after: float


@dataclass(frozen=True, slots=True)
class ServerChanged(Event):
    """The server is another version: what was learnt of its ways is forgotten."""

    before: str
    now: str


@dataclass(frozen=True, slots=True)
class OrphanCleared(Event):
    """A record of ours that will not be finished is gone from the server."""

    record: str
    path: str


@dataclass(frozen=True, slots=True)
class OrphanHasVideo(Event):
    """An orphan holds a video after all: never deleted by us, a person decides."""

    level: ClassVar[LogLevel | None] = "warning"
    record: str
    path: str
    hint: str


# One upload


@dataclass(frozen=True, slots=True)
class RecordCreated(Event):
    """The server named record and video; both are saved."""

    path: str
    record: str
    video: str


@dataclass(frozen=True, slots=True)
class RecordAdopted(Event):
    """A record whose creation we could not be sure of was found and taken on."""

    path: str
    record: str


@dataclass(frozen=True, slots=True)
class UploadResumed(Event):
    """Sending goes on where the last acknowledged byte was."""

    path: str
    record: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class BytesSent(Event):
    """Bytes were handed to the socket; ``position`` is where in the file we are. Not acknowledged yet."""

    level: ClassVar[LogLevel | None] = None
    path: str
    position: int
    size: int


@dataclass(frozen=True, slots=True)
class ChunkAcknowledged(Event):
    """The server has ``offset`` bytes, and that is saved."""

    level: ClassVar[LogLevel | None] = "debug"  # a large file has thousands
    path: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class UploadInDoubt(Event):
    """An answer never came, or we were not there to hear it: the server is asked before anything is sent."""

    level: ClassVar[LogLevel | None] = "warning"
    path: str
    record: str
    what: str


@dataclass(frozen=True, slots=True)
class DoubtResolved(Event):
    """The server was asked: ``outcome`` is what had become of the request."""

    path: str
    record: str
    outcome: str


@dataclass(frozen=True, slots=True)
class UploadStartedOver(Event):
    """The upload begins again on a new record; the old one is an orphan."""

    level: ClassVar[LogLevel | None] = "warning"
    path: str
    reason: str
    orphan: str | None


@dataclass(frozen=True, slots=True)
class FileChangedWhileSending(Event):
    """The file changed while it was being sent: stopped, and it settles again."""

    level: ClassVar[LogLevel | None] = "warning"
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class UploadSent(Event):
    """Every byte is acknowledged; now the server processes."""

    path: str
    record: str
    size: int
    chunks: int
    sha256: str


@dataclass(frozen=True, slots=True)
class UploadRetryScheduled(Event):
    """A setback; tried again by itself in ``again_in`` seconds."""

    level: ClassVar[LogLevel | None] = "warning"
    path: str
    reason: str
    again_in: float


@dataclass(frozen=True, slots=True)
class UploadParked(Event):
    """Set aside: ``turn`` says whose turn it is."""

    level: ClassVar[LogLevel | None] = "warning"
    path: str
    reason: str
    turn: str


@dataclass(frozen=True, slots=True)
class UploadReleased(Event):
    """A parked upload goes on: by hand, by time, or because its file changed."""

    path: str
    state: str


@dataclass(frozen=True, slots=True)
class UploadForgotten(Event):
    """The operator said so: nothing more is known of this upload."""

    level: ClassVar[LogLevel | None] = "warning"
    path: str
    orphan: str | None


@dataclass(frozen=True, slots=True)
class VideoReady(Event):
    """The server said ready. ``seconds``: since the last byte was acknowledged."""

    path: str
    record: str
    seconds: float


@dataclass(frozen=True, slots=True)
class UploadFinished(Event):
    """In the ledger, and the local file is dealt with. ``file``: kept, moved, deleted, gone or changed."""

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
    """Another limit is in force. ``rate``: bytes per second, None is no limit; ``folder``: of its uploads alone."""

    rate: float | None
    reason: str
    folder: str | None = None


Listener = Callable[[Event], None]


class Bus:
    """Carries events to whoever listens, in order, at once. A listener that raises is no concern of anybody else."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self._told: set[tuple[int, type[Event]]] = set()  # by the listener's id

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Add a listener; the answer is the call that removes it."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def publish(self, event: Event) -> None:
        """Tell everybody. What a listener raises ends here; cancellation and the end of the process pass through."""
        for listener in tuple(self._listeners):
            try:
                listener(event)
            except Exception:  # a metric or a bar that fails must not stop an upload
                if (id(listener), type(event)) not in self._told:  # said once: it may happen with every chunk
                    self._told.add((id(listener), type(event)))
                    with suppress(Exception):  # the log itself may be what has failed
                        log.exception("listener-failed", listener=_name_of(listener), told=repr(event))


def _name_of(listener: Listener) -> str:
    return getattr(listener, "__qualname__", type(listener).__qualname__)
