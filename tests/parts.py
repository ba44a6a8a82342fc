"""What a rig is made of: a hurried clock, a disk that dies, a watchful server; and words for files and ranges."""

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
SPEED: Final = 20


class BriskClock(SystemClock):
    """The machine's clock, but every wait takes a twentieth of its time, and every roll of the dice falls low.

    What is written down is the true time.
    """

    def uniform(self, low: float, high: float) -> float:
        """The shortest of all pauses."""
        del high
        return low

    def monotonic(self) -> float:
        """Seconds that never jump, twenty to a second."""
        return super().monotonic() * SPEED

    async def sleep(self, seconds: float) -> None:
        """Return after a twentieth of *seconds*."""
        await super().sleep(seconds / SPEED)

    def later(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        """Do it after a twentieth of *seconds*."""
        return super().later(seconds / SPEED, call)


class MortalDisk(StateFolder):
    """A state folder that no write reaches any more once its process counts as killed."""

    dead = False

    def replace(self, name: str, *content: Piece) -> None:
        """Replace, while alive."""
        if not self.dead:
            super().replace(name, *content)

    def append(self, name: str, content: bytes) -> None:
        """Append, while alive."""
        if not self.dead:
            super().append(name, content)

    def append_cache(self, name: str, content: bytes) -> None:
        """Append, while alive."""
        if not self.dead:
            super().append_cache(name, content)


class WatchfulSimulator(Simulator):
    """The built-in server, which also notes how many upload requests of one record it ever had at once."""

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
    """The digest of *content*, as events, ledger and server show it."""
    return hashlib.sha256(content).hexdigest()


def content_of(size: int, seed: int = 1) -> bytes:
    """*size* bytes of which no two chunks are alike, other ones for each *seed*."""
    block = b"".join(
        hashlib.sha256(f"{seed}:{number}".encode()).digest() for number in range(min(size, CHUNK) // 32 + 1)
    )
    marks = (f"{seed}/{number}:".encode() + block for number in range(size // max(1, len(block)) + 1))
    return b"".join(marks)[:size]


def spans(record: RecordView) -> list[tuple[int, int]]:
    """The ranges that a record took, in their order: first byte, and first byte after."""
    return [(chunk.start, chunk.end + 1) for chunk in record.ranges]


def chunked(size: int, chunk: int = CHUNK) -> list[tuple[int, int]]:
    """The ranges that a file of *size* bytes is sent in."""
    return [(start, min(start + chunk, size)) for start in range(0, size, chunk)]


def at(path: str) -> Path:
    """The file of that name."""
    return Path(path)


def ready_at_once(**more: Any) -> Settings:
    """A server whose videos are ready as soon as they are whole."""
    return Settings(**({"processing": 0.0} | more))
