"""One origin: no redirect is followed, no proxy used, no link elsewhere called; and answers are bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from test_client import IDS, LINK, LOGIN, SPEC, TOKEN, Home, calls_of, mocked
from test_client_sockets import send

from uploader.domain import errors
from uploader.server.valt.links import own
from uploader.server.valt.session import HEADERS_LIMIT

GOOD_LOGIN = b'{"data":{"access_token":"canary-token"}}'


@dataclass
class Peer:
    """A server that notes each request's first line and answers with what it was given, a log-in with a token."""

    reply: Callable[[bytes], bytes] = lambda _: b""
    url: str = ""
    lines: list[bytes] = field(default_factory=list)
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer every request of one connection."""
        self.connections += 1
        try:
            while True:
                await self._answer(reader, writer)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.lines.append(head.split(b"\r\n")[0])
        length = next((line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), b":0")
        await reader.readexactly(int(length.split(b":")[1]))
        answer = self.reply(self.lines[-1])
        if not answer and b"/login" in self.lines[-1]:
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(GOOD_LOGIN), GOOD_LOGIN)
        writer.write(answer)
        await writer.drain()


@asynccontextmanager
async def peer(reply: Callable[[bytes], bytes] = lambda _: b"") -> AsyncIterator[Peer]:
    """Serve."""
    here = Peer(reply)
    server = await asyncio.start_server(here.serve, "127.0.0.1", 0)
    async with server:
        here.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield here


CALLS: dict[str, Callable[[Home], Awaitable[object]]] = {
    "login": lambda home: home.valt.login_if_needed(),
    "create": lambda home: home.valt.create_record(SPEC),
    "upload": lambda home: send(home, IDS, b"data"),
    "details": lambda home: home.valt.details("rec-1"),
    "list": lambda home: home.valt.find_records("a"),
    "link": lambda home: home.valt.download_link(IDS),
    "delete": lambda home: home.valt.delete_record("rec-1"),
}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["elsewhere", "itself", "path"])
@pytest.mark.parametrize("call", CALLS)
async def test_no_redirect_is_followed(call: str, target: str, status: int) -> None:
    """To another host, to the same address, to a path: one request is made, and the error names the origin."""
    async with peer() as elsewhere, peer() as server:
        home = Home(server.url)
        where = {"elsewhere": elsewhere.url + "/x?access_token=canary-token", "itself": server.url, "path": "/x"}[
            target
        ]

        def redirect(line: bytes) -> bytes:
            if (b"/login" in line) is not (call == "login"):
                return b""
            return b"HTTP/1.1 %d Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, where.encode())

        server.reply = redirect
        async with home.valt:
            with pytest.raises(errors.ServerDown, match="a redirect") as caught:
                await CALLS[call](home)
        assert "canary" not in str(caught.value)
        assert (elsewhere.url in str(caught.value)) is (target == "elsewhere")
        assert elsewhere.connections == 0
        assert len(server.lines) == (1 if call == "login" else 2)


async def test_no_proxy_is_taken_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor credentials from a .netrc."""
    async with peer() as proxy, peer() as server:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        netrc = tmp_path / "netrc"
        netrc.write_text("default login canary password canary\n")
        monkeypatch.setenv("NETRC", str(netrc))
        home = Home(server.url)
        async with home.valt:
            await home.valt.login_if_needed()
        assert proxy.connections == 0
        assert server.lines == [b"POST /api/v3/login HTTP/1.1"]


@pytest.mark.parametrize(
    ("ours", "link"),
    [
        ("http://127.0.0.1:9", "http://127.0.0.2:9/x.mp4?access_token=jwt"),
        ("http://127.0.0.1:9", "http://127.0.0.1.elsewhere.example/x.mp4"),
        ("http://127.0.0.1:9", "http://127.0.0.1@elsewhere.example/x.mp4"),
        ("http://127.0.0.1:9", "http://user:word@127.0.0.1:9/x.mp4"),
        ("http://127.0.0.1:9", "https://[::1]:9/x.mp4"),
        ("http://127.0.0.1:9", "http://127.0.0.1:99999999/x.mp4"),
        ("http://127.0.0.1:9", "http:///x.mp4"),
        ("https://127.0.0.1:9", "http://127.0.0.1:8000/x.mp4?access_token=jwt"),
    ],
)
def test_a_download_link_to_another_host_is_refused(ours: str, link: str) -> None:
    """Also with another name before an @, nonsense, or plain http: it is neither called nor shown."""
    with pytest.raises(errors.DownloadUnavailable) as caught:
        own(ours, link)
    assert link not in str(caught.value)
    assert "jwt" not in str(caught.value)


@pytest.mark.parametrize(
    ("ours", "link"),
    [
        ("https://valt.example", "https://valt.example:8000/distribution/x.mp4?access_token=a%2Fb"),
        ("http://127.0.0.1:80", "http://127.0.0.1:8000/x.mp4"),
        ("http://127.0.0.1:80", "https://127.0.0.1:8000/x.mp4"),
    ],
)
def test_a_download_link_may_lead_to_another_port(ours: str, link: str) -> None:
    """VALT serves its videos on port 8000; the link is called unchanged."""
    assert str(own(ours, link)) == link


async def test_a_download_from_another_host_is_refused() -> None:
    """The download checks the link, too."""
    async with mocked() as (home, server):
        server.post(LOGIN, payload=TOKEN)
        server.get(LINK, payload={"url": "http://elsewhere.example/x.mp4"}, repeat=True)
        with pytest.raises(errors.DownloadUnavailable, match="another host"):
            await anext(home.valt.download(IDS))
        with pytest.raises(errors.DownloadUnavailable, match="another host"):
            await home.valt.video_size(IDS)
        assert calls_of(server, "/x.mp4") == 0


async def test_a_token_of_odd_characters_stays_one_parameter() -> None:
    """It neither ends the query nor begins another path, and the server reads the same text."""
    odd = "".join(map(chr, range(0x21, 0x7F)))
    good = json.dumps({"data": {"access_token": odd}}).encode()

    def answer(line: bytes) -> bytes:
        body = good if b"/login" in line else b'{"data":{"id":"rec-1","videos":null}}'
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)

    async with peer(answer) as server:
        home = Home(server.url)
        async with home.valt:
            await home.valt.details("rec-1")
    asked = urlsplit(server.lines[1].decode().split()[1])
    assert (asked.path, parse_qs(asked.query)) == ("/api/v3/records/rec-1", {"access_token": [odd]})


def _headers(count: int, size: int) -> bytes:
    rows = b"".join(b"X-%d: %s\r\n" % (number, b"a" * size) for number in range(count))
    good = b'{"data":{"id":"rec-1","videos":null},"id":"rec-1","videos":["vid-1"]}'
    return b"HTTP/1.1 200 OK\r\n" + rows + b"Content-Length: %d\r\n\r\n%s" % (len(good), good)


ENDLESS: dict[str, bytes] = {
    "headers of 300 KiB": _headers(40, HEADERS_LIMIT // 32),
    "ten thousand headers": _headers(10_000, 10),
    "one header of 1 MiB": _headers(1, 1 << 20),
    "a status line without an end": b"HTTP/1.1 200 " + b"O" * (1 << 20),
    "no HTTP": b"\x00\xff" * 1000,
    "a body of 9 MiB": b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (9 << 20) + b"[" * (9 << 20),
    "nesting": b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"[" * 200_000,
    "a number without an end": b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + b"9" * 200_000,
}


@pytest.mark.parametrize("what", ENDLESS)
async def test_an_answer_is_bounded(what: str) -> None:
    """No more is read than any real server sends, and the call ends as an outage or a doubt."""
    async with peer(lambda line: b"" if b"/login" in line else ENDLESS[what]) as server:
        home = Home(server.url)
        async with home.valt:
            with pytest.raises(errors.ServerDown):
                await home.valt.details("rec-1")
            with pytest.raises(errors.AnswerLost):
                await home.valt.create_record(SPEC)


async def test_headers_of_usual_size_are_accepted() -> None:
    """The limit is far above what a proxy or two add."""
    async with peer(lambda line: b"" if b"/login" in line else _headers(40, 500)) as server:
        home = Home(server.url)
        async with home.valt:
            assert (await home.valt.details("rec-1")).videos is None
