"""The state in memory and on disk: the one place that changes either.

Changes are made in memory at once and are durable when ``commit`` returns; commits that wait together are written
as one. Must never answer before that, and never give up: while the disk refuses, callers wait, and with them every
effect on the server or the folder that the save was to announce. A disk may also hang: then nothing can call the write
back, no other may be begun, and only the end does not wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Final, TypeVar

from uploader.domain import errors, events
from uploader.domain.model import FinishedUpload, Identity, MountIdentity, Orphan, State, Upload, covers
from uploader.runtime.clock import Clock
from uploader.runtime.threads import DaemonThreads
from uploader.store import codec, touched
from uploader.store import ledger as ledger_file
from uploader.store.disk import PREVIOUS_SUFFIX, Disk
from uploader.store.ledger import Ledger, LedgerEntry
from uploader.store.statewriter import Changes, StateWriter
from uploader.store.tracked import Tracked
from uploader.store.uploads import UploadTable

STATE_FILE: Final = "state.json"
SAVE_RETRY_INTERVAL: Final = 5.0  # s between two tries while the disk refuses
SLOW_WRITE_WARNING: Final = 30.0  # s that a write may take before it is said: disks that spin up take ten
LEDGER_READ_TIMEOUT: Final = 15.0  # s that a look into the ledger may take: disks that spin up take ten
STORE_CLOSE_TIMEOUT: Final = 2.0  # s that the end waits for the write that is under way

R = TypeVar("R")


class Store:
    """Unfinished uploads by path, orphans, what was learnt, and the ledger."""

    def __init__(self, disk: Disk, clock: Clock, bus: events.Bus) -> None:
        """Load both files. Raises ``StateUnusable``; it never starts empty over something it cannot read."""
        self._disk, self._clock, self._bus = disk, clock, bus
        saved = load_state(disk)
        self.ledger = _ledger(disk, saved, repair=True)
        self._writer_of_state = StateWriter()  # encodes on the state's own thread alone
        self.table = UploadTable(saved.uploads)
        self._orphans = Tracked({orphan.record: orphan for orphan in saved.orphans})
        self._mount_identities = {home.root: home for home in saved.mount_identities}
        self._paused = dict.fromkeys(saved.paused)
        self.capabilities = saved.capabilities
        self._sequence = self._durable = saved.sequence
        self._writer = asyncio.Lock()
        # A thread of its own: a hung share must not keep the state from being saved. One: writes are done in order.
        self._thread = DaemonThreads("state", most=1)
        self._readers = DaemonThreads("ledger", most=1)  # apart from it: a long write holds no question up
        self._writing: tuple[str, float] | None = None  # what is written now, since when; set on the state's own thread
        self._told_of: tuple[str, float] | None = None  # the write of which it was said that it does not come back
        self._refusal = ""  # why the last write failed
        self._failing_since: float | None = None  # monotonic; until a write goes through

    @property
    def uploads(self) -> Mapping[str, Upload]:
        """Every unfinished upload, by the path that it was found at."""
        return self.table.all

    @property
    def begun(self) -> Mapping[str, Upload]:
        """The uploads that ``state.json`` holds."""
        return self.table.begun

    @property
    def counts(self) -> Mapping[State, int]:
        """How many uploads are in each state. Counted as they change: asking costs the same however many there are."""
        return self.table.counts

    def upload_at(self, name: str) -> Upload | None:
        """Return the upload whose file has this name now, or had it when it was found."""
        return self.table.at(name)

    @property
    def mount_identities(self) -> Mapping[str, MountIdentity]:
        """Where each watched folder lay when recordings were seen in it."""
        return MappingProxyType(self._mount_identities)

    @property
    def orphans(self) -> Mapping[str, Orphan]:
        """Records of ours that will not be finished, by id."""
        return MappingProxyType(self._orphans)

    @property
    def paused(self) -> Collection[str]:
        """Files and folders that a person has paused; ``model.EVERYTHING`` is all."""
        return self._paused.keys()

    def is_paused(self, upload: Upload) -> bool:
        """True when a person has paused this upload: nothing new is begun for it."""
        return bool(self._paused) and (covers(self._paused, upload.path) or covers(self._paused, upload.where))

    def pause(self, path: str, *, paused: bool = True) -> bool:
        """Pause a file, or all below a folder, or let it go on, in memory. False when that was so already."""
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
        """Forget an upload, in memory. Raises ``Stale`` when *upload* is not its current value."""
        self.table.drop(upload)
        self._sequence += 1

    def put_mount_identity(self, identity: MountIdentity) -> None:
        """Remember where a watched folder lies, in memory."""
        self._mount_identities[identity.root] = identity
        self._sequence += 1

    def drop_mount_identity(self, root: str) -> None:
        """Forget where a watched folder lay, in memory: it is taken as it is found next."""
        if self._mount_identities.pop(root, None) is not None:
            self._sequence += 1

    def put_orphan(self, orphan: Orphan | None) -> None:
        """Remember a record that is to be cleared away, in memory; None is nothing to do."""
        if orphan is not None:
            self._orphans[orphan.record] = orphan
            self._sequence += 1

    def drop_orphan(self, record: str) -> None:
        """Forget a record that is gone, in memory."""
        if self._orphans.pop(record, None) is not None:
            self._sequence += 1

    def learn(self, **facts: float | str | None) -> None:
        """Remember what the server has taught us, in memory: fields of ``model.ServerCapabilities``."""
        self.capabilities = replace(self.capabilities, **facts)  # type: ignore[arg-type]  # each fact has its field's type
        self._sequence += 1

    async def save(self, upload: Upload) -> Upload:
        """``put`` and ``commit``: durable when it returns."""
        upload = self.put(upload)
        await self.commit()
        return upload

    async def commit(self) -> None:
        """Return when everything that was changed up to now is durable."""
        target = self._sequence
        async with self._writer:
            if self._durable >= target:
                return  # another commit, begun after our change, has carried it
            sequence = self._sequence
            changes = Changes(
                sequence,
                self.table.take_changes(),
                self._orphans.take_changes(),
                self.capabilities,
                tuple(self._mount_identities.values()),
                tuple(self._paused),
            )
            self._writer_of_state.hand_over(changes)  # if our caller is cancelled the next save has them
            await self._until_written(STATE_FILE, self._write)
            self._durable = sequence

    async def sent_from(self, path: str) -> tuple[LedgerEntry, ...]:
        """Return everything that was sent from *path*: ``Ledger.of``.

        This and the next two read the ledger on a thread of their own. They raise ``LedgerUnreadable``, and
        ``ShareNotReady`` when the state's disk does not answer.
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

    async def _read(self, question: Callable[[], R]) -> R:
        """Ask the ledger where a disk that hangs keeps neither the event loop nor a save waiting."""
        bound = asyncio.timeout(LEDGER_READ_TIMEOUT)
        try:
            async with bound:
                return await asyncio.get_running_loop().run_in_executor(self._readers, question)
        except TimeoutError:
            if not bound.expired():  # the disk's own ETIMEDOUT
                raise
            where = self._disk.where(ledger_file.LEDGER_FILE)
            raise errors.ShareNotReady(f"{where}: the disk has not answered for {LEDGER_READ_TIMEOUT:g} s") from None

    def touch(self, path: str, entry: LedgerEntry, mtime_ns: int) -> None:
        """Remember, also over a restart, that the file at *path* with this mtime was read and is *entry* content.

        It is not waited for, and not fsynced: a power cut costs reading the file once more.
        """
        if self.ledger.touch(path, entry, mtime_ns):
            note = partial(self.ledger.note_touched, path, entry, mtime_ns)
            asyncio.get_running_loop().run_in_executor(self._thread, self._timed, touched.TOUCHED_FILE, note)

    async def finish(self, finished: FinishedUpload) -> None:
        """Write the ledger line of an upload, once."""
        async with self._writer:
            await self._until_written(ledger_file.LEDGER_FILE, lambda: self._append_once(finished))

    def _append_once(self, finished: FinishedUpload) -> None:
        """Ask and append on the one thread: a caller that was cancelled may have left its append under way there."""
        if not self.ledger.holds(finished.record):
            self.ledger.append(finished)

    def _write(self) -> None:
        """Save, and vouch for the ledger as it ends now: its lines are durable before they are counted."""
        self._disk.replace(STATE_FILE, *self._writer_of_state.encode(self.ledger.head, now=self._clock.now()))

    async def _until_written(self, name: str, write: Callable[[], R]) -> R:
        """Do it on the state's own thread, again and again until the disk takes it."""
        loop, began = asyncio.get_running_loop(), self._clock.monotonic()
        while True:
            # It goes on when our caller is cancelled: the write may hang all the same, and is to be told of.
            answered = self._clock.later(SLOW_WRITE_WARNING, self._look_at_write)
            try:
                result = await loop.run_in_executor(self._thread, self._timed, name, write)
            except OSError as error:
                answered()
                self._refusal = (
                    f"{self._disk.where(name)}: {error.strerror or error}: make room or mend the disk; "
                    "nothing new is begun until then"
                )
                self._not_saved(self._refusal, began, SAVE_RETRY_INTERVAL)
                await self._clock.sleep(SAVE_RETRY_INTERVAL)
            else:
                answered()
                self._refusal = ""
                if self._failing_since is not None:
                    self._bus.publish(events.StateSaved(self._clock.monotonic() - self._failing_since))
                    self._failing_since = None
                return result

    def _timed(self, name: str, write: Callable[[], R]) -> R:
        """Write, and let everybody see for how long. On the state's own thread."""
        self._writing = name, self._clock.monotonic()
        try:
            return write()
        finally:
            self._writing = None

    @property
    def write_age(self) -> float:
        """Seconds for which the write that is under way has gone on; 0.0 when there is none."""
        writing = self._writing
        return 0.0 if writing is None else self._clock.monotonic() - writing[1]

    @property
    def not_saved(self) -> str:
        """Why nothing can be saved now, and what to do; empty while nothing is known to be wrong."""
        writing = self._writing
        if writing is None or self._clock.monotonic() - writing[1] < SLOW_WRITE_WARNING:
            return self._refusal
        return self._silence(writing[0])

    def _silence(self, name: str) -> str:
        where = self._disk.where(name)
        return f"{where}: the disk does not answer: mend it or its connection; nothing new is begun until then"

    def _look_at_write(self) -> None:
        """Say so, once, when a write does not come back."""
        if self._writing is None:
            return
        if (rest := SLOW_WRITE_WARNING - self.write_age) > 0:  # it has begun later than it was asked for
            self._clock.later(rest, self._look_at_write)
        else:
            self._tell_silence()

    def _tell_silence(self) -> None:
        writing = self._writing
        if writing is not None and writing is not self._told_of:
            self._told_of = writing
            self._not_saved(self._silence(writing[0]), writing[1], None)

    def _not_saved(self, reason: str, since: float, again_in: float | None) -> None:
        if self._failing_since is None:
            self._failing_since = since
        self._bus.publish(events.StateNotSaved(reason, again_in))

    async def close(self) -> None:
        """Give up folder and lock after the write that is under way; nothing is written any more.

        A write that does not come back keeps both until the process ends, for which it is not waited for: whoever
        came next would write beside it.
        """
        self._readers.shutdown(cancel_futures=True)
        try:
            async with asyncio.timeout(STORE_CLOSE_TIMEOUT), self._writer:
                closing = asyncio.get_running_loop().run_in_executor(self._thread, self._disk.close)
                self._thread.shutdown()
                await closing
        except TimeoutError:
            self._thread.shutdown(cancel_futures=True)
            self._tell_silence()


def load_state(disk: Disk) -> codec.StateSnapshot:
    """Read ``state.json``; a first start makes it. Raises ``StateUnusable`` with what to do about it."""
    content, where = disk.read(STATE_FILE), disk.where(STATE_FILE)
    if content is None:
        return _first_start(disk)
    try:
        return codec.decode_state(content)
    except codec.NewerVersion as error:
        raise errors.StateUnusable(
            f"{where}: {error}", hint="install that version again, or newer; this one will not touch the file"
        ) from None
    except codec.UnreadableContent as error:
        raise errors.StateUnusable(f"{where} is damaged: {error}", hint=_hint_for_damage(disk)) from None


def read_state(disk: Disk) -> codec.StateSnapshot:
    """Read ``state.json`` without making it; in a folder that has no past, nothing there is an empty state."""
    if disk.size(STATE_FILE) is not None:
        return load_state(disk)
    _refuse_a_past(disk)
    return codec.StateSnapshot()


def read_both(disk: Disk) -> tuple[codec.StateSnapshot, Ledger]:
    """Read both files for whoever changes neither. Raises ``StateUnusable``."""
    saved = read_state(disk)  # first: a daemon that is at work writes the line, then the state that counts it
    return saved, _ledger(disk, saved, repair=False)


def _ledger(disk: Disk, saved: codec.StateSnapshot, *, repair: bool) -> Ledger:
    try:
        return Ledger(disk, repair=repair, expected_head=saved.ledger)
    except codec.UnreadableContent as error:
        raise ledger_file.unusable(disk, error) from None
    except OSError as error:  # of cutting a torn line off: reading has errors of its own
        raise _unwritable(disk, ledger_file.LEDGER_FILE, error) from None


def _unwritable(disk: Disk, name: str, error: OSError) -> errors.StateUnusable:
    return errors.StateUnusable(
        f"{disk.where(name)} cannot be written: {error.strerror}", hint="make the state folder writable", exit_code=73
    )


def _refuse_a_past(disk: Disk) -> None:
    """Raise ``StateUnusable`` when only ``state.json`` is missing: it was lost, and this is no first start."""
    for name in (STATE_FILE + PREVIOUS_SUFFIX, ledger_file.LEDGER_FILE):
        if disk.size(name) is not None:
            raise errors.StateUnusable(
                f"{disk.where(STATE_FILE)} is missing, but {name} is there",
                hint=f"{_hint_for_damage(disk)}; or, to begin with nothing known, move {name} away too",
            )


def _first_start(disk: Disk) -> codec.StateSnapshot:
    _refuse_a_past(disk)
    saved = codec.StateSnapshot(sequence=1)
    try:
        disk.replace(STATE_FILE, codec.encode_state(saved, now=0.0))
    except OSError as error:
        raise _unwritable(disk, STATE_FILE, error) from None
    return saved


def _hint_for_damage(disk: Disk) -> str:
    previous = disk.read(STATE_FILE + PREVIOUS_SUFFIX)
    if previous is not None:
        try:
            codec.decode_state(previous)
        except codec.UnreadableContent:
            return f"{STATE_FILE}{PREVIOUS_SUFFIX} is no better; put {STATE_FILE} back from a copy"
        return f"the save before it, {STATE_FILE}{PREVIOUS_SUFFIX}, is whole: copy it to {STATE_FILE} and start again"
    return f"put {STATE_FILE} back from a copy"
