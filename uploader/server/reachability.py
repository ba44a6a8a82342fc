"""Ends the pause of the circuit breaker as soon as a server that could not be reached takes connections again.

The pauses of a long outage grow to 15 minutes. A bare TCP connect costs the server next to nothing: no request, no TLS,
no log-in. So it is tried every few seconds, and the server is in use again seconds after it is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final
from urllib.parse import urlsplit

from uploader.domain import errors, retry
from uploader.runtime.clock import Clock
from uploader.server.circuit_breaker import CircuitBreaker

CONNECT_TIMEOUT: Final = 5.0  # s
ANSWER_SIZE: Final = 1024  # bytes of a proxy's answer, whose first line is looked at
PORTS: Final = {"http": 80, "https": 443}

Reachability = Callable[[], Awaitable[bool]]  # True when a connection can be made now


async def watch(breaker: CircuitBreaker, reachable: Reachability, clock: Clock) -> None:
    """While the server cannot be reached, look every few seconds whether it can; runs until cancelled."""
    while True:
        await breaker.unreachable.wait()
        await clock.sleep(clock.uniform(*retry.CONNECT_INTERVAL))
        if breaker.unreachable.is_set() and breaker.wait > 0:
            breaker.note_connect(succeeded=await reachable())


def connects_to(url: str, *, proxy: str = "", log_in: Callable[[], str] = str) -> Reachability:
    """Return a function that makes a TCP connection to the host and port of *url* and closes it at once.

    With *proxy* it is made through that: the proxy of an https:// server is asked for a tunnel (CONNECT), with the
    header value that *log_in* returns, which may raise ``UploaderError``. For an http:// server nothing is asked.
    """
    near, far = _place(proxy or url), _place(url)

    async def connect() -> bool:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                reader, writer = await asyncio.open_connection(*near)
                try:
                    return not proxy or not url.startswith("https:") or await _tunnel(reader, writer, far, log_in())
                finally:
                    writer.close()
                    with suppress(OSError):
                        await writer.wait_closed()
        except (OSError, UnicodeError, errors.UploaderError):
            # also TimeoutError; UnicodeError: a name that no resolver can be asked for
            return False

    return connect


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or PORTS.get(parts.scheme, 443)


async def _tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to: tuple[str, int], log_in: str) -> bool:
    """Ask a proxy for a tunnel. True when it is there."""
    host = f"[{to[0]}]" if ":" in to[0] else to[0]
    head = f"CONNECT {host}:{to[1]} HTTP/1.1\r\nHost: {host}:{to[1]}\r\n"
    head += f"Proxy-Authorization: {log_in}\r\n\r\n" if log_in else "\r\n"
    writer.write(head.encode("ascii"))
    await writer.drain()
    answer = await reader.read(ANSWER_SIZE)
    return answer.split(maxsplit=2)[1:2] == [b"200"]
