"""Parts of a ``Rig``: a fast clock, a state folder that a kill stops, a counting server; and helpers for contents."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from uploader.runtime.clock import SystemClock
from uploader.store.disk import Piece, StateFolder
from uploader.testing.simulator import CallName, Fault, RecordView, Settings, Simulator
from uploader.testing.simulator.wire import SimulatedAnswer

CHUNK: Final = 64 * 1024  # bytes: the smallest that may be configured
SPEED: Final = 20  # times as fast as the machine's clock


class BriskClock(SystemClock):
    """The machine's clock with waits that take a twentieth of their time and random numbers at their lower bound.

    ``now`` is the true time.
    """

    def uniform(self, low: float, high: float) -> float:
        """Return *low*: the shortest pause."""
        del high
        return low

    def monotonic(self) -> float:
        """Count twenty seconds for each second that passes."""
        return super().monotonic() * SPEED

    async def sleep(self, seconds: float) -> None:
        """Return after a twentieth of *seconds*."""
        await super().sleep(seconds / SPEED)

    def later(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        """Do *call* after a twentieth of *seconds*."""
        return super().later(seconds / SPEED, call)


class MortalDisk(StateFolder):
    """A state folder that ignores all writes once ``dead`` is set, as after a kill of its process."""

    dead = False

    def replace(self, name: str, *content: Piece) -> None:
        """Replace, unless dead."""
        if not self.dead:
            super().replace(name, *content)

    def append(self, name: str, content: bytes) -> None:
        """Append, unless dead."""
        if not self.dead:
            super().append(name, content)

    def append_cache(self, name: str, content: bytes) -> None:
        """Append, unless dead."""
        if not self.dead:
            super().append_cache(name, content)


class WatchfulSimulator(Simulator):
    """The built-in server, which also counts the concurrent upload requests of each record."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(folder, settings)
        self.at_once: Counter[str] = Counter()
        self.most_at_once = 0

    async def _exchange(self, name: CallName, request: web.Request, fault: Fault | None) -> SimulatedAnswer | None:
        key = request.match_info.get("record", "") if name == "upload" else ""
        if key:
            self.at_once[key] += 1
            self.most_at_once = max(self.most_at_once, self.at_once[key])
        try:
            return await super()._exchange(name, request, fault)
        finally:
            if key:
                self.at_once[key] -= 1


def sha256(content: bytes) -> str:
    """Return the sha256 of *content* in hexadecimal, as events, ledger and server show it."""
    return hashlib.sha256(content).hexdigest()


def content_of(size: int, seed: int = 1) -> bytes:
    """Return *size* bytes of which no two chunks are alike; they differ for each *seed*."""
    block = b"".join(
        hashlib.sha256(f"{seed}:{number}".encode()).digest() for number in range(min(size, CHUNK) // 32 + 1)
    )
    marks = (f"{seed}/{number}:".encode() + block for number in range(size // max(1, len(block)) + 1))
    return b"".join(marks)[:size]


def spans(record: RecordView) -> list[tuple[int, int]]:
    """Return the ranges that a record took, in order, as (start, end) with *end* exclusive."""
    return [(chunk.start, chunk.end + 1) for chunk in record.ranges]


def chunked(size: int, chunk: int = CHUNK) -> list[tuple[int, int]]:
    """Return the ranges in which a file of *size* bytes is sent, as (start, end) with *end* exclusive."""
    return [(start, min(start + chunk, size)) for start in range(0, size, chunk)]


def at(path: str) -> Path:
    """Return *path* as a ``Path``."""
    return Path(path)


def ready_at_once(**more: Any) -> Settings:
    """Settings of a server whose videos are ready as soon as their last byte has arrived."""
    return Settings(**({"processing": 0.0} | more))
