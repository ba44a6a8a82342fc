"""Encodes ``state.json`` for each save, at a cost that depends on what has changed, not on the size of the state.

The encoded lines are kept in blocks, in the order of their last change. Active uploads are in the last block; parked
ones stay unchanged in the blocks before it, and each block keeps the sha256 of everything up to its end. A save encodes
the changed uploads, hashes from the first changed block on, and writes all blocks.
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

BLOCK_SIZE: Final = 128 * 1024  # bytes that one change copies and hashes; a line has about 650
_SEPARATOR: Final = b",\n  "  # before each line
_SKIPPED: Final = 2  # bytes of the first line's separator that are left out: comma and line feed
_BEFORE_UPLOADS: Final = b' "uploads": [\n'
_BEFORE_ORPHANS: Final = b'\n ],\n "orphans": [\n'


@dataclass(frozen=True, slots=True)
class Changes:
    """What a save changes: new or removed (None) uploads and orphans, and the small rest of the state as a whole."""

    sequence: int
    uploads: Mapping[str, Upload | None] = field(default_factory=dict)  # by path
    orphans: Mapping[str, Orphan | None] = field(default_factory=dict)  # by record
    capabilities: ServerCapabilities = field(default_factory=ServerCapabilities)
    mount_identities: tuple[MountIdentity, ...] = ()
    paused: tuple[str, ...] = ()


class StateWriter:
    """The encoded state. ``hand_over`` may be called on any thread, everything else on one thread."""

    def __init__(self) -> None:
        self._pending: deque[Changes] = deque()
        self._uploads, self._orphans = Section(), Section()
        self._due_uploads: dict[str, Upload | None] = {}  # taken from ``_pending``, and not encoded yet
        self._due_orphans: dict[str, Orphan | None] = {}
        self._newest = Changes(0)

    def hand_over(self, changes: Changes) -> None:
        """Add changes to the next write. They stay pending when the write that they were meant for did not run."""
        self._pending.append(changes)

    def encode(self, ledger: LedgerHead | None, *, now: float) -> list[bytes | memoryview]:
        """Return the whole state in pieces: one upload to a line; the first line has the sha256 of all others."""
        while self._pending:
            self._newest = self._pending.popleft()
            _overlay(self._due_uploads, self._newest.uploads)
            _overlay(self._due_orphans, self._newest.orphans)
        self._uploads.apply(self._due_uploads)
        self._orphans.apply(self._due_orphans)
        self._due_uploads, self._due_orphans = {}, {}  # not before: a value that cannot be encoded fails each save
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
    """Neighbouring lines, each with the separator before it."""

    content: bytes
    lengths: dict[str, int]  # of each line in bytes, by key, in the order of the lines
    digest: _Hash | None = None  # of everything up to the end of this block; None: to be computed

    def remove(self, keys: Collection[str]) -> None:
        """Remove lines."""
        kept, at = [], 0
        for key, length in self.lengths.items():
            if key not in keys:
                kept.append(self.content[at : at + length])
            at += length
        for key in keys:
            del self.lengths[key]
        self.content, self.digest = b"".join(kept), None


class Section:
    """One list of the state (uploads or orphans), encoded line by line."""

    def __init__(self) -> None:
        self._blocks: list[Block] = []
        self._block_of: dict[str, Block] = {}

    def apply(self, changed: Mapping[str, object | None]) -> None:
        """Replace the lines of these keys; new lines go to the end. None removes a line."""
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
        for block, removed in gone.values():
            block.remove(removed)

    def _merge(self) -> None:
        """Join small neighbouring blocks, from the first changed one on; of any two, one is more than half full."""
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
        """Return *before* updated with all lines. *before* must have hashed the same bytes each time."""
        for piece, block in zip(self.pieces(), self._blocks, strict=True):
            if block.digest is None:
                block.digest = before.copy()
                block.digest.update(piece)
            before = block.digest
        return before

    def pieces(self) -> Iterator[bytes | memoryview]:
        """Return the lines as the file has them."""
        for at, block in enumerate(self._blocks):
            yield block.content if at else memoryview(block.content)[_SKIPPED:]


def _blocks_of(lines: Mapping[str, bytes]) -> Iterator[Block]:
    """Put new lines into blocks."""
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
