"""Checks the promises at full size against the built-in server. Too slow for every test run, so it is run manually.

    python tests/acceptance.py mixed     200 files of 1 byte to 300 MiB under each kind of receiver, each run twice
    python tests/acceptance.py kill      2 GB, and ten kill -9 at random moments (--seed N plays a run again)
    python tests/acceptance.py memory    a sparse file of 10 GiB, and how much memory it took

Each prints what it saw and exits 1 if a promise was broken. Needs about 8 GB in the folder for temporary files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from uploader.testing.simulator import FAITHFUL

COMMAND = [sys.executable, "-m", "uploader"]
MIB = 1024 * 1024


@contextmanager
def server(folder: Path, semantics: str = "offset", processing: float = 0.2) -> Iterator[str]:
    """Run the built-in server as a process of its own."""
    arguments = ["simulate", "--port", "0", "--folder", str(folder), "--semantics", semantics]
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--processing", str(processing)], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    try:
        url = process.stdout.readline().split()[3]
        with subprocess.Popen(["cat"], stdin=process.stdout, stdout=subprocess.DEVNULL):  # so that it never blocks
            process.stdout.close()
            yield url
            process.terminate()
    finally:
        process.kill()
        process.wait()


def records(url: str) -> list[dict[str, Any]]:
    """Ask the server what it holds."""
    with urllib.request.urlopen(f"{url}/simulator/records", timeout=60) as answer:  # noqa: S310 - our own loopback
        held: list[dict[str, Any]] = json.load(answer)["records"]
    return held


def configuration(place: Path, url: str, chunk: str = "16 MiB") -> Path:
    """Write a configuration for the folder ``drop`` in *place*."""
    (place / "password").write_text("secret\n")
    (place / "password").chmod(0o600)
    (place / "drop").mkdir(exist_ok=True)
    file = place / "config.toml"
    file.write_text(
        f'[server]\nurl = "{url}"\nusername = "uploader"\npassword_file = "{place}/password"\ndoubt_settle = "1s"\n'
        f'[upload]\nchunk_size = "{chunk}"\n'
        f'[[watch]]\npath = "{place}/drop"\nsettle = "1s"\nrescan = "2s"\n'
        f'[state]\ndir = "{place}/state"\n[log]\nlevel = "warning"\n'
    )
    return file


def digest(path: Path) -> str:
    """Hash a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def differences(folder: Path, held: list[dict[str, Any]]) -> list[str]:
    """Compare a folder with what the server holds: one ready record for each file, with its bytes."""
    here = sorted(digest(path) for path in folder.rglob("*") if path.is_file())
    there = sorted(str(record["sha256"]) for record in held)
    found = [f"{record['name']}: {record['status']}" for record in held if record["status"] != "ready"]
    if len(here) != len(there):
        found.append(f"{len(here)} files, {len(there)} records")
    if here != there:
        found.append(f"{len(set(here) ^ set(there))} checksums differ")
    return found


NAMES = (
    "{n:03} plain.mp4", "{n:03} with spaces and 'quotes'.mov", '{n:03} "double".mkv', "{n:03} Ünïcödé ß.mp4",
    "{n:03} 録画 室7.mp4", "{n:03} запись.avi", "{n:03} تسجيل.mp4", "{n:03} 🎥👩‍👩‍👧.webm", "-{n:03} leading dash.mp4",
    "{n:03} " + "long" * 48 + ".mp4", "{n:03} 100% & a=b;c.ts", "{n:03} line\nbreak.mp4",
)  # fmt: skip


def fill(folder: Path, seed: int) -> int:
    """Make 200 files of very different sizes and names; the answer is their bytes."""
    chance, total = random.Random(seed), 0
    fixed = [1, 2, 65_535, 65_536, 65_537, MIB, 16 * MIB, 16 * MIB + 1, 300 * MIB, 100 * MIB]
    for number in range(200):
        size = fixed[number] if number < len(fixed) else int(10 ** chance.uniform(0, 6.9))
        below = folder / ("", "room 1", "room 2/2026")[number % 3]
        below.mkdir(parents=True, exist_ok=True)
        with (below / NAMES[number % len(NAMES)].format(n=number)).open("wb") as file:
            for start in range(0, size, MIB):
                file.write(chance.randbytes(min(MIB, size - start)))
        total += size
    return total


def mixed(place: Path, seed: int) -> list[str]:
    """200 mixed files under each kind of receiver, twice."""
    total, found = fill(place / "drop", seed), []
    print(f"200 files, {total / MIB:.0f} MiB (seed {seed})")
    for semantics in FAITHFUL:
        with server(place / f"server-{semantics}", semantics) as url:
            file = configuration(place, url)
            began = time.monotonic()
            first = subprocess.run([*COMMAND, "once", "-c", str(file)], capture_output=True, text=True)
            seconds = time.monotonic() - began
            held = records(url)
            wrong = differences(place / "drop", held)
            second = subprocess.run([*COMMAND, "once", "-c", str(file)], capture_output=True, text=True)
            again = len(records(url)) - len(held)
        for code, text in ((first.returncode, first.stderr), (second.returncode, second.stderr)):
            wrong += [f"exit {code}: {text[-500:]}"] if code else []
        wrong += [f"the second run made {again} records"] if again else []
        print(f"{semantics:8} {len(held)} records in {seconds:.1f} s; second run: {second.stdout.strip()}", *wrong)
        found += wrong
        (place / "state").rename(place / f"state-{semantics}")
    return found


def kill(place: Path, seed: int) -> list[str]:
    """2 GB in eight files, and ten kill -9 at random moments of the daemon that sends them."""
    chance, kills = random.Random(seed), 0
    (place / "drop").mkdir()
    for number, size in enumerate((700, 500, 300, 200, 150, 100, 40, 10)):
        with (place / "drop" / f"{number}.mp4").open("wb") as video:
            for _ in range(size):
                video.write(chance.randbytes(MIB))
    with server(place / "server") as url:
        file = configuration(place, url, "8 MiB")
        for _ in range(10):
            daemon = subprocess.Popen([*COMMAND, "run", "-c", str(file)], stderr=subprocess.DEVNULL)
            wait = chance.uniform(0.5, 3.5)
            time.sleep(wait)
            daemon.send_signal(signal.SIGKILL)
            daemon.wait()
            kills += 1
            status = subprocess.run([*COMMAND, "status", "--json", "-c", str(file)], capture_output=True, text=True)
            print(f"kill {kills} after {wait:.2f} s: {json.loads(status.stdout)['counts']}")
        done = subprocess.run([*COMMAND, "once", "-c", str(file)], capture_output=True, text=True)
        held = records(url)
        wrong = differences(place / "drop", held)
        wrong += [f"exit {done.returncode}: {done.stderr[-500:]}"] if done.returncode else []
        for record in held:
            twice = len(record["ranges"]) - len(set(record["ranges"]))
            wrong += [f"{record['name']}: {twice} ranges twice"] if twice else []
    chain = subprocess.run([*COMMAND, "ledger", "--verify", "-c", str(file)], capture_output=True, text=True)
    print(f"{kills} kills (seed {seed}); {len(held)} records; ledger: {chain.stdout.strip()}")
    return wrong


def memory(place: Path, _: int) -> list[str]:
    """A sparse file of 10 GiB, sent by ``once``; its peak memory as the kernel counted it."""
    (place / "drop").mkdir()
    with (place / "drop" / "sparse.mp4").open("wb") as file:
        file.write(b"recording" * 10_000)  # a file of zeros alone counts as not written yet
        file.truncate(10 * 1024 * MIB)
    with server(place / "server") as url:
        began = time.monotonic()
        process = subprocess.Popen([*COMMAND, "once", "-c", str(configuration(place, url))])
        _, status, usage = os.wait4(process.pid, 0)
        seconds, code = time.monotonic() - began, os.waitstatus_to_exitcode(status)
        held = records(url)
    peak = usage.ru_maxrss / 1024
    print(f"10 GiB in {seconds:.0f} s, {held[0]['size']} bytes held, peak memory {peak:.0f} MiB")
    return ([f"exit {code}"] if code else []) + ([f"{peak:.0f} MiB"] if peak >= 120 else [])


def main() -> int:
    """Play one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("mixed", "kill", "memory"))
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="valt-acceptance-") as folder:
        wrong = {"mixed": mixed, "kill": kill, "memory": memory}[arguments.what](Path(folder), arguments.seed)
    for line in wrong:
        print("broken:", line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
