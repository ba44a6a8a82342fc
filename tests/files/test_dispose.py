"""Disposal of a file that was sent: it is deleted or moved, and no other file ever is."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import content, made
from shares import delete, disposer, free_target, identify, move, sha256_of, share_of, was_sent

from uploader.domain import errors
from uploader.files import SentFile, WalkFilter, copying, kind_of, set_aside, syscalls
from uploader.files.recording import READ_BLOCK

OTHER_DISK = Path("/dev/shm")


async def sent(path: Path) -> SentFile:
    """What a file was when it was sent: its identity, the hash of its bytes, its inode."""
    return was_sent(path, await identify(path), sha256_of(path))


def refuse_with(code: int) -> Callable[..., None]:
    """A system call that this file system does not know."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


async def test_a_sent_file_is_deleted(tmp_path: Path) -> None:
    """Once; a file that is gone already is no error."""
    path = made(tmp_path / "a.mp4")
    sent_file = await sent(path)
    assert delete(str(path), sent_file) is True
    assert not path.exists()
    assert delete(str(path), sent_file) is False


def rewritten(path: Path) -> None:
    """Other bytes of the same length, under the same time."""
    times = path.stat()
    path.write_bytes(b"RECORDING")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def touched(path: Path) -> None:
    """Only its time is another."""
    os.utime(path, ns=(1, 1))


def grown(path: Path) -> None:
    """It has more bytes."""
    path.write_bytes(b"recording and more")


def a_link(path: Path) -> None:
    """A link to an equal file stands there."""
    path.rename(path.with_suffix(".old"))
    path.symlink_to(path.with_suffix(".old"))


def a_folder(path: Path) -> None:
    """A folder stands there."""
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [rewritten, touched, grown, a_link, a_folder])
async def test_any_other_file_under_the_name_is_left_alone(tmp_path: Path, change: object) -> None:
    """Neither deleted nor moved, whether it is another recording or no recording at all."""
    assert callable(change)
    path = made(tmp_path / "a.mp4")
    sent_file = await sent(path)
    change(path)
    before = kind_of(str(path)), path.lstat().st_ino, path.lstat().st_mtime_ns
    with pytest.raises(errors.FileChanged, match="no longer the file that was sent"):
        delete(str(path), sent_file)
    with pytest.raises(errors.FileChanged, match="no longer the file that was sent"):
        move(str(path), sent_file, str(tmp_path / "moved" / "a.mp4"))
    assert (kind_of(str(path)), path.lstat().st_ino, path.lstat().st_mtime_ns) == before
    assert list((tmp_path / "moved").iterdir()) == []


async def test_a_file_that_cannot_be_deleted_or_moved_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only share raises *not ready* with the reason, and the file is still there."""
    path = made(tmp_path / "a.mp4")
    sent_file = await sent(path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(errors.ShareNotReady, match="cannot be deleted: Read-only"):
        delete(str(path), sent_file)
    with pytest.raises(errors.ShareNotReady, match="cannot be moved: Read-only"):
        move(str(path), sent_file, str(tmp_path / "b.mp4"))
    assert path.read_bytes() == b"recording"


@pytest.fixture(params=["same disk", "other disk", "no links", "no unnamed files", "no ways at all"])
def done(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that finished files are moved to: on the same disk, on another, or on one with fewer abilities.

    *no links* and *no unnamed files* are exFAT or SMB, which can still rename to a free name; *no ways at all* cannot.
    """
    if request.param in {"no links", "no ways at all"}:
        monkeypatch.setattr(os, "link", refuse_with(errno.EPERM))
    if request.param == "no ways at all":
        monkeypatch.setattr(syscalls, "rename_noreplace", refuse_with(errno.EINVAL))
    if request.param in {"no unnamed files", "no ways at all"}:
        monkeypatch.setattr(syscalls, "open_unnamed", lambda folder: None)
    if request.param not in {"other disk", "no unnamed files"}:
        yield tmp_path / "done"
        return
    if not OTHER_DISK.is_dir() or OTHER_DISK.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("this machine has no second file system to move to")
    with tempfile.TemporaryDirectory(dir=OTHER_DISK) as name:
        yield Path(name) / "done"


def moved(path: Path, root: Path, done: Path, sent_file: SentFile) -> str:
    """Move as the last stage does: choose the name, then move. The answer is where it went, below *done*."""
    target = free_target(str(path), str(root), str(done), sent_file)
    where = move(str(path), sent_file, target)
    assert where is not None
    assert os.path.exists(where)  # noqa: PTH110 - as the code below names it
    return where.removeprefix(f"{done}/")


def below(folder: Path) -> dict[str, bytes]:
    """Every file below *folder* with its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def entries(folder: Path) -> list[str]:
    """Every name in *folder*, that of an empty folder, too."""
    return [entry.name for entry in folder.iterdir()]


def later(copy: Path, source: Path) -> None:
    """Let a copy have been changed at another time than its source, as hours of recording see to."""
    times = copy.stat()
    while copy.stat().st_ctime_ns == source.stat().st_ctime_ns:
        os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))


async def test_a_moved_file_keeps_its_relative_path(tmp_path: Path, done: Path) -> None:
    """With its folders, bytes and time; nothing is left behind."""
    path = made(tmp_path / "in" / "room" / "a.mp4", content(3 * READ_BLOCK))
    os.utime(path, ns=(5, 1_700_000_000_000_000_000))
    sent_file = await sent(path)
    assert moved(path, tmp_path / "in", done, sent_file) == "room/a.mp4"
    assert below(done) == {"room/a.mp4": content(3 * READ_BLOCK)}
    assert (done / "room" / "a.mp4").stat().st_mtime_ns == 1_700_000_000_000_000_000
    assert below(tmp_path / "in") == {}
    assert move(str(path), sent_file, str(done / "again.mp4")) is None


async def test_a_name_that_is_taken_gets_a_number(tmp_path: Path, done: Path) -> None:
    """Files of other recordings are never overwritten, however often a name is used again."""
    for number, name in enumerate(["a.mp4", "a (1).mp4", "a (2).mp4"]):
        path = made(tmp_path / "in" / "a.mp4", content(100, seed=number))
        assert moved(path, tmp_path / "in", done, await sent(path)) == name
    assert below(done) == {
        "a.mp4": content(100, 0),
        "a (1).mp4": content(100, 1),
        "a (2).mp4": content(100, 2),
    }


async def test_a_name_that_is_taken_in_the_last_moment_is_not_overwritten(tmp_path: Path, done: Path) -> None:
    """The next number is taken in the same step, and the returned path is where the file is."""
    path = made(tmp_path / "in" / "a.mp4")
    sent_file = await sent(path)
    target = free_target(str(path), str(tmp_path / "in"), str(done), sent_file)
    made(done / "a.mp4", b"somebody else's")
    assert target == str(done / "a.mp4")
    assert move(str(path), sent_file, target) == str(done / "a (1).mp4")
    assert below(done) == {"a.mp4": b"somebody else's", "a (1).mp4": b"recording"}
    assert not path.exists()


async def test_a_move_that_was_cut_short_is_finished(
    tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between the new name and the removal of the old: one file under the first name, without a copy."""
    path = made(tmp_path / "in" / "a.mp4", content(READ_BLOCK + 1))
    sent_file = await sent(path)
    rename = os.rename

    def crash(name: str, *more: Any, **others: Any) -> None:
        if name == path.name:
            raise KeyboardInterrupt
        rename(name, *more, **others)

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", crash)
        with pytest.raises(KeyboardInterrupt):
            moved(path, tmp_path / "in", done, sent_file)
    assert path.exists()
    assert below(done) == {"a.mp4": content(READ_BLOCK + 1)}
    if not path.samefile(done / "a.mp4"):
        later(done / "a.mp4", path)
    assert moved(path, tmp_path / "in", done, sent_file) == "a.mp4"
    assert below(done) == {"a.mp4": content(READ_BLOCK + 1)}
    assert not path.exists()


async def test_a_link_from_the_archive_to_the_source_is_no_half_done_move(tmp_path: Path) -> None:
    """The one file that is there keeps a name."""
    path = made(tmp_path / "in" / "a.mp4")
    (tmp_path / "done").symlink_to(tmp_path / "in")
    assert moved(path, tmp_path / "in", tmp_path / "done", await sent(path)) == "a (1).mp4"
    assert below(tmp_path / "in") == {"a (1).mp4": b"recording"}


@pytest.mark.parametrize("done", ["other disk", "no links"], indirect=True)
async def test_a_copy_that_differs_never_replaces_the_file(
    tmp_path: Path, done: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Across file systems the copy is read back: if one bit is wrong, it is removed and the file stays."""
    path = made(tmp_path / "in" / "a.mp4")
    sent_file = await sent(path)

    def badly(fd: int, block: bytes) -> None:
        os.write(fd, block.upper())

    monkeypatch.setattr(copying, "_write_all", badly)
    with pytest.raises(errors.ShareNotReady, match="the copy differs from what was sent"):
        move(str(path), sent_file, str(done / "a.mp4"))
    assert path.read_bytes() == b"recording"
    assert below(done) == {}


async def test_a_partial_copy_left_by_a_crash_is_removed(tmp_path: Path, done: Path) -> None:
    """One with the daemon's own hidden name; another program's .part file is not touched."""
    path = made(tmp_path / "in" / "a.mp4")
    sent_file = await sent(path)
    made(done / "a.mp4.part", b"somebody's own")
    made(done / f".valt-uploader-{sent_file.sha256[:16]}.part", b"half")
    assert moved(path, tmp_path / "in", done, sent_file) == "a.mp4"
    left = below(done)
    assert (left["a.mp4"], left["a.mp4.part"]) == (b"recording", b"somebody's own")


async def test_a_name_of_full_length_can_be_moved(tmp_path: Path, done: Path) -> None:
    """A name of 255 bytes leaves no space for a longer temporary name."""
    path = made(tmp_path / "in" / ("x" * 251 + ".mp4"))
    assert moved(path, tmp_path / "in", done, await sent(path)) == path.name


@pytest.fixture(params=["folder", "name"])
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """Files are set aside in a hidden folder; or by a hidden name, where no folder can be made."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "name":
            patch.setattr(set_aside, "_own_folder", lambda *_: None)
        yield request.param


async def test_a_removal_that_was_cut_short_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """After a crash the next try removes the file that was set aside, and nothing is left."""
    path = made(tmp_path / "a.mp4")
    sent_file = await sent(path)

    def crash(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", crash)
        with pytest.raises(KeyboardInterrupt):
            delete(str(path), sent_file)
    (left,) = below(tmp_path)
    assert re.fullmatch({"folder": r"\..+\.removed/a\.mp4", "name": r"\.[^/]+-a\.mp4\.gone"}[way], left)
    assert delete(str(path), sent_file) is True
    assert entries(tmp_path) == []
    assert delete(str(path), sent_file) is False


@pytest.mark.parametrize("knows", [("links", "noreplace"), ("noreplace",), ()])
@pytest.mark.parametrize("taken", [True, False])
async def test_a_file_that_takes_the_name_in_the_last_moment_is_never_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, *, knows: tuple[str, ...], taken: bool
) -> None:
    """Another recording takes the name between the check and the removal: it keeps a visible name."""
    path, rename, swapped = made(tmp_path / "a.mp4"), os.rename, False
    sent_file = await sent(path)

    def swap(name: str, *more: Any, **others: Any) -> None:
        nonlocal swapped
        first, swapped = not swapped, True
        if first:
            path.unlink()
            made(path, b"another recording")
        rename(name, *more, **others)
        if taken and first:
            made(path, b"and one more")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", swap)
        if "links" not in knows:
            patch.setattr(os, "link", refuse_with(errno.EPERM))
        if "noreplace" not in knows:
            patch.setattr(syscalls, "rename_noreplace", refuse_with(errno.EINVAL))
        with pytest.raises(errors.FileChanged, match="no longer the file that was sent"):
            delete(str(path), sent_file)
    left = below(tmp_path)
    if taken:
        assert left.pop("a.mp4") == b"and one more"
    assert list(left.values()) == [b"another recording"]
    (name,) = left
    if knows:
        assert name == ("a (1).mp4" if taken else "a.mp4")
    assert re.fullmatch(r"a( \([0-9a-f]+\))?\.mp4", name), "a name that a scan takes"
    assert len(entries(tmp_path)) == 1 + taken, way


async def test_the_name_that_is_removed_is_the_one_that_a_person_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recycle bin of a NAS keeps a file under the name that it is removed by; no folder is left."""
    path, unlink, removed = made(tmp_path / "room 1" / "lecture.mp4"), os.unlink, list[str]()

    def noting(name: str, **more: Any) -> None:
        removed.append(name)
        unlink(name, **more)

    sent_file = await sent(path)
    monkeypatch.setattr(os, "unlink", noting)
    assert delete(str(path), sent_file) is True
    assert removed == ["lecture.mp4"]
    assert entries(path.parent) == []


async def test_a_removal_is_durable_also_while_another_one_uses_the_hidden_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder stays then, so the removal in it is synced; else a power cut would bring the file back."""
    path, by, fsync, synced = made(tmp_path / "a.mp4"), disposer(), os.fsync, list[int]()
    other = made(tmp_path / f".valt-uploader-{by.run}.removed" / "b.mp4")
    folders = {other.parent.stat().st_ino, path.parent.stat().st_ino}

    def noting(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        fsync(fd)

    sent_file = await sent(path)
    monkeypatch.setattr(os, "fsync", noting)
    assert delete(str(path), sent_file, by) is True
    assert folders <= set(synced)
    assert other.exists()


@pytest.mark.parametrize("refused", ["mkdir", "rename", "taken"])
async def test_where_no_folder_can_be_used_the_file_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    """No right to make one, a file system that joins several, or a file of that name is left in it."""
    path, rename, by = made(tmp_path / "a.mp4"), os.rename, disposer()
    sent_file = await sent(path)
    if refused == "taken":
        left = made(tmp_path / f".valt-uploader-{by.run}.removed" / "a.mp4", b"of another recording")
    if refused == "mkdir":
        monkeypatch.setattr(os, "mkdir", refuse_with(errno.EACCES))

    def across(old: str, new: str, **more: Any) -> None:
        if refused == "rename" and not new.startswith("."):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(old, new, **more)

    monkeypatch.setattr(os, "rename", across)
    by.listed.add((path.parent.stat().st_dev, path.parent.stat().st_ino))
    assert delete(str(path), sent_file, by) is True
    assert list(below(tmp_path).values()) == ([b"of another recording"] if refused == "taken" else [])
    if refused != "taken":
        assert entries(tmp_path) == []
    else:
        assert left.exists()


async def test_no_link_is_followed_where_a_hidden_folder_is_expected(tmp_path: Path) -> None:
    """Whoever may write to the watched folder cannot have a file from elsewhere put into it, or removed."""
    elsewhere = made(tmp_path / "elsewhere" / "a.mp4", b"a secret")
    path = made(tmp_path / "in" / "a.mp4")
    link = path.with_name(".valt-uploader-0123456789abcdef.removed")
    link.symlink_to(elsewhere.parent)
    assert delete(str(path), await sent(path)) is True
    async for _ in share_of(path.parent).walk(WalkFilter(lambda _: True, lambda _: True, puts_back=lambda _: True)):
        pass
    assert elsewhere.read_bytes() == b"a secret"
    assert entries(path.parent) == [link.name]


async def test_a_file_of_another_inode_is_proved_by_its_whole_content(tmp_path: Path) -> None:
    """Shares give new inodes: equal bytes are the file that was sent, one changed bit in the middle is not."""
    path = made(tmp_path / "a.mp4", content(3 * READ_BLOCK))
    sent_file = replace(await sent(path), inode=(1, 1))
    times = path.stat()
    other = bytearray(content(3 * READ_BLOCK))
    other[READ_BLOCK] ^= 1
    path.write_bytes(other)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    with pytest.raises(errors.FileChanged):
        delete(str(path), sent_file)
    path.write_bytes(content(3 * READ_BLOCK))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert delete(str(path), sent_file) is True
