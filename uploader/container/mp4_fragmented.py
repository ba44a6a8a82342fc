"""Decides whether a fragmented MP4 or MOV is closed. It may end after any whole fragment.

In this order. An index at its end (``mfra``) is written at closing: the file is closed, if what the index names is
there. A hybrid file is open until it is no fragmented file any more: at closing its recorder makes one large ``mdat``
of everything. Until then, OBS (from 30.2 on) and FFmpeg (``hybrid_fragmented``) leave an empty box of 16 bytes, or one
with a copy of ``ftyp``, in front of the ``moov``, for the head of that ``mdat``; GStreamer
(``first-moov-then-finalise``) has an ``mdat`` there, and others behind it. Else the last fragment must be whole, and
the file may not be shorter than an index in front (``sidx``) says. Up to 4 KiB of zeros, and anything that is no box of
a fragment, may follow it.

Not detected: a cut exactly between two fragments, for such a file plays as a whole; without an index, a hole in
fragments that are not walked through; what is so far from both ends that the limits of a check do not suffice
(``reader``): such a file counts as closed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from uploader.container import mp4_index
from uploader.container.mp4_boxes import KNOWN, Box, Walk, content, descend, each, inside, named
from uploader.container.mp4_fragments import (
    Defaults,
    Index,
    Run,
    Tail,
    announced_end,
    defaults_of,
    index_at_end,
    last_moofs,
    runs_of,
    sequence_of,
    tail_of,
)
from uploader.container.reader import (
    SAMPLE,
    ZEROS,
    ContainerReader,
    Playable,
    is_zero,
    only_zeros,
    past_the_end,
    zeros_from,
)

_PLACES: Final = frozenset({b"free", b"skip", b"wide"})
_ROOM: Final = 16  # bytes of the head of an ``mdat`` with a size of 64 bits
_LARGEST_HABIT: Final = 16  # bytes by which a writer states an ``mdat`` too long
_NAMED: Final = 8  # fragments named by ``mfra`` that are looked at
_SEARCHED: Final = 16 * 1024 * 1024  # bytes behind the last box in which another fragment is searched
_FRONT: Final = 32  # boxes among which the first fragment is searched
_PARTS: Final = (b"moof", b"mdat", b"styp", b"sidx", b"emsg", b"prft", b"mfra", b"free", b"skip", b"uuid")

_NOT_CLOSED: Final = "the recorder did not close this file"
_NOT_COPIED: Final = "the copy is not complete"


@dataclass(frozen=True)
class Fragmented:
    """One fragmented file. *front*: its first boxes; *in_moov*: those inside its ``moov``, if it has one."""

    source: ContainerReader
    front: Walk
    in_moov: Walk

    @cached_property
    def index(self) -> Index | None:
        """The index at its end."""
        return index_at_end(self.source)

    @cached_property
    def tail(self) -> Tail | None:
        """Its last boxes, without the index; None when they cannot be reached."""
        return tail_of(self.source, self.front, self.index.start if self.index else self.source.size)

    def unfinished(self) -> str | Playable:
        """Return why it is not closed; "" when it is, or when that cannot be told."""
        if self.index:
            return self._not_there(self.index)
        if self.tail is None:
            return ""
        if self.is_hybrid:
            reason = f"its fragments are not joined into one recording yet: {_NOT_CLOSED}"
            plays = self._up_to(self.tail)
            return Playable(f"{reason}; {plays}") if plays else reason
        found = self._end(self.tail)
        if not found and (end := announced_end(self.source, self._beginning)) > self.source.size:
            return past_the_end("media, as the index in front says,", end, self.source)
        return found

    def seconds(self) -> float | None:
        """Return how long it plays: from the beginning of the first fragment to the end of the last one.

        None when the file is not closed, or when one of its tracks has no part in the last fragments.
        """
        if self.tail is None or self.unfinished():
            return None
        begin, end = self._begin, self._times(self.tail)
        return end - begin if end is not None and begin is not None else None

    @cached_property
    def _beginning(self) -> Walk:
        """The first boxes, up to the first ``moof``."""
        boxes = Walk([*self.front.boxes], self.front.stop)
        if not boxes.first(b"moof"):
            for box in each(self.source, boxes, self.source.size):
                boxes.boxes.append(box)
                if box.kind == b"moof" or len(boxes.boxes) >= _FRONT:
                    break
        return boxes

    @cached_property
    def is_hybrid(self) -> bool:
        """True when a placeholder stands right in front of a ``moov`` that announces fragments, or media do."""
        number = next((at for at, box in enumerate(self.front.boxes) if box.kind == b"moov"), 0)
        if self.index or number == 0 or not self.in_moov.first(b"mvex"):
            return False
        place = self.front.boxes[number - 1]
        filled = content(self.source, place, 8)
        room = place.end - place.start == _ROOM and is_zero(filled)
        if place.kind == b"mdat":
            return named(self._beginning.boxes[number:], (b"moof", b"mdat"))
        return place.kind in _PLACES and (room or filled[4:] == b"ftyp")

    def _not_there(self, index: Index) -> str:
        """Return the reason for a file with zeros where its index names a fragment; "" when there are none."""
        named = index.named
        for number in {len(named) * at // _NAMED for at in range(_NAMED)} if named else ():
            if is_zero(self.source.at(named[number], 16)) and named[number] + 16 <= index.start:
                return f"only zeros at byte {named[number]}, where its index names a fragment: {_NOT_COPIED}"
        return ""

    def _end(self, tail: Tail) -> str | Playable:
        """Check the last boxes."""
        source, last = self.source, tail.boxes[-1]
        if last.end > source.size and last.kind in KNOWN and not self._is_habit(tail, last):
            return self._cut(tail, past_the_end(f"last {last.name} box", last.end, source))
        if last.end <= source.size and (reason := self._behind(tail)):
            return reason
        index, media = tail.last(b"moof"), tail.last(b"mdat")
        if index and (media is None or media.start < index.start) and not self._is_empty(index):
            return self._cut(tail, f"no mdat box after its last moof box: it ends inside a fragment, and {_NOT_CLOSED}")
        if media is None:
            return "" if index else f"no moof box, which its moov box announces: {_NOT_CLOSED}"
        if (end := self._end_of_samples(index, media)) > source.size:
            return self._cut(tail, past_the_end("last fragment", end, source))
        return self._zeros(index, media)

    def _behind(self, tail: Tail) -> str | Playable:
        """Check what follows the last box: a piece of one, reserved space, a hole, or something of no concern."""
        rest = self.source.size - tail.stop
        data = self.source.at(tail.stop, min(rest, ZEROS))
        # The first bytes of reserved space may be a part of a box's head.
        if rest >= SAMPLE and is_zero(data[8:]) and is_zero(self.source.at(self.source.size - SAMPLE, SAMPLE)):
            return only_zeros(tail.stop)
        if 0 < rest < 8 and _begins_a_box(data):
            return self._cut(tail, f"it ends inside the head of a box at byte {tail.stop}: {_NOT_COPIED}")
        if rest > 8 and (found := last_moofs(self.source, tail.stop, self.source.size, _SEARCHED)):
            return f"no box at byte {tail.stop}, before the fragment at byte {found[0]}: {_NOT_COPIED}"
        return ""

    def _cut(self, tail: Tail, reason: str) -> str | Playable:
        """Return the finding that it ends inside a fragment. It plays up to there, if nothing says there was more."""
        plays = self._up_to(tail)
        missing = announced_end(self.source, self._beginning) > self.source.size
        return reason if missing or not plays else Playable(f"{reason}; {plays}")

    def _up_to(self, tail: Tail) -> str:
        """Return up to where the file plays, as the end of a reason; "" when no fragment is there as a whole."""
        source, media_end = self.source, 0
        for box in reversed(tail.boxes):
            if box.kind == b"mdat" and box.end <= source.size:
                media_end = box.end
            elif box.kind == b"moof" and media_end > box.end:
                return _plays(sequence_of(source, box), self._times(tail, box))
            elif box.kind == b"moov" and media_end > box.end and self._begin == 0:
                return "it plays up to its first moof box"  # the first media have their index in ``moov``
        first = tail.last(b"moof") if tail.earlier else None
        starts = [
            run.start / self._timescales[run.track]
            for run in self._runs(first)
            if run.start is not None and self._timescales.get(run.track)
        ]
        return _plays(sequence_of(source, first) - 1, max(starts, default=None)) if first else ""

    def _is_habit(self, tail: Tail, media: Box) -> bool:
        """True for a last ``mdat`` whose size is a few bytes too large, and which is there as a whole all the same.

        Its samples end before the file, or those before it were too large by as much.
        """
        over = media.end - self.source.size
        if media.kind != b"mdat" or over > _LARGEST_HABIT:
            return False
        end = self._end_of_samples(tail.last(b"moof"), media)
        all_there = end <= self.source.size and 0 < media.end - end <= _LARGEST_HABIT
        return all_there or (tail.shift < 0 and media.end + tail.shift <= self.source.size)

    def _runs(self, moof: Box | None) -> list[Run]:
        """Return the tracks' parts of a fragment; none when they cannot be read."""
        whole = moof is not None and moof.kind == b"moof" and moof.end <= self.source.size
        return (runs_of(self.source, moof, self._defaults) if whole and moof else None) or []

    def _end_of_samples(self, moof: Box | None, media: Box) -> int:
        """Return where the samples of the fragment with these boxes end; 0 when that is not known."""
        runs = self._runs(moof)
        ends = [run.end for run in runs if run.samples]
        known = [end for end in ends if end is not None]
        return max(known) if known and len(known) == len(ends) and min(known) > media.payload else 0

    def _is_empty(self, moof: Box) -> bool:
        """True for a fragment that says that it has no samples."""
        runs = self._runs(moof)
        return bool(runs) and not any(run.samples for run in runs)

    def _zeros(self, moof: Box | None, media: Box) -> str:
        """Return the reason for a file whose last media are zeros; none if a codec may write them."""
        source = self.source
        written = {
            number_of(source, track.box)
            for track in mp4_index.tracks(source, self.in_moov)
            if track.shows_pictures or track.codec in mp4_index.SOUND
        }
        for run in self._runs(moof):
            for offset, size in run.ends if run.track in written else ():
                inside_media = media.payload <= offset and offset + size <= min(media.end, source.size)
                if inside_media and size >= mp4_index.SHORTEST and is_zero(source.at(offset, min(size, SAMPLE))):
                    return mp4_index.zeros_for_media(offset)
        if media.end < source.size and not is_zero(source.at(media.end, SAMPLE)):
            return ""  # something was written behind them
        zeros = zeros_from(source, media.payload, source.size)
        return only_zeros(zeros) if zeros is not None and mp4_index.is_compressed(source, self.in_moov) else ""

    @cached_property
    def _defaults(self) -> dict[int, Defaults]:
        return defaults_of(self.source, self.in_moov)

    @cached_property
    def _timescales(self) -> dict[int, int]:
        """The ticks per second of each track."""
        found = {}
        for box in self.in_moov.all(b"trak"):
            header = content(self.source, descend(self.source, box, b"mdia", b"mdhd"), 24)
            start = 20 if header[:1] == b"\1" else 12
            found[number_of(self.source, box)] = int.from_bytes(header[start : start + 4], "big")
        return found

    def _times(self, tail: Tail, last: Box | None = None) -> float | None:
        """Return when the last fragments end, up to *last*, in seconds; None unless that is known of each track."""
        ends: dict[int, float] = {}
        for moof in reversed(tail.boxes):
            if moof.kind == b"moof" and (last is None or moof.start <= last.start):
                for run in self._runs(moof):
                    scale = self._timescales.get(run.track, 0)
                    if run.start is not None and scale and run.duration:
                        ends.setdefault(run.track, (run.start + run.duration) / scale)
            if ends and ends.keys() >= self._timescales.keys():
                return max(ends.values())
        return None

    @cached_property
    def _begin(self) -> float | None:
        """When the first fragment begins, in seconds; None when that is not known."""
        source = self.source
        if any(track.chunks for track in mp4_index.tracks(source, self.in_moov)):
            return 0.0  # the first media have their index in ``moov``
        starts = [
            run.start / self._timescales[run.track]
            for run in self._runs(self._beginning.first(b"moof"))
            if run.start is not None and self._timescales.get(run.track) and run.samples
        ]
        return min(starts) if starts else None


def number_of(source: ContainerReader, trak: Box) -> int:
    """Return the number of a track: 14496-12, 8.3.2; 0 when it has none."""
    header = content(source, inside(source, trak).first(b"tkhd"), 24)
    start = 20 if header[:1] == b"\1" else 12
    return int.from_bytes(header[start : start + 4], "big")


def _plays(number: int, seconds: float | None) -> str:
    """Return that a file plays up to a fragment, and up to when; each may be unknown."""
    time = f" ({_clock(seconds)})" if seconds else ""
    return f"it plays up to fragment {number}{time}" if number > 0 else f"it plays up to its last whole fragment{time}"


def _begins_a_box(data: bytes) -> bool:
    """True when these bytes, fewer than eight, are the beginning of the head of a box that a fragment may have."""
    size, letters = int.from_bytes(data[:4], "big"), data[4:]
    return data[:1] == b"\0" and (size >= 8 or len(data) < 4) and any(kind.startswith(letters) for kind in _PARTS)


def _clock(seconds: float) -> str:
    """Return a time as hours, minutes and seconds."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest:02}"
