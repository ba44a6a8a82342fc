"""Sees to it that only one party at a time works on an upload: a stage or an operator command.

A stage works on an upload inside ``work``, in a task of its own. An operator command takes the lease away with
``revoke``, which cancels that task and waits for its end. A lease belongs to an upload, not to its path: when an upload
is dropped and its file is sent again, that is another upload. Leases outlive a reload of the configuration: work that
hangs in a dead share keeps its lease until it ends, so no second worker does the same work beside it.
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

STAGE_END_TIMEOUT: Final = 2.0  # s that a stopping stage waits for the end of its work on an upload
REVOKE_TIMEOUT: Final = 20.0  # s that a command waits for the end of such work; its caller waits 30 s for the command

R = TypeVar("R")


class Paused(Exception):  # noqa: N818 - it names a state, not an error
    """The operator has paused the upload: no further call is made for it."""


def raise_if_paused(store: Store, path: str) -> Upload:
    """Return the current value of the upload. Raises ``Paused``. To be called before each call for it."""
    upload = store.uploads[path]
    if store.is_paused(upload):
        raise Paused
    return upload


@dataclass(slots=True, eq=False)
class _Lease:
    path: str
    task: asyncio.Task[Any] | None = None  # None: an operator command, or a step without an await
    missed: bool = False  # a stage was given the upload meanwhile, and must be given it again at the end
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Leases:
    """All leases that are held, by the serial number of the upload."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: dict[int, _Lease] = {}
        self.send_on: Callable[[str], None] = lambda path: None
        """Sends the upload of a path to the stage of its state. Set by the application."""

    @property
    def busy(self) -> bool:
        """True while any lease is held."""
        return bool(self._held)

    def is_held(self, upload: Upload) -> bool:
        """True while this upload is worked on."""
        return upload.serial in self._held

    def ask_again(self, upload: Upload) -> bool:
        """If the upload is held, have it sent on when its lease ends, and return True. False when it is free."""
        lease = self._held.get(upload.serial)
        if lease is not None:
            lease.missed = True
        return lease is not None

    async def work(self, path: str, states: Collection[State], act: Callable[[Upload], Awaitable[R]]) -> R | None:
        """Hold the lease of the upload of *path* while *act* works on it, and return what *act* returns.

        None without a call of *act* when the upload is not in one of *states*, is paused, is not due yet, or is held
        (then it is sent on when that lease ends). None, too, when an operator command has taken the lease away.
        """
        upload = self._store.uploads.get(path)
        if upload is None or upload.state not in states or self._store.is_paused(upload):
            return None
        if (
            upload.last_error is not None
            and upload.last_error.next_try is not None
            and upload.state is not State.PARKED
        ):
            return None  # not due: the dispatcher clears ``next_try`` when it is
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
                return None  # an operator command has taken the lease away
            task.cancel()
            await asyncio.wait({task}, timeout=STAGE_END_TIMEOUT)
            raise

    @contextmanager
    def step(self, upload: Upload) -> Iterator[bool]:
        """Hold an upload for a step without an await. Yields False when it is held already."""
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
        """End the work on an upload and hold its lease. Yields its current value, or None when it has ended meanwhile.

        Raises ``UploadBusy`` when the work does not end within ``REVOKE_TIMEOUT``, for example in a share that hangs.
        """
        try:
            async with asyncio.timeout(REVOKE_TIMEOUT):
                while (lease := self._held.get(upload.serial)) is not None:
                    if lease.task is not None:
                        lease.task.cancel()
                    await lease.ended.wait()
        except TimeoutError:
            raise errors.UploadBusy(
                f"{shown(upload.where)}: the work on it does not end; does its folder answer?",
                hint="nothing was changed; see valt-uploader status, and try again",
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
