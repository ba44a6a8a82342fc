"""Calls over real sockets: how chunks end, broken and missing connections, and downloads."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from parts import BriskClock
from sources import Blocks
from test_client import HTML_502, IDS, SORRY, SPEC, Home

from uploader.domain import errors
from uploader.domain.model import RecordIds
from uploader.server.valt import broken, client, session
from uploader.testing.simulator import CallName, Fault, Settings, Simulator


@asynccontextmanager
async def simulated(
    tmp_path: Any, settings: Settings | None = None, **server: Any
) -> AsyncIterator[tuple[Home, Simulator]]:
    """A client before the built-in server."""
    simulator = Simulator(tmp_path / "server", settings or Settings(password="canary-password", processing=0.0))
    home = Home(await simulator.start(), **server)
    try:
        async with home.valt:
            yield home, simulator
    finally:
        await simulator.stop()


async def nothing() -> None:
    """Save no mark."""


async def send(home: Home, ids: RecordIds, data: bytes, mark: Callable[[], Awaitable[None]] = nothing) -> int | None:
    """Send *data* as a whole file."""
    return await home.valt.send_chunk(
        ids, "a.mp4", (0, len(data), len(data)), Blocks(data), before_last_byte=mark, on_progress=lambda _: None
    )


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, '{"data":{"message":"Invalid Content-Range header value"},"code":400}', errors.ChunkRefused),
        (400, '{"data":{"message":"The chunk file was not transferred"},"code":400}', errors.ChunkTooLarge),
        (413, "", errors.ChunkTooLarge),
        (401, '{"error":{"code":401,"message":"Bad credentials."}}', errors.TokenExpired),
        (403, '{"error":{"code":403,"message":"Forbidden"}}', errors.RightMissing),
        (404, '{"title":"An error occurred","status":404,"detail":"Not Found"}', errors.RecordGone),
        (400, HTML_502, errors.ProxyAnswered),
        (403, HTML_502, errors.ProxyAnswered),
        (404, HTML_502, errors.ProxyAnswered),
        (405, HTML_502, errors.ProxyAnswered),
        (404, "", errors.ProxyAnswered),
        (200, SORRY, errors.AnswerLost),
        (201, SORRY, errors.AnswerLost),
        (200, '{"files":[{"name":"a.mp4","error":"File is too big"}]}', errors.ChunkTooLarge),
        (200, '{"files":[{"name":"a.mp4","error":"Filetype not allowed"}]}', errors.ChunkRefused),
        (200, '{"files":[{"name":"a.mp4","error":"Failed to write file to disk"}]}', errors.NoRoom),
        (200, '{"data":{"message":"Invalid Content-Range header value"},"code":400}', errors.ChunkRefused),
        (200, '{"error":{"code":401,"message":"Bad credentials."}}', errors.TokenExpired),
        (200, '{"error":{"message":"something failed"}}', errors.AnswerLost),
        (429, "", errors.ServerBusy),
        (500, "", errors.AnswerLost),
        (502, HTML_502, errors.AnswerLost),
        (503, "", errors.ServerDown),
        (504, "", errors.AnswerLost),
        (302, "", errors.ServerDown),
    ],
)
async def test_refusals_of_a_chunk(tmp_path: Any, status: int, body: str, kind: type[errors.UploaderError]) -> None:
    """Too large, wrong range, gone, or in doubt: each has its error."""
    async with simulated(tmp_path) as (home, simulator):
        ids = await home.valt.create_record(SPEC)
        simulator.faults.append(Fault(call="upload", kind="status", status=status, body=body))
        with pytest.raises(errors.UploaderError) as caught:
            await send(home, ids, b"data")
        assert type(caught.value) is kind
        assert "canary" not in str(caught.value)


@pytest.mark.parametrize("other", [200, 401])
async def test_a_chunk_refused_with_one_token_after_the_other_is_another_program_or_a_missing_right(
    tmp_path: Any, other: int
) -> None:
    """It depends on whether the token is good for another call. Then the caller sees a second ``TokenExpired``."""
    async with simulated(tmp_path) as (home, simulator):
        ids = await home.valt.create_record(SPEC)
        said = '{"error":{"code":401,"message":"Bad credentials."}}'
        simulator.faults.append(Fault(call="upload", kind="status", status=401, body=said, times=2))
        if other == 401:
            simulator.faults.append(Fault(call="list", kind="status", status=401, body=said, times=2))
        with pytest.raises(errors.TokenExpired):
            await send(home, ids, b"data")
        with pytest.raises(errors.UploaderError) as caught:
            await send(home, ids, b"data")
        assert type(caught.value) is (errors.AccountShared if other == 401 else errors.TokenExpired)
        assert await send(home, ids, b"data") is None


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("", "text/html; charset=UTF-8"),  # PHP says so of an empty body
        ('{"files":[{"name":"a.mp4","size":4}]}', "text/html"),  # blueimp
        ('{"files":[{"name":"a.mp4","size":4}]}', "application/json"),
        ('{"data":"OK"}', "application/json"),
        ('{"data":{"message":"stored"},"code":201}', "application/json"),
        ('"ok"', "text/html"),
        ("ok", "text/plain"),
        ("\x00\x01 {{{", "application/octet-stream"),
    ],
)
async def test_a_yes_to_a_chunk_may_have_any_form_but_a_page(tmp_path: Any, body: str, kind: str) -> None:
    """It is a yes, and counts as an answer of the server."""
    async with simulated(tmp_path) as (home, simulator):
        ids, before = await home.valt.create_record(SPEC), home.answers
        headers = {"Content-Type": kind}
        fault = Fault(call="upload", kind="store-then-status", status=200, body=body, headers=headers)
        simulator.faults.append(fault)
        assert await send(home, ids, b"data") is None
        assert home.answers == before + 1


async def test_a_page_is_no_yes_to_a_chunk(tmp_path: Any) -> None:
    """The chunk is in doubt, the page is quoted, and the server has not answered."""
    async with simulated(tmp_path) as (home, simulator):
        ids, before = await home.valt.create_record(SPEC), home.answers
        simulator.faults.append(Fault(call="upload", kind="status", status=200, body=SORRY))
        with pytest.raises(errors.AnswerLost) as caught:
            await send(home, ids, b"data")
        said = "upload chunk: answered 200 with a page instead of VALT's answer (St. Mary's: back soon)"
        assert str(caught.value).startswith(said)
        assert home.answers == before


@pytest.mark.parametrize(("status", "body"), [(502, HTML_502), (200, SORRY), (201, "")])
async def test_an_early_answer_of_a_gateway_leaves_no_doubt(tmp_path: Any, status: int, body: str) -> None:
    """One before the last byte went: no server behind the gateway has seen the whole chunk."""
    async with simulated(tmp_path) as (home, simulator):
        ids = await home.valt.create_record(SPEC)
        simulator.faults.append(Fault(call="upload", kind="status", status=status, body=body, after_bytes=1000))
        with pytest.raises(errors.ChunkCut):
            await send(home, ids, bytes(40 * 1024 * 1024))


async def test_a_large_body_that_moves_passes_its_slot_on(tmp_path: Any) -> None:
    """Other calls need not wait for its answer; for that of a small body they do."""
    async with simulated(tmp_path) as (home, simulator):
        ids = await home.valt.create_record(SPEC)
        await send(home, ids, b"data")
        assert home.breaker.freed == 0
        large = await home.valt.create_record(SPEC)
        simulator.faults.append(stall := Fault(call="upload", kind="stall", after_bytes=2 * client.BODY_MOVES))
        sending = asyncio.create_task(send(home, large, bytes(40 * client.BODY_MOVES)))
        async with asyncio.timeout(10):
            await stall.standing.wait()
        assert (home.breaker.freed, home.breaker.held) == (1, 1)
        stall.release()
        await sending
        assert (home.breaker.freed, home.breaker.held) == (1, 0)


@pytest.mark.parametrize(
    ("kind", "after", "expected"),
    [
        ("cut-body", 1000, errors.ChunkCut),
        ("stall", 1000, errors.ChunkCut),
        ("lose-answer", None, errors.AnswerLost),
    ],
)
async def test_chunk_without_an_answer(tmp_path: Any, kind: Any, after: int | None, expected: type[Exception]) -> None:
    """It is in doubt only when its last byte has gone; ended before, the server has never seen it."""
    async with simulated(tmp_path, stall_timeout=0.3) as (home, simulator):
        ids = await home.valt.create_record(SPEC)
        simulator.faults.append(Fault(call="upload", kind=kind, after_bytes=after))
        with pytest.raises(expected):
            await send(home, ids, bytes(40 * 1024 * 1024 if after else 100))


async def test_a_server_that_never_answers_is_given_up(tmp_path: Any) -> None:
    """Its chunk is in doubt after several stall times."""
    async with simulated(tmp_path, stall_timeout=0.1) as (home, simulator):
        ids = await home.valt.create_record(SPEC)
        simulator.faults.append(Fault(call="upload", kind="stall"))
        loop = asyncio.get_running_loop()
        began = loop.time()
        with pytest.raises(errors.AnswerLost):
            await send(home, ids, b"data")
        assert loop.time() - began >= 0.1 * client.ANSWER_TIMEOUT_FACTOR


async def test_error_of_the_body_is_passed_on(tmp_path: Any) -> None:
    """An error that stops the body is raised unchanged, whatever aiohttp makes of it."""

    async def changed() -> None:
        raise errors.FileChanged("it grew")

    async def bug() -> None:
        raise ZeroDivisionError

    async with simulated(tmp_path) as (home, _):
        ids = await home.valt.create_record(SPEC)
        with pytest.raises(errors.FileChanged):
            await send(home, ids, b"data", changed)
        with pytest.raises(ZeroDivisionError):
            await send(home, ids, b"data", bug)


async def test_a_2xx_to_a_chunk_counts_though_its_body_is_cut() -> None:
    """The status is the success, whatever the body is."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"Content-Length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        good = b'{"data":{"access_token":"t"}}'
        if b"/login" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(good), good))
        else:
            writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 1000\r\n\r\n{")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        home = Home(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with home.valt:
            assert await send(home, IDS, b"data") is None


async def test_a_server_that_accepts_no_connection_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    """For every call, and nothing is in doubt, as no byte went."""
    monkeypatch.setattr(client, "CONNECT_TIMEOUT", 0.2)
    with socket.socket() as full, socket.socket() as first, socket.socket() as second:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for guest in (first, second):  # they fill its queue; the next one's SYN is dropped
            guest.setblocking(False)
            guest.connect_ex(full.getsockname())
        home = Home(f"http://127.0.0.1:{full.getsockname()[1]}")
        home.valt._token = client._Token("t", BriskClock().monotonic())
        async with home.valt:
            for call in (
                lambda: home.valt.create_record(SPEC),
                lambda: send(home, IDS, b"data"),
                lambda: home.valt.find_records("a"),
            ):
                with pytest.raises(errors.ServerDown):
                    await call()


async def test_a_server_with_a_closed_port_is_down() -> None:
    """For every call."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        home = Home(f"http://127.0.0.1:{free.getsockname()[1]}")
        home.valt._token = client._Token("t", BriskClock().monotonic())
        async with home.valt:
            for call in (
                lambda: home.valt.create_record(SPEC),
                lambda: send(home, IDS, b"data"),
                lambda: home.valt.find_records("a"),
            ):
                with pytest.raises(errors.ServerDown, match="cannot be reached"):
                    await call()


WORDS = {socket.EAI_AGAIN: "Temporary failure in name resolution", socket.EAI_NONAME: "Name or service not known"}


class Names:
    """The machine's name service: *leads_to* an address, or the error that it has for every name."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, leads_to: str | int) -> None:
        self.leads_to = leads_to
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self._answer)

    async def _answer(self, host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        assert host == "valt.example"
        if isinstance(self.leads_to, int):
            raise socket.gaierror(self.leads_to, WORDS[self.leads_to])
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (self.leads_to, port))]


@pytest.mark.parametrize("number", WORDS)
async def test_an_unresolvable_server_name_is_a_server_that_is_down(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """The error has the reason; when the name is known again, the next call is made."""
    names = Names(monkeypatch, number)
    async with simulated(tmp_path) as (_, simulator):
        home = Home(simulator.url.replace("127.0.0.1", "valt.example"), allow_plaintext=True)
        async with home.valt:
            for _ in range(2):
                with pytest.raises(errors.ServerDown, match=f"valt.example:[0-9]+: cannot be reached: {WORDS[number]}"):
                    await home.valt.login_if_needed()
            names.leads_to = "127.0.0.1"
            assert (await home.valt.create_record(SPEC)).record


async def test_a_server_that_has_moved_is_found_at_its_new_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """The old address is cached for some seconds; then new connections use the new one."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        at.append(writer.get_extra_info("sockname")[0])
        body = b'{"data":{"id":"rec-1","videos":null}}'
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    at: list[str] = []
    names = Names(monkeypatch, "127.0.0.1")
    old = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = old.sockets[0].getsockname()[1]
    home = Home(f"http://valt.example:{port}", allow_plaintext=True)
    home.valt._token = client._Token("t", BriskClock().monotonic())
    async with home.valt, await asyncio.start_server(answer, "127.0.0.2", port):
        await home.valt.details("rec-1")
        old.close()
        await old.wait_closed()
        names.leads_to = "127.0.0.2"
        with pytest.raises(errors.ServerDown, match="cannot be reached"):
            await home.valt.details("rec-1")
        later = time.monotonic() + session.DNS_CACHE_TIME + 1
        monkeypatch.setattr("aiohttp.connector.monotonic", lambda: later)
        await home.valt.details("rec-1")
    assert at == ["127.0.0.1", "127.0.0.2"]


@pytest.mark.parametrize(
    ("call", "size", "expected", "requests"),
    [
        ("upload", 4, errors.AnswerLost, 1),
        ("upload", 40 * 1024 * 1024, errors.ChunkCut, 1),
        ("create", 0, errors.AnswerLost, 1),
        ("details", 0, errors.ServerDown, 2),  # a question may be repeated
    ],
)
async def test_a_call_on_a_connection_that_is_being_closed_is_not_repeated(
    call: str, size: int, expected: type[Exception], requests: int
) -> None:
    """When it changes something, it is sent once, and ends as on any broken connection."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
        if b"/login" in lines[-1]:
            body = b'{"data":{"access_token":"t"}}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            await reader.readuntil(b"}")
            lines.append((await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0])
        writer.transport.abort()

    lines: list[bytes] = []
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        home = Home(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with home.valt:
            await home.valt.login_if_needed()
            calls: dict[str, Callable[[], Awaitable[object]]] = {
                "upload": lambda: send(home, IDS, bytes(size)),
                "create": lambda: home.valt.create_record(SPEC),
                "details": lambda: home.valt.details("rec-1"),
            }
            with pytest.raises(expected):
                await calls[call]()
    assert len(lines) == 1 + requests


async def test_an_idle_connection_is_closed_before_common_servers_close_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apache closes it after 5 s; a call that is sent just then would be in doubt."""
    assert session.IDLE_TIME < 5.0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"data":{"id":"rec-1","videos":null}}'
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        assert await reader.read() == b""
        closed.set()
        writer.close()

    closed = asyncio.Event()
    monkeypatch.setattr(session, "IDLE_TIME", 0.2)
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        home = Home(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        home.valt._token = client._Token("t", BriskClock().monotonic())
        async with home.valt:
            await home.valt.details("rec-1")
            async with asyncio.timeout(10):
                await closed.wait()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (aiohttp.ServerDisconnectedError(), "the server closed the connection"),
        (aiohttp.ClientOSError(104, "Connection reset by peer"), "the connection was reset"),
        (ConnectionResetError(), "the connection was reset"),
        (aiohttp.ClientOSError(32, "Broken pipe"), "the server closed the connection"),
        (aiohttp.ClientOSError(110, "x"), "the connection timed out"),
        (aiohttp.ClientOSError(113, "x"), "the connection broke: No route to host"),
        (aiohttp.ClientPayloadError("x"), "the answer was cut off"),
        (asyncio.IncompleteReadError(b"", 1), "the answer was cut off"),
        (aiohttp.http_exceptions.BadHttpMessage("x"), "the answer is no HTTP"),
        (broken.AnswerTooLarge(), "the answer's headers are larger than any VALT server's"),
        (ssl.SSLError(1, "x"), "TLS failed in the middle of the connection"),
        (aiohttp.ClientConnectionError("Connector is closed"), "the connection broke"),
        (OSError(), "the connection broke"),
    ],
)
def test_a_broken_connection_is_named_in_words(error: Exception, words: str) -> None:
    """Never by the name of a class."""
    assert broken.broken(error) == words


async def test_a_connection_that_the_server_closes_is_named_so(tmp_path: Any) -> None:
    """In the text of a chunk that is cut or in doubt."""
    async with simulated(tmp_path) as (home, simulator):
        ids = await home.valt.create_record(SPEC)
        simulator.faults.append(Fault(call="upload", kind="lose-answer"))
        with pytest.raises(errors.AnswerLost) as caught:
            await send(home, ids, b"data")
        said = "upload chunk: the server closed the connection, and its answer is not known"
        assert str(caught.value) == said


ECHOES = (
    '{{"data": {{"message": "{secret}"}}, "code": 400}}',
    '{{"detail": "no route for /x?access_token={secret}"}}',
    '{{"error": {{"message": "token\\u003d{secret}"}}}}',
    "<html><title>{secret} is not known</title></html>",
    "{secret}",
    '{{"data": "' + "x" * 190 + ' {secret}"}}',
)


@pytest.mark.parametrize("status", [302, 400, 403, 404, 409, 413, 500, 502, 503, 507])
@pytest.mark.parametrize("secret", ["token", "password"])
async def test_secrets_that_an_answer_repeats_are_masked(tmp_path: Any, status: int, secret: str) -> None:
    """An error's text becomes the reason in state and status, so it is masked before it is cut."""
    async with simulated(tmp_path) as (home, simulator):
        ids = await home.valt.create_record(SPEC)
        value = {"token": home.secrets[-1], "password": home.secrets[0]}[secret]
        calls: dict[CallName, Callable[[], Awaitable[object]]] = {
            "create": lambda: home.valt.create_record(SPEC),
            "upload": lambda: send(home, ids, b"data"),
            "details": lambda: home.valt.details(ids.record),
            "list": lambda: home.valt.find_records("a"),
            "link": lambda: home.valt.download_link(ids),
        }
        for call, ask in calls.items():
            for echo in ECHOES:
                headers = {"Location": f"https://{value}.example/{value}"}
                body = echo.format(secret=value)
                simulator.faults.append(Fault(call=call, kind="status", status=status, body=body, headers=headers))
                with pytest.raises(errors.UploaderError) as caught:
                    await ask()
                assert value[:8].lower() not in str(caught.value).lower(), (call, echo)
