"""Walks a watched folder in batches of some hundred names: by handles, with one listing per folder.

Does not follow links. An entry or folder that cannot be read does not hide the others. Only the names of folders that
are still to be walked are kept in memory. All functions block; a share's own threads call them.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from uploader.config import WatchConfig
from uploader.domain import selection
from uploader.domain.model import Sighting, shown
from uploader.domain.selection import HIDDEN_PREFIX
from uploader.files.inspection import sighting
from uploader.files.safe_open import FOLDER, kind, parent
from uploader.files.set_aside import is_left_over, left_in

if TYPE_CHECKING:
    ScandirIterator = os._ScandirIterator[str]  # noqa: SLF001 - the only name that it has

NAMES_PER_BATCH: Final = 500  # names of one batch, unless ``STEP_TIME_LIMIT`` ends it before
STEP_TIME_LIMIT: Final = 2.0  # s; a share that takes a tenth of a second for each name must not look as if it hung
DEPTH_LIMIT: Final = 64  # folders below the watched one, and handles held; a loop made by a bind mount ends here
_BELOW: Final = FOLDER | os.O_NOFOLLOW

PathPredicate = Callable[[str], bool]  # of a path below the root
SuffixOf = Callable[[str], str | None]  # of a path below the root: see ``selection.untaken_suffix``


def match_nothing(relpath: str) -> bool:
    """Return False for every path."""
    del relpath
    return False


def count_nothing(relpath: str) -> None:
    """Return None for every path."""
    del relpath


@dataclass(frozen=True, slots=True)
class WalkFilter:
    """What a walk includes. ``takes``: files that are wanted; ``enters``: folders to walk into.

    ``skip_stat``: names whose inode is not needed. ``start``: the folder below the root to begin at; empty: the root.
    ``puts_back``: true for a file to put back if an earlier run left it set aside: no upload was about to remove it.
    ``untaken``: the suffix of a file that is not wanted and is counted; None for one that is not counted.
    """

    takes: PathPredicate
    enters: PathPredicate
    skip_stat: PathPredicate = match_nothing
    start: str = ""
    puts_back: PathPredicate = match_nothing
    untaken: SuffixOf = count_nothing


def walk_filter(
    watch: WatchConfig, watches: tuple[WatchConfig, ...], *, passes: PathPredicate = match_nothing, start: str = ""
) -> WalkFilter:
    """Return the filter for a walk of a watched folder. *passes*: names whose inode is not needed."""

    def takes(relpath: str) -> bool:
        return selection.owner(watches, f"{watch.path}/{relpath}") is watch

    def enters(relpath: str) -> bool:
        return selection.enters(watch, relpath)

    def untaken(relpath: str) -> str | None:
        return selection.untaken_suffix(watches, watch, relpath)

    return WalkFilter(takes, enters, passes, start, untaken=untaken)


@dataclass(slots=True)
class WalkBatch:
    """What one step of a walk saw. ``irregular``: (path, kind). ``left_over``: files set aside by an earlier run.

    ``untaken``: how many regular files are not wanted, by suffix.
    """

    sightings: list[Sighting] = field(default_factory=list)
    irregular: list[tuple[str, str]] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)  # below the root
    untaken: Counter[str] = field(default_factory=Counter)
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
        """Close both handles."""
        self.entries.close()
        os.close(self.fd)


class Walk:
    """One walk: call ``step`` until ``done``, then ``close``. ``problem``: what could not be read, else None."""

    def __init__(
        self, root: int, path: str, walk_filter: WalkFilter, now: Callable[[], float] = lambda: 0.0, *, run: str = ""
    ) -> None:
        """Begin at the open folder *root*, whose path is *path*. Raises ``OSError`` when it cannot be listed.

        *now*: the monotonic clock that times a step. *run*: see ``set_aside.is_left_over``.
        """
        self._path, self._filter, self._now, self._run = path, walk_filter, now, run
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
        """True when everything has been walked."""
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
        """Close every handle."""
        while self._frames:
            self._frames.pop().close()

    def _next(self, frame: _Frame) -> os.DirEntry[str] | None:
        try:
            return next(frame.entries, None)
        except OSError as error:
            self.problem = in_words(os.path.join(self._path, frame.prefix), error)
            return None

    def _note(self, frame: _Frame, entry: os.DirEntry[str], batch: WalkBatch) -> None:
        """Add one entry to the batch. One that cannot be read, or is gone by now, does not hide the others."""
        relpath = frame.prefix + entry.name
        try:
            if entry.is_dir(follow_symlinks=False):
                if is_left_over(entry.name, self._run):
                    batch.left_over += [frame.prefix + path for path in left_in(frame.fd, entry.name)]
                elif len(self._frames) <= DEPTH_LIMIT and self._filter.enters(relpath):
                    frame.subfolders.append(entry.name)
            elif entry.name.startswith(HIDDEN_PREFIX):
                if is_left_over(entry.name, self._run):
                    batch.left_over.append(relpath)
            elif not self._filter.skip_stat(relpath):  # the cheapest check first
                self._note_file(relpath, entry, batch)
        except FileNotFoundError:
            pass
        except OSError as error:
            self.problem = in_words(f"{self._path}/{relpath}", error)

    def _note_file(self, relpath: str, entry: os.DirEntry[str], batch: WalkBatch) -> None:
        """Add an entry that is no folder: one that is wanted by its inode, another by its suffix."""
        if self._filter.takes(relpath):
            status, path = entry.stat(follow_symlinks=False), f"{self._path}/{relpath}"
            if stat.S_ISREG(status.st_mode):
                batch.sightings.append(sighting(path, self._path, status))
            else:
                batch.irregular.append((path, kind(status.st_mode)))
        elif (suffix := self._filter.untaken(relpath)) is not None and entry.is_file(follow_symlinks=False):
            batch.untaken[suffix] += 1

    def _descend(self, frame: _Frame, name: str) -> None:
        try:
            self._enter(frame.fd, name, f"{frame.prefix}{name}/")
        except (FileNotFoundError, NotADirectoryError):
            pass  # it was removed meanwhile
        except OSError as error:
            self.problem = in_words(os.path.join(self._path, frame.prefix, name), error)

    def _enter(self, folder: int, name: str, prefix: str) -> None:
        fd = os.open(name, _BELOW, dir_fd=folder)
        try:
            self._frames.append(_Frame(fd, os.scandir(fd), prefix))
        except BaseException:  # whatever was raised, the handle must not stay open
            os.close(fd)
            raise
        self._folders += 1


def in_words(path: str, error: OSError) -> str:
    """Describe an ``OSError`` about *path*."""
    return f"{shown(path)}: {error.strerror}"
