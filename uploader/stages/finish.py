"""Stage 6: write the ledger line; then keep, move or delete the file.

Only after ``ready``, and only while it is still the file that was sent. Must never overwrite anything, nor send a
file again because it could not be moved or deleted: that is remembered, tried again and shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Final

from uploader import errors, events, lifecycle
from uploader.clock import Clock
from uploader.files import DISPOSALS, Done, Order, Request, Sent, Shares
from uploader.lifecycle import Step
from uploader.model import Finished, Sighting, State, Upload
from uploader.stages import Pipes
from uploader.stages.apart import Apart
from uploader.stages.setback import Setbacks
from uploader.store import Store

DISPOSAL_STOPS: Final = 2.0  # s until a disposal that is cancelled must have stopped: else its share hangs
FINISHERS: Final = 2  # files of one share dealt with at the same time: a move may be a copy of many GiB


class Finish:
    """Ends every upload whose video is ready."""

    def __init__(
        self,
        order_of: Callable[[str], Order | None],
        shares: Shares,
        store: Store,
        setbacks: Setbacks,
        pipes: Pipes,
        clock: Clock,
        bus: events.Bus,
    ) -> None:
        """*order_of*: what is taken of a watched folder (by its path); None of one that is not watched."""
        self._order_of = order_of
        self._shares, self._store, self._setbacks, self._pipes = shares, store, setbacks, pipes
        self._clock, self._bus = clock, bus
        self._finishers: Apart[str] = Apart(self._take_turn, FINISHERS)
        self._ending = 0

    @property
    def ending(self) -> bool:
        """True while an upload leaves the state and its end is not announced yet."""
        return self._ending > 0

    async def run(self) -> None:
        """Finish uploads until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._finishers.run(), name="finish: finishers")
            group.create_task(self._take_ready(), name="finish: ready")

    async def _take_ready(self) -> None:
        while True:
            path = await self._pipes.ready.next_due()
            if (upload := self._store.uploads.get(path)) is not None:
                self._finishers.put(upload.root, path)

    async def _take_turn(self, path: str) -> None:
        upload = self._store.uploads.get(path)
        if upload is not None and upload.state is State.FINISHING and not self._store.is_paused(upload):
            await self._setbacks.guard(path, self.finish(upload))

    async def finish(self, upload: Upload) -> None:
        """Write the ledger line, deal with the file, forget the upload. Raises our errors; may be called again."""
        upload = await self._followed(upload)
        target = await self._target(upload)
        finished = _finished(upload, target)
        await self._store.finish(finished)
        done = await self._dispose(upload, target)
        lifecycle.advance(upload, Step.FINISHED)
        self._ending += 1
        try:
            self._store.drop(upload.path)
            await self._store.commit()
            self._announce(upload.path, finished, done.file, done.moved_to)
        finally:
            self._ending -= 1
        if done.file == "changed":
            await self._setbacks.look_again(upload)

    def _announce(self, path: str, finished: Finished, outcome: str, moved_to: str | None) -> None:
        seconds = round(finished.ready_at - finished.begun_at, 1)
        end = path, finished.record, finished.size, finished.sha256
        self._bus.publish(events.UploadFinished(*end, outcome, seconds, moved_to))

    async def _followed(self, upload: Upload) -> Upload:
        """Find a file that has got another name, if nobody has noticed yet: under that one it would be sent again.

        Of a file that is kept nothing else is needed, so a share that is away does not hold its end up.
        """
        try:
            name = await self._new_name(upload)
        except errors.ShareNotReady:
            if DISPOSALS[upload.after_upload].takes_away:
                raise
            return upload
        upload = self._store.uploads.get(upload.path, upload)  # a scan may have been faster
        if name is None or name == upload.where:
            return upload
        self._bus.publish(events.FileRenamed(name, upload.where))
        return await self._store.save(replace(upload, renamed_to=name))

    async def _new_name(self, upload: Upload) -> str | None:
        share, order = self._shares.of(upload.root), self._order_of(upload.root)
        ((_, what),) = await share.look([upload.where])
        if what != "missing" or order is None:
            return None
        async for batch in share.walk(order):
            for seen in batch.sightings:
                if await self._is_it(upload, seen):
                    return seen.path
        return None

    async def _is_it(self, upload: Upload, seen: Sighting) -> bool:
        if (seen.size, seen.mtime_ns) != (upload.identity.size, upload.identity.mtime_ns):
            return False
        there = self._store.upload_at(seen.path)
        if self._store.ledger.has(seen.path) or (there is not None and there.path != upload.path):
            return False  # it is another one of its kind
        with suppress(errors.FilesTurn):
            return (await self._shares.of(upload.root).snapshot(seen.path)).identity == upload.identity
        return False

    async def _target(self, upload: Upload) -> str | None:
        """Choose the path that the file is moved to; None when it is not moved."""
        if upload.after_upload != "move" or upload.move_to is None:
            return None
        return await self._shares.of(upload.root).free_target(upload.where, _sent(upload), upload.move_to)

    async def _dispose(self, upload: Upload, target: str | None) -> Done:
        """Do with the file what is configured; says what became of it.

        Cancelled, this waits until nothing touches the file any more, but no longer than ``DISPOSAL_STOPS``.
        """
        disposal = DISPOSALS[upload.after_upload]
        request = Request(upload.where, _sent(upload), upload.move_to, target)
        work = asyncio.ensure_future(disposal.act(self._shares.of(upload.root), request))
        try:
            return await asyncio.shield(work)
        except errors.FileChanged:
            return Done("changed")  # another recording stands there now: it is seen and sent as a new one
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.wait({work}, timeout=DISPOSAL_STOPS)
            raise


def _sent(upload: Upload) -> Sent:
    inode = None if upload.inode is None else (upload.inode[0], upload.inode[1])
    return Sent(upload.identity, upload.digest, inode)


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
