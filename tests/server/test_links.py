"""What a download link hands out: the size of a video and its bytes, on another port, behind servers of many habits."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import pytest
from fakes import MemoryDisk, VirtualClock
from test_client import IDS, SORRY, Home

from uploader.domain import errors, events
from uploader.server.circuit_breaker import CircuitBreaker
from uploader.server.valt.links import REDIRECTS
from uploader.store import Store

VIDEO: Final = b"\x00\x00\x00\x18ftypmp42" + bytes(988)
TOTAL: Final = len(VIDEO)
SECRET: Final = "marked-secret-jwt"


def reply(status: int, body: bytes = b"", **headers: str) -> bytes:
    """An answer. Its Content-Length is left out when it is given as ``""``."""
    named = {"Content-Length": str(len(body))} | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items() if value)
    return f"HTTP/1.1 {status} x\r\n{lines}\r\n".encode() + body


def head(status: int = 200, **headers: str) -> bytes:
    """The answer to a HEAD of a video."""
    return reply(status, b"", **({"Content_Type": "video/mp4", "Content_Length": str(TOTAL)} | headers))


RANGE: Final = reply(206, VIDEO[:1], Content_Type="video/mp4", Content_Range=f"bytes 0-0/{TOTAL}")
WHOLE: Final = reply(200, VIDEO, Content_Type="video/mp4")
CHUNKED: Final = reply(200, b"1\r\nx\r\n0\r\n\r\n", Transfer_Encoding="chunked", Content_Length="")
PAGE: Final = reply(200, SORRY.encode(), Content_Type="text/html; charset=utf-8")


@dataclass
class Host:
    """What a link leads to: answers each request with the next of its answers, the last one for ever."""

    answers: list[bytes]
    seen: list[str] = field(default_factory=list)  # "METHOD target", with "+range" where a range was asked for
    port: int = 0
    written: int = 0  # bytes of endless bodies

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer every request of one connection."""
        try:
            while True:
                asked = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, target, _ = asked.split("\r\n")[0].split()
                self.seen.append(f"{method} {target}" + ("+range" if "Range: bytes=0-0\r\n" in asked else ""))
                said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                if not said:
                    await reader.read()  # until the client gives up
                writer.write(said)
                await writer.drain()
                if b"Connection: close" in said:
                    break
                while b"Content-Length: 9" in said:  # of an endless body
                    writer.write(bytes(65536))
                    await writer.drain()
                    self.written += 65536
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    @property
    def methods(self) -> list[str]:
        """What was asked, without the targets."""
        return [line.split()[0] + ("+range" if line.endswith("+range") else "") for line in self.seen]


@dataclass
class Api:
    """The server: logs in, and gives links to *port*."""

    port: int = 0
    links: int = 0
    missing: bool = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer every request of one connection."""
        try:
            while True:
                asked = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = [line.split(":")[1] for line in asked.split("\r\n") if line.startswith("Content-Length:")]
                await reader.readexactly(int(length[0]) if length else 0)
                writer.write(self._answer(asked))
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    def _answer(self, asked: str) -> bytes:
        if "/login" in asked:
            return reply(200, b'{"data":{"access_token":"canary-token"}}')
        self.links += 1
        if self.missing:
            return reply(404, b'{"title":"x","status":404,"detail":"Not Found"}')
        url = f"http://127.0.0.1:{self.port}/distribution/{self.links}.mp4?access_token={SECRET}"
        return reply(200, json.dumps({"url": url}).encode())


@asynccontextmanager
async def linked(*answers: bytes, stall: float = 5.0) -> AsyncIterator[tuple[Home, Host, Api]]:
    """A client, the API, and on another port what its links lead to."""
    host, api = Host(list(answers)), Api()
    async with (
        await asyncio.start_server(host.serve, "127.0.0.1", 0) as files,
        await asyncio.start_server(api.serve, "127.0.0.1", 0) as calls,
    ):
        host.port = api.port = files.sockets[0].getsockname()[1]
        home = Home(f"http://127.0.0.1:{calls.sockets[0].getsockname()[1]}", stall_timeout=stall)
        async with home.valt:
            yield home, host, api
        assert home.breaker.held == 0


async def content(home: Home) -> bytes:
    """Download the video."""
    return b"".join([block async for block in home.valt.download(IDS)])


async def size(home: Home) -> int | None:
    """Ask for the size as cheaply as possible."""
    return await home.valt.video_size(IDS)


BOTH: Final[list[Callable[[Home], Awaitable[object]]]] = [size, content]


# The size


async def test_the_size_of_a_video_costs_a_link_and_a_head() -> None:
    """Nothing of the video itself is asked for."""
    async with linked(head()) as (home, host, api):
        assert await home.valt.video_size(IDS) == TOTAL
        assert (host.seen, api.links) == ([f"HEAD /distribution/1.mp4?access_token={SECRET}"], 1)


async def test_a_size_is_confirmed_by_the_beginning_of_a_download() -> None:
    """Whatever a HEAD would say."""
    async with linked(RANGE) as (home, host, api):
        assert await home.valt.video_size(IDS, confirm=True) == TOTAL
        assert (host.methods, api.links) == (["GET+range"], 1)


USELESS: Final = {
    "405": reply(405),
    "501": reply(501),
    "400": reply(400),
    "403": reply(403),
    "404": reply(404),
    "500": reply(500),
    "no length": head(Content_Length="", Connection="close"),
    "a length of 0": head(Content_Length="0"),
    "a page": head(Content_Type="text/html; charset=utf-8"),
    "compressed": head(Content_Encoding="gzip"),
    "a body": WHOLE,
    "no HTTP": b"\x00\xff" * 100,
    "a length of nonsense": head(Content_Length="9" * 19),
    "a closed connection": b"\r\nConnection: close\r\n",
}


@pytest.mark.parametrize("what", USELESS)
async def test_where_a_head_says_nothing_one_byte_is_asked_for(what: str) -> None:
    """The total of its range is the size; the link is the same."""
    async with linked(USELESS[what], RANGE) as (home, host, api):
        assert await home.valt.video_size(IDS) == TOTAL
        assert (host.methods, api.links) == (["HEAD", "GET+range"], 1)


async def test_a_server_that_knows_no_ranges_is_broken_off() -> None:
    """Its Content-Length is the size, and the video is not read."""
    endless = reply(200, Content_Type="video/mp4", Content_Length=str(9 * 10**12))
    async with linked(reply(405), endless) as (home, host, _):
        assert await home.valt.video_size(IDS) == 9 * 10**12
        assert host.written < 64 * 1024 * 1024


@pytest.mark.parametrize(
    "answer",
    [
        CHUNKED,
        reply(206, b"x", Content_Type="video/mp4", Content_Range="bytes 0-0/*"),
        reply(206, b"xx", Content_Type="video/mp4", Content_Range="bytes 5-6/100"),
        reply(206, b"x", Content_Type="video/mp4"),
        reply(206, b"x", Content_Range=f"bytes 0-0/{TOTAL}", Content_Encoding="gzip"),
        reply(416, Content_Range="bytes */0"),
        reply(200),
    ],
)
async def test_a_size_that_is_not_said_is_none(answer: bytes) -> None:
    """It is no size of 0, and no failure."""
    async with linked(reply(405), answer) as (home, *_):
        assert await home.valt.video_size(IDS) is None


# The bytes


async def test_the_bytes_are_handed_on_as_they_are() -> None:
    """From another port than the API's."""
    async with linked(WHOLE) as (home, host, api):
        assert await content(home) == VIDEO
        assert (host.methods, api.links, home.breaker.freed) == (["GET"], 1, 1)


async def test_a_chunked_download_is_complete() -> None:
    """A length is not needed for it."""
    async with linked(CHUNKED) as (home, *_):
        assert await content(home) == b"x"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (reply(200, SORRY.encode()), "a page instead of the video"),
        (reply(200, VIDEO, Content_Type="text/html"), "a page instead of the video"),
        (reply(200, VIDEO, Content_Encoding="gzip"), "a compressed body"),
        (reply(206, VIDEO, Content_Range=f"bytes 0-999/{TOTAL}"), "answered 206"),
        (reply(200, VIDEO, Content_Length="2000", Connection="close"), "the answer was cut off"),
        (b"\x00\xff" * 100, "the answer is no HTTP"),
    ],
)
async def test_other_bytes_are_not_taken_for_the_video(answer: bytes, words: str) -> None:
    """A page, a compressed body, a part, a torn one: they would look like a damaged video."""
    async with linked(answer) as (home, *_):
        with pytest.raises(errors.DownloadUnavailable, match=words):
            await content(home)


# Both


@pytest.mark.parametrize("ask", BOTH)
@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_a_link_that_may_have_expired_is_asked_for_anew_once(
    ask: Callable[[Home], Awaitable[object]], status: int
) -> None:
    """The second link is called; when it fails, too, that is said."""
    refused = [reply(status)] * (2 if ask is size else 1)
    async with linked(*refused, WHOLE) as (home, host, api):
        assert await ask(home) in {TOTAL, VIDEO}
        assert api.links == 2
        assert host.seen[-1].startswith("GET /distribution/2.mp4")
    async with linked(reply(status)) as (home, host, api):
        with pytest.raises(errors.DownloadUnavailable, match=f"{host.port}: answered {status}") as caught:
            await ask(home)
        assert (api.links, caught.value.reached) == (2, True)


@pytest.mark.parametrize("ask", BOTH)
@pytest.mark.parametrize("answer", [*map(reply, (400, 405, 429, 500, 503, 204, 304)), PAGE])
async def test_what_else_a_link_answers_is_named_with_its_own_address(
    ask: Callable[[Home], Awaitable[object]], answer: bytes
) -> None:
    """Not with that of the API, and without path, query and the words of the page."""
    async with linked(answer) as (home, host, api):
        before = home.answers
        with pytest.raises(errors.DownloadUnavailable) as caught:
            await ask(home)
        said = str(caught.value)
        assert said.startswith(f"http://127.0.0.1:{host.port}: answered ")
        assert not any(word in said for word in (SECRET, "distribution", "access_token", "Mary"))
        assert (api.links, home.answers) == (1, before + 2)  # the log-in and the link
        assert caught.value.busy is answer.startswith((b"HTTP/1.1 429", b"HTTP/1.1 503"))


@pytest.mark.parametrize("page", [SORRY, "\ufeff\n<HTML>", "<title>Sorry</title>", "<!doctype html><p>"])
async def test_a_page_that_is_called_a_video_is_no_size_of_one(page: str) -> None:
    """Nginx gives its own words the type of the name that was asked for. Its size alone is not known to be a page's."""
    called = reply(200, page.encode(), Content_Type="video/mp4")
    async with linked(called) as (home, host, _):
        with pytest.raises(errors.DownloadUnavailable, match=f"{host.port}: answered with a page instead of the video"):
            await home.valt.video_size(IDS, confirm=True)


async def test_a_video_without_ranges_that_is_cut_off_has_the_size_that_it_says() -> None:
    """Only its beginning is looked at."""
    cut = reply(200, VIDEO[:10], Content_Type="video/mp4", Content_Length=str(TOTAL), Connection="close")
    async with linked(cut) as (home, _, _):
        assert await home.valt.video_size(IDS, confirm=True) == TOTAL


@pytest.mark.parametrize("ask", BOTH)
async def test_a_closed_port_is_named_and_is_no_outage(ask: Callable[[Home], Awaitable[object]]) -> None:
    """VALT hands out its videos on port 8000, which many firewalls close."""
    async with linked(WHOLE) as (home, _, api):
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            api.port = closed.getsockname()[1]
            with pytest.raises(errors.DownloadUnavailable) as caught:
                await ask(home)
        assert str(caught.value) == f"http://127.0.0.1:{api.port}: cannot be reached: Connection refused"
        assert caught.value.reached is False


@pytest.mark.parametrize("ask", BOTH)
async def test_a_host_that_does_not_answer_is_given_up(ask: Callable[[Home], Awaitable[object]]) -> None:
    """After the time for which any call may stall."""
    async with linked(b"", stall=0.3) as (home, host, _):
        with pytest.raises(errors.DownloadUnavailable, match=f"{host.port}: no progress for 0.3 s"):
            await ask(home)


@pytest.mark.parametrize("ask", BOTH)
async def test_a_connection_that_is_closed_is_named_without_a_class(ask: Callable[[Home], Awaitable[object]]) -> None:
    """Operators do not know aiohttp."""
    async with linked(b"\r\nConnection: close") as (home, *_):
        with pytest.raises(errors.DownloadUnavailable) as caught:
            await ask(home)
        assert "Error" not in str(caught.value)


@pytest.mark.parametrize("ask", BOTH)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_on_the_same_host_is_followed(ask: Callable[[Home], Awaitable[object]], status: int) -> None:
    """By path or to another port, with the same question."""
    async with linked(WHOLE) as (_, other, _), linked(reply(200)) as (home, host, _):
        good = head() if ask is size else WHOLE
        other.answers = [good]
        by_path = reply(status, Location="/store/x.mp4?sig=1")
        host.answers = [by_path, reply(status, Location=f"http://127.0.0.1:{other.port}/y.mp4")]
        assert await ask(home) in {TOTAL, VIDEO}
        method = "HEAD" if ask is size else "GET"
        assert host.seen[1] == f"{method} /store/x.mp4?sig=1"
        assert other.seen == [f"{method} /y.mp4"]


@pytest.mark.parametrize("ask", BOTH)
async def test_redirects_without_end_are_given_up(ask: Callable[[Home], Awaitable[object]]) -> None:
    """After a few."""
    async with linked(reply(302, Location="/again")) as (home, host, _):
        with pytest.raises(errors.DownloadUnavailable, match=f"{host.port}: more than 3 redirects"):
            await ask(home)
        assert len(host.seen) == REDIRECTS + 1


@pytest.mark.parametrize("ask", BOTH)
@pytest.mark.parametrize(
    "target", ["http://127.0.0.2:{port}/x", "//elsewhere.example/x", "ftp://127.0.0.1/x", "http://["]
)
async def test_a_redirect_to_another_host_is_never_followed(
    ask: Callable[[Home], Awaitable[object]], target: str
) -> None:
    """Nor one out of HTTP, nor nonsense; the target is not shown."""
    async with linked(WHOLE) as (home, host, _):
        host.answers = [reply(302, Location=target.format(port=host.port))]
        with pytest.raises(
            errors.DownloadUnavailable, match="it leads to another host, which is never followed"
        ) as said:
            await ask(home)
        assert f"http://127.0.0.1:{host.port}: answered 302" in str(said.value)
        assert len(host.seen) == 1


@pytest.mark.parametrize("ask", BOTH)
async def test_what_the_call_for_the_link_raises_is_raised(ask: Callable[[Home], Awaitable[object]]) -> None:
    """A record that is gone, or a server that is down, is what it is for any call."""
    async with linked(WHOLE) as (home, host, api):
        api.missing = True
        with pytest.raises(errors.RecordGone):
            await ask(home)
        assert host.seen == []


@pytest.mark.parametrize("ask", BOTH)
async def test_a_failed_download_keeps_no_slot_of_a_server_that_is_back(
    ask: Callable[[Home], Awaitable[object]],
) -> None:
    """The call for its link has shown that the server is up: two jobs may begin, as after any good answer."""
    clock, bus = VirtualClock(), events.Bus()
    store = Store(MemoryDisk(), clock, bus)
    breaker = CircuitBreaker(store, clock, bus)
    async with linked(WHOLE) as (home, _, api):
        await home.valt.login_if_needed()
        home.valt._breaker = breaker
        await clock.advance(await breaker.trip(errors.ServerDown("down")))
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            api.port = closed.getsockname()[1]
            with pytest.raises(errors.DownloadUnavailable):
                await ask(home)
        assert (api.links, breaker.going_on, breaker.wait) == (1, False, 0.0)
        async with asyncio.timeout(5):
            await breaker.clear()
            await breaker.clear()
    await store.close()


async def test_links_do_not_crowd_out_the_secrets_of_the_log() -> None:
    """The log masks the last 16 secrets, and one link for each file would end that; no text ever holds a link."""
    async with linked(head()) as (home, *_):
        for _ in range(20):
            await home.valt.video_size(IDS)
        assert set(home.secrets) == {"canary-password", "canary-token"}


async def test_large_headers_of_a_video_or_of_a_redirect_to_it_are_taken() -> None:
    """Up to the same bounds as those of the API; larger ones are named."""
    large = "a" * 60_000
    async with linked(reply(302, Location="/media/2.mp4", X=large), reply(200, VIDEO, X=large)) as (home, *_):
        assert await content(home) == VIDEO
    async with linked(reply(302, Location="/media/2.mp4", X=large), head(X=large)) as (home, *_):
        assert await size(home) == TOTAL
    async with linked(reply(200, VIDEO, X="a" * 70_000)) as (home, *_):
        with pytest.raises(errors.DownloadUnavailable, match="headers are larger than any VALT server's"):
            await content(home)
