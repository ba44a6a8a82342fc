"""Makes other bytes from a video, as a server does that transcodes what it gets.

The result is no video. What matters to a client is that bytes and length differ from what it sent, and that they are
the same at every request.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

_HEAD = b"transcoded by the VALT simulator\n"
_PADDING = bytes(4096)
_OTHER_BYTES = bytes(number ^ 0xA5 for number in range(256))
_READ_SIZE = 4 << 20  # bytes


def transcoded_size(size: int) -> int:
    """Return the size in bytes of what ``transcoded`` makes of *size* bytes."""
    return len(_HEAD) + size + len(_PADDING)


def transcoded(video: Path) -> Path:
    """Return the path of a file beside *video* with other bytes; made anew when *video* has changed.

    Blocks for as long as it takes to copy the video.
    """
    made = video.with_name("transcoded.mp4")
    source = video.stat()
    if made.exists():
        found = made.stat()
        if (found.st_size, found.st_mtime_ns) == (transcoded_size(source.st_size), source.st_mtime_ns):
            return made
    fresh = made.with_name(f"transcoded-{uuid.uuid4().hex}.new")
    with video.open("rb") as taken, fresh.open("wb") as given:
        given.write(_HEAD)
        while piece := taken.read(_READ_SIZE):
            given.write(piece.translate(_OTHER_BYTES))
        given.write(_PADDING)
    os.utime(fresh, ns=(source.st_atime_ns, source.st_mtime_ns))
    fresh.replace(made)
    return made
