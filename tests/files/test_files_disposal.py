"""Disposal under crashes, rivals and wrong mounts: no recording is overwritten, left hidden, or on the wrong disk."""

from __future__ import annotations

import asyncio
import fcntl
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from fakes import content, made
from shares import delete, disposer, move, share_of
from test_dispose import OTHER_DISK, later, sent

from uploader.domain import errors
from uploader.domain.model import AfterUpload, MountIdentity
from uploader.files import DISPOSALS, MountedShare, SentFile, WalkFilter, copying, dispose, naming, set_aside, syscalls
from uploader.files.archive import opened_archive
from uploader.files.mounts import read_mountinfo
from uploader.runtime.clock import SystemClock

SIZE = 2 * copying.COPY_BLOCK + 5


@pytest.fixture(params=["unnamed", "hidden name"])
def far(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An archive on another file system, where a copy is made without a name, or under a hidden one."""
    if not OTHER_DISK.is_dir() or OTHER_DISK.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has no second file system to move to")
    if request.param == "hidden name":
        monkeypatch.setattr(syscalls, "open_unnamed", lambda folder: None)
    with tempfile.TemporaryDirectory(dir=OTHER_DISK) as name:
        yield Path(name)


def in_the_middle(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Do *act* once, while the first block of a copy is written."""
    write, acted = copying._write_all, False

    def write_all(fd: int, block: bytes) -> None:
        nonlocal acted
        write(fd, block)
        if not acted:
            acted = True
            act()

    monkeypatch.setattr(copying, "_write_all", write_all)


def all_below(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too; those of a hidden folder by their path."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(params=["folder", "name"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Files are set aside in a hidden folder; or by a hidden name, where no folder can be made."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "name":
            patch.setattr(set_aside, "_own_folder", lambda *_: None)
        yield request.param


def name_of(fd: int) -> str:
    """The name of an open folder."""
    return Path(f"/proc/self/fd/{fd}").readlink().name


# Two moves at once


async def test_two_recordings_of_equal_content_can_be_moved_concurrently(
    tmp_path: Path, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is copied while the other is half copied: both arrive whole, and nothing else is left."""
    one, two = made(tmp_path / "one" / "a.mp4", content(SIZE)), made(tmp_path / "two" / "a.mp4", content(SIZE))
    os.utime(one, ns=(1, 10**18))  # they are two recordings, not one and its copy
    sent_one, sent_two, target = await sent(one), await sent(two), str(far / "a.mp4")
    other: list[str | None] = []
    in_the_middle(monkeypatch, lambda: other.append(move(str(two), sent_two, target)))
    assert move(str(one), sent_one, target) == str(far / "a (1).mp4")
    assert other == [target]
    assert all_below(far) == {"a.mp4": content(SIZE), "a (1).mp4": content(SIZE)}
    assert not one.exists()
    assert not two.exists()


async def test_a_file_that_is_moved_twice_concurrently_stays_whole(
    tmp_path: Path, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each name in the archive leads to the whole file, and the next try of the slower move finds it."""
    path, target = made(tmp_path / "a.mp4", content(SIZE)), str(far / "a.mp4")
    sent_file = await sent(path)
    in_the_middle(monkeypatch, lambda: move(str(path), sent_file, target))
    with pytest.raises(errors.ShareNotReady, match="cannot be moved: No such file"):
        move(str(path), sent_file, target)
    assert set(all_below(far).values()) == {content(SIZE)}
    assert move(str(path), sent_file, target) == target


async def test_a_hidden_copy_that_another_file_replaced_is_not_used(
    tmp_path: Path, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verified bytes are those of the open file; another inode under its name was not verified."""
    monkeypatch.setattr(syscalls, "open_unnamed", lambda folder: None)
    path = made(tmp_path / "a.mp4", content(SIZE))
    sent_file = await sent(path)

    def take() -> None:
        (hidden,) = far.iterdir()
        hidden.unlink()
        hidden.write_bytes(b"a part of it")

    in_the_middle(monkeypatch, take)
    with pytest.raises(errors.ShareNotReady, match="the copy has lost its name"):
        move(str(path), sent_file, str(far / "a.mp4"))
    assert path.read_bytes() == content(SIZE)
    ((name, data),) = all_below(far).items()
    assert (name[0], data) == (".", b"a part of it")


async def test_only_abandoned_hidden_copies_are_removed(
    tmp_path: Path, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the next copy into that folder; a copy in progress and other programs' files stay."""
    monkeypatch.setattr(syscalls, "open_unnamed", lambda folder: None)
    left, busy = made(far / f".valt-uploader-{'0' * 16}.part"), made(far / f".valt-uploader-{'1' * 16}.part")
    kept = [made(far / name) for name in (".valt-uploader-share", "a.mp4.part", f".valt-uploader-{'2' * 15}.part")]
    path = made(tmp_path / "a.mp4")
    sent_file = await sent(path)
    with busy.open("rb") as at_work:
        fcntl.flock(at_work, fcntl.LOCK_EX)
        move(str(path), sent_file, str(far / "a.mp4"))
    assert not left.exists()
    assert all(each.exists() for each in (busy, *kept))


async def test_a_missing_file_is_looked_for_at_its_target(tmp_path: Path, far: Path) -> None:
    """After a crash between move and save, the target is returned if all bytes of the file are there."""
    path, target = made(tmp_path / "a.mp4"), str(far / "a.mp4")
    sent_file = await sent(path)
    assert move(str(path), sent_file, target) == target
    assert move(str(path), sent_file, target) == target
    (far / "a.mp4").write_bytes(b"RECORDING")
    assert move(str(path), sent_file, target) is None


async def test_a_move_is_finished_in_the_archive_in_which_it_began(
    tmp_path: Path, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the configuration names another archive since the crash; the file is not copied again."""
    path, target = made(tmp_path / "in" / "a.mp4"), str(far / "a.mp4")
    sent_file = await sent(path)
    with monkeypatch.context() as patch:
        patch.setattr(set_aside, "remove", _crash)
        with pytest.raises(KeyboardInterrupt):
            move(str(path), sent_file, target)
    later(far / "a.mp4", path)
    (tmp_path / "new").mkdir()
    root = os.open(path.parent, os.O_RDONLY)
    with opened_archive(str(tmp_path / "new"), None) as archive:
        where = dispose.move(root, "a.mp4", sent_file, archive, target, disposer())
    os.close(root)
    assert where == target
    assert all_below(tmp_path / "new") == {}
    assert not path.exists()


def _crash(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


# What is set aside


async def _set_aside_by_a_crash(
    path: Path, monkeypatch: pytest.MonkeyPatch, *, swapped: bytes | None = None
) -> SentFile:
    """Begin to delete *path*, and die when it is set aside; *swapped*: another recording took the name just before."""
    sent_file = await sent(path)
    if swapped is not None:
        real = os.rename

        def rename(name: str, *more: Any, **others: Any) -> None:
            path.unlink()
            made(path, swapped)
            real(name, *more, **others)

        monkeypatch.setattr(os, "rename", rename)
    monkeypatch.setattr(set_aside, "is_still", _crash)
    monkeypatch.setattr(os, "rmdir", _crash)  # nor is anything tidied up after it
    with pytest.raises(KeyboardInterrupt):
        delete(str(path), sent_file)
    monkeypatch.undo()
    assert path.name not in all_below(path.parent)
    return sent_file


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("taken", [True, False])
async def test_another_recording_that_was_set_aside_is_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, taken: bool
) -> None:
    """It took the name just before, and the crash came before the check; all files have visible names again."""
    path = made(tmp_path / "a.mp4")
    sent_file = await _set_aside_by_a_crash(path, monkeypatch, swapped=b"second, never sent")
    expected = {"a.mp4": b"second, never sent"}
    if taken:
        made(path, b"third, never sent")
        expected = {"a.mp4": b"third, never sent", "a (1).mp4": b"second, never sent"}
    with pytest.raises(errors.FileChanged):
        delete(str(path), sent_file)
    assert all_below(tmp_path) == expected


@pytest.mark.usefixtures("way")
async def test_a_file_with_a_long_name_is_not_taken_for_another_that_begins_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stays set aside while the other is deleted, and its own removal finds it."""
    one, other = (made(tmp_path / f"{'long' * 60}{end}.mp4", end.encode()) for end in ("first", "other"))
    sent_file = await _set_aside_by_a_crash(one, monkeypatch)
    assert delete(str(other), await sent(other)) is True
    assert list(all_below(tmp_path).values()) == [b"first"]
    assert one.name not in all_below(tmp_path)
    assert delete(str(one), sent_file) is True
    assert all_below(tmp_path) == {}


@pytest.mark.usefixtures("way")
async def test_the_file_that_was_sent_is_removed_from_where_it_was_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another recording has taken its name since the crash: that one stays, and the sent one is not sent again."""
    path = made(tmp_path / "a.mp4")
    sent_file = await _set_aside_by_a_crash(path, monkeypatch)
    made(path, b"another recording")
    assert delete(str(path), sent_file) is True
    assert all_below(tmp_path) == {"a.mp4": b"another recording"}


@pytest.mark.usefixtures("way")
async def test_a_move_goes_on_from_where_the_file_was_set_aside(
    tmp_path: Path, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the copy is gone, the hidden file is moved, as it is the only one."""
    path = made(tmp_path / "in" / "a.mp4", content(SIZE))
    sent_file = await _set_aside_by_a_crash(path, monkeypatch)
    assert move(str(path), sent_file, str(far / "a.mp4")) == str(far / "a.mp4")
    assert all_below(path.parent) == {}
    assert all_below(far) == {"a.mp4": content(SIZE)}


@pytest.mark.usefixtures("way")
async def test_a_file_that_has_both_names_loses_the_hidden_one_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The crash came while it was put back, between the new name and the removal of the hidden one."""
    path = made(tmp_path / "a.mp4")
    await _set_aside_by_a_crash(path, monkeypatch)
    (hidden,) = all_below(tmp_path)
    os.link(tmp_path / hidden, tmp_path / "a (1).mp4")
    made(path, b"another recording")
    folder = os.open(tmp_path, os.O_RDONLY)
    above, name = os.path.split(hidden)
    set_aside.put_back(folder, above, name, "a.mp4", disposer())
    os.close(folder)
    assert all_below(tmp_path) == {"a.mp4": b"another recording", "a (1).mp4": b"recording"}


ALL = WalkFilter(takes=lambda _: True, enters=lambda _: True, puts_back=lambda _: True)


async def _scan(share: MountedShare, walk_filter: WalkFilter = ALL) -> None:
    async for _ in share.walk(walk_filter):
        pass


@pytest.mark.usefixtures("way")
async def test_a_scan_puts_back_hidden_files_without_an_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state was lost or the upload forgotten: the recording is visible again, beside one with its name."""
    path = made(tmp_path / "in" / "day" / ("r" * 251 + ".mp4"))
    await _set_aside_by_a_crash(path, monkeypatch)
    made(path, b"another recording")
    asked: list[str] = []

    def refuse(relpath: str) -> bool:
        asked.append(relpath)
        return False

    share = share_of(tmp_path / "in")
    await _scan(share, WalkFilter(ALL.takes, ALL.enters, puts_back=refuse))
    assert len([name for name in all_below(path.parent) if name.startswith(".")]) == 1
    assert asked[0].startswith("day/rrr")
    await _scan(share)
    left = all_below(path.parent)
    assert sorted(left.values()) == [b"another recording", b"recording"]
    assert all(name.startswith("rrr") and name.endswith(".mp4") for name in left)


async def test_a_scan_does_not_touch_what_this_run_has_set_aside(tmp_path: Path) -> None:
    """The hidden name belongs to a removal in progress."""
    share = share_of(tmp_path)
    hidden = made(tmp_path / set_aside.hidden_name("a.mp4", share._disposer))
    await _scan(share)
    assert hidden.exists()


async def test_a_failure_to_put_a_file_back_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is read-only, for instance: the walk is incomplete and says why."""
    made(tmp_path / set_aside.hidden_name("a.mp4", disposer()))
    monkeypatch.setattr(os, "link", _read_only)
    with pytest.raises(errors.ShareNotReady, match=r"set aside cannot be put back: .*Read-only"):
        await _scan(share_of(tmp_path))


def _read_only(*_: Any, **__: Any) -> None:
    raise OSError(30, os.strerror(30))


# Durable


@pytest.mark.parametrize("how", ["delete", "move"])
async def test_a_removal_counts_when_the_folder_is_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The last system call is the fsync of the folder that the name is gone from, after that of the archive."""
    path = made(tmp_path / "in" / "a.mp4")
    (tmp_path / "done").mkdir()
    sent_file, calls = await sent(path), []
    unlink, fsync = os.unlink, os.fsync

    def note_unlink(*arguments: Any, **more: Any) -> None:
        unlink(*arguments, **more)
        calls.append("unlink")

    def note_fsync(fd: int) -> None:
        fsync(fd)
        calls.append(f"fsync {name_of(fd)}")

    monkeypatch.setattr(os, "unlink", note_unlink)
    monkeypatch.setattr(os, "fsync", note_fsync)
    if how == "delete":
        delete(str(path), sent_file)
        assert calls == ["unlink", "fsync in"]
    else:
        move(str(path), sent_file, str(tmp_path / "done" / "a.mp4"))
        assert calls == ["fsync done", "unlink", "fsync in"]


async def test_a_folder_that_is_made_in_the_archive_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder above it is synced, so that a power cut does not remove it."""
    synced: list[str] = []
    fsync = os.fsync

    def note(fd: int) -> None:
        fsync(fd)
        synced.append(name_of(fd))

    monkeypatch.setattr(os, "fsync", note)
    root = os.open(tmp_path, os.O_RDONLY)
    with naming.folder_below(root, "day/room"):
        assert synced == [tmp_path.name, "day"]
    os.close(root)


# The archive


class Remembered:
    """Where archives lay, as the state remembers."""

    def __init__(self) -> None:
        self.homes: dict[str, MountIdentity] = {}

    def identity_of(self, path: str) -> MountIdentity | None:
        """Where it lay."""
        return self.homes.get(path)

    async def remember(self, identity: MountIdentity) -> None:
        """Remember where it lies."""
        self.homes[identity.root] = identity


async def test_an_archive_whose_disk_is_not_mounted_is_refused(tmp_path: Path) -> None:
    """It was on another file system at its first use: nothing is moved or made, and the error says why."""
    watch, done, known = tmp_path / "in", tmp_path / "done", Remembered()
    first, second = made(watch / "a.mp4"), made(watch / "b.mp4")
    fstype = ["ext4"]

    def table() -> str:
        kinds = {line.partition(" - ")[2].split()[0] for line in read_mountinfo().splitlines()}
        text = read_mountinfo()
        for kind in kinds:
            text = text.replace(f" - {kind} ", f" - {fstype[0]} ")
        return text

    share = MountedShare(str(watch), SystemClock(), archives=known, mountinfo=table)
    sent_first, sent_second = await sent(first), await sent(second)
    target = str(done / "a.mp4")
    assert await share.move(str(first), sent_first, str(done), target) == target
    assert known.homes[str(done)].fstype == "ext4"
    fstype[0] = "xfs"
    for _ in range(2):
        with pytest.raises(errors.ShareNotReady, match=f"{done}: .*another file system.*retry {done}.*ext4.*xfs"):
            await share.move(str(second), sent_second, str(done), str(done / "b.mp4"))
        assert second.exists()
        if done.exists():
            (done / "a.mp4").unlink()
            done.rmdir()  # what is missing is not made there either
        assert not done.exists()
    del known.homes[str(done)]  # as ``retry`` does
    assert await share.move(str(second), sent_second, str(done), str(done / "b.mp4")) == str(done / "b.mp4")


async def test_an_archive_that_was_removed_is_made_again_on_its_own_disk(tmp_path: Path) -> None:
    """An empty archive may be removed; its file system is what counts."""
    watch, done, known = tmp_path / "in", tmp_path / "done" / "deep", Remembered()
    share = MountedShare(str(watch), SystemClock(), archives=known)
    for name in ("a.mp4", "b.mp4"):
        path = made(watch / name)
        assert await share.move(str(path), await sent(path), str(done), str(done / name)) == str(done / name)
        (done / name).unlink()
        done.rmdir()
        done.parent.rmdir()


# Cancellation


async def test_a_cancelled_move_stops_before_the_cancellation_returns(
    tmp_path: Path, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two blocks; the file is whole, no copy is left, and no thread touches it any more."""
    path = made(tmp_path / "in" / "a.mp4", content(SIZE))
    sent_file = await sent(path)
    copies, goes_on = threading.Event(), threading.Event()
    share, blocks = share_of(path.parent), []

    def slowly(fd: int, block: bytes) -> None:
        blocks.append(os.write(fd, block))
        copies.set()
        goes_on.wait(10)

    monkeypatch.setattr(copying, "_write_all", slowly)
    task = asyncio.ensure_future(share.move(str(path), sent_file, str(far), str(far / "a.mp4")))
    await asyncio.to_thread(copies.wait, 10)
    task.cancel()
    done, _ = await asyncio.wait({task}, timeout=0.05)
    assert not done, "it does not pass while the thread is at work"
    task.cancel()  # however often it is asked
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(blocks) == 1
    assert path.read_bytes() == content(SIZE)
    assert all_below(far) == {}


async def test_a_call_that_has_not_begun_is_dropped_when_it_is_cancelled(tmp_path: Path) -> None:
    """All threads of the share are busy, so there is nothing to wait for."""
    path = made(tmp_path / "a.mp4")
    sent_file, share, free = await sent(path), share_of(tmp_path), threading.Event()
    await share.check()
    busy = [asyncio.ensure_future(share._threads.call(lambda: free.wait(10), time_limit=None)) for _ in range(12)]
    await asyncio.sleep(0)
    task = asyncio.ensure_future(share.delete(str(path), sent_file))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    free.set()
    await asyncio.gather(*busy)
    assert path.exists()


# The table


def test_every_after_upload_has_its_disposal() -> None:
    """Each value that the configuration allows is in the table."""
    assert set(DISPOSALS) == set(get_args(AfterUpload))
    assert [name for name, disposal in DISPOSALS.items() if not disposal.takes_away] == ["keep"]
