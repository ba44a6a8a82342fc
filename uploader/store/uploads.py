"""Holds the unfinished uploads in memory. A value can be replaced only by one that was made from it.

Every stored upload carries a ``serial`` (which upload it is, for as long as the process lives) and a ``revision``
(which write made this value). ``dataclasses.replace`` copies both, so a new value names the revision that it was made
from. A write from an older revision, or for an upload that was dropped meanwhile, raises ``Stale``. So a value that was
read before an await never overwrites one that was written since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from itertools import count
from types import MappingProxyType

from uploader.domain.model import Identity, State, Upload
from uploader.store.tracked import Tracked

Key = tuple[object, ...]


class Stale(Exception):  # noqa: N818 - it says what the value is
    """A value cannot be written: its upload was changed or dropped since the value was read."""


class UploadTable:
    """Uploads by path, with the look-ups that the stages need. In memory; ``Store`` makes changes durable."""

    def __init__(self, uploads: Iterable[Upload] = ()) -> None:
        self._uploads: dict[str, Upload] = {}
        self._begun: Tracked[Upload] = Tracked({})
        self._index: dict[Key, tuple[str, ...]] = {}
        self._counts: Counter[State] = Counter()
        self._serials, self._revisions = count(1), count(1)
        for upload in uploads:
            self.put(upload)

    @property
    def all(self) -> Mapping[str, Upload]:
        """Every unfinished upload, by the path that it was found at."""
        return MappingProxyType(self._uploads)

    @property
    def begun(self) -> Mapping[str, Upload]:
        """The uploads that ``state.json`` holds: those for which ``worth_saving`` is true."""
        return MappingProxyType(self._begun)

    @property
    def counts(self) -> Mapping[State, int]:
        """How many uploads are in each state."""
        return self._counts

    def take_changes(self) -> dict[str, Upload | None]:
        """Return by path what has changed in ``begun`` since the last call; None for what is no longer there."""
        return self._begun.take_changes()

    def at(self, name: str) -> Upload | None:
        """Return the upload whose file has this name now, or had it when it was found."""
        found = self._uploads.get(name)
        if found is None and (paths := self._index.get(("name now", name))):
            found = self._uploads[paths[0]]
        return found

    def with_content(self, root: str, identity: Identity) -> list[Upload]:
        """Return the uploads in ``begun`` of this watched folder, size and edges; their mtime may be another one."""
        return self._find(("content", root, identity.size, identity.edges))

    def creating(self, record_name: str | None) -> list[Upload]:
        """Return the uploads in state CREATING whose record has this name; None: all of them."""
        if record_name is None:
            return [upload for upload in self._uploads.values() if upload.state is State.CREATING]
        return self._find(("creating", record_name))

    def has_record(self, record: str) -> bool:
        """True when an unfinished upload has this record, in whatever state."""
        return ("record", record) in self._index

    def _find(self, key: Key) -> list[Upload]:
        return [self._uploads[path] for path in self._index.get(key, ())]

    def current(self, upload: Upload) -> Upload | None:
        """Return the current value of this upload (the same serial); None when it was finished or dropped."""
        now = self._uploads.get(upload.path)
        return now if now is not None and now.serial == upload.serial else None

    def put(self, upload: Upload) -> Upload:
        """Store a new upload, or the next value of one that is stored. Returns it as stored. Raises ``Stale``."""
        before = self._uploads.get(upload.path)
        if upload.revision != (0 if before is None else before.revision):
            raise Stale(f"{upload.path}: the upload was changed or dropped meanwhile")
        serial = next(self._serials) if before is None else before.serial
        upload = replace(upload, serial=serial, revision=next(self._revisions))
        if before is not None:
            self._unlist(before)
        self._uploads[upload.path] = upload
        if worth_saving(upload):
            self._begun[upload.path] = upload
        else:
            self._begun.pop(upload.path, None)
        self._counts[upload.state] += 1
        for key in _keys(upload):
            self._index[key] = (*self._index.get(key, ()), upload.path)
        return upload

    def drop(self, upload: Upload) -> None:
        """Remove an upload. Raises ``Stale`` when *upload* is not its current value."""
        before = self._uploads.get(upload.path)
        if before is None or before.revision != upload.revision:
            raise Stale(f"{upload.path}: the upload was changed or dropped meanwhile")
        self._unlist(before)
        del self._uploads[upload.path]
        self._begun.pop(upload.path, None)

    def _unlist(self, upload: Upload) -> None:
        """Take a value out of the counts and the index."""
        self._counts[upload.state] -= 1
        for key in _keys(upload):
            if rest := tuple(path for path in self._index[key] if path != upload.path):
                self._index[key] = rest
            else:
                del self._index[key]


def worth_saving(upload: Upload) -> bool:
    """True when the next scan would not find this upload again as it is.

    It has begun, or has a failure or records that arrived spoilt to remember.
    """
    return (
        upload.state is not State.QUEUED or upload.last_error is not None or upload.restarts > 0 or bool(upload.spoilt)
    )


def _keys(upload: Upload) -> Collection[Key]:
    keys: list[Key] = []
    if upload.renamed_to is not None:
        keys.append(("name now", upload.renamed_to))
    if worth_saving(upload):
        keys.append(("content", upload.root, upload.identity.size, upload.identity.edges))
    if upload.state is State.CREATING:
        keys.append(("creating", upload.record.name))
    if upload.ids is not None:
        keys.append(("record", upload.ids.record))
    return keys
