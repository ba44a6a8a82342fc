"""Reads Matroska and WebM: the elements of RFC 8794 (EBML) and RFC 9559.

A file is an EBML header and one Segment, which holds everything else. A Void is a placeholder element.

Detected: a Segment of known size that ends past the end of the file. A Segment of unknown size has one of two reasons.
Either it was muxed live; then it is complete wherever it ends. Or the recorder was to fill in the size at closing, and
did not. The second case shows at the beginning of the Segment, in one of two ways. FFmpeg (and so OBS) and libwebm
leave a Void where the SeekHead should be, followed by an Info with a Duration or space for one. GStreamer leaves a
SeekHead whose positions are all ones. A live muxer writes nothing there, or a valid SeekHead; older FFmpeg with its
option ``live`` left the Void, but no space for a Duration. Also detected: zeros where a SeekHead points to; and 64 KiB
of zeros at the end that are not a Void, if the tracks are known to be compressed.

Not detected: a live-muxed file that was cut, unless its last Cluster within ``_TAIL`` bytes has a size and ends past
the end of the file; missing Cues or Duration, which are normal for such files; what follows the Segment.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from uploader.container.reader import SMALLEST_READ, ContainerReader, is_zero, only_zeros, past_the_end, zeros_from

_EBML: Final = 0x1A45DFA3
_SEGMENT: Final = 0x18538067
_SEEK_HEAD: Final = 0x114D9B74
_SEEK: Final = 0x4DBB
_SEEK_POSITION: Final = 0x53AC
_INFO: Final = 0x1549A966
_DURATION: Final = 0x4489
_TIMESTAMP_SCALE: Final = 0x2AD7B1
_CLUSTER: Final = b"\x1f\x43\xb6\x75"
_DEFAULT_SCALE: Final = 1_000_000  # ns in one unit of time, where Info does not say: RFC 9559, 5.1.2.9
_IN_CLUSTER: Final = (b"\xe7", b"\xbf", b"\xec")  # what a Cluster begins with: Timestamp, CRC-32, Void
_VOID: Final = 0xEC
_UNKNOWN: Final = (1 << 64) - 1  # a SeekPosition that was not filled in

_TAIL: Final = 192 * 1024  # bytes searched for the last Cluster
_CHILDREN: Final = 24  # elements inside another that are looked at
_RAW: Final = (b"A_PCM", b"V_UNCOMPRESSED", b"A_MS/ACM", b"V_MS/VFW", b"V_QUICKTIME", b"A_QUICKTIME")
_COMPRESSED: Final = (b"V_MPEG4", b"V_MPEGH", b"V_MPEGI", b"V_VP8", b"V_VP9", b"V_AV1", b"V_THEORA")

_NOT_CLOSED: Final = "the recorder did not close this file"
_NOT_COPIED: Final = "the copy is not complete"


class _Element(NamedTuple):
    id: int
    start: int
    payload: int  # offset of what follows the head
    size: int | None  # of the payload; None: unknown

    @property
    def end(self) -> int:
        """The offset after the element; when its size is unknown, the offset of its payload."""
        return self.payload + (self.size or 0)


def begins(head: bytes) -> bool:
    """True when the file begins with an EBML header."""
    return head[:4] == _EBML.to_bytes(4, "big")


def unfinished(source: ContainerReader) -> str:
    """Return why this file is not closed; "" when it is, or when that cannot be told."""
    header = _element(source, 0)
    if header is None or header.end >= source.size:
        return f"it ends inside its EBML header: {_NOT_COPIED}"
    segment = _element(source, header.end)
    if segment is None or segment.id != _SEGMENT:
        if is_zero(source.at(header.end + 12, SMALLEST_READ)):
            return only_zeros(header.end)
        short = source.size - header.end < 12
        return f"it ends inside the head of its Segment: {_NOT_COPIED}" if short else ""
    if segment.size is None:
        return _of_unknown_size(source, segment)
    if segment.end > source.size:
        return past_the_end("Segment", segment.end, source)
    if segment.size == 0 and segment.end < source.size:
        return f"its Segment has size 0: {_NOT_CLOSED}"
    return _dangling(source, segment) or _zeros(source, segment, segment.end)


def duration(source: ContainerReader) -> float | None:
    """Return the seconds that Info states: RFC 9559, 5.1.2.10. None when there is no Info before the first Cluster.

    None too when the Segment has no size. Its Duration is then a placeholder (libwebm writes 1.0), or was announced
    before anything was recorded.
    """
    header = _element(source, 0)
    segment = _element(source, header.end) if header else None
    if segment is None or segment.id != _SEGMENT:
        return None
    for child in _children(source, segment):
        if child.id == _INFO:
            return _stated(source, child)
        if child.id == int.from_bytes(_CLUSTER, "big"):
            return None  # behind it, each Cluster would cost a read
    return None


def _stated(source: ContainerReader, info: _Element) -> float | None:
    """Return the Duration of an Info element in seconds."""
    scale, units = _DEFAULT_SCALE, None
    for child in _children(source, info):
        value = source.at(child.payload, min(child.size or 0, 8))
        if child.id == _TIMESTAMP_SCALE:
            scale = int.from_bytes(value, "big")
        elif child.id == _DURATION and len(value) == child.size and len(value) in (4, 8):
            (units,) = struct.unpack(">f" if len(value) == 4 else ">d", value)
    return None if units is None else units * scale / 1e9


def _of_unknown_size(source: ContainerReader, segment: _Element) -> str:
    """Check a Segment of unknown size: return why it is not closed, "" when it may be live-muxed."""
    first = _element(source, segment.payload)
    if first is None:
        if segment.payload >= source.size:
            return f"its Segment is empty: {_NOT_CLOSED}"
        return only_zeros(segment.payload) if is_zero(source.at(segment.payload, 12)) else ""
    if first.id == _VOID and _awaits_duration(source, first.end):
        return f"its Segment has no size, and the space for its SeekHead is still empty: {_NOT_CLOSED}"
    if _UNKNOWN in _positions(source, first):
        return f"its Segment has no size, and its SeekHead no positions: {_NOT_CLOSED}"
    return _last_cluster(source) or _zeros(source, segment, source.size)


def _awaits_duration(source: ContainerReader, start: int) -> bool:
    """True when the Info at *start* has a Duration, or space for one."""
    info = _element(source, start)
    children = _children(source, info) if info and info.id == _INFO else ()
    return any(child.id in (_VOID, _DURATION) for child in children)


def _last_cluster(source: ContainerReader) -> str:
    """Return the reason for a file that ends inside its last Cluster, if that Cluster has a size."""
    start = max(0, source.size - _TAIL)
    data = source.at(start, _TAIL)
    found = data.rfind(_CLUSTER)
    while found >= 0:
        cluster = _element(source, start + found)
        if cluster and cluster.size is not None and source.at(cluster.payload, 1) in _IN_CLUSTER:
            return past_the_end("last Cluster", cluster.end, source) if cluster.end > source.size else ""
        found = data.rfind(_CLUSTER, 0, found)
    return ""


def _dangling(source: ContainerReader, segment: _Element) -> str:
    """Return the reason for a file whose SeekHead points to an element that is not written yet."""
    first = _element(source, segment.payload)
    for position in _positions(source, first) if first else ():
        offset = segment.payload + position
        if offset + 4 <= segment.end and is_zero(source.at(offset, 4)):
            return f"only zeros at byte {offset}, where its SeekHead names an element: {_NOT_COPIED}"
    return ""


def _positions(source: ContainerReader, seek_head: _Element) -> Iterator[int]:
    """Yield the positions in a SeekHead, relative to the Segment's payload: RFC 9559, 5.1.1; else nothing."""
    if seek_head.id != _SEEK_HEAD:
        return
    for seek in _children(source, seek_head):
        if seek.id == _SEEK:
            for child in _children(source, seek):
                if child.id == _SEEK_POSITION and child.size is not None and 0 < child.size <= 8:
                    yield int.from_bytes(source.at(child.payload, child.size), "big")


def _children(source: ContainerReader, parent: _Element) -> Iterator[_Element]:
    """Yield the elements inside an element of known size, at most ``_CHILDREN``."""
    offset = parent.payload
    for _ in range(_CHILDREN):
        child = _element(source, offset) if offset < min(parent.end, source.size) else None
        if child is None or child.size is None:
            return
        yield child
        offset = child.end


def _zeros(source: ContainerReader, segment: _Element, end: int) -> str:
    """Return the reason for a file that ends in zeros; none if they are a Void, or if its tracks may end in zeros."""
    head = source.head()
    # The codecs are named in the head. If that ends in zeros, not even the tracks were written.
    compressed = any(codec in head for codec in _COMPRESSED) or is_zero(head[SMALLEST_READ:])
    if not compressed or any(codec in head for codec in _RAW):
        return ""
    zeros = zeros_from(source, segment.payload, end)
    # A Void's own head has at most nine bytes and stands right before its zeros.
    if zeros is None or any(_is_void(source, start, end) for start in range(max(0, zeros - 9), zeros)):
        return ""
    return only_zeros(zeros)


def _is_void(source: ContainerReader, start: int, end: int) -> bool:
    """True when a Void element begins at *start* and ends at *end*."""
    element = _element(source, start)
    return element is not None and element.id == _VOID and element.size is not None and element.end == end


def _element(source: ContainerReader, start: int) -> _Element | None:
    """Read the head of the element at *start*: RFC 8794, 4 to 6. None when it is missing or cut."""
    head = source.at(start, 12)
    if not head or not head[0] >> 4:
        return None
    length = 9 - head[0].bit_length()
    width = 9 - head[length].bit_length() if len(head) > length and head[length] else 0
    if not width or len(head) < length + width:
        return None
    ones = (1 << 7 * width) - 1
    size = int.from_bytes(head[length : length + width], "big") & ones
    return _Element(int.from_bytes(head[:length], "big"), start, start + length + width, None if size == ones else size)
