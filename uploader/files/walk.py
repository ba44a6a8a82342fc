"""Walking a watched folder: by handles, one listing per folder, some hundred names at a time.

Must never follow a link, let one bad entry or folder hide the others, or hold more than the names of the folders that
are still to be walked: what it sees it hands out in batches. All of it blocks: a share's own threads call it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from uploader.config import WatchConfig
from uploader.domain import selection
from uploader.domain.model import Sighting, shown
from uploader.domain.selection import HIDDEN_PREFIX
from uploader.files.safe_open import FOLDER, kind, parent
from uploader.files.set_aside import is_left_over

if TYPE_CHECKING:
    ScandirIterator = os._ScandirIterator[str]  # noqa: SLF001 - the only name that it has

NAMES_PER_BATCH: Final = 500  # names of one batch, if they are looked at within
STEP_TIME_LIMIT: Final = 2.0  # s; a share that takes a tenth of a second for each name must not look as if it hung
DEPTH_LIMIT: Final = 64  # folders below the watched one, and handles held; a loop made by a bind mount ends here
_BELOW: Final = FOLDER | os.O_NOFOLLOW

PathPredicate = Callable[[str], bool]  # of a path below the root


def match_nothing(relpath: str) -> bool:
    """Judge no name so."""
    del relpath
    return False


@dataclass(frozen=True, slots=True)
class WalkFilter:
    """What a walk is for. ``takes``: files wanted; ``enters``: folders worth it; ``passes``: files that need no look.

    ``start``: a folder below the root; empty: all of it. ``puts_back``: the paths of files that are put back if an
    earlier run has left them set aside: those of which no upload knows that it was to remove them.
    """

    takes: PathPredicate
    enters: PathPredicate
    skip_stat: PathPredicate = match_nothing
    start: str = ""
    puts_back: PathPredicate = match_nothing


def walk_filter(
    watch: WatchConfig, watches: tuple[WatchConfig, ...], *, passes: PathPredicate = match_nothing, start: str = ""
) -> WalkFilter:
    """Return what a walk takes of a watched folder. *passes*: names whose inode need not be looked at."""

    def takes(relpath: str) -> bool:
        return selection.owner(watches, f"{watch.path}/{relpath}") is watch

    def enters(relpath: str) -> bool:
        return selection.enters(watch, relpath)

    return WalkFilter(takes, enters, passes, start)


@dataclass(slots=True)
class WalkBatch:
    """What a part of a walk saw. ``irregular``: (path, what it is). ``left_over``: set aside by an earlier run."""

    sightings: list[Sighting] = field(default_factory=list)
    irregular: list[tuple[str, str]] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)  # below the root
    names: int = 0
    folders: int = 0


@dataclass(slots=True)
class _Frame:
    """A folder that is being walked: its handle, its listing, and the folders found in it so far."""

    fd: int
    entries: ScandirIterator
    prefix: str
    subfolders: list[str] = field(default_factory=list)

    def close(self) -> None:
        """Let go of both handles."""
        self.entries.close()
        os.close(self.fd)


class Walk:
    """One walk; ``step`` after ``step``, then ``close``. ``problem``: what could not be read, so it is not whole."""

    def __init__(
        self, root: int, path: str, walk_filter: WalkFilter, now: Callable[[], float] = lambda: 0.0, *, run: str = ""
    ) -> None:
        """Begin at the open folder *root*, whose path is *path*. Raises ``OSError`` when it cannot be listed.

        *now*: the monotonic clock that a step is timed by. *run*: see ``set_aside.is_left_over``.
        """
        self._path, self._order, self._now, self._run = path, walk_filter, now, run
        self._frames: list[_Frame] = []
        self.problem: str | None = None
        self._folders = 0  # entered since the last batch
        if not walk_filter.start:
            self._enter(root, ".", "")
        else:
            with parent(root, walk_filter.start) as (folder, name):
                self._enter(folder, name, walk_filter.start + "/")

    @property
    def done(self) -> bool:
        """True when everything was looked at."""
        return not self._frames

    def step(self) -> WalkBatch:
        """Look at the next ``NAMES_PER_BATCH`` names, or as many as ``STEP_TIME_LIMIT`` seconds are enough for."""
        batch, end = WalkBatch(), self._now() + STEP_TIME_LIMIT
        while self._frames and batch.names < NAMES_PER_BATCH and self._now() <= end:
            frame = self._frames[-1]
            if (entry := self._next(frame)) is not None:
                batch.names += 1
                self._note(frame, entry, batch)
            elif frame.subfolders:
                self._descend(frame, frame.subfolders.pop())
            else:
                self._frames.pop().close()
        batch.folders, self._folders = self._folders, 0
        return batch

    def close(self) -> None:
        """Let go of every handle."""
        while self._frames:
            self._frames.pop().close()

    def _next(self, frame: _Frame) -> os.DirEntry[str] | None:
        try:
            return next(frame.entries, None)
        except OSError as error:
            self.problem = in_words(os.path.join(self._path, frame.prefix), error)
            return None

    def _note(self, frame: _Frame, entry: os.DirEntry[str], batch: WalkBatch) -> None:
        """Take one entry in. What cannot be looked at, or is gone by now, does not hide the others."""
        relpath = frame.prefix + entry.name
        try:
            if entry.is_dir(follow_symlinks=False):
                if len(self._frames) <= DEPTH_LIMIT and self._order.enters(relpath):
                    frame.subfolders.append(entry.name)
            elif entry.name.startswith(HIDDEN_PREFIX):
                if is_left_over(entry.name, self._run):
                    batch.left_over.append(relpath)
            elif not self._order.skip_stat(relpath) and self._order.takes(relpath):  # the cheaper question first
                status, path = entry.stat(follow_symlinks=False), f"{self._path}/{relpath}"
                if stat.S_ISREG(status.st_mode):
                    batch.sightings.append(Sighting(path, self._path, status.st_size, status.st_mtime_ns))
                else:
                    batch.irregular.append((path, kind(status.st_mode)))
        except FileNotFoundError:
            pass
        except OSError as error:
            self.problem = in_words(f"{self._path}/{relpath}", error)

    def _descend(self, frame: _Frame, name: str) -> None:
        try:
            self._enter(frame.fd, name, f"{frame.prefix}{name}/")
        except (FileNotFoundError, NotADirectoryError):
            pass  # folders come and go
        except OSError as error:
            self.problem = in_words(os.path.join(self._path, frame.prefix, name), error)

    def _enter(self, folder: int, name: str, prefix: str) -> None:
        fd = os.open(name, _BELOW, dir_fd=folder)
        try:
            self._frames.append(_Frame(fd, os.scandir(fd), prefix))
        except BaseException:  # whatever it was, the handle must not stay open behind it
            os.close(fd)
            raise
        self._folders += 1


def in_words(path: str, error: OSError) -> str:
    """Put an ``OSError`` about *path* into words."""
    return f"{shown(path)}: {error.strerror}"
