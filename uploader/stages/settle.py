"""Stage 2: wait until each file is complete. ``completeness`` decides when it is.

A file that is unchanged but not complete is looked at more rarely than one that changes.
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
BUG_PAUSE: Final = 600.0  # s until a file is looked at again after a bug
UNREADABLE_LOOK_INTERVAL: Final = 1.0  # s, at least, until a file that cannot be read is looked at again
SIGHTINGS_PER_SLICE: Final = 200  # sightings handled before the event loop runs other tasks


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that is waited for. Times are monotonic."""

    sighting: Sighting
    found_at: float
    looked_at: float | None = None
    stable: StableSince | None = None  # what it was at the last look, and since when
    reason: str = "not looked at yet"
    held: bool = False  # it is unchanged, but another condition is not met
    worth_waiting: bool = True  # it may be complete within moments
    content: str = ""  # sha256, if only its mtime moves, and when it is compared next
    compared_next: float = 0.0


class Settle:
    """Waits for every new or changed file until it is complete."""

    def __init__(self, context: StageContext, rules_of: Callable[[str], CompletenessRules]) -> None:
        """*rules_of* returns what a watched folder (by its path) requires of a file."""
        self._shares, self._settled, self._sightings = context.shares, context.queues.settled, context.queues.sightings
        self._clock, self._bus, self._rules_of = context.clock, context.bus, rules_of
        self._changes = context.changes
        self._candidates: dict[str, Candidate] = {}
        self.known = KnownFiles(context.store, self._candidates.keys())
        self._looks: DelayQueue[str] = DelayQueue(self._clock)
        self._workers: PerShareWorkers[str] = PerShareWorkers(self.look, SETTLE_CONCURRENCY)
        self._busy = 0

    @property
    def busy(self) -> bool:
        """True while sightings are handled or a file is looked at."""
        return self._busy > 0 or self._workers.busy

    @property
    def candidates(self) -> Mapping[str, Candidate]:
        """Every file that is waited for, by path."""
        return MappingProxyType(self._candidates)

    async def run(self) -> None:
        """Handle sightings and look at files that are due, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take_sightings(), name="settle: seen")
            group.create_task(self._workers.run(), name="settle: workers")
            group.create_task(self._look_when_due(), name="settle: due")

    async def _take_sightings(self) -> None:
        while True:
            batch = await self._sightings.get()
            self._busy += 1
            try:
                await self.take(batch)
            finally:
                self._busy -= 1
                self._sightings.task_done()

    async def take(self, batch: SightingBatch) -> None:
        """Begin to wait for new files. That a file is gone is noticed at the next look at it."""
        for number, sighting in enumerate(batch.sightings, start=1):
            self._see(sighting)
            if number % SIGHTINGS_PER_SLICE == 0 or number == len(batch.sightings):
                await self._clock.sleep(0)

    def _see(self, sighting: Sighting) -> None:
        path = sighting.path
        candidate = self._candidates.get(path)
        if candidate is None:
            if self.known.is_new(sighting):
                self._candidates[path] = Candidate(sighting, self._clock.monotonic())
                self._looks.put(path)
                self._bus.publish(events.FileFound(path, sighting.size))
            else:
                self.known.remember(sighting)
            return
        changed = (sighting.size, sighting.mtime_ns) != (candidate.sighting.size, candidate.sighting.mtime_ns)
        if changed and candidate.looked_at is not None:
            # Look soon, so that the unchanged time counts from now, and not from the next due look.
            self._candidates[path] = replace(candidate, sighting=sighting)
            since_look = self._clock.monotonic() - candidate.looked_at
            soon = max(0.0, HURRIED_LOOK_FRACTION * self._rules_of(sighting.root).settle - since_look)
            if (due := self._looks.wait_of(path)) is None or soon < due:
                self._looks.put(path, soon)

    async def _look_when_due(self) -> None:
        while True:
            path = await self._looks.next_due()
            if (candidate := self._candidates.get(path)) is not None:
                self._workers.put(candidate.sighting.root, path)

    async def look(self, path: str) -> None:
        """Look at a candidate. Pass it on if it is complete, else set the time of the next look."""
        candidate = self._candidates.get(path)
        if candidate is None:
            return
        rules = self._rules_of(candidate.sighting.root)
        stable: StableSince | None
        try:
            stable, result = await self._check(candidate, rules)
        except (errors.FileMissing, errors.NotAFile):
            self._drop(path)
            return
        except errors.ShareNotReady as error:
            stable, result = candidate.stable, NotYet(str(error), max(rules.settle, UNREADABLE_LOOK_INTERVAL))
        except Exception as error:  # a bug with one file must not end the others
            log.exception("fault", path=path)
            stable, result = candidate.stable, NotYet(bug_reason(error), BUG_PAUSE, held=True, worth_waiting=False)
        if isinstance(result, NotYet):
            self._wait(candidate, stable, result)
        elif stable is not None:
            self.known.classifying[path] = stable.snapshot.identity  # first: the path stays known
            self._drop(path)
            if result.not_closed:
                self._bus.publish(events.FileNotClosed(path, result.not_closed))
            self._bus.publish(events.FileSettled(path, stable.snapshot.identity.size))
            settled = Settled(path, candidate.sighting.root, stable.snapshot, result.unplayable)
            self._settled.put_nowait(settled)

    async def _check(self, candidate: Candidate, rules: CompletenessRules) -> tuple[StableSince, NotYet | Complete]:
        """Check whether a file is complete, with the cheap checks first. Raises ``UploaderError``."""
        path, share = candidate.sighting.path, self._shares.of(candidate.sighting.root)
        snapshot = await share.snapshot(path)
        now = self._clock.monotonic()
        stable = completeness.observe(candidate.stable, snapshot, now)
        wait = completeness.too_early(rules, stable, candidate.stable, now)
        if wait is not None and not await self._has_same_bytes(candidate, rules, stable, now):
            return stable, wait
        stable_for = now - (stable.unchanged_since if wait is None else stable.same_bytes_since)
        marker, write_state = completeness.marker_of(rules, path), WriteState()
        if marker:
            ((_, what),) = await share.look([marker])
            marker = marker if what == "missing" else ""
        if not marker:
            write_state = await self._write_state(share, path, gate=bool(rules.gate))
        return stable, completeness.check_complete(
            rules, snapshot.identity.size, stable_for, marker=marker, write_state=write_state, path=path
        )

    async def _has_same_bytes(
        self, candidate: Candidate, rules: CompletenessRules, stable: StableSince, now: float
    ) -> bool:
        """True when all bytes of a file whose mtime does not come to rest were the same at two looks.

        It is read in full for that, twice in ``gate_timeout`` at most, and not if it was sent before.
        """
        path = candidate.sighting.path
        if not completeness.is_restless(rules, stable, now) or now < candidate.compared_next:
            return False
        if self.known.was_seen(path):
            return False
        content = await self._shares.of(candidate.sighting.root).sha256(path)
        same, first = content == candidate.content, not candidate.content
        if same:
            self._changes.note_content(path, content)
        pause = rules.settle if first else max(rules.gate_timeout, rules.settle)
        current = self._candidates.get(path, candidate)
        self._candidates[path] = replace(current, content=content, compared_next=now + pause)
        return same

    async def _write_state(self, share: Share, path: str, *, gate: bool) -> WriteState:
        """Return whether a file may still be written. After a bug in a container parser it counts as unfinished."""
        try:
            return await share.write_state(path, gate=gate)
        except errors.UploaderError:
            raise
        except Exception as error:  # the parsers read bytes from outside
            log.exception("fault", path=path)
            return WriteState(unfinished=bug_reason(error))

    def _wait(self, candidate: Candidate, stable: StableSince | None, wait: NotYet) -> None:
        path = candidate.sighting.path
        candidate = self._candidates.get(path, candidate)
        sighting = candidate.sighting
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
        due = self._looks.wait_of(path)  # set when a change was seen meanwhile
        self._looks.put(path, wait.after if due is None else min(due, wait.after))

    def _drop(self, path: str) -> None:
        self._candidates.pop(path, None)
        self._looks.drop(path)
