"""Sends files with this project's client, without the daemon around it, and measures itself.

    python -m benchmarks.ours URL [--chunk MIB] [--no-hash] [--copy] [--ca FILE] [--at-once N] [--uvloop] FILE ...

It sends all files at once, or ``--at-once`` of them, and asks for each record once at the end. ``--no-hash`` leaves out
the SHA-256, which the daemon never does. ``--copy`` reads files as from a network share, without ``sendfile``. Prints
the wall-clock seconds of the transfer alone, CPU seconds and peak memory.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib
import json
import resource
import time
from pathlib import Path
from typing import Self

from uploader.config import ServerConfig
from uploader.domain.events import Bus
from uploader.domain.model import RecordSpec
from uploader.files import MountedShare, sending
from uploader.runtime.clock import SystemClock
from uploader.server.valt import Valt


class NoHash:
    """A hash that does nothing."""

    def update(self, data: object, /) -> None:
        """Ignore *data*."""

    def hexdigest(self) -> str:
        """Return an empty text."""
        return ""

    def copy(self) -> Self:
        """Return itself."""
        return self


async def send(valt: Valt, share: MountedShare, path: Path, chunk: int, *, copy: bool) -> None:
    """Send one file as the transfer stage does, and ask once for its record."""
    identity = (await share.snapshot(str(path))).identity
    async with share.open(str(path), identity) as recording:
        if copy:
            recording.local = False
        ids = await valt.create_record(RecordSpec(path.stem))
        size = identity.size
        for start in range(0, size, chunk or size):
            end = min(size, start + (chunk or size))

            async def mark() -> None:
                await recording.check_unchanged()

            await valt.send_chunk(
                ids, path.name, (start, end, size), recording, before_last_byte=mark, on_progress=lambda _: None
            )
            await recording.confirm()
    await valt.details(ids.record)


async def run(options: argparse.Namespace) -> float:
    """Send every file; return the seconds that it took."""
    share = MountedShare(str(options.files[0].absolute().parent), SystemClock())
    slots = asyncio.Semaphore(options.at_once or len(options.files))
    server = ServerConfig.model_validate({"url": options.url, "username": "uploader", "ca_file": options.ca})
    valt = Valt(server, password=lambda: "secret", clock=SystemClock(), bus=Bus(), remember=lambda _: None)
    async with valt:
        began = time.perf_counter()
        chunk = int(options.chunk * 1024 * 1024)

        async def one(path: Path) -> None:
            async with slots:
                await send(valt, share, path, chunk, copy=options.copy)

        await asyncio.gather(*(one(path.absolute()) for path in options.files))
        return time.perf_counter() - began


def main() -> None:
    """Read the command line, send, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--chunk", type=float, default=0.0, help="MiB; 0: the whole file")
    parser.add_argument("--no-hash", action="store_true")
    parser.add_argument("--copy", action="store_true")
    parser.add_argument("--ca")
    parser.add_argument("--at-once", type=int, default=0, help="0: all")
    parser.add_argument("--uvloop", action="store_true")
    options = parser.parse_args()
    if options.no_hash:
        hashlib.sha256 = lambda *_, **__: NoHash()  # type: ignore[assignment]
        sending.hash_up = lambda *_: None  # so the bytes are not read for hashing either
    factory = None
    if options.uvloop:
        factory = importlib.import_module("uvloop").new_event_loop  # not a dependency; install it to compare
    with asyncio.Runner(loop_factory=factory) as runner:
        began = time.process_time()
        wall = runner.run(run(options))
        cpu = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"wall": wall, "cpu": cpu, "peak": peak}))


if __name__ == "__main__":
    main()
