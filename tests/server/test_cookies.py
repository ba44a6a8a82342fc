"""Cookies: one jar for each upload, in memory only, for the server's own host, bounded; so one node has all of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from harness import Rig
from hypothesis import given
from hypothesis import strategies as st
from sources import Blocks
from test_broken import http, said
from test_client import IDS, SPEC, Home
from test_client_sockets import send, simulated
from test_origin import peer

from uploader.domain import errors, events
from uploader.server.valt.cookies import COOKIES_KEPT, JAR_LIMIT, JARS_KEPT, CookieJar, CookieJars
from uploader.testing.simulator import Settings

API = "https://valt.example.com/api/v3/records/create-upload"
CHUNK = "https://valt.example.com/api/v3/records/rec-1/videos/vid-1"


def sent(*headers: str, to: str = CHUNK, answered: str = API) -> str:
    """The Cookie header after an answer with these Set-Cookie headers."""
    jar = CookieJar()
    jar.note(headers, answered)
    return jar.header(to)


@pytest.mark.parametrize(
    ("headers", "cookies"),
    [
        (["SERVERID=node1; path=/"], "SERVERID=node1"),
        (["AWSALB=aB+c/d==; Expires=Wed, 01 Jan 2098 00:00:00 GMT; Path=/"], "AWSALB=aB+c/d=="),
        (['BIGip="rd1o0.x"; path=/; Httponly; Secure'], 'BIGip="rd1o0.x"'),
        (["a=1; Path=/", "b=2; Path=/api"], "b=2; a=1"),
        (["a=1; Path=/", "a=2; Path=/"], "a=2"),
        (["a=1"], "a=1"),
        (["a=1; Path=/other"], ""),
        (["a=1; Path=/api/v3/rec"], ""),
        (["a=1; Path=/; Domain=example.com"], "a=1"),
        (["a=1; Path=/; Domain=.valt.example.com"], "a=1"),
        (["a=1; Path=/; Domain=elsewhere.example"], ""),
        (["a=1; Path=/; Domain=alt.example.com"], ""),
        (["a=1; Path=/", "a=1; Path=/; Max-Age=0"], ""),
        (["a=1; Path=/", "a=gone; Path=/; Expires=Thu, 01-Jan-1970 00:00:01 GMT"], ""),
        (["a=1; Path=/", "a=; Path=/"], ""),
        (["a=1; Path=/; Max-Age=1"], "a=1"),
        (["", "=x", "no pair", "a b=c", "a=1\r\nX: y", "ü=1", f"a={'x' * 5000}"], ""),
    ],
)
def test_a_cookie_is_sent_back_where_it_belongs(headers: list[str], cookies: str) -> None:
    """By its path, its domain and its end; its value is not changed by a character. A lifetime is not followed."""
    assert sent(*headers) == cookies


def test_a_secure_cookie_is_not_sent_in_the_open() -> None:
    """Nor is one taken from an answer that was not encrypted."""
    assert sent("a=1; Path=/; Secure", to=CHUNK.replace("https", "http")) == ""
    assert sent("a=1; Path=/; Secure", answered=API.replace("https", "http")) == ""


@given(st.lists(st.text(max_size=60), max_size=60))
def test_nothing_that_a_server_sets_breaks_a_request(headers: list[str]) -> None:
    """No line end, nothing that is not ASCII, never more than the limits."""
    jar = CookieJar()
    jar.note([*headers, *(f"c{n}={'x' * 900}; Path=/" for n in range(len(headers)))], API)
    assert jar.header(CHUNK).isascii()
    assert jar.header(CHUNK).isprintable()
    assert len(jar) <= COOKIES_KEPT
    assert len(jar.header(CHUNK)) <= JAR_LIMIT


def test_the_number_of_jars_is_bounded() -> None:
    """The one that was used longest ago is forgotten first."""
    jars = CookieJars()
    first = jars.of("0")
    first.note(["a=1; Path=/"], API)
    for number in range(JARS_KEPT - 1):
        jars.of(f"{number + 1}")
    assert jars.of("0") is first
    jars.of("one more")
    assert jars.of("0") is first
    assert len(jars._jars) == JARS_KEPT
    jars.forget("0")
    assert jars.of("0").header(CHUNK) == ""


async def test_all_calls_of_an_upload_reach_one_node_and_uploads_spread_over_both(tmp_path: Path) -> None:
    """Create, chunks, details, link, deletion."""
    async with simulated(tmp_path, Settings(password="canary-password", processing=0.0, sticky=True)) as (home, server):
        made = [await home.valt.create_record(SPEC) for _ in range(4)]
        for start in (0, 4):
            for ids in made:
                await home.valt.details(ids.record)
                await home.valt.send_chunk(
                    *(ids, "a.mp4", (start, start + 4, 8), Blocks(b"data")), before_last_byte=_nothing, on_progress=_no
                )
        for ids in made:
            assert (await home.valt.details(ids.record)).status_of(ids.video) == "ready"
            assert await home.valt.video_size(ids) == 8
            await home.valt.delete_record(ids.record)
        nodes = {ids.record: {call.node for call in server.calls if call.record == ids.record} for ids in made}
        assert [len(each) for each in nodes.values()] == [1, 1, 1, 1]
        assert set.union(*nodes.values()) == {"a", "b"}
        assert {call.status for call in server.calls} <= {200, 201}


async def test_files_are_sent_through_a_balancer_each_to_one_node(tmp_path: Path) -> None:
    """Before, a chunk that reached the other node was answered 404: somebody seemed to delete the record."""
    async with Rig(tmp_path, Settings(processing=0.0, sticky=True)) as rig:
        await rig.start()
        paths = [await rig.drop(f"{number}.ts", bytes([number + 1]) * 300_000) for number in range(4)]
        await rig.finished(*paths)
        assert rig.most_attempts == 0
        assert not rig.seen(events.UploadStartedOver)
        assert [record.status for record in rig.records] == ["ready"] * 4
        nodes = [{call.node for call in rig.calls("upload") if call.record == record.id} for record in rig.records]
        assert [len(each) for each in nodes] == [1] * 4
        assert set.union(*nodes) == {"a", "b"}


async def test_after_a_restart_the_other_node_may_answer_and_every_file_still_arrives_once(tmp_path: Path) -> None:
    """The jar is gone. What the other node does not know is begun anew; nothing is lost, and nothing is there twice."""
    async with Rig(tmp_path, Settings(processing=0.0, sticky=True)) as rig:
        await rig.start()
        faults = [rig.fault("upload", "stall", skip=2, times=1), rig.fault("upload", "stall", times=1, skip=1)]
        paths = [await rig.drop(f"{number}.ts", bytes([number + 1]) * 300_000) for number in range(3)]
        await rig.event(events.ChunkAcknowledged)
        await rig.kill()
        for fault in faults:
            fault.release()
        rig.simulator.faults.clear()
        await rig.start()
        await rig.scan()
        await rig.finished(*paths)
        ready = [record.name for record in rig.records if record.status == "ready"]
        assert sorted(ready) == ["0", "1", "2"]
        assert "SERVERID" not in (rig.folder / "state" / "state.json").read_text()


async def test_a_404_of_a_node_that_never_knew_the_record_lets_another_node_be_asked(tmp_path: Path) -> None:
    """As after a restart; a node that has known it is asked again."""
    async with simulated(tmp_path, Settings(password="canary-password", sticky=True)) as (home, server):
        ids = await home.valt.create_record(SPEC)
        missed = []
        for _ in range(6):
            fresh = Home(server.url)
            async with fresh.valt:
                missed.append(0)
                while missed[-1] < 4:
                    try:
                        await fresh.valt.details(ids.record)
                        break
                    except errors.RecordGone:
                        missed[-1] += 1
                assert (await fresh.valt.details(ids.record)).record == ids.record
        assert max(missed) in {1, 2}
        home.valt._jars.of(ids.record).missed()  # a server that restarts may say 404 for a moment
        assert (await home.valt.details(ids.record)).record == ids.record
        assert len(home.valt._jars.of(ids.record)) == 1


async def test_cookies_reach_no_other_host_no_log_in_and_no_other_upload() -> None:
    """A redirect and a link to another host are not followed; a log-in and a search send none, and keep none."""
    seen: list[bytes] = []

    def answer(line: bytes) -> bytes:
        bodies = {
            b"login": b'{"data":{"access_token":"t"}}',
            b"create-upload": b'{"id":"rec-%d","videos":["vid-1"]}' % len(seen),
            b"records?": b'{"data":{"records":[]}}',
        }
        body = next((body for part, body in bodies.items() if part in line), b'{"data":{"id":"r","videos":null}}')
        return http(body, b"Set-Cookie: node%d=canary-cookie; Path=/" % len(seen))

    async with peer() as server:

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
            await reader.readexactly(int(fields.get(b"content-length", b"0")))
            seen.append(fields.get(b"cookie", b""))
            writer.write(answer(head.split(b"\r\n")[0]))
            await writer.drain()

        server._answer = serve  # type: ignore[method-assign]
        home = Home(server.url)
        async with home.valt:
            one, two = await home.valt.create_record(SPEC), await home.valt.create_record(SPEC)
            await home.valt.find_records("a")
            await home.valt.details(one.record)
            await home.valt.details(two.record)
            await home.valt.delete_record(one.record)
            await home.valt.details(one.record)
    assert seen[:4] == [b""] * 4  # log-in, two records, a search
    assert seen[4:6] == [b"node2=canary-cookie", b"node3=canary-cookie"]
    assert seen[6] == b"node2=canary-cookie; node5=canary-cookie"
    assert seen[7] == b""


async def test_a_cookie_that_an_answer_repeats_is_masked() -> None:
    """In no call is its value shown."""
    answer = http(
        b'{"error":{"code":500,"message":"no session canary-cookie"}}',
        b"Set-Cookie: sid=canary-cookie; Path=/",
        status=b"500 No",
    )
    for call in ("create", "upload", "details", "link", "delete"):
        assert "no session ***" in await said(lambda _: answer, call)


async def _nothing() -> None:
    """Save no mark."""


def _no(_: int) -> None:
    """Note no progress."""


async def test_a_chunk_sends_the_cookies_of_its_record(tmp_path: Path) -> None:
    """An id that no call of this process has made begins with an empty jar."""
    async with simulated(tmp_path, Settings(password="canary-password", sticky=True)) as (home, server):
        with pytest.raises(errors.RecordGone):
            await send(home, IDS, b"data")
        assert server.calls[-1].node in {"a", "b"}
