"""Small worlds around a server that answers 413 to larger chunks than it likes."""

from __future__ import annotations

import pytest
from simulation.run import Report, crash_points, explore

KIND = "limited"
BATCHES = 2
SEEDS = 500  # of a batch


def test_no_crash_point_loses_or_doubles_a_file(record_property: Report) -> None:
    """A kill, or a power cut, at every point of two uploads: each file ends as one record with equal bytes."""
    record_property("simulation", crash_points(KIND).as_property())


@pytest.mark.parametrize("batch", range(BATCHES))
def test_nothing_lost_nothing_twice_nobody_let_in(batch: int, record_property: Report) -> None:
    """Up to three crashes, a fault in every fourth request, files that change, clocks that are set: all holds."""
    figures = explore(KIND, range(batch * SEEDS, (batch + 1) * SEEDS))
    assert figures.counts["uploads finished"] > SEEDS
    record_property("simulation", figures.as_property())
