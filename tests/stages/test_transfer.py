"""Sending: every size to every kind of receiver, many files at once, order, drain, memory."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from harness import Rig
from parts import CHUNK, BriskClock, at, chunked, content_of, sha256, spans

from uploader.domain import events
from uploader.domain.model import State, Upload
from uploader.files import Recording
from uploader.stages.records import RecordCreator
from uploader.testing.simulator import FAITHFUL, Semantics, Settings

SIZES = {"one byte": 1, "a chunk": CHUNK, "a chunk and a byte": CHUNK + 1, "many chunks": 7 * CHUNK + 5}


def settings(semantics: Semantics = Semantics.OFFSET, **more: object) -> Settings:
    """A server whose videos are ready at once."""
    return Settings(semantics=semantics, **({"processing": 0.0} | more))  # type: ignore[arg-type]  # its own fields


def in_order(paths: Sequence[str], rig: Rig) -> list[str]:
    """These paths in the order in which their records were made."""
    return [event.path for event in rig.seen(events.RecordCreated) if event.path in paths]


@pytest.mark.parametrize("semantics", FAITHFUL)
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
async def test_a_file_arrives_with_equal_bytes(tmp_path: Path, semantics: Semantics, size: int) -> None:
    """Whatever size and receiver: one record, contiguous ranges, and a ledger line."""
    data = content_of(size)
    async with Rig(tmp_path, settings(semantics)) as rig:
        await rig.start()
        path = await rig.drop("lecture.mp4", data)
        await rig.finished(path)
        await rig.swept()
        record = rig.record
        assert record.sha256 == sha256(data)
        assert (record.name, record.status, record.strays) == ("lecture", "ready", ())
        whole = semantics is Semantics.WHOLE
        assert spans(record) == (chunked(size, size) if whole else chunked(size))
        assert record.requests == len(record.ranges)
        (known,) = rig.store.ledger.of(path)
        assert (known.size, known.sha256, known.record, known.seq) == (size, sha256(data), record.id, 1)
        assert rig.state_of(path) is None
        assert at(path).read_bytes() == data
        await rig.stop()
        assert rig.saved().uploads == ()
        line = json.loads((tmp_path / "state" / "ledger.jsonl").read_text())["upload"]
        assert (line["video"], line["chunks"], line["name"]) == (record.video, len(record.ranges), "lecture")
        assert line["begun_at"] <= line["sent_at"] <= line["ready_at"]


@pytest.mark.parametrize("semantics", FAITHFUL)
async def test_whole_file_as_one_range(tmp_path: Path, semantics: Semantics) -> None:
    """``chunk_size = "whole"`` sends each file in one request, under every receiver."""
    data = content_of(3 * CHUNK + 7)
    async with Rig(tmp_path, settings(semantics), upload={"chunk_size": "whole"}) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", data)
        await rig.finished(path)
        assert rig.record.sha256 == sha256(data)
        assert spans(rig.record) == [(0, len(data))]


async def test_many_files_share_one_log_in(tmp_path: Path) -> None:
    """Four workers and twelve files; no record ever has two requests in flight."""
    async with Rig(tmp_path) as rig:
        await rig.start()
        contents = {f"{number}.mp4": content_of(2 * CHUNK + number, number) for number in range(12)}
        paths = [rig.write(name, data) for name, data in contents.items()]
        await rig.scan()
        await rig.finished(*paths)
        assert len(rig.calls("login")) == 1
        assert len(rig.seen(events.LoggedIn)) == 1
        assert rig.simulator.most_at_once == 1
        assert {record.name + ".mp4": record.sha256 for record in rig.records} == {
            name: sha256(data) for name, data in contents.items()
        }


async def test_no_more_uploads_at_once_than_workers(tmp_path: Path) -> None:
    """With two workers a third file waits, however many there are."""
    async with Rig(tmp_path, upload={"workers": 2}) as rig:
        stalls = [rig.fault("upload", "stall") for _ in range(2)]
        await rig.start()
        paths = [rig.write(f"{number}.mp4", b"x" * (number + 1)) for number in range(5)]
        await rig.scan()
        async with asyncio.timeout(10):
            for stall in stalls:
                await stall.standing.wait()
        await rig.until(lambda: len(rig.seen(events.FileQueued)) == 5)
        assert rig.application.transfer.active == 2
        assert len(rig.records) == 2
        for stall in stalls:
            stall.release()
        await rig.finished(*paths)


@pytest.mark.parametrize(("order", "expected"), [("oldest", "bca"), ("newest", "acb"), ("smallest", "cab")])
async def test_the_queue_follows_the_configured_order(tmp_path: Path, order: str, expected: str) -> None:
    """Oldest, newest or smallest first."""
    async with Rig(tmp_path, upload={"workers": 1, "order": order}) as rig:
        stall = rig.fault("upload", "stall")
        await rig.start()
        first = await rig.drop("first.mp4", b"occupies the worker")
        async with asyncio.timeout(10):
            await stall.standing.wait()
        paths = {}
        for name, size, mtime in (("a", 200, 3_000), ("b", 300, 1_000), ("c", 100, 2_000)):
            paths[name] = rig.write(f"{name}.mp4", b"x" * size)
            os.utime(paths[name], (mtime, mtime))
        await rig.scan()
        await rig.until(lambda: len(rig.seen(events.FileQueued)) == 4)
        stall.release()
        await rig.finished(first, *paths.values())
        assert in_order(list(paths.values()), rig) == [paths[name] for name in expected]


async def test_an_unexpected_error_parks_only_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a reason; the others go on."""
    create = RecordCreator.create

    async def stumble(self: RecordCreator, path: str, is_as_configured: Callable[[Upload], bool]) -> None:
        if path.endswith("bad.mp4"):
            raise ZeroDivisionError
        await create(self, path, is_as_configured)

    monkeypatch.setattr(RecordCreator, "create", stumble)
    async with Rig(tmp_path, upload={"workers": 1}) as rig:
        await rig.start()
        bad = await rig.drop("bad.mp4", b"bad")
        parked = await rig.event(events.UploadParked, path=bad)
        good = await rig.drop("good.mp4", b"good")
        await rig.finished(good)
        assert "ZeroDivisionError" in parked.reason
        assert parked.action_by == "operator"
        assert rig.on_disk(bad).state is State.PARKED


async def test_an_unexpected_error_in_a_body_is_not_taken_for_a_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although aiohttp raises it as one: the file is parked at once."""
    check = Recording.check_unchanged

    async def stumble(self: Recording) -> None:
        if self.position:
            raise ZeroDivisionError
        await check(self)

    monkeypatch.setattr(Recording, "check_unchanged", stumble)
    async with Rig(tmp_path) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", b"a")
        parked = await rig.event(events.UploadParked, path=path)
        assert "ZeroDivisionError" in parked.reason


async def test_drain_lets_the_chunk_in_flight_end(tmp_path: Path) -> None:
    """A stop during a chunk waits for its answer, saves the offset, and sends no further chunk."""
    data = content_of(4 * CHUNK)
    async with Rig(tmp_path) as rig:
        stall = rig.fault("upload", "stall", after_bytes=1000, skip=1)
        await rig.start()
        path = await rig.drop("a.mp4", data)
        async with asyncio.timeout(10):
            await stall.standing.wait()
        stopping = asyncio.create_task(rig.stop())
        stall.release()
        await stopping
        upload = rig.on_disk(path)
        assert (upload.state, upload.offset, upload.chunks) == (State.SENDING, 2 * CHUNK, 2)
        assert upload.digest == sha256(data[: 2 * CHUNK])
        assert spans(rig.record) == chunked(2 * CHUNK)
        await rig.start()
        await rig.finished(path)
        assert spans(rig.record) == chunked(len(data))


@pytest.mark.parametrize("after_bytes", [1000, None], ids=["in the body", "before the answer"])
async def test_a_stop_cuts_the_request_after_the_drain_time(tmp_path: Path, after_bytes: int | None) -> None:
    """Of a server that does not answer; the mark says whether the chunk is in doubt."""
    drain, clock = 20.0, BriskClock()  # seconds of this clock
    async with Rig(tmp_path, upload={"drain": f"{drain:g}s", "chunk_size": "whole"}, clock=clock) as rig:
        stall = rig.fault("upload", "stall", after_bytes=after_bytes)
        await rig.start()
        path = await rig.drop("a.mp4", content_of(40 * 1024 * 1024 if after_bytes else 100))
        async with asyncio.timeout(10):
            await stall.standing.wait()
        began = clock.monotonic()
        await rig.stop()
        assert clock.monotonic() - began >= drain
        assert rig.on_disk(path).state is (State.IN_DOUBT if after_bytes is None else State.SENDING)
        assert not stall.released.is_set()  # it has not ended by itself


async def test_an_idle_application_stops_at_once(tmp_path: Path) -> None:
    """Without a chunk in flight there is nothing to drain."""
    drain, clock = 3600.0, BriskClock()  # seconds of this clock: three minutes of real time
    async with Rig(tmp_path, upload={"drain": f"{drain:g}s"}, clock=clock) as rig:
        await rig.start()
        await rig.finished(await rig.drop("a.mp4", b"a"))
        began = clock.monotonic()
        await rig.stop()
        assert clock.monotonic() - began < drain


async def test_a_slow_link_is_not_a_stall(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as bytes move the request goes on, even for longer than the stall time."""
    loop, moves = asyncio.get_running_loop(), itertools.count(1)
    stall, passed, real = 4.0, [0.0], loop.time
    monkeypatch.setattr(loop, "time", lambda: real() + passed[0])  # the clock by which a stall is timed

    def let_time_pass(event: events.Event) -> None:
        """More than half of the stall time goes by after each of the first moves."""
        if isinstance(event, events.BytesSent) and next(moves) <= 4:
            passed[0] += 0.6 * stall

    async with Rig(tmp_path, server={"stall_timeout": f"{stall:g}s"}, upload={"chunk_size": "whole"}) as rig:
        rig.bus.listen(let_time_pass)
        data = content_of(20 * 1024 * 1024)
        await rig.start()
        path = await rig.drop("a.mp4", data)
        await rig.finished(path)
        assert passed[0] > stall
        assert rig.seen(events.UploadRetryScheduled) == []
        assert (rig.record.sha256, rig.record.requests) == (sha256(data), 1)


async def test_odd_names_make_readable_records(tmp_path: Path) -> None:
    """Quotes, line breaks, emoji and invalid UTF-8; none breaks a header."""
    names = ['a";x="b.mp4', "two\nlines.mp4", "Vorlesung äöü 🎓.mp4", os.fsdecode(b"caf\xe9.mp4"), "-rf.mp4"]
    async with Rig(tmp_path) as rig:
        await rig.start()
        paths = [rig.write(name, name.encode("utf-8", "surrogateescape")) for name in names]
        await rig.scan()
        await rig.finished(*paths)
        assert {record.name for record in rig.records} == {
            'a";x="b',
            "two\\x0alines",
            "Vorlesung äöü 🎓",
            "caf\\xe9",
            "-rf",
        }
        assert rig.store.ledger.count == len(names)
    async with Rig(tmp_path) as rig:
        await rig.start()  # the ledger reads its own lines: nothing is sent again
        await rig.scan()
        await rig.finished(await rig.drop("last.mp4", b"last"))
        assert len(rig.seen(events.UploadFinished)) == 1


async def test_names_that_look_the_same_are_different_files(tmp_path: Path) -> None:
    """Composed or decomposed, large or small letters: as many records as files."""
    names = ["B\u00fchne.mp4", "Bu\u0308hne.mp4", "a.mp4", "A.mp4"]
    async with Rig(tmp_path) as rig:
        await rig.start()
        paths = [rig.write(name, name.encode()) for name in names]
        await rig.scan()
        await rig.finished(*paths)
        assert {record.sha256 for record in rig.records} == {sha256(name.encode()) for name in names}
        assert sorted(record.name for record in rig.records) == ["A", "B\u00fchne", "B\u00fchne", "a"]
        assert all(len(rig.store.ledger.of(path)) == 1 for path in paths)


MEMORY = """
import asyncio, os, resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from harness import Rig
from uploader.testing.simulator import Settings

async def main():
    folder = Path({folder!r})
    async with Rig(folder, upload={{"chunk_size": {chunk!r}}}) as rig:
        await rig.start()
        await rig.finished(await rig.drop("small.mp4", b"x" * 3_000_000))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        path = rig.watch / "large.mp4"
        path.write_bytes(b"recording" * 10_000)  # a file of zeros alone counts as not written yet
        os.truncate(path, 256 * 1024 * 1024)
        await rig.scan()
        await rig.finished(str(path))
        assert rig.records[-1].size == 256 * 1024 * 1024
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)

asyncio.run(main())
"""


@pytest.mark.parametrize("chunk", ["16 MiB", "whole"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, chunk: str) -> None:
    """A sparse file of 256 MiB goes through, server and all, in less than 40 MB more than a small one."""
    script = MEMORY.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path), chunk=chunk)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 40
