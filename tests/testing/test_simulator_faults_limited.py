"""Faults that are limited to one record, and those that affect every call: a proxy's own answers."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest
from test_simulator import API, BAD_TOKEN, Client, at_work
from test_simulator_faults import landed, version

from uploader.testing.simulator import Fault, FaultKind
from uploader.testing.simulator.wire import html_page


async def details_of(client: Client, ids: tuple[str, str]) -> int:
    """The status of one record's details."""
    return (await client.details(ids[0])).status


@pytest.mark.parametrize(("status", "headers"), [(503, {}), (504, {}), (429, {}), (429, {"Retry-After": "7"})])
async def test_every_call_of_one_record_may_fail_for_ever(tmp_path: Path, status: int, headers: dict[str, str]) -> None:
    """By its id: chunk, details, link and delete. Other records, and calls of no record, are not affected."""
    async with at_work(tmp_path) as (simulator, client):
        ids, other = await client.create("one"), await client.create("two")
        simulator.faults.append(
            Fault(call="every", kind="status", status=status, headers=headers, record=ids[0], times=None)
        )
        for _ in range(2):
            replies = [
                await client.send(ids, b"abc"),
                await client.details(ids[0]),
                await client.call("GET", f"{API}/records/download/{ids[0]}/{ids[1]}"),
                await client.call("POST", f"{API}/records/{ids[0]}/delete", {}),
            ]
            assert [reply.status for reply in replies] == [status] * 4
            assert {reply.headers.get("Retry-After") for reply in replies} == {headers.get("Retry-After")}
        assert (await client.send(other, b"abc")).status == 201
        assert await details_of(client, other) == 200
        assert (await version(client), (await client.login()).status) == (200, 200)
        assert landed(simulator) == [0, 3]


async def test_calls_of_one_name_fail_from_create_on(tmp_path: Path) -> None:
    """By its name: also ``create``, and ``list`` that searches for it. They are noted with the fault."""
    async with at_work(tmp_path) as (simulator, client):
        ids = await client.create("one")
        simulator.faults.append(Fault(call="every", kind="status", status=503, name="one", times=None))
        refused = await client.call("POST", f"{API}/records/create-upload", {"name": "one"})
        assert (refused.status, simulator.calls[-1].fault) == (503, "status")
        assert (await client.call("POST", f"{API}/records", {"search": "one"})).status == 503
        assert [(await client.send(ids, b"abc")).status, await details_of(client, ids)] == [503, 503]
        other = await client.create("two")
        assert (await client.send(other, b"abc")).status == 201
        assert (await client.call("POST", f"{API}/records", {"search": "two"})).status == 200
        assert [record.name for record in simulator.records()] == ["one", "two"]


async def test_a_fault_of_one_record_counts_only_its_calls(tmp_path: Path) -> None:
    """The calls of others use up neither ``skip`` nor ``times``."""
    async with at_work(tmp_path) as (simulator, client):
        ids, other = await client.create("one"), await client.create("two")
        simulator.faults.append(Fault(call="details", kind="status", name="one", skip=1, times=1))
        seen = [await details_of(client, each) for each in (other, ids, other, ids, ids)]
        assert seen == [200, 200, 200, 502, 200]
        assert simulator.faults == []


async def test_a_fault_of_a_name_counts_a_create_call_once(tmp_path: Path) -> None:
    """Although it is looked for before and after the body."""
    async with at_work(tmp_path) as (simulator, client):
        simulator.faults += [
            Fault(call="create", kind="status", status=503, name="one", skip=1),
            Fault(call="create", kind="status", status=500, skip=2),
        ]
        payload = {"name": "one"}
        statuses = [(await client.call("POST", f"{API}/records/create-upload", payload)).status for _ in range(4)]
        assert statuses == [200, 503, 500, 200]


@pytest.mark.parametrize(("kind", "made"), [("lose-answer", 1), ("cut-body", 0)])
async def test_create_of_one_name_may_break_the_connection(tmp_path: Path, kind: FaultKind, made: int) -> None:
    """With the record made, or without."""
    async with at_work(tmp_path) as (simulator, client):
        simulator.faults.append(Fault(call="create", kind=kind, name="one"))
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.create("one")
        assert len(simulator.records()) == made
        await client.create("two")


async def test_create_of_one_name_may_find_its_token_expired(tmp_path: Path) -> None:
    """As with any other call."""
    async with at_work(tmp_path) as (simulator, client):
        simulator.faults.append(Fault(call="create", kind="expire-token", name="one"))
        reply = await client.call("POST", f"{API}/records/create-upload", {"name": "one"})
        assert reply.pair == BAD_TOKEN


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (200, "We will be back soon"),
        (400, "400 Bad Request"),
        (403, "403 Forbidden"),
        (404, "404 Not Found"),
        (405, "405 Not Allowed"),
        (413, "413 Request Entity Too Large"),
        (502, "502 Bad Gateway"),
        (504, "504 Gateway Time-out"),
        (599, "599"),
    ],
)
async def test_proxy_answers_every_call_with_its_own_page(tmp_path: Path, status: int, words: str) -> None:
    """Log-in, calls and downloads: HTML that fits the status, and nothing is done."""
    async with at_work(tmp_path) as (simulator, client):
        ids = await client.create()
        simulator.faults.append(Fault(call="every", kind="status", status=status, body=html_page(status), times=None))
        replies = [
            await client.call("POST", f"{API}/login", {"username": "uploader", "password": "secret"}),
            await client.call("POST", f"{API}/records/create-upload", {"name": "two"}),
            await client.send(ids, b"abc"),
            await client.details(ids[0]),
            await client.call("POST", f"{API}/records", {}),
            await client.call("GET", f"{API}/records/download/{ids[0]}/{ids[1]}"),
            await client.call("POST", f"{API}/records/{ids[0]}/delete", {}),
            await client.call("GET", f"{API}/admin/general"),
            await client.call("GET", f"/distribution/{ids[0]}/{ids[1]}.mp4"),
        ]
        assert [reply.status for reply in replies] == [status] * 9
        assert {reply.headers["Content-Type"].partition(";")[0] for reply in replies} == {"text/html"}
        assert all(f"<h1>{words}</h1>" in reply.body for reply in replies)
        simulator.faults.clear()
        assert landed(simulator) == [0]
