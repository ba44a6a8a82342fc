"""Shares that go away, come back, are exchanged or hang: the real process in a mount namespace of its own."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from mountspace import Space, at_work_in_namespace, need_fuse, need_mounts
from process import Site, at_work, sha256, until

from uploader.app import control_socket
from uploader.testing.simulator import Fault

WATCH: Final = 'mode = "auto"\ngate = false\n'
OTHER: Final = '[[watch]]\npath = "{other}"\nsettle = "100ms"\nrescan = "300ms"\ngate = false'


@asynccontextmanager
async def two_folders(tmp_path: Path, watch: str = WATCH) -> AsyncIterator[Site]:
    """A site that watches ``recordings`` and ``other``."""
    other = tmp_path / "other"
    other.mkdir()
    async with at_work(tmp_path, watch=watch, more=OTHER.format(other=other)) as site:
        yield site


def row_of(site: Site, folder: Path) -> dict[str, Any]:
    """A watched folder as ``status`` shows it."""
    answer = control_socket.ask(site.state, "status")
    assert answer is not None
    (row,) = (row for row in answer["folders"] if row["path"] == str(folder))
    assert isinstance(row, dict)
    return row


def stands_still(pid: int) -> bool:
    """Whether a process has been stopped by a signal."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def put(folder: Path, name: str, size: int = 100_000) -> Path:
    """A recording that is whole from the first moment on."""
    hidden = folder / ".new"
    hidden.write_bytes(name.encode() * (size // len(name)))
    return hidden.rename(folder / name)


async def test_a_folder_that_is_removed_and_made_again_is_watched_again(tmp_path: Path) -> None:
    """It is OFFLINE in log and status meanwhile; the other folder goes on."""
    async with two_folders(tmp_path) as site:
        daemon = await site.start("run")
        await daemon.event("folder-watched", folder=str(site.recordings))
        site.recordings.rmdir()
        offline = await daemon.event("folder-offline")
        assert offline["reason"] == f"{site.recordings}: is missing"
        text = (await site.run("status")).out
        assert f"folder   {site.recordings}: offline; uploads wait" in text
        other = put(tmp_path / "other", "b.mp4")
        await daemon.event("upload-finished", path=str(other))
        site.recordings.mkdir()
        await daemon.event("folder-back")
        path = put(site.recordings, "a.mp4")
        await daemon.event("upload-finished", path=str(path))
        assert row_of(site, site.recordings)["offline"] is None
        assert len(daemon.events("folder-offline")) == 1


@pytest.mark.parametrize("kind", ["bind mount", "FUSE"])
async def test_a_share_that_is_unmounted_keeps_its_uploads(tmp_path: Path, kind: str) -> None:
    """The bare mount point is no empty folder: it is OFFLINE, nothing is made in it, an unfinished upload waits there.

    The other folder goes on; mounted again, the upload goes on with its record, and new files are found.
    """
    need_mounts() if kind == "bind mount" else need_fuse()
    source = tmp_path / "source"
    source.mkdir()

    async def mount(space: Space) -> None:
        if kind == "FUSE":
            await space.show(source, site.recordings)
        else:
            await space.mount("--bind", source, site.recordings)

    async with two_folders(tmp_path) as site:
        site.configure(watch=WATCH, upload="workers = 2", more=OTHER.format(other=tmp_path / "other"))
        async with at_work_in_namespace(site) as space:
            daemon = space.daemon
            await mount(space)
            await daemon.event("upload-finished", path=str(site.recordings / put(source, "first.mp4").name))
            stall = Fault(call="upload", kind="stall", skip=1)
            site.simulator.faults.append(stall)
            path = site.recordings / put(source, "a.mp4", 500_000).name
            await until(stall.standing.is_set, "a chunk under way")
            await space.umount(site.recordings)
            offline = await daemon.event("folder-offline", folder=str(site.recordings))
            assert "another file system is there than before" in offline["reason"]
            assert "offline; uploads wait" in (await site.run("status")).out
            stall.release()
            other = put(tmp_path / "other", "b.mp4")
            await daemon.event("upload-finished", path=str(other))
            assert daemon.events("upload-parked") == []
            assert list(site.recordings.iterdir()) == []  # out here the mount point is bare all the time
            assert str(path) in [upload["path"] for upload in site.stored()["uploads"]] or daemon.events(
                "upload-finished", path=str(path)
            )
            await mount(space)
            await daemon.event("folder-back", folder=str(site.recordings))
            await daemon.event("upload-finished", path=str(path))
            assert len(daemon.events("record-created", path=str(path))) == 1
            await daemon.event("upload-finished", path=str(site.recordings / put(source, "c.mp4").name))
            assert {record.sha256 for record in site.simulator.records()} >= {sha256(source / "a.mp4")}
            assert (await daemon.stop(signal.SIGTERM)).code == 0


async def test_upload_of_a_share_that_is_away_waits_across_a_restart(tmp_path: Path) -> None:
    """Stopped during the upload, started without the share: not parked; mounted, it resumes."""
    need_mounts()
    source = tmp_path / "source"
    source.mkdir()
    async with two_folders(tmp_path) as site:
        path = site.recordings / put(source, "a.mp4", 500_000).name
        async with at_work_in_namespace(site) as space:
            site.simulator.faults.append(Fault(call="upload", kind="stall", skip=2))
            await space.mount("--bind", source, site.recordings)
            await until(site.simulator.faults[0].standing.is_set, "a chunk under way")
        site.simulator.faults.clear()
        async with at_work_in_namespace(site) as space:
            await space.daemon.event("folder-offline", folder=str(site.recordings))
            await space.daemon.event("upload-retry-scheduled", path=str(path))
            put(tmp_path / "other", "b.mp4")
            await space.daemon.event("upload-finished", path=str(tmp_path / "other" / "b.mp4"))
            await space.mount("--bind", source, site.recordings)
            await space.daemon.event("upload-finished", path=str(path))
        assert len(site.simulator.records()) == 2
        assert sha256(source / "a.mp4") in {record.sha256 for record in site.simulator.records()}


async def test_other_place_of_the_disk_at_the_same_path_waits_for_the_operator(tmp_path: Path) -> None:
    """Another folder of the same disk is mounted there: OFFLINE until ``retry`` of the folder accepts it."""
    need_mounts()
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    async with two_folders(tmp_path) as site, at_work_in_namespace(site) as space:
        daemon = space.daemon
        await space.mount("--bind", one, site.recordings)
        await daemon.event("upload-finished", path=str(site.recordings / put(one, "a.mp4").name))
        await until(lambda: bool(site.stored().get("homes")), "the home")
        await space.umount(site.recordings)
        await space.mount("--bind", two, site.recordings)
        put(two, "b.mp4")
        offline = await daemon.event("folder-offline")
        assert f"if that is right: valt-uploader retry {site.recordings};" in offline["reason"]
        put(tmp_path / "other", "c.mp4")
        await daemon.event("upload-finished", path=str(tmp_path / "other" / "c.mp4"))
        assert daemon.events("file-found", path=str(site.recordings / "b.mp4")) == []
        assert (await site.run("retry", site.recordings)).code == 0
        await daemon.event("upload-finished", path=str(site.recordings / "b.mp4"))


async def test_a_hung_share_delays_no_other_folder_and_no_end(tmp_path: Path) -> None:
    """It is OFFLINE, the other folder's files are sent, and SIGTERM ends the daemon in time, saved."""
    need_fuse()
    source = tmp_path / "source"
    source.mkdir()
    async with two_folders(tmp_path) as site:
        stays = {
            "server": 'stall_timeout = "60s"',
            "upload": 'drain = "1s"',
        }  # a worker is stuck in a read all the time
        site.configure(watch=WATCH, more=OTHER.format(other=tmp_path / "other"), **stays)
        async with at_work_in_namespace(site) as space:
            daemon = space.daemon
            server = await space.show(source, site.recordings)
            await daemon.event("upload-finished", path=str(site.recordings / put(source, "first.mp4").name))
            stall = Fault(call="upload", kind="stall", skip=1)
            site.simulator.faults.append(stall)
            path = site.recordings / put(source, "a.mp4", 500_000).name
            await until(stall.standing.is_set, "a chunk under way")
            server.send_signal(signal.SIGSTOP)
            stall.release()
            for number in range(3):
                other = put(tmp_path / "other", f"{number}.mp4")
                await daemon.event("upload-finished", path=str(other))
            offline = await daemon.event("folder-offline", folder=str(site.recordings))
            assert offline["reason"] == f"{site.recordings}: has not answered for 10 s"
            text = (await site.run("explain", site.recordings / "first.mp4")).out
            assert "has not answered" in text
            other = put(tmp_path / "other", "late.mp4")
            await daemon.event("upload-finished", path=str(other))
            ended = await daemon.stop(signal.SIGTERM)
            assert ended.code == 0
            assert stands_still(server.pid)  # so the share hangs, all the time
            assert [upload["path"] for upload in site.stored()["uploads"]] == [str(path)]
