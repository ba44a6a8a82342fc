"""Reads MP4 and MOV: the boxes of ISO/IEC 14496-12 and of Apple's QuickTime File Format.

An MP4 file is a row of boxes. ``moov`` holds the index, ``mdat`` the media; a fragmented file has many pairs of
``moof`` (index) and ``mdat``, and is judged by ``mp4_fragmented``.

Detected: something at top level that is not a box; a box that ends past the end of the file; a missing ``moov``, which
a recorder writes last; a missing ``mdat``; a ``moov`` that was only partly copied, with zeros where a box or the offset
of a chunk should be; an index that names media past the end of the file; zeros where it names a picture
(``mp4_index``), which are space that was reserved and not written. Also 64 KiB of zeros at the end of a file whose
``mdat`` comes last (faststart), if every track's codec is known to compress.

Allowed for: an ``mdat`` that is a few bytes too long, where the index is whole and the media are there; zeros between
boxes; anything behind a whole ``moov`` and ``mdat`` that is no known box (cameras append data of their own).

Not detected: holes between the pictures that are looked at, and in sound; a last picture that was written in part; a
cut ``mdat`` that by definition reaches to the end of the file (size 0) with its ``moov`` before it.
"""

from __future__ import annotations

from typing import Final

from uploader.container import mp4_index
from uploader.container.mp4_boxes import CHILDREN, FIRST, KNOWN, Box, Walk, box_at, content, each, inside, walk
from uploader.container.mp4_fragmented import Fragmented, number_of
from uploader.container.reader import (
    SAMPLE,
    ContainerReader,
    Playable,
    is_zero,
    only_zeros,
    past_the_end,
    pieces_from_end,
    zeros_from,
)

_PARENTS: Final = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl"})
_LEVELS: Final = 5  # moov, trak, mdia, minf, stbl
_BOXES: Final = 32  # at top level; of files with more, the index is searched from the end
_FIELDS: Final = 36  # bytes of a header box, up to and including its duration
_HEADS: Final = (8, 16)  # bytes of the head of an ``mdat``, by which some writers state it too long
# A hole in ``moov``: no box, and zeros from the ninth byte on. Up to 40 bytes are read; fewer than 16 may be a
# QuickTime terminator.
_LEAST_HOLE, _HOLE = 16, 40

_NOT_CLOSED: Final = "the recorder did not close this file"
_NOT_COPIED: Final = "the copy is not complete"


def begins(head: bytes) -> bool:
    """True when the file begins with a box that may be the first one in MP4 or MOV."""
    size = int.from_bytes(head[:4], "big")
    return head[4:8] in FIRST and (size >= 8 or size < 2)


def unfinished(source: ContainerReader) -> str | Playable:
    """Return why this file is not closed; "" when it is, or when that cannot be told."""
    front, in_moov = _front(source)
    if not front.boxes:
        return f"its first box has no size yet: {_NOT_CLOSED}"
    if _is_fragmented(front, in_moov):
        return Fragmented(source, front, in_moov).unfinished()
    if not front.first(b"moov") and len(front.boxes) >= _BOXES and front.stop < source.size:
        moov, searched = _moov_from_end(source, front.stop)
        if moov is None:
            return _without_moov(source, front) if searched else ""
        front.boxes.append(moov)
        front.stop, in_moov = moov.end, inside(source, moov)
    return _of_whole(source, front, in_moov)


def duration(source: ContainerReader) -> float | None:
    """Return the seconds that ``mvhd`` states: 14496-12, 8.2.2; if it states none, the longest track.

    The ``mvhd`` of a fragmented file counts at most the first fragment. There, ``mehd`` (8.8.2) is believed, which few
    muxers write; else the times of the first and the last fragment. None with more than ``CHILDREN`` boxes in
    ``moov``: ``mvex`` may be among those not seen.
    """
    front, in_moov = _front(source)
    header = content(source, in_moov.first(b"mvhd"), _FIELDS)
    timescale = _timescale(header)
    if not timescale or len(in_moov.boxes) >= CHILDREN:
        return None
    if _is_fragmented(front, in_moov):
        mehd = inside(source, in_moov.first(b"mvex")).first(b"mehd")
        ticks = _ticks(content(source, mehd, _FIELDS), 4, 4)
        fragmented = Fragmented(source, front, in_moov)
        if fragmented.is_hybrid:
            return None
        return ticks / timescale if ticks else fragmented.seconds()
    if ticks := _ticks(header, 16, 24):
        return ticks / timescale
    return _longest_track(source, in_moov, timescale)


def _front(source: ContainerReader) -> tuple[Walk, Walk]:
    """Return the first boxes of the file, and those inside its ``moov`` if that is among them.

    They go up to the first that tells that it is a fragmented file, else there are up to ``_BOXES``.
    """
    front, in_moov = Walk(), Walk()
    for box in each(source, front, source.size):
        front.boxes.append(box)
        if box.kind == b"moov" and not in_moov.boxes:
            in_moov = inside(source, box)
        if _is_fragmented(front, in_moov) or len(front.boxes) >= _BOXES:
            break
    return front, in_moov


def _is_fragmented(front: Walk, in_moov: Walk) -> bool:
    return bool(front.first(b"moof") or in_moov.first(b"mvex"))


def _longest_track(source: ContainerReader, in_moov: Walk, timescale: int) -> float | None:
    """Return the seconds of the longest track, by its ``tkhd`` or ``mdhd``. None when one of them states nothing."""
    longest = 0.0
    for track in (inside(source, box) for box in in_moov.all(b"trak")):
        if ticks := _ticks(content(source, track.first(b"tkhd"), _FIELDS), 20, 28):
            longest = max(longest, ticks / timescale)
            continue
        media = content(source, inside(source, track.first(b"mdia")).first(b"mdhd"), _FIELDS)
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


def _of_whole(source: ContainerReader, front: Walk, in_moov: Walk) -> str | Playable:
    """Check a file that is not fragmented: one ``moov`` is the index of everything."""
    moov, mdat, last = front.first(b"moov"), front.first(b"mdat"), front.boxes[-1]
    cut = last.end > source.size and (last.kind in KNOWN or not (moov and mdat))
    if cut and not _is_habit(source, front, in_moov):
        return past_the_end(f"{last.name} box", last.end, source)
    if moov is None:
        return _without_moov(source, front)
    if mdat is None and len(front.boxes) < _BOXES:
        return f"no mdat box after its moov box: {_NOT_COPIED}" if front.stop >= source.size else _no_box(source, front)
    if (hole := _hole(source, moov, in_moov)) is not None:
        return f"its moov box is empty from byte {hole} on: {_NOT_COPIED}"
    if fault := _zeros(source, last, in_moov) or mp4_index.not_there(source, in_moov, front.all(b"mdat")):
        return fault
    if not _awaits_size(source, front):
        return ""
    return Playable(f"its mdat box has no size yet: {_NOT_CLOSED}; it plays as far as the index in front of it tells")


def _awaits_size(source: ContainerReader, front: Walk) -> bool:
    """True for a last ``mdat`` of size 0 right behind a box of 8 bytes, which is there so that its head can grow.

    GStreamer writes such files with ``reserved-max-duration``: the index in front is kept up to date, and the size of
    the media is filled in at closing. A writer that means "up to the end" needs no such room.
    """
    if len(front.boxes) < 2 or front.boxes[-1].kind != b"mdat":
        return False
    room, media = front.boxes[-2:]
    empty = room.kind in (b"free", b"wide") and (room.end - room.start, room.end) == (8, media.start)
    return empty and is_zero(source.at(media.start, 4))


def _is_habit(source: ContainerReader, front: Walk, in_moov: Walk) -> bool:
    """True for a last ``mdat`` whose size is a few bytes too large, while all that the index names is there."""
    last = front.boxes[-1]
    over = last.end - source.size
    if last.kind != b"mdat" or over > max(_HEADS):
        return False
    end, exact = mp4_index.end_of_samples(source, in_moov)
    return end is not None and end <= source.size and (exact or over in _HEADS)


def _without_moov(source: ContainerReader, front: Walk) -> str:
    """Return the reason for a file without a ``moov`` box; "" when it needs none."""
    if front.first(b"meta") or front.first(b"styp"):
        return ""  # a picture, or a segment of a stream
    if front.stop < source.size and is_zero(source.at(front.stop, 8)):
        return f"no moov box, only zeros from byte {front.stop} on: {_NOT_CLOSED}, or {_NOT_COPIED}"
    return f"no moov box: {_NOT_CLOSED}"


def _moov_from_end(source: ContainerReader, start: int) -> tuple[Box | None, bool]:
    """Search from the end back to *start* for a whole ``moov``; also return whether all of it was searched."""
    begin = source.size
    for begin, data in pieces_from_end(source, start, 16):
        found = data.rfind(b"mvhd")
        while found >= 12:
            box = box_at(source, begin + found - 12, source.size) if data[found - 8 : found - 4] == b"moov" else None
            if box is not None and box.end <= source.size:
                return box, True
            found = data.rfind(b"mvhd", 0, found)
    return None, begin <= start


def _no_box(source: ContainerReader, front: Walk) -> str:
    """Return the reason for a file that goes on after its last box with something that is not a box."""
    if is_zero(source.at(front.stop, 8)):
        return only_zeros(front.stop)
    if source.size - front.stop < 8:
        return f"it ends inside the head of a box at byte {front.stop}: {_NOT_COPIED}"
    return f"no box at byte {front.stop}, after its {front.boxes[-1].name} box: {_NOT_CLOSED}"


def _zeros(source: ContainerReader, last: Box, in_moov: Walk) -> str:
    """Return the reason for a file whose media come last and end in zeros; none if a codec may end in zeros."""
    zeros = zeros_from(source, last.payload, min(last.end, source.size)) if last.kind == b"mdat" else None
    return only_zeros(zeros) if zeros is not None and mp4_index.is_compressed(source, in_moov) else ""


def _hole(source: ContainerReader, moov: Box, in_moov: Walk) -> int | None:
    """Return where zeros begin inside ``moov``, the index; None when its last boxes are all there.

    Boxes are written in order, so it is enough to follow the last box of each level.
    """
    box, found = moov, in_moov
    for _ in range(_LEVELS):
        rest = source.at(found.stop, min(_HOLE, box.end - found.stop))
        # The first bytes may be a part of a box's head.
        empty = len(rest) >= _LEAST_HOLE and is_zero(rest[8:]) and box_at(source, found.stop, box.end) is None
        if empty and not (is_zero(rest) and _is_padding(source, moov, box, in_moov)):
            return found.stop
        if not found.boxes or found.boxes[-1].end > box.end or len(found.boxes) >= CHILDREN:
            return None
        box = found.boxes[-1]
        if box.kind not in _PARENTS:
            break
        found = walk(source, box.payload, box.end, CHILDREN)
    width = {b"stco": 4, b"co64": 8}.get(box.kind)
    if width and box.end - box.payload >= 8 + width and is_zero(source.at(box.end - width, width)):
        return box.end - width  # no chunk lies at offset 0
    return None


def _is_padding(source: ContainerReader, moov: Box, box: Box, in_moov: Walk) -> bool:
    """True when zeros at the end of *box* are no hole: something was written behind ``moov``, or no track is missing.

    ``mvhd`` ends with the number that the next track would get: 14496-12, 8.2.2.
    """
    behind = source.at(moov.end, SAMPLE)
    if behind and not is_zero(behind):
        return True
    mvhd = in_moov.first(b"mvhd")
    after = int.from_bytes(source.at(mvhd.end - 4, 4), "big") if mvhd and box == moov else 0
    return after > 1 and after - 1 in {number_of(source, track) for track in in_moov.all(b"trak")}
