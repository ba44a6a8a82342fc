"""Counts what the look into a long fragmented MP4 costs, and how long it would take on a slow share.

Makes sparse files in a temporary folder: each fragment's head is written, its media are not. 100,000 heads take 400 MB
of disk. Usage: python -m benchmarks.containers [--gib 200] [--fragments 100000 …]
"""

from __future__ import annotations

import argparse
import os
import struct
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from uploader import container

READ = 0.005  # s for each read on a slow share
RATE = 50e6  # bytes/s there


def box(kind: bytes, *contents: bytes, size: int | None = None) -> bytes:
    """Return a box of MP4; *size* is what its head says, when its contents are not all given."""
    payload = b"".join(contents)
    return struct.pack(">I4s", size or len(payload) + 8, kind) + payload


def make(path: Path, size: int, fragments: int, *, cut: int) -> None:
    """Make a fragmented MP4 of about *size* bytes without its media, and without its last *cut* bytes."""
    each = size // fragments
    with path.open("wb") as file:
        trex = box(b"trex", struct.pack(">6I", 0, 1, 1, 0, 0, 0))
        file.write(box(b"ftyp", b"iso5\0\0\2\0iso5mp41") + box(b"moov", box(b"mvhd", bytes(100)), box(b"mvex", trex)))
        start = file.tell()
        for number in range(fragments):
            file.seek(start + number * each)
            run = box(b"trun", struct.pack(">3I", 0, 1, 0))
            traf = box(b"traf", box(b"tfhd", struct.pack(">2I", 0, 1)), run)
            index = box(b"moof", box(b"mfhd", struct.pack(">2I", 0, number + 1)), traf)
            file.write(index + box(b"mdat", b"\x65" * 64, size=each - len(index)))
        end = start + fragments * each
        file.seek(end - 4096)
        file.write(b"\x65" * 4096)
        file.truncate(end - cut)


def look(path: Path) -> str:
    """Look into a file, and return a line of a table."""
    reads = taken = 0
    with path.open("rb") as file:

        def read(offset: int, length: int) -> bytes:
            nonlocal reads, taken
            reads, taken = reads + 1, taken + length
            return os.pread(file.fileno(), length, offset)

        began = time.perf_counter()
        found = container.inspect(read, path.stat().st_size, ".mp4")
        seconds = time.perf_counter() - began
    slow = reads * READ + taken / RATE
    verdict = "held" if found.unfinished else "closed"
    return f"| {verdict} | {reads} | {taken / 2**20:.1f} MiB | {seconds:.2f} s | {slow:.1f} s |"


def main() -> None:
    """Print one line for each number of fragments, whole and cut."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=int, default=200)
    parser.add_argument("--fragments", type=int, nargs="+", default=[100, 900, 1100, 10_000, 100_000])
    options = parser.parse_args()
    print("| fragments | file | found | reads | bytes | here | at 5 ms and 50 MB/s |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "long.mp4"
        for fragments in options.fragments:
            for cut in (0, 1):
                make(path, options.gib * 2**30, fragments, cut=cut)
                print(f"| {fragments:,} | {'cut by a byte' if cut else 'whole'} {look(path)}", flush=True)
                path.unlink()


if __name__ == "__main__":
    main()
