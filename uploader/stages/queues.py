"""The six stages a file passes, and the pipes between them. No stage calls another.

    discover ──seen───▶ settle ──settled──▶ enqueue ──jobs──▶ transfer ──sent──▶ verify ──ready──▶ finish
                                               ▲                 │                 │                │
                                               └────again────────┴─────────────────┴────────────────┘

What travels is frozen: sightings, snapshots, or just the path of an upload whose value is in the ``Store``.
"""

from __future__ import annotations

import asyncio
import heapq
from dataclasses import dataclass, field
from typing import Final

from uploader.domain.model import Identity, Sighting, Snapshot
from uploader.runtime.clock import Clock
from uploader.runtime.delay_queue import DelayQueue

WAITING_BATCHES: Final = 16  # batches that wait for the settle stage: a scan goes no faster than it takes them in


@dataclass(frozen=True, slots=True)
class SightingBatch:
    """A part of what a look into a watched folder saw. What it does not name may be there all the same."""

    root: str
    sightings: tuple[Sighting, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """A file that is complete, and what it was then. ``unplayable``: why it is not sent as it is."""

    path: str
    root: str
    snapshot: Snapshot
    unplayable: str = ""

    @property
    def identity(self) -> Identity:
        """Which content it had."""
        return self.snapshot.identity


@dataclass(frozen=True, slots=True, order=True)
class Job:
    """A path in the queue of the workers; the smallest ``rank`` goes first. ``small``: one request is all it takes."""

    rank: tuple[int, int]
    path: str = field(compare=False)
    small: bool = field(default=False, compare=False)


class JobQueue(asyncio.Queue[Job]):
    """What waits for a worker, by rank."""

    def _init(self, maxsize: int) -> None:
        del maxsize
        self._small: list[Job] = []
        self._large: list[Job] = []

    def _put(self, item: Job) -> None:
        heapq.heappush(self._small if item.small else self._large, item)

    def _get(self) -> Job:
        heaps = [heap for heap in (self._small, self._large) if heap]
        return heapq.heappop(min(heaps, key=lambda heap: heap[0]))

    def qsize(self) -> int:
        """How many wait."""
        return len(self._small) + len(self._large)

    def empty(self) -> bool:
        """True when none does."""
        return not self.qsize()

    @property
    def small_waits(self) -> bool:
        """True when a small one does: every worker is busy."""
        return bool(self._small)

    def take_small(self) -> Job | None:
        """Take the small one that goes first, if there is one, whatever waits before it."""
        return heapq.heappop(self._small) if self._small else None


class Queues:
    """What passes between the stages."""

    def __init__(self, clock: Clock) -> None:
        self.sightings: asyncio.Queue[SightingBatch] = asyncio.Queue(WAITING_BATCHES)
        self.settled: asyncio.Queue[Settled] = asyncio.Queue()
        self.jobs = JobQueue()
        self.sent: DelayQueue[str] = DelayQueue(clock)
        self.ready: DelayQueue[str] = DelayQueue(clock)
        self.again: DelayQueue[str] = DelayQueue(clock)


def bug_reason(error: Exception) -> str:
    """Say that a bug of ours has hit one file; the trace-back is for the log."""
    return f"an unexpected fault of ours ({type(error).__name__}); the log has the details: please report it"
