"""Sets up every test run: repeatable property tests, the marks ``quick`` and ``slow``, and two options.

``--worlds few|some|full`` says how many simulated worlds are played (see ``simulation/amount.py``). With ``few``,
property tests try fewer examples, too.
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
from fault_stats import FaultStats
from hypothesis import settings
from simulation.amount import AMOUNTS
from simulation.run import Figures, Report
from warm import Warm, warmed

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, max_examples=60)
settings.register_profile("few", settings.get_profile("repeatable"), max_examples=15)
settings.load_profile("repeatable")


class _MockedResponse(ClientResponse):
    """A response of aioresponses with the argument that aiohttp 3.14 requires and aioresponses 0.7.9 omits."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **{"stream_writer": SimpleNamespace(output_size=0)} | more)


aioresponses.core.ClientResponse = _MockedResponse  # type: ignore[attr-defined]  # the name it looks up


guard = pace.Guard()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add options for how many worlds are played and at which moments a process is killed."""
    parser.addoption("--worlds", choices=list(AMOUNTS), default="some", help="how many simulated worlds to play")
    parser.addoption(
        "--kill-seed", type=int, metavar="N", help="kill -9 at the moments of this seed, as a failure said"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Try fewer examples of each property together with few worlds. Runs before the tests are imported."""
    if config.getoption("--worlds") == "few":
        settings.load_profile("few")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test quick or slow before ``-m`` selects by these marks."""
    pace.mark(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Fail a test that is marked quick and starts a process."""
    guard.quick = item.get_closest_marker("quick") is not None
    try:
        return (yield)
    finally:
        guard.quick = False


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def warm() -> AsyncIterator[Warm]:
    """Start processes of the program quickly; the tests of the module must share its event loop."""
    async with warmed() as warm:
        yield warm


@pytest.fixture
def stats(record_property: Report) -> FaultStats:
    """Count what a test of faults does; the totals are printed at the end of the run."""
    counted = FaultStats()
    record_property("faults", counted)
    return counted


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make what a test wrote and counted fit for transport between the processes of a run: plain dicts, valid UTF-8."""
    report = yield
    report.user_properties = [
        (name, dict(value) if isinstance(value, FaultStats) else value) for name, value in report.user_properties
    ]
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the totals of all processes of the run: simulated worlds, and faults in real processes."""
    passed = terminalreporter.stats.get("passed", [])
    parts: dict[str, type[Figures | FaultStats]] = {"simulation": Figures, "faults": FaultStats}
    for part, kind in parts.items():
        found = [value for report in passed for name, value in report.user_properties if name == part]
        if found:
            terminalreporter.write_sep("-", part)
            terminalreporter.write_line(str(kind.sum_of(found)))


def pytest_unconfigure(config: pytest.Config) -> None:
    """End with one line about skipped tests: how many, and what to install so that they run."""
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
