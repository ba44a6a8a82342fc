"""A request without an answer: sent again if the server never saw it, asked about if it may have."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from harness import Rig
from parts import CHUNK, SPEED, chunked, content_of, sha256, spans

from uploader.domain import events
from uploader.testing.simulator import FAITHFUL, FaultKind, Semantics, Settings

CHUNKED = [kind for kind in FAITHFUL if kind is not Semantics.WHOLE]
DATA = content_of(4 * CHUNK + 9)
LARGE = 32 * 1024 * 1024  # bytes: more than the socket buffers of both ends hold


def settings(semantics: Semantics = Semantics.OFFSET, **more: Any) -> Settings:
    """A server whose videos are ready at once."""
    return Settings(semantics=semantics, **({"processing": 0.0} | more))


async def deliver(rig: Rig, data: bytes = DATA) -> str:
    """Send one file all the way, orphans cleared away; its path."""
    await rig.start()
    path = await rig.drop("a.mp4", data)
    await rig.finished(path)
    await rig.swept()
    return path


# Before the last byte: never seen, so nothing is in doubt


@pytest.mark.parametrize("how", ["cut", "stall", "stop", "status"])
async def test_a_chunk_cut_before_its_last_byte_is_sent_again(tmp_path: Path, how: str) -> None:
    """Cut, stalled, refused early or lost with the server: same record, same offset, no doubt."""
    data = content_of(2 * LARGE + 5)
    patience = {"stall_timeout": "1s" if how == "stall" else "10s"}
    async with Rig(tmp_path, settings(Semantics.APPEND), server=patience, upload={"chunk_size": LARGE}) as rig:
        kind: FaultKind = {"cut": "cut-body", "stall": "stall", "stop": "stall", "status": "status"}[how]  # type: ignore[assignment]
        fault = rig.fault("upload", kind, after_bytes=1000, skip=1)
        await rig.start()
        path = await rig.drop("a.mp4", data)
        if how == "stop":
            async with asyncio.timeout(10):
                await fault.standing.wait()
            port = int(rig.simulator.url.rsplit(":", 1)[1])
            await rig.simulator.stop()
            await rig.simulator.start(port=port)
        await rig.finished(path)
        assert spans(rig.record) == chunked(len(data), LARGE)
        assert rig.record.sha256 == sha256(data)
        assert rig.seen(events.UploadInDoubt) == []
        assert len(rig.calls("create")) == 1


# After the last byte: in doubt


@pytest.mark.parametrize("semantics", CHUNKED)
@pytest.mark.parametrize("kind", ["lose-answer", "store-then-status", "status"])
async def test_middle_chunk_in_doubt_begins_a_new_record(tmp_path: Path, semantics: Semantics, kind: Any) -> None:
    """A lost answer, or a 502 whether or not the work was done: the old record is deleted."""
    async with Rig(tmp_path, settings(semantics)) as rig:
        rig.fault("upload", kind, skip=2)
        path = await deliver(rig)
        assert rig.record.sha256 == sha256(DATA)
        assert spans(rig.record) == chunked(len(DATA))
        assert len(rig.calls("create")) == 2
        assert rig.store.ledger.of(path)[0].record == rig.record.id
        assert len(rig.seen(events.OrphanCleared)) == 1


@pytest.mark.parametrize("semantics", FAITHFUL)
@pytest.mark.parametrize("kind", ["lose-answer", "store-then-status"])
async def test_a_last_chunk_that_landed_is_not_sent_again(tmp_path: Path, semantics: Semantics, kind: Any) -> None:
    """Its answer was lost or a 502: the server is asked and has it."""
    whole = semantics is Semantics.WHOLE
    async with Rig(tmp_path, settings(semantics), upload={"chunk_size": "whole" if whole else CHUNK}) as rig:
        rig.fault("upload", kind, skip=0 if whole else 4)
        await deliver(rig)
        assert rig.record.sha256 == sha256(DATA)
        assert rig.record.requests == (1 if whole else 5)
        assert len(rig.calls("create")) == 1


@pytest.mark.parametrize("kind", ["lose-answer", "status"])
async def test_a_chunk_in_doubt_is_asked_about_after_the_settle_time(tmp_path: Path, kind: Any) -> None:
    """Nothing is sent before that."""
    async with Rig(tmp_path, server={"doubt_settle": "400ms"}) as rig:
        rig.fault("upload", kind, skip=1)
        await deliver(rig)
        names = [call.name for call in rig.simulator.calls if call.name not in {"list", "version"}]
        assert names[:6] == ["login", "create", "upload", "details", "upload", "details"]
        assert names.index("create", 2) > names.index("details", 4)
        at = {call.name: call.at for call in reversed(rig.calls("upload")[2:])}
        assert at["upload"] - rig.calls("upload")[1].at >= 0.4 / SPEED  # by the application's clock


@pytest.mark.parametrize("semantics", CHUNKED)
async def test_a_late_request_reaches_no_record_in_use(tmp_path: Path, semantics: Semantics) -> None:
    """The server works on a chunk only after the client has given it up."""
    async with Rig(tmp_path, settings(semantics)) as rig:
        late = rig.fault("upload", "late", skip=1)
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await rig.event(events.UploadStartedOver, path=path)
        late.release()
        await rig.finished(path)
        await rig.swept()
        assert (rig.record.sha256, spans(rig.record)) == (sha256(DATA), chunked(len(DATA)))


@pytest.mark.parametrize("semantics", CHUNKED)
async def test_a_record_that_was_given_up_and_lands_whole_is_adopted(tmp_path: Path, semantics: Semantics) -> None:
    """The server takes up the last chunk after ``ready_timeout``, while the file is on its way to a new record.

    The recording does not arrive twice: the new record is deleted.
    """
    slow = {"doubt_settle": "30s"}  # time enough until the old record would be deleted as an empty one
    async with Rig(tmp_path, settings(semantics), server=slow, upload={"ready_timeout": "1s"}) as rig:
        late = rig.fault("upload", "late", skip=4)
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await rig.event(events.UploadInDoubt, path=path)
        held = rig.fault("upload", "stall")  # the first chunk to the new record
        started_over = await rig.event(events.UploadStartedOver, path=path)
        async with asyncio.timeout(10):
            await held.standing.wait()
        late.release()
        adopted = await rig.event(events.RecordAdopted, path=path)
        held.release()
        await rig.finished(path)
        await rig.swept()
        assert adopted.record == started_over.orphan == rig.record.id
        assert (rig.record.sha256, spans(rig.record)) == (sha256(DATA), chunked(len(DATA)))
        assert len(rig.calls("create")) == 2


async def test_a_late_last_chunk_within_the_settle_time_counts(tmp_path: Path) -> None:
    """Nothing is sent again."""
    async with Rig(tmp_path, server={"doubt_settle": "5s"}) as rig:
        zombie = rig.fault("upload", "late", skip=4)
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await rig.event(events.UploadRetryScheduled, path=path, count=2)
        zombie.release()
        await rig.finished(path)
        assert len(rig.calls("create")) == 1
        assert rig.record.requests == 5


@pytest.mark.parametrize("status", [500, 502, 504])
async def test_a_5xx_to_a_chunk_leaves_it_in_doubt(tmp_path: Path, status: int) -> None:
    """The file arrives on a new record."""
    async with Rig(tmp_path) as rig:
        rig.fault("upload", "status", status=status, body="")
        await deliver(rig)
        assert rig.record.sha256 == sha256(DATA)


@pytest.mark.parametrize("kind", ["garbage", "lose-answer", "store-then-status"])
async def test_a_record_made_without_a_readable_answer_is_found_and_deleted(tmp_path: Path, kind: Any) -> None:
    """One record is left in the end. It is given a day: another client may have made one of the same name."""
    async with Rig(tmp_path) as rig:
        rig.fault("create", kind)
        path = await deliver(rig)
        assert rig.record.sha256 == sha256(DATA)
        assert rig.seen(events.UploadInDoubt)[0] == events.UploadInDoubt(
            path, "", rig.seen(events.UploadInDoubt)[0].what
        )
        assert len(rig.seen(events.OrphanCleared)) == 1


async def test_a_2xx_to_a_chunk_is_success_whatever_its_body(tmp_path: Path) -> None:
    """The body is not needed, if it is no page."""
    async with Rig(tmp_path) as rig:
        headers = {"Content-Type": "text/plain"}
        rig.fault("upload", "store-then-status", times=None, status=200, body="{{{ fine", headers=headers)
        await deliver(rig)
        assert spans(rig.record) == chunked(len(DATA))


async def test_a_sorry_page_with_200_is_no_success(tmp_path: Path) -> None:
    """The chunk was not taken: it is in doubt, and the file arrives whole on a new record."""
    async with Rig(tmp_path) as rig:
        rig.fault("upload", "status", skip=1, status=200, body="<html><title>Back soon</title></html>")
        path = await deliver(rig)
        assert rig.record.sha256 == sha256(DATA)
        (doubt,) = rig.seen(events.UploadInDoubt)
        assert (doubt.path, "a page instead of VALT's answer (Back soon)" in doubt.what) == (path, True)
