"""Gives the container checks bounded reads of a file, and searches it from its end.

A read may be a round trip to a share. So reads are few and not tiny, and the head and the last reads are kept. Every
check reads through ``ContainerReader``, which enforces the limits of a check.

**The end of a long row of structures** (the fragments of an MP4, the clusters of a Matroska file) is reached in one of
two ways. Forward: one read for each structure. Backward: the file is searched from its end for the head of the last
structure (``pieces_from_end``). ``forward_is_cheaper`` chooses by the average size of the structures. A file of S bytes
with N structures costs the smaller of N reads and a few times S / N bytes. So the worst case grows with the square root
of S: with ``READ_COST`` bytes for a read, about 900 reads, or 230 MiB, for 200 GiB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

Read = Callable[[int, int], bytes]  # (offset, length): at most that many bytes, fewer only at the end of the file

# The limits of one check. On a slow share (5 ms for a read, 50 MB/s) each is about five seconds.
MAX_READS: Final = 1024
MAX_BYTES: Final = 256 * 1024 * 1024
MAX_LOOKS: Final = 100_000  # looks at bytes, read before or not: less than a second of processor time
HEAD_SIZE: Final = 16 * 1024  # bytes read first, and kept
SMALLEST_READ: Final = 4 * 1024  # bytes read at least
SAMPLE: Final = 4 * 1024  # bytes that are looked at where zeros are searched
ZEROS: Final = 64 * 1024  # bytes of zeros that count as not written; compressed media do not end in so many
READ_COST: Final = 256 * 1024  # bytes that a slow share delivers in the time that a read takes on top
FIRST_PIECE: Final = 64 * 1024  # bytes searched first at the end of a file
LARGEST_PIECE: Final = 1024 * 1024  # bytes held in memory at a time
FEW: Final = 16  # structures that are always walked to by a read each; it is their average size that tells
_RESERVE: Final = 16 * 1024 * 1024  # bytes that a search from the end leaves for other reads
_WINDOWS: Final = 8  # reads that are kept; of those longer than ``FIRST_PIECE`` the last one
_SEARCHED: Final = 2  # structures of average size that a search from the end is expected to read


class TooLong(Exception):  # noqa: N818  # stays in this package: not an error, the file counts as closed
    """The check would take more reads, bytes or looks than are allowed."""


class BecameShorter(Exception):  # noqa: N818  # stays in this package: becomes a reason
    """The file has become shorter since the check began."""


class Playable(NamedTuple):
    """The finding that a recorder never closed its file, while everything before byte N is whole and plays.

    A check returns it instead of a plain reason when nothing in the file says that there were ever more bytes than its
    last, open structure announces: the recorder died, or is still at work. A copy that stopped at such a place looks
    the same. Where the file states a length or an index that its bytes do not reach, the finding is a plain reason.
    """

    reason: str  # one clause for an operator; says up to where it plays, where that is known


class ContainerReader:
    """Reads parts of one file of *size* bytes, within the limits of one check."""

    def __init__(self, read: Read, size: int) -> None:
        """Begin a check. *read*: reads from the file; *size*: of the file, in bytes, when it was found."""
        self.size = max(0, size)
        self._read = read
        self.reads, self.bytes, self._looks = 0, 0, 0  # so far
        self._head = b""
        self._windows: list[tuple[int, bytes]] = []  # the last reads but the head: their offsets and bytes

    def head(self) -> bytes:
        """Return the first bytes, at most ``HEAD_SIZE``."""
        if not self._head:
            self._head = self._fetch(0, HEAD_SIZE)
        return self._head

    def at(self, offset: int, length: int) -> bytes:
        """Return *length* bytes from *offset* on; fewer only at the end. Raises ``TooLong``, ``BecameShorter``."""
        length = min(length, self.size - offset)
        if length <= 0 or offset < 0:
            return b""
        self._looks += 1
        if self._looks > MAX_LOOKS:
            raise TooLong
        if offset + length <= len(self._head):
            return self._head[offset : offset + length]
        for start, window in reversed(self._windows):
            if start <= offset and offset + length <= start + len(window):
                return window[offset - start : offset - start + length]
        window = self._fetch(offset, max(length, SMALLEST_READ))
        self._windows = [kept for kept in self._windows[1 - _WINDOWS :] if len(kept[1]) <= FIRST_PIECE]
        self._windows.append((offset, window))
        return window[:length]

    def _fetch(self, offset: int, length: int) -> bytes:
        length = min(length, self.size - offset)
        if length <= 0:
            return b""  # an empty file has no head
        if self.reads >= MAX_READS or self.bytes + length > MAX_BYTES:
            raise TooLong
        self.reads += 1
        self.bytes += length
        data = self._read(offset, length)[:length]
        if len(data) < length:
            raise BecameShorter
        return data


def pieces_from_end(
    source: ContainerReader, start: int, overlap: int, end: int | None = None
) -> Iterator[tuple[int, bytes]]:
    """Yield the file from *end* (without it: its end) back to offset *start*, in pieces: the offset and bytes of each.

    The first has ``FIRST_PIECE`` bytes, each further one four times as many, up to ``LARGEST_PIECE``. Each goes on for
    *overlap* bytes into the one before it, so that what is searched for may lie across the border. What lies in the
    piece at hand costs no further read. It ends early when so many bytes are read that only ``_RESERVE`` are left.
    """
    after = source.size if end is None else end
    length = FIRST_PIECE
    while after > start and source.bytes + length + _RESERVE <= MAX_BYTES:
        begin = max(start, after - length)
        yield begin, source.at(begin, min(after + overlap, source.size) - begin)
        after, length = begin, min(4 * length, LARGEST_PIECE)


def forward_is_cheaper(source: ContainerReader, offset: int, average: float) -> bool:
    """True when a read for each structure reaches the end sooner than a search from the end.

    *offset*: where the next structure begins. *average*: bytes of a structure, as seen so far; more than 0.
    """
    left = (source.size - offset) / average
    return left <= FEW or (left < MAX_READS - source.reads and left * READ_COST <= _SEARCHED * average)


def is_zero(data: bytes) -> bool:
    """True when *data* is not empty and all zeros."""
    return bool(data) and not data.strip(b"\0")


def zeros_from(source: ContainerReader, start: int, end: int) -> int | None:
    """Return where the zeros begin that end at *end*; None when there are fewer than ``ZEROS`` of them.

    *start*: where to stop looking. When *start* to *end* is shorter than ``ZEROS``, all of it must be zeros; when it is
    shorter than ``SAMPLE``, the result is None. A recorder that reserves space, and a copy that sets its size
    first, leave such zeros. Their beginning is found by bisection, from samples: it is exact when the bytes before it
    were written in order and have no long runs of zeros.
    """
    length = min(ZEROS, end - start)
    if length < SAMPLE or not is_zero(source.at(end - SAMPLE, SAMPLE)) or not is_zero(source.at(end - length, length)):
        return None
    low, high = start, end - length
    try:
        while high - low > ZEROS:
            middle = (low + high) // 2
            if is_zero(source.at(middle, min(SAMPLE, high - middle))):
                high = middle
            else:
                low = middle
        return low + len(source.at(low, high - low).rstrip(b"\0"))
    except TooLong:
        return high


def past_the_end(what: str, end: int, source: ContainerReader) -> str:
    """Return the reason for a file that ends before *what*, which should end at offset *end*."""
    missing = end - source.size
    return f"its {what} ends {missing} byte{'s' * (missing != 1)} past the end of the file: the copy is not complete"


def only_zeros(offset: int) -> str:
    """Return the reason for a file that has only zeros from *offset* on."""
    return f"only zeros from byte {offset} on: the recorder or the copy has reserved this space and not written it"
