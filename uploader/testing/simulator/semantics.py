"""Simulates five kinds of receiver for chunks. Pure: decides from what is held and what arrives where bytes go.

The upload call sends chunks with ``Content-Range``. Several public upload servers take such chunks, each in its own
way, and the documentation does not say which of them VALT uses. So each is simulated here (docs/protocol.md, *What a
chunk means to a server is not documented*). ``receive`` decides which bytes go where; ``records`` writes them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


class Semantics(StrEnum):
    """The kind of receiver that is simulated. A stray is a file beside the video's."""

    OFFSET = "offset"  # writes each range at its offset, in any order, as often as it comes
    STRICT = "strict"  # takes the next range only
    BLUEIMP = "blueimp"  # appends the next range; writes any other to a stray file, and still answers 2xx
    APPEND = "append"  # appends every range, so that a repeated one duplicates bytes
    WHOLE = "whole"  # takes the whole file as one range, and nothing else


@dataclass(frozen=True, slots=True)
class ContentRange:
    """``bytes start-end/total``: *end* is the last byte, not the one after it."""

    start: int
    end: int
    total: int

    @property
    def size(self) -> int:
        """The number of bytes in the range."""
        return self.end - self.start + 1

    @property
    def last(self) -> bool:
        """True when the range reaches the end of the file."""
        return self.end + 1 == self.total

    @property
    def whole(self) -> bool:
        """True when the range is the whole file."""
        return self.start == 0 and self.last

    def __str__(self) -> str:
        return f"bytes {self.start}-{self.end}/{self.total}"


def parse_content_range(header: str) -> ContentRange | None:
    """Read a ``Content-Range`` header; None when it is malformed or contradicts itself."""
    match = _CONTENT_RANGE.fullmatch(header.strip())
    if match is None:
        return None
    start, end, total = (int(group) for group in match.groups())
    return ContentRange(start, end, total) if start <= end < total else None


@dataclass(frozen=True, slots=True)
class Held:
    """What a receiver holds of one video, in bytes. *spans* are half-open and never touch each other."""

    sizes: tuple[int, ...] = (0,)  # bytes held by the video's file, then by each stray beside it
    spans: tuple[tuple[int, int], ...] = ()  # offset: the filled parts of the video's file
    total: int | None = None  # offset and strict: the size that the first range announced
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """A range was taken: its bytes go to byte *at* of file number *file* (0 is the video, 1… its strays)."""

    held: Held  # what is held after it
    file: int
    at: int
    acknowledged: int | None = None  # blueimp: the size of the file, from which its answer makes ``Range: 0-N``


def receive(semantics: Semantics, held: Held, chunk: ContentRange) -> Taken | None:
    """Decide what to do with *chunk*; None stands for 400 "Invalid Content-Range header value"."""
    match semantics:
        case Semantics.OFFSET:
            return _offset(held, chunk)
        case Semantics.STRICT:
            return _strict(held, chunk)
        case Semantics.BLUEIMP:
            return _blueimp(held, chunk)
        case Semantics.APPEND:
            return _append(held, chunk)
        case Semantics.WHOLE:
            return _whole(held, chunk)


def _offset(held: Held, chunk: ContentRange) -> Taken | None:
    """Write each range at its offset; complete when none is missing. A finished video may be overwritten."""
    if held.total not in {None, chunk.total}:
        return None
    spans = add_span(held.spans, chunk.start, chunk.end + 1)
    filled = sum(end - start for start, end in spans)
    after = Held((filled,), spans, chunk.total, complete=filled == chunk.total)
    return Taken(after, file=0, at=chunk.start)


def _strict(held: Held, chunk: ContentRange) -> Taken | None:
    """Take only the next range; after the last one there is none."""
    if chunk.start != held.sizes[0] or held.total not in {None, chunk.total}:
        return None
    after = Held((chunk.end + 1,), total=chunk.total, complete=chunk.last)
    return Taken(after, file=0, at=chunk.start)


def _blueimp(held: Held, chunk: ContentRange) -> Taken:
    """Append the next range; any other becomes or continues a stray file, whose size the answer gives.

    The stray is the first one that ends where the range starts, else a new one. This is how the original
    (blueimp's upload handler) chooses a file name. After a finished video every further range goes to a stray.
    """
    fits = (number for number, size in enumerate(held.sizes) if size == chunk.start and (number or not held.complete))
    file = next(fits, len(held.sizes))
    known = file < len(held.sizes)
    at = held.sizes[file] if known else 0
    size = at + chunk.size
    sizes = (*held.sizes[:file], size, *held.sizes[file + 1 :])
    complete = held.complete or (file == 0 and size == chunk.total)
    return Taken(replace(held, sizes=sizes, complete=complete), file, at, acknowledged=size)


def _append(held: Held, chunk: ContentRange) -> Taken:
    """Append every range, to a finished video too: a repeated last range damages it."""
    at = held.sizes[0]
    after = Held((at + chunk.size,), complete=held.complete or chunk.last)
    return Taken(after, file=0, at=at)


def _whole(held: Held, chunk: ContentRange) -> Taken | None:
    """Take the whole file as one range, once."""
    if held.complete or not chunk.whole:
        return None
    return Taken(Held((chunk.total,), complete=True), file=0, at=0)


def add_span(spans: tuple[tuple[int, int], ...], start: int, end: int) -> tuple[tuple[int, int], ...]:
    """Add the half-open span *start*…*end*, merging spans that overlap or touch."""
    apart = [span for span in spans if span[1] < start or end < span[0]]
    merged = [span for span in spans if not (span[1] < start or end < span[0])]
    low = min([start, *(span[0] for span in merged)])
    high = max([end, *(span[1] for span in merged)])
    return tuple(sorted([*apart, (low, high)]))
