"""What the scenarios of ``uploader.server.port`` are made of: a ``Bench``, what can go wrong at it, and short words.

``test_port_conformance`` plays each scenario against the VALT client with the built-in server over the loopback, and
against the client and server of the simulated worlds in virtual time. A scenario uses the port and looks at what the
server holds; it knows nothing of HTTP.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, Protocol

import pytest
from sources import Blocks
from test_client import CountingBreaker

from uploader.domain.model import RecordIds, RecordSpec
from uploader.runtime.clock import SystemClock
from uploader.server.port import Server, Throttle
from uploader.testing.simulator import CallName
from uploader.testing.simulator.semantics import Semantics

WRONG_PASSWORD: Final = "marked-secret-wrong"
SPEC: Final = RecordSpec("lecture")
DATA: Final = b"some bytes of a recording"
CLOCK_RESOLUTION: Final = 2.0  # s, of a Date header and what was rounded on the way


class Mishap(Enum):
    """What goes wrong with one call."""

    ANSWER_LOST = auto()  # the work is done, then the connection breaks
    DONE_THEN_502 = auto()  # the work is done, and a proxy answers 502
    FAILED = auto()  # 500, and the work is not done
    BUSY = auto()  # 503 with Retry-After: 7
    FORBIDDEN = auto()  # 403
    PROXY_SAYS_404 = auto()  # a page, and the work is not done
    PROXY_SAYS_200 = auto()  # a page, and the work is not done
    TOKEN_EXPIRED = auto()  # 401 after the whole request: the server has forgotten every token
    TOKEN_EXPIRED_EARLY = auto()  # 401 in the middle of a chunk
    TOO_LARGE = auto()  # 413 after the whole request
    TOO_LARGE_EARLY = auto()  # 413 in the middle of a chunk
    CUT = auto()  # the connection breaks in the middle of a chunk
    SLOW = auto()  # the answer does not come until ``release``, in virtual time for a while


class ShiftedClock(SystemClock):
    """A clock that is *shift* seconds ahead of the server's, over any event loop."""

    def __init__(self, true_time: Callable[[], float], shift: float) -> None:
        super().__init__()
        self.true_time, self.shift = true_time, shift
        self.stood = 0.0  # s that the monotonic clock has stood still

    def now(self) -> float:
        """Unix seconds, wrong."""
        return self.true_time() + self.shift

    def monotonic(self) -> float:
        """Seconds of the event loop, less those for which the machine slept."""
        return asyncio.get_running_loop().time() - self.stood


class Bench(Protocol):
    """An implementation of the port, and the server behind it as its owner sees it."""

    server: Server
    clock: ShiftedClock
    breaker: CountingBreaker
    password: str  # what the client logs in with
    requests: Counter[str]  # that have reached the server, by call
    long: int  # bytes of a chunk that cannot be on its way whole before the server has read its beginning

    def go_wrong(self, call: CallName, mishap: Mishap) -> None:
        """Let the next *call* go wrong."""

    async def go_away(self) -> None:
        """Let the server be unreachable from now on."""

    def close_downloads(self) -> None:
        """Let the address that links lead to be unreachable from now on."""

    def held(self) -> dict[str, bytes]:
        """By id of each record that exists: the bytes of its video so far."""

    def release(self) -> None:
        """Let what is slow go on."""

    def arrived(self, call: CallName) -> int:
        """Count the requests of this kind that have reached the server to their last byte."""

    async def under_way(self, call: CallName) -> None:
        """Return when a request of this kind has reached the server and is not answered yet."""

    async def quiet(self) -> None:
        """Return when no request of the client's is under way any more. Fails after a while."""


Play = Callable[[Bench], Awaitable[None]]


@dataclass(frozen=True)
class Scenario:
    """A behaviour, and the kind of server that it needs."""

    play: Play
    semantics: Semantics

    def __str__(self) -> str:
        return self.play.__name__


class Scenarios(list[Scenario]):
    """The scenarios of a module."""

    def add(self, semantics: Semantics = Semantics.OFFSET) -> Callable[[Play], Play]:
        """Add one that is played before a server of this kind; a decorator."""

        def decorate(play: Play) -> Play:
            self.append(Scenario(play, semantics))
            return play

        return decorate


@contextmanager
def fails(kind: type[Exception]) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Expect an error of exactly this kind, whose text gives no secret away."""
    with pytest.raises(kind) as caught:
        yield caught
    assert type(caught.value) is kind
    assert not any(secret in str(caught.value) for secret in ("marked-secret", "access_token", "/api/"))


async def nothing() -> None:
    """Save no mark."""


class Marks:
    """A ``before_last_byte`` that a test holds back: ``reached`` is set when it is awaited."""

    def __init__(self) -> None:
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> None:
        """Wait."""
        self.reached.set()
        await self.go_on.wait()


class Slowly(Throttle):
    """At most so many bytes at a time."""

    def __init__(self, most: int) -> None:
        self._most = most

    async def take(self, wanted: int) -> int:
        """Allow a little."""
        return min(wanted, self._most)


async def send(
    bench: Bench,
    ids: RecordIds,
    data: bytes = DATA,
    *,
    start: int = 0,
    total: int | None = None,
    mark: Callable[[], Awaitable[None]] = nothing,
    then: Exception | None = None,
) -> int | None:
    """Send *data* as the range from *start* of a file of *total* bytes; the source fails with *then* at its end."""
    span = start, start + len(data), len(data) if total is None else total
    return await bench.server.send_chunk(
        ids, "/rec/a.mp4", span, Blocks(data, then=then), before_last_byte=mark, on_progress=lambda _: None
    )


async def what_was_sent_has_arrived(bench: Bench) -> None:
    """Wait until the server must have read what was sent before: it has answered what was asked after it."""
    for _ in range(3):
        await bench.server.version()
