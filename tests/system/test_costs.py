"""The cost of an upload in requests, saves and bytes read; and the order of many unequal files."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Rig
from parts import CHUNK, content_of, sha256

from uploader.app.daemon import differ_in_limits_alone
from uploader.bandwidth import UploadThrottle
from uploader.config import Config
from uploader.domain import events
from uploader.files import sending
from uploader.stages.queues import Job, JobQueue
from uploader.store.disk import StateFolder


def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Bytes that were read of recordings, by what for."""
    read: Counter[str] = Counter()

    def watch(name: str, size: Callable[[Any, Any], int]) -> None:
        function: Callable[..., Any] = getattr(sending, name)

        def counts(*args: Any) -> Any:
            result = function(*args)
            read[name] += size(args, result)
            return result

        monkeypatch.setattr(sending, name, counts)

    watch("read_block", lambda _, result: int(result))
    watch("hash_up", lambda args, _: int(args[3]))
    return read


@pytest.mark.parametrize("chunks", [1, 7])
async def test_an_upload_makes_no_unneeded_request(tmp_path: Path, chunks: int) -> None:
    """One record, its chunks, one look whether it is ready, one link; one log-in and version for all, no list.

    A file of several chunks costs one more look, after its first chunk.
    """
    async with Rig(tmp_path) as rig:
        await rig.start()
        paths = [rig.write(f"{number}.mp4", content_of(chunks * CHUNK, number)) for number in range(4)]
        await rig.scan()
        await rig.finished(*paths)
        calls = Counter(call.name for call in rig.simulator.calls)
        looks = 4 if chunks == 1 else 8
        assert calls == {"login": 1, "version": 1, "create": 4, "upload": 4 * chunks, "details": looks, "link": 4}
        assert [seen.method for seen in rig.simulator.downloads.seen] == ["HEAD"] * 4


async def test_a_chunk_costs_two_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark before its last byte, and the acknowledgement; a few more before and after all chunks."""
    saves: Counter[str] = Counter()
    replace = StateFolder.replace

    def counts(self: StateFolder, name: str, *args: Any, **more: Any) -> None:
        saves[name] += 1
        replace(self, name, *args, **more)

    monkeypatch.setattr(StateFolder, "replace", counts)
    made = []
    for chunks in (3, 13):
        folder = tmp_path / str(chunks)
        folder.mkdir()
        async with Rig(folder) as rig:
            await rig.start()
            saves.clear()
            await rig.finished(await rig.drop("a.mp4", content_of(chunks * CHUNK)))
            made.append(saves["state.json"])
    assert made[1] - made[0] == 2 * 10
    assert made[0] <= 2 * 3 + 5


async def test_each_byte_that_is_sent_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For both sending and hashing."""
    read = counted(monkeypatch)
    async with Rig(tmp_path) as rig:
        await rig.start()
        data = content_of(7 * CHUNK + 5)
        await rig.finished(await rig.drop("a.mp4", data))
        assert read == {"read_block": len(data)}
        assert rig.record.sha256 == sha256(data)


async def test_acknowledged_bytes_are_not_read_again_after_a_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inode is the same and unchanged, so the digest continues, and at most the cut chunk is read."""
    read = counted(monkeypatch)
    async with Rig(tmp_path) as rig:
        rig.fault("upload", "cut-body", after_bytes=100, skip=5)
        await rig.start()
        data = content_of(7 * CHUNK)
        path = await rig.drop("a.mp4", data)
        await rig.finished(path)
        (resumed,) = rig.seen(events.UploadResumed)
        assert resumed.offset == 5 * CHUNK
        assert read.keys() == {"read_block"}
        assert len(data) <= read["read_block"] <= len(data) + CHUNK
        assert rig.record.sha256 == sha256(data)


async def test_small_files_go_between_chunks_of_a_large_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one worker; nothing is read twice."""
    read = counted(monkeypatch)
    async with Rig(tmp_path, upload={"workers": 1, "order": "oldest"}) as rig:
        stall = rig.fault("upload", "stall")
        await rig.start()
        large = await rig.drop("large.mp4", content_of(6 * CHUNK))
        async with asyncio.timeout(10):
            await stall.standing.wait()
        small = [rig.write(f"small{number}.mp4", content_of(1000, number)) for number in range(3)]
        await rig.scan()
        await rig.until(lambda: len(rig.seen(events.FileQueued)) == 4)
        stall.release()
        await rig.finished(large, *small)
        sent = [Path(event.path).stem for event in rig.seen(events.ChunkAcknowledged)]
        assert sent == ["large", "small0", "large", "small1", "large", "small2", "large", "large", "large"]
        assert rig.seen(events.UploadResumed) == []
        assert read == {"read_block": 6 * CHUNK + 3000}
        digests = {record.name: record.sha256 for record in rig.records}
        assert digests["large"] == sha256(content_of(6 * CHUNK))


async def test_the_queue_is_ordered_by_rank_and_finds_its_first_small_job() -> None:
    """The size does not change the order."""
    jobs = JobQueue()
    assert jobs.empty()
    assert jobs.take_small() is None
    for rank, path, small in ((3, "c", True), (1, "a", False), (4, "d", False), (2, "b", True)):
        jobs.put_nowait(Job((rank, 0), path, small))
    assert jobs.qsize() == 4
    assert jobs.small_waits
    taken = jobs.take_small()
    assert taken is not None
    assert taken.path == "b"
    assert [jobs.get_nowait().path for _ in range(3)] == ["a", "c", "d"]
    assert not jobs.small_waits


async def test_the_bandwidth_limit_applies_to_uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To every byte of a recording; a new limit applies without a restart of anything."""
    taken: Counter[bool] = Counter()  # bytes, by whether a limit held
    take = UploadThrottle.take

    async def watched(self: UploadThrottle, wanted: int) -> int:
        limited, granted = self.limited, await take(self, wanted)
        taken[limited] += granted
        return granted

    monkeypatch.setattr(UploadThrottle, "take", watched)
    async with Rig(tmp_path, upload={"bandwidth": "8 Mbit/s"}) as rig:
        application = await rig.start()
        await rig.finished(await rig.drop("a.mp4", content_of(2 * CHUNK)))
        assert taken == {True: 2 * CHUNK}
        application.apply(rig.config().model_copy(update={"upload": Config.model_fields["upload"].default}))
        await rig.finished(await rig.drop("b.mp4", content_of(2 * CHUNK, 2)))
        assert taken == {True: 2 * CHUNK, False: 2 * CHUNK}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"upload": {"bandwidth": "1 Mbit/s"}}, True),
        ({"upload": {"bandwidth": [["08:00", "1 Mbit/s"], ["18:00", "unlimited"]], "recording_aware": True}}, True),
        ({"upload": {"bandwidth": "1 Mbit/s", "workers": 2}}, False),
        ({"log": {"level": "debug"}}, False),
        ({}, False),
    ],
)
def test_a_reload_of_the_limit_alone_stops_nothing(changes: dict[str, Any], *, expected: bool) -> None:
    """Any other change, or an unchanged file, makes new stages."""
    plain = {"server": {"url": "https://valt.example.com", "username": "u"}, "watch": [{"path": "/srv/recordings"}]}
    before, after = Config.model_validate(plain), Config.model_validate(plain | changes)
    assert differ_in_limits_alone(before, after) is expected
