"""Stage 1: find the files. Events hurry us, a periodic scan decides.

Must never judge whether a file is complete, nor follow a link out of a folder. An event is only a reason to look;
what is missed by the source of events (and much is: docs/architecture.md) the next scan finds. A share that is away is
not an empty folder: nothing is inferred from it, and the others go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from watchfiles import Change, awatch

from uploader.config import WatchConfig
from uploader.domain import errors, events, selection
from uploader.domain.model import Sighting
from uploader.files import Mode, Share, Shares, WalkFilter, changes_below
from uploader.files.mounts import inotify_limit, mode_for, out_of_inotify, too_many_folders
from uploader.files.walk import match_nothing, walk_filter
from uploader.runtime.delay_queue import wait_for
from uploader.runtime.log import get_logger
from uploader.stages.context import StageContext
from uploader.stages.known import KnownFiles
from uploader.stages.queues import SightingBatch, bug_reason

log = get_logger(__name__)

EVENT_DEBOUNCE: Final = 200  # ms that a burst of events is gathered
WATCHER_RESTART_PAUSES: Final = (1.0, 60.0)  # s before a failed source of events is started again, doubling
# s after a source of events was started: a scan covers for what came before it listened
COVERING_SCAN_DELAY: Final = 2.0
# s, at most, until an event has come in: then what it should have told of counts as missed
EVENT_DELAY_LIMIT: Final = 2.0
OFFLINE_CHECK_INTERVAL: Final = 15.0  # s, at most, between two looks whether a share that is away is back
FULL_SCAN_EVERY: Final = 10  # scans: one in so many looks at every inode, the others at names that are not known
FOLDERS_AT_ONCE: Final = 1000  # folders that our own process asks inotify for: that holds the event loop up to 40 ms
PATHS_PER_LOOK: Final = 200  # paths named by events that one call looks at

PathPredicate = Callable[[str], bool]


@dataclass(slots=True)
class FolderStats:
    """What is known of a watched folder: for status, page and metrics."""

    folder: str
    mode: str = ""
    away: str = ""  # why it is not looked at; empty when it is
    unreadable: str = ""  # what of it could not be read at the last scan
    scans: int = 0
    folders: int = 0  # at the last scan
    names: int = 0
    scanned_at: float | None = None  # Unix seconds
    missed: int = 0  # files that a scan found and no event had told of


class Discover:
    """Looks at every watched folder, each in a task of its own."""

    def __init__(
        self,
        context: StageContext,
        watches: tuple[WatchConfig, ...],
        known: KnownFiles,
        share_is_back: Callable[[str], Awaitable[None]],
    ) -> None:
        """*share_is_back* is called with the folder when a share answers again."""
        self._folders = [WatchedFolder(context, watch, watches, known, share_is_back) for watch in watches]

    def folder_stats(self) -> list[FolderStats]:
        """How each watched folder stands."""
        return [folder.stats for folder in self._folders]

    async def run(self) -> None:
        """Watch all folders until cancelled."""
        async with asyncio.TaskGroup() as group:
            for folder in self._folders:
                group.create_task(folder.run(), name=f"discover {folder.stats.folder}")

    async def scan_all(self) -> None:
        """Look at every inode of every folder once."""
        for folder in self._folders:
            await folder.scan_once()


async def folder_status(watches: Sequence[WatchConfig], shares: Shares) -> list[FolderStats]:
    """Say how each folder stands and would be watched, without looking into it: while no daemon runs."""
    tallies = []
    for watch in watches:
        standing = await shares.of(str(watch.path)).check()
        tallies.append(FolderStats(str(watch.path), str(mode_for(watch.mode, standing.mount)), standing.away))
    return tallies


class WatchedFolder:
    """One watched folder: scans it when it is time, and looks at once where an event points."""

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
        self._store, self._seen, self._known = context.store, context.queues.sightings, known
        self._clock, self._bus, self._share_is_back = context.clock, context.bus, share_is_back
        self._inode: tuple[int, int] | None = None  # of the folder when it was looked at last
        self.stats = FolderStats(self._root)
        self._mode: Mode | None = None
        self._hints: set[str] = set()
        self._heard = False  # any event since the last scan
        self._hurry = asyncio.Event()
        self._scan_now = False
        self._deep = True  # the next scan looks at every inode
        self._suspected_at = 0.0  # when the last of ``_suspects`` was found
        self._suspects: set[str] = set()  # found by the last scan; unless an event still tells of them, it missed them
        self._trusted = self._cover_due = False  # whether events must have told of what is new; see ``_cover``
        self._ignored: set[str] = set()
        self._scanning = asyncio.Lock()
        self._stop_watcher = asyncio.Event()
        self._listens = asyncio.Event()  # set while events are wanted

    async def run(self) -> None:
        """Scan and listen until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._despite_faults(self._decide))
            group.create_task(self._despite_faults(self._listen))

    async def scan_once(self) -> None:
        """Look at every inode once, if the share is there."""
        try:
            if await self._is_there():
                self._deep = True
                await self._scan()
        except errors.StateUnusable:
            raise
        except Exception as error:  # a fault of ours in one folder must not keep the others from being scanned
            log.exception("fault", folder=self._root)
            self._tell_unreadable(bug_reason(error))

    async def _despite_faults(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do *work* until cancelled; after a fault of ours begin it again when the next scan is due."""
        while True:
            try:
                await work()
            except errors.StateUnusable:
                raise  # without its state the daemon cannot go on
            except Exception as error:  # a fault of ours in one folder must not end the others, nor the daemon
                log.exception("fault", folder=self._root)
                self._tell_unreadable(bug_reason(error))
                self._deep = True
                await self._clock.sleep(self._watch.rescan)

    async def _decide(self) -> None:
        """Scan when it is due; between scans look at hints."""
        while True:
            self._scan_now = False
            if at_home := await self._is_there():
                await self._scan()
            pause = self._watch.rescan if at_home else min(OFFLINE_CHECK_INTERVAL, self._watch.rescan)
            next_scan = self._clock.monotonic() + pause
            while not self._scan_now and (wait := next_scan - self._clock.monotonic()) > 0:
                if not self._hints:
                    await wait_for(self._hurry, self._clock, wait)
                hints, self._hints = self._hints, set()
                if hints and at_home:
                    await self._look(sorted(hints))

    # The share

    async def _is_there(self) -> bool:
        """Look whether the share is there, and choose how it is watched. Says once when that changes."""
        failed_a_call = bool(self._share.status.away)
        standing = await self._share.check()
        was_away, self.stats.away = self.stats.away, standing.away
        if standing.away:
            if not was_away:
                self._bus.publish(events.FolderOffline(self._root, standing.away))
            self._stop_listening()
            return False
        if was_away:
            self._bus.publish(events.FolderBack(self._root))
        if was_away or failed_a_call:
            await self._share_is_back(self._root)
        if was_away or (self._inode or standing.inode) != standing.inode:
            self._stop_watcher.set()  # the source of events keeps to the old inode, silently
            self._deep = True
        self._inode = standing.inode
        mode = mode_for(self._watch.mode, standing.mount)
        if self._mode is None or was_away:
            self._choose(mode)
        return True

    def _choose(self, mode: Mode) -> None:
        if str(mode) != self.stats.mode:
            self._mode, self.stats.mode = mode, str(mode)
            self._bus.publish(events.FolderWatched(self._root, str(mode), self._watch.rescan))
        else:
            self._mode = mode

    def _fall_back(self, why: str) -> None:
        """Go on without events: they would tell of a part only, and not say of which."""
        self._stop_listening()
        self._bus.publish(events.EventsUnavailable(self._root, why))
        self._choose(Mode(events=False, why=why))

    def _stop_listening(self) -> None:
        self._listens.clear()
        self._trusted = False
        self._stop_watcher.set()

    # The scan

    async def _scan(self) -> None:
        """Walk through the folder and pass on what was seen; one walk at a time."""
        async with self._scanning:
            await self._walk_through()

    async def _walk_through(self) -> None:
        deep, cover = self._deep or self.stats.scans % FULL_SCAN_EVERY == 0, self._cover_due
        missed, self._deep = self._take_missed(), False
        folders, names, unreadable, irregular = 0, 0, "", set[str]()
        try:
            async for batch in self._share.walk(self.walk_filter(passes=match_nothing if deep else self._passes_below)):
                folders, names = folders + batch.folders, names + batch.names
                self._ignore(batch.irregular)
                irregular.update(path for path, _ in batch.irregular)
                self._suspect(batch.sightings)
                await self._pass_on(batch.sightings)
        except errors.ShareNotReady as error:
            unreadable = str(error)
        self._count(folders, names, missed)
        if missed and not self._heard:
            self._stop_watcher.set()  # it has gone deaf: another file system may have been here between two scans
        self._heard = False
        self._tell_unreadable(unreadable)
        if cover:
            self._cover_due, self._trusted = False, True
        if deep and not unreadable:  # all of it was looked at
            self._ignored &= irregular
        if self._share.status.away:
            return  # a part of it that cannot be read is no reason to do without events, or to forget where it lies
        if names:  # all of them known, perhaps, and none passed on
            await self._remember_mount()
        self._wake_listener(folders)

    async def _remember_mount(self) -> None:
        """Remember where the folder lies, now that recordings were seen in it: an empty mount point is not it."""
        if (home := await self._share.record_identity()) is not None:
            self._store.put_mount_identity(home)
            await self._store.commit()

    def walk_filter(self, *, passes: PathPredicate = match_nothing, start: str = "") -> WalkFilter:
        """Say what a walk takes of this folder."""

        def puts_back(relpath: str) -> bool:  # else the upload's own removal goes on from there
            return self._store.upload_at(f"{self._root}/{relpath}") is None

        order = walk_filter(self._watch, self._watches, passes=passes, start=start)
        return replace(order, puts_back=puts_back)

    def _passes_below(self, relpath: str) -> bool:
        return self._known.needs_no_look(f"{self._root}/{relpath}")

    def _suspect(self, sightings: Sequence[Sighting]) -> None:
        """Note what no event has told of, though events are listened to."""
        if self._trusted and (new := [seen.path for seen in sightings if not self._known.anything(seen.path)]):
            self._suspects.update(new)
            self._suspected_at = self._clock.monotonic()

    def _take_missed(self) -> int:
        """Count what events have still not told of, once they have had their time."""
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

    def _tell_unreadable(self, why: str) -> None:
        """Say once that a part of the folder cannot be read."""
        if why and why != self.stats.unreadable:
            self._bus.publish(events.FolderUnreadable(self._root, why))
        self.stats.unreadable = why

    def _ignore(self, irregular: Sequence[tuple[str, str]]) -> None:
        for path, what in irregular:
            if path not in self._ignored:
                self._ignored.add(path)
                self._bus.publish(events.FileIgnored(path, f"it is no regular file but a {what}"))

    async def _pass_on(self, sightings: Sequence[Sighting]) -> None:
        """Pass on what was seen, once it is saved where it lies: it may be sent and deleted before the next scan."""
        if sightings:
            await self._remember_mount()
            await self._seen.put(SightingBatch(self._root, tuple(sightings)))

    # Events

    async def _look(self, paths: Sequence[str]) -> None:
        """Look at what events named: a file alone, a folder with all below it."""
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
            self._scan_now = True  # which says why

    async def _look_into(self, path: str) -> None:
        """Walk through a folder that an event named: of what was made in it meanwhile nothing is told."""
        relpath = selection.relative(self._root, path) or ""
        if selection.enters(self._watch, relpath):
            async for batch in self._share.walk(self.walk_filter(start=relpath)):
                self._suspects.difference_update(seen.path for seen in batch.sightings)
                await self._pass_on(batch.sightings)

    def _wake_listener(self, folders: int) -> None:
        """Begin to listen, once it is known that inotify has room for the folder; stop when it has no more."""
        if self._mode is None or not self._mode.events:
            return
        if why := too_many_folders(folders, inotify_limit("max_user_watches")):
            self._fall_back(why)
        else:
            self._listens.set()

    async def _listen(self) -> None:
        """Gather events as hints; whatever the watcher raises, it is started again and a scan covers for it."""
        pause, longest = WATCHER_RESTART_PAUSES
        while True:
            await self._listens.wait()
            began = self._clock.monotonic()
            try:
                await self._gather()
                pause = WATCHER_RESTART_PAUSES[0]
            except Exception as error:  # noqa: BLE001 - its native part raises at will: RuntimeError, groups, OSError
                words = _words(error)
                if why := out_of_inotify(words):
                    self._fall_back(why)
                    continue
                if not (await self._share.check()).away:  # else the scan says that
                    self._bus.publish(events.WatcherRestarted(self._root, words))
                if self._clock.monotonic() - began > longest:  # it had worked
                    pause = WATCHER_RESTART_PAUSES[0]
                await self._clock.sleep(pause)
                pause = min(longest, 2 * pause)
            self._scan_soon()

    def _scan_soon(self) -> None:
        self._scan_now = self._deep = True
        self._call_to_look()

    def _call_to_look(self) -> None:
        hurry, self._hurry = self._hurry, asyncio.Event()
        hurry.set()

    async def _gather(self) -> None:
        self._stop_watcher = asyncio.Event()
        self._trusted = self._cover_due = False
        large = self._watch.recursive and self.stats.folders > FOLDERS_AT_ONCE
        covers = set[asyncio.Future[None]]()
        if not large:
            covers.add(asyncio.ensure_future(self._cover(COVERING_SCAN_DELAY)))
        try:
            async for batch in self._changes_apart() if large else self._changes():
                if not batch:  # the process that listens says that it has begun to
                    covers.add(asyncio.ensure_future(self._cover(0.0)))
                    continue
                self._heard = True
                self._hints.update(path for _, path in batch)
                self._call_to_look()
                if (Change.deleted, self._root) in batch:
                    # Of what comes to stand here next inotify tells nothing, though it may well have the same inode.
                    self._stop_watcher.set()
        finally:
            for cover in covers:
                cover.cancel()

    def _changes(self) -> AsyncIterator[Collection[tuple[int, str]]]:
        return awatch(
            self._watch.path,
            watch_filter=None,  # its default drops names that are recordings to us
            debounce=EVENT_DEBOUNCE,
            stop_event=self._stop_watcher,
            recursive=self._watch.recursive,
            ignore_permission_denied=True,
        )

    def _changes_apart(self) -> AsyncIterator[Collection[tuple[int, str]]]:
        return changes_below(self._watch.path, debounce=EVENT_DEBOUNCE, recursive=True, stop_event=self._stop_watcher)

    async def _cover(self, after: float) -> None:
        """Scan once for what came before the source of events had begun; inside our process it does not tell when."""
        await self._clock.sleep(after)
        self._scan_now = self._cover_due = True
        self._call_to_look()


def _slices(paths: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (paths[start : start + size] for start in range(0, len(paths), size))


def _words(error: BaseException) -> str:
    """Say what a watcher died of: the innermost exception of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
