"""Checks before the last byte of each chunk that the file is still the one that its upload began with.

A moved mtime is not a changed content: what was sent is compared (``files.recording``). A file that was replaced by
another one with the same size and ends is opened again, and what was sent is compared with it.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from uploader.domain import errors, events
from uploader.domain.content_changes import ContentChanges
from uploader.domain.model import Sighting, Upload, shown
from uploader.files import Recording, Shares


class FileCheck:
    """The checks of one application."""

    def __init__(self, shares: Shares, bus: events.Bus, changes: ContentChanges) -> None:
        self._shares, self._bus, self._changes = shares, bus, changes

    async def before_first_byte(self, upload: Upload, recording: Recording) -> Upload:
        """Check a file whose mtime has moved since it settled; return the upload with the new one.

        Nothing was sent that could be compared. Unless its whole content was compared when it settled, because its
        mtime does not come to rest, it settles again: raises ``FileChanged``.
        """
        known = self._changes.content_of(upload.path)
        if known and await self._shares.of(upload.root).sha256(upload.where) == known:
            return replace(upload, identity=replace(upload.identity, mtime_ns=recording.mtime_ns))
        raise errors.FileChanged(f"{shown(upload.where)} was touched before it was sent")

    async def before_last_byte(self, upload: Upload, recording: Recording, *, last: bool) -> None:
        """Check the file before the last byte of a chunk goes. *last*: it is the last byte of the file, too.

        Raises ``FileChanged`` when what was sent is no longer there, ``FileReplaced``, and ``ShareNotReady`` while
        somebody writes to it again.
        """
        before = recording.mtime_ns
        await recording.check_unchanged()
        if recording.mtime_ns != before:
            await self._check_no_writer(upload)
            self._bus.publish(events.FileTimeMoved(upload.path, recording.position))
        if last:
            await recording.prove()
        await self._check_in_place(upload, recording)

    async def _check_no_writer(self, upload: Upload) -> None:
        """Raise ``ShareNotReady`` while a process on this host has the file open for writing."""
        with suppress(errors.FileError):
            if (await self._shares.of(upload.root).write_state(upload.where, gate=False)).writer:
                raise errors.ShareNotReady(f"{shown(upload.where)} is open for writing again on this host")

    async def _check_in_place(self, upload: Upload, recording: Recording) -> None:
        """Raise ``FileChanged`` when another file has the path of the one that is being sent.

        ``FileReplaced`` when that file looks like it.
        A file that is merely missing is sent to its end: the open file may be the last copy of it.
        """
        share = self._shares.of(upload.root)
        ((_, found),) = await share.look([upload.where])
        known = upload.identity.size, recording.mtime_ns
        if not isinstance(found, Sighting) or (found.size, found.mtime_ns) == known:
            return
        replaced = f"{shown(upload.where)} was replaced while it was being sent"
        if found.size != upload.identity.size:
            raise errors.FileChanged(replaced)
        with suppress(errors.FileError):
            now = await share.snapshot(upload.where)
            if now.inode == recording.inode:
                return  # its time has moved once more; it has no other content as long as ``prove`` finds none
            if now.identity.edges == upload.identity.edges:
                raise errors.FileReplaced(f"{replaced} by a file that looks like it; what was sent is compared")
        raise errors.FileChanged(replaced)
