"""Stage 3: is this file known, changed or new, and whose turn is it? What is to be sent goes on the queue.

Also where everything that waits comes back: a pause that is over, a parked upload that is released, and at start
whatever the state holds. Must never read more of a file than telling it from a known one takes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from enum import StrEnum
from itertools import count
from typing import Final

from uploader import errors, events, lifecycle, mapping, retry, selection
from uploader.clock import Clock
from uploader.config import UploadConfig, WatchConfig
from uploader.files import Shares
from uploader.lifecycle import Step
from uploader.log import get_logger
from uploader.model import Learnt, State, Trouble, Turn, Upload
from uploader.stages import Job, Pipes, Settled, our_fault
from uploader.stages.apart import Apart
from uploader.store import Store

log = get_logger(__name__)

READERS: Final = 1  # known files of one share read at the same time
LONGEST_WAIT: Final = 1.1 * retry.DAY  # s; a saved time further off than that comes from a clock that has jumped


class Verdict(StrEnum):
    """What a settled file is to us."""

    NEW = "new"
    CHANGED = "changed"  # an upload of other content has not begun, or was parked: it begins with this
    BACK = "back"  # a parked upload's file is there again, as it was
    UNCLEAR = "unclear"  # as CHANGED, but what became of its last request must be found out before it is forgotten
    LATER = "later"  # an upload of other content of this path is under way; seen again when that has ended
    KNOWN = "known"


def judge(upload: Upload | None, settled: Settled) -> Verdict:
    """Say what a settled file is, given the upload of this path that is not finished yet, if any."""
    if upload is None:
        return Verdict.NEW
    waits = upload.state is State.PARKED
    if upload.identity == settled.identity:
        waits_for_file = waits and upload.trouble is not None and upload.trouble.waits_for_file
        return Verdict.BACK if waits_for_file else Verdict.KNOWN
    landed = State.VERIFYING, State.FINISHING
    if waits and upload.parked_from in {State.CREATING, State.IN_DOUBT}:
        return Verdict.UNCLEAR
    if upload.state is State.QUEUED or (waits and upload.parked_from not in landed):
        return Verdict.CHANGED
    return Verdict.LATER


Mapper = Callable[[Settled], Upload]


class Enqueue:
    """Decides what is sent, and in which order."""

    def __init__(
        self,
        make_upload: Mapper,
        skips_duplicates: Callable[[str], bool],
        config: UploadConfig,
        shares: Shares,
        store: Store,
        pipes: Pipes,
        clock: Clock,
        bus: events.Bus,
    ) -> None:
        """*skips_duplicates*: whether content that was sent under another name is not sent again from this path."""
        self._make_upload, self._skips_duplicates, self._config = make_upload, skips_duplicates, config
        self._shares, self._store, self._pipes = shares, store, pipes
        self._clock, self._bus = clock, bus
        self._readers: Apart[Settled] = Apart(self._judged, READERS)
        self._number = count()
        self._busy = 0

    @property
    def idle(self) -> bool:
        """True when nothing is being judged."""
        return not (self._busy or self._readers.busy) and self._pipes.settled.empty()

    async def run(self, only: Collection[str] | None = None) -> None:
        """Bring back what the state holds (or, of that, *only* some paths), then judge what settles and falls due."""
        for upload in tuple(self._store.uploads.values()):
            if only is None or upload.path in only:
                self.bring_back(upload)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._readers.run(), name="enqueue: readers")
            group.create_task(self._take_settled(), name="enqueue: settled")
            group.create_task(self._take_due(), name="enqueue: again")

    def bring_back(self, upload: Upload) -> None:
        """Let an unfinished upload go on when its time has come."""
        next_try = None if upload.trouble is None else upload.trouble.next_try
        if next_try is not None:
            longest = LONGEST_WAIT if upload.state is State.PARKED else retry.BACKOFF_CAP
            self._pipes.again.put(upload.path, min(next_try - self._clock.now(), longest))
        elif upload.state is not State.PARKED:  # it was just being tried, for the first time or again
            self._pipes.again.put(upload.path)

    async def _take_settled(self) -> None:
        while True:
            settled = await self._pipes.settled.get()
            if self._takes_a_look(settled):
                self._readers.put(settled.root, settled)  # which may take minutes: new recordings pass it by
                continue
            self._busy += 1
            try:
                await self._judged(settled)
            finally:
                self._busy -= 1

    def _takes_a_look(self, settled: Settled) -> bool:
        """True when it may be a known file, which nothing but the share can tell."""
        if self._store.upload_at(settled.path) is not None:
            return False
        path, identity, ledger = settled.path, settled.identity, self._store.ledger
        if ledger.may_have_alike(path, identity):
            return True
        if any(_may_be_renamed(upload, settled) for upload in self._store.begun.values()):
            return True
        return self._skips_duplicates(path) and ledger.may_have_elsewhere(identity, path)

    async def _judged(self, settled: Settled) -> None:
        try:
            await self.admit(settled)
        except errors.UploaderError as error:  # unreadable just now: the next scan brings it again
            self._bus.publish(events.UploadWaits(settled.path, str(error), 0.0))
        except Exception as error:  # a fault of ours about one file must not end the others
            log.exception("fault", path=settled.path)
            self._bus.publish(events.UploadWaits(settled.path, our_fault(error), 0.0))

    async def _take_due(self) -> None:
        while True:
            path = await self._pipes.again.next_due()
            upload = self._store.uploads.get(path)
            if upload is not None:
                self._busy += 1
                try:
                    await self.go_on(upload)
                finally:
                    self._busy -= 1

    async def admit(self, settled: Settled) -> None:
        """Put a settled file on the queue, unless there is nothing to send. Raises our errors."""
        upload = self._store.upload_at(settled.path)
        verdict = judge(upload, settled)
        if upload is None:
            known = await self._was_sent(settled) or await self._is_renamed(settled) or await self._is_skipped(settled)
            if not known and self._store.upload_at(settled.path) is None:  # while it was read it may have come again
                await self._enqueue_new(settled)
        elif verdict is Verdict.BACK or verdict is Verdict.UNCLEAR:
            await self.go_on(upload)
        elif verdict is Verdict.CHANGED:
            orphan = lifecycle.orphan_of(upload, now=self._clock.now(), settle=0.0)
            self._store.put_orphan(orphan)
            self._store.drop(settled.path)
            await self._store.commit()
            await self._enqueue_new(settled)

    async def _was_sent(self, settled: Settled) -> bool:
        """True when the ledger vouches for this content at this path: only its metadata was touched."""
        known = await self._store.sent_alike(settled.path, settled.identity)
        if known is None:
            return False
        # Equal ends prove nothing about the middle, and a recording cannot be made again: read it once.
        if await self._shares.of(settled.root).sha256(settled.path) != known.sha256:
            return False
        self._store.touch(settled.path, known, settled.identity.mtime_ns)
        self._bus.publish(events.FileKnown(settled.path, known.record))
        return True

    async def _is_renamed(self, settled: Settled) -> bool:
        """True when this is the file of an upload under way, under a new name: it goes on, and ends under that one."""
        for upload in tuple(self._store.begun.values()):
            if not _may_be_renamed(upload, settled):
                continue
            if not await self._has_left(upload, settled):
                continue  # it is still there under its own name
            current = self._store.uploads.get(upload.path)
            if current is None or current.ids is None:
                continue  # it has ended meanwhile
            renamed = await self._store.save(replace(current, renamed_to=settled.path))
            self._bus.publish(events.FileRenamed(settled.path, upload.where))
            if renamed.state is State.PARKED and renamed.trouble is not None and renamed.trouble.waits_for_file:
                await self.go_on(renamed)
            return True
        return False

    async def _has_left(self, upload: Upload, settled: Settled) -> bool:
        """True when an upload's file is no longer called what it was: nothing is there, or it is only spelt anew.

        Some shares take large and small letters for the same, and find a file by either.
        """
        share = self._shares.of(upload.root)
        ((_, what),) = await share.look([upload.where])
        if what == "missing" or upload.where.casefold() != settled.path.casefold():
            return what == "missing"
        return (await share.snapshot(upload.where)).inode == settled.snapshot.inode

    async def _is_skipped(self, settled: Settled) -> bool:
        """True when the same content was sent under another name, and that is enough here."""
        skips = self._skips_duplicates(settled.path)
        try:
            known = await self._store.sent_elsewhere(settled.identity, settled.path)
        except (errors.LedgerUnreadable, errors.ShareNotReady):
            if skips:
                raise
            return False  # it is sent in any case: all that is lost is to say whose copy it is
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

    async def _enqueue_new(self, settled: Settled) -> None:
        upload = self._make_upload(settled)
        if settled.unplayable:
            trouble = Trouble(settled.unplayable, Turn.FILE, must_change=True)
            await self._store.save(lifecycle.park(upload, trouble))
            self._bus.publish(events.UploadParked(settled.path, trouble.reason, trouble.turn))
            return
        self._store.put(upload)
        self._bus.publish(events.FileQueued(upload.path, upload.identity.size, upload.record.name))
        self._queue(upload)

    async def go_on(self, upload: Upload) -> None:
        """Send an upload to the stage that its state belongs to; a parked one is released first."""
        if upload.trouble is not None:
            # It keeps its count: a file that was parked for failing gets one try, not all of them again.
            upload = self._store.put(replace(upload, trouble=replace(upload.trouble, next_try=None)))
        if upload.state is State.PARKED:
            upload = await self._store.save(lifecycle.advance(upload, Step.RELEASE))
            self._bus.publish(events.UploadReleased(upload.path, upload.state))
        if upload.state is State.VERIFYING:
            self._pipes.sent.put(upload.path)
        elif upload.state is State.FINISHING:
            self._pipes.ready.put(upload.path)
        else:
            self._queue(upload)

    def _queue(self, upload: Upload) -> None:
        rank = {
            "oldest": upload.identity.mtime_ns,
            "newest": -upload.identity.mtime_ns,
            "smallest": upload.identity.size,
        }[self._config.order]
        small = upload.chunk_size != 0 and lifecycle.chunk_end(upload) == upload.identity.size
        self._pipes.jobs.put_nowait(Job((rank, next(self._number)), upload.path, small))


def _may_be_renamed(upload: Upload, settled: Settled) -> bool:
    return upload.identity == settled.identity and upload.root == settled.root


def chunk_size_now(config: UploadConfig, learnt: Learnt, *, now: float) -> int:
    """Say in which chunks a new record is filled: as configured, unless the server has taught us less. 0: whole."""
    if config.chunk_size == 0 or (learnt.whole_only_until is not None and now < learnt.whole_only_until):
        return 0
    limit = limit_now(learnt, now=now)
    return config.chunk_size if limit is None else min(config.chunk_size, limit)


def limit_now(learnt: Learnt, *, now: float) -> int | None:
    """The size in bytes above which the server has refused requests; None: none is known, or it was long ago."""
    return learnt.chunk_limit if now < (learnt.chunk_limit_until or 0.0) else None


def upload_of(
    settled: Settled, watches: Sequence[WatchConfig], chunk_size: int, *, fallback: WatchConfig
) -> tuple[Upload, str | None]:
    """Make the upload that a settled file becomes, and the warning of a mapping that fell back.

    A file that belongs to no watched folder (it was named on the command line) follows *fallback*.
    """
    watch = selection.owner(watches, settled.path) or fallback
    relpath = selection.relative(watch.path, settled.path) or settled.path.rsplit("/", 1)[-1]
    mapped = mapping.record_for(watch.record, relpath=relpath, mtime=settled.identity.mtime_ns / 1e9)
    upload = Upload(
        path=settled.path,
        root=settled.root,
        identity=settled.identity,
        record=mapped.record,
        chunk_size=chunk_size,
        after_upload=watch.after_upload,
        move_to=None if watch.move_to is None else str(watch.move_to),
    )
    return upload, mapped.warning
