"""Stage 2: hold every file back until it is complete. ``completeness`` decides when that is.

Must never decide itself, compare a file's time with any clock, or look at what is held back more often than at what
moves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from uploader import completeness, errors, events
from uploader.agenda import Agenda
from uploader.clock import Clock
from uploader.completeness import Complete, Rules, Still, Wait
from uploader.files import Shares
from uploader.model import Closeness, Sighting, State
from uploader.stages import Pipes, Seen, Settled
from uploader.stages.apart import Apart
from uploader.store import Store

LOOKERS: Final = 4  # files of one share looked at at the same time
LOOK_AGAIN: Final = 0.25  # of ``settle``: how soon a file that an event named may be looked at again
UNREADABLE_PAUSE: Final = 1.0  # s, at least, until a file that cannot be read is looked at again
BREATH: Final = 1000  # sightings handled before the event loop gets its turn


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that we wait for. Times are monotonic."""

    sighting: Sighting
    found_at: float
    looked_at: float | None = None
    still: Still | None = None  # what it was at the last look, and since when
    reason: str = "not looked at yet"
    held: bool = False  # it stands still, and yet something speaks against it
    soon: bool = True  # it may well be complete within moments


class Settle:
    """Holds every file that is new, or no longer what it was, until it is complete."""

    def __init__(
        self,
        rules_of: Callable[[str], Rules],
        shares: Shares,
        store: Store,
        pipes: Pipes,
        clock: Clock,
        bus: events.Bus,
    ) -> None:
        """*rules_of*: what a watched folder (by its path) asks of a file."""
        self._rules_of, self._shares, self._store, self._pipes = rules_of, shares, store, pipes
        self._clock, self._bus = clock, bus
        self._candidates: dict[str, Candidate] = {}
        self._looks: Agenda[str] = Agenda(clock)
        self._lookers: Apart[str] = Apart(self.look, LOOKERS)
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
            group.create_task(self._take_seen(), name="settle: seen")
            group.create_task(self._lookers.run(), name="settle: lookers")
            group.create_task(self._look_when_due(), name="settle: due")

    async def _take_seen(self) -> None:
        while True:
            seen = await self._pipes.seen.get()
            self._busy += 1
            try:
                await self.take(seen)
            finally:
                self._busy -= 1
                self._pipes.seen.task_done()

    async def take(self, seen: Seen) -> None:
        """Begin to wait for what is new. What is no longer there is noticed when it is looked at."""
        for number, sighting in enumerate(seen.sightings, start=1):
            self._see(sighting)
            if number % BREATH == 0:
                await self._clock.sleep(0)

    def _see(self, sighting: Sighting) -> None:
        path = sighting.path
        candidate = self._candidates.get(path)
        if candidate is None:
            if not is_settled_business(self._store, sighting):
                self._candidates[path] = Candidate(sighting, self._clock.monotonic())
                self._looks.put(path)
                self._bus.publish(events.FileFound(path, sighting.size))
            return
        moved_on = (sighting.size, sighting.mtime_ns) != (candidate.sighting.size, candidate.sighting.mtime_ns)
        if moved_on and candidate.looked_at is not None:
            # Look soon, so that the time of standing still is counted from now and not from the next due look.
            self._candidates[path] = replace(candidate, sighting=sighting)
            since_look = self._clock.monotonic() - candidate.looked_at
            soon = max(0.0, LOOK_AGAIN * self._rules_of(sighting.root).settle - since_look)
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
        still: Still | None
        try:
            still, verdict = await self._judged(candidate, rules)
        except (errors.FileMissing, errors.NotAFile):
            self._let_go(path)
            return
        except errors.ShareNotReady as error:
            still, verdict = candidate.still, Wait(str(error), max(rules.settle, UNREADABLE_PAUSE))
        if isinstance(verdict, Wait):
            self._wait(candidate, still, verdict)
        elif still is not None:
            self._let_go(path)
            self._bus.publish(events.FileSettled(path, still.snapshot.identity.size))
            settled = Settled(path, candidate.sighting.root, still.snapshot, verdict.unplayable)
            self._pipes.settled.put_nowait(settled)

    async def _judged(self, candidate: Candidate, rules: Rules) -> tuple[Still, Wait | Complete]:
        """Ask of a file what is needed to judge it, the cheap questions first. Raises our errors."""
        path, share = candidate.sighting.path, self._shares.of(candidate.sighting.root)
        snapshot = await share.snapshot(path)
        now = self._clock.monotonic()
        still = completeness.stand(candidate.still, snapshot, now)
        if (wait := completeness.too_early(rules, still, candidate.still, now)) is not None:
            return still, wait
        marker, closeness = completeness.marker_of(rules, path), Closeness()
        if marker:
            ((_, what),) = await share.look([marker])
            marker = marker if what == "missing" else ""
        if not marker:
            closeness = await share.closeness(path, gate=rules.gate)
        return still, completeness.judge(
            rules, snapshot.identity.size, now - still.since, marker=marker, closeness=closeness
        )

    def _wait(self, candidate: Candidate, still: Still | None, wait: Wait) -> None:
        path = candidate.sighting.path
        sighting = self._candidates.get(path, candidate).sighting
        if wait.changed and still is not None:
            size = still.snapshot.identity.size
            self._bus.publish(events.FileStillChanging(path, size))
            sighting = replace(sighting, size=size, mtime_ns=still.snapshot.identity.mtime_ns)
        if wait.held and not candidate.held:
            self._bus.publish(events.FileHeldBack(path, wait.reason))
        self._candidates[path] = replace(
            candidate,
            sighting=sighting,
            still=still,
            looked_at=self._clock.monotonic(),
            reason=wait.reason,
            held=wait.held,
            soon=wait.soon,
        )
        due = self._looks.wait_of(path)  # it may have been seen to change meanwhile
        self._looks.put(path, wait.after if due is None else min(due, wait.after))

    def _let_go(self, path: str) -> None:
        self._candidates.pop(path, None)
        self._looks.drop(path)


def is_settled_business(store: Store, sighting: Sighting) -> bool:
    """True when nothing is to be done about this file as its inode shows it: sent, or on its way."""
    upload = store.upload_at(sighting.path)
    if upload is None:
        return store.ledger.knows(sighting.path, sighting.size, sighting.mtime_ns)
    if (upload.identity.size, upload.identity.mtime_ns) != (sighting.size, sighting.mtime_ns):
        return False
    # Parked because it was not there, and now it is: let it settle, and it is released.
    return not (upload.state is State.PARKED and upload.trouble is not None and upload.trouble.waits_for_file)
