"""Grants bytes to the uploads that wait, as fast as the limits allow, and fairly among them.

Each upload in flight has a throttle. A meter holds one rate and says when the next bytes may be sent. The pacer
does not poll: it sleeps until the next grant is due, an upload asks, or a rate changes. Of the uploads that wait, the
one that has had the fewest bytes since it joined goes first (start-time fair queueing). So neither small nor frequent
requests are an advantage.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from uploader.bandwidth.limits import Limits
from uploader.bandwidth.meter import LARGEST_GRANT, Meter
from uploader.runtime.clock import Clock
from uploader.runtime.delay_queue import wait_for


class FolderLimit:
    """The meters that limit the uploads of one watched folder now. Without meters they are not limited."""

    __slots__ = ("meters", "root")

    def __init__(self, root: str) -> None:
        self.root = root
        self.meters: tuple[Meter, ...] = ()


class UploadThrottle:
    """The limit of one upload in flight, which asks here how many bytes it may send. It needs no closing."""

    __slots__ = ("_folder", "_pacer", "served")

    def __init__(self, pacer: Pacer, folder: FolderLimit) -> None:
        self._pacer, self._folder = pacer, folder
        self.served = 0.0  # its place in the order of service, in bytes (the start tag); the pacer keeps it

    @property
    def limited(self) -> bool:
        """True while ``take`` may wait."""
        return bool(self._folder.meters)

    @property
    def piece(self) -> int:
        """Bytes of one grant at the present rate, 1 to ``LARGEST_GRANT``. Asking for less needs more grants."""
        return min((meter.piece for meter in self._folder.meters), default=LARGEST_GRANT)

    async def take(self, wanted: int) -> int:
        """Wait until bytes may be sent; return how many, 1 to *wanted*.

        Without a limit returns *wanted* at once. Raises ValueError for less than one byte.
        """
        if wanted < 1:
            raise ValueError(f"{wanted} bytes cannot be sent")
        if not self._folder.meters:
            return wanted
        return await self._pacer.take(self, self._folder, wanted)


@dataclass(eq=False, slots=True)
class _Waiter:
    throttle: UploadThrottle
    folder: FolderLimit
    wanted: int
    start: float  # the lowest goes first
    granted: asyncio.Future[int]
    charged: tuple[Meter, ...] = ()  # the meters that the grant was taken from

    def wait(self, now: float) -> float:
        """Return the seconds until every meter allows it."""
        return max((meter.wait(now) for meter in self.folder.meters), default=0.0)


class Pacer:
    """Two meters, one for all uploads and one for the slowed ones, and the uploads that wait for them."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self._clock = clock
        now = clock.monotonic()
        self._total, self._slow = Meter(limits.total, now), Meter(limits.slow, now)
        self._limits = limits
        self._folders: dict[str, FolderLimit] = {}
        self._waiting: list[_Waiter] = []  # no more than there are workers
        self._served = 0.0  # the highest ``start`` that was granted: new uploads begin here
        self._wake = asyncio.Event()

    @property
    def roots(self) -> tuple[str, ...]:
        """Every known folder."""
        return tuple(self._folders)

    def folder(self, root: str) -> FolderLimit:
        """Return the limit of the folder *root*, made if it is not known."""
        if root not in self._folders:
            self._folders[root] = FolderLimit(root)
            self._put_in_force(self._folders[root])
        return self._folders[root]

    def change(self, limits: Limits) -> None:
        """Put other limits into force at once, also for uploads that wait."""
        self._limits = limits
        now = self._clock.monotonic()
        self._total.change(limits.total, now)
        self._slow.change(limits.slow, now)
        for folder in self._folders.values():
            self._put_in_force(folder)
        self._wake.set()

    def _put_in_force(self, folder: FolderLimit) -> None:
        """Give the folder the meters that apply to it."""
        total = () if self._limits.total is None else (self._total,)
        slow = (self._slow,) if folder.root in self._limits.recorded else ()
        folder.meters = (*total, *slow)

    async def take(self, throttle: UploadThrottle, folder: FolderLimit, wanted: int) -> int:
        """Wait for a grant, and return its bytes. A grant to a task that is cancelled is given back."""
        granted: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        waiter = _Waiter(throttle, folder, wanted, max(self._served, throttle.served), granted)
        self._waiting.append(waiter)
        self._wake.set()
        try:
            return await granted
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            else:
                for meter in waiter.charged:
                    meter.give_back(granted.result())
                self._wake.set()
            raise

    async def run(self) -> None:
        """Serve waiting uploads until cancelled."""
        while True:
            self._wake.clear()
            await wait_for(self._wake, self._clock, self._serve(self._clock.monotonic()))

    def _serve(self, now: float) -> float | None:
        """Grant what is due; return the seconds until the next grant, None when no upload waits.

        Each waiting upload gets at most one grant per call: the next requests of the others must be known before one
        gets a second.
        """
        while ready := [waiter for waiter in self._waiting if waiter.wait(now) <= 0]:
            self._grant(min(ready, key=lambda waiter: waiter.start), now)
        return min((waiter.wait(now) for waiter in self._waiting), default=None)

    def _grant(self, waiter: _Waiter, now: float) -> None:
        """Give a waiter its bytes, and charge its meters."""
        self._waiting.remove(waiter)
        if waiter.granted.done():  # its task is being cancelled
            return
        waiter.charged = waiter.folder.meters
        count = min((waiter.wanted, *(meter.piece for meter in waiter.charged)))
        for meter in waiter.charged:
            meter.spend(count, now)
        self._served = max(self._served, waiter.start)
        waiter.throttle.served = waiter.start + count
        waiter.granted.set_result(count)
