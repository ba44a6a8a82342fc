"""Long loops that yield to the event loop."""

from __future__ import annotations

import asyncio

import pytest

from uploader.runtime.clock import SystemClock
from uploader.runtime.slices import in_slices


@pytest.mark.parametrize(("count", "turns"), [(0, 0), (9, 0), (10, 1), (35, 3)])
async def test_other_tasks_run_after_each_slice(count: int, turns: int) -> None:
    """And not more often."""
    done, seen = False, list[int]()

    async def others() -> int:
        taken = -1  # the first is its start
        while not done:
            taken += 1
            await asyncio.sleep(0)
        return taken

    waiting = asyncio.create_task(others())
    await asyncio.sleep(0)
    async for item in in_slices(range(count), SystemClock(), size=10):
        seen.append(item)
    done = True
    assert seen == list(range(count))
    assert await waiting == turns


async def test_items_removed_meanwhile_are_yielded_nevertheless() -> None:
    """It yields every item that was there at the beginning, so the caller must check."""
    table = dict.fromkeys(range(5), "here")
    seen: list[int] = []
    async for item in in_slices(table, SystemClock(), size=1):
        seen.append(item)
        table.pop(item + 1, None)
    assert seen == [0, 1, 2, 3, 4]
