"""Remembers of each ledger line which inode its file has, and the name that the file was renamed to since.

In memory: 8 bytes a line, and the new names of renamed files. The inodes come from scans, so they are known again soon
after a start; the names are in ``touched.jsonl``. All of it only saves reading files again, and decides nothing alone.
"""

from __future__ import annotations

from array import array

from uploader.store.index import key_of_value


class Renames:
    """What is known of the files of the lines; lines count from 1."""

    def __init__(self) -> None:
        self._inodes = array("Q")  # key of (device, inode) by line; 0: not known
        self._names: dict[int, str] = {}

    def note_inode(self, line: int, inode: tuple[int, ...]) -> None:
        """Note the device and inode of the file of a line."""
        if len(self._inodes) < line:
            self._inodes.extend([0] * (line - len(self._inodes)))
        self._inodes[line - 1] = key_of_value(tuple(inode))

    def has_inode(self, line: int, inode: tuple[int, ...]) -> bool:
        """True when the file of a line is known to have this device and inode."""
        return 0 < line <= len(self._inodes) and self._inodes[line - 1] == key_of_value(tuple(inode)) != 0

    def note_name(self, line: int, path: str) -> None:
        """Note that the file of a line was renamed to *path*."""
        self._names[line] = path

    def name_of(self, line: int, sent_from: str) -> str:
        """Return the name that the file of a line was renamed to; *sent_from* if it was not."""
        return self._names.get(line, sent_from)
