"""The generated videos, checked with a real decoder."""

from __future__ import annotations

import io
import struct
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import pytest

from uploader.diagnostics.video import Video, make_mp4

SMALL = Video(frames=12, width=320, height=64, fps=10, seed=7)


def made(video: Video) -> bytes:
    """The whole movie."""
    return b"".join(video.pieces())


def decoded(data: bytes) -> list[av.VideoFrame]:
    """Every frame of a movie; a decoder error raises."""
    with av.open(io.BytesIO(data), mode="r") as container:
        container.streams.video[0].codec_context.options = {"err_detect": "explode"}
        return list(container.decode(video=0))


def luma(frame: av.VideoFrame) -> bytes:
    """The brightness of every pixel."""
    return plane(frame, 0)


def plane(frame: av.VideoFrame, number: int) -> bytes:
    """The samples of one plane without the decoder's padding."""
    found = frame.planes[number]
    raw = bytes(found)
    lines = (raw[y * found.line_size :][: found.width] for y in range(found.height))
    return b"".join(lines)


def boxes(data: bytes) -> list[bytes]:
    """The kinds of the top-level boxes, in order."""
    kinds, at = [], 0
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        if size == 1:
            (size,) = struct.unpack_from(">Q", data, at + 8)
        kinds.append(kind)
        at += size
    assert at == len(data)
    return kinds


@pytest.mark.parametrize("faststart", [False, True])
def test_every_frame_can_be_decoded(faststart: bool) -> None:
    """A decoder that is told to explode at any error shows as many frames as were asked for."""
    assert len(decoded(made(replace(SMALL, faststart=faststart)))) == SMALL.frames


def test_stream_is_what_was_asked_for() -> None:
    """Size, rate, duration and kind of the picture are those of the request."""
    with av.open(io.BytesIO(made(SMALL)), mode="r") as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.frames) == (320, 64, 12)
        assert stream.average_rate == Fraction(10)
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert container.duration == SMALL.duration * av.time_base


def test_frames_come_at_an_even_pace() -> None:
    """Frame n is shown after n / fps seconds."""
    times = [frame.time for frame in decoded(made(SMALL))]
    assert times == pytest.approx([number / SMALL.fps for number in range(SMALL.frames)])


def test_picture_moves() -> None:
    """No two frames of a video look the same, beyond the bars' period too."""
    frames = [luma(frame) for frame in decoded(made(replace(SMALL, frames=150)))]
    assert len(set(frames)) == 150
    lines = [frame[:320] for frame in frames]
    assert all(before != after for before, after in pairwise(lines))


def test_neighbouring_pictures_have_different_idr_ids() -> None:
    """As H.264, 7.4.3 demands of two IDR pictures in a row."""
    heads = [piece[4:9] for piece in list(SMALL.pieces())[1:-1]]
    assert heads[0::2] == [heads[0]] * 6
    assert heads[1::2] == [heads[1]] * 6
    assert heads[0] != heads[1]


def test_frame_shows_its_number() -> None:
    """Dark and light blocks in the last row of macroblocks spell the frame's number in binary."""
    frame = luma(decoded(made(replace(SMALL, frames=6)))[5])
    row = frame[56 * 320 :][:320]
    bits = "".join("1" if row[16 * block + 8] > 128 else "0" for block in range(16))
    assert int(bits, 2) == 5


def test_samples_survive_exactly() -> None:
    """Decoding gives back the very samples that were written: nothing is filtered or lost."""
    frame = decoded(made(SMALL))[0]
    assert luma(frame)[:320] == bytes(32 + x % 64 * 3 for x in range(320))


def test_seeds_differ_in_colour() -> None:
    """Videos of different seeds differ in colour and in bytes; those of one seed are the same."""
    one, two = SMALL, replace(SMALL, seed=8)
    colours = [(plane(frame, 1)[0], plane(frame, 2)[0]) for frame in (decoded(made(one))[0], decoded(made(two))[0])]
    assert colours[0] != colours[1]
    assert made(one) != made(two)
    assert made(one) == made(one)


@pytest.mark.parametrize("seed", range(20))
def test_no_start_code_is_hidden_in_the_samples(seed: int) -> None:
    """Two zero bytes and a third of at most three never meet inside a coded unit (H.264, 7.4.1)."""
    video = replace(SMALL, seed=seed, frames=3)
    samples = list(video.pieces())[1:-1]
    assert len(samples) >= video.frames
    for piece in samples:
        assert not any(bytes([0, 0, low]) in piece[4:] for low in range(4))


@pytest.mark.parametrize(
    "video",
    [
        SMALL,
        replace(SMALL, faststart=True),
        Video(frames=1, width=16, height=16, fps=1),
        Video(frames=2, width=1280, height=720, fps=30),
    ],
)
def test_size_is_known_beforehand(video: Video) -> None:
    """``size`` is the number of bytes that are generated, and they can be decoded."""
    data = made(video)
    assert len(data) == video.size
    assert len(decoded(data)) == video.frames


def test_index_follows_the_pictures_unless_asked_otherwise() -> None:
    """A recorder's file has its index at the end, a faststart one before the pictures."""
    assert boxes(made(SMALL)) == [b"ftyp", b"mdat", b"moov"]
    assert boxes(made(replace(SMALL, faststart=True))) == [b"ftyp", b"moov", b"mdat"]


def test_movie_beyond_four_gigabytes_has_a_long_box() -> None:
    """Its head states the size in 64 bits."""
    video = Video(frames=40_000, width=320, height=240)
    assert video.size > 1 << 32
    head = next(video.pieces())
    announced, kind, long = struct.unpack_from(">I4sQ", head, len(head) - 16)
    assert (announced, kind) == (1, b"mdat")
    assert video.size - long == pytest.approx(600, abs=400)


def test_a_movie_is_generated_as_head_frames_and_index() -> None:
    """So it can grow as a recording does."""
    assert len(list(SMALL.pieces())) == 1 + SMALL.frames + 1
    assert len(list(replace(SMALL, faststart=True).pieces())) == 1 + SMALL.frames


def test_make_mp4_writes_a_path_or_a_file(tmp_path: Path) -> None:
    """Both targets get the same bytes, and the size is told."""
    path, file = tmp_path / "a.mp4", io.BytesIO()
    assert make_mp4(path, frames=3, width=64, height=48, seed=1) == path.stat().st_size
    assert make_mp4(file, frames=3, width=64, height=48, seed=1) == len(file.getvalue())
    assert path.read_bytes() == file.getvalue()


@pytest.mark.parametrize(
    ("frames", "width", "height", "fps"),
    [(0, 320, 240, 25), (1, 320, 240, 0), (1, 100, 240, 25), (1, 320, 8, 25), (1, 0, 16, 25), (1, 16_000, 16_000, 1)],
)
def test_impossible_video_is_refused(frames: int, width: int, height: int, fps: int) -> None:
    """A video without frames, of odd size or beyond every level raises ValueError."""
    with pytest.raises(ValueError, match=r"frame|multiples"):
        Video(frames=frames, width=width, height=height, fps=fps)
