"""Keeps the state, in memory and on disk. All changes to either are made here.

A change is made in memory at once, and is durable when ``commit`` returns; commits that wait together are written as
one. If ``commit`` returned earlier, the server or a folder could be changed before that was saved. While the disk
refuses, callers wait and the write is tried again. While a write hangs, no other is begun; only ``close`` stops waiting
for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Final, TypeVar

from uploader.domain import errors, events, lifecycle
from uploader.domain.model import FinishedUpload, Identity, MountIdentity, Orphan, State, Upload, covers
from uploader.runtime.clock import Clock
from uploader.runtime.threads import DaemonThreads
from uploader.store import ledger as ledger_file
from uploader.store import touched
from uploader.store.disk import Disk
from uploader.store.ledger import LedgerEntry
from uploader.store.opening import STATE_FILE, load_state, open_ledger
from uploader.store.statewriter import Changes, StateWriter
from uploader.store.tracked import Tracked
from uploader.store.uploads import UploadTable

SAVE_RETRY_INTERVAL: Final = 5.0  # s between two tries while the disk refuses
SLOW_WRITE_WARNING: Final = 30.0  # s that a write may take before it is reported; disks that spin up take 10 s
LEDGER_READ_TIMEOUT: Final = 15.0  # s that reading the ledger may take; disks that spin up take 10 s
STORE_CLOSE_TIMEOUT: Final = 2.0  # s that ``close`` waits for a write that is under way

R = TypeVar("R")


class Store:
    """Unfinished uploads, orphans, what was learnt about the server, pauses, and the ledger."""

    def __init__(self, disk: Disk, clock: Clock, bus: events.Bus) -> None:
        """Load state and ledger. Raises ``StateUnusable``: an unreadable file is never taken for an empty one."""
        self._disk, self._clock, self._bus = disk, clock, bus
        saved = load_state(disk)
        self.ledger = open_ledger(disk, saved, repair=True)
        self._state_writer = StateWriter()  # encodes on the state's own thread alone
        self.table = UploadTable(saved.uploads)
        self._orphans = Tracked({orphan.record: orphan for orphan in saved.orphans})
        self._mount_identities = {identity.root: identity for identity in saved.mount_identities}
        self._paused = dict.fromkeys(saved.paused)
        self.capabilities = saved.capabilities
        self._sequence = self._durable = saved.sequence  # number of the last change; of the last that is on disk
        self._write_lock = asyncio.Lock()
        # A thread of its own, so that a hung share does not delay saves. One, so that writes are done in order.
        self._thread = DaemonThreads("state", most=1)
        self._readers = DaemonThreads("ledger", most=1)  # separate, so that a long write does not delay reads
        self._writing: tuple[str, float] | None = None  # file and start of the current write; set on its thread
        self._reported: tuple[str, float] | None = None  # the last write that was reported as hanging
        self._refusal = ""  # why the last write failed; empty when it did not
        self._failing_since: float | None = None  # monotonic; until a write goes through

    @property
    def uploads(self) -> Mapping[str, Upload]:
        """Every unfinished upload, by the path that it was found at."""
        return self.table.all

    @property
    def begun(self) -> Mapping[str, Upload]:
        """The uploads that ``state.json`` holds: ``UploadTable.begun``."""
        return self.table.begun

    @property
    def counts(self) -> Mapping[State, int]:
        """How many uploads are in each state. Kept up to date with each change, so reading it is cheap."""
        return self.table.counts

    def upload_at(self, name: str) -> Upload | None:
        """Return the upload whose file has this name now, or had it when it was found."""
        return self.table.at(name)

    @property
    def mount_identities(self) -> Mapping[str, MountIdentity]:
        """The file system of each watched folder when recordings were last seen in it."""
        return MappingProxyType(self._mount_identities)

    @property
    def orphans(self) -> Mapping[str, Orphan]:
        """Records that will not be finished and are to be deleted, by id."""
        return MappingProxyType(self._orphans)

    @property
    def paused(self) -> Collection[str]:
        """Files and folders that the operator has paused; ``model.EVERYTHING`` pauses all."""
        return self._paused.keys()

    def is_paused(self, upload: Upload) -> bool:
        """True when the operator has paused this upload: nothing new is begun for it."""
        return bool(self._paused) and (covers(self._paused, upload.path) or covers(self._paused, upload.where))

    def pause(self, path: str, *, paused: bool = True) -> bool:
        """Pause a file or all below a folder, or end the pause, in memory. False when nothing changes."""
        if (path in self._paused) is paused:
            return False
        if paused:
            self._paused[path] = None
        else:
            del self._paused[path]
        self._sequence += 1
        return True

    def put(self, upload: Upload) -> Upload:
        """Store a new upload or the next value of one, in memory. Raises ``Stale``: see ``UploadTable.put``."""
        upload = self.table.put(upload)
        self._sequence += 1
        return upload

    def drop(self, upload: Upload) -> None:
        """Remove an upload, in memory. Raises ``Stale`` when *upload* is not its current value.

        Records of it that arrived spoilt become orphans, which are reported and not deleted.
        """
        self.table.drop(upload)
        for orphan in lifecycle.spoilt_orphans(upload, now=self._clock.now(), replaced=False):
            self._orphans[orphan.record] = orphan
        self._sequence += 1

    def put_mount_identity(self, identity: MountIdentity) -> None:
        """Store the file system of a watched folder, in memory."""
        self._mount_identities[identity.root] = identity
        self._sequence += 1

    def drop_mount_identity(self, root: str) -> None:
        """Remove the file system of a watched folder, in memory; the next one that is found there is accepted."""
        if self._mount_identities.pop(root, None) is not None:
            self._sequence += 1

    def put_orphan(self, orphan: Orphan | None) -> None:
        """Store a record that is to be deleted from the server, in memory. None: do nothing."""
        if orphan is not None:
            self._orphans[orphan.record] = orphan
            self._sequence += 1

    def drop_orphan(self, record: str) -> None:
        """Remove an orphan, in memory."""
        if self._orphans.pop(record, None) is not None:
            self._sequence += 1

    def learn(self, **found: float | str | None) -> None:
        """Store what was learnt about the server, in memory: fields of ``model.ServerCapabilities``."""
        self.capabilities = replace(self.capabilities, **found)  # type: ignore[arg-type]  # each has its field's type
        self._sequence += 1

    async def save(self, upload: Upload) -> Upload:
        """``put`` and ``commit``: durable when it returns."""
        upload = self.put(upload)
        await self.commit()
        return upload

    async def commit(self) -> None:
        """Save every change that was made before this call. Returns when they are durable."""
        target = self._sequence
        async with self._write_lock:
            if self._durable >= target:
                return  # another commit, begun after this change, has saved it
            sequence = self._sequence
            changes = Changes(
                sequence,
                self.table.take_changes(),
                self._orphans.take_changes(),
                self.capabilities,
                tuple(self._mount_identities.values()),
                tuple(self._paused),
            )
            self._state_writer.hand_over(changes)  # if the caller is cancelled, the next save has them
            await self._until_written(STATE_FILE, self._write)
            self._durable = sequence

    async def sent_from(self, path: str) -> tuple[LedgerEntry, ...]:
        """Return everything that was sent from *path*: ``Ledger.of``.

        ``sent_from``, ``sent_alike`` and ``sent_elsewhere`` read the ledger on a thread of their own. They raise
        ``LedgerUnreadable``, and ``ShareNotReady`` when the state's disk does not answer.
        """
        return await self._read(lambda: self.ledger.of(path))

    async def sent_alike(self, path: str, identity: Identity) -> LedgerEntry | None:
        """Return what was sent last from *path* with this size and these edges: ``Ledger.alike``."""
        if not self.ledger.may_have_alike(path, identity):
            return None
        return await self._read(lambda: self.ledger.alike(path, identity))

    async def sent_elsewhere(self, identity: Identity, path: str) -> LedgerEntry | None:
        """Return what was sent last from any other path with this size and these edges: ``Ledger.alike_elsewhere``."""
        if not self.ledger.may_have_elsewhere(identity, path):
            return None
        return await self._read(lambda: self.ledger.alike_elsewhere(identity, path))

    async def all_sent_elsewhere(self, identity: Identity, path: str) -> tuple[LedgerEntry, ...]:
        """Return what was sent from other paths with this size and these edges: ``Ledger.all_alike_elsewhere``."""
        if not self.ledger.may_have_elsewhere(identity, path):
            return ()
        return await self._read(lambda: self.ledger.all_alike_elsewhere(identity, path))

    async def _read(self, question: Callable[[], R]) -> R:
        """Read from the ledger on a thread, so that a disk that hangs delays neither the event loop nor a save."""
        bound = asyncio.timeout(LEDGER_READ_TIMEOUT)
        try:
            async with bound:
                return await asyncio.get_running_loop().run_in_executor(self._readers, question)
        except TimeoutError:
            if not bound.expired():  # not our limit: the disk itself said ETIMEDOUT
                raise
            where = self._disk.where(ledger_file.LEDGER_FILE)
            raise errors.ShareNotReady(f"{where}: the disk has not answered for {LEDGER_READ_TIMEOUT:g} s") from None

    def touch(self, path: str, entry: LedgerEntry, mtime_ns: int, *, renamed: bool = False) -> None:
        """Note, also for the next start, that the file at *path* with this mtime has the content of *entry*.

        *renamed*: it is the file of that entry, and has this name now.

        The write is neither waited for nor fsynced: after a power cut the file is read once more.
        """
        if renamed:
            self.ledger.renames.note_name(entry.seq, path)
        if self.ledger.touch(path, entry, mtime_ns) or renamed:
            note = partial(self.ledger.note_touched, path, entry, mtime_ns, renamed=renamed)
            asyncio.get_running_loop().run_in_executor(self._thread, self._timed, touched.TOUCHED_FILE, note)

    async def finish(self, finished: FinishedUpload) -> None:
        """Write the ledger line of an upload, unless the ledger has it already. Durable when it returns."""
        async with self._write_lock:
            await self._until_written(ledger_file.LEDGER_FILE, lambda: self._append_once(finished))

    def _append_once(self, finished: FinishedUpload) -> None:
        """Append the line if it is not there.

        Both are done on the same thread, one after the other: the append of a cancelled caller may still be under way.
        """
        if not self.ledger.holds(finished.record):
            self.ledger.append(finished)

    def _write(self) -> None:
        """Save the state, with the ledger's current end: its lines are durable before they are counted."""
        self._disk.replace(STATE_FILE, *self._state_writer.encode(self.ledger.head, now=self._clock.now()))

    async def _until_written(self, name: str, write: Callable[[], R]) -> R:
        """Run *write* on the state's own thread, again and again until the disk accepts it."""
        loop, began = asyncio.get_running_loop(), self._clock.monotonic()
        while True:
            # The timer is not stopped when the caller is cancelled: a write that hangs must be reported even then.
            stop_timer = self._clock.later(SLOW_WRITE_WARNING, self._look_at_write)
            try:
                result = await loop.run_in_executor(self._thread, self._timed, name, write)
            except OSError as error:
                stop_timer()
                self._refusal = (
                    f"{self._disk.where(name)}: {error.strerror or error}: make room or repair the disk; "
                    "nothing new is begun until then"
                )
                self._report_not_saved(self._refusal, began, SAVE_RETRY_INTERVAL)
                await self._clock.sleep(SAVE_RETRY_INTERVAL)
            else:
                stop_timer()
                self._refusal = ""
                if self._failing_since is not None:
                    self._bus.publish(events.StateSaved(self._clock.monotonic() - self._failing_since))
                    self._failing_since = None
                return result

    def _timed(self, name: str, write: Callable[[], R]) -> R:
        """Run *write*, and note since when it runs. On the state's own thread."""
        self._writing = name, self._clock.monotonic()
        try:
            return write()
        finally:
            self._writing = None

    @property
    def write_age(self) -> float:
        """Seconds that the current write has taken so far; 0.0 when there is none."""
        writing = self._writing
        return 0.0 if writing is None else self._clock.monotonic() - writing[1]

    @property
    def not_saved(self) -> str:
        """Why nothing can be saved now, and what to do; empty when no fault is known."""
        writing = self._writing
        if writing is None or self._clock.monotonic() - writing[1] < SLOW_WRITE_WARNING:
            return self._refusal
        return self._hang_text(writing[0])

    def _hang_text(self, name: str) -> str:
        where = self._disk.where(name)
        return f"{where}: the disk does not answer: check the disk and its connection; nothing new is begun until then"

    def _look_at_write(self) -> None:
        """Report a write that hangs, once."""
        if self._writing is None:
            return
        if (rest := SLOW_WRITE_WARNING - self.write_age) > 0:  # the write had to wait for the thread: it began later
            self._clock.later(rest, self._look_at_write)
        else:
            self._report_hang()

    def _report_hang(self) -> None:
        writing = self._writing
        if writing is not None and writing is not self._reported:
            self._reported = writing
            self._report_not_saved(self._hang_text(writing[0]), writing[1], None)

    def _report_not_saved(self, reason: str, since: float, again_in: float | None) -> None:
        if self._failing_since is None:
            self._failing_since = since
        self._bus.publish(events.StateNotSaved(reason, again_in))

    async def close(self) -> None:
        """Close the folder and release the lock after the write that is under way; nothing is written after that.

        A write that hangs keeps the folder and the lock until the process ends, so that no other process writes beside
        it. ``close`` does not wait for that.
        """
        self._readers.shutdown(cancel_futures=True)
        try:
            async with asyncio.timeout(STORE_CLOSE_TIMEOUT), self._write_lock:
                closing = asyncio.get_running_loop().run_in_executor(self._thread, self._disk.close)
                self._thread.shutdown()
                await closing
        except TimeoutError:
            self._thread.shutdown(cancel_futures=True)
            self._report_hang()
