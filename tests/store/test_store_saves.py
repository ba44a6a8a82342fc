"""The cost of a save: one write for all waiting commits, and no work that grows with history or queue."""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from fakes import EPOCH, FailingDisk, MemoryDisk, VirtualClock, a_finish, an_upload, next_value, until
from hypothesis import given
from hypothesis import strategies as st

from uploader.domain import events
from uploader.domain.model import Orphan, ServerCapabilities, State, Upload
from uploader.store import Store, codec, statewriter
from uploader.store.codec import StateSnapshot, decode_state, encode_state
from uploader.store.opening import STATE_FILE
from uploader.store.statewriter import Changes, Section, StateWriter
from uploader.store.tracked import Tracked

SENDING = an_upload(State.SENDING)


class Bench:
    """A store whose writes and spelt lines are counted."""

    def __init__(self, patch: pytest.MonkeyPatch, history: int = 0) -> None:
        self.memory = MemoryDisk()
        self.disk = FailingDisk(self.memory)
        self.store = Store(self.disk, VirtualClock(), events.Bus())
        for number in range(history):
            self.store.ledger.append(a_finish(f"/rec/{number}.mp4", f"record-{number}"))
        self.spelt = 0
        spell = codec.to_json

        def counted(value: object) -> str:
            self.spelt += 1
            return spell(value)

        patch.setattr(codec, "to_json", counted)

    async def save(self, *changed: str) -> tuple[int, int, int]:
        """Save these paths' new values: writes, lines spelt, and bytes of the state."""
        self.disk.begun.clear()
        self.spelt = 0
        for path in changed:
            before = self.store.uploads.get(path, replace(SENDING, path=path))
            self.store.put(replace(before, restarts=before.restarts + 1))
        await self.store.commit()
        return len(self.disk.begun), self.spelt, len(self.memory.files[STATE_FILE])


@pytest.fixture
async def benches(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Bench]]:
    """One without history, one with a long one."""
    benches = [Bench(monkeypatch, 10), Bench(monkeypatch, 99)]  # counts of two digits each
    yield benches
    for bench in benches:
        await bench.store.close()


@pytest.mark.parametrize("count", [1, 2, 30, 1000])
async def test_all_waiting_commits_are_one_write(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """However many come during a write; each returns when its own change is on the disk."""
    bench = Bench(monkeypatch)
    bench.disk.begun.clear()
    bench.disk.gate.clear()
    saving: list[asyncio.Task[object]] = []
    saving.append(asyncio.create_task(bench.store.save(replace(SENDING, path="/rec/first.mp4"))))
    await until(lambda: bench.disk.begun)
    on_disk: dict[int, bytes] = {}

    async def save(number: int) -> None:
        await bench.store.save(replace(SENDING, path=f"/rec/{number}.mp4"))
        on_disk[number] = bench.memory.files[STATE_FILE]

    saving.extend(asyncio.create_task(save(number)) for number in range(count))
    await asyncio.sleep(0)
    bench.disk.gate.set()
    await asyncio.gather(*saving)
    assert bench.disk.begun == ["replace", "replace"]
    assert len(on_disk) == count
    assert all(f'"/rec/{number}.mp4"'.encode() in content for number, content in on_disk.items())
    await bench.store.close()


async def test_a_save_costs_the_same_however_many_uploads_are_finished(benches: list[Bench]) -> None:
    """One write of as many bytes after ten files as after ninety-nine, and the ledger is not read."""
    short, long = benches
    for bench in benches:
        bench.disk.asked.clear()
    assert await short.save("/rec/x.mp4") == await long.save("/rec/x.mp4")
    assert await short.save("/rec/x.mp4", "/rec/y.mp4") == await long.save("/rec/x.mp4", "/rec/y.mp4")
    assert short.disk.asked == long.disk.asked == []


async def test_a_save_costs_the_same_however_many_files_are_queued(benches: list[Bench]) -> None:
    """A thousand queued files are neither encoded nor written."""
    idle, busy = benches
    for number in range(1000):
        busy.store.put(an_upload(path=f"/rec/queued-{number}.mp4"))
        idle.store.put(next_value(idle.store, an_upload(path="/rec/queued.mp4")))  # so that both have changed as often
    assert await idle.save("/rec/x.mp4") == await busy.save("/rec/x.mp4")
    assert await idle.save("/rec/x.mp4") == await busy.save("/rec/x.mp4")


async def test_only_changed_uploads_are_encoded(benches: list[Bench]) -> None:
    """Of a hundred begun uploads one has moved: its line, the capabilities and the ledger's tail are encoded."""
    bench = benches[0]
    paths = [f"/rec/{number}.mp4" for number in range(100)]
    assert (await bench.save(*paths))[:2] == (1, 102)
    assert (await bench.save(paths[50]))[:2] == (1, 3)
    bench.store.learn(chunk_limit=65536)
    assert (await bench.save())[:2] == (1, 2)
    for path in paths:
        bench.store.drop(bench.store.uploads[path])
    assert (await bench.save())[:2] == (1, 2)


async def test_the_next_save_after_a_refused_one_is_complete(benches: list[Bench]) -> None:
    """What was encoded for the failed write is not taken for written."""
    bench = benches[0]
    bench.disk.refuses = {"replace"}
    saving = asyncio.create_task(bench.store.save(SENDING))
    await until(lambda: bench.disk.refused)
    saving.cancel()
    await asyncio.gather(saving, return_exceptions=True)
    bench.disk.refuses.clear()
    await bench.store.commit()
    assert decode_state(bench.memory.files[STATE_FILE]).uploads == (SENDING,)


async def test_a_save_passes_only_changes_to_its_thread(monkeypatch: pytest.MonkeyPatch, benches: list[Bench]) -> None:
    """Its work on the event loop does not grow with the number of uploads."""
    bench, handed = benches[0], []
    real = bench.store._state_writer.hand_over

    def hand_over(changes: Changes) -> None:
        handed.append(dict(changes.uploads))
        real(changes)

    monkeypatch.setattr(bench.store._state_writer, "hand_over", hand_over)
    await bench.save(*(f"/rec/{number}.mp4" for number in range(500)))
    await bench.save("/rec/7.mp4")
    bench.store.drop(bench.store.uploads["/rec/8.mp4"])
    await bench.store.commit()
    assert [len(changes) for changes in handed] == [500, 1, 1]
    assert handed[2] == {"/rec/8.mp4": None}


async def test_the_changes_of_a_cancelled_save_are_in_the_next(benches: list[Bench]) -> None:
    """Its write waited for the state's thread and is dropped."""
    bench = benches[0]
    bench.disk.gate.clear()
    bench.disk.begun.clear()
    for number in (1, 2):
        saving = asyncio.create_task(bench.store.save(replace(SENDING, path=f"/rec/{number}.mp4")))
        await until(lambda: bench.disk.begun)
        await asyncio.sleep(0)
        saving.cancel()
        await asyncio.gather(saving, return_exceptions=True)
    bench.disk.gate.set()
    await bench.store.commit()
    assert bench.disk.begun == ["replace", "replace"]
    assert [upload.path for upload in decode_state(bench.memory.files[STATE_FILE]).uploads] == [
        "/rec/1.mp4",
        "/rec/2.mp4",
    ]


async def test_a_value_that_cannot_be_encoded_fails_every_save(benches: list[Bench]) -> None:
    """It is a bug, and no later save may leave it out."""
    store = benches[0].store
    store.put(replace(SENDING, begun_at=float("nan")))
    for _ in range(2):
        with pytest.raises(ValueError, match="not JSON compliant"):
            await store.commit()
    await store.save(next_value(store, SENDING))
    assert decode_state(benches[0].memory.files[STATE_FILE]).uploads == (SENDING,)


class CountingHash:
    """A hash that counts the bytes it is given, together with its copies."""

    hashed = 0

    def __init__(self, content: bytes = b"") -> None:
        self._hash = hashlib.sha256()
        self.update(content)

    def update(self, content: bytes | memoryview) -> None:
        """Hash, and count."""
        CountingHash.hashed += len(content)
        self._hash.update(content)

    def copy(self) -> CountingHash:
        """Go on from here."""
        copy = CountingHash()
        copy._hash = self._hash.copy()
        return copy

    def hexdigest(self) -> str:
        """As the real one."""
        return self._hash.hexdigest()


async def test_uploads_that_do_not_change_are_not_hashed_again(
    monkeypatch: pytest.MonkeyPatch, benches: list[Bench]
) -> None:
    """Parked ones come first in the file; active ones come last, and the hash continues from there."""
    monkeypatch.setattr(statewriter, "BLOCK_SIZE", 4096)
    monkeypatch.setattr("uploader.store.statewriter.sha256", CountingHash)
    bench = benches[0]
    await bench.save(*(f"/rec/{number}.mp4" for number in range(500)))
    hashed = []
    for path in ("/rec/499.mp4", "/rec/499.mp4", "/rec/0.mp4", "/rec/0.mp4"):
        CountingHash.hashed = 0
        _, _, size = await bench.save(path)
        hashed.append(CountingHash.hashed)
    assert hashed[0] < 10_000
    assert hashed[1] < 10_000
    assert hashed[2] > size - 1000  # it stood first: everything behind it has moved, once
    assert hashed[3] < 10_000
    assert len(decode_state(bench.memory.files[STATE_FILE]).uploads) == 500


numbers = st.integers(0, 9)
uploads = st.builds(
    lambda number, restarts: an_upload(State.SENDING, path=f"/rec/{number}.mp4", restarts=restarts), numbers, numbers
)
orphans = st.builds(lambda number, since: Orphan(f"record-{number}", "a", "/rec/a.mp4", since, EPOCH), numbers, numbers)
steps = st.lists(
    st.tuples(st.just("put"), uploads | orphans)
    | st.tuples(st.just("drop"), numbers)
    | st.tuples(st.just("save"), st.none()),
    max_size=40,
)


@given(steps, st.sampled_from([1, 900, 2500, statewriter.BLOCK_SIZE]))
def test_an_incremental_save_writes_the_same_bytes_as_a_complete_one(steps: list[tuple[str, Any]], block: int) -> None:
    """In the order of the last change, whatever the block size; and they are read back equal."""
    writer, told, spared = StateWriter(), Tracked[Upload]({}), Tracked[Orphan]({})
    kept: dict[str, Upload] = {}  # in the order of the last change
    left: dict[str, Orphan] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statewriter, "BLOCK_SIZE", block)
        for sequence, (step, value) in enumerate([*steps, ("save", None)]):
            if isinstance(value, Upload):
                kept.pop(value.path, None)
                kept[value.path] = told[value.path] = value
            elif isinstance(value, Orphan):
                left.pop(value.record, None)
                left[value.record] = spared[value.record] = value
            elif step == "drop":
                for mapping in (kept, told):
                    mapping.pop(f"/rec/{value}.mp4", None)
                for others in (left, spared):
                    others.pop(f"record-{value}", None)
            else:
                learnt = ServerCapabilities(chunk_limit=sequence)
                writer.hand_over(Changes(sequence, told.take_changes(), spared.take_changes(), learnt))
                written = b"".join(writer.encode(None, now=EPOCH))
                saved = StateSnapshot(sequence, tuple(kept.values()), tuple(left.values()), learnt)
                assert written == encode_state(saved, now=EPOCH)
                assert decode_state(written) == saved
                assert dict(told) == kept


@given(st.sets(st.integers(0, 199), min_size=150))
def test_dropped_uploads_leave_no_blocks_behind(dropped: set[int]) -> None:
    """However many lines are removed from however many blocks."""
    everything = {f"/rec/{number}.mp4": replace(SENDING, path=f"/rec/{number}.mp4") for number in range(200)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statewriter, "BLOCK_SIZE", 4096)
        section = Section()
        section.apply(everything)
        for number in dropped:
            section.apply({f"/rec/{number}.mp4": None})
        left = everything.keys() - {f"/rec/{number}.mp4" for number in dropped}
        size = sum(len(piece) for piece in section.pieces())
        assert section._block_of.keys() == left
        assert len(section._blocks) <= 2 * size / 4096 + 1
        section.apply(dict.fromkeys(everything))
        assert (section._blocks, section._block_of) == ([], {})


def test_the_writer_keeps_lines_and_no_values() -> None:
    """It holds the content of the file once."""
    writer, upload = StateWriter(), replace(SENDING, restarts=7)
    references = sys.getrefcount(upload)
    writer.hand_over(Changes(1, {upload.path: upload}))
    writer.encode(None, now=EPOCH)
    writer.hand_over(Changes(2))
    writer.encode(None, now=EPOCH)
    assert sys.getrefcount(upload) == references
