"""One life of the process: the product's application from start to end, and the operator who looks after it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Callable
from functools import cache
from math import floor
from typing import TYPE_CHECKING, Any, Final

from simulation.client import Client
from simulation.commands import CHANGES
from simulation.disk import Folder
from simulation.folder import MOVED, ROOT, Share
from simulation.kernel import NEVER, Dead
from simulation.operator import Process
from simulation.orders import Order
from simulation.plan import CHUNK, DOUBT, SETTLE, SLOW
from simulation.server import PASSWORD, USER
from uploader.app.application import Application
from uploader.config import Config, ServerConfig, UploadConfig, WatchConfig
from uploader.domain import errors, events
from uploader.domain.model import EVERYTHING, ServerCapabilities, State, Upload
from uploader.files import SentFile
from uploader.stages.lease import Leases
from uploader.store import Store

if TYPE_CHECKING:
    from simulation.world import World

TICKS: Final = 2**20  # of a second
RESCAN: Final = 60.0  # s between two scans
SCANS: Final = 4  # that the world goes on for while a recording has a hidden name


class Clock:
    """The product's clock, for one life."""

    def __init__(self, world: World) -> None:
        self._world, self._life, self._start = world, world.life, 1000.0 * (world.life % 7) - 9000.0

    def now(self) -> float:
        """Wall clock."""
        return self._world.wall()

    def monotonic(self) -> float:
        """Return seconds that start anew with each life and are never negative; in ticks, so that sums are exact.

        Else a wait of less than the last digit of the time would never end: here, nothing takes any time.
        """
        return floor((self._world.now - self._start) * TICKS) / TICKS

    def uniform(self, low: float, high: float) -> float:
        """Roll."""
        return low + (high - low) * self._world.chance()

    async def sleep(self, seconds: float) -> None:
        """Wait in virtual time."""
        if self._life != self._world.life:
            raise Dead
        await asyncio.sleep(seconds)

    def later(self, seconds: float, call: Callable[[], None]) -> Callable[[], None]:
        """Do *call* after *seconds* of virtual time."""
        cancel: Callable[[], None] = asyncio.get_running_loop().call_later(seconds, call).cancel
        return cancel


class Life:
    """One process, from its start to its end."""

    def __init__(self, world: World) -> None:
        self._world, self._life = world, world.life
        self._mended: Counter[str] = Counter()
        self._mend_from = 0.0
        self._resume_from: float | None = None
        self._scanned_from: float | None = None
        self._starts_again = False
        self.done = False
        self._commands: list[asyncio.Task[None]] = []

    async def live(self) -> None:
        """Work until the world is done."""
        world, clock, bus = self._world, Clock(self._world), events.Bus()
        bus.listen(self._hear)
        self._loop = asyncio.get_running_loop()
        self.store = Store(Folder(world.disk), clock, bus)
        if world.receiver.learnt is not None and self.store.capabilities.probed_at is None:
            self._plant(world.receiver.learnt)
        environ = {"VALT_UPLOADER_PASSWORD": PASSWORD}

        def make_application(config: Config, leases: Leases) -> Application:
            def make_share(root: str) -> WatchedShare:
                del root
                return WatchedShare(world)

            return Application(
                config,
                self.store,
                clock,
                bus,
                environ,
                leases=leases,
                make_share=make_share,
                make_valt=self._client,
            )

        self.operator = Process(make_application, world.config, self.store, clock, bus)
        self.operator.probe = world.receiver.probed
        world._living = self
        await self.operator.run()
        await self.store.close()

    def _plant(self, learnt: ServerCapabilities) -> None:
        """Let the state hold what an earlier ``check --probe`` has found out."""
        self.store.learn(
            chunks=learnt.chunks, transcodes=learnt.transcodes, version=learnt.version, probed_at=self._world.wall()
        )

    def end(self) -> None:
        """Do what SIGTERM does."""
        self._world.asked_to_end()
        self.operator.end()

    def command(self, verb: str, about: str) -> None:
        """Give a command; it is carried out concurrently with all other work.

        One that comes while the last life ends may leave something to do, so another life follows.
        """
        self.done = False
        self._commands = [task for task in self._commands if not task.done()]
        self._commands.append(self._loop.create_task(self._do(verb, about)))  # an act may be that of a thread

    async def _do(self, verb: str, about: str) -> None:
        world, operator = self._world, self.operator
        config = None
        if verb == "reload":
            config = world.reconfigure(CHANGES[about])
        order = world.orders.give(Order(verb, about, operator.at(about), config))
        try:
            done = await (getattr(operator, verb)(about) if config is None else operator.reload(config))
        except errors.UploaderError as error:
            if self._life == world.life:
                world.orders.refused(order, error)
        except Exception as error:  # noqa: BLE001 - any other error is shown to the operator, so it breaks I11
            if self._life == world.life:
                world.fail(f"I11: {verb} {about} is answered with {type(error).__name__}: {error}")
        else:
            if self._life == world.life:
                at_work = {one.path for one in self.store.uploads.values() if operator.leases.is_held(one)}
                world.orders.answered(order, done, operator.at(about), at_work)

    def _client(self, *args: Any, **more: Any) -> Client:
        client = Client(*args, **more)
        client.ground = self._world
        return client

    def _hear(self, event: events.Event) -> None:
        world = self._world
        if not isinstance(event, events.BytesSent):
            world.heard.append(event)
            if world.trace is not None:
                world.trace.append(f"{'':17}{type(event).__name__} {vars_of(event)}")
        if isinstance(event, events.UploadFinished):
            world.count("uploads finished")
        elif isinstance(event, events.UploadParked):
            world.count("parked")
        elif isinstance(event, events.UploadReleased):
            world.orders.released(event.path)

    def look_whether_done(self) -> None:
        """End when nothing is left to do; retry what is parked and resume what is paused, as an operator will."""
        store, world = self.store, self._world
        if store.paused and not self._resumes():
            return
        if any(upload.state is not State.PARKED for upload in store.uploads.values()):
            return
        if any(not orphan.landed for orphan in store.orphans.values()) or self.operator.settling:
            return
        if store.uploads and world.now < self._mend_from:
            return
        if parked := [upload for upload in store.uploads.values() if upload.identity.size]:
            self._mend(parked[0])
            return
        for path, file in world.folder.files.items():
            known = store.ledger.knows(path, len(file.data), file.mtime_ns) or not world.orders.takes(path)
            if file.data and not known:
                return
        if self._waits_for_hidden() or not self._reports_forgotten():
            return
        if world.next_event() == NEVER and all(task.done() for task in self._commands):
            self.done = True
            self.end()

    def _waits_for_hidden(self) -> bool:
        """True while a recording has a hidden name, and is still to be put back.

        A scan puts back what a removal of an earlier process has left. If the removal failed in this process, and its
        upload was forgotten, the next process does it. So the process is started again, once.
        """
        world = self._world
        if not world.folder.hidden():
            return False
        self._scanned_from = self._scanned_from or world.now
        if world.now > self._scanned_from + SCANS * RESCAN and not self._starts_again:
            if world.started_again:
                return False
            world.started_again = self._starts_again = True
            self.end()
        return True

    def _reports_forgotten(self) -> bool:
        """True when no orphan is reported to the operator. Otherwise forget one, where there is an operator."""
        world = self._world
        landed = [record for record, orphan in self.store.orphans.items() if orphan.landed]
        if not landed or not (world.plan.operator or world.plan.commands):
            return True
        self.command("forget", landed[0])
        return False

    def _resumes(self) -> bool:
        """Resume everything after it has been paused for a while. False while it stays paused."""
        now = self._world.now
        if self._resume_from is None or now < self._resume_from:
            self._resume_from = self._resume_from or now + SLOW
            return False
        self._resume_from = None
        self.command("resume", EVERYTHING)
        return True

    def _mend(self, upload: Upload) -> None:
        """Do what an operator would: retry the upload, or forget it when its file is gone or another one."""
        self._mended[upload.path] += 1
        self._mend_from = self._world.now + SLOW
        if self._mended[upload.path] <= 10:
            self._world.count("retried by operator")
            if upload.last_error is not None and "check --probe" in upload.last_error.reason:
                self.command("probed", "the server")
            self.command("retry", upload.where if self._world.plan.operator else upload.path)
        elif not self._world.folder.has(upload.where, upload.identity):
            self.command("forget", upload.path)


class WatchedShare(Share):
    """The port to the folder. It reports files that are disposed of twice at the same time (I21)."""

    def __init__(self, world: World) -> None:
        super().__init__(world, world.folder)
        self._orders = world.orders

    async def delete(self, path: str, sent: SentFile) -> bool:
        """Remove a file that was sent."""
        with self._orders.disposing(path):
            return await super().delete(path, sent)

    async def move(self, path: str, sent: SentFile, move_to: str, target: str) -> str | None:
        """Move a file that was sent."""
        with self._orders.disposing(path):
            return await super().move(path, sent, move_to, target)


def vars_of(event: events.Event) -> str:
    """Format an event's fields in one line."""
    return " ".join(f"{key}={value}" for key, value in dataclasses.asdict(event).items())


@cache
def config_for(after_upload: str) -> Config:
    """The configuration of a small world."""
    server = ServerConfig.model_validate(
        {
            "url": "http://127.0.0.1",
            "username": USER,
            "stall_timeout": "10s",
            "doubt_settle": f"{DOUBT:.0f}s",
            "probe": "never",  # its results are planted: see ``receivers``
        }
    )
    upload = UploadConfig.model_validate({"workers": 2, "ready_timeout": "60s"}).model_copy(
        update={"chunk_size": CHUNK}
    )
    watch = WatchConfig.model_validate(
        {
            "path": ROOT,
            "settle": f"{SETTLE:.0f}s",
            "mode": "poll",
            "rescan": f"{RESCAN:.0f}s",
            "after_upload": after_upload,
            "move_to": MOVED if after_upload == "move" else "",
        }
    )
    return Config(server=server, upload=upload, watch=(watch,))
