"""Stage 2: wait until a file stands still.

Size, mtime, first and last block must be the same at two looks that are at least ``settle`` apart by our own
monotonic clock. Must never compare a file's mtime with any clock: the clocks of shares are wrong.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from uploader import errors, events, files
from uploader.agenda import Agenda
from uploader.clock import Clock
from uploader.files import Scan
from uploader.model import Identity, Sighting, State, Turn
from uploader.stages import Pipes, Settled
from uploader.store import Store

LOOKERS: Final = 4  # files looked at at the same time
LOOK_AGAIN: Final = 0.25  # of ``settle``: how soon a file that an event named may be looked at again
UNREADABLE_PAUSE: Final = 1.0  # s, at least, until a file that cannot be read is looked at again
BREATH: Final = 1000  # sightings handled before the event loop gets its turn


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that we wait for. ``identity``: what it was at the last look, None before the first."""

    sighting: Sighting
    settle: float  # seconds
    found_at: float  # monotonic
    identity: Identity | None = None
    looked_at: float | None = None  # monotonic
    still_since: float | None = None  # monotonic; the first look at which it was as it is
    reason: str = "not looked at yet"


class Settle:
    """Holds every file that is new, or no longer what it was, until it has stood still."""

    def __init__(
        self, settle_of: Callable[[str], float], store: Store, pipes: Pipes, clock: Clock, bus: events.Bus
    ) -> None:
        """*settle_of*: the seconds of standing still that a watched folder (by its path) wants."""
        self._settle_of, self._store, self._pipes = settle_of, store, pipes
        self._clock, self._bus = clock, bus
        self._candidates: dict[str, Candidate] = {}
        self._looks: Agenda[str] = Agenda(clock)
        self._busy = 0

    @property
    def busy(self) -> bool:
        """True while a scan is taken in or a file looked at."""
        return self._busy > 0

    def candidates(self) -> Iterator[Candidate]:
        """Every file that is waited for, for those who ask."""
        return iter(tuple(self._candidates.values()))

    def candidate(self, path: str) -> Candidate | None:
        """The file at *path*, if it is waited for."""
        return self._candidates.get(path)

    async def run(self) -> None:
        """Take scans in, look at what is due, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._take_scans(), name="settle: scans")
            for number in range(LOOKERS):
                group.create_task(self._look_when_due(), name=f"settle: look {number}")

    async def _take_scans(self) -> None:
        while True:
            scan = await self._pipes.scans.get()
            self._busy += 1
            try:
                await self.take(scan)
            finally:
                self._busy -= 1
                self._pipes.scans.task_done()

    async def take(self, scan: Scan) -> None:
        """Begin to wait for what is new in *scan*; stop waiting for what is no longer there."""
        for number, sighting in enumerate(scan.sightings, start=1):
            self._see(sighting)
            if number % BREATH == 0:
                await self._clock.sleep(0)
        if scan.whole:
            seen = {sighting.path for sighting in scan.sightings}
            for candidate in self.candidates():
                if candidate.sighting.root == scan.root and candidate.sighting.path not in seen:
                    self._let_go(candidate.sighting.path)

    def _see(self, sighting: Sighting) -> None:
        path = sighting.path
        candidate = self._candidates.get(path)
        if candidate is None:
            if not is_settled_business(self._store, sighting):
                self._candidates[path] = Candidate(sighting, self._settle_of(sighting.root), self._clock.monotonic())
                self._looks.put(path)
                self._bus.publish(events.FileFound(path, sighting.size))
            return
        moved_on = (sighting.size, sighting.mtime_ns) != (candidate.sighting.size, candidate.sighting.mtime_ns)
        if moved_on and candidate.looked_at is not None:
            # Look soon, so that the time of standing still is counted from now and not from the next due look.
            self._candidates[path] = replace(candidate, sighting=sighting)
            since_look = self._clock.monotonic() - candidate.looked_at
            soon = max(0.0, LOOK_AGAIN * candidate.settle - since_look)
            if (due := self._looks.wait_of(path)) is None or soon < due:
                self._looks.put(path, soon)

    async def _look_when_due(self) -> None:
        while True:
            path = await self._looks.next_due()
            self._busy += 1
            try:
                await self.look(path)
            finally:
                self._busy -= 1

    async def look(self, path: str) -> None:
        """Look at a candidate: settled, still changing, or not readable yet."""
        candidate = self._candidates.get(path)
        if candidate is None:
            return
        try:
            identity = await files.identify(path)
        except (errors.FileMissing, errors.NotAFile):
            self._let_go(path)
            return
        except errors.ShareNotReady as error:
            self._candidates[path] = replace(candidate, reason=str(error), looked_at=self._clock.monotonic())
            self._looks.put(path, max(candidate.settle, UNREADABLE_PAUSE))
            return
        now = self._clock.monotonic()
        if candidate.still_since is None or identity != candidate.identity:
            self._still_changing(candidate, identity, now)
        elif (left := candidate.settle - (now - candidate.still_since)) > 0:
            self._candidates[path] = replace(candidate, looked_at=now)
            self._looks.put(path, left)
        else:
            self._let_go(path)
            self._bus.publish(events.FileSettled(path, identity.size))
            self._pipes.settled.put_nowait(Settled(path, candidate.sighting.root, identity))

    def _still_changing(self, candidate: Candidate, identity: Identity, now: float) -> None:
        path = candidate.sighting.path
        if candidate.identity is not None:
            self._bus.publish(events.FileStillChanging(path, identity.size))
        reason = f"it must stand still for {candidate.settle:g} s"
        sighting = replace(candidate.sighting, size=identity.size, mtime_ns=identity.mtime_ns)
        self._candidates[path] = replace(
            candidate, sighting=sighting, identity=identity, looked_at=now, still_since=now, reason=reason
        )
        self._looks.put(path, candidate.settle)

    def _let_go(self, path: str) -> None:
        self._candidates.pop(path, None)
        self._looks.drop(path)


def is_settled_business(store: Store, sighting: Sighting) -> bool:
    """True when nothing is to be done about this file as its inode shows it: sent, or on its way."""
    upload = store.uploads.get(sighting.path)
    if upload is None:
        return store.ledger.knows(sighting.path, sighting.size, sighting.mtime_ns)
    if (upload.identity.size, upload.identity.mtime_ns) != (sighting.size, sighting.mtime_ns):
        return False
    # Parked because it was not there, and now it is: let it settle, and it is released.
    waits_for_file = upload.state is State.PARKED and upload.trouble is not None and upload.trouble.turn is Turn.FILE
    return not waits_for_file or sighting.size == 0
