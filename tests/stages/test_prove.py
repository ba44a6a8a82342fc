"""Proof of arrival: what is asked of the server, what follows from its answers, and what waits."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from fakes import EPOCH, IDS, MemoryDisk, VirtualClock, an_upload

from uploader.config import Config, ServerConfig, UploadConfig, WatchConfig
from uploader.domain import errors, events, lifecycle
from uploader.domain.lifecycle import Step
from uploader.domain.model import Identity, Orphan, ProofRule, RecordIds, State, Upload
from uploader.files import Shares
from uploader.server.circuit_breaker import CircuitBreaker
from uploader.stages.context import PROBE_POLL, StageContext
from uploader.stages.dispatcher import Dispatcher
from uploader.stages.failure_handler import FailureHandler
from uploader.stages.file_rules import FileRules
from uploader.stages.lease import Leases
from uploader.stages.prove import (
    BUSY_PAUSES,
    DOWNLOAD_PAUSE_CAP,
    DOWNLOAD_PAUSE_FIRST,
    FETCH_CONCURRENCY,
    FETCH_WAIT,
    DownloadBreaker,
    Prove,
)
from uploader.stages.queues import Queues
from uploader.store import Store

CONTENT: Final = b"a recording " * 9
CLOSED: Final = errors.DownloadUnavailable("http://valt.example.com:8000: cannot be reached", reached=False)
REFUSED: Final = errors.DownloadUnavailable("http://valt.example.com:8000: answered 404")
BUSY: Final = errors.DownloadUnavailable("http://valt.example.com:8000: answered 429", busy=True)


class Server:
    """Hands out what the test says. *sizes*: the answer to the size alone, and to the confirming question."""

    def __init__(self, held: bytes = CONTENT) -> None:
        self.sizes: dict[bool, int | None] = {False: len(held), True: len(held)}
        self.held = held
        self.fails: errors.UploaderError | None = None
        self.page: errors.UploaderError | None = None  # what the confirming question finds
        self.asked: list[str] = []
        self.hold = asyncio.Event()
        self.hold.set()

    async def video_size(self, ids: RecordIds, *, confirm: bool = False) -> int | None:
        """Say how many bytes there are."""
        assert ids == IDS
        self.asked.append("confirmed size" if confirm else "size")
        if self.fails is not None:
            raise self.fails
        if confirm and self.page is not None:
            raise self.page
        return self.sizes[confirm]

    async def download(self, ids: RecordIds) -> AsyncIterator[bytes]:
        """Hand the bytes out in two blocks."""
        assert ids == IDS
        self.asked.append("bytes")
        await self.hold.wait()
        if self.fails is not None:
            raise self.fails
        yield self.held[:50]
        yield self.held[50:]


class Throttle:
    """Lets through ten bytes at a time, and counts them."""

    def __init__(self) -> None:
        self.taken = 0

    async def take(self, wanted: int) -> int:
        """Return how many bytes may be received now."""
        count = min(10, wanted)
        self.taken += count
        return count


class Probing:
    """The automatic probe: under way, or not."""

    def __init__(self) -> None:
        self.now = False

    def underway(self) -> bool:
        """Say so."""
        return self.now


class OneShare:
    """A share that knows the duration of its one file."""

    recorded: float | None = 60.0

    async def duration(self, path: str, identity: Identity) -> float | None:
        """Return what the file's container states."""
        del path, identity
        return self.recorded


class Bench:
    """The stage alone, over a state in memory and a clock that the test advances."""

    def __init__(self, rule: ProofRule = "auto", **facts: Any) -> None:
        self.clock, self.heard = VirtualClock(), list[events.Event]()
        bus = events.Bus()
        bus.listen(self.heard.append)
        self.store = Store(MemoryDisk(), self.clock, bus)
        self.store.learn(chunks=True, transcodes=False, probed_at=EPOCH)
        self.queues, self.share, self.server = Queues(self.clock), OneShare(), Server()
        self.throttle, self.probing = Throttle(), Probing()
        leases = Leases(self.store)
        leases.send_on = self.queues.again.put
        share: Any = self.share
        context = StageContext(self.store, leases, Shares(lambda _: share), self.queues, self.clock, bus)
        config = Config(
            server=ServerConfig(url="http://127.0.0.1:9", username="u"),
            upload=UploadConfig(proof=rule),
            watch=(WatchConfig(path=Path("/rec")),),
        )
        breaker = CircuitBreaker(self.store, self.clock, bus)
        self.rules = FileRules(config)
        self.failure_handler = FailureHandler(context, self.rules, breaker)
        server: Any = self.server  # all that this stage needs of one
        self.prove = Prove(
            context, self.rules, server, breaker, self.failure_handler, self.probing, lambda _: self.throttle
        )
        self.dispatcher = Dispatcher(context, lambda: config)
        self.path = self.add(**facts).path

    def add(self, path: str = "/rec/a.mp4", **facts: Any) -> Upload:
        """Add an upload whose video is ready."""
        digest = hashlib.sha256(CONTENT).hexdigest()
        sent: dict[str, Any] = {"digest": digest, "chunks": 1}
        return self.store.put(an_upload(State.PROVING, path=path, size=len(CONTENT), **(sent | facts)))

    @property
    def now(self) -> Upload:
        """The upload as it stands."""
        return self.store.uploads[self.path]

    async def ask(self, path: str | None = None) -> None:
        """Try to prove the upload once."""
        path = path or self.path
        await self.failure_handler.guard(path, lambda: self.prove.prove(self.store.uploads[path]))

    def heard_of(self, kind: type[events.Event]) -> list[events.Event]:
        """Return what was published of this kind."""
        return [event for event in self.heard if isinstance(event, kind)]


@asynccontextmanager
async def bench(rule: ProofRule = "auto", **facts: Any) -> AsyncIterator[Bench]:
    """The stage on a table."""
    table = Bench(rule, **facts)
    try:
        yield table
    finally:
        await table.store.close()


async def test_a_file_whose_size_agrees_goes_to_the_finish_stage() -> None:
    """One question suffices. The proof is saved and published."""
    async with bench() as table:
        await table.ask()
        assert (table.now.state, table.now.proof) == (State.FINISHING, "size")
        assert table.server.asked == ["size"]
        assert table.heard == [events.UploadProven(table.path, IDS.record, "size")]
        assert table.path in table.queues.proven


async def test_a_size_that_head_does_not_tell_is_asked_in_another_way() -> None:
    """And believed."""
    async with bench() as table:
        table.server.sizes[False] = None
        await table.ask()
        assert (table.now.proof, table.server.asked) == ("size", ["size", "confirmed size"])


async def test_the_bytes_are_fetched_back_at_the_bandwidth_of_the_folder() -> None:
    """When the operator wants them."""
    async with bench("bytes") as table:
        await table.ask()
        assert (table.now.proof, table.server.asked) == ("bytes", ["bytes"])
        assert table.throttle.taken == len(CONTENT)


async def test_ready_alone_asks_nothing() -> None:
    """It is the operator's decision."""
    async with bench("ready") as table:
        await table.ask()
        assert (table.now.proof, table.server.asked) == ("ready", [])


async def test_a_folder_may_have_a_rule_of_its_own() -> None:
    """It overrides that of ``[upload]``; a reload reaches uploads that are being proven."""
    async with bench("ready") as table:
        config = table.rules.config
        watch = config.watch[0].model_copy(update={"proof": "bytes"})
        table.rules.config = config.model_copy(update={"watch": (watch,)})
        await table.ask()
        assert table.now.proof == "bytes"


async def test_a_file_in_chunks_that_arrived_spoilt_starts_over_as_a_whole() -> None:
    """The server is remembered as one that takes whole files only. Its record is kept until the new one is proven."""
    async with bench(chunks=3) as table:
        table.server.sizes = {False: 40, True: 40}
        await table.ask()
        assert (table.now.state, table.now.ids, table.now.spoilt) == (State.QUEUED, None, (IDS.record,))
        assert table.store.capabilities.chunks is False
        assert table.now.chunk_size == 0
        assert table.store.orphans == {}
        (event,) = table.heard_of(events.UploadStartedOver)
        assert "hands out 40 bytes where 108 were sent" in repr(event)


async def test_a_file_in_one_request_that_arrived_spoilt_is_parked() -> None:
    """There is no other way to send it. Both sizes are said, and nothing is removed."""
    async with bench(duration=7.0) as table:
        table.server.sizes = {False: 40, True: 40}
        await table.ask()
        assert (table.now.state, table.now.parked_from, table.now.ids) == (State.PARKED, State.PROVING, IDS)
        assert table.now.last_error is not None
        assert "40 bytes where 108 were sent (it shows a length of 7.0 s)" in table.now.last_error.reason


async def test_records_that_arrived_spoilt_may_be_deleted_once_the_new_one_is_proven() -> None:
    """Both are saved together, never the one without the other."""
    async with bench(spoilt=("old-1", "old-2")) as table:
        await table.ask()
        assert (table.now.state, table.now.spoilt) == (State.FINISHING, ())
        assert [(one.record, one.replaced) for one in table.store.orphans.values()] == [
            ("old-1", True),
            ("old-2", True),
        ]


@pytest.mark.parametrize("state", [State.QUEUED, State.SENDING, State.VERIFYING, State.PROVING])
async def test_records_that_arrived_spoilt_are_reported_when_the_upload_is_given_up(state: State) -> None:
    """Nothing replaces them, so a person must decide."""
    async with bench() as table:
        upload = table.store.put(an_upload(state, path="/rec/b.mp4", spoilt=("old",)))
        table.store.drop(upload)
        orphan = Orphan("old", "b", "/rec/b.mp4", since=EPOCH, next_look=EPOCH)
        assert list(table.store.orphans.values()) == [orphan]
        assert not orphan.replaced


async def test_a_closed_download_port_is_said_once_and_tried_ever_more_rarely() -> None:
    """Not for each file, and each file says why it waits."""
    async with bench() as table:
        other = table.add("/rec/b.mp4").path
        table.server.fails = CLOSED
        waits = []
        for _ in range(9):
            await table.ask()
            await table.ask(other)
            waits.append(table.queues.again.wait_of(table.path))
            await table.clock.advance(waits[-1] or 0.0)
        assert waits[:3] == [DOWNLOAD_PAUSE_FIRST, 2 * DOWNLOAD_PAUSE_FIRST, 4 * DOWNLOAD_PAUSE_FIRST]
        assert waits[-1] == DOWNLOAD_PAUSE_CAP
        assert table.server.asked == ["size"] * 9  # one try for both
        assert table.heard == [events.ProofUnavailable(str(CLOSED))]
        for path in (table.path, other):
            upload = table.store.uploads[path]
            assert upload.state is State.PROVING
            assert upload.last_error is not None
            assert "cannot be proven: http://valt.example.com:8000: cannot be reached" in upload.last_error.reason


async def test_one_link_that_does_not_work_is_that_uploads_own_trouble() -> None:
    """It waits ever longer, and the others are proven meanwhile."""
    async with bench() as table:
        table.server.fails = REFUSED
        waits = []
        for number in range(3):
            await table.ask()
            waits.append(table.queues.again.wait_of(table.path))
            table.server.fails = None
            other = table.add(f"/rec/{number}.mp4").path
            await table.ask(other)
            assert table.store.uploads[other].proof == "size"
            table.server.fails = REFUSED
        assert waits == [DOWNLOAD_PAUSE_FIRST, 2 * DOWNLOAD_PAUSE_FIRST, 4 * DOWNLOAD_PAUSE_FIRST]
        assert table.heard_of(events.ProofUnavailable) == []
        assert len(table.heard_of(events.UploadRetryScheduled)) == 3


async def test_two_links_that_do_not_work_are_no_uploads_trouble() -> None:
    """That is said once, and a third one is not tried."""
    async with bench() as table:
        table.server.fails = REFUSED
        for path in (table.path, table.add("/rec/b.mp4").path, table.add("/rec/c.mp4").path):
            await table.ask(path)
        assert table.server.asked == ["size", "size"]
        assert table.heard_of(events.ProofUnavailable) == [events.ProofUnavailable(str(REFUSED))]


async def test_a_limit_on_the_rate_is_not_taken_for_links_that_do_not_work() -> None:
    """429, 503: each upload asks again after a second, then ever more rarely; at last the link counts as any other."""
    async with bench() as table:
        other = table.add("/rec/b.mp4").path
        table.server.fails = BUSY
        for pause in BUSY_PAUSES:
            await table.ask()
            await table.ask(other)
            assert table.queues.again.wait_of(table.path) == table.queues.again.wait_of(other) == pause
        assert table.heard_of(events.ProofUnavailable) == []
        last_error = table.store.uploads[other].last_error
        assert last_error is not None
        assert last_error.reason.endswith(
            "the file is kept; something there limits how often it is asked (nginx: limit_req)"
        )
        await table.ask()
        assert table.queues.again.wait_of(table.path) == DOWNLOAD_PAUSE_FIRST
        await table.ask(other)
        assert table.heard_of(events.ProofUnavailable) == [events.ProofUnavailable(str(BUSY))]


def test_a_link_that_has_worked_may_be_busy_again_for_a_second() -> None:
    """What counts is how often in a row."""
    links = DownloadBreaker(VirtualClock(), events.Bus())
    assert [links.failed("/rec/a.mp4", BUSY) for _ in range(3)] == [1.0, 2.0, 4.0]
    links.worked("/rec/a.mp4")
    assert links.failed("/rec/a.mp4", BUSY) == 1.0


async def test_uploads_go_on_when_the_download_port_is_open_again() -> None:
    """All of them at once."""
    async with bench() as table:
        other = table.add("/rec/b.mp4").path
        table.server.fails = CLOSED
        await table.ask()
        await table.ask(other)
        await table.clock.advance(DOWNLOAD_PAUSE_FIRST)
        table.server.fails = None
        await table.ask()
        assert table.now.proof == "size"
        assert table.queues.again.wait_of(other) == 0.0
        assert table.heard_of(events.ProofAvailable) == [events.ProofAvailable(DOWNLOAD_PAUSE_FIRST)]


async def test_a_retry_by_the_operator_tries_a_download_port_that_was_closed() -> None:
    """At once, not when its pause is over."""
    async with bench() as table:
        table.server.fails = CLOSED
        await table.ask()
        table.server.fails = None
        await table.ask()
        assert table.now.proof is None
        table.prove.try_links_again()
        await table.ask()
        assert table.now.proof == "size"


async def test_links_whose_sizes_are_pages_do_not_count_as_working() -> None:
    """The answer to the size alone is another size, and the confirming question finds a page: that is said once."""
    async with bench() as table:
        paths = [table.path, *(table.add(f"/rec/{number}.mp4").path for number in range(3))]
        table.server.sizes[False], table.server.page = 20, REFUSED
        for path in paths:
            await table.ask(path)
        assert table.server.asked == ["size", "confirmed size"] * 2
        assert table.heard_of(events.ProofUnavailable) == [events.ProofUnavailable(str(REFUSED))]


async def test_durations_need_no_download() -> None:
    """Where the server transcodes, a closed port does not matter."""
    async with bench(duration=60.4) as table:
        table.store.learn(transcodes=True)
        table.server.fails = CLOSED
        await table.ask()
        assert (table.now.proof, table.server.asked) == ("duration", [])


async def test_what_cannot_be_proven_is_parked_with_what_would_help() -> None:
    """The file is kept; it is tried again hourly, and at once when a probe has found something out."""
    async with bench() as table:
        table.store.learn(transcodes=True)
        await table.ask()
        assert (table.now.state, table.now.parked_from) == (State.PARKED, State.PROVING)
        assert table.now.last_error is not None
        assert (
            "only durations can be compared, and the server tells none; the file is kept" in table.now.last_error.reason
        )
        assert 'proof = "ready"' in table.now.last_error.reason
        table.dispatcher.try_proofs_again()
        assert table.queues.again.wait_of(table.path) == 0.0


async def test_another_size_waits_for_the_probe_that_is_under_way() -> None:
    """It tells whether this server transcodes. Meanwhile nothing is decided."""
    async with bench() as table:
        table.store.learn(transcodes=None)
        table.server.sizes = {False: 40, True: 40}
        table.probing.now = True
        await table.ask()
        assert (table.now.state, table.now.last_error) == (State.PROVING, None)
        assert table.queues.unproven.wait_of(table.path) == PROBE_POLL
        table.probing.now = False
        await table.ask()
        assert table.now.state is State.PARKED
        assert table.now.last_error is not None
        assert "check --probe" in table.now.last_error.reason


async def test_few_files_are_fetched_back_at_a_time() -> None:
    """The others wait in the queue, and hold nobody up."""
    async with bench("bytes") as table:
        table.server.hold.clear()
        paths = [table.add(f"/rec/{number}.mp4").path for number in range(FETCH_CONCURRENCY)]
        fetching = [asyncio.ensure_future(table.ask(path)) for path in paths]
        await asyncio.sleep(0)
        await table.ask()
        assert table.queues.unproven.wait_of(table.path) == FETCH_WAIT
        table.server.hold.set()
        await asyncio.gather(*fetching)
        assert [table.store.uploads[path].proof for path in paths] == ["bytes"] * FETCH_CONCURRENCY


async def test_an_upload_that_is_paused_is_not_asked_about() -> None:
    """Nothing new is begun for it."""
    async with bench() as table:
        table.store.pause(table.path)
        await table.ask()
        assert (table.now.state, table.server.asked) == (State.PROVING, [])


def test_starting_over_after_it_arrived_spoilt_leaves_no_orphan_yet() -> None:
    """The record is kept in mind with the upload itself, through any number of restarts."""
    upload = replace(an_upload(State.PROVING), spoilt=("older",))
    fresh, orphan = lifecycle.start_over(upload, now=EPOCH, settle=0.0, spoilt=True)
    assert orphan is None
    assert (fresh.state, fresh.spoilt, fresh.ids, fresh.duration) == (State.QUEUED, ("older", IDS.record), None, 0.0)
    again, orphan = lifecycle.start_over(lifecycle.advance(fresh, Step.INTEND, intent_at=EPOCH), now=EPOCH, settle=0.0)
    assert orphan is None
    assert again.spoilt == fresh.spoilt
