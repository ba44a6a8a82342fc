"""Reads the elements of EBML (RFC 8794), of which Matroska files consist (RFC 9559)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from uploader.container.reader import ContainerReader

EBML: Final = 0x1A45DFA3
SEGMENT: Final = 0x18538067
SEEK_HEAD: Final = 0x114D9B74
INFO: Final = 0x1549A966
CLUSTER: Final = 0x1F43B675
CUES: Final = 0x1C53BB6B
VOID: Final = 0xEC
UNKNOWN: Final = (1 << 64) - 1  # a position that was not filled in

_SEEK, _SEEK_ID, _SEEK_POSITION = 0x4DBB, 0x53AB, 0x53AC
_HEAD: Final = 12  # bytes of the longest head: an id of 4, a size of 8
_CHILDREN: Final = 24  # elements inside another that are looked at


class Element(NamedTuple):
    """The head of an element."""

    id: int
    start: int
    payload: int  # offset of what follows the head
    size: int | None  # of the payload; None: unknown

    @property
    def end(self) -> int:
        """The offset after the element; when its size is unknown, the offset of its payload."""
        return self.payload + (self.size or 0)


def element(source: ContainerReader, start: int) -> Element | None:
    """Read the head of the element at *start*: RFC 8794, 4 to 6. None when it is missing or cut."""
    return parse(source.at(start, _HEAD), start)


def parse(head: bytes, start: int) -> Element | None:
    """Read the head of an element from its bytes; it begins at *start* in the file. None when it is none, or cut."""
    if not head or not head[0] >> 4:
        return None
    length = 9 - head[0].bit_length()
    width = 9 - head[length].bit_length() if len(head) > length and head[length] else 0
    if not width or len(head) < length + width:
        return None
    ones = (1 << 7 * width) - 1
    size = int.from_bytes(head[length : length + width], "big") & ones
    return Element(int.from_bytes(head[:length], "big"), start, start + length + width, None if size == ones else size)


def children(source: ContainerReader, parent: Element) -> Iterator[Element]:
    """Yield the elements inside an element of known size, at most ``_CHILDREN``."""
    offset = parent.payload
    for _ in range(_CHILDREN):
        child = element(source, offset) if offset < min(parent.end, source.size) else None
        if child is None or child.size is None:
            return
        yield child
        offset = child.end


def number(source: ContainerReader, child: Element) -> int | None:
    """Return an unsigned integer; None when it has none of the sizes that it may have."""
    if child.size is None or not 0 < child.size <= 8:
        return None
    return int.from_bytes(source.at(child.payload, child.size), "big")


def seeks(source: ContainerReader, seek_head: Element) -> Iterator[tuple[int, int]]:
    """Yield what a SeekHead names: id and position, from the Segment's payload on (5.1.1); else nothing."""
    if seek_head.id != SEEK_HEAD:
        return
    for seek in children(source, seek_head):
        if seek.id != _SEEK:
            continue
        values = {child.id: number(source, child) for child in children(source, seek)}
        if (position := values.get(_SEEK_POSITION)) is not None:
            yield values.get(_SEEK_ID) or 0, position
