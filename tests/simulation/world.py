"""One world: virtual time, random numbers, and the lives of one process with its folder, disk and server.

Everything that happens follows from one seed and is written into one trace: the same seed gives the same trace.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from math import log2
from typing import Any, Final, NoReturn
from zlib import crc32

from simulation import disk as disks
from simulation import life as process
from simulation.actions import ACTIONS, rewrite_quietly
from simulation.folder import ROOT, Recordings
from simulation.invariants import Broken, Watch, check_end
from simulation.kernel import NEVER, Dead, Loop, Task
from simulation.orders import TIME_TO_END, Orders
from simulation.plan import BUDGET, CALM, EPOCH, NO_STEP, SETTLE, SLOW, STORM, Plan
from simulation.receivers import receiver_of
from simulation.schedule import Schedule
from simulation.server import USER, Record, Request, Server
from simulation.spoilt import SpoiltRecords
from uploader.config import Config
from uploader.domain.errors import StateUnusable

CALLERS: Final = 6  # tasks that may call the server: workers, verify, sweep, and one more
JUMPS: Final = (-86400.0, -3600.0, -30.0, 30.0, 3600.0, 86400.0)  # s
CANNOT_WRITE: Final = 73  # exit code


@dataclass(eq=False)
class World:
    """One world. Call ``run``; the other methods are for the parts of the world."""

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
    started_again: bool = False  # to put back what was left under a hidden name
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
        self.kill_gently = False
        self.settle = SETTLE
        self.foreign: list[Record] = []
        self.lost_logins = 0
        self.down_until = self._down_since = 0.0
        self._tries = 0
        self.handles = 0
        self.orders = Orders(self)
        self.spoilt = SpoiltRecords(self)
        self.watch = Watch(self)
        self.disk = disks.Disk(self)
        self.schedule = Schedule(self)
        self._asked_to_end: float | None = None
        self.folder = Recordings(self)
        self._prepare()

    # What is decided when it begins

    def _prepare(self) -> None:
        plan, roll = self.plan, self.chance
        self.receiver = it = receiver_of(plan)
        slow = SLOW if plan.variety and roll() < 0.05 else 0.5
        self.server = Server(self, it.semantics, limit=it.limit, slow=slow, transcodes=it.transcodes)
        self.server.by_get = plan.create == "get"
        self.server.before_delete = self.watch.before_delete
        self.disk.on_save = self.watch.look_at_saved
        choice = ("keep", "delete", "move")[int(roll() * 3)] if plan.variety else "delete"
        self.config = process.config_for(plan.after_upload or choice)
        self._disk_rate = plan.disk if plan.faults and roll() < 0.3 else 0.0
        self._share_rate = 0.05 if plan.faults and plan.actions and roll() < 0.3 else 0.0
        self.calm_from = STORM if plan.faults or plan.actions else 0.0
        same = plan.variety and roll() < 0.3
        self.paths = [f"{ROOT}/a/x.mp4", f"{ROOT}/b/x.mp4"] if same else [f"{ROOT}/a.mp4", f"{ROOT}/b.mp4"]
        if plan.variety and roll() < 0.5:
            self.paths.pop()
        for number, path in enumerate(self.paths):
            size = int(roll() * 20) if plan.variety else (16, 4)[number]  # and four: up to three chunks
            self.after(number * 3.0 * (roll() if plan.variety else 0), self._writes(path, self.content(size)))
        self.let_events_happen()
        self.foreign = [self.server.plant("x" if same else "a", "somebody", -5.0), self.server.plant("a", USER, 3600.0)]
        if plan.only or (plan.actions and roll() < 0.4):
            self._plan_actions(plan.only or tuple(ACTIONS))
        if plan.operator or plan.commands:
            self.schedule.begin()

    def content(self, size: int) -> bytes:
        """Return bytes that no other file has, four more than *size*."""
        return self._dice.randbytes(max(0, size) + 4)

    def _writes(self, path: str, content: bytes, **how: Any) -> Callable[[], None]:
        return lambda: self.folder.write(path, content, **how)

    def _plan_actions(self, choice: tuple[str, ...]) -> None:
        """Choose what recorders, people and machines do: one thing or several, in the first minutes."""
        for _ in range(1 + int(self.chance() * 3)):
            when, path = self.chance() * 200.0, self.paths[int(self.chance() * len(self.paths))]
            action = ACTIONS[choice[int(self.chance() * len(choice))]]
            self.after(when, lambda action=action, path=path: action(self, path))  # type: ignore[misc]

    # For the loop

    def next_event(self) -> float:
        """Return when the world next does something by itself."""
        return self._events[0][0] if self._events else NEVER

    def let_events_happen(self) -> None:
        """Do what is due."""
        while self._events and self._events[0][0] <= self.now:
            heapq.heappop(self._events)[2]()

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        """Let *event* happen *seconds* from now, whichever process runs then."""
        heapq.heappush(self._events, (self.now + seconds, next(self._order), event))

    def at_rest(self) -> None:
        """End the life in good order when everything is done; fail when it takes too long."""
        if self.now > self.calm_from + CALM:
            raise Broken(f"I11: not done or parked {CALM:.0f} s after the last fault: {self._unfinished()}")
        if self._asked_to_end is not None and self.now > self._asked_to_end + TIME_TO_END:
            raise Broken(f"I22: asked to end {TIME_TO_END:.0f} s ago, it still runs")
        if self._living is not None:
            self._living.look_whether_done()

    def _unfinished(self) -> str:
        living = self._living
        return "" if living is None else repr([*living.store.uploads.values(), *living.store.orphans.values()])

    _living: process.Life | None = None

    # For the ports

    def act(self, life: int, what: str) -> None:
        """Number what a process does to the world. Raises ``Dead`` when it is killed here, or was killed before."""
        if life != self.life:
            raise Dead
        self.steps += 1
        self._note(what)
        if self.steps >= self.kill_at:
            self.kill()
            if life != self.life:
                raise Dead
        if self.steps >= self.schedule.at and self._living is not None:
            self.schedule.give(self._living)

    def note(self, what: str) -> None:
        """Write an operator's command into the trace."""
        self._note(f"OPERATOR {what}")

    def _note(self, what: str) -> None:
        self._sum = crc32(what.encode(), self._sum ^ (hash(self.now) & 0xFFFFFFFF))
        if self.trace is not None:
            self.trace.append(f"{self.steps:6d} {self.now:9.3f} {what}")

    def kill(self) -> None:
        """End the running process by kill -9, by a power cut, or by a signal that asks it to end."""
        if self.kill_gently and self._living is not None:
            self._note("SIGTERM")
            self.count("stops")
            self.kill_at = NO_STEP
            self._living.end()
            return
        self.life += 1
        cut = self.chance() < 0.5 if self.plan.cuts is None else self.plan.cuts
        self._note("POWER CUT" if cut else "KILL -9")
        self.count("kills")
        if cut:
            self.count("power cuts")
            self.disk.lose_power()
            self.folder.lose_power()
            if self.plan.actions and self.chance() < self.plan.clock:
                self.set_clock()  # a machine whose battery is empty starts with any time
        self._living = None

    def asked_to_end(self) -> None:
        """Note that the process was told to end."""
        if self._asked_to_end is None:
            self._asked_to_end = self.now

    def count(self, what: str) -> None:
        """Count for the report."""
        self.counts[what] += 1

    def wall(self) -> float:
        """Return the time of the machine's clock, in Unix seconds."""
        return EPOCH + self.now + self._offset

    def true_wall(self) -> float:
        """Return the true time, in Unix seconds."""
        return EPOCH + self.now

    def set_clock(self) -> None:
        """Set the machine's clock to another time, as people, time servers and empty batteries do."""
        self._offset += JUMPS[int(self.chance() * len(JUMPS))]
        self._note(f"the clock is set: {self._offset:+.0f} s")

    @property
    def stormy(self) -> bool:
        """True while things still go wrong."""
        return self.now < self.calm_from

    def link_fails(self) -> bool:
        """True when something goes wrong with this request."""
        if self.plan.faults and self.stormy and self.chance() < self.plan.faults:
            self.count("faults")
            return True
        return False

    def is_down(self) -> bool:
        """True while the server cannot be reached. Each call counts as one try to reach it (I10)."""
        if self.now >= self.down_until:
            return False
        self._tries += 1
        calls_again = self.lives + self.orders.asked["reload"] + self.orders.asked["retry"]
        allowed = CALLERS * (2 + log2(1 + self.now - self._down_since) + calls_again)
        if self._tries > allowed:
            self.fail(f"I10: {self._tries} tries in {self.now - self._down_since:.0f} s at a server that is down")
        return True

    def go_down(self, seconds: float) -> None:
        """Make the server unreachable for *seconds*."""
        self.down_until, self._down_since, self._tries = self.now + seconds, self.now, 0

    def share_fails(self) -> str:
        """Return how this call into the share fails; empty when it does not."""
        if self._share_rate and self.stormy and self.chance() < self._share_rate:
            self.count("faults")
            return "Input/output error"
        return ""

    def disk_refuses(self) -> bool:
        """True when this write is to fail."""
        if self._disk_rate and self.stormy and self.chance() < self._disk_rate:
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
        """Note that an invariant is broken, and end the process at once: the product cannot handle the error."""
        self.failure = self.failure or what
        self.life += 1
        raise Dead

    def reconfigure(self, change: Callable[[Config], Config]) -> Config:
        """Change the configuration file."""
        self.config = change(self.config)
        self.settle = min(self.settle, self.config.watch[0].settle)
        return self.config

    def check_failure(self) -> None:
        """Raise ``Broken`` if an invariant did not hold."""
        if self.failure:
            raise Broken(self.failure) from None

    # The run

    def run(self) -> str:
        """Start the process as often as needed, and check the end. Returns the hash of the trace.

        Raises ``AssertionError`` with the number of a broken invariant.
        """
        Task.begin()
        while True:
            self._choose_kill()
            self.lives += 1
            self.watch.born()
            self.count("lives")
            loop, life = Loop(self, BUDGET), process.Life(self)
            self.handles, self._asked_to_end = 0, None
            try:
                loop.live(life.live())
            except StateUnusable as error:
                if error.exit_code != CANNOT_WRITE:
                    raise Broken(f"I6: it does not start: {error}") from None
                self._pass(10.0)  # what restarts it does so until there is room
                continue
            except Dead:
                self.check_failure()
                self._pass(self.chance() * 60.0 if self.plan.variety else 1.0)
                if self.plan.actions and self.chance() < 0.1:
                    rewrite_quietly(self)
                self.schedule.while_stopped()
                continue
            finally:
                self._living = None
            self._check_end(loop)
            if life.done:
                break
        check_end(self)
        return f"{self._sum:08x}"

    def _check_end(self, loop: Loop) -> None:
        if loop.complaints:
            raise Broken(f"I11: an uncaught exception: {loop.complaints[0]}")
        if self.handles:
            raise Broken(f"I9: {self.handles} recordings are still open at the end")

    def _choose_kill(self) -> None:
        if self.plan.kills is not None:
            self.kill_at = next(self._kills, NO_STEP)
        elif self._left > 0:
            self._left -= 1
            self.kill_gently = self.chance() < 0.15
            self.kill_at = self.steps + 1 + int(10 ** (1.0 + 2.5 * self.chance()))
        else:
            self.kill_at = NO_STEP

    def _pass(self, seconds: float) -> None:
        """Let *seconds* pass while no process runs."""
        until = self.now + seconds
        while self.next_event() <= until:
            self.now = max(self.now, self.next_event())
            self.let_events_happen()
        self.now = until
