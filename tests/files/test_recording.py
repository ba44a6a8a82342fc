"""A recording: its identity, and reading it once from front to back."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from fakes import content, made
from hypothesis import given
from hypothesis import strategies as st
from shares import identify, opened, share_of

from uploader.domain import errors
from uploader.domain.model import Identity
from uploader.files.inspection import EDGE_SIZE
from uploader.files.recording import READ_BLOCK, Recording
from uploader.files.safe_open import open_regular


@pytest.mark.parametrize("size", [0, 1, EDGE_SIZE - 1, EDGE_SIZE, EDGE_SIZE + 1, 2 * EDGE_SIZE, 3 * EDGE_SIZE])
async def test_an_identity_is_size_time_and_both_ends(tmp_path: Path, size: int) -> None:
    """The first and the last block, each byte once; small files whole."""
    data = content(size)
    path = made(tmp_path / "a.mp4", data)
    os.utime(path, ns=(5, 7))
    ends = data if size <= 2 * EDGE_SIZE else data[:EDGE_SIZE] + data[-EDGE_SIZE:]
    assert await identify(path) == Identity(size, 7, hashlib.sha256(ends).hexdigest())


@given(st.integers(0, 3 * EDGE_SIZE - 1))
def test_a_change_at_either_end_is_another_identity(place: int) -> None:
    """A byte in the first or last block counts; the middle is left to the hash of what is sent."""
    data = bytearray(content(3 * EDGE_SIZE))
    with tempfile.TemporaryDirectory() as folder:
        path = made(Path(folder) / "a.mp4", bytes(data))
        before = asyncio.run(identify(path)).edges
        data[place] ^= 1
        path.write_bytes(data)
        after = asyncio.run(identify(path)).edges
    assert (before == after) == (EDGE_SIZE <= place < 2 * EDGE_SIZE)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda path: None, errors.FileMissing),
        (lambda path: path.mkdir(), errors.NotAFile),
        (lambda path: path.symlink_to("/etc/hostname"), errors.NotAFile),
        (os.mkfifo, errors.NotAFile),
    ],
    ids=["missing", "folder", "link", "FIFO"],
)
async def test_only_a_regular_file_has_an_identity(tmp_path: Path, make: object, error: type[Exception]) -> None:
    """Links are not followed, and a FIFO without a writer is not waited for."""
    assert callable(make)
    path = tmp_path / "a.mp4"
    make(path)
    async with asyncio.timeout(5):
        with pytest.raises(error):
            await identify(path)
        with pytest.raises(error):
            async with opened(path, Identity(1, 1, "")):
                pass


def test_a_device_is_not_read() -> None:
    """Reading could be endless or move a tape; anything but a regular file is closed at once."""
    with pytest.raises(errors.NotAFile, match="is a device, not a regular file"):
        open_regular("/dev/zero")


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EBUSY, errno.ESTALE, errno.ENAMETOOLONG])
async def test_an_error_of_the_share_means_not_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """EIO, EACCES, EBUSY, ESTALE, from whichever call."""
    path = made(tmp_path / "a.mp4")
    identity = await identify(path)

    def fails(*_: object) -> bytes:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", fails)
        with pytest.raises(errors.ShareNotReady, match=os.strerror(number)):
            await identify(path)
    async with opened(path, identity) as recording:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fstat", fails)
            with pytest.raises(errors.ShareNotReady, match=os.strerror(number)):
                await recording.check_unchanged()


async def test_a_recording_is_read_front_to_back_in_blocks(tmp_path: Path) -> None:
    """Every byte once, at most a block at a time, hashed on the way."""
    data = content(2 * READ_BLOCK + 17)
    path = made(tmp_path / "a.mp4", data)
    async with opened(path, await identify(path)) as recording:
        blocks = [block async for block in recording.blocks(len(data))]
        assert (recording.position, recording.digest) == (len(data), hashlib.sha256(data).hexdigest())
    assert [len(block) for block in blocks] == [READ_BLOCK, READ_BLOCK, 17]
    assert b"".join(blocks) == data


async def test_a_chunk_ends_at_its_given_end(tmp_path: Path) -> None:
    """The next chunk begins there, and the digest is that of all bytes so far."""
    data = content(100)
    path = made(tmp_path / "a.mp4", data)
    async with opened(path, await identify(path)) as recording:
        for end in (40, 80, 100):
            start = recording.position
            assert b"".join([block async for block in recording.blocks(end)]) == data[start:end]
            assert recording.digest == hashlib.sha256(data[:end]).hexdigest()
        assert [block async for block in recording.blocks(100)] == []


async def test_a_bookmark_gives_the_same_chunk_again(tmp_path: Path) -> None:
    """A chunk can be sent twice, or broken off, without reading what came before."""
    data = content(2 * READ_BLOCK)
    path = made(tmp_path / "a.mp4", data)
    async with opened(path, await identify(path)) as recording:
        async for _ in recording.blocks(30):
            pass
        bookmark = recording.bookmark()
        async for _ in recording.blocks(2 * READ_BLOCK):
            break
        for _ in range(2):
            recording.return_to(bookmark)
            assert (recording.position, recording.digest) == (30, hashlib.sha256(data[:30]).hexdigest())
            again = b"".join([block async for block in recording.blocks(READ_BLOCK + 5)])
            assert again == data[30 : READ_BLOCK + 5]
            assert recording.digest == hashlib.sha256(data[: READ_BLOCK + 5]).hexdigest()


async def test_resuming_compares_the_acknowledged_bytes(tmp_path: Path) -> None:
    """After a restart they are read again and their digest is compared."""
    data = content(100)
    path = made(tmp_path / "a.mp4", data)
    async with opened(path, await identify(path)) as recording:
        await recording.skip_to(40, hashlib.sha256(data[:40]).hexdigest())
        assert recording.position == 40
        await recording.skip_to(0, "")
        assert recording.position == 0
        with pytest.raises(errors.FileChanged, match="no longer begins with the bytes that were sent"):
            await recording.skip_to(40, hashlib.sha256(data[:39] + b"!").hexdigest())


async def test_a_file_that_is_cut_is_never_padded(tmp_path: Path) -> None:
    """A read past its end raises that the file has changed, and gives no zeros."""
    path = made(tmp_path / "a.mp4", content(100))
    async with opened(path, await identify(path)) as recording:
        os.truncate(path, 60)
        blocks = recording.blocks(100)
        assert await anext(blocks) == content(100)[:60]
        with pytest.raises(errors.FileChanged, match="was cut short"):
            await anext(blocks)
        with pytest.raises(errors.FileChanged, match="shrank from 100 to 60 bytes"):
            await recording.check_unchanged()


async def test_a_file_that_grows_or_is_written_is_noticed(tmp_path: Path) -> None:
    """Size and content are compared before the last byte of each chunk goes."""
    path = made(tmp_path / "a.mp4", content(100))
    identity = await identify(path)
    async with opened(path, identity) as recording:
        await recording.check_unchanged()
        os.utime(path, ns=(1, identity.mtime_ns + 1))
        await recording.check_unchanged()
        path.write_bytes(content(100, seed=1))
        with pytest.raises(errors.FileChanged, match="was written to"):
            await recording.check_unchanged()
        with path.open("ab") as file:
            file.write(b"more")
        with pytest.raises(errors.FileChanged, match="grew from 100 to 104 bytes"):
            await recording.check_unchanged()
    with pytest.raises(errors.FileChanged, match="grew"):
        async with opened(path, identity):
            pass


async def read_to(recording: Recording, end: int) -> None:
    """Read on, as sending does."""
    async for _ in recording.blocks(end):
        pass


async def look_and_prove(recording: Recording) -> None:
    """Check as before the last byte of the file."""
    await recording.check_unchanged()
    await recording.prove()


@pytest.mark.parametrize("at", [EDGE_SIZE + 5, 3 * EDGE_SIZE - 1])
async def test_what_was_sent_is_compared_when_the_mtime_moves(tmp_path: Path, at: int) -> None:
    """All of it, not its ends alone; a moved time without a changed content goes on."""
    data, size = bytearray(content(5 * EDGE_SIZE)), 5 * EDGE_SIZE
    path = made(tmp_path / "a.mp4", bytes(data))
    identity = await identify(path)
    async with opened(path, identity) as recording:
        await read_to(recording, 3 * EDGE_SIZE)
        os.utime(path, ns=(1, 1))
        await recording.check_unchanged()
        assert recording.mtime_ns == 1
        data[at] ^= 1
        with path.open("r+b") as file:
            file.seek(at)
            file.write(data[at : at + 1])
        await read_to(recording, size)
        with pytest.raises(errors.FileChanged, match="was written to"):
            await look_and_prove(recording)


async def test_comparing_reads_a_file_at_most_twice_however_often_its_time_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once on the way, once before its last byte; a change that came in between is found at the latest then."""
    data, step = content(40 * 4096 + EDGE_SIZE), 4096
    path = made(tmp_path / "a.mp4", data)
    identity, read = await identify(path), 0
    hashed = Recording._hashed

    async def counting(self: Recording, digest: Any, start: int, count: int) -> Any:
        nonlocal read
        read += count
        return await hashed(self, digest, start, count)

    monkeypatch.setattr(Recording, "_hashed", counting)
    async with opened(path, identity) as recording:
        for end in range(step, len(data) + 1, step):
            await read_to(recording, end)
            os.utime(path, ns=(1, end))
            await recording.check_unchanged()
            mark = recording.bookmark()
        assert 0 < read <= len(data)
        recording.return_to(mark)
        await recording.prove()
        assert len(data) <= read <= 2 * len(data)
        await recording.prove()
        assert read <= 2 * len(data)


async def test_a_bookmark_remembers_what_is_still_to_be_compared(tmp_path: Path) -> None:
    """A later open of the file that goes on from it compares it before the last byte."""
    data = bytearray(content(5 * EDGE_SIZE))
    path = made(tmp_path / "a.mp4", bytes(data))
    identity = await identify(path)
    async with opened(path, identity) as recording:
        await read_to(recording, 4 * EDGE_SIZE)
        recording._compared = recording.identity.size  # all that is allowed on the way has been read again
        data[2 * EDGE_SIZE] ^= 1
        path.write_bytes(data)
        await recording.check_unchanged()
        mark = recording.bookmark()
    async with opened(path, identity) as again:
        assert again.is_as_at(mark)
        again.return_to(mark)
        with pytest.raises(errors.FileChanged, match="was written to"):
            await again.prove()


def open_handles() -> int:
    """How many this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_no_handle_is_left_open(tmp_path: Path) -> None:
    """Whether it was read to the end, given up in the middle, or refused."""
    path = made(tmp_path / "a.mp4", content(100))
    identity = await identify(path)
    before = open_handles()
    async with opened(path, identity) as recording:
        await anext(recording.blocks(10))
        assert open_handles() == before + 2  # its own, and the one that threads hold
    with pytest.raises(errors.FileChanged):
        async with opened(path, Identity(1, 1, "")):
            pass
    assert open_handles() == before


async def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    """And a missing file is said to be missing."""
    path = made(tmp_path / "a.mp4", content(READ_BLOCK + 3))
    share = share_of(tmp_path)
    assert await share.sha256(str(path)) == hashlib.sha256(content(READ_BLOCK + 3)).hexdigest()
    with pytest.raises(errors.FileMissing, match=r"gone\.mp4 is not there"):
        await share.sha256(str(tmp_path / "gone.mp4"))
