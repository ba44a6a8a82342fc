"""Reads AVI: the chunks of RIFF, and the further RIFFs that OpenDML (version 1.02) adds after the first 1 GiB.

**An index that is whole decides** (``riff_index``): it is written at closing. Then the sizes of RIFF and ``movi`` may
be anything: some writers count a head twice, add a constant, or never fill them in. Without one, these sizes must fit.

Detected: an index that is cut, ends in zeros, or names media past the end of the file or zeros; an ``idx1`` that the
header announces and that is missing; a RIFF or ``movi`` list that has no size yet (0 or all ones: FFmpeg and most
recorders fill it in at closing; GStreamer ends both before the media) or ends past the end of the file; zeros at the
end of a ``movi`` without an index, if no chunk holds them.

Not detected: what follows the last RIFF. A file without an index whose sizes were never filled in is ``Playable``: its
recorder died, or has written to a pipe and could not return to them. The media in ``movi`` are not read.

Reads: about 4, and one for each of the first ``_WALKED`` RIFFs. To the end of a longer file the OpenDML index leads;
without it, there is one for each RIFF.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from uploader.container.endings import NOT_CLOSED, NOT_COPIED, open_end
from uploader.container.reader import (
    SAMPLE,
    ContainerReader,
    Playable,
    is_zero,
    only_zeros,
    past_the_end,
    zeros_from,
)
from uploader.container.riff_chunks import CHUNKS, Chunk, chunk, chunks, is_media, last_media, next_start
from uploader.container.riff_index import Finding, Named, find_idx1, of_idx1, of_opendml, super_index

_NO_SIZE: Final = frozenset({0, 0xFFFFFFFF})
_WALKED: Final = 16  # RIFFs that are looked at before the OpenDML index is followed
_SLACK: Final = 8  # bytes by which the size of the first RIFF may be too large; some recorders count its head
_HAS_INDEX: Final = 0x10  # AVIF_HASINDEX in avih.dwFlags
_HDRL: Final = 64 * 1024  # bytes of the header list that are searched
_LARGEST_DIFFERENCE: Final = 2.0  # s between the lengths of two streams; with more, at least one of them is wrong
_FORM: Final = 4  # bytes of a list without anything in it


class _Avi(NamedTuple):
    """The first RIFF of a file."""

    riff: Chunk
    chunks: Sequence[Chunk]
    header: bytes  # the beginning of the header list

    def first(self, kind: bytes) -> Chunk | None:
        """Return the first chunk of a kind."""
        return next((one for one in self.chunks if one.kind == kind), None)

    @property
    def announces_idx1(self) -> bool:
        """True when the main header says that there is an ``idx1``."""
        return self.header[12:16] == b"avih" and bool(_number(self.header, 32) & _HAS_INDEX)

    @property
    def smallest_idx1(self) -> int:
        """How many bytes an ``idx1`` has at least, with an entry for each frame that the main header states."""
        return 8 + 16 * _number(self.header, 36)


def begins(head: bytes) -> bool:
    """True when the file begins with a RIFF of the form AVI."""
    return head[:4] == b"RIFF" and head[8:12] == b"AVI "


def unfinished(source: ContainerReader) -> str | Playable:
    """Return why this file is not closed; "" when it is, or when that cannot be told."""
    avi = _first_riff(source)
    opendml = list(super_index(avi.header))
    movi = avi.first(b"movi")
    sizes = _of_riffs(source, opendml) or _of_chunks(source, avi)
    index = _of_index(source, avi, opendml, searched=bool(sizes) or avi.announces_idx1)
    behind = _of_last_riff(source, max(named.offset for named in opendml)) if opendml else ""
    if index.whole and not behind:
        return ""
    fault = sizes or behind or index.fault or _without_index(source, avi, opendml)
    first = chunk(source, movi.start + 12) if movi and fault.endswith(NOT_CLOSED) else None
    return open_end(source, first.start, fault) if first and is_media(first.kind) else fault


def duration(source: ContainerReader) -> float | None:
    """Return the seconds that the header list states for the longest stream.

    Of the frames, avih and often strh count those of the first RIFF only; OpenDML's dmlh counts all. So a file
    of several RIFFs without dmlh states nothing, nor does one whose streams differ by more than
    ``_LARGEST_DIFFERENCE``.
    """
    riffs = list(islice(_riffs(source), 2))
    if not riffs or riffs[0].size in _NO_SIZE:
        return None
    first = list(chunks(source, 12, min(riffs[0].end, source.size)))
    hdrl, movi = (next((one for one in first if one.kind == kind), None) for kind in (b"hdrl", b"movi"))
    if movi and _goes_on(source, movi):
        return None  # what the headers state is older than that
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


def _named(source: ContainerReader, lists: list[Chunk], form: bytes, kind: bytes) -> Iterator[Chunk]:
    """Yield the first chunk of a kind in each list of a form."""
    for outer in lists:
        if outer.kind == form:
            yield from islice((chunk for chunk in _inside_of(source, outer) if chunk.kind == kind), 1)


def _inside_of(source: ContainerReader, outer: Chunk) -> Iterator[Chunk]:
    """Yield the chunks in a list."""
    return chunks(source, outer.start + 12, min(outer.end, source.size))


def _content(source: ContainerReader, chunk: Chunk) -> bytes:
    """Return the first bytes of a chunk, enough for the fields that are read."""
    return source.at(chunk.start + 8, min(chunk.size, 56))


def _number(data: bytes, offset: int) -> int:
    """Return the 32-bit number at *offset*; 0 when it is missing or cut."""
    value = data[offset : offset + 4]
    return int.from_bytes(value, "little") if len(value) == 4 else 0


def _first_riff(source: ContainerReader) -> _Avi:
    """Read the first RIFF, which ``begins`` has seen."""
    size = int.from_bytes(source.at(4, 4), "little")
    riff = Chunk(b"AVI ", 0, size, 8 + size)
    end = source.size if size in _NO_SIZE else min(riff.end, source.size)
    found = list(chunks(source, 12, end))
    hdrl = next((one for one in found if one.kind == b"hdrl"), None)
    header = source.at(hdrl.start, min(_HDRL, hdrl.end - hdrl.start)) if hdrl else b""
    return _Avi(riff, found, header)


def _of_index(source: ContainerReader, avi: _Avi, opendml: list[Named], *, searched: bool) -> Finding:
    """Check ``idx1`` and the OpenDML index. *searched*: an ``idx1`` may be where the sizes do not lead."""
    movi, idx1 = avi.first(b"movi"), avi.first(b"idx1")
    if idx1 and idx1.end > source.size:
        return Finding(fault=past_the_end("idx1 chunk", idx1.end, source))
    if movi and idx1 is None and searched:
        idx1 = find_idx1(source, movi)
    further = of_opendml(source, opendml)
    first = of_idx1(source, idx1, movi) if idx1 and movi else Finding()
    if first.fault or further.fault:
        return Finding(fault=first.fault or further.fault)
    if idx1 is None and avi.announces_idx1 and avi.riff.end >= source.size + avi.smallest_idx1:
        return Finding()  # what is missing, by the size of the RIFF, may be the idx1
    several = next(islice(_riffs(source), 1, None), None) is not None
    return Finding(whole=further.whole or (first.whole and not several))


def _of_riffs(source: ContainerReader, opendml: list[Named]) -> str:
    """Check the sizes of all RIFFs, or of the first ``_WALKED`` if there is an OpenDML index."""
    for number, riff in enumerate(_riffs(source), start=1):
        name = "RIFF" if number == 1 else f"RIFF number {number}"
        if riff.size in _NO_SIZE:
            return f"its {name.replace('RIFF', 'RIFF header')} has no size yet: {NOT_CLOSED}"
        if riff.end > source.size + (_SLACK if number == 1 else 0):
            return past_the_end(name, riff.end, source)
        if number == _WALKED and opendml:
            break
    return ""


def _of_last_riff(source: ContainerReader, index: int) -> str:
    """Check the sizes of the RIFFs that begin after the last *index* which the OpenDML index names."""
    later = next((found for found in chunks(source, index, source.size) if source.at(found.start, 4) == b"RIFF"), None)
    for riff in _riffs(source, later.start) if later else ():
        if riff.size in _NO_SIZE:
            return f"its last RIFF header has no size yet: {NOT_CLOSED}"
        if riff.end > source.size:
            return past_the_end("last RIFF", riff.end, source)
    return ""


def _of_chunks(source: ContainerReader, avi: _Avi) -> str:
    """Check the sizes of the chunks in the first RIFF."""
    movi, last = avi.first(b"movi"), avi.chunks[-1] if avi.chunks else None
    if movi and movi.size in _NO_SIZE:
        return f"its movi list has no size yet: {NOT_CLOSED}"
    if movi and _goes_on(source, movi):
        return f"its media go on behind the end of its movi list: {NOT_CLOSED}"
    if last and last.end > source.size:
        name = last.kind.decode("ascii") if last.kind.isalnum() else "last"  # of a list, it may be any bytes
        return past_the_end(f"{name} chunk", last.end, source)
    stop = last.end + last.end % 2 if last else 12
    end = min(avi.riff.end, source.size)
    awaited = movi is None or (avi.first(b"idx1") is None and avi.announces_idx1)
    if awaited and stop < end and is_zero(source.at(stop, 16)) and next_start(source, stop, end) == end:
        return only_zeros(stop)
    if movi is None:
        return f"no movi list: {NOT_COPIED}" if len(avi.chunks) < CHUNKS else ""
    return ""


def _goes_on(source: ContainerReader, movi: Chunk) -> bool:
    """True when media follow the list that should hold them."""
    behind = chunk(source, next_start(source, movi.end, source.size)) if movi.end < source.size else None
    return behind is not None and is_media(behind.kind)


def _without_index(source: ContainerReader, avi: _Avi, opendml: list[Named]) -> str:
    """Check a file whose sizes fit, and which has no index that was recognised as whole."""
    movi, idx1 = avi.first(b"movi"), avi.first(b"idx1")
    if avi.announces_idx1 and idx1 is None and not opendml:
        return f"no idx1 chunk, which its header announces: {NOT_CLOSED}"
    if idx1 is None and avi.riff.end > source.size:
        return past_the_end("RIFF", avi.riff.end, source)
    if movi is None or idx1 is not None or opendml:
        return ""
    return _unwritten(source, movi) if movi.size > _FORM else f"its movi list is empty: {NOT_CLOSED}"


def _unwritten(source: ContainerReader, movi: Chunk) -> str:
    """Return the reason for a ``movi`` that ends in zeros which no chunk holds: black or silence is in one."""
    end = min(movi.end, source.size)
    zeros = zeros_from(source, movi.start, end)
    if zeros is None and is_zero(source.at(max(movi.start, end - SAMPLE), min(SAMPLE, end - movi.start))):
        zeros = end - SAMPLE
    last = last_media(source, movi.start + 12, zeros) if zeros is not None else None
    return only_zeros(zeros) if zeros is not None and last and last.end < end - 1 else ""


def _riffs(source: ContainerReader, start: int = 0) -> Iterator[Chunk]:
    """Yield the consecutive RIFFs, up to one that has no size or ends past the end of the file."""
    offset = start
    while (riff := chunk(source, offset)) and source.at(offset, 4) == b"RIFF":
        yield riff
        if riff.size in _NO_SIZE or riff.end >= source.size:
            return
        offset = next_start(source, riff.end, source.size)
