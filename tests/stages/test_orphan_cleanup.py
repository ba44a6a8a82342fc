"""Orphans: which are deleted, which stay, and which records are never touched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from fakes import EPOCH, MemoryDisk, VirtualClock
from harness import Rig
from structlog.testing import capture_logs

from uploader.config import ServerConfig
from uploader.domain import events
from uploader.domain.model import Orphan
from uploader.domain.retry import DAY, HOUR
from uploader.runtime.slices import SLICE_LENGTH
from uploader.server.circuit_breaker import CircuitBreaker
from uploader.server.port import RecordDetails, RecordServer
from uploader.stages.orphan_cleanup import OrphanCleanup
from uploader.store import Store

PATH = "/rec/a.mp4"


@asynccontextmanager
async def with_orphan(tmp_path: Path, *, video: bool = False, due: float = 0.0) -> AsyncIterator[tuple[Rig, str]]:
    """Run an application with one orphan, due after so many seconds. Yields the rig and the record."""
    async with Rig(tmp_path, server={"doubt_settle": f"{max(due, 0.1)}s"}) as rig:
        record = rig.plant("a", video=video)
        now = rig.clock.now()
        rig.prepare(orphans=(Orphan(record, "a", PATH, since=now, next_look=now + due),))
        yield rig, record


async def test_an_empty_orphan_is_deleted(tmp_path: Path) -> None:
    """Once; another user's record of the same name is not."""
    async with with_orphan(tmp_path) as (rig, record):
        stranger = rig.plant("a")
        await rig.start()
        assert await rig.event(events.OrphanCleared) == events.OrphanCleared(record, PATH)
        assert [left.id for left in rig.records] == [stranger]
        assert [call.record for call in rig.calls("delete")] == [record]
        await rig.stop()
        assert rig.saved().orphans == ()


async def test_a_spoilt_record_is_deleted_once_its_replacement_is_proven(tmp_path: Path) -> None:
    """It holds a video, but not what was sent."""
    async with with_orphan(tmp_path, video=True) as (rig, record):
        rig.prepare(orphans=(replace(rig.saved().orphans[0], replaced=True),))
        await rig.start()
        assert await rig.event(events.OrphanCleared) == events.OrphanCleared(record, PATH)
        assert rig.records == []


async def test_a_server_that_refuses_to_delete_is_reported_once(tmp_path: Path) -> None:
    """With the record's id; it is tried again daily, also after a restart."""
    async with with_orphan(tmp_path) as (rig, record):
        rig.fault("delete", "status", status=403, body='{"data":{"message":"Access Denied"},"code":403}', times=None)
        await rig.start()
        refused = await rig.event(events.OrphanNotDeleted)
        assert (refused.record, refused.path) == (record, PATH)
        assert "403" in refused.reason
        await rig.restart()
        await rig.finished(await rig.drop("b.mp4", b"b"))
        (orphan,) = rig.store.orphans.values()
        assert orphan.refused
        assert orphan.next_look - rig.clock.now() > DAY - HOUR
        assert len(rig.seen(events.OrphanNotDeleted)) == 1


async def test_an_orphan_with_a_video_stays(tmp_path: Path) -> None:
    """It is reported once and never deleted."""
    async with with_orphan(tmp_path, video=True) as (rig, record):
        await rig.start()
        landed = await rig.event(events.OrphanHasVideo)
        assert (landed.record, landed.path) == (record, PATH)
        assert f"valt-uploader forget {record}" in landed.hint
        await rig.restart()
        await rig.finished(await rig.drop("b.mp4", b"b"))
        assert [call.record for call in rig.calls("details")].count(record) == 1
        assert rig.store.orphans[record].landed
        assert rig.store.orphans[record].next_look > rig.clock.now() + DAY - 60
        await rig.application.orphan_cleanup.look(rig.store.orphans[record])  # the day after
        assert rig.calls("delete") == []
        assert record in rig.store.orphans
        assert len(rig.seen(events.OrphanHasVideo)) == 1


async def test_orphan_with_a_video_is_looked_at_daily() -> None:
    """Each look only checks whether the operator has removed it."""
    clock, bus = VirtualClock(), events.Bus()
    asked: list[float] = []

    class Server:
        async def details(self, record: str) -> RecordDetails:
            asked.append(clock.monotonic())
            return RecordDetails(record, "a", "uploader", 0.0, {"video-1": "ready"})

    store = Store(MemoryDisk(), clock, bus)
    store.put_orphan(Orphan("record-1", "a", PATH, since=clock.now(), next_look=clock.now()))
    server = ServerConfig(url="http://127.0.0.1:9", username="u")
    sweep = OrphanCleanup(server, store, Server(), CircuitBreaker(store, clock, bus), clock, bus)  # type: ignore[arg-type]
    for _ in range(2 * 24 * 60 + 5):
        orphan = store.orphans["record-1"]
        if sweep._is_due(orphan):
            await sweep.look(orphan)
        await clock.advance(60)
    await store.close()
    assert len(asked) == 3
    assert all(DAY <= later - earlier <= DAY + 60 for earlier, later in pairwise(asked))


async def test_a_record_of_a_probe_stays_for_the_hour_in_which_the_probe_may_need_it() -> None:
    """A server may need minutes to make a video of it."""
    clock, bus = VirtualClock(), events.Bus()
    store = Store(MemoryDisk(), clock, bus)
    store.put_orphan(Orphan("record-1", "probe", "", since=clock.now(), next_look=clock.now() + HOUR, probe=True))
    server = ServerConfig(url="http://127.0.0.1:9", username="u")
    sweep = OrphanCleanup(server, store, cast(RecordServer, None), CircuitBreaker(store, clock, bus), clock, bus)
    due = []
    for wait in (0, HOUR - 1, 1):
        await clock.advance(wait)
        due.append(sweep._is_due(store.orphans["record-1"]))
    await store.close()
    assert due == [False, False, True]


async def test_an_unexpected_error_with_one_orphan_does_not_end_the_cleanup() -> None:
    """It is logged and the orphan tried again after an hour; the others are deleted meanwhile."""
    clock, bus = VirtualClock(), events.Bus()
    asked: list[tuple[str, float]] = []

    class Server:
        async def details(self, record: str) -> RecordDetails:
            asked.append((record, clock.monotonic() - 1000.0))
            if record == "bad":
                raise ZeroDivisionError
            return RecordDetails(record, "a", "uploader", 0.0, None)

        async def delete_record(self, record: str) -> None:
            """Delete it."""

    store = Store(MemoryDisk(), clock, bus)
    for record in ("bad", "good"):
        store.put_orphan(Orphan(record, "a", PATH, since=clock.now(), next_look=clock.now()))
    server = ServerConfig(url="http://127.0.0.1:9", username="u")
    sweep = OrphanCleanup(server, store, Server(), CircuitBreaker(store, clock, bus), clock, bus)  # type: ignore[arg-type]
    with capture_logs() as logged:
        for _ in range(62):
            await sweep.look_at_due()
            await clock.advance(60.0)
    await store.close()
    assert [record for record, _ in asked] == ["bad", "good", "bad"]
    assert asked[2][1] - asked[0][1] == HOUR
    assert set(store.orphans) == {"bad"}
    assert [entry["record"] for entry in logged if entry["event"] == "fault"] == ["bad", "bad"]


async def test_an_orphan_with_a_video_that_was_deleted_is_no_longer_reported(tmp_path: Path) -> None:
    """The daily look finds that it is gone."""
    async with with_orphan(tmp_path, video=True) as (rig, record):
        await rig.start()
        await rig.event(events.OrphanHasVideo)
        rig.simulator._records.forget(next(iter(rig.simulator._records)))
        await rig.application.orphan_cleanup.look(rig.store.orphans[record])
        assert rig.store.orphans == {}


async def test_a_forgotten_orphan_with_a_video_is_no_longer_reported(tmp_path: Path) -> None:
    """Forgotten by its id, also during a look; the record stays. An empty orphan cannot be forgotten."""
    async with with_orphan(tmp_path, video=True) as (rig, record):
        await rig.start()
        await rig.event(events.OrphanHasVideo)
        orphan = rig.store.orphans[record]
        assert await rig.operator.forget(record)
        assert not await rig.operator.forget(record)
        await rig.application.orphan_cleanup.look(orphan)
        assert rig.saved().orphans == ()
        assert [left.id for left in rig.records] == [record]
    (tmp_path / "empty").mkdir()
    async with with_orphan(tmp_path / "empty", due=3600) as (rig, record):
        await rig.start()
        assert not await rig.operator.forget(record)
        assert record in rig.store.orphans


async def test_a_probe_s_own_record_is_deleted_with_its_video(tmp_path: Path) -> None:
    """The record of a ``check --probe`` that could not remove it itself."""
    async with Rig(tmp_path) as rig:
        record = rig.plant("valt-uploader probe", video=True)
        now = rig.clock.now()
        rig.prepare(orphans=(Orphan(record, "valt-uploader probe", "", since=now, next_look=now, probe=True),))
        await rig.start()
        await rig.event(events.OrphanCleared, record=record)
        assert rig.records == []


async def test_orphan_cleanup_does_not_repeat_a_refused_password(tmp_path: Path) -> None:
    """Also when there is nothing to send."""
    async with with_orphan(tmp_path) as (rig, record):
        rig.environ["VALT_UPLOADER_PASSWORD"] = "wrong"
        await rig.start()
        await rig.event(events.OutageBegan, again_in=300.0)
        assert rig.saved().capabilities.login_refusals == 1
        await rig.restart()
        assert rig.application.breaker.refused()
        assert record in rig.store.orphans


async def test_an_orphan_is_left_alone_until_its_settle_time_is_over(tmp_path: Path) -> None:
    """A request to it may still be on its way."""
    async with with_orphan(tmp_path, due=3600) as (rig, record):
        await rig.start()
        await rig.finished(await rig.drop("b.mp4", b"b"))
        assert {call.record for call in rig.calls("details")} == {
            rig.store.ledger.of(str(rig.watch / "b.mp4"))[0].record
        }
        assert record in rig.store.orphans


async def test_orphan_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    """Somebody else has deleted it."""
    async with with_orphan(tmp_path) as (rig, record):
        rig.simulator._records.forget(next(iter(rig.simulator._records)))
        await rig.start()
        await rig.event(events.OrphanCleared, record=record)
        assert rig.store.orphans == {}


@pytest.mark.parametrize("call", ["details", "delete"])
@pytest.mark.parametrize("status", [500, 503, 403, 404])
async def test_an_orphan_that_cannot_be_deleted_is_tried_again(tmp_path: Path, call: str, status: int) -> None:
    """After a refusal of the server; other work goes on."""
    async with with_orphan(tmp_path) as (rig, record):
        rig.fault(call, "status", status=status, body="")  # type: ignore[arg-type]  # one of the names of calls
        await rig.start()
        if status == 404:
            await rig.event(events.OrphanCleared, record=record)
            assert rig.store.orphans == {}
            return
        await rig.until(lambda: rig.store.orphans[record].next_look > rig.clock.now() + 30)
        await rig.finished(await rig.drop("b.mp4", b"b"))
        assert record in {left.id for left in rig.records}
        await rig.store.commit()
        assert rig.saved().orphans[0].next_look > rig.clock.now() + 30


async def test_a_delete_without_an_answer_is_checked_again(tmp_path: Path) -> None:
    """The next look finds the record gone."""
    async with with_orphan(tmp_path) as (rig, record):
        rig.fault("delete", "lose-answer")
        await rig.start()
        await rig.until(lambda: rig.store.orphans[record].next_look > rig.clock.now() + 30)
        assert rig.records == []
        await rig.application.orphan_cleanup.look(rig.store.orphans[record])
        assert rig.store.orphans == {}
        assert len(rig.seen(events.OrphanCleared)) == 1


class Orphans(dict[str, Orphan]):
    """Orphans, and how many of them were looked up."""

    looked_up = 0

    def get(self, record: str, default: Any = None) -> Any:
        """Look one up."""
        self.looked_up += 1
        return super().get(record, default)


class Noting(VirtualClock):
    """Notes at each wait how many orphans were looked up before it."""

    def __init__(self, orphans: Orphans) -> None:
        super().__init__()
        self.orphans, self.noted = orphans, [0]

    async def sleep(self, seconds: float) -> None:
        """Note, and wait."""
        self.noted.append(self.orphans.looked_up)
        await super().sleep(seconds)


async def test_a_round_over_many_orphans_yields_to_other_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is done in slices."""
    count = 2 * SLICE_LENGTH + 1
    orphans = Orphans({f"r{number}": Orphan(f"r{number}", "a", PATH, EPOCH, EPOCH + DAY) for number in range(count)})
    clock, bus = Noting(orphans), events.Bus()
    store = Store(MemoryDisk(), clock, bus)
    monkeypatch.setattr(Store, "orphans", orphans)
    config = ServerConfig(url="https://valt.example.com", username="uploader")
    sweep = OrphanCleanup(config, store, cast("RecordServer", None), CircuitBreaker(store, clock, bus), clock, bus)
    sweeping = asyncio.create_task(sweep.run())
    await clock.advance(1.0)
    assert orphans.looked_up == count
    assert max(after - before for before, after in pairwise(clock.noted)) == SLICE_LENGTH
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)
    await store.close()
