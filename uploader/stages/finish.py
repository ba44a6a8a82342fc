"""Stage 6: write the ledger line; then keep, move or delete the file.

Only after ``ready``, and only while it is still the file that was sent. Must never overwrite anything, nor send a
file again because it could not be moved or deleted: that is remembered, tried again and shown.
"""

from __future__ import annotations

from uploader import errors, events, lifecycle
from uploader.clock import Clock
from uploader.files import Sent, Shares
from uploader.lifecycle import Step
from uploader.model import Finished, State, Upload
from uploader.stages import Pipes
from uploader.stages.setback import Setbacks
from uploader.store import Store


class Finish:
    """Ends every upload whose video is ready."""

    def __init__(
        self, shares: Shares, store: Store, setbacks: Setbacks, pipes: Pipes, clock: Clock, bus: events.Bus
    ) -> None:
        self._shares, self._store, self._setbacks, self._pipes = shares, store, setbacks, pipes
        self._clock, self._bus = clock, bus

    async def run(self) -> None:
        """Finish uploads until cancelled."""
        while True:
            path = await self._pipes.ready.next_due()
            upload = self._store.uploads.get(path)
            if upload is not None and upload.state is State.FINISHING and not self._store.is_paused(upload):
                await self._setbacks.guard(path, self.finish(upload))

    async def finish(self, upload: Upload) -> None:
        """Write the ledger line, deal with the file, forget the upload. Raises our errors; may be called again."""
        target = None
        if upload.after_upload == "move" and upload.move_to is not None:
            target = await self._shares.of(upload.root).free_target(upload.where, upload.move_to)
        finished = _finished(upload, target)
        await self._store.finish(finished)
        outcome = await self._deal_with_file(upload, target)
        lifecycle.advance(upload, Step.FINISHED)
        self._store.drop(upload.path)
        await self._store.commit()
        seconds = finished.ready_at - finished.begun_at
        moved_to = target if outcome == "moved" else None
        self._bus.publish(
            events.UploadFinished(
                upload.path, finished.record, finished.size, finished.sha256, outcome, round(seconds, 1), moved_to
            )
        )
        if outcome == "changed":
            await self._setbacks.look_again(upload)

    async def _deal_with_file(self, upload: Upload, target: str | None) -> str:
        """Keep, move or delete; says what became of the file."""
        share = self._shares.of(upload.root)
        inode = None if upload.inode is None else (upload.inode[0], upload.inode[1])
        sent = Sent(upload.identity, upload.digest, inode)
        try:
            if upload.after_upload == "delete":
                return "deleted" if await share.delete(upload.where, sent) else "gone"
            if target is not None:
                return "moved" if await share.move(upload.where, sent, target) else "gone"
        except errors.FileChanged:
            return "changed"  # another recording stands there now: it is seen and sent as a new one
        return "kept"


def _finished(upload: Upload, target: str | None) -> Finished:
    if upload.ids is None or upload.sent_at is None or upload.ready_at is None:
        raise lifecycle.IllegalStep("finished, but never sent")
    return Finished(
        path=upload.where,
        size=upload.identity.size,
        mtime_ns=upload.identity.mtime_ns,
        edges=upload.identity.edges,
        sha256=upload.digest,
        record=upload.ids.record,
        video=upload.ids.video,
        name=upload.record.name,
        begun_at=upload.begun_at or upload.sent_at,
        sent_at=upload.sent_at,
        ready_at=upload.ready_at,
        chunks=upload.chunks,
        after_upload=upload.after_upload,
        moved_to=target,
    )
