"""Runs the program as a user does: a real process, its log read line by line, and a server for it.

Every process that is started here is ended here, by its id. Every wait is bounded by ``PROCESS_TIMEOUT``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uploader.domain.model import ServerCapabilities
from uploader.store import codec
from uploader.store.codec import StateSnapshot
from uploader.store.disk import StateFolder
from uploader.testing.simulator import RecordView, Settings, Simulator

COMMAND = (sys.executable, "-m", "uploader")
PROCESS_TIMEOUT = 40.0  # s for anything that a test waits for; long, so that a busy machine fails no test
POLL_INTERVAL = 0.01  # s between two checks of a condition
MIB = 1024 * 1024


@dataclass(frozen=True)
class Ended:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        """The lines of the standard output."""
        return self.out.splitlines()

    @property
    def complaints(self) -> list[str]:
        """The lines of the standard error that are not log events."""
        return [line for line in self.err.splitlines() if not line.startswith("{")]


@dataclass
class Process:
    """A running process and its output so far."""

    process: asyncio.subprocess.Process
    log: list[dict[str, Any]] = field(default_factory=list)  # log events, in order
    err: list[str] = field(default_factory=list)  # every line of the standard error
    out: list[str] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _readers: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def read(self) -> None:
        """Begin to read the output."""
        pairs = ((self.process.stdout, self.out), (self.process.stderr, self.err))
        self._readers = [asyncio.create_task(self._take(stream, into)) for stream, into in pairs if stream]

    async def _take(self, stream: asyncio.StreamReader, into: list[str]) -> None:
        while line := (await stream.readline()).decode("utf-8", "replace"):
            into.append(line.removesuffix("\n"))
            if line.startswith("{") and into is self.err:
                self.log.append(json.loads(line))
            self._changed.set()

    def events(self, name: str, since: int = 0, **fields: object) -> list[dict[str, Any]]:
        """Return every event of this *name* with these *fields*, from log line *since* on."""
        wanted = {"event": name, **fields}
        return [line for line in self.log[since:] if all(line.get(key) == value for key, value in wanted.items())]

    async def event(self, name: str, since: int = 0, **fields: object) -> dict[str, Any]:
        """Return the first event of this *name* with these *fields*; wait for it if there is none yet."""
        await self._until(lambda: bool(self.events(name, since, **fields)), f"no {name} {fields or ''}")
        return self.events(name, since, **fields)[0]

    async def line(self, text: str) -> str:
        """Wait for a line of the standard output that holds *text*."""
        await self._until(lambda: any(text in line for line in self.out), f"no line with {text!r}")
        return next(line for line in self.out if text in line)

    async def _until(self, condition: Callable[[], bool], complaint: str) -> None:
        try:
            async with asyncio.timeout(PROCESS_TIMEOUT):
                while not condition():
                    assert any(not reader.done() for reader in self._readers), f"{complaint}: {self._output()}"
                    self._changed.clear()
                    if not condition():
                        change = asyncio.ensure_future(self._changed.wait())
                        await asyncio.wait({change, *self._readers}, return_when=asyncio.FIRST_COMPLETED)
                        change.cancel()
        except TimeoutError:
            raise AssertionError(f"{complaint}: {self._output()}") from None

    def _output(self) -> str:
        return "\n".join(["", *self.out, *self.err])

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if the process still runs."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def ended(self) -> Ended:
        """Wait until the process has ended."""
        try:
            async with asyncio.timeout(PROCESS_TIMEOUT):
                code = await self.process.wait()
                await asyncio.gather(*self._readers)
        except TimeoutError:
            raise AssertionError(f"the process does not end: {self._output()}") from None
        return Ended(code, "".join(f"{line}\n" for line in self.out), "".join(f"{line}\n" for line in self.err))

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> Ended:
        """Send a signal and wait until the process has ended."""
        self.send(number)
        return await self.ended()


@dataclass
class Site:
    """A folder with recordings, a configuration and a password, a server, and the processes that were started."""

    path: Path
    url: str
    simulator: Simulator
    environ: dict[str, str]
    processes: list[Process] = field(default_factory=list)

    @property
    def recordings(self) -> Path:
        """The watched folder."""
        return self.path / "recordings"

    @property
    def state(self) -> Path:
        """The state folder."""
        return self.path / "state"

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.path / "config.toml"

    @property
    def password(self) -> Path:
        """The password file."""
        return self.path / "password"

    def configure(self, *, server: str = "", upload: str = "", watch: str = "", more: str = "") -> Path:
        """Write the configuration. Each argument is TOML for its table; *more* is added at the end."""
        lines = [
            "[server]",
            f'url = "{self.url}"' if "url =" not in server else "",
            'username = "uploader"',
            f'password_file = "{self.password}"' if "password_file =" not in server else "",
            'stall_timeout = "5s"' if "stall_timeout =" not in server else "",
            'doubt_settle = "200ms"' if "doubt_settle =" not in server else "",
            server,
            "[upload]",
            'chunk_size = "64 KiB"' if "chunk_size =" not in upload else "",
            upload,
            f'[state]\ndir = "{self.state}"' if "[state]" not in more else "",
            "[[watch]]",
            f'path = "{self.recordings}"' if "path =" not in watch else "",
            'settle = "100ms"' if "settle =" not in watch else "",
            'rescan = "300ms"' if "rescan =" not in watch else "",
            watch,
            more,
        ]
        self.config.write_text("\n".join(line for line in lines if line) + "\n")
        return self.config

    def record(self, name: str, size: int = 200_000, *, seed: int = 1) -> Path:
        """Put a recording of *size* random bytes into the watched folder. Returns its path."""
        path = self.recordings / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(f"{seed} {name}").randbytes(size))  # noqa: S311 - not a secret
        return path

    async def start(self, command: str | Path, *arguments: str | Path, **options: Any) -> Process:
        """Start a command with this site's configuration. *options* are those of ``subprocess.Popen``."""
        return await self.launch(command, "-c", self.config, *arguments, **options)

    async def launch(
        self,
        *arguments: str | Path,
        program: Sequence[str] = COMMAND,
        environ: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Process:
        """Start the program with these *arguments* alone, in a process group of its own."""
        process = Process(
            await asyncio.create_subprocess_exec(
                *program,
                *map(str, arguments),
                env={**self.environ, **(environ or {})},
                process_group=0,
                **{"stdin": DEVNULL, "stdout": PIPE, "stderr": PIPE, "cwd": self.path, **options},
            )
        )
        self.processes.append(process)
        process.read()
        return process

    async def run(self, command: str | Path, *arguments: str | Path, **options: Any) -> Ended:
        """Run a command with this site's configuration to its end."""
        return await (await self.start(command, *arguments, **options)).ended()

    async def run_bare(self, *arguments: str | Path, **options: Any) -> Ended:
        """Run the program with these *arguments* alone to its end."""
        return await (await self.launch(*arguments, **options)).ended()

    def stored(self) -> dict[str, Any]:
        """Read ``state.json``."""
        document: dict[str, Any] = json.loads((self.state / "state.json").read_text())
        return document

    def orphans(self) -> list[dict[str, Any]]:
        """Return the orphans that are deleted soon: not those that were found by their name, which are given a day."""
        return [orphan for orphan in self.stored()["orphans"] if not orphan.get("found")]

    def records(self) -> list[RecordView]:
        """Return the records on the server, without those that are given a day."""
        found = {orphan["record"] for orphan in self.stored()["orphans"] if orphan.get("found")}
        return [record for record in self.simulator.records() if record.id not in found]

    def ledger(self) -> list[dict[str, Any]]:
        """Read the lines of the ledger."""
        path = self.state / "ledger.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@asynccontextmanager
async def at_work(
    path: Path, settings: Settings | None = None, *, probed: bool = True, **tables: str
) -> AsyncIterator[Site]:
    """Start a server and write a configuration (*tables* as in ``Site.configure``). In the end, end every process.

    *probed*: ``check --probe`` has found that the server assembles chunks, and has left its result in the state.
    """
    simulator = Simulator(path / "server", settings or Settings(processing=0.0))
    url = await simulator.start()
    environ = {"PATH": os.environ.get("PATH", ""), "HOME": str(path), "LANG": "C.UTF-8"}
    site = Site(path, url, simulator, environ)
    site.recordings.mkdir(exist_ok=True)
    site.password.write_text(f"{simulator.settings.password}\n")
    site.password.chmod(0o600)
    site.configure(**tables)
    if probed:
        leave_probed(site.state, simulator.settings.version)
    try:
        yield site
    finally:
        for process in site.processes:
            if process.process.returncode is None:
                process.send(signal.SIGCONT)
                process.send(signal.SIGKILL)
            await process.ended()
        await simulator.stop()


def probed_state(version: str = "6.7.2") -> bytes:
    """Return ``state.json`` as a probe leaves it before the first start."""
    learnt = ServerCapabilities(chunks=True, transcodes=False, probed_at=time.time(), version=version)
    return codec.encode_state(StateSnapshot(1, capabilities=learnt), now=time.time())


def leave_probed(state: Path, version: str) -> None:
    """Make a state folder as a probe leaves it before the first start."""
    disk = StateFolder(state)
    try:
        disk.replace("state.json", probed_state(version))
    finally:
        disk.close()


async def until(condition: Callable[[], bool], what: str, *, timeout: float = PROCESS_TIMEOUT) -> None:
    """Poll until *condition* holds, for at most *timeout* seconds."""
    try:
        async with asyncio.timeout(timeout):
            while not condition():  # noqa: ASYNC110 - another process makes it true, without an event
                await asyncio.sleep(POLL_INTERVAL)
    except TimeoutError:
        raise AssertionError(f"not within {timeout:g} s: {what}") from None


def sha256(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
