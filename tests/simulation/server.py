"""The VALT server behind a bad link. It outlives every client and does what reaches it, however late that is.

Chunks are received by the built-in server's own ``receive``. A request does not end with its client: it may arrive at
once, up to ``LATEST`` seconds after its client has given up, or never; so may its answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Final, Protocol

from uploader.testing.simulator.semantics import ContentRange, Held, Semantics, parse_content_range, receive, write_into

LATEST: Final = 90.0  # s that a request may be on its way after its client has given up
PASSWORD: Final = "marked-secret-password"
USER: Final = "uploader"

BAD_GATEWAY: Final = b"<html><head><title>502 Bad Gateway</title></head></html>"
NOT_THERE: Final = b"<html><head><title>404 Not Found</title></head></html>"
NOT_ALLOWED: Final = b'{"title":"An error occurred","status":405,"detail":"Method Not Allowed"}'
SORRY: Final = b"<html><head><title>Back soon</title></head></html>"
LINK_LIFETIME: Final = 1800.0  # s
TOO_LARGE: Final = b"<html><head><title>413 Request Entity Too Large</title></head></html>"


class Ground(Protocol):
    """What the server needs from the world."""

    now: float

    def chance(self) -> float:
        """Return a random number from 0 to 1."""

    def true_wall(self) -> float:
        """Return Unix seconds by a clock that is never set."""


@dataclass(eq=False)
class Record:
    """A record and what its receiver holds."""

    id: str
    video: str
    name: str
    author: str
    created: float
    held: Held = field(default_factory=Held)
    files: list[bytearray] = field(default_factory=lambda: [bytearray()])
    taken_to: int = 0  # first byte after all that was taken, in order
    completed_at: float | None = None
    processing: float = 0.0
    deleted: bool = False
    sent: bytearray = field(default_factory=bytearray)  # what the client has sent, each byte where it belongs
    total: int = 0  # bytes of the file, by the client

    @property
    def content(self) -> bytes:
        """The bytes of its video so far."""
        return bytes(self.files[0])

    @property
    def spoilt(self) -> bool:
        """True when it shows a video that is not what was sent."""
        return self.completed_at is not None and not (len(self.sent) == self.total and self.sent == self.files[0])


@dataclass(frozen=True)
class Request:
    """A request that has arrived as a whole."""

    method: str
    path: str
    token: str
    payload: dict[str, Any]
    range: str = ""  # Content-Range
    body: bytes = b""
    wanted: str = ""  # Range


@dataclass(frozen=True)
class Reply:
    """An answer."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


@lru_cache(maxsize=4096)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)


def _json(status: int, document: Any) -> Reply:
    return Reply(status, json.dumps(document).encode())


class Server:
    """One VALT server. ``fights``: a log-in ends the token before it."""

    def __init__(
        self, ground: Ground, semantics: Semantics, *, limit: int = 0, slow: float = 0.0, transcodes: bool = False
    ) -> None:
        """*limit*: bytes of a chunk above which it answers 413; 0: none. *slow*: s that processing may take."""
        self._ground, self.semantics, self.limit, self._slow = ground, semantics, limit, slow
        self.transcodes = transcodes  # what it hands out is not what it got
        self.records: dict[str, Record] = {}
        self.token = ""
        self.tokens: list[str] = []
        self.expiries = 0
        self.links: dict[str, float] = {}  # secrets of download links, and when each was given
        self.origin = "http://127.0.0.1"  # what links begin with
        self.by_get = False  # True: it makes records by GET alone, and without a name
        self.hands_out = True  # False: the port that links lead to is closed
        self.answers_head = True  # False: the host that links lead to answers HEAD with 405
        self.tells_sizes = True  # False: that host sends no Content-Length, and does not know ranges
        self.broken: list[str] = []  # invariants that a request has broken
        self.before_delete: Callable[[Record], None] = lambda record: None

    def expire(self) -> None:
        """Let the token expire."""
        self.token = ""
        self.expiries += 1

    def plant(self, name: str, author: str, age: float) -> Record:
        """Make an empty record that is not the client's."""
        return self._add(name, author, self._ground.true_wall() - age)

    def _add(self, name: str, author: str, created: float) -> Record:
        number = len(self.records) + 1
        record = Record(f"record-{number}", f"video-{number}", name, author, float(int(created)))
        record.processing = self._slow * self._ground.chance()
        self.records[record.id] = record
        return record

    def do(self, request: Request) -> Reply:
        """Do what a request asks for."""
        reply = self._do(request)
        reply.headers["Date"] = _date(int(self._ground.true_wall()))
        return reply

    def _do(self, request: Request) -> Reply:
        if request.path.startswith("/distribution/"):
            return self._hand_out(request)
        parts = request.path.removeprefix("/api/v3/").split("/")
        if parts == ["login"]:
            return self._log_in(request)
        if not self.token or request.token != self.token:
            return _json(401, {"error": {"code": 401, "message": "No API key provided"}})
        if parts == ["records", "create-upload"]:
            if (request.method == "GET") is not self.by_get:
                allowed = "GET" if self.by_get else "POST"
                return Reply(405, NOT_ALLOWED, {"Allow": allowed})
            record = self._add(request.payload.get("name", ""), USER, self._ground.true_wall())
            return _json(200, {"id": record.id, "videos": [record.video]})
        if parts == ["records"]:
            rows = [_row(record) for record in self.records.values() if not record.deleted]
            return _json(200, {"data": {"records": [row for row in rows if request.payload["search"] in row["name"]]}})
        if parts == ["admin", "general"]:
            return _json(200, {"data": {"version": "6.7.2"}})
        return self._about_a_record(parts, request)

    def _about_a_record(self, parts: list[str], request: Request) -> Reply:
        known = self.records.get(parts[2 if parts[1] == "download" else 1])
        if known is None or known.deleted or (parts[1] == "download" and known.completed_at is None):
            return _json(404, {"type": "x", "title": "An error occurred", "status": 404, "detail": "Not Found"})
        if parts[1] == "download":
            secret = f"marked-secret-link-{len(self.links)}"
            self.links[secret] = self._ground.now
            url = f"{self.origin}:8000/distribution/{known.id}/{known.video}.mp4?access_token={secret}"
            return _json(200, {"url": url})
        if len(parts) == 2:
            duration = duration_of(known.content) if self.is_ready(known) else 0.0
            return _json(200, {"data": _row(known) | {"videos": self._videos(known), "duration": duration}})
        if parts[2] == "update":
            known.name = request.payload["name"]
            return _json(200, {"data": {"id": known.id}})
        if parts[2] == "delete":
            self.before_delete(known)
            known.deleted = True
            return _json(200, {"data": {"id": known.id}})
        return self._take(known, request)

    def _hand_out(self, request: Request) -> Reply:
        """Answer a request for a video by its link."""
        record = self.records.get(request.path.split("/")[2])
        given = self.links.get(request.token, float("-inf"))
        if record is None or record.deleted or self._ground.now - given >= LINK_LIFETIME:
            return Reply(404, NOT_THERE)
        if request.method == "HEAD" and not self.answers_head:
            return Reply(405)
        headers = {"Content-Type": "video/mp4"}
        content = transcoded(record.content) if self.transcodes else record.content
        if not self.tells_sizes:
            return Reply(200, b"" if request.method == "HEAD" else content, headers)
        if request.wanted == "bytes=0-0":
            return Reply(206, content[:1], headers | {"Content-Range": f"bytes 0-0/{len(content)}"})
        body = b"" if request.method == "HEAD" else content
        return Reply(200, body, headers | {"Content-Length": str(len(content))})

    def _log_in(self, request: Request) -> Reply:
        if request.payload != {"username": USER, "password": PASSWORD}:
            return _json(401, {"data": "Invalid username or password"})
        self.token = f"marked-secret-token-{len(self.tokens)}"
        self.tokens.append(self.token)
        return _json(200, {"data": {"access_token": self.token}})

    def _videos(self, record: Record) -> list[dict[str, Any]] | None:
        if record.completed_at is None:
            return None
        return [{"id": record.video, "status": {"type": "ready" if self.is_ready(record) else "created"}}]

    def is_ready(self, record: Record) -> bool:
        """True when it has finished with a record's video."""
        return record.completed_at is not None and self._ground.now >= record.completed_at + record.processing

    def _take(self, record: Record, request: Request) -> Reply:
        chunk = parse_content_range(request.range)
        if chunk is None or chunk.size != len(request.body):
            self.broken.append(f"I2: {record.id} got {request.range} with {len(request.body)} bytes")
            return _json(400, {"data": {"message": "Invalid Content-Range header value"}, "code": 400})
        if self.limit and chunk.size > self.limit:
            return Reply(413, TOO_LARGE)
        taken = receive(self.semantics, record.held, chunk)
        if taken is None:
            return _json(400, {"data": {"message": "Invalid Content-Range header value"}, "code": 400})
        if chunk.start != record.taken_to or record.completed_at is not None:
            self.broken.append(f"I2: {record.id} got {chunk}, after it had taken all up to {record.taken_to}")
        record.taken_to = chunk.end + 1
        _note_sent(record, chunk, request.body)
        while len(record.files) <= taken.file:
            record.files.append(bytearray())
        write_into(record.files[taken.file], taken, request.body)
        record.held = taken.held
        if taken.held.complete and (record.completed_at is None or taken.fresh):
            record.completed_at = self._ground.now
        headers = {} if taken.acknowledged is None else {"Range": f"0-{taken.acknowledged - 1}"}
        return Reply(201, b"", headers)


def duration_of(content: bytes) -> float:
    """Return how many seconds a content plays: ten for each byte, so that one byte more or less is seen."""
    return len(content) * 10.0


def transcoded(content: bytes) -> bytes:
    """Return what a server that transcodes makes of a video: other bytes, and another number of them."""
    return b"transcoded" + content[::-1]


def _note_sent(record: Record, chunk: ContentRange, body: bytes) -> None:
    record.total = chunk.total
    record.sent.extend(bytes(max(0, chunk.start - len(record.sent))))
    record.sent[chunk.start : chunk.end + 1] = body


def _row(record: Record) -> dict[str, Any]:
    author = {"id": 1, "name": record.author}
    return {"id": record.id, "name": record.name, "author": author, "created": record.created}
