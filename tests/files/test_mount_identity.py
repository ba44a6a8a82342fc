"""A share is recognised by its mount, its place in it and a marker file; another one at its path is not touched."""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness import Rig
from parts import CHUNK, content_of

from uploader.app.application import Application
from uploader.domain import errors, events
from uploader.domain.model import Identity, MountIdentity
from uploader.files import MountedShare, Recording, mounted
from uploader.files.mount_identity import MARKER_NAME
from uploader.files.mounts import read_mountinfo
from uploader.runtime.clock import SystemClock


class Table:
    """The mount table of this process, in which the disk below *folder* is given another type and source."""

    def __init__(self, folder: Path) -> None:
        fd = os.open(folder, os.O_RDONLY)
        info = Path(f"/proc/self/fdinfo/{fd}").read_text()
        os.close(fd)
        match = re.search(r"mnt_id:\s*(\d+)", info)
        assert match
        self._id = match[1]
        self.fstype, self.source, self.inner = "cifs", "//nas/rec", ""

    def __call__(self) -> str:
        """Say what /proc/self/mountinfo would."""
        return "\n".join(self._line(line) if line.split()[0] == self._id else line for line in _lines())

    def _line(self, line: str) -> str:
        fields = line.partition(" - ")[0].split()
        fields[3] = self.inner or fields[3]
        return f"{' '.join(fields)} - {self.fstype} {self.source} rw"


def _lines() -> list[str]:
    return read_mountinfo().splitlines()


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """A folder on a network share, as far as the mount table tells."""
    (tmp_path / "watch").mkdir()
    return Table(tmp_path / "watch")


def share_at(table: Table, tmp_path: Path, identity: MountIdentity | None = None) -> MountedShare:
    """The share of the watched folder."""
    return MountedShare(str(tmp_path / "watch"), SystemClock(), identity=identity, mountinfo=table)


async def at_home(table: Table, tmp_path: Path) -> MountIdentity:
    """Where it lies when recordings are first seen in it."""
    share = share_at(table, tmp_path)
    assert (await share.check()).away == ""
    home = await share.record_identity()
    assert home is not None
    return home


async def test_network_share_gets_a_marker_and_is_known_by_it(table: Table, tmp_path: Path) -> None:
    """Type, source, place, and an id that no other share has."""
    home = await at_home(table, tmp_path)
    assert (home.fstype, home.source) == ("cifs", "//nas/rec")
    assert home.marker == (tmp_path / "watch" / MARKER_NAME).read_text().strip()
    assert len(home.marker) == 32
    assert (await share_at(table, tmp_path, home).check()).away == ""
    assert (await at_home(table, tmp_path)).marker == home.marker  # who comes second takes the one that is there


async def test_local_disk_needs_no_marker_and_may_have_another_device(table: Table, tmp_path: Path) -> None:
    """Device names change from boot to boot."""
    table.fstype, table.source = "ext4", "/dev/sda1"
    home = await at_home(table, tmp_path)
    assert (home.source, home.marker) == ("", "")
    assert list((tmp_path / "watch").iterdir()) == []
    table.source = "/dev/sdb1"
    assert (await share_at(table, tmp_path, home).check()).away == ""


def _no_mount(table: Table, _: Path) -> None:
    table.fstype, table.source = "ext4", "/dev/vda"


def _other_source(table: Table, _: Path) -> None:
    table.source = "//nas/other"


def _other_place(table: Table, _: Path) -> None:
    table.inner = "/another/folder/of/it"


def _no_marker(_: Table, watch: Path) -> None:
    (watch / MARKER_NAME).unlink()


def _other_marker(_: Table, watch: Path) -> None:
    (watch / MARKER_NAME).write_text("f" * 32)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_no_mount, "before: cifs //nas/rec; now: ext4"),
        (_other_source, "before: cifs //nas/rec; now: cifs //nas/other"),
        (_other_place, "another file system is there than before"),
        (_no_marker, f"has no marker ({MARKER_NAME})"),
        (_other_marker, f"has another marker ({MARKER_NAME})"),
    ],
)
async def test_another_share_at_the_same_path_is_not_touched(
    table: Table, tmp_path: Path, change: Any, why: str
) -> None:
    """Its folder is offline with a hint, each call is *not ready*, nothing is made there; ``retry`` accepts it."""
    home = await at_home(table, tmp_path)
    change(table, tmp_path / "watch")
    before = sorted((tmp_path / "watch").iterdir())
    share = share_at(table, tmp_path, home)
    standing = await share.check()
    assert why in standing.away
    assert f"valt-uploader retry {tmp_path}/watch" in standing.away
    with pytest.raises(errors.ShareNotReady, match=r"marker|than before"):
        await share.look([f"{share.root}/a.mp4"])
    assert await share.record_identity() is None
    assert sorted((tmp_path / "watch").iterdir()) == before
    share.accept_new_mount()
    assert (await share.check()).away == ""
    taken = await share.record_identity()
    assert taken is not None
    assert await share_at(table, tmp_path, taken).check() == share.status


async def test_a_read_only_share_has_no_marker(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is recognised by source and place, and another share is still told from it."""
    real = os.open

    def refuse(path: Any, flags: int, *more: Any, **others: Any) -> int:
        if flags & os.O_CREAT and str(path).endswith(MARKER_NAME):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(path, flags, *more, **others)

    monkeypatch.setattr(os, "open", refuse)
    home = await at_home(table, tmp_path)
    assert home.marker == ""
    assert (await share_at(table, tmp_path, home).check()).away == ""
    table.source = "//nas/other"
    assert "//nas/other" in (await share_at(table, tmp_path, home).check()).away


async def test_without_a_mount_table_no_identity_is_saved(table: Table, tmp_path: Path) -> None:
    """Else the folder would count as another one as soon as there is a mount table."""
    share = MountedShare(str(tmp_path / "watch"), SystemClock(), mountinfo=str)
    assert (await share.check()).away == ""
    assert await share.record_identity() is None
    home = await at_home(table, tmp_path)
    known = MountedShare(str(tmp_path / "watch"), SystemClock(), identity=home, mountinfo=str)
    assert "does not show" in (await known.check()).away


async def test_folder_that_is_exchanged_between_check_and_call_is_not_read(tmp_path: Path) -> None:
    """Each handle is proved to be the checked folder; then the share is checked again and goes on."""
    root = tmp_path / "watch"
    root.mkdir()
    (root / "a.mp4").write_bytes(b"old")
    share = MountedShare(str(root), SystemClock())
    first = await share.check()
    root.rename(tmp_path / "old")
    root.mkdir()
    (root / "a.mp4").write_bytes(b"new")
    with pytest.raises(errors.ShareNotReady, match="another folder is there than a moment ago"):
        await share.snapshot(str(root / "a.mp4"))
    assert (await share.snapshot(str(root / "a.mp4"))).identity.size == 3
    assert share.status.inode != first.inode


async def test_a_dead_mount_is_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A FUSE mount without its process, or a stale NFS handle: offline, with the kernel's error."""
    real = os.open
    error = errno.ENOTCONN

    def refuse(path: Any, *more: Any, **others: Any) -> int:
        if path == str(tmp_path) and error:
            raise OSError(error, os.strerror(error))
        return real(path, *more, **others)

    share = MountedShare(str(tmp_path), SystemClock())
    assert (await share.check()).away == ""
    monkeypatch.setattr(os, "open", refuse)
    assert "not connected" in (await share.check()).away
    error = errno.ESTALE
    with pytest.raises(errors.ShareNotReady):
        await share.sha256(str(tmp_path / "a.mp4"))
    error = 0
    assert (await share.check()).away == ""


# With all the rest


@asynccontextmanager
async def on_the_share(table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    """Run an application whose folder is on the share."""

    def mounted(self: Application, root: str) -> MountedShare:
        return MountedShare(root, self.clock, identity=self.store.mount_identities.get(root), mountinfo=table)

    monkeypatch.setattr(Application, "_mounted", mounted)
    async with Rig(tmp_path, watch={"mode": "auto", "rescan": "1s"}) as rig:
        yield rig


async def test_marker_is_made_only_when_recordings_were_seen(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty folder may be the mount point of a share that is mounted later, so nothing is made in it."""
    async with on_the_share(table, tmp_path, monkeypatch) as rig:
        await rig.start()
        watched = await rig.event(events.FolderWatched)
        assert watched.mode == "scans alone (cifs: events report only what this host writes)"
        await rig.scan()
        assert list(rig.watch.iterdir()) == []
        assert rig.saved().mount_identities == ()
        await rig.finished(await rig.drop("a.mp4", b"a"))
        (home,) = rig.saved().mount_identities
        assert home.marker == (rig.watch / MARKER_NAME).read_text().strip()
        assert [record.name for record in rig.records] == ["a"]


async def test_restart_remembers_the_share_and_another_one_waits_for_the_operator(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uploads of the share are kept; files of another one are not sent until the operator accepts it."""
    async with on_the_share(table, tmp_path, monkeypatch) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", content_of(3 * CHUNK))
        await rig.event(events.ChunkAcknowledged)
        await rig.until((rig.watch / MARKER_NAME).exists)
        await rig.stop()
        rig.watch.rename(tmp_path / "first")
        rig.watch.mkdir()
        rig.write("other.mp4", b"other")
        table.source = "//nas/other"
        await rig.start()
        offline = await rig.event(events.FolderOffline)
        assert "before: cifs //nas/rec; now: cifs //nas/other" in offline.reason
        await rig.event(events.UploadRetryScheduled, path=path)
        await rig.scan()
        assert not (rig.watch / MARKER_NAME).exists()
        assert rig.seen(events.FileFound, path=str(rig.watch / "other.mp4")) == []
        assert path in rig.store.uploads
        assert await rig.retry(str(rig.watch))
        await rig.finished(str(rig.watch / "other.mp4"))
        (home,) = rig.saved().mount_identities
        assert home.source == "//nas/other"


async def test_share_that_comes_back_goes_on_by_itself(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offline and back are each reported once; its upload goes on at once, on the same record."""
    async with on_the_share(table, tmp_path, monkeypatch) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", content_of(3 * CHUNK))
        await rig.event(events.ChunkAcknowledged)
        await rig.until((rig.watch / MARKER_NAME).exists)
        await rig.stop()
        table.fstype = "ext4"
        await rig.start()
        await rig.event(events.UploadRetryScheduled, path=path)
        await rig.event(events.FolderOffline)
        table.fstype = "cifs"
        await rig.event(events.FolderBack)
        await rig.finished(path)
        assert len(rig.records) == 1
        assert len(rig.seen(events.FolderOffline)) == len(rig.seen(events.FolderBack)) == 1


async def test_the_daemon_s_own_files_are_not_sent(
    table: Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the marker nor a file that is set aside, whatever the patterns are."""
    async with on_the_share(table, tmp_path, monkeypatch) as rig:
        rig._watches[0] |= {"include": ["*"], "exclude": []}
        await rig.start()
        path = await rig.drop("a.mp4", b"a")
        (rig.watch / ".valt-uploader-0123456789abcdef.gone").write_bytes(b"gone")
        await rig.finished(path)
        await rig.scan()
        await rig.finished(await rig.drop("b", b"b"))
        assert {event.path for event in rig.seen(events.FileFound)} == {path, str(rig.watch / "b")}


async def test_a_file_with_another_identity_is_not_opened(tmp_path: Path) -> None:
    """Only the file that has settled is opened for sending."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"content")
    share = MountedShare(str(tmp_path), SystemClock())
    identity = (await share.snapshot(str(path))).identity
    async with share.open(str(path), identity) as recording:
        assert [block async for block in recording.blocks(7)] == [b"content"]
    with pytest.raises(errors.FileChanged):
        async with share.open(str(path), replace(identity, size=6)):
            pass
    with pytest.raises(errors.FileMissing):
        async with share.open(str(tmp_path / "b.mp4"), Identity(1, 1, "")):
            pass


async def test_a_close_that_hangs_delays_no_upload_and_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a dead share cannot be closed (sshfs waits for its server)."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"content")
    share = MountedShare(str(tmp_path), SystemClock())
    identity = (await share.snapshot(str(path))).identity
    hangs, closed, close = asyncio.Event(), asyncio.Event(), Recording._close

    async def hang(self: Recording) -> None:
        await hangs.wait()
        await close(self)
        closed.set()

    monkeypatch.setattr(Recording, "_close", hang)
    monkeypatch.setattr(mounted, "RECORDING_CLOSE_TIMEOUT", 0.05)
    async with asyncio.timeout(10):
        async with share.open(str(path), identity):
            pass
        hangs.set()
        await closed.wait()
