"""``ledger.jsonl``: one line for each finished upload, each carrying the hash of the line before it.

Append-only and fsynced; it is also the list of what is done. Must never be rewritten: a torn last line, which only
a power cut in the middle of an append can leave and which nobody was told of, is the one thing that is cut off.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from uploader.model import Finished, Identity
from uploader.store import codec
from uploader.store.codec import Unreadable
from uploader.store.disk import Disk

NAME: Final = "ledger.jsonl"
GENESIS: Final = "0" * 64  # what the first line carries in place of a hash


@dataclass(frozen=True, slots=True)
class LedgerLine:
    """A finished upload in its chain."""

    seq: int  # counts from 1
    previous: str  # sha256 (hex) of the line before, without its line feed
    upload: Finished


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger remembers of a path in memory: enough to tell a touched file from a new recording."""

    size: int
    mtime_ns: int
    edges: str
    sha256: str
    record: str
    seq: int  # of its line
    path: str  # that it was sent from


class Ledger:
    """The chain in memory: where it ends, and what each path was."""

    def __init__(self, disk: Disk, *, repair: bool = True) -> None:
        """Read the ledger. Raises ``Unreadable`` with the number of the line that breaks it.

        *repair*: cut a torn last line off; without it (the daemon may be writing just now) it is passed over.
        """
        self._disk = disk
        self._known: dict[str, tuple[Known, ...]] = {}
        self._last_hash, self.count = GENESIS, 0
        self.cut: bytes = b""  # what a power cut had left of a last line
        content = disk.read(NAME) or b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self.cut = content[whole:]
            if repair:
                disk.truncate(NAME, whole)
        for line, digest in chain(content[:whole]):
            self._last_hash, self.count = digest, line.seq
            self._remember(line.upload)

    def append(self, upload: Finished) -> None:
        """Write the line, durably, and remember it. Raises ``OSError``; then nothing was written."""
        line = codec.to_json(LedgerLine(self.count + 1, self._last_hash, upload)).encode("ascii")
        self._disk.append(NAME, line + b"\n")
        self._last_hash, self.count = _hash(line), self.count + 1
        self._remember(upload)

    def _remember(self, upload: Finished) -> None:
        known = Known(upload.size, upload.mtime_ns, upload.edges, upload.sha256, upload.record, self.count, upload.path)
        self._known[upload.path] = (*self._known.get(upload.path, ()), known)

    def touch(self, path: str, known: Known, mtime_ns: int) -> None:
        """Remember, in memory only, that *known* content now carries another mtime."""
        self._known[path] = (*self._known.get(path, ()), replace(known, mtime_ns=mtime_ns))

    def of(self, path: str) -> tuple[Known, ...]:
        """Everything that was sent from *path*, oldest first."""
        return self._known.get(path, ())

    def knows(self, path: str, size: int, mtime_ns: int) -> bool:
        """True when this file, as its inode shows it, has been sent."""
        return any(known.size == size and known.mtime_ns == mtime_ns for known in self.of(path))

    def has(self, path: str) -> bool:
        """True when anything was ever sent from *path*. Asked from other threads too."""
        return path in self._known

    def alike_elsewhere(self, path: str, identity: Identity) -> Known | None:
        """Find an entry of another path with equal size and edges: perhaps the same content under another name."""
        for other, entries in self._known.items():
            for known in entries:
                if other != path and (known.size, known.edges) == (identity.size, identity.edges):
                    return known
        return None

    def alike(self, path: str, identity: Identity) -> Known | None:
        """Find an entry of *path* with equal size and edges: probably the same content, touched."""
        for known in self.of(path):
            if (known.size, known.edges) == (identity.size, identity.edges):
                return known
        return None

    def holds(self, path: str, record: str) -> bool:
        """True when the line of this very upload is written."""
        return any(known.record == record for known in self.of(path))


def chain(content: bytes) -> Iterator[tuple[LedgerLine, str]]:
    """Walk the lines with their hashes, proving each link. Raises ``Unreadable`` at the first that breaks."""
    previous = GENESIS
    for number, raw in enumerate(content.removesuffix(b"\n").split(b"\n") if content else (), start=1):
        try:
            line = codec.from_json(LedgerLine, raw)
        except Unreadable as error:
            raise Unreadable(f"line {number}: {error}") from None
        if line.seq != number:
            raise Unreadable(f"line {number}: it says it is line {line.seq}; a line was added or taken out")
        if line.previous != previous:
            raise Unreadable(f"line {number}: the line before it was changed")
        previous = _hash(raw)
        yield line, previous


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
