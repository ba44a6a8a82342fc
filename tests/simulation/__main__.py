"""Plays one world again, or many new ones: see ``run``."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from multiprocessing import get_context

import pytest

from simulation.commands import TRIED_AT_EACH_ACT
from simulation.mutants import MUTANTS, hunt
from simulation.plan import Plan
from simulation.run import KINDS, Figures, plan_of, simulated
from simulation.tasks import Task, do
from simulation.world import World

BATCH = 500  # seeds of one task


def main() -> int:
    """Run what the command line asks for. Returns 1 when an invariant does not hold."""
    parser = argparse.ArgumentParser(prog="simulation", description="Small worlds in which everything goes wrong.")
    parser.add_argument("--plan", help="play this one world, as a failure has told it, and print its trace")
    parser.add_argument("--seeds", nargs=2, type=int, metavar=("FROM", "TO"), help="run these seeds for every kind")
    parser.add_argument("--kind", choices=KINDS, action="append", help="of receiver; all of them unless given")
    parser.add_argument("--crash-points", action="store_true", help="kill quiet worlds at every single step")
    parser.add_argument(
        "--mutants", action="store_true", help="say which world finds each rule that is broken on purpose"
    )
    parser.add_argument("--operator", action="store_true", help="let an operator give commands in all these worlds")
    parser.add_argument("--command-points", action="store_true", help="give each command at each act of quiet worlds")
    parser.add_argument("--jobs", type=int, default=2, help="processes; each keeps a core busy")
    arguments = parser.parse_args()
    if arguments.plan:
        return replay(plan_of(json.loads(arguments.plan)))
    if arguments.mutants:
        return find_mutants()
    kinds = tuple(arguments.kind or KINDS)
    tasks: list[Task] = []
    if arguments.crash_points:
        tasks += [(kind, "crash points", 2) for kind in kinds]
    if arguments.command_points:
        every = itertools.product(kinds, TRIED_AT_EACH_ACT, (1, 2))
        tasks += [(kind, f"command {command}", workers) for kind, command, workers in every]
    if arguments.seeds:
        first, last = arguments.seeds
        starts = range(first, last, BATCH)
        what = "operator" if arguments.operator else ""
        tasks += [(kind, what, range(at, min(at + BATCH, last))) for at, kind in itertools.product(starts, kinds)]
    if not tasks:
        parser.error("--plan, --seeds, --crash-points, --command-points or --mutants")
    return run(tasks, arguments.jobs)


def replay(plan: Plan) -> int:
    """Play one world and print everything that it did."""
    with simulated():
        world = World(plan, trace=[])
        try:
            said = f"holds; its mark is {world.run()}"
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what was looked for
            said = f"{type(error).__name__}: {error}"
    sys.stdout.write("\n".join(world.trace or ()) + f"\n\n{said}\n")
    return 0 if said.startswith("holds") else 1


def find_mutants() -> int:
    """Print which world finds each mutant, for the seeds that ``mutants`` tries first. Returns 1 when one survives."""
    lives = 0
    for mutant in MUTANTS:
        with pytest.MonkeyPatch.context() as patch:
            try:
                plan = hunt(mutant, patch)[1]
                told = f"seed {plan.seed}" + (", tried first" if plan.seed in mutant.seeds else "")
            except AssertionError as error:
                lives, told = 1, str(error)
        sys.stdout.write(f"{mutant.name}: {told}\n")
        sys.stdout.flush()
    return lives


def run(tasks: list[Task], jobs: int) -> int:
    """Run many worlds; print the progress and what was found."""
    done, failed = [], 0
    with get_context("spawn").Pool(jobs) as pool:
        for told in pool.imap_unordered(do, tasks):
            if isinstance(told, str):
                failed += 1
                sys.stdout.write(f"\n{told}\n")
            else:
                done.append(told)
                sys.stdout.write(f"\r{Figures.sum_of(done)}")
            sys.stdout.flush()
    sys.stdout.write("\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
