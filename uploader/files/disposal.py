"""What ``after_upload`` can be, in one table: what each does with the file after ``ready``.

A new one takes an entry here, its name in ``model.AfterUpload``, and its words in the configuration's documentation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from uploader.domain.model import AfterUpload
from uploader.files.dispose import SentFile
from uploader.files.share import Share


@dataclass(frozen=True, slots=True)
class Done:
    """What became of the file: ``kept``, ``deleted``, ``moved``, ``gone``; and where it is now if it was moved."""

    file: str
    moved_to: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A file that was sent, and where it is to go if it is moved."""

    path: str
    sent: SentFile
    move_to: str | None = None  # the archive
    target: str | None = None  # the path below it that was chosen, and saved, before


@dataclass(frozen=True, slots=True)
class Disposal:
    """One way to dispose of a file. ``takes_away``: its folder must be there, and writable."""

    takes_away: bool
    act: Callable[[Share, Request], Awaitable[Done]]


async def _keep(share: Share, request: Request) -> Done:
    del share, request
    return Done("kept")


async def _delete(share: Share, request: Request) -> Done:
    return Done("deleted" if await share.delete(request.path, request.sent) else "gone")


async def _move(share: Share, request: Request) -> Done:
    if request.move_to is None or request.target is None:
        return Done("kept")  # the configuration requires a folder, so no upload comes here without one
    where = await share.move(request.path, request.sent, request.move_to, request.target)
    return Done("gone") if where is None else Done("moved", where)


DISPOSALS: Final[Mapping[AfterUpload, Disposal]] = {
    "keep": Disposal(takes_away=False, act=_keep),
    "move": Disposal(takes_away=True, act=_move),
    "delete": Disposal(takes_away=True, act=_delete),
}
