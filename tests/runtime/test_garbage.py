"""Full garbage collections stay short, however much is in memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator

import pytest

from uploader.runtime.garbage import ShortCollections


@pytest.fixture(autouse=True)
def unfrozen() -> Iterator[None]:
    """Let later tests collect everything again."""
    gc.unfreeze()
    gc.collect()
    yield
    gc.unfreeze()


def clock_of(*steps: float) -> Callable[[], float]:
    """Return a clock that goes on by each of *steps* seconds in turn, from call to call."""
    times = iter(steps)
    now = 0.0

    def monotonic() -> float:
        nonlocal now
        now += next(times)
        return now

    return monotonic


@pytest.mark.parametrize(("seconds", "frozen"), [(0.019, False), (0.021, True)])
def test_what_survived_a_long_full_collection_is_not_visited_again(seconds: float, frozen: bool) -> None:
    """A short one changes nothing."""
    before = gc.get_freeze_count()
    with ShortCollections(clock_of(0.0, seconds)):
        gc.collect()
    assert (gc.get_freeze_count() > before) == frozen


def test_partial_collections_are_not_timed() -> None:
    """They visit new objects only; the clock is not even asked."""
    before = gc.get_freeze_count()
    with ShortCollections(clock_of()):
        gc.collect(0)
        gc.collect(1)
    assert gc.get_freeze_count() == before


def test_what_is_no_longer_used_is_freed_though_it_is_not_visited() -> None:
    """A value without a cycle needs no collection."""
    freed: list[int] = []

    class Value:
        def __del__(self) -> None:
            freed.append(1)

    value = Value()
    with ShortCollections(clock_of(0.0, 1.0)):
        gc.collect()
    del value
    assert freed == [1]
