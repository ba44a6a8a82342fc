"""Wires the six stages, their queues and the server client together, for one configuration over one store.

``run`` runs an application until a signal, ``once`` and ``upload`` until nothing is left to do. Decisions about a file
are made in the stages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from uploader.app.auto_probe import AutoProbe
from uploader.app.operator import is_below
from uploader.bandwidth import Bandwidth
from uploader.config import Config
from uploader.domain import errors, events, selection
from uploader.domain.chunk_size import chunk_size_now
from uploader.domain.model import MountIdentity, Sighting, State, Upload
from uploader.files import MountedShare, Share, Shares
from uploader.runtime.clock import Clock
from uploader.runtime.log import redactor
from uploader.runtime.slices import in_slices
from uploader.server.circuit_breaker import CircuitBreaker, refuse_again
from uploader.server.credentials import account, basic_authorization, read_password, read_proxy_password
from uploader.server.port import Server
from uploader.server.reachability import Reachability, watch
from uploader.server.valt import Valt
from uploader.stages.adoption import Adoption
from uploader.stages.context import StageContext
from uploader.stages.discover import Discover
from uploader.stages.dispatcher import Dispatcher
from uploader.stages.enqueue import Enqueue
from uploader.stages.failure_handler import FailureHandler
from uploader.stages.file_rules import NOT_TAKEN, FileRules, Override
from uploader.stages.finish import Finish
from uploader.stages.lease import Leases
from uploader.stages.orphan_cleanup import OrphanCleanup
from uploader.stages.prove import Prove
from uploader.stages.queues import Queues, SightingBatch
from uploader.stages.settle import Candidate, Settle
from uploader.stages.transfer import Transfer
from uploader.stages.verify import Verify
from uploader.store import Stale, Store

RETRY_WAIT_LIMIT: Final = 60.0  # s that ``once`` and ``upload`` wait for a retry; when it is later than that, they end
GROWING_FILE_WAIT_FACTOR: Final = 5  # × settle: how long ``once`` and ``upload`` wait for a file that keeps changing
FINAL_SAVE_TIMEOUT: Final = 3.0  # s that the last save may take on a disk that refuses or hangs
IDLE_CHECK_INTERVAL: Final = 0.05  # s between two checks whether work is left


class Application:
    """The stages and what they use, for the lifetime of one configuration."""

    def __init__(
        self,
        config: Config,
        store: Store,
        clock: Clock,
        bus: events.Bus,
        environ: Mapping[str, str],
        *,
        leases: Leases | None = None,
        named: Collection[str] = (),
        override: Override | None = None,
        make_share: Callable[[str], Share] | None = None,
        make_valt: Callable[..., Server] = Valt,
        reachable: Callable[..., Reachability] | None = None,
    ) -> None:
        """Wire everything up. After a reload, *leases* are those of the previous application.

        *named*: paths that ``upload`` was given; *override*: what its options change in their records. *make_share*,
        *make_valt*: other implementations of the ports, for tests. *reachable*: makes from the server's URL what looks
        whether a server that could not be reached takes connections again; None: nobody looks.
        """
        self.store, self.clock, self.bus = store, clock, bus
        self.leases = leases or Leases(store)
        self.rules = FileRules(config, named, override)
        self.queues = Queues(clock)
        self.breaker = CircuitBreaker(store, clock, bus, lambda: account(config.server, environ))
        self.valt: Server = make_valt(
            config.server,
            password=lambda: read_password(config.server, environ),
            clock=clock,
            bus=bus,
            remember=redactor.remember,
            breaker=self.breaker,
            proxy_password=lambda: read_proxy_password(config.server, environ),
        )
        self._reachable = None if reachable is None else reachable(config.server.url, **self._way_through(environ))
        self.shares = Shares(make_share or self._mounted, [str(watch.path) for watch in config.watch])
        self._wire_stages()
        self.leases.send_on = self.queues.again.put

    def _wire_stages(self) -> None:
        config, rules = self.config, self.rules
        context = StageContext(self.store, self.leases, self.shares, self.queues, self.clock, self.bus)
        self._failure_handler = failure_handler = FailureHandler(context, rules, self.breaker)
        self.bandwidth = Bandwidth(config, self.clock, self.bus)
        self.dispatcher = Dispatcher(context, lambda: rules.config)
        self.settle = Settle(context, rules.completeness)
        self.discover = Discover(context, config.watch, self.settle.known, self.dispatcher.share_is_back)
        self.enqueue = Enqueue(context, rules, self.settle.known, self.dispatcher)
        self.auto_probe = AutoProbe(config.server, self.store, self.valt, self.breaker, self.clock, self.bus)
        self.auto_probe.learnt = self.dispatcher.try_proofs_again
        throttle = self.bandwidth.throttle
        self.transfer = Transfer(
            context, config.server, self.valt, self.breaker, failure_handler, throttle, rules, self.auto_probe
        )
        self.verify = Verify(context, config.upload, self.valt, self.breaker, failure_handler)
        self.prove = Prove(context, rules, self.valt, self.breaker, failure_handler, self.auto_probe, throttle)
        self.finish = Finish(context, rules, failure_handler)
        adopt = Adoption(context, config.server.doubt_settle).adopt
        self.orphan_cleanup = OrphanCleanup(
            config.server, self.store, self.valt, self.breaker, self.clock, self.bus, adopt
        )
        self.orphan_cleanup.in_use = self.auto_probe.records

    def _way_through(self, environ: Mapping[str, str]) -> dict[str, Any]:
        """Return what else is needed to make a bare connection to the server: its proxy, if there is one."""
        server = self.config.server
        if not server.proxy:
            return {}

        def log_in() -> str:
            password = read_proxy_password(server, environ)
            return basic_authorization(server.proxy_username, password) if password else ""

        return {"proxy": server.proxy, "log_in": log_in}

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self.rules.config

    def _mounted(self, root: str) -> Share:
        return MountedShare(
            root, self.clock, identity=self.store.mount_identities.get(root), archives=StoredArchives(self.store)
        )

    async def run(self, stop: asyncio.Event, *, discover: bool, only: Collection[str] | None = None) -> None:
        """Work until *stop*; then let chunks in flight end within ``drain`` seconds, and save.

        *discover*: watch the folders. *only*: continue these unfinished uploads and no others.
        """
        await self._reconfigure_uploads()
        async with self.valt, self._failure_handler.listening(), asyncio.TaskGroup() as group:
            background = [
                group.create_task(self.bandwidth.run()),
                group.create_task(self.settle.run()),
                group.create_task(self.enqueue.run()),
                group.create_task(self.dispatcher.run(only)),
                group.create_task(self.verify.run()),
                group.create_task(self.auto_probe.run()),
                group.create_task(self.prove.run()),
                group.create_task(self.finish.run()),
                group.create_task(self.orphan_cleanup.run()),
            ]
            if self._reachable is not None:
                background.append(group.create_task(watch(self.breaker, self._reachable, self.clock)))
            if discover:
                background.append(group.create_task(self.discover.run()))
            workers = [
                group.create_task(self.transfer.work(), name=f"transfer {number}")
                for number in range(self.config.upload.workers)
            ]
            await stop.wait()
            self.transfer.stop()
            await self._drain()
            for task in (*background, *workers):
                task.cancel()
        # On a disk that is full or hangs this save is given up. Nothing is lost: each act was saved before it was done.
        with suppress(TimeoutError):
            async with asyncio.timeout(FINAL_SAVE_TIMEOUT):
                await self.store.commit()

    async def _reconfigure_uploads(self) -> None:
        """Bring every unfinished upload under this configuration: see ``FileRules.reconfigured``."""
        chunk_size = self._chunk_size_now()
        async for path in in_slices(self.store.uploads, self.clock):
            upload = self.store.uploads.get(path)
            if upload is None or self.leases.is_held(upload):
                continue  # held: a stage of the previous application still works on it, and reads the rules itself
            with suppress(Stale):  # a command has changed it meanwhile
                if (changed := self.rules.reconfigured(upload, chunk_size)) is None:
                    self.store.drop(upload)
                    self.bus.publish(events.FileIgnored(path, NOT_TAKEN))
                elif changed != upload:
                    self.store.put(changed)

    def _chunk_size_now(self) -> int:
        return chunk_size_now(self.config.upload, self.store.capabilities, now=self.clock.now())

    async def _drain(self) -> None:
        """Wait until no chunk is in flight, or for ``drain`` seconds."""
        deadline = self.clock.monotonic() + self.config.upload.drain
        while self.transfer.active and self.clock.monotonic() < deadline:
            await self.clock.sleep(IDLE_CHECK_INTERVAL)

    async def run_until_idle(
        self,
        feed: Callable[[Application], Awaitable[None]],
        stop: asyncio.Event,
        *,
        only: Collection[str] | None = None,
    ) -> None:
        """Work on what *feed* brings and on what is unfinished (or *only* these paths), then end.

        Raises at once when the server cannot be reached or refuses the log-in: somebody waits for the result.
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
            feeding.cancel()  # a signal came first

    async def _log_in(self, stop: asyncio.Event) -> None:
        """Log in before anything else. Ends early on *stop*: a server that is silent may hold this up for a minute.

        A password that was refused is not tried again too early: a timer may start this program every minute, and the
        account would be locked.
        """
        if self.breaker.refused():
            refuse_again(self.store.capabilities, self.breaker.account(), self.clock.now())
        async with self.valt:
            log_in = asyncio.ensure_future(self.valt.login_if_needed())
            stopped = asyncio.ensure_future(stop.wait())
            try:
                await asyncio.wait({log_in, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if log_in.done():
                    log_in.result()
            except errors.PasswordRefused as error:
                await self.breaker.trip(error)
                raise
            finally:
                for task in (log_in, stopped):
                    task.cancel()
                await asyncio.gather(log_in, stopped, return_exceptions=True)

    async def until_done(self, only: Collection[str] | None = None) -> None:
        """Return when nothing will continue by itself within ``RETRY_WAIT_LIMIT`` seconds."""
        while self._works(only):
            await self.clock.sleep(IDLE_CHECK_INTERVAL)

    def _works(self, only: Collection[str] | None) -> bool:
        """True while a stage is at work, or something will continue by itself within ``RETRY_WAIT_LIMIT`` seconds."""
        if self.breaker.wait > RETRY_WAIT_LIMIT:
            return False
        if self.settle.busy or self.leases.busy or not (self.queues.sightings.empty() and self.enqueue.idle):
            return True
        if not (self.dispatcher.idle and self.finish.idle):
            return True
        if any(self._will_settle(candidate) for candidate in tuple(self.settle.candidates.values())):
            return True
        now = self.clock.now()
        chosen = (upload for upload in self.store.uploads.values() if only is None or upload.path in only)
        orphans = (orphan for orphan in self.store.orphans.values() if not orphan.landed)
        return any(goes_on_soon(upload, now) and not self.store.is_paused(upload) for upload in chosen) or any(
            orphan.next_look - now <= RETRY_WAIT_LIMIT for orphan in orphans
        )

    def _will_settle(self, candidate: Candidate) -> bool:
        """True when this file may be complete soon enough to wait for it."""
        settle = self.rules.completeness(candidate.sighting.root).settle
        return candidate.worth_waiting and self.clock.monotonic() - candidate.found_at <= max(
            RETRY_WAIT_LIMIT, GROWING_FILE_WAIT_FACTOR * settle
        )

    # For operator commands: see ``operator.Running``

    def go_on(self, upload: Upload) -> None:
        """Send an upload to its stage now."""
        self.dispatcher.go_on(upload)

    async def go_on_below(self, name: str) -> None:
        """Send the uploads of a file, or of all files below a folder, to their stages."""
        await self.dispatcher.bring_back(lambda upload: is_below(name, upload))

    async def share_is_back(self, root: str) -> None:
        """Send the uploads that wait for a share or an archive to their stages."""
        await self.dispatcher.share_is_back(root)

    def try_server_again(self) -> None:
        """Call the server now, also with a password that it has refused, and its download links."""
        self.valt.forget_refusal()
        self.breaker.reset()
        self.prove.try_links_again()

    def accept_folder(self, root: str) -> bool:
        """Accept whatever file system is mounted at a watched folder next. False when the folder is not watched."""
        watched = root in {str(watch.path) for watch in self.config.watch}
        if watched:
            self.shares.of(root).accept_new_mount()
        return watched

    def apply(self, config: Config) -> None:
        """Put a configuration into force for uploads that are under way: their disposal and the bandwidth limits.

        All other settings need a new application, whose ``run`` brings every upload under its configuration.
        """
        self.rules.config = config
        self.bandwidth.apply(config)


class StoredArchives:
    """Keeps the mount identities of ``move_to`` folders in the state, beside those of watched folders."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def identity_of(self, path: str) -> MountIdentity | None:
        """Return the mount identity that the archive had when it was first used."""
        return self._store.mount_identities.get(path)

    async def remember(self, identity: MountIdentity) -> None:
        """Save the mount identity of an archive."""
        self._store.put_mount_identity(identity)
        await self._store.commit()


def goes_on_soon(upload: Upload, now: float) -> bool:
    """True when this upload continues by itself, now or within ``RETRY_WAIT_LIMIT`` seconds."""
    if upload.state is State.PARKED:
        return False
    next_try = None if upload.last_error is None else upload.last_error.next_try
    return next_try is None or next_try - now <= RETRY_WAIT_LIMIT


async def submit_paths(application: Application, paths: Sequence[str]) -> None:
    """Pass files that were named on the command line to the settle stage. Raises ``NotAFile``."""
    for path in paths:
        watch = selection.owner(application.config.watch, path)
        root = str(watch.path) if watch is not None else str(Path(path).parent)
        ((_, seen),) = await application.shares.of(root).look([path])
        if not isinstance(seen, Sighting):
            raise errors.NotAFile(f"{path}: {seen}, not a file to send")
        await application.queues.sightings.put(SightingBatch(root, (seen,)))
