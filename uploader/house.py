"""The wiring: the six stages, their pipes and their server, for one configuration over one store.

``daemon`` runs a house for years, ``once`` and ``upload`` until nothing is left to do. Must never decide about a
file: it only connects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from uploader import errors, events, lifecycle, selection
from uploader.bandwidth import Bandwidth
from uploader.clock import Clock
from uploader.completeness import Rules
from uploader.config import Config, WatchConfig
from uploader.credentials import account, read_password
from uploader.files import MountedShare, Share, Shares
from uploader.lifecycle import Step
from uploader.log import redactor
from uploader.model import EVERYTHING, Home, Sighting, State, Upload, covers
from uploader.outage import Outage, refuse_again
from uploader.stages import Pipes, Seen, Settled
from uploader.stages.discover import Discover
from uploader.stages.enqueue import Enqueue, chunk_size_now, upload_of
from uploader.stages.finish import Finish
from uploader.stages.setback import Setbacks
from uploader.stages.settle import Candidate, Settle
from uploader.stages.transfer import Transfer
from uploader.stages.verify import Verify
from uploader.store import Store
from uploader.sweep import Sweep
from uploader.valt import Valt

PATIENCE: Final = 60.0  # s that a run which is to end waits for something that is tried again
GROWING_PATIENCE: Final = 5  # × settle: how long such a run waits for a file that keeps changing
LAST_SAVE: Final = 3.0  # s that the end waits for a disk that refuses or hangs
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
        make_share: Callable[[str], Share] | None = None,
        make_valt: Callable[..., Valt] = Valt,
    ) -> None:
        """*retouch* has the last word on a new upload: what the command line asked for.

        *make_share*, *make_valt*: other ports to folders and server, for tests.
        """
        self.config, self.store, self.clock, self.bus = config, store, clock, bus
        self._retouch = retouch
        self.pipes = Pipes(clock)
        self.outage = Outage(store, clock, bus, lambda: account(config.server, environ))
        self.valt = make_valt(
            config.server,
            password=lambda: read_password(config.server, environ),
            clock=clock,
            bus=bus,
            remember=redactor.remember,
            on_answer=self.outage.answered,
        )
        self.shares = Shares(make_share or self._mounted, [str(watch.path) for watch in config.watch])
        setbacks = Setbacks(config, self.shares, store, self.pipes, self.outage, clock, bus)
        self.discover = Discover(
            config.watch, self.shares, store, self._is_known, self._needs_no_look, self.pipes, clock, bus
        )
        self.settle = Settle(self._rules_of, self.shares, store, self.pipes, clock, bus)
        self.enqueue = Enqueue(
            self._make_upload, self._skips_duplicates, config.upload, self.shares, store, self.pipes, clock, bus
        )
        self.bandwidth = Bandwidth(config, clock, bus)
        self.transfer = Transfer(
            config.server,
            self.shares,
            store,
            self.valt,
            self.outage,
            setbacks,
            self.bandwidth.lane,
            self.pipes,
            clock,
            bus,
        )
        self.verify = Verify(config.upload, store, self.valt, self.outage, setbacks, self.pipes, clock, bus)
        self.finish = Finish(self.discover.order_of, self.shares, store, setbacks, self.pipes, clock, bus)
        self.sweep = Sweep(config.server, store, self.valt, self.outage, clock, bus)

    def _mounted(self, root: str) -> Share:
        return MountedShare(root, self.clock, home=self.store.homes.get(root), archives=StoredArchives(self.store))

    def _watch_of(self, root: str) -> WatchConfig:
        """The ``[[watch]]`` of a folder; a file that was named by hand lies in one that follows the defaults."""
        known = (watch for watch in self.config.watch if str(watch.path) == root)
        return next(known, None) or WatchConfig(path=Path(root))

    def _rules_of(self, root: str) -> Rules:
        watch = self._watch_of(root)
        return Rules(watch.settle, watch.gate, watch.gate_timeout, watch.rescan, watch.done_marker)

    def _skips_duplicates(self, path: str) -> bool:
        watch = selection.owner(self.config.watch, path)
        return watch is not None and watch.on_duplicate == "skip"

    def _is_known(self, path: str) -> bool:
        """True when anything is known of *path*: waited for, on its way, or sent."""
        known = self.store.upload_at(path) is not None or path in self.settle.candidates
        return known or self.store.ledger.has(path)

    def _needs_no_look(self, path: str) -> bool:
        """True when a scan may pass over the inode of *path*. Asked from the threads of shares."""
        upload = self.store.upload_at(path)
        if upload is not None:
            return upload.state is not State.PARKED
        return path not in self.settle.candidates and self.store.ledger.has(path)

    def _make_upload(self, settled: Settled) -> Upload:
        chunk_size = chunk_size_now(self.config.upload, self.store.learnt, now=self.clock.now())
        fallback = self._watch_of(settled.root)
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
                group.create_task(self.bandwidth.run()),
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
        with suppress(TimeoutError):  # on a full disk: what had to be saved was, before it was acted upon
            async with asyncio.timeout(LAST_SAVE):
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
        """Log in before anything is looked at, unless *stop* is faster: a server may take a minute not to answer.

        A password that was refused is not tried before its time: what runs us may do so every minute.
        """
        if self.outage.refused():
            refuse_again(self.store.learnt, self.outage.account(), self.clock.now())
        async with self.valt:
            log_in = asyncio.ensure_future(self.valt.login_if_needed())
            stopped = asyncio.ensure_future(stop.wait())
            try:
                await asyncio.wait({log_in, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if log_in.done():
                    log_in.result()
            except errors.PasswordRefused as error:
                await self.outage.failed(error)
                raise
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
        if (
            self.settle.busy
            or self.transfer.active
            or self.finish.ending
            or not (self.pipes.seen.empty() and self.enqueue.idle)
        ):
            return True
        if any(self._will_settle(candidate) for candidate in tuple(self.settle.candidates.values())):
            return True
        now = self.clock.now()
        chosen = (upload for upload in self.store.uploads.values() if only is None or upload.path in only)
        orphans = (orphan for orphan in self.store.orphans.values() if not orphan.landed)
        return any(goes_on_soon(upload, now) and not self.store.is_paused(upload) for upload in chosen) or any(
            orphan.next_look - now <= PATIENCE for orphan in orphans
        )

    def _will_settle(self, candidate: Candidate) -> bool:
        settle = self._rules_of(candidate.sighting.root).settle
        return candidate.soon and self.clock.monotonic() - candidate.found_at <= max(
            PATIENCE, GROWING_PATIENCE * settle
        )

    # The operator's hand

    def limit(self, config: Config) -> None:
        """Let uploads go as fast as *config* says, from now on; it differs in nothing else."""
        self.config = config
        self.bandwidth.apply(config)

    async def release(self, path: str) -> bool:
        """Let a parked or waiting upload go on now, its failures forgotten. False when there is none.

        Of a watched folder or an archive: take it as it is now, although another share stood there before.
        """
        watched = path in {str(watch.path) for watch in self.config.watch}
        if watched or path in self.store.homes:
            if watched:
                self.shares.of(path).accept()
            self.store.drop_home(path)
            await self.store.commit()
            return True
        await self.try_again()
        upload = self.store.uploads.get(path)
        if upload is None:
            return False
        await self.enqueue.go_on(self.store.put(released(upload)))
        return True

    async def try_again(self) -> None:
        """Call the server at once, also with a password that it has refused: a person says so."""
        self.valt.forget_refusal()
        self.outage.lift()
        await self.store.commit()

    async def pause(self, path: str) -> bool:
        """Begin nothing new for a file, or for any below a folder. False when that was so already."""
        return await pause_stored(self.store, path)

    async def resume(self, path: str) -> bool:
        """Let go on what was paused under just this name. False when nothing was."""
        if not await resume_stored(self.store, path):
            return False
        for upload in tuple(self.store.uploads.values()):
            if covers([path], upload.path) or covers([path], upload.where):
                self.enqueue.bring_back(upload)
        return True

    async def forget(self, path: str) -> str | None:
        """Know nothing more of this upload; its record becomes an orphan, whose id is the answer."""
        await self.transfer.let_go(path)
        return await forget(self.store, path, self.clock, self.bus, settle=self.config.server.doubt_settle)


class StoredArchives:
    """Where archives lie, in the state, beside where watched folders do."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def home_of(self, path: str) -> Home | None:
        """Where the archive lay when it was first used."""
        return self._store.homes.get(path)

    async def remember(self, home: Home) -> None:
        """Save where it lies."""
        self._store.put_home(home)
        await self._store.commit()


def goes_on_soon(upload: Upload, now: float) -> bool:
    """True when this upload goes on by itself, now or within ``PATIENCE`` seconds."""
    if upload.state is State.PARKED:
        return False
    next_try = None if upload.trouble is None else upload.trouble.next_try
    return next_try is None or next_try - now <= PATIENCE


def released(upload: Upload) -> Upload:
    """Return the upload with its failures forgotten; a parked one still has to take its RELEASE step."""
    if upload.state is State.PARKED and upload.trouble is not None:
        trouble = replace(upload.trouble, attempts=0, cuts=0, next_try=None)
        return replace(upload, trouble=trouble, restarts=0, gone=0)
    return replace(upload, trouble=None, restarts=0, gone=0)


async def release_stored(store: Store, path: str) -> bool:
    """``House.release`` with the daemon stopped: it goes on at the next start."""
    if path in store.homes:
        store.drop_home(path)
        await store.commit()
        return True
    upload = store.uploads.get(path)
    if upload is None:
        return False
    upload = released(upload)
    if upload.state is State.PARKED:
        # It keeps its trouble until it has begun: without any, it would not be saved, and be judged like a new one.
        upload = lifecycle.advance(upload, Step.RELEASE)
    await store.save(upload)
    return True


async def try_again_stored(store: Store) -> None:
    """``House.try_again`` with the daemon stopped."""
    store.learn(login_not_before=None)
    await store.commit()


async def pause_stored(store: Store, path: str) -> bool:
    """``House.pause`` with the daemon stopped."""
    changed = store.pause(path)
    await store.commit()
    return changed


async def resume_stored(store: Store, path: str) -> bool:
    """``House.resume`` with the daemon stopped. Without a path (``EVERYTHING``) nothing stays paused."""
    names = tuple(store.paused) if path == EVERYTHING else (path,)
    changed = [store.pause(name, paused=False) for name in names]
    await store.commit()
    return any(changed)


async def forget_orphan(store: Store, record: str) -> bool:
    """Report an orphan that holds a video no longer: a person has decided to keep it. False when there is none."""
    orphan = store.orphans.get(record)
    if orphan is None or not orphan.landed:
        return False
    store.drop_orphan(record)
    await store.commit()
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
        ((_, seen),) = await house.shares.of(root).look([path])
        if not isinstance(seen, Sighting):
            raise errors.NotAFile(f"{path}: {seen}, not a file to send")
        await house.pipes.seen.put(Seen(root, (seen,)))
