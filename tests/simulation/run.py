"""Runs many worlds: every crash point of a quiet one, and many seeds of stormy ones.

A failure names the world in which it was found: ``make simulate PLAN='{"seed": 17, "kind": "append"}'`` plays it
again and prints its trace. ``amount`` says how many a test run plays; ``make simulate-long`` plays further seeds.
"""

from __future__ import annotations

import gc
import json
import logging
import random
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, Final

import uploader.domain.retry
import uploader.files.copying
import uploader.stages.orphan_cleanup
import uploader.stages.settle
import uploader.stages.verify
from simulation import disk, recordings
from simulation.commands import WHILE_STOPPED
from simulation.folder import ROOT
from simulation.invariants import LOGS
from simulation.kernel import every_step_ends
from simulation.plan import NO_STEP, Plan
from simulation.world import World

Report = Callable[[str, object], None]  # pytest's ``record_property``
KINDS: Final = (
    *("offset", "strict", "blueimp", "append", "whole", "limited"),  # these hold what was sent
    *("last", "first", "short", "double", "transcoding"),  # these spoil what is sent in chunks, or hand out other bytes
)
FOUND_ONCE: Final = Path(__file__).with_name("seeds.json")
QUIET: Final = Plan(seed=0, kills=(), faults=0.0, actions=False, disk=0.0, variety=False)

# Sizes in bytes instead of gigabytes, and long intervals between polls.
SMALL: Final = (
    (uploader.files.copying, "COPY_BLOCK", 8),  # bytes
    (uploader.domain.retry, "SMALLEST_HALVED_CHUNK", 2),  # bytes
    (uploader.stages.settle, "SETTLE_CONCURRENCY", 2),
    (uploader.stages.verify, "VERIFY_CONCURRENCY", 2),
    (uploader.stages.orphan_cleanup, "ORPHAN_CHECK_INTERVAL", 15.0),  # s
    (uploader.stages.orphan_cleanup, "ORPHAN_WITH_VIDEO_INTERVAL", 600.0),  # s instead of a day
)
FIRST, SECOND = f"{ROOT}/a.mp4", f"{ROOT}/b.mp4"  # the files of a quiet world: three chunks, and one
CLEAN_EVERY: Final = 40  # worlds: the garbage collector works between them, not in them


class Found(AssertionError):  # noqa: N818 - says what has happened
    """An invariant does not hold in a world. The text says how to replay it."""


@dataclass
class Figures:
    """What was played, for the report."""

    worlds: int = 0
    crash_points: int = 0
    steps: int = 0
    seconds: float = 0.0  # of the processor
    hours: float = 0.0  # virtual
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, world: World) -> None:
        """Add the figures of a world."""
        self.worlds += 1
        self.steps += world.steps
        self.hours += world.now / 3600
        self.counts.update(world.counts)

    def as_property(self) -> dict[str, Any]:
        """Return the figures as JSON values, for transport between the processes of a test run."""
        return asdict(self) | {"counts": dict(self.counts)}

    @classmethod
    def sum_of(cls, properties: Iterable[dict[str, Any]]) -> Figures:
        """Add up what ``as_property`` has returned."""
        total = cls()
        for one in properties:
            total.counts.update(one["counts"])
            for name in ("worlds", "crash_points", "steps", "seconds", "hours"):
                setattr(total, name, getattr(total, name) + one[name])
        return total

    def __str__(self) -> str:
        done = {name: f"{number:,}" for name, number in self.counts.items()}
        of = defaultdict(lambda: "0", done)
        return (
            f"{self.worlds:,} worlds, {self.hours:,.0f} hours in {self.seconds:,.0f} s; "
            f"{self.crash_points:,} crash points one by one; {of['kills']} kills, "
            f"{of['power cuts']} of them power cuts; {of['stops']} stops; "
            f"{of['requests']} requests, {of['faults']} faults; {of['commands']} commands; "
            f"{of['uploads finished']} uploads finished, {of['parked']} parked on the way: "
            "nothing lost, nothing twice, no secret shown"
        )


class _Catch(logging.Handler):
    """Keeps what the product logs, unrendered."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        LOGS.append(repr(record.msg))


@contextmanager
def _killed_downloads_are_silent() -> Iterator[None]:
    """Pass over what Python says when it clears away a download that was killed: that cannot be closed any more."""
    before = sys.unraisablehook

    def hook(what: sys.UnraisableHookArgs) -> None:
        if "asynchronous generator is already running" not in str(what.exc_value):
            before(what)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        gc.collect()
        sys.unraisablehook = before


@contextmanager
def simulated() -> Iterator[None]:
    """Direct the product's system calls to simulated disks, and set its constants to the sizes of small worlds."""
    before = [(module, name, getattr(module, name)) for module, name, _ in SMALL]
    log, catch = logging.getLogger("uploader"), _Catch()
    level, propagate = log.level, log.propagate
    disk.install()
    recordings.install()
    log.addHandler(catch)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    for module, name, value in SMALL:
        setattr(module, name, value)
    collecting = gc.isenabled()
    gc.freeze()  # what was there before is not looked at between worlds; to collect it first takes longer than a world
    gc.disable()
    try:
        with _killed_downloads_are_silent(), every_step_ends(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of coroutines that a kill has left before their first step
            yield
    finally:
        if collecting:
            gc.enable()
        gc.unfreeze()
        for module, name, value in before:
            setattr(module, name, value)
        log.removeHandler(catch)
        log.setLevel(level)
        log.propagate = propagate
        disk.uninstall()
        recordings.uninstall()


def play(plan: Plan, figures: Figures | None = None, *, trace: bool = False) -> tuple[World, str]:
    """Run one world; return it and the hash of its trace. Raises ``Found``. Only inside ``simulated``."""
    LOGS.clear()
    world = World(plan)
    world.trace = [] if trace else None
    try:
        mark = world.run()
    except Exception as error:
        told = f"{type(error).__name__}: {error}" if not isinstance(error, AssertionError) else str(error)
        raise Found(f"{told}\n    {command(plan)}") from error
    if figures is not None:
        figures.add(world)
    return world, mark


def command(plan: Plan) -> str:
    """Return the command that replays a world."""
    default = asdict(Plan(plan.seed))
    changed = {key: value for key, value in asdict(plan).items() if key == "seed" or value != default[key]}
    return f"make simulate PLAN='{json.dumps(changed)}'"


def explore(kind: str, seeds: Iterable[int], **more: Any) -> Figures:
    """Run stormy worlds. Raises ``Found`` at the first in which something does not hold."""
    return run_all(Plan(seed, kind, **more) for seed in seeds)


def run_all(plans: Iterable[Plan]) -> Figures:
    """Run worlds. Raises ``Found``."""
    figures, began = Figures(), time.process_time()
    with simulated():
        for number, plan in enumerate(plans):
            play(plan, figures)
            if number % CLEAN_EVERY == 0:
                gc.collect()
    figures.seconds = time.process_time() - began
    return figures


def crash_points(kind: str, *, one_in: int = 1, every_step: bool = False, at: str = "", **more: Any) -> Figures:
    """Kill a quiet world at each point where that makes a difference, by a kill and by a power cut.

    Between two acts nothing changes but the product's own memory, which dies with it: so a kill at an act stands for
    all steps since the act before. *every_step* tries them one by one all the same; *one_in* tries a sample. *at*:
    words of the acts that are tried; *more*: of the plan.
    """
    quiet = replace(QUIET, kind=kind, **more)
    with simulated():
        world, _ = play(quiet, trace=True)
    acts = [int(line.split()[0]) for line in world.trace or () if line[5].isdigit() and at in line]
    steps = list(range(1, world.steps + 1)) if every_step else acts
    chosen = sample(steps, kind, one_in)
    figures = run_all(replace(quiet, kills=(step,), cuts=cut) for step in chosen for cut in (False, True))
    before = dict(zip(steps, [0, *steps], strict=False))
    figures.crash_points = sum(step - before[step] for step in chosen)
    return figures


def sample(steps: Sequence[int], kind: str, one_in: int) -> Sequence[int]:
    """Return one in *one_in* of these steps, different ones for each kind of server, so that few are left out."""
    return steps[KINDS.index(kind) % one_in :: one_in]


def command_points(kind: str, commands: Iterable[str], *, workers: int = 1, sample: float = 1.0) -> Figures:
    """Give each command at each act of a quiet world: alone, with a crash at a later act, and after a crash there.

    Each is a world of its own. *workers*: with one, the small file has to wait, and the large one steps aside for it.
    *sample*: the part of these worlds that is run, spread evenly. The dice choose the act of the later crash.
    """
    dice = random.Random(f"{kind}/{workers}")  # noqa: S311 - no secret
    quiet, world = _large_one_first(kind, workers)
    steps = [int(line.split()[0]) for line in world.trace or () if line[5].isdigit()]

    def plans() -> Iterator[Plan]:
        for command in commands:
            for number, step in enumerate(steps):
                later = steps[number] + 1 + int(dice.random() * (steps[-1] - step + 60))
                cut = dice.random() < 0.5
                path = FIRST if command not in {"forget", "retry"} or dice.random() < 0.7 else SECOND
                given = ((step, command, path),)
                yield replace(quiet, commands=given)
                yield replace(quiet, commands=given, kills=(later,), cuts=cut)
                if command in WHILE_STOPPED:
                    yield replace(quiet, commands=((0, command, path),), kills=(step,), cuts=cut)

    return run_all(plan for number, plan in enumerate(plans()) if int(number * sample) != int((number - 1) * sample))


def _large_one_first(kind: str, workers: int) -> tuple[Plan, World]:
    """Return the first quiet plan whose large file is sent before its small one, and its world with a trace."""
    with simulated():
        for seed in count():
            plan = replace(QUIET, seed=seed, kind=kind, workers=workers)
            world, _ = play(replace(plan, commands=((NO_STEP, "retry", FIRST),)), trace=True)
            made = [line for line in world.trace or () if "RecordCreated" in line]
            if FIRST in made[0]:
                return plan, world
    raise AssertionError


def found_once(*, operator: bool) -> list[Plan]:
    """Return the worlds that once found a fault: those with an operator, or those without."""
    plans = [plan_of(found["plan"]) for found in json.loads(FOUND_ONCE.read_text(encoding="utf-8"))]
    return [plan for plan in plans if (plan.operator or bool(plan.commands)) is operator]


def plan_of(values: dict[str, Any]) -> Plan:
    """Read a plan as ``command`` has written it."""
    return Plan(**{key: _frozen(value) for key, value in values.items()})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value
