"""Finds the companion that a program keeps beside an unfinished file (``domain.companions``).

Their names are not known before, so a folder is listed, at most once in a while for all of its files. All functions
block.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Final

from uploader.domain.companions import Held, belongs_to
from uploader.files.open_writers import Inode
from uploader.files.safe_open import FOLDER, parent

LISTING_LASTS: Final = 1.0  # s for which a listing is used for all files of the folder, at least
SHARE_OF_TIME: Final = (
    10  # a listing is used for so many times as long as it took: large folders are listed more rarely
)
FOLDERS_REMEMBERED: Final = 64


class CompanionFiles:
    """The companions in the folders of one share."""

    def __init__(self, now: Callable[[], float]) -> None:
        """*now*: the monotonic clock, in seconds."""
        self._now = now
        self._listings: dict[Inode, tuple[float, Mapping[str, Held]]] = {}  # until when, and the names they belong to

    def of(self, root: int, relpath: str) -> Held | None:
        """Return the companion of the file at *relpath*; None when there is none. Raises ``OSError``."""
        with parent(root, relpath) as (folder, name):
            status = os.fstat(folder)
            place, now = (status.st_dev, status.st_ino), self._now()
            until, held = self._listings.get(place, (now, {}))
            if now >= until:
                held = _listed(folder)
                ended = self._now()
                self._listings.pop(place, None)
                self._listings[place] = ended + max(LISTING_LASTS, SHARE_OF_TIME * (ended - now)), held
                if len(self._listings) > FOLDERS_REMEMBERED:
                    self._listings.pop(next(iter(self._listings)), None)
        return held.get(name.casefold())


def _listed(folder: int) -> Mapping[str, Held]:
    """List an open folder: its companions by the name, in lower case, of the file that each belongs to.

    A folder that this user may not list has none.
    """
    try:
        fd = os.open(".", FOLDER, dir_fd=folder)
    except PermissionError:
        return {}
    try:
        names = os.listdir(fd)
    finally:
        os.close(fd)
    return {name.casefold(): held for each in names for name, held in belongs_to(each)}
