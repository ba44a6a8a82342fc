"""A worker pool per share, so that a share that hangs blocks only its own queue."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class PerShareWorkers(Generic[Item]):
    """Does *work* on each item: per share in the order of ``put``, at most *width* at a time."""

    def __init__(self, work: Callable[[Item], Awaitable[None]], width: int) -> None:
        self._work, self._width = work, width
        self._waiting: dict[str, deque[Item]] = {}
        self._active: Counter[str] = Counter()
        self._group: asyncio.TaskGroup | None = None

    @property
    def busy(self) -> bool:
        """True while an item waits or is worked on."""
        return self._active.total() > 0 or bool(self._waiting)

    def put(self, root: str, item: Item) -> None:
        """Add *item* to the queue of the share *root*."""
        self._waiting.setdefault(root, deque()).append(item)
        self._start(root)

    async def run(self) -> None:
        """Work until cancelled. An exception of *work* ends it."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for root, waiting in tuple(self._waiting.items()):
                for _ in waiting:
                    self._start(root)
            await asyncio.Event().wait()

    def _start(self, root: str) -> None:
        if self._group is not None and self._active[root] < self._width:
            self._active[root] += 1
            self._group.create_task(self._serve(root), name=f"per share: {root}")

    async def _serve(self, root: str) -> None:
        try:
            while (waiting := self._waiting.get(root)) is not None:
                item = waiting.popleft()
                if not waiting:
                    del self._waiting[root]
                await self._work(item)
        finally:
            self._active[root] -= 1
