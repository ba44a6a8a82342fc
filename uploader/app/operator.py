"""Carries out the operator commands: retry, forget, pause, resume, reload.

The same code serves the running daemon and, with the daemon stopped, its state. A command names a file by its present
name or by the one it had when it was found. It reaches an upload in any state: ``forget`` revokes the lease of the
stage that works on the upload, and what that stage writes afterwards is refused.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from uploader.config import Config
from uploader.domain import events, lifecycle
from uploader.domain.model import EVERYTHING, State, Upload, covers
from uploader.runtime.clock import Clock
from uploader.stages.dispatcher import release, waits_for
from uploader.stages.lease import Leases
from uploader.store import Store


class Running(Protocol):
    """The part of a running application that commands use."""

    def go_on(self, upload: Upload) -> None:
        """Send an upload to its stage now."""

    async def go_on_below(self, name: str) -> None:
        """Send the uploads of a file, or of all files below a folder, to their stages."""

    async def share_is_back(self, root: str) -> None:
        """Send the uploads that wait for a share or an archive to their stages."""

    def try_server_again(self) -> None:
        """Call the server now, also with a password that it has refused."""

    def accept_folder(self, root: str) -> bool:
        """Accept whatever file system is mounted at a watched folder next. False when the folder is not watched."""

    def apply(self, config: Config) -> None:
        """Put a configuration into force for uploads that are under way."""


class Operator:
    """Carries out operator commands."""

    def __init__(self, store: Store, leases: Leases, clock: Clock, bus: events.Bus, doubt_settle: float) -> None:
        """*doubt_settle*: seconds after which the server has certainly finished a request whose answer was lost."""
        self._store, self._leases, self._clock, self._bus = store, leases, clock, bus
        self._doubt_settle = doubt_settle
        self.running: Running | None = None
        """The running application; None while the daemon is stopped."""

    async def retry(self, name: str) -> bool:
        """Let a parked or waiting upload continue now, with its failures forgotten. False when there is none.

        For a watched folder or an archive: accept the file system that is mounted there now, even if it is another one
        than before.
        """
        if await self._accept_folder(name):
            return True
        upload = self._store.upload_at(name)
        if upload is None:
            return False
        if upload.state is State.PARKED:
            async with self._leases.revoke(upload) as current:
                if current is None:
                    return False  # it has just ended
                if current.state is State.PARKED:
                    upload = await release(self._store, self._bus, self._store.put(with_failures_forgotten(current)))
        elif self._leases.ask_again(upload):
            return True  # a stage works on it; if that fails, it is tried again at once
        else:
            upload = self._store.put(with_failures_forgotten(upload))
            await self._store.commit()
        if self.running is not None:
            self.running.go_on(upload)
        return True

    async def _accept_folder(self, root: str) -> bool:
        watched = self.running is not None and self.running.accept_folder(root)
        if not watched and root not in self._store.mount_identities:
            return False
        self._store.drop_mount_identity(root)
        if self.running is None:
            for upload in [upload for upload in self._store.uploads.values() if waits_for(upload, root)]:
                self._store.put(with_failures_forgotten(upload))
        await self._store.commit()
        if self.running is not None and not watched:  # a watched folder is checked first, by its scan
            await self.running.share_is_back(root)
        return True

    async def try_server_again(self) -> None:
        """Call the server now, also with a password that it has refused, and with chunks of the configured size."""
        self._store.learn(chunk_limit=None, chunk_limit_until=None)
        if self.running is not None:
            self.running.try_server_again()
        else:
            self._store.learn(login_not_before=None)
        await self._store.commit()

    async def forget(self, name: str) -> bool:
        """Drop an unfinished upload. False when there is none. Raises ``UploadBusy``.

        An empty record of the upload is deleted from the server. If a record may exist whose id was never received, it
        is looked for first: the upload stays until that is known, then it is dropped. With the id of an orphan that
        holds a video as *name*, the orphan is no longer reported.
        """
        if name in self._store.orphans:
            return await self._forget_orphan(name)
        upload = self._store.upload_at(name)
        if upload is None:
            return False
        async with self._leases.revoke(upload) as current:
            if current is None:
                return False  # the upload has just ended
            if State.CREATING in {current.state, current.parked_from}:
                await self._forget_when_known(current)
                return True
            complete = lifecycle.COMPLETE & {current.state, current.parked_from}  # its record stays
            settle = self._doubt_settle if State.IN_DOUBT in {current.state, current.parked_from} else 0.0
            orphan = None if complete else lifecycle.orphan_of(current, now=self._clock.now(), settle=settle)
            self._store.put_orphan(orphan)
            self._store.drop(current)
            await self._store.commit()
        self._bus.publish(events.UploadForgotten(current.path, None if orphan is None else orphan.record))
        return True

    async def _forget_when_known(self, upload: Upload) -> None:
        """Mark the upload, so that the transfer stage drops it when it knows whether its record was created."""
        upload = replace(with_failures_forgotten(upload), forgotten=True)
        if upload.state is State.PARKED:
            upload = await release(self._store, self._bus, self._store.put(upload))
        else:
            upload = await self._store.save(upload)
        self._bus.publish(events.UploadForgotten(upload.path, None))
        if self.running is not None:
            self.running.go_on(upload)

    async def _forget_orphan(self, record: str) -> bool:
        """Stop reporting an orphan that holds a video: the operator has decided to keep it."""
        if not self._store.orphans[record].landed:
            return False
        self._store.drop_orphan(record)
        await self._store.commit()
        return True

    async def pause(self, name: str) -> bool:
        """Begin nothing new for a file, or for any file below a folder. False when it was paused already."""
        changed = self._store.pause(name)
        await self._store.commit()
        return changed

    async def resume(self, name: str) -> bool:
        """End the pause of this name; ``EVERYTHING`` ends all pauses. False when there was none."""
        names = tuple(self._store.paused) if name == EVERYTHING else (name,)
        changed = [self._store.pause(one, paused=False) for one in names]
        await self._store.commit()
        if any(changed) and self.running is not None:
            await self.running.go_on_below(name)
        return any(changed)

    def reload(self, config: Config) -> None:
        """Put a configuration into force for uploads that are under way: see ``Running.apply``."""
        self._doubt_settle = config.server.doubt_settle
        self._store.learn(login_not_before=None)  # the operator may have changed the password that was refused
        if self.running is not None:
            self.running.apply(config)


def with_failures_forgotten(upload: Upload) -> Upload:
    """Return the upload without its failures. A parked one keeps its reason until it is released.

    One whose record is gone from the server, and which was sent whole, is sent again if the record is still gone.
    """
    last_error = None
    if upload.state is State.PARKED and upload.last_error is not None:
        last_error = upload.last_error
        send_again = last_error.send_again or last_error.gone_looks > 1  # it is parked because its record is gone
        last_error = replace(last_error, attempts=0, cuts=0, gone_looks=0, send_again=send_again, next_try=None)
    return replace(upload, last_error=last_error, restarts=0, gone=0)


def is_below(name: str, upload: Upload) -> bool:
    """True when *name* is a name of the upload's file or a folder above it."""
    return covers([name], upload.path) or covers([name], upload.where)
