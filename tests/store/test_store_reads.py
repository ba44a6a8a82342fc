"""Questions to the ledger while the daemon runs: off the event loop, apart from saves, in bounded time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from fakes import CONDITION_TIMEOUT, MemoryDisk, VirtualClock, a_finish, an_upload, until

from uploader.domain import errors, events
from uploader.domain.model import Identity, State
from uploader.store import Store
from uploader.store import store as store_file

SAME = Identity(100, 5, "e1")


class SlowDisk(MemoryDisk):
    """A disk whose parts are read when ``gate`` is open, and which notes on which thread."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.threads: list[str] = []

    def read_at(self, name: str, offset: int, length: int) -> bytes:
        """Read, when it may be."""
        self.threads.append(threading.current_thread().name)
        if not self.gate.wait(CONDITION_TIMEOUT):
            raise AssertionError("nobody opened the gate")
        return super().read_at(name, offset, length)


@pytest.fixture
async def disk() -> SlowDisk:
    """A disk that answers, for now."""
    return SlowDisk()


@pytest.fixture
async def store(disk: SlowDisk) -> AsyncIterator[Store]:
    """A store with one finished file."""
    store = Store(disk, VirtualClock(), events.Bus())
    await store.finish(a_finish("/rec/a.mp4"))
    disk.threads.clear()
    yield store
    disk.gate.set()
    await store.close()


async def test_the_store_gives_the_ledger_s_answers(store: Store) -> None:
    """What was sent from a path, equal content there, and equal content elsewhere."""
    (known,) = store.ledger.of("/rec/a.mp4")
    assert await store.sent_from("/rec/a.mp4") == (known,)
    assert await store.sent_from("/rec/b.mp4") == ()
    assert await store.sent_alike("/rec/a.mp4", SAME) == known
    assert await store.sent_alike("/rec/b.mp4", SAME) is None
    assert await store.sent_elsewhere(SAME, "/rec/b.mp4") == known
    assert await store.sent_elsewhere(SAME, "/rec/a.mp4") is None


async def test_lines_are_read_on_a_thread_of_their_own(store: Store, disk: SlowDisk) -> None:
    """Neither on the event loop nor on the thread that saves."""
    await store.sent_from("/rec/a.mp4")
    await store.sent_alike("/rec/a.mp4", SAME)
    await store.sent_elsewhere(SAME, "/rec/b.mp4")
    assert disk.threads == ["ledger"] * 3


async def test_a_new_recording_reads_no_line(store: Store, disk: SlowDisk) -> None:
    """Memory is enough to say that it was not sent, so it does not wait for a hung disk."""
    disk.gate.clear()
    asking = asyncio.create_task(store.sent_from("/rec/a.mp4"))
    await until(lambda: disk.threads)
    assert await store.sent_alike("/rec/b.mp4", SAME) is None
    assert await store.sent_alike("/rec/a.mp4", Identity(101, 5, "e1")) is None
    assert await store.sent_elsewhere(Identity(100, 5, "e2"), "/rec/b.mp4") is None
    assert not asking.done()
    disk.gate.set()
    await asking


async def test_a_hung_read_times_out_and_blocks_nothing_else(
    store: Store, disk: SlowDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop runs and saves are made; when the disk is back, it answers."""
    monkeypatch.setattr(store_file, "LEDGER_READ_TIMEOUT", 0.05)
    disk.gate.clear()
    asking = asyncio.create_task(store.sent_alike("/rec/a.mp4", SAME))
    await until(lambda: disk.threads)
    await asyncio.wait_for(store.save(an_upload(State.SENDING)), CONDITION_TIMEOUT)
    with pytest.raises(errors.ShareNotReady, match=r"ledger.jsonl: the disk has not answered for 0.05 s"):
        await asking
    with pytest.raises(errors.ShareNotReady):
        await store.sent_from("/rec/a.mp4")
    disk.gate.set()
    monkeypatch.undo()
    assert await store.sent_alike("/rec/a.mp4", SAME) is not None
    assert len(disk.threads) == 2  # a line that no caller waited for was not read


async def test_an_unreadable_line_raises_to_its_caller(store: Store, disk: SlowDisk) -> None:
    """The operator must act; the store goes on."""
    disk.files["ledger.jsonl"] = b"x" + disk.files["ledger.jsonl"][1:]
    for question in (
        store.sent_from("/rec/a.mp4"),
        store.sent_alike("/rec/a.mp4", SAME),
        store.sent_elsewhere(SAME, "/rec/b.mp4"),
        store.finish(a_finish("/rec/a.mp4")),
    ):
        with pytest.raises(errors.LedgerUnreadable, match="line 1 cannot be read"):
            await question
    assert store.ledger.count == 1  # no second line of a record whose first cannot be read
    await store.finish(a_finish("/rec/b.mp4", "record-2"))
    assert store.ledger.count == 2
