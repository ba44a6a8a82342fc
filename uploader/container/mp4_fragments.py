"""Reads the fragments of MP4 and MOV: ISO/IEC 14496-12, 8.8 and 8.16.

A fragment is a ``moof`` (its index) and an ``mdat`` (its media), perhaps with ``styp``, ``sidx``, ``emsg``, ``prft`` or
``free`` around them. This module finds the last ones, however many there are, and tells what is known of each: where
its samples end, and when.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from uploader.container.mp4_boxes import KNOWN, Box, Walk, box_at, content, descend, each, inside
from uploader.container.reader import (
    FEW,
    ZEROS,
    ContainerReader,
    TooLong,
    forward_is_cheaper,
    is_zero,
    pieces_from_end,
    zeros_from,
)

_HEAD: Final = b"moof\0\0\0\x10mfhd"
_MOOF: Final = 256 * 1024  # bytes of a ``moof`` that are read
_KEPT: Final = 64  # boxes that are kept of those passed
_TRACKS: Final = 64  # children of a ``moof``
_RUNS: Final = 1024  # children of a ``traf``
_INDEX: Final = 1024 * 1024  # bytes of an ``mfra`` that are read
_TRAILER: Final = 64 * 1024  # bytes that may follow an ``mfra``
_BEFORE: Final = 16  # fragments before the last one that a search from the end takes in, if they are at hand


@dataclass(frozen=True)
class Defaults:
    """What ``trex`` says of the samples of a track: 8.8.3."""

    duration: int = 0
    size: int = 0


@dataclass(frozen=True)
class Run:
    """One track's part of a fragment: ``traf``."""

    track: int
    start: int | None  # in units of the track's timescale; None: not stated
    duration: int  # in the same units
    end: int | None  # offset after the last sample; None: not known
    samples: int
    ends: list[tuple[int, int]]  # offset and size of the first and the last sample; none: not known


@dataclass
class Tail:
    """The last boxes of a fragmented file."""

    boxes: list[Box] = field(default_factory=list)  # the last ``_KEPT`` of those passed
    stop: int = 0  # offset after the last box
    shift: int = 0  # bytes by which the last ``mdat`` of a wrong size was mended
    fragments: int = 0  # passed so far
    first: int = 0  # offset of the first fragment
    earlier: bool = False  # whether fragments lie before these boxes: they were reached from the end

    def take(self, box: Box) -> None:
        """Pass a box."""
        self.boxes.append(box)
        del self.boxes[:-_KEPT]
        self.first = box.start if box.kind == b"moof" and not self.fragments else self.first
        self.fragments += box.kind == b"moof"

    def last(self, kind: bytes) -> Box | None:
        """Return the last box of a kind."""
        return next((box for box in reversed(self.boxes) if box.kind == kind), None)


class Index(NamedTuple):
    """A whole ``mfra`` at the end of the file: where it begins, and the ``moof`` boxes that it names."""

    start: int
    named: list[int]


def index_at_end(source: ContainerReader) -> Index | None:
    """Return the ``mfra`` that a recorder writes when it closes a file: 8.8.9 to 8.8.11. It ends with its own length.

    Up to ``_TRAILER`` bytes of something else may follow it.
    """
    begin = max(0, source.size - 16)
    data = source.at(begin, 16)
    if data[:8] != b"\0\0\0\x10mfro":
        begin = max(0, source.size - _TRAILER)
        data = source.at(begin, _TRAILER)
    found = data.rfind(b"\0\0\0\x10mfro")
    while found >= 0:
        end = begin + found + 16
        length = int.from_bytes(source.at(end - 4, 4), "big")
        box = box_at(source, end - length, source.size) if 24 <= length <= end else None
        if box is not None and (box.kind, box.end) == (b"mfra", end):
            return Index(box.start, list(_named(source, box)))
        found = data.rfind(b"\0\0\0\x10mfro", 0, found)
    return None


def _named(source: ContainerReader, mfra: Box) -> Iterator[int]:
    """Yield the offsets of the ``moof`` boxes in the first track of an ``mfra``, in order: 8.8.10."""
    tfra = inside(source, mfra, 2).first(b"tfra")
    head = content(source, tfra, 16)
    if tfra is None or len(head) < 16:
        return
    wide = 8 if head[0] == 1 else 4
    lengths = head[11]
    each_entry = 2 * wide + sum(1 + (lengths >> shift & 3) for shift in (4, 2, 0))
    count = min(int.from_bytes(head[12:16], "big"), (min(tfra.end - tfra.payload, _INDEX) - 16) // each_entry)
    data = source.at(tfra.payload + 16, max(0, count) * each_entry)
    for at in range(0, len(data) - each_entry + 1, each_entry):
        yield int.from_bytes(data[at + wide : at + 2 * wide], "big")


def announced_end(source: ContainerReader, front: Walk) -> int:
    """Return where the media end by the ``sidx`` boxes before the first fragment: 8.16.3; 0 when there are none."""
    end = 0
    for box in front.boxes:
        if box.kind == b"moof":
            break
        head = content(source, box, 32) if box.kind == b"sidx" else b""
        start = 28 if head[:1] == b"\1" else 20  # after the times and the first offset
        if len(head) < start + 4 or box.end > source.size:
            continue
        count = int.from_bytes(head[start + 2 : start + 4], "big")
        first = int.from_bytes(head[start - 8 : start] if head[0] else head[16:20], "big")
        entries = source.at(box.payload + start + 4, min(count * 12, box.end - box.payload - start - 4))
        sizes = (int.from_bytes(entries[at : at + 4], "big") & 0x7FFFFFFF for at in range(0, len(entries), 12))
        end = max(end, box.end + first + sum(sizes))
    return end


def tail_of(source: ContainerReader, front: Walk, end: int) -> Tail | None:
    """Return the last boxes before offset *end*, reached from the front or from the end; None when neither is possible.

    *front*: the first boxes of the file.
    """
    passed = Tail([], front.stop, front.shift)
    for box in front.boxes:
        passed.take(box)
    if _walk_on(source, passed, end, FEW):
        return passed
    average = (passed.stop - passed.first) / max(1, passed.fragments)
    if not forward_is_cheaper(source, passed.stop, max(1.0, average)) and (
        found := _from_end(source, passed.stop, end)
    ):
        return found
    try:
        return passed if _walk_on(source, passed, end, None) else None
    except TooLong:
        return None


def _walk_on(source: ContainerReader, tail: Tail, end: int, limit: int | None) -> bool:
    """Walk on from the end of *tail*, about *limit* fragments. True when no further box follows before *end*."""
    at = Walk([], tail.stop, tail.shift)
    for number, box in enumerate(each(source, at, end)):
        tail.take(box)
        tail.stop, tail.shift = at.stop, at.shift
        if limit is not None and (tail.fragments > limit or number > 4 * limit):
            return False
    return True


def _from_end(source: ContainerReader, start: int, end: int) -> Tail | None:
    """Search from *end* back to *start* for the last fragment; return the boxes from there on."""
    zeros = zeros_from(source, start, end) if is_zero(source.at(end - ZEROS, ZEROS)) else None
    starts = last_moofs(source, start, zeros or end)  # reserved space is not searched
    for at in reversed(starts):  # the first whose boxes follow one another up to the last
        tail = Tail([], at, earlier=True)
        if _walk_on(source, tail, end, None) and any(box.start == starts[0] for box in tail.boxes):
            return tail
    return None


def last_moofs(source: ContainerReader, start: int, end: int, limit: int | None = None) -> list[int]:
    """Search from *end* back to *start* for a fragment; return its offset, and those of some before it at hand.

    The last one comes first. *limit*: bytes that are searched, if fewer than the check allows.
    """
    least = start if limit is None else max(start, end - limit)
    for begin, data in pieces_from_end(source, least, len(_HEAD) + 4, end):
        starts: list[int] = []
        found = data.rfind(_HEAD)
        while found >= 0 and len(starts) < _BEFORE:
            at = begin + found - 4
            if at >= start and (moof := whole_moof(source, at)) and (not starts or moof.end <= starts[-1]):
                starts.append(at)
            found = data.rfind(_HEAD, 0, found + len(_HEAD) - 1)
        if starts:
            return starts
    return []


def whole_moof(source: ContainerReader, start: int) -> Box | None:
    """Return the ``moof`` at *start* if its boxes fill it exactly, and a known box follows it; else None.

    Four letters alone may be media.
    """
    moof = box_at(source, start, source.size)
    if moof is None or moof.kind != b"moof" or moof.end > source.size:
        return None
    children = inside(source, moof, _TRACKS)
    if children.stop != moof.end or not (children.first(b"traf") or len(children.boxes) == 1):
        return None
    following = source.at(moof.end, 8)
    return moof if len(following) < 8 or following[4:8] in KNOWN else None


def defaults_of(source: ContainerReader, in_moov: Walk) -> dict[int, Defaults]:
    """Return the defaults of each track, by its number."""
    found = {}
    for trex in inside(source, in_moov.first(b"mvex")).all(b"trex"):
        data = content(source, trex, 24)
        if len(data) == 24:
            numbers = [int.from_bytes(data[at : at + 4], "big") for at in range(4, 24, 4)]
            found[numbers[0]] = Defaults(numbers[2], numbers[3])
    return found


def runs_of(source: ContainerReader, moof: Box, defaults: dict[int, Defaults]) -> list[Run] | None:
    """Return the parts of a fragment, one for each track; None when they cannot be read."""
    data = source.at(moof.start, min(moof.end - moof.start, _MOOF))
    if moof.end - moof.start > _MOOF or len(data) < moof.end - moof.start:
        return None
    memory = ContainerReader(lambda offset, length: data[offset : offset + length], len(data))
    runs: list[Run] = []
    base = 0
    try:
        for box in inside(memory, Box(b"moof", 0, 8, len(data)), _TRACKS).all(b"traf"):
            run = _run(memory, box, moof.start, base, defaults)
            if run is None:
                return None
            runs.append(run)
            base = run.end - moof.start if run.end is not None else base
    except TooLong:
        return None
    return runs


def _run(source: ContainerReader, traf: Box, moof: int, base: int, defaults: dict[int, Defaults]) -> Run | None:
    """Read a ``traf``: 8.8.6 to 8.8.8, 8.8.12. *moof*: its offset in the file; *base*: where the run before it ended.

    None when its head is missing, or it contradicts itself.
    """
    boxes = inside(source, traf, _RUNS)
    head = content(source, boxes.first(b"tfhd"), 40)
    if len(head) < 8:
        return None
    flags, track = int.from_bytes(head[1:4], "big"), int.from_bytes(head[4:8], "big")
    known = defaults.get(track, Defaults())
    at, values = 8, {}
    for flag, width in ((1, 8), (2, 4), (8, 4), (0x10, 4)):
        if flags & flag:
            values[flag] = int.from_bytes(head[at : at + width], "big")
            at += width
    known = Defaults(values.get(8, known.duration), values.get(0x10, known.size))
    origin = values[1] if flags & 1 else moof if flags & 0x20000 or not base else moof + base
    time = content(source, boxes.first(b"tfdt"), 12)
    start = int.from_bytes(time[4:12] if time[:1] == b"\1" else time[4:8], "big") if len(time) >= 8 else None
    duration, samples, end, sized = 0, 0, origin, True
    ends: list[tuple[int, int]] = []
    for trun in boxes.all(b"trun"):
        found = _samples(source, trun, known)
        if found is None:
            return None
        end = origin + found.offset if found.offset is not None else end
        sized = sized and bool(found.size or not found.samples)
        if found.samples and found.size:
            ends = [*ends[:1], (end, found.first), (end + found.size - found.last, found.last)]
        end, duration, samples = end + found.size, duration + found.duration, samples + found.samples
    return Run(track, start, duration, end if sized else None, samples, ends)


class _Samples(NamedTuple):
    """What one ``trun`` says: its first sample's offset, and how many samples of what size and duration it has."""

    offset: int | None
    samples: int
    size: int
    duration: int
    first: int  # size of the first sample
    last: int


def _samples(source: ContainerReader, trun: Box, defaults: Defaults) -> _Samples | None:
    """Read a ``trun``; None when it is shorter than it must be."""
    data = content(source, trun, _MOOF)
    if len(data) < 8:
        return None
    flags, count = int.from_bytes(data[1:4], "big"), int.from_bytes(data[4:8], "big")
    at, offset = 8, None
    if flags & 1:
        offset, at = int.from_bytes(data[8:12], "big", signed=True), 12
    at += 4 if flags & 4 else 0
    fields = [flag for flag in (0x100, 0x200, 0x400, 0x800) if flags & flag]
    width = 4 * len(fields)
    if len(data) < at + count * width:
        return None

    def values(flag: int) -> list[int] | None:
        if flag not in fields:
            return None  # the default counts
        first = at + 4 * fields.index(flag)
        return [int.from_bytes(data[place : place + 4], "big") for place in range(first, at + count * width, width)]

    sizes, durations = values(0x200), values(0x100)
    return _Samples(
        offset,
        count,
        count * defaults.size if sizes is None else sum(sizes),
        count * defaults.duration if durations is None else sum(durations),
        sizes[0] if sizes else defaults.size,
        sizes[-1] if sizes else defaults.size,
    )


def sequence_of(source: ContainerReader, moof: Box) -> int:
    """Return the number that a fragment has: 8.8.5; 0 when it has none."""
    return int.from_bytes(content(source, descend(source, moof, b"mfhd"), 8)[4:8], "big")
