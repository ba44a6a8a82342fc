"""Each upload has one owner: a stage works under a lease, and an operator command revokes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from fakes import EPOCH, MemoryDisk, VirtualClock, an_upload, until

from uploader.domain import errors, events
from uploader.domain.model import ActionBy, LastError, State, Upload
from uploader.stages import lease
from uploader.stages.lease import Leases
from uploader.store import Stale, Store

HERE = {State.SENDING}


class Stage:
    """A stage whose work lasts until the test ends it."""

    def __init__(self, leases: Leases, path: str) -> None:
        self.begun, self.end, self.cancelled = asyncio.Event(), asyncio.Event(), False
        self.result: str | None = "not over"
        self.task = asyncio.create_task(self._run(leases, path))

    async def _run(self, leases: Leases, path: str) -> None:
        self.result = await leases.work(path, HERE, self._work)

    async def _work(self, upload: Upload) -> str:
        self.begun.set()
        try:
            await self.end.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return f"sent {upload.path}"


@asynccontextmanager
async def leases_of(*uploads: Upload) -> AsyncIterator[tuple[Store, Leases, list[str]]]:
    """A store with these uploads, its leases, and the paths that they send on."""
    store = Store(MemoryDisk(), VirtualClock(), events.Bus())
    for upload in uploads:
        store.put(upload)
    sent_on: list[str] = []
    leases = Leases(store)
    leases.send_on = sent_on.append
    try:
        yield store, leases, sent_on
    finally:
        await store.close()


SENDING = an_upload(State.SENDING)


async def test_an_upload_has_one_owner_at_a_time() -> None:
    """A second party does nothing; the upload goes to its stage when the first has ended."""
    async with leases_of(SENDING) as (_, leases, sent_on):
        first = Stage(leases, SENDING.path)
        await first.begun.wait()
        second = Stage(leases, SENDING.path)
        await second.task
        assert (second.result, second.begun.is_set(), sent_on) == (None, False, [])
        first.end.set()
        await first.task
        assert (first.result, sent_on) == (f"sent {SENDING.path}", [SENDING.path])
        assert not leases.busy


async def test_an_upload_that_no_other_stage_asked_for_is_not_sent_on() -> None:
    """The stage itself says where it goes next."""
    async with leases_of(SENDING) as (_, leases, sent_on):
        stage = Stage(leases, SENDING.path)
        stage.end.set()
        await stage.task
        assert sent_on == []


@pytest.mark.parametrize(
    "upload",
    [
        an_upload(State.VERIFYING),
        replace(SENDING, last_error=LastError("no", ActionBy.UPLOADER, next_try=EPOCH + 60)),
        replace(SENDING, path="/rec/another.mp4"),
    ],
    ids=["it has left this stage", "it waits for its time", "it is over"],
)
async def test_a_stage_skips_an_upload_in_the_state_of_another_stage(upload: Upload) -> None:
    """It may come late from a queue."""
    async with leases_of(upload) as (_, leases, _):
        stage = Stage(leases, SENDING.path)
        await stage.task
        assert (stage.result, stage.begun.is_set()) == (None, False)


async def test_a_paused_upload_is_not_begun() -> None:
    """Not by its own name, nor by that of a folder above it."""
    async with leases_of(SENDING) as (store, leases, _):
        store.pause("/rec")
        stage = Stage(leases, SENDING.path)
        await stage.task
        assert not stage.begun.is_set()


async def test_a_command_takes_an_upload_from_its_stage() -> None:
    """The work has ended when the command continues; the worker is free, and late writes are refused."""
    async with leases_of(SENDING) as (store, leases, _):
        stage = Stage(leases, SENDING.path)
        await stage.begun.wait()
        read = store.uploads[SENDING.path]
        async with leases.revoke(read) as current:
            assert stage.cancelled
            assert current is read
            store.drop(current)
        await stage.task
        assert stage.result is None
        with pytest.raises(Stale):
            store.put(replace(read, offset=64))


async def test_no_stage_begins_while_a_command_holds_the_upload() -> None:
    """One that tries meanwhile gets the upload after the command."""
    async with leases_of(SENDING) as (store, leases, sent_on):
        async with leases.revoke(store.uploads[SENDING.path]):
            stage = Stage(leases, SENDING.path)
            await stage.task
            assert not stage.begun.is_set()
        assert sent_on == [SENDING.path]


async def test_two_commands_wait_for_each_other() -> None:
    """The second sees what the first has left."""
    async with leases_of(SENDING) as (store, leases, _):
        upload, order = store.uploads[SENDING.path], []

        async def forget(name: str) -> None:
            async with leases.revoke(upload) as current:
                order.append((name, current is not None))
                await asyncio.sleep(0)
                if current is not None:
                    store.drop(current)

        await asyncio.gather(forget("first"), forget("second"))
        assert order == [("first", True), ("second", False)]


async def test_a_command_gives_up_when_the_work_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a hung share cannot be interrupted: the command reports it and changes nothing."""
    monkeypatch.setattr(lease, "REVOKE_TIMEOUT", 0.01)
    async with leases_of(SENDING) as (store, leases, _):
        begun, hangs = asyncio.Event(), asyncio.Event()

        async def hang(upload: Upload) -> None:
            begun.set()
            while not hangs.is_set():
                try:
                    await hangs.wait()
                except asyncio.CancelledError:
                    continue

        work = asyncio.create_task(leases.work(SENDING.path, HERE, hang))
        await begun.wait()
        with pytest.raises(errors.UploadBusy, match="nothing was changed"):
            async with leases.revoke(store.uploads[SENDING.path]):
                pytest.fail("it was not free")
        assert SENDING.path in store.uploads
        hangs.set()
        await work


async def test_a_stage_that_is_stopped_stops_its_work() -> None:
    """Cancelling the worker ends the work and frees the upload; the cancellation passes through."""
    async with leases_of(SENDING) as (_, leases, _):
        stage = Stage(leases, SENDING.path)
        await stage.begun.wait()
        stage.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stage.task
        assert stage.cancelled
        assert not leases.busy


async def test_work_that_hangs_keeps_its_lease_after_its_stage_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a reload no new stage begins with the upload before the old work has ended."""
    monkeypatch.setattr(lease, "STAGE_END_TIMEOUT", 0.01)
    async with leases_of(SENDING) as (_, leases, sent_on):
        begun, hangs, calls = asyncio.Event(), asyncio.Event(), 0

        async def hang(upload: Upload) -> None:
            nonlocal calls
            begun.set()
            while not hangs.is_set():
                try:
                    await hangs.wait()
                except asyncio.CancelledError:
                    calls += 1

        old = asyncio.create_task(leases.work(SENDING.path, HERE, hang))
        await begun.wait()
        old.cancel()
        with pytest.raises(asyncio.CancelledError):
            await old
        assert calls == 1
        new = Stage(leases, SENDING.path)
        await new.task
        assert not new.begun.is_set()
        hangs.set()
        await until(lambda: not leases.busy)
        assert sent_on == [SENDING.path]


async def test_a_lease_belongs_to_the_upload_and_not_to_its_path() -> None:
    """A new upload at the same path does not wait for the work on the old one."""
    async with leases_of(SENDING) as (store, leases, _):
        old = Stage(leases, SENDING.path)
        await old.begun.wait()
        store.drop(store.uploads[SENDING.path])
        store.put(SENDING)
        new = Stage(leases, SENDING.path)
        await asyncio.wait_for(new.begun.wait(), 5)
        old.end.set()
        new.end.set()
        await asyncio.gather(old.task, new.task)


async def test_a_short_step_is_refused_while_the_upload_is_held() -> None:
    """When the upload is free, the step holds it."""
    async with leases_of(SENDING) as (store, leases, _):
        upload = store.uploads[SENDING.path]
        with leases.step(upload) as held:
            assert held
            assert leases.is_held(upload)
            with leases.step(upload) as again:
                assert not again
        assert not leases.is_held(upload)
