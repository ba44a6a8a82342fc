"""Stage 6: write the ledger line, and keep, move or delete the local file.

This happens only after the arrival is proven. The configuration in force at that moment says what becomes of the file.
It is moved or deleted only if it is still the one that was sent. If that fails, the file is not sent again: the upload
stays in this stage and is tried again.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final, Protocol

from uploader.domain import errors, events, lifecycle
from uploader.domain.lifecycle import Step
from uploader.domain.model import AfterUpload, FinishedUpload, State, Upload
from uploader.files import DISPOSALS, Done, Request, SentFile, WalkFilter
from uploader.stages.context import StageContext
from uploader.stages.failure_handler import FailureHandler
from uploader.stages.file_rules import DisposalRule
from uploader.stages.lease import raise_if_paused
from uploader.stages.per_share_pool import PerShareWorkers
from uploader.stages.rename_search import RenameSearch

FINISH_CONCURRENCY: Final = 2  # files of one share finished at the same time; a move may copy many GiB


class FinishRules(Protocol):
    """What the stage needs of ``FileRules``."""

    def disposal(self, upload: Upload) -> DisposalRule:
        """Return what is done with an upload's file."""

    def walk_filter(self, root: str) -> WalkFilter | None:
        """Return which files of a watched folder a walk takes; None when the folder is not watched."""


class RuleChanged(Exception):  # noqa: N818 - stays in this module: the stage decides anew
    """A reload has changed what becomes of the file, and it is still there."""


class Finish:
    """Finishes every upload whose video is ready."""

    def __init__(self, context: StageContext, rules: FinishRules, failure_handler: FailureHandler) -> None:
        self._shares, self._store, self._leases = context.shares, context.store, context.leases
        self._queues, self._clock, self._bus = context.queues, context.clock, context.bus
        self._rules, self._failure_handler = rules, failure_handler
        self._search = RenameSearch(context, rules.walk_filter)
        self._workers: PerShareWorkers[str] = PerShareWorkers(self._finish_guarded, FINISH_CONCURRENCY)
        self._not_kept: set[tuple[str, str]] = set()  # archive and what its copies lack, as it was published

    @property
    def idle(self) -> bool:
        """True when no upload waits to be finished, and no renamed file is searched for."""
        return not self._workers.busy and self._search.idle

    async def run(self) -> None:
        """Finish uploads until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._workers.run(), name="finish: workers")
            group.create_task(self._take_ready(), name="finish: ready")
            group.create_task(self._search.run(), name="finish: renamed files")

    async def _take_ready(self) -> None:
        """Hand each upload whose video is ready to the workers of its share."""
        while True:
            path = await self._queues.proven.next_due()
            if (upload := self._store.uploads.get(path)) is not None:
                self._workers.put(upload.root, path)

    async def _finish_guarded(self, path: str) -> None:
        async def finish(upload: Upload) -> None:
            await self._failure_handler.guard(path, lambda: self.finish(upload))

        await self._leases.work(path, {State.FINISHING}, finish)

    async def finish(self, upload: Upload) -> None:
        """Dispose of the file, write the ledger line, drop the upload. May be repeated. Raises ``UploaderError``."""
        if upload.proof is None and upload.moving_to is None:
            await self._prove_first(upload)
            return
        await self._store.commit()  # a reload may have cancelled the save of the proof
        if await self._is_searched_for(upload):
            return  # it is finished after the search
        rule = await self._disposal(upload)
        try:
            if rule.action == "move":
                done = await self._dispose(upload.path, await self._with_target(upload.path, rule))
                finished = await self._write_line(upload.path, rule.action, done.moved_to)
            else:
                finished = await self._write_line(upload.path, rule.action)  # before the local copy is deleted
                done = await self._dispose(upload.path, rule)
        except RuleChanged:
            self._queues.proven.put(upload.path)  # taken up again when the lease of this try ends
            return
        upload = self._store.uploads[upload.path]
        lifecycle.advance(upload, Step.FINISHED)  # only a check that this step is allowed: DONE is never stored
        self._store.drop(upload)
        await self._store.commit()
        seconds = round(finished.ready_at - finished.begun_at, 1)
        end = upload.path, finished.record, finished.size, finished.sha256
        self._bus.publish(events.UploadFinished(*end, done.file, seconds, finished.moved_to))
        if done.file == "changed":
            await self._failure_handler.look_again(upload)

    async def _prove_first(self, upload: Upload) -> None:
        """Send back an upload that a build without proofs has brought here. A move that has begun is completed."""
        upload = await self._store.save(lifecycle.advance(upload, Step.UNPROVEN))
        self._queues.unproven.put(upload.path)

    async def _disposal(self, upload: Upload) -> DisposalRule:
        """Return what is done with the file now.

        If the configuration has changed after a move began: a move that has taken the file away is completed, another
        is given up.
        """
        upload = self._store.uploads[upload.path]
        rule = self._rules.disposal(upload)
        if upload.moving_to is None or self._goes_on_moving(upload):
            return rule
        ((_, what),) = await self._shares.of(upload.root).look([upload.where])
        if what == "missing":
            return DisposalRule("move", upload.move_to)
        await self._store.save(replace(self._store.uploads[upload.path], moving_to=None))
        return rule

    def _goes_on_moving(self, upload: Upload) -> bool:
        """True when a move has begun, and the configuration still asks for it."""
        begun = DisposalRule("move", upload.move_to)
        return upload.moving_to is not None and self._rules.disposal(upload) == begun

    async def _is_searched_for(self, upload: Upload) -> bool:
        """True when the file is missing and is now searched for under another name.

        The search also puts back a file that an interrupted removal has left under a hidden name: where the
        configuration has changed since, another decision may be due. A move that goes on finds such a file itself. A
        file that is kept is not needed any more, so its upload does not wait for a share that is offline.
        """
        if self._goes_on_moving(upload):
            return False
        try:
            return await self._search.wants(upload)
        except errors.ShareNotReady:
            if DISPOSALS[self._rules.disposal(upload).action].takes_away:
                raise
            return False

    async def _write_line(self, path: str, action: AfterUpload, moved_to: str | None = None) -> FinishedUpload:
        """Write the ledger line, unless an earlier try has written it."""
        finished = _finished(self._store.uploads[path], action, moved_to)
        await self._store.finish(finished)
        if (inode := self._store.uploads[path].inode) is not None:
            self._store.ledger.note_inode(finished.path, finished.size, finished.mtime_ns, inode)
        return finished

    async def _with_target(self, path: str, rule: DisposalRule) -> DisposalRule:
        """Choose the path that the file is moved to, and save it before the move, so that a crash does not lose it."""
        upload = self._store.uploads[path]
        if upload.moving_to is None and rule.move_to is not None:
            target = await self._shares.of(upload.root).free_target(upload.where, _sent(upload), rule.move_to)
            upload = self._store.uploads[path]
            await self._store.save(replace(upload, after_upload="move", move_to=rule.move_to, moving_to=target))
        return rule

    async def _dispose(self, path: str, rule: DisposalRule) -> Done:
        """Keep, move or delete the file. When cancelled, this ends only after the last operation on the file has.

        What an earlier try has changed in memory is saved before the file is touched: a reload may have cancelled that
        try during its save. A file whose time has moved since it was sent, but not its content, is the same one.
        Raises ``RuleChanged``.
        """
        done = await self._dispose_once(path, rule)
        if done.file == "changed" and await self._is_only_touched(self._store.uploads[path]):
            if self._rules.disposal(self._store.uploads[path]) != rule:  # the comparison may have taken minutes
                raise RuleChanged
            done = await self._dispose_once(path, rule)
        return done

    async def _is_only_touched(self, upload: Upload) -> bool:
        """True when all of the file's content is what was sent; its new time and inode are saved then."""
        share, sent = self._shares.of(upload.root), upload.identity
        try:
            now = await share.snapshot(upload.where)
            if (now.identity.size, now.identity.edges) != (sent.size, sent.edges):
                return False
            if await share.sha256(upload.where) != upload.digest:
                return False
        except errors.FileError:
            return False
        await self._store.save(replace(self._store.uploads[upload.path], identity=now.identity, inode=now.inode))
        return True

    async def _dispose_once(self, path: str, rule: DisposalRule) -> Done:
        if DISPOSALS[rule.action].takes_away:
            await self._store.commit()
        upload = raise_if_paused(self._store, path)
        if rule.action == "delete" and self._rules.disposal(upload) != rule:
            raise RuleChanged
        request = Request(upload.where, _sent(upload), rule.move_to, upload.moving_to)
        try:
            done = await DISPOSALS[rule.action].act(self._shares.of(upload.root), request)
            self._say_what_was_not_kept(upload.root, rule.move_to)
            return done  # noqa: TRY300 - what is not kept is said before the file is reported as moved
        except errors.FileChanged:
            return Done("changed")  # another recording has this name now: it is sent as a new one

    def _say_what_was_not_kept(self, root: str, move_to: str | None) -> None:
        """Publish once for each archive what copies in it lack."""
        for what in sorted(self._shares.of(root).not_kept):
            if move_to is not None and (move_to, what) not in self._not_kept:
                self._not_kept.add((move_to, what))
                self._bus.publish(events.AttributesNotKept(move_to, what))


def _sent(upload: Upload) -> SentFile:
    inode = None if upload.inode is None else (upload.inode[0], upload.inode[1])
    return SentFile(upload.identity, upload.digest, inode)


def _finished(upload: Upload, action: AfterUpload, moved_to: str | None) -> FinishedUpload:
    if upload.ids is None or upload.sent_at is None or upload.ready_at is None:
        raise lifecycle.IllegalStep("finished, but never sent")
    return FinishedUpload(
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
        after_upload=action,
        moved_to=moved_to,
        proof=upload.proof or "ready",
    )
