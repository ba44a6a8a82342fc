"""The progress display of ``upload``: one bar for each file on a terminal, nothing in a pipe.

It listens to the event bus and decides nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, Self

from rich.cells import set_cell_size
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

from uploader.domain import events
from uploader.domain.model import shown

WIDE: Final = 110  # columns: a terminal of at least this width gets wider names and bars
WIDE_WIDTHS: Final = (40, 24)  # columns of a name and of a bar
NARROW_WIDTHS: Final = (18, 6)  # the same for narrower terminals: a whole line fits into 80 columns
HELD_UP: Final[Mapping[type[events.Event], str]] = {
    events.UploadParked: "parked",
    events.UploadRetryScheduled: "retry later",
    events.UploadInDoubt: "in doubt",
}


class Bars:
    """Progress bars for *only* these paths, or for all. A context manager; shows nothing when not on a terminal."""

    def __init__(self, console: Console, only: Collection[str] | None = None) -> None:
        self._only = only
        self._tasks: dict[str, TaskID] = {}
        self._name_width, bar_width = WIDE_WIDTHS if console.width >= WIDE else NARROW_WIDTHS
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=bar_width),
            DownloadColumn(binary_units=True),
            TransferSpeedColumn(),
            TimeRemainingColumn(compact=True),
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
        """Update the bar of the file that an event is about."""
        match event:
            case events.FileFound(path, size):
                self._show(path, size, 0, "settling")
            case events.FileStillChanging(path, size):
                self._show(path, size, 0, "growing")
            case events.UploadResumed(path, _, offset, size):
                self._show(path, size, offset, "resuming")
            case events.FileQueued(path, size, _):
                self._show(path, size, 0, "queued")
            case events.BytesSent(path, position, size):
                self._show(path, size, position, "")
            case events.UploadSent(path, _, size, _, _):
                self._show(path, size, size, "processing")
            case events.UploadFinished(path=path, size=size):
                self._show(path, size, size, "ready")
            case (
                events.UploadParked(path=path)
                | events.UploadRetryScheduled(path=path)
                | events.UploadInDoubt(path=path)
            ):
                self._stage(path, HELD_UP[type(event)])
            case _:
                pass

    def _show(self, path: str, size: int, position: int, stage: str) -> None:
        if self._only is not None and path not in self._only:
            return
        if path not in self._tasks:
            # Measured in terminal cells, not in characters: emoji and the characters of many scripts take two.
            name = set_cell_size(shown(path.rsplit("/", 1)[-1]), self._name_width)
            self._tasks[path] = self._progress.add_task(name, total=size, stage=stage)
        self._progress.update(self._tasks[path], completed=position, total=size, stage=stage)

    def _stage(self, path: str, stage: str) -> None:
        if path in self._tasks:
            self._progress.update(self._tasks[path], stage=stage)
