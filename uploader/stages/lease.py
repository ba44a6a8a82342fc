"""Who works on an upload: one party at a time, a stage or the operator.

A stage works on an upload inside ``work``, in a task of its own. Operator commands take the lease away with ``revoke``:
the task is cancelled and has ended before the command goes on. A lease belongs to one upload, not to its path: when an
upload was dropped and its file is sent anew, that is another upload. Leases outlive a reload of the configuration: work
that hangs in a dead share keeps its lease until it really ends, so nobody does the same work beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from uploader.domain import errors
from uploader.domain.model import State, Upload, shown
from uploader.store import Store

STAGE_END_TIMEOUT: Final = 2.0  # s that a stage that is stopped waits for its work on an upload to end
REVOKE_TIMEOUT: Final = 20.0  # s that a command waits for it; the command itself is waited for 30 s

R = TypeVar("R")


class Paused(Exception):  # noqa: N818 - it says what the upload is
    """The operator has paused the upload between two calls."""


def raise_if_paused(store: Store, path: str) -> Upload:
    """Return the upload as it is now, before another call is made for it. Raises ``Paused``."""
    upload = store.uploads[path]
    if store.is_paused(upload):
        raise Paused
    return upload


@dataclass(slots=True, eq=False)
class _Lease:
    path: str
    task: asyncio.Task[Any] | None = None  # None: an operator command, or a step without an await
    missed: bool = False  # the upload came to a stage while it was held, and must be sent on at the end
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Leases:
    """The leases that are held, by the serial number of the upload."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: dict[int, _Lease] = {}
        self.send_on: Callable[[str], None] = lambda path: None
        """Sends an upload to the stage of its state. Set by whoever runs the stages."""

    @property
    def busy(self) -> bool:
        """True while any upload is worked on."""
        return bool(self._held)

    def is_held(self, upload: Upload) -> bool:
        """True while somebody works on this upload."""
        return upload.serial in self._held

    def ask_again(self, upload: Upload) -> bool:
        """Have a held upload sent on as soon as its lease ends. False when nobody holds it."""
        lease = self._held.get(upload.serial)
        if lease is not None:
            lease.missed = True
        return lease is not None

    async def work(self, path: str, states: Collection[State], act: Callable[[Upload], Awaitable[R]]) -> R | None:
        """Let a stage work on the upload of *path*, if it is in one of *states* and nothing speaks against that.

        None when it was not begun (the upload has left this stage, is paused, waits for its time, or is held by
        somebody else, after whom it is sent on) or was taken away by an operator command.
        """
        upload = self._store.uploads.get(path)
        if upload is None or upload.state not in states or self._store.is_paused(upload):
            return None
        if upload.trouble is not None and upload.trouble.next_try is not None and upload.state is not State.PARKED:
            return None
        if self.ask_again(upload):
            return None
        task = asyncio.ensure_future(act(upload))
        self._held[upload.serial] = lease = _Lease(path, task)
        task.add_done_callback(lambda _: self._release(upload.serial, lease))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if task.cancelled() and not (current is not None and current.cancelling()):
                return None  # an operator command has taken the upload away
            task.cancel()
            await asyncio.wait({task}, timeout=STAGE_END_TIMEOUT)
            raise

    @contextmanager
    def step(self, upload: Upload) -> Iterator[bool]:
        """Hold an upload for a step that nobody may come between. False when it is held already."""
        if self.ask_again(upload):
            yield False
            return
        self._held[upload.serial] = lease = _Lease(upload.path)
        try:
            yield True
        finally:
            self._release(upload.serial, lease)

    @asynccontextmanager
    async def revoke(self, upload: Upload) -> AsyncIterator[Upload | None]:
        """Take an upload from whoever works on it and hold it: its current value, or None when it has ended meanwhile.

        Raises ``UploadBusy`` when the work does not end in time, as it may in a share that hangs.
        """
        try:
            async with asyncio.timeout(REVOKE_TIMEOUT):
                while (lease := self._held.get(upload.serial)) is not None:
                    if lease.task is not None:
                        lease.task.cancel()
                    await lease.ended.wait()
        except TimeoutError:
            raise errors.UploadBusy(
                f"{shown(upload.where)}: what is being done with it does not end; does its folder answer?",
                hint="nothing was changed: look at valt-uploader status, and try again",
            ) from None
        self._held[upload.serial] = lease = _Lease(upload.path)
        try:
            yield self._store.table.current(upload)
        finally:
            self._release(upload.serial, lease)

    def _release(self, serial: int, lease: _Lease) -> None:
        del self._held[serial]
        lease.ended.set()
        if lease.missed and lease.path in self._store.uploads:
            self.send_on(lease.path)
