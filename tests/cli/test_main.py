"""How the process ends: one line of error and the right exit code, also for errors inside of task groups."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from log_state import log_as_before
from structlog.testing import capture_logs

from uploader.__main__ import run
from uploader.app.application import Application
from uploader.app.daemon import Daemon
from uploader.domain import errors

CONFIG = """
[server]
url = "http://127.0.0.1:9"
username = "uploader"
[[watch]]
path = "{folder}/rec"
[state]
dir = "{folder}/state"
"""
DAMAGED = errors.StateUnusable("ledger.jsonl: line 3 cannot be read", hint="valt-uploader ledger --verify")
FULL = errors.StateUnusable("state.json cannot be written", exit_code=73)


@pytest.fixture(autouse=True)
def logging_is_kept() -> Iterator[None]:
    """A command sets up the log of its process, which is that of the tests here."""
    with log_as_before():
        yield


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A configuration of a folder without recordings."""
    (tmp_path / "rec").mkdir()
    path = tmp_path / "config.toml"
    path.write_text(CONFIG.format(folder=tmp_path), encoding="utf-8")
    monkeypatch.setenv("VALT_UPLOADER_PASSWORD", "canary-password")
    return str(path)


def fails_with(*faults: BaseException) -> Callable[..., object]:
    """Work whose tasks, two groups deep, raise these."""

    async def fail(fault: BaseException) -> None:
        raise fault

    async def work(*_: object, **__: object) -> None:
        async with asyncio.TaskGroup() as outer:
            outer.create_task(asyncio.sleep(0))
            async with asyncio.TaskGroup() as inner:
                for fault in faults:
                    inner.create_task(fail(fault))

    return work


@pytest.mark.parametrize(("command", "part"), [("run", (Daemon, "run")), ("once", (Application, "run_until_idle"))])
@pytest.mark.parametrize(
    ("faults", "code"),
    [((DAMAGED,), 78), ((FULL,), 73), ((ZeroDivisionError("a bug"), DAMAGED), 78), ((errors.NoRoom("full"),), 1)],
)
def test_a_group_of_exceptions_does_not_hide_the_exit_code(
    config: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    part: tuple[type[object], str],
    faults: tuple[Exception, ...],
    code: int,
) -> None:
    """78 keeps systemd from restarting the daemon, 1 does not; a known error comes before a bug beside it."""
    monkeypatch.setattr(*part, fails_with(*faults))
    assert run([command, "-c", config]) == code
    assert capsys.readouterr().err == f"error: {faults[-1]}\n"


@pytest.mark.parametrize("grouped", [False, True])
def test_an_unexpected_error_is_one_line_of_the_log(
    config: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], grouped: bool
) -> None:
    """Exit code 1 and no trace-back on the screen; the log has the error without the groups around it."""
    bug = ZeroDivisionError("a bug")

    async def work(*_: object) -> None:
        raise bug

    monkeypatch.setattr(Daemon, "run", fails_with(bug) if grouped else work)
    with capture_logs() as logged:
        assert run(["run", "-c", config]) == 1
    said = [entry for entry in logged if entry["log_level"] == "critical"]
    assert [(entry["event"], entry["exc_info"]) for entry in said] == [("uncaught exception", bug)]
    assert "Traceback" not in capsys.readouterr().err


def test_the_first_known_error_of_a_group_counts() -> None:
    """However deep it is nested; without one, the first error of all."""
    bug, other = ZeroDivisionError(), KeyError()
    assert errors.first_of(bug) is bug
    assert errors.first_of(ExceptionGroup("", [ExceptionGroup("", [bug, other])])) is bug
    nested = ExceptionGroup("", [bug, ExceptionGroup("", [other, DAMAGED]), FULL])
    assert errors.first_of(nested) is DAMAGED
