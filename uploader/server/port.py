"""The port to the video server: what this program needs of it, and what each answer or failure means.

``RecordServer`` is what the stages use: records, chunks, the server's clock. ``Server`` adds what the application, the
diagnostics and the commands use. ``uploader.server.valt`` implements both over HTTP; only the modules that wire the
program together import it. ``tests/server/test_port_conformance.py`` checks an implementation against this contract.

A chunk has *landed* when the server holds it. A video has landed when its record shows it, with any status.

**Failures.** A method that calls the server raises a subclass of ``errors.UploaderError``. Its text holds no URL, token
or password. What it says of the server:

* Nothing was done: ``BreakerOpen`` (no call was made), ``ServerDown`` (no connection, TLS, a redirect, 503 …),
  ``ProxyAnswered`` (a refusal that is not the server's: something before it answered), ``ServerFull`` (507),
  ``ServerBusy`` (wait ``retry_after`` seconds), ``ServerRefused`` and its subclasses ``RightMissing`` and
  ``PayloadRefused`` (a plain no), ``RecordGone`` (404). A refusal is the server's own only in one of its own shapes.
* The call changes nothing and failed: ``CallFailed`` (500), also ``ServerDown`` when the answer was lost. An
  implementation may repeat such a call once by itself.
* It may have been done: ``AnswerLost`` and its subclass ``NoRoom``. Only calls that change something raise it. A yes
  that is not the server's (a page) is no yes: ``AnswerLost``, or ``ProxyAnswered`` for a call that changes nothing.
* ``download`` and ``video_size`` only: ``DownloadUnavailable``. The address that a link leads to has failed, not the
  API; ``reached`` is False when there was no connection. What the call for the link raises is raised as it is.
* Chunks only: ``ChunkCut``, ``ChunkRefused``, ``ChunkTooLarge``, ``TokenExpired``; see ``send_chunk``.

A call logs in first when there is no token. So each of them also raises what a log-in does: ``PasswordRefused`` and
``PasswordUnusable``. Concurrent calls share one log-in. A 401 to any call but a chunk is answered by one new log-in and
one repetition; a second 401 is ``RightMissing`` if the new token is good for another call, else ``AccountShared``.
``Unreachable`` is the ``ServerDown`` of a call for which no connection could be made.

**Cancellation** passes through every method, and ends the request: nothing more of it is sent. If the server has
received the whole request by then, it may still carry it out.

Units: bytes, seconds, Unix time. Rule numbers are those of docs/protocol.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from uploader.domain.model import RecordIds, RecordSpec
from uploader.files.shared_fd import SharedFd, WaitWritable


@dataclass(frozen=True, slots=True)
class RecordDetails:
    """What the server knows of one record."""

    record: str
    name: str
    author: str
    created: float  # Unix seconds by the server's clock, whole
    videos: Mapping[str, str] | None  # id → status word; None while no video has landed
    duration: float = 0.0  # seconds; 0: not said

    def status_of(self, video: str) -> str | None:
        """Return the status word of *video*: ``created``, ``ready``, another; None when it has not landed."""
        return None if self.videos is None else self.videos.get(video)


@dataclass(frozen=True, slots=True)
class RecordListed:
    """One record, as a search lists it."""

    record: str
    name: str
    author: str
    created: float  # Unix seconds by the server's clock, whole


class ByteSource(Protocol):
    """Where the bytes of a chunk come from, in order and once. At first it is positioned at the chunk's first byte."""

    local: bool  # True: ``pass_on`` may be tried

    def blocks(self, end: int) -> AsyncIterator[memoryview]:
        """Yield the bytes from where it stands to the offset *end*, exclusive."""

    async def pass_on(
        self, socket: SharedFd, count: int, *, room: WaitWritable, on_progress: Callable[[int], None]
    ) -> None:
        """Send the next *count* bytes straight to a socket; wait with *room* while it takes none.

        Raises ``CannotPass`` (``files.sending``), before the first of these bytes is sent, when this way does not work.
        """


class Throttle(Protocol):
    """Says how many bytes may be sent now."""

    async def take(self, wanted: int) -> int:
        """Return how many bytes, 1 to *wanted*, may be sent now. Waits while the limit allows none."""


class ProofServer(Protocol):
    """What a video server hands out: the evidence that a recording has arrived.

    Both raise ``DownloadUnavailable`` when the link does not work, ``RecordGone`` when there is no such video.
    """

    async def video_size(self, ids: RecordIds, *, confirm: bool = False) -> int | None:
        """Return how many bytes the server hands out for a video; None when it does not say.

        It costs two small calls: the link, and the head of the answer to it. Some servers answer such a question
        wrongly, so with *confirm* it is put as the beginning of a download, which is broken off.
        """

    def download(self, ids: RecordIds) -> AsyncIterator[bytes]:
        """Yield the bytes of a video as the server hands them out.

        A link, or a redirect of it, that leads to another host is never followed: ``DownloadUnavailable``. A link that
        may have expired is asked for anew, once.
        """


class RecordServer(ProofServer, Protocol):
    """A video server, as the stages use it. The module's docstring says what is raised.

    Any number of calls may be under way at once, but only one request for each record: the caller sees to that
    (rule 1).
    """

    @property
    def log_ins(self) -> int:
        """How many log-ins have succeeded. After each one the server may be another version."""

    def server_now(self) -> float:
        """Return Unix seconds by the server's clock, right to about 2 s; this machine's before any answer."""

    async def agree_on_time(self) -> None:
        """Make sure that ``server_now`` follows the server's clock, with a call if need be.

        Needed again whenever this machine may have slept or its clock may have been set; costs nothing otherwise.
        """

    async def version(self) -> str | None:
        """Return the server's version; None when it does not tell this user."""

    async def create_record(self, spec: RecordSpec) -> RecordIds:
        """Create a record with one video and return their ids.

        Not idempotent, and names are not unique: each call makes another record. ``AnswerLost``: a record may exist
        whose ids are unknown (rule 6). After any other error none was made. ``NamelessOnly``: no record can be made
        with a name here; see ``create_nameless_record``.
        """

    async def create_nameless_record(self) -> RecordIds:
        """Create a record without a name, on a server for which ``create_record`` raises ``NamelessOnly``.

        Otherwise like ``create_record``; ``NamelessOnly`` here means that this server makes records with a name.
        """

    async def name_record(self, record: str, spec: RecordSpec) -> None:
        """Give *record* the name and the fields of *spec*. Idempotent: it is not repeated here, but may be.

        ``ServerRefused`` or ``CallFailed``: this server cannot do it.
        """

    async def details(self, record: str) -> RecordDetails:
        """Return what the server knows of *record*. Raises ``RecordGone`` when there is none."""

    async def find_records(self, name: str, *, since: float | None = None) -> tuple[RecordListed, ...]:
        """Return all records that this user sees whose name is exactly *name*, also those of other authors.

        *since*: Unix seconds; older ones are not needed.
        """

    async def delete_record(self, record: str) -> None:
        """Delete *record* and its videos. Idempotent: one that is gone already is no error.

        ``AnswerLost``: it may be deleted or not; delete it again to be sure.
        """

    async def send_chunk(
        self,
        ids: RecordIds,
        path: str,
        span: tuple[int, int, int],
        source: ByteSource,
        *,
        before_last_byte: Callable[[], Awaitable[None]],
        on_progress: Callable[[int], None],
        throttle: Throttle = ...,
    ) -> int | None:
        """Send the bytes *span* = (start, end, total) of a video, *end* exclusive, once. Not idempotent.

        Returns how many bytes the server says it holds, None when it does not say (rule 2). Either way the chunk was
        taken.

        *path* names the file; it must be the same for all chunks of a record, also after the file was renamed (rule
        1). How the server is told of it is the implementation's decision. *source* stands at *start*. *on_progress*
        gets the number of bytes of each piece that was sent. *throttle* says when each piece may be sent; without it,
        at once.

        *before_last_byte* is awaited when everything but the last byte of the request has been sent, at most once.
        The last byte leaves only after it has returned. If it raises, or *source* does, the request is cut and that
        exception is raised. (Cut means: the server has not seen it. A failure of the network's kind, ``OSError``, is
        raised as ``ChunkCut``.)

        * ``ChunkCut``: ended before its last byte; the server has not seen it. Send it again (rule 3).
        * ``AnswerLost``: ended after its last byte without a clear answer; in doubt. Ask ``details`` first (rule 4).
        * ``ChunkRefused``: the server does not take this range (its own 400, rule 5).
        * ``ChunkTooLarge``: the server, or a proxy before it, does not take a request of this size (413, rule 5).
        * ``TokenExpired``: answered 401; not taken. Set *source* back to *start* and send it again: that call logs in
          anew. It is not repeated here because *source* has been read.
        * ``RecordGone`` (404), ``ServerDown``, ``ProxyAnswered``, ``ServerBusy``, ``ServerRefused``: not taken.
        """


class Server(RecordServer, Protocol):
    """A video server, as the application, the diagnostics and the commands use it. An async context manager.

    It holds its connections while the context lasts; a call outside of it is a programming error. The context may be
    entered again.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    @property
    def skew(self) -> float:
        """Seconds by which the server's clock is ahead of this machine's; 0 before any answer."""

    async def login_if_needed(self) -> None:
        """Log in unless there is a token. Idempotent."""

    def forget_refusal(self) -> None:
        """Let a password that was refused be tried again at once: the operator says that it is good now."""

    async def download_link(self, ids: RecordIds) -> str:
        """Return a link to a video. It is a secret and expires after 30 minutes. Raises ``RecordGone``."""
