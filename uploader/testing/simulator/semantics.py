"""What a chunk means to a server: five receivers as one pure function of what is held and what arrives.

The upload call is documented without saying which of the public servers of its convention stands behind it, so
each of them is played here (protocol.md, *What a chunk means to a server is not documented*). Must never touch the
disk: ``receive`` says which bytes go where, ``records`` puts them there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


class Semantics(StrEnum):
    """Which receiver the simulator plays."""

    OFFSET = "offset"  # writes each range where it belongs, in any order, as often as it comes
    STRICT = "strict"  # takes the next range only
    BLUEIMP = "blueimp"  # lets everything but the next range go astray, and answers 2xx all the same
    APPEND = "append"  # appends whatever comes, so that a repeat duplicates bytes
    WHOLE = "whole"  # takes the whole file as one range, and nothing else


@dataclass(frozen=True, slots=True)
class ContentRange:
    """``bytes start-end/total``: *end* is the last byte, not the one after it."""

    start: int
    end: int
    total: int

    @property
    def size(self) -> int:
        """How many bytes the range holds."""
        return self.end - self.start + 1

    @property
    def last(self) -> bool:
        """Whether the range reaches the end of the file."""
        return self.end + 1 == self.total

    @property
    def whole(self) -> bool:
        """Whether the range is the whole file."""
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
    """What a receiver has of one video. Bytes throughout; *spans* are half-open and never touch each other."""

    sizes: tuple[int, ...] = (0,)  # bytes held by the video's file, then by each stray beside it
    spans: tuple[tuple[int, int], ...] = ()  # offset: which parts of the video's file are filled
    total: int | None = None  # offset and strict: the size that the first range announced
    complete: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    """A range was taken: its bytes go to byte *at* of file number *file* (0 is the video, 1… its strays)."""

    held: Held  # what is held from now on
    file: int
    at: int
    acknowledged: int | None = None  # blueimp: the bytes that its ``Range: 0-N`` answer speaks of


def receive(semantics: Semantics, held: Held, chunk: ContentRange) -> Taken | None:
    """Decide what becomes of *chunk*; None is the 400 "Invalid Content-Range header value"."""
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
    """Each range to its place; done when none is missing. A finished video may be written over."""
    if held.total not in {None, chunk.total}:
        return None
    spans = add_span(held.spans, chunk.start, chunk.end + 1)
    filled = sum(end - start for start, end in spans)
    after = Held((filled,), spans, chunk.total, complete=filled == chunk.total)
    return Taken(after, file=0, at=chunk.start)


def _strict(held: Held, chunk: ContentRange) -> Taken | None:
    """The next range or nothing; after the last one there is no next."""
    if chunk.start != held.sizes[0] or held.total not in {None, chunk.total}:
        return None
    after = Held((chunk.end + 1,), total=chunk.total, complete=chunk.last)
    return Taken(after, file=0, at=chunk.start)


def _blueimp(held: Held, chunk: ContentRange) -> Taken:
    """The next range is appended; any other becomes, or continues, a stray, which its answer speaks of.

    The stray is the first one that holds exactly the bytes before the range, else a new one: this is how the
    original finds a free file name. A finished video lets every further range go astray.
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
    """Whatever comes goes to the end, of a finished video too: a repeated last range spoils it."""
    at = held.sizes[0]
    after = Held((at + chunk.size,), complete=held.complete or chunk.last)
    return Taken(after, file=0, at=at)


def _whole(held: Held, chunk: ContentRange) -> Taken | None:
    """One range, once."""
    if held.complete or not chunk.whole:
        return None
    return Taken(Held((chunk.total,), complete=True), file=0, at=0)


def add_span(spans: tuple[tuple[int, int], ...], start: int, end: int) -> tuple[tuple[int, int], ...]:
    """Add the half-open span *start*…*end*, melting together what overlaps or touches."""
    apart = [span for span in spans if span[1] < start or end < span[0]]
    melted = [span for span in spans if not (span[1] < start or end < span[0])]
    low = min([start, *(span[0] for span in melted)])
    high = max([end, *(span[1] for span in melted)])
    return tuple(sorted([*apart, (low, high)]))
