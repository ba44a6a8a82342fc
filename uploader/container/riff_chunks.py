"""Walks the chunks of a RIFF. ``riff`` and ``riff_index`` read an AVI through it.

A chunk is a kind of four characters, a size of 32 bits, its content, and a padding byte after an odd size. Writers
deviate, and whoever plays their files goes along with it, so this does too: zeros between two chunks are stepped over,
however many; and the padding byte may be missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from uploader.container.reader import LARGEST_PIECE, ZEROS, ContainerReader, is_zero

CHUNKS: Final = 24  # of one list that are looked at
_SAMPLE: Final = 4 * 1024  # bytes that are looked at where zeros are stepped over
_PADDING: Final = 16 * 1024 * 1024  # bytes of zeros that are read one by one; some writers align to a mebibyte
_SEARCHED: Final = 1024 * 1024  # bytes before zeros in which the last chunk is searched
_LISTS: Final = (b"RIFF", b"LIST")
_MEDIA: Final = re.compile(rb"[0-9A-Fa-f]{2}(?:db|dc|wb|tx|pc|iv|is|sb|__)|rec |ix[0-9A-Fa-f]{2}|[0-9A-Fa-f]{2}ix")
_KIND: Final = re.compile(rb"[A-Za-z0-9_ ]{4}")
_OTHERS: Final = (b"idx1", b"JUNK", b"LIST", b"RIFF")


class Chunk(NamedTuple):
    """The head of a chunk."""

    kind: bytes  # of a RIFF or LIST: its form
    start: int
    size: int
    end: int  # without the padding byte after an odd size


def chunk(source: ContainerReader, start: int) -> Chunk | None:
    """Read the chunk that begins at *start*; None when there is none."""
    head = source.at(start, 12)
    kind, size = head[:4], int.from_bytes(head[4:8], "little")
    if len(head) < 8 or not _KIND.fullmatch(kind):
        return None
    return Chunk(head[8:12] if kind in _LISTS else kind, start, size, start + 8 + size)


def chunks(source: ContainerReader, start: int, end: int) -> Iterator[Chunk]:
    """Yield the chunks from *start* to *end*, at most ``CHUNKS``; one that ends past *end* is the last."""
    offset = next_start(source, start, end)
    for _ in range(CHUNKS):
        found = chunk(source, offset) if offset + 8 <= end else None
        if found is None:
            return
        yield found
        offset = next_start(source, found.end, end)


def next_start(source: ContainerReader, offset: int, end: int) -> int:
    """Return where the chunk begins that follows one which ends at *offset*; *end* when only zeros follow."""
    if offset >= end:
        return offset
    if offset % 2 and not _is_known(source.at(offset, 4)):
        offset += 1
    return _after_zeros(source, offset, end) if source.at(offset, 1) == b"\0" else offset


def is_media(kind: bytes) -> bool:
    """True for the kinds of chunk that a ``movi`` list holds."""
    return _MEDIA.fullmatch(kind) is not None


def last_media(source: ContainerReader, start: int, zeros: int) -> Chunk | None:
    """Return the last chunk of media that begins before the *zeros* at the end of a list, or shortly in them.

    None when there is none within ``_SEARCHED`` bytes. *start*: where the media begin.
    """
    begin = max(start, zeros - _SEARCHED)
    data = source.at(begin, zeros + 8 - begin)
    for found in reversed(list(_MEDIA.finditer(data))):
        if (last := chunk(source, begin + found.start())) is not None and last.end <= source.size + 1:
            return last
    return None


def _is_known(kind: bytes) -> bool:
    return kind in _OTHERS or is_media(kind)


def _after_zeros(source: ContainerReader, start: int, end: int) -> int:
    """Return where the zeros end that begin at *start*; *end* when they reach it.

    Up to ``_PADDING`` of them are read. Behind those, samples that are ever farther apart find something else, and
    bisection finds where it begins.
    """
    low, length = start, _SAMPLE
    while low < min(start + _PADDING, end):
        rest = source.at(low, min(length, end - low))
        if not is_zero(rest):
            return low + len(rest) - len(rest.lstrip(b"\0"))
        low, length = low + len(rest), min(4 * length, LARGEST_PIECE)
    step = 0
    while low < end:  # everything that was looked at from ``start`` to ``low`` is zero
        place = min(low + step, max(low, end - _SAMPLE))
        sample = source.at(place, min(_SAMPLE, end - place))
        if not is_zero(sample):
            return _end_of_zeros(source, low, place + len(sample))
        low, step = place + len(sample), 2 * step or _PADDING
    return end


def _end_of_zeros(source: ContainerReader, low: int, high: int) -> int:
    """Return where the zeros end that begin at *low*; before *high* there is something else."""
    while high - low > ZEROS:
        middle = (low + high) // 2
        if is_zero(source.at(middle, min(_SAMPLE, high - middle))):
            low = middle
        else:
            high = middle + _SAMPLE
    rest = source.at(low, high - low)
    return low + len(rest) - len(rest.lstrip(b"\0"))
