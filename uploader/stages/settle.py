"""Stage 2: hold every file back until it is complete. ``completeness`` decides when that is.

A file that is held back is looked at more rarely than one that changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from uploader.domain import completeness, errors, events
from uploader.domain.completeness import Complete, CompletenessRules, NotYet, StableSince
from uploader.domain.model import Sighting, WriteState
from uploader.files import Share
from uploader.runtime.delay_queue import DelayQueue
from uploader.runtime.log import get_logger
from uploader.stages.context import StageContext
from uploader.stages.known import KnownFiles
from uploader.stages.per_share_pool import PerShareWorkers
from uploader.stages.queues import Settled, SightingBatch, bug_reason

log = get_logger(__name__)

SETTLE_CONCURRENCY: Final = 4  # files of one share looked at at the same time
HURRIED_LOOK_FRACTION: Final = 0.25  # of ``settle``: how soon a file that an event named may be looked at again
FAULT_PAUSE: Final = 600.0  # s until a file that has hit a bug of ours is looked at again
UNREADABLE_LOOK_INTERVAL: Final = 1.0  # s, at least, until a file that cannot be read is looked at again
SIGHTINGS_PER_SLICE: Final = 200  # sightings handled before the event loop runs other tasks


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that we wait for. Times are monotonic."""

    sighting: Sighting
    found_at: float
    looked_at: float | None = None
    stable: StableSince | None = None  # what it was at the last look, and since when
    reason: str = "not looked at yet"
    held: bool = False  # it stands still, and yet something speaks against it
    worth_waiting: bool = True  # it may well be complete within moments


class Settle:
    """Holds every file that is new, or no longer what it was, until it is complete."""

    def __init__(self, context: StageContext, rules_of: Callable[[str], CompletenessRules]) -> None:
        """*rules_of*: what a watched folder (by its path) asks of a file."""
        self._shares, self._settled, self._seen = context.shares, context.queues.settled, context.queues.sightings
        self._clock, self._bus, self._rules_of = context.clock, context.bus, rules_of
        self._candidates: dict[str, Candidate] = {}
        self.known = KnownFiles(context.store, self._candidates.keys())
        self._looks: DelayQueue[str] = DelayQueue(self._clock)
        self._lookers: PerShareWorkers[str] = PerShareWorkers(self.look, SETTLE_CONCURRENCY)
        self._busy = 0

    @property
    def busy(self) -> bool:
        """True while what was seen is taken in or a file looked at."""
        return self._busy > 0 or self._lookers.busy

    @property
    def candidates(self) -> Mapping[str, Candidate]:
        """Every file that is waited for, by path."""
        return MappingProxyType(self._candidates)

    async def run(self) -> None:
        """Take in what was seen, look at what is due, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take_sightings(), name="settle: seen")
            group.create_task(self._lookers.run(), name="settle: lookers")
            group.create_task(self._look_when_due(), name="settle: due")

    async def _take_sightings(self) -> None:
        while True:
            seen = await self._seen.get()
            self._busy += 1
            try:
                await self.take(seen)
            finally:
                self._busy -= 1
                self._seen.task_done()

    async def take(self, seen: SightingBatch) -> None:
        """Begin to wait for what is new. What is no longer there is noticed when it is looked at."""
        for number, sighting in enumerate(seen.sightings, start=1):
            self._see(sighting)
            if number % SIGHTINGS_PER_SLICE == 0 or number == len(seen.sightings):
                await self._clock.sleep(0)

    def _see(self, sighting: Sighting) -> None:
        path = sighting.path
        candidate = self._candidates.get(path)
        if candidate is None:
            if self.known.is_new(sighting):
                self._candidates[path] = Candidate(sighting, self._clock.monotonic())
                self._looks.put(path)
                self._bus.publish(events.FileFound(path, sighting.size))
            return
        moved_on = (sighting.size, sighting.mtime_ns) != (candidate.sighting.size, candidate.sighting.mtime_ns)
        if moved_on and candidate.looked_at is not None:
            # Look soon, so that the time of standing still is counted from now and not from the next due look.
            self._candidates[path] = replace(candidate, sighting=sighting)
            since_look = self._clock.monotonic() - candidate.looked_at
            soon = max(0.0, HURRIED_LOOK_FRACTION * self._rules_of(sighting.root).settle - since_look)
            if (due := self._looks.wait_of(path)) is None or soon < due:
                self._looks.put(path, soon)

    async def _look_when_due(self) -> None:
        while True:
            path = await self._looks.next_due()
            if (candidate := self._candidates.get(path)) is not None:
                self._lookers.put(candidate.sighting.root, path)

    async def look(self, path: str) -> None:
        """Look at a candidate: complete, not yet, or not readable yet."""
        candidate = self._candidates.get(path)
        if candidate is None:
            return
        rules = self._rules_of(candidate.sighting.root)
        still: StableSince | None
        try:
            still, verdict = await self._judged(candidate, rules)
        except (errors.FileMissing, errors.NotAFile):
            self._drop(path)
            return
        except errors.ShareNotReady as error:
            still, verdict = candidate.stable, NotYet(str(error), max(rules.settle, UNREADABLE_LOOK_INTERVAL))
        except Exception as error:  # a bug of ours about one file must not end the others
            log.exception("fault", path=path)
            still, verdict = candidate.stable, NotYet(bug_reason(error), FAULT_PAUSE, held=True, worth_waiting=False)
        if isinstance(verdict, NotYet):
            self._wait(candidate, still, verdict)
        elif still is not None:
            self.known.judging[path] = still.snapshot.identity  # first: it is known at every moment
            self._drop(path)
            self._bus.publish(events.FileSettled(path, still.snapshot.identity.size))
            settled = Settled(path, candidate.sighting.root, still.snapshot, verdict.unplayable)
            self._settled.put_nowait(settled)

    async def _judged(self, candidate: Candidate, rules: CompletenessRules) -> tuple[StableSince, NotYet | Complete]:
        """Ask of a file what is needed to judge it, the cheap questions first. Raises our errors."""
        path, share = candidate.sighting.path, self._shares.of(candidate.sighting.root)
        snapshot = await share.snapshot(path)
        now = self._clock.monotonic()
        still = completeness.observe(candidate.stable, snapshot, now)
        if (wait := completeness.too_early(rules, still, candidate.stable, now)) is not None:
            return still, wait
        marker, write_state = completeness.marker_of(rules, path), WriteState()
        if marker:
            ((_, what),) = await share.look([marker])
            marker = marker if what == "missing" else ""
        if not marker:
            write_state = await self._write_state(share, path, gate=rules.gate)
        return still, completeness.check_complete(
            rules, snapshot.identity.size, now - still.since, marker=marker, write_state=write_state
        )

    async def _write_state(self, share: Share, path: str, *, gate: bool) -> WriteState:
        """Ask whether a file is closed. A bug in a container parser counts as "not closed": in the end it is parked."""
        try:
            return await share.write_state(path, gate=gate)
        except errors.UploaderError:
            raise
        except Exception as error:  # parsers read bytes that anybody may have written
            log.exception("fault", path=path)
            return WriteState(unfinished=bug_reason(error))

    def _wait(self, candidate: Candidate, stable: StableSince | None, wait: NotYet) -> None:
        path = candidate.sighting.path
        sighting = self._candidates.get(path, candidate).sighting
        if wait.changed and stable is not None:
            size = stable.snapshot.identity.size
            self._bus.publish(events.FileStillChanging(path, size))
            sighting = replace(sighting, size=size, mtime_ns=stable.snapshot.identity.mtime_ns)
        if wait.held and not candidate.held:
            self._bus.publish(events.FileHeldBack(path, wait.reason))
        self._candidates[path] = replace(
            candidate,
            sighting=sighting,
            stable=stable,
            looked_at=self._clock.monotonic(),
            reason=wait.reason,
            held=wait.held,
            worth_waiting=wait.worth_waiting,
        )
        due = self._looks.wait_of(path)  # it may have been seen to change meanwhile
        self._looks.put(path, wait.after if due is None else min(due, wait.after))

    def _drop(self, path: str) -> None:
        self._candidates.pop(path, None)
        self._looks.drop(path)
