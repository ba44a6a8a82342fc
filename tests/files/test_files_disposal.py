"""Disposal under crashes, rivals and wrong mounts: no recording is replaced, hidden for good, or on the wrong disk."""

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
    """Every file of a folder, hidden ones too."""
    return {entry.name: entry.read_bytes() for entry in folder.iterdir()}


def name_of(fd: int) -> str:
    """The name of an open folder."""
    return Path(f"/proc/self/fd/{fd}").readlink().name


# Two moves at once


async def test_two_recordings_of_equal_content_are_moved_at_once(
    tmp_path: Path, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is copied while the other is in the middle of it: both arrive whole, and nothing else is left."""
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


async def test_one_file_moved_twice_at_once_is_whole(
    tmp_path: Path, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the slower one says, each name in the archive leads to all of the file, and the next try finds it."""
    path, target = made(tmp_path / "a.mp4", content(SIZE)), str(far / "a.mp4")
    sent_file = await sent(path)
    in_the_middle(monkeypatch, lambda: move(str(path), sent_file, target))
    with pytest.raises(errors.ShareNotReady, match="cannot be moved: No such file"):
        move(str(path), sent_file, target)
    assert set(all_below(far).values()) == {content(SIZE)}
    assert move(str(path), sent_file, target) == target


async def test_a_hidden_copy_whose_name_is_taken_by_another_file_is_not_believed(
    tmp_path: Path, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes that were proved are those of the open file: under another inode they prove nothing."""
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


async def test_only_hidden_copies_that_nobody_writes_are_cleared_away(
    tmp_path: Path, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a crash left goes with the next copy there; a copy at work, and what is not ours, stays."""
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


async def test_a_file_that_is_gone_is_where_it_was_to_go(tmp_path: Path, far: Path) -> None:
    """The crash came after the move, before that was saved: the answer is the path, if all its bytes are there."""
    path, target = made(tmp_path / "a.mp4"), str(far / "a.mp4")
    sent_file = await sent(path)
    assert move(str(path), sent_file, target) == target
    assert move(str(path), sent_file, target) == target
    (far / "a.mp4").write_bytes(b"RECORDING")
    assert move(str(path), sent_file, target) is None


async def test_a_move_is_finished_in_the_archive_in_which_it_began(
    tmp_path: Path, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration names another archive since the crash: the file is not copied a second time."""
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
    with pytest.raises(KeyboardInterrupt):
        delete(str(path), sent_file)
    monkeypatch.undo()
    assert path.name not in all_below(path.parent)
    return sent_file


@pytest.mark.parametrize("taken", [True, False])
async def test_a_recording_that_was_set_aside_unseen_is_put_back_by_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, taken: bool
) -> None:
    """The crash came before it was looked at, and a third file may have its name by now: each has a visible one."""
    path = made(tmp_path / "a.mp4")
    sent_file = await _set_aside_by_a_crash(path, monkeypatch, swapped=b"second, never sent")
    expected = {"a.mp4": b"second, never sent"}
    if taken:
        made(path, b"third, never sent")
        expected = {"a.mp4": b"third, never sent", "a (1).mp4": b"second, never sent"}
    with pytest.raises(errors.FileChanged):
        delete(str(path), sent_file)
    assert all_below(tmp_path) == expected


async def test_the_file_that_was_sent_is_removed_from_where_it_was_set_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another recording took its name after the crash: that one stays, and the one that was sent is not sent again."""
    path = made(tmp_path / "a.mp4")
    sent_file = await _set_aside_by_a_crash(path, monkeypatch)
    made(path, b"another recording")
    assert delete(str(path), sent_file) is True
    assert all_below(tmp_path) == {"a.mp4": b"another recording"}


async def test_a_move_goes_on_from_where_the_file_was_set_aside(
    tmp_path: Path, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should the copy be gone, the hidden file is what is moved: it is the only one."""
    path = made(tmp_path / "in" / "a.mp4", content(SIZE))
    sent_file = await _set_aside_by_a_crash(path, monkeypatch)
    assert move(str(path), sent_file, str(far / "a.mp4")) == str(far / "a.mp4")
    assert all_below(path.parent) == {}
    assert all_below(far) == {"a.mp4": content(SIZE)}


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
    set_aside.put_back(folder, hidden, "a.mp4", disposer())
    os.close(folder)
    assert all_below(tmp_path) == {"a.mp4": b"another recording", "a (1).mp4": b"recording"}


ALL = WalkFilter(takes=lambda _: True, enters=lambda _: True, puts_back=lambda _: True)


async def _scan(share: MountedShare, walk_filter: WalkFilter = ALL) -> None:
    async for _ in share.walk(walk_filter):
        pass


async def test_a_scan_puts_back_what_no_upload_knows_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state was lost, or the upload forgotten: the recording is visible again, beside one that has its name."""
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
    """A removal that is at work owns its hidden name."""
    share = share_of(tmp_path)
    hidden = made(tmp_path / set_aside.hidden_name("a.mp4", share._disposer))
    await _scan(share)
    assert hidden.exists()


async def test_what_cannot_be_put_back_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is read-only, for instance: the walk was not whole, and says why."""
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
    """The folder above is synced, else a power cut would take the new one with all that is in it."""
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
    """It lay on another file system when it was first used: nothing is moved or made, and it is said why."""
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
    """An empty archive may be cleared away; what tells is the file system that it lay on."""
    watch, done, known = tmp_path / "in", tmp_path / "done" / "deep", Remembered()
    share = MountedShare(str(watch), SystemClock(), archives=known)
    for name in ("a.mp4", "b.mp4"):
        path = made(watch / name)
        assert await share.move(str(path), await sent(path), str(done), str(done / name)) == str(done / name)
        (done / name).unlink()
        done.rmdir()
        done.parent.rmdir()


# Cancellation


async def test_a_move_that_is_cancelled_stops_between_two_blocks_before_the_cancellation_passes(
    tmp_path: Path, far: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever cancels and waits knows that nothing touches the file any more; it is whole, and nothing is left."""
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
    """All threads of the share are busy: there is nothing to wait for."""
    path = made(tmp_path / "a.mp4")
    sent_file, share, free = await sent(path), share_of(tmp_path), threading.Event()
    await share.check()
    busy = [asyncio.ensure_future(share._threads.call(lambda: free.wait(10), patience=None)) for _ in range(12)]
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
    """What the configuration may say is what the table knows."""
    assert set(DISPOSALS) == set(get_args(AfterUpload))
    assert [name for name, disposal in DISPOSALS.items() if not disposal.takes_away] == ["keep"]
