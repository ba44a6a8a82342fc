"""Durations from containers: what muxers state is found, and nothing else is taken for a duration."""

from __future__ import annotations

import io
import math
import struct
from fractions import Fraction

import av
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_container_files import FTYP, KINDS, Reader, box, left_open, pieces, recording, silence
from test_container_matroska import HEADER, element
from test_container_mxf import klv, partition
from test_container_streams import chunk

from uploader.container import LONGEST, duration
from uploader.diagnostics.video import Video

STATED = ["mp4", "faststart", "hybrid", "mov", "mkv", "mkv, index in front", "webm", "avi", "wmv", "mxf"]
ADDED_UP = ["fragmented", "dash"]
NOT_STATED = sorted(KINDS.keys() - {*STATED, *ADDED_UP})
GIB = 1 << 30
ONES = 0xFFFFFFFF
CLUSTER = element("1f43b675", element("e7", b"\x07"), element("a3", bytes(5000)))


def seconds(data: bytes) -> float | None:
    """Return the duration of these bytes; raises AssertionError if it cost more reads than promised."""
    return duration(Reader(lambda offset, length: data[offset : offset + length], len(data)), len(data))


# What muxers write


@pytest.mark.parametrize("name", STATED + ADDED_UP)
def test_the_duration_of_a_closed_recording_is_found(name: str) -> None:
    """It is the one that a demuxer finds."""
    with av.open(io.BytesIO(recording(name)), "r") as source:
        assert source.duration
        assert seconds(recording(name)) == pytest.approx(source.duration / av.time_base, abs=0.001)


@pytest.mark.parametrize("name", NOT_STATED)
def test_a_recording_that_states_no_duration_has_none(name: str) -> None:
    """Streams and live-muxed files."""
    assert seconds(recording(name)) is None


@pytest.mark.parametrize("name", sorted(KINDS.keys() - set(ADDED_UP)))
def test_a_recording_that_was_not_closed_has_no_duration(name: str) -> None:
    """What stands there is a placeholder."""
    assert seconds(left_open(name)) is None


@pytest.mark.parametrize("name", ADDED_UP)
def test_whole_fragments_without_an_index_play_as_long_as_a_demuxer_finds(name: str) -> None:
    """From the first to the last; a file that ends inside one states nothing."""
    with av.open(io.BytesIO(left_open(name)), "r") as source:
        assert source.duration
        assert seconds(left_open(name)) == pytest.approx(source.duration / av.time_base, abs=0.001)
    assert seconds(left_open(name)[:-1]) is None


@pytest.mark.parametrize("muxer", ["mov", "matroska", "avi", "asf"])
def test_a_recording_of_sound_alone_has_a_duration(muxer: str) -> None:
    """Three seconds of silence."""
    assert seconds(silence(muxer)) == pytest.approx(3, abs=0.1)


@pytest.mark.parametrize("muxer", ["mp4", "mov", "matroska", "asf"])
def test_the_longer_of_picture_and_sound_counts(muxer: str) -> None:
    """As for a demuxer."""
    data = with_sound(muxer, pictures=3.0, sound=3.6)
    with av.open(io.BytesIO(data), "r") as source:
        assert source.duration
        assert seconds(data) == pytest.approx(source.duration / av.time_base, abs=0.1)
    assert seconds(data) == pytest.approx(3.6, abs=0.1)


@pytest.mark.parametrize(("sound", "expected"), [(3.6, 3.6), (30.0, None)])
def test_an_avi_whose_streams_contradict_each_other_has_no_duration(sound: float, expected: float | None) -> None:
    """One of its headers is wrong; a small difference is normal."""
    assert seconds(with_sound("avi", pictures=3.0, sound=sound)) == (expected and pytest.approx(expected, abs=0.1))


def with_sound(muxer: str, *, pictures: float, sound: float) -> bytes:
    """Return a closed recording whose tracks play so many seconds each."""
    written = io.BytesIO()
    with av.open(written, "w", format=muxer) as output:
        video = output.add_stream("mpeg4", rate=10)
        audio = output.add_stream("mp2", rate=48_000, layout="stereo")
        assert isinstance(video, av.VideoStream)
        assert isinstance(audio, av.AudioStream)
        video.width, video.height, video.pix_fmt = 64, 64, "yuv420p"
        for number in range(round(pictures * 10)):
            picture = av.VideoFrame(64, 64, "yuv420p")
            picture.pts, picture.time_base = number, Fraction(1, 10)
            output.mux(video.encode(picture))
        for number in range(round(sound * 10)):
            tone = av.AudioFrame("s16", "stereo", 4800)
            tone.planes[0].update(bytes(tone.planes[0].buffer_size))
            tone.pts, tone.rate, tone.time_base = number * 4800, 48_000, Fraction(1, 48_000)
            output.mux(audio.encode(tone))
        output.mux(video.encode(None))
        output.mux(audio.encode(None))
    return written.getvalue()


@pytest.mark.parametrize("faststart", [False, True])
@pytest.mark.parametrize(("frames", "fps"), [(1, 25), (9, 25), (90, 30)])
def test_the_duration_of_a_made_video_is_found(frames: int, fps: int, faststart: bool) -> None:
    """Frames over frames per second."""
    video = Video(frames=frames, width=160, height=96, fps=fps, faststart=faststart)
    assert seconds(b"".join(video.pieces())) == pytest.approx(frames / fps)


@pytest.mark.parametrize("name", STATED)
@given(st.data())
def test_a_part_of_a_recording_has_the_whole_duration_or_none(name: str, data: st.DataObject) -> None:
    """A field that is cut off is not read as a smaller number."""
    whole = recording(name)
    end = data.draw(st.integers(0, len(whole)) | st.integers(0, 700) | st.integers(len(whole) - 1200, len(whole)))
    assert seconds(whole[:end]) in (None, seconds(whole))


# MP4 and MOV


def full(kind: bytes, before: tuple[int, int], ticks: int, *, version: int = 0, rest: int = 40) -> bytes:
    """Return a box with its *ticks* after so many bytes and, of *before*, a timescale; none when that is 0."""
    times = bytes((16 if version else 8) + before[0])
    scale = struct.pack(">I", before[1]) if before[1] else b""
    return box(
        kind, bytes([version, 0, 0, 0]), times, scale, struct.pack(">Q" if version else ">I", ticks), bytes(rest)
    )


def mvhd(ticks: int, timescale: int = 600, version: int = 0) -> bytes:
    """Return the header of a movie."""
    return full(b"mvhd", (0, timescale), ticks, version=version)


def track(in_movie: int, in_media: int, timescale: int = 90_000, version: int = 0) -> bytes:
    """Return a track with its durations in ``tkhd`` and ``mdhd``."""
    media = box(b"mdia", full(b"mdhd", (0, timescale), in_media, version=version, rest=4))
    return box(b"trak", full(b"tkhd", (8, 0), in_movie, version=version), media)


def movie(*parts: bytes, media: bytes = box(b"mdat", bytes(5000))) -> float | None:
    """Return the duration of an MP4 with these boxes in its ``moov``, which comes last."""
    assert seconds(FTYP + box(b"moov", *parts) + media) == seconds(FTYP + media + box(b"moov", *parts))
    return seconds(FTYP + media + box(b"moov", *parts))


@pytest.mark.parametrize("version", [0, 1])
def test_the_movie_header_states_ticks_of_its_timescale(version: int) -> None:
    """In 32 bits or in 64."""
    assert movie(mvhd(1500, 600, version)) == 2.5
    assert movie(track(9000, 9000), mvhd(1500, 600, version)) == 2.5
    assert movie(mvhd(1500, 0, version)) is None
    assert movie(box(b"mvhd", mvhd(1500, 600, version)[8:20])) is None
    assert movie(track(9000, 9000)) is None  # a track's ticks are those of the movie


def test_the_index_may_follow_many_boxes() -> None:
    """Of those at top level, 32 are looked at."""
    assert seconds(FTYP + box(b"mdat", bytes(9)) * 20 + box(b"moov", mvhd(1500))) == 2.5
    assert seconds(FTYP + box(b"mdat", bytes(9)) * 40 + box(b"moov", mvhd(1500))) is None


def test_more_than_four_billion_ticks_need_the_long_header() -> None:
    """A day at ten million ticks a second."""
    assert movie(mvhd(86_400 * 10**7, 10**7, version=1)) == 86_400


@pytest.mark.parametrize("version", [0, 1])
def test_a_movie_header_without_a_duration_leaves_it_to_the_longest_track(version: int) -> None:
    """0 and all ones mean that it is not known; so in ``tkhd``, where ``mdhd`` then tells in ticks of its own."""
    unknown = (1 << 64) - 1 if version else ONES
    for none in (0, unknown):
        header = mvhd(none, 600, version)
        assert movie(header, track(600, 0, version=version), track(1500, 0, version=version)) == 2.5
        assert movie(header, track(none, 45_000, version=version), track(60, 0)) == 0.5
        assert movie(header, track(none, 45_000, timescale=0, version=version)) is None
        assert movie(header, track(600, 0), track(none, unknown, version=version)) is None
        assert movie(header, track(600, 0), track(0, 0)) == 1  # without samples
        assert movie(header, track(0, 0)) is None
        assert movie(header, track(600, 0), box(b"trak")) is None
        assert movie(header) is None


@pytest.mark.parametrize("version", [0, 1])
def test_of_a_fragmented_file_only_the_total_is_believed(version: int) -> None:
    """The movie header counts the first fragment at most."""
    total = full(b"mehd", (-8 if not version else -16, 0), 3000, version=version, rest=0)
    trex = box(b"trex", bytes(24))
    assert movie(mvhd(1500), box(b"mvex", total, trex)) == 5
    assert movie(mvhd(1500), track(600, 600), box(b"mvex", trex)) is None
    assert movie(mvhd(1500), box(b"mvex", box(b"mehd", total[8:-1]), trex)) is None
    unknown = full(b"mehd", (-8 if not version else -16, 0), (1 << (64 if version else 32)) - 1, version=version)
    assert movie(mvhd(1500), box(b"mvex", unknown)) is None
    assert movie(mvhd(1500), media=box(b"moof", bytes(90)) + box(b"mdat", bytes(90))) is None


def test_an_index_with_too_many_boxes_has_no_duration() -> None:
    """One of those that are not seen may say that the file is fragmented."""
    assert movie(mvhd(1500), *[box(b"free", bytes(9))] * 30) == 2.5
    assert movie(mvhd(1500), *[box(b"free", bytes(9))] * 31, box(b"mvex")) is None


def test_the_duration_of_a_large_recording_costs_a_few_reads() -> None:
    """With tracks of a mebibyte each, behind 2 GiB of media."""
    tracks = [box(b"trak", box(b"free", bytes(1 << 20))) for _ in range(2)]
    index = box(b"moov", mvhd(1500), *tracks)
    head = FTYP + box(b"mdat", size=2 * GIB)
    size = len(FTYP) + 2 * GIB + len(index)
    file = pieces((0, head), (size - len(index), index), size=size)
    assert duration(file, size) == 2.5
    assert (file.reads, file.taken) == (3, 16_384 + 2 * 4096)


# Matroska


def mkv(*info: bytes, size: int | None = -1, before: tuple[bytes, ...] = ()) -> float | None:
    """Return the duration of a Segment with this Info, after *before*."""
    return seconds(HEADER + element("18538067", *before, element("1549a966", *info), CLUSTER, size=size))


SCALE = element("2ad7b1", b"\x0f\x42\x40")


def test_the_duration_of_a_segment_is_a_float_in_units_of_its_scale() -> None:
    """Of 4 or 8 bytes; a unit is a millisecond unless the Info tells otherwise."""
    assert mkv(SCALE, element("4489", struct.pack(">d", 2500))) == 2.5
    assert mkv(element("4489", struct.pack(">f", 2500)), SCALE) == 2.5
    assert mkv(element("4489", struct.pack(">f", 2500))) == 2.5
    assert mkv(element("4489", struct.pack(">f", 2500)), element("2ad7b1", b"\x64")) == 0.00025
    assert mkv(element("4489", struct.pack(">f", 2500)), before=(element("ec", bytes(9000)),)) == 2.5


@pytest.mark.parametrize("value", [b"", b"\x45", struct.pack(">d", 2500)[:5], struct.pack(">d", 2500) + b"\0"])
def test_a_float_of_another_size_is_no_duration(value: bytes) -> None:
    """Nor is a missing one."""
    assert mkv(SCALE, element("4489", value)) is None
    assert mkv(SCALE) is None


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, -math.inf, 1e300])
def test_an_impossible_float_is_no_duration(value: float) -> None:
    """A placeholder, or damage."""
    assert mkv(SCALE, element("4489", struct.pack(">d", value))) is None
    assert mkv(element("2ad7b1", b"\xff" * 8), element("4489", struct.pack(">d", value))) is None


def test_a_segment_without_a_size_has_no_duration() -> None:
    """It is live, or was not closed: what stands there was written before the recording."""
    assert mkv(SCALE, element("4489", struct.pack(">d", 2500)), size=None) is None


def test_media_that_go_on_behind_what_was_counted_make_the_duration_unknown() -> None:
    """The recorder has filled in the sizes, gone on, and died."""
    info = element("1549a966", element("4489", struct.pack(">d", 2500)))
    counted = HEADER + element("18538067", info, CLUSTER)
    assert seconds(counted) == seconds(counted + b"trailer") == 2.5
    assert seconds(counted + CLUSTER) is None
    headers = chunk(b"LIST", b"hdrl", avih(50), stream(b"vids", 50))
    counted = chunk(b"RIFF", b"AVI ", headers, chunk(b"LIST", b"movi", chunk(b"00dc", bytes(3000))))
    assert seconds(counted) == seconds(counted + b"trailer") == 2
    assert seconds(counted + chunk(b"00dc", bytes(3000))) is None


def test_only_a_segment_has_a_duration() -> None:
    """Another kind of EBML file is not Matroska."""
    info = element("1549a966", element("4489", struct.pack(">d", 2500)))
    assert seconds(HEADER + element("18538067", info)) == 2.5
    assert seconds(HEADER + element("12345678", info)) is None
    assert seconds(HEADER) is None


def test_an_info_behind_the_media_is_not_searched() -> None:
    """Each Cluster would cost a read."""
    assert mkv(SCALE, element("4489", struct.pack(">d", 2500)), before=(CLUSTER,)) is None


# AVI


def avih(frames: int, microseconds: int = 40_000) -> bytes:
    """Return the main header."""
    return chunk(b"avih", struct.pack("<I12xI", microseconds, frames), bytes(36))


def stream(kind: bytes, length: int, scale: int = 1, rate: int = 25) -> bytes:
    """Return the list of a stream."""
    return chunk(
        b"LIST", b"strl", chunk(b"strh", kind, bytes(16), struct.pack("<II4xI", scale, rate, length), bytes(20))
    )


def dmlh(frames: int) -> bytes:
    """Return OpenDML's own header, which counts the frames of all RIFFs."""
    return chunk(b"LIST", b"odml", chunk(b"dmlh", struct.pack("<I", frames), bytes(244)))


def avi(*headers: bytes, riffs: int = 1) -> float | None:
    """Return the duration of an AVI with these in its header list."""
    movi = chunk(b"LIST", b"movi", chunk(b"00dc", bytes(3000)))
    more = chunk(b"RIFF", b"AVIX", movi) * (riffs - 1)
    return seconds(chunk(b"RIFF", b"AVI ", chunk(b"LIST", b"hdrl", *headers), movi) + more)


def test_a_stream_of_an_avi_states_its_length() -> None:
    """In units of scale over rate. The main header counts only where no stream states a length."""
    assert avi(avih(99), stream(b"vids", 50)) == 2
    assert avi(avih(99), stream(b"vids", 50, 1001, 25_025), stream(b"auds", 96_000, 1, 48_000)) == 2
    assert avi(avih(99), stream(b"auds", 96_000, 4, 48_000)) == 8
    assert avi(avih(99), stream(b"iavs", 50)) == 2
    assert avi(avih(50), stream(b"vids", 0)) == 2
    assert avi(avih(50), stream(b"vids", 99, rate=0)) == 2
    assert avi(avih(50), stream(b"txts", 1)) == 2
    assert avi(avih(50)) == 2
    assert avi(avih(50, microseconds=0)) is None
    assert avi(avih(0)) is None
    assert avi() is None


def test_only_the_total_counts_the_frames_of_several_riffs() -> None:
    """The other fields may count those of the first."""
    assert avi(avih(99), stream(b"vids", 99), dmlh(125), riffs=3) == 5
    assert avi(avih(99), dmlh(125), riffs=3) == 5
    assert avi(avih(99), stream(b"vids", 125), stream(b"auds", 6 * 8000, 1, 8000), dmlh(125), riffs=2) == 6
    assert avi(avih(99), stream(b"vids", 99), riffs=3) is None
    assert avi(avih(99), stream(b"vids", 99), dmlh(0), riffs=3) is None
    assert avi(avih(50), stream(b"vids", 50), dmlh(0)) == 2


@pytest.mark.parametrize("size", [0, ONES])
def test_an_avi_without_a_size_has_no_duration(size: int) -> None:
    """It was not closed."""
    headers = chunk(b"LIST", b"hdrl", avih(50), stream(b"vids", 50))
    assert seconds(chunk(b"RIFF", b"AVI ", headers)) == 2
    assert seconds(chunk(b"RIFF", b"AVI ", headers, size=size)) is None


def test_a_header_list_that_is_cut_states_the_whole_length_or_none() -> None:
    """A number that is cut off is not read as a smaller one."""
    whole = chunk(b"RIFF", b"AVI ", chunk(b"LIST", b"hdrl", avih(70_000), stream(b"vids", 70_000)))
    assert seconds(whole) == 2800
    assert {seconds(whole[:end]) for end in range(len(whole))} == {None, 2800}


# ASF


def asf(play: int, preroll: int = 3000, flags: int = 2) -> float | None:
    """Return the duration of an ASF with these file properties: 100 ns, ms."""
    whole = bytearray(recording("wmv"))
    start = whole.index(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"))
    struct.pack_into("<Q", whole, start + 64, play)
    struct.pack_into("<Q", whole, start + 80, preroll)
    struct.pack_into("<I", whole, start + 88, flags)
    return seconds(bytes(whole))


def test_the_play_duration_of_an_asf_includes_its_preroll() -> None:
    """Which is not part of what is shown. While it is being created, both are invalid."""
    assert asf(55_000_000) == 2.5
    assert asf(55_000_000, preroll=0) == 5.5
    assert asf(30_000_000) is None
    assert asf(0) is None
    assert asf(55_000_000, flags=3) is None


# MXF


def item(tag: int, value: bytes) -> bytes:
    """Return an item of a local set."""
    return struct.pack(">HH", tag, len(value)) + value


def local_set(kind: int, number: int, *items: bytes) -> bytes:
    """Return a set with its identifier."""
    return klv(
        bytes.fromhex("060e2b34025301010d0101010101") + bytes([kind, 0]),
        item(0x3C0A, bytes([number] * 16)) + b"".join(items),
    )


def mxf(*tracks: tuple[int, int], kind: int = 1, status: int = 4, packages: int = 1) -> float | None:
    """Return the duration of an MXF whose material package has tracks of so many units at so many a second."""
    references = b"".join(bytes([10 + number] * 16) for number in range(len(tracks)))
    sets = [
        local_set(0x36, 90 + number, item(0x4403, struct.pack(">II", len(tracks), 16) + references))
        for number in range(packages)
    ]
    for number, (units, rate) in enumerate(tracks):
        definition = bytes.fromhex("060e2b340401010101030202") + bytes([kind]) + bytes(3)
        rational = item(0x4B01, struct.pack(">II", rate, 1))
        sets.append(local_set(0x3B, 10 + number, rational, item(0x4803, bytes([50 + number] * 16))))
        length = item(0x0202, struct.pack(">q", units))
        sets.append(local_set(0x0F, 50 + number, item(0x0201, definition), length))
    metadata = b"".join(sets)
    return seconds(partition(2, status, 0, metadata=len(metadata)) + metadata)


def test_the_material_package_of_an_mxf_states_a_duration() -> None:
    """The longest of its tracks of picture and sound, if the header is closed and complete."""
    assert mxf((50, 25)) == 2
    assert mxf((50, 25), (144_000, 48_000)) == 3
    assert mxf((50, 25), kind=2) == 2
    for none in (mxf(), mxf((-1, 25)), mxf((50, 0)), mxf((50, 25), (-1, 25)), mxf((50, 25), kind=9)):
        assert none is None
    assert mxf((50, 25), status=2) is None
    assert mxf((50, 25), status=3) is None
    assert mxf((50, 25), packages=2) is None


# All of them


def test_a_duration_above_ten_days_is_none() -> None:
    """No recording is so long."""
    assert LONGEST == 864_000
    assert movie(mvhd(864_000, 1)) == LONGEST
    assert movie(mvhd(864_001, 1)) is None


def test_a_read_error_passes_through() -> None:
    """The caller handles it."""

    def read(offset: int, length: int) -> bytes:
        raise OSError(5, f"no {length} bytes at {offset}")

    with pytest.raises(OSError, match="no 16384 bytes at 0"):
        duration(read, 1 << 20)


@pytest.mark.parametrize("left", [0, 20, 17_000])
def test_a_file_that_became_shorter_has_no_duration(left: int) -> None:
    """It is being written anew."""
    whole = recording("mp4")[:left]
    assert duration(lambda offset, length: whole[offset : offset + length], len(recording("mp4"))) is None


MAGICS = st.sampled_from(
    [
        *(FTYP, b"\0\0\0\x08wide", b"\0\0\0\x01mdat", b"\0\0\0\x00moov", b"\0\0\1\xba", (b"G" + bytes(187)) * 4),
        *(b"RIFF\0\0\0\0AVI ", b"RIFF\xff\xff\0\0AVI LIST\xff\xff\0\0hdrl", HEADER + bytes.fromhex("18538067a0")),
        *(bytes.fromhex("1a45dfa3801853806701fffffffffffffe"), bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")),
    ]
)
WORDS = st.sampled_from(
    [
        *(b"moov", b"mvhd", b"mvex", b"mehd", b"trak", b"tkhd", b"mdia", b"mdhd", b"moof", b"mdat", b"\0\0\0\x60"),
        *(b"LIST", b"hdrl", b"avih", b"strl", b"strh", b"vids", b"auds", b"odml", b"dmlh", b"\x40\0\0\0", b"RIFF"),
        *(
            bytes.fromhex(word)
            for word in ("1549a966a0", "448988", "448984", "2ad7b183", "1f43b675", "ec80", "ffffffff")
        ),
        *(bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365"), bytes(8), b"\0\0\0\1", struct.pack(">d", math.nan)),
    ]
)


@given(MAGICS, st.lists(WORDS | st.binary(max_size=12), max_size=120))
def test_structures_in_any_order_yield_a_plausible_duration_or_none(magic: bytes, parts: list[bytes]) -> None:
    """They never raise, and cost no more reads than promised."""
    check(magic + b"".join(parts))


@given(st.binary(max_size=3000))
def test_bytes_yield_a_plausible_duration_or_none(data: bytes) -> None:
    """The same for what is no container at all."""
    check(data)


@pytest.mark.parametrize("name", KINDS)
@given(st.data())
def test_damaged_recordings_yield_a_plausible_duration_or_none(name: str, data: st.DataObject) -> None:
    """The same for a recording with changed bytes in its structure, and cut."""
    whole = bytearray(recording(name)[: data.draw(st.integers(0, 200_000))])
    places = st.integers(0, 700) | st.integers(0, max(0, len(whole) - 1))
    for place, word in data.draw(st.lists(st.tuples(places, WORDS | st.binary(min_size=1, max_size=9)), max_size=12)):
        if place + len(word) <= len(whole):
            whole[place : place + len(word)] = word
    check(bytes(whole))


@given(st.integers(0, 1 << 64), st.integers(0, 255), MAGICS)
def test_any_stated_size_of_a_file_is_taken(size: int, filler: int, magic: bytes) -> None:
    """Also of one that could not exist."""
    result = duration(pieces((0, magic), size=size, filler=bytes([filler])), size)
    assert result is None or 0 < result <= LONGEST


def test_many_tracks_and_boxes_cost_no_more_than_promised() -> None:
    """They are found within the limits, which the reader of these tests holds them to."""
    far = box(b"trak", *[box(b"free", bytes(8200))] * 3, full(b"tkhd", (8, 0), 600))
    assert seconds(FTYP + box(b"moov", mvhd(0), *[far] * 3)) == 1
    assert seconds(FTYP + box(b"moov", mvhd(0), *[far] * 30)) == 1
    assert seconds(FTYP + box(b"free", bytes(8200)) * 1000) is None


def check(data: bytes) -> None:
    """Require a duration that is possible, or none."""
    result = seconds(data)
    assert result is None or 0 < result <= LONGEST
