"""What a person sees of the demonstration while it runs, and what it must remember to judge it in the end.

Two listeners of the event bus. On a terminal bars show where each file stands and lines tell the story; in a pipe
the lines tell it all. Must never decide anything about a file.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import PurePath
from typing import Final, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from uploader.domain import events, lifecycle
from uploader.domain.model import State, Upload, shown
from uploader.domain.units import format_bytes
from uploader.runtime.clock import Clock

Who = Literal["folder", "server", "daemon"]

STYLES: Final[Mapping[Who, str]] = {"folder": "cyan", "server": "magenta", "daemon": "green"}
AT_REST: Final = frozenset({State.QUEUED, State.SENDING, State.VERIFYING, State.FINISHING})


class Witness:
    """Remembers what happened, and knows the moment to cut the line."""

    def __init__(self, uploads: Mapping[str, Upload], clock: Clock) -> None:
        """*uploads*: those that are not finished, as the store keeps them up to date."""
        self.finished: dict[str, events.UploadFinished] = {}
        self.settled_at: dict[str, float] = {}  # by path: when it was first taken for complete; monotonic
        self.parked: dict[str, str] = {}  # by path: why
        self.mid_chunk: asyncio.Future[str] = asyncio.get_running_loop().create_future()  # the path it happens to
        self.server_missed = asyncio.Event()
        self._uploads, self._clock = uploads, clock

    def hear(self, event: events.Event) -> None:
        """Take in an event."""
        match event:
            case events.BytesSent(path, position, _):
                if not self.mid_chunk.done() and self.finished and self._is_mid_chunk(path, position):
                    self.mid_chunk.set_result(path)
            case events.FileSettled(path, _):
                self.settled_at.setdefault(path, self._clock.monotonic())
            case events.OutageBegan():
                self.server_missed.set()
            case events.UploadParked(path, reason, _):
                self.parked[path] = reason
            case events.UploadFinished(path=path):
                self.finished[path] = event
            case _:
                pass

    def _is_mid_chunk(self, path: str, position: int) -> bool:
        """True while a later chunk of *path* is on its way, its last byte still here, and nothing else in doubt."""
        upload = self._uploads.get(path)
        if upload is None or upload.state is not State.SENDING:
            return False
        at_rest = all(other.state in AT_REST for other in self._uploads.values())
        return at_rest and 0 < upload.offset < position < lifecycle.chunk_end(upload)


class Narrator:
    """Says what happens, one line each, with the seconds since the start."""

    def __init__(self, console: Console, clock: Clock) -> None:
        self._console, self._clock = console, clock
        self._start = clock.monotonic()
        self._growing: set[str] = set()
        self._logged_in = False

    def say(self, who: Who, what: str) -> None:
        """Print one line."""
        time = f"{self._clock.monotonic() - self._start:4.1f} s"
        if not self._console.is_terminal:
            self._console.print(Text(f"{time}  {who}  {what}"), soft_wrap=True)
            return
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_row(Text(time, "dim"), Text(who, STYLES[who]), Text(what))
        self._console.print(line)

    def _detail(self, who: Who, what: str) -> None:
        """Print a line that says what the bars of a terminal show."""
        if not self._console.is_terminal:
            self.say(who, what)

    def hear(self, event: events.Event) -> None:
        """Take in an event."""
        match event:
            case events.UploadResumed(path, _, offset, size):
                self.say("daemon", f"goes on with {name(path)} at byte {offset:,} of {size:,}")
            case events.UploadRetryScheduled(path, reason, _):
                self.say("daemon", f"{name(path)} waits: {reason}")
            case events.UploadInDoubt(path, _, _):
                self.say(
                    "daemon",
                    f"cannot know what became of the last chunk of {name(path)}: asks, sends nothing",
                )
            case events.DoubtResolved(path, _, outcome):
                self.say("daemon", f"{name(path)}: {outcome}")
            case events.UploadStartedOver(path, _, _):
                self.say("daemon", f"begins {name(path)} again on a new record; the old one will be cleared away")
            case events.OrphanCleared(path=path):
                self.say("daemon", f"has cleared away the record that {name(path)} had left behind")
            case events.UploadParked(path, reason, turn):
                self.say("daemon", f"sets {name(path)} aside: {reason} (whose turn: {turn})")
            case _:
                self._hear_of_server(event)
                self._hear_of_files(event)

    def _hear_of_server(self, event: events.Event) -> None:
        match event:
            case events.LoggedIn():
                self.say("daemon", "logs in again: its token is no longer known" if self._logged_in else "logs in")
                self._logged_in = True
            case events.OutageBegan(_, again_in):
                self.say("daemon", f"finds no server; nothing is lost, it asks again in {again_in:.1f} s")
            case events.OutageEnded(after):
                self.say("daemon", f"has its server back after {after:.1f} s")
            case _:
                pass

    def _hear_of_files(self, event: events.Event) -> None:
        match event:
            case events.FileStillChanging(path, _) if path not in self._growing:
                self._growing.add(path)
                self.say("daemon", f"sees {name(path)} grow, and waits until it stands still")
            case events.FileSettled(path, size) if path in self._growing:
                self.say("daemon", f"{name(path)} has stood still: {format_bytes(size)}, complete, to be sent")
            case events.RecordCreated(path=path):
                self._detail("daemon", f"sends {name(path)}")
            case events.UploadSent(path, _, _, chunks, _):
                self._detail("daemon", f"has sent {name(path)} in {_chunks(chunks)}; the server processes it")
            case events.UploadFinished(path=path):
                self._detail("daemon", f"{name(path)} is ready")
            case _:
                pass


def name(path: str) -> str:
    """Show a file's name as it stands in a sentence."""
    return f"“{shown(PurePath(path).name)}”"


def _chunks(count: int) -> str:
    return "1 chunk" if count == 1 else f"{count} chunks"
