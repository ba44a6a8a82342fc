"""Gives an upload back a record that was given up, and has landed whole after all.

A server may take up the last chunk of a large file long after its answer was lost. By then the file may be on its way
to a new record. The old record is adopted in its place, so that the recording does not arrive twice. Whether it holds
what was sent is proven afterwards, as for every record.
"""

from __future__ import annotations

from uploader.domain import events, lifecycle
from uploader.domain.lifecycle import Step
from uploader.domain.model import Orphan, State, Upload
from uploader.domain.retry import READY_POLL_FIRST
from uploader.stages.context import StageContext


class Adoption:
    """Adopts orphans. It takes the lease of an upload away, as an operator command does."""

    def __init__(self, context: StageContext, doubt_settle: float) -> None:
        """*doubt_settle*: seconds after which the server has ended a request whose answer was lost."""
        self._store, self._leases, self._queues = context.store, context.leases, context.queues
        self._clock, self._bus, self._doubt_settle = context.clock, context.bus, doubt_settle

    async def adopt(self, orphan: Orphan) -> bool:
        """Adopt an orphan that holds a video, if its upload is not complete by itself. Raises ``UploadBusy``."""
        upload = self._store.uploads.get(orphan.path)
        if upload is None or not _may_adopt(upload, orphan):
            return False
        async with self._leases.revoke(upload) as current:
            if current is None or not _may_adopt(current, orphan):
                return False
            before = lifecycle.advance(current, Step.RELEASE) if current.state is State.PARKED else current
            settle = self._doubt_settle if before.state is State.IN_DOUBT else 0.0
            abandoned = lifecycle.orphan_of(before, now=self._clock.now(), settle=settle)
            self._store.put(lifecycle.adopt(before, orphan, now=self._clock.now()))
            self._store.put_orphan(abandoned)
            self._store.drop_orphan(orphan.record)
            await self._store.commit()
        self._bus.publish(events.RecordAdopted(orphan.path, orphan.record))
        self._queues.sent.put(orphan.path, READY_POLL_FIRST)
        return True


def _may_adopt(upload: Upload, orphan: Orphan) -> bool:
    """True when the orphan was made for this very file, and nothing else has arrived for it yet."""
    state = upload.parked_from if upload.state is State.PARKED else upload.state
    return orphan.identity == upload.identity and (state or State.QUEUED, Step.ADOPT) in lifecycle.TABLE
