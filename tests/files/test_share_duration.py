"""The duration of a file on a share: its container's, and only while it is the file that was identified."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import made
from shares import identify, share_of

from uploader.diagnostics.video import make_mp4
from uploader.domain import errors


def filmed(path: Path) -> Path:
    """Make a video of three seconds."""
    make_mp4(path, frames=75, width=64, height=48, fps=25)
    return path


def touch(path: Path) -> None:
    """Give a file another time."""
    os.utime(path, ns=(1, 1))


def lengthen(path: Path) -> None:
    """Add a byte, and keep the time."""
    before = path.stat().st_mtime_ns
    with path.open("ab") as file:
        file.write(b"\0")
    os.utime(path, ns=(before, before))


async def test_the_duration_is_that_of_the_container(tmp_path: Path) -> None:
    """The name does not matter; another container, or none, states none."""
    path = filmed(tmp_path / "a.bin")
    assert await share_of(tmp_path).duration(str(path), await identify(path)) == 3
    text = made(tmp_path / "a.mp4", b"hello world" * 9)
    assert await share_of(tmp_path).duration(str(text), await identify(text)) is None


@pytest.mark.parametrize("change", [touch, lengthen])
async def test_a_file_that_has_changed_has_no_duration(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """Its size and its mtime are compared with those of the identity."""
    path = filmed(tmp_path / "a.mp4")
    identity = await identify(path)
    change(path)
    assert await share_of(tmp_path).duration(str(path), identity) is None
    assert await share_of(tmp_path).duration(str(path), await identify(path)) == 3


@pytest.mark.parametrize("change", [touch, lengthen])
async def test_a_file_that_changes_while_it_is_read_has_no_duration(
    tmp_path: Path, change: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read may belong to neither."""
    path = filmed(tmp_path / "a.mp4")
    identity, read, reads = await identify(path), os.pread, list[int]()

    def pread(fd: int, count: int, at: int) -> bytes:
        data = read(fd, count, at)
        if not reads:
            change(path)
        reads.append(at)
        return data

    monkeypatch.setattr(os, "pread", pread)
    assert await share_of(tmp_path).duration(str(path), identity) is None
    assert reads


@pytest.mark.parametrize(
    "put",
    [lambda path: None, Path.mkdir, lambda path: path.symlink_to("other.mp4"), os.mkfifo],
    ids=["missing", "folder", "link", "FIFO"],
)
async def test_what_is_no_file_has_no_duration(tmp_path: Path, put: Callable[[Path], None]) -> None:
    """A missing file, and anything else in its place."""
    path = filmed(tmp_path / "a.mp4")
    identity = await identify(path)
    path.rename(tmp_path / "other.mp4")
    put(path)
    assert await share_of(tmp_path).duration(str(path), identity) is None


async def test_a_share_that_is_away_is_not_a_file_without_a_duration(tmp_path: Path) -> None:
    """The caller waits for the share."""
    folder = tmp_path / "watch"
    folder.mkdir()
    path = filmed(folder / "a.mp4")
    identity, share = await identify(path), share_of(folder)
    shutil.rmtree(folder)
    with pytest.raises(errors.ShareNotReady, match="is missing"):
        await share.duration(str(path), identity)


async def test_a_file_that_cannot_be_read_now_is_not_one_without_a_duration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of the share says nothing about the file."""
    path = filmed(tmp_path / "a.mp4")
    identity, share = await identify(path), share_of(tmp_path)

    def pread(fd: int, count: int, at: int) -> bytes:
        raise OSError(5, f"Input/output error: {count} bytes at {at} of {fd}")

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(errors.ShareNotReady, match="cannot be read now"):
        await share.duration(str(path), identity)


async def test_the_ends_of_a_file_are_not_read_again(tmp_path: Path) -> None:
    """Size and mtime suffice, as for sending."""
    path = filmed(tmp_path / "a.mp4")
    identity = replace(await identify(path), edges="other")
    assert await share_of(tmp_path).duration(str(path), identity) == 3
