"""A create call whose answer was lost: how long its record is waited for, and what its saved intent says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from fakes import EPOCH, FailingDisk, MemoryDisk, VirtualClock, an_upload, until

from uploader.domain import errors, events
from uploader.domain.model import RecordSpec, State, Upload
from uploader.files import Shares
from uploader.server.port import RecordDetails, RecordListed
from uploader.stages.context import StageContext
from uploader.stages.lease import Leases
from uploader.stages.queues import Queues
from uploader.stages.records import INTENT_LIMIT, RecordCreator
from uploader.store import Store
from uploader.store.opening import load_state
from uploader.store.store import SAVE_RETRY_INTERVAL

SETTLE: Final = 20.0  # s: ``doubt_settle``


class Server:
    """Loses the answer to each *create record*, after ``creating`` seconds. A search finds what is there as it begins.

    The answer to a search takes ``searching`` seconds.
    """

    def __init__(self, clock: VirtualClock) -> None:
        self._clock = clock
        self.creating = self.searching = 0.0
        self.created_at: list[float] = []
        self.rows: list[RecordListed] = []

    def server_now(self) -> float:
        """Return the time of the only clock there is."""
        return self._clock.now()

    async def agree_on_time(self) -> None:
        """Do nothing: there is one clock."""

    async def create_record(self, spec: RecordSpec) -> None:
        """Give no answer."""
        self.created_at.append(self._clock.now())
        await self._clock.sleep(self.creating)
        raise errors.AnswerLost(f"create record {spec.name}")

    async def find_records(self, name: str) -> list[RecordListed]:
        """Return the records of that name, as they were when this was asked."""
        rows = [row for row in self.rows if row.name == name]
        await self._clock.sleep(self.searching)
        return rows

    async def details(self, record: str) -> RecordDetails:
        """Return a record that holds nothing."""
        (row,) = (row for row in self.rows if row.record == record)
        return RecordDetails(row.record, row.name, row.author, row.created, None)


class KnownServer:
    """What is known of the server needs no refreshing."""

    async def refresh(self) -> None:
        """Do nothing."""

    def makes_nameless(self) -> bool:
        """It makes records with a name."""
        return False


class Bench:
    """The creator of records alone, over a state in memory and a clock that the test advances."""

    def __init__(self, upload: Upload) -> None:
        self.clock, self.disk, self.path = VirtualClock(), FailingDisk(MemoryDisk()), upload.path
        self.store = Store(self.disk, self.clock, events.Bus())
        self.store.put(upload)
        self.server = Server(self.clock)
        nothing: Any = None
        server: Any = self.server  # all that the creator needs of one
        known: Any = KnownServer()
        context = StageContext(
            self.store, Leases(self.store), Shares(lambda _: nothing), Queues(self.clock), self.clock, events.Bus()
        )
        self.records = RecordCreator(context, "uploader", SETTLE, server, known)

    @property
    def now(self) -> Upload:
        """The upload as it stands."""
        return self.store.uploads[self.path]

    async def done(self, work: asyncio.Task[None]) -> None:
        """Let time pass until *work* has ended, second by second. Raises what it raises."""
        while not work.done():
            await self.clock.advance(1.0 if self.clock.sleepers else 0.0)
        await work

    async def lose_answer(self) -> None:
        """Create the record; the answer is lost."""
        with pytest.raises(errors.AnswerLost):
            await self.done(asyncio.create_task(self.records.create(self.path, lambda _: True)))

    async def find(self) -> None:
        """Search for the record."""
        await self.done(asyncio.create_task(self.records.find(self.now)))


@asynccontextmanager
async def bench(state: State = State.QUEUED, **facts: Any) -> AsyncIterator[Bench]:
    """The creator on a table."""
    table = Bench(an_upload(state, **facts))
    try:
        yield table
    finally:
        await table.store.close()


async def test_the_settle_time_of_a_create_call_counts_from_its_end() -> None:
    """Not from its intent: the server may still be at work on a call that has taken longer than the settle time."""
    async with bench() as table:
        table.server.creating = 2 * SETTLE
        await table.lose_answer()
        with pytest.raises(errors.StillInDoubt) as caught:
            await table.find()
        assert caught.value.wait == pytest.approx(SETTLE, abs=2)
        assert table.store.counts[State.CREATING] == 1
        await table.clock.advance(SETTLE)
        await table.find()
        assert table.now.state is State.QUEUED


async def test_a_search_speaks_of_the_moment_at_which_it_was_asked() -> None:
    """Its answer may take so long that the settle time has passed meanwhile. A record may have come in between."""
    async with bench() as table:
        await table.lose_answer()
        await table.clock.advance(SETTLE - 3)
        table.server.searching = 10.0
        with pytest.raises(errors.StillInDoubt):
            await table.find()
        table.server.rows.append(RecordListed("record-9", "a", "uploader", EPOCH + SETTLE - 1))
        await table.find()
        assert list(table.store.orphans) == ["record-9"]


async def test_after_a_restart_the_settle_time_of_a_create_call_counts_anew() -> None:
    """It is not known when the call ended: the process may have died a moment ago, long after the intent."""
    async with bench(State.CREATING, intent_at=EPOCH - 3600) as table:
        with pytest.raises(errors.StillInDoubt) as caught:
            await table.find()
        assert caught.value.wait == pytest.approx(SETTLE, abs=2)
        await table.clock.advance(SETTLE)
        await table.find()
        assert table.now.state is State.QUEUED


async def test_an_intent_that_took_long_to_save_is_saved_again_with_a_new_time() -> None:
    """Else the record would be too young to be taken for this program's own, and would be left on the server."""
    async with bench() as table:
        table.disk.refuses.add("replace")
        creating = asyncio.create_task(table.records.create(table.path, lambda _: True))
        while table.clock.now() < EPOCH + 900:
            await until(lambda: table.clock.sleepers)  # the save is tried again after a pause
            await table.clock.advance(SAVE_RETRY_INTERVAL)
        table.disk.refuses.clear()
        with pytest.raises(errors.AnswerLost):
            await table.done(creating)
        (created_at,) = table.server.created_at
        assert created_at - EPOCH >= 900
        (saved,) = load_state(table.disk).uploads
        assert created_at - (saved.intent_at or 0.0) <= INTENT_LIMIT
        table.server.rows.append(RecordListed("record-9", "a", "uploader", created_at))
        await table.find()
        assert list(table.store.orphans) == ["record-9"]
