"""Helpers for the benchmarks: the sink's process, timed commands, files and medians."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import trustme

GIB = 1 << 30
MIB = 1 << 20
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Cost:
    """The cost of one run: wall-clock seconds, CPU seconds, bytes of peak memory."""

    wall: float
    cpu: float
    peak: float


def run(command: Sequence[str | Path], *, environ: dict[str, str] | None = None) -> tuple[Cost, str]:
    """Run a command; return its cost as the kernel counts it, and its output. Raises RuntimeError if it fails."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        began = time.perf_counter()
        child = subprocess.Popen(
            [str(word) for word in command], stdout=out, stderr=err, cwd=ROOT, env=os.environ | (environ or {})
        )
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        for stream in (out, err):
            stream.seek(0)
        if child.returncode:
            raise RuntimeError(f"{command[0]}: exit code {child.returncode}: {err.read()[-1000:]}")
        return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024), out.read()


def measured_inside(command: Sequence[str | Path]) -> Cost:
    """Run a command that measures itself from when it is ready to send, so without the start of the interpreter."""
    _, out = run(command)
    return Cost(**json.loads(out))


@contextlib.contextmanager
def sink(folder: Path, *, tls: bool = False, delay: float = 0.0) -> Iterator[str]:
    """Run a sink in its own process; yield its address. With *tls*, ``ca.pem`` in *folder* is its authority."""
    command = [sys.executable, "-m", "benchmarks.sink", "--delay", str(delay)]
    if tls:
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        authority.cert_pem.write_to_path(folder / "ca.pem")
        certificate.private_key_pem.write_to_path(folder / "key.pem")
        for number, blob in enumerate(certificate.cert_chain_pems):
            blob.write_to_path(folder / "cert.pem", append=bool(number))
        command += ["--tls", str(folder / "cert.pem"), str(folder / "key.pem")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True) as child:
        port = int(child.stdout.readline()) if child.stdout else 0
        try:
            yield f"{'https' if tls else 'http'}://{'localhost' if tls else '127.0.0.1'}:{port}"
        finally:
            child.terminate()


def a_file(path: Path, size: int) -> Path:
    """Make a file of random bytes, in the page cache and on the disk."""
    with path.open("wb") as file:
        left = size
        while left:
            left -= file.write(os.urandom(min(left, 8 * MIB)))
        file.flush()
        os.fsync(file.fileno())
    return path


def median(costs: Sequence[Cost]) -> Cost:
    """Return the median of each figure."""
    return Cost(*(statistics.median(values) for values in zip(*((c.wall, c.cpu, c.peak) for c in costs), strict=True)))


def spread(costs: Sequence[Cost]) -> float:
    """Return the difference of slowest and fastest run, as a fraction of the median wall-clock time."""
    walls = [cost.wall for cost in costs]
    return (max(walls) - min(walls)) / statistics.median(walls)


def machine() -> str:
    """Describe this machine in one line."""
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return f"{os.cpu_count()} × {model}, Linux {platform.release()}, Python {platform.python_version()}, load {load}"


def curl() -> str | None:
    """Return the path of curl; None if it is not installed (Debian and Ubuntu: apt install curl)."""
    return shutil.which("curl")
