"""Tests how a server handles a video in one request, in chunks, and with chunks that are sent twice.

Uploads one second of real video three times, looks at what the server made of each, fetches it back, and deletes the
records again. ``check --probe`` reports what it finds (``probe``), and the daemon runs it by itself before it sends
chunks to a server for the first time (``app.auto_probe``). A 2xx proves nothing, only the bytes that are fetched back
do. It deletes no record but its own, and names each one that it could not delete.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final, Protocol

from uploader.diagnostics.probe_results import ProbeResult
from uploader.diagnostics.video import Video
from uploader.domain import errors, retry
from uploader.domain.model import Orphan, RecordIds, RecordSpec, ServerCapabilities
from uploader.files.sending import CannotPass
from uploader.files.shared_fd import SharedFd
from uploader.runtime.clock import Clock
from uploader.server.port import Server

PROBE_RECORD_NAME: Final = "valt-uploader probe"  # of its records, so that an administrator knows what they are
PROBE_FILE_NAME: Final = "valt-uploader-probe.mp4"
PROBE_VIDEO: Final = Video(frames=25, width=64, height=64)  # one second, about 150 KiB
PROBE_CHUNK_SIZE: Final = 64 * 1024  # bytes: the video in three chunks
PROBE_READY_TIMEOUT: Final = 120.0  # s to wait for a video to be ready; then it is downloaded all the same
PROBE_READY_SHORTEST: Final = 15.0  # s to wait for the videos in chunks at least
PROBE_READY_FACTOR: Final = 5  # × the time until the video in one request was ready: to wait for the others
ABANDONED_PROBE_AGE: Final = retry.HOUR  # s until the daemon deletes the records of a probe that was killed
READY_STATUS: Final = "ready"


class ResultStore(Protocol):
    """Saves results in the state: ``probe_results.ProbeResultStore``."""

    async def save(self, result: ProbeResult) -> str | None:
        """Save *result*; return what keeps it (``the daemon``, ``the state``), or None when it could not be saved."""


@dataclass(frozen=True, slots=True)
class VideoResult:
    """The result of one upload. ``sent``: number of accepted requests; ``error``: why the next one was not."""

    sent: int = 0
    error: errors.UploaderError | None = None
    status: str | None = None  # None: the record shows no video
    seconds: float = 0.0  # from the last byte to that status
    duration: float = 0.0  # seconds, by the server; 0: it does not say
    sha256: str | None = None  # of the downloaded bytes
    why_not: str = ""  # why nothing could be downloaded, or the record not looked at

    @property
    def wrong_length(self) -> bool:
        """True when the server shows another length than that of the video."""
        return self.duration > 0 and abs(self.duration - PROBE_VIDEO.duration) > PROBE_VIDEO.duration / 2


@dataclass(slots=True)
class Observations:
    """What the tests have shown. None: not known."""

    one: VideoResult = field(default_factory=VideoResult)
    in_chunks: VideoResult = field(default_factory=VideoResult)
    repeated: VideoResult = field(default_factory=VideoResult)
    repeats: tuple[int, ...] = ()  # the requests of ``repeated`` that sent a chunk again, counted from 0
    transcodes: bool | None = None  # whether the server hands out other bytes than it got
    chunks: bool | None = None  # whether the server assembles chunks
    resend: bool | None = None  # whether a chunk may be sent twice
    limit: int | None = None  # bytes: the largest request that was accepted, after a larger one was not
    left: list[str] = field(default_factory=list)  # records that could not be deleted

    @property
    def accepts(self) -> bool:
        """True when the server takes a video in one request. Else the other tests make no sense."""
        return self.one.sent > 0 and self.one.status is not None

    def learnt(self, *, version: str, now: float) -> ServerCapabilities:
        """Return the capabilities of a server of this *version*, found out *now*."""
        until = now + retry.CAPABILITIES_VALID_FOR
        return ServerCapabilities(
            whole_only_until=until if self.chunks is False else None,
            chunk_limit=self.limit,
            chunk_limit_until=None if self.limit is None else until,
            resend_is_safe=self.resend,
            chunks=self.chunks,
            transcodes=self.transcodes,
            probed_at=now,
            version=version,
        )


@dataclass(slots=True)
class _Sent:
    """One upload of the video. ``keeper``: what keeps its record in mind, see ``ResultStore.save``."""

    ids: RecordIds | None  # None: no record could be created
    keeper: str | None = None
    result: VideoResult = field(default_factory=VideoResult)


class ServerTrial:
    """One run of the tests."""

    def __init__(self, valt: Server, results: ResultStore, clock: Clock) -> None:
        self._valt, self._results, self._clock = valt, results, clock
        self._content = b"".join(PROBE_VIDEO.pieces())
        self._digest = hashlib.sha256(self._content).hexdigest()
        self.seen = Observations()
        self._ready_timeout = PROBE_READY_TIMEOUT

    @property
    def size(self) -> int:
        """Bytes of the video."""
        return len(self._content)

    async def run(self) -> Observations:
        """Upload the video in one request, in chunks, and with repeated chunks; then look at all three.

        Raises no ``UploaderError``.
        """
        spans, seen = self._spans(), self.seen
        *before, last = spans
        # a chunk is repeated at once, late, and when the file is complete already
        repeats = [*before, before[-1], before[0], last, last]
        seen.repeats = len(before), len(before) + 1, len(repeats) - 1
        sent: list[_Sent] = []
        try:
            for ranges in ([(0, self.size)], spans, repeats):
                await self._send_all(ranges, self.size, sent)
                if sent[0].result.error is not None:
                    break
            seen.one, seen.in_chunks, seen.repeated, *_ = [
                *await asyncio.gather(*(self._look(one) for one in sent)),
                VideoResult(),
                VideoResult(),
            ]
        finally:
            for one in sent:
                await self._remove(one)
        if seen.accepts:
            if seen.one.sha256 is not None and seen.one.status == READY_STATUS:
                seen.transcodes = seen.one.sha256 != self._digest
            seen.chunks = self._is_whole(seen.in_chunks)
            if seen.chunks is None and self._looks_whole(seen.in_chunks):
                seen.chunks = True
            seen.resend = False if seen.chunks is False else self._is_whole(seen.repeated)
        return seen

    def _is_whole(self, result: VideoResult) -> bool | None:
        """True when the server holds the video that was sent; None when that cannot be told."""
        if isinstance(result.error, errors.ChunkRefused | errors.RecordSpoilt):
            return False
        if result.error is not None or (result.why_not and result.status is None):
            return None
        if result.status is None or (result.wrong_length and not self.seen.one.wrong_length):
            return False
        if result.sha256 is None or self.seen.one.sha256 != self._digest:
            return None  # the server does not hand out what it got: two runs of its encoder may differ
        return result.sha256 == self._digest

    def _looks_whole(self, result: VideoResult) -> bool:
        """True when a server that transcodes has made the same of a video in chunks as of that in one request.

        Equal bytes alone could be a placeholder, so it must show the right lengths, too.
        """
        one = self.seen.one
        lengths = one.duration > 0 and result.duration > 0 and not (one.wrong_length or result.wrong_length)
        return bool(self.seen.transcodes) and lengths and result.sha256 == one.sha256

    async def version(self) -> str:
        """Return the server's version; empty when it does not tell."""
        try:
            return await self._valt.version() or ""
        except errors.UploaderError:
            return ""

    # One record

    def _spans(self) -> list[tuple[int, int]]:
        """Return the chunks of the video as (start, end)."""
        edges = [*range(0, len(self._content), PROBE_CHUNK_SIZE), len(self._content)]
        return list(pairwise(edges))

    async def send_part(self, size: int) -> VideoResult:
        """Send the first *size* bytes of a file of twice that size, in one request. The upload is not completed."""
        sent: list[_Sent] = []
        try:
            await self._send_all([(0, size)], 2 * size, sent)
            return sent[0].result
        finally:
            for one in sent:
                await self._remove(one)

    async def _send_all(self, spans: list[tuple[int, int]], total: int, sent: list[_Sent]) -> None:
        """Create a record and send ranges of a file of *total* bytes, in this order, until one fails.

        It is added to *sent* before anything is sent to it, so that it is removed whatever happens.
        """
        try:
            ids = await self._created()
        except errors.UploaderError as error:
            sent.append(_Sent(None, None, VideoResult(error=error)))
            return
        now = self._clock.now()
        orphan = Orphan(ids.record, PROBE_RECORD_NAME, "", since=now, next_look=now + ABANDONED_PROBE_AGE, probe=True)
        sent.append(one := _Sent(ids))
        one.keeper = await self._results.save(ProbeResult(orphans=(orphan,)))
        for start, end in spans:
            try:
                held = await self._send(ids, start, end, total)
                if held is not None and held != end:
                    raise errors.RecordSpoilt(f"the server says that it holds {held} bytes where {end} were sent")
            except errors.UploaderError as error:
                one.result = replace(one.result, error=error)
                return
            one.result = replace(one.result, sent=one.result.sent + 1)

    async def _created(self) -> RecordIds:
        try:
            return await self._valt.create_record(RecordSpec(PROBE_RECORD_NAME))
        except errors.NamelessOnly:
            return await self._valt.create_nameless_record()

    async def _send(self, ids: RecordIds, start: int, end: int, total: int) -> int | None:
        async def go_on() -> None:
            """Do nothing: the probe saves no progress. A chunk in doubt gives the finding *not known*."""

        span = start, end, total
        return await self._valt.send_chunk(
            ids,
            PROBE_FILE_NAME,
            span,
            _Content(self._content, start, total),
            before_last_byte=go_on,
            on_progress=lambda _: None,
        )

    async def _look(self, one: _Sent) -> VideoResult:
        """Wait until the video is ready, for ``PROBE_READY_TIMEOUT`` at most; then download it.

        Once the video that went in one request is ready, the others are waited for only a few times as long.
        """
        ids, outcome = one.ids, one.result
        if ids is None or outcome.error is not None:
            return outcome
        began = self._clock.monotonic()
        while True:
            age = self._clock.monotonic() - began
            try:
                details = await self._valt.details(ids.record)
            except errors.UploaderError as error:
                return replace(outcome, why_not=str(error))
            status = details.status_of(ids.video)
            if status == READY_STATUS or age >= self._ready_timeout:
                break
            await self._clock.sleep(retry.poll_pause(age))
        if outcome.sent == 1 and status == READY_STATUS:
            self._ready_timeout = min(self._ready_timeout, max(PROBE_READY_SHORTEST, PROBE_READY_FACTOR * age))
        outcome = replace(outcome, status=status, seconds=age, duration=details.duration)
        return outcome if status is None else await self._fetch(ids, outcome)

    async def _fetch(self, ids: RecordIds, outcome: VideoResult) -> VideoResult:
        digest = hashlib.sha256()
        try:
            async for block in self._valt.download(ids):
                digest.update(block)
        except errors.UploaderError as error:
            return replace(outcome, why_not=str(error))
        return replace(outcome, sha256=digest.hexdigest())

    async def _remove(self, one: _Sent) -> None:
        """Delete a record of the probe."""
        if one.ids is None:
            return
        record, keeper = one.ids.record, one.keeper
        try:
            await self._valt.delete_record(record)
        except errors.UploaderError as error:
            who = "the daemon will delete it" if keeper else "delete it on the server yourself"
            self.seen.left.append(f"record {record} ({PROBE_RECORD_NAME}) could not be deleted: {error.what}; {who}")
        else:
            if keeper is not None:
                await self._results.save(ProbeResult(cleared=(record,)))


class _Content:
    """The bytes of one chunk of the probe: its video, repeated (and padded with zeros) to fill a large chunk."""

    local = False  # in memory, so sendfile cannot send it

    def __init__(self, video: bytes, start: int, total: int) -> None:
        self._video, self._start, self._total = video, start, total

    async def blocks(self, end: int) -> AsyncIterator[memoryview]:
        """Yield the bytes from the start of the chunk to *end*."""
        for position in range(self._start, end, PROBE_CHUNK_SIZE):
            offset = position % len(self._video) if self._total > len(self._video) else position
            piece = self._video[offset : offset + min(PROBE_CHUNK_SIZE, end - position)]
            yield memoryview(piece + bytes(min(PROBE_CHUNK_SIZE, end - position) - len(piece)))

    async def pass_on(
        self, socket: SharedFd, count: int, *, room: Callable[[], Awaitable[None]], on_progress: Callable[[int], None]
    ) -> None:
        """Raise ``CannotPass``: there is no file to send from."""
        del socket, count, room, on_progress
        raise CannotPass
