"""Searches for files that are missing when their upload ends: they may have been renamed meanwhile.

Otherwise such a file would be sent again under its new name, and would not be moved or deleted. One walk through a
folder serves all uploads that miss their file in it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from uploader.domain import errors, events
from uploader.domain.model import Sighting, Snapshot, State, Upload
from uploader.files import WalkFilter
from uploader.runtime.log import get_logger
from uploader.stages.context import StageContext
from uploader.stages.queues import bug_reason

log = get_logger(__name__)


class RenameSearch:
    """Takes uploads whose file is missing, and puts them back on the ``ready`` queue after the search."""

    def __init__(self, context: StageContext, filter_of: Callable[[str], WalkFilter | None]) -> None:
        """*filter_of*: which files of a watched folder (by its path) a walk takes; None when it is not watched."""
        self._shares, self._store, self._leases = context.shares, context.store, context.leases
        self._queues, self._bus, self._filter_of = context.queues, context.bus, filter_of
        self._wanted: defaultdict[str, dict[int, Upload]] = defaultdict(dict)  # by folder and serial number
        self._searched: dict[int, errors.UploaderError | None] = {}  # by serial number: error of the search
        self._added = asyncio.Event()
        self._searching = 0  # folders that are being searched

    @property
    def idle(self) -> bool:
        """True when nothing is searched for."""
        return not (self._searching or self._wanted)

    async def wants(self, upload: Upload) -> bool:
        """True when the file of *upload* is missing and is searched for now; the upload is put back after that.

        Raises ``ShareNotReady``, and the error of a search that has failed.
        """
        if upload.serial in self._searched:
            if (error := self._searched.pop(upload.serial)) is not None:
                raise error
            return False
        if self._filter_of(upload.root) is None:
            return False
        ((_, what),) = await self._shares.of(upload.root).look([upload.where])
        if what != "missing":
            return False
        self._wanted[upload.root][upload.serial] = upload
        self._added.set()
        return True

    async def run(self) -> None:
        """Search until cancelled."""
        async with asyncio.TaskGroup() as group:
            tasks: dict[str, asyncio.Task[None]] = {}
            while True:
                await self._added.wait()
                self._added.clear()
                for root in tuple(self._wanted):
                    if root not in tasks or tasks[root].done():
                        tasks[root] = group.create_task(self._search(root), name=f"finish: search {root}")

    async def _search(self, root: str) -> None:
        """Walk through a folder, once for all uploads that wait, until none is left."""
        while uploads := self._wanted.pop(root, {}):
            self._searching += 1
            failure: errors.UploaderError | None = None
            try:
                await self._walk(root, uploads)
            except errors.UploaderError as error:
                failure = error
            except Exception as error:  # a bug with one folder must not end the daemon
                log.exception("fault", folder=root)
                failure = errors.UploaderError(bug_reason(error))
            finally:
                self._searching -= 1
            for serial, upload in uploads.items():
                if self._store.table.current(upload) is not None:
                    self._searched[serial] = failure
                    self._queues.proven.put(upload.path)

    async def _walk(self, root: str, uploads: dict[int, Upload]) -> None:
        wanted = {upload.identity.size for upload in uploads.values()}  # its mtime may have moved, too
        names = {upload.where for upload in uploads.values()}
        chosen = self._filter_of(root)
        if chosen is None:
            return
        # A removal that a crash has interrupted is undone: what is done with the file is decided again.
        chosen = replace(chosen, puts_back=lambda relpath: f"{root}/{relpath}" in names)
        async for batch in self._shares.of(root).walk(chosen):
            for seen in batch.sightings:
                if seen.size in wanted:
                    await self._compare(seen, uploads)

    async def _compare(self, seen: Sighting, uploads: dict[int, Upload]) -> None:
        """Note the new name if *seen* is the file of one of *uploads*."""
        if self._store.ledger.has(seen.path) or self._store.upload_at(seen.path) is not None:
            return  # that file has an upload of its own
        with suppress(errors.FileError):
            now = await self._shares.of(seen.root).snapshot(seen.path)
            for serial, upload in tuple(uploads.items()):
                is_it = await self._is_its_file(upload, seen, now)
                current = self._store.table.current(upload)
                if is_it and current is not None and current.state is State.FINISHING:
                    self._store.put(replace(current, renamed_to=seen.path))  # no await since it was read
                    await self._store.commit()
                    self._bus.publish(events.FileRenamed(seen.path, upload.where))
                    del uploads[serial]
                    self._queues.proven.put(upload.path)
                    return

    async def _is_its_file(self, upload: Upload, seen: Sighting, now: Snapshot) -> bool:
        """True when *seen* is the file that was sent. If its mtime has moved, its inode or its content shows it."""
        sent, found = upload.identity, now.identity
        if (sent.size, sent.edges) != (found.size, found.edges):
            return False
        if sent == found or upload.inode == now.inode:
            return True
        return await self._shares.of(seen.root).sha256(seen.path) == upload.digest
