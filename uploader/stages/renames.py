"""Recognises a file that was renamed after it was sent: it is not a new recording, and is not sent again.

That is so if its old name is gone from the same watched folder, or leads to another file, and its content is the one
that was sent. The inode shows that without reading the file: it is known from the upload, or from a scan since the
start. Where it is not known, as after a rename while the daemon was stopped, the whole file is read and compared.
"""

from __future__ import annotations

import unicodedata

from uploader.domain import events, selection
from uploader.domain.model import Sighting
from uploader.stages.context import StageContext
from uploader.stages.queues import Settled
from uploader.store.ledger import LedgerEntry


class SentRenames:
    """Looks for the earlier name of a settled file."""

    def __init__(self, context: StageContext) -> None:
        self._store, self._shares, self._bus = context.store, context.shares, context.bus

    async def is_rename(self, settled: Settled) -> bool:
        """True when this file was sent under another name, and was renamed since. Raises ``UploaderError``."""
        digest: str | None = None
        for entry in await self._store.all_sent_elsewhere(settled.identity, settled.path):
            before = self._store.ledger.renames.name_of(entry.seq, entry.path)
            if not entry.kept or before == settled.path or selection.relative(settled.root, before) is None:
                continue
            same_inode = self._has_its_inode(entry, before, settled)
            if not await self._has_left(before, settled, same_inode=same_inode):
                continue
            if not same_inode:
                digest = digest or await self._shares.of(settled.root).sha256(settled.path)
            if same_inode or digest == entry.sha256:
                self._store.touch(settled.path, entry, settled.identity.mtime_ns, renamed=True)
                self._store.ledger.note_inode(
                    settled.path, settled.identity.size, settled.identity.mtime_ns, settled.snapshot.inode
                )
                self._bus.publish(events.SentFileRenamed(settled.path, before, entry.record))
                return True
        return False

    def _has_its_inode(self, entry: LedgerEntry, before: str, settled: Settled) -> bool:
        """True when size, ends, mtime and inode are those of the file that was sent."""
        ledger, identity = self._store.ledger, settled.identity
        if not ledger.knows(before, identity.size, identity.mtime_ns):
            return False
        return ledger.renames.has_inode(entry.seq, settled.snapshot.inode)

    async def _has_left(self, before: str, settled: Settled, *, same_inode: bool) -> bool:
        """True when the file no longer has its name *before*.

        Some shares ignore case or Unicode form, and find a renamed file by its old name, too. *same_inode*: the settled
        file is the one that was sent; then another file may have its old name by now.
        """
        ((_, found),) = await self._shares.of(settled.root).look([before])
        if found == "missing":
            return True
        if not isinstance(found, Sighting):
            return False
        if found.inode == settled.snapshot.inode:
            return spelling(before) == spelling(settled.path)
        return same_inode


def spelling(path: str) -> str:
    """Return what is equal for two names that only differ in case or Unicode form (NFC, NFD)."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
