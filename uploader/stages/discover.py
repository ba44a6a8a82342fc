"""Stage 1: find the files. Events hurry us, a periodic scan decides.

Must never judge whether a file is complete, nor follow a link out of a folder. An event is only a reason to look;
what is missed by the source of events (and much is: docs/architecture.md) the next scan finds. A folder that
cannot be read is not an empty folder: nothing is inferred from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from watchfiles import Change, awatch

from uploader import events, files, selection
from uploader.clock import Clock
from uploader.config import WatchConfig
from uploader.files import Scan
from uploader.stages import Pipes

DEBOUNCE: Final = 200  # ms that a burst of events is gathered
WATCHER_PAUSE: Final = (1.0, 60.0)  # s before a failed source of events is started again, doubling


class Discover:
    """Looks at every watched folder, each in a task of its own."""

    def __init__(self, watches: Sequence[WatchConfig], pipes: Pipes, clock: Clock, bus: events.Bus) -> None:
        self._watches, self._pipes, self._clock, self._bus = watches, pipes, clock, bus
        self._ignored: set[str] = set()
        self._missing: set[str] = set()

    async def run(self) -> None:
        """Watch all folders until cancelled."""
        async with asyncio.TaskGroup() as group:
            for watch in self._watches:
                group.create_task(_Folder(self, watch, self._clock, self._bus).run(), name=f"discover {watch.path}")

    async def scan_all(self) -> None:
        """Scan every folder once."""
        for watch in self._watches:
            await self.scan(watch)

    async def scan(self, watch: WatchConfig, start: str = "") -> bool:
        """Scan a folder (from *start*, a path below it) and pass on what was seen. False when it was not readable."""
        root = str(watch.path)

        def takes(relpath: str) -> bool:
            return selection.owner(self._watches, f"{root}/{relpath}") is watch

        def enters(relpath: str) -> bool:
            return selection.enters(watch, relpath)

        scan = await asyncio.to_thread(files.scan, root, takes=takes, enters=enters, start=start)
        self._pass_on(scan)
        return scan.problem is None

    async def look(self, watch: WatchConfig, paths: Sequence[str]) -> None:
        """Look at what events named: a file alone, a folder with all below it."""
        root, sightings = str(watch.path), []
        for path in paths:
            relpath = selection.relative(root, path)
            if relpath is None:
                continue
            kind = await asyncio.to_thread(files.kind_of, path)
            if kind == "folder" and selection.enters(watch, relpath):
                await self.scan(watch, relpath)
            elif kind == "file" and selection.owner(self._watches, path) is watch:
                seen = await asyncio.to_thread(files.look, path, root)
                sightings += [seen] if seen else []
        if sightings:
            self._pass_on(Scan(root, tuple(sightings), whole=False))

    def _pass_on(self, scan: Scan) -> None:
        for path, kind in scan.irregular:
            if path not in self._ignored:
                self._ignored.add(path)
                self._bus.publish(events.FileIgnored(path, f"it is no regular file but a {kind}"))
        if scan.problem is not None and scan.root not in self._missing:
            self._missing.add(scan.root)
            self._bus.publish(events.FolderMissing(scan.root, scan.problem))
        elif scan.problem is None and scan.whole and scan.root in self._missing:
            self._missing.discard(scan.root)
            self._bus.publish(events.FolderBack(scan.root))
        self._pipes.scans.put_nowait(scan)


class _Folder:
    """One watched folder: scans it when it is time, and looks at once where an event points."""

    def __init__(self, discover: Discover, watch: WatchConfig, clock: Clock, bus: events.Bus) -> None:
        self._discover, self._watch, self._clock, self._bus = discover, watch, clock, bus
        self._hints: set[str] = set()
        self._hurry = asyncio.Event()
        self._scan_now = False
        self._root: tuple[int, int] | None = None  # device and inode: another folder may come to stand here
        self._stop_watcher = asyncio.Event()

    async def run(self) -> None:
        watched = self._watch.mode != "poll"
        mode = "events and scans" if watched else "scans"
        self._bus.publish(events.FolderWatched(str(self._watch.path), mode, self._watch.rescan))
        async with asyncio.TaskGroup() as group:
            group.create_task(self._decide())
            if watched:
                group.create_task(self._listen())

    async def _decide(self) -> None:
        """Scan, then look at hints until the next scan is due."""
        while True:
            self._scan_now = False
            await self._notice_another_root()
            await self._discover.scan(self._watch)
            next_scan = self._clock.monotonic() + self._watch.rescan
            while not self._scan_now and (wait := next_scan - self._clock.monotonic()) > 0:
                await self._hurried_or(wait)
                hints, self._hints = self._hints, set()
                if hints and not self._scan_now:
                    await self._discover.look(self._watch, sorted(hints))

    async def _hurried_or(self, wait: float) -> None:
        """Return when an event came, or after *wait* seconds."""
        waiters = {asyncio.ensure_future(self._hurry.wait()), asyncio.ensure_future(self._clock.sleep(wait))}
        try:
            await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()
        self._hurry.clear()

    async def _notice_another_root(self) -> None:
        """Start the watcher anew when another folder stands at this path: inotify keeps to the old one, silently."""
        root = await asyncio.to_thread(files.folder_id, str(self._watch.path))
        if self._root is not None and root != self._root:
            self._stop_watcher.set()
        self._root = root

    async def _listen(self) -> None:
        """Gather events as hints; whatever the watcher raises, it is started again and a scan covers for it."""
        pause, longest = WATCHER_PAUSE
        while True:
            try:
                await self._gather()
                pause = WATCHER_PAUSE[0]
            except Exception as error:  # noqa: BLE001 - its native part raises at will: RuntimeError, groups, OSError
                if await asyncio.to_thread(files.folder_id, str(self._watch.path)) is not None:  # the scan says that
                    self._bus.publish(events.WatcherRestarted(str(self._watch.path), _words(error)))
                await self._clock.sleep(pause)
                pause = min(longest, 2 * pause)
            self._scan_now = True
            self._hurry.set()

    async def _gather(self) -> None:
        self._stop_watcher = asyncio.Event()
        changes = awatch(
            self._watch.path,
            watch_filter=None,  # its default drops names that are recordings to us
            debounce=DEBOUNCE,
            stop_event=self._stop_watcher,
            recursive=self._watch.recursive,
            ignore_permission_denied=True,
        )
        async for batch in changes:
            self._hints.update(path for _, path in batch)
            self._hurry.set()
            if (Change.deleted, str(self._watch.path)) in batch:
                # Of what comes to stand here next inotify tells nothing, though it may well have the same inode.
                self._stop_watcher.set()


def _words(error: BaseException) -> str:
    """Say what a watcher died of: the innermost exception of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
