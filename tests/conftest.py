"""What every test runs under: property tests take the same examples each time, and no time limit but pytest's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from types import SimpleNamespace
from typing import Any

import aioresponses.core
import pytest
import pytest_asyncio
from aiohttp import ClientResponse
from hypothesis import settings
from simulation.run import Figures, Report
from tally import Tally
from warm import Warm, warmed

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, max_examples=80)
settings.load_profile("repeatable")


class _MockedResponse(ClientResponse):
    """The answer that aioresponses makes up: 0.7.9 does not know an argument that aiohttp 3.14 wants."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **{"stream_writer": SimpleNamespace(output_size=0)} | more)


aioresponses.core.ClientResponse = _MockedResponse  # type: ignore[attr-defined]  # the name it looks up


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def warm() -> AsyncIterator[Warm]:
    """Processes of the program that start quickly; the tests of the module must share its event loop."""
    async with warmed() as warm:
        yield warm


@pytest.fixture
def tally(record_property: Report) -> Tally:
    """Count what a test of faults does, for the end of the run."""
    counted = Tally()
    record_property("faults", counted)
    return counted


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let what a test wrote and counted travel between the processes of a run: odd names and plain values alone do."""
    report = yield
    report.user_properties = [
        (name, dict(value) if isinstance(value, Tally) else value) for name, value in report.user_properties
    ]
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what the product has been through, simulated and in truth, over all processes of the run."""
    passed = terminalreporter.stats.get("passed", [])
    parts: dict[str, type[Figures | Tally]] = {"simulation": Figures, "faults": Tally}
    for part, kind in parts.items():
        found = [value for report in passed for name, value in report.user_properties if name == part]
        if found:
            terminalreporter.write_sep("-", part)
            terminalreporter.write_line(str(kind.sum_of(found)))
