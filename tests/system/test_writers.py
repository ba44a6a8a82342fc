"""Known ways in which programs write a recording: each file is sent once, and whole."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import json
import os
import subprocess
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from fakes import made
from harness import Rig
from parts import sha256

from uploader.diagnostics.video import Video
from uploader.domain import events
from uploader.domain.model import State
from uploader.files import open_writers
from uploader.files.open_writers import held_by_writer, open_for_writing
from uploader.runtime.clock import SystemClock

SETTLE: Final = 0.1  # s
VIDEO: Final = Video(frames=6, width=160, height=112)
FAST: Final = Video(frames=6, width=160, height=112, faststart=True)

# A writer in a process of its own, so that its handle is its own: it does one step for each line it is told.
WRITER = """
import json, os, sys
data = sys.stdin.buffer.read(int(sys.stdin.buffer.readline()))
fd = None
for line in sys.stdin.buffer:
    do, *args = json.loads(line)
    if do == "open":
        fd = os.open(args[0], os.O_WRONLY | os.O_CREAT, 0o644)
    elif do == "close":
        os.close(fd)
    elif do == "write":
        os.pwrite(fd, data[args[0]:args[1]], args[0])
    elif do == "zeros":
        os.pwrite(fd, bytes(len(data)), 0)
    elif do == "size":
        os.ftruncate(fd, len(data))
    elif do == "allocate":
        os.posix_fallocate(fd, 0, len(data))
    elif do == "rename":
        os.rename(*args)
    print("done", flush=True)
"""

Step = Sequence[Any]
OPEN: Final = ("open", "a.mp4")
CLOSE: Final = ("close",)
STAND: Final = ("stand",)  # until it has stood still for much longer than ``settle``, and was held back all the same
EMPTY: Final = ("empty",)  # until it is put aside as empty
PACE: Final = ("pace",)  # as fast as recorders write


def part(start: float, end: float) -> Step:
    """Write from here to there, in parts of the whole."""
    return ("write", int(start * VIDEO.size), int(end * VIDEO.size))


HEAD: Final = ("write", 0, 64)
AFTER_HEAD: Final = ("write", 64, VIDEO.size)

WRITERS: Final[dict[str, list[Step]]] = {
    "slow": [OPEN, *(step for number in range(8) for step in (part(number / 8, (number + 1) / 8), PACE)), CLOSE],
    "stalled, its handle open": [OPEN, part(0, 0.5), STAND, part(0.5, 1), CLOSE],
    "stalled at its end, its handle open": [OPEN, part(0, 1), STAND, CLOSE],
    "stalled, its handle closed": [OPEN, part(0, 0.5), CLOSE, STAND, OPEN, part(0.5, 1), CLOSE],
    "allocated, header last": [OPEN, ("allocate",), STAND, AFTER_HEAD, STAND, HEAD, CLOSE],
    "allocated, header last, unseen": [
        *(OPEN, ("allocate",), CLOSE, STAND),
        *(OPEN, AFTER_HEAD, CLOSE, STAND),
        *(OPEN, HEAD, CLOSE),
    ],
    "zeros then filled": [OPEN, ("zeros",), STAND, part(0, 0.4), STAND, part(0.4, 1), CLOSE],
    "zeros then filled, unseen": [
        *(OPEN, ("zeros",), CLOSE, STAND),
        *(OPEN, part(0, 0.4), CLOSE, STAND),
        *(OPEN, part(0.4, 1), CLOSE),
    ],
    "renamed into place": [("open", "a.mp4.part"), part(0, 1), PACE, CLOSE, ("rename", "a.mp4.part", "a.mp4")],
    "Explorer: full size, then filled": [OPEN, ("size",), STAND, part(0, 0.5), STAND, part(0.5, 1), CLOSE],
    "Explorer, by a share": [
        *(OPEN, ("size",), CLOSE, STAND),
        *(OPEN, part(0, 0.5), CLOSE, STAND),
        *(OPEN, part(0.5, 1), CLOSE),
    ],
    "Finder: empty, then filled": [OPEN, CLOSE, EMPTY, OPEN, part(0, 0.5), STAND, part(0.5, 1), CLOSE],
    "Finder, its handle open": [OPEN, STAND, part(0, 1), CLOSE],
}


@contextlib.asynccontextmanager
async def writing(folder: Path, data: bytes) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that writes *data* into *folder*, step by step."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, stdin=PIPE, stdout=PIPE, cwd=folder, process_group=0
    )
    assert process.stdin
    process.stdin.write(b"%d\n" % len(data) + data)
    try:
        yield process
    finally:
        process.stdin.close()
        await process.wait()


async def tell(process: asyncio.subprocess.Process, step: Step) -> None:
    """Have one step done."""
    assert process.stdin
    assert process.stdout
    process.stdin.write(json.dumps(step).encode() + b"\n")
    assert await process.stdout.readline() == b"done\n"


def stands(rig: Rig, path: str) -> bool:
    """True when the file has stood still for long, and is held back."""
    candidate = rig.application.settle.candidates.get(path)
    if candidate is None or candidate.stable is None or candidate.looked_at is None:
        return False
    return candidate.held and candidate.looked_at - candidate.stable.since > 2 * SETTLE


@pytest.mark.parametrize("kind", WRITERS)
async def test_every_writer_is_sent_once_and_whole(tmp_path: Path, kind: str) -> None:
    """One record, with every byte, and not begun before the last of them was there."""
    await sent_once_and_whole(tmp_path, WRITERS[kind], VIDEO)


@pytest.mark.parametrize("kind", [kind for kind in WRITERS if "unseen" in kind or "share" in kind])
async def test_an_undetected_writer_is_recognised_by_zeros_at_the_end(tmp_path: Path, kind: str) -> None:
    """With the index before the pictures, the file looks complete long before they are there."""
    await sent_once_and_whole(tmp_path, WRITERS[kind], FAST)


async def sent_once_and_whole(tmp_path: Path, steps: list[Step], video: Video) -> None:
    """Let a writer do its steps, and check that its file is sent once and whole."""
    data = b"".join(video.pieces())
    watch = {"settle": f"{SETTLE * 1000:g}ms", "mode": "events", "rescan": "400ms", "gate_timeout": "1m"}
    async with Rig(tmp_path, watch=watch, clock=SystemClock()) as rig, writing(rig.watch, data) as writer:
        path = str(rig.watch / "a.mp4")
        await rig.start()
        for number, step in enumerate(steps, start=1):
            if step is STAND:
                await rig.until(lambda: stands(rig, path), "standing still")
            elif step is EMPTY:
                await rig.until(lambda: rig.state_of(path) is State.PARKED, "parked")
            elif step is PACE:
                await asyncio.sleep(SETTLE / 4)  # the pace of the writer is what is tested
            else:
                await tell(writer, step)
            assert number == len(steps) or rig.seen(events.RecordCreated) == []
        await rig.finished(path)
        assert rig.record.sha256 == sha256(data)
        assert len(rig.seen(events.RecordCreated)) == len(rig.seen(events.UploadFinished)) == 1
        assert rig.seen(events.FileChangedWhileSending) == []


async def test_many_writers_at_once(tmp_path: Path) -> None:
    """Each at its own speed, in folders of their own: as many records as files, each whole."""
    watch = {"settle": f"{SETTLE * 1000:g}ms", "mode": "events", "rescan": "400ms"}
    async with Rig(tmp_path, watch=watch, clock=SystemClock()) as rig:
        await rig.start()

        async def write(number: int) -> bytes:
            folder = rig.watch / f"room {number}"
            folder.mkdir()
            data = b"".join(Video(frames=3 + number, width=96, height=64, seed=number).pieces())
            async with writing(folder, data) as writer:
                await tell(writer, OPEN)
                for start in range(0, len(data), 30_000):
                    await tell(writer, ("write", start, start + 30_000))
                    await asyncio.sleep(SETTLE / 8)  # the pace
                await tell(writer, CLOSE)
            return data

        written = await asyncio.gather(*(write(number) for number in range(6)))
        await rig.event(events.UploadFinished, count=6)
        assert sorted(str(record.sha256) for record in rig.records) == sorted(map(sha256, written))


# The question itself


def no_table() -> frozenset[open_writers.Inode]:
    """Who asks this has not trusted the lease."""
    raise AssertionError("the table was asked")


def asked(path: Path, table: open_writers.Table = no_table) -> bool:
    """Ask of a closed file."""
    fd = os.open(path, os.O_RDONLY)
    try:
        return held_by_writer(fd, table)
    finally:
        os.close(fd)


def test_only_a_handle_open_for_writing_counts_as_a_writer(tmp_path: Path) -> None:
    """Also one that writes nothing, and one that only appends."""
    path = made(tmp_path / "a.mp4")
    assert asked(path) is False
    for mode in ("r+b", "ab"):
        with path.open(mode):
            assert asked(path) is True
    with path.open("rb"):
        assert asked(path) is False
    assert asked(path) is False


def test_the_file_lease_is_released_at_once(tmp_path: Path) -> None:
    """A writer that comes after the check does not wait."""
    path = made(tmp_path / "a.mp4")
    fd = os.open(path, os.O_RDONLY)
    try:
        assert held_by_writer(fd, no_table) is False
        assert fcntl.fcntl(fd, fcntl.F_GETLEASE) == fcntl.F_UNLCK
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))  # EWOULDBLOCK if a lease were held
    finally:
        os.close(fd)


def test_a_writer_that_comes_during_the_file_lease_ends_no_process(tmp_path: Path) -> None:
    """The kernel signals the holder, and SIGIO by default would end the process."""
    path = made(tmp_path / "a.mp4")
    code = """
import fcntl, os, signal, subprocess, sys
from uploader.files import open_writers
real = fcntl.fcntl
def slowly(fd, do, what=0):
    answer = real(fd, do, what)
    if do == fcntl.F_SETLEASE and what == fcntl.F_RDLCK:
        subprocess.run([sys.executable, "-c", f"import os\\ntry: os.open({sys.argv[1]!r}, os.O_WRONLY | os.O_NONBLOCK)"
                        "\\nexcept BlockingIOError: print('breaks')"])
    return answer
fcntl.fcntl = slowly
print(open_writers.held_by_writer(os.open(sys.argv[1], os.O_RDONLY), frozenset))
"""
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=20)
    assert (run.returncode, run.stdout, run.stderr) == (0, "breaks\nFalse\n", "")


@pytest.mark.parametrize(
    ("error", "answer"), [(errno.EACCES, True), (errno.EPERM, True), (errno.EINVAL, False), (errno.EAGAIN, True)]
)
def test_without_the_right_to_a_file_lease_proc_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: int, *, answer: bool
) -> None:
    """Another user's file; a file system without leases reports no writers."""
    path = made(tmp_path / "a.mp4")
    status = path.stat()

    def refuse(_: int, do: int, *__: object) -> int:
        if do == fcntl.F_SETLEASE:
            raise OSError(error, os.strerror(error))
        return 0

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    assert asked(path, lambda: frozenset({(status.st_dev, status.st_ino)})) is answer
    assert asked(path, frozenset) is (error == errno.EAGAIN)


def test_proc_shows_files_open_for_writing(tmp_path: Path) -> None:
    """Regular files of this and other processes; not those that are only read."""
    path, read = made(tmp_path / "a.mp4"), made(tmp_path / "b.mp4")

    def inode(of: Path) -> tuple[int, int]:
        status = of.stat()
        return status.st_dev, status.st_ino

    with path.open("ab"), read.open("rb"):
        table = open_for_writing()
        assert inode(path) in table
        assert inode(read) not in table
    assert inode(path) not in open_for_writing()
