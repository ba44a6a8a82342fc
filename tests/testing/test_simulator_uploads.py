"""Uploads into the simulator: chunks over HTTP, refusals, and what a restart finds."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import socket
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import aiohttp
import pytest
from test_simulator import API, BOUNDARY, Client, at_work, form, running, upload_path

from uploader.testing.simulator import FAITHFUL, ContentRange, Fault, RecordView, Semantics, Simulator

NOT_TRANSFERRED = (400, {"data": {"message": "The chunk file was not transferred"}, "code": 400})
BAD_RANGE = (400, {"data": {"message": "Invalid Content-Range header value"}, "code": 400})
MISSING_FILE = (400, {"data": {"message": "Missing file"}, "code": 400})
DATA = bytes(range(256)) * 12
CHUNK = 1024


async def send_all(client: Client, ids: tuple[str, str], order: str = "012") -> list[int]:
    """Send the chunks of DATA in this order; return the statuses."""
    statuses = []
    for number in order:
        start = int(number) * CHUNK
        statuses.append((await client.send(ids, DATA[start : start + CHUNK], start, len(DATA))).status)
    return statuses


def only(simulator: Simulator) -> RecordView:
    """The one record that there is."""
    (record,) = simulator.records()
    return record


@pytest.mark.parametrize("semantics", [kind for kind in FAITHFUL if kind is not Semantics.WHOLE])
async def test_chunks_in_order_become_the_file(tmp_path: Path, semantics: Semantics) -> None:
    """Under every receiver of chunks the bytes sent are the bytes held, and their digest is known."""
    async with at_work(tmp_path, semantics=semantics) as (simulator, client):
        assert await send_all(client, await client.create()) == [201, 201, 201]
        record = only(simulator)
        assert record.path.read_bytes() == DATA
        assert record.sha256 == hashlib.sha256(DATA).hexdigest()
        assert (record.status, record.size, record.requests) == ("created", len(DATA), 3)
        assert record.ranges == tuple(ContentRange(at, at + CHUNK - 1, len(DATA)) for at in (0, 1024, 2048))


@pytest.mark.parametrize("semantics", list(Semantics))
async def test_answer_to_a_chunk_is_201_and_empty(tmp_path: Path, semantics: Semantics) -> None:
    """Success has no body under any receiver; blueimp alone says in ``Range`` what it holds."""
    async with at_work(tmp_path, semantics=semantics) as (_, client):
        reply = await client.send(await client.create(), b"abc")
        assert reply.pair == (201, None)
        assert reply.headers.get("Range") == ("0-2" if semantics is Semantics.BLUEIMP else None)


@pytest.mark.parametrize(
    ("semantics", "order", "statuses", "held"),
    [
        (Semantics.OFFSET, "2001", [201, 201, 201, 201], DATA),
        (Semantics.STRICT, "0201", [201, 400, 400, 201], DATA[:2048]),
        (Semantics.BLUEIMP, "0112", [201, 201, 201, 201], DATA),
        (Semantics.APPEND, "0112", [201, 201, 201, 201], DATA[:2048] + DATA[1024:]),
        (Semantics.WHOLE, "0", [400], b""),
    ],
)
async def test_receivers_keep_what_their_row_says(
    tmp_path: Path, semantics: Semantics, order: str, statuses: list[int], held: bytes
) -> None:
    """Repeats and leaps are answered, and kept or not, as the protocol's table has it."""
    async with at_work(tmp_path, semantics=semantics) as (simulator, client):
        assert await send_all(client, await client.create(), order) == statuses
        record = only(simulator)
        assert record.requests == len(order)
        assert len(record.ranges) == statuses.count(201)
        assert (record.path.read_bytes() if held else b"") == held


async def test_blueimp_keeps_a_repeated_chunk_in_a_file_of_its_own(tmp_path: Path) -> None:
    """The answer has the size of that file."""
    async with at_work(tmp_path, semantics=Semantics.BLUEIMP) as (simulator, client):
        ids = await client.create()
        await send_all(client, ids, "01")
        reply = await client.send(ids, DATA[1024:2048], 1024, len(DATA))
        assert reply.headers["Range"] == "0-1023"
        record = only(simulator)
        assert (record.size, record.strays) == (2048, (1024,))
        assert (record.path.parent / "stray-1.mp4").read_bytes() == DATA[1024:2048]


async def test_a_stray_does_not_change_the_digest_of_the_video(tmp_path: Path) -> None:
    """After a finished video blueimp writes a repeated chunk to a file beside it."""
    async with at_work(tmp_path, semantics=Semantics.BLUEIMP) as (simulator, client):
        await send_all(client, await client.create(), "0122")
        assert only(simulator).strays == (1024,)
        assert only(simulator).sha256 == hashlib.sha256(DATA).hexdigest()


async def test_the_digest_shows_a_file_spoilt_by_an_appender(tmp_path: Path) -> None:
    """The last chunk was repeated after the end and appended."""
    async with at_work(tmp_path, semantics=Semantics.APPEND) as (simulator, client):
        await send_all(client, await client.create(), "0122")
        assert only(simulator).sha256 == hashlib.sha256(DATA + DATA[2048:]).hexdigest()


@pytest.mark.parametrize("header", ["bytes 0--1/0", "bytes 2-0/3", "bytes 0-2/2", "0-2/3", "", "bytes 0-2/*"])
async def test_bad_range_is_refused(tmp_path: Path, header: str) -> None:
    """A meaningless range is a 400 that says so, and counts as a request."""
    async with at_work(tmp_path) as (simulator, client):
        assert (await client.post(await client.create(), form(b"abc"), header)).pair == BAD_RANGE
        assert (only(simulator).requests, only(simulator).ranges) == (1, ())


@pytest.mark.parametrize(
    "body",
    [
        form(b"abc", name="files[]"),
        form(b"abc", disposition=""),
        form(b""),
        form(b"ab"),
        form(b"abcd"),
        b"not a form",
        b"",
        f"--{BOUNDARY}\r\nno end".encode(),
    ],
)
async def test_a_form_without_a_chunk_is_refused(tmp_path: Path, body: bytes) -> None:
    """Without a part ``file`` with a file name, or with another size than the range's."""
    async with at_work(tmp_path) as (simulator, client):
        assert (await client.post(await client.create(), body, "bytes 0-2/3")).pair == NOT_TRANSFERRED
        assert only(simulator).size == 0


async def test_form_without_range_is_the_whole_file(tmp_path: Path) -> None:
    """As in PHP a file without Content-Range is whole; an empty form without one misses its file."""
    async with at_work(tmp_path) as (simulator, client):
        ids = await client.create()
        assert (await client.post(ids, form(b"abc", name="other"), None)).pair == MISSING_FILE
        assert (await client.post(ids, form(b"abc"), None)).status == 201
        assert (only(simulator).status, only(simulator).path.read_bytes()) == ("created", b"abc")


async def test_form_of_aiohttp_is_understood(tmp_path: Path) -> None:
    """``FormData``, other fields, and bytes that look like boundaries do not confuse it."""
    data = f"\r\n--{BOUNDARY}\r\n\r\n--".encode() * 5000
    async with at_work(tmp_path) as (simulator, client):
        fields = aiohttp.FormData({"comment": "ignored"})
        fields.add_field("file", data, filename='Ü "1".mp4', content_type="application/octet-stream")
        headers = {"Content-Range": f"bytes 0-{len(data) - 1}/{len(data)}"}
        path = upload_path(await client.create())
        assert (await client.call("POST", path, data=fields, headers=headers)).status == 201
        assert only(simulator).path.read_bytes() == data


async def test_body_beyond_the_proxy_limit_is_refused_unread(tmp_path: Path) -> None:
    """Like nginx, it answers 413 in HTML from the head of the request alone, and closes the connection."""
    async with at_work(tmp_path, body_limit=1000) as (simulator, client):
        ids = await client.create()
        path = upload_path(ids)
        answer = await asyncio.to_thread(send_head_only, simulator.url, path, 5000)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"<h1>413 Request Entity Too Large</h1>" in answer
        assert b"connection: close" in answer.lower()
        assert (await client.send(ids, b"x" * 2000)).status == 413
        assert (await client.send(ids, b"x" * 500)).status == 201
        assert only(simulator).requests == 1


def send_head_only(url: str, path: str, length: int) -> bytes:
    """Announce a body, send none of it, and read the answer."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
        return connection.recv(65536)


async def test_body_beyond_the_form_limit_arrives_empty(tmp_path: Path) -> None:
    """Like PHP, it reads a larger request and then finds no file in it."""
    async with at_work(tmp_path, form_limit=1000) as (_, client):
        ids = await client.create()
        assert (await client.send(ids, b"x" * 2000)).pair == NOT_TRANSFERRED
        assert (await client.send(ids, b"x" * 500)).status == 201


@pytest.mark.parametrize("semantics", list(Semantics))
@pytest.mark.parametrize("missing", [1, 40, 500])
async def test_a_request_cut_before_its_last_byte_has_no_effect(
    tmp_path: Path, semantics: Semantics, missing: int
) -> None:
    """Whether its last bytes are those of the file or of the form."""
    async with at_work(tmp_path, semantics=semantics) as (simulator, client):
        ids = await client.create()
        cut = asyncio.Event()
        simulator.on_call = lambda call: cut.set() if call.name == "upload" else None
        body = form(DATA)
        path = f"{upload_path(ids)}?access_token={client.token}"
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            f"Content-Range: bytes 0-{len(DATA) - 1}/{len(DATA)}\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
        )
        parts = urlsplit(simulator.url)
        _, writer = await asyncio.open_connection(parts.hostname, parts.port)
        writer.write(head.encode() + body[:-missing])
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        async with asyncio.timeout(30):
            await cut.wait()
        assert simulator.calls[-1].status is None
        assert (only(simulator).requests, only(simulator).size) == (0, 0)
        assert list((tmp_path / ".spool").iterdir()) == []
        assert (await client.send(ids, DATA)).status == 201


async def test_memory_does_not_grow_with_the_body(tmp_path: Path) -> None:
    """A request of 128 MiB needs less than a sixth of that: some batches of 4 MiB, one of which waits for the disk."""
    size, piece = 128 << 20, bytes(1 << 20)
    async with at_work(tmp_path) as (simulator, client):
        ids = await client.create()

        async def body() -> AsyncIterator[bytes]:
            head, tail = form(b"|").split(b"|")
            yield head
            for _ in range(size // len(piece)):
                yield piece
            yield tail

        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        tracemalloc.start()
        try:
            reply = await client.call("POST", upload_path(ids), data=body(), headers=headers)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert reply.status == 201
        assert only(simulator).size == size
        assert peak < size // 6


async def test_parallel_chunks_of_one_video_are_taken_one_by_one(tmp_path: Path) -> None:
    """They do not mix."""
    async with at_work(tmp_path) as (simulator, client):
        ids = await client.create()
        starts = range(0, len(DATA), 64)
        replies = await asyncio.gather(*(client.send(ids, DATA[at : at + 64], at, len(DATA)) for at in starts))
        assert {reply.status for reply in replies} == {201}
        assert only(simulator).path.read_bytes() == DATA
        assert only(simulator).sha256 == hashlib.sha256(DATA).hexdigest()


@pytest.mark.parametrize("semantics", [kind for kind in FAITHFUL if kind is not Semantics.WHOLE])
async def test_a_restart_continues_with_the_same_records(tmp_path: Path, semantics: Semantics) -> None:
    """A new simulator on the same folder has them, and takes the next chunk."""
    async with at_work(tmp_path, semantics=semantics) as (simulator, client):
        ids = await client.create("kept", template={"1": "x"}, share={"users": [3]})
        assert await send_all(client, ids, "01") == [201, 201]
        before = only(simulator)
    async with at_work(tmp_path, semantics=semantics) as (simulator, client):
        assert only(simulator) == before
        assert await send_all(client, ids, "2") == [201]
        after = only(simulator)
        assert (after.status, after.sha256, after.requests) == ("created", hashlib.sha256(DATA).hexdigest(), 3)
    async with running(tmp_path) as simulator:
        assert only(simulator) == after


async def test_restart_drops_bytes_that_were_never_acknowledged(tmp_path: Path) -> None:
    """Killed between the bytes and their log line, the appender has not seen that request."""
    async with at_work(tmp_path, semantics=Semantics.APPEND) as (simulator, client):
        ids = await client.create()
        await send_all(client, ids, "0")
        path = only(simulator).path
    with path.open("ab") as video:
        video.write(b"a chunk that was cut" * 500)
    async with at_work(tmp_path, semantics=Semantics.APPEND) as (simulator, client):
        await send_all(client, ids, "12")
        assert only(simulator).path.read_bytes() == DATA


async def test_stop_cuts_an_upload_at_once(tmp_path: Path) -> None:
    """Stopping does not wait for a body that is on its way, and leaves no trace of it."""
    async with at_work(tmp_path) as (simulator, client):
        fault = Fault(call="upload", kind="stall", after_bytes=1 << 20)
        simulator.faults.append(fault)
        upload = asyncio.create_task(client.send(await client.create(), bytes(32 << 20)))
        async with asyncio.timeout(30):
            await fault.standing.wait()
        assert len(list((tmp_path / ".spool").iterdir())) == 1
        async with asyncio.timeout(5):
            await simulator.stop()
        with pytest.raises(aiohttp.ClientError):
            await upload
        assert (only(simulator).requests, list((tmp_path / ".spool").iterdir())) == (0, [])


async def test_plain_blocking_client_is_served(tmp_path: Path) -> None:
    """One blocking POST of the whole file as one range, as the vendor's client does, without aiohttp."""
    async with running(tmp_path) as simulator:
        found = await asyncio.to_thread(upload_as_the_vendor_does, simulator.url, b"recorded" * 1000)
        (record,) = simulator.records()
        assert (found.status, found.body) == (201, b"")
        assert (record.status, record.size, record.requests) == ("created", 8000, 1)
        assert record.path.read_bytes() == b"recorded" * 1000


def upload_as_the_vendor_does(url: str, data: bytes) -> SimpleNamespace:
    """Log in, create, and send the file, on a blocking connection."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)

    def post(path: str, body: bytes, headers: dict[str, str]) -> SimpleNamespace:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return SimpleNamespace(status=response.status, body=response.read())

    as_json = {"Content-Type": "application/json"}
    try:
        login = post(f"{API}/login", b'{"username": "uploader", "password": "secret"}', as_json)
        token = json.loads(login.body)["data"]["access_token"]
        created = json.loads(
            post(f"{API}/records/create-upload?access_token={token}", b'{"name": "vendor"}', as_json).body
        )
        headers = {
            "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
            "Content-Range": f"bytes 0-{len(data) - 1}/{len(data)}",
        }
        path = upload_path((created["id"], created["videos"][0]))
        return post(f"{path}?access_token={token}", form(data), headers)
    finally:
        connection.close()
