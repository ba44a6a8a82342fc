"""Finds the end of a Matroska file: the last Cluster, and what follows it.

Two ways lead there. The Cues, the index, name the Cluster of the last key frame. A file without Cues is walked forward
by the sizes of its Clusters, or searched from its end for the last one, whichever costs less (``reader``). A Cluster of
unknown size, as browsers write it, is walked block by block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from uploader.container.ebml import (
    CLUSTER,
    CUES,
    EBML,
    INFO,
    SEEK_HEAD,
    SEGMENT,
    Element,
    children,
    element,
    number,
    parse,
    seeks,
)
from uploader.container.reader import FEW, ContainerReader, forward_is_cheaper, pieces_from_end

_CLUSTER: Final = CLUSTER.to_bytes(4, "big")
_TIMESTAMP, _CRC, _VOID = 0xE7, 0xBF, 0xEC
_HEAD: Final = 12
_STEP: Final = 256 * 1024  # bytes read at once where the blocks of a Cluster are walked
_CUE_POINT, _TRACK_POSITIONS, _CLUSTER_POSITION = 0xBB, 0xB7, 0xF1
_CUES_TAIL: Final = 4 * 1024  # bytes at the end of the Cues in which the last CuePoint is searched
_TOP: Final = 4  # bytes of the ids of elements at top level; those inside a Cluster are shorter
# What a file is made of: 5.1, top level and inside a Cluster. Other bytes may be anything.
_KNOWN: Final = frozenset(
    {
        *(EBML, SEGMENT, SEEK_HEAD, INFO, CLUSTER, CUES, 0x1654AE6B, 0x1254C367, 0x1043A770, 0x1941A469),
        *(_TIMESTAMP, _CRC, _VOID, 0xA3, 0xA0, 0xA7, 0xAB, 0xAF, 0x5854),
    }
)


class End(NamedTuple):
    """Where a row of elements ends."""

    offset: int  # after the last whole element
    last: Element | None = None  # the one that ends past the end of the row; None: it ends between two
    cues: bool = False  # there were Cues
    cluster: Element | None = None  # the last one


def walk(source: ContainerReader, start: int, limit: int, *, inside: bool = False) -> End:
    """Walk the elements from *start* to *limit*. A Segment and a Cluster of unknown size are entered.

    *inside*: *start* is inside a Cluster.
    """
    offset, cues, cluster, ahead = start, False, None, _Ahead(source, limit)
    while offset < limit:
        found = parse(ahead.head(offset, near=inside), offset)
        if found is None or found.id not in _KNOWN:
            break
        cluster = found if found.id == CLUSTER else cluster
        if found.size is None and found.id in (SEGMENT, CLUSTER):
            offset, inside = found.payload, found.id == CLUSTER
            continue
        if found.size is None or found.end > limit:
            return End(offset, found, cues, cluster)
        inside = inside and found.id < 1 << 8 * (_TOP - 1)
        cues = cues or found.id == CUES
        offset = found.end
    return End(offset, None, cues, cluster)


def begins_element(rest: bytes) -> bool:
    """True when *rest*, the last bytes of a file, are the beginning of the head of an element."""
    ids = [one.to_bytes((one.bit_length() + 7) // 8, "big") for one in _KNOWN]
    return 0 < len(rest) < _HEAD and any(rest[: len(one)] == one[: len(rest)] for one in ids)


class _Ahead:
    """Reads heads of elements up to *limit*: inside a Cluster, where the next ones are near, many with one read."""

    def __init__(self, source: ContainerReader, limit: int) -> None:
        self._source, self._limit = source, limit
        self._start, self._data = 0, b""

    def head(self, offset: int, *, near: bool) -> bytes:
        """Return the bytes of a head. *near*: whether more are read, for those that follow."""
        within = offset - self._start
        if not 0 <= within <= len(self._data) - _HEAD:
            length = min(_STEP if near else _HEAD, self._limit - offset)
            self._start, self._data, within = offset, self._source.at(offset, length), 0
        return self._data[within : within + _HEAD]


def last_cluster(source: ContainerReader, start: int) -> Element | None:
    """Return the last Cluster of a file whose Segment's payload begins at *start*; None when there is none.

    Raises ``TooLong`` when the limits of the check are reached.
    """
    last, begun = None, source.size
    for number_of, found in enumerate(_forward(source, start)):
        if found.id == CLUSTER:
            begun = min(begun, found.start)
            last = found
        if found.size is None or found.end >= source.size:
            break
        average = (found.end - begun) / max(1, number_of)
        if number_of >= FEW and average > 0 and not forward_is_cheaper(source, found.end, average):
            break
    else:
        return last
    if last is not None and last.size is not None and last.end >= source.size:
        return last
    return _search(source, start) or last


def _forward(source: ContainerReader, start: int) -> Iterator[Element]:
    """Yield the elements from *start* on, up to one of unknown size or one that ends past the end of the file."""
    offset = start
    while (found := element(source, offset)) is not None:
        yield found
        offset = found.end


def _search(source: ContainerReader, start: int) -> Element | None:
    """Search the file from its end for a Cluster."""
    for begin, data in pieces_from_end(source, start, 2 * _HEAD):
        found = data.rfind(_CLUSTER)
        while found >= 0:
            cluster = parse(data[found : found + _HEAD], begin + found)
            if cluster and _is_cluster(data[cluster.payload - begin : cluster.payload - begin + _HEAD]):
                return cluster
            found = data.rfind(_CLUSTER, 0, found)
    return None


def _is_cluster(payload: bytes) -> bool:
    """True when the first bytes of a payload are those of a Cluster; media may contain its id by chance."""
    first = parse(payload, 0)
    if first is None or first.size is None:
        return False
    return (
        (first.id == _TIMESTAMP and 0 < first.size <= 8) or (first.id == _CRC and first.size == 4) or first.id == _VOID
    )


def timestamp(source: ContainerReader, cluster: Element) -> int | None:
    """Return a Cluster's Timestamp, in units of the TimestampScale; None when it is not among its first elements."""
    offset = cluster.payload
    for _ in range(3):
        child = element(source, offset)
        if child is None or child.size is None:
            return None
        if child.id == _TIMESTAMP:
            return number(source, child)
        offset = child.end
    return None


def named(source: ContainerReader, segment: Element) -> list[tuple[int, int]]:
    """Return what the SeekHeads name: ids and offsets in the file. One SeekHead may name a second one."""
    first = element(source, segment.payload)
    found = list(seeks(source, first)) if first else []
    for seek_id, position in list(found):
        second = element(source, segment.payload + position) if seek_id == SEEK_HEAD else None
        if second and second.end <= source.size and second.start != segment.payload:
            found += [seek for seek in seeks(source, second) if seek not in found]
    return [(seek_id, segment.payload + position) for seek_id, position in found]


def last_cued(source: ContainerReader, segment: Element, cues: Element) -> int | None:
    """Return the offset of the last Cluster that the Cues name; None when that cannot be found."""
    start = max(cues.payload, cues.end - _CUES_TAIL)
    tail = source.at(start, cues.end - start)
    for at in range(len(tail) - 1, -1, -1):  # the last CuePoint ends with the Cues
        point = parse(tail[at : at + _HEAD], start + at) if tail[at] == _CUE_POINT else None
        places = _positions(source, point) if point and point.size and point.end == cues.end else ()
        if found := [segment.payload + place for place in places]:
            return max(found)
    return None


def _positions(source: ContainerReader, point: Element) -> Iterator[int]:
    """Yield the Clusters that a CuePoint names, for each track, from the Segment's payload on."""
    for track in children(source, point):
        if track.id != _TRACK_POSITIONS:
            continue
        for child in children(source, track):
            position = number(source, child) if child.id == _CLUSTER_POSITION else None
            if position is not None:
                yield position
