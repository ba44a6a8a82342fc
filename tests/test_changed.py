"""A file that changes, goes away or comes back while it is sent: never finished as what it no longer is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import Rig
from parts import CHUNK, at, chunked, content_of, sha256, spans

from uploader import events
from uploader.clock import SystemClock
from uploader.files import Recording
from uploader.model import State, Turn
from uploader.simulator import Semantics, Settings


def grow(path: Path) -> None:
    """Append to the file."""
    with path.open("ab") as file:
        file.write(b"and more")


def shrink(path: Path) -> None:
    """Cut the file short."""
    os.truncate(path, 3 * CHUNK + 1)


def rewrite(path: Path) -> None:
    """Write other content of the same size."""
    path.write_bytes(content_of(path.stat().st_size, seed=9))


def replace(path: Path) -> None:
    """Put another file in its place."""
    other = path.with_name(".other")
    other.write_bytes(content_of(2 * CHUNK + 5, seed=9))
    other.replace(path)


def replace_alike(path: Path) -> None:
    """Put another file of the same size in its place."""
    other = path.with_name(".other")
    other.write_bytes(content_of(path.stat().st_size, seed=9))
    other.replace(path)


def touch(path: Path) -> None:
    """Give it another mtime and leave its content alone."""
    os.utime(path, (1000, 1000))


CHANGES = [grow, shrink, rewrite, replace, replace_alike, touch]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("after", ["a chunk", "all but the last byte"])
async def test_file_that_changes_while_it_is_sent_begins_anew(
    tmp_path: Path, change: Callable[[Path], None], after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old record is never finished but cleared away; what stands there now is sent whole when it has settled."""
    async with Rig(tmp_path, Settings(semantics=Semantics.APPEND, processing=0.0)) as rig:
        check = Recording.check_unchanged
        changed = False

        async def meanwhile(self: Recording) -> None:
            nonlocal changed
            if self.position >= (CHUNK if after == "a chunk" else 4 * CHUNK) and not changed:
                changed = True
                change(Path(self.path))
            await check(self)

        monkeypatch.setattr(Recording, "check_unchanged", meanwhile)
        await rig.start()
        path = await rig.drop("a.mp4", content_of(4 * CHUNK))
        await rig.event(events.FileChanged, path=path)
        await rig.finished(path)
        await rig.swept()
        data = at(path).read_bytes()
        assert rig.record.sha256 == sha256(data)
        assert spans(rig.record) == chunked(len(data))
        first, second = (event.record for event in rig.seen(events.RecordCreated))
        assert [event.record for event in rig.seen(events.OrphanCleared)] == [first]
        assert rig.store.ledger.count == 1
        assert rig.record.id == second


async def test_file_that_changes_between_two_lives_begins_anew(tmp_path: Path) -> None:
    """Changed while the daemon was down, size and mtime as they were: what was sent tells, and it begins anew."""
    async with Rig(tmp_path) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", content_of(6 * CHUNK))
        await rig.event(events.ChunkAcknowledged, offset=2 * CHUNK)
        await rig.stop()
        status = at(path).stat()
        data = bytearray(at(path).read_bytes())
        data[CHUNK + 7] ^= 1  # in the middle, where no identity looks
        at(path).write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        await rig.start()
        await rig.event(events.FileChanged, path=path)
        await rig.finished(path)
        await rig.swept()
        assert rig.record.sha256 == sha256(bytes(data))


async def test_file_that_is_deleted_while_it_is_sent_is_still_sent(tmp_path: Path) -> None:
    """The open file may be all that is left of it: it is sent to its end."""
    data = content_of(4 * CHUNK)
    async with Rig(tmp_path) as rig:
        stall = rig.fault("upload", "stall", skip=1)
        await rig.start()
        path = await rig.drop("a.mp4", data)
        async with asyncio.timeout(10):
            await stall.standing.wait()
        at(path).unlink()
        stall.release()
        await rig.finished(path)
        assert rig.record.sha256 == sha256(data)


async def test_file_that_is_missing_parks_and_comes_back(tmp_path: Path) -> None:
    """Begun, then gone: parked, and it is the file's turn; back as it was, it goes on where it had stopped."""
    data = content_of(4 * CHUNK)
    async with Rig(tmp_path) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", data)
        await rig.event(events.ChunkAcknowledged, offset=CHUNK)
        await rig.stop()
        aside = at(path).rename(tmp_path / "aside.mp4")
        await rig.start()
        parked = await rig.event(events.UploadParked, path=path)
        assert parked.turn is Turn.FILE
        assert "is not there" in parked.reason
        await rig.restart()
        await rig.scan()
        assert rig.state_of(path) is State.PARKED
        aside.rename(path)
        await rig.scan()
        await rig.finished(path)
        assert spans(rig.record) == chunked(len(data))


async def test_missing_file_that_comes_back_as_another_is_a_new_one(tmp_path: Path) -> None:
    """Parked as missing, then other content at its path: sent on a new record, the old one cleared away."""
    async with Rig(tmp_path) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", content_of(4 * CHUNK))
        await rig.event(events.ChunkAcknowledged, offset=CHUNK)
        await rig.stop()
        at(path).unlink()
        await rig.start()
        await rig.event(events.UploadParked, path=path)
        await rig.drop("a.mp4", b"another")
        await rig.finished(path)
        await rig.swept()
        assert rig.record.sha256 == sha256(b"another")


async def test_empty_file_is_parked_until_it_has_content(tmp_path: Path) -> None:
    """An empty file makes no record and is no failure; with content it is sent."""
    async with Rig(tmp_path) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", b"")
        parked = await rig.event(events.UploadParked, path=path)
        assert parked.turn is Turn.FILE
        assert "empty" in parked.reason
        await rig.restart()
        await rig.scan()
        await rig.finished(await rig.drop("b.mp4", b"b"))
        assert len(rig.seen(events.UploadParked)) == 1
        assert len(rig.records) == 1
        at(path).write_bytes(b"content")
        await rig.scan()
        await rig.finished(path)
        assert rig.records[-1].sha256 == sha256(b"content")


async def test_writer_in_real_time_is_sent_once_and_whole(tmp_path: Path) -> None:
    """A file that is written to for longer than ``settle`` makes one record, of everything."""
    async with Rig(tmp_path, watch={"settle": "250ms", "mode": "events"}, clock=SystemClock()) as rig:
        await rig.start()
        path = rig.watch / "a.mp4"
        with path.open("wb") as file:
            for number in range(12):
                file.write(content_of(10_000, number))
                file.flush()
                await asyncio.sleep(0.05)  # the pace of the writer is what is tested
        assert rig.seen(events.FileSettled) == []
        await rig.finished(str(path))
        assert rig.record.sha256 == sha256(path.read_bytes())
        assert len(rig.seen(events.FileSettled)) == 1
