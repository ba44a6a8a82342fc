"""How many worlds a test run plays; ``pytest --worlds NAME`` chooses one of these amounts.

``.ci/run`` plays ``full``; ``make simulate-long`` plays further worlds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from simulation.run import KINDS

BATCH: Final = 250  # seeds of one test


@dataclass(frozen=True)
class Amount:
    """What is played around each kind of server."""

    seeds: Mapping[str, int]  # stormy worlds: from seed 0 up to this one
    one_crash_point_in: Mapping[str, int]  # of the acts at which a quiet world can be killed; 1: all of them
    operator_seeds: int  # stormy worlds with an operator, of each kind
    one_command_in: int  # of the worlds in which a command is given at one act; ``make simulate-long`` plays them all

    def batches(self) -> Iterator[tuple[str, range]]:
        """Return the seeds of each test."""
        for kind, seeds in self.seeds.items():
            for first in range(0, seeds, BATCH):
                yield kind, range(first, min(first + BATCH, seeds))


AMOUNTS: Final = {
    # ``make quick``: a few worlds of each kind.
    "few": Amount(dict.fromkeys(KINDS, 10), {"append": 32, "last": 32}, 10, 550),
    # ``make test``: every crash point of the least forgiving server, and a different part of them for each other kind.
    "some": Amount(dict.fromkeys(KINDS, 80), dict.fromkeys(KINDS, 20) | {"append": 1}, 33, 184),
    # ``make worlds``: 20,000 seeds and every crash point.
    "full": Amount(
        dict.fromkeys(KINDS, 1800) | {"append": 2500, "whole": 1500, "limited": 1600},
        dict.fromkeys(KINDS, 1),
        272,
        18,
    ),
}
