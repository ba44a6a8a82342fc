"""Selects the files of the watched folders, by name: include, exclude, depth, overlap. Pure.

``discover`` and ``explain`` both use it, so they always agree. Patterns are shell patterns that ignore case (recorders
write ``.MP4``). A pattern with a slash is matched against the path below the folder, one without against the file's
name; an exclude pattern also against each folder in the path. ``system_names`` lists what is left out everywhere.
"""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from pathlib import PurePath
from typing import Final, Protocol, TypeVar

from uploader.domain.companions import belongs_to
from uploader.domain.completeness import is_marker
from uploader.domain.system_names import system_file, system_folder

LOST_AND_FOUND: Final = "lost+found"  # a folder that ext4 makes, and that only root can read
HIDDEN_PREFIX: Final = ".valt-uploader-"  # prefix of the names that this program makes in a watched folder
NO_PATTERN: Final = "its name matches no include pattern"
LONGEST_SUFFIX: Final = 16  # characters; what follows the last dot of a sentence is no suffix


class FolderRule(Protocol):
    """What decides which files of a folder are taken: a ``[[watch]]`` of the configuration."""

    @property
    def path(self) -> PurePath:
        """The watched folder."""

    @property
    def include(self) -> tuple[str, ...]:
        """The patterns of which a file's name matches one."""

    @property
    def exclude(self) -> tuple[str, ...]:
        """The patterns of which it matches none."""

    @property
    def enter(self) -> tuple[str, ...]:
        """The patterns of folders that are entered all the same."""

    @property
    def recursive(self) -> bool:
        """Whether subfolders count."""

    @property
    def done_marker(self) -> str:
        """The pattern of the marker that a file needs; empty when it needs none."""

    @property
    def move_to(self) -> PurePath | None:
        """The archive: nothing below it is taken."""


R = TypeVar("R", bound=FolderRule)


def relative(root: str | PurePath, path: str) -> str | None:
    """Return *path* below *root*, or None when it is not below it. Both absolute; by name; links are not followed."""
    prefix = str(root).rstrip("/") + "/"
    return path[len(prefix) :] if path.startswith(prefix) and len(path) > len(prefix) else None


def refusal(watch: FolderRule, relpath: str) -> str | None:
    """Return why the file at *relpath* below this folder is not taken; None when it is."""
    *folders, name = relpath.split("/")
    if any(part.startswith(HIDDEN_PREFIX) for part in (name, *folders)):
        return "it is a file of valt-uploader itself"
    if folders and not watch.recursive:
        return "it is in a subfolder, and recursive = false"
    if _matches(watch.exclude, name):
        return f"{name!r} matches an exclude pattern"
    for folder in _with_parents(folders):
        if (why := _not_entered(watch, folder)) is not None:
            return why
    if _matches(watch.exclude, relpath, with_slash=True):
        return "its path matches an exclude pattern"
    if (found := system_file(name)) is not None and not _matches(watch.enter, name):
        return f"it is {found.what} of {found.maker} ({found.pattern}): not taken; {_taken_out(found.pattern)}"
    if not (_matches(watch.include, name) or _matches(watch.include, relpath, with_slash=True)):
        return NO_PATTERN
    return None


def enters(watch: FolderRule, relpath: str) -> bool:
    """True when the subfolder at *relpath* is walked through, if the folders above it are."""
    name = relpath.rsplit("/", 1)[-1]
    return watch.recursive and not name.startswith(HIDDEN_PREFIX) and _not_entered(watch, relpath) is None


def reaches(watch: FolderRule, relpath: str) -> bool:
    """True when a walk comes to the subfolder at *relpath*: it is entered, and so are the folders above it."""
    return all(enters(watch, folder) for folder in _with_parents(relpath.split("/")))


def _with_parents(folders: Sequence[str]) -> Sequence[str]:
    """Return the path of each folder on the way to the last of *folders*, the highest first."""
    return tuple(accumulate(folders, lambda path, name: f"{path}/{name}"))


def _not_entered(watch: FolderRule, relpath: str) -> str | None:
    """Return why the folder at *relpath* is not entered; None when it is. The folders above it are not looked at."""
    name = relpath.rsplit("/", 1)[-1]
    if _matches(watch.enter, name) or _matches(watch.enter, relpath, with_slash=True):
        return None
    if name.casefold() == LOST_AND_FOUND:
        return f"{LOST_AND_FOUND} is the file system's own"
    if _matches(watch.exclude, name):
        return f"{name!r} matches an exclude pattern"
    if _matches(watch.exclude, relpath, with_slash=True):
        return "its path matches an exclude pattern"
    if (found := system_folder(name)) is not None:
        return f"in {found.what} ({name}) of {found.maker}: not entered; {_taken_out(found.pattern)}"
    return None


def _taken_out(pattern: str) -> str:
    return f"enter = [{json.dumps(pattern)}] takes it out"


def owner(watches: Sequence[R], path: str) -> R | None:
    """Return the ``[[watch]]`` of a file: the first that takes it, in configured order; None when none does.

    No ``[[watch]]`` takes a file below a ``move_to`` folder, even inside a watched folder.
    """
    if any(watch.move_to and relative(watch.move_to, path) is not None for watch in watches):
        return None
    for watch in watches:
        relpath = relative(watch.path, path)
        if relpath is not None and refusal(watch, relpath) is None:
            return watch
    return None


def untaken_suffix(watches: Sequence[R], watch: R, relpath: str) -> str | None:
    """Return the suffix of a name that no include pattern takes, in lower case; empty for a name without one.

    None for every other file: it is taken, was excluded on purpose, is the marker or the companion of another one, or
    is counted at an earlier ``[[watch]]``.
    """
    path = f"{watch.path}/{relpath}"
    if refusal(watch, relpath) != NO_PATTERN or owner(watches, path) is not None:
        return None
    if any(one.move_to and relative(one.move_to, path) is not None for one in watches):
        return None
    name = relpath.rsplit("/", 1)[-1]
    if belongs_to(name) or is_marker(watch.done_marker, name):
        return None
    for other in watches:
        below = relative(other.path, path)
        if below is not None and refusal(other, below) == NO_PATTERN:
            return suffix_of(relpath) if other is watch else None
    return None


def suffix_of(relpath: str) -> str:
    """Return the suffix of a name in lower case, with its dot; empty when what follows the dot is no suffix."""
    suffix = PurePath(relpath).suffix.casefold()
    return suffix if 1 < len(suffix) <= LONGEST_SUFFIX and not re.search(r"\s", suffix) else ""


def _matches(patterns: tuple[str, ...], text: str, *, with_slash: bool = False) -> bool:
    expression = _compiled(patterns, with_slash)
    return expression is not None and expression.match(text) is not None


@lru_cache(maxsize=256)
def _compiled(patterns: tuple[str, ...], with_slash: bool) -> re.Pattern[str] | None:
    chosen = [fnmatch.translate(pattern) for pattern in patterns if ("/" in pattern) is with_slash]
    return re.compile("|".join(chosen), re.IGNORECASE) if chosen else None
