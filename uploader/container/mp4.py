"""Reads MP4 and MOV: the boxes of ISO/IEC 14496-12 and of Apple's QuickTime File Format.

An MP4 file is a row of boxes. ``moov`` holds the index, ``mdat`` the media; a fragmented file has many pairs of
``moof`` (index) and ``mdat``. A chunk, in this module, is a run of samples in ``mdat``, not a chunk of an upload.

Detected: something at top level that is not a box; a box that ends past the end of the file; a missing ``moov``, which
a recorder writes last; a missing ``mdat``; a ``moov`` that was only partly copied, with zeros where a box or the offset
of a chunk should be. Also 64 KiB of zeros at the end of a file whose ``mdat`` comes last (faststart). That counts only
if every track's codec is known to compress: silence in PCM and black in raw video are zeros too. A fragmented file may
not end inside a fragment, nor between ``moof`` and ``mdat``, nor in zeros.

Not detected: a cut exactly between two fragments; holes that are not at the end; what follows a whole ``moov`` and
``mdat``, if it is zeros or not a box (cameras append data of their own); a cut ``mdat`` that by definition reaches to
the end of the file (size 0) with its ``moov`` before it. A file with more than ``_BOXES`` boxes is checked at its end:
its ``mfra`` index, which is written at closing, or the last ``moof`` within ``_TAIL`` bytes. It counts as closed when
it has neither.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from uploader.container.reader import ContainerReader, is_zero, only_zeros, past_the_end, zeros_from

_FIRST: Final = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp"})
_KNOWN: Final = _FIRST | {b"moof", b"mfra", b"sidx", b"uuid", b"udta", b"meta", b"emsg", b"prft", b"pdin", b"ssix"}
_PARENTS: Final = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl"})
_LEVELS: Final = 5  # moov, trak, mdia, minf, stbl
_BEGINNING: Final = 4  # the first boxes, among which a fragmented file has its moov
_BOXES: Final = 32  # at top level; of files with more the end is checked instead
_CHILDREN: Final = 32
_FIELDS: Final = 36  # bytes of a header box, up to and including its duration
_TAIL: Final = 192 * 1024  # bytes searched for the last moof
# A hole in ``moov``: no box, and zeros from the ninth byte on. Up to 40 bytes are read; fewer than 16 may be a
# QuickTime terminator.
_LEAST_HOLE, _HOLE = 16, 40
_KIND_BYTES: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 -_.")

# Sample entries that never hold long runs of zeros. DNxHD, ProRes, MPEG-2 and Motion JPEG may pad their frames.
_COMPRESSED: Final = frozenset(
    b"avc1 avc2 avc3 avc4 hvc1 hev1 dvh1 dvhe vvc1 mp4v s263 vp08 vp09 av01 mp4a ac-3 ec-3 Opus alac .mp3 fLaC "
    b"samr sawb tmcd text tx3g".split()
)

_NOT_CLOSED: Final = "the recorder did not close this file"
_NOT_COPIED: Final = "the copy is not complete"


class _Box(NamedTuple):
    kind: bytes
    start: int
    payload: int  # offset of what follows the head
    end: int


@dataclass
class _Walk:
    """The boxes that were found one after another at one level."""

    boxes: list[_Box] = field(default_factory=list)
    stop: int = 0  # offset after the last box

    def first(self, kind: bytes) -> _Box | None:
        return next((box for box in self.boxes if box.kind == kind), None)


def begins(head: bytes) -> bool:
    """True when the file begins with a box that may be the first one in MP4 or MOV."""
    size = int.from_bytes(head[:4], "big")
    return head[4:8] in _FIRST and (size >= 8 or size < 2)


def unfinished(source: ContainerReader) -> str:
    """Return why this file is not closed; "" when it is, or when that cannot be told."""
    walk = _walk(source, 0, source.size, _BEGINNING)
    if not walk.boxes:
        return f"its first box has no size yet: {_NOT_CLOSED}"
    in_moov = _moov(source, walk)
    if in_moov.first(b"mvex") and _has_index(source):
        return ""
    walk = _walk(source, walk.stop, source.size, _BOXES, walk.boxes)
    in_moov = in_moov if in_moov.boxes else _moov(source, walk)
    if walk.first(b"moof") or in_moov.first(b"mvex"):
        return _of_fragments(source, walk, in_moov)
    return _of_whole(source, walk, in_moov)


def duration(source: ContainerReader) -> float | None:
    """Return the seconds that ``mvhd`` states: 14496-12, 8.2.2; if it states none, the longest track.

    The ``mvhd`` of a fragmented file counts at most the first fragment, so only ``mehd`` (8.8.2) is believed there.
    Few muxers write it. None with more than ``_CHILDREN`` boxes in ``moov``: ``mvex`` may be among those not seen.
    """
    walk = _walk(source, 0, source.size, _BEGINNING)
    if not walk.first(b"moov"):
        walk = _walk(source, walk.stop, source.size, _BOXES, walk.boxes)
    in_moov = _moov(source, walk)
    header = _content(source, in_moov.first(b"mvhd"))
    timescale = _timescale(header)
    if not timescale or len(in_moov.boxes) >= _CHILDREN:
        return None
    mvex = in_moov.first(b"mvex")
    if mvex or walk.first(b"moof"):
        ticks = _ticks(_content(source, _inside(source, mvex).first(b"mehd")), 4, 4)
        return None if ticks is None else ticks / timescale
    if ticks := _ticks(header, 16, 24):
        return ticks / timescale
    return _longest_track(source, in_moov, timescale)


def _longest_track(source: ContainerReader, in_moov: _Walk, timescale: int) -> float | None:
    """Return the seconds of the longest track, by its ``tkhd`` or ``mdhd``. None when one of them states nothing."""
    longest = 0.0
    for track in (_inside(source, box) for box in in_moov.boxes if box.kind == b"trak"):
        if ticks := _ticks(_content(source, track.first(b"tkhd")), 20, 28):
            longest = max(longest, ticks / timescale)
            continue
        media = _content(source, _inside(source, track.first(b"mdia")).first(b"mdhd"))
        ticks, own = _ticks(media, 16, 24), _timescale(media)
        if ticks is None or not own:
            return None
        longest = max(longest, ticks / own)
    return longest


def _timescale(header: bytes) -> int:
    """Return the ticks per second of an ``mvhd`` or ``mdhd``; 0 when there are none."""
    start = 20 if header[:1] == b"\1" else 12
    return int.from_bytes(header[start : start + 4], "big")


def _ticks(header: bytes, short: int, long: int) -> int | None:
    """Return a duration of 4 bytes at *short* (version 0) or 8 at *long* (version 1). None: missing, or all ones."""
    start, width = (long, 8) if header[:1] == b"\1" else (short, 4)
    value = header[start : start + width]
    return None if len(value) < width or value == b"\xff" * width else int.from_bytes(value, "big")


def _content(source: ContainerReader, box: _Box | None) -> bytes:
    """Return the first bytes of a box, enough for the fields that are read; none when there is no box."""
    return source.at(box.payload, min(_FIELDS, box.end - box.payload)) if box else b""


def _inside(source: ContainerReader, box: _Box | None) -> _Walk:
    """Return the boxes inside *box*, as far as the file has them."""
    return _walk(source, box.payload, min(box.end, source.size), _CHILDREN) if box else _Walk()


def _moov(source: ContainerReader, walk: _Walk) -> _Walk:
    """Return the boxes inside the ``moov`` box, as far as the file has them."""
    return _inside(source, walk.first(b"moov"))


def _of_whole(source: ContainerReader, walk: _Walk, in_moov: _Walk) -> str:
    """Check a file that is not fragmented: one ``moov`` is the index of everything."""
    moov, mdat, last = walk.first(b"moov"), walk.first(b"mdat"), walk.boxes[-1]
    if last.end > source.size and (last.kind in _KNOWN or not (moov and mdat)):
        return past_the_end(f"{_kind_text(last)} box", last.end, source)
    if moov is None:
        return _without_moov(source, walk)
    if mdat is None:
        return f"no mdat box after its moov box: {_NOT_COPIED}" if walk.stop >= source.size else _no_box(source, walk)
    if (hole := _hole(source, moov, in_moov)) is not None:
        return f"its moov box is empty from byte {hole} on: {_NOT_COPIED}"
    return _zeros(source, last, last.end, in_moov) if last.kind == b"mdat" else ""


def _without_moov(source: ContainerReader, walk: _Walk) -> str:
    """Return the reason for a file without a ``moov`` box; "" when it needs none, or when that cannot be told."""
    if walk.first(b"meta") or walk.first(b"styp") or len(walk.boxes) >= _BOXES:
        return ""  # a picture, a segment of a stream, or too many boxes before the moov
    if walk.stop < source.size and is_zero(source.at(walk.stop, 8)):
        return f"no moov box, only zeros from byte {walk.stop} on: {_NOT_CLOSED}, or {_NOT_COPIED}"
    return f"no moov box: {_NOT_CLOSED}"


def _of_fragments(source: ContainerReader, walk: _Walk, in_moov: _Walk) -> str:
    """Check the end of a fragmented file. It may end after any whole fragment."""
    last = walk.boxes[-1]
    if len(walk.boxes) >= _BOXES and walk.stop < source.size:
        tail = _end_boxes(source)
        return _end_of_fragments(source, tail, in_moov) if tail.boxes else _zeros(source, last, source.size, in_moov)
    return _end_of_fragments(source, walk, in_moov)


def _end_of_fragments(source: ContainerReader, walk: _Walk, in_moov: _Walk) -> str:
    """Check the last boxes of a fragmented file: those of *walk*."""
    last = walk.boxes[-1]
    if last.end > source.size:
        return past_the_end(f"last {_kind_text(last)} box", last.end, source)
    if walk.stop < source.size:
        return _no_box(source, walk)
    if last.kind == b"moof":
        return f"no mdat box after its last moof box: it ends inside a fragment, and {_NOT_CLOSED}"
    if not any(box.kind in (b"moof", b"mdat") for box in walk.boxes):
        return f"no moof box, which its moov box announces: {_NOT_CLOSED}"
    return _zeros(source, last, source.size, in_moov) if last.kind == b"mdat" else ""


def _has_index(source: ContainerReader) -> bool:
    """True when the file ends with a whole ``mfra`` box, which ends with its own length."""
    end = source.at(source.size - 16, 16)
    if len(end) < 16 or end[:8] != b"\0\0\0\x10mfro":
        return False
    length = int.from_bytes(end[12:], "big")
    return source.at(source.size - length, 8) == struct.pack(">I4s", length, b"mfra") if length < source.size else False


def _end_boxes(source: ContainerReader) -> _Walk:
    """Return the boxes from the last ``moof`` on, if one lies within the last ``_TAIL`` bytes; else none."""
    start = max(0, source.size - _TAIL)
    data = source.at(start, _TAIL)
    found = data.rfind(b"\0\0\0\x10mfhd")
    while found >= 8 and data[found - 4 : found] != b"moof":
        found = data.rfind(b"\0\0\0\x10mfhd", 0, found)
    return _walk(source, start + found - 8, source.size, _BOXES) if found >= 8 else _Walk()


def _no_box(source: ContainerReader, walk: _Walk) -> str:
    """Return the reason for a file that goes on after its last box with something that is not a box."""
    if is_zero(source.at(walk.stop, 8)):
        return only_zeros(walk.stop)
    if source.size - walk.stop < 8:
        return f"it ends inside the head of a box at byte {walk.stop}: {_NOT_COPIED}"
    return f"no box at byte {walk.stop}, after its {_kind_text(walk.boxes[-1])} box: {_NOT_CLOSED}"


def _zeros(source: ContainerReader, last: _Box, end: int, in_moov: _Walk) -> str:
    """Return the reason for a file whose media end in zeros at *end*; none if a codec may end in zeros."""
    zeros = zeros_from(source, last.payload, end)
    return only_zeros(zeros) if zeros is not None and _is_compressed(source, in_moov) else ""


def _is_compressed(source: ContainerReader, in_moov: _Walk) -> bool:
    """True when there are tracks, and the codec of each is known to write no long runs of zeros."""
    tracks = [box for box in in_moov.boxes if box.kind == b"trak"]
    return bool(tracks) and all(_codec(source, track) in _COMPRESSED for track in tracks)


def _codec(source: ContainerReader, track: _Box) -> bytes:
    """Return the kind of a track's first sample entry: 14496-12, 8.5.2. It is near the beginning of the track."""
    data = source.at(track.start, min(2048, track.end - track.start))
    found = data.find(b"stsd")
    return data[found + 16 : found + 20] if found >= 0 else b""


def _hole(source: ContainerReader, moov: _Box, in_moov: _Walk) -> int | None:
    """Return where zeros begin inside ``moov``, the index; None when its last boxes are all there.

    Boxes are written in order, so it is enough to follow the last box of each level.
    """
    box, walk = moov, in_moov
    for _ in range(_LEVELS):
        rest = source.at(walk.stop, min(_HOLE, box.end - walk.stop))
        if len(rest) >= _LEAST_HOLE and is_zero(rest[8:]) and _box(source, walk.stop, box.end) is None:
            return walk.stop  # the first bytes may be a part of a box's head
        if not walk.boxes or walk.stop > box.end or len(walk.boxes) >= _CHILDREN:
            return None
        box = walk.boxes[-1]
        if box.kind not in _PARENTS:
            break
        walk = _walk(source, box.payload, box.end, _CHILDREN)
    width = {b"stco": 4, b"co64": 8}.get(box.kind)
    if width and box.end - box.payload >= 8 + width and is_zero(source.at(box.end - width, width)):
        return box.end - width  # no chunk lies at offset 0
    return None


def _walk(source: ContainerReader, start: int, end: int, limit: int, known: Iterable[_Box] = ()) -> _Walk:
    """Return the boxes *known* and those from *start* to *end*, *limit* in all. One that ends past *end* is last."""
    walk = _Walk([*known], start)
    while walk.stop < end and len(walk.boxes) < limit:
        box = _box(source, walk.stop, end)
        if box is None:
            break
        walk.boxes.append(box)
        walk.stop = box.end
    return walk


def _box(source: ContainerReader, start: int, end: int) -> _Box | None:
    """Read the box that begins at *start*: 14496-12, 4.2. None when there is none."""
    head = source.at(start, 16)
    if len(head) < 8 or not (head[4:8] in _KNOWN or _is_kind(head[4:8])):
        return None
    size, kind, length = int.from_bytes(head[:4], "big"), head[4:8], 8
    if size == 0:
        size = end - start  # to the end
    elif size == 1 and len(head) == 16:
        size, length = int.from_bytes(head[8:], "big"), 16
    return _Box(kind, start, start + length, start + size) if size >= length else None


def _is_kind(kind: bytes) -> bool:
    """True when *kind* may be the kind of a box: four characters; some of Apple's begin with ©."""
    return kind[0] in _KIND_BYTES | {0xA9} and _KIND_BYTES.issuperset(kind[1:])


def _kind_text(box: _Box) -> str:
    """Return the kind of a box as text."""
    return box.kind.decode("latin-1")
