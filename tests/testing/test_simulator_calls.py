"""The simulator's other calls, the page of its records, and how it starts and stops."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from test_simulator import API, BAD_PAYLOAD, NOT_FOUND, Client, ShiftedClock, at_work, client_of, running

from uploader import container
from uploader.container import Read
from uploader.testing.simulator import SeenCall, Semantics, Simulator


@pytest.mark.parametrize("shape", ["records", "bare"])
async def test_list_comes_in_either_shape(tmp_path: Path, shape: str) -> None:
    """Entries are wrapped as configured, and have no videos."""
    async with at_work(tmp_path, list_shape=shape) as (_, client):
        record, _ = await client.create("one")
        data = (await client.call("POST", f"{API}/records", {})).body["data"]
        (entry,) = data if shape == "bare" else data["records"]
        assert (entry["id"], entry["name"], entry["type"]) == (record, "one", "record")
        assert "videos" not in entry


async def listed(client: Client, **query: object) -> list[str]:
    """The names that a query finds."""
    reply = await client.call("POST", f"{API}/records", query)
    assert reply.status == 200, reply
    return [entry["name"] for entry in reply.body["data"]["records"]]


async def test_list_searches_names_and_templates(tmp_path: Path) -> None:
    """As a full text search: a part of a name or field is enough, in any case."""
    async with at_work(tmp_path) as (_, client):
        await client.create("Room A")
        await client.create("Room B", template={"1": "Smith"})
        assert await listed(client, search="room") == ["Room B", "Room A"]
        assert await listed(client, search="SMITH") == ["Room B"]
        assert await listed(client, search="nobody") == []


async def test_offset_and_limit_select_a_page_of_the_list(tmp_path: Path) -> None:
    """The newest records come first."""
    async with at_work(tmp_path) as (_, client):
        for number in range(5):
            await client.create(f"v{number}")
        assert await listed(client, offset=1, limit=2) == ["v3", "v2"]
        assert await listed(client, offset=4, limit=2) == ["v0"]
        assert await listed(client, limit=0) == []


async def test_the_list_can_be_bounded_by_days(tmp_path: Path) -> None:
    """Dates are MM-DD-YYYY, and both days are included."""
    clock = ShiftedClock()
    async with at_work(tmp_path, clock) as (_, client):
        clock.shift = 1_800_000_000 - clock.now()  # 15 January 2027, 08:00 UTC
        await client.login()
        await client.create("then")
        assert await listed(client, start_date="01-15-2027", end_date="01-15-2027") == ["then"]
        assert await listed(client, start_date="01-16-2027") == []
        assert await listed(client, end_date="01-14-2027") == []


@pytest.mark.parametrize(
    "query",
    [{"limit": -1}, {"offset": "1"}, {"limit": True}, {"search": 1}, {"start_date": "2027-01-15"}, {"end_date": 5}],
)
async def test_bad_query_is_refused(tmp_path: Path, query: dict[str, object]) -> None:
    """A query that makes no sense is a bad payload."""
    async with at_work(tmp_path) as (_, client):
        assert (await client.call("POST", f"{API}/records", query)).pair == BAD_PAYLOAD


async def test_a_download_link_serves_the_bytes_that_were_sent(tmp_path: Path) -> None:
    """It is at top level and looks as the vendor's does; ranges are served, too."""
    async with at_work(tmp_path) as (simulator, client):
        record, video = ids = await client.create("my video")
        assert (await client.call("GET", f"{API}/records/download/{record}/{video}")).pair == NOT_FOUND
        await client.send(ids, b"0123456789")
        reply = await client.call("GET", f"{API}/records/download/{record}/{video}")
        assert (reply.status, list(reply.body)) == (200, ["url"])
        url = urlsplit(reply.body["url"])
        query = parse_qs(url.query)
        assert f"{url.scheme}://{url.netloc}" == simulator.url
        assert url.path == f"/distribution/{record}/{video}.mp4"
        assert query["filename"] == ["my video.mp4"]
        assert query["access_token"][0].count(".") == 2
        async with client.http.get(reply.body["url"]) as download:
            assert (download.content_type, await download.read()) == ("video/mp4", b"0123456789")
        async with client.http.get(reply.body["url"], headers={"Range": "bytes=2-4"}) as part:
            assert (part.status, await part.read()) == (206, b"234")


async def test_a_download_link_is_valid_for_half_an_hour(tmp_path: Path) -> None:
    """For its own video, while the record exists."""
    clock = ShiftedClock()
    async with at_work(tmp_path, clock) as (_, client):
        links = []
        for name in "ab":
            ids = await client.create(name)
            await client.send(ids, name.encode())
            links.append((await client.call("GET", f"{API}/records/download/{ids[0]}/{ids[1]}")).body["url"])

        async def status(url: str) -> int:
            async with client.http.get(url) as response:
                return response.status

        mixed = urlsplit(links[0])._replace(query=urlsplit(links[1]).query).geturl()
        assert await status(mixed) == 403
        await client.call("POST", f"{API}/records/{ids[0]}/delete", {})
        assert [await status(link) for link in links] == [200, 404]
        clock.shift = 1801
        assert [await status(link) for link in links] == [403, 403]


async def test_delete_removes_for_good(tmp_path: Path) -> None:
    """A deleted record is gone from every answer and from the disk."""
    async with at_work(tmp_path) as (simulator, client):
        record, _ = ids = await client.create()
        await client.send(ids, b"abc")
        reply = await client.call("POST", f"{API}/records/{record}/delete", {})
        assert reply.pair == (200, {"data": {"id": record}})
        assert (await client.details(record)).pair == NOT_FOUND
        assert simulator.records() == []
        assert not (tmp_path / record).exists()


async def test_the_version_is_the_configured_one(tmp_path: Path) -> None:
    """It is set in the settings."""
    async with at_work(tmp_path, version="7.1") as (_, client):
        assert (await client.call("GET", f"{API}/admin/general")).pair == (200, {"data": {"version": "7.1"}})


async def test_page_escapes_what_it_shows(tmp_path: Path) -> None:
    """A name with markup is shown as text."""
    async with at_work(tmp_path) as (_, client):
        await client.create("<script>alert(1)</script>")
        client.token = None
        page = (await client.call("GET", "/")).body
        assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
        assert "<script" not in page


async def test_records_are_shown_as_json(tmp_path: Path) -> None:
    """Name, status, size, digest and requests, without a token."""
    async with at_work(tmp_path) as (_, client):
        await client.send(await client.create("shown"), b"abc")
        client.token = None
        (record,) = (await client.call("GET", "/simulator/records")).body["records"]
        assert (record["name"], record["status"], record["size"], record["requests"]) == ("shown", "created", 3, 1)
        assert record["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        assert record["ranges"] == ["bytes 0-2/3"]


async def test_calls_are_recorded_without_secrets(tmp_path: Path) -> None:
    """Each with name, status and range, passed to ``on_call`` at once; token and password are left out."""
    seen: list[SeenCall] = []
    async with at_work(tmp_path) as (simulator, client):
        simulator.on_call = seen.append
        ids = await client.create()
        await client.send(ids, b"abc")
        await client.details("nobody")
        assert [(call.name, call.status, call.content_range) for call in seen] == [
            ("create", 200, None),
            ("upload", 201, "bytes 0-2/3"),
            ("details", 404, None),
        ]
        assert seen[1].record == ids[0]
        assert seen == list(simulator.calls)[1:]
        assert client.token is not None
        assert client.token not in repr(simulator.calls)
        assert "secret" not in repr(simulator.calls)


async def test_port_that_is_taken_is_an_error(tmp_path: Path) -> None:
    """A second server on the same port is an OSError, and leaves nothing behind."""
    async with running(tmp_path / "a") as simulator:
        port = urlsplit(simulator.url).port
        assert port is not None
        second = Simulator(tmp_path / "b")
        with pytest.raises(OSError, match="address already in use"):
            await second.start(port=port)


async def test_stop_may_be_followed_by_a_start_on_the_same_port(tmp_path: Path) -> None:
    """The port is free at once, and stopping twice does no harm."""
    async with running(tmp_path) as simulator:
        url = simulator.url
        async with client_of(simulator):
            await simulator.stop()
        await simulator.stop()
        assert await simulator.start(port=urlsplit(url).port or 0) == url
        async with client_of(simulator) as client:
            assert (await client.call("GET", f"{API}/admin/general")).status == 200


async def test_delete_may_be_refused(tmp_path: Path) -> None:
    """With 403 in the error shape; the record stays. An unknown one is not found, as ever."""
    async with at_work(tmp_path, refuses_delete=True) as (simulator, client):
        record, _ = await client.create()
        reply = await client.call("POST", f"{API}/records/{record}/delete", {})
        assert reply.pair == (403, {"error": {"code": 403, "message": "Access Denied."}})
        assert [kept.id for kept in simulator.records()] == [record]
        assert (await client.call("POST", f"{API}/records/nobody/delete", {})).pair == NOT_FOUND
        simulator.change(refuses_delete=False)
        assert (await client.call("POST", f"{API}/records/{record}/delete", {})).status == 200


@pytest.mark.parametrize("word", ["failed", "error", "wartet"])
async def test_processing_may_end_with_another_word(tmp_path: Path, word: str) -> None:
    """The status is ``created`` while it goes on, then that word for ever."""
    clock = ShiftedClock()
    async with at_work(tmp_path, clock, processing=60, status_word=word) as (simulator, client):
        record, video = ids = await client.create()
        assert await client.videos(record) is None
        await client.send(ids, b"abc")
        assert await client.videos(record) == [{"id": video, "status": {"type": "created"}}]
        for clock.shift in (61, 1e6):
            await client.login()
            assert await client.videos(record) == [{"id": video, "status": {"type": word}}]
        assert [seen.status for seen in simulator.records()] == [word]
        assert f"<td>{word}</td>" in (await client.call("GET", "/")).body


async def entries(client: Client, record: str) -> list[dict[str, object]]:
    """A record as details and list show it."""
    listed = (await client.call("POST", f"{API}/records", {})).body["data"]["records"]
    return [(await client.details(record)).body["data"], *listed]


async def test_duration_may_be_missing_or_zero(tmp_path: Path) -> None:
    """In details and list alike."""
    async with at_work(tmp_path, durations="none") as (simulator, client):
        record, _ = ids = await client.create()
        await client.send(ids, b"abc")
        assert all("duration" not in entry for entry in await entries(client, record))
        simulator.change(durations="zero")
        assert [entry["duration"] for entry in await entries(client, record)] == [0, 0]


async def test_duration_is_that_of_the_bytes_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the whole file, or of what a spoiling receiver made of it; also after a restart."""

    def bytes_per_second(read: Read, size: int) -> float | None:
        assert len(read(0, size)) == size
        return size / 4 if read(0, 1) != b"?" else None

    monkeypatch.setattr(container, "duration", bytes_per_second)
    async with at_work(tmp_path, semantics=Semantics.SHORT) as (simulator, client):
        whole, short, unknown = [await client.create() for _ in range(3)]
        assert [entry["duration"] for entry in await entries(client, whole[0])] == [0, 0, 0, 0]
        await client.send(whole, b"12345678")
        await client.send(short, b"1234", 0, 8)
        await client.send(short, b"5678", 4, 8)
        await client.send(unknown, b"?")
        expected = [2.0, 1.75, 0]
        assert [(await entries(client, ids[0]))[0]["duration"] for ids in (whole, short, unknown)] == expected
        simulator.change(durations="zero")
        assert (await entries(client, whole[0]))[0]["duration"] == 0
    async with at_work(tmp_path) as (_, client):
        assert [entry["duration"] for entry in (await entries(client, whole[0]))[1:]] == expected[::-1]


async def test_a_record_may_be_renamed_and_shared(tmp_path: Path) -> None:
    """As the vendor's own client does beside uploading: update, share, and the end of a share."""
    async with at_work(tmp_path) as (simulator, client):
        record, _ = await client.create("old", template={"1": "room"})
        path = f"{API}/records/{record}"
        assert (await client.call("POST", f"{path}/update", {"name": "new"})).body == {"data": {"id": record}}
        ((name, template),) = [(one.spec.name, one.spec.template) for one in simulator._records]
        assert (name, template) == ("new", {"1": "room"})
        assert (await client.call("POST", f"{path}/update", {"template": {"2": "x"}})).status == 200
        assert [one.spec.template for one in simulator._records] == [{"2": "x"}]
        assert (await client.call("POST", f"{path}/update", {"name": 7})).status == 500
        shared = await client.call("POST", f"{path}/share", {})
        assert shared.body["data"]["url"].endswith(f"/share/{record}")
        assert (await client.call("POST", f"{path}/share/deactivate", {})).body == {"data": {"id": record}}
        for call in ("update", "share", "share/deactivate"):
            assert (await client.call("POST", f"{API}/records/unknown/{call}", {})).status == 404
        folder = simulator._records.folder
    assert [record.name for record in Simulator(folder).records()] == ["new"]


async def test_a_record_may_be_made_by_get_alone(tmp_path: Path) -> None:
    """Then it has no name, and POST is answered 405 with an Allow header; otherwise GET is."""
    async with at_work(tmp_path, create="get") as (simulator, client):
        path = f"{API}/records/create-upload"
        refused = await client.call("POST", path, {"name": "x"})
        assert (refused.status, refused.headers["Allow"]) == (405, "GET")
        assert len((await client.call("GET", path)).body["videos"]) == 1
        assert [record.name for record in simulator.records()] == [""]
        simulator.change(create="post")
        refused = await client.call("GET", path)
        assert (refused.status, refused.headers["Allow"]) == (405, "POST")


async def test_two_nodes_behind_a_balancer_know_their_own_records_alone(tmp_path: Path) -> None:
    """A request without the cookie may reach either; with it, always the same one."""
    async with at_work(tmp_path, sticky=True) as (simulator, client):
        made = await client.call("POST", f"{API}/records/create-upload", {"name": "one"})
        cookie, path = made.headers["Set-Cookie"].partition(";")[0], f"{API}/records/{made.body['id']}"
        with_it = [await client.call("GET", path, headers={"Cookie": cookie}) for _ in range(4)]
        assert {reply.status for reply in with_it} == {200}
        assert not [reply for reply in with_it if "Set-Cookie" in reply.headers]
        assert {(await client.call("GET", path)).status for _ in range(6)} == {200, 404}
        assert {call.node for call in simulator.calls} == {"a", "b"}
