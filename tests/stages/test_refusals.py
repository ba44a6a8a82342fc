"""Refusals of the server: ranges, sizes, tokens, records that are gone, and a busy server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from harness import Rig
from parts import CHUNK, chunked, content_of, sha256, spans

from uploader.domain import events
from uploader.domain.model import ActionBy, ServerCapabilities
from uploader.domain.retry import DAY, HOUR
from uploader.testing.simulator import FAITHFUL, Fault, Semantics, Settings

CHUNKED = [kind for kind in FAITHFUL if kind is not Semantics.WHOLE]
DATA = content_of(4 * CHUNK + 9)
MB = 1024 * 1024


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


@pytest.mark.parametrize("semantics", CHUNKED)
async def test_a_token_that_expires_during_an_upload_is_replaced(tmp_path: Path, semantics: Semantics) -> None:
    """A 401 to a chunk: one new log-in, and the same chunk again, on the same record."""
    async with Rig(tmp_path, settings(semantics)) as rig:
        rig.fault("upload", "expire-token", skip=2)
        await deliver(rig)
        assert spans(rig.record) == chunked(len(DATA))
        assert rig.record.sha256 == sha256(DATA)
        assert len(rig.calls("login")) == 2
        assert len(rig.calls("create")) == 1
        assert rig.seen(events.UploadRetryScheduled) == []


async def test_a_token_that_expires_for_four_workers_is_replaced_once(tmp_path: Path) -> None:
    """Four chunks in flight get a 401: one log-in, and no chunk arrives twice."""
    async with Rig(tmp_path, settings(Semantics.APPEND, single_token=True)) as rig:
        stalls = [rig.fault("upload", "stall") for _ in range(4)]
        await rig.start()
        paths = [rig.write(f"{number}.mp4", content_of(3 * CHUNK, number)) for number in range(4)]
        await rig.scan()
        async with asyncio.timeout(10):
            for stall in stalls:
                await stall.standing.wait()
        rig.simulator._api.forget_passes()  # each of the four is still answered 2xx; their next chunks are not
        for stall in stalls:
            stall.release()
        await rig.finished(*paths)
        assert len(rig.calls("login")) == 2
        assert all(spans(record) == chunked(3 * CHUNK) for record in rig.records)
        assert rig.simulator.most_at_once == 1


async def test_a_401_after_a_new_log_in_is_a_missing_right(tmp_path: Path) -> None:
    """The file is parked and tried hourly, without further log-ins."""
    async with Rig(tmp_path) as rig:
        rig.fault("upload", "status", status=401, times=None)
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        parked = await rig.event(events.UploadParked, path=path)
        assert "right after a good log-in" in parked.reason
        assert parked.action_by is ActionBy.OPERATOR
        assert (len(rig.calls("login")), len(rig.calls("upload"))) == (2, 2)
        last_error = rig.on_disk(path).last_error
        assert last_error is not None
        assert 0 < (last_error.next_try or 0) - rig.clock.now() <= 1.1 * HOUR


@pytest.mark.parametrize("kind", ["body_limit", "form_limit"])
async def test_a_chunk_that_is_too_large_is_halved(tmp_path: Path, kind: str) -> None:
    """A 413, or a form that PHP has emptied: smaller chunks on a new record; the next file begins with them."""
    limit: dict[str, Any] = {kind: 100 * 1024}
    async with Rig(tmp_path, settings(**limit), upload={"chunk_size": 4 * CHUNK}) as rig:
        data = content_of(9 * CHUNK)
        await deliver(rig, data)
        assert spans(rig.record) == chunked(len(data), CHUNK)
        assert rig.record.sha256 == sha256(data)
        assert rig.store.capabilities.chunk_limit == CHUNK
        creates = len(rig.calls("create"))
        await rig.finished(await rig.drop("b.mp4", data))
        assert len(rig.calls("create")) == creates + 1
        await rig.restart()
        assert rig.store.capabilities.chunk_limit == CHUNK


async def test_a_chunk_that_is_cut_repeatedly_is_halved(tmp_path: Path) -> None:
    """A limit on the way may cut a request without an answer: smaller chunks, into the same record."""
    async with Rig(tmp_path, upload={"chunk_size": 32 * MB}) as rig:
        cut = rig.fault("upload", "cut-body", after_bytes=20 * MB, times=None)
        await rig.start()
        data = content_of(33 * MB)
        path = await rig.drop("a.mp4", data)
        await rig.finished(path)
        assert len(rig.calls("upload")) == 4 + 3
        assert spans(rig.record) == chunked(len(data), 16 * MB)
        assert rig.record.sha256 == sha256(data)
        assert rig.store.capabilities.chunk_limit is None  # one bad line does not make small chunks for every file
        assert cut in rig.simulator.faults
        assert rig.seen(events.UploadParked) == []
        assert rig.seen(events.UploadStartedOver) == []


async def test_cuts_late_in_a_file_send_no_acknowledged_byte_again(tmp_path: Path) -> None:
    """The chunk is halved within its record, and after eight good ones it has its old size."""
    async with Rig(tmp_path, upload={"chunk_size": 4 * CHUNK}) as rig:
        rig.fault("upload", "cut-body", after_bytes=100, skip=2, times=4)
        data = content_of(40 * CHUNK)
        await deliver(rig, data)
        sizes = [end - start for start, end in spans(rig.record)]
        assert sizes == [4 * CHUNK] * 2 + [2 * CHUNK] * 8 + [4 * CHUNK] * 4
        assert rig.record.sha256 == sha256(data)


async def test_a_refusal_for_size_in_the_middle_keeps_the_acknowledged_bytes(tmp_path: Path) -> None:
    """A proxy's limit was lowered meanwhile: smaller chunks into the same record, and for the next files."""
    async with Rig(tmp_path, upload={"chunk_size": 4 * CHUNK}) as rig:
        rig.fault("upload", "status", status=413, body="<html>413 Request Entity Too Large</html>", skip=1)
        data = content_of(9 * CHUNK)
        await deliver(rig, data)
        assert [end - start for start, end in spans(rig.record)] == [4 * CHUNK, 2 * CHUNK, 2 * CHUNK, CHUNK]
        assert rig.store.capabilities.chunk_limit == 2 * CHUNK


async def test_a_learnt_chunk_limit_expires_after_thirty_days(tmp_path: Path) -> None:
    """The server may accept larger chunks by then."""
    async with Rig(tmp_path, settings(body_limit=100 * 1024), upload={"chunk_size": 2 * CHUNK}) as rig:
        await deliver(rig)
        until = rig.store.capabilities.chunk_limit_until
        assert until is not None
        assert 29 * DAY < until - rig.clock.now() <= 30 * DAY
        await rig.kill()
        rig.become(settings())
        rig.prepare(capabilities=ServerCapabilities(chunk_limit=CHUNK, chunk_limit_until=rig.clock.now() - 1))
        await rig.start()
        await rig.finished(await rig.drop("b.mp4", DATA[1:]))
        assert spans(rig.records[-1]) == chunked(len(DATA) - 1, 2 * CHUNK)


async def test_a_server_that_refuses_the_smallest_chunk_parks_the_file(tmp_path: Path) -> None:
    """With the server's words; other files go on."""
    async with Rig(tmp_path, settings(body_limit=2000)) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        parked = await rig.event(events.UploadParked, path=path)
        assert "413" in parked.reason
        assert parked.action_by is ActionBy.OPERATOR
        await rig.finished(await rig.drop("tiny.mp4", b"tiny"))


async def test_halving_never_forgets_the_smaller_limit(tmp_path: Path) -> None:
    """A 413 to a large chunk does not raise a smaller limit learnt before."""
    async with Rig(tmp_path, upload={"chunk_size": 4 * CHUNK}) as rig:
        late = rig.fault("upload", "stall", after_bytes=1)
        await rig.start()
        slow = await rig.drop("slow.mp4", content_of(8 * CHUNK))
        async with asyncio.timeout(10):
            await late.standing.wait()
        rig.become(settings(body_limit=100 * 1024))
        await rig.finished(await rig.drop("quick.mp4", content_of(8 * CHUNK, 2)))
        assert rig.store.capabilities.chunk_limit == CHUNK
        rig.fault("upload", "status", status=413)
        late.release()
        await rig.finished(slow)
        assert rig.store.capabilities.chunk_limit == CHUNK


async def test_a_whole_only_server_is_remembered(tmp_path: Path) -> None:
    """After one 400 about a range whole files are sent, also after a restart."""
    async with Rig(tmp_path, settings(Semantics.WHOLE)) as rig:
        await deliver(rig)
        assert spans(rig.record) == [(0, len(DATA))]
        await rig.restart()
        await rig.finished(await rig.drop("b.mp4", DATA))
        assert len(rig.calls("create")) == 3  # one of them was the lesson
        until = rig.store.capabilities.whole_only_until
        assert until is not None
        assert until > rig.clock.now() + 20 * 86400


@pytest.mark.parametrize("size", [CHUNK, 5 * CHUNK], ids=["in one request", "in chunks"])
async def test_a_first_chunk_refused_for_its_size_as_a_bad_request_is_sent_smaller(tmp_path: Path, size: int) -> None:
    """PHP's limits say 400 in many words. Ranges were seen to work here, so the size is the suspect."""
    async with Rig(tmp_path, upload={"chunk_size": 4 * CHUNK}) as rig:
        rig.simulator.faults.append(
            Fault(
                call="upload", kind="status", status=400, body='{"data":{"message":"This value should not be null."}}'
            )
        )
        await rig.start()
        data = content_of(2 * size)
        path = await rig.drop("a.mp4", data)
        await rig.finished(path)
        assert rig.record.sha256 == sha256(data)
        assert rig.store.capabilities.chunk_limit == min(2 * CHUNK, size)
        assert rig.store.capabilities.chunks is True


async def test_whole_only_expires(tmp_path: Path) -> None:
    """When it is old, chunks are tried again."""
    async with Rig(tmp_path) as rig:
        rig.prepare(capabilities=ServerCapabilities(whole_only_until=rig.clock.now() - 1))
        await deliver(rig)
        assert spans(rig.record) == chunked(len(DATA))


async def test_a_contradicting_range_in_an_answer_starts_the_upload_over(tmp_path: Path) -> None:
    """A 2xx whose ``Range`` has other bytes than were sent: a new record."""
    async with Rig(tmp_path) as rig:
        rig.fault("upload", "store-then-status", status=201, body="", headers={"Range": "0-4"}, skip=1)
        await deliver(rig)
        assert rig.record.sha256 == sha256(DATA)
        assert spans(rig.record) == chunked(len(DATA))
        assert "holds 5 bytes" in rig.seen(events.UploadStartedOver)[0].reason


async def test_an_agreeing_range_in_an_answer_lets_the_upload_go_on(tmp_path: Path) -> None:
    """As a blueimp server sends it."""
    async with Rig(tmp_path, settings(Semantics.BLUEIMP)) as rig:
        await deliver(rig)
        assert rig.seen(events.UploadStartedOver) == []


async def test_a_record_deleted_during_its_upload_is_replaced_once(tmp_path: Path) -> None:
    """The second time the operator must look."""
    async with Rig(tmp_path) as rig:
        rig.fault("upload", "status", status=404, skip=2)
        await deliver(rig)
        assert len(rig.calls("create")) == 2
        assert rig.record.sha256 == sha256(DATA)
        rig.fault("upload", "status", status=404, times=None)
        path = await rig.drop("b.mp4", DATA)
        parked = await rig.event(events.UploadParked, path=path)
        assert parked.action_by is ActionBy.OPERATOR
        assert "deletes it" in parked.reason
        assert len(rig.calls("create")) == 2 + 2


async def test_a_file_whose_finished_record_vanishes_is_not_sent_again(tmp_path: Path) -> None:
    """The server was restored from a backup: the operator decides, over any scan and restart."""
    async with Rig(tmp_path) as rig:
        path = await deliver(rig)
        rig.simulator._records.forget(next(iter(rig.simulator._records)))
        await rig.scan()
        await rig.restart()
        await rig.scan()
        await rig.finished(await rig.drop("b.mp4", DATA[1:]))
        assert rig.state_of(path) is None
        assert len(rig.calls("create")) == 2
        assert [record.name for record in rig.records] == ["b"]


async def test_a_record_deleted_during_processing_is_replaced_when_the_operator_says_so(tmp_path: Path) -> None:
    """A 404 to *details* after the last byte: looked at twice, then parked. ``retry`` sends it to a new record."""
    async with Rig(tmp_path, settings(processing=3600.0)) as rig:
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await rig.event(events.UploadSent, path=path)
        rig.simulator._records.forget(next(iter(rig.simulator._records)))
        parked = await rig.event(events.UploadParked, path=path)
        assert "its record is gone from the server" in parked.reason
        assert parked.command == f"valt-uploader retry {path}"
        assert len(rig.calls("create")) == 1
        rig.become(settings())
        assert await rig.retry(path)
        await rig.finished(path)
        await rig.swept()
        assert len(rig.calls("create")) == 2
        assert rig.store.ledger.count == 1
        assert rig.store.ledger.of(path)[0].record == rig.records[-1].id


@pytest.mark.parametrize("call", ["create", "upload", "details"])
@pytest.mark.parametrize(("status", "header"), [(429, "1"), (503, "1"), (429, None), (503, None)])
async def test_a_busy_server_counts_against_no_file(tmp_path: Path, call: Any, status: int, header: str | None) -> None:
    """429 and 503: every call waits as long as the server says, else some seconds, and no upload starts over."""
    async with Rig(tmp_path) as rig:
        headers = {} if header is None else {"Retry-After": header}
        rig.fault(call, "status", status=status, headers=headers, body="", skip=1 if call == "upload" else 0)
        await deliver(rig)
        assert spans(rig.record) == chunked(len(DATA))
        assert rig.most_attempts == 0
        assert rig.seen(events.UploadParked) == []
        assert len(rig.seen(events.OutageBegan)) == 1


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (500, '{"error":{"code":500,"message":"Virus found: Eicar-Test"}}', "answered 500 (Virus found: Eicar-Test)"),
        (502, "<html><title>Gateway: policy 17</title></html>", "answered 502 (Gateway: policy 17)"),
        (200, "<html><title>Blocked by policy 17</title></html>", "VALT's answer (Blocked by policy 17)"),
    ],
)
async def test_a_file_whose_chunks_always_fail_is_parked_with_the_servers_own_words(
    tmp_path: Path, status: int, body: str, words: str
) -> None:
    """Through every new record, too: what an operator must know is what the server said, not what followed from it."""
    async with Rig(tmp_path, settings()) as rig:
        rig.fault("upload", "status", status=status, body=body, times=None, name="a")
        await rig.start()
        path, other = await rig.drop("a.mp4", DATA), await rig.drop("b.mp4", content_of(1000, 2))
        parked = await rig.event(events.UploadParked, path=path)
        assert words in parked.reason
        assert all(words in event.reason for event in rig.seen(events.UploadStartedOver))
        assert len(rig.seen(events.UploadStartedOver)) == 5
        await rig.finished(other)
        assert not rig.seen(events.OutageBegan)
