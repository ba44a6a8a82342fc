"""Fakes that a test controls: a virtual clock, disks in memory or with failures, and uploads in every state."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import heapq
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, Final

from uploader.domain.lifecycle import COMPLETE
from uploader.domain.model import ActionBy, FinishedUpload, Identity, LastError, RecordIds, RecordSpec, State, Upload
from uploader.store import Store
from uploader.store.disk import Disk, Piece

CONDITION_TIMEOUT: Final = 10.0  # s of real time until a test that waits for something gives up
EPOCH: Final = 1_800_000_000.0  # Unix seconds: 15 January 2027


async def idle() -> None:
    """Run the event loop until nothing but the caller is ready to run. Threads and sockets are not waited for."""
    loop: Any = asyncio.get_running_loop()
    await asyncio.sleep(0)
    while loop._ready:  # noqa: ASYNC110 - there is no event for *nothing left*
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Run the event loop until *condition* holds; for what a thread or a socket brings about."""
    async with asyncio.timeout(CONDITION_TIMEOUT):
        while not condition():  # noqa: ASYNC110 - there is no event for any condition
            await asyncio.sleep(0)


class VirtualClock:
    """A ``Clock`` whose sleeps end only when the test advances it. ``chance``: where ``uniform`` falls in its range."""

    def __init__(self, now: float = EPOCH, *, chance: float = 1.0) -> None:
        self.chance = chance
        self._now, self._monotonic = now, 1000.0
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []
        self._alarms: set[asyncio.Future[None]] = set()  # those made by ``later``, in which no task sleeps

    @property
    def sleepers(self) -> int:
        """How many sleeps have not ended."""
        return sum(not future.done() and future not in self._alarms for _, _, future in self._sleepers)

    def now(self) -> float:
        """Return the time of the wall clock, in Unix seconds."""
        return self._now

    def set_wall(self, by: float) -> None:
        """Set the wall clock forward by *by* seconds, or back."""
        self._now += by

    def monotonic(self) -> float:
        """Seconds that never jump."""
        return self._monotonic

    def uniform(self, low: float, high: float) -> float:
        """Return the point of the range that the test has chosen."""
        return low + (high - low) * self.chance

    async def sleep(self, seconds: float) -> None:
        """Return when the test has advanced the clock by *seconds*."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._order), future))
        await future

    def later(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        """Do *call* when the test has advanced the clock by *seconds*. Returns a function that cancels it."""
        future = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda done: None if done.cancelled() else call())
        self._alarms.add(future)
        heapq.heappush(self._sleepers, (self._monotonic + seconds, next(self._order), future))

        def cancel() -> None:
            future.cancel()
            self._alarms.discard(future)

        return cancel

    async def advance(self, seconds: float) -> None:
        """Let *seconds* pass. Sleeps end in the order of their times, and what each one wakes runs until idle."""
        end = self._monotonic + seconds
        await idle()
        while self._sleepers and self._sleepers[0][0] <= end:
            due, _, future = heapq.heappop(self._sleepers)
            self._pass(max(0.0, due - self._monotonic))
            if not future.done():
                future.set_result(None)
                await idle()
        self._pass(end - self._monotonic)
        await idle()

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward or back, as people and time servers do. No sleep ends."""
        self._now += seconds

    def _pass(self, seconds: float) -> None:
        self._monotonic += seconds
        self._now += seconds


class MemoryDisk:
    """A ``Disk`` in memory."""

    def __init__(self, **files: bytes) -> None:
        self.files = dict(files)

    def where(self, name: str) -> str:
        """Return the name alone: there is no folder."""
        return name

    def read(self, name: str) -> bytes | None:
        """Return the whole file; None when there is none."""
        return self.files.get(name)

    def size(self, name: str) -> int | None:
        """Return its size in bytes; None when there is none."""
        return len(self.files[name]) if name in self.files else None

    def read_at(self, name: str, offset: int, length: int) -> bytes:
        """Return that part of the file."""
        return self.files.get(name, b"")[offset : offset + length]

    def replace(self, name: str, *content: Piece) -> None:
        """Put *content* under *name*; what was there before stays as ``name.1``."""
        if name in self.files:
            self.files[name + ".1"] = self.files[name]
        self.files[name] = b"".join(content)

    def append(self, name: str, content: bytes) -> None:
        """Add *content* at the end of *name*."""
        self.files[name] = self.files.get(name, b"") + content

    def truncate(self, name: str, size: int) -> None:
        """Cut *name* to *size* bytes."""
        self.files[name] = self.files[name][:size]

    def append_cache(self, name: str, content: bytes) -> None:
        """Add *content* at the end of *name*."""
        self.append(name, content)

    def replace_cache(self, name: str, content: bytes) -> None:
        """Put *content* under *name*."""
        self.files[name] = content

    def close(self) -> None:
        """Do nothing."""


class FailingDisk:
    """A ``Disk`` that wraps another one: it refuses what ``refuses`` names, and every write waits for ``gate``."""

    def __init__(self, disk: Disk, *refuses: str, error: int = errno.ENOSPC) -> None:
        self.disk, self.refuses, self.error = disk, set(refuses), error
        self.gate = threading.Event()
        self.gate.set()
        self.begun: list[str] = []  # each write that was asked for
        self.asked: list[tuple[int, int]] = []  # each part that was read: offset and length
        self.refused = 0

    def where(self, name: str) -> str:
        """Return what the wrapped disk says."""
        return self.disk.where(name)

    def read(self, name: str) -> bytes | None:
        """Return the whole file, unless reading is refused."""
        self._may_read()
        return self.disk.read(name)

    def size(self, name: str) -> int | None:
        """Return its size, unless reading is refused."""
        self._may_read()
        return self.disk.size(name)

    def read_at(self, name: str, offset: int, length: int) -> bytes:
        """Return that part of the file, unless reading is refused."""
        self._may_read()
        self.asked.append((offset, length))
        return self.disk.read_at(name, offset, length)

    def _may_read(self) -> None:
        if "read" in self.refuses:
            raise OSError(self.error, os.strerror(self.error))

    def replace(self, name: str, *content: Piece) -> None:
        """Replace, unless that is refused."""
        self._write("replace")
        self.disk.replace(name, *content)

    def append(self, name: str, content: bytes) -> None:
        """Append, unless that is refused."""
        self._write("append")
        self.disk.append(name, content)

    def truncate(self, name: str, size: int) -> None:
        """Truncate, unless that is refused."""
        self._write("truncate")
        self.disk.truncate(name, size)

    def append_cache(self, name: str, content: bytes) -> None:
        """Append, unless that is refused."""
        self._write("append_cache")
        self.disk.append_cache(name, content)

    def replace_cache(self, name: str, content: bytes) -> None:
        """Replace, unless that is refused."""
        self._write("replace_cache")
        self.disk.replace_cache(name, content)

    def close(self) -> None:
        """Close the wrapped disk."""
        self.disk.close()

    def _write(self, operation: str) -> None:
        self.begun.append(operation)
        if not self.gate.wait(CONDITION_TIMEOUT):
            raise AssertionError("the gate was not opened in time")
        if operation in self.refuses:
            self.refused += 1
            raise OSError(self.error, os.strerror(self.error))


IDS: Final = RecordIds("record-1", "video-1")
LAST_ERROR: Final = LastError("the server said no", ActionBy.OPERATOR, attempts=2, next_try=EPOCH + 60)


def next_value(store: Store, upload: Upload) -> Upload:
    """Return *upload* with the serial and revision that let it replace what the store holds at its path."""
    now = store.uploads.get(upload.path)
    return upload if now is None else replace(upload, serial=now.serial, revision=now.revision)


def an_upload(
    state: State = State.QUEUED,
    *,
    path: str = "/rec/a.mp4",
    size: int = 100,
    parked_from: State = State.SENDING,
    **changes: Any,
) -> Upload:
    """Return a legal upload of *size* bytes in chunks of 40, as it is in *state*. *changes* replace single fields."""
    stands = parked_from if state is State.PARKED else state
    facts: dict[str, Any] = {}
    if stands is not State.QUEUED:
        facts |= {"intent_at": EPOCH, "begun_at": EPOCH}
    if stands not in {State.QUEUED, State.CREATING}:
        facts |= {"ids": IDS, "offset": min(40, size - 1), "digest": "d1", "chunks": 1}
    if stands is State.IN_DOUBT:
        facts |= {"doubt_end": min(80, size), "doubt_digest": "d2", "doubt_at": EPOCH + 1}
    if stands in {*COMPLETE, State.DONE}:
        facts |= {"offset": size, "chunks": 3, "sent_at": EPOCH + 2}
    if stands in {State.PROVING, State.FINISHING, State.DONE}:
        facts |= {"ready_at": EPOCH + 3}
    if stands in {State.FINISHING, State.DONE}:
        facts |= {"proof": "size"}
    if state is State.PARKED:
        facts |= {"last_error": LAST_ERROR, "parked_from": parked_from}
    record = RecordSpec(path.rsplit("/", 1)[-1].removesuffix(".mp4"))
    upload = Upload(path, path.rsplit("/", 1)[0], Identity(size, 1_700_000_000_000_000_000, "e1"), record, 40, state)
    return replace(upload, **(facts | changes))


def a_finish(path: str = "/rec/a.mp4", record: str = "record-1", **changes: Any) -> FinishedUpload:
    """Return a finished upload."""
    finished = FinishedUpload(
        path=path,
        size=100,
        mtime_ns=1_700_000_000_000_000_000,
        edges="e1",
        sha256="d3",
        record=record,
        video="video-1",
        name="a",
        begun_at=EPOCH,
        sent_at=EPOCH + 2,
        ready_at=EPOCH + 3,
        chunks=3,
        after_upload="keep",
    )
    return replace(finished, **changes)


def content(size: int, seed: int = 0) -> bytes:
    """Return *size* bytes in which no two blocks are alike."""
    return hashlib.shake_128(seed.to_bytes(4, "big")).digest(size)


def made(path: Path, data: bytes = b"recording") -> Path:
    """Make a file that holds *data*. Returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
