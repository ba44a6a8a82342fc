"""The intent of a record: it is saved before the call, with a time from which a lost answer is waited for."""

from __future__ import annotations

import asyncio
from typing import Any

from fakes import IDS, FailingDisk, MemoryDisk, VirtualClock, an_upload, until

from uploader.domain import events
from uploader.domain.model import RecordIds, RecordSpec, State
from uploader.files import Shares
from uploader.server.capabilities import CapabilityTracker
from uploader.stages.context import StageContext
from uploader.stages.lease import Leases
from uploader.stages.queues import Queues
from uploader.stages.records import SERVER_CLOCK_RESOLUTION, RecordCreator
from uploader.store import Store


class Server:
    """Creates one record, and keeps the state as it was saved at that moment."""

    log_ins = 0

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.asked_at: float | None = None

    def server_now(self) -> float:
        """Return the time of the only clock."""
        return self._clock.now()

    async def agree_on_time(self) -> None:
        """Do nothing: there is one clock."""

    async def create_record(self, spec: RecordSpec) -> RecordIds:
        """Note when."""
        del spec
        self.asked_at = self._clock.now()
        return IDS


async def test_a_slow_save_of_the_intent_does_not_make_it_old() -> None:
    """The disk refuses for 15 s. The call is made after that, and the intent that is saved then says so."""
    clock, bus = VirtualClock(), events.Bus()
    disk = FailingDisk(MemoryDisk())
    store = Store(disk, clock, bus)
    context = StageContext(store, Leases(store), Shares(lambda root: None), Queues(clock), clock, bus)  # type: ignore[arg-type,return-value]  # no share is used
    server: Any = Server(clock)
    config: Any = None  # not used: nothing was learnt
    records = RecordCreator(context, "uploader", 20.0, server, CapabilityTracker(config, store, server, clock, bus))
    upload = store.put(an_upload(State.QUEUED))
    disk.refuses.add("replace")
    creating = asyncio.ensure_future(records.create(upload.path, lambda _: True))
    await until(lambda: disk.refused)
    await clock.advance(15.0)
    disk.refuses.clear()
    while not creating.done():
        await clock.advance(1.0)
        await asyncio.sleep(0.001)
    created = store.uploads[upload.path]
    assert created.state is State.SENDING
    assert server.asked_at - (created.intent_at or 0.0) <= SERVER_CLOCK_RESOLUTION
    await store.close()
