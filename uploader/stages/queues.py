"""The queues between the six stages. No stage calls another. Verifying has two parts.

    discover ─sightings─▶ settle ─settled─▶ enqueue ─jobs─▶ transfer ─sent─▶ verify ─unproven─▶ prove ─proven─▶ finish
                                                               │               │                  │               │
                                    dispatcher ◀─────again─────┴───────────────┴──────────────────┴───────────────┘

They carry frozen values: sightings, settled files, or the path of an upload whose value is in the ``Store``. The
dispatcher takes uploads from ``again`` when they are due, and puts them on the queue of their stage.
"""

from __future__ import annotations

import asyncio
import heapq
from dataclasses import dataclass, field
from typing import Final

from uploader.domain.model import Identity, Sighting, Snapshot
from uploader.runtime.clock import Clock
from uploader.runtime.delay_queue import DelayQueue

WAITING_BATCHES: Final = 16  # batches that may wait for the settle stage; then the scan waits, too


@dataclass(frozen=True, slots=True)
class SightingBatch:
    """Some of the files that were seen in a watched folder. Files that it does not name may exist all the same."""

    root: str
    sightings: tuple[Sighting, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """A complete file, as it was then. ``unplayable``: why it is not sent as it is; empty when it is sent."""

    path: str
    root: str
    snapshot: Snapshot
    unplayable: str = ""

    @property
    def identity(self) -> Identity:
        """The content that it had."""
        return self.snapshot.identity


@dataclass(frozen=True, slots=True, order=True)
class Job:
    """An upload that waits for a worker. The smallest ``rank`` goes first. ``small``: one request takes it all."""

    rank: tuple[int, int]
    path: str = field(compare=False)
    small: bool = field(default=False, compare=False)


class JobQueue(asyncio.Queue[Job]):
    """The jobs that wait for a worker, by rank."""

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
        """Return the number of waiting jobs."""
        return len(self._small) + len(self._large)

    def empty(self) -> bool:
        """True when no job waits."""
        return not self.qsize()

    @property
    def small_waits(self) -> bool:
        """True when a small job waits, because every worker is busy."""
        return bool(self._small)

    def take_small(self) -> Job | None:
        """Take the first small job, even if others are before it; None when there is none."""
        return heapq.heappop(self._small) if self._small else None


class Queues:
    """All queues between the stages."""

    def __init__(self, clock: Clock) -> None:
        self.sightings: asyncio.Queue[SightingBatch] = asyncio.Queue(WAITING_BATCHES)
        self.settled: asyncio.Queue[Settled] = asyncio.Queue()
        self.jobs = JobQueue()
        self.sent: DelayQueue[str] = DelayQueue(clock)
        self.unproven: DelayQueue[str] = DelayQueue(clock)
        self.proven: DelayQueue[str] = DelayQueue(clock)
        self.again: DelayQueue[str] = DelayQueue(clock)


def bug_reason(error: Exception) -> str:
    """Return the reason that is shown for a file after a bug; the trace-back goes to the log."""
    return f"an unexpected bug in this program ({type(error).__name__}); the log has the details: please report it"
