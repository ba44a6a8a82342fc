"""Prints what happens during the demonstration, and records what the comparison at the end needs.

Two listeners of the event bus. On a terminal, bars show the progress of each file and lines report events; in a pipe
the lines report everything.
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
    """Records what happened, and finds the moment to switch the server off."""

    def __init__(self, uploads: Mapping[str, Upload], clock: Clock) -> None:
        """*uploads*: the unfinished ones, as the store keeps them up to date."""
        self.finished: dict[str, events.UploadFinished] = {}
        self.settled_at: dict[str, float] = {}  # by path: when it was first considered complete; monotonic
        self.parked: dict[str, str] = {}  # by path: the reason
        # The path of a file in the middle of a chunk, when the server can be switched off.
        self.mid_chunk: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.server_missed = asyncio.Event()
        self._uploads, self._clock = uploads, clock

    def hear(self, event: events.Event) -> None:
        """Record an event."""
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
        """True while a later chunk of *path* is being sent, not yet its last byte, and no other upload is in doubt."""
        upload = self._uploads.get(path)
        if upload is None or upload.state is not State.SENDING:
            return False
        at_rest = all(other.state in AT_REST for other in self._uploads.values())
        return at_rest and 0 < upload.offset < position < lifecycle.chunk_end(upload)


class Narrator:
    """Prints one line per event, with the seconds since the start."""

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
        """Print a line that a terminal does not need, since its bars show the same."""
        if not self._console.is_terminal:
            self.say(who, what)

    def hear(self, event: events.Event) -> None:
        """Print a line about an event."""
        match event:
            case events.UploadResumed(path, _, offset, size):
                self.say("daemon", f"resumes {name(path)} at byte {offset:,} of {size:,}")
            case events.UploadRetryScheduled(path, reason, _):
                self.say("daemon", f"{name(path)} waits: {reason}")
            case events.UploadInDoubt(path, _, _):
                self.say(
                    "daemon",
                    f"does not know whether the last chunk of {name(path)} arrived: asks the server, sends nothing",
                )
            case events.DoubtResolved(path, _, outcome):
                self.say("daemon", f"{name(path)}: {outcome}")
            case events.UploadStartedOver(path, _, _):
                self.say("daemon", f"starts {name(path)} over on a new record; the old one will be deleted")
            case events.OrphanCleared(path=path):
                self.say("daemon", f"has deleted the orphan record of {name(path)}")
            case events.UploadParked(path, reason, action_by):
                self.say("daemon", f"parks {name(path)}: {reason} (who must act: {action_by})")
            case _:
                self._hear_of_server(event)
                self._hear_of_files(event)

    def _hear_of_server(self, event: events.Event) -> None:
        match event:
            case events.LoggedIn():
                self.say("daemon", "logs in again: its token is no longer valid" if self._logged_in else "logs in")
                self._logged_in = True
            case events.OutageBegan(_, again_in):
                self.say("daemon", f"cannot reach the server; uploads wait, it tries again in {again_in:.1f} s")
            case events.OutageEnded(after):
                self.say("daemon", f"reaches the server again after {after:.1f} s")
            case _:
                pass

    def _hear_of_files(self, event: events.Event) -> None:
        match event:
            case events.FileStillChanging(path, _) if path not in self._growing:
                self._growing.add(path)
                self.say("daemon", f"sees {name(path)} grow, and waits until it no longer changes")
            case events.FileSettled(path, size) if path in self._growing:
                self.say("daemon", f"{name(path)} no longer changes: {format_bytes(size)}, complete, to be sent")
            case events.RecordCreated(path=path):
                self._detail("daemon", f"sends {name(path)}")
            case events.UploadSent(path, _, _, chunks, _):
                self._detail("daemon", f"has sent {name(path)} in {_chunks(chunks)}; the server processes it")
            case events.UploadFinished(path=path):
                self._detail("daemon", f"{name(path)} is ready")
            case _:
                pass


def name(path: str) -> str:
    """Quote a file's name for use in a sentence."""
    return f"“{shown(PurePath(path).name)}”"


def _chunks(count: int) -> str:
    return "1 chunk" if count == 1 else f"{count} chunks"
