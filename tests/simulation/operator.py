"""The operator's five commands, over the product's interface for them. Nothing else in the simulation knows it.

``Operator`` is for a running process, ``Stopped`` for the state between two lives. Each method returns what the command
line would report: True when the command did something.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uploader import events
from uploader.clock import Clock
from uploader.config import Config
from uploader.daemon import differ_in_limits_alone
from uploader.house import House, forget, forget_orphan, pause_stored, release_stored, resume_stored, try_again_stored
from uploader.model import State, Upload
from uploader.store import Store


class Operator:
    """A running process and its commands, as ``daemon.Daemon`` is in the product."""

    def __init__(self, make_house: Callable[[Config], House], config: Config, store: Store) -> None:
        """*make_house* makes the stages for a configuration; it is called at the start and at each reload."""
        self._make_house, self._config, self._store = make_house, config, store
        self._stop = asyncio.Event()
        self._begun = asyncio.Event()  # the newest configuration is in force
        self._ending = False
        self.house = make_house(config)

    async def run(self) -> None:
        """Work until ``end``."""
        while not self._ending:
            self._stop.clear()
            self._begun.set()
            await self.house.run(self._stop, discover=True)
            if not self._ending:
                self.house = self._make_house(self._config)

    def end(self) -> None:
        """Do what SIGTERM does."""
        self._ending = True
        self._stop.set()

    @property
    def settling(self) -> bool:
        """True while a file is waited for until it is complete."""
        return bool(self.house.settle.candidates)

    def at(self, name: str) -> Upload | None:
        """Return the upload of the file that has, or had, this name."""
        return self._store.uploads.get(name) or self._store.upload_at(name)

    async def retry(self, name: str) -> bool:
        """Let a parked or waiting upload go on now."""
        waits = self.at(name) is not None
        return await self.house.release(name) or waits

    async def forget(self, name: str) -> bool:
        """Drop an unfinished upload, or the report of an orphan that holds a video."""
        if name in self._store.orphans:
            return await forget_orphan(self._store, name)
        if name not in self._store.uploads:
            return False
        await self.house.forget(name)
        return True

    async def pause(self, name: str) -> bool:
        """Begin nothing new for a file or for everything."""
        return await self.house.pause(name)

    async def resume(self, name: str) -> bool:
        """Let what was paused under this name go on."""
        return await self.house.resume(name)

    async def reload(self, config: Config) -> bool:
        """Put another configuration into force; return when it is in force."""
        limits_only, self._config = differ_in_limits_alone(self._config, config), config
        self._store.learn(login_not_before=None)
        if limits_only:
            self.house.limit(config)
        else:
            self._begun.clear()
            self._stop.set()
            await self._begun.wait()
        return True

    def wake(self) -> None:
        """Queue every upload again, as the return of its share does, also one that is being worked on."""
        for upload in self._store.uploads.values():
            if upload.state is State.FINISHING:
                self.house.pipes.ready.put(upload.path)
            if upload.state is State.VERIFYING:
                self.house.pipes.sent.put(upload.path)
            self.house.pipes.again.put(upload.path)


class Stopped:
    """The commands on the state while no process runs."""

    def __init__(self, config: Config, store: Store, clock: Clock, bus: events.Bus) -> None:
        self._config, self._store, self._clock, self._bus = config, store, clock, bus

    def at(self, name: str) -> Upload | None:
        """Return the upload of the file that has, or had, this name."""
        return self._store.uploads.get(name) or self._store.upload_at(name)

    async def retry(self, name: str) -> bool:
        """Let a parked or waiting upload go on at the next start."""
        await try_again_stored(self._store)
        return await release_stored(self._store, name)

    async def forget(self, name: str) -> bool:
        """Drop an unfinished upload, or the report of an orphan that holds a video."""
        if name in self._store.orphans:
            return await forget_orphan(self._store, name)
        if name not in self._store.uploads:
            return False
        await forget(self._store, name, self._clock, self._bus, settle=self._config.server.doubt_settle)
        return True

    async def pause(self, name: str) -> bool:
        """Begin nothing new for a file or for everything."""
        return await pause_stored(self._store, name)

    async def resume(self, name: str) -> bool:
        """Let what was paused under this name go on."""
        return await resume_stored(self._store, name)
