"""Scripted faults: what goes wrong, at which call, how often.

A test appends a ``Fault`` to ``Simulator.faults``. ``strike`` picks the one that is due; ``intake`` and ``server``
apply it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal

from uploader.runtime.clock import Clock
from uploader.testing.simulator.wire import SimulatedAnswer

CallName = Literal["login", "create", "upload", "details", "list", "link", "delete", "version"]
FaultKind = Literal[
    "cut-body",  # abort the connection after ``after_bytes`` of the body; nothing is done
    "lose-answer",  # do the work, then abort the connection without an answer
    "late",  # abort the connection once the whole body is there; do the work after ``seconds`` or ``release()``
    "status",  # answer ``status``, ``headers``, ``body`` without the work; after ``after_bytes``, if given
    "store-then-status",  # do the work, then answer ``status``, ``headers``, ``body``
    "garbage",  # do the work, then answer 200 with a meaningless body
    "stall",  # stop reading the body at ``after_bytes``, else before the answer; for as long as "late"
    "slow",  # read the body at ``rate`` bytes per second
    "expire-token",  # forget every token first, then continue as usual
]

BAD_GATEWAY = (
    "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n"
    "<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)


@dataclass(eq=False, kw_only=True)
class Fault:
    """One fault: the first *skip* calls pass, the next *times* are affected (None: all of them)."""

    call: CallName
    kind: FaultKind
    skip: int = 0
    times: int | None = 1
    after_bytes: int | None = None  # of the request's body, as far as this end has received it
    status: int = 502
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None  # None: VALT's own words for a refusal that it gives itself, else a gateway's page
    seconds: float | None = None  # None: until ``release()``
    rate: float = 1 << 20  # bytes per second
    struck: asyncio.Event = field(default_factory=asyncio.Event, repr=False)  # set at the first strike
    standing: asyncio.Event = field(default_factory=asyncio.Event, repr=False)  # set once a request stands still
    released: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def release(self) -> None:
        """Let every request continue that stands still because of this fault."""
        self.released.set()

    async def stand_still(self, clock: Clock) -> None:
        """Return after ``seconds``, or as soon as ``release()`` is called."""
        self.standing.set()
        if self.seconds is None:
            await self.released.wait()
            return
        waits = {
            asyncio.create_task(clock.sleep(self.seconds)),
            asyncio.create_task(self.released.wait()),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


def fault_answer(fault: Fault) -> SimulatedAnswer:
    """Return the answer of a ``status`` or ``store-then-status`` fault."""
    if fault.body is not None:
        return SimulatedAnswer(fault.status, fault.body, fault.headers)
    own = fault.status in {400, 401, 403, 404, 405}
    words = {"error": {"code": fault.status, "message": HTTPStatus(fault.status).phrase}} if own else BAD_GATEWAY
    return SimulatedAnswer(fault.status, words, fault.headers)


def strike(faults: list[Fault], call: CallName) -> Fault | None:
    """Return the fault that is due at this *call*, and count it; one that is used up is removed from the list."""
    for fault in faults:
        if fault.call != call:
            continue
        if fault.skip > 0:
            fault.skip -= 1
            continue
        if fault.times is not None:
            fault.times -= 1
            if fault.times <= 0:
                faults.remove(fault)
        fault.struck.set()
        return fault
    return None
