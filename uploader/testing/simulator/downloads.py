"""Serves the videos behind download links, as a static file server does, or with one of its failures.

``Settings.download`` says which. A link is valid for ``Settings.link_lifetime``; then it is answered 403.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from uploader.runtime.clock import Clock
from uploader.testing.simulator import wire
from uploader.testing.simulator.api import Api
from uploader.testing.simulator.faults import Fault, FaultKind, fault_answer, strike
from uploader.testing.simulator.records import Records
from uploader.testing.simulator.responses import abort, as_response
from uploader.testing.simulator.transcoding import transcoded
from uploader.testing.simulator.wire import SimulatedAnswer

_SEEN_KEPT = 100_000
_READ_SIZE = 1 << 20  # bytes of a video sent at a time, when it is sent in pieces
_VIDEO = {"Content-Type": "video/mp4"}
_STRUCK: web.RequestKey[tuple[Fault | None]] = web.RequestKey("struck", tuple)  # of a download: its fault


@dataclass(frozen=True, slots=True)
class SeenDownload:
    """One request for a video. It never holds the link's secret."""

    method: str
    host: str  # as the client names it
    status: int | None  # None: no answer was given
    record: str  # the id of its record
    range: str | None
    at: float  # Unix seconds, when the answer began
    fault: FaultKind | None = None  # the fault that was applied


class Downloads:
    """The videos, and the requests for them that were made."""

    def __init__(self, records: Records, api: Api, faults: list[Fault], clock: Clock) -> None:
        self.seen: deque[SeenDownload] = deque(maxlen=_SEEN_KEPT)
        self.on_seen: Callable[[SeenDownload], None] | None = None
        self._records = records
        self._api = api
        self._faults = faults
        self._clock = clock

    def add_to(self, app: web.Application) -> None:
        """Add the routes to *app*. Redirects lead to ``/media``, which always serves the bytes."""
        app.router.add_get("/distribution/{record}/{video}.mp4", self._serve)
        app.router.add_get("/media/{record}/{video}.mp4", self._serve)
        app.on_response_prepare.append(self._begins)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        record = self._records.get(request.match_info["record"])
        name = record.spec.name if record else None
        fault = strike(self._faults, "download", record=request.match_info["record"], name=name)
        if fault and fault.kind in {"lose-answer", "cut-body", "late"}:
            self._note(request, None, fault)
            abort(request)
            return web.Response()  # not sent: the connection is closed
        request[_STRUCK] = (fault,)
        if fault and fault.kind == "stall":
            await fault.stand_still(self._clock)
        return as_response(fault_answer(fault)) if fault and fault.kind == "status" else await self._answer(request)

    async def _begins(self, request: web.Request, response: web.StreamResponse) -> None:
        """Note an answer before it is sent: only then does a ``FileResponse`` know its status."""
        if _STRUCK in request:
            self._note(request, response.status, request[_STRUCK][0])

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request as the settings say. The answer may have been sent already."""
        found = self._api.linked(
            request.match_info["record"], request.match_info["video"], request.query.get("access_token", "")
        )
        if isinstance(found, SimulatedAnswer):
            return as_response(found)
        kind = self._api.settings.download
        moved = request.path.startswith("/media/")
        if kind in {"redirect", "elsewhere"} and not moved:
            return web.Response(status=302, headers={"Location": _target(request, other=kind == "elsewhere")})
        if kind == "forbidden":
            return as_response(wire.html_answer(403))
        if kind == "page":
            return as_response(wire.html_answer(200))
        if kind == "no-head" and request.method == "HEAD":
            return as_response(SimulatedAnswer(405, wire.html_page(405), {"Allow": "GET"}))
        path = self._records.path(found)
        if self._api.settings.transcodes:
            path = await asyncio.to_thread(transcoded, path)
        return await _in_pieces(request, path) if kind == "no-length" else web.FileResponse(path, headers=_VIDEO)

    def _note(self, request: web.Request, status: int | None, fault: Fault | None) -> None:
        seen = SeenDownload(
            method=request.method,
            host=request.host,
            status=status,
            record=request.match_info["record"],
            range=request.headers.get("Range"),
            at=self._clock.now(),
            fault=fault.kind if fault else None,
        )
        self.seen.append(seen)
        if self.on_seen is not None:
            self.on_seen(seen)


def _target(request: web.Request, *, other: bool) -> str:
    """Return where a redirect leads: to ``/media`` on the same host, or by an *other* name of this machine."""
    url = urlsplit(str(request.url))
    host = url.netloc
    if other:
        name = "127.0.0.1" if url.hostname == "localhost" else "localhost"
        host = f"{name}:{url.port}"
    return url._replace(netloc=host, path=url.path.replace("/distribution/", "/media/", 1)).geturl()


async def _in_pieces(request: web.Request, path: Path) -> web.StreamResponse:
    """Send a whole file without saying how long it is."""
    response = web.StreamResponse(headers=_VIDEO)
    if request.method != "HEAD":
        response.enable_chunked_encoding()
    await response.prepare(request)
    with path.open("rb") as video:
        while request.method != "HEAD" and (piece := await asyncio.to_thread(video.read, _READ_SIZE)):
            await response.write(piece)
    await response.write_eof()
    return response
