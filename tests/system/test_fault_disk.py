"""A state disk that is full, broken or read-only: the saved state stays valid; nothing new begins until it works."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import signal
from datetime import datetime
from pathlib import Path

import pytest
from failpoints import Plan
from fault_stats import FaultStats
from machine import in_mount_namespace, strace
from process import COMMAND, POLL_INTERVAL, PROCESS_TIMEOUT, Process, Site, at_work, sha256, until
from warm import Running, Warm, place

from uploader.app.application import FINAL_SAVE_TIMEOUT
from uploader.domain import errors
from uploader.store.codec import decode_state
from uploader.store.disk import StateFolder
from uploader.store.store import STORE_CLOSE_TIMEOUT
from uploader.testing.simulator import Fault

pytestmark = pytest.mark.asyncio(loop_scope="module")  # all of them share what ``warm`` has imported

CALLS = (
    "open state.json.tmp",
    "write state.json.tmp",
    "fsync state.json.tmp",
    "rename state.json.1",
    "rename state.json",
    "fsync state",
    "open ledger.jsonl",
    "write ledger.jsonl",
    "fsync ledger.jsonl",
)
REFUSALS_OF = {
    "ENOSPC": CALLS,
    "EIO": tuple(call for call in CALLS if call.startswith("fsync")),
    "EROFS": tuple(call for call in CALLS if call.startswith("open")),
}
SKIP = {"state.json.tmp": 2, "state.json.1": 1, "state.json": 2, "state": 2, "ledger.jsonl": 0}  # the intent's save
REFUSALS = 2
SLACK = 5.0  # s that a machine which is busy otherwise may add


# Each call, each error


async def refused_at(call: str, error: str, folder: Path, warm: Warm, stats: FaultStats) -> str:
    """Send two files over a disk that refuses *call* twice; say what went wrong, if anything."""
    async with at_work(folder) as site:
        files = [site.record(name) for name in ("a.mp4", "b.mp4")]
        plan = Plan(fail=call, error=error, skip=SKIP[call.split()[1]], times=REFUSALS, save_again=0.1)
        ended = await warm.run(site, "once", plan=plan)
        stats["disk refusals"] += ended.err.count('"state-not-saved"')
        stats.count_arrivals(site, map(sha256, files))
        if ended.code != 0:
            return f"exit {ended.code}: {ended.err}"
        if sorted(record.sha256 or "" for record in site.simulator.records()) != sorted(map(sha256, files)):
            return f"the server holds {site.simulator.records()}"
        if len(site.ledger()) != 2 or site.stored()["uploads"]:
            return f"left behind: {site.ledger()}, {site.stored()}"
        told = [line for line in ended.err.splitlines() if '"state-not-saved"' in line and "make room" in line]
        if len(told) != REFUSALS or ended.err.count('"state-saved"') != 1:
            return f"said {len(told)} times: {ended.err}"
    return ""


@pytest.mark.parametrize("error", REFUSALS_OF)
async def test_a_disk_that_refuses_for_a_while_loses_nothing(
    tmp_path: Path, warm: Warm, stats: FaultStats, error: str
) -> None:
    """Whichever call fails: each failure is reported, and the call is repeated on a new descriptor."""
    calls = REFUSALS_OF[error]
    found = await asyncio.gather(
        *(refused_at(call, error, place(tmp_path, number), warm, stats) for number, call in enumerate(calls))
    )
    assert {call: what for call, what in zip(calls, found, strict=True) if what} == {}


async def test_nothing_begins_before_its_intent_is_saved(tmp_path: Path, warm: Warm, stats: FaultStats) -> None:
    """The record is requested after the save of its intent has succeeded."""
    async with at_work(tmp_path, probed=False, server='probe = "never"') as site:
        site.record("a.mp4")
        plan = Plan(fail="fsync state.json.tmp", error="EIO", skip=SKIP["state.json.tmp"], times=3, save_again=0.1)
        daemon = await warm.start(site, "once", plan=plan)
        assert (await daemon.end()).code == 0
        stats["disk refusals"] += len(daemon.events("state-not-saved"))
        (saved,) = daemon.events("state-saved")
        assert saved["after"] >= 0.3
        (create,) = [call for call in site.simulator.calls if call.name == "create"]
        assert create.at >= datetime.fromisoformat(saved["time"]).timestamp() - 0.01


async def test_a_first_start_that_cannot_save_ends(tmp_path: Path, warm: Warm, stats: FaultStats) -> None:
    """Exit 73: it never runs without a saved state, and the server is not called."""
    async with at_work(tmp_path, probed=False) as site:
        site.record("a.mp4")
        ended = await warm.run(site, "run", plan=Plan(fail="write state.json.tmp", error="ENOSPC", times=99))
        assert ended.code == 73
        assert ended.complaints == [
            f"error: {site.state}/state.json cannot be written: No space left on device; make the state folder writable"
        ]
        assert not site.simulator.calls
        stats["disk refusals"] += 1


async def test_sigterm_ends_a_daemon_whose_disk_is_full(tmp_path: Path, warm: Warm, stats: FaultStats) -> None:
    """Within ``drain``, exit 0: what had to be saved before an act is on disk, or the act was not begun."""
    async with at_work(tmp_path, upload='drain = "300ms"') as site:
        file = site.record("a.mp4")
        plan = Plan(fail="write state.json.tmp", error="ENOSPC", skip=4, times=10_000, save_again=0.1)
        daemon = await warm.start(site, "run", plan=plan)
        await until(lambda: bool(daemon.events("state-not-saved")), "the disk is full")
        daemon.send(signal.SIGTERM)
        assert (await daemon.end()).code == 0
        stats["disk refusals"] += len(daemon.events("state-not-saved"))
        assert (await warm.run(site, "once")).code == 0
        (record,) = site.simulator.records()
        assert record.sha256 == sha256(file)


# A disk that hangs

HUNG = (  # in the save of the intent, in the line of the finished upload
    *(f"save creating: {step}" for step in ("begun", "written", "named", "durable")),
    *(f"ledger: {step}" for step in ("begun", "written")),
)
FSYNC = HUNG[1]  # where it begins
SILENT = "the disk does not answer: check the disk and its connection"
DRAIN = 0.3  # s
SLOW = 1.0  # s that no write takes that comes back, however busy the machine is
END = DRAIN + FINAL_SAVE_TIMEOUT + STORE_CLOSE_TIMEOUT  # s that an end may take by itself


async def hung(site: Site, warm: Warm, command: str, step: str) -> tuple[Running, Path]:
    """Start a command whose write hangs at *step*, and wait until that is said; the file that it was to send."""
    file = site.record("a.mp4")
    plan = Plan(hang=step, answer=SLOW)
    running = await warm.start(site, command, *([file] if command == "upload" else []), plan=plan)
    await until(lambda: bool(running.events("state-not-saved")), f"{command}: {step} is told of")
    return running, file


def told_wrong(running: Running, site: Site, step: str) -> str:
    """What the log of a process whose write has hung at *step* says that it should not, if anything."""
    told = running.events("state-not-saved")
    name = "ledger.jsonl" if "ledger" in step else "state.json"
    if len(told) != 1 or not told[0]["reason"].startswith(f"{site.state}/{name}: {SILENT}") or "again_in" in told[0]:
        return f"said {told} of {running.errors()}"
    creates = sum(one.name == "create" for one in site.simulator.calls)
    if creates != ("ledger" in step):
        return f"{creates} records were asked for"
    return f"trace: {running.errors()}" if "Traceback" in running.errors() else ""


async def ended_though_it_hangs(step: str, folder: Path, warm: Warm) -> str:
    """End a daemon whose write hangs at *step*, and let the next one send the file: what went wrong, if anything."""
    async with at_work(folder, upload=f'drain = "{DRAIN:g}s"') as site:
        daemon, file = await hung(site, warm, "run", step)
        document = json.loads((await warm.run(site, "status", "--json")).out)
        sent_at = asyncio.get_running_loop().time()
        daemon.send(signal.SIGTERM)
        ended = await daemon.end()
        took = asyncio.get_running_loop().time() - sent_at
        if ended.code != 0 or took > END + SLACK or not daemon.events("stopped"):
            return f"exit {ended.code} after {took:g} s: {ended.err}"
        if not (site.state / "control.sock").exists():
            return "it has touched the folder at its end"
        if SILENT not in document["not_saved"]:
            return f"status shows {document}"
        if wrong := told_wrong(daemon, site, step):
            return wrong
        again = await warm.run(site, "once")
        if again.code != 0 or [record.sha256 for record in site.simulator.records()] != [sha256(file)]:
            return f"the next: exit {again.code}: {again.err}"
    return ""


async def test_sigterm_ends_a_daemon_whose_disk_hangs(tmp_path: Path, warm: Warm, stats: FaultStats) -> None:
    """At whichever call: it is reported once and shown, nothing begins, and the end waits for a bounded time."""
    found = await asyncio.gather(
        *(ended_though_it_hangs(step, place(tmp_path, number), warm) for number, step in enumerate(HUNG))
    )
    assert {step: what for step, what in zip(HUNG, found, strict=True) if what} == {}
    stats["disk refusals"] += len(HUNG)


async def test_a_signal_ends_once_and_upload_though_the_disk_hangs(
    tmp_path: Path, warm: Warm, stats: FaultStats
) -> None:
    """Exit 1 in time; the file was not sent."""

    async def end(command: str, folder: Path) -> tuple[int, str, bool]:
        async with at_work(folder, upload=f'drain = "{DRAIN:g}s"') as site:
            running, _ = await hung(site, warm, command, FSYNC)
            sent_at = asyncio.get_running_loop().time()
            running.send(signal.SIGTERM)
            code = (await running.end()).code
            in_time = asyncio.get_running_loop().time() - sent_at <= END + SLACK
            return code, told_wrong(running, site, FSYNC), in_time

    ends = await asyncio.gather(end("once", place(tmp_path, 1)), end("upload", place(tmp_path, 2)))
    assert [*ends] == [(1, "", True)] * 2
    stats["disk refusals"] += 2


async def test_a_second_sigterm_does_not_wait_for_a_hung_disk(tmp_path: Path, warm: Warm, stats: FaultStats) -> None:
    """Whatever ``drain`` is; a third one, while the state is closed, changes nothing: exit 0."""
    async with at_work(tmp_path, upload='drain = "1h"') as site:
        daemon, _ = await hung(site, warm, "run", FSYNC)
        daemon.send(signal.SIGTERM)
        await until(lambda: bool(daemon.events("stopping")), "it hears the first")
        daemon.send(signal.SIGTERM)
        await until(lambda: bool(daemon.events("stopped")), "it hears the second")
        daemon.send(signal.SIGTERM)
        ended = await daemon.end()
        assert (ended.code, told_wrong(daemon, site, FSYNC)) == (0, "")
        assert len(daemon.events("stopping")) == 1
        stats["disk refusals"] += 1


# The real thing


async def filled(daemon: Process, site: Site) -> Path:
    """Fill the daemon's state disk until it says so; what filled it."""
    filler = Path(f"/proc/{daemon.pid}/root{site.state}/filler")
    with filler.open("ab", buffering=0) as file:  # noqa: ASYNC230 - a handle in another room
        async with asyncio.timeout(PROCESS_TIMEOUT):
            while not daemon.events("state-not-saved"):
                try:
                    file.write(bytes(4096))
                except OSError:  # full, for now: a save may have made room again
                    await asyncio.sleep(POLL_INTERVAL)
    return filler


async def test_a_disk_that_runs_full_during_an_upload_delays_it(tmp_path: Path, stats: FaultStats) -> None:
    """A full file system of 64 KiB: the state stays valid, no record is made; with space, both files go."""
    room = in_mount_namespace('mount -t tmpfs -o size=64k,mode=0700 state "$0"')
    async with at_work(tmp_path, probed=False, upload="workers = 1") as site:
        site.state.mkdir()
        files = [site.record("a.mp4")]
        still = Fault(call="upload", kind="stall", skip=1, name="a")
        site.simulator.faults.append(still)
        daemon = await site.start("run", program=(*room, str(site.state), *COMMAND))
        async with asyncio.timeout(PROCESS_TIMEOUT):
            await still.standing.wait()
        files.append(site.record("b.mp4"))
        filling = asyncio.create_task(filled(daemon, site))
        await asyncio.sleep(0)
        still.release()
        filler = await filling
        assert "No space left on device: make room" in daemon.events("state-not-saved")[0]["reason"]
        (upload,) = decode_state((filler.parent / "state.json").read_bytes()).uploads
        assert upload.path == str(files[0])
        assert {record.name for record in site.simulator.records()} == {"a"}
        filler.unlink()
        await daemon.event("state-saved")
        for file in files:
            await daemon.event("upload-finished", path=str(file))
        stats["disk refusals"] += len(daemon.events("state-not-saved"))
        stats.count_arrivals(site, map(sha256, files))
        assert sorted(record.sha256 or "" for record in site.simulator.records()) == sorted(map(sha256, files))


async def test_a_state_folder_on_a_read_only_mount_ends_the_daemon(tmp_path: Path, stats: FaultStats) -> None:
    """Exit 73 with what the operator must do."""
    room = in_mount_namespace('mount --bind "$0" "$0"', 'mount -o remount,bind,ro "$0"')
    async with at_work(tmp_path, probed=False) as site:
        site.state.mkdir(mode=0o700)
        ended = await site.run("run", program=(*room, str(site.state), *COMMAND))
        assert ended.code == 73
        (complaint,) = ended.complaints
        assert complaint.startswith(
            f"error: {site.state}: the state folder cannot be used: Read-only file system; make"
        )
        stats["disk refusals"] += 1


async def test_a_failed_fsync_is_not_repeated_on_the_same_file(tmp_path: Path, stats: FaultStats) -> None:
    """EIO from the system call itself: each try writes and syncs a new file, and the state is saved."""
    trace = tmp_path / "trace"
    async with at_work(tmp_path) as site:
        file = site.record("a.mp4", 1000)
        temporary = site.state / "state.json.tmp"
        options = ["-f", "-qq", "-o", str(trace), "-P", str(temporary), "-P", temporary.name]
        inject = ["-e", "trace=openat,fsync", "-e", "inject=fsync:error=EIO:when=3"]
        ended = await site.run("once", program=(strace(), *options, *inject, *COMMAND))
        assert (ended.code, ended.out) == (0, "1 uploaded now, 0 not ready\n"), ended.err
        assert ended.err.count("Input/output error: make room or repair the disk") == 1
        stats["disk refusals"] += trace.read_text().count("EIO")
        stats.count_arrivals(site, [sha256(file)])
        calls = [line.split()[1].partition("(")[0] for line in trace.read_text().splitlines()]
        assert calls == ["openat", "fsync"] * (len(calls) // 2)
        assert [line.sha256 for line in site.simulator.records()] == [sha256(file)]


async def test_the_next_append_cuts_off_a_partial_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stats: FaultStats
) -> None:
    """The disk took half a line, and then refused the rest and the cut: the chain has no broken line."""

    def refuse(*_: object) -> int:
        stats["disk refusals"] += 1
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    folder, write = StateFolder(tmp_path / "state"), os.write
    try:
        folder.append("ledger.jsonl", b"one\n")
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", lambda fd, content: write(fd, content[:2]) if len(content) > 2 else refuse())
            patch.setattr(os, "ftruncate", refuse)
            with pytest.raises(OSError, match="Input/output error"):
                folder.append("ledger.jsonl", b"two\n")
        folder.append("ledger.jsonl", b"two\n")
        assert folder.read("ledger.jsonl") == b"one\ntwo\n"
    finally:
        folder.close()


async def test_a_file_system_without_locks_is_refused_for_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stats: FaultStats
) -> None:
    """Some network shares: exit 73 with what to do, as two daemons could use the state at once."""

    def refuse(*_: object) -> None:
        stats["disk refusals"] += 1
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(errors.StateUnusable, match="the state folder cannot be used: No locks available") as caught:
        StateFolder(tmp_path / "state")
    assert (caught.value.exit_code, "set [state] dir to another folder" in caught.value.hint) == (73, True)
