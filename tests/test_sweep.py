"""Orphans: what is cleared away, what stays, and what is never touched."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from harness import Rig

from uploader import events
from uploader.model import Orphan

PATH = "/rec/a.mp4"


@asynccontextmanager
async def with_orphan(tmp_path: Path, *, video: bool = False, due: float = 0.0) -> AsyncIterator[tuple[Rig, str]]:
    """A house that begins with one orphan, which is due after so many seconds; the rig and the record."""
    async with Rig(tmp_path) as rig:
        record = rig.plant("a", video=video)
        now = rig.clock.now()
        rig.prepare(orphans=(Orphan(record, "a", PATH, since=now, next_look=now + due),))
        yield rig, record


async def test_empty_orphan_is_cleared_away(tmp_path: Path) -> None:
    """An orphan without a video is deleted, once, and a stranger of the same name is not."""
    async with with_orphan(tmp_path) as (rig, record):
        stranger = rig.plant("a")
        await rig.start()
        assert await rig.event(events.OrphanCleared) == events.OrphanCleared(record, PATH)
        assert [left.id for left in rig.records] == [stranger]
        assert [call.record for call in rig.calls("delete")] == [record]
        await rig.stop()
        assert rig.saved().orphans == ()


async def test_orphan_with_a_video_stays(tmp_path: Path) -> None:
    """An orphan that holds a video after all is reported once and never deleted, nor looked at again."""
    async with with_orphan(tmp_path, video=True) as (rig, record):
        await rig.start()
        landed = await rig.event(events.OrphanLanded)
        assert (landed.record, landed.path) == (record, PATH)
        await rig.restart()
        await rig.finished(await rig.drop("b.mp4", b"b"))
        assert len(rig.calls("details")) <= 2  # of the orphan, and of the new one
        assert rig.calls("delete") == []
        assert rig.store.orphans[record].landed
        assert len(rig.seen(events.OrphanLanded)) == 1


async def test_orphan_is_not_looked_at_before_its_time(tmp_path: Path) -> None:
    """A request may still be on its way to it: until it has settled it is left alone."""
    async with with_orphan(tmp_path, due=3600) as (rig, record):
        await rig.start()
        await rig.finished(await rig.drop("b.mp4", b"b"))
        assert [call.record for call in rig.calls("details")] != [record]
        assert record in rig.store.orphans


async def test_orphan_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    """Somebody else has deleted it: fine."""
    async with with_orphan(tmp_path) as (rig, record):
        rig.simulator._records.forget(next(iter(rig.simulator._records)))
        await rig.start()
        await rig.event(events.OrphanCleared, record=record)
        assert rig.store.orphans == {}


@pytest.mark.parametrize("call", ["details", "delete"])
@pytest.mark.parametrize("status", [500, 503, 403, 404])
async def test_orphan_that_cannot_be_cleared_now_waits(tmp_path: Path, call: str, status: int) -> None:
    """A server that says no is asked again later; nothing else waits for it."""
    async with with_orphan(tmp_path) as (rig, record):
        rig.fault(call, "status", status=status, body="")  # type: ignore[arg-type]  # one of the names of calls
        await rig.start()
        if status == 404:
            await rig.event(events.OrphanCleared)
            return
        await rig.until(lambda: rig.store.orphans[record].next_look > rig.clock.now() + 30)
        await rig.finished(await rig.drop("b.mp4", b"b"))
        assert record in {left.id for left in rig.records}
        await rig.store.commit()
        assert rig.saved().orphans[0].next_look > rig.clock.now() + 30


async def test_lost_answer_to_delete_is_asked_again(tmp_path: Path) -> None:
    """Whether it was deleted is not known: the next look finds it gone."""
    async with with_orphan(tmp_path) as (rig, record):
        rig.fault("delete", "lose-answer")
        await rig.start()
        await rig.until(lambda: rig.store.orphans[record].next_look > rig.clock.now() + 30)
        assert rig.records == []
        await rig.house.sweep.look(rig.store.orphans[record])
        assert rig.store.orphans == {}
        assert len(rig.seen(events.OrphanCleared)) == 1
