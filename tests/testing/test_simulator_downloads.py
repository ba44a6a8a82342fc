"""Downloads from the simulator: as from a static file server, and each way in which they fail."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import aiohttp
import pytest
from multidict import CIMultiDictProxy
from test_simulator import API, NOT_FOUND, Client, ShiftedClock, at_work, client_of, running

from uploader.testing.simulator import DownloadKind, Fault, Semantics
from uploader.testing.simulator.transcoding import transcoded, transcoded_size

DATA = bytes(range(256)) * 12


@dataclass
class Got:
    """What a download gave."""

    status: int
    body: bytes
    headers: CIMultiDictProxy[str]
    type: str

    @property
    def size(self) -> int | None:
        """The size that its head gives."""
        return int(self.headers["Content-Length"]) if "Content-Length" in self.headers else None


async def uploaded(client: Client, name: str = "a video") -> tuple[str, str]:
    """Send DATA in one request."""
    ids = await client.create(name)
    assert (await client.send(ids, DATA)).status == 201
    return ids


async def link_to(client: Client, ids: tuple[str, str]) -> str:
    """Ask for a download link."""
    reply = await client.call("GET", f"{API}/records/download/{ids[0]}/{ids[1]}")
    assert reply.status == 200
    return str(reply.body["url"])


async def get(client: Client, url: str, method: str = "GET", *, follow: bool = False, **headers: str) -> Got:
    """Make one request."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client.http.request(method, url, headers=sent, allow_redirects=follow) as answer:
        return Got(answer.status, await answer.read(), answer.headers, answer.content_type)


async def test_head_tells_the_size_and_that_ranges_are_served(tmp_path: Path) -> None:
    """Like any server of static files."""
    async with at_work(tmp_path) as (_, client):
        got = await get(client, await link_to(client, await uploaded(client)), "HEAD")
        assert (got.status, got.size, got.body, got.type) == (200, len(DATA), b"", "video/mp4")
        assert got.headers["Accept-Ranges"] == "bytes"


@pytest.mark.parametrize(
    ("asked", "status", "body", "said"),
    [
        ("bytes=0-0", 206, DATA[:1], f"bytes 0-0/{len(DATA)}"),
        ("bytes=3000-", 206, DATA[3000:], f"bytes 3000-{len(DATA) - 1}/{len(DATA)}"),
        ("bytes=-5", 206, DATA[-5:], f"bytes {len(DATA) - 5}-{len(DATA) - 1}/{len(DATA)}"),
        (f"bytes={len(DATA)}-", 416, b"", f"bytes */{len(DATA)}"),
    ],
)
async def test_ranges_are_served(tmp_path: Path, asked: str, status: int, body: bytes, said: str) -> None:
    """With the size of the whole file in ``Content-Range``."""
    async with at_work(tmp_path) as (_, client):
        got = await get(client, await link_to(client, await uploaded(client)), Range=asked)
        assert (got.status, got.headers["Content-Range"]) == (status, said)
        assert status == 416 or got.body == body


async def test_unchanged_video_is_not_sent_again(tmp_path: Path) -> None:
    """Conditional requests are answered by entity tag and by time."""
    async with at_work(tmp_path) as (_, client):
        url = await link_to(client, await uploaded(client))
        first = await get(client, url)
        assert (await get(client, url, If_None_Match=first.headers["ETag"])).status == 304
        assert (await get(client, url, If_Modified_Since=first.headers["Last-Modified"])).status == 304
        assert (await get(client, url, Range="bytes=0-0", If_Range="Thu, 01 Jan 1970 00:00:00 GMT")).status == 200


@pytest.mark.parametrize("kind", get_args(DownloadKind))
async def test_record_has_a_link_whatever_becomes_of_the_download(tmp_path: Path, kind: str) -> None:
    """It looks the same, except for the port."""
    async with at_work(tmp_path, download=kind) as (_, client):
        ids = await uploaded(client)
        url = urlsplit(await link_to(client, ids))
        assert (url.hostname, url.path) == ("127.0.0.1", f"/distribution/{ids[0]}/{ids[1]}.mp4")


async def test_a_closed_port_refuses_connections(tmp_path: Path) -> None:
    """The link names another port than the calls, and nothing listens there."""
    async with at_work(tmp_path, download="closed") as (simulator, client):
        url = await link_to(client, await uploaded(client))
        assert urlsplit(url).port != urlsplit(simulator.url).port
        with pytest.raises(aiohttp.ClientConnectorError):
            await get(client, url)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_forbidden_download_is_answered_403(tmp_path: Path, method: str) -> None:
    """In HTML, as a file server does."""
    async with at_work(tmp_path, download="forbidden") as (_, client):
        got = await get(client, await link_to(client, await uploaded(client)), method)
        assert (got.status, got.type) == (403, "text/html")
        assert (b"403 Forbidden" in got.body) == (method == "GET")


async def test_no_head_serves_get_alone(tmp_path: Path) -> None:
    """HEAD is answered 405 and names GET; GET works with and without a range."""
    async with at_work(tmp_path, download="no-head") as (_, client):
        url = await link_to(client, await uploaded(client))
        got = await get(client, url, "HEAD")
        assert (got.status, got.headers["Allow"]) == (405, "GET")
        assert (await get(client, url)).body == DATA
        part = await get(client, url, Range="bytes=0-0")
        assert (part.status, part.headers["Content-Range"]) == (206, f"bytes 0-0/{len(DATA)}")


async def test_no_length_sends_the_video_in_pieces(tmp_path: Path) -> None:
    """Neither HEAD nor GET tells its size, and a range is ignored."""
    async with at_work(tmp_path, download="no-length") as (_, client):
        url = await link_to(client, await uploaded(client))
        head = await get(client, url, "HEAD")
        assert (head.status, head.size, head.body) == (200, None, b"")
        for got in (await get(client, url), await get(client, url, Range="bytes=0-0")):
            assert (got.status, got.size, got.body) == (200, None, DATA)
            assert got.headers["Transfer-Encoding"] == "chunked"
            assert "Accept-Ranges" not in got.headers


@pytest.mark.parametrize(("kind", "same_host"), [("redirect", True), ("elsewhere", False)])
async def test_redirect_leads_to_the_bytes(tmp_path: Path, kind: str, same_host: bool) -> None:
    """On the same host or on another one; each request is recorded, with the host that it names."""
    async with at_work(tmp_path, download=kind) as (simulator, client):
        url = await link_to(client, await uploaded(client))
        got = await get(client, url)
        target = urlsplit(got.headers["Location"])
        assert (got.status, target.hostname == "127.0.0.1") == (302, same_host)
        assert target.path.startswith("/media/")
        assert (await get(client, url, "HEAD")).status == 302
        assert [seen.host for seen in simulator.downloads.seen] == [urlsplit(url).netloc] * 2
        assert (await get(client, got.headers["Location"])).body == DATA
        assert simulator.downloads.seen[-1].host == target.netloc


async def test_a_page_may_come_instead_of_the_video(tmp_path: Path) -> None:
    """With 200, and with the size of the page."""
    async with at_work(tmp_path, download="page") as (_, client):
        url = await link_to(client, await uploaded(client))
        got = await get(client, url)
        assert (got.status, got.type) == (200, "text/html")
        assert b"<html>" in got.body
        assert (await get(client, url, "HEAD")).size == len(got.body)


async def test_a_link_may_live_shorter(tmp_path: Path) -> None:
    """After ``link_lifetime`` seconds it is answered 403."""
    clock = ShiftedClock()
    async with at_work(tmp_path, clock, link_lifetime=100) as (_, client):
        url = await link_to(client, await uploaded(client))
        clock.shift = 90
        assert (await get(client, url)).status == 200
        clock.shift = 101
        assert (await get(client, url)).status == 403


async def test_downloads_may_have_a_port_of_their_own(tmp_path: Path) -> None:
    """It serves downloads only, and the other port serves none."""
    async with at_work(tmp_path, own_download_port=True) as (simulator, client):
        url = await link_to(client, await uploaded(client))
        own, calls = urlsplit(url).netloc, urlsplit(simulator.url).netloc
        assert own != calls
        assert (await get(client, url)).body == DATA
        assert (await get(client, url.replace(own, calls))).status == 404
        assert (await get(client, f"http://{own}{API}/admin/general?access_token={client.token}")).status == 404
        await simulator.stop()
        with pytest.raises(aiohttp.ClientConnectorError):
            await get(client, url)


async def test_transcoding_changes_bytes_and_size(tmp_path: Path) -> None:
    """What was sent is stored; what is downloaded differs, is the same each time, and has a known size."""
    async with at_work(tmp_path, transcodes=True) as (simulator, client):
        url = await link_to(client, await uploaded(client))
        first, second = await get(client, url), await get(client, url)
        assert simulator.records()[0].path.read_bytes() == DATA
        assert first.body == second.body
        assert first.headers["ETag"] == second.headers["ETag"]
        assert DATA not in first.body
        assert len(first.body) == transcoded_size(len(DATA)) != len(DATA)
        assert (await get(client, url, "HEAD")).size == len(first.body)
        assert (await get(client, url, Range="bytes=-7")).body == first.body[-7:]


async def test_a_changed_video_is_transcoded_again(tmp_path: Path) -> None:
    """The download follows the bytes held."""
    async with at_work(tmp_path, transcodes=True, semantics=Semantics.LAST) as (_, client):
        ids = await client.create()
        found = []
        for start in (0, 1024):
            await client.send(ids, DATA[start : start + 1024 + start // 1024], start, len(DATA))
            found.append((await get(client, await link_to(client, ids))).body)
        assert [len(body) for body in found] == [transcoded_size(1024), transcoded_size(1025)]


def test_different_videos_stay_different_when_transcoded(tmp_path: Path) -> None:
    """Two of the same length do not become one."""
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "video.mp4").write_bytes(name.encode() * 100)
        made.append(transcoded(tmp_path / name / "video.mp4").read_bytes())
    assert made[0] != made[1]


async def test_settings_may_change_while_it_runs(tmp_path: Path) -> None:
    """The next link, and the next request with an old link, follow the new ones."""
    async with at_work(tmp_path, download="closed") as (simulator, client):
        ids = await uploaded(client)
        simulator.change(download="here")
        url = await link_to(client, ids)
        assert (await get(client, url)).body == DATA
        simulator.change(download="forbidden")
        assert (await get(client, url)).status == 403
        assert simulator.settings.download == "forbidden"


async def test_downloads_are_recorded_without_secrets(tmp_path: Path) -> None:
    """Each with method, status and range; they are not among the calls."""
    async with at_work(tmp_path) as (simulator, client):
        ids = await uploaded(client)
        url = await link_to(client, ids)
        calls = len(simulator.calls)
        await get(client, url, "HEAD")
        await get(client, url, Range="bytes=0-0")
        await get(client, url.replace("access_token=", "access_token=x"))
        assert [(seen.method, seen.range, seen.status) for seen in simulator.downloads.seen] == [
            ("HEAD", None, 200),
            ("GET", "bytes=0-0", 206),
            ("GET", None, 403),
        ]
        assert {seen.record for seen in simulator.downloads.seen} == {ids[0]}
        assert len(simulator.calls) == calls
        assert url.rpartition("access_token=")[2] not in repr(simulator.downloads.seen)


async def test_a_deleted_record_has_no_download(tmp_path: Path) -> None:
    """Its link is answered 404, and a new one is not issued."""
    async with at_work(tmp_path) as (_, client):
        ids = await uploaded(client)
        url = await link_to(client, ids)
        await client.call("POST", f"{API}/records/{ids[0]}/delete", {})
        assert (await get(client, url)).status == 404
        assert (await client.call("GET", f"{API}/records/download/{ids[0]}/{ids[1]}")).pair == NOT_FOUND


async def test_faults_affect_downloads(tmp_path: Path) -> None:
    """A status with its headers, a cut connection, and a delay; the next request is answered."""
    async with at_work(tmp_path) as (simulator, client):
        url = await link_to(client, await uploaded(client))
        simulator.faults += [
            Fault(call="download", kind="status", status=503, headers={"Retry-After": "7"}),
            Fault(call="download", kind="lose-answer", times=2),  # aiohttp repeats a GET once
            Fault(call="download", kind="stall", seconds=0.001),
        ]
        got = await get(client, url)
        assert (got.status, got.headers["Retry-After"]) == (503, "7")
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await get(client, url)
        assert (await get(client, url)).body == DATA
        assert [(seen.status, seen.fault) for seen in simulator.downloads.seen] == [
            (503, "status"),
            (None, "lose-answer"),
            (None, "lose-answer"),
            (200, "stall"),
        ]


async def test_a_restart_serves_downloads_again(tmp_path: Path) -> None:
    """On a port of their own, too; stopping twice does no harm."""
    async with running(tmp_path, own_download_port=True) as simulator:
        await simulator.stop()
        await simulator.stop()
        await simulator.start()
        async with client_of(simulator) as client:
            assert (await get(client, await link_to(client, await uploaded(client)))).body == DATA
