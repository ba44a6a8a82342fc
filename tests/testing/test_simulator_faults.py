"""Scripted faults: what the client sees of each, and what the server has done by then."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from test_simulator import API, BAD_TOKEN, BOUNDARY, Client, at_work, form, upload_path

from uploader.runtime.clock import SystemClock
from uploader.testing.simulator import Fault, FaultKind, Semantics, Simulator

MEGABYTE = b"x" * (1 << 20)


class QuietClock(SystemClock):
    """A clock whose sleeps take no time and are written down."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        """Note it and return."""
        self.slept.append(seconds)
        await asyncio.sleep(0)


def landed(simulator: Simulator) -> list[int]:
    """How many bytes each record holds."""
    return [record.size for record in simulator.records()]


async def until(event: asyncio.Event) -> None:
    """Wait for an event that must come."""
    async with asyncio.timeout(30):
        await event.wait()


async def version(client: Client) -> int:
    """The status of the plainest call."""
    return (await client.call("GET", f"{API}/admin/general")).status


async def test_a_fault_skips_calls_and_affects_a_number_of_them(tmp_path: Path) -> None:
    """Two calls pass, the next two are affected, and the fault is used up."""
    async with at_work(tmp_path) as (simulator, client):
        simulator.faults.append(Fault(call="version", kind="status", status=503, skip=2, times=2))
        assert [await version(client) for _ in range(6)] == [200, 200, 503, 503, 200, 200]
        assert simulator.faults == []
        assert [call.fault for call in simulator.calls if call.fault] == ["status", "status"]


async def test_a_fault_may_affect_all_calls_of_its_kind(tmp_path: Path) -> None:
    """``times=None``, until it is removed from the list; other calls are not affected."""
    async with at_work(tmp_path) as (simulator, client):
        simulator.faults.append(Fault(call="version", kind="status", times=None))
        assert [await version(client) for _ in range(3)] == [502, 502, 502]
        await client.create()
        simulator.faults.clear()
        assert await version(client) == 200


@pytest.mark.parametrize("kind", ["lose-answer", "cut-body"])
async def test_a_lost_answer_to_login_breaks_the_connection(tmp_path: Path, kind: FaultKind) -> None:
    """Whether or not the log-in was done."""
    async with at_work(tmp_path) as (simulator, client):
        simulator.faults.append(Fault(call="login", kind=kind))
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.login()
        assert simulator.calls[-1].status is None
        assert (await client.login()).status == 200


async def test_lost_answer_leaves_the_work_done(tmp_path: Path) -> None:
    """The record exists and the chunk has landed, although no answer came."""
    async with at_work(tmp_path) as (simulator, client):
        simulator.faults += [Fault(call="create", kind="lose-answer"), Fault(call="upload", kind="lose-answer")]
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.create()
        (record,) = simulator.records()
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.send((record.id, record.video), b"abc")
        assert landed(simulator) == [3]


async def test_cut_body_leaves_nothing_done(tmp_path: Path) -> None:
    """A connection that is aborted during the body has no effect."""
    async with at_work(tmp_path) as (simulator, client):
        ids = await client.create()
        simulator.faults.append(Fault(call="upload", kind="cut-body", after_bytes=1 << 20))
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.send(ids, MEGABYTE * 16)
        assert landed(simulator) == [0]
        call = simulator.calls[-1]
        assert call.status is None
        assert 1 << 20 <= call.received < 16 << 20
        assert (await client.send(ids, MEGABYTE)).status == 201


async def test_status_is_answered_without_the_work(tmp_path: Path) -> None:
    """A proxy's answer with its headers and body, and nothing was done."""
    async with at_work(tmp_path) as (simulator, client):
        ids = await client.create()
        patience = {"Retry-After": "7", "Content-Type": "application/json"}
        simulator.faults += [
            Fault(call="upload", kind="status", status=429, headers=patience, body='{"data": "patience"}'),
            Fault(call="upload", kind="status"),
        ]
        reply = await client.send(ids, b"abc")
        assert (reply.pair, reply.headers["Retry-After"]) == ((429, {"data": "patience"}), "7")
        reply = await client.send(ids, b"abc")
        assert reply.status == 502
        assert reply.headers["Content-Type"].startswith("text/html")
        assert "<h1>502 Bad Gateway</h1>" in reply.body
        assert landed(simulator) == [0]


async def test_early_answer_comes_before_the_body_ends(tmp_path: Path) -> None:
    """With ``after_bytes`` the answer comes while the client still has bytes to send."""
    async with at_work(tmp_path) as (simulator, client):
        ids = await client.create()
        simulator.faults.append(Fault(call="upload", kind="status", status=413, after_bytes=10))
        more = asyncio.Event()

        async def halting() -> Any:
            yield form(b"")[:100]
            await more.wait()

        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Content-Range": "bytes 0-8/9"}
        async with asyncio.timeout(30):
            reply = await client.call("POST", upload_path(ids), data=halting(), headers=headers)
        assert reply.status == 413
        assert reply.headers["Connection"] == "close"
        more.set()


async def test_store_then_status_does_the_work_first(tmp_path: Path) -> None:
    """The chunk has landed, and the proxy says 504."""
    async with at_work(tmp_path) as (simulator, client):
        simulator.faults.append(Fault(call="upload", kind="store-then-status", status=504))
        assert (await client.send(await client.create(), b"abc")).status == 504
        assert landed(simulator) == [3]


async def test_garbage_is_a_200_without_a_readable_body(tmp_path: Path) -> None:
    """The record was made, but the answer does not say so."""
    async with at_work(tmp_path) as (simulator, client):
        simulator.faults.append(Fault(call="create", kind="garbage"))
        reply = await client.call("POST", f"{API}/records/create-upload", {"name": "lost"})
        assert reply.status == 200
        assert isinstance(reply.body, str)
        assert landed(simulator) == [0]


async def test_expired_token_is_refused_once(tmp_path: Path) -> None:
    """The token expires at the affected call; a new log-in is enough."""
    async with at_work(tmp_path) as (simulator, client):
        ids = await client.create()
        simulator.faults.append(Fault(call="upload", kind="expire-token"))
        assert (await client.send(ids, b"abc")).pair == BAD_TOKEN
        await client.login()
        assert (await client.send(ids, b"abc")).status == 201


async def test_stalled_answer_comes_when_released(tmp_path: Path) -> None:
    """The chunk lands, the answer waits for ``release()``."""
    async with at_work(tmp_path) as (simulator, client):
        fault = Fault(call="upload", kind="stall")
        simulator.faults.append(fault)
        sending = asyncio.create_task(client.send(await client.create(), b"abc"))
        await until(fault.standing)
        assert (await client.call("GET", f"{API}/records/{simulator.records()[0].id}")).status == 200
        assert not sending.done()
        fault.release()
        assert (await sending).status == 201


async def test_stalled_body_is_not_read_until_released(tmp_path: Path) -> None:
    """The client is stopped by back pressure; released, the request goes on normally."""
    async with at_work(tmp_path) as (simulator, client):
        fault = Fault(call="upload", kind="stall", after_bytes=1 << 20)
        simulator.faults.append(fault)
        ids = await client.create()
        sending = asyncio.create_task(client.send(ids, MEGABYTE * 64))
        await until(fault.standing)
        assert landed(simulator) == [0]
        assert not sending.done()
        fault.release()
        assert (await sending).status == 201
        assert landed(simulator) == [64 << 20]


async def test_a_stall_may_end_after_a_time(tmp_path: Path) -> None:
    """``seconds`` of the simulator's clock."""
    clock = QuietClock()
    async with at_work(tmp_path, clock) as (simulator, client):
        simulator.faults.append(Fault(call="version", kind="stall", seconds=3600))
        assert await version(client) == 200
        assert clock.slept == [3600]


async def test_stop_ends_a_stall(tmp_path: Path) -> None:
    """One that is never released does not keep the simulator from stopping."""
    async with at_work(tmp_path) as (simulator, client):
        fault = Fault(call="version", kind="stall")
        simulator.faults.append(fault)
        calling = asyncio.create_task(version(client))
        await until(fault.standing)
        async with asyncio.timeout(5):
            await simulator.stop()
        with pytest.raises(aiohttp.ClientConnectionError):
            await calling


async def test_late_request_lands_after_the_client_gave_up(tmp_path: Path) -> None:
    """The connection is closed before; the bytes land some time later."""
    async with at_work(tmp_path) as (simulator, client):
        ids = await client.create()
        fault = Fault(call="upload", kind="late")
        simulator.faults.append(fault)
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.send(ids, b"abc")
        assert await client.videos(ids[0]) is None
        done = asyncio.Event()
        simulator.on_call = lambda _: done.set()
        fault.release()
        await until(done)
        assert await client.videos(ids[0]) is not None


async def test_slow_server_reads_at_its_rate(tmp_path: Path) -> None:
    """The whole body takes size / rate seconds, and is then accepted."""
    clock = QuietClock()
    async with at_work(tmp_path, clock) as (simulator, client):
        simulator.faults.append(Fault(call="upload", kind="slow", rate=1 << 20))
        assert (await client.send(await client.create(), MEGABYTE * 4)).status == 201
        assert sum(clock.slept) == pytest.approx(4, rel=0.01)


async def test_lost_answer_and_a_repeat_double_the_bytes_of_an_appender(tmp_path: Path) -> None:
    """A chunk in doubt that is simply sent again spoils the file on such a server."""
    async with at_work(tmp_path, semantics=Semantics.APPEND) as (simulator, client):
        ids = await client.create()
        simulator.faults.append(Fault(call="upload", kind="lose-answer"))
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.send(ids, b"abc", 0, 6)
        await client.send(ids, b"abc", 0, 6)
        await client.send(ids, b"def", 3, 6)
        assert simulator.records()[0].path.read_bytes() == b"abcabcdef"
