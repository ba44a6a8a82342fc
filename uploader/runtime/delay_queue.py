"""Holds items until they become due, so that an item that waits occupies no worker.

The queue runs nothing: the caller of ``next_due`` acts on the items. Each item has one entry; putting it
again moves it.
"""

from __future__ import annotations

import asyncio
import heapq
from itertools import count
from typing import Final, Generic, TypeVar

from uploader.runtime.clock import Clock

IN_A_ROW: Final = 100  # due items returned without a wait, before other tasks may run
# A heap entry is stale when its item was moved or dropped. ``STALE`` of them are kept, and one more for each
# ``STALE_SHARE`` items; when there are more, all are cleared at once.
STALE: Final = 1000
STALE_SHARE: Final = 8

Item = TypeVar("Item")


class DelayQueue(Generic[Item]):
    """Items (hashable, one entry each) in the order in which they become due, by the monotonic clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: dict[Item, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Item]] = []
        self._order = count()
        self._sooner = asyncio.Event()  # set when a new item is due first: the waiter then waits less long
        self._in_a_row = 0  # items returned since a waiter last waited
        self._first = asyncio.Lock()  # held by the first waiter, so that an item wakes only that one

    def __len__(self) -> int:
        return len(self._due)

    def __contains__(self, item: object) -> bool:
        return item in self._due

    def put(self, item: Item, after: float = 0.0) -> None:
        """Make *item* due *after* seconds from now; replaces an earlier entry."""
        due, order = self._clock.monotonic() + max(0.0, after), next(self._order)
        self._due[item] = (due, order)
        heapq.heappush(self._heap, (due, order, item))
        self._clear_stale()
        if self._heap[0][:2] == (due, order):
            self._sooner.set()

    def drop(self, item: Item) -> None:
        """Remove *item*, if it is there."""
        if self._due.pop(item, None) is not None:
            self._clear_stale()

    def wait_of(self, item: Item) -> float | None:
        """Return the seconds until *item* is due; None when it is not in the queue."""
        entry = self._due.get(item)
        return None if entry is None else max(0.0, entry[0] - self._clock.monotonic())

    def soonest(self) -> float | None:
        """Return the seconds until the next item is due; None when the queue is empty."""
        self._discard_stale()
        return max(0.0, self._heap[0][0] - self._clock.monotonic()) if self._heap else None

    async def next_due(self) -> Item:
        """Wait until the next item is due; remove and return it. Waiters are served in the order they came.

        Lets other tasks run after every ``IN_A_ROW`` items, even if items are always due.
        """
        async with self._first:
            if self._in_a_row >= IN_A_ROW:
                self._in_a_row = 0
                await self._clock.sleep(0.0)
            while True:
                self._sooner.clear()
                wait = self.soonest()
                if wait == 0.0:
                    item = heapq.heappop(self._heap)[2]
                    del self._due[item]
                    self._in_a_row += 1
                    return item
                self._in_a_row = 0
                await wait_for(self._sooner, self._clock, wait)

    def _clear_stale(self) -> None:
        """Clear stale heap entries once there are many: they take memory, and may all come to the top at once."""
        if len(self._heap) - len(self._due) > STALE + len(self._due) // STALE_SHARE:
            self._heap = [(*entry, item) for item, entry in self._due.items()]
            heapq.heapify(self._heap)

    def _discard_stale(self) -> None:
        """Remove stale entries from the top of the heap."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][:2]:
            heapq.heappop(self._heap)


async def wait_for(event: asyncio.Event, clock: Clock, wait: float | None) -> None:
    """Return when *event* is set, or after *wait* seconds; None: only when it is set."""
    if wait is None:
        await event.wait()
        return
    waiters = {asyncio.ensure_future(event.wait()), asyncio.ensure_future(clock.sleep(wait))}
    try:
        await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()
