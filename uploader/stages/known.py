"""What is known of a path: it settles, is being judged, is on its way, or was sent. One answer for all stages.

``needs_no_look`` is asked from the threads of shares; all of it is look-ups in memory.
"""

from __future__ import annotations

from collections.abc import Collection

from uploader.domain.model import Identity, Sighting, State
from uploader.store import Store


class KnownFiles:
    """Answers from the store and from the two sets of paths that only memory knows."""

    def __init__(self, store: Store, settling: Collection[str]) -> None:
        """*settling*: the paths that the settle stage waits for, kept by that stage."""
        self._store, self._settling = store, settling
        self.judging: dict[str, Identity] = {}  # settled, and not yet found to be new or known

    def anything(self, path: str) -> bool:
        """True when anything is known of *path*."""
        return self._at_work(path) or self._store.upload_at(path) is not None or self._store.ledger.has(path)

    def needs_no_look(self, path: str) -> bool:
        """True when a scan may skip reading the inode of *path*."""
        upload = self._store.upload_at(path)
        if upload is not None:
            return upload.state is not State.PARKED
        return not self._at_work(path) and self._store.ledger.has(path)

    def is_new(self, sighting: Sighting) -> bool:
        """True when this file, as its inode shows it, is neither sent nor on its way nor being judged."""
        judged = self.judging.get(sighting.path)
        if judged is not None and (judged.size, judged.mtime_ns) == (sighting.size, sighting.mtime_ns):
            return False
        upload = self._store.upload_at(sighting.path)
        if upload is None:
            return not self._store.ledger.knows(sighting.path, sighting.size, sighting.mtime_ns)
        if (upload.identity.size, upload.identity.mtime_ns) != (sighting.size, sighting.mtime_ns):
            return True
        # Parked because the file was missing, and it is back: it settles again, and the upload is released.
        return upload.state is State.PARKED and upload.trouble is not None and upload.trouble.waits_for_file

    def _at_work(self, path: str) -> bool:
        return path in self._settling or path in self.judging
