"""Events of a large tree of folders, received in a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fakes import CONDITION_TIMEOUT
from parts import at
from watchfiles import Change

from uploader.files import changes_below, watching
from uploader.files.watcher_process import CHANGES_PER_LINE

pytestmark = pytest.mark.slow  # each starts the process that listens


def listeners() -> list[int]:
    """The processes that listen for events of this process."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == os.getpid() and watching.PROGRAM.name.encode() in command:
            found.append(int(folder.name))
    return found


@asynccontextmanager
async def listening(
    folder: Path, debounce: int = 50
) -> AsyncIterator[tuple[AsyncIterator[set[tuple[int, str]]], asyncio.Event]]:
    """The source of events of a folder, which has begun to listen, and what stops it. It ends with all it began."""
    stop = asyncio.Event()
    changes = changes_below(folder, debounce=debounce, recursive=True, stop_event=stop)
    async with asyncio.timeout(CONDITION_TIMEOUT):
        assert await anext(changes) == set()
        try:
            yield changes, stop
        finally:
            stop.set()
            async for _ in changes:
                pass
    assert listeners() == []


async def paths_of(changes: AsyncIterator[set[tuple[int, str]]], count: int) -> set[str]:
    """The paths of so many new files."""
    paths = set[str]()
    while len(paths) < count:
        paths |= {path for change, path in await anext(changes) if change == Change.added and path.endswith(".mp4")}
    return paths


async def test_changes_are_reported_once_it_listens(tmp_path: Path) -> None:
    """Deep below, many at once, and by names with line feeds in them."""
    (tmp_path / "room").mkdir()
    names = [f"{number}.mp4" for number in range(3 * CHANGES_PER_LINE)] + ["line\nfeed.mp4", "録画.mp4"]
    async with listening(tmp_path, debounce=5000) as (changes, _):  # all of them in one burst, which takes some lines
        for name in names:
            (tmp_path / "room" / name).write_bytes(b"x")
        assert await paths_of(changes, len(names)) == {str(tmp_path / "room" / name) for name in names}


async def test_it_ends_when_asked_to_stop(tmp_path: Path) -> None:
    """Without an error, and with its process."""
    async with listening(tmp_path) as (changes, stop):
        assert len(listeners()) == 1
        stop.set()
        assert [batch async for batch in changes] == []


async def test_it_ends_when_its_listener_is_cancelled(tmp_path: Path) -> None:
    """Its process ends, too."""
    begun = asyncio.Event()

    async def listen() -> None:
        async for _ in changes_below(tmp_path, debounce=50, recursive=True, stop_event=asyncio.Event()):
            begun.set()

    task = asyncio.create_task(listen())
    async with asyncio.timeout(CONDITION_TIMEOUT):
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert listeners() == []


async def test_an_error_of_the_watcher_is_passed_on_with_its_text(tmp_path: Path) -> None:
    """A limit of inotify is recognised by it; a name that is not UTF-8 ends it, too."""
    async with listening(tmp_path) as (changes, _):
        at(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4")).write_bytes(b"coffee")
        with pytest.raises(RuntimeError, match=r"^\w+: .*(decode|watcher)"):
            await anext(changes)


async def test_a_process_that_is_killed_is_an_error(tmp_path: Path) -> None:
    """Then it is started again, and a scan follows."""
    async with listening(tmp_path) as (changes, _):
        (process,) = listeners()
        os.kill(process, signal.SIGKILL)
        with pytest.raises(RuntimeError, match="has ended"):
            await anext(changes)


async def test_it_does_not_get_the_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment has only what an interpreter needs."""
    monkeypatch.setenv("VALT_UPLOADER_PASSWORD", "canary")
    async with listening(tmp_path):
        (process,) = listeners()
        environ = at(f"/proc/{process}/environ").read_bytes()
    assert b"PATH=" in environ
    assert b"canary" not in environ


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    """However the parent ended, as its standard input is closed then."""
    command: list[Any] = [sys.executable, "-P", watching.PROGRAM, tmp_path, "50", "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == b"[]\n"
        process.stdin.close()
        assert process.wait(CONDITION_TIMEOUT) == 0
