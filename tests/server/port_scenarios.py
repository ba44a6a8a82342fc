"""Scenarios of the server's port: records, and chunks that are taken, cut, in doubt or refused."""

from __future__ import annotations

import asyncio
from typing import Final

from port_bench import (
    CLOCK_RESOLUTION,
    DATA,
    SPEC,
    Bench,
    Marks,
    Mishap,
    Scenarios,
    Slowly,
    fails,
    nothing,
    send,
    what_was_sent_has_arrived,
)
from simulation.server import USER
from sources import Blocks

from uploader.domain import errors
from uploader.domain.model import RecordSpec
from uploader.testing.simulator.semantics import Semantics

SCENARIOS: Final = Scenarios()


# Records


@SCENARIOS.add()
async def a_record_is_made_looked_at_listed_and_deleted(bench: Bench) -> None:
    """What was asked for is what is there; an empty record shows no video."""
    began = bench.clock.true_time()
    ids = await bench.server.create_record(SPEC)
    assert bench.held() == {ids.record: b""}
    details = await bench.server.details(ids.record)
    assert (details.record, details.name, details.author, details.videos) == (ids.record, SPEC.name, USER, None)
    (row,) = await bench.server.find_records(SPEC.name)
    assert (row.record, row.name, row.author, row.created) == (ids.record, SPEC.name, USER, details.created)
    assert abs(row.created - began) <= CLOCK_RESOLUTION
    await bench.server.delete_record(ids.record)
    assert (bench.held(), await bench.server.find_records(SPEC.name)) == ({}, ())


@SCENARIOS.add()
async def a_name_belongs_to_any_number_of_records(bench: Bench) -> None:
    """Each call makes another record, and exactly those of a name are listed."""
    same = {(await bench.server.create_record(SPEC)).record for _ in range(3)}
    await bench.server.create_record(RecordSpec(f"{SPEC.name} 2"))
    assert len(same) == 3
    assert {row.record for row in await bench.server.find_records(SPEC.name)} == same


@SCENARIOS.add()
async def a_record_that_is_gone_is_named_so(bench: Bench) -> None:
    """A question about it and a chunk for it raise ``RecordGone``; deleting it again is fine."""
    ids = await bench.server.create_record(SPEC)
    await bench.server.delete_record(ids.record)
    with fails(errors.RecordGone):
        await bench.server.details(ids.record)
    with fails(errors.RecordGone):
        await send(bench, ids)
    await bench.server.delete_record(ids.record)
    assert bench.held() == {}


# Videos


@SCENARIOS.add()
async def a_video_is_handed_out_as_it_was_sent(bench: Bench) -> None:
    """Its size is told, in either way of asking, and its bytes are those that were sent."""
    ids = await bench.server.create_record(SPEC)
    await send(bench, ids)
    assert await bench.server.video_size(ids) == len(DATA)
    assert await bench.server.video_size(ids, confirm=True) == len(DATA)
    assert b"".join([block async for block in bench.server.download(ids)]) == DATA


@SCENARIOS.add()
async def a_video_that_is_not_there_has_no_size(bench: Bench) -> None:
    """Before it has landed, and after its record was deleted: ``RecordGone``."""
    ids = await bench.server.create_record(SPEC)
    with fails(errors.RecordGone):
        await bench.server.video_size(ids)
    await send(bench, ids)
    await bench.server.delete_record(ids.record)
    with fails(errors.RecordGone):
        await bench.server.video_size(ids)
    with fails(errors.RecordGone):
        await anext(aiter(bench.server.download(ids)))


@SCENARIOS.add()
async def a_closed_port_of_downloads_is_no_failure_of_the_server(bench: Bench) -> None:
    """It is ``DownloadUnavailable``, and was not reached; every other call works."""
    ids = await bench.server.create_record(SPEC)
    await send(bench, ids)
    bench.close_downloads()
    for confirm in (False, True):
        with fails(errors.DownloadUnavailable) as caught:
            await bench.server.video_size(ids, confirm=confirm)
        assert isinstance(caught.value, errors.DownloadUnavailable)
        assert not caught.value.reached
    with fails(errors.DownloadUnavailable):
        await anext(aiter(bench.server.download(ids)))
    assert (await bench.server.details(ids.record)).status_of(ids.video) == "ready"


@SCENARIOS.add()
async def a_link_that_is_not_given_is_what_any_call_is(bench: Bench) -> None:
    """A failure, or a server that is away."""
    ids = await bench.server.create_record(SPEC)
    await send(bench, ids)
    for mishap, kind in (
        (Mishap.FAILED, errors.CallFailed),
        (Mishap.FORBIDDEN, errors.RightMissing),
        (Mishap.PROXY_SAYS_404, errors.ProxyAnswered),
    ):
        bench.go_wrong("link", mishap)
        with fails(kind):
            await bench.server.video_size(ids)
    await bench.go_away()
    with fails(errors.Unreachable):
        await bench.server.video_size(ids)


# Chunks


@SCENARIOS.add()
async def chunks_in_order_become_a_video(bench: Bench) -> None:
    """Each is acknowledged, the video is there after the last one and only then; this server does not say ``Range``."""
    ids = await bench.server.create_record(SPEC)
    assert await send(bench, ids, DATA[:10], total=len(DATA)) is None
    assert (await bench.server.details(ids.record)).videos is None
    assert await send(bench, ids, DATA[10:], start=10, total=len(DATA)) is None
    assert bench.held() == {ids.record: DATA}
    assert (await bench.server.details(ids.record)).status_of(ids.video) == "ready"


@SCENARIOS.add(Semantics.BLUEIMP)
async def a_server_that_says_what_it_holds_is_quoted(bench: Bench) -> None:
    """A ``Range`` in the answer is the number of bytes held, also when that contradicts what was sent."""
    ids = await bench.server.create_record(SPEC)
    assert await send(bench, ids, DATA[:10], total=len(DATA)) == 10
    assert await send(bench, ids, DATA[:10], total=len(DATA)) != 20
    assert await send(bench, ids, DATA[10:], start=10, total=len(DATA)) == len(DATA)


@SCENARIOS.add(Semantics.WHOLE)
async def a_range_that_is_not_taken_is_refused(bench: Bench) -> None:
    """A server of whole files refuses a part, and takes the whole file into the same record."""
    ids = await bench.server.create_record(SPEC)
    with fails(errors.ChunkRefused):
        await send(bench, ids, DATA[:10], total=len(DATA))
    await send(bench, ids)
    assert bench.held() == {ids.record: DATA}


@SCENARIOS.add()
async def progress_and_throttle_go_by_bytes(bench: Bench) -> None:
    """No piece is larger than the throttle allows, and all pieces together are the chunk."""
    ids, told = await bench.server.create_record(SPEC), list[int]()
    await bench.server.send_chunk(
        ids,
        "/rec/a.mp4",
        (0, len(DATA), len(DATA)),
        Blocks(DATA),
        before_last_byte=nothing,
        on_progress=told.append,
        throttle=Slowly(7),
    )
    assert (sum(told), max(told)) == (len(DATA), 7)
    assert bench.held() == {ids.record: DATA}


@SCENARIOS.add()
async def the_last_byte_waits_for_its_mark(bench: Bench) -> None:
    """Until ``before_last_byte`` has returned the server has not seen the chunk; then it has, after one request."""
    ids, mark = await bench.server.create_record(SPEC), Marks()
    sending = asyncio.create_task(send(bench, ids, mark=mark))
    await mark.reached.wait()
    await what_was_sent_has_arrived(bench)
    assert (bench.arrived("upload"), bench.held()) == (0, {ids.record: b""})
    mark.go_on.set()
    await sending
    assert (bench.arrived("upload"), bench.requests["upload"], bench.held()) == (1, 1, {ids.record: DATA})


@SCENARIOS.add()
async def what_the_mark_raises_cuts_the_chunk(bench: Bench) -> None:
    """It is raised as it is, an ``OSError`` as ``ChunkCut``; the server has seen nothing, and takes the chunk again."""

    async def changed() -> None:
        raise errors.FileChanged("it grew")

    async def no_disk() -> None:
        raise OSError(5, "Input/output error")

    ids = await bench.server.create_record(SPEC)
    with fails(errors.FileChanged):
        await send(bench, ids, mark=changed)
    with fails(errors.ChunkCut):
        await send(bench, ids, mark=no_disk)
    await bench.quiet()
    assert (bench.arrived("upload"), bench.held()) == (0, {ids.record: b""})
    await send(bench, ids)
    assert bench.held() == {ids.record: DATA}


@SCENARIOS.add()
async def what_the_source_raises_cuts_the_chunk(bench: Bench) -> None:
    """It is raised as it is; the mark is not awaited, and the server has seen nothing."""
    ids, mark = await bench.server.create_record(SPEC), Marks()
    with fails(errors.FileChanged):
        await send(bench, ids, mark=mark, then=errors.FileChanged("it shrank"))
    await bench.quiet()
    assert (mark.reached.is_set(), bench.arrived("upload"), bench.held()) == (False, 0, {ids.record: b""})


@SCENARIOS.add()
async def a_chunk_that_ends_before_its_last_byte_is_cut(bench: Bench) -> None:
    """The server has not seen it (rule 3)."""
    ids, mark = await bench.server.create_record(SPEC), Marks()
    bench.go_wrong("upload", Mishap.CUT)
    with fails(errors.ChunkCut):
        await send(bench, ids, bytes(bench.long), mark=mark)
    await bench.quiet()
    assert (mark.reached.is_set(), bench.held()) == (False, {ids.record: b""})


@SCENARIOS.add()
async def a_chunk_that_ends_after_its_last_byte_is_in_doubt(bench: Bench) -> None:
    """The server may have taken it (rule 4): here it has, once without an answer and once behind a proxy's 502."""
    for mishap in (Mishap.ANSWER_LOST, Mishap.DONE_THEN_502):
        ids = await bench.server.create_record(SPEC)
        bench.go_wrong("upload", mishap)
        with fails(errors.AnswerLost):
            await send(bench, ids)
        assert bench.held()[ids.record] == DATA
        assert (await bench.server.details(ids.record)).status_of(ids.video) == "ready"


@SCENARIOS.add()
async def a_chunk_that_is_too_large_is_named_so(bench: Bench) -> None:
    """Whether a 413 comes after the chunk or in the middle of it: it was not taken."""
    ids = await bench.server.create_record(SPEC)
    for mishap, size in ((Mishap.TOO_LARGE, 10), (Mishap.TOO_LARGE_EARLY, bench.long)):
        bench.go_wrong("upload", mishap)
        with fails(errors.ChunkTooLarge):
            await send(bench, ids, bytes(size))
    await bench.quiet()
    assert bench.held() == {ids.record: b""}
