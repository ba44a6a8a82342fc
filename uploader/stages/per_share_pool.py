"""Work that waits for shares, kept apart by share: one that hangs keeps none of the others waiting.

Must never let an item of one share be behind an item of another, nor run more at once than a share was given.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Item = TypeVar("Item")


class PerShareWorkers(Generic[Item]):
    """Does *work* on each item, for each share in the order in which they were put, *width* at the same time."""

    def __init__(self, work: Callable[[Item], Awaitable[None]], width: int) -> None:
        self._work, self._width = work, width
        self._waiting: dict[str, deque[Item]] = {}
        self._at_work: Counter[str] = Counter()
        self._group: asyncio.TaskGroup | None = None

    @property
    def busy(self) -> bool:
        """True while an item waits or is worked on."""
        return self._at_work.total() > 0 or bool(self._waiting)

    def put(self, root: str, item: Item) -> None:
        """Let *item* of the share *root* be done in its turn."""
        self._waiting.setdefault(root, deque()).append(item)
        self._start(root)

    async def run(self) -> None:
        """Work until cancelled. What *work* raises ends it."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            for root, waiting in tuple(self._waiting.items()):
                for _ in waiting:
                    self._start(root)
            await asyncio.Event().wait()

    def _start(self, root: str) -> None:
        if self._group is not None and self._at_work[root] < self._width:
            self._at_work[root] += 1
            self._group.create_task(self._serve(root), name=f"apart: {root}")

    async def _serve(self, root: str) -> None:
        try:
            while (waiting := self._waiting.get(root)) is not None:
                item = waiting.popleft()
                if not waiting:
                    del self._waiting[root]
                await self._work(item)
        finally:
            self._at_work[root] -= 1
