"""Measures the cost of state and ledger: starts with a long history, and saves with many unfinished uploads.

    python benchmarks/state.py start               time and memory of a start with 0, 10,000 and 200,000 ledger lines
    python benchmarks/state.py save [--runs 15]    one save with 0 … 100,000 files finished and 1 … 100,000 begun
    python benchmarks/state.py                     both

Every start is a new process. Works in a temporary folder (``--folder`` chooses its disk; it needs 140 MB), and prints
medians. The numbers are for people to compare, not for a test.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from uploader.domain.events import Bus
from uploader.domain.model import Identity, RecordIds, RecordSpec, State, Upload
from uploader.runtime.clock import SystemClock
from uploader.store import Store
from uploader.store.disk import Piece, StateFolder

LINES = (0, 10_000, 200_000)
FINISHED = (0, 1_000, 100_000)
BEGUN = (1, 100, 5_000, 100_000)
AT_WORK = 4  # of those that are begun: only these change
QUEUED = 100_000
GRAIN = 0.0005  # s between two checks of the event loop
NOW = 1_800_000_000.0
MIB = 1024 * 1024
MS = 1000


def path_of(number: int) -> str:
    """Return a path of 80 characters."""
    return f"/srv/recordings/ward-{number % 50:02d}/".ljust(60, "r") + f"{number:016d}.mp4"


def lines(count: int) -> Iterator[bytes]:
    """Yield a valid ledger of *count* lines."""
    previous = "0" * 64
    for number in range(1, count + 1):
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        uuid = f"{digest[:8]}-{digest[8:12]}-4{digest[13:16]}-8{digest[17:20]}-{digest[20:32]}"
        upload = {
            "path": path_of(number),
            "size": 1_000_000 + number,
            "mtime_ns": 1_700_000_000_000_000_000 + number,
            "edges": digest,
            "sha256": digest[::-1],
            "record": uuid,
            "video": uuid[::-1],
            "name": f"Room 7, subject {number}",
            "begun_at": NOW + number + 0.123456,
            "sent_at": NOW + number + 60.5,
            "ready_at": NOW + number + 70.25,
            "chunks": 7,
            "after_upload": "keep",
            "moved_to": None,
        }
        raw = json.dumps({"seq": number, "previous": previous, "upload": upload}).encode()
        previous = hashlib.sha256(raw).hexdigest()
        yield raw + b"\n"


def opened(folder: Path) -> Store:
    """Open the store in *folder* as a daemon does."""
    return Store(StateFolder(folder), SystemClock(), Bus())


async def prepare(folder: Path, count: int) -> None:
    """Make a state folder with a history of *count* files."""
    await opened(folder).close()
    with (folder / "ledger.jsonl").open("wb") as file:
        file.writelines(lines(count))


def memory() -> dict[str, float]:
    """Return the memory of this process in MiB: resident now, and its peak."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    fields = dict(line.split(":", 1) for line in status)
    return {"now": int(fields["VmRSS"].split()[0]) / 1024, "peak": int(fields["VmHWM"].split()[0]) / 1024}


def one_start(folder: Path) -> None:
    """Open the store once, in a process of its own, and print the cost."""
    before, began, cpu = memory(), time.perf_counter(), time.process_time()
    store = opened(folder)
    seconds, worked, after = time.perf_counter() - began, time.process_time() - cpu, memory()
    began = time.perf_counter()
    count = store.ledger.count
    found = sum(
        store.ledger.knows(path_of(number), 1_000_000 + number, 1_700_000_000_000_000_000 + number)
        for number in range(1, count + 1)
    )
    if found != count:
        raise SystemExit(f"{found} of {count} files are known")
    rescan = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "worked": worked, "before": before, "after": after, "rescan": rescan}))


def starts(place: Path, runs: int) -> None:
    """Print a table of starts."""
    print("ledger lines   size MiB   start s   of it CPU s   resident MiB   of it index   peak MiB   look-ups of all s")
    for count in LINES:
        folder = place / f"start-{count}"
        asyncio.run(prepare(folder, count))
        command = [sys.executable, __file__, "one-start", "--folder", str(folder)]
        seen = [json.loads(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(runs)]
        size = (folder / "ledger.jsonl").stat().st_size / MIB
        resident = statistics.median(run["after"]["now"] for run in seen)
        index = statistics.median(run["after"]["now"] - run["before"]["now"] for run in seen)
        peak = statistics.median(run["after"]["peak"] for run in seen)
        seconds = statistics.median(run["seconds"] for run in seen)
        worked = statistics.median(run["worked"] for run in seen)
        rescan = statistics.median(run["rescan"] for run in seen)
        print(
            f"{count:>12,}{size:>11.1f}{seconds:>10.3f}{worked:>14.3f}{resident:>15.1f}{index:>14.1f}{peak:>11.1f}"
            f"{rescan:>20.3f}",
            flush=True,
        )


def an_upload(number: int, state: State = State.SENDING) -> Upload:
    """Make an upload; it has begun unless it is queued."""
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    path = f"/srv/begun/{number:016d}.mp4"
    identity = Identity(10**9, 1_700_000_000_000_000_000 + number, digest)
    upload = Upload(path, "/srv/begun", identity, RecordSpec("Room 7", {"1": "Room 7"}), 16 * MIB, state)
    if state is State.QUEUED:
        return upload
    ids = RecordIds(f"record-{number}", f"video-{number}")
    return replace(upload, ids=ids, offset=16 * MIB, digest=digest, chunks=1, intent_at=NOW, begun_at=NOW)


class Saves(NamedTuple):
    """The cost of one save; medians, in milliseconds."""

    taken: float  # wall clock, until it is durable
    written: float  # the part of the disk: writing, fsync, renaming
    gap: float  # the longest time for which the event loop was blocked
    size: int  # bytes of the state


async def longest_gap(gaps: list[float]) -> None:
    """Measure until cancelled how late the event loop comes back."""
    before = time.perf_counter()
    while True:
        await asyncio.sleep(GRAIN)
        now = time.perf_counter()
        gaps[-1], before = max(gaps[-1], now - before - GRAIN), now


class TimedDisk(StateFolder):
    """A state folder that measures how long each save of the state takes."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.taken: list[float] = []

    def replace(self, name: str, *content: Piece) -> None:
        """Replace a file, and record the time."""
        began = time.perf_counter()
        super().replace(name, *content)
        self.taken.append(time.perf_counter() - began)


async def saves(folder: Path, begun: int, queued: int, runs: int) -> Saves:
    """Save one changed upload *runs* times, while *begun* uploads have begun and *queued* ones wait."""
    disk = TimedDisk(folder)
    store = Store(disk, SystemClock(), Bus())
    for number in range(queued):
        store.put(an_upload(-1 - number, State.QUEUED))
    for number in range(begun):
        store.put(an_upload(number))
    await store.commit()
    taken, gaps = [], []
    disk.taken.clear()
    for run in range(runs):
        changed = replace(an_upload(run % min(begun, AT_WORK)), offset=(2 + run) * MIB)
        gaps.append(0.0)
        watching = asyncio.create_task(longest_gap(gaps))
        await asyncio.sleep(0)
        began = time.perf_counter()
        await store.save(changed)
        taken.append(time.perf_counter() - began)
        watching.cancel()
    for number in range(begun):
        store.drop(store.uploads[an_upload(number).path])
    size = (folder / "state.json").stat().st_size
    written = list(disk.taken)
    await store.commit()
    await store.close()
    taken_ms, written_ms, gap_ms = (statistics.median(each) * MS for each in (taken, written, gaps))
    return Saves(taken_ms, written_ms, gap_ms, size)


def savings(place: Path, runs: int) -> None:
    """Print a table of saves."""
    print("finished    begun    queued   save ms   of it disk  loop block ms   state KiB")
    for finished in FINISHED:
        folder = place / f"save-{finished}"
        asyncio.run(prepare(folder, finished))
        cases = [(begun, 0) for begun in BEGUN]
        for begun, queued in [*cases, (100, QUEUED)]:
            one = asyncio.run(saves(folder, begun, queued, runs))
            print(
                f"{finished:>8,}{begun:>9,}{queued:>10,}{one.taken:>10.2f}{one.written:>13.2f}"
                f"{one.gap:>15.2f}{one.size / 1024:>12.1f}",
                flush=True,
            )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", nargs="?", choices=["both", "start", "save", "one-start"], default="both")
    parser.add_argument("--folder", type=Path, help="folder for temporary files; chooses the disk")
    parser.add_argument("--runs", type=int, default=15, help="of each case; starts take a third of it (default 15)")
    chosen = parser.parse_args(arguments)
    if chosen.what == "one-start":
        one_start(chosen.folder)
        return
    with tempfile.TemporaryDirectory(prefix="valt-state-", dir=chosen.folder) as name:
        if chosen.what != "save":
            starts(Path(name), max(5, chosen.runs // 3))
        if chosen.what != "start":
            savings(Path(name), max(5, chosen.runs))


if __name__ == "__main__":
    main()
