"""Reads the boxes of MP4 and MOV: ISO/IEC 14496-12, 4.2, and Apple's QuickTime File Format.

Two habits of writers are allowed for. Zeros between two boxes are stepped over (``_PADDING``). An ``mdat`` whose size
is wrong by a few bytes, most often by the 8 of its own head, is mended where the next box begins right (``_SHIFTS``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from uploader.container.reader import FIRST_PIECE, SAMPLE, ContainerReader, is_zero

FIRST: Final = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp"})
KNOWN: Final = FIRST | {b"moof", b"mfra", b"sidx", b"uuid", b"udta", b"meta", b"emsg", b"prft", b"pdin", b"ssix"}
_IN_MOOV: Final = frozenset(
    b"mvhd iods trak mvex udta meta tkhd tref edts mdia mdhd hdlr minf vmhd smhd nmhd gmhd dinf stbl stsd stts ctts "
    b"stss stsc stsz stz2 stco co64 sgpd sbgp subs saiz saio sdtp cslg mehd trex".split()
)
CHILDREN: Final = 32  # boxes inside another that are looked at
_PADDING: Final = 64 * 1024  # bytes of zeros between two boxes that are stepped over
_SHIFTS: Final = (-8, 8, -16, 16, -4, 4)  # bytes that the next box may lie before or behind the end of an ``mdat``
_KIND_BYTES: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 -_.")


class Box(NamedTuple):
    """One box: its kind, and the offsets of its head, of what follows the head, and of its end."""

    kind: bytes
    start: int
    payload: int
    end: int

    @property
    def name(self) -> str:
        """Return the kind as text."""
        return self.kind.decode("latin-1")


@dataclass
class Walk:
    """The boxes that were found one after another at one level."""

    boxes: list[Box] = field(default_factory=list)
    stop: int = 0  # offset after the last box
    shift: int = 0  # bytes by which the last ``mdat`` with a wrong size was mended; 0: none was

    def first(self, kind: bytes) -> Box | None:
        """Return the first box of a kind."""
        return next((box for box in self.boxes if box.kind == kind), None)

    def all(self, kind: bytes) -> list[Box]:
        """Return all boxes of a kind."""
        return [box for box in self.boxes if box.kind == kind]


def walk(source: ContainerReader, start: int, end: int, limit: int, known: Walk | None = None) -> Walk:
    """Return the boxes *known* and those from *start* to *end*, *limit* in all. One that ends past *end* is last."""
    found = Walk([*known.boxes], start, known.shift) if known else Walk([], start)
    for box in each(source, found, end):
        found.boxes.append(box)
        if len(found.boxes) >= limit:
            break
    return found


def each(source: ContainerReader, at: Walk, end: int) -> Iterator[Box]:
    """Yield the boxes from ``at.stop`` to *end*. Moves ``stop`` and ``shift`` of *at*; its list is left alone.

    ``stop`` is where the next box was expected: after zeros that end in no box, it is where they begin.
    """
    while at.stop < end:
        box = box_at(source, at.stop, end) or _behind_zeros(source, at.stop, end)
        if box is None:
            return
        at.stop = box.end
        if box.kind == b"mdat" and (shift := _shift(source, box, end)):
            box, at.stop, at.shift = box._replace(end=box.end + shift), box.end + shift, shift
        yield box


def box_at(source: ContainerReader, start: int, end: int) -> Box | None:
    """Read the box that begins at *start*: 14496-12, 4.2. None when there is none."""
    head = source.at(start, 16)
    if len(head) < 8 or not (head[4:8] in KNOWN or _is_kind(head[4:8])):
        return None
    size, kind, length = int.from_bytes(head[:4], "big"), head[4:8], 8
    if size == 0:
        size = end - start  # to the end
    elif size == 1 and len(head) == 16:
        size, length = int.from_bytes(head[8:], "big"), 16
    return Box(kind, start, start + length, start + size) if size >= length else None


def inside(source: ContainerReader, box: Box | None, limit: int = CHILDREN) -> Walk:
    """Return the boxes inside *box*, as far as the file has them."""
    return walk(source, box.payload, min(box.end, source.size), limit) if box else Walk()


def content(source: ContainerReader, box: Box | None, length: int) -> bytes:
    """Return the first *length* bytes of a box, fewer if it is shorter; none when there is no box."""
    return source.at(box.payload, min(length, box.end - box.payload)) if box else b""


def descend(source: ContainerReader, box: Box | None, *kinds: bytes) -> Box | None:
    """Return the first box of the last of *kinds* that lies inside the first of the one before it, and so on."""
    for kind in kinds:
        box = inside(source, box).first(kind)
    return box


def zeros_at(source: ContainerReader, start: int, end: int, limit: int) -> int:
    """Return the offset of the first byte from *start* on that is not zero; at most *end* or *start* + *limit*."""
    stop = min(end, start + limit, source.size)
    length = SAMPLE
    while start < stop:
        data = source.at(start, min(length, stop - start))
        if not is_zero(data):
            return start + len(data) - len(data.lstrip(b"\0"))
        start, length = start + len(data), FIRST_PIECE
    return max(start, stop)


def _behind_zeros(source: ContainerReader, start: int, end: int) -> Box | None:
    """Return the box that begins behind zeros at *start*. Its head begins with up to three zeros of its own."""
    if not is_zero(source.at(start, min(4, end - start))):
        return None
    written = zeros_at(source, start, end, _PADDING)
    if written >= min(end, start + _PADDING):
        return None
    # The more zeros belong to the head, the smaller is the box: a size with fewer of them would be huge.
    for first in range(max(start, written - 3), written + 1):
        box = box_at(source, first, end)
        if box is not None and box.kind in KNOWN | _IN_MOOV and any(source.at(first, 4)):
            return box
    return None


def _shift(source: ContainerReader, media: Box, end: int) -> int:
    """Return by how many bytes the end of an ``mdat`` is wrong: where the next box is one, and none is at its end."""
    following = source.at(media.end, 16) if media.end <= end else b""
    if media.end == end or following[4:8] in KNOWN:
        return 0
    for shift in _SHIFTS if media.end <= end else ():
        start = media.end + shift
        box = box_at(source, start, end) if media.payload <= start < end else None
        if box is not None and box.kind in KNOWN and box.end <= end:
            return shift
    return 0


def _is_kind(kind: bytes) -> bool:
    """True when *kind* may be the kind of a box: four characters; some of Apple's begin with ©."""
    return kind[0] in _KIND_BYTES | {0xA9} and _KIND_BYTES.issuperset(kind[1:])


def named(boxes: Iterable[Box], kinds: Iterable[bytes]) -> bool:
    """True when a box of one of *kinds* is among *boxes*."""
    wanted = frozenset(kinds)
    return any(box.kind in wanted for box in boxes)
