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
from uploader.testing.simulator.wire import SimulatedAnswer, html_page

CallName = Literal[
    "login",
    "create",
    "upload",
    "details",
    "list",
    "link",
    "delete",
    "version",
    "update",
    "share",
    "unshare",
    "download",
]
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


@dataclass(eq=False, kw_only=True)
class Fault:
    """One fault: the first *skip* calls pass, the next *times* are affected (None: all of them).

    *record* and *name* limit it to the calls of one record, by its id or its name: the others neither count nor are
    affected. ``create`` and ``list`` say a name only in their bodies, so a fault limited to a *name* affects them when
    the body is there. ``login`` and ``version`` belong to no record.

    A ``download`` knows these kinds: "status", "stall", and "lose-answer", "cut-body" and "late", which all cut it
    before its answer.

    The answers of a proxy: ``Fault(call="every", kind="status", status=403, times=None)`` answers every call with an
    HTML page. VALT's own refusals: *body* is JSON, and *headers* say so.
    """

    call: CallName | Literal["every"]
    kind: FaultKind
    record: str | None = None  # the id of a record
    name: str | None = None  # the name of a record
    skip: int = 0
    times: int | None = 1
    after_bytes: int | None = None  # of the request's body, as far as this end has received it
    status: int = 502
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str | None = None  # None: VALT's words for its own refusals, else a page that fits the status
    seconds: float | None = None  # None: until ``release()``
    rate: float = 1 << 20  # bytes per second
    struck: asyncio.Event = field(default_factory=asyncio.Event, repr=False)  # set at the first strike
    standing: asyncio.Event = field(default_factory=asyncio.Event, repr=False)  # set once a request stands still
    released: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def concerns(self, call: CallName, record: str | None, name: str | None) -> bool:
        """True for a *call* of the kind and record to which this fault is limited."""
        is_its_call = self.call in {call, "every"}
        return is_its_call and self.record in {None, record} and self.name in {None, name}

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
    words = (
        {"error": {"code": fault.status, "message": HTTPStatus(fault.status).phrase}}
        if own
        else html_page(fault.status)
    )
    return SimulatedAnswer(fault.status, words, fault.headers)


def strike(
    faults: list[Fault],
    call: CallName,
    *,
    record: str | None = None,
    name: str | None = None,
    only_named: bool = False,
) -> Fault | None:
    """Return the fault that is due at this *call*, and count it; one that is used up is removed from the list.

    *record* and *name*: of the record that the call belongs to, as far as they are known. *only_named*: consider only
    faults that are limited to a name, when the others have been asked before.
    """
    for fault in faults:
        if not fault.concerns(call, record, name) or (only_named and fault.name is None):
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
