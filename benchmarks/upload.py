"""Measures speed and cost of uploads, compared with curl and with a client that reads the whole file into memory.

    python -m benchmarks.upload [--rounds 5] [--size MIB] [--files 2000] [--only CASE ...] [--without ROW ...]

Each round runs every contestant once. Prints medians over the rounds, and their ratios to curl. The sink is a process
of its own; the row ``raw sendfile`` shows how fast it is. This project's client and the one like the vendor's measure
themselves from log-in to answer, without the half second in which an interpreter starts. The daemon is measured by its
log, from the first ``file-queued`` to the last ``upload-sent`` (many small files: ``upload-finished``); its CPU time
and memory are those of the whole process, including its start.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from urllib.request import urlopen

from benchmarks.shared import GIB, MIB, ROOT, Cost, a_file, curl, machine, measured_inside, median, run, sink, spread
from uploader.domain.model import ServerCapabilities
from uploader.store import codec

Contest = dict[str, Callable[[], Cost]]
BASE = "curl -F"
UPLOAD = "/api/v3/records/a/videos/b"


def module(name: str, *words: str | Path) -> Cost:
    """Run one of the senders in this folder."""
    return measured_inside([sys.executable, "-m", f"benchmarks.{name}", *words])


def by_curl(url: str, files: Sequence[Path], *words: str, at_once: bool = False) -> Cost:
    """Send files with ``curl -F``: one after the other over one connection, or all at once."""
    command = [curl() or "curl", "--silent", "--fail", "--no-progress-meter", "--output", "/dev/null"]
    command += ["--parallel", "--parallel-immediate", "--parallel-max", str(len(files))] if at_once else []
    for number, path in enumerate(files):
        command += ["--next", "--output", "/dev/null"] if number else []
        command += [*words, "-F", f"file=@{path}", url + UPLOAD]
    return run(command)[0]


def by_daemon(
    url: str,
    watch: Path,
    *,
    workers: int = 4,
    chunk: str = "16 MiB",
    ca: Path | None = None,
    proof: str = "auto",
    end: str = "upload-sent",
) -> Cost:
    """Let ``valt-uploader once`` send all files of a folder with a new state; measure up to the last event *end*.

    The state is as a probe leaves it that has seen the server put chunks together.
    """
    learnt = ServerCapabilities(chunks=True, transcodes=False, probed_at=time.time(), version="6.7.2")
    with tempfile.TemporaryDirectory(dir=watch.parent) as folder:
        (Path(folder) / "state").mkdir(mode=0o700)
        state = codec.encode_state(codec.StateSnapshot(1, capabilities=learnt), now=time.time())
        (Path(folder) / "state" / "state.json").write_bytes(state)
        config = Path(folder) / "config.toml"
        config.write_text(
            f'[server]\nurl = "{url}"\nusername = "uploader"\n'
            + (f'ca_file = "{ca}"\n' if ca else "")
            + f'[upload]\nworkers = {workers}\nchunk_size = "{chunk}"\nproof = "{proof}"\n'
            f'[[watch]]\npath = "{watch}"\nsettle = "0s"\n[state]\ndir = "{folder}/state"\n'
        )
        log = Path(folder) / "log"
        script = '"$0" -m uploader once -c "$1" 2> "$2"'
        cost, _ = run(
            ["/bin/sh", "-c", script, sys.executable, config, log],
            environ={"VALT_UPLOADER_PASSWORD": "secret"},
        )
        if end == "first byte":
            with urlopen(f"{url}/api/v3/counts") as answer:  # noqa: S310 - our own sink
                return Cost(json.load(answer)["first_upload"][0] - _times(log, "file-settled")[0], cost.cpu, cost.peak)
        return Cost(max(_times(log, end)) - min(_times(log, "file-queued")), cost.cpu, cost.peak)


def _times(log: Path, event: str) -> list[float]:
    """Return the times of an event in a log, Unix seconds."""
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return [datetime.fromisoformat(line["time"]).timestamp() for line in lines if line["event"] == event]


def one_file(folder: Path, size: int) -> Iterator[tuple[str, int, Contest]]:
    """One large file over plain HTTP."""
    path = a_file(folder / "one" / "large.mp4", size)
    with sink(folder) as url:
        client = functools.partial(module, "ours", url, path)
        yield (
            f"one file of {size // MIB} MiB, HTTP",
            size,
            {
                BASE: lambda: by_curl(url, [path]),
                "raw sendfile": lambda: module("raw", url, path),
                "client, hash off": lambda: client("--no-hash"),
                "client, hash off, 16 MiB": lambda: client("--no-hash", "--chunk", "16"),
                "client": client,
                "client, 16 MiB": lambda: client("--chunk", "16"),
                "client, as from a network share": lambda: client("--copy"),
                "daemon, whole": lambda: by_daemon(url, path.parent, chunk="whole"),
                "daemon, 16 MiB": lambda: by_daemon(url, path.parent),
                "whole file in memory": lambda: module("vendor", url, path),
            },
        )


def tls(folder: Path, size: int) -> Iterator[tuple[str, int, Contest]]:
    """One large file over TLS."""
    path = a_file(folder / "one" / "large.mp4", size)
    with sink(folder, tls=True) as url:
        ca = folder / "ca.pem"
        client = functools.partial(module, "ours", url, path, "--ca", ca)
        yield (
            f"one file of {size // MIB} MiB, TLS",
            size,
            {
                BASE: lambda: by_curl(url, [path], "--cacert", str(ca)),
                "client, hash off": lambda: client("--no-hash"),
                "client": client,
                "client, 16 MiB": lambda: client("--chunk", "16"),
                "daemon, 16 MiB": lambda: by_daemon(url, path.parent, ca=ca),
            },
        )


def four_files(folder: Path, size: int) -> Iterator[tuple[str, int, Contest]]:
    """Four files at once over plain HTTP."""
    files = [a_file(folder / "four" / f"{number}.mp4", size // 2) for number in range(4)]
    with sink(folder) as url:
        yield (
            f"four files of {size // 2 // MIB} MiB at once, HTTP",
            4 * (size // 2),
            {
                BASE: lambda: by_curl(url, files, at_once=True),
                "client, hash off": lambda: module("ours", url, *files, "--no-hash"),
                "client": lambda: module("ours", url, *files),
                "daemon, 16 MiB": lambda: by_daemon(url, files[0].parent),
            },
        )


def small_files(folder: Path, count: int) -> Iterator[tuple[str, int, Contest]]:
    """Many small files through the whole daemon, with durable saves and three requests per file."""
    size = 256 * 1024
    files = [a_file(folder / "small" / f"{number:05}.mp4", size) for number in range(count)]
    with sink(folder) as url:
        yield (
            f"{count} files of 256 KiB, HTTP",
            count * size,
            {
                BASE: lambda: by_curl(url, files),
                "client, 4 at once": lambda: module("ours", url, "--at-once", "4", *files),
                "daemon, 4 workers": lambda: by_daemon(url, files[0].parent, end="upload-finished"),
                "same, proof ready": lambda: by_daemon(url, files[0].parent, proof="ready", end="upload-finished"),
                "daemon, 16 workers": lambda: by_daemon(url, files[0].parent, workers=16, end="upload-finished"),
            },
        )


def report(name: str, size: int, contest: Contest, rounds: int) -> None:
    """Run a contest and print its table."""
    if curl() is None:
        contest = {who: go for who, go in contest.items() if who != BASE}
    costs: dict[str, list[Cost]] = {who: [] for who in contest}
    for _ in range(rounds):
        for who, go in contest.items():
            costs[who].append(go())
    print(f"\n### {name}\n")
    print("| | wall s | spread | CPU s/GiB | peak MB | wall / curl | CPU / curl |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for who, each in costs.items():
        cost, wall, cpu = median(each), "–", "–"
        if BASE in costs:  # ratios per round: a disturbance affects all contestants of a round
            pairs = list(zip(each, costs[BASE], strict=True))
            wall = f"{statistics.median(one.wall / base.wall for one, base in pairs):.2f}"
            cpu = f"{statistics.median(one.cpu / base.cpu for one, base in pairs):.2f}"
        print(
            f"| {who} | {cost.wall:.2f} | ±{spread(each) / 2:.0%} | {cost.cpu * GIB / size:.2f} "
            f"| {cost.peak / 1e6:.0f} | {wall} | {cpu} |",
            flush=True,
        )


def chunk_sizes(folder: Path, size: int, rounds: int) -> None:
    """Send one file in chunks of several sizes to a server that delays each answer."""
    path = a_file(folder / "one" / "large.mp4", size)
    chunks = (4, 8, 16, 32, 64, 256, 0)
    print(f"\n### one file of {size // MIB} MiB in chunks, seconds by the server's delay for each request\n")
    print("| delay |" + "".join(f" {f'{chunk} MiB' if chunk else 'whole'} |" for chunk in chunks))
    print("| --- |" + " --- |" * len(chunks))
    for delay in (0.0, 0.02, 0.1):
        with sink(folder, delay=delay) as url:
            walls: dict[int, list[float]] = {chunk: [] for chunk in chunks}
            for _ in range(rounds):
                for chunk in chunks:
                    walls[chunk].append(module("ours", url, path, "--chunk", str(chunk)).wall)
        row = "".join(f" {statistics.median(walls[chunk]):.2f} |" for chunk in chunks)
        print(f"| {delay * 1000:.0f} ms |{row}", flush=True)


def first_bytes(folder: Path, rounds: int) -> None:
    """Measure the time from a settled file to its first byte at the server, including record and saves."""
    path = a_file(folder / "one" / "small.mp4", MIB)
    waits = []
    for _ in range(rounds):
        with sink(folder) as url:
            waits.append(by_daemon(url, path.parent, end="first byte").wall * 1000)
    print(f"\nFrom settled to the first byte at the server: {statistics.median(waits):.0f} ms", flush=True)


OTHERS = {  # commands of their own in this folder
    "limit": ("the limit, over sockets", "limiter.py", "--sockets", "--seconds", "5"),
    "state": ("state and ledger: starts and saves", "state.py"),
    "discovery": ("watching a folder with a long history", "discovery.py"),
}


def another(title: str, script: str, *words: str) -> None:
    """Run another of the benchmarks, and print its output."""
    print(f"\n### {title}\n\n```", flush=True)
    print(run([sys.executable, ROOT / "benchmarks" / script, *words])[1] + "```", flush=True)


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=2048, help="of the large file, in MiB")
    parser.add_argument("--files", type=int, default=2000, help="number of small files")
    cases_of_all = ["http", "tls", "four", "small", "first", "chunks", *OTHERS]
    parser.add_argument("--only", nargs="*", default=cases_of_all, choices=cases_of_all, metavar="CASE")
    parser.add_argument("--without", nargs="*", default=[], metavar="ROW", help="leave these contestants out")
    parser.add_argument("--folder", type=Path, help="folder for temporary files; on a disk, not on tmpfs")
    options = parser.parse_args()
    print(f"{machine()}; {options.rounds} rounds")
    if curl() is None:
        print("curl is not installed, so nothing is compared with it; on Debian and Ubuntu: apt install curl")
    size = options.size * MIB
    cases: dict[str, Callable[[Path], Iterator[tuple[str, int, Contest]]]] = {
        "http": lambda folder: one_file(folder, size),
        "tls": lambda folder: tls(folder, size // 4),
        "four": lambda folder: four_files(folder, size),
        "small": lambda folder: small_files(folder, options.files),
    }
    for name in options.only:
        with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
            folder = Path(temporary)
            for part in ("one", "four", "small"):
                (folder / part).mkdir()
            if name == "chunks":
                chunk_sizes(folder, size // 4, options.rounds)
            elif name == "first":
                first_bytes(folder, options.rounds)
            elif name in OTHERS:
                another(*OTHERS[name])
            for title, bytes_sent, contest in cases[name](folder) if name in cases else ():
                chosen = {who: go for who, go in contest.items() if who not in options.without}
                report(title, bytes_sent, chosen, options.rounds)
    print(f"\n{machine()}, at the end")


if __name__ == "__main__":
    main()
