"""The table of ``after_upload`` actions: what is done with the local file after ``ready``.

A new action needs an entry here, its name in ``model.AfterUpload``, and a description in docs/configuration.md.
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
    """What was done with the file: ``kept``, ``deleted``, ``moved`` or ``gone``; and its new path if it was moved."""

    file: str
    moved_to: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A file that was sent, and its destination if it is to be moved."""

    path: str
    sent: SentFile
    move_to: str | None = None  # the archive
    target: str | None = None  # the path below the archive that was chosen and saved before


@dataclass(frozen=True, slots=True)
class Disposal:
    """One ``after_upload`` action. ``takes_away``: it needs a folder that exists and is writable."""

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
