"""What a status costs a daemon with many unfinished uploads: how long it takes, and how long it holds the event loop.

    python benchmarks/status.py [--uploads 100000] [--runs 5]

Starts a daemon in a state folder with so many parked uploads, and as many queued ones, of which everything is paused.
Another process asks it for ``status`` and ``explain`` again and again. Prints the answer times, the longest hold of the
event loop (by a task that wants its turn every two milliseconds), and what ``valt-uploader status`` takes as a command.
Works in a temporary folder (``--folder`` chooses its disk). Numbers for people to compare, never for a test.
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
from uploader.store import Store
from uploader.store.disk import StateFolder

BEAT = 0.002  # s
MS = 1000
CALM = 100  # beats without a long hold after which the daemon has started
HOLD = 0.05  # s; longer is not calm
TROUBLE = LastError("the server refused the file: it is no video", ActionBy.OPERATOR, 3, next_try=4_000_000_000.0)


class Heartbeat:
    """Wants its turn every two milliseconds; the longest that it did not get it."""

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
        """Return when nothing has held the loop for a while."""
        self.beats = 0
        while self.beats < CALM:  # noqa: ASYNC110 - it is the time between two looks that is measured
            await asyncio.sleep(BEAT)


def configured(place: Path) -> Path:
    """A configuration whose server is not there."""
    (place / "recordings").mkdir()
    (place / "password").write_text("secret")
    (place / "password").chmod(0o600)
    file = place / "config.toml"
    file.write_text(
        f'[server]\nurl = "https://127.0.0.1:9"\nusername = "u"\npassword_file = "{place}/password"\n'
        f'[[watch]]\npath = "{place}/recordings"\n[state]\ndir = "{place}/state"\n[log]\nlevel = "error"\n'
    )
    return file


async def prepare(folder: Path, count: int) -> None:
    """Make a state folder with *count* parked uploads."""
    store = Store(StateFolder(folder), SystemClock(), Bus())
    for number in range(count):
        sending = an_upload(number)
        store.put(replace(sending, state=State.PARKED, parked_from=State.SENDING, trouble=TROUBLE))
    store.pause(EVERYTHING)
    await store.commit()
    await store.close()


async def asked(folder: Path, do: str, runs: int) -> list[float]:
    """Let another process ask *runs* times; the size of an answer in bytes, and the seconds that each took."""
    command = [sys.executable, "-m", "benchmarks.status", "asking", "--folder", str(folder), "--do", do]
    child = await asyncio.create_subprocess_exec(*command, "--runs", str(runs), stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate()
    times: list[float] = json.loads(out)
    return times


def asking(folder: Path, do: str, runs: int) -> None:
    """Ask, in a process of its own, and print the seconds until the last byte of each answer."""
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
    """The seconds that ``valt-uploader status`` takes, with its output thrown away."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "uploader", "status", "-c", str(file), *options]
    child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.DEVNULL)
    if await child.wait():
        raise SystemExit("status has failed")
    return time.perf_counter() - began


async def measure(place: Path, count: int, runs: int) -> None:
    """Start, ask, and print."""
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
        f"start of the daemon: calm after {time.perf_counter() - began:.2f} s, longest hold {beat.longest * MS:.0f} ms"
    )
    for do in ("status", "explain"):
        beat.longest = 0.0
        size, *times = await asked(folder, do, runs)
        line = f"{size / MIB:.1f} MiB, median {statistics.median(times) * MS:.0f} ms, longest {max(times) * MS:.0f} ms"
        print(f"{do}: {line}; longest hold of the event loop {beat.longest * MS:.0f} ms")
    beat.longest, began, times = 0.0, time.perf_counter(), []
    for _ in range(50):
        began = time.perf_counter()
        daemon._status_line()  # noqa: SLF001 - systemd alone asks for it
        times.append(time.perf_counter() - began)
    print(f"systemd's line: {statistics.median(times) * MS:.3f} ms")
    for options in ((), ("--json",)):
        print(f"valt-uploader status {' '.join(options)}: {await command_of(file, *options):.2f} s")
    running.cancel()
    beating.cancel()
    await asyncio.gather(running, beating, return_exceptions=True)
    await store.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", nargs="?", choices=["measure", "asking"], default="measure")
    parser.add_argument("--folder", type=Path, help="where to work; a folder that is made and removed, by default")
    parser.add_argument("--uploads", type=int, default=100_000, help="parked, and as many queued (default 100,000)")
    parser.add_argument("--runs", type=int, default=5, help="how often each is asked (default 5)")
    parser.add_argument("--do", default="status", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.what == "asking":
        asking(chosen.folder, chosen.do, chosen.runs)
        return
    logging.disable()
    print(machine())
    with tempfile.TemporaryDirectory(prefix="valt-status-", dir=chosen.folder) as name:
        asyncio.run(measure(Path(name), chosen.uploads, chosen.runs))


if __name__ == "__main__":
    main()
