"""One world: time, dice, and the lives of one process between a folder, a disk and a server.

Everything that happens is drawn from one seed, and written into one trace: the same seed gives the same trace.
"""

from __future__ import annotations

import asyncio
import dataclasses
import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from math import log2
from typing import Any, Final, NoReturn
from zlib import crc32

from simulation import disk as disks
from simulation.client import Client
from simulation.folder import MOVED, ROOT, Recordings, Share
from simulation.invariants import Broken, Watch, verdict
from simulation.kernel import NEVER, Dead, Loop, Task
from simulation.server import LATEST, PASSWORD, USER, Record, Request, Server
from uploader import events
from uploader.config import Config, ServerConfig, UploadConfig, WatchConfig
from uploader.errors import StateUnusable
from uploader.house import House
from uploader.model import State, Upload
from uploader.simulator.semantics import Semantics
from uploader.store import Store

EPOCH: Final = 1_800_000_000.0  # Unix seconds
CHUNK: Final = 8  # bytes
SETTLE: Final = 2.0  # s
DOUBT: Final = LATEST + 10.0  # s: longer than any request can be on its way
SLOW: Final = 100.0  # s that a slow server may process: longer than the product waits without a word
KNOCKERS: Final = 6  # tasks that may call the server: workers, verify, sweep, and one more
JUMPS: Final = (-86400.0, -3600.0, -30.0, 30.0, 3600.0, 86400.0)  # s
CALM: Final = 2 * 3600.0  # s after the last fault in which everything must be done or parked
NO_STEP: Final = 1 << 60
CANNOT_WRITE: Final = 73  # exit code
BUDGET: Final = 150_000  # steps of one life


@dataclass(frozen=True)
class Plan:
    """What is to go wrong in a world, beside what the seed rolls."""

    seed: int
    kind: str = "offset"
    kills: tuple[int, ...] | None = None  # steps; None: the seed chooses up to three
    cuts: bool | None = None  # every kill a power cut, or none; None: the seed chooses
    faults: float = 0.25  # of the requests
    actions: bool = True  # people and recorders are at work in the folder, shares come and go, clocks jump
    disk: float = 0.02  # of the writes to the state folder that are refused, in worlds where any are
    clock: float = 0.15  # of the power cuts, after which the machine starts with another time
    only: tuple[str, ...] = ()  # these actions alone, and in every world
    variety: bool = True  # worlds differ in what becomes of the file, in names, and so on


@dataclass(eq=False)
class World:
    """See the module. ``run`` is all that is to be called."""

    plan: Plan
    now: float = 0.0
    steps: int = 0
    kill_at: int = NO_STEP
    life: int = 0
    stirred: int = 0
    lives: int = 0
    power_cuts: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    heard: list[Any] = field(default_factory=list)
    failure: str = ""  # the first invariant that did not hold
    trace: list[str] | None = None  # every act, if somebody wants to read them

    def __post_init__(self) -> None:
        plan = self.plan
        self._dice = random.Random(f"{plan.seed}/{plan.kind}")  # noqa: S311 - no secret
        self.chance: Callable[[], float] = self._dice.random
        self._sum = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._kills = iter(plan.kills or ())
        self._left = 0 if plan.kills is not None else int(self.chance() * 4)
        self._offset = 0.0
        self._gently = False
        self.settle = SETTLE
        self.foreign: list[Record] = []
        self.lost_logins = 0
        self.down_until = self._down_since = 0.0
        self._knocks = 0
        self.handles = 0
        self.watch = Watch(self)
        self.disk = disks.Disk(self)
        self.folder = Recordings(self)
        self._prepare()

    # What is decided when it begins

    def _prepare(self) -> None:
        plan, roll = self.plan, self.chance
        limit = 5 if plan.kind == "limited" else 0
        semantics = Semantics.OFFSET if plan.kind == "limited" else Semantics(plan.kind)
        self.server = Server(self, semantics, limit=limit, slow=SLOW if plan.variety and roll() < 0.05 else 0.5)
        self.server.before_delete = self.watch.before_delete
        self.config = config_for(("keep", "delete", "move")[int(roll() * 3)] if plan.variety else "delete")
        self._disk_rate = plan.disk if plan.faults and roll() < 0.3 else 0.0
        self._share_rate = 0.05 if plan.faults and plan.actions and roll() < 0.3 else 0.0
        self.calm_from = 300.0 if plan.faults or plan.actions else 0.0
        same = plan.variety and roll() < 0.3
        self.paths = [f"{ROOT}/a/x.mp4", f"{ROOT}/b/x.mp4"] if same else [f"{ROOT}/a.mp4", f"{ROOT}/b.mp4"]
        if plan.variety and roll() < 0.5:
            self.paths.pop()
        for number, path in enumerate(self.paths):
            size = 16 if not plan.variety else int(roll() * 20)
            self.after(number * 3.0 * (roll() if plan.variety else 0), self._writes(path, self.content(size)))
        self.let_events_happen()
        self.foreign = [self.server.plant("x" if same else "a", "somebody", -5.0), self.server.plant("a", USER, 3600.0)]
        if plan.only or (plan.actions and roll() < 0.4):
            self._plan_actions(plan.only or tuple(ACTIONS))

    def content(self, size: int) -> bytes:
        """Bytes that no other file has, four more than *size*."""
        return self._dice.randbytes(max(0, size) + 4)

    def _writes(self, path: str, content: bytes, **how: Any) -> Callable[[], None]:
        return lambda: self.folder.write(path, content, **how)

    def _plan_actions(self, choice: tuple[str, ...]) -> None:
        """Choose what recorders, people and machines do: one thing or several, in the first minutes."""
        for _ in range(1 + int(self.chance() * 3)):
            when, path = self.chance() * 200.0, self.paths[int(self.chance() * len(self.paths))]
            action = ACTIONS[choice[int(self.chance() * len(choice))]]
            self.after(when, lambda action=action, path=path: action(self, path))  # type: ignore[misc]

    # What the loop asks

    def next_event(self) -> float:
        """When the world does something by itself."""
        return self._events[0][0] if self._events else NEVER

    def let_events_happen(self) -> None:
        """Do what is due."""
        while self._events and self._events[0][0] <= self.now:
            heapq.heappop(self._events)[2]()

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        """Let *event* happen *seconds* from now, whoever lives then."""
        heapq.heappush(self._events, (self.now + seconds, next(self._order), event))

    def at_rest(self) -> None:
        """End the life in good order when everything is done; look whether it takes too long."""
        if self.now > self.calm_from + CALM:
            raise Broken(f"I11: not done or parked {CALM:.0f} s after the last fault: {self._unfinished()}")
        if self._living is not None:
            self._living.look_whether_done()

    def _unfinished(self) -> str:
        living = self._living
        return "" if living is None else repr([*living.store.uploads.values(), *living.store.orphans.values()])

    _living: Life | None = None

    # What the ports ask

    def act(self, life: int, what: str) -> None:
        """Number what a process does to the world. Raises ``Dead`` when it is killed by that, or long dead."""
        if life != self.life:
            raise Dead
        self.steps += 1
        self._note(what)
        if self.steps >= self.kill_at:
            self.kill()
            if life != self.life:
                raise Dead

    def _note(self, what: str) -> None:
        self._sum = crc32(what.encode(), self._sum ^ (hash(self.now) & 0xFFFFFFFF))
        if self.trace is not None:
            self.trace.append(f"{self.steps:6d} {self.now:9.3f} {what}")

    def kill(self) -> None:
        """End the life that lives now: kill -9, or the power goes, or a signal asks it to end."""
        if self._gently and self._living is not None:
            self._note("SIGTERM")
            self.count("stops")
            self.kill_at = NO_STEP
            self._living.stop.set()
            return
        self.life += 1
        cut = self.chance() < 0.5 if self.plan.cuts is None else self.plan.cuts
        self._note("POWER CUT" if cut else "KILL -9")
        self.count("kills")
        if cut:
            self.count("power cuts")
            self.disk.lose_power()
            if self.plan.actions and self.chance() < self.plan.clock:
                self.set_clock()  # a machine whose battery is empty starts with any time
        self._living = None

    def count(self, what: str) -> None:
        """Count for the report."""
        self.counts[what] += 1

    def wall(self) -> float:
        """What the machine's clock shows, Unix seconds."""
        return EPOCH + self.now + self._offset

    def true_wall(self) -> float:
        """What the time is."""
        return EPOCH + self.now

    def set_clock(self) -> None:
        """Set the machine's clock to another time, as people, time servers and empty batteries do."""
        self._offset += JUMPS[int(self.chance() * len(JUMPS))]
        self._note(f"the clock is set: {self._offset:+.0f} s")

    @property
    def _stormy(self) -> bool:
        return self.now < self.calm_from

    def link_fails(self) -> bool:
        """True when something goes wrong with this request."""
        if self.plan.faults and self._stormy and self.chance() < self.plan.faults:
            self.count("faults")
            return True
        return False

    def is_down(self) -> bool:
        """True while the server cannot be reached. Who asks has tried (I10)."""
        if self.now >= self.down_until:
            return False
        self._knocks += 1
        allowed = KNOCKERS * (2 + log2(1 + self.now - self._down_since) + self.lives)
        if self._knocks > allowed:
            self.fail(f"I10: {self._knocks} tries in {self.now - self._down_since:.0f} s at a server that is down")
        return True

    def go_down(self, seconds: float) -> None:
        """Let the server be away for a while."""
        self.down_until, self._down_since, self._knocks = self.now + seconds, self.now, 0

    def share_fails(self) -> str:
        """Say how this call into the share fails."""
        if self._share_rate and self._stormy and self.chance() < self._share_rate:
            self.count("faults")
            return "Input/output error"
        return ""

    def disk_refuses(self) -> bool:
        """True when this write is to fail."""
        if self._disk_rate and self._stormy and self.chance() < self._disk_rate:
            self.count("faults")
            return True
        return False

    def before_request(self, request: Request) -> None:
        """See ``Watch``."""
        self.watch.before_request(request)
        if request.path.endswith("/login"):
            self._logging_in = len(self.server.tokens)

    def before_last_byte(self, request: Request) -> None:
        """See ``Watch``."""
        self.watch.before_last_byte(request)

    def ended(self, request: Request) -> None:
        """See ``Watch``."""
        self.watch.ended(request)

    def before_removal(self, path: str, content: bytes) -> None:
        """See ``Watch``."""
        self.watch.before_removal(path, content)

    def fail(self, what: str) -> NoReturn:
        """Note that an invariant is broken, and end everything: the product must not get to handle that."""
        self.failure = self.failure or what
        self.life += 1
        raise Dead

    # The whole of it

    def run(self) -> str:
        """Live as often as it takes, and hold the end against what must be; the trace's hash.

        Raises ``AssertionError`` with the number of what does not hold.
        """
        Task.begin()
        while True:
            self._choose_kill()
            self.lives += 1
            self.watch.born()
            self.count("lives")
            loop, life = Loop(self, BUDGET), Life(self)
            self.handles = 0
            try:
                loop.live(life.live())
            except StateUnusable as error:
                if error.exit_code != CANNOT_WRITE:
                    raise Broken(f"I6: it does not start: {error}") from None
                self._pass(10.0)  # what restarts it does so until there is room
                continue
            except Dead:
                if self.failure:
                    raise Broken(self.failure) from None
                self._pass(self.chance() * 60.0 if self.plan.variety else 1.0)
                if self.plan.actions and self.chance() < 0.1:
                    self._rewrite_quietly()
                continue
            finally:
                self._living = None
            if loop.complaints:
                raise Broken(f"I11: nobody has caught {loop.complaints[0]}")
            if self.handles:
                raise Broken(f"I9: {self.handles} recordings are still open at the end")
            if life.done:
                break
        verdict(self)
        return f"{self._sum:08x}"

    def _rewrite_quietly(self) -> None:
        """Put other bytes into a file that is half sent while nobody looks, and give it its old mtime.

        One that was sent whole may be touched so unnoticed: who it is is told by size and mtime (docs/reliability.md).
        """
        path = self.paths[int(self.chance() * len(self.paths))]
        file = self.folder.files.get(path)
        half_sent = any(
            upload["path"] == path and upload["state"] == "sending" and upload["offset"]
            for upload in self.disk.announced()["uploads"]
        )
        if file is not None and half_sent:
            self.folder.write(path, self.content(len(file.data) - 4), mtime_ns=file.mtime_ns)

    def _choose_kill(self) -> None:
        if self.plan.kills is not None:
            self.kill_at = next(self._kills, NO_STEP)
        elif self._left > 0:
            self._left -= 1
            self._gently = self.chance() < 0.15
            self.kill_at = self.steps + 1 + int(10 ** (1.0 + 2.5 * self.chance()))
        else:
            self.kill_at = NO_STEP

    def _pass(self, seconds: float) -> None:
        """Nobody lives for a while."""
        until = self.now + seconds
        while self.next_event() <= until:
            self.now = max(self.now, self.next_event())
            self.let_events_happen()
        self.now = until


class Clock:
    """The product's clock, for one life."""

    def __init__(self, world: World) -> None:
        self._world, self._life, self._start = world, world.life, 1000.0 * (world.life % 7) - 9000.0

    def now(self) -> float:
        """Wall clock."""
        return self._world.wall()

    def monotonic(self) -> float:
        """Means nothing after a restart, but is never negative."""
        return self._world.now - self._start

    def uniform(self, low: float, high: float) -> float:
        """Roll."""
        return low + (high - low) * self._world.chance()

    async def sleep(self, seconds: float) -> None:
        """Wait, virtually."""
        if self._life != self._world.life:
            raise Dead
        await asyncio.sleep(seconds)


class Life:
    """One process, from its start to its end."""

    def __init__(self, world: World) -> None:
        self._world, self._life = world, world.life
        self._mended: Counter[str] = Counter()
        self._mend_from = 0.0
        self.done = False

    async def live(self) -> None:
        """Work until the world is done."""
        world, clock, bus = self._world, Clock(self._world), events.Bus()
        bus.listen(self._hear)
        self.store = Store(disks.Folder(world.disk), clock, bus)
        environ = {"VALT_UPLOADER_PASSWORD": PASSWORD}
        self.house = House(
            world.config,
            self.store,
            clock,
            bus,
            environ,
            make_share=lambda root: Share(world, world.folder),
            make_valt=self._client,
        )
        self.stop = asyncio.Event()
        world._living = self
        await self.house.run(self.stop, discover=True)
        await self.store.close()

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

    def look_whether_done(self) -> None:
        """Set ``stop`` when nothing is left to do; let what is parked go on by hand, as somebody will."""
        store, world = self.store, self._world
        for upload in store.uploads.values():
            if upload.state is not State.PARKED:
                return
        if any(not orphan.landed for orphan in store.orphans.values()) or self.house.settle.candidates:
            return
        if store.uploads and world.now < self._mend_from:
            return
        if parked := [upload for upload in store.uploads.values() if upload.identity.size]:
            self._mend(parked[0])
            return
        for path, file in world.folder.files.items():
            if file.data and not store.ledger.knows(path, len(file.data), file.mtime_ns):
                return
        if world.next_event() == NEVER:
            self.done = True
            self.stop.set()

    def _mend(self, upload: Upload) -> None:
        """Do what a person would: let it go on, or forget it when its file is gone."""
        self._mended[upload.path] += 1
        self._mend_from = self._world.now + SLOW
        if self._mended[upload.path] <= 3:
            self._world.count("released by hand")
            asyncio.ensure_future(self.house.release(upload.path))
        elif upload.where not in self._world.folder.files:
            asyncio.ensure_future(self.house.forget(upload.path))


def vars_of(event: events.Event) -> str:
    """Tell an event's fields in one line."""
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
            "rescan": "60s",
            "after_upload": after_upload,
            "move_to": MOVED if after_upload == "move" else "",
        }
    )
    return Config(server=server, upload=upload, watch=(watch,))


Action = Callable[[World, str], None]


def _grow(world: World, path: str) -> None:
    """A recorder appends, with pauses that are shorter than it takes to settle."""
    file = world.folder.files.get(path)
    content = b"" if file is None else file.data
    for number in range(1 + int(world.chance() * 4)):
        content += world.content(4)
        world.after(number * SETTLE * 0.8 * world.chance(), world._writes(path, content))


def _replace(world: World, path: str) -> None:
    world.folder.write(path, world.content(1 + int(world.chance() * 24)), new=True)


def _rewrite(world: World, path: str) -> None:
    """Other bytes of the same length."""
    file = world.folder.files.get(path)
    if file is not None:
        world.folder.write(path, world.content(max(0, len(file.data) - 4)))


def _cut(world: World, path: str) -> None:
    file = world.folder.files.get(path)
    if file is not None and len(file.data) > 5:
        world.folder.write(path, file.data[: 5 + int(world.chance() * (len(file.data) - 5))])


def _touch(world: World, path: str) -> None:
    world.folder.touch(path)


def _rename(world: World, path: str) -> None:
    world.folder.rename(path, path.replace(".mp4", "-renamed.mp4"))


def _remove(world: World, path: str) -> None:
    world.folder.remove(path)


def _unmount(world: World, path: str) -> None:
    del path
    world.folder.away = "the share is not mounted"

    def back() -> None:
        world.folder.away = ""

    world.after(5 + 60 * world.chance(), back)


def _jump(world: World, path: str) -> None:
    """Somebody sets the clock."""
    del path
    world.set_clock()


def _down(world: World, path: str) -> None:
    """The server is away for some minutes."""
    del path
    world.go_down(10 + 120 * world.chance())


def _late_file(world: World, path: str) -> None:
    world.folder.write(path.replace(".mp4", "-late.mp4"), world.content(1 + int(world.chance() * 24)))


ACTIONS: Final[dict[str, Action]] = {
    "grow": _grow,
    "replace": _replace,
    "rewrite": _rewrite,
    "cut": _cut,
    "touch": _touch,
    "rename": _rename,
    "remove": _remove,
    "unmount": _unmount,
    "jump": _jump,
    "down": _down,
    "late file": _late_file,
}
