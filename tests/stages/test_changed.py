"""A file that changes, goes or comes back during its upload is never finished with mixed or outdated content."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Rig
from parts import CHUNK, at, chunked, content_of, sha256, spans

from uploader.domain import events, retry
from uploader.domain.model import ActionBy, State
from uploader.files import MountedShare, Recording
from uploader.runtime.clock import SystemClock
from uploader.stages.finish import Finish
from uploader.testing.simulator import Semantics, Settings


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


def rewrite_middle(path: Path) -> None:
    """Write other content where it was sent already, between its ends."""
    with path.open("r+b") as file:
        file.seek(CHUNK - 100)
        file.write(b"written to")


def touch(path: Path) -> None:
    """Give it another mtime and leave its content alone."""
    os.utime(path, ns=(1, path.stat().st_mtime_ns + 10**9))


def set_back(path: Path) -> None:
    """Give it the mtime of long ago."""
    os.utime(path, (1000, 1000))


def touch_ctime(path: Path) -> None:
    """Set the mtime that it has, which moves its ctime alone."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_by_copy(path: Path) -> None:
    """Put an equal copy in its place, as rsync does; it has another mtime and another inode."""
    other = path.with_name(".other")
    other.write_bytes(path.read_bytes())
    other.replace(path)


def rewrite_by_time(path: Path) -> None:
    """Write content of the same size that was never there before."""
    path.write_bytes(content_of(path.stat().st_size, seed=time.monotonic_ns() % 2**32))


CHANGES = [grow, shrink, rewrite, rewrite_middle, replace, replace_alike]
UNCHANGED = [touch, set_back, touch_ctime, replace_by_copy]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("after", ["a chunk", "all but the last byte"])
async def test_file_that_changes_while_it_is_sent_begins_anew(
    tmp_path: Path, change: Callable[[Path], None], after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old record is deleted and never finished; the new content is sent whole when it has settled."""
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
        await rig.event(events.FileChangedWhileSending, path=path)
        await rig.finished(path)
        await rig.swept()
        data = at(path).read_bytes()
        assert rig.record.sha256 == sha256(data)
        assert spans(rig.record) == chunked(len(data))
        first, second = (event.record for event in rig.seen(events.RecordCreated))
        assert [event.record for event in rig.seen(events.OrphanCleared)] == [first]
        assert rig.store.ledger.count == 1
        assert rig.record.id == second


@pytest.mark.parametrize("change", UNCHANGED)
@pytest.mark.parametrize("whole", [False, True])
async def test_a_file_whose_content_stands_still_is_sent_on_one_record(
    tmp_path: Path, change: Callable[[Path], None], whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often its times move, or an equal copy takes its name, before the last byte of any chunk."""
    data = content_of(8 * CHUNK)
    upload = {"chunk_size": "whole"} if whole else {}
    async with Rig(tmp_path, Settings(semantics=Semantics.APPEND, processing=0.0), upload=upload) as rig:
        check, changes = Recording.check_unchanged, 0

        async def meanwhile(self: Recording) -> None:
            nonlocal changes
            if self.position and (change is not replace_by_copy or changes < 3):
                changes += 1
                change(Path(self.path))
            await check(self)

        monkeypatch.setattr(Recording, "check_unchanged", meanwhile)
        await rig.start()
        path = await rig.drop("a.mp4", data)
        await rig.finished(path)
        assert changes >= (1 if whole else 3)
        assert rig.record.sha256 == sha256(data)
        assert rig.store.ledger.count == 1
        assert rig.seen(events.FileChangedWhileSending) == []
        await rig.scan()
        await rig.finished(await rig.drop("b.mp4", b"b"))
        assert len(rig.records) == 2


async def test_a_file_whose_mtime_never_comes_to_rest_is_sent_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It moves between every two looks of the settle stage, before it is opened, and at each check."""
    data = content_of(6 * CHUNK)
    async with Rig(tmp_path, watch={"gate_timeout": "500ms", "gate": False}) as rig:
        look, opened = MountedShare.snapshot, MountedShare.open

        async def restless(self: MountedShare, name: str) -> Any:
            touch(Path(name))
            return await look(self, name)

        def restless_open(self: MountedShare, name: str, identity: Any) -> Any:
            touch(Path(name))
            return opened(self, name, identity)

        monkeypatch.setattr(MountedShare, "snapshot", restless)
        monkeypatch.setattr(MountedShare, "open", restless_open)
        await rig.start()
        path = await rig.drop("a.mp4", data)
        await rig.finished(path)
        assert rig.record.sha256 == sha256(data)
        assert len(rig.seen(events.RecordCreated)) == 1


@pytest.mark.parametrize("change", UNCHANGED)
async def test_a_file_that_is_touched_while_the_daemon_is_stopped_goes_on(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """What was sent is compared, and the rest follows."""
    data = content_of(6 * CHUNK)
    async with Rig(tmp_path) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", data)
        await rig.event(events.ChunkAcknowledged, offset=2 * CHUNK)
        await rig.stop()
        change(at(path))
        await rig.start()
        await rig.finished(path)
        assert rig.record.sha256 == sha256(data)
        assert len(rig.seen(events.RecordCreated)) == 1


@pytest.mark.parametrize("after", ["delete", "move"])
async def test_a_file_that_is_touched_after_it_was_sent_is_disposed_of(
    tmp_path: Path, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its content shows that it is the one that was sent."""
    finish = Finish.finish

    async def meanwhile(self: Finish, upload: Any) -> None:
        touch(at(upload.path))
        await finish(self, upload)

    monkeypatch.setattr(Finish, "finish", meanwhile)
    watch = {"after_upload": after} | ({"move_to": str(tmp_path / "done")} if after == "move" else {})
    async with Rig(tmp_path, watch=watch) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", content_of(2 * CHUNK))
        done = await rig.event(events.UploadFinished, path=path)
        assert done.file == {"delete": "deleted", "move": "moved"}[after]
        assert not at(path).exists()


@pytest.mark.parametrize("after", ["delete", "move"])
async def test_a_reload_while_a_touched_file_is_compared_keeps_it(
    tmp_path: Path, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison may take minutes; what becomes of the file is what the configuration says after it."""
    finish, sha256_of = Finish.finish, MountedShare.sha256

    async def meanwhile(self: Finish, upload: Any) -> None:
        touch(at(upload.path))
        await finish(self, upload)

    async def reloaded(share: MountedShare, path: str) -> str:
        digest = await sha256_of(share, path)
        rig._watches = [each | {"after_upload": "keep"} for each in rig._watches]
        rig.operator.reload(rig.config())
        return digest

    monkeypatch.setattr(Finish, "finish", meanwhile)
    monkeypatch.setattr(MountedShare, "sha256", reloaded)
    watch = {"after_upload": after} | ({"move_to": str(tmp_path / "done")} if after == "move" else {})
    async with Rig(tmp_path, watch=watch) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", content_of(2 * CHUNK))
        done = await rig.event(events.UploadFinished, path=path)
        assert done.file == "kept"
        assert at(path).exists()


@pytest.mark.parametrize("name", ["b.mp4", "A.mp4"])
async def test_a_file_that_is_renamed_and_touched_while_it_is_sent_is_sent_once(tmp_path: Path, name: str) -> None:
    """Its inode shows that it is the same file."""
    data = content_of(4 * CHUNK)
    async with Rig(tmp_path) as rig:
        stall = rig.fault("upload", "stall")
        await rig.start()
        path = await rig.drop("a.mp4", data)
        await rig.until(stall.standing.is_set)
        new = at(path).rename(rig.watch / name)
        touch(new)
        await rig.scan()
        await rig.event(events.FileRenamed, path=str(new), before=path)
        stall.release()
        await rig.finished(path)
        await rig.scan()
        await rig.finished(await rig.drop("c.mp4", b"c"))
        assert [record.sha256 for record in rig.records] == [sha256(data), sha256(b"c")]


async def test_a_file_whose_content_changes_again_and_again_is_parked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After five records, with that reason; ``retry`` sends it once it stands still, and so does a day."""
    monkeypatch.setattr(retry, "CHANGE_PAUSES", (0.0, 0.01))
    async with Rig(tmp_path, Settings(semantics=Semantics.APPEND, processing=0.0)) as rig:
        check, writes = Recording.check_unchanged, True

        async def meanwhile(self: Recording) -> None:
            if self.position and writes:
                rewrite_by_time(Path(self.path))
            await check(self)

        monkeypatch.setattr(Recording, "check_unchanged", meanwhile)
        await rig.start()
        path = await rig.drop("a.mp4", content_of(4 * CHUNK))
        parked = await rig.event(events.UploadParked, path=path)
        assert "its content has changed 5 times while it was being sent" in parked.reason
        assert parked.action_by is ActionBy.OPERATOR
        await rig.scan()
        writes = False
        assert len(rig.seen(events.RecordCreated, path=path)) == 5
        await rig.retry(path)
        await rig.finished(path)
        await rig.swept()
        assert rig.records[-1].sha256 == sha256(at(path).read_bytes())
        assert len(rig.records) == 1


async def test_a_file_that_goes_on_changing_does_not_begin_its_pause_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said once for each record, waits for the rest of the pause, and stays parked when it has been parked."""
    monkeypatch.setattr(retry, "CHANGE_PAUSES", (0.5,))
    async with Rig(tmp_path, Settings(semantics=Semantics.APPEND, processing=0.0)) as rig:
        check = Recording.check_unchanged

        async def meanwhile(self: Recording) -> None:
            if self.position:
                rewrite_by_time(Path(self.path))
            await check(self)

        monkeypatch.setattr(Recording, "check_unchanged", meanwhile)
        await rig.start()
        path = await rig.drop("a.mp4", content_of(4 * CHUNK))
        for number in range(1, retry.CHANGES_BEFORE_PARKING):
            waits = await rig.event(events.UploadRetryScheduled, path=path, count=number)
            assert waits.reason.startswith(f"its content has changed {number} time")
            for _ in range(3):
                settled = len(rig.seen(events.FileSettled))
                rewrite_by_time(at(path))
                await rig.scan()
                await rig.event(events.FileSettled, count=settled + 1)
        await rig.event(events.UploadParked, path=path)
        assert len(rig.seen(events.UploadRetryScheduled)) == retry.CHANGES_BEFORE_PARKING - 1
        settled = len(rig.seen(events.FileSettled))
        rewrite_by_time(at(path))
        await rig.scan()
        await rig.event(events.FileSettled, count=settled + 1)
        await rig.until(lambda: rig.application.enqueue.idle)
        assert rig.state_of(path) is State.PARKED
        assert rig.store.uploads[path].identity.mtime_ns == at(path).stat().st_mtime_ns
        assert len(rig.seen(events.UploadParked)) == 1
        assert len(rig.seen(events.RecordCreated)) == retry.CHANGES_BEFORE_PARKING
        await rig.restart()
        await rig.scan()
        assert rig.state_of(path) is State.PARKED


async def test_a_file_that_changes_while_the_daemon_is_stopped_begins_anew(tmp_path: Path) -> None:
    """With equal size and mtime: the digest of the sent bytes shows it."""
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
        await rig.event(events.FileChangedWhileSending, path=path)
        await rig.finished(path)
        await rig.swept()
        assert rig.record.sha256 == sha256(bytes(data))


async def test_file_that_is_deleted_while_it_is_sent_is_still_sent(tmp_path: Path) -> None:
    """The open file may be its last copy, so it is sent to its end."""
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


async def test_a_missing_file_is_parked_and_resumes_when_it_is_back(tmp_path: Path) -> None:
    """Parked until the file comes back; unchanged, it continues where it had stopped."""
    data = content_of(4 * CHUNK)
    async with Rig(tmp_path) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", data)
        await rig.event(events.ChunkAcknowledged, offset=CHUNK)
        await rig.stop()
        aside = at(path).rename(tmp_path / "aside.mp4")
        await rig.start()
        parked = await rig.event(events.UploadParked, path=path)
        assert parked.action_by is ActionBy.FILE
        assert "is not there" in parked.reason
        await rig.restart()
        await rig.scan()
        assert rig.state_of(path) is State.PARKED
        aside.rename(path)
        await rig.scan()
        await rig.finished(path)
        assert spans(rig.record) == chunked(len(data))


async def test_a_missing_file_that_comes_back_changed_is_a_new_recording(tmp_path: Path) -> None:
    """It is sent on a new record, and the old one is deleted."""
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
    """It makes no record and counts as no failure."""
    async with Rig(tmp_path) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", b"")
        parked = await rig.event(events.UploadParked, path=path)
        assert parked.action_by is ActionBy.FILE
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


async def test_a_file_written_for_longer_than_settle_is_sent_once_and_whole(tmp_path: Path) -> None:
    """One record, with everything."""
    async with Rig(tmp_path, watch={"settle": "1s", "mode": "events"}, clock=SystemClock()) as rig:
        await rig.start()
        path = rig.watch / "a.mp4"
        with path.open("wb") as file:
            for number in range(24):
                file.write(content_of(10_000, number))
                file.flush()
                await asyncio.sleep(0.05)  # the pace of the writer is what is tested
        assert rig.seen(events.FileSettled) == []
        await rig.finished(str(path))
        assert rig.record.sha256 == sha256(path.read_bytes())
        assert len(rig.seen(events.FileSettled)) == 1


@pytest.mark.parametrize("change", [grow, shrink, rewrite, replace, replace_alike])
@pytest.mark.parametrize("moment", range(6))
async def test_a_change_at_any_moment_yields_no_mixed_bytes(
    tmp_path: Path, change: Callable[[Path], None], moment: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any read of any block: each finished record holds one content that the file had."""
    first = content_of(3 * CHUNK)
    async with Rig(tmp_path, Settings(semantics=Semantics.APPEND, processing=0.0)) as rig:
        call, calls = Recording._call, 0

        async def meanwhile(self: Recording, work: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == moment + 1:
                change(at(path))
            return await call(self, work)

        monkeypatch.setattr(Recording, "_call", meanwhile)
        await rig.start()
        path = str(rig.watch / "a.mp4")
        await rig.drop("a.mp4", first)
        await rig.finished(path)
        await rig.scan()
        last = at(path).read_bytes()
        await rig.until(lambda: rig.records and rig.records[-1].sha256 == sha256(last), "what is there now")
        await rig.swept()
        assert {record.sha256 for record in rig.records} <= {sha256(first), sha256(last)}


async def test_other_file_with_the_same_size_and_time_is_not_mixed_in(tmp_path: Path) -> None:
    """Renamed over the recording with its mtime: the open file is sent to its end."""
    first = content_of(4 * CHUNK)
    async with Rig(tmp_path) as rig:
        stall = rig.fault("upload", "stall", skip=1)
        await rig.start()
        path = await rig.drop("a.mp4", first)
        await rig.until(stall.standing.is_set)
        times = at(path).stat()
        replace_alike(at(path))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        stall.release()
        await rig.finished(path)
        assert rig.record.sha256 == sha256(first)


@pytest.mark.parametrize("after", ["keep", "move", "delete"])
@pytest.mark.parametrize(
    "noticed", ["while it is sent", "at its end", "after a kill", "after a kill at its end", "after a stop"]
)
async def test_file_that_is_renamed_while_it_is_sent_is_sent_once(tmp_path: Path, after: str, noticed: str) -> None:
    """The upload goes on with the open file; ledger and disposal use the new name, which is not sent again."""
    data = content_of(4 * CHUNK)
    watch = {"after_upload": after, "move_to": str(tmp_path / "done")} if after == "move" else {"after_upload": after}
    async with Rig(tmp_path, watch=watch) as rig:
        stall = rig.fault("details" if "end" in noticed and "kill" in noticed else "upload", "stall")
        await rig.start()
        path = await rig.drop("a.mp4", data)
        await rig.until(stall.standing.is_set)
        new = rig.watch / "sorted" / "b.mp4"
        new.parent.mkdir()
        at(path).rename(new)
        if noticed == "while it is sent":
            await rig.scan()
            await rig.event(events.FileRenamed, path=str(new), before=path)
        if noticed == "after a stop":
            stopping = asyncio.ensure_future(rig.stop())
            stall.release()
            await stopping
            await rig.start()
        elif "kill" in noticed:
            await rig.restart()
        stall.release()
        if noticed != "at its end":
            await rig.scan()
        await rig.event(events.UploadFinished)
        await rig.swept()
        assert [known.record for known in rig.store.ledger.of(str(new))] == [rig.record.id]
        assert rig.record.sha256 == sha256(data)
        assert new.exists() is (after == "keep")
        assert (tmp_path / "done" / "sorted" / "b.mp4").exists() is (after == "move")
        await rig.scan()
        await rig.restart()
        await rig.scan()
        await rig.finished(await rig.drop("c.mp4", b"c"))
        assert len(rig.records) == 2
        assert rig.store.ledger.count == 2
        assert not rig.store.uploads


async def test_file_that_is_renamed_twice_is_followed(tmp_path: Path) -> None:
    """Its last name counts."""
    data = content_of(4 * CHUNK)
    async with Rig(tmp_path) as rig:
        stall = rig.fault("upload", "stall", skip=1)
        await rig.start()
        path = await rig.drop("a.mp4", data)
        await rig.until(stall.standing.is_set)
        for before, name in (("a.mp4", "b.mp4"), ("b.mp4", "c.mp4")):
            (rig.watch / before).rename(rig.watch / name)
            await rig.scan()
            await rig.event(events.FileRenamed, path=str(rig.watch / name))
        stall.release()
        await rig.finished(path)
        await rig.scan()
        await rig.finished(await rig.drop("d.mp4", b"d"))
        assert len(rig.records) == 2
        assert len(rig.store.ledger.of(str(rig.watch / "c.mp4"))) == 1


async def test_a_new_recording_under_the_old_name_of_a_renamed_file_is_sent(tmp_path: Path) -> None:
    """A recorder that writes to one name and then renames: each recording is one record."""
    one, two = content_of(4 * CHUNK), content_of(2 * CHUNK, seed=2)
    async with Rig(tmp_path, watch={"rescan": "1s"}) as rig:
        stall = rig.fault("upload", "stall", skip=1)
        await rig.start()
        path = await rig.drop("current.mp4", one)
        await rig.until(stall.standing.is_set)
        at(path).rename(rig.watch / "first.mp4")
        await rig.scan()
        await rig.event(events.FileRenamed)
        await rig.drop("current.mp4", two)
        stall.release()
        await rig.event(events.UploadFinished, path=path, count=2)
        assert [record.sha256 for record in rig.records] == [sha256(one), sha256(two)]
