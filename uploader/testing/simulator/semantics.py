"""Simulates nine kinds of receiver for chunks. Pure: decides from what is held and what arrives where bytes go.

The upload call sends chunks with ``Content-Range``. Several public upload servers take such chunks, each in its own
way, and the documentation does not say which of them VALT uses. So each is simulated here (docs/protocol.md, *What a
chunk means to a server is not documented*). ``receive`` decides which bytes go where; ``records`` writes them to files,
``write_into`` to memory.

Five of the receivers are ``FAITHFUL``. The four ``SPOILING`` ones answer 201 to every chunk and show the video as
landed, while they hold other bytes than were sent. A client that believes them loses recordings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


class Semantics(StrEnum):
    """The kind of receiver that is simulated. A stray is a file beside the video's."""

    OFFSET = "offset"  # writes each range at its offset, in any order, as often as it comes
    STRICT = "strict"  # takes the next range only
    BLUEIMP = "blueimp"  # appends the next range; writes any other to a stray file, and still answers 2xx
    APPEND = "append"  # appends every range, so that a repeated one duplicates bytes
    WHOLE = "whole"  # takes the whole file as one range, and nothing else
    LAST = "last"  # ignores the range: each chunk is the whole file, so that the last one remains
    FIRST = "first"  # takes the first chunk for the whole file, and drops all later ones
    SHORT = "short"  # as offset, but loses the tail of the last chunk of several
    DOUBLE = "double"  # as append, but stores every second chunk of a file twice


FAITHFUL: Final = (Semantics.OFFSET, Semantics.STRICT, Semantics.BLUEIMP, Semantics.APPEND, Semantics.WHOLE)
"""Receivers that hold the bytes that were sent, when each chunk is sent in order, once, or is refused with a 400."""

SPOILING: Final = (Semantics.LAST, Semantics.FIRST, Semantics.SHORT, Semantics.DOUBLE)
"""Receivers that spoil every file that is sent in chunks, in any order. They store a file in one request as it is."""

_LOST_PART: Final = 4  # short: loses one byte in so many of the last chunk, rounded down, but at least one


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
    spans: tuple[tuple[int, int], ...] = ()  # offset and short: the filled parts of the video's file
    total: int | None = None  # offset, strict and short: the size that the first range announced
    complete: bool = False
    lost: int = 0  # short: bytes missing at the end; 0 before the last chunk came
    chunks: int = 0  # double: chunks taken


@dataclass(frozen=True, slots=True)
class Taken:
    """A range was taken: its bytes go to byte *at* of file number *file* (0 is the video, 1… its strays).

    Spoiling receivers do something else with the bytes, as *keep*, *copies* and *fresh* say. ``write_into`` does all of
    it for a file in memory.
    """

    held: Held  # what is held after it
    file: int
    at: int
    acknowledged: int | None = None  # blueimp: the size of the file, from which its answer makes ``Range: 0-N``
    keep: int | None = None  # first and short: only so many bytes from its beginning are stored; None: all
    copies: int = 1  # double: how often the bytes are stored, one copy after the other
    fresh: bool = False  # last: the bytes replace everything that the file held before; *at* is 0, *copies* 1


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
        case Semantics.LAST:
            return Taken(Held((chunk.size,), complete=True), file=0, at=0, fresh=True)
        case Semantics.FIRST:
            return _first(held, chunk)
        case Semantics.SHORT:
            return _short(held, chunk)
        case Semantics.DOUBLE:
            return _double(held, chunk)


def write_into(file: bytearray, taken: Taken, body: bytes) -> None:
    """Store the *body* of a chunk in *file*, the content of file number ``taken.file``, as *taken* says.

    A gap before the bytes is filled with zeros.
    """
    if taken.fresh:
        file.clear()
    file.extend(bytes(max(0, taken.at - len(file))))
    stored = body[: taken.keep] * taken.copies
    file[taken.at : taken.at + len(stored)] = stored


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


def _first(held: Held, chunk: ContentRange) -> Taken:
    """Take the first chunk for the whole file; store nothing of any later one."""
    if held.complete:
        return Taken(held, file=0, at=0, keep=0)
    return Taken(Held((chunk.size,), complete=True), file=0, at=0)


def _short(held: Held, chunk: ContentRange) -> Taken | None:
    """Write each range at its offset, but lose the tail of the last chunk, unless it is the whole file.

    The receiver does not notice: it is complete when only that tail is missing.
    """
    if held.total not in {None, chunk.total}:
        return None
    now_lost = max(1, chunk.size // _LOST_PART) if chunk.last and not chunk.whole else 0
    lost = min(filter(None, (held.lost, now_lost)), default=0)
    keep = chunk.size - now_lost
    spans = add_span(held.spans, chunk.start, chunk.start + keep) if keep else held.spans
    filled = sum(end - start for start, end in spans)
    complete = held.complete or filled in {chunk.total, chunk.total - lost}
    return Taken(Held((filled,), spans, chunk.total, complete, lost), file=0, at=chunk.start, keep=keep)


def _double(held: Held, chunk: ContentRange) -> Taken:
    """Append every range, and every second one twice: of the chunks 0, 1, 2, 3 … those with odd numbers.

    A file in one request is stored once.
    """
    at = held.sizes[0]
    copies = 2 if held.chunks % 2 and not chunk.whole else 1
    after = Held((at + copies * chunk.size,), complete=held.complete or chunk.last, chunks=held.chunks + 1)
    return Taken(after, file=0, at=at, copies=copies)


def add_span(spans: tuple[tuple[int, int], ...], start: int, end: int) -> tuple[tuple[int, int], ...]:
    """Add the half-open span *start*…*end*, merging spans that overlap or touch."""
    apart = [span for span in spans if span[1] < start or end < span[0]]
    merged = [span for span in spans if not (span[1] < start or end < span[0])]
    low = min([start, *(span[0] for span in merged)])
    high = max([end, *(span[1] for span in merged)])
    return tuple(sorted([*apart, (low, high)]))
