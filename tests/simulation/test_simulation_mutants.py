"""The product broken on purpose, rule by rule: a simulation that does not notice it proves nothing."""

from __future__ import annotations

import pytest

from simulation import operator_mutants
from simulation.mutants import MUTANTS, Mutant, hunt
from simulation.run import play, simulated

pytestmark = pytest.mark.slow  # whole worlds, until one of them notices


@pytest.mark.parametrize("mutant", [*MUTANTS, *operator_mutants.MUTANTS], ids=lambda mutant: mutant.name)
def test_a_broken_rule_is_found(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the expected failure; and the world that finds it succeeds with the product as it is."""
    said, plan = hunt(mutant, monkeypatch)
    assert "make simulate PLAN=" in said
    monkeypatch.undo()
    with simulated():
        play(plan)
