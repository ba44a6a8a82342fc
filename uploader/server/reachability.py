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

from uploader.domain import retry
from uploader.runtime.clock import Clock
from uploader.server.circuit_breaker import CircuitBreaker

CONNECT_TIMEOUT: Final = 5.0  # s
PORTS: Final = {"http": 80, "https": 443}

Reachability = Callable[[], Awaitable[bool]]  # True when a connection can be made now


async def watch(breaker: CircuitBreaker, reachable: Reachability, clock: Clock) -> None:
    """While the server cannot be reached, look every few seconds whether it can; runs until cancelled."""
    while True:
        await breaker.unreachable.wait()
        await clock.sleep(clock.uniform(*retry.CONNECT_INTERVAL))
        if breaker.unreachable.is_set() and breaker.wait > 0:
            breaker.note_connect(succeeded=await reachable())


def connects_to(url: str) -> Reachability:
    """Return a function that makes a TCP connection to the host and port of *url* and closes it at once."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or PORTS.get(parts.scheme, 443)

    async def connect() -> bool:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                _, writer = await asyncio.open_connection(host, port)
        except (OSError, UnicodeError):  # also TimeoutError; UnicodeError: a name that no resolver can be asked for
            return False
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        return True

    return connect
