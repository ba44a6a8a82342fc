"""Recordings for the tests of the container check, made by a real muxer; and proof that they are what they claim."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import av
import pytest

from uploader.container import MAX_BYTES, MAX_READS, ContainerState, inspect

FRAMES = 60


@dataclass(frozen=True)
class Kind:
    """How a recording is made, and what it is to be called."""

    container: str
    suffix: str
    muxer: str
    codec: str
    options: tuple[tuple[str, str], ...] = ()
    seekable: bool = True
    encoding: tuple[tuple[str, str], ...] = ()


KINDS = {
    "mp4": Kind("mp4", ".mp4", "mp4", "mpeg4"),
    "faststart": Kind("mp4", ".m4v", "mp4", "mpeg4", (("movflags", "faststart"),)),
    "fragmented": Kind("mp4", ".mp4", "mp4", "mpeg4", (("movflags", "frag_keyframe+empty_moov"),)),
    "dash": Kind("mp4", ".mp4", "mp4", "mpeg4", (("movflags", "dash"),)),
    "hybrid": Kind("mp4", ".mp4", "mp4", "mpeg4", (("movflags", "hybrid_fragmented"),)),
    "mov": Kind("mp4", ".MOV", "mov", "mpeg4"),
    "mkv": Kind("matroska", ".mkv", "matroska", "mpeg4"),
    "mkv, index in front": Kind("matroska", ".mkv", "matroska", "mpeg4", (("cues_to_front", "1"),)),
    "mkv, live": Kind("matroska", ".mkv", "matroska", "mpeg4", (("live", "1"),)),
    "mkv, piped": Kind("matroska", ".mkv", "matroska", "mpeg4", seekable=False),
    "webm": Kind(
        "matroska", ".webm", "webm", "libvpx", encoding=(("deadline", "realtime"), ("cpu-used", "8"))
    ),  # quickly
    "avi": Kind("avi", ".avi", "avi", "mpeg4"),
    "ts": Kind("mpeg-ts", ".ts", "mpegts", "mpeg2video"),
    "m2ts": Kind("mpeg-ts", ".mts", "mpegts", "mpeg2video", (("mpegts_m2ts_mode", "1"),)),
    "mpg": Kind("mpeg-ps", ".mpg", "mpeg", "mpeg1video"),
    "vob": Kind("mpeg-ps", ".vob", "vob", "mpeg2video"),
    "wmv": Kind("asf", ".wmv", "asf", "wmv2"),
    "flv": Kind("flv", ".flv", "flv", "flv"),
    "mxf": Kind("mxf", ".mxf", "mxf", "mpeg2video"),
    "mxf, piped": Kind("mxf", ".MXF", "mxf", "mpeg2video", seekable=False),
}


class Pipe:
    """A target that cannot seek."""

    def __init__(self) -> None:
        self.written = io.BytesIO()

    def write(self, data: bytes) -> int:
        """Take what comes."""
        return self.written.write(data)


@cache
def recording(name: str) -> bytes:
    """A recording of this kind that was closed."""
    return _made(KINDS[name])[1]


@cache
def left_open(name: str) -> bytes:
    """A recording of this kind as its file is before the recorder closes it; after kill -9 it stays so."""
    return _made(KINDS[name])[0]


@cache
def _made(kind: Kind) -> tuple[bytes, bytes]:
    with TemporaryDirectory() as folder:
        path, pipe = Path(folder) / "recording", Pipe()
        before = _write(kind, str(path) if kind.seekable else pipe, lambda: _now(path, pipe))
        return before, _now(path, pipe)


def _now(path: Path, pipe: Pipe) -> bytes:
    return path.read_bytes() if path.exists() else pipe.written.getvalue()


def _write(kind: Kind, target: str | Pipe, look: Callable[[], bytes]) -> bytes:
    """Write a recording to *target*; return what *look* sees just before it is closed."""
    options = {"flush_packets": "1", **dict(kind.options)}
    with av.open(target, "w", format=kind.muxer, options=options) as output:
        stream = output.add_stream(kind.codec, rate=25, options=dict(kind.encoding))
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 160, 96, "yuv420p", 400_000
        stream.codec_context.gop_size = 10
        for number in range(FRAMES):
            output.mux(stream.encode(_frame(number)))
        before = look()
        output.mux(stream.encode(None))
    return before


def _frame(number: int) -> av.VideoFrame:
    frame = av.VideoFrame(160, 96, "yuv420p")
    for index, plane in enumerate(frame.planes):
        plane.update(bytes((number * 7 + place * place * (index + 3)) % 256 for place in range(plane.buffer_size)))
    frame.pts, frame.time_base = number, Fraction(1, 25)
    return frame


@cache
def silence(muxer: str, layout: str = "stereo", **options: str) -> bytes:
    """A closed recording of nothing but three seconds of PCM silence: a whole lot of zeros, and rightly so."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "silence"
        _write_silence(str(path), muxer, layout, options)
        return path.read_bytes()


def _write_silence(target: str, muxer: str, layout: str, options: dict[str, str]) -> None:
    with av.open(target, "w", format=muxer, options=options) as output:
        stream = output.add_stream("pcm_s16le", rate=48_000, layout=layout)
        assert isinstance(stream, av.AudioStream)
        for number in range(3):
            frame = av.AudioFrame("s16", layout, 48_000)
            frame.planes[0].update(bytes(frame.planes[0].buffer_size))
            frame.pts, frame.rate, frame.time_base = number * 48_000, 48_000, Fraction(1, 48_000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))


@dataclass
class Reader:
    """A file of *size* bytes that counts how it is read. *content* gives the bytes of a range."""

    content: Callable[[int, int], bytes]
    size: int
    reads: int = 0
    taken: int = 0

    def __call__(self, offset: int, length: int) -> bytes:
        """Read as ``inspect`` wants it, within the file and within the bounds that it promises."""
        assert 0 <= offset < self.size
        assert 0 < length <= self.size - offset
        data = self.content(offset, length)
        self.reads += 1
        self.taken += len(data)
        assert self.reads <= MAX_READS
        assert self.taken <= MAX_BYTES
        return data


def judged(data: bytes, suffix: str = "") -> ContainerState:
    """Check these bytes; raises AssertionError if it cost more reads than promised."""
    return inspect(Reader(lambda offset, length: data[offset : offset + length], len(data)), len(data), suffix)


def pieces(*parts: tuple[int, bytes], size: int, filler: bytes = b"\xa5") -> Reader:
    """A file of *size* bytes without the room for it: *parts* at their offsets, *filler* elsewhere."""

    def content(offset: int, length: int) -> bytes:
        data = bytearray(filler * length)
        for start, part in parts:
            low, high = max(start, offset), min(start + len(part), offset + length)
            if low < high:
                data[low - offset : high - offset] = part[low - start : high - start]
        return bytes(data)

    return Reader(content, size)


def box(kind: bytes, *contents: bytes, size: int | None = None) -> bytes:
    """A box of MP4; *size* is what its head says when that is not the truth."""
    payload = b"".join(contents)
    return struct.pack(">I4s", len(payload) + 8 if size is None else size, kind) + payload


def moov(
    *, codecs: Sequence[bytes] = (b"avc1",), chunks: Sequence[int] = (1000,), table: int = 0, handler: bytes = b""
) -> bytes:
    """An index box: a track for each codec, its chunks' offsets last, after *table* bytes of sample sizes."""
    tracks = []
    for codec in codecs:
        described = box(b"stsd", bytes(4), struct.pack(">I", 1), box(codec, bytes(78)))
        sizes = box(b"stsz", b"\x01" * (12 + table))
        offsets = box(b"stco", bytes(4), struct.pack(f">I{len(chunks)}I", len(chunks), *chunks))
        media = box(b"minf", box(b"vmhd", bytes(12)), box(b"stbl", described, sizes, offsets))
        shown = box(b"hdlr", bytes(8), handler, bytes(13)) if handler else b""
        tracks.append(box(b"trak", box(b"tkhd", bytes(84)), box(b"mdia", box(b"mdhd", bytes(24)), shown, media)))
    return box(b"moov", box(b"mvhd", bytes(100)), *tracks)


FTYP = box(b"ftyp", b"isom\0\0\2\0isomavc1")


@pytest.mark.parametrize("name", KINDS)
def test_the_test_recordings_can_be_decoded(name: str) -> None:
    """A demuxer finds every frame of them."""
    with av.open(io.BytesIO(recording(name)), "r") as source:
        assert sum(1 for _ in source.decode(video=0)) == FRAMES


@pytest.mark.parametrize("name", KINDS)
def test_the_test_recordings_are_long_enough_to_be_cut(name: str) -> None:
    """They are longer than one read and than the run of zeros that the check looks for."""
    assert len(recording(name)) > 150_000 or name == "webm"
    assert len(recording(name)) > 100_000


@pytest.mark.parametrize("name", ["faststart", "fragmented", "mkv", "avi"])
def test_a_demuxer_accepts_most_cut_recordings(name: str) -> None:
    """It takes two thirds of them for shorter videos, so the check cannot rely on one."""
    data = recording(name)
    with av.open(io.BytesIO(data[: len(data) * 2 // 3]), "r") as source:
        assert sum(packet.size > 0 for packet in source.demux(video=0)) > FRAMES // 3
