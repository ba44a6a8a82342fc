"""Reads Matroska and WebM: RFC 9559. ``ebml`` reads the elements, ``matroska_end`` finds the end.

A file is an EBML header and one Segment, which holds everything else. A Void is a placeholder element.

**A Segment of known size** must end within the file. A size that is too large does not matter if the Cues are whole
and everything from the Cluster that they name last up to the end of the file is, too.

**A Segment of unknown size** has one of two reasons. Either it was muxed live, by a browser for example; then it is
complete if it ends at the end of a Cluster, or of a block in a Cluster of unknown size: nothing more can be known. Or
the recorder was to fill in the size at closing, and did not. The second case shows at the beginning of the Segment, in
one of two ways. FFmpeg (and so OBS) and libwebm leave a Void where the SeekHead should be, followed by an Info with a
Duration or space for one. GStreamer leaves a SeekHead whose positions are all ones. A live muxer writes nothing there,
or a valid SeekHead; older FFmpeg with its option ``live`` left the Void, but no space for a Duration. Such a file is
``Playable``; and it is closed if it has Cues, which are written at closing.

Also detected: zeros where a SeekHead or the Cues point to; and 64 KiB of zeros at the end that are not a Void, if the
tracks are known to be compressed; 4 KiB of zeros at the end that lie in no whole element, whatever the tracks are.

Not detected: a live-muxed file that was cut exactly between two Clusters or blocks; missing Cues or Duration, which are
normal for such files; what follows a Segment of known size.

Reads: about 4 with Cues. A live-muxed file is walked by a read for each Cluster, or searched from its end for the last
Cluster, and a last Cluster of unknown size is read; some dozen reads, and a few times the size of a Cluster.
"""

from __future__ import annotations

import struct
from typing import Final

from uploader.container.ebml import (
    CLUSTER,
    CUES,
    EBML,
    INFO,
    SEGMENT,
    UNKNOWN,
    VOID,
    Element,
    children,
    element,
    number,
    seeks,
)
from uploader.container.endings import NOT_CLOSED, NOT_COPIED, clock_time, open_end
from uploader.container.matroska_end import End, begins_element, last_cluster, last_cued, named, timestamp, walk
from uploader.container.reader import (
    SAMPLE,
    SMALLEST_READ,
    ContainerReader,
    Playable,
    TooLong,
    is_zero,
    only_zeros,
    past_the_end,
    zeros_from,
)

_DURATION: Final = 0x4489
_TIMESTAMP_SCALE: Final = 0x2AD7B1
_DEFAULT_SCALE: Final = 1_000_000  # ns in one unit of time, where Info does not say: RFC 9559, 5.1.2.9
_SHORTEST: Final = 12  # bytes of the longest head of an element
_RAW: Final = (b"A_PCM", b"V_UNCOMPRESSED", b"A_MS/ACM", b"V_MS/VFW", b"V_QUICKTIME", b"A_QUICKTIME")
_COMPRESSED: Final = (b"V_MPEG4", b"V_MPEGH", b"V_MPEGI", b"V_VP8", b"V_VP9", b"V_AV1", b"V_THEORA")


def begins(head: bytes) -> bool:
    """True when the file begins with an EBML header."""
    return head[:4] == EBML.to_bytes(4, "big")


def unfinished(source: ContainerReader) -> str | Playable:
    """Return why this file is not closed; "" when it is, or when that cannot be told."""
    header = element(source, 0)
    if header is None or header.end >= source.size:
        return f"it ends inside its EBML header: {NOT_COPIED}"
    segment = element(source, header.end)
    if segment is None or segment.id != SEGMENT:
        if is_zero(source.at(header.end + 12, SMALLEST_READ)):
            return only_zeros(header.end)
        short = source.size - header.end < 12
        return f"it ends inside the head of its Segment: {NOT_COPIED}" if short else ""
    if segment.size is None:
        return _of_unknown_size(source, segment)
    if segment.end > source.size:
        return "" if _is_indexed(source, segment) else past_the_end("Segment", segment.end, source)
    if segment.size == 0 and segment.end < source.size:
        return _open(source, segment, f"its Segment has size 0: {NOT_CLOSED}")
    if _goes_on(source, segment):
        return _open(source, segment, f"its media go on behind the end of its Segment: {NOT_CLOSED}")
    return (
        _dangling(source, segment)
        or _zeros(source, segment, segment.end)
        or _of_cues(source, segment)
        or _zeros_at_its_end(source, segment)
    )


def duration(source: ContainerReader) -> float | None:
    """Return the seconds that Info states: RFC 9559, 5.1.2.10. None when there is no Info before the first Cluster.

    None too when the Segment has no size, or media go on behind it. Its Duration is then a placeholder (libwebm writes
    1.0), or was announced before all was recorded.
    """
    header = element(source, 0)
    segment = element(source, header.end) if header else None
    if segment is None or segment.id != SEGMENT or not segment.size or _goes_on(source, segment):
        return None
    info = _info(source, segment)
    return _stated(source, info) if info and info.end <= segment.end else None


def _stated(source: ContainerReader, info: Element) -> float | None:
    """Return the Duration of an Info element in seconds."""
    scale, units = _DEFAULT_SCALE, None
    for child in children(source, info):
        value = source.at(child.payload, min(child.size or 0, 8))
        if child.id == _TIMESTAMP_SCALE:
            scale = int.from_bytes(value, "big")
        elif child.id == _DURATION and len(value) == child.size and len(value) in (4, 8):
            (units,) = struct.unpack(">f" if len(value) == 4 else ">d", value)
    return None if units is None else units * scale / 1e9


def _goes_on(source: ContainerReader, segment: Element) -> bool:
    """True when a Cluster follows a Segment of known size: its recorder has counted what it had, and gone on."""
    behind = element(source, segment.end) if segment.end < source.size else None
    return behind is not None and behind.id == CLUSTER


def _of_unknown_size(source: ContainerReader, segment: Element) -> str | Playable:
    """Check a Segment of unknown size: return why it is not closed, "" when it may be live-muxed."""
    first = element(source, segment.payload)
    if first is None:
        if segment.payload >= source.size:
            return f"its Segment is empty: {NOT_CLOSED}"
        return only_zeros(segment.payload) if is_zero(source.at(segment.payload, 12)) else ""
    if first.id == VOID and _awaits_duration(source, first.end):
        fault = f"its Segment has no size, and the space for its SeekHead is still empty: {NOT_CLOSED}"
        return _open(source, segment, fault)
    if UNKNOWN in (position for _, position in seeks(source, first)):
        return _open(source, segment, f"its Segment has no size, and its SeekHead no positions: {NOT_CLOSED}")
    return _zeros(source, segment, source.size) or _live(source, segment)


def _awaits_duration(source: ContainerReader, start: int) -> bool:
    """True when the Info at *start* has a Duration, or space for one."""
    info = element(source, start)
    inside = children(source, info) if info and info.id == INFO else ()
    return any(child.id in (VOID, _DURATION) for child in inside)


def _live(source: ContainerReader, segment: Element) -> str:
    """Check a live-muxed file by its end."""
    cluster = last_cluster(source, segment.payload)
    if cluster is None:
        end = walk(source, segment.payload, source.size)
        rest = source.at(end.offset, _SHORTEST)
        begun = end.last is not None or not rest or begins_element(rest)
        return f"it ends before its first Cluster: {NOT_COPIED}" if begun else ""
    end = walk(source, cluster.start, source.size)
    if end.last is not None:
        name = "Cluster" if end.last.id == CLUSTER else "block" if cluster.size is None else "element"
        return past_the_end(f"last {name}", end.last.end, source)
    if begins_element(source.at(end.offset, _SHORTEST)):
        return f"it ends inside the head of an element at byte {end.offset}: {NOT_COPIED}"
    return _unwritten(source, end, source.size)


def _unwritten(source: ContainerReader, end: End, limit: int) -> str:
    """Return the reason for a file that has zeros in place of an element at its *end*, or in its last Cluster."""
    if end.cluster is not None and end.cluster.size is not None:
        inside = walk(source, end.cluster.payload, end.cluster.end, inside=True)
        if is_zero(source.at(inside.offset, min(_SHORTEST, end.cluster.end - inside.offset))):
            return only_zeros(inside.offset)
    if limit - end.offset <= SAMPLE:
        return ""  # a few zeros behind a whole Cluster are padding
    rest, last = source.at(end.offset, SAMPLE), source.at(limit - SAMPLE, SAMPLE)
    return only_zeros(end.offset) if is_zero(rest) and is_zero(last) else ""


def _open(source: ContainerReader, segment: Element, fault: str) -> str | Playable:
    """Return the finding for a file that its recorder did not close; "" when it has Cues up to its end."""
    try:
        cluster = last_cluster(source, segment.payload)
        if cluster is None:
            return fault
        end = walk(source, cluster.start, source.size)
        if end.cues and end.offset == source.size:
            return ""
        return open_end(source, segment.payload, fault, _place(source, segment, cluster))
    except TooLong:
        return fault  # it was never closed, however long it is


def _place(source: ContainerReader, segment: Element, cluster: Element) -> str:
    """Say up to where a file plays: the time of its last Cluster."""
    units, info = timestamp(source, cluster), _info(source, segment)
    if units is None or info is None:
        return ""
    stated = [number(source, child) for child in children(source, info) if child.id == _TIMESTAMP_SCALE]
    scale = (stated[0] if stated else None) or _DEFAULT_SCALE
    return f"{clock_time(units * scale / 1e9)} (byte {source.size})"


def _info(source: ContainerReader, segment: Element) -> Element | None:
    """Return the Info before the first Cluster; behind it, each Cluster would cost a read."""
    for child in children(source, segment._replace(size=source.size - segment.payload)):
        if child.id in (INFO, CLUSTER):
            return child if child.id == INFO else None
    return None


def _is_indexed(source: ContainerReader, segment: Element) -> bool:
    """True when the Cues are whole, and so is everything from the Cluster that they name last to the end of the file.

    Nothing that a SeekHead names may be missing.
    """
    places = named(source, segment)
    found = [element(source, offset) for _, offset in places]
    if any(one is None or one.id != seek_id for one, (seek_id, _) in zip(found, places, strict=True)):
        return False
    cues = next((one for one in found if one and one.id == CUES), None) or _cues_at_end(source, segment)
    if cues is None or cues.size is None or cues.end > source.size:
        return False
    start = last_cued(source, segment, cues)
    cluster = element(source, start) if start is not None else None
    if cluster is None or cluster.id != CLUSTER:
        return False
    end = walk(source, cluster.start, source.size)
    return end.last is None and end.offset == source.size


def _cues_at_end(source: ContainerReader, segment: Element) -> Element | None:
    """Return the Cues behind the last Cluster, which no SeekHead names; None when there are none."""
    cluster = last_cluster(source, segment.payload)
    following = element(source, cluster.end) if cluster and cluster.size is not None else None
    while following and following.size is not None and following.id != CUES:
        following = element(source, following.end)
    return following if following and following.size is not None else None


def _dangling(source: ContainerReader, segment: Element) -> str:
    """Return the reason for a file whose SeekHead points to an element that is not written yet."""
    for _, offset in named(source, segment):
        if offset + 4 <= segment.end and is_zero(source.at(offset, 4)):
            return f"only zeros at byte {offset}, where its SeekHead names an element: {NOT_COPIED}"
    offset = segment.payload
    for child in children(source, segment):
        if child.id == CLUSTER:
            return ""
        offset = child.end
    return _unwritten(source, End(offset), segment.end)


def _of_cues(source: ContainerReader, segment: Element) -> str:
    """Return the reason for a file whose Cues name media that are not written yet."""
    found = [element(source, offset) for seek_id, offset in named(source, segment) if seek_id == CUES]
    cues = found[0] if found else None
    if cues is None or cues.id != CUES or cues.size is None or cues.end > segment.end:
        return ""
    start = last_cued(source, segment, cues)
    if start is None or start >= segment.end:
        return ""
    if is_zero(source.at(start, 4)):
        return f"only zeros at byte {start}, where its Cues name a Cluster: {NOT_COPIED}"
    in_front = cues.start < start  # else they were written after all media
    return _unwritten(source, walk(source, start, segment.end), segment.end) if in_front else ""


def _zeros_at_its_end(source: ContainerReader, segment: Element) -> str:
    """Return the reason for a file that ends in zeros which are in no whole element; "" for silence or a Void.

    They may begin inside the head of an element, so that it looks like another one.
    """
    if not is_zero(source.at(max(segment.payload, segment.end - SAMPLE), SAMPLE)):
        return ""
    cluster = last_cluster(source, segment.payload)
    end = walk(source, segment.payload if cluster is None else cluster.start, segment.end)
    inside = end.cluster
    if inside is not None and inside.size is not None and inside.end <= segment.end:
        stop = walk(source, inside.payload, inside.end, inside=True).offset
        if stop < inside.end:
            return only_zeros(stop)
    return only_zeros(end.offset) if segment.end - end.offset > SAMPLE or end.last is not None else ""


def _zeros(source: ContainerReader, segment: Element, end: int) -> str:
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
    found = element(source, start)
    return found is not None and found.id == VOID and found.size is not None and found.end == end
