"""What the failure handler does with failures of one file, and what it says of them: by a virtual clock."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fakes import MemoryDisk, VirtualClock, an_upload, idle
from shares import share_of

from uploader.app.operator import with_failures_forgotten
from uploader.config import Config, ServerConfig, UploadConfig
from uploader.domain import errors, events, lifecycle, retry
from uploader.domain.lifecycle import Step
from uploader.domain.model import ActionBy, State, Upload
from uploader.files import Shares
from uploader.server.circuit_breaker import CircuitBreaker
from uploader.stages.context import StageContext
from uploader.stages.failure_handler import FailureHandler
from uploader.stages.file_rules import FileRules
from uploader.stages.lease import Leases
from uploader.stages.queues import Queues
from uploader.store import Store

A, B = "/rec/a.mp4", "/rec/b.mp4"
GATEWAY = errors.AnswerLost("upload chunk: answered 504 (504 Gateway Time-out)")
DOUBT = errors.StillInDoubt("it is not known yet what became of its last request", wait=20.0)
SPOILT = errors.RecordSpoilt("this server does not show what became of a chunk")
GONE = errors.RecordGone("record details: answered 404 (Not Found)")


class Bench:
    """The failure handler over a state in memory, with two uploads."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.heard: list[events.Event] = []
        self.bus = events.Bus()
        self.bus.listen(self.heard.append)
        self.store = Store(MemoryDisk(), self.clock, self.bus)
        self.queues = Queues(self.clock)
        context = StageContext(self.store, Leases(self.store), Shares(share_of), self.queues, self.clock, self.bus)
        self.breaker = CircuitBreaker(self.store, self.clock, self.bus)
        config = Config(server=ServerConfig(url="http://127.0.0.1:9", username="u"), upload=UploadConfig())
        self.handler = FailureHandler(context, FileRules(config), self.breaker)

    def put(self, path: str, state: State, **fields: Any) -> Upload:
        """Put an upload in this state."""
        return self.store.put(an_upload(state, path=path, **fields))

    def at(self, path: str) -> Upload:
        """The upload as it stands."""
        return self.store.uploads[path]

    async def fails(self, path: str, error: errors.UploaderError) -> None:
        """A stage's work on this file ends with an error."""

        async def work() -> None:
            raise error

        await self.handler.guard(path, work)

    async def answered(self, path: str) -> None:
        """The server has answered a call for this file, and then waits for the next."""
        self.breaker.record_success()
        self.bus.publish(events.ChunkAcknowledged(path, 1, 2))

    def reason(self, path: str) -> str:
        """Why it does not go on."""
        last_error = self.at(path).last_error
        return "" if last_error is None else last_error.reason

    def of(self, kind: type[events.Event]) -> list[events.Event]:
        """What was published of this kind."""
        return [event for event in self.heard if isinstance(event, kind)]


@pytest.fixture
async def table() -> AsyncIterator[Bench]:
    """The handler, which hears what succeeds."""
    table = Bench()
    async with table.handler.listening():
        yield table
    await table.store.close()


# One file's trouble


@pytest.mark.parametrize(
    "error",
    [
        errors.ServerDown("upload chunk: answered 503"),
        errors.ServerBusy("upload chunk: answered 429", retry_after=1.0),
        errors.ServerBusy("upload chunk: answered 503", retry_after=1.0),
    ],
)
async def test_a_file_whose_calls_alone_fail_is_parked_and_slows_no_other_down(
    table: Bench, error: errors.UploaderError
) -> None:
    """Two short pauses for all, then it waits ever longer by itself; its reason says what and how often."""
    table.put(A, State.SENDING)
    table.put(B, State.SENDING)
    waits: list[float] = []
    opened = 0.0
    while table.at(A).state is not State.PARKED:
        await table.fails(A, error)
        opened += table.breaker.wait
        waits.append(table.queues.again.wait_of(A) or 0.0)
        await table.clock.advance(table.breaker.wait)
        await table.answered(B)
        assert len(waits) < 20
    assert opened <= 4.0
    assert waits[:-1] == [0.0, 0.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 300.0]
    last_error = table.at(A).last_error
    assert last_error is not None
    assert last_error.action_by is ActionBy.OPERATOR
    assert f"{error.what}; 10 times in a row, while the same call succeeds for other files" in last_error.reason
    (parked,) = table.of(events.UploadParked)
    assert parked == events.UploadParked(A, last_error.reason, ActionBy.OPERATOR, "valt-uploader retry /rec/a.mp4")
    assert table.at(B).last_error is None


async def test_an_outage_that_begins_while_a_file_has_trouble_of_its_own_is_seen_at_once(table: Bench) -> None:
    """The first failure of another file opens the breaker; the file's own failures cost it no try until it is over."""
    table.put(A, State.SENDING)
    table.put(B, State.SENDING)
    down = errors.ServerDown("upload chunk: answered 503")
    for _ in range(3):
        await table.fails(A, down)
        await table.answered(B)
    last_error = table.at(A).last_error
    assert table.breaker.wait == 0.0
    assert last_error is not None
    assert last_error.attempts == 1
    await table.fails(B, down)
    assert table.breaker.wait == 2.0
    for _ in range(50):
        await table.clock.advance(table.breaker.wait)
        await table.fails(A, down)
        await table.fails(B, down)
    last_error = table.at(A).last_error
    assert last_error is not None
    assert last_error.attempts == 1
    assert table.at(A).state is table.at(B).state is State.SENDING


async def test_a_half_open_slot_is_not_held_by_a_file_with_trouble_of_its_own(table: Bench) -> None:
    """The next call need not wait until its failed call is forgotten."""
    table.put(A, State.SENDING)
    down = errors.ServerDown("upload chunk: answered 503")
    for _ in range(3):
        await table.fails(A, down)
        await table.answered(B)
    await table.breaker.trip(errors.ServerDown("record details: answered 503"))
    await table.clock.advance(2.0)
    with pytest.raises(errors.ServerDown):
        async with table.breaker.slot():
            raise down
    job = asyncio.create_task(table.breaker.clear())
    await idle()
    assert not job.done()
    await table.fails(A, down)
    await idle()
    assert job.done()  # at once: no time has passed
    assert table.breaker.wait == 0.0


# The cause


async def test_the_cause_survives_new_records_and_parking(table: Bench) -> None:
    """A 504 for every chunk: each new record and the parked file say so, not only that a doubt could not be settled."""
    table.put(A, State.SENDING)
    while table.at(A).state is not State.PARKED:
        upload = table.at(A)
        if upload.state is State.QUEUED:  # a record is created, and its first chunk is sent
            upload = lifecycle.advance(upload, Step.INTEND, intent_at=1.0)
            upload = await table.store.save(lifecycle.advance(upload, Step.CREATED, ids=an_upload(State.SENDING).ids))
        doubt = {"doubt_end": upload.offset + 1, "doubt_digest": "ab", "doubt_at": 1.0}
        await table.store.save(lifecycle.advance(upload, Step.LAST_BYTE, **doubt))
        for error in (GATEWAY, DOUBT, SPOILT):
            await table.fails(A, error)
    started = [event for event in table.heard if isinstance(event, events.UploadStartedOver)]
    assert len(started) == retry.RECORDS_PER_FILE
    assert started[1].reason.startswith("upload chunk: answered 504 (504 Gateway Time-out), 2 times: raise the proxy's")
    assert "answered 504 (504 Gateway Time-out), 6 times" in table.reason(A)
    assert "proxy_read_timeout" in table.reason(A)
    assert "chunk_size" in table.reason(A)


async def test_a_file_that_is_parked_after_its_tries_says_how_many(table: Bench) -> None:
    """The reason is the failure that came most often, and its count."""
    table.put(A, State.VERIFYING, sent_at=1.0)
    while table.at(A).state is not State.PARKED:
        await table.fails(A, errors.CallFailed("record details: answered 500"))
        table.breaker.record_success()
    assert table.reason(A) == "record details: answered 500, 8 times"


async def test_the_cause_is_forgotten_when_the_file_is_sent(table: Bench) -> None:
    """What went wrong before is no cause of what goes wrong afterwards."""
    table.put(A, State.SENDING)
    await table.fails(A, GATEWAY)
    table.bus.publish(events.UploadSent(A, "rec-1", 2, 1, "ab"))
    await table.fails(A, SPOILT)
    assert table.reason(A) == SPOILT.what


# A record that is gone


async def test_a_404_is_believed_only_when_it_is_said_twice(table: Bench) -> None:
    """Some seconds apart. A record that is there after all ends the doubt, and the next 404 is a first one again."""
    table.put(A, State.VERIFYING, sent_at=1.0)
    await table.fails(A, GONE)
    assert table.at(A).state is State.VERIFYING
    assert 5.0 <= (table.queues.again.wait_of(A) or 0.0) <= 10.0

    async def found() -> None:
        """The server shows the record."""

    await table.handler.guard(A, found)
    assert table.at(A).last_error is None
    await table.fails(A, GONE)
    assert table.at(A).state is State.VERIFYING
    await table.fails(A, errors.ServerDown("record details: answered 503"))
    await table.fails(A, GONE)
    assert table.at(A).state is State.VERIFYING
    await table.fails(A, GONE)
    assert table.at(A).state is State.PARKED


@pytest.mark.parametrize("doubt", [False, True])
async def test_a_file_that_was_sent_whole_is_sent_again_only_for_the_operator(table: Bench, doubt: bool) -> None:
    """Also when its last chunk is in doubt: there might be two finished records. It is looked at once a day."""
    size = an_upload(State.VERIFYING).identity.size
    if doubt:
        table.put(A, State.IN_DOUBT, doubt_end=size)
    else:
        table.put(A, State.VERIFYING, sent_at=1.0)
    before = table.at(A).state
    for _ in range(2):
        await table.fails(A, GONE)
    for _ in range(3):
        assert table.at(A).state is State.PARKED
        assert table.of(events.UploadStartedOver) == []
        assert "its record is gone from the server" in table.reason(A)
        assert 0.9 * retry.DAY <= (table.queues.again.wait_of(A) or 0.0) <= 1.1 * retry.DAY
        await table.store.save(lifecycle.advance(table.at(A), Step.RELEASE))
        await table.fails(A, GONE)
    retried = with_failures_forgotten(table.at(A))
    await table.store.save(lifecycle.advance(table.store.put(retried), Step.RELEASE))
    assert table.at(A).state is before
    await table.fails(A, errors.ServerDown("record details: answered 503"))  # what comes between does not matter
    await table.fails(A, GONE)
    assert table.at(A).state is State.QUEUED
    assert len(table.of(events.UploadStartedOver)) == 1
    last_error = table.at(A).last_error
    assert last_error is not None
    assert not last_error.send_again  # for one new record, not for ever


async def test_a_record_that_is_gone_before_all_was_sent_is_replaced(table: Bench) -> None:
    """After the second look while a chunk is in doubt; at once when a chunk is refused with it."""
    table.put(A, State.IN_DOUBT, doubt_end=an_upload(State.IN_DOUBT).identity.size - 1)
    await table.fails(A, GONE)
    assert table.at(A).state is State.IN_DOUBT
    await table.fails(A, GONE)
    assert table.at(A).state is State.QUEUED
    table.put(B, State.SENDING)
    await table.fails(B, errors.RecordGone("upload chunk: answered 404"))
    assert table.at(B).state is State.QUEUED


# What is learnt


async def test_what_is_learnt_is_published_once(table: Bench) -> None:
    """With the size, the time and the way to forget it; a refusal that teaches nothing new is no event."""
    for path in (A, B):
        table.put(path, State.SENDING, size=9_000_000, chunk_size=1_000_000)
        await table.fails(path, errors.ChunkTooLarge("upload chunk: answered 413"))
    table.put("/rec/c.mp4", State.SENDING, size=9_000_000, chunk_size=500_000)
    await table.fails("/rec/c.mp4", errors.ChunkTooLarge("upload chunk: answered 413"))
    table.put("/rec/d.mp4", State.SENDING, size=9_000_000, chunk_size=500_000)
    await table.fails("/rec/d.mp4", errors.ChunkRefused("upload chunk: answered 400"))
    said = [event.limit for event in table.heard if isinstance(event, events.ServerLimitLearnt)]
    date = "2027-02-14"  # thirty days after the bench's clock
    assert [text.partition(":")[0] for text in said] == [
        f"chunks of at most 488 KiB until {date}",
        f"chunks of at most 244 KiB until {date}",
        f"whole files in one request until {date}",
    ]
    assert said[0].endswith("type: valt-uploader retry")
    assert said[2].endswith("type: valt-uploader check --probe")
