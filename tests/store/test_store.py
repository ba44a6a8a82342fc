"""The store: confirmed only when durable, and saves grouped where possible."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import (
    CONDITION_TIMEOUT,
    EPOCH,
    LAST_ERROR,
    FailingDisk,
    MemoryDisk,
    VirtualClock,
    a_finish,
    an_upload,
    next_value,
    until,
)

from uploader.domain import errors, events
from uploader.domain.model import Orphan, State
from uploader.store import Store
from uploader.store import store as store_file
from uploader.store.codec import StateSnapshot, decode_state
from uploader.store.disk import Disk, StateFolder
from uploader.store.opening import STATE_FILE, read_state
from uploader.store.store import SAVE_RETRY_INTERVAL, SLOW_WRITE_WARNING

SENDING = an_upload(State.SENDING)


class Desk:
    """A store with its disk, its clock, and all that it said."""

    def __init__(self, inner: Disk | None = None) -> None:
        self.memory = MemoryDisk()
        self.disk = FailingDisk(inner or self.memory)
        self.clock = VirtualClock()
        self.said: list[events.Event] = []
        bus = events.Bus()
        bus.listen(self.said.append)
        self.store = Store(self.disk, self.clock, bus)
        self.disk.begun.clear()

    def saved(self) -> StateSnapshot:
        """What is on the disk."""
        content = self.disk.disk.read(STATE_FILE)
        assert content is not None
        return decode_state(content)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """A store that starts with nothing."""
    desk = Desk()
    yield desk
    desk.disk.refuses.clear()
    desk.disk.gate.set()
    await desk.store.close()


async def test_the_saved_state_is_there_after_a_restart(tmp_path: Path) -> None:
    """Uploads, orphans, capabilities and the ledger, in a real folder."""
    first = Desk(StateFolder(tmp_path))
    orphan = Orphan("record-9", "a", "/rec/a.mp4", EPOCH, EPOCH + 20)
    await first.store.save(SENDING)
    first.store.put_orphan(orphan)
    first.store.put_orphan(None)
    first.store.learn(chunk_limit=65536, login_refusals=1)
    await first.store.commit()
    await first.store.finish(a_finish("/rec/b.mp4"))
    await first.store.close()
    second = Desk(StateFolder(tmp_path))
    assert dict(second.store.uploads) == {SENDING.path: SENDING}
    assert dict(second.store.orphans) == {"record-9": orphan}
    assert (second.store.capabilities.chunk_limit, second.store.capabilities.login_refusals) == (65536, 1)
    assert second.store.ledger.holds("record-1")
    await second.store.close()


async def test_dropped_uploads_and_orphans_are_gone_after_a_restart(desk: Desk) -> None:
    """A finished upload and a deleted orphan leave nothing behind."""
    desk.store.put_orphan(Orphan("record-9", "a", "/rec/a.mp4", EPOCH, EPOCH))
    await desk.store.save(SENDING)
    desk.store.drop(desk.store.uploads[SENDING.path])
    desk.store.drop_orphan("record-9")
    desk.store.drop_orphan("never there")
    await desk.store.commit()
    assert (desk.saved().uploads, desk.saved().orphans) == ((), ())
    assert not desk.store.uploads
    assert not desk.store.orphans


async def test_an_upload_that_has_not_begun_is_not_saved(desk: Desk) -> None:
    """A scan finds its file again, and the state's size follows the begun uploads."""
    desk.store.put(an_upload(path="/rec/0.mp4"))
    desk.store.put(an_upload(path="/rec/1.mp4", last_error=LAST_ERROR))
    desk.store.put(an_upload(path="/rec/2.mp4", restarts=1))
    desk.store.put(an_upload(State.CREATING, path="/rec/begun.mp4"))
    await desk.store.commit()
    assert [upload.path for upload in desk.saved().uploads] == ["/rec/1.mp4", "/rec/2.mp4", "/rec/begun.mp4"]
    assert len(desk.store.uploads) == 4


async def test_a_commit_returns_only_when_it_is_durable(desk: Desk) -> None:
    """While the write is in progress, nothing is confirmed."""
    desk.disk.gate.clear()
    saving = asyncio.create_task(desk.store.save(SENDING))
    await until(lambda: desk.disk.begun)
    assert not saving.done()
    assert desk.saved().uploads == ()
    desk.disk.gate.set()
    assert await saving == SENDING
    assert desk.saved().uploads == (SENDING,)


async def test_commits_that_wait_together_are_written_as_one(desk: Desk) -> None:
    """A hundred files cost two writes, and each commit returns only after its own change is on the disk."""
    desk.disk.gate.clear()
    durable: dict[str, bool] = {}

    async def save(path: str) -> None:
        await desk.store.save(replace(SENDING, path=path))
        durable[path] = f'"{path}"' in desk.memory.files[STATE_FILE].decode()

    tasks = [asyncio.create_task(save(f"/rec/{number}.mp4")) for number in range(100)]
    await until(lambda: desk.disk.begun)
    desk.disk.gate.set()
    await asyncio.gather(*tasks)
    assert desk.disk.begun == ["replace", "replace"]
    assert len(durable) == 100
    assert all(durable.values())


async def test_a_change_made_during_a_write_is_not_taken_for_saved(desk: Desk) -> None:
    """The write in progress has older values, so the commit waits for the next one."""
    desk.disk.gate.clear()
    first = asyncio.create_task(desk.store.save(SENDING))
    await until(lambda: desk.disk.begun)
    later = replace(SENDING, path="/rec/later.mp4")
    second = asyncio.create_task(desk.store.save(later))
    desk.disk.gate.set()
    await asyncio.gather(first, second)
    assert desk.disk.begun == ["replace", "replace"]
    assert desk.saved().uploads == (SENDING, later)


async def test_a_commit_with_nothing_new_writes_nothing(desk: Desk) -> None:
    """The disk is left alone."""
    await desk.store.save(SENDING)
    desk.disk.begun.clear()
    await desk.store.commit()
    assert desk.disk.begun == []


async def test_a_refused_save_is_retried_every_five_seconds(desk: Desk) -> None:
    """Nothing is given up or announced; each refusal is reported, then it goes on."""
    desk.disk.refuses = {"replace"}
    saving = asyncio.create_task(desk.store.save(SENDING))
    for refusals in range(1, 4):
        await until(lambda: desk.clock.sleepers)
        assert (desk.disk.refused, saving.done(), desk.saved().uploads) == (refusals, False, ())
        await desk.clock.advance(SAVE_RETRY_INTERVAL)
    await until(lambda: desk.clock.sleepers)
    desk.disk.refuses.clear()
    await desk.clock.advance(SAVE_RETRY_INTERVAL)
    await asyncio.wait_for(saving, 5)
    assert desk.saved().uploads == (SENDING,)
    *refusals_said, back = desk.said
    assert len(refusals_said) == 4
    assert all(
        isinstance(event, events.StateNotSaved)
        and "No space left" in event.reason
        and event.again_in == SAVE_RETRY_INTERVAL
        for event in refusals_said
    )
    assert back == events.StateSaved(4 * SAVE_RETRY_INTERVAL)


SILENT = "state.json: the disk does not answer: check the disk and its connection; nothing new is begun until then"


async def test_a_hung_write_is_reported_once(desk: Desk) -> None:
    """After thirty seconds, with the file and what to do."""
    desk.disk.gate.clear()
    saving = asyncio.create_task(desk.store.save(SENDING))
    await until(lambda: desk.disk.begun)
    await desk.clock.advance(SLOW_WRITE_WARNING - 1)
    assert (desk.said, desk.store.not_saved, desk.store.write_age) == ([], "", SLOW_WRITE_WARNING - 1)
    await desk.clock.advance(1)
    assert (desk.said, desk.store.not_saved) == ([events.StateNotSaved(SILENT, None)], SILENT)
    behind = asyncio.create_task(desk.store.save(replace(SENDING, path="/rec/behind.mp4")))
    await desk.clock.advance(100 * SLOW_WRITE_WARNING)
    assert len(desk.said) == 1
    desk.disk.gate.set()
    await asyncio.wait_for(asyncio.gather(saving, behind), 5)
    assert desk.said[1:] == [events.StateSaved(101 * SLOW_WRITE_WARNING)]
    assert (desk.store.not_saved, desk.store.write_age) == ("", 0.0)
    assert desk.disk.begun == ["replace", "replace"]


async def test_a_hung_write_is_reported_also_when_no_caller_waits_for_it(desk: Desk) -> None:
    """The next save waits behind it, so its time counts from its own beginning."""
    desk.disk.gate.clear()
    saving = asyncio.create_task(desk.store.save(SENDING))
    await until(lambda: desk.disk.begun)
    await desk.clock.advance(SLOW_WRITE_WARNING - 1)
    saving.cancel()
    await asyncio.gather(saving, return_exceptions=True)
    behind = asyncio.create_task(desk.store.finish(a_finish()))
    await desk.clock.advance(1)
    assert desk.said == [events.StateNotSaved(SILENT, None)]
    await desk.clock.advance(2 * SLOW_WRITE_WARNING)
    assert len(desk.said) == 1
    desk.disk.gate.set()
    await asyncio.wait_for(behind, 5)
    assert desk.said[1:] == [events.StateSaved(3 * SLOW_WRITE_WARNING)]


class Turnstile(FailingDisk):
    """A disk that lets one write through for each turn."""

    def __init__(self, disk: Disk) -> None:
        super().__init__(disk)
        self.turns = threading.Semaphore(0)

    def _write(self, operation: str) -> None:
        self.begun.append(operation)
        assert self.turns.acquire(timeout=CONDITION_TIMEOUT)


async def test_a_write_behind_a_slow_one_has_its_whole_time(desk: Desk) -> None:
    """It counts from when the disk was asked."""
    disk = desk.store._disk = Turnstile(desk.memory)
    first = asyncio.create_task(desk.store.save(SENDING))
    await until(lambda: len(disk.begun) == 1)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    again = next_value(desk.store, replace(SENDING, restarts=1))
    second = asyncio.create_task(desk.store.save(again))
    await desk.clock.advance(SLOW_WRITE_WARNING - 1)
    disk.turns.release()
    await until(lambda: len(disk.begun) == 2)
    await desk.clock.advance(SLOW_WRITE_WARNING - 1)
    assert desk.said == []
    await desk.clock.advance(1)
    assert desk.said == [events.StateNotSaved(SILENT, None)]
    disk.turns.release()
    await asyncio.wait_for(second, 5)


async def test_each_hung_write_is_reported(desk: Desk) -> None:
    """Also after an earlier one that came back in the end."""
    saving = []
    for number in range(2):
        desk.disk.gate.clear()
        upload = next_value(desk.store, replace(SENDING, restarts=number))
        saving.append(asyncio.create_task(desk.store.save(upload)))
        await until(lambda: len(desk.disk.begun) > number)  # noqa: B023 - asked at once
        await desk.clock.advance(SLOW_WRITE_WARNING)
        desk.disk.gate.set()
        await asyncio.wait_for(saving[-1], 5)
    assert [type(event) for event in desk.said] == [events.StateNotSaved, events.StateSaved] * 2


async def test_a_refused_save_is_shown_until_one_succeeds(desk: Desk) -> None:
    """Also while no save is tried."""
    assert desk.store.not_saved == ""
    desk.disk.refuses = {"replace"}
    saving = asyncio.create_task(desk.store.save(SENDING))
    await until(lambda: desk.clock.sleepers)
    saving.cancel()
    await asyncio.gather(saving, return_exceptions=True)
    assert desk.store.not_saved.startswith("state.json: No space left on device: make room or repair the disk;")
    desk.disk.refuses.clear()
    await desk.store.commit()
    assert desk.store.not_saved == ""


async def test_a_cancelled_commit_on_a_full_disk_blocks_no_other(desk: Desk) -> None:
    """It holds no lock, and its change goes with the next save."""
    desk.disk.refuses = {"replace"}
    saving = asyncio.create_task(desk.store.save(SENDING))
    await until(lambda: desk.clock.sleepers)
    saving.cancel()
    await asyncio.gather(saving, return_exceptions=True)
    assert saving.cancelled()
    desk.disk.refuses.clear()
    await desk.store.commit()
    assert desk.saved().uploads == (SENDING,)


async def test_a_finished_upload_is_written_once(desk: Desk) -> None:
    """Finishing again after a crash between ledger and state adds no second line."""
    for _ in range(3):
        await desk.store.finish(a_finish())
    assert desk.store.ledger.count == 1
    assert desk.disk.begun == ["append"]


async def test_a_cancelled_finish_adds_no_second_line(desk: Desk) -> None:
    """Its append may still run on the disk's thread; the next finish checks after it."""
    desk.disk.gate.clear()
    first = asyncio.create_task(desk.store.finish(a_finish()))
    await until(lambda: desk.disk.begun)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    second = asyncio.create_task(desk.store.finish(a_finish()))
    await asyncio.sleep(0)
    desk.disk.gate.set()
    await second
    assert desk.disk.begun == ["append"]
    assert desk.store.ledger.count == 1


async def test_a_full_disk_delays_the_ledger_line(desk: Desk) -> None:
    """It is written once when there is space."""
    desk.disk.refuses, desk.disk.error = {"append"}, errno.EIO
    finishing = asyncio.create_task(desk.store.finish(a_finish()))
    await until(lambda: desk.clock.sleepers)
    assert not finishing.done()
    desk.disk.refuses.clear()
    await desk.clock.advance(SAVE_RETRY_INTERVAL)
    await asyncio.wait_for(finishing, 5)
    assert desk.store.ledger.count == 1


async def test_closing_waits_for_the_write_in_progress(tmp_path: Path) -> None:
    """The last save is whole before folder and lock are released."""
    desk = Desk(StateFolder(tmp_path))
    desk.disk.gate.clear()
    saving = asyncio.create_task(desk.store.save(SENDING))
    await until(lambda: desk.disk.begun)
    closing = asyncio.create_task(desk.store.close())
    await asyncio.sleep(0)
    assert not closing.done()
    desk.disk.gate.set()
    await asyncio.gather(saving, closing)
    again = StateFolder(tmp_path)  # the lock is free
    assert read_state(again).uploads == (SENDING,)
    again.close()


async def test_closing_does_not_wait_for_a_hung_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reports why; the lock stays while that write may go on, and nothing is written after it."""
    monkeypatch.setattr(store_file, "STORE_CLOSE_TIMEOUT", 0.05)
    desk = Desk(StateFolder(tmp_path))
    desk.disk.gate.clear()
    saving = asyncio.create_task(desk.store.save(SENDING))
    await until(lambda: desk.disk.begun)
    await desk.clock.advance(1)
    behind = asyncio.create_task(desk.store.finish(a_finish()))
    await asyncio.wait_for(desk.store.close(), 5)
    assert [type(event) for event in desk.said] == [events.StateNotSaved]
    for task in (saving, behind):
        task.cancel()
    await asyncio.gather(saving, behind, return_exceptions=True)
    with pytest.raises(errors.AlreadyRunning):
        StateFolder(tmp_path)
    desk.disk.gate.set()
    await until(lambda: desk.store.write_age == 0.0)
    with pytest.raises(errors.AlreadyRunning):
        StateFolder(tmp_path)
    with pytest.raises(RuntimeError, match="no further call"):
        await desk.store.finish(a_finish())
    assert desk.disk.begun == ["replace"]
    desk.disk.close()  # as the end of the process does
    again = StateFolder(tmp_path)
    assert read_state(again).uploads == (SENDING,)
    again.close()


async def test_saves_behind_a_hung_write_are_dropped_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were never confirmed."""
    monkeypatch.setattr(store_file, "STORE_CLOSE_TIMEOUT", 0.05)
    desk = Desk(StateFolder(tmp_path))
    desk.disk.gate.clear()
    saving = asyncio.create_task(desk.store.save(SENDING))
    await until(lambda: desk.disk.begun)
    saving.cancel()
    await asyncio.gather(saving, return_exceptions=True)
    behind = asyncio.create_task(desk.store.finish(a_finish()))  # on the thread's list, no longer behind the lock
    await asyncio.sleep(0)
    await asyncio.wait_for(desk.store.close(), 5)
    desk.disk.gate.set()
    await asyncio.gather(behind, return_exceptions=True)
    assert behind.cancelled()
    assert desk.disk.begun == ["replace"]
    desk.disk.close()


async def test_counts_per_state_follow_every_change(desk: Desk) -> None:
    """Put, changed, put again, dropped: they are what counting all uploads would say."""
    waiting = desk.store.put(an_upload(path="/rec/a.mp4"))
    desk.store.put(an_upload(path="/rec/b.mp4"))
    for _ in range(2):
        desk.store.put(next_value(desk.store, an_upload(State.SENDING, path="/rec/b.mp4")))
    assert {state: count for state, count in desk.store.counts.items() if count} == {State.QUEUED: 1, State.SENDING: 1}
    desk.store.drop(waiting)
    assert {state: count for state, count in desk.store.counts.items() if count} == {State.SENDING: 1}
