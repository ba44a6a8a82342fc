"""Reads AVI: the chunks of RIFF, and the further RIFFs that OpenDML (version 1.02) adds after the first 1 GiB.

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
from itertools import islice
from typing import Final, NamedTuple

from uploader.container.reader import ContainerReader, is_zero, only_zeros, past_the_end

_NO_SIZE: Final = frozenset({0, 0xFFFFFFFF})
_RIFFS: Final = 16
_CHUNKS: Final = 24
_SLACK: Final = 8  # bytes by which the size of the first RIFF may be too large
_HAS_INDEX: Final = 0x10  # AVIF_HASINDEX in avih.dwFlags
_HDRL: Final = 64 * 1024  # bytes of the header list that are searched
_STREAMS: Final = 8
_LARGEST_DIFFERENCE: Final = 2.0  # s between the lengths of two streams; with more, at least one of them is wrong

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


def duration(source: ContainerReader) -> float | None:
    """Return the seconds that the header list states for the longest stream.

    Of the frames, avih and often strh count those of the first RIFF only; OpenDML's dmlh counts all. So a file
    of several RIFFs without dmlh states nothing, nor does one whose streams differ by more than
    ``_LARGEST_DIFFERENCE``.
    """
    riffs = list(islice(_riffs(source), 2))
    if not riffs or riffs[0].size in _NO_SIZE:
        return None
    first = _chunks(source, 12, min(riffs[0].end, source.size))
    hdrl = next((chunk for chunk in first if chunk.kind == b"hdrl"), None)
    lists = list(_inside_of(source, hdrl)) if hdrl else []
    total = next((_number(_content(source, dmlh), 0) for dmlh in _named(source, lists, b"odml", b"dmlh")), 0)
    if len(riffs) > 1 and not total:
        return None
    heads = (_content(source, strh) for strh in _named(source, lists, b"strl", b"strh"))
    lengths = [seconds for head in heads if (seconds := _stream_length(head, total))]
    if lengths:
        return max(lengths) if max(lengths) - min(lengths) <= _LARGEST_DIFFERENCE else None
    main = next((_content(source, chunk) for chunk in lists if chunk.kind == b"avih"), b"")
    return (total or _number(main, 16)) * _number(main, 0) / 1e6  # frames, microseconds for each


def _stream_length(head: bytes, total: int) -> float:
    """Return the seconds that a stream's header states; 0 when it states none. *total*: frames by dmlh, if not 0."""
    kind, scale, rate, length = head[:4], _number(head, 20), _number(head, 24), _number(head, 32)
    if kind not in (b"vids", b"auds", b"iavs") or not rate:
        return 0.0
    return (length if kind == b"auds" else total or length) * scale / rate


def _named(source: ContainerReader, lists: list[_Chunk], form: bytes, kind: bytes) -> Iterator[_Chunk]:
    """Yield the first chunk of a kind in each list of a form."""
    for outer in lists:
        if outer.kind == form:
            yield from islice((chunk for chunk in _inside_of(source, outer) if chunk.kind == kind), 1)


def _inside_of(source: ContainerReader, outer: _Chunk) -> Iterator[_Chunk]:
    """Yield the chunks in a list."""
    return _chunks(source, outer.start + 12, min(outer.end, source.size))


def _content(source: ContainerReader, chunk: _Chunk) -> bytes:
    """Return the first bytes of a chunk, enough for the fields that are read."""
    return source.at(chunk.start + 8, min(chunk.size, 56))


def _number(data: bytes, offset: int) -> int:
    """Return the 32-bit number at *offset*; 0 when it is missing or cut."""
    value = data[offset : offset + 4]
    return int.from_bytes(value, "little") if len(value) == 4 else 0


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
