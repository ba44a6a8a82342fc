"""How a call ends whose answer cannot be read: in words of what came, never with the name of a class of a library."""

from __future__ import annotations

import asyncio
import gzip
import inspect
import re
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aiohttp import http_exceptions
from test_client import IDS, Home
from test_origin import CALLS
from yarl import URL

from uploader.domain import errors
from uploader.server.valt import client
from uploader.server.valt.broken import NotRepeated
from uploader.server.valt.session import HEADER_LIMIT

pytestmark = pytest.mark.slow  # a thousand connections to a server of their own

ANSWERS = {
    b"login": b'{"data":{"access_token":"canary-token"}}',
    b"create-upload": b'{"id":"rec-1","videos":["vid-1"]}',
    b"/videos/": b"",
    b"records/rec-1?": b'{"data":{"id":"rec-1","videos":null}}',
    b"POST /api/v3/records?": b'{"data":{"records":[]}}',
    b"download": b'{"url":"http://127.0.0.1:1/x"}',
    b"delete": b'{"data":{"id":"rec-1"}}',
}
NOTICE = b"<br />\n<b>Notice</b>:  Undefined index: foo in <b>/var/www/x.php</b> on line <b>12</b><br />\n"
SECRETS = ("canary-token", "canary-password", "canary-cookie")


def zipped(body: bytes) -> bytes:
    """gzip, the same bytes each time."""
    return gzip.compress(body, mtime=0)


def good_answer(line: bytes) -> bytes:
    """VALT's body for the request that begins with *line*."""
    return next(body for part, body in ANSWERS.items() if part in line)


def http(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    """An answer with its length."""
    rows = b"".join(header + b"\r\n" for header in headers)
    return b"HTTP/1.1 " + status + b"\r\n" + rows + b"Content-Length: %d\r\n\r\n" % len(body) + body


@asynccontextmanager
async def odd(answer: Callable[[bytes], bytes], *, at: str, close: bool = True) -> AsyncIterator[str]:
    """A server that gives the odd *answer* to the call *at*, and good ones to the log-in before it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = re.search(rb"(?i)content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                line = head.partition(b"\r\n")[0]
                is_it = at == "login" or b"/login" not in line
                writer.write(answer(line) if is_it else http(good_answer(line)))
                await writer.drain()
                if is_it and close:
                    break
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def said(answer: Callable[[bytes], bytes], call: str, **server: Any) -> str:
    """What the call ends with; empty when it succeeds. No secret is in it, and no name of a class."""
    async with odd(answer, at=call) as url:
        home = Home(url, **server)
        async with home.valt:
            try:
                await CALLS[call](home)
            except errors.UploaderError as error:
                assert_plain(str(error))
                return f"{type(error).__name__}: {error}"
    return ""


def assert_plain(text: str) -> None:
    """No secret, and no word in camel case: ClientOSError, BadHttpMessage, LineTooLong."""
    assert not [secret for secret in SECRETS if secret in text], text
    assert re.search(r"\b[A-Z][a-z]+[A-Z][A-Za-z]*\b|Errno|0x[0-9a-f]{6}|\bNone\b", text) is None, text


# What is taken

TAKEN: dict[str, Callable[[bytes], bytes]] = {
    "a header of 60 KB": lambda body: http(body, b"X-A: " + b"a" * 60_000),
    "a status line of 60 KB": lambda body: http(body, status=b"200 " + b"O" * 60_000),
    "many headers": lambda body: http(body, *(b"X-%d: a" % number for number in range(390))),
    "many cookies": lambda body: http(body, *(b"Set-Cookie: c%d=%s" % (n, b"s" * 500) for n in range(390))),
    "240 KB of headers": lambda body: http(body, *(b"X-%d: %s" % (n, b"a" * 8000) for n in range(30))),
    "a header that is not ASCII": lambda body: http(body, b"X-A: M\xfcller"),
    "gzip that was not asked for": lambda body: http(zipped(body) if body else b"", b"Content-Encoding: gzip"),
    "gzip without its header": lambda body: http(zipped(body) if body else b""),
    "a byte order mark": lambda body: http(b"\xef\xbb\xbf" + body if body else b""),
    "HTTP/1.0 without a length": lambda body: b"HTTP/1.0 200 OK\r\n\r\n" + body,
    "chunked": lambda body: (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        + (b"%x\r\n%s\r\n" % (len(body), body) if body else b"")
        + b"0\r\n\r\n"
    ),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("what", TAKEN)
async def test_an_odd_answer_that_can_be_read_is_taken(call: str, what: str) -> None:
    """To every call: curl is answered, too."""
    assert await said(lambda line: TAKEN[what](good_answer(line)), call) == ""


@pytest.mark.parametrize("call", CALLS)
async def test_a_notice_of_php_before_the_json_is_overlooked_and_is_no_yes_to_a_chunk(call: str) -> None:
    """The JSON says what became of a call. The yes to a chunk has none, and the status may be lost: it is in doubt."""
    text = await said(lambda line: http(NOTICE + good_answer(line), b"Content-Type: text/html"), call)
    if call == "upload":
        assert text.startswith("AnswerLost: upload chunk: answered 200 with a message of PHP (Notice : Undefined index")
        assert "display_errors = Off" in text
    else:
        assert text == ""


async def test_an_error_of_valt_behind_a_notice_is_its_error_though_the_status_is_200() -> None:
    """Once PHP has printed something, the application can set no status."""
    gone = NOTICE + b'{"error":{"code":404,"message":"Not Found"}}'
    assert (await said(lambda _: http(gone), "details")).startswith("RecordGone: record details: answered 404")
    refused = NOTICE + b'{"data":{"message":"Invalid Content-Range header value"},"code":400}'
    assert (await said(lambda _: http(refused), "upload")).startswith("ChunkRefused: ")
    refused = NOTICE + b'{"data":{"message":"x"},"code":400}'
    assert (await said(lambda _: http(refused, status=b"400 No"), "upload")).startswith("ChunkRefused: ")


async def test_phps_own_warning_that_a_request_is_too_large_makes_chunks_smaller() -> None:
    """It comes with status 200, before the application has run."""
    warning = b"<br />\n<b>Warning</b>:  POST Content-Length of 9437184 bytes exceeds the limit of 8388608 bytes in "
    text = await said(lambda _: http(warning + b"<b>Unknown</b> on line <b>0</b><br />\n"), "upload")
    assert text.startswith("ChunkTooLarge: upload chunk: answered 200 with a message of PHP (Warning : POST Content-")


# What is named

NAMED: dict[str, tuple[bytes, str]] = {
    "a header of 70 KB": (http(b"", b"X-A: " + b"a" * (HEADER_LIMIT + 5000)), "headers are larger than any VALT"),
    "too many headers": (http(b"", *(b"X-%d: a" % n for n in range(2000))), "headers are larger than any VALT"),
    "both lengths": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        "has a Content-Length and is sent in chunks, too, which HTTP forbids",
    ),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", "two Content-Length"),
    "no length": (b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n{}", "Content-Length is no number"),
    "a bad name": (http(b"{}", b"X Bad Name: canary-token"), "has a name that HTTP forbids: 'X Bad Name'"),
    "a cookie in a bad name": (http(b"{}", b"Set-Cookie sid=canary-cookie: x"), "HTTP forbids: 'Set-Cookie sid'"),
    "a cookie without a colon": (http(b"{}", b"Set-Cookie canary-cookie"), "HTTP forbids: 'Set-Cookie'"),
    "a zero in a value": (http(b"{}", b"X-A: canary-token\x00b"), "a character that HTTP forbids"),
    "chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}", "the size of one is no number"),
    "ssh": (b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n", "the answer is no HTTP: 'SSH-2.0-OpenSSH_9.2p1 Debian'"),
    "http/0.9": (b"<html>hi</html>\r\n", "the answer is no HTTP: '<html>hi</html>'"),
    "an echo": (b"GET /x?access_token=canary-token HTTP/1.1\r\n\r\n", "the answer is no HTTP: "),
    "bytes": (b"\x00\xff\x01\r\n\r\n", "the answer is no HTTP: '\\x00\ufffd\\x01'"),
    "http/2": (b"HTTP/2 200\r\n\r\n", "the answer is no HTTP: 'HTTP/2 200'"),
    "nothing": (b"", "the server closed the connection"),
    "half a head": (b"HTTP/1.1 200 OK\r\nConte", "the server closed the connection"),
    "switching": (b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", "answered 101"),
}
NO_YES: dict[str, tuple[bytes, str]] = {
    "half of the JSON": (http(b'{"data":{"id":"rec-1","vid'), "with broken JSON, which begins with"),
    "a body that is cut": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n" + b'{"data',
        "with a body that was cut off",
    ),
    "latin-1": (http(b'{"data":{"id":"M\xfcller"}}'), "with bytes that are no UTF-8 text, which begins with"),
    "nothing": (http(b""), "with an empty body"),
    "a text": (http(b"It works!"), "with a text, which begins with 'It works!'"),
    "a list": (http(b"[1]"), "with a JSON list"),
    "other JSON": (http(b'{"status":"ok","token":"canary-token"}'), "a JSON object that has the keys status, token"),
    "an empty object": (http(b"{}"), "with a JSON object that has no keys"),
    "a number": (http(b"1"), "with JSON that is no object"),
    "brotli": (http(b"\x0b\x02\x80", b"Content-Encoding: br"), "compressed with br, which was not asked for"),
    "a bomb": (http(zipped(b"[" * (9 << 20))), "a compressed body that unpacks to more than 1048576 bytes"),
    "too much": (http(b"[" * (2 << 20)), "with a body of more than 1048576 bytes"),
}
PAGES: dict[str, tuple[bytes, str]] = {
    "a portal": (http(b"<html><head><title>Guest Wi-Fi: log in</title></head></html>"), "(Guest Wi-Fi: log in)"),
    "latin-1": (http("<title>Geschützt</title>".encode("latin-1")), "(Geschützt)"),
    "gzip": (http(zipped(b"<title>Back soon</title>"), b"Content-Encoding: gzip"), "(Back soon)"),
    "plain words": (http(b"Not here", b"Content-Type: text/html"), "(Not here)"),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("what", NAMED)
async def test_what_is_no_http_is_named_by_what_is_wrong_with_it(call: str, what: str) -> None:
    """With its first words, or the name of the header; the value of a header may be a secret."""
    answer, words = NAMED[what]
    assert words in await said(lambda _: answer, call)


@pytest.mark.parametrize("call", ["login", "create", "details", "list", "link"])
@pytest.mark.parametrize("what", NO_YES)
async def test_a_2xx_that_is_not_valts_is_named_by_what_it_is(call: str, what: str) -> None:
    """What may hold a secret under another name is not quoted: answers to a log-in or about a link."""
    answer, words = NO_YES[what]
    text = await said(lambda _: answer, call)
    assert text.startswith("AnswerLost: " if call == "create" else "ServerDown: ")
    assert (words.partition(", which begins")[0] if call in {"login", "link"} else words) in text


async def test_a_token_in_an_answer_that_is_not_understood_is_not_shown() -> None:
    """Neither as JSON that is cut nor as a bare text."""
    token = "eyJhbGciOiJIUzI1NiJ9.canary"
    for body in (f'{{"jwt":"{token}","x', f'["{token}"', token, f"your token: {token}"):
        answer = http(body.encode())
        text = await said(lambda _, answer=answer: answer, "login")  # type: ignore[misc]
        assert token not in text
        assert text.startswith("ServerDown: log-in: answered 200, but not as a VALT server does: with ")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("what", PAGES)
async def test_a_page_is_named_with_its_title(call: str, what: str) -> None:
    """A captive portal, a balancer; it is a doubt where a call changes something, and never a yes."""
    answer, title = PAGES[what]
    text = await said(lambda _: answer, call)
    assert f"answered 200 with a page instead of VALT's answer {title}" in text
    assert text.startswith("AnswerLost: " if call in {"create", "upload", "delete"} else "ProxyAnswered: ")


@pytest.mark.parametrize("what", ["brotli", "a bomb", "too much"])
async def test_an_answer_that_cannot_be_read_is_no_yes_to_a_chunk(what: str) -> None:
    """A page may be in it."""
    text = await said(lambda _: NO_YES[what][0], "upload")
    assert text.startswith("AnswerLost: upload chunk: answered 200 with a ")
    assert NO_YES[what][1] in text


@pytest.mark.parametrize("body", [NOTICE, b"PHP Fatal error:  no in /x.php on line 3\n", b"Parse error: x"])
async def test_a_failure_of_php_is_no_yes(body: bytes) -> None:
    """Also as plain text."""
    text = await said(lambda _: http(body, b"Content-Type: text/plain"), "upload")
    assert text.startswith("AnswerLost: upload chunk: answered 200 with a message of PHP (")
    assert "with a message of PHP (" in await said(lambda _: http(body), "details")


# Every exception of the library


KEY: Any = SimpleNamespace(ssl=True, host="valt", port=443, is_ssl=True)
INFO: Any = SimpleNamespace(real_url=URL("http://valt/x?access_token=canary-token"))
FAILED = OSError(111, "SomeErrorClass canary-token")
NOT_TRUSTED = ssl.SSLCertVerificationError(1, "SomeErrorClass canary-token")
# How an exception is made: the first row that fits. Each has a text that must not be shown.
MAKERS: list[tuple[type[BaseException], tuple[Any, ...], dict[str, Any]]] = [
    (aiohttp.ClientConnectorCertificateError, (KEY, NOT_TRUSTED), {}),
    (aiohttp.ServerFingerprintMismatch, (b"1", b"2", "valt", 443), {}),
    (aiohttp.client_exceptions.UnixClientConnectorError, ("/canary-token", KEY, FAILED), {}),
    (aiohttp.ClientConnectorError, (KEY, FAILED), {}),
    (NotRepeated, (aiohttp.ClientOSError(32, "SomeErrorClass canary-token"),), {}),
    (aiohttp.ClientResponseError, (INFO, ()), {"status": 400, "message": "SomeErrorClass: canary-token"}),
    (aiohttp.InvalidURL, ("http://valt/x?access_token=canary-token",), {}),
    (http_exceptions.LineTooLong, (b"canary-token", 10), {}),
    (http_exceptions.InvalidHeader, ("SomeErrorClass canary-token",), {}),
    (http_exceptions.BadStatusLine, ("SomeErrorClass canary-token",), {}),
    (http_exceptions.InvalidURLError, ("SomeErrorClass canary-token",), {}),
    (http_exceptions.HttpProcessingError, (), {"message": "SomeErrorClass: canary-token"}),
    (UnicodeEncodeError, ("idna", "canary-token", 0, 1, "label empty or too long"), {}),
    (asyncio.IncompleteReadError, (b"canary-token", 99), {}),
    (OSError, (5, "SomeErrorClass canary-token"), {}),
    (BaseException, ("SomeErrorClass canary-token",), {}),
]


def made(kind: type[BaseException]) -> BaseException:
    """An exception of this kind."""
    texts, more = next((texts, more) for base, texts, more in MAKERS if issubclass(kind, base))
    return kind(*texts, **more)


def kinds() -> list[type[BaseException]]:
    """Every exception that a request may raise: aiohttp's, those of sockets and TLS, and what lies below them."""
    found = [kind for _, kind in inspect.getmembers(aiohttp.client_exceptions, inspect.isclass)]
    found += [kind for _, kind in inspect.getmembers(http_exceptions, inspect.isclass)]
    found += [kind for _, kind in inspect.getmembers(ssl, inspect.isclass)]
    found += [OSError, *OSError.__subclasses__(), *ConnectionError.__subclasses__(), socket.gaierror, socket.herror]
    found += [asyncio.IncompleteReadError, TimeoutError, UnicodeEncodeError, NotRepeated]
    wanted = aiohttp.ClientError | http_exceptions.HttpProcessingError | OSError | EOFError | UnicodeError
    unique = dict.fromkeys(kind for kind in found if issubclass(kind, wanted))
    return sorted(unique, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("proxied", [False, True])
@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
async def test_no_exception_of_a_library_reaches_a_reason(
    kind: type[BaseException], connected: bool, proxied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a request raises, before or after its connection was made: an error of ours, in words."""

    class Broken:
        def __init__(self, note_connection: Callable[[], None]) -> None:
            self.note_connection = note_connection

        async def __aenter__(self) -> None:
            if connected:
                self.note_connection()
            raise made(kind)

        async def __aexit__(self, *_: object) -> None:
            """Do nothing."""

    def request(*_: object, trace_request_ctx: Callable[[], None], **__: object) -> Broken:
        return Broken(trace_request_ctx)

    home = Home("https://127.0.0.1:9", **({"proxy": "http://127.0.0.1:8"} if proxied else {}))
    async with home.valt:
        home.valt._token = client._Token("canary-token", 1e9)
        monkeypatch.setattr(home.valt._session._session, "request", request)
        monkeypatch.setattr(home.valt, "download_link", _link)
        calls: dict[str, Callable[[Home], Awaitable[object]]] = CALLS | {
            "size": lambda home: home.valt.video_size(IDS),
            "download": lambda home: anext(home.valt.download(IDS)),
        }
        del calls["link"]  # replaced: ``details`` takes the same way
        for name, call in calls.items():
            home.valt._token = None if name == "login" else client._Token("canary-token", 1e9)
            with pytest.raises(errors.UploaderError) as caught:
                await call(home)
            assert_plain(str(caught.value))
            assert "SomeErrorClass" not in str(caught.value)
            if proxied and not connected:
                assert not isinstance(caught.value, errors.AnswerLost), "nothing was sent, so nothing is in doubt"


async def _link(_: object) -> str:
    return "https://127.0.0.1:9/x"


async def test_a_host_name_that_cannot_be_asked_for_is_a_server_that_is_away() -> None:
    """An empty label, or one that is too long: the name service is not even asked."""
    for host in ("valt..example.com", "x" * 70 + ".example.com"):
        home = Home(f"https://{host}")
        async with home.valt:
            with pytest.raises(errors.Unreachable, match=r"cannot be reached: .*is server.url right\?") as caught:
                await home.valt.login_if_needed()
            assert_plain(str(caught.value))


async def test_a_long_list_that_is_called_html_is_read() -> None:
    """PHP calls everything so; a list of a hundred records may be longer than what is searched for a failure."""
    rows = ",".join(f'{{"id":"r-{number}","name":"{"x" * 900}"}}' for number in range(99))
    body = f'{{"data":{{"records":[{rows},{{"id":"rec-9","name":"a"}}]}}}}'.encode()
    async with odd(lambda _: http(body, b"Content-Type: text/html"), at="list", close=False) as url:
        home = Home(url)
        async with home.valt:
            assert [row.record for row in await home.valt.find_records("a")] == ["rec-9"]


async def test_a_secret_at_the_end_of_what_is_read_of_a_page_is_masked() -> None:
    """Also a part of it."""
    for at in range(4060, 4100, 5):
        page = b"<b>x</b>" + b"<br/>" * ((at - 8) // 5) + b"canary-password"
        for call, status in (
            ("details", b"200 OK"),
            ("details", b"502 No"),
            ("login", b"200 OK"),
            ("upload", b"400 No"),
        ):
            text = await said(lambda _, page=page, status=status: http(page, status=status), call)  # type: ignore[misc]
            assert "canary" not in text
