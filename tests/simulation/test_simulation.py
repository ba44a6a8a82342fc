"""The simulation itself: a seed always gives the same world, a kill is realistic, and faults once found stay fixed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from simulation.disk import STATE, Disk, Folder, Inode, install, uninstall
from simulation.kernel import NEVER, Dead, Loop, Stuck
from simulation.plan import Plan
from simulation.run import KINDS, QUIET, Found, command, found_once, play, simulated
from uploader.runtime import clock as product_clock


class Now:
    """A world in which nothing happens."""

    def __init__(self, kill_at: int = 1 << 60) -> None:
        self.now, self.steps, self.kill_at, self.life = 0.0, 0, kill_at, 0
        self.acts: list[str] = []

    def chance(self) -> float:
        """Roll nothing."""
        return 0.0

    def kill(self) -> None:
        """Kill."""
        self.life += 1

    def next_event(self) -> float:
        """Never."""
        return NEVER

    def let_events_happen(self) -> None:
        """Do nothing."""

    def at_rest(self) -> None:
        """Do nothing."""

    def act(self, life: int, what: str) -> None:
        """Note an act of the living."""
        if life != self.life:
            raise Dead
        self.acts.append(what)

    def disk_refuses(self) -> bool:
        """Never."""
        return False

    def fail(self, what: str) -> Any:
        """Fail."""
        raise AssertionError(what)


async def test_virtual_time_passes_only_when_no_task_can_run() -> None:
    """A day of waiting takes a moment and ends at its time; an earlier time-out ends first."""
    time = Now()

    async def wait() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3600):
                await asyncio.Event().wait()
        await asyncio.sleep(86400 - 3600)
        return asyncio.get_running_loop().time()

    assert Loop(time, 1000).live(wait()) == 86400


async def test_deadlocks_and_endless_loops_are_found() -> None:
    """A task that waits for ever, and one that never waits."""

    async def for_ever() -> None:
        await asyncio.Event().wait()

    async def in_circles() -> None:
        while True:  # noqa: ASYNC110 - that is the point
            await asyncio.sleep(0)

    with pytest.raises(Stuck, match="nothing will ever wake"):
        Loop(Now(), 1000).live(for_ever())
    with pytest.raises(Stuck, match="round in circles"):
        Loop(Now(), 1000).live(in_circles())


async def test_a_kill_is_no_cancellation() -> None:
    """Clean-up code of a killed process runs without any effect; no task is cancelled."""
    time, learnt = Now(kill_at=3), []

    async def work() -> None:
        life = time.life
        try:
            while True:  # noqa: ASYNC110 - it waits for nothing but its end
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            learnt.append("cancelled")
            raise
        finally:
            learnt.append("clean-up")
            time.act(life, "a farewell to the world")

    with pytest.raises(Dead):
        Loop(time, 1000).live(work())
    assert learnt == ["clean-up"]
    assert time.acts == []


def _disk_with(*, synced: bool) -> Disk:
    disk = Disk(Now())
    install()
    try:
        folder = Folder(disk)
        folder.replace(STATE, b"first")
        disk.promised = None  # what follows is about the platter alone
        disk.set_name("new", Inode(b"new", b"new" if synced else b""))
    finally:
        uninstall()
    return disk


async def test_a_power_cut_keeps_what_was_synced_and_a_prefix_of_the_rest() -> None:
    """A name that was not synced in the folder is lost with its bytes; confirmed data stays."""
    disk = _disk_with(synced=True)
    disk.lose_power()
    assert list(disk.names) == [STATE]
    assert disk.names[STATE].data == b"first"


async def test_bytes_that_were_not_synced_may_be_missing_though_their_name_is_there() -> None:
    """A file with a durable name and unsynced bytes may be empty or full of NULs after the cut."""
    disk = _disk_with(synced=False)
    disk.sync_names()
    disk.lose_power()
    assert disk.names["new"].data == bytes(3)


@pytest.mark.parametrize("kind", KINDS)
async def test_the_same_seed_gives_the_same_world(kind: str) -> None:
    """Every act at the same time, in the same order (I12)."""
    with simulated():
        for seed in range(6):
            assert play(Plan(seed, kind))[1] == play(Plan(seed, kind))[1]


async def test_the_same_seed_gives_the_same_world_in_another_process() -> None:
    """Addresses and Python's hash seed have no influence, so a seed can be replayed anywhere."""
    plan = '{"seed": 5, "kind": "append", "faults": 0.5}'
    marks = set()
    for hashes in ("1", "2"):
        environ = os.environ | {"PYTHONHASHSEED": hashes, "PYTHONPATH": str(Path(__file__).parents[1])}
        command_line = [sys.executable, "-m", "simulation", "--plan", plan]
        done = await asyncio.to_thread(subprocess.run, command_line, env=environ, capture_output=True, check=True)
        marks.add(done.stdout)
    assert len(marks) == 1


async def test_a_long_run_ends_with_its_figures() -> None:
    """The command behind ``make simulate-long`` plays worlds in several processes, and says how many."""
    environ = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command_line = [sys.executable, "-m", "simulation", "--seeds", "0", "2", "--kind", "offset", "--jobs", "1"]
    done = await asyncio.to_thread(
        subprocess.run, command_line, env=environ, capture_output=True, check=True, timeout=100, text=True
    )
    assert "2 worlds" in done.stdout


async def test_a_failure_says_how_to_replay_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text ends with the command that plays its world."""
    plan = Plan(3, "strict", kills=(50, 80), faults=0.5)
    assert command(plan) == ('make simulate PLAN=\'{"seed": 3, "kind": "strict", "kills": [50, 80], "faults": 0.5}\'')
    monkeypatch.setattr("simulation.world.check_end", lambda world: world.nothing)
    with simulated(), pytest.raises(Found, match="make simulate PLAN="):
        play(QUIET)


async def test_worlds_do_not_read_the_machine_s_clock() -> None:
    """While worlds run, only virtual time is used."""

    class Broken(product_clock.SystemClock):
        def monotonic(self) -> float:
            raise AssertionError("a world has a clock of its own")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product_clock, "SystemClock", Broken)
        patch.setattr("time.time", Broken.monotonic)
        with simulated():
            play(QUIET)


@pytest.mark.parametrize("plan", found_once(operator=False), ids=command)
async def test_faults_found_once_stay_fixed(plan: Plan) -> None:
    """Worlds that have shown a fault of the product before."""
    with simulated():
        play(plan)
