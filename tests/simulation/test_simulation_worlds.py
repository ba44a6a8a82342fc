"""Small worlds around a server of each kind: in every one of them nothing is lost, doubled or shown to strangers.

How many are played: ``simulation/amount.py``.
"""

from __future__ import annotations

import pytest

from simulation.amount import AMOUNTS
from simulation.run import KINDS, Report, crash_points, explore, sample


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make as many tests as ``--worlds`` asks for."""
    amount = AMOUNTS[metafunc.config.getoption("--worlds")]
    if "seeds" in metafunc.fixturenames:
        batches = list(amount.batches())
        ids = [f"{kind}-{seeds.start}-{seeds.stop}" for kind, seeds in batches]
        metafunc.parametrize(("kind", "seeds"), batches, ids=ids)
    elif {"kind", "one_in"} <= set(metafunc.fixturenames):
        metafunc.parametrize(("kind", "one_in"), amount.one_crash_point_in.items())


def test_no_crash_point_loses_or_doubles_a_file(kind: str, one_in: int, record_property: Report) -> None:
    """A kill or a power cut during two uploads: each file ends as one record with equal bytes."""
    figures = crash_points(kind, one_in=one_in)
    assert 0 < figures.worlds // 2 <= figures.crash_points
    record_property("simulation", figures.as_property())


def test_no_world_loses_or_doubles_a_file_or_shows_a_secret(kind: str, seeds: range, record_property: Report) -> None:
    """Up to three crashes, a fault in every fourth request, files that change, clocks that are set."""
    figures = explore(kind, seeds)
    assert figures.worlds == len(seeds)
    assert figures.counts["uploads finished"] > len(seeds)
    record_property("simulation", figures.as_property())


@pytest.mark.parametrize("operator", [False, True])
@pytest.mark.parametrize("kind", ["offset", "append", "whole", "last"])
def test_records_without_a_name_lose_and_double_nothing(kind: str, operator: bool, record_property: Report) -> None:
    """A server that makes records by GET alone: each gets its name afterwards, and what is left over is found."""
    figures = explore(kind, range(25), create="get", operator=operator)
    assert figures.counts["uploads finished"] > 25
    record_property("simulation", figures.as_property())


@pytest.mark.parametrize("at", ["create-upload", "update", "answer"])
def test_no_crash_point_of_a_record_without_a_name_loses_or_doubles_a_file(at: str, record_property: Report) -> None:
    """Between the intent, the GET, its answer, and the name."""
    figures = crash_points("offset", create="get", at=at, one_in=1 if at != "answer" else 4)
    assert figures.worlds > 0
    record_property("simulation", figures.as_property())


def test_full_is_twenty_thousand_seeds_and_every_crash_point() -> None:
    """As for a release; every smaller amount is a part of it, with every kind of server."""
    full = AMOUNTS["full"]
    assert sum(full.seeds.values()) == 20_000
    assert full.one_crash_point_in == dict.fromkeys(KINDS, 1)
    for amount in AMOUNTS.values():
        assert set(amount.seeds) == set(KINDS)
        assert all(0 < seeds <= full.seeds[kind] for kind, seeds in amount.seeds.items())
        assert set(amount.one_crash_point_in) <= set(KINDS)
        assert 0 < amount.operator_seeds <= full.operator_seeds
        assert amount.one_command_in >= full.one_command_in
        for kind in KINDS:
            played = [seed for named, seeds in amount.batches() if named == kind for seed in seeds]
            assert played == list(range(amount.seeds[kind]))


@pytest.mark.parametrize("one_in", range(1, len(KINDS) + 1))
def test_the_crash_points_that_one_kind_leaves_out_are_played_by_another(one_in: int) -> None:
    """A sample takes other acts for each kind of server, so that together they play all of them."""
    acts = range(100)
    played = [sample(acts, kind, one_in) for kind in KINDS]
    assert {act for acts_of_kind in played for act in acts_of_kind} == set(acts)
    assert all(len(acts_of_kind) <= 100 // one_in + 1 for acts_of_kind in played)
