"""The whole application under test: the built-in server, a watched folder, a state folder, and the daemon's stages.

``Rig`` is for tests that need all of it, over real sockets and real files. A test never sleeps for a fixed time: it
waits for an event, for a bounded time, and fails at once when the application has ended.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
import uuid
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from parts import CHUNK, BriskClock, MortalDisk, WatchfulSimulator, ready_at_once

from uploader.app.application import Application
from uploader.app.operator import Operator
from uploader.config import Config, load
from uploader.domain import events
from uploader.domain.model import Orphan, RecordSpec, ServerCapabilities, State, Upload
from uploader.runtime.clock import Clock
from uploader.store import Store, codec
from uploader.store.codec import StateSnapshot
from uploader.store.disk import StateFolder
from uploader.store.opening import read_state
from uploader.testing.simulator import CallName, Fault, FaultKind, RecordView, SeenCall, Settings
from uploader.testing.simulator.records import Record

RIG_TIMEOUT: Final = 40.0  # s until a test that waits gives up; long, so that a busy machine fails no test
RIG_CHECK_INTERVAL: Final = 0.05  # s

E = TypeVar("E", bound=events.Event)


class Rig:
    """A server, a watched folder, and an application that can be stopped, killed and restarted. A context manager.

    *server*, *upload* and *watch* are keys of the configuration's tables that differ from the rig's own; *watches*
    replaces its one folder. Everything lies below *folder*: ``watch/``, ``state/``, ``server/``, ``config.toml``.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings | None = None,
        *,
        server: dict[str, Any] | None = None,
        upload: dict[str, Any] | None = None,
        watch: dict[str, Any] | None = None,
        watches: list[dict[str, Any]] | None = None,
        clock: Clock | None = None,
        discover: bool = True,
        probed: bool = True,
    ) -> None:
        """*probed*: an earlier probe has found that the server assembles chunks and does not transcode."""
        self.folder = folder
        self.watch = folder / "watch"
        self.watch.mkdir(exist_ok=True)
        self.clock = clock or BriskClock()
        self.simulator = WatchfulSimulator(folder / "server", settings or ready_at_once())
        self.bus = events.Bus()
        self.bus.listen(self._hear)
        self.heard: list[events.Event] = []  # everything that was published, over all restarts
        self.most_attempts = 0  # the highest count of failures that any upload ever had
        self.environ = {"VALT_UPLOADER_PASSWORD": "secret"}
        self._server = {"username": "uploader", "stall_timeout": "10s", "doubt_settle": "100ms"} | (server or {})
        self._upload: dict[str, Any] = {"chunk_size": CHUNK, "workers": 4, "drain": "30s"} | (upload or {})
        common = {"path": str(self.watch), "settle": "50ms", "mode": "poll", "rescan": "10m"} | (watch or {})
        self._watches = [common] if watches is None else [common | each for each in watches]
        self._discover, self._probed = discover, probed
        self._changed = asyncio.Event()
        self._application: Application | None = None
        self._operator: Operator | None = None
        self._disk: MortalDisk | None = None
        self._store: Store | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()

    async def __aenter__(self) -> Self:
        await self.simulator.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self.kill()
        finally:
            await self.simulator.stop()

    # The application

    @property
    def application(self) -> Application:
        """The application that runs now, or ran last."""
        assert self._application is not None
        return self._application

    @property
    def operator(self) -> Operator:
        """The interface for the operator's commands."""
        assert self._operator is not None
        return self._operator

    async def retry(self, path: str) -> bool:
        """Do what the daemon does for ``valt-uploader retry``."""
        await self.operator.try_server_again()
        return await self.operator.retry(path)

    @property
    def store(self) -> Store:
        """The store of the running application."""
        assert self._store is not None
        return self._store

    def config(self) -> Config:
        """Write the configuration file and load it, as the daemon does."""
        path = self.folder / "config.toml"
        tables = [_table("[server]", {"url": self.simulator.url} | self._server), _table("[upload]", self._upload)]
        tables += [_table("[[watch]]", watch) for watch in self._watches]
        tables.append(_table("[state]", {"dir": str(self.folder / "state")}))
        path.write_text("\n".join(tables), encoding="utf-8")
        return load(path, {})

    async def start(self) -> Application:
        """Open the state folder and run a new application on it."""
        assert self._task is None, "the last application still runs"
        self.build()
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self.application.run(self._stop, discover=self._discover))
        self._task.add_done_callback(lambda _: self._changed.set())
        return self.application

    def build(self) -> Application:
        """Open the state folder and build an application on it without running it."""
        config = self.config()
        self._disk = MortalDisk(config.state.dir)
        self._store = Store(self._disk, self.clock, self.bus)
        if self._probed and self._store.capabilities.chunks is None:
            known = self._store.capabilities
            version = self.simulator.settings.version if known.version is None else known.version
            probed_at = self.clock.now() if known.probed_at is None else known.probed_at
            self._store.learn(chunks=True, transcodes=False, probed_at=probed_at, version=version)
        self._application = Application(config, self._store, self.clock, self.bus, self.environ)
        settle = config.server.doubt_settle
        self._operator = Operator(self._store, self._application.leases, self.clock, self.bus, settle)
        self._operator.running = self._application
        return self._application

    async def stop(self) -> None:
        """Stop the application as SIGTERM does: chunks in flight may end, and the state is saved."""
        assert self._task is not None
        self._stop.set()
        async with asyncio.timeout(RIG_TIMEOUT):
            await self._task
        self._task = None
        await self._close()

    async def kill(self) -> None:
        """End the application as SIGKILL does: what is not on the disk by now is lost."""
        if self._disk is not None:
            self._disk.dead = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            with warnings.catch_warnings(action="ignore", category=ResourceWarning):
                gc.collect(1)  # closes what was left open, as the system does for a killed process
        await self._close()

    async def restart(self) -> Application:
        """Kill the application and start a new one from what the disk holds."""
        await self.kill()
        return await self.start()

    async def _close(self) -> None:
        store, self._disk = self._store, None
        if store is not None and self._application is not None:
            self._store = None
            await store.close()

    def saved(self) -> StateSnapshot:
        """Read what ``state.json`` holds now."""
        disk = StateFolder(self.folder / "state", lock=False)
        try:
            return read_state(disk)
        finally:
            disk.close()

    def on_disk(self, path: str) -> Upload:
        """Read the upload of *path* from ``state.json``."""
        return next(upload for upload in self.saved().uploads if upload.path == path)

    def prepare(
        self, *uploads: Upload, orphans: tuple[Orphan, ...] = (), capabilities: ServerCapabilities | None = None
    ) -> None:
        """Write these into the state folder, as if an earlier run had left them there."""
        disk = StateFolder(self.folder / "state")
        try:
            saved = StateSnapshot(1, uploads, orphans, capabilities or ServerCapabilities())
            disk.replace("state.json", codec.encode_state(saved, now=self.clock.now()))
        finally:
            disk.close()

    # The folder

    def write(self, name: str, content: bytes, *, folder: Path | None = None) -> str:
        """Put a file into the watched folder in one step. Returns its path."""
        target = (folder or self.watch) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        hidden = target.with_name(f".{os.getpid()}.new")
        hidden.write_bytes(content)
        hidden.replace(target)
        return str(target)

    async def drop(self, name: str, content: bytes, *, folder: Path | None = None) -> str:
        """Put a file into the watched folder and scan. Returns its path."""
        path = self.write(name, content, folder=folder)
        await self.scan()
        return path

    async def scan(self) -> None:
        """Scan the watched folders now."""
        await self.application.discover.scan_all()

    # Events

    def _hear(self, event: events.Event) -> None:
        self.heard.append(event)
        self._changed.set()
        if self._store is not None:
            troubles = (upload.last_error for upload in self._store.uploads.values())
            counts = (last_error.attempts for last_error in troubles if last_error is not None)
            self.most_attempts = max(self.most_attempts, *counts, 0)

    def seen(self, kind: type[E], **fields: object) -> list[E]:
        """Return every event of this *kind* with these *fields* so far."""
        return [event for event in self.heard if isinstance(event, kind) and _has(event, fields)]

    async def event(self, kind: type[E], *, count: int = 1, **fields: object) -> E:
        """Wait for the *count*-th event of this *kind* with these *fields*, counted from the first start."""
        await self.until(lambda: len(self.seen(kind, **fields)) >= count, f"{kind.__name__} {fields}")
        return self.seen(kind, **fields)[count - 1]

    async def until(self, condition: Callable[[], object], what: str = "it") -> None:
        """Wait until *condition* holds; it is checked after every event and every ``RIG_CHECK_INTERVAL``."""
        try:
            async with asyncio.timeout(RIG_TIMEOUT):
                while not condition():
                    self._changed.clear()
                    if self._task is not None and self._task.done():
                        self._task.result()
                        raise AssertionError(f"the application has ended before {what}")
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._changed.wait(), RIG_CHECK_INTERVAL)
        except TimeoutError:
            raise AssertionError(f"timeout while waiting for {what}; last events: {self.heard[-8:]}") from None

    async def finished(self, *paths: str) -> None:
        """Wait until each of these files is finished."""
        for path in paths:
            await self.event(events.UploadFinished, path=path)

    async def swept(self) -> None:
        """Wait until no orphan is left. For those that were found by their name, a day passes."""
        for orphan in self.store.orphans.values():
            if orphan.found:
                self.store.put_orphan(replace(orphan, found=False, next_look=self.clock.now()))
        await self.until(lambda: not self.store.orphans, "the orphan cleanup")
        await self.store.commit()  # follows the save of the cleanup, which announces its event after that save

    # The server

    @property
    def records(self) -> list[RecordView]:
        """All records on the server, the oldest first."""
        return self.simulator.records()

    @property
    def record(self) -> RecordView:
        """The one record on the server."""
        (record,) = self.simulator.records()
        return record

    def fault(self, call: CallName, kind: FaultKind, **more: Any) -> Fault:
        """Let the server fail in this way: see ``simulator.Fault``."""
        fault = Fault(call=call, kind=kind, **more)
        self.simulator.faults.append(fault)
        return fault

    def become(self, settings: Settings) -> None:
        """Change the settings of the running server."""
        self.simulator.settings = settings

    def plant(self, name: str, *, author: str = "uploader", age: float = 0.0, video: bool = False) -> str:
        """Put a record on the server that the application has not made. Returns its id."""
        now = time.time()
        record = Record(
            id=str(uuid.uuid4()),
            video=str(uuid.uuid4()),
            spec=RecordSpec(name),
            author=author,
            created=now - age,
            semantics=self.simulator.settings.semantics,
            completed_at=now if video else None,
        )
        self.simulator._records.add(record)
        return record.id

    def calls(self, name: CallName) -> list[SeenCall]:
        """Return the calls of this *name* that have ended."""
        return [call for call in self.simulator.calls if call.name == name]

    def state_of(self, path: str) -> State | None:
        """Return the state of the upload of *path*; None when it is unknown or done."""
        upload = self.store.uploads.get(path)
        return None if upload is None else upload.state


def _has(event: events.Event, fields: dict[str, object]) -> bool:
    return all(getattr(event, name) == value for name, value in fields.items())


def _table(head: str, values: dict[str, Any]) -> str:
    return head + "\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value)
