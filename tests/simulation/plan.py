"""The plan of a world: what goes wrong in it; and the sizes and times of all worlds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from simulation.server import LATEST

EPOCH: Final = 1_800_000_000.0  # Unix seconds
CHUNK: Final = 8  # bytes
SETTLE: Final = 2.0  # s
DOUBT: Final = LATEST + 10.0  # s: longer than any request can be on its way
SLOW: Final = 100.0  # s that a slow server may process: longer than the product waits without a word
STORM: Final = 300.0  # s in which things go wrong
CALM: Final = 2 * 3600.0  # s after that in which everything must be done or parked
BUDGET: Final = 150_000  # steps of one life
NO_STEP: Final = 1 << 60  # that is never reached


@dataclass(frozen=True)
class Plan:
    """What goes wrong in a world, besides what the seed chooses."""

    seed: int
    kind: str = "offset"
    create: str = "post"  # "get": records are made by GET alone, and without a name
    kills: tuple[int, ...] | None = None  # steps; None: the seed chooses up to three
    cuts: bool | None = None  # every kill a power cut, or none; None: the seed chooses
    faults: float = 0.25  # of the requests
    actions: bool = True  # people and recorders are at work in the folder, shares come and go, clocks jump
    disk: float = 0.02  # of the writes to the state folder that are refused, in worlds where any are
    clock: float = 0.15  # of the power cuts, after which the machine starts with another time
    only: tuple[str, ...] = ()  # these actions alone, and in every world
    after_upload: str = ""  # what becomes of every file; empty: the seed chooses
    disks: str = ""  # one of ``folder.SYSTEMS``; empty: the seed chooses
    operator: bool = False  # up to six commands, at acts that the dice choose
    commands: tuple[tuple[int, str, str], ...] = ()  # (step, command, path); step 0: while no process runs
    workers: int = 2
    variety: bool = True  # worlds differ in what becomes of the file, in names, and so on
