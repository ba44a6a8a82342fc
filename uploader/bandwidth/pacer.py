"""Whose turn it is: lanes wait here, and get their pieces when the meters allow, each its fair share.

Must never decide what the rates are, nor poll: it sleeps until the next piece is due, a lane comes or a rate changes.
Where lanes compete, the one that has had least since it came goes first, counted in bytes (start-time fair queueing),
so that neither small pieces nor many of them are an advantage.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from uploader.bandwidth.limits import Limits
from uploader.bandwidth.meter import LARGEST_GRANT, Meter
from uploader.runtime.clock import Clock
from uploader.runtime.delay_queue import wait_for


class FolderLimit:
    """What limits the uploads of one watched folder now. Without ``meters`` they are not limited."""

    __slots__ = ("meters", "root")

    def __init__(self, root: str) -> None:
        self.root = root
        self.meters: tuple[Meter, ...] = ()


class Lane:
    """One upload in flight. Cheap; it needs no closing."""

    __slots__ = ("_folder", "_pacer", "share")

    def __init__(self, pacer: Pacer, folder: FolderLimit) -> None:
        self._pacer, self._folder = pacer, folder
        self.share = 0.0  # where the lane stands among those that compete, in bytes; the pacer's own

    @property
    def limited(self) -> bool:
        """True while ``take`` may wait."""
        return bool(self._folder.meters)

    @property
    def piece(self) -> int:
        """Bytes of one smooth piece at the present rate, 1 to ``LARGEST_GRANT``: asking for less costs more turns."""
        return min((meter.piece for meter in self._folder.meters), default=LARGEST_GRANT)

    async def take(self, wanted: int) -> int:
        """Return how many bytes, 1 to *wanted*, may be sent now; wait while the limit says so.

        Without a limit it is *wanted*, at once. Raises ValueError for less than one byte.
        """
        if wanted < 1:
            raise ValueError(f"{wanted} bytes cannot be sent")
        if not self._folder.meters:
            return wanted
        return await self._pacer.turn(self, self._folder, wanted)


@dataclass(eq=False, slots=True)
class _Waiter:
    lane: Lane
    folder: FolderLimit
    wanted: int
    start: float
    granted: asyncio.Future[int]
    spent: tuple[Meter, ...] = ()

    def wait(self, now: float) -> float:
        """Seconds until every meter lets it go."""
        return max((meter.wait(now) for meter in self.folder.meters), default=0.0)


class Pacer:
    """Two meters, for all uploads and for those that are slowed down, and everybody who waits for them."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._clock = clock
        now = clock.monotonic()
        self._total, self._slow = Meter(limits.total, now), Meter(limits.slow, now)
        self._limits = limits
        self._folders: dict[str, FolderLimit] = {}
        self._waiting: list[_Waiter] = []  # no more than there are workers
        self._served = 0.0  # the furthest ``start`` that has had its turn: who comes now begins here
        self._stir = asyncio.Event()

    @property
    def roots(self) -> tuple[str, ...]:
        """Every folder that is known."""
        return tuple(self._folders)

    def folder(self, root: str) -> FolderLimit:
        """The folder *root*; known from now on."""
        if root not in self._folders:
            self._folders[root] = FolderLimit(root)
            self._put_in_force(self._folders[root])
        return self._folders[root]

    def change(self, limits: Limits) -> None:
        """Put other limits into force; who waits is judged by them at once."""
        self._limits = limits
        now = self._clock.monotonic()
        self._total.change(limits.total, now)
        self._slow.change(limits.slow, now)
        for folder in self._folders.values():
            self._put_in_force(folder)
        self._stir.set()

    def _put_in_force(self, folder: FolderLimit) -> None:
        total = () if self._limits.total is None else (self._total,)
        slow = (self._slow,) if folder.root in self._limits.recorded else ()
        folder.meters = (*total, *slow)

    async def turn(self, lane: Lane, folder: FolderLimit, wanted: int) -> int:
        """Wait for a turn, and return how many bytes it is. One that was granted to a cancelled task is given back."""
        granted: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(lane, folder, wanted, max(self._served, lane.share), granted)
        self._waiting.append(waiter)
        self._stir.set()
        try:
            return await granted
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            else:
                for meter in waiter.spent:
                    meter.give_back(granted.result())
                self._stir.set()
            raise

    async def run(self) -> None:
        """Give everybody their turn until cancelled."""
        while True:
            self._stir.clear()
            await wait_for(self._stir, self._clock, self._serve(self._clock.monotonic()))

    def _serve(self, now: float) -> float | None:
        """Grant what is due; seconds until the next turn, None when nobody waits.

        Everybody gets one turn at most: the others' next wish must be known before somebody gets a second one.
        """
        while ready := [waiter for waiter in self._waiting if waiter.wait(now) <= 0]:
            self._grant(min(ready, key=lambda waiter: waiter.start), now)
        return min((waiter.wait(now) for waiter in self._waiting), default=None)

    def _grant(self, waiter: _Waiter, now: float) -> None:
        self._waiting.remove(waiter)
        if waiter.granted.done():  # its task is being cancelled
            return
        waiter.spent = waiter.folder.meters
        count = min((waiter.wanted, *(meter.piece for meter in waiter.spent)))
        for meter in waiter.spent:
            meter.spend(count, now)
        self._served = max(self._served, waiter.start)
        waiter.lane.share = waiter.start + count
        waiter.granted.set_result(count)
