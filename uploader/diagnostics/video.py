"""Makes small playable videos by arithmetic alone: for the demo, the probe and the tests.

H.264 constrained baseline whose macroblocks are all I_PCM (ITU-T H.264, 7.3.5: samples as they are) in an MP4
(ISO/IEC 14496-12). No codec is needed, every frame has the same length, and so a movie's size is known before it is
made. Samples stay between 16 and 235, so no two zero bytes ever meet where a start code could be mistaken
(7.4.1). ``Video.pieces`` yields a movie frame by frame, so that it need not be in memory as a whole.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_MACROBLOCK = 16  # pixels, in width and in height
_COUNTER_BITS = 16  # blocks of the frame counter, read from the left, the highest bit first
_DARK, _LIGHT = 40, 220  # luma of the counter's blocks

# ITU-T H.264, table A-1: level_idc, macroblocks per second, macroblocks per frame.
_LEVELS = (
    (10, 1_485, 99),
    (20, 11_880, 396),
    (30, 40_500, 1_620),
    (31, 108_000, 3_600),
    (40, 245_760, 8_192),
    (51, 983_040, 36_864),
)


@dataclass(frozen=True, kw_only=True)
class Video:
    """A movie to be made: moving bars, in a colour from *seed*, above a counter of frames.

    *width* and *height* are pixels and multiples of 16. With *faststart* the index is before the pictures, as for the
    web; otherwise behind them, as recorders write it. Raises ValueError for a movie that cannot be made.
    """

    frames: int
    width: int = 320
    height: int = 240
    fps: int = 25
    seed: int = 0
    faststart: bool = False

    def __post_init__(self) -> None:
        if self.frames < 1 or self.fps < 1:
            raise ValueError("a video has at least one frame, and one per second")
        if self.width < _MACROBLOCK or self.height < _MACROBLOCK or (self.width | self.height) % _MACROBLOCK:
            raise ValueError("width and height are multiples of 16 pixels")
        if self._level is None:
            raise ValueError("no level of H.264 has frames so large, or so many a second")

    @property
    def size(self) -> int:
        """The movie's size in bytes."""
        return len(_FTYP) + len(self._mdat_head) + self.frames * self._frame_size + len(self._moov(0))

    @property
    def duration(self) -> float:
        """The movie's length in seconds."""
        return self.frames / self.fps

    def pieces(self) -> Iterator[bytes]:
        """Yield the movie's bytes in order: its head, then one frame at a time, then the rest."""
        before = len(_FTYP) + len(self._mdat_head)
        if self.faststart:
            moov = self._moov(before + len(self._moov(0)))
            yield _FTYP + moov + self._mdat_head
        else:
            yield _FTYP + self._mdat_head
        for number in range(self.frames):
            yield self._frame(number)
        if not self.faststart:
            yield self._moov(before)

    def write(self, target: Path | BinaryIO) -> int:
        """Write the movie to a path, replacing what is there, or to an open file; return its size in bytes."""
        if isinstance(target, Path):
            with target.open("wb") as file:
                return self.write(file)
        for piece in self.pieces():
            target.write(piece)
        return self.size

    @property
    def _columns(self) -> int:
        return self.width // _MACROBLOCK

    @property
    def _rows(self) -> int:
        return self.height // _MACROBLOCK

    @property
    def _level(self) -> int | None:
        """The lowest level whose limits hold frames of this size at this rate."""
        size = self._columns * self._rows
        fitting = (level for level, speed, limit in _LEVELS if size <= limit and size * self.fps <= speed)
        return next(fitting, None)

    @property
    def _sets(self) -> tuple[bytes, bytes]:
        """The sequence and picture parameter sets."""
        return _sequence_set(self._columns, self._rows, self._level or 0), _PICTURE_SET

    @property
    def _frame_size(self) -> int:
        return 4 + len(_slice_head(0)) + self._columns * self._rows * (2 + 384) - 2 + 1

    @property
    def _mdat_head(self) -> bytes:
        payload = self.frames * self._frame_size
        if payload + 8 < 1 << 32:
            return struct.pack(">I4s", payload + 8, b"mdat")
        return struct.pack(">I4sQ", 1, b"mdat", payload + 16)

    def _frame(self, number: int) -> bytes:
        """One picture as one length-prefixed IDR slice."""
        blocks = self._picture(number)
        head = _slice_head(number)
        coded = head + _PCM.join(blocks) + b"\x80"  # rbsp_trailing_bits
        return struct.pack(">I", len(coded)) + coded

    def _picture(self, number: int) -> list[bytes]:
        """The samples of every macroblock of a picture, in raster order: luma, Cb, Cr."""
        blue, red, speed = _colours(self.seed)
        chroma = bytes([blue]) * 64 + bytes([red]) * 64
        shift = number * speed
        # A saw-tooth of luma that moves to the right frame by frame, the same in every line.
        line = bytes(32 + (x - shift) % 64 * 3 for x in range(self.width))
        bars = [line[x : x + _MACROBLOCK] * _MACROBLOCK + chroma for x in range(0, self.width, _MACROBLOCK)]
        dark, light = (bytes([luma]) * 256 + chroma for luma in (_DARK, _LIGHT))
        bits = f"{number % (1 << _COUNTER_BITS):0{_COUNTER_BITS}b}"[-self._columns :]
        counter = [light if bit == "1" else dark for bit in bits]
        return bars * (self._rows - 1) + counter + bars[len(counter) :]

    def _moov(self, first: int) -> bytes:
        """The index; *first* is where in the file the first frame begins."""
        ticks = self.frames
        avcc = _avcc(*self._sets)
        entry = _box(
            b"avc1",
            struct.pack(">6xH16x", 1),
            struct.pack(">HHIIIH", self.width, self.height, 72 << 16, 72 << 16, 0, 1),
            struct.pack(">32xHh", 24, -1),
            _box(b"avcC", avcc),
        )
        table = _box(
            b"stbl",
            _full(b"stsd", 0, struct.pack(">I", 1), entry),
            _full(b"stts", 0, struct.pack(">III", 1, self.frames, 1)),  # one tick per frame
            _full(b"stsc", 0, struct.pack(">IIII", 1, 1, self.frames, 1)),
            _full(b"stsz", 0, struct.pack(">II", self._frame_size, self.frames)),
            _full(b"stco", 0, struct.pack(">II", 1, first)),
        )
        reference = _box(b"dinf", _full(b"dref", 0, struct.pack(">I", 1), _full(b"url ", 1)))
        media = _box(
            b"mdia",
            _full(b"mdhd", 0, struct.pack(">IIIIHH", 0, 0, self.fps, ticks, 0x55C4, 0)),  # language: und
            _full(b"hdlr", 0, struct.pack(">I4s12x", 0, b"vide"), b"VideoHandler\0"),
            _box(b"minf", _full(b"vmhd", 1, bytes(8)), reference, table),
        )
        track = _full(
            b"tkhd",
            3,  # enabled, in the movie
            struct.pack(">IIIII8xhhhH", 0, 0, 1, 0, ticks, 0, 0, 0, 0),
            _UNITY,
            struct.pack(">II", self.width << 16, self.height << 16),
        )
        movie = _full(
            b"mvhd",
            0,
            struct.pack(">IIIIIH10x", 0, 0, self.fps, ticks, 1 << 16, 1 << 8),
            _UNITY,
            struct.pack(">24xI", 2),
        )
        return _box(b"moov", movie, _box(b"trak", track, media))


def make_mp4(
    target: Path | BinaryIO,
    *,
    frames: int,
    width: int = 320,
    height: int = 240,
    fps: int = 25,
    seed: int = 0,
    faststart: bool = False,
) -> int:
    """Write a playable movie to *target*; return its size in bytes. ``Video`` says what each argument means."""
    video = Video(frames=frames, width=width, height=height, fps=fps, seed=seed, faststart=faststart)
    return video.write(target)


def _colours(seed: int) -> tuple[int, int, int]:
    """Cb, Cr and the bars' speed (pixels per frame) of a seed."""
    digest = hashlib.sha256(str(seed).encode("ascii")).digest()
    return 64 + digest[0] % 129, 64 + digest[1] % 129, 1 + digest[2] % 8


# Boxes: ISO/IEC 14496-12, 4.2.


def _box(kind: bytes, *parts: bytes) -> bytes:
    payload = b"".join(parts)
    return struct.pack(">I4s", 8 + len(payload), kind) + payload


def _full(kind: bytes, flags: int, *parts: bytes) -> bytes:
    """A box with a version, always 0 here, and flags."""
    return _box(kind, struct.pack(">I", flags), *parts)


_FTYP = _box(b"ftyp", b"isom", struct.pack(">I", 512), b"isomiso2avc1mp41")
_UNITY = struct.pack(">9I", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)


def _avcc(sequence: bytes, picture: bytes) -> bytes:
    """The decoder configuration record: ISO/IEC 14496-15, 5.3.3. Frames carry lengths of four bytes."""
    return b"".join(
        (
            bytes([1]) + sequence[1:4] + bytes([0xFC | 3, 0xE0 | 1]),
            struct.pack(">H", len(sequence)) + sequence,
            bytes([1]) + struct.pack(">H", len(picture)) + picture,
        )
    )


# Syntax elements as strings of bits: ITU-T H.264, 7.3.


def _ue(value: int) -> str:
    """An unsigned Exp-Golomb code (9.1)."""
    code = f"{value + 1:b}"
    return "0" * (len(code) - 1) + code


def _packed(bits: str, fill: str = "") -> bytes:
    """Bits to bytes: *fill* first, then zeros up to the byte's end."""
    bits += fill
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def _sequence_set(columns: int, rows: int, level: int) -> bytes:
    bits = (
        _ue(0)  # seq_parameter_set_id
        + _ue(0)  # log2_max_frame_num_minus4
        + _ue(2)  # pic_order_cnt_type: pictures come in the order they are shown
        + _ue(0)  # max_num_ref_frames: every picture stands for itself
        + "0"  # gaps_in_frame_num_value_allowed_flag
        + _ue(columns - 1)
        + _ue(rows - 1)
        + "1"  # frame_mbs_only_flag
        + "1"  # direct_8x8_inference_flag
        + "0"  # frame_cropping_flag
        + "0"  # vui_parameters_present_flag
    )
    return bytes([0x67, 66, 0xC0, level]) + _packed(bits, "1")


_PICTURE_SET = b"\x68" + _packed(
    _ue(0)  # pic_parameter_set_id
    + _ue(0)  # seq_parameter_set_id
    + "0"  # entropy_coding_mode_flag: CAVLC
    + "0"  # bottom_field_pic_order_in_frame_present_flag
    + _ue(0)  # num_slice_groups_minus1
    + _ue(0)  # num_ref_idx_l0_default_active_minus1
    + _ue(0)  # num_ref_idx_l1_default_active_minus1
    + "0"  # weighted_pred_flag
    + "00"  # weighted_bipred_idc
    + _ue(0)  # pic_init_qp_minus26
    + _ue(0)  # pic_init_qs_minus26
    + _ue(0)  # chroma_qp_index_offset
    + "1"  # deblocking_filter_control_present_flag
    + "0"  # constrained_intra_pred_flag
    + "0",  # redundant_pic_cnt_present_flag
    "1",
)

# A macroblock's head: mb_type 25 is I_PCM; then zeros up to the byte's end, then 384 samples.
_PCM = _packed(_ue(25))


def _slice_head(number: int) -> bytes:
    """The head of an IDR slice, and of its first macroblock."""
    return b"\x65" + _packed(
        _ue(0)  # first_mb_in_slice
        + _ue(7)  # slice_type: I, as are all slices of the picture
        + _ue(0)  # pic_parameter_set_id
        + "0000"  # frame_num
        + _ue(1 + number % 2)  # idr_pic_id: differs from the picture before, in as many bits
        + "0"  # no_output_of_prior_pics_flag
        + "0"  # long_term_reference_flag
        + _ue(0)  # slice_qp_delta, se(v)
        + _ue(1)  # disable_deblocking_filter_idc
        + _ue(25)  # mb_type
    )
