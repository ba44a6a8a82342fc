"""Selects the files of the watched folders, by name: include, exclude, depth, overlap. Pure.

``discover`` and ``explain`` both use it, so they always agree. Patterns are shell patterns that ignore case (recorders
write ``.MP4``). A pattern with a slash is matched against the path below the folder, one without against the file's
name; an exclude pattern without a slash also against the name of each folder in the path.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import PurePath
from typing import Final, Protocol, TypeVar

LOST_AND_FOUND: Final = "lost+found"  # a folder that ext4 makes, and that only root can read
HIDDEN_PREFIX: Final = ".valt-uploader-"  # prefix of the names of files that this program makes in a watched folder


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
    def recursive(self) -> bool:
        """Whether subfolders count."""

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
    folders, name = relpath.split("/")[:-1], relpath.rsplit("/", 1)[-1]
    if name.startswith(HIDDEN_PREFIX):
        return "it is a file of valt-uploader itself"
    if folders and not watch.recursive:
        return "it is in a subfolder, and recursive = false"
    if LOST_AND_FOUND in folders:
        return f"{LOST_AND_FOUND} is the file system's own"
    for part in (name, *folders):
        if _matches(watch.exclude, part):
            return f"{part!r} matches an exclude pattern"
    if _matches(watch.exclude, relpath, with_slash=True):
        return "its path matches an exclude pattern"
    if not (_matches(watch.include, name) or _matches(watch.include, relpath, with_slash=True)):
        return "its name matches no include pattern"
    return None


def enters(watch: FolderRule, relpath: str) -> bool:
    """True when the subfolder at *relpath* is walked through."""
    return (
        watch.recursive
        and (name := relpath.rsplit("/", 1)[-1]) != LOST_AND_FOUND
        and not _matches(watch.exclude, name)
        and not _matches(watch.exclude, relpath, with_slash=True)
    )


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


def _matches(patterns: tuple[str, ...], text: str, *, with_slash: bool = False) -> bool:
    expression = _compiled(patterns, with_slash)
    return expression is not None and expression.match(text) is not None


@lru_cache(maxsize=256)
def _compiled(patterns: tuple[str, ...], with_slash: bool) -> re.Pattern[str] | None:
    chosen = [fnmatch.translate(pattern) for pattern in patterns if ("/" in pattern) is with_slash]
    return re.compile("|".join(chosen), re.IGNORECASE) if chosen else None
