"""Counts the files of a watched folder that no include pattern takes, for those who ask while no daemon scans it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from uploader.config import WatchConfig
from uploader.domain import errors
from uploader.domain.untaken import Untaken
from uploader.files.share import Share
from uploader.files.walk import match_nothing, walk_filter

COUNT_TIMEOUT: Final = 10.0  # s for which files are counted: a person waits; then what was counted so far is returned


async def count_untaken(
    share: Share, watch: WatchConfig, watches: tuple[WatchConfig, ...], *, time_limit: float = COUNT_TIMEOUT
) -> Mapping[str, int]:
    """Return how many files no include pattern takes, by suffix. What cannot be read is left out."""
    untaken, chosen = Untaken(), walk_filter(watch, watches, passes=match_nothing)
    with suppress(TimeoutError, errors.ShareNotReady):
        async with asyncio.timeout(time_limit):
            async for batch in share.walk(chosen):
                untaken.add(batch.untaken)
    tuple(untaken.end())
    return untaken.at_last_scan
