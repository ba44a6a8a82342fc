"""The real process with a burst of files while it is stopped, hostile names, and folders that come and go."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any, Final

from fakes import made
from process import Process, Site, at_work, until

from uploader.app import control_socket

BURST: Final = 20_000
EVENTS: Final = 'mode = "events"\n'


def folder_of(site: Site) -> dict[str, Any]:
    """The one watched folder, as ``status`` shows it."""
    answer = control_socket.ask(site.state, "status")
    assert answer is not None
    (row,) = answer["folders"]
    assert isinstance(row, dict)
    return row


def settling(site: Site) -> int:
    """How many files are waited for."""
    answer = control_socket.ask(site.state, "status")
    assert answer is not None
    return int(answer["counts"]["settling"])


async def listening(site: Site, daemon: Process) -> None:
    """Wait until events are listened to, and the scan that covers for their beginning (after two seconds) is over."""
    await daemon.event("folder-watched")
    await until(lambda: folder_of(site)["scans"] >= 10, "ten scans, one every 300 ms")


async def test_files_that_come_while_the_process_is_stopped_are_all_found(tmp_path: Path) -> None:
    """As on a suspended machine: the kernel's event queue overflows silently, and the scan finds every file."""
    async with at_work(tmp_path, watch=EVENTS + 'settle = "1h"') as site:
        daemon = await site.start("run")
        await listening(site, daemon)
        daemon.send(signal.SIGSTOP)
        for number in range(BURST):
            (site.recordings / f"{number}.mp4").write_bytes(b"%d" % number)
        daemon.send(signal.SIGCONT)
        # Asked, not read from the log: that drops a line whose reader is slow. In a thread, to go on reading.
        async with asyncio.timeout(90):
            while await asyncio.to_thread(settling, site) != BURST:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.5)
        missed = await daemon.event("events-missed")
        assert 0 < missed["files"] < BURST
        row = folder_of(site)
        assert row["missed_by_events"] >= missed["files"]
        assert row["names"] == BURST
        found = [line["path"] for line in daemon.events("file-found")]
        assert len(set(found)) == len(found)
        assert (await daemon.stop(signal.SIGTERM)).code == 0


async def test_odd_names_and_kinds_of_files_stop_nothing_and_leak_nothing(tmp_path: Path) -> None:
    """Odd names are sent under a safe one; special files and what is behind links are reported and left alone."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.mp4").write_bytes(b"a secret")
    async with at_work(tmp_path, watch=EVENTS + 'rescan = "10m"\ngate = false') as site:
        daemon = await site.start("run")
        await daemon.event("folder-watched")
        root = os.fsencode(site.recordings)
        for name in (b"bad\xff", b"line\nbreak", b"x" * 251):
            made(Path(os.fsdecode(root + b"/" + name + b".mp4")))
        os.mkfifo(site.recordings / "pipe.mp4")
        (site.recordings / "link.mp4").symlink_to(outside / "secret.mp4")
        (site.recordings / "folder").symlink_to(outside)
        (site.recordings / "folder.mp4").symlink_to(outside)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(site.recordings / "socket.mp4"))
            await until(lambda: len(daemon.events("upload-finished")) == 3, "three uploads")
            for odd in ("pipe.mp4", "link.mp4", "folder.mp4", "socket.mp4"):
                await daemon.event("file-ignored", path=str(site.recordings / odd))
        assert daemon.events("watcher-restarted")  # it does not stand names that are not UTF-8
        site.record("after.mp4")
        await daemon.event("upload-finished", path=str(site.recordings / "after.mp4"))
        assert {record.name for record in site.simulator.records()} == {
            "bad\\xff",
            "line\\x0abreak",
            "x" * 251,
            "after",
        }
        assert not any(b"secret" in path.read_bytes() for path in _kept(site))
        assert "secret" not in "".join(line for line in daemon.err if "password" not in line)
        assert (await daemon.stop(signal.SIGTERM)).code == 0


def _kept(site: Site) -> list[Path]:
    """What the server has been given."""
    return [path for path in (site.path / "server").rglob("*") if path.is_file()]


async def test_folders_that_come_and_go_stop_nothing(tmp_path: Path) -> None:
    """They are gone when they are looked into, over and over; files that stay are found."""
    async with at_work(tmp_path, watch=EVENTS + "gate = false") as site:
        daemon = await site.start("run")
        await listening(site, daemon)

        def churn() -> None:
            for number in range(400):
                folder = site.recordings / f"{number}"
                folder.mkdir()
                folder.rmdir()

        await asyncio.to_thread(churn)
        site.record("deep/er/a.mp4")
        await daemon.event("upload-finished")
        assert (await daemon.stop(signal.SIGTERM)).code == 0
