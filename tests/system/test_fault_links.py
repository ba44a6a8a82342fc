"""Somebody swaps a recording, or a folder on the way to it, for a link while the daemon looks: it is never followed.

The link's target has the same size, time and ends as the recording, so that nothing but the way it is opened tells.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes import content
from fault_stats import FaultStats
from process import at_work
from shares import delete, sha256_of, share_of, was_sent
from warm import Warm

from uploader.domain import errors
from uploader.domain.model import Identity

pytestmark = pytest.mark.asyncio(loop_scope="module")  # all of them share what ``warm`` has imported

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of linux/fcntl.h and linux/fs.h
ROUNDS = 300  # looks during which somebody swaps as fast as a thread can
SIZE = 200_000  # bytes
TIME = 1_700_000_000_000_000_000  # ns
MIDDLE = slice(70_000, 130_000)  # what a look at both ends does not see


def made(path: Path, *, secret: bool) -> Path:
    """A recording, or a secret that differs in its middle alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = bytearray(content(SIZE))
    if secret:
        data[MIDDLE] = b"S" * (MIDDLE.stop - MIDDLE.start)
    path.write_bytes(data)
    os.utime(path, ns=(TIME, TIME))
    return path


@contextmanager
def swapping(swap: Callable[[], None]) -> Iterator[None]:
    """Let somebody else swap, again and again."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            swap()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def file_and_link(path: Path, good: Path, secret: Path) -> Callable[[], None]:
    """Put a second name of *good* there, then a link to *secret*; the name is never missing."""
    beside = path.with_name("beside")

    def swap() -> None:
        os.link(good, beside)
        beside.replace(path)
        beside.unlink(missing_ok=True)  # two names of one file: rename leaves both
        beside.symlink_to(secret)
        beside.replace(path)

    return swap


def folder_and_link(folder: Path, secret: Path) -> Callable[[], None]:
    """Exchange *folder* and a link to the folder *secret* in one step; the name is never missing."""
    beside = folder.with_name("beside")
    beside.symlink_to(secret)
    exchange = ctypes.CDLL(None, use_errno=True).renameat2

    def swap() -> None:
        names = os.fsencode(folder), os.fsencode(beside)
        assert exchange(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0, os.strerror(ctypes.get_errno())

    return swap


async def read(root: Path, path: Path, identity: Identity) -> bytes | None:
    """What the daemon would send of it; None when it refuses."""
    share = share_of(root)
    try:
        await share.snapshot(str(path))
        async with share.open(str(path), identity) as recording:
            return b"".join([block async for block in recording.blocks(SIZE)])
    except (errors.NotAFile, errors.FileMissing, errors.ShareNotReady):
        return None


@pytest.mark.parametrize("what", ["file", "folder"])
async def test_no_byte_is_read_through_a_link_that_is_swapped_in(tmp_path: Path, what: str) -> None:
    """At whatever moment: the recording's own bytes are read, or none."""
    root, secret = tmp_path / "watched", made(tmp_path / "secrets" / "a.mp4", secret=True)
    good = made(tmp_path / "good.mp4", secret=False)
    path = made(root / "room" / "a.mp4", secret=False)
    identity = (await share_of(root).snapshot(str(path))).identity
    swap = file_and_link(path, good, secret) if what == "file" else folder_and_link(path.parent, secret.parent)
    with swapping(swap):
        seen = [await read(root, path, identity) for _ in range(ROUNDS)]
    assert set(seen) == {None, good.read_bytes()}  # both happened, and nothing else


async def test_nothing_is_deleted_through_a_link_that_is_swapped_in_at_the_last_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last check and the removal: the link is recognised and put back; its target stays."""
    secret = made(tmp_path / "secret.mp4", secret=True)
    path = made(tmp_path / "watched" / "a.mp4", secret=False)
    identity = (await share_of(path.parent).snapshot(str(path))).identity
    sent, rename = was_sent(path, identity, sha256_of(path)), os.rename

    def swap_and_rename(*arguments: Any, **more: Any) -> None:
        monkeypatch.setattr(os, "rename", rename)
        path.unlink()
        path.symlink_to(secret)
        rename(*arguments, **more)

    monkeypatch.setattr(os, "rename", swap_and_rename)
    with pytest.raises(errors.FileChanged):
        delete(str(path), sent)
    assert [(name.name, name.readlink()) for name in path.parent.iterdir()] == [("a.mp4", secret)]
    assert sha256_of(secret) != sent.sha256


async def test_an_upload_whose_file_became_a_link_does_not_go_on(tmp_path: Path, warm: Warm, stats: FaultStats) -> None:
    """Killed between two chunks, and swapped meanwhile: the server gets no byte of the link's target."""
    async with at_work(tmp_path) as site:
        path = made(site.recordings / "a.mp4", secret=False)
        secret = made(tmp_path / "secret", secret=True)
        assert (await warm.run(site, "run", plan={"kill": "chunk 2: before"})).code == -signal.SIGKILL
        stats["kills"] += 1
        path.unlink()
        path.symlink_to(secret)
        ended = await warm.run(site, "once")
        assert ended.code == 1
        assert f"{path}: parked: {path} is a link, not a regular file" in ended.out
        (record,) = site.simulator.records()
        assert [(chunk.start, chunk.end) for chunk in record.ranges] == [(0, 65_535)]
