"""The time since a saved moment, whatever is done to the wall clock."""

from __future__ import annotations

import asyncio

from fakes import EPOCH, VirtualClock
from hypothesis import given
from hypothesis import strategies as st

from uploader.runtime.monotonic_age import MonotonicAges

SETTING = st.floats(-1e9, 1e9)
WAIT = st.floats(0, 1e6)


@given(ago=st.floats(-1e6, 1e6), moves=st.lists(st.tuples(WAIT, SETTING), max_size=10))
def test_the_age_grows_with_the_monotonic_clock(ago: float, moves: list[tuple[float, float]]) -> None:
    """The first answer uses the wall clock and is not negative; later ones add the monotonic time since."""

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


def test_another_moment_is_measured_anew() -> None:
    """A new moment under the same path starts again, and so does one that was forgotten."""
    clock = VirtualClock()
    ages = MonotonicAges(clock)
    assert (ages.of("a", EPOCH - 9), ages.of("b", EPOCH), ages.of("a", EPOCH - 5)) == (9, 0, 5)
    clock.set_wall(3600)
    assert ages.of("a", EPOCH - 5) == 5
    ages.forget("a")
    ages.forget("never there")
    assert ages.of("a", EPOCH - 5) == 3605
