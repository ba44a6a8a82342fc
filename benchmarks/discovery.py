"""Measures the cost of watching a folder with a long history: thousands of recordings on the local disk.

    .venv/bin/python benchmarks/discovery.py [--window 60] [--folder DIR] [FILES ...]

``first scan``: no file is known; seconds from the start of the program until each file has been found. For all other
rows the files are in the ledger: the time from the start to the end of the first scan; wall-clock and CPU time of a
light scan (names only) and a deep one (every inode) within one process; the memory of the daemon; and its CPU time over
``--window`` seconds without new files, with one scan of ``rescan = "60s"`` among them, with events and without.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from uploader.app import control_socket
from uploader.app.application import Application
from uploader.config import load
from uploader.domain.events import Bus
from uploader.domain.model import FinishedUpload
from uploader.files import WalkFilter
from uploader.runtime.clock import SystemClock
from uploader.store import Store, codec
from uploader.store.disk import StateFolder
from uploader.store.line import LedgerLine

FILES = (10_000, 200_000)
IN_A_FOLDER = 1000
LOOK = 0.02  # s between two checks of a process
MS, MIB = 1000, 1024 * 1024
CONFIGURATION = """
[server]
url = "http://127.0.0.1:9"
username = "uploader"
password_file = "{site}/password"
[state]
dir = "{site}/state"
[[watch]]
path = "{site}/watch"
mode = "{mode}"
settle = "1h"
"""


def make(site: Path, files: int) -> list[Path]:
    """Make so many recordings of a few bytes each, in folders of a thousand."""
    (site / "password").touch(0o600)
    (site / "password").write_text("secret")
    made = []
    for number in range(files):
        path = site / "watch" / f"day-{number // IN_A_FOLDER:04d}" / f"recording-{number:06d}.mp4"
        if number % IN_A_FOLDER == 0:
            path.parent.mkdir(parents=True)
        path.write_bytes(b"%d" % number)
        made.append(path)
    return made


async def remember(site: Path, made: list[Path]) -> None:
    """Write a ledger that contains all of them."""
    await Store(StateFolder(site / "state"), SystemClock(), Bus()).close()
    previous = "0" * 64
    with (site / "state" / "ledger.jsonl").open("wb") as file:
        for number, path in enumerate(made, start=1):
            status, digest = path.stat(), hashlib.sha256(path.read_bytes()).hexdigest()
            record = f"{digest[:8]}-{digest[8:12]}-4{digest[13:16]}-8{digest[17:20]}-{digest[20:32]}"
            times = (status.st_mtime, status.st_mtime, status.st_mtime)
            content = (str(path), status.st_size, status.st_mtime_ns, digest, digest, record, record)
            line = LedgerLine(number, previous, FinishedUpload(*content, path.stem, *times, 1, "keep"))
            raw = codec.to_json(line).encode("ascii")
            previous = hashlib.sha256(raw).hexdigest()
            file.write(raw + b"\n")
    (site / "state" / "ledger.jsonl").chmod(0o600)


def configure(site: Path, mode: str) -> Path:
    """Write the configuration."""
    path = site / "config.toml"
    path.write_text(CONFIGURATION.format(site=site, mode=mode))
    return path


@contextmanager
def daemon(site: Path, mode: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the daemon; its log goes to ``log``."""
    command = [sys.executable, "-m", "uploader", "run", "-c", str(configure(site, mode))]
    with (site / "log").open("wb") as log, subprocess.Popen(command, stderr=log, stdout=log) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)


def wait(process: subprocess.Popen[bytes]) -> None:
    """Wait a moment. Raises SystemExit if the process has ended."""
    if process.poll() is not None:
        raise SystemExit("the daemon has ended; its log says why")
    time.sleep(LOOK)


def first_scan(site: Path, files: int) -> str:
    """Measure the seconds from the start of the program until each file has been found."""
    began, found = time.monotonic(), 0
    with daemon(site, "poll") as process, (site / "log").open("rb") as log:
        while found < files:
            if not (lines := log.readlines(MIB)):
                wait(process)
            found += sum(b'"file-found"' in line for line in lines)
        return f"{time.monotonic() - began:.1f} s, peak {memory(process.pid, 'VmHWM')}"


def memory(pid: int, what: str) -> str:
    """Return the memory of a process, by the kernel's field *what*."""
    status = Path(f"/proc/{pid}/status").read_text()
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{what}:"))
    return f"{kib / 1024:.0f} MiB"


def busy(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def at_work(site: Path, mode: str, window: float) -> dict[str, str]:
    """Start the daemon, wait for its first scan, and measure it while idle."""
    began = time.monotonic()
    with daemon(site, mode) as process:
        while not _scanned(site):
            wait(process)
        rows = {f"start until scanned, {mode}": f"{time.monotonic() - began:.1f} s"}
        time.sleep(5)  # for the additional scan after events have begun
        used = busy(process.pid)
        time.sleep(window)
        used = busy(process.pid) - used
        rows[f"idle, {mode}"] = f"{used:.2f} s in {window:g} s ({100 * used / window:.2f} % of one CPU)"
        rows[f"memory, {mode}"] = f"peak {memory(process.pid, 'VmHWM')}, now {memory(process.pid, 'VmRSS')}"
    return rows


def _scanned(site: Path) -> bool:
    answer = control_socket.ask(site / "state", "status") if (site / "state").exists() else None
    return answer is not None and answer["folders"] and answer["folders"][0]["scans"] > 0


async def scans(site: Path) -> dict[str, str]:
    """Measure a light and a deep scan: the best of three each."""
    store, bus, clock = Store(StateFolder(site / "state"), SystemClock(), Bus()), Bus(), SystemClock()
    application = Application(load(configure(site, "poll"), {}), store, clock, bus, {})
    root = str(site / "watch")
    deep = application.rules.walk_filter(root)
    if deep is None:
        raise SystemExit("the folder is not watched")
    light = replace(deep, skip_stat=lambda relpath: store.ledger.has(f"{root}/{relpath}"))
    rows = {}
    for name, what in (("light scan", light), ("deep scan", deep)):
        best = min([await _scan(application, root, what) for _ in range(3)])
        rows[name] = f"{MS * best[0]:.0f} ms, CPU {MS * best[1]:.0f} ms"
    await store.close()
    return rows


async def _scan(application: Application, root: str, walk_filter: WalkFilter) -> tuple[float, float]:
    wall, processor = time.monotonic(), time.process_time()
    async for batch in application.shares.of(root).walk(walk_filter):
        if any(application.settle.known.is_new(seen) for seen in batch.sightings):
            raise SystemExit("a file does not match its line in the ledger")
    return time.monotonic() - wall, time.process_time() - processor


def measure(folder: Path, files: int, window: float) -> dict[str, str]:
    """Measure all rows for so many files."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        site = Path(name)
        made = make(site, files)
        rows = {"first scan": first_scan(site, files)}
        shutil.rmtree(site / "state")
        asyncio.run(remember(site, made))
        rows |= asyncio.run(scans(site))
        for mode in ("events", "poll"):
            rows |= at_work(site, mode, window)
        return rows


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=int, default=FILES, metavar="FILES")
    parser.add_argument("--window", type=float, default=60.0, help="seconds to measure the idle daemon")
    parser.add_argument("--folder", type=Path, help="folder for temporary files; chooses the disk")
    chosen = parser.parse_args()
    columns = {files: measure(chosen.folder, files, chosen.window) for files in chosen.files}
    print("| | " + " | ".join(f"{files:,} files" for files in columns) + " |")
    print("| --- " * (len(columns) + 1) + "|")
    for row in next(iter(columns.values())):
        print(f"| {row} | " + " | ".join(column[row] for column in columns.values()) + " |")


if __name__ == "__main__":
    main()
