"""The wiring: the six stages, their pipes and their server, for one configuration over one store.

``daemon`` runs a house for years, ``once`` and ``upload`` until nothing is left to do. Must never decide about a
file: it only connects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from uploader import errors, events, files, lifecycle, selection
from uploader.clock import Clock
from uploader.config import Config, WatchConfig
from uploader.credentials import read_password
from uploader.files import Scan
from uploader.lifecycle import Step
from uploader.log import redactor
from uploader.model import State, Upload
from uploader.outage import Outage
from uploader.stages import Pipes, Settled
from uploader.stages.discover import Discover
from uploader.stages.enqueue import Enqueue, chunk_size_now, upload_of
from uploader.stages.finish import Finish
from uploader.stages.setback import Setbacks
from uploader.stages.settle import Settle
from uploader.stages.transfer import Transfer
from uploader.stages.verify import Verify
from uploader.store import Store
from uploader.sweep import Sweep
from uploader.valt import Valt

PATIENCE: Final = 60.0  # s that a run which is to end waits for something that is tried again
GROWING_PATIENCE: Final = 5  # × settle: how long such a run waits for a file that keeps changing
DEFAULT_SETTLE: Final[float] = WatchConfig.model_fields["settle"].default
IDLE_LOOK: Final = 0.05  # s between two looks whether everything is done

Retouch = Callable[[Upload], Upload]


class House:
    """Everything that works, for as long as one configuration holds."""

    def __init__(
        self,
        config: Config,
        store: Store,
        clock: Clock,
        bus: events.Bus,
        environ: Mapping[str, str],
        *,
        retouch: Retouch = lambda upload: upload,
    ) -> None:
        """*retouch* has the last word on a new upload: what the command line asked for."""
        self.config, self.store, self.clock, self.bus = config, store, clock, bus
        self._retouch = retouch
        self.pipes = Pipes(clock)
        self.outage = Outage(store, clock, bus)
        self.valt = Valt(
            config.server,
            password=lambda: read_password(config.server, environ),
            clock=clock,
            bus=bus,
            remember=redactor.remember,
            on_answer=self.outage.answered,
        )
        setbacks = Setbacks(config, store, self.pipes, self.outage, clock, bus)
        self.discover = Discover(config.watch, self.pipes, clock, bus)
        self.settle = Settle(self._settle_of, store, self.pipes, clock, bus)
        self.enqueue = Enqueue(self._make_upload, config.upload, store, self.pipes, clock, bus)
        self.transfer = Transfer(config.server, store, self.valt, self.outage, setbacks, self.pipes, clock, bus)
        self.verify = Verify(config.upload, store, self.valt, self.outage, setbacks, self.pipes, clock, bus)
        self.finish = Finish(store, setbacks, self.pipes, clock, bus)
        self.sweep = Sweep(store, self.valt, self.outage, clock, bus)

    def _settle_of(self, root: str) -> float:
        return next((watch.settle for watch in self.config.watch if str(watch.path) == root), DEFAULT_SETTLE)

    def _make_upload(self, settled: Settled) -> Upload:
        chunk_size = chunk_size_now(self.config.upload, self.store.learnt, now=self.clock.now())
        fallback = WatchConfig(path=Path(settled.root))
        upload, warning = upload_of(settled, self.config.watch, chunk_size, fallback=fallback)
        if warning is not None:
            self.bus.publish(events.MappingFellBack(settled.path, warning))
        return self._retouch(upload)

    async def run(self, stop: asyncio.Event, *, discover: bool, only: Collection[str] | None = None) -> None:
        """Work until *stop*; then let chunks in flight end within ``drain`` seconds, and save.

        *discover*: watch the folders. *only*: of the unfinished uploads, go on with these alone.
        """
        async with self.valt, asyncio.TaskGroup() as group:
            rest = [
                group.create_task(self.settle.run()),
                group.create_task(self.enqueue.run(only)),
                group.create_task(self.verify.run()),
                group.create_task(self.finish.run()),
                group.create_task(self.sweep.run()),
            ]
            if discover:
                rest.append(group.create_task(self.discover.run()))
            workers = [
                group.create_task(self.transfer.work(), name=f"transfer {number}")
                for number in range(self.config.upload.workers)
            ]
            await stop.wait()
            self.transfer.stop()
            await self._drain(workers)
            for task in (*rest, *workers):
                task.cancel()
        await self.store.commit()

    async def _drain(self, workers: Sequence[asyncio.Task[None]]) -> None:
        """Give chunks in flight their time; idle workers have nothing to wait for."""
        deadline = self.clock.monotonic() + self.config.upload.drain
        while self.transfer.active and self.clock.monotonic() < deadline:
            await self.clock.sleep(IDLE_LOOK)

    async def run_to_end(
        self, feed: Callable[[House], Awaitable[None]], stop: asyncio.Event, *, only: Collection[str] | None = None
    ) -> None:
        """Do what *feed* brings and what is unfinished (or *only* these paths), then end.

        Raises at once when the server cannot be reached or refuses the log-in: whoever waits wants to know.
        """
        await self._log_in(stop)

        async def end_when_done() -> None:
            try:
                await feed(self)
                await self.until_done(only)
            finally:
                stop.set()

        async with asyncio.TaskGroup() as group:
            feeding = group.create_task(end_when_done())
            await self.run(stop, discover=False, only=only)
            feeding.cancel()  # a signal was faster

    async def _log_in(self, stop: asyncio.Event) -> None:
        """Log in before anything is looked at, unless *stop* is faster: a server may take a minute not to answer."""
        async with self.valt:
            log_in = asyncio.ensure_future(self.valt.login_if_needed())
            stopped = asyncio.ensure_future(stop.wait())
            try:
                await asyncio.wait({log_in, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if log_in.done():
                    log_in.result()
            finally:
                for task in (log_in, stopped):
                    task.cancel()
                await asyncio.gather(log_in, stopped, return_exceptions=True)

    async def until_done(self, only: Collection[str] | None = None) -> None:
        """Return when nothing more will happen by itself within a minute."""
        while self._works(only):
            await self.clock.sleep(IDLE_LOOK)

    def _works(self, only: Collection[str] | None) -> bool:
        if self.outage.wait > PATIENCE:
            return False
        if self.settle.busy or self.transfer.active or not (self.pipes.scans.empty() and self.enqueue.idle):
            return True
        if any(self._will_settle(candidate.found_at, candidate.settle) for candidate in self.settle.candidates()):
            return True
        now = self.clock.now()
        uploads = (upload for upload in self.store.uploads.values() if only is None or upload.path in only)
        orphans = (orphan for orphan in self.store.orphans.values() if not orphan.landed)
        return any(goes_on_soon(upload, now) for upload in uploads) or any(
            orphan.next_look - now <= PATIENCE for orphan in orphans
        )

    def _will_settle(self, found_at: float, settle: float) -> bool:
        return self.clock.monotonic() - found_at <= max(PATIENCE, GROWING_PATIENCE * settle)

    # The operator's hand

    async def release(self, path: str) -> bool:
        """Let a parked or waiting upload go on now, its failures forgotten. False when there is none."""
        upload = self.store.uploads.get(path)
        if upload is None:
            return False
        self.valt.forget_refusal()
        self.outage.lift()
        await self.enqueue.go_on(self.store.put(released(upload)))
        return True

    async def forget(self, path: str) -> str | None:
        """Know nothing more of this upload; its record becomes an orphan, whose id is the answer."""
        await self.transfer.let_go(path)
        return await forget(self.store, path, self.clock, self.bus, settle=self.config.server.doubt_settle)


def goes_on_soon(upload: Upload, now: float) -> bool:
    """True when this upload goes on by itself, now or within ``PATIENCE`` seconds."""
    if upload.state is State.PARKED:
        return False
    next_try = None if upload.trouble is None else upload.trouble.next_try
    return next_try is None or next_try - now <= PATIENCE


def released(upload: Upload) -> Upload:
    """Return the upload with its failures forgotten; a parked one still has to take its RELEASE step."""
    if upload.state is State.PARKED and upload.trouble is not None:
        return replace(upload, trouble=replace(upload.trouble, attempts=0, next_try=None), restarts=0)
    return replace(upload, trouble=None, restarts=0)


async def release_stored(store: Store, path: str) -> bool:
    """``House.release`` with the daemon stopped: it goes on at the next start."""
    upload = store.uploads.get(path)
    if upload is None:
        return False
    upload = released(upload)
    if upload.state is State.PARKED:
        upload = replace(lifecycle.advance(upload, Step.RELEASE), trouble=None)
    await store.save(upload)
    return True


async def forget(store: Store, path: str, clock: Clock, bus: events.Bus, *, settle: float) -> str | None:
    """Take an upload out of the state, durably; the answer is the record that is left to be cleared away, if any."""
    upload = store.uploads.get(path)
    if upload is None:
        raise errors.FileMissing(f"nothing unfinished is known of {path}")
    orphan = lifecycle.orphan_of(upload, now=clock.now(), settle=settle)
    landed = upload.state in {State.VERIFYING, State.FINISHING}
    store.put_orphan(None if landed else orphan)
    store.drop(path)
    await store.commit()
    bus.publish(events.UploadForgotten(path, None if orphan is None else orphan.record))
    return None if orphan is None else orphan.record


async def offer(house: House, paths: Sequence[str]) -> None:
    """Show files that were named on the command line to the settle stage."""
    for path in paths:
        watch = selection.owner(house.config.watch, path)
        root = str(watch.path) if watch is not None else str(Path(path).parent)
        sighting = await asyncio.to_thread(files.look, path, root)
        if sighting is None:
            raise errors.NotAFile(f"{path}: {await asyncio.to_thread(files.kind_of, path)}, not a file to send")
        house.pipes.scans.put_nowait(Scan(root, (sighting,), whole=False))
