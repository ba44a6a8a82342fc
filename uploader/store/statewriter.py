"""Writes ``state.json`` again and again, at a cost that follows what has changed.

The encoded lines are kept in blocks, in the order of their last change. An upload that is at work is in the last
block; the parked ones before it keep their bytes, and their blocks the sha256 of everything up to their end. A save
encodes what has changed, hashes from the first block that has changed on, and writes the blocks as they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Final, TypeVar

from uploader.domain.model import MountIdentity, Orphan, ServerCapabilities, Upload
from uploader.store import codec
from uploader.store.codec import LedgerHead

if TYPE_CHECKING:
    from hashlib import _Hash

V = TypeVar("V")

BLOCK_SIZE: Final = 128 * 1024  # bytes; what one change copies and hashes. A line has about 650
_SEPARATOR: Final = b",\n  "  # before each line; of the first one, the comma and the line feed are left out
_SKIPPED: Final = 2
_BEFORE_UPLOADS: Final = b' "uploads": [\n'
_BEFORE_ORPHANS: Final = b'\n ],\n "orphans": [\n'


@dataclass(frozen=True, slots=True)
class Changes:
    """What a save changes: of uploads and orphans what is new or, as None, gone; all of the rest, which is small."""

    sequence: int
    uploads: Mapping[str, Upload | None] = field(default_factory=dict)  # by path
    orphans: Mapping[str, Orphan | None] = field(default_factory=dict)  # by record
    capabilities: ServerCapabilities = field(default_factory=ServerCapabilities)
    mount_identities: tuple[MountIdentity, ...] = ()
    paused: tuple[str, ...] = ()


class StateWriter:
    """The state as it is to be on the disk, encoded. ``hand_over`` may be called on any thread, the rest on one."""

    def __init__(self) -> None:
        self._handed: deque[Changes] = deque()
        self._uploads, self._orphans = Section(), Section()
        self._due_uploads: dict[str, Upload | None] = {}  # taken over, and not encoded yet
        self._due_orphans: dict[str, Orphan | None] = {}
        self._newest = Changes(0)

    def hand_over(self, changes: Changes) -> None:
        """Let the next write hold these changes, also when the write that they were handed over for never ran."""
        self._handed.append(changes)

    def encode(self, ledger: LedgerHead | None, *, now: float) -> list[bytes | memoryview]:
        """Return the whole state in pieces. One upload to a line; the first line has the sha256 of the rest."""
        while self._handed:
            self._newest = self._handed.popleft()
            _overlay(self._due_uploads, self._newest.uploads)
            _overlay(self._due_orphans, self._newest.orphans)
        self._uploads.apply(self._due_uploads)
        self._orphans.apply(self._due_orphans)
        self._due_uploads, self._due_orphans = {}, {}  # not before: what cannot be encoded must fail the next one, too
        rest = [_BEFORE_ORPHANS, *self._orphans.pieces(), codec.encode_rest(self._newest, ledger)]
        digest = self._uploads.digest_after(sha256(_BEFORE_UPLOADS)).copy()
        for piece in rest:
            digest.update(piece)
        head = codec.encode_head(self._newest.sequence, digest.hexdigest(), now=now)
        return [head, _BEFORE_UPLOADS, *self._uploads.pieces(), *rest]


def _overlay(due: dict[str, V], changed: Mapping[str, V]) -> None:
    """Add newer changes, in the order of the last change."""
    for key, value in changed.items():
        due.pop(key, None)
        due[key] = value


@dataclass(slots=True, eq=False)
class Block:
    """Some neighbouring lines, each with the separator before it."""

    content: bytes
    lengths: dict[str, int]  # of each line in bytes, in their order, by key
    digest: _Hash | None = None  # of everything up to the end of this block; None: to be computed

    def remove(self, keys: Collection[str]) -> None:
        """Take lines out."""
        kept, at = [], 0
        for key, length in self.lengths.items():
            if key not in keys:
                kept.append(self.content[at : at + length])
            at += length
        for key in keys:
            del self.lengths[key]
        self.content, self.digest = b"".join(kept), None


class Section:
    """A list of the state, encoded line by line."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._block_of: dict[str, Block] = {}

    def apply(self, changed: Mapping[str, object | None]) -> None:
        """Put new lines at the end, and remove those of the same key. None removes alone."""
        if not changed:
            return
        lines = {
            key: _SEPARATOR + codec.to_json(value).encode("ascii")
            for key, value in changed.items()
            if value is not None
        }
        self._remove(changed)
        for block in _blocks_of(lines):
            self._blocks.append(block)
            self._block_of.update(dict.fromkeys(block.lengths, block))
        self._merge()

    def _remove(self, keys: Collection[str]) -> None:
        gone: dict[int, tuple[Block, set[str]]] = {}
        for key in keys:
            if (block := self._block_of.pop(key, None)) is not None:
                gone.setdefault(id(block), (block, set()))[1].add(key)
        for block, theirs in gone.values():
            block.remove(theirs)

    def _merge(self) -> None:
        """Join small neighbours, from the first block that has changed on; of any two, one is more than half full."""
        first = next((at for at, block in enumerate(self._blocks) if block.digest is None), len(self._blocks))
        kept, rest = self._blocks[:first], self._blocks[first:]
        for block in rest:
            block.digest = None
            if kept and len(kept[-1].content) + len(block.content) <= BLOCK_SIZE:
                last = kept[-1]
                last.content, last.digest = last.content + block.content, None
                last.lengths |= block.lengths
                self._block_of.update(dict.fromkeys(block.lengths, last))
            elif block.lengths:
                kept.append(block)
        self._blocks = kept

    def digest_after(self, before: _Hash) -> _Hash:
        """Return the hash of all lines after what *before* has hashed, which must be the same each time."""
        for piece, block in zip(self.pieces(), self._blocks, strict=True):
            if block.digest is None:
                block.digest = before.copy()
                block.digest.update(piece)
            before = block.digest
        return before

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Return the lines as they are in the file."""
        for at, block in enumerate(self._blocks):
            yield block.content if at else memoryview(block.content)[_SKIPPED:]


def _blocks_of(lines: Mapping[str, bytes]) -> Iterator[Block]:
    """Make blocks of new lines."""
    pieces: list[bytes] = []
    lengths: dict[str, int] = {}
    size = 0
    for key, line in lines.items():
        if pieces and size + len(line) > BLOCK_SIZE:
            yield Block(b"".join(pieces), lengths)
            pieces, lengths, size = [], {}, 0
        pieces.append(line)
        lengths[key] = len(line)
        size += len(line)
    if pieces:
        yield Block(b"".join(pieces), lengths)
