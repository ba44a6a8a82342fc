"""``check --probe``: tells how this server handles a video in one request, in chunks, and chunks that are sent twice.

``trial`` makes the tests; this module reports them, says which settings the server wants, and saves what was learnt.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from uploader.config import Config
from uploader.diagnostics.finding import Finding
from uploader.diagnostics.probe_results import ProbeResult
from uploader.diagnostics.trial import PROBE_VIDEO, READY_STATUS, ResultStore, ServerTrial, VideoResult
from uploader.domain import errors, retry
from uploader.domain.units import format_bytes, format_duration
from uploader.runtime.clock import Clock
from uploader.server.port import Server

NOT_COMPARABLE: Final = "the server's downloads differ from what was sent, or are unavailable"


class Probe:
    """One run of all tests."""

    def __init__(self, config: Config, valt: Server, results: ResultStore, clock: Clock) -> None:
        self._config, self._results, self._clock = config, results, clock
        self._trial = ServerTrial(valt, results, clock)
        self._seen = self._trial.seen
        self._tried = 0  # bytes: the largest request that was tried

    async def run(self) -> AsyncIterator[Finding]:
        """Run the tests and yield their findings; the last ones are the settings for this server, and where kept."""
        await self._trial.run()
        yield self._one_request()
        if self._seen.accepts:
            yield self._in_chunks()
            yield self._repeated()
            yield await self._size()
            yield self._proof()
        yield self._cleanup()
        if self._seen.accepts:
            for finding in self._settings():
                yield finding
            yield await self._remembered()

    # Tests

    def _one_request(self) -> Finding:
        outcome, size = self._seen.one, format_bytes(self._trial.size)
        if outcome.error is not None:
            return Finding("one request", f"a video of {size} in one request: refused: {outcome.error}", "error")
        text = f"a video of {size} in one request: accepted, {_status_text(outcome)}{_length(outcome)}"
        if outcome.status is None:
            return Finding("one request", text, "error")  # no more tests: what fails in one request fails in several
        if outcome.sha256 is None:
            return Finding("one request", f"{text}; its bytes cannot be compared: {outcome.why_not}", "warning")
        if self._seen.transcodes:
            text += "; downloaded, its bytes differ (transcoded), so they prove nothing in the tests below"
            return Finding("one request", text, "warning")
        severity = "ok" if outcome.status == READY_STATUS else "warning"
        return Finding("one request", f"{text}, downloaded byte for byte", severity)

    def _in_chunks(self) -> Finding:
        """Report the video in chunks, each sent once and in order."""
        outcome = self._seen.in_chunks
        text = f"the same video in {len(self._seen.repeats)} chunks: "
        if isinstance(outcome.error, errors.ChunkRefused):
            return Finding("chunks", f"{text}refused ({outcome.error.what}): the server takes whole files only")
        if isinstance(outcome.error, errors.RecordSpoilt):
            return Finding("chunks", f"{text}{outcome.error.what}: the server does not assemble chunks", "error")
        if outcome.error is not None:
            return Finding("chunks", f"{text}not known: {outcome.error}", "warning")
        text += f"accepted, {_status_text(outcome)}{_length(outcome)}"
        if self._seen.chunks is None:
            return Finding("chunks", f"{text}; whether it is undamaged is not known: {_why_not(outcome)}", "warning")
        if outcome.status is None:
            return Finding("chunks", f"{text}: the server does not assemble chunks", "error")
        if self._seen.chunks:
            how = "the same as in one request" if self._seen.transcodes else "downloaded byte for byte"
            return Finding("chunks", f"{text}, {how}")
        return Finding("chunks", f"{text}, but the downloaded bytes differ: it spoils a video in chunks", "error")

    def _repeated(self) -> Finding:
        """Report the chunk in the middle sent twice, the first once more after it, and the last one twice."""
        if self._seen.chunks is False:
            return Finding("repeat", "a chunk sent twice: does not matter, since chunks do not work with this server")
        outcome, text = self._seen.repeated, "a chunk sent twice: "
        error = outcome.error
        if isinstance(error, errors.RecordSpoilt):
            return Finding("repeat", f"{text}{error.what}: it was stored in the wrong place")
        if isinstance(error, errors.ChunkRefused):
            where = "refused" if outcome.sent in self._seen.repeats else "accepted, but the chunk after it refused"
            return Finding("repeat", f"{text}{where} ({error.what}): an upload in doubt has to start over")
        if error is not None:
            return Finding("repeat", f"{text}not known: {error}", "warning")
        text += f"accepted; the video is {_status_text(outcome)}"
        if self._seen.resend is None:
            return Finding("repeat", f"{text}; what was stored is not known: {_why_not(outcome)}", "warning")
        if outcome.status is None:
            return Finding("repeat", f"{text}: it is damaged")
        good, bad = "downloaded byte for byte: nothing was stored twice", "its bytes differ: it is damaged"
        return Finding("repeat", f"{text}, and {good if self._seen.resend else bad}")

    async def _size(self) -> Finding:
        """Send one chunk of ``chunk_size``; halve it until it is accepted. The upload is not completed."""
        size = self._config.upload.chunk_size
        if size == 0 or self._seen.chunks is False:
            why = 'chunk_size = "whole"' if size == 0 else "the server takes whole files only"
            return Finding("size", f"not tried, since {why}: a limit shows only when a recording is larger")
        self._tried, refused = size, ""
        while True:
            outcome = await self._trial.send_part(size)
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
        text = f"a chunk of {format_bytes(self._tried)}: {refused}; one of {format_bytes(size)}: accepted"
        return Finding("size", text)

    # Findings

    def _proof(self) -> Finding:
        """Say what can show that a recording has arrived."""
        one = self._seen.one
        if self._seen.transcodes is False:
            return Finding("proof", "what the server hands out can be compared with what was sent, by size or by bytes")
        if self._seen.transcodes and one.duration > 0:
            return Finding("proof", "the server transcodes, and shows lengths: those can be compared")
        why = "it transcodes and shows no length" if self._seen.transcodes else one.why_not or "it is not ready in time"
        hint = 'recordings are kept until that works, or until proof = "ready" is set'
        return Finding("proof", f"nothing can show that a recording has arrived: {why}; {hint}", "error")

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
        unknown = "" if seen.chunks is not None else ", as far as is known; until then whole files are sent"
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
        version = await self._trial.version()
        learnt = self._seen.learnt(version=version, now=self._clock.now())
        keeper = await self._results.save(ProbeResult(learnt=learnt))
        which = f"VALT {version}" if version else "this server, which does not tell its version"
        if keeper is None:
            text = f"not remembered for {which}: this user cannot write the state; the daemon will probe by itself"
            return Finding("remembered", text, "warning")
        span = format_duration(retry.CAPABILITIES_VALID_FOR)
        return Finding("remembered", f"{keeper} keeps this for {which}, until the version changes, for {span} at most")


def _why_not(outcome: VideoResult) -> str:
    return outcome.why_not or NOT_COMPARABLE


def _length(outcome: VideoResult) -> str:
    """Return a remark about a wrong length; empty when the server shows the right one or none."""
    if not outcome.wrong_length:
        return ""
    return f"; the server shows a length of {outcome.duration:g} s, not {PROBE_VIDEO.duration:g} s"


def _as_setting(size: int) -> str:
    """Format a size in bytes as a value of ``chunk_size``: exact, or rounded down to whole KiB."""
    if size == 0:
        return '"whole"'
    return f'"{size // 1024**2} MiB"' if size % 1024**2 == 0 else f'"{size // 1024} KiB"'


def _status_text(outcome: VideoResult) -> str:
    """Describe the status that the record shows."""
    if outcome.status is None and outcome.why_not:
        return f"but its record cannot be looked at: {outcome.why_not}"
    if outcome.status is None:
        return f"but the record shows no video after {format_duration(outcome.seconds)}"
    if outcome.status == READY_STATUS:
        return f"ready after {format_duration(outcome.seconds)}"
    return f"not ready after {format_duration(outcome.seconds)} (its status is {outcome.status!r})"
