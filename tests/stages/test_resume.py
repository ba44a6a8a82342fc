"""After a crash an upload continues at the last acknowledged byte, and sends no acknowledged byte again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from harness import Rig
from parts import CHUNK, MortalDisk, at, chunked, content_of, sha256, spans

from uploader.domain import events
from uploader.domain.model import Identity, RecordSpec, State, Upload
from uploader.domain.retry import DAY
from uploader.files import Recording
from uploader.files.inspection import snapshot_of
from uploader.testing.simulator import FAITHFUL, Fault, Semantics, Settings
from uploader.testing.simulator.api import Api
from uploader.testing.simulator.wire import SimulatedAnswer

CHUNKED = [kind for kind in FAITHFUL if kind is not Semantics.WHOLE]
DATA = content_of(6 * CHUNK + 100)


def settings(semantics: Semantics = Semantics.OFFSET) -> Settings:
    """A server whose videos are ready at once."""
    return Settings(semantics=semantics, processing=0.0)


async def standing(fault: Fault) -> None:
    """Wait until this fault has made something stand still."""
    async with asyncio.timeout(10):
        await fault.standing.wait()


class BodyGate:
    """Stops an upload where all of a chunk but its last bytes has gone, and the mark is not saved yet."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, skip: int = 0) -> None:
        self.skip = skip
        self.reached = asyncio.Event()
        self._check = Recording.check_unchanged
        monkeypatch.setattr(Recording, "check_unchanged", _method(self._wait))

    async def _wait(self, recording: Recording) -> None:
        if recording.position > self.skip:
            self.reached.set()
            await asyncio.Event().wait()
        await self._check(recording)

    async def wait(self) -> None:
        """Return when the upload stands there."""
        async with asyncio.timeout(10):
            await self.reached.wait()


def _method(function: Callable[[Recording], Awaitable[None]]) -> Callable[[Recording], Awaitable[None]]:
    """Wrap *function* so that a class hands its instance to it."""

    def method(recording: Recording) -> Awaitable[None]:
        return function(recording)

    return method


def intent(rig: Rig, path: str, *, age: float = 0.0, **changes: Any) -> Upload:
    """The upload of *path* as a crash between *create record* and the save of its ids leaves it."""
    upload = Upload(
        path=path,
        root=str(rig.watch),
        identity=identity_of(path),
        record=RecordSpec("a"),
        chunk_size=CHUNK,
        state=State.CREATING,
        intent_at=rig.clock.now() - age,
        begun_at=rig.clock.now(),
    )
    return replace(upload, **changes)


def identity_of(path: str) -> Identity:
    """What ``files`` makes of a file."""
    with Path(path).open("rb") as file:
        return snapshot_of(file.fileno()).identity


@pytest.mark.parametrize("semantics", CHUNKED)
@pytest.mark.parametrize("acknowledged", [0, 1, 3, 6])
async def test_a_kill_during_a_body_resumes_at_the_offset(
    tmp_path: Path, semantics: Semantics, acknowledged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any chunk: the rest goes to the same record; nothing is in doubt or sent twice."""
    async with Rig(tmp_path, settings(semantics)) as rig:
        with monkeypatch.context() as patch:
            gate = BodyGate(patch, skip=acknowledged * CHUNK)
            await rig.start()
            path = await rig.drop("a.mp4", DATA)
            await gate.wait()
            await rig.kill()
        saved = rig.on_disk(path)
        assert (saved.state, saved.offset) == (State.SENDING, acknowledged * CHUNK)
        await rig.start()
        await rig.finished(path)
        assert rig.record.sha256 == sha256(DATA)
        assert spans(rig.record) == chunked(len(DATA))
        assert rig.seen(events.UploadInDoubt) == []
        resumed = [(event.offset, event.record) for event in rig.seen(events.UploadResumed)]
        assert resumed == ([(acknowledged * CHUNK, rig.record.id)] if acknowledged else [])
        assert len(rig.calls("create")) == 1


async def test_a_kill_in_every_chunk_still_makes_one_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is sent once."""
    async with Rig(tmp_path) as rig:
        path = rig.write("a.mp4", DATA)
        for number in range(7):
            with monkeypatch.context() as patch:
                gate = BodyGate(patch, skip=number * CHUNK)
                await rig.start()
                await gate.wait()
                await rig.kill()
        await rig.start()
        await rig.finished(path)
        assert spans(rig.record) == chunked(len(DATA))
        assert rig.record.sha256 == sha256(DATA)


@pytest.mark.parametrize("semantics", CHUNKED)
async def test_a_stop_between_chunks_resumes_after_the_last_one(tmp_path: Path, semantics: Semantics) -> None:
    """After an orderly stop."""
    async with Rig(tmp_path, settings(semantics)) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await rig.event(events.ChunkAcknowledged, path=path, offset=2 * CHUNK)
        await rig.stop()
        assert rig.on_disk(path).state is State.SENDING
        await rig.start()
        await rig.finished(path)
        assert spans(rig.record) == chunked(len(DATA))


@pytest.mark.parametrize("semantics", CHUNKED)
@pytest.mark.parametrize("acknowledged", [0, 2])
async def test_a_kill_after_the_mark_asks_the_server_first(
    tmp_path: Path, semantics: Semantics, acknowledged: int
) -> None:
    """Killed between a last byte and its answer: the record is found empty, and a new one is filled."""
    async with Rig(tmp_path, settings(semantics)) as rig:
        stall = rig.fault("upload", "stall", skip=acknowledged)
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await standing(stall)
        saved = rig.on_disk(path)  # the server has the whole request: by now the mark must be on the disk
        assert (saved.state, saved.offset) == (State.IN_DOUBT, acknowledged * CHUNK)
        assert saved.doubt_end == (acknowledged + 1) * CHUNK
        await rig.kill()
        old = rig.record.id
        calls = len(rig.simulator.calls)
        await rig.start()
        await rig.finished(path)
        await rig.swept()
        names = [call.name for call in list(rig.simulator.calls)[calls:] if call.name != "upload" or call.status]
        assert names[:2] == ["login", "details"]
        assert rig.record.id != old
        assert spans(rig.record) == chunked(len(DATA))
        assert rig.record.sha256 == sha256(DATA)
        assert [event.record for event in rig.seen(events.OrphanCleared)] == [old]


@pytest.mark.parametrize("semantics", FAITHFUL)
async def test_a_kill_after_the_last_mark_finds_the_video(tmp_path: Path, semantics: Semantics) -> None:
    """Killed between the last byte of all and its answer: nothing is sent again."""
    data = content_of(100)
    async with Rig(tmp_path, settings(semantics)) as rig:
        stall = rig.fault("upload", "stall")
        await rig.start()
        path = await rig.drop("a.mp4", data)
        await standing(stall)
        await rig.kill()
        await rig.start()
        await rig.finished(path)
        assert rig.record.requests == 1
        assert rig.record.sha256 == sha256(data)
        assert rig.store.ledger.of(path)[0].sha256 == sha256(data)
        assert "landed" in rig.seen(events.DoubtResolved)[0].outcome


async def test_resend_is_safe_sends_a_chunk_in_doubt_again(tmp_path: Path) -> None:
    """Into the same record."""
    async with Rig(tmp_path, server={"resend_is_safe": True}) as rig:
        stall = rig.fault("upload", "stall", skip=2)
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await standing(stall)
        await rig.restart()
        await rig.finished(path)
        expected = chunked(len(DATA))
        assert spans(rig.record) == [*expected[:3], *expected[2:]]
        assert rig.record.sha256 == sha256(DATA)
        assert rig.store.ledger.of(path)[0].sha256 == sha256(DATA)


async def test_a_kill_during_processing_only_asks_whether_it_is_ready(tmp_path: Path) -> None:
    """Every byte was acknowledged."""
    async with Rig(tmp_path, Settings(processing=3600.0)) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await rig.event(events.UploadSent, path=path)
        await rig.kill()
        assert rig.on_disk(path).state is State.VERIFYING
        requests = rig.record.requests
        rig.become(Settings(processing=0.0))
        await rig.start()
        await rig.finished(path)
        assert rig.record.requests == requests


async def test_a_record_whose_ids_were_lost_is_found_and_replaced(tmp_path: Path) -> None:
    """It is found by its name and deleted, as its video is not known."""
    async with Rig(tmp_path) as rig:
        path = rig.write("a.mp4", DATA)
        stall = rig.fault("create", "stall")
        await rig.start()
        await rig.scan()
        await standing(stall)
        assert rig.on_disk(path).state is State.CREATING
        await rig.kill()
        lost = rig.record.id
        await rig.start()
        await rig.finished(path)
        await rig.swept()
        assert rig.record.id != lost
        assert rig.record.sha256 == sha256(DATA)


async def test_a_record_that_names_its_video_is_adopted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ids were lost in a crash; the server lists the video of an empty record."""
    details = Api.details

    def talkative(self: Api, record_id: str) -> SimulatedAnswer:
        answer = details(self, record_id)
        record = self._records.get(record_id)
        if record is None or record.completed_at is not None:
            return answer
        said: Any = answer.body
        videos = [{"id": record.video, "status": {"type": "empty"}}]
        return SimulatedAnswer(200, {"data": said["data"] | {"videos": videos}})

    monkeypatch.setattr(Api, "details", talkative)
    async with Rig(tmp_path) as rig:
        rig.fault("create", "lose-answer")
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await rig.finished(path)
        assert rig.seen(events.RecordAdopted) == [events.RecordAdopted(path, rig.record.id)]
        assert rig.record.sha256 == sha256(DATA)
        assert len(rig.calls("create")) == 1


async def test_an_intent_without_a_record_makes_one_after_the_settle_time(tmp_path: Path) -> None:
    """One new record, after a crash before the call."""
    async with Rig(tmp_path, server={"doubt_settle": "2s"}) as rig:  # time enough for the first look
        path = rig.write("a.mp4", DATA)
        rig.prepare(intent(rig, path))
        await rig.start()
        await rig.finished(path)
        assert rig.record.sha256 == sha256(DATA)
        assert rig.seen(events.DoubtResolved)[0].outcome == "no record was created"
        assert len(rig.calls("list")) >= 2  # once at first, once when a late one would have shown itself


async def test_only_a_new_empty_record_of_the_own_user_is_adopted(tmp_path: Path) -> None:
    """Records of another author, older ones, ones with similar names or with a video are never touched."""
    async with Rig(tmp_path) as rig:
        path = rig.write("a.mp4", DATA)
        strangers = {
            rig.plant("a", author="somebody else"),
            rig.plant("a", age=3600),
            rig.plant("a much longer name"),
            rig.plant("a", video=True),
        }
        rig.prepare(intent(rig, path))
        await rig.start()
        await rig.finished(path)
        await rig.swept()
        left = {record.id for record in rig.records}
        assert strangers < left
        assert len(left) == len(strangers) + 1
        assert rig.calls("delete") == []
        assert rig.records[-1].sha256 == sha256(DATA)


async def test_two_possible_records_are_both_left_alone(tmp_path: Path) -> None:
    """It cannot be told which one is meant, so a third one is made."""
    async with Rig(tmp_path) as rig:
        path = rig.write("a.mp4", DATA)
        planted = {rig.plant("a"), rig.plant("a")}
        rig.prepare(intent(rig, path))
        await rig.start()
        await rig.finished(path)
        await rig.swept()
        assert planted < {record.id for record in rig.records}
        assert len(rig.records) == 3


async def test_a_create_in_doubt_delays_another_file_of_the_same_record_name(tmp_path: Path) -> None:
    """Each file ends on one record."""
    async with Rig(tmp_path, watches=[{"record": {"name": "same"}}]) as rig:
        rig.fault("create", "lose-answer")
        await rig.start()
        paths = [rig.write(f"{number}.mp4", content_of(CHUNK + number, number)) for number in range(4)]
        await rig.scan()
        await rig.finished(*paths)
        await rig.swept()
        assert [record.name for record in rig.records] == ["same"] * 4
        assert {record.sha256 for record in rig.records} == {sha256(at(path).read_bytes()) for path in paths}
        assert all(spans(record) == chunked(record.size) for record in rig.records)


async def test_no_second_record_of_a_name_is_made_while_the_first_is_in_doubt(tmp_path: Path) -> None:
    """Until it is known whether the first was made."""
    async with Rig(tmp_path, watches=[{"record": {"name": "same"}}]) as rig:
        rig.fault("create", "lose-answer")
        rig.fault("list", "status", status=502, times=3)
        await rig.start()
        paths = [rig.write(f"{number}.mp4", content_of(CHUNK, number)) for number in range(3)]
        await rig.scan()
        await rig.finished(*paths)
        calls = [(call.name, call.status) for call in rig.simulator.calls]
        known = calls.index(("list", 200))
        assert [status for name, status in calls[:known] if name == "create"] == [None]
        await rig.swept()
        assert len(rig.records) == 3


async def test_a_crash_with_two_records_of_one_name_leaves_no_orphan(tmp_path: Path) -> None:
    """Killed while one of them is being made: both files arrive."""
    async with Rig(tmp_path, watches=[{"record": {"name": "same"}}]) as rig:
        stall = rig.fault("create", "stall")
        await rig.start()
        paths = [rig.write(f"{number}.mp4", content_of(CHUNK + number, number)) for number in range(2)]
        await rig.scan()
        await standing(stall)
        await rig.restart()
        await rig.finished(*paths)
        await rig.swept()
        assert len(rig.records) == 2
        assert {record.sha256 for record in rig.records} == {sha256(at(path).read_bytes()) for path in paths}


@pytest.mark.parametrize("name", ["state", "ledger"])
async def test_a_kill_around_the_ledger_line_writes_one_line(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right before or right after it: the file ends with one line and one record."""
    append = MortalDisk.append

    def die(self: MortalDisk, file: str, content: bytes) -> None:
        if name == "state":
            append(self, file, content)
        self.dead = True

    async with Rig(tmp_path) as rig:
        monkeypatch.setattr(MortalDisk, "append", die)
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await rig.finished(path)
        await rig.kill()
        monkeypatch.undo()
        assert rig.on_disk(path).state is State.FINISHING
        await rig.start()
        await rig.event(events.UploadFinished, path=path, count=2)
        assert rig.store.ledger.count == 1
        assert len(rig.records) == 1


@pytest.mark.parametrize("age", [-3600.0, -700.0])
async def test_a_record_of_the_same_name_that_was_made_later_is_not_taken_for_its_own(
    tmp_path: Path, age: float
) -> None:
    """Another client of this account makes records, too. This upload's could not have been created so late."""
    async with Rig(tmp_path) as rig:
        path = rig.write("a.mp4", DATA)
        rig.prepare(intent(rig, path))
        other = rig.plant("a", age=age)
        await rig.start()
        await rig.finished(path)
        assert other in {record.id for record in rig.records}
        assert rig.store.orphans == {}


async def test_a_record_that_another_client_has_just_made_is_never_cleared_away(tmp_path: Path) -> None:
    """It has the name, the user and the time of this upload's, which was never created. Its client is sending."""
    async with Rig(tmp_path) as rig:
        path = rig.write("a.mp4", DATA)
        rig.prepare(intent(rig, path))
        other = rig.plant("a")
        await rig.start()
        await rig.finished(path)
        (orphan,) = rig.store.orphans.values()
        assert (orphan.record, orphan.found) == (other, True)
        assert orphan.next_look - rig.clock.now() > DAY - 60
        record = next(one for one in rig.simulator._records if one.id == other)
        record.completed_at = 0.0  # the other client has sent its video meanwhile
        rig.store.put_orphan(replace(orphan, next_look=rig.clock.now()))
        rig.application.orphan_cleanup._due.clear()
        await rig.event(events.OrphanHasVideo)
        assert rig.calls("delete") == []
