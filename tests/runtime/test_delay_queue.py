"""The delay queue: items that are due at a time, by a virtual clock."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from fakes import VirtualClock, idle
from hypothesis import given
from hypothesis import strategies as st

from uploader.runtime.clock import SystemClock
from uploader.runtime.delay_queue import IN_A_ROW, STALE, STALE_SHARE, DelayQueue, wait_for


async def test_things_fall_due_in_the_order_of_their_times() -> None:
    """The soonest first, whatever the order they were put in; equal times keep that order."""
    clock = VirtualClock()
    queue: DelayQueue[str] = DelayQueue(clock)
    for item, after in (("c", 3.0), ("a", 1.0), ("b1", 2.0), ("b2", 2.0)):
        queue.put(item, after)
    await clock.advance(3.0)
    assert [await queue.next_due() for _ in range(4)] == ["a", "b1", "b2", "c"]
    assert len(queue) == 0


async def test_nothing_is_due_before_its_time() -> None:
    """A waiter gets its item when the time has come, and not a moment before."""
    clock = VirtualClock()
    queue: DelayQueue[str] = DelayQueue(clock)
    queue.put("a", 5.0)
    waiter = asyncio.create_task(queue.next_due())
    await clock.advance(4.999)
    assert not waiter.done()
    await clock.advance(0.001)
    assert waiter.result() == "a"


async def test_putting_an_item_again_moves_it() -> None:
    """Each item has one entry: the last time counts, whether later or sooner."""
    clock = VirtualClock()
    queue: DelayQueue[str] = DelayQueue(clock)
    queue.put("a", 1.0)
    queue.put("a", 10.0)
    waiter = asyncio.create_task(queue.next_due())
    await clock.advance(5.0)
    assert (waiter.done(), queue.wait_of("a"), queue.soonest(), len(queue)) == (False, 5.0, 5.0, 1)
    queue.put("a")
    await idle()
    assert waiter.result() == "a"
    assert (queue.wait_of("a"), queue.soonest(), "a" in queue) == (None, None, False)


async def test_a_dropped_item_never_falls_due() -> None:
    """Dropping an item that is not there does nothing."""
    clock = VirtualClock()
    queue: DelayQueue[str] = DelayQueue(clock)
    queue.put("a", 1.0)
    queue.put("b", 2.0)
    queue.drop("a")
    queue.drop("never there")
    waiter = asyncio.create_task(queue.next_due())
    await clock.advance(1.5)
    assert not waiter.done()
    await clock.advance(0.5)
    assert waiter.result() == "b"


async def test_a_waiter_with_nothing_to_wait_for_is_woken_by_the_first_item() -> None:
    """An empty queue needs no sleep."""
    clock = VirtualClock()
    queue: DelayQueue[str] = DelayQueue(clock)
    waiter = asyncio.create_task(queue.next_due())
    await clock.advance(1000.0)
    assert (waiter.done(), clock.sleepers) == (False, 0)
    queue.put("a")
    await idle()
    assert waiter.result() == "a"


async def test_two_items_at_once_wake_two_waiters() -> None:
    """A waiter that takes one item leaves the other for its neighbour, in whatever order they run."""
    clock = VirtualClock()
    queue: DelayQueue[str] = DelayQueue(clock)
    queue.put("late", 100.0)
    first = asyncio.create_task(queue.next_due())
    second = asyncio.create_task(queue.next_due())
    await asyncio.sleep(0)  # both have looked; what they wait on has not begun to run
    queue.put("a")
    queue.put("b")
    await idle()
    assert {first.result(), second.result()} == {"a", "b"}


async def test_many_waiters_share_one_sleep() -> None:
    """An item wakes one of them, and an item that is due later wakes none."""
    clock = VirtualClock()
    queue: DelayQueue[str] = DelayQueue(clock)
    queue.put("a", 5.0)
    waiters = [asyncio.create_task(queue.next_due()) for _ in range(4)]
    await idle()
    queue.put("b", 6.0)
    await idle()
    assert clock.sleepers == 1
    await clock.advance(6.0)
    assert [waiter.done() for waiter in waiters] == [True, True, False, False]
    for waiter in waiters[2:]:
        waiter.cancel()
    await idle()
    assert clock.sleepers == 0


async def test_a_cancelled_waiter_leaves_the_item() -> None:
    """And no sleep."""
    clock = VirtualClock()
    queue: DelayQueue[str] = DelayQueue(clock)
    queue.put("a", 5.0)
    waiter = asyncio.create_task(queue.next_due())
    await idle()
    waiter.cancel()
    await idle()
    assert (waiter.cancelled(), "a" in queue, clock.sleepers) == (True, True, 0)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 100)), max_size=40))
def test_every_item_falls_due_once_at_its_last_time(puts: list[tuple[int, int]]) -> None:
    """However items are put again, each comes once, in the order of their last times."""

    async def play() -> None:
        clock = VirtualClock()
        queue: DelayQueue[int] = DelayQueue(clock)
        for item, after in puts:
            queue.put(item, after)
        last = dict(puts)
        await clock.advance(100.0)
        order = [await queue.next_due() for _ in last]
        assert sorted(order) == sorted(last)
        assert all(last[one] <= last[other] for one, other in pairwise(order))
        assert (len(queue), queue.soonest()) == (0, None)

    asyncio.run(play())


async def test_either_ends_with_the_event_or_with_the_time() -> None:
    """The first of the two ends the wait, and the other is not left running."""
    clock, event = VirtualClock(), asyncio.Event()
    timed = asyncio.create_task(wait_for(event, clock, 5.0))
    await clock.advance(5.0)
    assert timed.done()
    told = asyncio.create_task(wait_for(event, clock, 5.0))
    await idle()
    event.set()
    await idle()
    assert (told.done(), clock.sleepers) == (True, 0)


async def test_the_system_clock_behaves_as_the_virtual_one() -> None:
    """Time goes on, random numbers stay in range, a sleep ends."""
    clock = SystemClock()
    before = clock.monotonic()
    await clock.sleep(0)
    assert clock.monotonic() >= before
    assert clock.now() > 1_700_000_000
    assert all(2.0 <= clock.uniform(2.0, 3.0) <= 3.0 for _ in range(100))


async def test_taking_many_due_items_yields_to_other_tasks() -> None:
    """Also when the taker waits for nothing else."""
    queue: DelayQueue[int] = DelayQueue(SystemClock())
    for item in range(10 * IN_A_ROW):
        queue.put(item)
    taken: list[int] = []
    at_turns: list[int] = []

    async def take() -> None:
        while True:
            taken.append(await queue.next_due())

    taking = asyncio.create_task(take())
    while len(taken) < 10 * IN_A_ROW:
        await asyncio.sleep(0)
        at_turns.append(len(taken))
    assert taken == list(range(10 * IN_A_ROW))
    assert max(after - before for before, after in pairwise([0, *at_turns])) == IN_A_ROW
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)


async def test_a_cancelled_taker_loses_no_item() -> None:
    """What it has not got is there for the next taker."""
    queue: DelayQueue[int] = DelayQueue(SystemClock())
    for item in range(IN_A_ROW + 1):
        queue.put(item)
    for item in range(IN_A_ROW):
        assert await queue.next_due() == item
    waiter = asyncio.create_task(queue.next_due())
    await asyncio.sleep(0)
    assert not waiter.done()
    waiter.cancel()
    await asyncio.gather(waiter, return_exceptions=True)
    assert await queue.next_due() == IN_A_ROW


async def test_moving_items_repeatedly_takes_no_memory() -> None:
    """Outdated entries are removed in small steps."""
    clock = VirtualClock()
    queue: DelayQueue[int] = DelayQueue(clock)
    count = 2 * STALE
    for after in range(50):
        for item in range(count):
            queue.put(item, 100.0 + (after * 37 + item) % 50)
        assert len(queue._heap) <= count + count // STALE_SHARE + STALE
    for item in range(count // 2):
        queue.drop(item)
        assert len(queue._heap) <= len(queue) + len(queue) // STALE_SHARE + STALE
    await clock.advance(200.0)
    in_order = sorted(range(count // 2, count), key=lambda item: (49 * 37 + item) % 50)
    assert [await queue.next_due() for _ in range(count // 2)] == in_order
    assert len(queue) == 0
