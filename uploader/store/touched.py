"""``touched.jsonl``: a cache of files whose content is in the ledger, but under another mtime or path.

It saves reading them in full again after a restart: software on a NAS touches finished recordings by the thousand. If
it is lost or damaged the files are read again, so it is not fsynced, and a line that cannot be read is skipped. It
proves nothing by itself: an entry counts only if the ledger has the line that it names.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from uploader.domain import errors
from uploader.domain.model import RARE
from uploader.store import codec
from uploader.store.disk import Disk

TOUCHED_FILE: Final = "touched.jsonl"
TOUCHED_READ_BLOCK: Final = 1024 * 1024  # bytes of one read
TOUCHED_LINE_LIMIT: Final = 64 * 1024  # bytes of a line; a path of 4 KiB in escapes takes 24 KiB
STALE_LINES_ALLOWED: Final = 1000  # lines that may be out of date before the file is rewritten
SHA256: Final = 32  # bytes


@dataclass(frozen=True, slots=True)
class Touched:
    """One entry: the file at *path*, with this mtime, has the content of ledger line *seq*."""

    path: str
    mtime_ns: int
    seq: int
    line: str  # sha256 (hex) of the ledger line, without its line feed
    fingerprint: str  # ``fingerprint_of`` the file (hex); shows that this entry is not damaged
    renamed: bool = field(default=False, metadata=RARE)  # the file of the line has this path now, and no other


def fingerprint_of(path: str, size: int, mtime_ns: int) -> bytes:
    """Return the sha256 of path, size and mtime of a file."""
    return hashlib.sha256(b"%d %d " % (size, mtime_ns) + path.encode("utf-8", "surrogatepass")).digest()


class Proofs:
    """Size and sha256 of each ledger line, with which the entries are checked at the start."""

    def __init__(self) -> None:
        self._sizes, self._lines = array("Q"), bytearray()

    def add(self, size: int, line: str) -> None:
        """Add the next line: the size in bytes of its file, and its own sha256 in hex."""
        self._sizes.append(size)
        self._lines += bytes.fromhex(line)

    def hold(self, entry: Touched) -> bool:
        """True when the ledger has the line that *entry* names, and the file's size in that line fits."""
        at = entry.seq - 1
        if not 0 <= at < len(self._sizes):
            return False
        if self._lines[SHA256 * at : SHA256 * (at + 1)].hex() != entry.line:
            return False
        return fingerprint_of(entry.path, self._sizes[at], entry.mtime_ns).hex() == entry.fingerprint


class TouchedFile:
    """The cache file. Its methods ignore errors of the disk: what is missing in it is read again."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._count = 0  # lines of the file, readable or not
        self._torn = False  # its last line may have no line feed

    @property
    def is_there(self) -> bool:
        """True when the file exists and is not empty."""
        with suppress(errors.StateUnusable, OSError):
            return bool(self._disk.size(TOUCHED_FILE))
        return False

    def entries(self) -> Iterator[Touched]:
        """Read all entries, oldest first."""
        self._count = 0
        for raw in self._lines():
            self._count += 1
            if (entry := _entry(raw)) is not None:
                yield entry

    def add(self, entry: Touched, known: int, is_current: Callable[[Touched], bool]) -> None:
        """Append an entry. When more than half of the lines are out of date, rewrite the file with the current ones.

        *known*: the number of current entries. Rewriting 100,000 takes a few seconds, once in as many calls.
        """
        with suppress(errors.StateUnusable, OSError):
            before, self._torn = b"\n" if self._torn else b"", True  # until it is known to be whole
            self._disk.append_cache(TOUCHED_FILE, before + _line(entry))
            self._torn = False
            self._count += 1
            if self._count > 2 * known + STALE_LINES_ALLOWED:
                newest = {each.path: each for each in self.entries() if is_current(each)}
                self._disk.replace_cache(TOUCHED_FILE, b"".join(map(_line, newest.values())))
                self._count = len(newest)

    def _lines(self) -> Iterator[bytes]:
        with suppress(errors.StateUnusable, OSError):
            size, offset, rest = self._disk.size(TOUCHED_FILE) or 0, 0, b""
            while offset < size and (
                block := self._disk.read_at(TOUCHED_FILE, offset, min(TOUCHED_READ_BLOCK, size - offset))
            ):
                offset += len(block)
                *whole, rest = (rest + block).split(b"\n")
                yield from whole
                rest = rest[: TOUCHED_LINE_LIMIT + 1]  # longer lines are no entries
            self._torn = bool(rest)


def _line(entry: Touched) -> bytes:
    return codec.to_json(entry).encode("ascii") + b"\n"


def _entry(raw: bytes) -> Touched | None:
    """Read a line; None when it is no entry."""
    if len(raw) > TOUCHED_LINE_LIMIT:
        return None
    with suppress(codec.UnreadableContent):
        return codec.from_json(Touched, raw)
    return None
