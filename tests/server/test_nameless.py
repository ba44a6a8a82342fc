"""A server that makes records by GET alone, without a name, as the vendor's first page on uploading says."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from harness import Rig
from parts import content_of, sha256
from process import at_work
from test_broken import http, said
from test_client import SPEC, Home
from test_client_sockets import simulated
from test_origin import peer

from uploader.domain import errors, events, learnt
from uploader.domain.model import State
from uploader.testing.simulator import Fault, Settings, Simulator

VALT_405 = b'{"type":"x","title":"An error occurred","status":405,"detail":"Method Not Allowed"}'
PAGE_405 = b"<html><title>405 Not Allowed</title></html>"


def settings(**more: Any) -> Settings:
    """Such a server."""
    return Settings(create="get", **({"processing": 0.0} | more))


def methods(rig: Rig) -> list[int | None]:
    """The statuses of its calls to create a record."""
    return [call.status for call in rig.calls("create")]


async def test_records_are_made_without_a_name_and_get_it_before_the_first_chunk(tmp_path: Path) -> None:
    """One POST is refused; from then on GET is used, for this version and for a month."""
    watch = {"record": {"name": "{stem} in room 7", "template": {"1": "{stem}"}}}
    async with Rig(tmp_path, settings(), watch=watch) as rig:
        await rig.start()
        contents = {f"{number}.mp4": content_of(200_000, number) for number in range(5)}
        paths = [await rig.drop(name, content) for name, content in contents.items()]
        await rig.finished(*paths)
        assert {record.name: record.sha256 for record in rig.records} == {
            f"{name[0]} in room 7": sha256(content) for name, content in contents.items()
        }
        assert methods(rig).count(405) <= 4  # one for each worker at most
        assert methods(rig).count(200) == 5
        names = [call.name for call in rig.simulator.calls if call.name in {"update", "upload"}]
        assert names[0] == "update"
        assert names.count("update") == 5
        assert rig.most_attempts == 0
        (event,) = rig.seen(events.ServerLimitLearnt)
        assert event.limit.startswith(learnt.NAMELESS)
        await rig.restart()
        before = len(rig.calls("create"))
        await rig.finished(await rig.drop("more.mp4", content_of(1000, 77)))
        assert [call.status for call in rig.calls("create")[before:]] == [200]


@pytest.mark.parametrize("status", [404, 405, 500])
async def test_a_server_that_takes_no_name_afterwards_is_said_once_and_stops_nothing(
    tmp_path: Path, status: int
) -> None:
    """In the log, in ``status``; every file arrives."""
    async with Rig(tmp_path, settings()) as rig:
        rig.fault("update", "status", status=status, times=None)
        await rig.start()
        paths = [await rig.drop(f"{number}.mp4", content_of(1000, number)) for number in range(3)]
        await rig.finished(*paths)
        assert [record.name for record in rig.records] == ["", "", ""]
        (event,) = rig.seen(events.RecordsNameless)
        assert f"name record: answered {status}" in event.reason
        said_now = learnt.limits(rig.store.capabilities, now=rig.clock.now())
        assert "it refuses the name afterwards, too: records stay without one" in said_now[-1]


@pytest.mark.parametrize("kind", ["lose-answer", "cut-body", "late"])
async def test_a_lost_answer_leaves_one_finished_record_for_each_file(tmp_path: Path, kind: Any) -> None:
    """The record without a name that was made is found by its author and its age, and deleted while it is empty."""
    async with Rig(tmp_path, settings(), server={"doubt_settle": "2s"}) as rig:
        rig.fault("create", kind, skip=1, seconds=0.05)
        await rig.start()
        path = await rig.drop("a.mp4", content_of(200_000))
        await rig.finished(path)
        await rig.swept()
        assert [(record.name, record.status) for record in rig.records] == [("a", "ready")]


async def test_a_crash_between_the_ids_and_the_name_leaves_no_record_without_one(tmp_path: Path) -> None:
    """The name is given again before the first chunk."""
    async with Rig(tmp_path, settings()) as rig:
        stall = rig.fault("update", "stall")
        await rig.start()
        path = await rig.drop("a.mp4", content_of(200_000))
        async with asyncio.timeout(20):
            await stall.standing.wait()
        assert rig.on_disk(path).state is State.SENDING
        await rig.kill()
        await rig.start()
        await rig.finished(path)
        assert [(record.name, record.status) for record in rig.records] == [("a", "ready")]


async def test_a_create_call_by_get_is_made_once(tmp_path: Path) -> None:
    """Aiohttp makes a GET again by itself when its connection breaks; this one makes a record each time."""
    lines: list[bytes] = []

    def answer(line: bytes) -> bytes:
        lines.append(line)
        return b"" if b"/login" in line else b"broken"

    async with peer(lambda _: b"") as server:
        server.reply = lambda line: http(b'{"data":{"id":"rec-1","videos":null}}') if b"rec-1" in line else b""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            lines.append(head.split(b"\r\n")[0])
            if b"create-upload" in lines[-1]:
                raise OSError
            if b"content-length" in head.lower():
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            good = b'{"data":{"access_token":"t","id":"rec-1","videos":null}}'
            writer.write(http(good))
            await writer.drain()

        server._answer = serve  # type: ignore[method-assign]
        home = Home(server.url)
        async with home.valt:
            await home.valt.details("rec-1")  # leaves a connection that is used again
            with pytest.raises(errors.AnswerLost):
                await home.valt.create_nameless_record()
    assert [line for line in lines if b"create-upload" in line] == [lines[-1]]
    assert lines[-1].startswith(b"GET ")


@pytest.mark.parametrize(
    ("body", "allow", "kind"),
    [
        (VALT_405, b"", "NamelessOnly"),
        (VALT_405, b"Allow: GET, HEAD", "NamelessOnly"),
        (PAGE_405, b"Allow: get", "NamelessOnly"),
        (b"", b"Allow: GET", "NamelessOnly"),
        (VALT_405, b"Allow: OPTIONS", "ServerRefused"),
        (PAGE_405, b"", "ProxyAnswered"),
        (b"", b"", "ProxyAnswered"),
        (PAGE_405, b"Allow: OPTIONS", "ProxyAnswered"),
    ],
)
async def test_only_a_405_that_is_valts_or_allows_it_leads_to_the_other_way(
    body: bytes, allow: bytes, kind: str
) -> None:
    """A proxy may answer 405 to everything."""
    text = await said(lambda _: http(body, *([allow] if allow else []), status=b"405 No"), "create")
    assert text.startswith(f"{kind}: create record: answered 405")


async def test_get_is_never_tried_after_a_doubt(tmp_path: Path) -> None:
    """A record may have been made by the POST whose answer was lost."""
    async with Rig(tmp_path, Settings(processing=0.0), server={"doubt_settle": "1s"}) as rig:
        rig.fault("create", "store-then-status", status=502)
        await rig.start()
        path = await rig.drop("a.mp4", content_of(1000))
        await rig.finished(path)
        await rig.swept()
        assert len(rig.records) == 1
        assert rig.store.capabilities.nameless_until is None


async def test_a_proxy_that_allows_get_for_a_moment_changes_nothing_for_good(tmp_path: Path) -> None:
    """The server refuses the GET; then a record is made with a name again, and each file arrives once."""
    async with Rig(tmp_path, Settings(processing=0.0)) as rig:
        rig.fault("create", "status", status=405, body=PAGE_405.decode(), headers={"Allow": "GET"})
        await rig.start()
        path = await rig.drop("a.mp4", content_of(1000))
        await rig.finished(path)
        assert [(record.name, record.status) for record in rig.records] == [("a", "ready")]
        assert rig.store.capabilities.nameless_until is None
        (retried,) = rig.seen(events.UploadRetryScheduled)
        assert "one with a name was refused, too" in retried.reason


async def test_a_newer_version_is_asked_for_a_name_again(tmp_path: Path) -> None:
    """What was learnt of the old one is forgotten."""
    async with Rig(tmp_path, settings()) as rig:
        await rig.start()
        await rig.finished(await rig.drop("a.mp4", content_of(1000)))
        rig.simulator.change(create="post", version="7.0.0")
        await rig.restart()
        await rig.finished(await rig.drop("b.mp4", content_of(1000, 2)))
        assert [record.name for record in rig.records] == ["a", "b"]
        assert rig.store.capabilities.nameless_until is None


async def test_the_probe_works_on_such_a_server(tmp_path: Path) -> None:
    """Its records have no name; it removes them by their ids."""
    async with at_work(tmp_path, settings(), probed=False) as site:
        ended = await site.run("check", "--probe")
        assert "in one request" in ended.out or "one request" in ended.out
        assert site.simulator.records() == []
        site.record("a.mp4")
        assert (await site.run("once")).code == 0
        assert [record.name for record in site.simulator.records()] == ["a"]
        status = await site.run("status")
        assert learnt.NAMELESS in status.out


async def test_a_record_is_named_by_the_vendors_update_call(tmp_path: Path) -> None:
    """Name and fields; who may see it is left alone."""
    async with simulated(tmp_path) as (home, simulator):
        ids = await home.valt.create_record(SPEC)
        await home.valt.name_record(ids.record, SPEC)
        assert [record.name for record in simulator.records()] == [SPEC.name]
        assert isinstance(simulator, Simulator)
        simulator.faults.append(Fault(call="update", kind="status", status=403))
        with pytest.raises(errors.RightMissing):
            await home.valt.name_record(ids.record, SPEC)
