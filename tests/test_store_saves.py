"""What a save costs, counted: one write for all who wait, and no work that grows with history or with a queue."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from fakes import EPOCH, FailingDisk, MemoryDisk, VirtualClock, a_finish, an_upload, next_value, until
from hypothesis import given
from hypothesis import strategies as st

from uploader import events
from uploader.model import Orphan, State, Upload
from uploader.store import Store, codec
from uploader.store.codec import Saved, StateWriter, decode_state, encode_state
from uploader.store.store import STATE

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
        return len(self.disk.begun), self.spelt, len(self.memory.files[STATE])


@pytest.fixture
async def benches(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Bench]]:
    """One without history, one with a long one."""
    benches = [Bench(monkeypatch, 10), Bench(monkeypatch, 99)]  # counts of two digits each
    yield benches
    for bench in benches:
        await bench.store.close()


@pytest.mark.parametrize("count", [1, 2, 30, 1000])
async def test_all_who_wait_are_one_write(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """While a write is under way, however many commits come, they become one more; each is on the disk when told so."""
    bench = Bench(monkeypatch)
    bench.disk.begun.clear()
    bench.disk.gate.clear()
    saving: list[asyncio.Task[object]] = []
    saving.append(asyncio.create_task(bench.store.save(replace(SENDING, path="/rec/first.mp4"))))
    await until(lambda: bench.disk.begun)
    on_disk: dict[int, bytes] = {}

    async def save(number: int) -> None:
        await bench.store.save(replace(SENDING, path=f"/rec/{number}.mp4"))
        on_disk[number] = bench.memory.files[STATE]

    saving.extend(asyncio.create_task(save(number)) for number in range(count))
    await asyncio.sleep(0)
    bench.disk.gate.set()
    await asyncio.gather(*saving)
    assert bench.disk.begun == ["replace", "replace"]
    assert len(on_disk) == count
    assert all(f'"/rec/{number}.mp4"'.encode() in content for number, content in on_disk.items())
    await bench.store.close()


async def test_a_save_costs_the_same_whatever_was_finished(benches: list[Bench]) -> None:
    """One write of as many bytes after ten files as after ninety-nine; the ledger is not even looked at."""
    short, long = benches
    for bench in benches:
        bench.disk.asked.clear()
    assert await short.save("/rec/x.mp4") == await long.save("/rec/x.mp4")
    assert await short.save("/rec/x.mp4", "/rec/y.mp4") == await long.save("/rec/x.mp4", "/rec/y.mp4")
    assert short.disk.asked == long.disk.asked == []


async def test_a_save_costs_the_same_whatever_is_queued(benches: list[Bench]) -> None:
    """A thousand files that merely wait their turn are neither spelt nor written."""
    idle, busy = benches
    for number in range(1000):
        busy.store.put(an_upload(path=f"/rec/queued-{number}.mp4"))
        idle.store.put(next_value(idle.store, an_upload(path="/rec/queued.mp4")))  # so that both have changed as often
    assert await idle.save("/rec/x.mp4") == await busy.save("/rec/x.mp4")
    assert await idle.save("/rec/x.mp4") == await busy.save("/rec/x.mp4")


async def test_only_what_changed_is_spelt_anew(benches: list[Bench]) -> None:
    """Of a hundred begun uploads one has moved: its line, the lessons and the ledger's tail are spelt."""
    bench = benches[0]
    paths = [f"/rec/{number}.mp4" for number in range(100)]
    assert (await bench.save(*paths))[:2] == (1, 102)
    assert (await bench.save(paths[50]))[:2] == (1, 3)
    bench.store.learn(chunk_limit=65536)
    assert (await bench.save())[:2] == (1, 2)
    for path in paths:
        bench.store.drop(bench.store.uploads[path])
    assert (await bench.save())[:2] == (1, 2)
    assert bench.store._writes._spelled == {}  # what is gone is not remembered


async def test_a_refused_save_is_written_whole_the_next_time(benches: list[Bench]) -> None:
    """What was spelt for a write that failed is not taken for written."""
    bench = benches[0]
    bench.disk.refuses = {"replace"}
    saving = asyncio.create_task(bench.store.save(SENDING))
    await until(lambda: bench.disk.refused)
    saving.cancel()
    await asyncio.gather(saving, return_exceptions=True)
    bench.disk.refuses.clear()
    await bench.store.commit()
    assert decode_state(bench.memory.files[STATE]).uploads == (SENDING,)


uploads = st.lists(
    st.builds(
        lambda number, restarts: an_upload(State.SENDING, path=f"/rec/{number}.mp4", restarts=restarts),
        st.integers(0, 4),
        st.integers(0, 3),
    ),
    max_size=5,
    unique_by=lambda upload: upload.path,
)
orphans = st.lists(
    st.builds(lambda number: Orphan(f"record-{number}", "a", "/rec/a.mp4", EPOCH, EPOCH), st.integers(0, 4)), max_size=3
)


@given(st.lists(st.tuples(uploads, orphans, st.booleans()), max_size=6))
def test_a_writer_that_remembers_writes_what_one_without_memory_would(
    states: list[tuple[list[Upload], list[Orphan], bool]],
) -> None:
    """State after state, changed, dropped or left as it was: the very same bytes."""
    writer, kept = StateWriter(), Saved()
    for sequence, (found, left, keep) in enumerate(states):
        kept = replace(kept if keep else Saved(0, tuple(found), tuple(left)), sequence=sequence)
        assert writer.encode(kept, now=EPOCH) == encode_state(kept, now=EPOCH)


def test_a_value_is_kept_for_as_long_as_its_line() -> None:
    """Lines are found by their value's place in memory: no other value may come to stand there meanwhile."""
    writer, upload = StateWriter(), replace(SENDING, restarts=7)
    references = sys.getrefcount(upload)
    writer.encode(Saved(1, (upload,)), now=EPOCH)
    assert sys.getrefcount(upload) == references + 1
    writer.encode(Saved(2), now=EPOCH)
    assert sys.getrefcount(upload) == references
