"""Small worlds with an operator, who gives commands at every act, besides all other faults."""

from __future__ import annotations

import pytest

from simulation.amount import AMOUNTS, Amount
from simulation.commands import TRIED_AT_EACH_ACT
from simulation.kernel import Loop, Stuck
from simulation.plan import Plan
from simulation.run import KINDS, Found, Report, command, command_points, explore, found_once, play, simulated
from simulation.test_simulation import Now


@pytest.fixture
def amount(request: pytest.FixtureRequest) -> Amount:
    """How many worlds ``--worlds`` asks for."""
    return AMOUNTS[request.config.getoption("--worlds")]


@pytest.mark.parametrize("kind", KINDS)
def test_commands_at_any_time_lose_and_double_nothing(kind: str, amount: Amount, record_property: Report) -> None:
    """Up to six commands in each world of crashes and faults: each holds from its answer on."""
    figures = explore(kind, range(amount.operator_seeds), operator=True)
    assert figures.counts["commands"] > 2 * amount.operator_seeds
    assert figures.counts["uploads finished"] > amount.operator_seeds
    record_property("simulation", figures.as_property())


@pytest.mark.parametrize("kind", KINDS)
def test_a_command_at_any_act_holds_from_its_answer_on(kind: str, amount: Amount, record_property: Report) -> None:
    """At the acts of a quiet world: alone, with a crash later, and while the process is stopped."""
    part = 1 / amount.one_command_in
    figures = command_points(kind, TRIED_AT_EACH_ACT, workers=1 + KINDS.index(kind) % 2, sample=part)
    assert figures.worlds > 5700 * part
    record_property("simulation", figures.as_property())


@pytest.mark.parametrize("plan", found_once(operator=True), ids=command)
def test_faults_found_by_commands_stay_fixed(plan: Plan) -> None:
    """Worlds in which a command did not hold before."""
    with simulated():
        play(plan)


def test_a_step_that_never_ends_is_found() -> None:
    """A task that loops without waiting blocks the event loop: its process is ended, and the failure says so."""

    async def in_circles() -> None:
        while True:
            pass

    with simulated(), pytest.raises(Stuck, match="one step went round in circles"):
        Loop(Now(), 1000).live(in_circles())


def _outcome(plan: Plan) -> str:
    try:
        return play(plan)[1]
    except Found as found:
        return str(found)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_commands(kind: str) -> None:
    """Every command at the same act, with the same answer (I12)."""
    with simulated():
        for seed in range(4):
            plan = Plan(seed, kind, operator=True)
            assert _outcome(plan) == _outcome(plan)
