"""A worker pool per share: in order, with bounded concurrency, and a hung share blocks only its own queue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from fakes import idle

from uploader.stages.per_share_pool import PerShareWorkers


class Bench:
    """Work that each item may be made to wait in."""

    def __init__(self, width: int) -> None:
        self.begun: list[str] = []
        self.done: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.apart: PerShareWorkers[str] = PerShareWorkers(self.work, width)

    async def work(self, item: str) -> None:
        """Begin, wait if that is wanted, end."""
        self.begun.append(item)
        if item in self.gates:
            await self.gates[item].wait()
        self.done.append(item)

    def hold(self, item: str) -> Callable[[], None]:
        """Let *item* hang until the answer is called."""
        self.gates[item] = asyncio.Event()
        return self.gates[item].set


@asynccontextmanager
async def bench(width: int) -> AsyncIterator[Bench]:
    """It at work."""
    table = Bench(width)
    task = asyncio.ensure_future(table.apart.run())
    try:
        yield table
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_each_share_runs_two_items_at_a_time_in_order() -> None:
    """The others wait in the order in which they came."""
    async with bench(2) as table:
        release = [table.hold(f"a{number}") for number in range(2)]
        for number in range(5):
            table.apart.put("a", f"a{number}")
        await idle()
        assert table.begun == ["a0", "a1"]
        release[1]()
        await idle()
        assert table.begun == ["a0", "a1", "a2", "a3", "a4"]
        assert table.apart.busy
        release[0]()
        await idle()
        assert not table.apart.busy


async def test_a_hung_share_blocks_no_other() -> None:
    """However many of its items wait."""
    async with bench(1) as table:
        release = table.hold("a0")
        for number in range(10):
            table.apart.put("a", f"a{number}")
        table.apart.put("b", "b0")
        await idle()
        assert table.done == ["b0"]
        release()
        await idle()
        assert table.done == ["b0", *(f"a{number}" for number in range(10))]


async def test_items_put_before_the_pool_runs_are_done() -> None:
    """The stages may begin in any order."""
    table = Bench(1)
    table.apart.put("a", "a0")
    assert table.apart.busy
    task = asyncio.ensure_future(table.apart.run())
    await idle()
    assert table.done == ["a0"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_error_of_the_work_ends_the_pool() -> None:
    """An unexpected error is not hidden."""

    async def fail(_: str) -> None:
        raise ZeroDivisionError

    apart: PerShareWorkers[str] = PerShareWorkers(fail, 1)
    apart.put("a", "a0")
    with pytest.raises(ExceptionGroup) as caught:
        await apart.run()
    assert caught.group_contains(ZeroDivisionError)


async def test_cancelling_the_pool_cancels_its_work() -> None:
    """No item counts as running any more."""
    async with bench(1) as table:
        table.hold("a0")
        table.apart.put("a", "a0")
        await idle()
    assert table.done == []
    assert not table.apart.busy
