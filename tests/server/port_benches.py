"""The two implementations that the scenarios of the port are played against."""

from __future__ import annotations

import asyncio
import heapq
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final, Literal

from aiohttp import web
from fakes import EPOCH, until
from port_bench import Mishap, Play, ShiftedClock, what_was_sent_has_arrived
from simulation.client import CHUNK_FAULTS, FAULTS, Client
from simulation.kernel import NEVER, Loop
from simulation.server import NOT_THERE, PASSWORD, SORRY, USER, Request
from simulation.server import Server as WorldServer
from test_client import CountingBreaker

from uploader.config import ServerConfig
from uploader.domain import events
from uploader.server.port import Server
from uploader.server.valt import Valt
from uploader.testing.simulator import CallName, Fault, Settings, Simulator
from uploader.testing.simulator.semantics import Semantics
from uploader.testing.simulator.wire import SimulatedAnswer

SHIFT: Final = -86400.0  # s by which the client's clock is wrong
STALL_TIMEOUT: Final = 30.0  # s; no scenario waits for it
AT_ONCE: Final = 1.0  # s of virtual time, in which no slow answer comes
STEPS: Final = 100_000  # of the virtual loop, at most


class _Client:
    """What both benches keep of the client. *make*: its class."""

    def __init__(self, make: Callable[..., Server], url: str, true_time: Callable[[], float]) -> None:
        self.clock = ShiftedClock(true_time, SHIFT)
        self.breaker = CountingBreaker()
        self.password = PASSWORD
        self.requests: Counter[str] = Counter()
        self.server = make(
            ServerConfig(url=url, username=USER, stall_timeout=STALL_TIMEOUT),
            password=lambda: self.password,
            clock=self.clock,
            bus=events.Bus(),
            remember=lambda _: None,
            breaker=self.breaker,
        )


# Over the loopback


class _Watched(Simulator):
    """The built-in server, which counts its requests and keeps those that it has not answered."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(folder, settings)
        self.requests: Counter[str] = Counter()
        self.open: list[tuple[CallName, web.Request]] = []
        self.whole: Counter[str] = Counter()

    async def _exchange(self, name: CallName, request: web.Request, fault: Fault | None) -> SimulatedAnswer | None:
        self.requests[name] += 1
        self.open.append((name, request))
        try:
            return await super()._exchange(name, request, fault)
        finally:
            self.open.remove((name, request))
            self.whole[name] += is_whole(request)


def is_whole(request: web.Request) -> bool:
    """True when the last byte of a request has arrived."""
    return request.content.total_bytes == (request.content_length or 0)


FAULT_OF: Final[dict[Mishap, dict[str, Any]]] = {
    Mishap.ANSWER_LOST: {"kind": "lose-answer"},
    Mishap.DONE_THEN_502: {"kind": "store-then-status"},
    Mishap.FAILED: {"kind": "status", "status": 500, "body": "{}"},
    Mishap.BUSY: {"kind": "status", "status": 503, "headers": {"Retry-After": "7"}, "body": ""},
    Mishap.FORBIDDEN: {"kind": "status", "status": 403},
    Mishap.PROXY_SAYS_404: {"kind": "status", "status": 404, "body": NOT_THERE.decode()},
    Mishap.PROXY_SAYS_200: {"kind": "status", "status": 200, "body": SORRY.decode()},
    Mishap.TOKEN_EXPIRED: {"kind": "expire-token"},
    Mishap.TOKEN_EXPIRED_EARLY: {"kind": "status", "status": 401, "after_bytes": 1000},
    Mishap.TOO_LARGE: {"kind": "status", "status": 413},
    Mishap.TOO_LARGE_EARLY: {"kind": "status", "status": 413, "after_bytes": 1000},
    Mishap.CUT: {"kind": "cut-body", "after_bytes": 1000},
    Mishap.SLOW: {"kind": "stall"},
}


class LoopbackBench(_Client):
    """The VALT client before the built-in server."""

    long = 40 * 1024 * 1024  # more than all buffers of the loopback hold

    def __init__(self, simulator: _Watched) -> None:
        super().__init__(Valt, simulator.url, time.time)
        self._simulator = simulator
        self._faults: list[Fault] = []
        self.requests = simulator.requests

    def go_wrong(self, call: CallName, mishap: Mishap) -> None:
        """Let the next *call* go wrong."""
        self._faults.append(Fault(call=call, **FAULT_OF[mishap]))
        self._simulator.faults.append(self._faults[-1])

    async def go_away(self) -> None:
        """Stop serving."""
        await self._simulator.stop()

    def close_downloads(self) -> None:
        """Let links lead to a port at which nothing listens."""
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            self._simulator._api.base_url = f"http://127.0.0.1:{closed.getsockname()[1]}"

    def held(self) -> dict[str, bytes]:
        """What lies in the server's folder."""
        return {
            record.id: record.path.read_bytes() if record.path.exists() else b"" for record in self._simulator.records()
        }

    def release(self) -> None:
        """Let what stands still go on."""
        for fault in self._faults:
            fault.release()

    def arrived(self, call: CallName) -> int:
        """Count what is answered and what is not yet."""
        waiting = (request for name, request in self._simulator.open if name == call)
        return self._simulator.whole[call] + sum(map(is_whole, waiting))

    async def under_way(self, call: CallName) -> None:
        """Wait for a request of this kind."""
        await until(lambda: any(name == call for name, _ in self._simulator.open))

    async def quiet(self) -> None:
        """Wait until the server has read what was sent, and every request that it has not answered is cut."""
        await what_was_sent_has_arrived(self)

        def connected(request: web.Request) -> bool:
            return request.transport is not None and not request.transport.is_closing()

        await until(lambda: not any(connected(request) for _, request in self._simulator.open))


@asynccontextmanager
async def over_loopback(folder: Path, semantics: Semantics) -> AsyncIterator[LoopbackBench]:
    """Run the built-in server and connect the VALT client to it."""
    settings = Settings(username=USER, password=PASSWORD, semantics=semantics, processing=0.0)
    simulator = _Watched(folder, settings)
    await simulator.start()
    try:
        bench = LoopbackBench(simulator)
        async with bench.server:
            yield bench
    finally:
        await simulator.stop()


# In a simulated world


class _Time:
    """The time of a loop that nothing kills."""

    def __init__(self) -> None:
        self.now, self.steps, self.kill_at, self.life = 0.0, 0, STEPS + 1, 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def chance(self) -> float:
        """Run what waits in the order in which it came."""
        return 0.0

    def kill(self) -> None:
        """Never happens."""
        raise AssertionError("nothing is killed here")

    def at_rest(self) -> None:
        """Nothing is to be done."""

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        """Let *event* happen *seconds* from now."""
        heapq.heappush(self._events, (self.now + seconds, next(self._order), event))

    def next_event(self) -> float:
        """When the next one is due."""
        return self._events[0][0] if self._events else NEVER

    def let_events_happen(self) -> None:
        """Do what is due."""
        while self._events and self._events[0][0] <= self.now:
            heapq.heappop(self._events)[2]()


WORLD_FAULT_OF: Final[dict[Mishap, str]] = {
    Mishap.ANSWER_LOST: "done-lost",
    Mishap.DONE_THEN_502: "done-502",
    Mishap.FAILED: "500",
    Mishap.BUSY: "503",
    Mishap.FORBIDDEN: "403",
    Mishap.PROXY_SAYS_404: "proxy-404",
    Mishap.PROXY_SAYS_200: "proxy-200",
    Mishap.TOKEN_EXPIRED: "expired",
    Mishap.TOKEN_EXPIRED_EARLY: "early-401",
    Mishap.TOO_LARGE: "413",
    Mishap.TOO_LARGE_EARLY: "early-413",
    Mishap.CUT: "cut",
    Mishap.SLOW: "slow",
}


class _Ground:
    """What client and server of a world need of it: here what goes wrong is chosen, not rolled."""

    life = 0
    lost_logins = 0

    def __init__(self, time: _Time, semantics: Semantics) -> None:
        self._time = time
        self.server = WorldServer(self, semantics)
        self.requests: Counter[str] = Counter()
        self.faults: list[tuple[CallName, str]] = []
        self.open: list[Request] = []
        self.whole: Counter[str] = Counter()
        self.down = False
        self._rolls: list[float] = []

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self._time.now

    @now.setter
    def now(self, seconds: float) -> None:
        self._time.now = seconds

    def true_wall(self) -> float:
        """Unix seconds."""
        return EPOCH + self._time.now

    def chance(self) -> float:
        """The number that picks the fault which was chosen; else the middle."""
        return self._rolls.pop() if self._rolls else 0.5

    def act(self, life: int, what: str) -> None:
        """Nothing is traced."""

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        """Let *event* happen *seconds* from now."""
        self._time.after(seconds, event)

    def is_down(self) -> bool:
        """True when the server has gone away."""
        return self.down

    def before_request(self, request: Request) -> None:
        """Count it."""
        self.open.append(request)
        self.requests[call_of(request)] += 1

    def link_fails(self) -> bool:
        """True when something was to go wrong with the request that was counted last."""
        call = call_of(self.open[-1])
        kind = next((kind for name, kind in self.faults if name == call), None)
        if kind is None:
            return False
        self.faults.remove(next(fault for fault in self.faults if fault == (call, kind)))
        among = CHUNK_FAULTS if call == "upload" else FAULTS
        self._rolls.append((among.index(kind) + 0.5) / len(among))
        return True

    def before_last_byte(self, request: Request) -> None:
        """Count it."""
        self.whole[call_of(request)] += 1

    def ended(self, request: Request) -> None:
        """Note that the client does not wait for it any more."""
        self.open = [one for one in self.open if (one.path, one.token) != (request.path, request.token)]


def call_of(request: Request) -> CallName | Literal["download"]:
    """Name a request as the built-in server does."""
    if request.path.startswith("/distribution/"):
        return "download"
    parts = request.path.removeprefix("/api/v3/").split("/")
    by_path: dict[tuple[str, ...], CallName] = {
        ("login",): "login",
        ("records", "create-upload"): "create",
        ("records",): "list",
        ("admin", "general"): "version",
    }
    if (name := by_path.get(tuple(parts))) is not None:
        return name
    if parts[:2] == ["records", "download"]:
        return "link"
    by_end: dict[str, CallName] = {"delete": "delete", "videos": "upload"}
    return "details" if len(parts) == 2 else by_end[parts[2]]


class WorldBench(_Client):
    """The client and the server of the simulated worlds."""

    long = 64 * 1024  # a fault strikes in the middle of any chunk

    def __init__(self, time: _Time, semantics: Semantics) -> None:
        self._ground = ground = _Ground(time, semantics)
        super().__init__(Client, "https://valt", ground.true_wall)
        assert isinstance(self.server, Client)
        self.server.ground = ground
        ground.server.origin = "https://valt"
        self.requests = ground.requests

    def go_wrong(self, call: CallName, mishap: Mishap) -> None:
        """Let the next *call* go wrong."""
        self._ground.faults.append((call, WORLD_FAULT_OF[mishap]))

    async def go_away(self) -> None:
        """Refuse every connection."""
        self._ground.down = True

    def close_downloads(self) -> None:
        """Refuse every connection to the port of downloads."""
        self._ground.server.hands_out = False

    def held(self) -> dict[str, bytes]:
        """What the server keeps."""
        return {record.id: record.content for record in self._ground.server.records.values() if not record.deleted}

    def release(self) -> None:
        """Nothing waits for it: time passes by itself."""

    def arrived(self, call: CallName) -> int:
        """Count those whose last byte the link has taken."""
        return self._ground.whole[call]

    async def under_way(self, call: CallName) -> None:
        """Wait for a request of this kind."""
        await _virtually(lambda: any(call_of(request) == call for request in self._ground.open))

    async def quiet(self) -> None:
        """Wait until the client waits for nothing."""
        await _virtually(lambda: not self._ground.open, within=AT_ONCE)


async def _virtually(condition: Callable[[], bool], *, within: float = STALL_TIMEOUT) -> None:
    """Let virtual time pass until *condition* holds, at most *within* seconds."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - any condition will do
            await asyncio.sleep(0.01)


def in_a_world(play: Play, semantics: Semantics) -> None:
    """Play a scenario in virtual time, to its end."""
    time = _Time()

    async def main() -> None:
        bench = WorldBench(time, semantics)
        async with bench.server:
            await play(bench)

    Loop(time, STEPS).live(main())
