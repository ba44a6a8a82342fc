"""Gives the container checks bounded reads of a file, and searches for zeros at its end.

A read may be a round trip to a share. So reads are few and not tiny, and the head and the last read are kept. Every
check reads through ``ContainerReader``, which enforces the limits of a check.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

Read = Callable[[int, int], bytes]  # (offset, length): at most that many bytes, fewer only at the end of the file

MAX_READS: Final = 64
MAX_BYTES: Final = 512 * 1024
HEAD_SIZE: Final = 16 * 1024  # bytes read first, and kept
SMALLEST_READ: Final = 4 * 1024  # bytes read at least
ZEROS: Final = 64 * 1024  # bytes of zeros that count as not written; compressed media do not end in so many


class TooLong(Exception):  # noqa: N818  # stays in this package: not an error, the file counts as closed
    """The check would take more reads or bytes than are allowed."""


class BecameShorter(Exception):  # noqa: N818  # stays in this package: becomes a reason
    """The file has become shorter since the check began."""


class ContainerReader:
    """Reads parts of one file of *size* bytes, within the limits of one check."""

    def __init__(self, read: Read, size: int) -> None:
        """Begin a check. *read*: reads from the file; *size*: of the file, in bytes, when it was found."""
        self.size = max(0, size)
        self._read = read
        self._reads, self._bytes = 0, 0
        self._head = b""
        self._start, self._window = 0, b""  # the last read but the head: its offset and its bytes

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
        if offset + length <= len(self._head):
            return self._head[offset : offset + length]
        within = offset - self._start
        if within < 0 or within + length > len(self._window):
            self._start, self._window, within = offset, self._fetch(offset, max(length, SMALLEST_READ)), 0
        return self._window[within : within + length]

    def _fetch(self, offset: int, length: int) -> bytes:
        length = min(length, self.size - offset)
        if length <= 0:
            return b""  # an empty file has no head
        if self._reads >= MAX_READS or self._bytes + length > MAX_BYTES:
            raise TooLong
        self._reads += 1
        self._bytes += length
        data = self._read(offset, length)[:length]
        if len(data) < length:
            raise BecameShorter
        return data


def is_zero(data: bytes) -> bool:
    """True when *data* is not empty and all zeros."""
    return bool(data) and not data.strip(b"\0")


def zeros_from(source: ContainerReader, start: int, end: int) -> int | None:
    """Return where the zeros begin that end at *end*; None when there are fewer than ``ZEROS`` of them.

    *start*: where to stop looking. When *start* to *end* is shorter than ``ZEROS``, all of it must be zeros; when it is
    shorter than ``SMALLEST_READ``, the result is None. A recorder that reserves space, and a copy that sets its size
    first, leave such zeros. Their beginning is found by bisection, from samples: it is exact when the bytes before it
    were written in order and have no long runs of zeros.
    """
    length = min(ZEROS, end - start)
    if (
        length < SMALLEST_READ
        or not is_zero(source.at(end - SMALLEST_READ, SMALLEST_READ))
        or not is_zero(source.at(end - length, length))
    ):
        return None
    low, high = start, end - length
    try:
        while high - low > ZEROS:
            middle = (low + high) // 2
            if is_zero(source.at(middle, min(SMALLEST_READ, high - middle))):
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
