"""Long loops that give the event loop its turn."""

from __future__ import annotations

import asyncio

import pytest

from uploader.runtime.clock import SystemClock
from uploader.runtime.slices import in_slices


@pytest.mark.parametrize(("count", "turns"), [(0, 0), (9, 0), (10, 1), (35, 3)])
async def test_the_event_loop_gets_its_turn_after_each_slice(count: int, turns: int) -> None:
    """Whatever else waits goes on between two slices, and not more often."""
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


async def test_what_is_taken_away_meanwhile_is_yielded_all_the_same() -> None:
    """Every item there was at the beginning: whoever goes through a table looks whether it is still in it."""
    table = dict.fromkeys(range(5), "here")
    seen: list[int] = []
    async for item in in_slices(table, SystemClock(), size=1):
        seen.append(item)
        table.pop(item + 1, None)
    assert seen == [0, 1, 2, 3, 4]
