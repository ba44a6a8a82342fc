"""A real share: Samba on the loopback, with a client that copies recordings into the watched folder."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
from harness import RIG_TIMEOUT, Rig
from machine import missing
from mountspace import ROOT
from parts import at, sha256

from uploader.diagnostics.video import Video
from uploader.domain import events
from uploader.runtime.clock import SystemClock

SETTLE: Final = 0.2  # s
WATCH: Final = {"settle": f"{SETTLE * 1000:g}ms", "mode": "auto", "rescan": "500ms"}

CONFIGURATION: Final = """
[global]
server role = standalone server
interfaces = lo
bind interfaces only = yes
smb ports = {port}
disable netbios = yes
load printers = no
map to guest = bad user
log file = {folder}/log
private dir = {folder}
lock directory = {folder}
state directory = {folder}
cache directory = {folder}
pid directory = {folder}
ncalrpc dir = {folder}/rpc
usershare path =

[rec]
path = {path}
read only = no
guest ok = yes
force user = root
"""


@dataclass
class Samba:
    """A server of one share, ``rec``."""

    port: int

    def client(self, command: str, **options: Any) -> Any:
        """Begin to do *command* with smbclient."""
        where = ("//127.0.0.1/rec", "-p", str(self.port), "-U", "nobody%", "-c", command)
        return asyncio.create_subprocess_exec(
            "smbclient", *where, **{"stdin": DEVNULL, "stdout": PIPE, "stderr": STDOUT, "process_group": 0} | options
        )

    async def do(self, command: str) -> None:
        """Do *command* with smbclient, which must succeed."""
        client = await self.client(command)
        async with asyncio.timeout(RIG_TIMEOUT):
            out, _ = await client.communicate()
        assert client.returncode == 0, out


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _answers(port: int) -> None:
    async with asyncio.timeout(RIG_TIMEOUT):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)  # there is no event when it begins to listen


@pytest_asyncio.fixture
async def samba(tmp_path: Path) -> AsyncIterator[Samba]:
    """A server that shares the watched folder."""
    if not ROOT:
        pytest.skip("smbd takes root to be started")
    for program, package in (("smbd", "samba"), ("smbclient", "smbclient")):
        if not shutil.which(program):
            missing(program, package)
    folder, port = tmp_path / "samba", _free_port()
    folder.mkdir()
    (tmp_path / "watch").mkdir()
    file = folder / "smb.conf"
    file.write_text(CONFIGURATION.format(port=port, folder=folder, path=tmp_path / "watch"))
    server = await asyncio.create_subprocess_exec(
        *("smbd", "--foreground", "--no-process-group", f"--configfile={file}"),
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=DEVNULL,
        process_group=0,
    )
    try:
        await _answers(port)
        yield Samba(port)
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # it has a child for each client, and no other process is in its group
        async with asyncio.timeout(RIG_TIMEOUT):
            await server.wait()


def video(number: int) -> bytes:
    """A recording."""
    return b"".join(Video(frames=4 + number, width=160, height=112, seed=number).pieces())


def stands(rig: Rig, path: str) -> bool:
    """True when the file has stood still for much longer than ``settle``, and is held back."""
    candidate = rig.application.settle.candidates.get(path)
    if candidate is None or candidate.stable is None or candidate.looked_at is None:
        return False
    return candidate.held and candidate.looked_at - candidate.stable.since > 2 * SETTLE


async def test_files_copied_over_a_share_are_sent_once_and_whole(samba: Samba, tmp_path: Path) -> None:
    """At full speed: into the folder, into a new one, and under another name first."""
    local = tmp_path / "local"
    local.mkdir()
    videos = [video(number) for number in range(5)]
    for number, data in enumerate(videos):
        (local / f"{number}.mp4").write_bytes(data)
    async with Rig(tmp_path, watch=WATCH, clock=SystemClock()) as rig:
        await rig.start()
        commands = [f"put {local}/{number}.mp4 {number}.mp4" for number in range(3)]
        commands += ["mkdir day", f"put {local}/3.mp4 day/3.mp4"]
        commands += [f"put {local}/4.mp4 4.mp4.part", "rename 4.mp4.part 4.mp4"]
        await samba.do("; ".join(commands))
        await rig.event(events.UploadFinished, count=5)
        assert sorted(str(record.sha256) for record in rig.records) == sorted(map(sha256, videos))
        assert len(rig.seen(events.RecordCreated)) == 5


async def test_slow_copy_that_stalls_on_a_share_is_sent_once_and_whole(samba: Samba, tmp_path: Path) -> None:
    """It stalls twice for much longer than ``settle``, while smbd holds it open: nothing is sent before its end."""
    data = video(9)
    third = len(data) // 3
    async with Rig(tmp_path, watch=WATCH, clock=SystemClock()) as rig:
        await rig.start()
        path = str(rig.watch / "slow.mp4")
        client = await samba.client("put - slow.mp4", stdin=PIPE)
        for piece in (data[:third], data[third : 2 * third]):
            client.stdin.write(piece)
            await client.stdin.drain()
            await rig.until(lambda: stands(rig, path), "a copy that stands still")
            assert rig.seen(events.RecordCreated) == []
        client.stdin.write(data[2 * third :])
        client.stdin.close()
        async with asyncio.timeout(RIG_TIMEOUT):
            assert await client.wait() == 0
        await rig.finished(path)
        assert rig.record.sha256 == sha256(data) == sha256(at(path).read_bytes())
        assert len(rig.seen(events.RecordCreated)) == 1
        assert "open for writing" in rig.seen(events.FileHeldBack)[0].reason


async def test_a_broken_copy_is_not_sent_and_its_repetition_is(samba: Samba, tmp_path: Path) -> None:
    """The client dies during the copy: half a recording is held back; copied again, it is sent once and whole."""
    data = video(7)
    local = tmp_path / "whole.mp4"
    local.write_bytes(data)
    async with Rig(tmp_path, watch=WATCH, clock=SystemClock()) as rig:
        await rig.start()
        path = str(rig.watch / "a.mp4")
        client = await samba.client("put - a.mp4", stdin=PIPE)
        client.stdin.write(data[: len(data) // 2])
        await client.stdin.drain()
        await rig.until(lambda: stands(rig, path), "half a copy")
        client.kill()
        await client.wait()
        await samba.do(f"put {local} a.mp4")
        await rig.finished(path)
        assert rig.record.sha256 == sha256(data)
        assert len(rig.seen(events.RecordCreated)) == 1
