"""What kind of server a world has, and what the product has found out about it before the world begins.

A server of a spoiling kind was changed after it was probed: the product believes that it puts chunks together. In some
worlds nothing is known of it, so that it gets whole files.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from simulation.plan import Plan
from uploader.domain.model import ServerCapabilities
from uploader.testing.simulator.semantics import SPOILING, Semantics

VERSION: Final = "6.7.2"
LIMIT: Final = 5  # bytes of a chunk that a "limited" server takes
TRANSCODERS: Final = (Semantics.APPEND, Semantics.OFFSET, Semantics.LAST, Semantics.DOUBLE, Semantics.SHORT)
NOTHING_KNOWN: Final = 0.25  # of the worlds whose server spoils or transcodes


@dataclass(frozen=True)
class Receiver:
    """A kind of server. ``learnt``: what was found out about it; None: nothing."""

    semantics: Semantics
    limit: int = 0
    transcodes: bool = False
    learnt: ServerCapabilities | None = None

    def probed(self, now: float) -> ServerCapabilities:
        """Return what ``check --probe`` finds out."""
        chunks = self.semantics not in SPOILING
        until = None if chunks else now + 30 * 86400.0
        return ServerCapabilities(
            whole_only_until=until, chunks=chunks, transcodes=self.transcodes, probed_at=now, version=VERSION
        )


def receiver_of(plan: Plan) -> Receiver:
    """Choose the server of a world, by random numbers of its own: all else in the world of a seed stays the same."""
    dice = random.Random(f"{plan.seed}/{plan.kind}/receiver")  # noqa: S311 - no secret
    unknown = plan.variety and dice.random() < NOTHING_KNOWN
    seen = ServerCapabilities(chunks=True, transcodes=False, version=VERSION)
    if plan.kind == "transcoding":
        semantics = TRANSCODERS[int(dice.random() * len(TRANSCODERS)) if plan.variety else 0]
        transcodes = None if unknown else True
        learnt = ServerCapabilities(chunks=True, transcodes=transcodes, version=VERSION)
        return Receiver(semantics, transcodes=True, learnt=learnt)
    if plan.kind == "limited":
        return Receiver(Semantics.OFFSET, limit=LIMIT, learnt=seen)
    semantics = Semantics(plan.kind)
    return Receiver(semantics, learnt=None if unknown and semantics in SPOILING else seen)
