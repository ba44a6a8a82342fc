"""Reads the play time of the videos that the simulator holds, as a server does that decodes them."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from uploader import container


def duration_of(video: Path) -> float:
    """Return the play time of *video* in seconds, as its container states it; 0 when it states none.

    Raises OSError when the file cannot be read.
    """
    source = os.open(video, os.O_RDONLY)
    try:
        read = partial(_read, source)
        return container.duration(read, os.fstat(source).st_size) or 0.0
    finally:
        os.close(source)


def _read(source: int, offset: int, size: int) -> bytes:
    return os.pread(source, size, offset)
