"""Reads the change events of a folder tree from a child process (``watcher_process.py`` says why)."""

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
LONGEST_LINE: Final = 16 * 1024 * 1024  # bytes; 500 paths of 4 KiB, each byte of them written as \udcXX
# s to wait for its end: on a dead share even a killed process stays for as long as the share hangs
WATCHER_END_TIMEOUT: Final = 1.0
# What an interpreter may need to start like this one. Nothing else: a password may be among the rest.
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
    """Yield an empty set once the folder is watched, then sets of changes, until *stop_event* is set.

    *debounce*: milliseconds for which a burst is collected. A change is a number of ``watchfiles.Change`` and a path.
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
        stdin=PIPE,  # it ends when this is closed, so also when this process ends
        stdout=PIPE,
        stderr=DEVNULL,
        env=environ,
        limit=LONGEST_LINE,
        start_new_session=True,  # Ctrl-C on the terminal is for this process alone
    )


async def _line(process: Process, stopped: asyncio.Task[bool]) -> bytes | None:
    """Return the next line; None when *stopped* is done."""
    if process.stdout is None:
        raise RuntimeError("the output of the process that listens for events cannot be read")
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
    message = json.loads(line)
    if isinstance(message, dict):
        raise RuntimeError(message["error"])  # noqa: TRY004 - what the other process has raised
    return {(change, path) for change, path in message}
