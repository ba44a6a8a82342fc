"""Disposal in simulated worlds: every crash point of removals and moves, on every kind of file system."""

from __future__ import annotations

import pytest

from simulation.folder import SYSTEMS
from simulation.plan import Plan
from simulation.run import Report, crash_points, run_all

SEEDS = 24  # of stormy worlds for each kind of disks; ``make simulate-long`` plays more of them, mixed


pytestmark = pytest.mark.slow  # every crash point, some thousand worlds


@pytest.mark.parametrize(
    ("after_upload", "disks"),
    [("delete", "one links"), ("delete", "one noreplace")] + [("move", disks) for disks in SYSTEMS],
)
def test_disposal_survives_every_crash_point(after_upload: str, disks: str, record_property: Report) -> None:
    """A kill or a power cut at each system call of a quiet world: no recording is lost, doubled or hidden."""
    figures = crash_points("append", at="disposal: ", after_upload=after_upload, disks=disks)
    record_property("simulation", figures.as_property())
    assert figures.worlds >= 2 * 2 * 3  # two files, by a kill and by a power cut, in three system calls at least
    assert figures.counts["kills"] == figures.worlds
    assert figures.counts["uploads finished"] >= 2 * figures.worlds


@pytest.mark.parametrize("disks", SYSTEMS)
def test_disposal_survives_recorders_that_take_names_at_any_moment(disks: str, record_property: Report) -> None:
    """Between any two system calls, beside failing shares and kills: no file is overwritten or left hidden."""
    plans = (Plan(seed, "append", after_upload=("move", "delete")[seed % 2], disks=disks) for seed in range(SEEDS))
    figures = run_all(plans)
    record_property("simulation", figures.as_property())
    assert figures.worlds == SEEDS
