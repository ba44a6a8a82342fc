"""What every test runs under: the same examples each time for property tests, one rule for what is quick, one option.

``--worlds few|some|full`` says how many simulated worlds are played (see ``simulation/amount.py``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Generator, Iterable
from types import SimpleNamespace
from typing import Any

import aioresponses.core
import pace
import pytest
import pytest_asyncio
from aiohttp import ClientResponse
from hypothesis import settings
from simulation.amount import AMOUNTS
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


guard = pace.Guard()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the command line say how many worlds are played, and where a process is killed."""
    parser.addoption("--worlds", choices=list(AMOUNTS), default="some", help="how many simulated worlds to play")
    parser.addoption(
        "--kill-seed", type=int, metavar="N", help="kill -9 at the moments of this seed, as a failure said"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is quick and what is slow, before ``-m`` chooses among it."""
    pace.mark(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let no test that counts as quick start a process."""
    guard.quick = item.get_closest_marker("quick") is not None
    try:
        return (yield)
    finally:
        guard.quick = False


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


def pytest_unconfigure(config: pytest.Config) -> None:
    """End with one line on what was skipped: how much, and what would let it run."""
    reporter: pytest.TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter is not None else []
    if reporter is not None and skipped:
        reporter.write_line(skips(report.longrepr[2] for report in skipped))


def skips(reasons: Iterable[str]) -> str:
    """Say how many tests were skipped, which packages are missing, and what this machine does not allow."""
    counted = Counter(reason.removeprefix("Skipped: ") for reason in reasons)
    packages = sorted({package for reason in counted for package in re.findall(r"apt install (\S+)", reason)})
    others = [f"{reason} ({number})" for reason, number in sorted(counted.items()) if "apt install" not in reason]
    parts = [f"to run them: apt install {' '.join(packages)}"] * bool(packages) + others
    return f"{counted.total()} skipped; {'; '.join(parts)}"
