"""``touched.jsonl``: files that were read in full and have the content of a ledger line, under another time or name.

A cache, so that a restart does not read them again: software on a NAS touches finished recordings by the thousand.
Losing or damaging it costs that reading and nothing else, so it is not fsynced, and a line that cannot be read is
passed over. It vouches for nothing by itself: an entry counts only while the ledger has the very line that it names.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from uploader.domain import errors
from uploader.store import codec
from uploader.store.disk import Disk

TOUCHED_FILE: Final = "touched.jsonl"
TOUCHED_READ_BLOCK: Final = 1024 * 1024  # bytes of one read
TOUCHED_LINE_LIMIT: Final = 64 * 1024  # bytes of a line; a path of 4 KiB in escapes takes 24 KiB
STALE_LINES_ALLOWED: Final = 1000  # lines that may be out of date before the file is written anew
SHA256: Final = 32  # bytes


@dataclass(frozen=True, slots=True)
class Touched:
    """One entry: the file at *path*, with this mtime, has the content of ledger line *seq*."""

    path: str
    mtime_ns: int
    seq: int
    line: str  # sha256 (hex) of the ledger line, without its line feed
    fingerprint: str  # ``fingerprint_of`` the file (hex): proves that nothing in this entry was damaged


def fingerprint_of(path: str, size: int, mtime_ns: int) -> bytes:
    """Stand for a file as its inode shows it, in full sha256: as good a proof as the chain itself."""
    return hashlib.sha256(b"%d %d " % (size, mtime_ns) + path.encode("utf-8", "surrogatepass")).digest()


class Proofs:
    """Size and sha256 of each ledger line: what the entries are held to at the start, and is forgotten then."""

    def __init__(self) -> None:
        self._sizes, self._lines = array("Q"), bytearray()

    def add(self, size: int, line: str) -> None:
        """Add the next line: the size in bytes of its file, and its own sha256 in hex."""
        self._sizes.append(size)
        self._lines += bytes.fromhex(line)

    def hold(self, entry: Touched) -> bool:
        """True when the ledger has the line that *entry* names, and what it says of the file fits."""
        at = entry.seq - 1
        if not 0 <= at < len(self._sizes):
            return False
        if self._lines[SHA256 * at : SHA256 * (at + 1)].hex() != entry.line:
            return False
        return fingerprint_of(entry.path, self._sizes[at], entry.mtime_ns).hex() == entry.fingerprint


class TouchedFile:
    """The file. Its methods raise no error of the disk: what could not be written or read is read again."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._count = 0  # lines of the file, readable or not
        self._torn = False  # its last line has no line feed

    @property
    def is_there(self) -> bool:
        """True when there is something to be read."""
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
        """Add an entry. When more than half of the lines are out of date, write those anew that are not.

        *known*: how many entries are current. Takes a few seconds for 100,000 of them, once in as many calls.
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
                rest = rest[: TOUCHED_LINE_LIMIT + 1]  # of what is longer than that no line of ours is made
            self._torn = bool(rest)


def _line(entry: Touched) -> bytes:
    return codec.to_json(entry).encode("ascii") + b"\n"


def _entry(raw: bytes) -> Touched | None:
    """Read a line; None when it is none of ours."""
    if len(raw) > TOUCHED_LINE_LIMIT:
        return None
    with suppress(codec.UnreadableContent):
        return codec.from_json(Touched, raw)
    return None
