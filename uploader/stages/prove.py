"""Stage 5, second part: prove that what the server holds is what was sent, before the local file is touched.

``domain.proof`` decides which evidence is needed and what it shows; this module gets it. An upload that cannot be
proven now waits in this state, and its file is kept. When the download link does not work, which concerns all uploads,
it is tried ever more rarely and reported once.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from uploader.domain import errors, events, lifecycle
from uploader.domain.chunk_size import chunks_work, transcodes
from uploader.domain.lifecycle import Step
from uploader.domain.model import ActionBy, LastError, Proof, ProofRule, RecordIds, State, Upload
from uploader.domain.proof import HINT, Evidence, Missing, Proven, Spoilt, Unprovable, judge
from uploader.domain.retry import MINUTE
from uploader.runtime.clock import Clock
from uploader.runtime.slices import in_slices
from uploader.server.circuit_breaker import CircuitBreaker
from uploader.server.port import ProofServer, Throttle
from uploader.stages.context import PROBE_POLL, AutoProbe, StageContext
from uploader.stages.failure_handler import FailureHandler
from uploader.stages.lease import raise_if_paused

PROVE_CONCURRENCY: Final = 4  # uploads whose evidence is asked for at the same time
FETCH_CONCURRENCY: Final = 2  # of these, the ones that are fetched back whole
FETCH_WAIT: Final = 5.0  # s until an upload that waits for such a place asks again
OPEN_HINT: Final = 'open that address to this machine, or set proof = "ready" to trust the server'
BUSY_HINT: Final = "something there limits how often it is asked (nginx: limit_req)"
DOWNLOAD_PAUSE_FIRST, DOWNLOAD_PAUSE_CAP = 15.0, 15 * MINUTE  # s between two tries of a link that does not work
BUSY_PAUSES: Final = (1.0, 2.0, 4.0, 8.0)  # s until the next try where links are asked for too often; then as above


class ProveRules(Protocol):
    """What the stage needs of ``FileRules``."""

    def proof(self, upload: Upload) -> ProofRule:
        """Return what must show that an upload has arrived."""


class DownloadBreaker:
    """Remembers that download links do not work, so that not every upload tries and reports it.

    It opens when no connection can be made, or when the links of two uploads have failed and none has worked since.
    Else the trouble is one upload's own.
    """

    def __init__(self, clock: Clock, bus: events.Bus) -> None:
        self._clock, self._bus = clock, bus
        self._failures, self._closed_until, self._since = 0, 0.0, 0.0
        self._own: dict[str, int] = {}  # by path: failures in a row of its own link
        self._busy: dict[str, int] = {}  # by path: times in a row that its link was asked for too often
        self._failing: set[str] = set()  # paths whose links have failed since one has worked
        self.reason = ""  # why links do not work; empty while they do

    @property
    def wait(self) -> float:
        """Seconds until a link may be tried again; 0 when it may be tried now."""
        return max(0.0, self._closed_until - self._clock.monotonic())

    def failed(self, path: str, error: errors.DownloadUnavailable) -> float:
        """Note that the link of an upload does not work. Returns the seconds until it is tried again."""
        if self.wait > 0:
            return self.wait  # the tries were under way at the same time
        times = self._busy.get(path, 0)
        if error.busy and times < len(BUSY_PAUSES):  # a limit on the rate, which says nothing of the links
            self._busy[path] = times + 1
            self._bus.publish(events.UploadRetryScheduled(path, str(error), BUSY_PAUSES[times]))
            return BUSY_PAUSES[times]
        self._failing.add(path)
        if error.reached and len(self._failing) == 1:
            self._own[path] = self._own.get(path, 0) + 1
            pause = _pause(self._own[path])
            self._bus.publish(events.UploadRetryScheduled(path, str(error), pause))
            return pause
        self._failures += 1
        self._closed_until = self._clock.monotonic() + _pause(self._failures)
        if not self.reason:
            self._since = self._clock.monotonic()
            self._bus.publish(events.ProofUnavailable(str(error)))
        self.reason = str(error)
        return self.wait

    def try_again(self) -> None:
        """Let links be tried now: the operator wants that."""
        self._closed_until = 0.0

    def worked(self, path: str) -> bool:
        """Note that the link of an upload works. True when none did before."""
        self._own.pop(path, None)
        self._busy.pop(path, None)
        self._failing.clear()
        came_back = bool(self.reason)
        if came_back:
            self._failures, self._closed_until, self.reason = 0, 0.0, ""
            self._bus.publish(events.ProofAvailable(round(self._clock.monotonic() - self._since, 1)))
        return came_back


def _pause(failures: int) -> float:
    """Return the seconds until the next try after so many failures in a row."""
    return min(DOWNLOAD_PAUSE_FIRST * 2.0 ** min(failures - 1, 20), DOWNLOAD_PAUSE_CAP)


class Prove:
    """Proves every upload whose video is ready."""

    def __init__(
        self,
        context: StageContext,
        rules: ProveRules,
        valt: ProofServer,
        breaker: CircuitBreaker,
        failure_handler: FailureHandler,
        auto_probe: AutoProbe,
        throttles: Callable[[str], Throttle],
    ) -> None:
        """*throttles* makes the throttle of a download, by the watched folder of its file."""
        self._shares, self._store, self._leases = context.shares, context.store, context.leases
        self._queues, self._clock, self._bus = context.queues, context.clock, context.bus
        self._rules, self._valt, self._breaker, self._failure_handler = rules, valt, breaker, failure_handler
        self._auto_probe, self._throttles = auto_probe, throttles
        self._downloads = DownloadBreaker(context.clock, context.bus)
        self._fetches = 0  # files that are fetched back now

    def try_links_again(self) -> None:
        """Let download links be tried at the next call, also where they did not work a moment ago."""
        self._downloads.try_again()

    async def run(self) -> None:
        """Prove uploads until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(PROVE_CONCURRENCY):
                group.create_task(self._prove_when_due(), name=f"prove {number}")

    async def _prove_when_due(self) -> None:
        while True:
            path = await self._queues.unproven.next_due()
            await self._breaker.clear()
            await self._leases.work(path, {State.PROVING}, self._prove_guarded)

    async def _prove_guarded(self, upload: Upload) -> None:
        await self._failure_handler.guard(upload.path, lambda: self.prove(upload))

    async def prove(self, upload: Upload) -> None:
        """Get evidence until the arrival is proven, or it is known that it cannot be. Raises ``UploaderError``."""
        path, rule = upload.path, self._rules.proof(upload)
        evidence = self._first_evidence(upload)
        while isinstance(judgement := judge(rule, evidence), Missing):
            raise_if_paused(self._store, path)
            if judgement is Missing.PROBE and self._auto_probe.underway():
                self._queues.unproven.put(path, PROBE_POLL)
                return
            if judgement is Missing.BYTES and self._fetches >= FETCH_CONCURRENCY:
                self._queues.unproven.put(path, FETCH_WAIT)
                return
            try:
                evidence = await self._with_answer(upload, evidence, judgement)
            except errors.DownloadUnavailable as error:
                self._put_off(path, error, self._downloads.failed(path, error))
                return
        match judgement:
            case Proven(by):
                await self._proven(path, by)
            case Spoilt(reason):
                raise errors.ArrivedSpoilt(f"{reason}{_durations(evidence)}")
            case Unprovable(reason):
                raise errors.Unproven(f"{reason}; the file is kept", hint=f"{HINT}; then: valt-uploader retry")

    def _first_evidence(self, upload: Upload) -> Evidence:
        learnt, now = self._store.capabilities, self._clock.now()
        return Evidence(
            size=upload.identity.size,
            one_request=upload.chunks == 1,
            chunks_work=chunks_work(learnt, now=now),
            transcodes=transcodes(learnt, now=now),
            shown=upload.duration or None,
        )

    async def _with_answer(self, upload: Upload, evidence: Evidence, missing: Missing) -> Evidence:
        """Ask for one piece of evidence. Raises ``DownloadUnavailable`` and other ``UploaderError``."""
        if upload.ids is None:
            raise lifecycle.IllegalStep("ready, but without a record")
        match missing:
            case Missing.PROBE:  # it was tried, or is switched off
                return evidence.with_answer(missing)
            case Missing.DURATIONS:
                recorded: float | None = upload.recorded
                if not recorded:  # it was not needed yet when the file was sent
                    recorded = await self._shares.of(upload.root).duration(upload.where, upload.identity)
                return evidence.with_answer(missing, recorded=recorded)
        if self._downloads.wait > 0:
            raise errors.DownloadUnavailable(self._downloads.reason, reached=False)
        if missing is Missing.BYTES:
            evidence = evidence.with_answer(missing, same_bytes=await self._has_same_bytes(upload, upload.ids))
        else:
            held = await self._valt.video_size(upload.ids, confirm=missing is Missing.CONFIRMED_SIZE)
            evidence = evidence.with_answer(missing, held=held)
            if missing is Missing.SIZE and held != upload.identity.size:
                return evidence  # asked once more: it may be the size of a page
        if self._downloads.worked(upload.path):
            await self._wake_the_others()
        return evidence

    async def _has_same_bytes(self, upload: Upload, ids: RecordIds) -> bool:
        """Fetch the video back, at the bandwidth of its folder, and compare its sha256."""
        digest, throttle = hashlib.sha256(), self._throttles(upload.root)
        self._fetches += 1
        try:
            async for block in self._valt.download(ids):
                rest = len(block)
                while rest > 0:
                    rest -= await throttle.take(rest)
                digest.update(block)
        finally:
            self._fetches -= 1
        return digest.hexdigest() == upload.digest

    def _put_off(self, path: str, error: errors.DownloadUnavailable, wait: float) -> None:
        """Put an upload off until its download link may be tried again. Not saved: a restart tries at once."""
        hint = BUSY_HINT if error.busy else OPEN_HINT
        reason = f"its arrival cannot be proven: {error}; the file is kept; {hint}"
        last_error = LastError(reason, ActionBy.OPERATOR, next_try=self._clock.now() + wait)
        self._store.put(replace(self._store.uploads[path], last_error=last_error))
        self._queues.again.put(path, wait)

    async def _wake_the_others(self) -> None:
        """Let the uploads that wait for a download link go on now."""
        async for path in in_slices(self._store.uploads, self._clock):
            upload = self._store.uploads.get(path)
            if upload is not None and upload.state is State.PROVING and upload.last_error is not None:
                self._queues.again.put(path)

    async def _proven(self, path: str, by: Proof) -> None:
        """Save the proof, and in the same save that the records that had arrived spoilt may be deleted."""
        before = self._store.uploads[path]
        upload = self._store.put(lifecycle.advance(before, Step.PROVEN, proof=by, spoilt=()))
        for orphan in lifecycle.spoilt_orphans(before, now=self._clock.now(), replaced=True):
            self._store.put_orphan(orphan)
        await self._store.commit()
        record = "" if upload.ids is None else upload.ids.record
        self._bus.publish(events.UploadProven(path, record, by))
        self._queues.proven.put(path)


def _durations(evidence: Evidence) -> str:
    """Return what the server shows beside the size; empty when it shows no duration."""
    return "" if evidence.shown is None else f" (it shows a length of {evidence.shown:.1f} s)"
