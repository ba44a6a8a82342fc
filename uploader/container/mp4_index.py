"""Reads the sample tables of MP4 and MOV, and looks at what they name: ISO/IEC 14496-12, 8.6 and 8.7.

``stco`` or ``co64`` says where each chunk of a track lies, ``stsc`` how many samples each chunk has, ``stsz`` how long
each sample is. A chunk, in this module, is a run of samples in ``mdat``, not a chunk of an upload. Of each table only
what is asked for is read.

A picture is never all zeros: its length, start code or frame header is not. So zeros where the index names one are
space that was not written yet. This does not hold for raw video (``_RAW``), and says nothing of sound.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Final

from uploader.container.mp4_boxes import Box, Walk, content, descend, inside
from uploader.container.reader import SAMPLE, ContainerReader, is_zero

# Sample entries that never hold long runs of zeros. DNxHD, ProRes, MPEG-2 and Motion JPEG may pad their frames.
COMPRESSED: Final = frozenset(
    b"avc1 avc2 avc3 avc4 hvc1 hev1 dvh1 dvhe vvc1 mp4v s263 vp08 vp09 av01 mp4a ac-3 ec-3 Opus alac .mp3 fLaC "
    b"samr sawb tmcd text tx3g".split()
)
# Sound whose frames are never all zeros, silence included.
SOUND: Final = frozenset({b"mp4a", b"ac-3", b"ec-3", b"alac", b"fLaC", b".mp3"})
# Pictures that may begin with many zeros, or be nothing else: raw ones, and codecs without a header.
_RAW: Final = frozenset(
    [
        *b"2vuy 2Vuy uyvy UYVY HDYC yuv2 yuvs YUY2 yuvu yuvx v208 v210 v216 v308 v408 v410 r210 R10k R10g r408".split(),
        *b"b16g b32a b48r b64a j420 I420 IYUV YV12 NV12 Y41P Y422 Y800 AV1x AVup BGRA ABGR RGBA ARGB".split(),
        *b"NO16 gray uncv HFYU FFVH WRLE SVQ1 mjpb \0\0\0\0".split(),
        *(b"raw ", b"rle ", b"smc ", b"DIB ", b"Y16 "),
    ]
)
_SHOWN: Final = 4  # video tracks whose pictures are looked at
_PICTURES: Final = 16  # that are looked at in a track, spread evenly over it
_TABLE: Final = 64 * 1024  # bytes of a table that are read at most for one question
SHORTEST: Final = 16  # bytes; a shorter picture proves nothing


@dataclass(frozen=True)
class Track:
    """The sample tables of one ``trak``."""

    source: ContainerReader
    box: Box

    @cached_property
    def _tables(self) -> Walk:
        return inside(self.source, descend(self.source, self._media, b"stbl"))

    @cached_property
    def _media(self) -> Box | None:
        return descend(self.source, self.box, b"mdia", b"minf")

    @cached_property
    def codec(self) -> bytes:
        """The kind of the first sample entry: 14496-12, 8.5.2. It is near the beginning of the track."""
        data = self.source.at(self.box.start, min(2048, self.box.end - self.box.start))
        found = data.find(b"stsd")
        return data[found + 16 : found + 20] if found >= 0 else b""

    @cached_property
    def shows_pictures(self) -> bool:
        """True for a video track whose pictures cannot be all zeros."""
        handler = content(self.source, descend(self.source, self.box, b"mdia", b"hdlr"), 12)[8:12]
        return handler == b"vide" and self.codec not in _RAW

    @cached_property
    def elsewhere(self) -> bool:
        """True when its media lie in another file: 8.7.2. An empty name, or the flag 1, means this file."""
        entries = content(self.source, descend(self.source, self._media, b"dinf", b"dref"), 64)
        return len(entries) > 20 and not entries[19] & 1 and int.from_bytes(entries[8:12], "big") > 13

    @cached_property
    def _offsets(self) -> tuple[Box | None, int]:
        """The table of chunk offsets, and the bytes of one."""
        box = self._tables.first(b"stco")
        return (box, 4) if box else (self._tables.first(b"co64"), 8)

    @cached_property
    def chunks(self) -> int:
        """How many chunks it has."""
        box, width = self._offsets
        stated = int.from_bytes(content(self.source, box, 8)[4:8], "big")
        return min(stated, max(0, box.end - box.payload - 8) // width) if box else 0

    def chunk(self, number: int) -> int:
        """Return the offset of a chunk, counted from 0; 0 when there is none."""
        box, width = self._offsets
        if box is None or not 0 <= number < self.chunks:
            return 0
        table = self.chunks * width
        if table <= _TABLE:  # one read for all of them
            offsets = self.source.at(box.payload + 8, table)[number * width : (number + 1) * width]
            return int.from_bytes(offsets, "big")
        return int.from_bytes(self.source.at(box.payload + 8 + number * width, width), "big")

    @cached_property
    def _sizes(self) -> tuple[Box | None, int, int]:
        """The table of sample sizes; the size of each sample, 0 if they differ; how many there are."""
        box = self._tables.first(b"stsz")
        head = content(self.source, box, 12)
        return box, int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:12], "big")

    @cached_property
    def _runs(self) -> list[tuple[int, int]]:
        """From which chunk on (counted from 0) a chunk has how many samples; empty when the tables contradict.

        They must account for each sample, for some writers leave a table half filled.
        """
        box = self._tables.first(b"stsc")
        entries = int.from_bytes(content(self.source, box, 8)[4:8], "big")
        if box is None or not 0 < entries * 12 <= min(_TABLE, box.end - box.payload - 8):
            return []
        data = self.source.at(box.payload + 8, entries * 12)
        runs = [
            (int.from_bytes(data[at : at + 4], "big") - 1, int.from_bytes(data[at + 4 : at + 8], "big"))
            for at in range(0, len(data), 12)
        ]
        ends = [*runs[1:], (self.chunks, 0)]
        rises = runs[0][0] == 0 and all(first < after for (first, _), (after, _) in zip(runs, ends, strict=True))
        total = sum((after - first) * each for (first, each), (after, _) in zip(runs, ends, strict=True))
        return runs if rises and total == self._sizes[2] else []

    def pictures(self) -> Iterator[tuple[int, int]]:
        """Yield the offsets of up to ``_PICTURES`` samples, spread evenly over the file, and the chunk of each.

        With few chunks they are samples inside them, if the sizes are known; else the beginnings of chunks. The last
        one comes first.
        """
        chunks = sorted(_spread(self.chunks, _PICTURES), reverse=True)
        starts = [(self.chunk(number), number) for number in chunks]
        for start, number in starts:
            sizes = self.sizes_in(number) if len(chunks) < _PICTURES else []
            for before in sorted(_spread(len(sizes), max(1, _PICTURES // len(chunks))), reverse=True):
                if sizes[before] >= SHORTEST:
                    yield start + sum(sizes[:before]), number
            yield start, number

    def sizes_in(self, chunk: int) -> list[int]:
        """Return the sizes of the samples in a chunk; none when they are not known, or too many."""
        box, same, _ = self._sizes
        first, count = 0, 0
        for (start, each), (after, _) in pairwise([*self._runs, (self.chunks, 0)]):
            if start <= chunk < after:
                first, count = first + (chunk - start) * each, each
                break
            first += (after - start) * each
        if box is None or not 0 < count * 4 <= _TABLE:
            return []
        if same:
            return [same] * count
        data = self.source.at(box.payload + 12 + first * 4, count * 4)
        return [int.from_bytes(data[at : at + 4], "big") for at in range(0, len(data), 4)]

    @cached_property
    def end(self) -> int | None:
        """The offset after the last sample; None when it is not known."""
        sizes = self.sizes_in(self.chunks - 1) if self.chunks else []
        return self.chunk(self.chunks - 1) + sum(sizes) if sizes else None

    @cached_property
    def sized(self) -> bool:
        """True when each sample has a size of its own. In MOV, the one size of all may be that of a unit of sound."""
        return not self._sizes[1]


def tracks(source: ContainerReader, in_moov: Walk) -> list[Track]:
    """Return the tracks of a ``moov`` box, of which these are the contents."""
    return [Track(source, box) for box in in_moov.all(b"trak")]


def not_there(source: ContainerReader, in_moov: Walk, media: list[Box]) -> str:
    """Return what is missing of what the index names, as a reason; "" when nothing is.

    *media*: the ``mdat`` boxes. An offset that lies in none of them is not looked at.
    """
    shown = 0
    for track in tracks(source, in_moov):
        if track.elsewhere or not track.chunks:
            continue
        if (last := track.chunk(track.chunks - 1)) > source.size:
            return f"its index names media at byte {last}, past the end of the file: the copy is not complete"
        if shown < _SHOWN and track.shows_pictures:
            shown += 1
            for offset, chunk in track.pictures():
                box = next((box for box in media if box.payload <= offset < box.end), None)
                if box is not None and _is_missing(track, offset, chunk, min(box.end, source.size)):
                    return zeros_for_media(offset)
    return ""


def zeros_for_media(offset: int) -> str:
    """Return the reason for a file with zeros at *offset*, where its index names a picture or sound."""
    return (
        f"only zeros at byte {offset}, where its index names media: "
        "the recorder or the copy has reserved this space and not written it"
    )


def end_of_samples(source: ContainerReader, in_moov: Walk) -> tuple[int | None, bool]:
    """Return the offset after the last sample of all tracks, None when it is not known; and whether that is exact."""
    found = [track for track in tracks(source, in_moov) if track.chunks]
    ends = [track.end for track in found]
    known = [end for end in ends if end is not None]
    whole = len(known) == len(ends) and known
    return (max(known) if whole else None), all(track.sized for track in found)


def is_compressed(source: ContainerReader, in_moov: Walk) -> bool:
    """True when there are tracks, and the codec of each is known to write no long runs of zeros."""
    found = tracks(source, in_moov)
    return bool(found) and all(track.codec in COMPRESSED for track in found)


def _is_missing(track: Track, offset: int, chunk: int, end: int) -> bool:
    """True when there are only zeros at *offset*, the beginning of a picture in *chunk*.

    A chunk may begin with samples without content (pictures that were left out), or hold nothing else; then the bytes
    are those of another track. So zeros at the beginning of a chunk count only if it has a picture.
    """
    length = min(SAMPLE, end - offset)
    if length < SHORTEST or not is_zero(track.source.at(offset, SHORTEST)):
        return False
    sizes = track.sizes_in(chunk)
    if not sizes:
        return is_zero(track.source.at(offset, length))
    start = track.chunk(chunk)
    for size in sizes:
        if start == offset and size >= SHORTEST:
            return is_zero(track.source.at(offset, min(length, size)))
        start += size
    return False


def _spread(count: int, wanted: int) -> set[int]:
    """Return up to *wanted* of the numbers below *count*, spread evenly; the last is always one, then the first."""
    if wanted == 1 or count <= 1:
        return {count - 1} if count else set()
    return {(count - 1) * number // (wanted - 1) for number in range(wanted)}
