"""Both implementations of the server's port keep its contract: the VALT client, and the one of the simulated worlds."""

from __future__ import annotations

from pathlib import Path

import port_failures
import port_scenarios
import pytest
from port_bench import Scenario
from port_benches import in_a_world, over_loopback

scenarios = pytest.mark.parametrize("scenario", [*port_scenarios.SCENARIOS, *port_failures.SCENARIOS], ids=str)


@scenarios
async def test_the_valt_client_over_the_loopback(scenario: Scenario, tmp_path: Path) -> None:
    """It keeps the contract before the built-in server."""
    async with over_loopback(tmp_path, scenario.semantics) as bench:
        await scenario.play(bench)


@scenarios
def test_the_server_of_the_simulated_worlds(scenario: Scenario) -> None:
    """What the worlds prove of the stages holds for the product only if their server keeps the same contract."""
    in_a_world(scenario.play, scenario.semantics)
