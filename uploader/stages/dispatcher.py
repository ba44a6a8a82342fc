"""Puts unfinished uploads on the queue of their stage: at the start, when their wait is over, and after a command.

An upload that waits is on the ``again`` queue, also one that may go on now because of a command. When it is due, this
module puts it on the queue that belongs to its state. No other module has that table. A stage that is done with an
upload puts it on the queue of the next stage by itself. The dispatcher does no work of a stage.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from itertools import count
from typing import Final

from uploader.config import Config
from uploader.domain import events, lifecycle, retry
from uploader.domain.lifecycle import Step
from uploader.domain.model import State, Upload
from uploader.runtime.slices import in_slices
from uploader.stages.context import StageContext
from uploader.stages.queues import Job
from uploader.store import Store

SAVED_RETRY_CAP: Final = 1.1 * retry.DAY  # s; a saved time further away is wrong: the clock was set


class Dispatcher:
    """Takes uploads from the ``again`` queue when they are due, and puts them on the queue of their stage."""

    def __init__(self, context: StageContext, config: Callable[[], Config]) -> None:
        """*config* returns the configuration in force."""
        self._store, self._leases, self._queues = context.store, context.leases, context.queues
        self._clock, self._bus = context.clock, context.bus
        self._config = config
        self._number = count()  # among jobs of equal rank the older one goes first
        self._busy = False

    @property
    def idle(self) -> bool:
        """True when nothing is due."""
        return not self._busy and self._queues.again.soonest() != 0.0

    async def run(self, only: Collection[str] | None = None) -> None:
        """Queue the uploads of the saved state (*only* these paths, if given), then send on what is due."""
        await self.bring_back(lambda upload: only is None or upload.path in only)
        while True:
            path = await self._queues.again.next_due()
            self._busy = True
            try:
                await self._send_on(path)
            finally:
                self._busy = False

    async def bring_back(self, which: Callable[[Upload], bool]) -> None:
        """Put unfinished uploads on the ``again`` queue, each for the rest of its wait."""
        async for path in in_slices(self._store.uploads, self._clock):
            upload = self._store.uploads.get(path)
            if upload is not None and which(upload):
                self._put_on_again_queue(upload)

    def _put_on_again_queue(self, upload: Upload) -> None:
        next_try = None if upload.last_error is None else upload.last_error.next_try
        if next_try is not None:
            longest = SAVED_RETRY_CAP if upload.state is State.PARKED else retry.BACKOFF_CAP
            self._queues.again.put(upload.path, min(next_try - self._clock.now(), longest))
        elif upload.state is not State.PARKED:  # it was being worked on, or waited for a worker: it is due now
            self._queues.again.put(upload.path)

    async def share_is_back(self, root: str) -> None:
        """Let the uploads that wait for this share, or for this archive, go on now."""
        async for path in in_slices(self._store.uploads, self._clock):
            upload = self._store.uploads.get(path)
            if upload is not None and waits_for(upload, root):
                self._queues.again.put(path)

    def try_proofs_again(self) -> None:
        """Let the uploads go on whose arrival could not be proven: more is known about the server now."""
        for upload in tuple(self._store.uploads.values()):
            if State.PROVING in {upload.state, upload.parked_from}:
                self._queues.again.put(upload.path)

    def go_on(self, upload: Upload) -> None:
        """Let an upload go on now, even if it is parked."""
        self._queues.again.put(upload.path)

    async def _send_on(self, path: str) -> None:
        """Put an upload that is due on the queue of its stage. One that is parked is released first."""
        upload = self._store.uploads.get(path)
        if upload is not None and upload.state is State.PARKED:
            upload = await self._leases.work(path, {State.PARKED}, self._release)
        if upload is not None and not self._leases.ask_again(upload):
            self.route(upload)

    async def _release(self, upload: Upload) -> Upload:
        """Release a parked upload. It keeps its count of failures, so it gets one more try."""
        return await release(self._store, self._bus, upload)

    def route(self, upload: Upload) -> None:
        """Put an upload on the queue of its stage."""
        if upload.last_error is not None and upload.last_error.next_try is not None:
            upload = self._store.put(replace(upload, last_error=replace(upload.last_error, next_try=None)))
        if upload.state is State.VERIFYING:
            self._queues.sent.put(upload.path)
        elif upload.state is State.PROVING:
            self._queues.unproven.put(upload.path)
        elif upload.state is State.FINISHING:
            self._queues.proven.put(upload.path)
        elif upload.state is not State.PARKED:
            self._queues.jobs.put_nowait(Job((self._rank(upload), next(self._number)), upload.path, _is_small(upload)))

    def _rank(self, upload: Upload) -> int:
        order = self._config().upload.order
        if order == "smallest":
            return upload.identity.size
        return upload.identity.mtime_ns if order == "oldest" else -upload.identity.mtime_ns


def waits_for(upload: Upload, root: str) -> bool:
    """True when an upload waits until its share, or the archive that its file is moved to, is ready."""
    if upload.last_error is None or not upload.last_error.not_ready:
        return False
    return root == upload.root or (upload.state is State.FINISHING and root == upload.move_to)


async def release(store: Store, bus: events.Bus, upload: Upload) -> Upload:
    """Release a parked upload, durably. The caller holds its lease."""
    if upload.last_error is not None:
        upload = replace(upload, last_error=replace(upload.last_error, next_try=None))
    upload = await store.save(lifecycle.advance(upload, Step.RELEASE))
    bus.publish(events.UploadReleased(upload.path, upload.state))
    return upload


def _is_small(upload: Upload) -> bool:
    """True when one request takes the whole file."""
    return upload.chunk_size != 0 and lifecycle.chunk_end(upload) == upload.identity.size
