"""Checks what becomes of records that arrived spoilt (I26 and I27).

A server that ignores ranges, or loses or doubles bytes, shows a video that is not what was sent. The product remembers
such a record with its upload, and deletes it only after the record that replaces it is proven.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simulation.disk import STATE
from simulation.server import Record, Request
from uploader.domain import events
from uploader.testing.simulator.semantics import SPOILING, parse_content_range

if TYPE_CHECKING:
    from simulation.world import World


@dataclass(eq=False)
class SpoiltRecords:
    """The spoilt records of a world, as the saved states show them."""

    world: World
    _replaced_by: dict[str, str] = field(default_factory=dict)  # by record: the one that was proven in its place
    _reported: set[str] = field(default_factory=set)  # those that a person must decide about

    def look_at_saved(self) -> None:
        """I27: a record may be deleted as spoilt from the save on that says that its replacement is proven."""
        if self.world.server.semantics in SPOILING:
            self._look_at(self.world.disk.announced())

    def born(self) -> None:
        """Look at what a new life is going to read: a save may be there although it has not returned."""
        state = self.world.disk.names.get(STATE)
        if self.world.server.semantics in SPOILING and state is not None:
            with suppress(ValueError):  # damaged: the product has an older one, which was looked at
                self._look_at(json.loads(state.data))

    def _look_at(self, saved: dict[str, Any]) -> None:
        for orphan in saved["orphans"]:
            record = orphan["record"]
            if orphan["landed"]:
                self._reported.add(record)
            if orphan.get("replaced") and record not in self._replaced_by:
                of_path = [upload for upload in saved["uploads"] if upload["path"] == orphan["path"]]
                proven = [upload for upload in of_path if _is_proven(upload)]
                if not proven:
                    self.world.fail(f"I27: {record} may be deleted, and no record in its place is saved as proven")
                self._replaced_by[record] = proven[0]["ids"]["record"]

    def before_request(self, request: Request) -> None:
        """I26: a server that was not seen to put chunks together gets no part of a file."""
        chunk = parse_content_range(request.range) if request.range else None
        if chunk is not None and not chunk.whole and self.world.receiver.learnt is None:
            self.world.fail(f"I26: {request.range} goes to a server that was not seen to put chunks together")

    def may_delete(self, record: Record) -> bool:
        """True when a record with a video is spoilt, and the record in its place holds what was sent (I27)."""
        replacement = self.world.server.records.get(self._replaced_by.get(record.id, ""))
        return record.spoilt and replacement is not None and holds_all(replacement)

    def check_end(self) -> str:
        """Return what is wrong with the spoilt records at the end; empty when nothing is (I27)."""
        world = self.world
        heard = {event.record for event in world.heard if isinstance(event, events.OrphanHasVideo)}
        for record in world.server.records.values():
            if not record.spoilt or record.deleted:
                continue
            if world.server.semantics not in SPOILING:
                return f"I1: {record.id} holds what was not sent: {record.content!r}"
            if record.id in self._replaced_by:
                return f"I27: {record.id} is spoilt, its replacement is proven, and it is still there"
            if record.id not in heard | self._reported and not world.orders.may_be_forgotten(record.id):
                return f"I27: {record.id} is spoilt, and nobody was told"
        return ""


def holds_all(record: Record) -> bool:
    """True when a record is there and holds every byte that was sent."""
    return record.completed_at is not None and not record.spoilt and not record.deleted


def _is_proven(upload: dict[str, Any]) -> bool:
    finishing = "finishing" in {upload["state"], upload.get("parked_from")}
    return finishing and upload.get("proof") in {"size", "bytes", "duration"}
