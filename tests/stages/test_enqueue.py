"""What a settled file is: new, known, changed or back; and how waiting uploads return to the queue."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import EPOCH, MemoryDisk, VirtualClock, a_finish, an_upload, until
from harness import Rig
from parts import CHUNK, content_of, sha256
from shares import share_of

from uploader.config import Config, ServerConfig, UploadConfig, WatchConfig
from uploader.domain import errors, events
from uploader.domain.chunk_size import chunk_size_now
from uploader.domain.model import ActionBy, Identity, LastError, ServerCapabilities, Snapshot, State, Upload
from uploader.domain.retry import BACKOFF_CAP, CAPABILITIES_VALID_FOR
from uploader.files import MountedShare, Shares
from uploader.stages.context import StageContext
from uploader.stages.dispatcher import SAVED_RETRY_CAP, Dispatcher
from uploader.stages.enqueue import Enqueue, FileKind, classify
from uploader.stages.file_rules import FileRules
from uploader.stages.known import KnownFiles
from uploader.stages.lease import Leases
from uploader.stages.queues import Queues, Settled
from uploader.store import Store

PROBED = ServerCapabilities(chunks=True, transcodes=False, probed_at=EPOCH)
FILE_MUST_ACT = LastError("it is not there", ActionBy.FILE)


def settled_as(upload: Upload, **changes: Any) -> Settled:
    """The file of this upload, as it has settled now; *changes* to its identity."""
    return settled_at(upload.path, upload.root, replace(upload.identity, **changes))


def settled_at(path: str, root: str, identity: Identity, unplayable: str = "") -> Settled:
    """A file of this content that has settled."""
    return Settled(path, root, Snapshot(identity, 0, (0, 0)), unplayable)


@pytest.mark.parametrize("state", [state for state in State if state is not State.DONE])
def test_unchanged_file_of_an_upload_is_known(state: State) -> None:
    """In whatever state its upload is."""
    upload = an_upload(state)
    assert classify(upload, settled_as(upload)) is FileKind.KNOWN


@pytest.mark.parametrize(
    ("state", "verdict"),
    [
        (State.QUEUED, FileKind.CHANGED),
        (State.CREATING, FileKind.LATER),
        (State.SENDING, FileKind.LATER),
        (State.IN_DOUBT, FileKind.LATER),
        (State.VERIFYING, FileKind.LATER),
        (State.FINISHING, FileKind.LATER),
    ],
)
def test_a_changed_file_replaces_its_queued_upload(state: State, verdict: FileKind) -> None:
    """An upload in progress ends first."""
    upload = an_upload(state)
    assert classify(upload, settled_as(upload, edges="other")) is verdict


@pytest.mark.parametrize(
    ("parked_from", "verdict"),
    [
        (State.QUEUED, FileKind.CHANGED),
        (State.CREATING, FileKind.UNCLEAR),
        (State.SENDING, FileKind.CHANGED),
        (State.IN_DOUBT, FileKind.UNCLEAR),
        (State.VERIFYING, FileKind.LATER),
        (State.FINISHING, FileKind.LATER),
    ],
)
def test_changed_file_of_a_parked_upload(parked_from: State, verdict: FileKind) -> None:
    """New content replaces a parked upload, unless every byte of the old content has been acknowledged.

    Where a record may have been made, that is found out first: else nobody would ever clear it away.
    """
    upload = an_upload(State.PARKED, parked_from=parked_from)
    assert classify(upload, settled_as(upload, size=7)) is verdict


def test_a_missing_file_that_is_back_lets_its_upload_go_on() -> None:
    """Only if it is unchanged, and the upload was parked because it was missing."""
    upload = an_upload(State.PARKED, last_error=FILE_MUST_ACT)
    assert classify(upload, settled_as(upload)) is FileKind.BACK
    unplayable = replace(upload, last_error=replace(FILE_MUST_ACT, must_change=True))
    assert classify(unplayable, settled_as(unplayable)) is FileKind.KNOWN
    assert classify(unplayable, settled_as(unplayable, size=7)) is FileKind.CHANGED
    assert classify(None, settled_as(upload)) is FileKind.NEW


@pytest.mark.parametrize(
    ("configured", "capabilities", "expected"),
    [
        (100, ServerCapabilities(), 0),
        (100, replace(PROBED, chunks=False), 0),
        (100, replace(PROBED, probed_at=EPOCH - CAPABILITIES_VALID_FOR), 0),
        (100, PROBED, 100),
        (0, replace(PROBED, chunk_limit=50, chunk_limit_until=EPOCH + 1), 0),
        (100, replace(PROBED, chunk_limit=50, chunk_limit_until=EPOCH + 1), 50),
        (100, replace(PROBED, chunk_limit=500, chunk_limit_until=EPOCH + 1), 100),
        (100, replace(PROBED, chunk_limit=50, chunk_limit_until=EPOCH), 100),
        (100, replace(PROBED, whole_only_until=EPOCH + 1), 0),
        (100, replace(PROBED, whole_only_until=EPOCH), 100),
    ],
)
def test_chunk_size_is_configured_or_learnt(configured: int, capabilities: ServerCapabilities, expected: int) -> None:
    """The smaller of the two; 0 is the whole file, as for a server that was not seen to assemble chunks."""
    config = UploadConfig.model_construct(chunk_size=configured)
    assert chunk_size_now(config, capabilities, now=EPOCH) == expected


def test_an_upload_follows_the_rules_of_the_first_folder_that_takes_it() -> None:
    """Its record, its disposal and where it is moved."""
    first = WatchConfig(path=Path("/rec/inner"), after_upload="move", move_to=Path("/done"))
    second = WatchConfig(path=Path("/rec"), after_upload="delete")
    identity = Identity(5, 10**18, "e")

    server = ServerConfig(url="http://127.0.0.1:9", username="u")
    rules = FileRules(Config(server=server, watch=(first, second)))

    def made(path: str) -> Upload:
        return rules.upload_of(settled_at(path, path.rpartition("/")[0], identity), 64)[0]

    assert (made("/rec/inner/a.mp4").after_upload, made("/rec/inner/a.mp4").move_to) == ("move", "/done")
    assert (made("/rec/b.mp4").after_upload, made("/rec/b.mp4").move_to) == ("delete", None)
    assert (made("/tmp/c.mp4").after_upload, made("/tmp/c.mp4").record.name) == ("keep", "c")
    assert made("/rec/b.mp4").chunk_size == 64


class Bench:
    """The enqueue stage alone, over a state in memory and a clock that the test advances."""

    def __init__(self, *uploads: Upload) -> None:
        self.clock = VirtualClock()
        self.heard: list[events.Event] = []
        bus = events.Bus()
        bus.listen(self.heard.append)
        self.store = Store(MemoryDisk(), self.clock, bus)
        for upload in uploads:
            self.store.put(upload)
        self.queues = Queues(self.clock)
        self.config = Config(server=ServerConfig(url="http://127.0.0.1:9", username="u"))
        self.skips = False
        leases = Leases(self.store)
        context = StageContext(self.store, leases, Shares(share_of), self.queues, self.clock, bus)
        leases.send_on = self.queues.again.put
        self.dispatcher = Dispatcher(context, lambda: self.config)
        self.enqueue = Enqueue(context, self, KnownFiles(self.store, ()), self.dispatcher)

    def skips_duplicates(self, path: str) -> bool:
        """As the test says."""
        del path
        return self.skips

    def takes(self, path: str) -> bool:
        """Every file."""
        del path
        return True

    def upload_of(self, settled: Settled, chunk_size: int) -> tuple[Upload, str | None]:
        """An upload whose record has no rule."""
        del chunk_size
        return an_upload(path=settled.path, identity=settled.identity), None

    async def go_on(self, path: str) -> None:
        """Let an upload fall due, and be sent on."""
        self.queues.again.put(path)
        await self.dispatcher._send_on(path)

    def queued(self) -> list[str]:
        """The paths that wait for a worker, in their order."""
        return [self.queues.jobs.get_nowait().path for _ in range(self.queues.jobs.qsize())]


@asynccontextmanager
async def bench(*uploads: Upload) -> AsyncIterator[Bench]:
    """The stage on a table."""
    table = Bench(*uploads)
    try:
        yield table
    finally:
        await table.store.close()


@pytest.mark.parametrize("state", [State.QUEUED, State.CREATING, State.SENDING, State.IN_DOUBT])
async def test_an_unfinished_upload_returns_to_the_worker_queue(state: State) -> None:
    """Its failures are kept, the time of its next try is not."""
    upload = an_upload(state, last_error=LastError("no", ActionBy.UPLOADER, attempts=3, next_try=EPOCH))
    async with bench(upload) as table:
        await table.go_on(upload.path)
        assert table.queued() == [upload.path]
        assert table.store.uploads[upload.path].last_error == LastError("no", ActionBy.UPLOADER, attempts=3)


async def test_a_sent_upload_returns_to_its_own_stage() -> None:
    """Verify asks about one that the server processes; finish disposes of one that is ready."""
    verifying, finishing = an_upload(State.VERIFYING), an_upload(State.FINISHING, path="/rec/b.mp4")
    async with bench(verifying, finishing) as table:
        await table.go_on(verifying.path)
        await table.go_on(finishing.path)
        assert table.queued() == []
        assert verifying.path in table.queues.sent
        assert finishing.path in table.queues.proven


async def test_a_parked_upload_that_is_due_gets_one_try() -> None:
    """Its failures are kept; the release is saved before it goes on."""
    upload = an_upload(State.PARKED, parked_from=State.SENDING)
    async with bench(upload) as table:
        await table.go_on(upload.path)
        after = table.store.uploads[upload.path]
        assert (after.state, after.last_error and after.last_error.attempts) == (State.SENDING, 2)
        assert table.heard == [events.UploadReleased(upload.path, State.SENDING)]
        assert b'"sending"' in table.store._disk.files["state.json"]  # type: ignore[attr-defined]  # a MemoryDisk


async def test_waits_survive_a_restart() -> None:
    """A waiting upload goes on at its time, an active one at once; one parked without a time stays parked.

    A time from a clock that was wrong is not believed.
    """
    soon = an_upload(path="/rec/soon.mp4", last_error=LastError("no", ActionBy.UPLOADER, next_try=EPOCH + 60))
    never = an_upload(State.PARKED, path="/rec/never.mp4", last_error=FILE_MUST_ACT)
    absurd = an_upload(path="/rec/absurd.mp4", last_error=LastError("no", ActionBy.UPLOADER, next_try=EPOCH * 2))
    parked = an_upload(
        State.PARKED, path="/rec/p.mp4", last_error=LastError("no", ActionBy.OPERATOR, next_try=EPOCH * 2)
    )
    over = an_upload(path="/rec/over.mp4", last_error=LastError("no", ActionBy.UPLOADER, next_try=EPOCH - 60))
    new = an_upload(State.SENDING, path="/rec/new.mp4")
    trying = an_upload(State.SENDING, path="/rec/trying.mp4", last_error=LastError("no", ActionBy.UPLOADER, attempts=1))
    uploads = (soon, never, absurd, parked, over, new, trying)
    async with bench(*uploads) as table:
        await table.dispatcher.bring_back(lambda upload: True)
        waits = [table.queues.again.wait_of(upload.path) for upload in uploads]
        assert waits == [60, None, BACKOFF_CAP, SAVED_RETRY_CAP, 0, 0, 0]


async def test_new_content_replaces_an_upload_that_has_not_begun() -> None:
    """A record made with the old content is an orphan."""
    waiting = an_upload()
    parked = an_upload(State.PARKED, path="/rec/b.mp4")
    async with bench(waiting, parked) as table:
        for upload in (waiting, parked):
            await table.enqueue.admit(settled_as(upload, size=7))
            assert table.store.uploads[upload.path].identity.size == 7
            assert table.store.uploads[upload.path].state is State.QUEUED
        assert parked.ids is not None
        assert list(table.store.orphans) == [parked.ids.record]
        assert len(table.queued()) == 2


async def test_a_file_with_equal_ends_and_other_content_is_a_new_recording(tmp_path: Path) -> None:
    """The ledger is asked by the hash of the whole content."""
    path = tmp_path / "a.mp4"
    path.write_bytes(b"content")
    async with bench() as table:
        sent = a_finish(path=str(path), size=7, edges="e", sha256=sha256(b"content"))
        await table.store.finish(sent)
        await table.enqueue.admit(settled_at(str(path), str(tmp_path), Identity(7, 5, "e")))
        assert table.heard == [events.FileAlreadyUploaded(str(path), sent.record)]
        assert table.store.ledger.knows(str(path), 7, 5)  # and is not read again
        path.write_bytes(b"CONTENT")
        await table.enqueue.admit(settled_at(str(path), str(tmp_path), Identity(7, 6, "e")))
        assert table.queued() == [str(path)]


class SpoiltLine(MemoryDisk):
    """A disk that can no longer read the ledger, once it is told so."""

    spoilt = False

    def read_at(self, name: str, offset: int, length: int) -> bytes:
        """Read, or say as the product's own folder does that it cannot be."""
        if self.spoilt:
            raise errors.StateUnusable(f"{name} cannot be read: Input/output error")
        return super().read_at(name, offset, length)


@pytest.mark.parametrize("name", ["a.mp4", "copy.mp4"])
async def test_a_file_waits_while_its_ledger_line_cannot_be_read(tmp_path: Path, name: str) -> None:
    """Touched, or a copy to be skipped: it is neither sent twice nor lost, and other files go on."""
    async with bench() as table:
        disk = table.store._disk = table.store.ledger._disk = SpoiltLine()
        await table.store.finish(a_finish(path=str(tmp_path / "a.mp4"), size=7, edges="e", sha256=sha256(b"content")))
        path = tmp_path / name
        path.write_bytes(b"content")
        settled = settled_at(str(path), str(tmp_path), Identity(7, 5, "e"))
        table.skips, disk.spoilt = True, True
        running = asyncio.create_task(table.enqueue.run())
        table.queues.settled.put_nowait(settled)
        await until(lambda: table.heard)
        ((heard),) = table.heard
        assert isinstance(heard, events.UploadRetryScheduled)
        assert "ledger.jsonl: line 1 cannot be read: ledger.jsonl cannot be read: Input/output error" in heard.reason
        table.queues.settled.put_nowait(settled_at("/rec/new.mp4", "/rec", Identity(8, 5, "f")))
        await until(lambda: "/rec/new.mp4" in table.store.uploads)
        assert table.queued() == ["/rec/new.mp4"]
        disk.spoilt = False
        table.queues.settled.put_nowait(settled)  # the next scan finds it again
        await until(lambda: len(table.heard) == 3)
        assert isinstance(table.heard[2], events.FileAlreadyUploaded | events.SentFileRenamed)
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_copy_that_is_sent_anyway_does_not_wait_for_the_ledger(tmp_path: Path) -> None:
    """The ledger would only tell whose copy it is."""
    path = tmp_path / "copy.mp4"
    path.write_bytes(b"content")
    async with bench() as table:
        disk = table.store._disk = table.store.ledger._disk = SpoiltLine()
        await table.store.finish(a_finish(path=str(tmp_path / "a.mp4"), size=7, edges="e", sha256=sha256(b"content")))
        disk.spoilt = True
        await table.enqueue.admit(settled_at(str(path), str(tmp_path), Identity(7, 5, "e")))
        assert table.queued() == [str(path)]


# With all the rest


async def test_a_sent_file_with_a_new_mtime_is_not_sent_again(tmp_path: Path) -> None:
    """It is compared once, in this run and after a restart."""
    data = content_of(3 * CHUNK)
    async with Rig(tmp_path) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", data)
        await rig.finished(path)
        os.utime(path, (1000, 1000))
        await rig.scan()
        await rig.event(events.FileAlreadyUploaded, path=path)
        cache = tmp_path / "state" / "touched.jsonl"
        await rig.until(
            lambda: cache.exists() and cache.stat().st_size, "the note in the cache, which nobody waits for"
        )
        await rig.scan()
        await rig.restart()
        await rig.scan()
        await rig.finished(await rig.drop("b.mp4", b"b"))
        assert len(rig.records) == 2
        assert len(rig.seen(events.FileAlreadyUploaded)) == 1  # it was read in full once


async def test_same_name_with_new_content_is_a_new_recording(tmp_path: Path) -> None:
    """Each content of a path is sent once, as a record of its own."""
    async with Rig(tmp_path) as rig:
        await rig.start()
        for number, data in enumerate((b"first", b"second", b"third"), start=1):
            path = await rig.drop("a.mp4", data)
            await rig.event(events.UploadFinished, path=path, count=number)
        await rig.drop("a.mp4", b"second")  # restored from a copy: that is known
        await rig.event(events.FileAlreadyUploaded, path=path)
        assert [record.sha256 for record in rig.records] == [sha256(each) for each in (b"first", b"second", b"third")]


async def test_only_the_last_content_of_a_queued_file_is_sent(tmp_path: Path) -> None:
    """It was overwritten in the queue."""
    async with Rig(tmp_path, upload={"workers": 1}) as rig:
        stall = rig.fault("upload", "stall")
        await rig.start()
        first = await rig.drop("first.mp4", b"first")
        await rig.until(stall.standing.is_set)
        path = await rig.drop("a.mp4", b"old")
        await rig.event(events.FileQueued, path=path)
        await rig.drop("a.mp4", b"new content")
        await rig.event(events.FileQueued, path=path, count=2)
        stall.release()
        await rig.finished(first, path)
        assert [record.sha256 for record in rig.records] == [sha256(b"first"), sha256(b"new content")]


async def test_content_that_changes_during_processing_is_a_second_recording(tmp_path: Path) -> None:
    """The old one is finished, then the new content is sent."""
    async with Rig(tmp_path, watch={"rescan": "1s", "after_upload": "delete"}) as rig:
        await rig.start()
        stall = rig.fault("details", "stall")
        path = await rig.drop("a.mp4", b"old")
        await rig.until(stall.standing.is_set)
        await rig.drop("a.mp4", b"new content")
        stall.release()
        await rig.event(events.UploadFinished, path=path, file="changed")
        await rig.event(events.UploadFinished, path=path, file="deleted")
        assert [record.sha256 for record in rig.records] == [sha256(b"old"), sha256(b"new content")]


async def test_a_file_that_the_rule_does_not_match_is_sent_with_a_warning(tmp_path: Path) -> None:
    """Under its own name; a rule that matches fills the record."""
    rule = {
        "match": "(?P<room>[^_]+)_(?P<subject>.+)",
        "name": "{subject}",
        "template": {"1": "{room}"},
        "share": {"users": [1], "groups": [4]},
    }
    async with Rig(tmp_path, watch={"record": rule}) as rig:
        await rig.start()
        odd, fits = await rig.drop("odd.mp4", b"odd"), await rig.drop("R1_Physics.mp4", b"fits")
        await rig.finished(odd, fits)
        assert [event.path for event in rig.seen(events.RecordRuleNotMatched)] == [odd]
        by_name = {record.name: record for record in rig.records}
        assert set(by_name) == {"odd", "Physics"}
        assert by_name["Physics"].template == {"1": "R1"}
        assert (by_name["Physics"].share.users, by_name["Physics"].share.groups) == ((1,), (4,))


async def test_an_unexpected_error_with_one_file_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is logged, and the next file is enqueued."""
    make = Enqueue._was_sent

    async def stumble(self: Enqueue, settled: Settled) -> bool:
        if settled.path.endswith("bad.mp4"):
            raise ZeroDivisionError
        return await make(self, settled)

    monkeypatch.setattr(Enqueue, "_was_sent", stumble)
    async with Rig(tmp_path) as rig:
        await rig.start()
        bad = await rig.drop("bad.mp4", b"bad")
        waits = await rig.event(events.UploadRetryScheduled, path=bad)
        assert "ZeroDivisionError" in waits.reason
        await rig.finished(await rig.drop("good.mp4", b"good"))


# The same content under another name


@pytest.mark.parametrize(("policy", "records"), [("send", 2), ("skip", 1)])
async def test_same_content_under_another_name_is_sent_or_skipped_as_configured(
    tmp_path: Path, policy: str, records: int
) -> None:
    """Either is reported with the earlier name; a skipped copy stays skipped over a restart."""
    data = content_of(3 * CHUNK)
    async with Rig(tmp_path, watch={"on_duplicate": policy}) as rig:
        await rig.start()
        first = await rig.drop("a.mp4", data)
        await rig.finished(first)
        copy = await rig.drop("copy.mp4", data)
        duplicate = await rig.event(events.FileDuplicate, path=copy)
        assert (duplicate.known_as, duplicate.record) == (first, rig.records[0].id)
        assert duplicate.decision == {"send": "sent", "skip": "skipped"}[policy]
        if policy == "send":
            await rig.finished(copy)
        await rig.scan()
        await rig.restart()
        await rig.scan()
        await rig.finished(await rig.drop("other.mp4", b"other"))
        assert len(rig.records) == records + 1
        assert [record.sha256 for record in rig.records].count(sha256(data)) == records


async def test_copy_that_differs_in_its_middle_is_no_duplicate(tmp_path: Path) -> None:
    """Equal ends and size are not enough to skip a recording: all of it is read."""
    data = bytearray(content_of(5 * CHUNK))
    async with Rig(tmp_path, watch={"on_duplicate": "skip"}) as rig:
        await rig.start()
        await rig.finished(await rig.drop("a.mp4", bytes(data)))
        data[2 * CHUNK + 7] ^= 1
        other = await rig.drop("b.mp4", bytes(data))
        await rig.finished(other)
        assert rig.seen(events.FileDuplicate) == []
        assert rig.records[-1].sha256 == sha256(bytes(data))


async def test_reading_a_touched_large_file_delays_no_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """New files are sent while a finished recording of many GiB is compared."""
    begun, gate, real = asyncio.Event(), asyncio.Event(), MountedShare.sha256

    async def slowly(self: MountedShare, path: str) -> str:
        begun.set()
        await gate.wait()
        return await real(self, path)

    monkeypatch.setattr(MountedShare, "sha256", slowly)
    async with Rig(tmp_path) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", b"touched")
        await rig.finished(path)
        os.utime(path, (1000, 1000))
        await rig.scan()
        await rig.until(begun.is_set)
        await rig.finished(await rig.drop("b.mp4", b"new"))
        assert not rig.application.enqueue.idle
        stall = rig.fault("upload", "stall")
        await rig.drop("a.mp4", b"changed")  # what is being read is not what is there any more
        await rig.until(stall.standing.is_set)
        gate.set()
        await rig.until(lambda: rig.application.enqueue.idle)
        stall.release()
        await rig.event(events.UploadFinished, path=path, count=2)
        await rig.scan()
        await rig.finished(await rig.drop("c.mp4", b"last"))
        assert [record.sha256 for record in rig.records] == [
            sha256(each) for each in (b"touched", b"new", b"changed", b"last")
        ]
