"""Tests with a hidden file whether events of a watched folder arrive, how soon, and how its clock differs from ours.

The file is always removed again. Call it only after ``Share.check``: it must not write under an empty mount point.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from watchfiles import awatch

from uploader.domain.selection import HIDDEN_PREFIX
from uploader.runtime.clock import Clock

WATCHER_START_TIME: Final = 0.3  # s until the watcher is taken to be running: it does not report its start
EVENT_WAIT_LIMIT: Final = 3.0  # s that an event may take


@dataclass(frozen=True, slots=True)
class EventCheck:
    """The result. ``delay``: s until the event, None if none came. ``skew``: s by which the share's clock is ahead."""

    problem: str = ""
    delay: float | None = None
    skew: float | None = None


async def check_events(root: str, clock: Clock) -> EventCheck:
    """Write a hidden file into *root*, wait up to ``EVENT_WAIT_LIMIT`` for its event, read its time, and remove it."""
    path = Path(root) / f"{HIDDEN_PREFIX}{uuid.uuid4().hex[:16]}.canary"
    stop, heard = asyncio.Event(), asyncio.Event()
    listening = asyncio.ensure_future(_listen(root, path.name, stop, heard))
    try:
        await clock.sleep(WATCHER_START_TIME)
        began = clock.monotonic()
        skew = await asyncio.to_thread(_write, path) - clock.now()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(heard.wait(), EVENT_WAIT_LIMIT)
        return EventCheck(delay=clock.monotonic() - began if heard.is_set() else None, skew=skew)
    except OSError as error:
        return EventCheck(problem=error.strerror or type(error).__name__)
    finally:
        stop.set()
        with contextlib.suppress(OSError):
            await asyncio.to_thread(path.unlink, missing_ok=True)
        await asyncio.gather(listening, return_exceptions=True)


def _write(path: Path) -> float:
    """Create the file; return its modification time, which the share's clock gave it."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, b"valt-uploader check\n")
        return os.fstat(fd).st_mtime
    finally:
        os.close(fd)


async def _listen(root: str, name: str, stop: asyncio.Event, heard: asyncio.Event) -> None:
    """Set *heard* when an event of *name* comes."""
    async for batch in awatch(root, watch_filter=None, recursive=False, debounce=50, step=10, stop_event=stop):
        if any(path.endswith(f"/{name}") for _, path in batch):
            heard.set()
