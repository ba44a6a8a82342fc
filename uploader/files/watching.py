"""Events of a large tree of folders, heard by a process of their own (``watcher_process.py`` says why)."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

PROGRAM: Final = Path(__file__).with_name("watcher_process.py")
LONGEST_LINE: Final = 16 * 1024 * 1024  # bytes; 500 paths of 4 KiB, each byte of them spelt out as \udcXX
# s that its end is waited for: on a dead share even a killed process stays for as long as that hangs
WATCHER_END_TIMEOUT: Final = 1.0
# What an interpreter may need to start as ours did. Nothing else: a password may be among the rest.
PASSED_ENVIRONMENT: Final = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "LD_LIBRARY_PATH",
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONUTF8",
)


async def changes_below(
    folder: Path, *, debounce: int, recursive: bool, stop_event: asyncio.Event
) -> AsyncIterator[set[tuple[int, str]]]:
    """Yield an empty set once the folder is listened to, then what has changed, until *stop_event* is set.

    *debounce*: milliseconds that a burst is gathered. A change is a number of ``watchfiles.Change`` and a path.
    Raises ``OSError`` when the process cannot be started, ``RuntimeError`` when it fails or ends.
    """
    process = await _started(str(folder), str(debounce), "1" if recursive else "0")
    stopped: asyncio.Task[bool] = asyncio.create_task(stop_event.wait())
    try:
        while (line := await _line(process, stopped)) is not None:
            yield _changes(line)
    finally:
        stopped.cancel()
        with suppress(ProcessLookupError):
            process.kill()
        with suppress(TimeoutError):
            async with asyncio.timeout(WATCHER_END_TIMEOUT):
                await process.wait()


async def _started(*arguments: str) -> Process:
    environ = {name: os.environ[name] for name in PASSED_ENVIRONMENT if name in os.environ}
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", str(PROGRAM), *arguments),
        stdin=PIPE,  # it ends when this is closed, and so with us
        stdout=PIPE,
        stderr=DEVNULL,
        env=environ,
        limit=LONGEST_LINE,
        start_new_session=True,  # Ctrl-C on the terminal is for us
    )


async def _line(process: Process, stopped: asyncio.Task[bool]) -> bytes | None:
    """Return the next line; None when it is to stop."""
    if process.stdout is None:
        raise RuntimeError("the process that listens for events cannot be heard")
    reading = asyncio.create_task(process.stdout.readline())
    both: set[asyncio.Task[Any]] = {reading, stopped}
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        return None if stopped.done() else reading.result()
    finally:
        reading.cancel()


def _changes(line: bytes) -> set[tuple[int, str]]:
    if not line.endswith(b"\n"):
        raise RuntimeError("the process that listens for events has ended")
    said = json.loads(line)
    if isinstance(said, dict):
        raise RuntimeError(said["error"])  # noqa: TRY004 - what the other process has raised
    return {(change, path) for change, path in said}
