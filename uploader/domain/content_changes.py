"""Remembers how many records were given up for a file because its content changed meanwhile. Pure.

A file that changes while it is sent begins anew, as a new upload that knows nothing of the ones before. Without this
memory a file that never comes to rest would be sent, and given up, without an end. Of a file whose mtime never comes to
rest it remembers the content that was compared.
"""

from __future__ import annotations

from typing import Final

FILES_REMEMBERED: Final = 1000  # files; the one whose first change was longest ago is forgotten first


class ContentChanges:
    """The records given up, by file."""

    def __init__(self) -> None:
        self._records: dict[str, int] = {}
        self._rested: dict[str, int] = {}
        self._contents: dict[str, str] = {}

    def note(self, path: str, records: int) -> None:
        """Note that so many records were given up for this file."""
        if records > 0:
            self._records[path] = records
            if len(self._records) > FILES_REMEMBERED:
                del self._records[next(iter(self._records))]
        else:
            self._records.pop(path, None)

    def of(self, path: str) -> int:
        """Return how many records were given up for this file."""
        return self._records.get(path, 0)

    def may_rest(self, path: str, records: int) -> bool:
        """True once for each number of records: the file is given time, and then no more until another is given up."""
        if self._rested.get(path) == records:
            return False
        self._rested[path] = records
        if len(self._rested) > FILES_REMEMBERED:
            del self._rested[next(iter(self._rested))]
        return True

    def note_content(self, path: str, sha256: str) -> None:
        """Note the content of a file whose mtime does not come to rest."""
        self._contents[path] = sha256
        if len(self._contents) > FILES_REMEMBERED:
            del self._contents[next(iter(self._contents))]

    def content_of(self, path: str) -> str:
        """Return the sha256 of such a file when it settled; empty for any other."""
        return self._contents.get(path, "")

    def forget(self, path: str) -> None:
        """Forget a file: it was sent, or its upload was dropped by the operator."""
        for memory in (self._records, self._rested, self._contents):
            memory.pop(path, None)
