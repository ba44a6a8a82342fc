"""HTTP with one server: connections, limits of what is read, the way through a proxy, the cookies of an upload.

No redirect is followed, and no proxy is taken from the environment: each would give the token away.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any, Final

import aiohttp
from yarl import URL

from uploader import __version__
from uploader.config import ServerConfig
from uploader.server.valt import wire
from uploader.server.valt.answer import ApiAnswer
from uploader.server.valt.broken import AnswerTooLarge, NotRepeated
from uploader.server.valt.content import CUT_OFF, unpacked
from uploader.server.valt.cookies import CookieJar
from uploader.server.valt.proxy import ProxyRoute
from uploader.server.valt.sendfile import connection
from uploader.server.valt.tls import tls_of
from uploader.server.valt.watchdog import Watchdog

IDLE_TIME: Final = 4.0  # s until an unused connection is closed: Apache closes it after 5 s, in the middle of a call
DNS_CACHE_TIME: Final = 10  # s after which a new connection looks the server's name up again
HEADER_LIMIT: Final = 64 * 1024  # bytes of one header of an answer; single sign-on boxes send some of 20 KiB
HEADERS_LIMIT: Final = 256 * 1024  # bytes of all headers of an answer
HEADERS_KEPT: Final = 400  # headers of an answer; before its end nothing else bounds it: 25 MiB at the very most


class Session:
    """The connections to one server and, beside it, to the host of its download links. An async context manager."""

    def __init__(self, server: ServerConfig, route: ProxyRoute) -> None:
        self._server, self._route = server, route
        self._session: aiohttp.ClientSession | None = None

    async def open(self, connect_timeout: float) -> None:
        """Make ready for calls."""
        connector = aiohttp.TCPConnector(
            ssl=tls_of(self._server),
            limit=0,
            keepalive_timeout=IDLE_TIME,
            ttl_dns_cache=DNS_CACHE_TIME,
            socket_factory=connection,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            trust_env=False,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            # The default total of 300 s would end every long upload; ``watched`` bounds each call instead.
            timeout=aiohttp.ClientTimeout(total=None, connect=min(connect_timeout, self._server.stall_timeout / 2)),
            headers={"User-Agent": f"valt-uploader/{__version__}", "Accept-Encoding": "identity"},
            max_line_size=HEADER_LIMIT,
            max_field_size=HEADER_LIMIT,
            max_headers=HEADERS_KEPT,
            trace_configs=[_connections()],
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: URL,
        watchdog: Watchdog,
        *,
        jar: CookieJar | None = None,
        once: bool = False,
        **more: Any,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Make one request, and give the head of its answer. With *jar* its cookies are sent, and new ones noted.

        *once*: aiohttp makes a GET again by itself when its connection breaks; not this one.
        """
        if self._session is None:
            raise RuntimeError("the client is used outside its context")
        options = self._route.options(url)
        headers = dict(more.pop("headers", None) or {}) | options.pop("headers", {})
        if jar is not None and (cookies := jar.header(str(url))):
            headers["Cookie"] = cookies
        if once:
            more["middlewares"] = (_never_again,)

        def connected() -> None:
            watchdog.connected = True

        async with self._session.request(
            method, url, allow_redirects=False, headers=headers, trace_request_ctx=connected, **options, **more
        ) as response:
            if sum(len(name) + len(value) for name, value in response.raw_headers) > HEADERS_LIMIT:
                response.close()
                raise AnswerTooLarge
            if jar is not None:
                jar.note(_set_cookies(response), str(url))
            yield response

    async def exchange(
        self, method: str, url: URL, watchdog: Watchdog, mask: Callable[[str], str], **request: Any
    ) -> ApiAnswer:
        """Make a request, and read the whole answer. *mask* takes secrets out of what is shown of it."""
        async with self.request(method, url, watchdog, **request) as response:
            answer = await _read(response, mask)
            if not answer.good:
                response.close()  # refused early: the rest of the body is not sent on this connection
        return answer


def _set_cookies(response: aiohttp.ClientResponse) -> list[str]:
    return [value.decode("latin-1") for name, value in response.raw_headers if name.lower() == b"set-cookie"]


def _connections() -> aiohttp.TraceConfig:
    """Tell the watchdog of each request when it has its connection: before that, nothing of it was sent."""

    async def connected(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx()

    traces = aiohttp.TraceConfig()
    traces.on_connection_create_end.append(connected)
    traces.on_connection_reuseconn.append(connected)
    return traces


async def _never_again(request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
    """Pass a request on. aiohttp repeats one after the two errors that are replaced here, and after no other."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise NotRepeated(error) from None


async def _read(response: aiohttp.ClientResponse, mask: Callable[[str], str]) -> ApiAnswer:
    """Read an answer, at most ``wire.ANSWER_LIMIT`` bytes of it."""
    packed, flaw = bytearray(), CUT_OFF
    with suppress(aiohttp.ClientPayloadError):  # cut off: the status and what has arrived are used
        async for block in response.content.iter_any():
            packed += block
            if len(packed) > wire.ANSWER_LIMIT:
                response.close()
                flaw = f"with a body of more than {wire.ANSWER_LIMIT} bytes"
                break
        else:
            flaw = ""
    headers = {name.lower(): value for name, value in response.headers.items()}
    body, odd = unpacked(bytes(packed[: wire.ANSWER_LIMIT]), headers.get("content-encoding", ""), wire.ANSWER_LIMIT)
    return ApiAnswer(response.status, headers, body, flaw or odd, mask)
