"""A server that could not be reached is used again seconds after it takes connections, by a virtual clock."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest
from fakes import MemoryDisk, VirtualClock, idle

from uploader.domain import errors, events, retry
from uploader.domain.retry import HOUR, MINUTE
from uploader.server.circuit_breaker import CircuitBreaker
from uploader.server.reachability import connects_to, watch
from uploader.store import Store

REFUSED = errors.Unreachable("cannot be reached: Connection refused")


class Line:
    """The line to a server: whether it takes connections, and how often that was looked at."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.up = False
        self.looks = 0
        self.said: list[events.Event] = []
        bus = events.Bus()
        bus.listen(self.said.append)
        self.store = Store(MemoryDisk(), self.clock, bus)
        self.breaker = CircuitBreaker(self.store, self.clock, bus)

    async def reachable(self) -> bool:
        """Look."""
        self.looks += 1
        return self.up

    async def away_for(self, seconds: float) -> None:
        """Let every call fail for so long, as soon as the breaker lets it through."""
        end = self.clock.monotonic() + seconds
        while (left := end - self.clock.monotonic()) > 0:
            await self.breaker.trip(REFUSED)
            await self.clock.advance(min(left, self.breaker.wait))


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    """A server that does not take connections, and somebody who looks whether it does."""
    line = Line()
    watching = asyncio.create_task(watch(line.breaker, line.reachable, line.clock))
    yield line
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    await line.store.close()


@pytest.mark.parametrize("away", [MINUTE, HOUR, 60 * HOUR])
async def test_a_server_that_is_back_is_called_within_ten_seconds(line: Line, away: float) -> None:
    """However long it was away: the pause has grown to a quarter of an hour, and ends early."""
    await line.away_for(away)
    await line.breaker.trip(REFUSED)
    assert line.breaker.wait > 10.0
    line.up = True
    await line.clock.advance(10.0)
    assert line.breaker.wait == 0.0
    await line.breaker.clear()
    assert line.breaker.going_on  # a connection alone is no answer: one call goes first
    looks = line.looks
    line.breaker.record_success()
    await line.clock.advance(HOUR)
    assert line.looks == looks  # nobody looks while the server answers


async def test_a_server_is_looked_at_every_five_to_ten_seconds(line: Line) -> None:
    """Six to twelve bare connects a minute, which cost it next to nothing; none before it could not be reached."""
    await line.clock.advance(HOUR)
    assert (line.looks, line.clock.sleepers) == (0, 0)
    await line.away_for(HOUR)
    assert 0.9 * HOUR / retry.CONNECT_INTERVAL[1] <= line.looks <= HOUR / retry.CONNECT_INTERVAL[0]


async def test_only_one_pause_is_ended_for_a_server_that_takes_connections_and_does_not_answer(line: Line) -> None:
    """A hung server accepts in its kernel: the pauses grow all the same, and it is not called every ten seconds."""
    line.up = True
    calls = 0
    for _ in range(8):
        await line.breaker.trip(REFUSED)
    began = line.clock.monotonic()
    while line.clock.monotonic() < began + HOUR:
        await line.breaker.trip(REFUSED)
        calls += 1
        await line.clock.advance(1.0)
        while line.breaker.wait > 0:
            await line.clock.advance(1.0)
    assert 3 <= calls <= 12
    line.up = False
    await line.breaker.trip(REFUSED)
    await line.clock.advance(10.0)  # now it is seen to be away
    assert line.breaker.wait > 0
    line.up = True
    await line.clock.advance(10.0)
    assert line.breaker.wait == 0.0


@pytest.mark.parametrize("error", [errors.ServerDown("503"), errors.PasswordRefused("401")])
async def test_a_connection_ends_no_other_pause(line: Line, error: errors.UploaderError) -> None:
    """A server that was reached and refused to work is not looked at, and its pause stays."""
    line.up = True
    await line.breaker.trip(REFUSED)
    line.breaker.reset()
    for _ in range(8):
        pause = await line.breaker.trip(error)
        await line.clock.advance(pause)
    pause = await line.breaker.trip(error)
    await line.clock.advance(pause - 1.0)
    assert line.looks == 0
    assert line.breaker.wait == 1.0


async def test_a_real_connection_is_made_and_closed() -> None:
    """Nothing is sent. A closed port, or a name that does not resolve, is no connection."""
    received: list[bytes] = []
    seen = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(await reader.read())
        writer.close()
        seen.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        assert await connects_to(f"https://127.0.0.1:{port}")()
        async with asyncio.timeout(10):
            await seen.wait()
    assert received == [b""]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        assert not await connects_to(f"http://127.0.0.1:{free.getsockname()[1]}/valt")()
    assert not await connects_to("http://" + "x" * 70 + ".invalid")()
    await idle()
