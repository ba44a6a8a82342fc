"""Answers whether a path is known: it settles, is being classified, has an upload, or was sent. For all stages.

Every answer comes from memory. ``needs_no_look`` is called on the threads of shares.
"""

from __future__ import annotations

from collections.abc import Collection

from uploader.domain.model import Identity, Sighting, State
from uploader.store import Store


class KnownFiles:
    """Looks paths up in the store, the settle stage and the enqueue stage."""

    def __init__(self, store: Store, settling: Collection[str]) -> None:
        """*settling*: the paths that the settle stage waits for; a live view, kept by that stage."""
        self._store, self._settling = store, settling
        self.classifying: dict[str, Identity] = {}  # settled, not yet classified by the enqueue stage

    def anything(self, path: str) -> bool:
        """True when anything is known of *path*."""
        return self._in_progress(path) or self._store.upload_at(path) is not None or self._store.ledger.has(path)

    def was_seen(self, path: str) -> bool:
        """True when *path* has an upload, or was sent."""
        return self._store.upload_at(path) is not None or self._store.ledger.has(path)

    def needs_no_look(self, path: str) -> bool:
        """True when a scan may skip reading the inode of *path*."""
        upload = self._store.upload_at(path)
        if upload is not None:
            return upload.state is not State.PARKED
        return not self._in_progress(path) and self._store.ledger.has(path)

    def is_new(self, sighting: Sighting) -> bool:
        """True when this file (by path, size and mtime) was not sent, has no upload and is not being classified."""
        settled = self.classifying.get(sighting.path)
        if settled is not None and (settled.size, settled.mtime_ns) == (sighting.size, sighting.mtime_ns):
            return False
        upload = self._store.upload_at(sighting.path)
        if upload is None:
            return not self._store.ledger.knows(sighting.path, sighting.size, sighting.mtime_ns)
        if (upload.identity.size, upload.identity.mtime_ns) != (sighting.size, sighting.mtime_ns):
            return True
        # Parked because the file was missing: now that it is back it settles, and the upload is released.
        return upload.state is State.PARKED and upload.last_error is not None and upload.last_error.waits_for_file

    def remember(self, sighting: Sighting) -> None:
        """Note the inode of a file that was sent, so that it is known by it when it is renamed."""
        if sighting.inode is not None and self._store.upload_at(sighting.path) is None:
            self._store.ledger.note_inode(sighting.path, sighting.size, sighting.mtime_ns, sighting.inode)

    def _in_progress(self, path: str) -> bool:
        return path in self._settling or path in self.classifying
