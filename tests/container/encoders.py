"""Tiny recordings as encoders make them: by the ffmpeg of this machine, and by PyAV one write after the other."""

from __future__ import annotations

import hashlib
import io
import subprocess
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import av
from machine import needs
from process import PROCESS_TIMEOUT

H264 = "-c:v libx264 -preset ultrafast -g 8 -bf 2 -c:a aac"
FRAGMENTS = f"{H264} -movflags"
PRORES = "-c:v prores_ks -c:a pcm_s16le"
WITHOUT_INDEX = "+skip_trailer"

# What ffmpeg is told for each recording; the name is that of its file.
OUTPUTS = {
    "plain.mp4": H264,
    "faststart.m4v": f"{H264} -movflags faststart",
    "mpeg4.3gp": "-c:v mpeg4 -c:a aac",
    "prores.mov": PRORES,
    "prores-faststart.mov": f"{PRORES} -movflags faststart",
    "motion-jpeg.mov": "-c:v mjpeg -pix_fmt yuvj420p -c:a pcm_s16be",
    "fragments.mp4": f"{FRAGMENTS} frag_keyframe+empty_moov",
    "fragments-killed.mp4": f"{FRAGMENTS} frag_keyframe+empty_moov{WITHOUT_INDEX}",
    "first-in-moov.mp4": f"{FRAGMENTS} frag_keyframe{WITHOUT_INDEX}",
    "default-base.mp4": f"{FRAGMENTS} frag_keyframe+empty_moov+default_base_moof{WITHOUT_INDEX}",
    "separate.mp4": f"{FRAGMENTS} frag_keyframe+empty_moov+separate_moof{WITHOUT_INDEX}",
    "cmaf.mp4": f"{FRAGMENTS} cmaf+frag_keyframe{WITHOUT_INDEX}",
    "dash.mp4": f"{FRAGMENTS} dash+frag_keyframe{WITHOUT_INDEX}",
    "global-sidx.mp4": f"{FRAGMENTS} dash+frag_keyframe+global_sidx",
    "every-frame.mp4": f"{FRAGMENTS} frag_every_frame+empty_moov+default_base_moof{WITHOUT_INDEX}",
    "smooth.ismv": f"{FRAGMENTS} frag_keyframe -f ismv",
    "fragments.mov": f"{FRAGMENTS} frag_keyframe+empty_moov{WITHOUT_INDEX}",
    "prores-fragments.mov": f"{PRORES} -movflags frag_keyframe+empty_moov -frag_duration 200000",
}


@cache
def encoded() -> dict[str, bytes]:
    """All recordings of ffmpeg, by name: a second and a half of a test picture and a tone. Skips without ffmpeg."""
    ffmpeg = needs("ffmpeg", "ffmpeg")
    sources = "-f lavfi -i testsrc=size=96x64:rate=25:duration=1.5 -f lavfi -i sine=duration=1.5"
    with TemporaryDirectory() as folder:
        command = [ffmpeg, "-nostdin", "-loglevel", "error", *sources.split()]
        for name, told in OUTPUTS.items():
            command += ["-map", "0", "-map", "1", *told.split(), str(Path(folder) / name)]
        subprocess.run(command, check=True, timeout=PROCESS_TIMEOUT)
        return {name: (Path(folder) / name).read_bytes() for name in OUTPUTS}


@dataclass
class Written:
    """A file that remembers each write: its offset and its bytes."""

    writes: list[tuple[int, bytes]] = field(default_factory=list)
    at: int = 0
    size: int = 0

    def write(self, data: bytes) -> int:
        """Take what comes, where the file stands."""
        self.writes.append((self.at, bytes(data)))
        self.at += len(data)
        self.size = max(self.size, self.at)
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to an offset from the beginning, from here or from the end."""
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def tell(self) -> int:
        """Return where the file stands."""
        return self.at

    def after(self, count: int) -> bytes:
        """Return the file as it is after so many writes."""
        data = bytearray()
        for offset, written in self.writes[:count]:
            data.extend(bytes(max(0, offset - len(data))))
            data[offset : offset + len(written)] = written
        return bytes(data)


@cache
def written(flags: str, muxer: str = "mp4", codec: str = "mpeg4", **options: str) -> Written:
    """A recording with these ``movflags``, as PyAV writes it: three seconds in fragments of half a second."""
    file = Written()
    with av.open(
        file, "w", format=muxer, options={"flush_packets": "1", **options, **({"movflags": flags} if flags else {})}
    ) as output:
        stream = output.add_stream(codec, rate=25 if muxer == "mxf" else 10)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        stream.codec_context.gop_size = 5
        for number in range(30):
            frame = av.VideoFrame(64, 64, "yuv420p")
            for index, plane in enumerate(frame.planes):
                plane.update(bytes((number * 9 + place * (index + 3)) % 256 for place in range(plane.buffer_size)))
            frame.pts, frame.time_base = number, Fraction(1, 10)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file


Packet = tuple[int, int | None, str]


def packets(data: bytes) -> list[Packet]:
    """What a demuxer finds in these bytes, up to an error: stream, time and hash of each packet."""
    found: list[Packet] = []
    try:
        with av.open(io.BytesIO(data), "r") as source:
            found += [
                (packet.stream_index, packet.dts, hashlib.md5(bytes(packet), usedforsecurity=False).hexdigest())
                for packet in source.demux()
                if packet.size
            ]
    except av.FFmpegError:
        pass
    return found


def announced(data: bytes) -> int:
    """How many samples the indexes in these bytes announce: in ``stsz``, and in ``trun``. Of PCM, a packet has many."""
    count, at = 0, 0
    while (at := data.find(b"stsz", at) + 4) >= 4:
        count += int.from_bytes(data[at + 8 : at + 12], "big")
    while (at := data.find(b"trun", at) + 4) >= 4:
        count += int.from_bytes(data[at + 4 : at + 8], "big")
    return count


def plays_whole(data: bytes, whole: bytes) -> bool:
    """True when each sample that *data*, a part of *whole*, announces is there, with the right bytes."""
    found, all_of_it = packets(data), packets(whole)
    return found == all_of_it or (0 < len(found) == announced(data) and set(found) <= set(all_of_it))
