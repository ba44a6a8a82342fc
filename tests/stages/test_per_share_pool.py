"""Work that is kept apart by share: in order, so much at once, and one that hangs keeps none of the others waiting."""

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


async def test_each_share_keeps_its_order_and_its_width() -> None:
    """Two at a time of one share, the others in the order in which they came."""
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


async def test_share_that_hangs_keeps_no_other_waiting() -> None:
    """However much of it waits."""
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


async def test_what_was_put_before_it_works_is_done() -> None:
    """The stages begin in any order."""
    table = Bench(1)
    table.apart.put("a", "a0")
    assert table.apart.busy
    task = asyncio.ensure_future(table.apart.run())
    await idle()
    assert table.done == ["a0"]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_the_work_raises_ends_it() -> None:
    """A fault of ours is not hidden."""

    async def fail(_: str) -> None:
        raise ZeroDivisionError

    apart: PerShareWorkers[str] = PerShareWorkers(fail, 1)
    apart.put("a", "a0")
    with pytest.raises(ExceptionGroup) as caught:
        await apart.run()
    assert caught.group_contains(ZeroDivisionError)


async def test_cancellation_passes_through_to_what_is_under_way() -> None:
    """The house ends: so does the work, and nothing counts as at work any more."""
    async with bench(1) as table:
        table.hold("a0")
        table.apart.put("a", "a0")
        await idle()
    assert table.done == []
    assert not table.apart.busy
