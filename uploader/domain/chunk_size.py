"""Chooses the chunk size: as configured, or smaller where the server has refused that. Pure."""

from __future__ import annotations

from typing import Final, Protocol

from uploader.domain import retry
from uploader.domain.model import ServerCapabilities

GROW_AFTER: Final = 8  # chunks acknowledged in a row before a halved chunk size doubles again


class ChunkRule(Protocol):
    """What is configured about chunks: ``[upload]``."""

    @property
    def chunk_size(self) -> int:
        """Bytes of a chunk; 0: the whole file."""


def chunk_size_now(config: ChunkRule, capabilities: ServerCapabilities, *, now: float) -> int:
    """Return the chunk size in bytes for a new record; 0 sends the whole file in one request.

    A server that was not seen to put chunks together gets none: one that takes each chunk for the whole file answers
    2xx all the same (docs/reliability.md, *When a server is believed*).
    """
    if config.chunk_size == 0 or not chunks_work(capabilities, now=now):
        return 0
    limit = limit_now(capabilities, now=now)
    return config.chunk_size if limit is None else min(config.chunk_size, limit)


def chunks_work(capabilities: ServerCapabilities, *, now: float) -> bool | None:
    """Return whether the server puts the chunks of a file together; None when that was not seen, or long ago."""
    if now < (capabilities.whole_only_until or 0.0):
        return False
    if now >= (capabilities.probed_at or 0.0) + retry.CAPABILITIES_VALID_FOR:
        return None
    return capabilities.chunks


def transcodes(capabilities: ServerCapabilities, *, now: float) -> bool | None:
    """Return whether the server hands out other bytes than it got; None when that was not seen, or long ago."""
    fresh = now < (capabilities.probed_at or 0.0) + retry.CAPABILITIES_VALID_FOR
    return capabilities.transcodes if fresh else None


def limit_now(capabilities: ServerCapabilities, *, now: float) -> int | None:
    """Return the size in bytes above which the server has refused requests; None when none is known."""
    return capabilities.chunk_limit if now < (capabilities.chunk_limit_until or 0.0) else None


def halved(chunk_size: int, size: int) -> int:
    """Return the next smaller chunk size in bytes for a file of *size* bytes."""
    return max(retry.SMALLEST_HALVED_CHUNK, min(chunk_size, size) // 2)


def grown(chunk_size: int, normal: int, good: int) -> int:
    """Return the next chunk size after *good* chunks of *chunk_size* bytes were acknowledged in a row.

    *normal*: the size for a new record. A halved size doubles again after ``GROW_AFTER`` chunks, so that a short
    disturbance of the line does not slow down the rest of a large file. 0 (the whole file) stays 0.
    """
    if chunk_size == 0 or chunk_size >= normal or good < GROW_AFTER:
        return chunk_size
    return min(2 * chunk_size, normal)
