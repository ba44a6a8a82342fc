"""Ages of what is saved with its time on the wall, whatever is done to that clock."""

from __future__ import annotations

import asyncio

from fakes import EPOCH, VirtualClock
from hypothesis import given
from hypothesis import strategies as st

from uploader.runtime.monotonic_age import MonotonicAges

SETTING = st.floats(-1e9, 1e9)
WAIT = st.floats(0, 1e6)


@given(ago=st.floats(-1e6, 1e6), moves=st.lists(st.tuples(WAIT, SETTING), max_size=10))
def test_an_age_grows_as_time_does_however_the_clock_is_set(ago: float, moves: list[tuple[float, float]]) -> None:
    """The first answer is by the wall, and never below zero; each later one is that and the time since."""

    async def play() -> None:
        clock = VirtualClock()
        ages = MonotonicAges(clock)
        age = ages.of("a", EPOCH - ago)
        assert abs(age - max(0.0, ago)) < 1e-3
        for wait, setting in moves:
            clock.set_wall(setting)
            await clock.advance(wait)
            age += wait
            assert abs(ages.of("a", EPOCH - ago) - age) < 1e-3

    asyncio.run(play())


def test_another_moment_is_another_age() -> None:
    """What happened anew under the same path begins anew; what is forgotten is measured anew."""
    clock = VirtualClock()
    ages = MonotonicAges(clock)
    assert (ages.of("a", EPOCH - 9), ages.of("b", EPOCH), ages.of("a", EPOCH - 5)) == (9, 0, 5)
    clock.set_wall(3600)
    assert ages.of("a", EPOCH - 5) == 5
    ages.forget("a")
    ages.forget("never there")
    assert ages.of("a", EPOCH - 5) == 3605
