"""Listens to the file-system events of one watched folder, and starts a watcher that fails again.

Events are hints: what the watcher misses while it does not listen, a scan finds, which is asked for after each start.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Final, Protocol

from watchfiles import Change, awatch

from uploader.config import WatchConfig
from uploader.domain import events
from uploader.files import Share, changes_below
from uploader.files.mounts import out_of_inotify
from uploader.runtime.clock import Clock

EVENT_DEBOUNCE: Final = 200  # ms for which a burst of events is gathered
WATCHER_RESTART_PAUSES: Final = (1.0, 60.0)  # s before a failed watcher is started again; doubled up to the second
# s after a watcher was started until a scan looks for what it missed before it listened
COVERING_SCAN_DELAY: Final = 2.0


class Folder(Protocol):
    """The folder that the events are about."""

    @property
    def is_large(self) -> bool:
        """True for a tree whose watches take long to set up."""

    def hear(self, paths: Collection[str]) -> None:
        """Look at these paths soon."""

    def scan_soon(self, *, deep: bool) -> None:
        """Scan now, or when the scan under way has ended. *deep*: all inodes are read."""

    def fall_back(self, why: str) -> None:
        """Go on without events."""


class Listener:
    """Gathers the events of one folder while they are wanted: from ``start`` until ``stop``."""

    def __init__(self, watch: WatchConfig, share: Share, clock: Clock, bus: events.Bus, folder: Folder) -> None:
        self._watch, self._share, self._clock, self._bus, self._folder = watch, share, clock, bus, folder
        self._wanted = asyncio.Event()
        self._stop_watcher = asyncio.Event()
        self.had_event = False  # since the last scan
        self.cover_due = False  # the next scan is the one that covers for the start of the watcher
        self.trusted = False  # that scan has ended: from now on events must report all that is new

    def start(self) -> None:
        """Listen, if it does not already."""
        self._wanted.set()

    def stop(self) -> None:
        """Listen no longer."""
        self._wanted.clear()
        self.trusted = False
        self._stop_watcher.set()

    def restart_watcher(self) -> None:
        """Replace the watcher: it may be watching a folder that is no longer there."""
        self._stop_watcher.set()

    async def run(self) -> None:
        """Gather events as hints. Whatever the watcher raises, it is started again, and a scan finds what it missed."""
        pause, longest = WATCHER_RESTART_PAUSES
        while True:
            await self._wanted.wait()
            began = self._clock.monotonic()
            try:
                await self._gather()
                pause = WATCHER_RESTART_PAUSES[0]
            except Exception as error:  # noqa: BLE001 - its native part raises anything: RuntimeError, groups, OSError
                text = _text_of(error)
                if why := out_of_inotify(text):
                    self._folder.fall_back(why)
                    continue
                if not (await self._share.check()).away:  # else the scan publishes that
                    self._bus.publish(events.WatcherRestarted(str(self._watch.path), text))
                if self._clock.monotonic() - began > longest:  # it had worked for a while
                    pause = WATCHER_RESTART_PAUSES[0]
                await self._clock.sleep(pause)
                pause = min(longest, 2 * pause)
            self._folder.scan_soon(deep=True)

    async def _gather(self) -> None:
        self._stop_watcher = asyncio.Event()
        self.trusted = self.cover_due = False
        large = self._folder.is_large
        covers = set[asyncio.Future[None]]()
        if not large:
            covers.add(asyncio.ensure_future(self._cover(COVERING_SCAN_DELAY)))
        try:
            async for batch in self._changes_apart() if large else self._changes():
                if not batch:  # the watcher process reports that it has started
                    covers.add(asyncio.ensure_future(self._cover(0.0)))
                    continue
                self.had_event = True
                self._folder.hear({path for _, path in batch})
                if (Change.deleted, str(self._watch.path)) in batch:
                    # inotify reports nothing of a new folder here, even if it has the same inode.
                    self._stop_watcher.set()
        finally:
            for cover in covers:
                cover.cancel()

    def _changes(self) -> AsyncIterator[Collection[tuple[int, str]]]:
        return awatch(
            self._watch.path,
            watch_filter=None,  # the default filter drops names that may be recordings
            debounce=EVENT_DEBOUNCE,
            stop_event=self._stop_watcher,
            recursive=self._watch.recursive,
            ignore_permission_denied=True,
        )

    def _changes_apart(self) -> AsyncIterator[Collection[tuple[int, str]]]:
        return changes_below(self._watch.path, debounce=EVENT_DEBOUNCE, recursive=True, stop_event=self._stop_watcher)

    async def _cover(self, after: float) -> None:
        """Scan once for what came before the watcher listened; inside this process it does not say when it begins."""
        await self._clock.sleep(after)
        self.cover_due = True
        self._folder.scan_soon(deep=False)


def _text_of(error: BaseException) -> str:
    """Return what ended a watcher: the innermost exception of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
