"""Stage 3: decide whether a settled file is new, changed or known. A new one becomes an upload and is queued.

A file is read in full only when its size and its ends are those of a file that was sent.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from enum import StrEnum
from typing import Final, Protocol

from uploader.config import Config
from uploader.domain import errors, events, lifecycle, retry
from uploader.domain.chunk_size import chunk_size_now
from uploader.domain.commands import typed
from uploader.domain.model import ActionBy, LastError, State, Upload
from uploader.runtime.log import get_logger
from uploader.stages.context import StageContext
from uploader.stages.dispatcher import Dispatcher
from uploader.stages.known import KnownFiles
from uploader.stages.per_share_pool import PerShareWorkers
from uploader.stages.queues import Settled, bug_reason
from uploader.stages.renames import SentRenames, spelling

log = get_logger(__name__)

HASHES_PER_SHARE: Final = 1  # files of one share that are read in full at the same time


class FileKind(StrEnum):
    """What a settled file is, compared with the uploads that are known."""

    NEW = "new"
    CHANGED = "changed"  # the upload has other content, and has not begun or is parked: it is replaced
    BACK = "back"  # the file of a parked upload was missing, and is back unchanged
    ALIKE = "alike"  # a parked upload has sent a part of a file with this size and these ends: it is compared
    UNCLEAR = "unclear"  # as CHANGED, but the outcome of its last request must be known before it is dropped
    LATER = "later"  # an upload of other content is under way; the file is seen again when it has ended
    KNOWN = "known"


def classify(upload: Upload | None, settled: Settled) -> FileKind:
    """Return what a settled file is, given the unfinished upload of its path, if there is one."""
    if upload is None:
        return FileKind.NEW
    waits = upload.state is State.PARKED
    if upload.identity == settled.identity:
        waits_for_file = waits and upload.last_error is not None and upload.last_error.waits_for_file
        return FileKind.BACK if waits_for_file else FileKind.KNOWN
    landed = lifecycle.COMPLETE
    if waits and upload.parked_from in {State.CREATING, State.IN_DOUBT}:
        return FileKind.UNCLEAR
    if waits and upload.parked_from is State.SENDING and _alike(upload, settled):
        return FileKind.ALIKE
    if upload.state is State.QUEUED or (waits and upload.parked_from not in landed):
        return FileKind.CHANGED
    return FileKind.LATER


def _alike(upload: Upload, settled: Settled) -> bool:
    """True when only the mtime differs."""
    sent, found = upload.identity, settled.identity
    return (sent.size, sent.edges) == (found.size, found.edges)


def _rests(upload: Upload) -> bool:
    """True when an upload waits, or is parked, because its content has changed while it was sent."""
    if upload.last_error is None or upload.last_error.next_try is None or not upload.restarts:
        return False
    return upload.state is State.QUEUED or upload.parked_from is State.QUEUED


class EnqueueRules(Protocol):
    """What the stage needs of ``FileRules``."""

    config: Config

    def skips_duplicates(self, path: str) -> bool:
        """True when *path* is not sent if its content was sent from another path."""

    def takes(self, path: str) -> bool:
        """True when a file is to be sent."""

    def upload_of(self, settled: Settled, chunk_size: int) -> tuple[Upload, str | None]:
        """Make the upload of a settled file, and the warning when its record rule did not match."""


class Enqueue:
    """Queues every settled file that is to be sent."""

    def __init__(self, context: StageContext, rules: EnqueueRules, known: KnownFiles, dispatcher: Dispatcher) -> None:
        self._store, self._leases, self._shares = context.store, context.leases, context.shares
        self._clock, self._bus, self._settled = context.clock, context.bus, context.queues.settled
        self._changes, self._again = context.changes, context.queues.again
        self._rules, self._known, self._dispatcher = rules, known, dispatcher
        self._renames = SentRenames(context)
        self._readers: PerShareWorkers[Settled] = PerShareWorkers(self._admit_guarded, HASHES_PER_SHARE)

    @property
    def idle(self) -> bool:
        """True when no settled file waits for its classification."""
        return not self._known.classifying

    async def run(self) -> None:
        """Take settled files until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._readers.run(), name="enqueue: readers")
            group.create_task(self._take_settled(), name="enqueue: settled")

    async def _take_settled(self) -> None:
        while True:
            settled = await self._settled.get()
            if self._may_be_known(settled):
                self._readers.put(settled.root, settled)  # may take minutes; new recordings do not wait for it
            else:
                await self._admit_guarded(settled)

    def _may_be_known(self, settled: Settled) -> bool:
        """True when the file must be looked at or read to find out whether it is known."""
        if (upload := self._store.upload_at(settled.path)) is not None:
            return classify(upload, settled) is FileKind.ALIKE
        path, identity, ledger = settled.path, settled.identity, self._store.ledger
        if ledger.may_have_alike(path, identity) or self._store.table.with_content(settled.root, identity):
            return True
        return ledger.may_have_elsewhere(identity, path)

    async def _admit_guarded(self, settled: Settled) -> None:
        try:
            await self.admit(settled)
        except errors.UploaderError as error:  # it cannot be read now: the next scan finds it again
            self._bus.publish(events.UploadRetryScheduled(settled.path, str(error), 0.0))
        except Exception as error:  # a bug with one file must not end the others
            log.exception("fault", path=settled.path)
            self._bus.publish(events.UploadRetryScheduled(settled.path, bug_reason(error), 0.0))
        finally:
            if self._known.classifying.get(settled.path) == settled.identity:  # else it settled again since
                del self._known.classifying[settled.path]

    async def admit(self, settled: Settled) -> None:
        """Queue a settled file, unless there is nothing to send. Raises ``UploaderError``."""
        upload = self._store.upload_at(settled.path)
        if upload is None:
            known = await self._was_sent(settled) or await self._is_renamed(settled)
            known = known or await self._was_renamed(settled) or await self._is_skipped(settled)
            if not known and self._store.upload_at(settled.path) is None:  # else it was queued meanwhile
                await self._enqueue_new(settled)
            return
        kind = classify(upload, settled)
        if kind is FileKind.ALIKE:
            kind = await self._compared(upload, settled)
        if kind is FileKind.BACK or kind is FileKind.UNCLEAR:
            self._dispatcher.go_on(upload)
        elif kind is FileKind.CHANGED:
            with self._leases.step(upload) as held:
                if not held:
                    return  # a worker has just begun with it, and notices the change
                self._changes.note(settled.path, upload.restarts)
                self._store.put_orphan(lifecycle.orphan_of(upload, now=self._clock.now(), settle=0.0))
                self._store.drop(upload)
            await self._store.commit()
            if self._store.upload_at(settled.path) is None:
                await self._enqueue_new(settled, upload)

    async def _compared(self, upload: Upload, settled: Settled) -> FileKind:
        """Return whether a file with another mtime begins with what the parked upload has sent of it."""
        try:
            async with self._shares.of(upload.root).open(settled.path, upload.identity) as recording:
                await recording.skip_to(upload.offset, upload.digest)
        except errors.FileChanged:
            return FileKind.CHANGED
        waits_for_file = upload.last_error is not None and upload.last_error.waits_for_file
        return FileKind.BACK if waits_for_file else FileKind.KNOWN

    async def _was_sent(self, settled: Settled) -> bool:
        """True when the ledger has this content at this path: only the metadata was touched."""
        known = await self._store.sent_alike(settled.path, settled.identity)
        if known is None:
            return False
        # Equal ends prove nothing about the middle, and a recording cannot be made again: read the whole file.
        if await self._shares.of(settled.root).sha256(settled.path) != known.sha256:
            return False
        self._store.touch(settled.path, known, settled.identity.mtime_ns)
        self._bus.publish(events.FileAlreadyUploaded(settled.path, known.record))
        return True

    async def _is_renamed(self, settled: Settled) -> bool:
        """True when this is the renamed file of an unfinished upload, which goes on under the new name."""
        for upload in self._store.table.with_content(settled.root, settled.identity):
            if not (await self._is_gone(upload, settled) and await self._is_its_file(upload, settled)):
                continue  # that file is still there, or this is another one
            current = self._store.table.current(upload)
            if current is None or current.ids is None:
                continue  # the upload has ended meanwhile
            renamed = self._store.put(replace(current, renamed_to=settled.path))  # its lease holder reads it again
            await self._store.commit()
            self._bus.publish(events.FileRenamed(settled.path, upload.where))
            if renamed.state is State.PARKED and renamed.last_error is not None and renamed.last_error.waits_for_file:
                self._dispatcher.go_on(renamed)
            return True
        return False

    async def _was_renamed(self, settled: Settled) -> bool:
        """True when this file was sent under another name and was renamed since.

        Where the ledger cannot be read, it is sent: it may be a new recording.
        """
        try:
            return await self._renames.is_rename(settled)
        except errors.LedgerUnreadable:
            if self._rules.skips_duplicates(settled.path):
                raise
            return False

    async def _is_its_file(self, upload: Upload, settled: Settled) -> bool:
        """True when a file with the size and the ends of an upload's file is that file; its mtime may have moved."""
        if upload.identity == settled.identity or upload.inode == settled.snapshot.inode:
            return True
        return upload.offset > 0 and await self._compared(upload, settled) is not FileKind.CHANGED

    async def _is_gone(self, upload: Upload, settled: Settled) -> bool:
        """True when an upload's file no longer has its name: it is missing, or only case or Unicode form changed.

        Some shares ignore these, and find a file by either spelling.
        """
        share = self._shares.of(upload.root)
        ((_, what),) = await share.look([upload.where])
        if what == "missing" or spelling(upload.where) != spelling(settled.path):
            return what == "missing"
        return (await share.snapshot(upload.where)).inode == settled.snapshot.inode

    async def _is_skipped(self, settled: Settled) -> bool:
        """True when the same content was sent from another path, and duplicates are skipped here."""
        skips = self._rules.skips_duplicates(settled.path)
        try:
            known = await self._store.sent_elsewhere(settled.identity, settled.path)
        except (errors.LedgerUnreadable, errors.ShareNotReady):
            if skips:
                raise
            return False  # it is sent anyway; only the event is lost
        if known is None:
            return False
        if not skips:
            self._bus.publish(events.FileDuplicate(settled.path, known.path, known.record, "sent"))
            return False
        if await self._shares.of(settled.root).sha256(settled.path) != known.sha256:
            return False  # equal ends prove nothing about the middle
        self._store.touch(settled.path, known, settled.identity.mtime_ns)
        self._bus.publish(events.FileDuplicate(settled.path, known.path, known.record, "skipped"))
        return True

    async def _enqueue_new(self, settled: Settled, before: Upload | None = None) -> None:
        """Queue a file. *before*: the upload of its earlier content, which was dropped just now."""
        if not self._rules.takes(settled.path):  # it settled under the previous configuration
            return
        chunk_size = chunk_size_now(self._rules.config.upload, self._store.capabilities, now=self._clock.now())
        upload, warning = self._rules.upload_of(settled, chunk_size)
        if warning is not None:
            self._bus.publish(events.RecordRuleNotMatched(settled.path, warning))
        upload = replace(upload, restarts=self._changes.of(settled.path))
        if settled.unplayable:
            await self._park(upload, LastError(settled.unplayable, ActionBy.FILE, must_change=True))
            return
        if upload.restarts and before is not None and _rests(before):
            await self._goes_on_resting(upload, before)
            return
        if upload.restarts and await self._waits_after_changes(upload):
            return
        upload = self._store.put(upload)
        self._bus.publish(events.FileQueued(upload.path, upload.identity.size, upload.record.name))
        self._dispatcher.route(upload)

    async def _park(self, upload: Upload, last_error: LastError) -> None:
        await self._store.save(lifecycle.park(upload, last_error))
        self._bus.publish(
            events.UploadParked(upload.path, last_error.reason, last_error.action_by, typed("retry", upload.path))
        )

    async def _goes_on_resting(self, upload: Upload, before: Upload) -> None:
        """Let a file that has changed once more wait for the rest of its time, or stay parked. Nothing new is said."""
        last_error = before.last_error
        if last_error is None or last_error.next_try is None:
            return
        resting = replace(upload, last_error=last_error)
        await self._store.save(resting if before.state is State.QUEUED else lifecycle.park(upload, last_error))
        self._again.put(upload.path, max(0.0, last_error.next_try - self._clock.now()))

    async def _waits_after_changes(self, upload: Upload) -> bool:
        """Let a file wait, or park it, whose content has changed while it was sent. False when it is sent at once."""
        decision = retry.after_changes(upload.restarts, self._clock.uniform)
        after = decision.after or 0.0
        last_error = replace(decision.last_error, next_try=self._clock.now() + after)
        if decision.action is retry.Action.PARK:
            await self._park(upload, last_error)
        elif after > 0 and self._changes.may_rest(upload.path, upload.restarts):
            await self._store.save(replace(upload, last_error=last_error))
            self._bus.publish(events.UploadRetryScheduled(upload.path, last_error.reason, after))
        else:
            return False
        self._again.put(upload.path, after)
        return True
