"""Checks AVI: the chunks of RIFF, and the further RIFFs that OpenDML (version 1.02) adds after the first 1 GiB.

Detected: a RIFF or ``movi`` list that has no size yet (0 or all ones: FFmpeg and most recorders fill it in at closing)
or ends past the end of the file; an ``idx1`` index that the header announces and that is missing, cut or all zeros; an
OpenDML index that points past the end of the file, or to zeros.

Not detected: what follows the last RIFF; RIFFs beyond the first ``_RIFFS`` unless the OpenDML index names them; a first
RIFF whose size is up to 8 bytes too large (some recorders count its head) while its ``idx1`` is whole. The media in
``movi`` are not read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from uploader.container.reader import ContainerReader, is_zero, only_zeros, past_the_end

_NO_SIZE: Final = frozenset({0, 0xFFFFFFFF})
_RIFFS: Final = 16
_CHUNKS: Final = 24
_SLACK: Final = 8  # bytes by which the size of the first RIFF may be too large
_HAS_INDEX: Final = 0x10  # AVIF_HASINDEX in avih.dwFlags
_HDRL: Final = 64 * 1024  # bytes of the header list that are searched
_STREAMS: Final = 8

_NOT_CLOSED: Final = "the recorder did not close this file"
_NOT_COPIED: Final = "the copy is not complete"


class _Chunk(NamedTuple):
    kind: bytes  # of a RIFF or LIST: its form
    start: int
    size: int
    end: int  # without the padding byte after an odd size


def begins(head: bytes) -> bool:
    """True when the file begins with a RIFF of the form AVI."""
    return head[:4] == b"RIFF" and head[8:12] == b"AVI "


def unfinished(source: ContainerReader) -> str:
    """Return why this file is not closed; "" when it is, or when that cannot be told."""
    riffs = list(_riffs(source))
    for number, riff in enumerate(riffs, start=1):
        if riff.size in _NO_SIZE:
            return f"its RIFF header {f'number {number} ' * (number > 1)}has no size yet: {_NOT_CLOSED}"
        if riff.end > source.size + (_SLACK if number == 1 else 0):
            return past_the_end("RIFF" if number == 1 else f"RIFF number {number}", riff.end, source)
    return _inside(source, riffs)


def _inside(source: ContainerReader, riffs: list[_Chunk]) -> str:
    """Check the chunks of the first RIFF."""
    chunks = list(_chunks(source, 12, min(riffs[0].end, source.size)))
    found = {chunk.kind: chunk for chunk in reversed(chunks)}  # the first of each kind
    movi, idx1 = found.get(b"movi"), found.get(b"idx1")
    stop = _even(chunks[-1].end) if chunks else 12
    if movi and movi.size in _NO_SIZE:
        return f"its movi list has no size yet: {_NOT_CLOSED}"
    if chunks and chunks[-1].end > source.size:
        return past_the_end(f"{_name(chunks[-1])} chunk", chunks[-1].end, source)
    if idx1 is None and stop < riffs[0].end and is_zero(source.at(stop, 16)):
        return only_zeros(stop)
    if movi is None:
        return f"no movi list: {_NOT_COPIED}" if len(chunks) < _CHUNKS else ""
    if idx1 and idx1.size >= 16 and is_zero(source.at(idx1.end - 16, 16)):
        return f"its idx1 chunk ends in zeros: {_NOT_COPIED}"
    return _by_header(source, riffs[0], found.get(b"hdrl"), has_index=idx1 is not None)


def _by_header(source: ContainerReader, riff: _Chunk, hdrl: _Chunk | None, *, has_index: bool) -> str:
    """Check what the header list announces: an index, and OpenDML's index of indexes."""
    if hdrl is None:
        return ""
    header = source.at(hdrl.start, min(_HDRL, hdrl.end - hdrl.start))
    entries = list(_super_index(header))
    for offset, size in entries:
        if offset + size > source.size:
            return past_the_end("OpenDML index", offset + size, source)
        if is_zero(source.at(offset, 8)):
            return f"only zeros at byte {offset}, where its OpenDML index names a chunk: {_NOT_COPIED}"
    announced = header[12:16] == b"avih" and bool(int.from_bytes(header[32:36], "little") & _HAS_INDEX)
    if announced and not has_index and not entries:
        return f"no idx1 chunk, which its header announces: {_NOT_CLOSED}"
    return past_the_end("RIFF", riff.end, source) if riff.end > source.size and not has_index else ""


def _super_index(header: bytes) -> Iterator[tuple[int, int]]:
    """Yield offset and size of the last chunk that each stream's ``indx`` names: OpenDML, 3.0."""
    found = -1
    for _ in range(_STREAMS):
        found = header.find(b"indx", found + 1)
        if found < 0 or found + 32 > len(header):
            return
        words, subtype, kind, used = struct.unpack_from("<HBBI", header, found + 8)
        last = found + 32 + 16 * (used - 1)
        if (words, subtype, kind) == (4, 0, 0) and used and last + 16 <= len(header):
            yield struct.unpack_from("<QI", header, last)


def _riffs(source: ContainerReader) -> Iterator[_Chunk]:
    """Yield the consecutive RIFFs, up to one that has no size or ends past the end of the file."""
    offset = 0
    for _ in range(_RIFFS):
        chunk = _chunk(source, offset)
        if chunk is None or source.at(offset, 4) != b"RIFF":
            return
        yield chunk
        if chunk.size in _NO_SIZE or chunk.end >= source.size:
            return
        offset = _even(chunk.end)


def _chunks(source: ContainerReader, start: int, end: int) -> Iterator[_Chunk]:
    """Yield the chunks from *start* to *end*; one that ends past *end* is the last."""
    offset = start
    for _ in range(_CHUNKS):
        chunk = _chunk(source, offset) if offset + 8 <= end else None
        if chunk is None:
            return
        yield chunk
        offset = _even(chunk.end)


def _chunk(source: ContainerReader, start: int) -> _Chunk | None:
    """Read the chunk that begins at *start*; None when there is none."""
    head = source.at(start, 12)
    kind, size = head[:4], int.from_bytes(head[4:8], "little")
    if len(head) < 8 or not kind.isalnum():
        return None
    return _Chunk(head[8:12] if kind in (b"RIFF", b"LIST") else kind, start, size, start + 8 + size)


def _even(offset: int) -> int:
    """Round up to an even offset, where the next chunk begins."""
    return offset + offset % 2


def _name(chunk: _Chunk) -> str:
    return chunk.kind.decode("latin-1") if chunk.kind.isalnum() else "last"
