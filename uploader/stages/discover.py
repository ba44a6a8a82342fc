"""Stage 1: find the files in the watched folders.

File-system events only reduce latency: the periodic scan finds what they miss, which is much (docs/architecture.md). A
share that is offline is not an empty folder: nothing is concluded from it, and the other folders go on. Whether a file
is complete is not decided here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from uploader.config import WatchConfig
from uploader.files import Shares, count_untaken
from uploader.files.mounts import mode_for
from uploader.stages.context import StageContext
from uploader.stages.known import KnownFiles
from uploader.stages.watched_folder import FolderStats, WatchedFolder


class Discover:
    """Scans every watched folder, each in a task of its own."""

    def __init__(
        self,
        context: StageContext,
        watches: tuple[WatchConfig, ...],
        known: KnownFiles,
        share_is_back: Callable[[str], Awaitable[None]],
    ) -> None:
        """*share_is_back* is called with the path of the folder when its share answers again."""
        self._folders = [WatchedFolder(context, watch, watches, known, share_is_back) for watch in watches]

    def folder_stats(self) -> list[FolderStats]:
        """Return the figures of each watched folder."""
        return [folder.stats for folder in self._folders]

    async def run(self) -> None:
        """Watch all folders until cancelled."""
        async with asyncio.TaskGroup() as group:
            for folder in self._folders:
                group.create_task(folder.run(), name=f"discover {folder.stats.folder}")

    async def scan_all(self) -> None:
        """Scan every folder once, all inodes."""
        for folder in self._folders:
            await folder.scan_once()


async def folder_status(watches: Sequence[WatchConfig], shares: Shares) -> list[FolderStats]:
    """Return whether each folder is there, how it would be watched, and what no pattern takes.

    For when no daemon runs.
    """
    stats = []
    for watch in watches:
        share = shares.of(str(watch.path))
        status = await share.check()
        seen = FolderStats(str(watch.path), str(mode_for(watch.mode, status.mount)), status.away)
        if not status.away:
            seen.untaken = await count_untaken(share, watch, tuple(watches))
        stats.append(seen)
    return stats
