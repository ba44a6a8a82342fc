"""Stage 6: write the ledger line, then keep, move or delete the local file.

Only after the video is ready, and only while the file is still the one that was sent. What becomes of the file is asked
of the configuration at this moment. A file that cannot be moved or deleted is not sent again: the upload stays in this
stage, is tried again, and is shown.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final, Protocol

from uploader import errors, events, lifecycle, selection
from uploader.file_rules import Disposal
from uploader.files import Order, Sent
from uploader.lifecycle import Step
from uploader.model import AfterUpload, Finished, State, Upload
from uploader.stages.apart import Apart
from uploader.stages.context import StageContext
from uploader.stages.rename_search import RenameSearch
from uploader.stages.setback import Setbacks

FINISHERS: Final = 2  # files of one share dealt with at the same time: a move may be a copy of many GiB


class Rules(Protocol):
    """What the stage needs of ``FileRules``."""

    def disposal(self, upload: Upload) -> Disposal:
        """Return what becomes of an upload's file."""

    def walk_filter(self, root: str) -> Order | None:
        """Return what a walk takes of a watched folder; None when the folder is not watched."""


class Finish:
    """Ends every upload whose video is ready."""

    def __init__(self, context: StageContext, rules: Rules, setbacks: Setbacks) -> None:
        self._shares, self._store, self._leases = context.shares, context.store, context.leases
        self._pipes, self._clock, self._bus = context.pipes, context.clock, context.bus
        self._rules, self._setbacks = rules, setbacks
        self._search = RenameSearch(context, rules.walk_filter)
        self._finishers: Apart[str] = Apart(self._finish_guarded, FINISHERS)

    @property
    def idle(self) -> bool:
        """True when no upload waits to be finished or is looked for under another name."""
        return not self._finishers.busy and self._search.idle

    async def run(self) -> None:
        """Finish uploads until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._finishers.run(), name="finish: finishers")
            group.create_task(self._take_ready(), name="finish: ready")
            group.create_task(self._search.run(), name="finish: renamed files")

    async def _take_ready(self) -> None:
        while True:
            path = await self._pipes.ready.next_due()
            if (upload := self._store.uploads.get(path)) is not None:
                self._finishers.put(upload.root, path)

    async def _finish_guarded(self, path: str) -> None:
        async def finish(upload: Upload) -> None:
            await self._setbacks.guard(path, self.finish(upload))

        await self._leases.work(path, {State.FINISHING}, finish)

    async def finish(self, upload: Upload) -> None:
        """Dispose of the file, write the ledger line, drop the upload. Raises our errors; may be called again."""
        if await self._is_looked_for(upload):
            return  # it is finished when it is known whether its file was renamed
        disposal = await self._disposal(upload)
        if disposal.action == "move":
            file, moved_to = await self._move(upload.path, disposal)
            finished = await self._write_line(upload.path, disposal, moved_to)
        else:
            finished = await self._write_line(upload.path, disposal)  # before the only local copy goes
            file = await self._delete(upload.path) if disposal.action == "delete" else "kept"
        upload = self._store.uploads[upload.path]
        lifecycle.advance(upload, Step.FINISHED)
        self._store.drop(upload)
        await self._store.commit()
        seconds = round(finished.ready_at - finished.begun_at, 1)
        end = upload.path, finished.record, finished.size, finished.sha256
        self._bus.publish(events.UploadFinished(*end, file, seconds, finished.moved_to))
        if file == "changed":
            await self._setbacks.look_again(upload)

    async def _disposal(self, upload: Upload) -> Disposal:
        """Return what becomes of the file now. A move that had begun, and has taken the file already, is finished."""
        upload = self._store.uploads[upload.path]
        disposal = self._rules.disposal(upload)
        if upload.moving_to is None:
            return disposal
        if disposal.action == "move" and selection.relative(disposal.move_to or "/", upload.moving_to) is not None:
            return disposal
        ((_, what),) = await self._shares.of(upload.root).look([upload.where])
        if what == "missing":
            return Disposal("move")
        await self._store.save(replace(self._store.uploads[upload.path], moving_to=None))
        return disposal

    async def _is_looked_for(self, upload: Upload) -> bool:
        """True when the file is missing under its name and is now looked for under another one, by one walk for all.

        Of a file that is kept nothing else is needed, so a share that is away does not hold its end up.
        """
        try:
            return await self._search.wants(upload)
        except errors.ShareNotReady:
            if self._rules.disposal(upload).action != "keep":
                raise
            return False

    async def _write_line(self, path: str, disposal: Disposal, moved_to: str | None = None) -> Finished:
        finished = _finished(self._store.uploads[path], disposal.action, moved_to)
        await self._store.finish(finished)
        return finished

    async def _delete(self, path: str) -> str:
        upload = self._store.uploads[path]
        try:
            return "deleted" if await self._shares.of(upload.root).delete(upload.where, _sent(upload)) else "gone"
        except errors.FileChanged:
            return "changed"  # another recording has this name now: it is seen and sent as a new one

    async def _move(self, path: str, disposal: Disposal) -> tuple[str, str | None]:
        """Move the file: what became of it, and where it is now. Where it goes is saved before it is moved."""
        upload = self._store.uploads[path]
        share, target = self._shares.of(upload.root), upload.moving_to
        if target is None:
            target = await share.free_target(upload.where, disposal.move_to or "")
            upload = await self._store.save(replace(self._store.uploads[path], moving_to=target))
        try:
            moved = await share.move(upload.where, _sent(upload), target)
        except errors.FileChanged:
            return "changed", None
        return ("moved", target) if moved else ("gone", None)


def _sent(upload: Upload) -> Sent:
    inode = None if upload.inode is None else (upload.inode[0], upload.inode[1])
    return Sent(upload.identity, upload.digest, inode)


def _finished(upload: Upload, action: AfterUpload, moved_to: str | None) -> Finished:
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
        after_upload=action,
        moved_to=moved_to,
    )
