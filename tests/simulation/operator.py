"""Calls the product's interface for the operator's commands. No other module of the simulation does.

``Process`` is for a running process, ``Stopped`` for the state between two lives. Each method returns what the command
line would report: True when the command did something.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uploader.app import operator
from uploader.app.application import Application
from uploader.app.daemon import differ_in_limits_alone
from uploader.config import Config
from uploader.diagnostics.probe_results import ProbeResult, apply
from uploader.domain import events
from uploader.domain.model import ServerCapabilities, State, Upload
from uploader.runtime.clock import Clock
from uploader.stages.lease import Leases
from uploader.store import Store


class Commands:
    """The commands that the running process and the stopped state have in common."""

    def __init__(self, config: Config, store: Store, clock: Clock, bus: events.Bus) -> None:
        self._store, self.leases = store, Leases(store)
        self._product = operator.Operator(store, self.leases, clock, bus, config.server.doubt_settle)
        self.forget = self._product.forget
        self.pause = self._product.pause
        self.resume = self._product.resume
        self._clock = clock
        self.probe: Callable[[float], ServerCapabilities]  # what ``check --probe`` finds out, by the time

    def at(self, name: str) -> Upload | None:
        """Return the upload of the file that has, or had, this name."""
        return next((one for one in self._store.uploads.values() if name in {one.path, one.where}), None)

    async def retry(self, name: str) -> bool:
        """Let a parked or waiting upload go on now."""
        await self._product.try_server_again()
        return await self._product.retry(name)

    async def probed(self, about: str) -> bool:
        """Save what ``check --probe`` has found out, as the daemon does."""
        del about
        apply(self._store, ProbeResult(learnt=self.probe(self._clock.now())))
        await self._store.commit()
        return True


class Stopped(Commands):
    """The state of a process that does not run."""


class Process(Commands):
    """A process that runs: what ``daemon.Daemon`` is in the product."""

    def __init__(
        self,
        make_application: Callable[[Config, Leases], Application],
        config: Config,
        store: Store,
        clock: Clock,
        bus: events.Bus,
    ) -> None:
        """*make_application*: builds the application for a configuration; it is called again after each reload."""
        super().__init__(config, store, clock, bus)
        self._make_application, self._config = make_application, config
        self._stop = asyncio.Event()
        self._begun = asyncio.Event()  # the newest configuration is in force
        self._ending = False
        self.application = self._product.running = make_application(config, self.leases)

    async def run(self) -> None:
        """Work until ``end``."""
        while not self._ending:
            self._stop.clear()
            self._begun.set()
            await self.application.run(self._stop, discover=True)
            if not self._ending:
                self.application = self._product.running = self._make_application(self._config, self.leases)

    def end(self) -> None:
        """Do what SIGTERM does."""
        self._ending = True
        self._stop.set()

    @property
    def settling(self) -> bool:
        """True while a file is waited for until it is complete."""
        return bool(self.application.settle.candidates)

    async def reload(self, config: Config) -> bool:
        """Put another configuration into force; return when its stages run."""
        limits_only, self._config = differ_in_limits_alone(self._config, config), config
        self._product.reload(config)
        if not limits_only:
            self._begun.clear()
            self._stop.set()
            await self._begun.wait()
        return True

    def wake(self) -> None:
        """Queue every upload again, also one that is being worked on, as happens when its share comes back."""
        for upload in self._store.uploads.values():
            if upload.state is State.FINISHING:
                self.application.queues.proven.put(upload.path)
            if upload.state is State.VERIFYING:
                self.application.queues.sent.put(upload.path)
            self.application.queues.again.put(upload.path)
