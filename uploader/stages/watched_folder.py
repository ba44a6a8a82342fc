"""One watched folder: scans it, listens to its file-system events, and passes on what was seen.

Events only reduce latency: the periodic scan finds what they miss, which is much (docs/architecture.md). A share that
is offline is not an empty folder: nothing is concluded from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from uploader.config import WatchConfig
from uploader.domain import errors, events, selection
from uploader.domain.model import Sighting
from uploader.domain.untaken import Untaken, what_to_do
from uploader.files import Mode, Share, WalkFilter
from uploader.files.mounts import inotify_limit, mode_for, too_many_folders
from uploader.files.walk import PathPredicate, match_nothing, walk_filter
from uploader.runtime.delay_queue import wait_for
from uploader.runtime.log import get_logger
from uploader.stages.context import StageContext
from uploader.stages.known import KnownFiles
from uploader.stages.listener import Listener
from uploader.stages.queues import SightingBatch, bug_reason

log = get_logger(__name__)

# s, at most, until an event arrives; after that its file counts as missed
EVENT_DELAY_LIMIT: Final = 2.0
OFFLINE_CHECK_INTERVAL: Final = 15.0  # s, at most, between two checks of a share that is offline
FULL_SCAN_EVERY: Final = 10  # every tenth scan reads all inodes, the others those of unknown names
FOLDERS_AT_ONCE: Final = 1000  # folders watched inside this process; starting it blocks the event loop for up to 40 ms
PATHS_PER_LOOK: Final = 200  # paths from events that one call looks at


@dataclass(slots=True)
class FolderStats:
    """Figures about a watched folder, for status, page and metrics."""

    folder: str
    mode: str = ""
    away: str = ""  # why it is offline; empty when it is not
    unreadable: str = ""  # what could not be read at the last scan
    scans: int = 0
    folders: int = 0  # at the last scan
    names: int = 0
    scanned_at: float | None = None  # Unix seconds
    missed: int = 0  # files that a scan found and no event had reported
    untaken: Mapping[str, int] = field(default_factory=dict)  # files that no include pattern takes, by suffix


class WatchedFolder:
    """One watched folder. Scans it when a scan is due, and looks at once at paths that events name."""

    def __init__(
        self,
        context: StageContext,
        watch: WatchConfig,
        watches: tuple[WatchConfig, ...],
        known: KnownFiles,
        share_is_back: Callable[[str], Awaitable[None]],
    ) -> None:
        self._watch, self._watches, self._root = watch, watches, str(watch.path)
        self._share: Share = context.shares.of(self._root)
        self._store, self._sightings, self._known = context.store, context.queues.sightings, known
        self._clock, self._bus, self._share_is_back = context.clock, context.bus, share_is_back
        self._inode: tuple[int, int] | None = None  # of the folder at the last check
        self.stats = FolderStats(self._root)
        self._mode: Mode | None = None
        self._hints: set[str] = set()
        self._hurry = asyncio.Event()
        self._scan_now = False
        self._deep = True  # the next scan reads all inodes
        self._suspected_at = 0.0  # when the last of ``_suspects`` was found
        self._suspects: set[str] = set()  # found by the last scan, not reported by an event (yet)
        self._ignored: set[str] = set()
        self._untaken = Untaken()
        self._scanning = asyncio.Lock()
        self._listener = Listener(watch, self._share, self._clock, self._bus, self)

    async def run(self) -> None:
        """Scan the folder and listen to events until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._despite_faults(self._decide))
            group.create_task(self._despite_faults(self._listener.run))

    async def scan_once(self) -> None:
        """Scan all inodes once, if the share is there."""
        try:
            if await self._is_there():
                self._deep = True
                await self._scan()
        except errors.StateUnusable:
            raise
        except Exception as error:  # a bug in one folder must not stop the scan of the others
            log.exception("fault", folder=self._root)
            self._report_unreadable(bug_reason(error))

    async def _despite_faults(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do *work* until cancelled. After a bug begin it again when the next scan is due."""
        while True:
            try:
                await work()
            except errors.StateUnusable:
                raise  # without its state the daemon cannot go on
            except Exception as error:  # a bug in one folder must not end the others, nor the daemon
                log.exception("fault", folder=self._root)
                self._report_unreadable(bug_reason(error))
                self._deep = True
                await self._clock.sleep(self._watch.rescan)

    async def _decide(self) -> None:
        """Scan when a scan is due; between scans look at paths that events named."""
        while True:
            self._scan_now = False
            if is_there := await self._is_there():
                await self._scan()
            pause = self._watch.rescan if is_there else min(OFFLINE_CHECK_INTERVAL, self._watch.rescan)
            next_scan = self._clock.monotonic() + pause
            while not self._scan_now and (wait := next_scan - self._clock.monotonic()) > 0:
                if not self._hints:
                    await wait_for(self._hurry, self._clock, wait)
                hints, self._hints = self._hints, set()
                if hints and is_there:
                    await self._look(sorted(hints))

    # The share

    async def _is_there(self) -> bool:
        """Check whether the share is there, and choose how it is watched. Publishes an event when that changes."""
        failed_a_call = bool(self._share.status.away)
        status = await self._share.check()
        was_away, self.stats.away = self.stats.away, status.away
        if status.away:
            if not was_away:
                self._bus.publish(events.FolderOffline(self._root, status.away))
            self._listener.stop()
            return False
        if was_away:
            self._bus.publish(events.FolderBack(self._root))
        if was_away or failed_a_call:
            await self._share_is_back(self._root)
        if was_away or (self._inode or status.inode) != status.inode:
            self._listener.restart_watcher()  # the watcher goes on with the old inode, and says nothing
            self._deep = True
        self._inode = status.inode
        mode = mode_for(self._watch.mode, status.mount)
        if self._mode is None or was_away:
            self._choose(mode)
        return True

    def _choose(self, mode: Mode) -> None:
        if str(mode) != self.stats.mode:
            self._mode, self.stats.mode = mode, str(mode)
            self._bus.publish(events.FolderWatched(self._root, str(mode), self._watch.rescan))
        else:
            self._mode = mode

    # The scan

    async def _scan(self) -> None:
        """Walk through the folder and pass on what was seen. One scan at a time."""
        async with self._scanning:
            await self._walk_through()

    async def _walk_through(self) -> None:
        deep, cover = self._deep or self.stats.scans % FULL_SCAN_EVERY == 0, self._listener.cover_due
        missed, self._deep = self._take_missed(), False
        folders, names, unreadable, irregular = 0, 0, "", set[str]()
        self._untaken.begin()
        try:
            async for batch in self._share.walk(self.walk_filter(passes=match_nothing if deep else self._passes_below)):
                folders, names = folders + batch.folders, names + batch.names
                self._untaken.add(batch.untaken)
                self._ignore(batch.irregular)
                irregular.update(path for path, _ in batch.irregular)
                self._suspect(batch.sightings)
                await self._pass_on(batch.sightings)
        except errors.ShareNotReady as error:
            unreadable = str(error)
        self._count(folders, names, missed)
        if missed and not self._listener.had_event:
            # No event came at all: another file system may have been here between two scans.
            self._listener.restart_watcher()
        self._listener.had_event = False
        self._report_unreadable(unreadable)
        if cover:
            self._listener.cover_due, self._listener.trusted = False, True
        if deep and not unreadable:  # all of it was looked at
            self._ignored &= irregular
        if self._share.status.away:
            return  # one part that cannot be read does not change how the others are watched
        if names:  # perhaps all of them known, and none passed on
            await self._remember_mount()
        self._wake_listener(folders)

    async def _remember_mount(self) -> None:
        """Save the folder's file system once recordings were seen in it: an empty mount point is not the share."""
        if (identity := await self._share.record_identity()) is not None:
            self._store.put_mount_identity(identity)
            await self._store.commit()

    def walk_filter(self, *, passes: PathPredicate = match_nothing, start: str = "") -> WalkFilter:
        """Return which files of this folder a walk takes."""

        def puts_back(relpath: str) -> bool:  # not for an upload: it continues its own removal
            return self._store.upload_at(f"{self._root}/{relpath}") is None

        chosen = walk_filter(self._watch, self._watches, passes=passes, start=start)

        def untaken(relpath: str) -> str | None:  # not for one that was sent under an earlier configuration
            suffix = chosen.untaken(relpath)
            return None if suffix is None or self._known.anything(f"{self._root}/{relpath}") else suffix

        return replace(chosen, puts_back=puts_back, untaken=untaken)

    def _passes_below(self, relpath: str) -> bool:
        return self._known.needs_no_look(f"{self._root}/{relpath}")

    def _suspect(self, sightings: Sequence[Sighting]) -> None:
        """Note new files that no event has reported, while events are expected for all."""
        if self._listener.trusted and (new := [seen.path for seen in sightings if not self._known.anything(seen.path)]):
            self._suspects.update(new)
            self._suspected_at = self._clock.monotonic()

    def _take_missed(self) -> int:
        """Return how many files no event has reported within ``EVENT_DELAY_LIMIT``."""
        if self._clock.monotonic() - self._suspected_at < EVENT_DELAY_LIMIT:
            return 0
        missed, self._suspects = len(self._suspects), set()
        return missed

    def _count(self, folders: int, names: int, missed: int) -> None:
        self.stats.scans, self.stats.folders, self.stats.names = self.stats.scans + 1, folders, names
        self.stats.scanned_at = self._clock.now()
        if missed:
            self.stats.missed += missed
            self._bus.publish(events.EventsMissed(self._root, missed, self.stats.missed))
        for suffix, files in self._untaken.end():
            self._bus.publish(events.FilesNotTaken(self._root, suffix, files, what_to_do(suffix)))
        self.stats.untaken = self._untaken.at_last_scan

    def _report_unreadable(self, why: str) -> None:
        """Publish once that a part of the folder cannot be read."""
        if why and why != self.stats.unreadable:
            self._bus.publish(events.FolderUnreadable(self._root, why))
        self.stats.unreadable = why

    def _ignore(self, irregular: Sequence[tuple[str, str]]) -> None:
        for path, what in irregular:
            if path not in self._ignored:
                self._ignored.add(path)
                self._bus.publish(events.FileIgnored(path, f"it is a {what}, not a regular file"))

    async def _pass_on(self, sightings: Sequence[Sighting]) -> None:
        """Pass on what was seen, after its file system is saved: it may be sent and deleted before the next scan."""
        if sightings:
            await self._remember_mount()
            await self._sightings.put(SightingBatch(self._root, tuple(sightings)))

    # Events

    async def _look(self, paths: Sequence[str]) -> None:
        """Look at paths that events named: a file alone, a folder with everything below it."""
        self._suspects.difference_update(paths)
        try:
            for some in _slices(
                [path for path in paths if selection.relative(self._root, path) is not None], PATHS_PER_LOOK
            ):
                seen = await self._share.look(some)
                files = [what for _, what in seen if isinstance(what, Sighting)]
                await self._pass_on([one for one in files if selection.owner(self._watches, one.path) is self._watch])
                for path in (path for path, what in seen if what == "folder"):
                    await self._look_into(path)
        except errors.ShareNotReady:
            self._scan_now = True  # the scan publishes why

    async def _look_into(self, path: str) -> None:
        """Walk through a folder that an event named: files that were made in it meanwhile have no event."""
        relpath = selection.relative(self._root, path) or ""
        if selection.reaches(self._watch, relpath):
            async for batch in self._share.walk(self.walk_filter(start=relpath)):
                self._suspects.difference_update(seen.path for seen in batch.sightings)
                await self._pass_on(batch.sightings)

    def _wake_listener(self, folders: int) -> None:
        """Listen to events if inotify has room for the folder; stop when it has not."""
        if self._mode is None or not self._mode.events:
            return
        if why := too_many_folders(folders, inotify_limit("max_user_watches")):
            self.fall_back(why)
        else:
            self._listener.start()

    # What the listener calls

    @property
    def is_large(self) -> bool:
        """True for a tree whose watches take long to set up."""
        return self._watch.recursive and self.stats.folders > FOLDERS_AT_ONCE

    def hear(self, paths: Collection[str]) -> None:
        """Look at these paths soon."""
        self._hints.update(paths)
        self._wake()

    def scan_soon(self, *, deep: bool) -> None:
        """Scan now, or when the scan under way has ended. *deep*: all inodes are read."""
        self._scan_now, self._deep = True, self._deep or deep
        self._wake()

    def fall_back(self, why: str) -> None:
        """Go on without events: they would report only a part of the folder, and not say which."""
        self._listener.stop()
        self._bus.publish(events.EventsUnavailable(self._root, why))
        self._choose(Mode(events=False, why=why))

    def _wake(self) -> None:
        hurry, self._hurry = self._hurry, asyncio.Event()
        hurry.set()


def _slices(paths: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (paths[start : start + size] for start in range(0, len(paths), size))
