"""Runs bandwidth throttles on a virtual clock and logs what each of them was allowed to send, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from fakes import VirtualClock, idle

from uploader.bandwidth import Bandwidth, UploadThrottle
from uploader.config import Config
from uploader.domain import events

ROOT: Final = "/srv/recordings"
WINDOW: Final = 0.2  # s
MUCH: Final = 1 << 20  # bytes

E = TypeVar("E", bound=events.Event)


def configured(*roots: str, settle: str = "10s", **upload: Any) -> Config:
    """Build a configuration with these keys of ``[upload]`` and these watched folders."""
    return Config.model_validate(
        {
            "server": {"url": "https://valt.example.com", "username": "uploader"},
            "upload": upload,
            "watch": [{"path": root, "settle": settle} for root in roots or (ROOT,)],
        }
    )


def limited(*throttles: UploadThrottle) -> list[bool]:
    """Say of each throttle whether it is limited now."""
    return [throttle.limited for throttle in throttles]


@dataclass
class Traffic:
    """What was sent: the moment, the throttle and the number of bytes of each piece."""

    log: list[tuple[float, int, int]] = field(default_factory=list)

    def between(self, start: float, end: float, throttle: int | None = None) -> int:
        """Count the bytes of one throttle, or of all."""
        return sum(count for at, number, count in self.log if start <= at < end and throttle in {None, number})

    def busiest(self, length: float = WINDOW) -> int:
        """Return the most bytes in any window of *length* seconds, both ends included."""
        most = total = first = 0
        for at, _, count in self.log:
            total += count
            while self.log[first][0] < at - length - 1e-9:
                total -= self.log[first][2]
                first += 1
            most = max(most, total)
        return most


class Site:
    """A running ``Bandwidth`` with a clock, a bus whose events are kept, and a disk whose pressure the test sets."""

    def __init__(self, clock: VirtualClock, config: Config) -> None:
        self.clock, self.bus = clock, events.Bus()
        self.heard: list[events.Event] = []
        self.share: float | None = None  # the pressure that the next reading gives
        self.readings = 0
        self.bandwidth = Bandwidth(config, clock, self.bus, pressure=self._read)
        self.traffic = Traffic()
        self._tasks = [asyncio.ensure_future(self.bandwidth.run())]
        self.bus.listen(self.heard.append)

    def _read(self) -> float | None:
        self.readings += 1
        return self.share

    def send(
        self, throttle: UploadThrottle, number: int, wishes: Callable[[UploadThrottle], int], after: float = 0.0
    ) -> asyncio.Task[None]:
        """Send on *throttle* until cancelled, after *after* seconds, each time as much as *wishes* says."""
        task = asyncio.ensure_future(self._send(throttle, number, wishes, after))
        self._tasks.append(task)
        return task

    async def _send(
        self, throttle: UploadThrottle, number: int, wishes: Callable[[UploadThrottle], int], after: float
    ) -> None:
        await self.clock.sleep(after)
        while True:
            wanted = wishes(throttle)
            count = await throttle.take(wanted)
            assert 1 <= count <= wanted
            self.traffic.log.append((self.clock.monotonic(), number, count))
            if not throttle.limited:
                await self.clock.sleep(0.01)  # a network takes time, too

    def workers(self, count: int, root: str = ROOT) -> list[asyncio.Task[None]]:
        """Start *count* throttles that always want to send more."""
        return [self.send(self.bandwidth.throttle(root), number, lambda _: MUCH) for number in range(count)]

    def of(self, kind: type[E]) -> list[E]:
        """Return the events of this kind so far."""
        return [event for event in self.heard if isinstance(event, kind)]

    @property
    def said(self) -> list[str]:
        """The reason of each announced change of the limit."""
        return [event.reason for event in self.of(events.BandwidthChanged)]

    async def end(self) -> None:
        """Cancel every task that was started. Raises the first error of one."""
        for task in self._tasks:
            task.cancel()
        outcomes: Iterable[object] = await asyncio.gather(*self._tasks, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome


@asynccontextmanager
async def site(config: Config, clock: VirtualClock | None = None) -> AsyncIterator[Site]:
    """Start a ``Site`` and end it."""
    here = Site(clock or VirtualClock(), config)
    await idle()
    try:
        yield here
    finally:
        await here.end()
