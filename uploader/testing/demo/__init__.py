"""``demo``: shows the whole program at work for about fifteen seconds, on one machine and without any setup.

The built-in server is behind a link of 64 Mbit/s. Videos drop into a folder, one of them still being recorded, and the
server is switched off and on again in the middle of a chunk. The daemon is the real one: it loads its configuration
from a file, keeps its state on disk, and reaches the server only by HTTP. At the end both sides are compared byte for
byte. The demonstration leaves no process, port or file behind, and reports only what it has checked.

Touches: a temporary folder, the loopback, the terminal.
Imports: app, config, diagnostics, domain, runtime, store.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from uploader.app.application import Application
from uploader.app.progress import Bars
from uploader.config import Config, load
from uploader.domain import events
from uploader.domain.units import format_bytes
from uploader.runtime.clock import Clock, SystemClock
from uploader.runtime.log import configure
from uploader.store import Store
from uploader.store.disk import StateFolder
from uploader.testing.demo import table
from uploader.testing.demo.narrator import Narrator, Witness, name
from uploader.testing.demo.stage_set import FILMS, RATE, SETTLE, Film, StageSet, temporary_folder

LIMIT: Final = 90.0  # s for everything; it takes a fifth of that
NOTICE: Final = 10.0  # s for the daemon to notice that the server is gone
DARKNESS: Final = 0.9  # s that the server stays off after that: it is back before the daemon asks again
CHECK_INTERVAL: Final = 0.05  # s between two checks whether all is done
PIPE_WIDTH: Final = 100  # columns when the output is not a terminal
INTERRUPTED: Final = 130  # exit code, as shells give it for Ctrl-C

ENVIRON: Final[dict[str, str]] = {}  # variables that are set for a real daemon do not apply here


async def show(*, keep: bool) -> int:
    """Run the demonstration; return the exit code: 0 success, 1 a failure that was reported, 130 interrupted.

    *keep*: keep the temporary folder and print its path. Raises ``UploaderError`` when the disk has too little space.
    """
    interrupted = asyncio.Event()
    console = _console(interrupted)
    with _handled_signals(interrupted), temporary_folder(keep=keep) as folder:
        demonstration = asyncio.create_task(_Demonstration(folder, console, SystemClock()).run())
        waiting = asyncio.create_task(interrupted.wait())
        try:
            await asyncio.wait((demonstration, waiting), timeout=LIMIT, return_when=asyncio.FIRST_COMPLETED)
            ended = demonstration.done()
        finally:
            for task in (demonstration, waiting):
                task.cancel()
            await asyncio.gather(demonstration, waiting, return_exceptions=True)
    if keep:
        _say(console, f"All of it is kept in {folder}; see also: valt-uploader ledger --verify -c {folder}/config.toml")
    if ended:
        return demonstration.result()
    _say(console, "interrupted" if interrupted.is_set() else f"error: not done after {LIMIT:g} s")
    return INTERRUPTED if interrupted.is_set() else 1


class _Console(Console):
    """A console that ends the demonstration in good order when its output is closed."""

    def __init__(self, on_closed: Callable[[], None], **options: Any) -> None:
        super().__init__(**options)
        self._on_closed = on_closed

    def on_broken_pipe(self) -> None:
        """Stop printing, and call *on_closed*; rich by itself would exit at once."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        self._on_closed()


def _console(interrupted: asyncio.Event) -> Console:
    """Make the console: width and colours of the terminal, or plain text of a fixed width in a pipe."""
    terminal = sys.stdout.isatty()
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a letter that the locale does not have must not stop it
    width = None if terminal else PIPE_WIDTH
    return _Console(interrupted.set, force_terminal=terminal, width=width, highlight=False)


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style), soft_wrap=not console.is_terminal)


@contextmanager
def _handled_signals(interrupted: asyncio.Event) -> Iterator[None]:
    """Let SIGINT and SIGTERM set *interrupted*, so that everything is cleaned up before the end."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupted.set)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@asynccontextmanager
async def _opened(config: Config, clock: Clock, bus: events.Bus) -> AsyncIterator[Store]:
    store = Store(StateFolder(config.state.dir), clock, bus)
    try:
        yield store
    finally:
        await store.close()


class _Demonstration:
    """One run of the demonstration, from the start of the server to the comparison at the end."""

    def __init__(self, folder: Path, console: Console, clock: Clock) -> None:
        self._stage = StageSet(folder, clock)
        self._console, self._clock = console, clock
        self._narrator = Narrator(console, clock)

    async def run(self) -> int:
        """Run and compare; return the exit code."""
        _say(self._console, "The whole program at work, on this machine alone, for about fifteen seconds.\n")
        async with self._stage:
            say, rate = self._narrator.say, f"{RATE * 8 / 1e6:.0f} Mbit/s"
            say("server", f"listens at {self._stage.url}; the link to it is limited to {rate}")
            config, bus = load(self._stage.config, ENVIRON), events.Bus()
            configure(config.log.level, config.log.format, environ=ENVIRON)
            async with _opened(config, self._clock, bus) as store:
                witness = Witness(store.uploads, self._clock)
                with Bars(self._console) as bars:
                    for listener in (witness, bars, self._narrator):
                        bus.listen(listener.hear)
                    say("daemon", f"watches {self._stage.recordings}; sends files unchanged for {SETTLE:g} s")
                    await self._act(Application(config, store, self._clock, bus, ENVIRON), witness)
        return await self._compare(witness)

    async def _act(self, application: Application, witness: Witness) -> None:
        """Run the daemon, the appearing videos and the server's interruption until nothing is left to do."""
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(application.run(stop, discover=True))
            actors = [group.create_task(self._drop(film)) for film in FILMS]
            actors.append(group.create_task(self._cut_off(witness)))
            while not witness.parked and (len(witness.finished) < len(FILMS) or application.store.orphans):
                await self._clock.sleep(CHECK_INTERVAL)
            for actor in actors:
                actor.cancel()
            stop.set()

    async def _drop(self, film: Film) -> None:
        await self._clock.sleep(film.at)
        size = format_bytes(film.size)
        what = f"is being recorded and grows to {size}" if film.live else f"appears, {size}"
        self._narrator.say("folder", f"{name(film.name)} {what}")
        await self._stage.drop(film)

    async def _cut_off(self, witness: Witness) -> None:
        """Switch the server off in the middle of a chunk, and on again once the daemon has noticed."""
        path = await witness.mid_chunk
        self._narrator.say("server", f"is switched off in the middle of a chunk of {name(path)}")
        await self._stage.switch_off()
        with suppress(TimeoutError):
            async with asyncio.timeout(NOTICE):
                await witness.server_missed.wait()
        await self._clock.sleep(DARKNESS)
        await self._stage.switch_on_again()
        self._narrator.say("server", "is back on the same port; it has forgotten every token")

    async def _compare(self, witness: Witness) -> int:
        """Compare both sides, print the table and the result; return the exit code."""
        names = {self._stage.path_of(film): film.name for film in FILMS}
        records, facts = self._stage.simulator.records(), (self._stage.log_ins, self._stage.restarts)
        rows = await table.compare(names, witness.finished, records)
        wrong = table.what_is_wrong(rows, records, *facts)
        wrong += [f"{name(path)} was parked: {reason}" for path, reason in witness.parked.items()]
        wrong += [
            f"{name(path)} was taken for complete while it was still being written"
            for path, settled_at in witness.settled_at.items()
            if settled_at < self._stage.written_at[path]
        ]
        self._console.print("", table.table_of(rows), "", sep="\n")
        for line in wrong:
            _say(self._console, f"error: {line}", "bold red")
        if not wrong:
            _say(self._console, table.summary(rows, records, *facts), "bold green")
        return 1 if wrong else 0
