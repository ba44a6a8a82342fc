"""``check --probe``: tests how this server handles a video in one request, in chunks, and a chunk that is sent twice.

It uploads one second of real video several times, checks the result, and deletes it again. It reports only what it has
seen: a 2xx to a repeated chunk proves nothing, only the bytes that are downloaded afterwards do. It deletes no record
but its own, and names each one that it could not delete.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final, Protocol

from uploader.config import Config
from uploader.diagnostics.doctor import Finding
from uploader.diagnostics.probe_results import ProbeResult
from uploader.diagnostics.video import Video
from uploader.domain import errors, retry
from uploader.domain.model import Orphan, RecordIds, RecordSpec, ServerCapabilities
from uploader.domain.units import format_bytes, format_duration
from uploader.files.sending import CannotPass
from uploader.files.shared_fd import SharedFd
from uploader.runtime.clock import Clock
from uploader.server.port import Server

PROBE_RECORD_NAME: Final = "valt-uploader probe"  # of its records, so that an administrator knows what they are
PROBE_FILE_NAME: Final = "valt-uploader-probe.mp4"
PROBE_VIDEO: Final = Video(frames=25, width=64, height=64)  # one second, about 150 KiB
PROBE_CHUNK_SIZE: Final = 64 * 1024  # bytes: the video in three chunks
PROBE_READY_TIMEOUT: Final = 120.0  # s to wait for a video to be ready; then it is downloaded all the same
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
    why_not: str = ""  # why nothing could be downloaded

    @property
    def length(self) -> str:
        """A remark about a wrong length; empty when the server shows the right one or none."""
        wrong = self.duration > 0 and abs(self.duration - PROBE_VIDEO.duration) > PROBE_VIDEO.duration / 2
        return f"; the server shows a length of {self.duration:g} s, not {PROBE_VIDEO.duration:g} s" if wrong else ""


@dataclass(slots=True)
class Observations:
    """What the tests have shown so far. None: not known."""

    one: VideoResult = field(default_factory=VideoResult)
    chunks: bool | None = None  # whether the server assembles chunks
    resend: bool | None = None  # whether a chunk may be sent twice
    limit: int | None = None  # bytes: the largest request that was accepted, after a larger one was not
    tried: int = 0  # bytes: the largest request that was tried
    left: list[str] = field(default_factory=list)  # records that could not be deleted


class Probe:
    """One run of all tests."""

    def __init__(self, config: Config, valt: Server, results: ResultStore, clock: Clock) -> None:
        self._config, self._valt, self._results, self._clock = config, valt, results, clock
        self._content = b"".join(PROBE_VIDEO.pieces())
        self._digest = hashlib.sha256(self._content).hexdigest()
        self._seen = Observations()

    async def run(self) -> AsyncIterator[Finding]:
        """Run the tests and yield their findings; the last ones are the settings for this server, and where kept."""
        yield await self._one_request()
        if self._seen.one.sent:
            yield await self._in_chunks()
            yield await self._repeated()
            yield await self._size()
        yield self._cleanup()
        if self._seen.one.sent:
            for finding in self._settings():
                yield finding
            yield await self._remembered()

    # Tests

    async def _one_request(self) -> Finding:
        """Upload the video in one request. ``one.sent`` stays 0 when no other test makes sense."""
        outcome = self._seen.one = await self._upload([(0, len(self._content))])
        size = format_bytes(len(self._content))
        if outcome.error is not None:
            return Finding("one request", f"a video of {size} in one request: refused: {outcome.error}", "error")
        text = f"a video of {size} in one request: accepted, {_status_text(outcome)}{outcome.length}"
        if outcome.status is None:
            self._seen.one = replace(outcome, sent=0)  # no more tests: what fails in one request fails in several
            return Finding("one request", text, "error")
        if outcome.sha256 is None:
            return Finding("one request", f"{text}; its bytes cannot be compared: {outcome.why_not}", "warning")
        if outcome.sha256 != self._digest:
            text += "; downloaded, its bytes differ (transcoded), so they prove nothing in the tests below"
            return Finding("one request", text, "warning")
        severity = "ok" if outcome.status == READY_STATUS else "warning"
        return Finding("one request", f"{text}, downloaded byte for byte", severity)

    async def _in_chunks(self) -> Finding:
        """Upload the video in chunks, each once and in order."""
        spans = self._spans()
        outcome = await self._upload(spans)
        text = f"the same video in {len(spans)} chunks: "
        if isinstance(outcome.error, errors.ChunkRefused):
            self._seen.chunks = False
            return Finding("chunks", f"{text}refused ({outcome.error.what}): the server takes whole files only")
        if isinstance(outcome.error, errors.RecordSpoilt):
            self._seen.chunks = False
            return Finding("chunks", f"{text}{outcome.error.what}: the server does not assemble chunks")
        if outcome.error is not None:
            return Finding("chunks", f"{text}not known: {outcome.error}", "warning")
        text += f"accepted, {_status_text(outcome)}"
        if outcome.status is None:
            self._seen.chunks = False
            return Finding("chunks", f"{text}: the server does not assemble chunks")
        if self._comparable(outcome):
            self._seen.chunks = outcome.sha256 == self._digest
            bad = "but the downloaded bytes differ: the server damages a video in chunks"
            return Finding("chunks", f"{text}, {'downloaded byte for byte' if self._seen.chunks else bad}")
        return Finding(
            "chunks", f"{text}; whether it is undamaged is not known: {self._why_not_comparable(outcome)}", "warning"
        )

    async def _repeated(self) -> Finding:
        """Send the chunk in the middle twice, the first once more after it, and the last one twice.

        So a chunk is repeated at once, late, and when the file is complete already.
        """
        if self._seen.chunks is False:
            self._seen.resend = False
            return Finding("repeat", "a chunk sent twice: not tried, since chunks do not work with this server")
        *before, last = self._spans()
        spans = [*before, before[-1], before[0], last, last]
        repeats = len(before), len(before) + 1, len(spans) - 1
        outcome = await self._upload(spans)
        text = "a chunk sent twice: "
        if outcome.error is not None:
            return self._repeat_failed(text, outcome, repeats)
        text += f"accepted; the video is {_status_text(outcome)}"
        if outcome.status is not None and self._comparable(outcome):
            self._seen.resend = outcome.sha256 == self._digest
            good, bad = "downloaded byte for byte: nothing was stored twice", "its bytes differ: it is damaged"
            return Finding("repeat", f"{text}, and {good if self._seen.resend else bad}")
        if outcome.status is None:
            self._seen.resend = False
            return Finding("repeat", f"{text}: it is damaged")
        return Finding(
            "repeat", f"{text}; what was stored is not known: {self._why_not_comparable(outcome)}", "warning"
        )

    def _repeat_failed(self, text: str, outcome: VideoResult, repeats: tuple[int, ...]) -> Finding:
        error = outcome.error
        if isinstance(error, errors.RecordSpoilt):
            self._seen.resend = False
            return Finding("repeat", f"{text}{error.what}: it was stored in the wrong place")
        if isinstance(error, errors.ChunkRefused):
            self._seen.resend = False
            where = "refused" if outcome.sent in repeats else "accepted, but the chunk after it refused"
            return Finding("repeat", f"{text}{where} ({error.what}): an upload in doubt has to start over")
        return Finding("repeat", f"{text}not known: {error}", "warning")

    async def _size(self) -> Finding:
        """Send one chunk of ``chunk_size``; halve it until it is accepted. The upload is not completed."""
        size = self._config.upload.chunk_size
        if size == 0 or self._seen.chunks is False:
            why = 'chunk_size = "whole"' if size == 0 else "the server takes whole files only"
            return Finding("size", f"not tried, since {why}: a limit shows only when a recording is larger")
        self._seen.tried, refused = size, ""
        while True:
            outcome = await self._upload([(0, size)], total=2 * size)
            if outcome.error is None:
                break
            if (
                not isinstance(outcome.error, errors.ChunkTooLarge | errors.ChunkCut)
                or size <= retry.SMALLEST_HALVED_CHUNK
            ):
                text = f"a chunk of {format_bytes(size)}: the largest size is not known: {outcome.error}"
                return Finding("size", text, "warning")
            refused = refused or outcome.error.what
            size = max(retry.SMALLEST_HALVED_CHUNK, size // 2)
        if not refused:
            return Finding("size", f"a chunk of {format_bytes(size)}: accepted")
        self._seen.limit = size
        text = f"a chunk of {format_bytes(self._seen.tried)}: {refused}; one of {format_bytes(size)}: accepted"
        return Finding("size", text)

    # Findings

    def _comparable(self, outcome: VideoResult) -> bool:
        """True when the downloaded bytes prove something: the server gives back what it got in one request."""
        return outcome.sha256 is not None and self._seen.one.sha256 == self._digest

    def _why_not_comparable(self, outcome: VideoResult) -> str:
        return outcome.why_not or "the server's downloads differ from what was sent, or are unavailable"

    def _cleanup(self) -> Finding:
        """Name the records that could not be deleted."""
        if not self._seen.left:
            return Finding("cleanup", "the records of the probe are deleted")
        return Finding("cleanup", "; ".join(self._seen.left), "warning")

    def _settings(self) -> list[Finding]:
        """Return what to write into the configuration, beside what it says now."""
        return [self._chunk_size(), self._resend_is_safe()]

    def _chunk_size(self) -> Finding:
        now, seen = self._config.upload.chunk_size, self._seen
        wanted = 0 if seen.chunks is False else now if seen.limit is None else seen.limit
        why = "as it is" if wanted == now else f"it is {_as_setting(now)}: change it"
        unknown = "" if seen.chunks is not None else ", as far as is known"
        return Finding("settings", f"[upload] chunk_size = {_as_setting(wanted)} ({why}{unknown})")

    def _resend_is_safe(self) -> Finding:
        server, seen = self._config.server, self._seen
        if seen.resend is True:
            text = "[server] resend_is_safe = true"
            if server.resend_is_safe:
                return Finding("settings", f"{text} (as it is)")
            written = "resend_is_safe" in server.model_fields_set
            why = "it is false: change it" if written else "not set, and need not be set while this is remembered"
            return Finding("settings", f"{text} ({why})")
        text = "[server] resend_is_safe = false"
        if not server.resend_is_safe:
            return Finding("settings", f"{text} (as it is)")
        if seen.resend is None:
            return Finding("settings", f"{text} (it is true, which the probe could not confirm)", "warning")
        return Finding("settings", f"{text} (it is true: change it, it would damage recordings)", "error")

    async def _remembered(self) -> Finding:
        """Save what the probe has learnt, and say who keeps it."""
        now, seen = self._clock.now(), self._seen
        version = await self._version()
        until = now + retry.CAPABILITIES_VALID_FOR
        learnt = ServerCapabilities(
            whole_only_until=until if seen.chunks is False else None,
            chunk_limit=seen.limit,
            chunk_limit_until=None if seen.limit is None else until,
            resend_is_safe=seen.resend,
            probed_at=now,
            version=version,
        )
        keeper = await self._results.save(ProbeResult(learnt=learnt))
        which = f"VALT {version}" if version else "this server, which does not tell its version"
        if keeper is None:
            text = f"not remembered for {which}: this user cannot write the state; set the settings above yourself"
            return Finding("remembered", text, "warning")
        span = format_duration(retry.CAPABILITIES_VALID_FOR)
        return Finding("remembered", f"{keeper} keeps this for {which}, until the version changes, for {span} at most")

    async def _version(self) -> str:
        try:
            return await self._valt.version() or ""
        except errors.UploaderError:
            return ""

    # One record

    def _spans(self) -> list[tuple[int, int]]:
        """Return the chunks of the video as (start, end)."""
        edges = [*range(0, len(self._content), PROBE_CHUNK_SIZE), len(self._content)]
        return list(pairwise(edges))

    async def _upload(self, spans: list[tuple[int, int]], total: int | None = None) -> VideoResult:
        """Create a record, send these ranges, check the result, and delete the record.

        *total*: the announced size of a file that is not sent to its end. Then the result is not checked.
        """
        try:
            ids = await self._valt.create_record(RecordSpec(PROBE_RECORD_NAME))
        except errors.UploaderError as error:
            return VideoResult(error=error)
        now = self._clock.now()
        orphan = Orphan(ids.record, PROBE_RECORD_NAME, "", since=now, next_look=now + ABANDONED_PROBE_AGE, probe=True)
        keeper = await self._results.save(ProbeResult(orphans=(orphan,)))
        try:
            outcome = await self._send_all(ids, spans, total or len(self._content))
            return outcome if total or outcome.error else await self._look(ids, outcome)
        finally:
            await self._remove(ids.record, keeper)

    async def _send_all(self, ids: RecordIds, spans: list[tuple[int, int]], total: int) -> VideoResult:
        """Send ranges in this order, until one fails."""
        for number, (start, end) in enumerate(spans):
            try:
                held = await self._send(ids, start, end, total)
                if held is not None and held != end:
                    raise errors.RecordSpoilt(f"the server says that it holds {held} bytes where {end} were sent")
            except errors.UploaderError as error:
                return VideoResult(sent=number, error=error)
        return VideoResult(sent=len(spans))

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

    async def _look(self, ids: RecordIds, outcome: VideoResult) -> VideoResult:
        """Wait until the video is ready, for ``PROBE_READY_TIMEOUT`` at most; then download it."""
        began = self._clock.monotonic()
        while True:
            age = self._clock.monotonic() - began
            try:
                details = await self._valt.details(ids.record)
            except errors.UploaderError as error:
                return replace(outcome, error=error)
            status = details.status_of(ids.video)
            if status == READY_STATUS or age >= PROBE_READY_TIMEOUT:
                break
            await self._clock.sleep(retry.poll_pause(age))
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

    async def _remove(self, record: str, keeper: str | None) -> None:
        """Delete a record of the probe. *keeper*: what keeps it in mind until then, see ``ResultStore.save``."""
        try:
            await self._valt.delete_record(record)
        except errors.UploaderError as error:
            who = "the daemon will delete it" if keeper else "delete it on the server yourself"
            self._seen.left.append(f"record {record} ({PROBE_RECORD_NAME}) could not be deleted: {error.what}; {who}")
        else:
            if keeper is not None:
                await self._results.save(ProbeResult(cleared=(record,)))


def _as_setting(size: int) -> str:
    """Format a size in bytes as a value of ``chunk_size``: exact, or rounded down to whole KiB."""
    if size == 0:
        return '"whole"'
    return f'"{size // 1024**2} MiB"' if size % 1024**2 == 0 else f'"{size // 1024} KiB"'


def _status_text(outcome: VideoResult) -> str:
    """Describe the status that the record shows."""
    if outcome.status is None:
        return f"but the record shows no video after {format_duration(outcome.seconds)}"
    if outcome.status == READY_STATUS:
        return f"ready after {format_duration(outcome.seconds)}"
    return f"not ready after {format_duration(outcome.seconds)} (its status is {outcome.status!r})"


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
