"""Measures the cost of a status of a daemon with many unfinished uploads: its time, and how long it blocks the loop.

    python benchmarks/status.py [--uploads 100000] [--runs 5]

Starts a daemon in a state folder with ``--uploads`` parked uploads and as many queued ones, all paused. Another process
asks it repeatedly for ``status`` and ``explain``. Prints the times of the answers, the longest time for which the event
loop was blocked (measured by a task that runs every two milliseconds), and the time of the command ``valt-uploader
status``. Works in a temporary folder (``--folder`` chooses its disk). The numbers are for people to compare, not for a
test.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.shared import MIB, machine
from benchmarks.state import an_upload
from uploader.app.control_socket import SOCKET_NAME
from uploader.app.daemon import Daemon
from uploader.config import load
from uploader.domain.events import Bus
from uploader.domain.model import EVERYTHING, ActionBy, LastError, State
from uploader.runtime.clock import SystemClock
from uploader.runtime.garbage import ShortCollections
from uploader.store import Store
from uploader.store.disk import StateFolder

BEAT = 0.002  # s
MS = 1000
CALM = 100  # beats without a long block after which the daemon counts as started
HOLD = 0.05  # s; a longer block is not calm
LAST_ERROR = LastError("the server refused the file: it is no video", ActionBy.OPERATOR, 3, next_try=4_000_000_000.0)


class Heartbeat:
    """Runs every two milliseconds, and records the longest delay."""

    def __init__(self) -> None:
        self.longest = 0.0
        self.beats = 0

    async def run(self) -> None:
        """Beat until cancelled."""
        while True:
            began = time.perf_counter()
            await asyncio.sleep(BEAT)
            held = time.perf_counter() - began - BEAT
            self.longest, self.beats = max(self.longest, held), 0 if held > HOLD else self.beats + 1

    async def calm(self) -> None:
        """Return when nothing has blocked the loop for a while."""
        self.beats = 0
        while self.beats < CALM:  # noqa: ASYNC110 - the time between two checks is what is measured
            await asyncio.sleep(BEAT)


def configured(place: Path) -> Path:
    """Write a configuration whose server does not exist."""
    (place / "recordings").mkdir()
    (place / "password").write_text("secret")
    (place / "password").chmod(0o600)
    file = place / "config.toml"
    file.write_text(
        f'[server]\nurl = "https://127.0.0.1:9"\nusername = "u"\npassword_file = "{place}/password"\n'
        f'[[watch]]\npath = "/srv/begun"\n[state]\ndir = "{place}/state"\n[log]\nlevel = "error"\n'
    )
    return file


async def prepare(folder: Path, count: int) -> None:
    """Make a state folder with *count* parked uploads."""
    store = Store(StateFolder(folder), SystemClock(), Bus())
    for number in range(count):
        sending = an_upload(number)
        store.put(replace(sending, state=State.PARKED, parked_from=State.SENDING, last_error=LAST_ERROR))
    store.pause(EVERYTHING)
    await store.commit()
    await store.close()


async def asked(folder: Path, do: str, runs: int) -> list[float]:
    """Let another process ask *runs* times; return the size of an answer in bytes, and the seconds of each."""
    command = [sys.executable, "-m", "benchmarks.status", "asking", "--folder", str(folder), "--do", do]
    child = await asyncio.create_subprocess_exec(*command, "--runs", str(runs), stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate()
    times: list[float] = json.loads(out)
    return times


def asking(folder: Path, do: str, runs: int) -> None:
    """Ask *runs* times, and print the seconds until the last byte of each answer."""
    request = json.dumps({"do": do, "paths": [an_upload(7).path]}).encode() + b"\n"
    times, buffer = [], bytearray(MIB)
    for _ in range(runs):
        began, size = time.perf_counter(), 0
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(folder / SOCKET_NAME))
            client.sendall(request)
            while taken := client.recv_into(buffer):
                size += taken
        times.append(time.perf_counter() - began)
    print(json.dumps([size, *times]))


async def command_of(file: Path, *options: str) -> float:
    """Return the seconds that ``valt-uploader status`` takes; its output is discarded."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "uploader", "status", "-c", str(file), *options]
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    if await child.wait():
        raise SystemExit("status has failed")
    return time.perf_counter() - began


async def measure(place: Path, count: int, runs: int) -> None:
    """Start the daemon, ask it, and print the figures."""
    file, folder, clock, bus = configured(place), place / "state", SystemClock(), Bus()
    await prepare(folder, count)
    beat = Heartbeat()
    beating = asyncio.create_task(beat.run())
    began = time.perf_counter()
    store = Store(StateFolder(folder), clock, bus)
    print(f"loading {count:,} parked uploads: {time.perf_counter() - began:.2f} s, before anything else runs")
    for number in range(count):
        store.put(an_upload(-1 - number, State.QUEUED))
    await asyncio.sleep(0.1)
    beat.longest = 0.0
    daemon = Daemon(file, load(file, {}), store, clock, bus, {})
    began, running = time.perf_counter(), asyncio.create_task(daemon.run())
    await beat.calm()
    print(
        f"start of the daemon: calm after {time.perf_counter() - began:.2f} s, longest block {beat.longest * MS:.0f} ms"
    )
    for do in ("status", "explain"):
        beat.longest = 0.0
        size, *times = await asked(folder, do, runs)
        line = f"{size / MIB:.1f} MiB, median {statistics.median(times) * MS:.0f} ms, longest {max(times) * MS:.0f} ms"
        print(f"{do}: {line}; longest block of the event loop {beat.longest * MS:.0f} ms")
    beat.longest, began, times = 0.0, time.perf_counter(), []
    for _ in range(50):
        began = time.perf_counter()
        daemon._status_line()  # noqa: SLF001 - otherwise only sent to systemd
        times.append(time.perf_counter() - began)
    print(f"systemd's line: {statistics.median(times) * MS:.3f} ms")
    for options in ((), ("--json",)):
        print(f"valt-uploader status {' '.join(options)}: {await command_of(file, *options):.2f} s")
    running.cancel()
    beating.cancel()
    await asyncio.gather(running, beating, return_exceptions=True)
    await store.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", nargs="?", choices=["measure", "asking"], default="measure")
    parser.add_argument("--folder", type=Path, help="folder for temporary files; chooses the disk")
    parser.add_argument("--uploads", type=int, default=100_000, help="parked, and as many queued (default 100,000)")
    parser.add_argument("--runs", type=int, default=5, help="how often each is asked (default 5)")
    parser.add_argument("--do", default="status", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.what == "asking":
        asking(chosen.folder, chosen.do, chosen.runs)
        return
    logging.disable()
    print(machine())
    short = ShortCollections(time.monotonic)  # as the command ``run`` has
    with short, tempfile.TemporaryDirectory(prefix="valt-status-", dir=chosen.folder) as name:
        asyncio.run(measure(Path(name), chosen.uploads, chosen.runs))


if __name__ == "__main__":
    main()
