"""Waiting for *ready*: the server is asked at growing intervals, and nothing else lets a file be disposed of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes import CONDITION_TIMEOUT, IDS, MemoryDisk, VirtualClock, an_upload
from harness import Rig
from parts import at
from shares import share_of

from uploader.config import Config, ServerConfig, UploadConfig
from uploader.domain import errors, events, retry
from uploader.domain.model import ActionBy, State, Upload
from uploader.files import Shares
from uploader.server.circuit_breaker import CircuitBreaker
from uploader.server.port import RecordDetails
from uploader.stages.context import StageContext
from uploader.stages.dispatcher import Dispatcher
from uploader.stages.failure_handler import FailureHandler
from uploader.stages.file_rules import FileRules
from uploader.stages.lease import Leases
from uploader.stages.queues import Queues
from uploader.stages.verify import FAILED_FOR, Verify
from uploader.store import Store
from uploader.testing.simulator import Settings

SIZE = 5_000_000  # bytes


class Server:
    """A server of one call, which answers what the test says: a status word, nothing landed, or an error."""

    def __init__(self, says: Any) -> None:
        self.says = says
        self.asked = 0

    async def details(self, record: str) -> RecordDetails:
        """Say how the video stands."""
        self.asked += 1
        if isinstance(self.says, Exception):
            raise self.says
        videos = None if self.says is None else {IDS.video: self.says}
        return RecordDetails(record, "a", "uploader", 0.0, videos)


class Bench:
    """The verify stage alone, over a state in memory and a clock that the test advances."""

    def __init__(self, says: Any) -> None:
        self.clock = VirtualClock()
        self.heard: list[events.Event] = []
        bus = events.Bus()
        bus.listen(self.heard.append)
        self.store = Store(MemoryDisk(), self.clock, bus)
        self.queues = Queues(self.clock)
        leases, shares = Leases(self.store), Shares(share_of)
        leases.send_on = self.queues.again.put
        context = StageContext(self.store, leases, shares, self.queues, self.clock, bus)
        self.server = Server(says)
        config = Config(server=ServerConfig(url="http://127.0.0.1:9", username="u"), upload=UploadConfig())
        outage = CircuitBreaker(self.store, self.clock, bus)
        self.failure_handler = FailureHandler(context, FileRules(config), outage)
        server: Any = self.server  # all that this stage needs of one
        self.verify = Verify(context, config.upload, server, outage, self.failure_handler)
        self.dispatcher = Dispatcher(context, lambda: config)
        self.upload = self.store.put(an_upload(State.VERIFYING, size=SIZE, sent_at=self.clock.now()))

    @property
    def now(self) -> Upload:
        """The upload as it stands."""
        return self.store.uploads[self.upload.path]

    async def ask_after(self, seconds: float) -> None:
        """Let time pass, then look."""
        await self.clock.advance(seconds)
        await self.failure_handler.guard(self.upload.path, lambda: self.verify.ask(self.now))

    async def time_passes_until(self, condition: Callable[[], object]) -> None:
        """Let minutes pass until *condition* holds; each save takes a moment of real time in a thread."""
        async with asyncio.timeout(CONDITION_TIMEOUT):
            while not condition():
                await self.clock.advance(60)


@asynccontextmanager
async def bench(says: Any) -> AsyncIterator[Bench]:
    """The stage on a table."""
    table = Bench(says)
    try:
        yield table
    finally:
        await table.store.close()


async def test_a_ready_upload_goes_to_the_finish_stage() -> None:
    """It is saved and announced with its seconds."""
    async with bench("ready") as table:
        await table.ask_after(12)
        assert table.now.state is State.PROVING
        assert table.now.ready_at == table.clock.now()
        assert table.heard == [events.VideoReady(table.upload.path, IDS.record, 12.0)]
        assert table.upload.path in table.queues.unproven


@pytest.mark.parametrize("says", ["created", "transcoding", "unknown", None])
async def test_any_other_status_is_asked_again(says: str | None) -> None:
    """After a quarter of the time so far, between half a second and a minute."""
    async with bench(says) as table:
        path, waits = table.upload.path, []
        for pause in (0, 1, 7, 32, 360):
            await table.ask_after(pause)
            waits.append(table.queues.sent.wait_of(path))
        assert waits == [0.5, 0.5, 2.0, 10.0, 60.0]
        assert table.now.state is State.VERIFYING


@pytest.mark.parametrize("setting", [86_400, -86_400, -1e9, 1e9])
async def test_setting_the_clock_changes_neither_looks_nor_the_ready_timeout(setting: float) -> None:
    """A day forward parks nothing early; a day back causes no looks twice a second."""
    async with bench("created") as table:
        await table.ask_after(0)
        table.clock.set_wall(setting)
        await table.ask_after(100)
        states = [table.now.state]
        assert table.queues.sent.wait_of(table.upload.path) == 25.0
        await table.ask_after(retry.ready_limit(1800, SIZE) - 100)
        states.append(table.now.state)
        assert states == [State.VERIFYING, State.PARKED]


@pytest.mark.parametrize(("says", "words"), [("created", "still says 'created'"), (None, "shows no video")])
async def test_an_upload_that_is_not_ready_in_time_is_parked(says: str | None, words: str) -> None:
    """After a time that grows with the size, with the server's status, and looked at hourly."""
    patience = retry.ready_limit(1800, SIZE)
    assert patience == 1805
    async with bench(says) as table:
        await table.ask_after(patience - 1)
        assert table.now.state is State.VERIFYING
        await table.ask_after(1)
        assert (table.now.state, table.now.parked_from) == (State.PARKED, State.VERIFYING)
        last_error = table.now.last_error
        assert last_error is not None
        assert words in last_error.reason
        assert "the file is kept" in last_error.reason
        assert last_error.action_by is ActionBy.OPERATOR
        assert 0.9 * retry.HOUR <= (table.queues.again.wait_of(table.upload.path) or 0) <= 1.1 * retry.HOUR


async def test_a_missing_record_is_raised() -> None:
    """The failure handler decides about the 404."""
    async with bench(errors.RecordGone("404")) as table:
        with pytest.raises(errors.RecordGone):
            await table.verify.ask(table.upload)


async def test_an_outage_during_processing_costs_only_time() -> None:
    """When the server is back, the upload goes on."""
    async with bench(errors.ServerDown("no connection")) as table:
        work = asyncio.gather(table.verify.run(), table.dispatcher.run())
        try:
            await table.time_passes_until(lambda: table.server.asked >= 3)
            assert isinstance(table.heard[0], events.OutageBegan)
            assert table.now.state is State.VERIFYING
            assert table.now.last_error is None or table.now.last_error.attempts == 0
            table.server.says = "ready"
            await table.time_passes_until(lambda: table.upload.path in table.queues.unproven)
            assert isinstance(table.heard[-1], events.VideoReady)
            assert table.store.uploads[table.upload.path].state is State.PROVING
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)


# With all the rest


async def test_nothing_is_finished_before_ready(tmp_path: Path) -> None:
    """While the server processes there is no ledger line, and the file stays, whatever its disposal."""
    async with Rig(tmp_path, Settings(processing=0.6), watch={"after_upload": "delete"}) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", b"a")
        await rig.event(events.UploadSent, path=path)
        await rig.until(lambda: len(rig.calls("details")) >= 2)
        assert at(path).exists()
        assert rig.store.ledger.count == 0
        await rig.finished(path)
        assert rig.record.status == "ready"
        assert not at(path).exists()
        assert rig.record.requests == 1


async def test_a_parked_upload_is_finished_when_it_is_ready_after_all(tmp_path: Path) -> None:
    """It was parked because the server was slow; nothing is sent again."""
    async with Rig(tmp_path, Settings(processing=3600.0), upload={"ready_timeout": "100ms"}) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", b"a")
        await rig.event(events.UploadParked, path=path)
        await rig.restart()
        rig.become(Settings(processing=0.0))
        assert await rig.retry(path)
        await rig.finished(path)
        assert rig.record.requests == 1


async def test_an_unexpected_status_is_published_once() -> None:
    """At once, with the server's own word."""
    async with bench("transcoding") as table:
        for pause in (0, 1, 30):
            await table.ask_after(pause)
        assert table.heard == [events.VideoStatus(table.upload.path, IDS.record, "transcoding")]


@pytest.mark.parametrize("word", ["failed", "Error", "CORRUPT"])
async def test_a_video_that_the_server_gives_up_is_parked_after_a_minute(word: str) -> None:
    """It may try again by itself. The reason has its own word, and what can be done."""
    async with bench(word) as table:
        await table.ask_after(0)
        await table.ask_after(FAILED_FOR - 1)
        assert table.now.state is State.VERIFYING
        await table.ask_after(1)
        assert (table.now.state, table.now.parked_from) == (State.PARKED, State.VERIFYING)
        assert table.now.last_error is not None
        assert f"the server says {word!r} of its video; the file is kept" in table.now.last_error.reason
        assert table.now.last_error.action_by is ActionBy.OPERATOR


async def test_a_failure_that_the_server_mends_by_itself_is_forgotten() -> None:
    """Only a word that stands for a minute counts."""
    async with bench("failed") as table:
        await table.ask_after(0)
        table.server.says = "created"
        await table.ask_after(FAILED_FOR)
        table.server.says = "failed"
        await table.ask_after(FAILED_FOR)
        assert table.now.state is State.VERIFYING
        table.server.says = "ready"
        await table.ask_after(1)
        assert table.store.uploads[table.upload.path].state is State.PROVING
