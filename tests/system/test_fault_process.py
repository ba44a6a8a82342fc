"""The process and the system: which system calls it makes, and how it ends when a share or disk hangs."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
from pathlib import Path

import pytest
from failpoints import Plan
from machine import needs, strace
from process import COMMAND, PROCESS_TIMEOUT, at_work, sha256, until
from test_daemon import Supervisor
from warm import Warm

pytestmark = pytest.mark.asyncio(loop_scope="module")  # all of them share what ``warm`` has imported

SIGNS_OF_LIFE = 0.1  # s between two of them
UNIT = Path(__file__).parents[2] / "systemd" / "valt-uploader.service"


def allowed_calls() -> set[str]:
    """The system calls that the unit's filter lets through, by what this machine's systemd understands of it."""
    listed = subprocess.run(
        [needs("systemd-analyze", "systemd"), "syscall-filter"], capture_output=True, text=True, check=True, timeout=30
    )
    groups: dict[str, list[str]] = {}
    for line in listed.stdout.splitlines():
        if line.startswith("@"):
            group = groups.setdefault(line.strip(), [])
        elif line.startswith("    ") and not line.strip().startswith("#"):
            group.append(line.strip())

    def calls(name: str) -> set[str]:
        return set().union(*map(calls, groups[name])) if name in groups else {name}

    allowed: set[str] = set()
    for value in re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text(), re.MULTILINE):
        named = set().union(*map(calls, value.removeprefix("~").split()))
        allowed = allowed - named if value.startswith("~") else allowed | named
    return allowed


async def test_the_daemon_needs_no_more_than_the_unit_allows(tmp_path: Path) -> None:
    """Each system call, kind of socket and mapping of its usual work, as traced."""
    trace, moved = tmp_path / "trace", tmp_path / "moved"
    allowed, text = allowed_calls(), UNIT.read_text()
    async with at_work(tmp_path, watch=f'after_upload = "move"\nmove_to = "{moved}"') as site:
        file = site.record("a.mp4")
        daemon = await site.start("run", program=(strace(), "-D", "-f", "-qq", "-o", str(trace), *COMMAND))
        await daemon.event("upload-finished", path=str(file))
        assert (await site.run("status")).code == 0
        daemon.send(signal.SIGHUP)
        await daemon.event("config-reloaded")
        await daemon.stop()
    told = trace.read_text("utf-8", "replace")
    asked = set(re.findall(r"^\d+ +(?:<\.\.\. )?(\w+)(?:\(| resumed)", told, re.MULTILINE))
    assert "fsync" in asked
    assert asked - allowed - {"execve"} == set()  # which systemd itself needs in order to start it
    families = set(re.findall(r" socket(?:pair)?\((AF_\w+)", told))
    allowed_families = re.findall("^RestrictAddressFamilies=(.*)$", text, re.MULTILINE)[0].split()
    assert families <= set(allowed_families)
    assert [line for line in told.splitlines() if "PROT_WRITE|PROT_EXEC" in line] == []


async def test_sigterm_does_not_wait_for_a_hung_share(tmp_path: Path, warm: Warm) -> None:
    """A call into a share never returns: the other folder is served, and the process ends with exit 0."""
    other = tmp_path / "other"
    more = f'[[watch]]\npath = "{other}"\nsettle = "100ms"\nrescan = "300ms"\n'
    async with at_work(tmp_path, upload='drain = "500ms"', more=more) as site:
        other.mkdir()
        site.record("hangs.mp4", 1000)
        daemon = await warm.start(site, "run", plan=Plan(hang="open hangs.mp4"))
        await until(lambda: bool(daemon.events("file-found")), "the file is found")
        site.record("a.mp4", 1000).rename(other / "a.mp4")
        await until(lambda: bool(daemon.events("upload-finished")), "the other folder's file is sent")
        daemon.send(signal.SIGTERM)
        ended = await daemon.end()
        assert (ended.code, "Traceback" in ended.err) == (0, False)
        assert [record.sha256 for record in site.simulator.records()] == [sha256(other / "a.mp4")]


async def silence(supervisor: Supervisor) -> None:
    """Return when nothing was heard for ten times as long as signs of life are apart."""
    async with asyncio.timeout(PROCESS_TIMEOUT):
        while True:
            try:
                async with asyncio.timeout(10 * SIGNS_OF_LIFE):
                    await asyncio.get_running_loop().sock_recv(supervisor.socket, 65_536)
            except TimeoutError:
                return


async def test_a_hung_event_loop_feeds_no_watchdog(tmp_path: Path, warm: Warm) -> None:
    """The messages come from the loop itself, so they end with it, and systemd restarts the daemon."""
    supervisor = Supervisor(tmp_path / "notify")
    with supervisor.socket:
        async with at_work(tmp_path) as site:
            site.environ |= supervisor.environ | {"WATCHDOG_USEC": str(int(2e6 * SIGNS_OF_LIFE))}
            daemon = await warm.start(site, "run", plan=Plan(hang="details: before"))
            await supervisor.hears("WATCHDOG=1")
            site.record("a.mp4", 1000)
            await silence(supervisor)
            assert [call.name for call in site.simulator.calls][-1] == "upload"  # what hangs is the call after it
            assert not daemon.ended.done()
            daemon.send(signal.SIGKILL)
            await daemon.end()
    assert_restarted()


async def test_a_hung_state_disk_feeds_no_watchdog(tmp_path: Path, warm: Warm) -> None:
    """No state can be saved, and a restart may find the disk back: the reason is logged first."""
    supervisor = Supervisor(tmp_path / "notify")
    with supervisor.socket:
        async with at_work(tmp_path) as site:
            site.environ |= supervisor.environ | {"WATCHDOG_USEC": str(int(2e6 * SIGNS_OF_LIFE))}
            plan = Plan(hang="save creating: written", answer=10 * SIGNS_OF_LIFE)
            daemon = await warm.start(site, "run", plan=plan)
            site.record("a.mp4", 1000)
            line = await supervisor.hears(f"STATUS={site.state}/state.json: the disk does not answer: check the disk")
            assert line.endswith(", 1 creating; 0 done")
            await silence(supervisor)
            assert len(daemon.events("state-not-saved")) == 1
            assert not daemon.ended.done()
            assert (await warm.run(site, "status")).code == 0  # its event loop is well
            daemon.send(signal.SIGKILL)
            await daemon.end()
    assert_restarted()


def assert_restarted() -> None:
    """The unit has a watchdog, and starts the daemon anew when it is not fed."""
    told = UNIT.read_text().splitlines()
    assert "Restart=on-failure" in told
    assert any(line.startswith("WatchdogSec=") for line in told)
