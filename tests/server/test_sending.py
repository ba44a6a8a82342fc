"""``sendfile`` of a local file: bytes go from the page cache to the socket and are hashed meanwhile."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from fakes import content, made
from harness import Rig
from proxy import UPLOAD, LineFault, line_to
from shares import identify, opened
from test_client import SPEC, Home
from test_client_sockets import nothing, simulated

from uploader.domain import errors, events
from uploader.files import Recording, sending
from uploader.files.shared_fd import SharedFd
from uploader.server.valt.body import SENDFILE_THRESHOLD
from uploader.server.valt.sendfile import UNSENT_LIMIT, SocketWriter
from uploader.testing.simulator import Fault

SIZE = 3 * SENDFILE_THRESHOLD + 17


async def never() -> None:
    """There is always room."""
    raise AssertionError("the socket had no room")


@asynccontextmanager
async def a_recording(tmp_path: Path, size: int = SIZE) -> AsyncIterator[tuple[Path, Recording]]:
    """A local file, open for sending."""
    path = made(tmp_path / "a.mp4", content(size))
    async with opened(path, await identify(path)) as recording:
        assert recording.local
        yield path, recording


@asynccontextmanager
async def a_peer() -> AsyncIterator[tuple[SharedFd, socket.socket]]:
    """Two ends of a connection: a handle of the one that is written to, and the other."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    handle = SharedFd.copy_of(ours.fileno())
    with ours, theirs:
        yield handle, theirs
        handle.close()


async def passed(recording: Recording, count: int) -> bytes:
    """What a peer gets of the next *count* bytes."""
    async with a_peer() as (handle, theirs):
        await recording.pass_on(handle, count, room=never, on_progress=lambda _: None)
        return theirs.recv(count, socket.MSG_WAITALL)


async def test_sent_bytes_are_hashed_and_counted(tmp_path: Path) -> None:
    """The peer gets the bytes, the digest is theirs, and the position is behind them."""
    async with a_recording(tmp_path, 1000) as (_, recording):
        assert await passed(recording, 400) == content(1000)[:400]
        assert recording.digest == hashlib.sha256(content(1000)[:400]).hexdigest()
        assert await passed(recording, 600) == content(1000)[400:]
        assert (recording.position, recording.digest) == (1000, hashlib.sha256(content(1000)).hexdigest())
        await recording.check_unchanged()
        await recording.confirm()


def overwrite(path: Path, *, hide: bool) -> None:
    """Write into the file; *hide*: and set its mtime back, as some tools do."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"other")
    if hide:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("hide", [False, True])
@pytest.mark.parametrize("moment", ["check_unchanged", "confirm"])
async def test_a_write_while_bytes_are_under_way_is_a_change(tmp_path: Path, moment: str, *, hide: bool) -> None:
    """Pages are sent without a copy: a write before the answer spoils the chunk, even with mtime set back."""
    async with a_recording(tmp_path, 1000) as (path, recording):
        await passed(recording, 1000)
        if moment == "confirm":
            await recording.check_unchanged()
        overwrite(path, hide=hide)
        with pytest.raises(errors.FileChanged, match="was written to"):
            await getattr(recording, moment)()


async def test_a_rename_while_bytes_are_under_way_is_no_change(tmp_path: Path) -> None:
    """Only ctime changes, so the chunk is read again and compared."""
    async with a_recording(tmp_path, 1000) as (path, recording):
        await passed(recording, 1000)
        path.rename(path.with_name("b.mp4"))
        path.with_name("b.mp4").chmod(0o600)
        await recording.check_unchanged()
        await recording.confirm()


async def test_a_file_that_is_cut_short_is_never_padded(tmp_path: Path) -> None:
    """Neither the hash nor the socket finds bytes where there are none."""
    async with a_recording(tmp_path, 1000) as (path, recording):
        os.truncate(path, 600)
        with pytest.raises(errors.FileChanged, match="was cut short"):
            await passed(recording, 1000)


async def test_a_bookmark_serves_another_opening_of_the_same_file_alone(tmp_path: Path) -> None:
    """The digest continues from it only if the file is the same and not even its ctime has changed."""
    async with a_recording(tmp_path, 1000) as (path, recording):
        await passed(recording, 400)
        bookmark = recording.bookmark()
        identity = recording.identity
    async with opened(path, identity) as again:
        assert again.is_as_at(bookmark)
        again.return_to(bookmark)
        await passed(again, 600)
        assert again.digest == hashlib.sha256(content(1000)).hexdigest()
    path.chmod(0o600)
    async with opened(path, identity) as other:
        assert not other.is_as_at(bookmark)


async def test_a_full_socket_is_waited_for_without_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the peer takes nothing, the event loop waits, and the share's threads are free."""
    at_it, pass_on = [], sending.pass_on

    def watched(*args: Any) -> int:
        at_it.append("a thread")
        try:
            return pass_on(*args)
        finally:
            at_it.pop()

    monkeypatch.setattr(sending, "pass_on", watched)
    async with a_recording(tmp_path) as (_, recording), a_peer() as (handle, theirs):
        waited, got = [], bytearray()

        async def room() -> None:
            assert at_it == []
            waited.append(len(got))
            got.extend(theirs.recv(1 << 20))

        await recording.pass_on(handle, SIZE, room=room, on_progress=lambda _: None)
        while len(got) < SIZE:
            got += theirs.recv(1 << 20)
        assert waited
        assert bytes(got) == content(SIZE)


async def test_a_handle_is_not_closed_while_a_thread_uses_it() -> None:
    """Its number could be that of another file by then."""
    end, other = os.pipe()
    handle = SharedFd(end)
    with handle.held() as fd:
        handle.close()
        handle.close()
        os.fstat(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(end)
    with pytest.raises(BrokenPipeError), handle.held():
        pass
    os.close(other)


# Over a real connection


async def send_file(home: Any, ids: Any, recording: Recording, size: int) -> list[int]:
    """Send it whole; the progress that was told of."""
    told: list[int] = []
    await home.valt.send_chunk(
        ids, "a.mp4", (0, size, size), recording, before_last_byte=nothing, on_progress=told.append
    )
    return told


def counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """Note how many bytes each call of a function of ``sending`` was about."""
    calls: list[int] = []
    function: Callable[..., Any] = getattr(sending, name)

    def counts(*args: Any) -> Any:
        result = function(*args)
        calls.append(args[3] if result is None else result)
        return result

    monkeypatch.setattr(sending, name, counts)
    return calls


async def test_a_local_file_is_sent_without_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over plain HTTP this process reads each byte only once, for the hash."""
    went, hashed, read = (counted(monkeypatch, name) for name in ("pass_on", "hash_up", "read_block"))
    async with simulated(tmp_path) as (home, simulator), a_recording(tmp_path) as (_, recording):
        ids = await home.valt.create_record(SPEC)
        assert sum(await send_file(home, ids, recording, SIZE)) == SIZE
        assert (sum(went), sum(hashed), sum(read)) == (SIZE, SIZE, 0)
        (record,) = simulator.records()
        assert record.sha256 == recording.digest == hashlib.sha256(content(SIZE)).hexdigest()
        await home.valt.details(ids.record)  # the connection is as good as before


@pytest.mark.parametrize("why", ["small", "network share", "sendfile refuses"])
async def test_other_files_are_sent_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    """Small or remote files, or those over TLS; each byte is read once."""
    size = SENDFILE_THRESHOLD if why == "small" else SIZE
    read = counted(monkeypatch, "read_block")
    if why == "sendfile refuses":

        def refuses(*_: object) -> int:
            raise sending.CannotPass

        monkeypatch.setattr(sending, "pass_on", refuses)
    async with simulated(tmp_path) as (home, simulator), a_recording(tmp_path, size) as (_, recording):
        recording.local = why != "network share"
        ids = await home.valt.create_record(SPEC)
        assert sum(await send_file(home, ids, recording, size)) == size
        assert sum(read) == size
        (record,) = simulator.records()
        assert record.sha256 == recording.digest == hashlib.sha256(content(size)).hexdigest()


LARGE = 40 * 1024 * 1024  # bytes: more than the buffers of a connection take in


@pytest.mark.parametrize("kind", ["cut-body", "stall", "status"])
async def test_a_connection_that_fails_during_sendfile_is_a_cut(tmp_path: Path, kind: Any) -> None:
    """Broken, stalled or answered early: the chunk was not seen, and the thread releases file and socket."""
    async with simulated(tmp_path, stall_timeout=0.5) as (home, simulator), a_recording(tmp_path, LARGE) as (_, file):
        ids = await home.valt.create_record(SPEC)
        simulator.faults.append(Fault(call="upload", kind=kind, status=502, after_bytes=1000))
        with pytest.raises(errors.ChunkCut):
            await send_file(home, ids, file, LARGE)
        async with asyncio.timeout(5):
            while file._handle._holders > 1:  # noqa: ASYNC110 - a thread ends without an event
                await asyncio.sleep(0.01)


async def test_a_slow_peer_is_no_stall_under_sendfile(tmp_path: Path) -> None:
    """As long as bytes move, however few, the call does not time out."""
    async with simulated(tmp_path, stall_timeout=1.0) as (home, simulator), a_recording(tmp_path, LARGE) as (_, file):
        ids = await home.valt.create_record(SPEC)
        simulator.faults.append(Fault(call="upload", kind="slow", rate=25e6))
        assert sum(await send_file(home, ids, file, LARGE)) == LARGE


@pytest.mark.parametrize("way", ["by reference", "block by block"])
async def test_little_is_buffered_in_the_kernel(tmp_path: Path, way: str) -> None:
    """So a chunk is in doubt only for a moment, as bytes that seem sent are on their way."""
    async with (
        simulated(tmp_path) as (_, simulator),
        a_recording(tmp_path, LARGE) as (_, file),
        line_to(simulator.url, LineFault(UPLOAD, "black-hole", after=1000)) as (proxy, url),
        Home(url, stall_timeout=0.5).valt as valt,
    ):
        file.local = way == "by reference"
        told: list[int] = []
        with pytest.raises(errors.ChunkCut):
            await valt.send_chunk(
                await valt.create_record(SPEC),
                "a.mp4",
                (0, LARGE, LARGE),
                file,
                before_last_byte=nothing,
                on_progress=told.append,
            )
        assert proxy.struck == 1
        assert sum(told) < 2.5 * UNSENT_LIMIT  # what is not sent yet, and what the line holds


async def test_a_cancelled_chunk_cuts_its_connection(tmp_path: Path) -> None:
    """At once, not when its thread is done: the server must not wait for the rest."""
    async with simulated(tmp_path) as (home, simulator), a_recording(tmp_path, LARGE) as (_, file):
        ids = await home.valt.create_record(SPEC)
        stall = Fault(call="upload", kind="stall", after_bytes=1000)
        simulator.faults.append(stall)
        sending_it = asyncio.ensure_future(send_file(home, ids, file, LARGE))
        async with asyncio.timeout(5):
            await stall.standing.wait()
        sending_it.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending_it
        async with asyncio.timeout(5):
            while file._handle._holders > 1:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.01)
        assert (await home.valt.details(ids.record)).videos is None


async def test_a_file_written_before_the_answer_is_sent_again(tmp_path: Path) -> None:
    """The server may hold the old or the new bytes, so the record is not finished."""
    data = content(2 * SENDFILE_THRESHOLD)
    async with Rig(tmp_path, upload={"chunk_size": "whole"}) as rig:
        stall = rig.fault("upload", "stall")
        await rig.start()
        path = await rig.drop("a.mp4", data)
        async with asyncio.timeout(10):
            await stall.standing.wait()
        overwrite(Path(path), hide=False)
        stall.release()
        await rig.event(events.FileChangedWhileSending, path=path)
        await rig.scan()
        await rig.finished(path)
        (line,) = rig.store.ledger.of(path)
        assert line.sha256 == hashlib.sha256(b"other" + data[5:]).hexdigest()


async def test_an_error_cuts_the_connection_even_when_a_thread_hangs() -> None:
    """A disk that does not answer blocks its thread, but not the end of the connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        outlet = SocketWriter(cast("asyncio.Transport", None), SharedFd.copy_of(ours.fileno()))
        with outlet.handle.held():
            with pytest.raises(errors.ShareNotReady), outlet:
                raise errors.ShareNotReady("it does not answer")
            theirs.settimeout(5)
            assert theirs.recv(1) == b""
