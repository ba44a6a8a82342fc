"""The pacer is exact, smooth and fair, at any rate, for any number of throttles, whatever is cancelled."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections.abc import Callable
from functools import partial

import pytest
from fakes import VirtualClock, idle
from hypothesis import assume, example, given
from hypothesis import strategies as st
from throttles import MUCH, ROOT, WINDOW, configured, site

from uploader.bandwidth import UploadThrottle
from uploader.bandwidth.meter import CATCH_UP_TIME, GRANT_TIME, LARGEST_GRANT, Meter
from uploader.bandwidth.pacer import _Waiter
from uploader.domain.units import format_rate, parse_rate

RATES = ("8 kbit/s", "100 kbit/s", "20 Mbit/s", "1 Gbit/s", "10 Gbit/s")


class LateClock(VirtualClock):
    """A clock whose sleeps end late, by up to *lateness* seconds: a machine that is busy with other things."""

    def __init__(self, lateness: float, seed: int = 0) -> None:
        super().__init__()
        self._lateness, self._chance = lateness, random.Random(seed)  # noqa: S311 - not a secret

    async def sleep(self, seconds: float) -> None:
        """Return a little after *seconds*."""
        await super().sleep(seconds + self._chance.uniform(0, self._lateness) if seconds > 0 else seconds)


@pytest.mark.parametrize("throttles", [1, 4, 16])
@pytest.mark.parametrize("rate", RATES)
async def test_ten_seconds_carry_what_the_limit_allows(rate: str, throttles: int) -> None:
    """To 3 %, also with late timers, and never more than twice the rate in any 200 ms."""
    async with site(configured(bandwidth=rate), LateClock(0.03)) as here:
        start = here.clock.monotonic()
        here.workers(throttles)
        await here.clock.advance(10)
        assert here.traffic.between(start, start + 10) == pytest.approx(parse_rate(rate) * 10, rel=0.03)
        assert here.traffic.busiest() <= 2 * parse_rate(rate) * WINDOW


async def test_unused_bandwidth_is_not_saved_up() -> None:
    """After an idle hour, ten seconds carry as much as any other ten."""
    async with site(configured(bandwidth="20 Mbit/s")) as here:
        throttle = here.bandwidth.throttle(ROOT)
        assert await throttle.take(1) == 1
        await here.clock.advance(3600)
        here.workers(4)
        await here.clock.advance(30)
        assert here.traffic.busiest(10) <= 1.03 * 10 * 2.5e6
        assert here.traffic.busiest() <= 2 * WINDOW * 2.5e6


def wishing(pieces: list[float]) -> Callable[[UploadThrottle], int]:
    """Wishes of so many pieces, one after the other, over and over."""
    turns = itertools.cycle(pieces)
    return lambda throttle: max(1, int(next(turns) * throttle.piece))


RATE = st.sampled_from([1000.0, 12_345.6, 2.5e6, 1.25e8])


@given(
    rates=st.lists(st.tuples(st.floats(0.05, 2), RATE), min_size=1, max_size=5),
    throttles=st.lists(
        st.tuples(st.floats(0, 1), st.lists(st.sampled_from([0.1, 0.45, 1.0, 1.7, 100.0]), min_size=1, max_size=4)),
        min_size=1,
        max_size=5,
    ),
    lateness=st.floats(0, 0.08),
)
@example(rates=[(0.5, 1.25e8), (1.0, 1000.0)], throttles=[(0.0, [9.0])] * 5, lateness=0.0)
@example(rates=[(1.0, 1000.0), (1.0, 1.25e8), (0.1, 1000.0)], throttles=[(0.0, [9.0])] * 2, lateness=0.08)
def test_no_200_ms_carry_more_than_twice_the_rate(
    rates: list[tuple[float, float]], throttles: list[tuple[float, list[float]]], lateness: float
) -> None:
    """Whatever the throttles wish for (in pieces), whenever they come, while the rate changes and timers are late.

    Where the rate changes within the 200 ms, the higher one counts.
    """

    async def play() -> None:
        turns: list[tuple[float, float]] = []  # from when on, which rate
        async with site(configured(bandwidth=format_rate(rates[0][1])), LateClock(lateness)) as here:
            for number, (after, wishes) in enumerate(throttles):
                here.send(here.bandwidth.throttle(ROOT), number, wishing(wishes), after)
            for seconds, rate in rates:
                here.bandwidth.apply(configured(bandwidth=f"{rate * 8:.1f} bit/s"))
                turns.append((here.clock.monotonic(), rate))
                await here.clock.advance(seconds)
            log = here.traffic.log
            ends = [start for start, _ in turns[1:]] + [float("inf")]
            inside = first = 0
            for at, _, count in log:
                inside += count
                while log[first][0] < at - WINDOW - 1e-9:
                    inside -= log[first][2]
                    first += 1
                highest = max(
                    rate for (start, rate), end in zip(turns, ends, strict=True) if start <= at and end >= log[first][0]
                )
                assert inside <= 2 * WINDOW * highest

    asyncio.run(play())


@pytest.mark.parametrize("throttles", [4, 16])
@pytest.mark.parametrize("rate", ["8 kbit/s", "20 Mbit/s", "10 Gbit/s"])
async def test_throttles_share_evenly(rate: str, throttles: int) -> None:
    """Within a few per cent over ten seconds."""
    async with site(configured(bandwidth=rate), LateClock(0.01)) as here:
        here.workers(throttles)
        await here.clock.advance(10)
        even = parse_rate(rate) * 10 / throttles
        for number in range(throttles):
            assert here.traffic.between(0, 2000, number) == pytest.approx(even, rel=0.05)


def wish_for(count: int, _: UploadThrottle) -> int:
    """Always the same."""
    return count


async def test_throttles_share_bytes_and_not_grants() -> None:
    """An upload with small requests gets as many bytes; a later one begins with the others and gets no arrears."""
    async with site(configured(bandwidth="8 Mbit/s")) as here:
        for number, wish in enumerate((MUCH, 5000, 700, MUCH)):
            here.send(here.bandwidth.throttle(ROOT), number, partial(wish_for, wish), after=5.0 if number == 3 else 0.0)
        start = here.clock.monotonic()
        await here.clock.advance(15)
        early = [here.traffic.between(start, start + 5, number) for number in range(4)]
        late = [here.traffic.between(start + 5, start + 15, number) for number in range(4)]
        assert early == pytest.approx([5e6 / 3, 5e6 / 3, 5e6 / 3, 0], rel=0.05)
        assert late == pytest.approx([2.5e6] * 4, rel=0.05)


async def test_a_single_throttle_gets_the_whole_rate() -> None:
    """What other throttles do not ask for is not reserved for them."""
    async with site(configured(bandwidth="8 Mbit/s")) as here:
        idle_throttles = [here.bandwidth.throttle(ROOT) for _ in range(15)]
        here.workers(1)
        await here.clock.advance(10)
        assert here.traffic.between(0, 2000) == pytest.approx(1e7, rel=0.03)
        assert all(throttle.limited for throttle in idle_throttles)


async def test_without_a_limit_nothing_waits() -> None:
    """A request is granted whole and without a step of the event loop, even before the application runs."""
    async with site(configured()) as here:
        throttle = here.bandwidth.throttle(ROOT)
        taking = throttle.take(123_456_789)
        with pytest.raises(StopIteration) as answer:
            taking.send(None)
        assert answer.value.value == 123_456_789
        assert (throttle.limited, throttle.piece, here.clock.sleepers) == (False, LARGEST_GRANT, 0)


@pytest.mark.parametrize(
    ("rate", "piece"),
    [("8 kbit/s", 20), ("100 bit/s", 1), ("20 Mbit/s", 50_000), ("10 Gbit/s", LARGEST_GRANT)],
)
async def test_a_throttle_grants_a_fiftieth_of_a_second_at_a_time(rate: str, piece: int) -> None:
    """A throttle that asks for more gets as much."""
    async with site(configured(bandwidth=rate)) as here:
        throttle = here.bandwidth.throttle(ROOT)
        assert (throttle.limited, throttle.piece) == (True, piece)
        assert await throttle.take(MUCH * 2) == piece


async def test_a_request_for_zero_bytes_raises() -> None:
    """With a limit or without."""
    async with site(configured()) as here:
        with pytest.raises(ValueError, match="0 bytes"):
            await here.bandwidth.throttle(ROOT).take(0)


async def test_throttles_that_are_cancelled_leave_no_gap() -> None:
    """A cancelled throttle leaves the queue, and the others share the whole rate."""
    async with site(configured(bandwidth="8 kbit/s")) as here:
        tasks = here.workers(8)
        await here.clock.advance(0.3)
        for task in tasks[1:]:
            task.cancel()
        start = here.clock.monotonic()
        await here.clock.advance(10)
        assert here.traffic.between(start, start + 10, 0) == pytest.approx(10_000, rel=0.03)


async def test_a_grant_to_a_cancelled_throttle_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes did not go, so another throttle may have them at once."""
    async with site(configured(bandwidth="8 kbit/s")) as here:
        pacer = here.bandwidth._pacer
        first, second = (here.bandwidth.throttle(ROOT) for _ in range(2))
        assert await first.take(MUCH) == 20
        doomed = asyncio.ensure_future(second.take(MUCH))  # its turn is the next
        waiting = asyncio.ensure_future(first.take(MUCH))
        grant = pacer._grant

        def grant_and_cancel(waiter: _Waiter, now: float) -> None:
            grant(waiter, now)
            if waiter.throttle is second:
                doomed.cancel()

        monkeypatch.setattr(pacer, "_grant", grant_and_cancel)
        await here.clock.advance(GRANT_TIME)
        assert (doomed.cancelled(), waiting.done()) == (True, True)


async def test_a_grant_skips_a_throttle_that_is_being_cancelled() -> None:
    """Its task has not run since, and it is still in the queue."""
    async with site(configured(bandwidth="8 kbit/s")) as here:
        first, second = (here.bandwidth.throttle(ROOT) for _ in range(2))
        await first.take(MUCH)
        doomed = asyncio.ensure_future(second.take(MUCH))
        waiting = asyncio.ensure_future(first.take(MUCH))
        await idle()
        here.clock._pass(GRANT_TIME)
        doomed.cancel()
        here.bandwidth._pacer._serve(here.clock.monotonic())
        await idle()
        assert (doomed.cancelled(), waiting.done()) == (True, True)


async def test_cancelled_requests_cost_no_bytes() -> None:
    """A hundred of them leave nothing behind."""
    async with site(configured(bandwidth="8 kbit/s")) as here:
        throttle = here.bandwidth.throttle(ROOT)
        await throttle.take(MUCH)
        for _ in range(100):
            wish = asyncio.ensure_future(throttle.take(MUCH))
            await idle()
            wish.cancel()
        await idle()
        assert here.bandwidth._pacer._waiting == []
        start = here.clock.monotonic()
        wish = asyncio.ensure_future(throttle.take(MUCH))
        await here.clock.advance(GRANT_TIME)
        assert wish.done()
        assert here.clock.monotonic() == pytest.approx(start + GRANT_TIME)


async def test_waiting_throttles_cost_at_most_two_sleeps_a_grant() -> None:
    """Sixteen throttles do not each poll."""
    async with site(configured(bandwidth="8 kbit/s")) as here:
        here.workers(16)
        await here.clock.advance(10)
        pieces = len(here.traffic.log)
        assert pieces == pytest.approx(10 / GRANT_TIME, abs=2)
        assert next(here.clock._order) <= 2 * pieces + 2  # sleeps that were ever begun


def test_a_meter_makes_up_for_at_most_a_tenth_of_a_second() -> None:
    """What is older is lost, so that it cannot come all at once."""
    meter = Meter(1000.0, 0.0)
    meter.spend(20, 0.05)
    assert meter.wait(0.05) == 0.0
    meter.spend(20, 10.0)
    assert meter.wait(10.0) == 0.0
    meter.spend(100, 10.0)
    assert meter.wait(10.0) == pytest.approx(0.12 - CATCH_UP_TIME)


@given(
    before=st.floats(1, 1e9),
    after=st.floats(1, 1e9),
    spent=st.integers(1, 10**6),
    later=st.floats(0, 2000),
)
@example(before=1.0, after=17884689.0, spent=517, later=256.0)
def test_a_change_of_rate_adds_no_wait_and_no_credit(before: float, after: float, spent: int, later: float) -> None:
    """In seconds or bytes."""
    assume(before != after)
    meter = Meter(before, 0.0)
    meter.spend(spent, 0.0)
    wait = max(0.0, spent / before - later)
    meter.change(after, later)
    rounding = 2 * math.ulp(later + wait)  # of a moment on the clock, from which a short wait is computed
    assert meter.wait(later) <= min(wait, wait * before / after) * (1 + 1e-9) + rounding
    gained = -min(0.0, meter._due - later)
    assert gained <= CATCH_UP_TIME + 1e-9
    assert gained * after <= CATCH_UP_TIME * max(before, after) * (1 + 1e-9)


def test_a_new_limit_begins_without_credit_or_debt() -> None:
    """What went without a limit does not count."""
    meter = Meter(None, 0.0)
    meter.spend(10**9, 5.0)
    meter.give_back(10**9)
    assert meter.wait(5.0) == 0.0
    meter.change(1000.0, 9.0)
    meter.spend(50, 9.0)
    assert meter.wait(9.0) == pytest.approx(0.05)
    meter.change(None, 9.0)
    assert meter.wait(9.0) == 0.0
