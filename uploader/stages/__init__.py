"""The six stages a file passes, and the pipes between them. No stage calls another.

    discover ──seen───▶ settle ──settled──▶ enqueue ──jobs──▶ transfer ──sent──▶ verify ──ready──▶ finish
                                               ▲                 │                 │                │
                                               └────again────────┴─────────────────┴────────────────┘

What travels is frozen: sightings, snapshots, or just the path of an upload whose value is in the ``Store``.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from uploader.agenda import Agenda
from uploader.clock import Clock
from uploader.model import Identity, Sighting, Snapshot

SEEN_AT_ONCE: Final = 16  # batches that wait for the settle stage: a scan goes no faster than it takes them in


@dataclass(frozen=True, slots=True)
class Seen:
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
    """A path in the queue of the workers; the smallest ``rank`` goes first."""

    rank: tuple[int, int]
    path: str = field(compare=False)


class Pipes:
    """What passes between the stages."""

    def __init__(self, clock: Clock) -> None:
        self.seen: asyncio.Queue[Seen] = asyncio.Queue(SEEN_AT_ONCE)
        self.settled: asyncio.Queue[Settled] = asyncio.Queue()
        self.jobs: asyncio.PriorityQueue[Job] = asyncio.PriorityQueue()
        self.sent: Agenda[str] = Agenda(clock)
        self.ready: Agenda[str] = Agenda(clock)
        self.again: Agenda[str] = Agenda(clock)


def our_fault(error: Exception) -> str:
    """Say that a bug of ours has hit one file; the trace-back is for the log."""
    return f"an unexpected fault of ours ({type(error).__name__}); the log has the details: please report it"
