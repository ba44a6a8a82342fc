"""In which chunks a record is filled: as configured, unless the server was seen to take less. Pure."""

from __future__ import annotations

from uploader import retry
from uploader.config import UploadConfig
from uploader.model import Learnt


def chunk_size_now(config: UploadConfig, learnt: Learnt, *, now: float) -> int:
    """Return the chunk size in bytes for a new record; 0 sends the whole file in one request."""
    if config.chunk_size == 0 or (learnt.whole_only_until is not None and now < learnt.whole_only_until):
        return 0
    limit = limit_now(learnt, now=now)
    return config.chunk_size if limit is None else min(config.chunk_size, limit)


def limit_now(learnt: Learnt, *, now: float) -> int | None:
    """Return the size in bytes above which the server has refused requests; None when none is known."""
    return learnt.chunk_limit if now < (learnt.chunk_limit_until or 0.0) else None


def halved(chunk_size: int, size: int, learnt: Learnt, *, now: float) -> int:
    """Return the next smaller limit after a chunk of a file of *size* bytes was refused for its size."""
    half = max(retry.MIN_CHUNK, min(chunk_size, size) // 2)
    known = limit_now(learnt, now=now)  # another upload may have learnt a smaller one meanwhile
    return half if known is None else min(half, known)
