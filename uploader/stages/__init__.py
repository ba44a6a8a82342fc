"""The six stages a file passes, and the pipes between them. No stage calls another.

    discover ──scans──▶ settle ──settled──▶ enqueue ──jobs──▶ transfer ──sent──▶ verify ──ready──▶ finish
                                               ▲                 │                 │                │
                                               └────again────────┴─────────────────┴────────────────┘

What travels is frozen: scans, identities, or just the path of an upload whose value is in the ``Store``.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from uploader.agenda import Agenda
from uploader.clock import Clock
from uploader.files import Scan
from uploader.model import Identity


@dataclass(frozen=True, slots=True)
class Settled:
    """A file that has stood still, and what it was then."""

    path: str
    root: str
    identity: Identity


@dataclass(frozen=True, slots=True, order=True)
class Job:
    """A path in the queue of the workers; the smallest ``rank`` goes first."""

    rank: tuple[int, int]
    path: str = field(compare=False)


class Pipes:
    """What passes between the stages."""

    def __init__(self, clock: Clock) -> None:
        self.scans: asyncio.Queue[Scan] = asyncio.Queue()
        self.settled: asyncio.Queue[Settled] = asyncio.Queue()
        self.jobs: asyncio.PriorityQueue[Job] = asyncio.PriorityQueue()
        self.sent: Agenda[str] = Agenda(clock)
        self.ready: Agenda[str] = Agenda(clock)
        self.again: Agenda[str] = Agenda(clock)


def our_fault(error: Exception) -> str:
    """Say that a bug of ours has hit one file; the trace-back is for the log."""
    return f"an unexpected fault of ours ({type(error).__name__}); the log has the details: please report it"
