"""What a person sees of ``upload`` and ``demo``: a bar per file on a terminal, one line per file in a pipe.

A listener of the event bus, and nothing more. Must never be where anything is decided.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from uploader import events
from uploader.model import shown

NAME_WIDTH = 40  # columns
COMPACT_NAME_WIDTH = 20


class Bars:
    """Progress bars for some paths (all, if none are named). A context manager; silent when not on a terminal."""

    def __init__(self, console: Console, only: Collection[str] | None = None, *, compact: bool = False) -> None:
        """*compact*: fit into 80 columns, without speed and remaining time."""
        self._only = only
        self._name_width = COMPACT_NAME_WIDTH if compact else NAME_WIDTH
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16 if compact else 24),
            DownloadColumn(binary_units=True),
            *(() if compact else (TransferSpeedColumn(), TimeRemainingColumn(compact=True))),
            TextColumn("{task.fields[stage]}", markup=False),
            console=console,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def hear(self, event: events.Event) -> None:
        """Take in an event."""
        match event:
            case events.FileFound(path, size):
                self._show(path, size, 0, "settling")
            case events.FileQueued(path, size, _):
                self._show(path, size, 0, "waits")
            case events.BytesSent(path, position, size):
                self._show(path, size, position, "")
            case events.UploadSent(path, _, size, _, _):
                self._show(path, size, size, "server is processing")
            case events.UploadFinished(path=path, size=size):
                self._show(path, size, size, "ready")
            case events.UploadParked(path, _, _):
                self._stage(path, "parked")
            case events.UploadWaits(path, _, _):
                self._stage(path, "waits, tried again")
            case events.UploadInDoubt(path, _, _):
                self._stage(path, "asks the server")
            case _:
                pass

    def _show(self, path: str, size: int, position: int, stage: str) -> None:
        if self._only is not None and path not in self._only:
            return
        if path not in self._tasks:
            name = shown(path.rsplit("/", 1)[-1], self._name_width)
            self._tasks[path] = self._progress.add_task(name.ljust(self._name_width), total=size, stage=stage)
        self._progress.update(self._tasks[path], completed=position, total=size, stage=stage)

    def _stage(self, path: str, stage: str) -> None:
        if path in self._tasks:
            self._progress.update(self._tasks[path], stage=stage)
