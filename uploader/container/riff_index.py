"""Reads the two kinds of index of an AVI, and tells whether they are whole and what they name is there.

``idx1`` follows the ``movi`` list of the first RIFF: 16 bytes for each chunk of media. OpenDML has ``indx`` chunks in
the header list: each names the ``ix##`` chunks of its stream, which name the media. Either is written at closing, so
where it is whole, the recorder has closed its file, whatever the sizes elsewhere say.

The offsets in ``idx1`` count from the form of the ``movi`` list, or from the beginning of the file; some writers are a
few bytes off. What they name is compared by its kind, so such writers do no harm.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from uploader.container.endings import NOT_COPIED
from uploader.container.reader import ContainerReader, is_zero, past_the_end
from uploader.container.riff_chunks import Chunk, chunk, chunks, is_media

_ENTRY: Final = 16  # bytes of an entry of idx1
_LAST: Final = 8  # entries of idx1 that are looked up in the media
_NEAR: Final = 12  # bytes by which an entry's offset may be off, either way
_TAIL: Final = 64 * 1024  # bytes at the end of the file that are searched for an idx1
_STREAMS: Final = 8
_STANDARD: Final = 1  # bIndexType of an index of media: OpenDML, 3.0
_SUPER: Final = 0  # bIndexType of an index of indexes


class Finding(NamedTuple):
    """What an index shows. Neither whole nor faulty: it is missing, or its writer's habits are not known."""

    whole: bool = False
    fault: str = ""  # why the file is not closed, one clause


# idx1


class _Entry(NamedTuple):
    """An entry of ``idx1``."""

    kind: bytes
    offset: int
    size: int


def of_idx1(source: ContainerReader, idx1: Chunk, movi: Chunk) -> Finding:
    """Check an ``idx1`` that lies within the file: whether the media that its last entries name are there."""
    if idx1.size >= _ENTRY and is_zero(source.at(idx1.end - _ENTRY, _ENTRY)):
        return Finding(fault=f"its idx1 chunk ends in zeros: {NOT_COPIED}")
    count = min(_LAST, idx1.size // _ENTRY)
    first = _entry(source.at(idx1.start + 8, _ENTRY), 0) if count else None
    last = source.at(idx1.start + 8 + (idx1.size // _ENTRY - count) * _ENTRY, count * _ENTRY)
    bases = [movi.start + 8, 0]
    bases = [base for base in bases if first and _is_there(source, first, base, idx1.start)] or bases
    for number in reversed(range(count)):
        entry = _entry(last, number * _ENTRY)
        if any(_is_there(source, entry, base, idx1.start) for base in bases):
            return Finding(whole=True)
        if entry.size and all(is_zero(source.at(base + entry.offset, 8)) for base in bases):
            return Finding(fault=_nothing_at(bases[0] + entry.offset, "idx1 chunk"))
    return Finding()


def find_idx1(source: ContainerReader, movi: Chunk) -> Chunk | None:
    """Search the end of the file for an ``idx1`` that the sizes of RIFF and ``movi`` do not lead to."""
    start = max(movi.start, source.size - _TAIL)
    tail = source.at(start, _TAIL)
    found = tail.rfind(b"idx1")
    while found >= 0:
        idx1 = chunk(source, start + found)
        if idx1 and idx1.size >= _ENTRY and idx1.end <= source.size:
            return idx1
        found = tail.rfind(b"idx1", 0, found)
    return _behind_the_last_entry(source, tail, movi)


def _behind_the_last_entry(source: ContainerReader, tail: bytes, movi: Chunk) -> Chunk | None:
    """Find an ``idx1`` that begins before *tail*: it follows the chunk that its last entry names."""
    written = len(tail.rstrip(b"\0"))
    for end in range(written, min(written + _ENTRY, len(tail) + 1)):
        if end < _ENTRY:
            continue
        kind, offset, _ = _entry(tail, end - _ENTRY)
        for base in (movi.start + 8, 0):
            named = chunk(source, base + offset) if is_media(kind) else None
            if named is None or named.kind != kind:
                continue
            for later in chunks(source, named.start, source.size):
                if later.kind == b"idx1" and later.end <= source.size:
                    return later
    return None


def _entry(data: bytes, start: int) -> _Entry:
    """Read an entry of ``idx1``."""
    kind, _, offset, size = struct.unpack_from("<4s3I", data, start)
    return _Entry(kind, offset, size)


def _is_there(source: ContainerReader, entry: _Entry, base: int, end: int) -> bool:
    """True when the chunk of an entry begins near *base* and its offset, and ends by *end*."""
    place = base + entry.offset
    begin = max(12, place - _NEAR)
    near = source.at(begin, place + _NEAR + 4 - begin) if is_media(entry.kind) and place < end else b""
    found = chunk(source, begin + near.find(entry.kind)) if entry.kind in near else None
    # of a list of chunks, "rec ", only the form was found
    return found is not None and (entry.kind == b"rec " or found.end <= end + 1)


# OpenDML


class Named(NamedTuple):
    """The last ``ix##`` chunk that a stream's ``indx`` names: where it begins, its size, and how many it names."""

    offset: int
    size: int
    indexes: int


def super_index(header: bytes) -> Iterator[Named]:
    """Yield what each ``indx`` of the header list names last: OpenDML, 3.0."""
    found = -1
    for _ in range(_STREAMS):
        found = header.find(b"indx", found + 1)
        if found < 0 or found + 32 > len(header):
            return
        words, subtype, kind, used = struct.unpack_from("<HBBI", header, found + 8)
        last = found + 32 + 16 * (used - 1)
        if (words, subtype, kind) == (4, 0, _SUPER) and used and last + 16 <= len(header):
            offset, size = struct.unpack_from("<QI", header, last)
            yield Named(offset, size, used)


def of_opendml(source: ContainerReader, entries: list[Named]) -> Finding:
    """Check the last index of each stream, and whether the media that it names last are there."""
    whole = bool(entries)
    for named in entries:
        if named.offset + named.size > source.size:
            return Finding(fault=past_the_end("OpenDML index", named.offset + named.size, source))
        if is_zero(source.at(named.offset, 8)):
            return Finding(fault=_nothing_at(named.offset, "OpenDML index"))
        index = chunk(source, named.offset)
        if index is None or b"ix" not in index.kind:
            whole = False  # something else: not judged
            continue
        if index.end > source.size:
            return Finding(fault=past_the_end("OpenDML index", index.end, source))
        finding = _of_standard_index(source, index)
        if finding.fault:
            return finding
        whole = whole and finding.whole
    return Finding(whole=whole)


def _of_standard_index(source: ContainerReader, index: Chunk) -> Finding:
    """Check what an ``ix##`` chunk names last. Offset and size of an entry are those of the content of a chunk."""
    head = source.at(index.start + 8, min(24, index.size))
    if len(head) < 24:
        return Finding()
    words, _, kind, used, _, base = struct.unpack_from("<HBBI4sQ", head)
    last = index.start + 32 + 4 * words * (used - 1)
    if kind != _STANDARD or words not in (2, 3) or not used or last + 4 * words > index.end:
        return Finding()
    offset, size = struct.unpack("<II", source.at(last, 8))
    place, length = base + offset, size & 0x7FFFFFFF  # the first bit says that it is no key frame
    if place + length > source.size:
        return Finding(fault=past_the_end("last chunk, by its OpenDML index,", place + length, source))
    if is_zero(source.at(place - 8, 8)):
        return Finding(fault=_nothing_at(place - 8, "OpenDML index"))
    return Finding(whole=True)


def _nothing_at(offset: int, index: str) -> str:
    return f"only zeros at byte {offset}, where its {index} names a chunk: {NOT_COPIED}"
