"""The server's side of the wire format: reads payloads, and makes answers.

Pure functions, after protocol.md, *Calls* and its four failure shapes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any, Final

from uploader.domain.model import RecordSharing, RecordSpec

NAME_LIMIT = 255  # characters of a record's name; longer ones are refused like any bad payload


@dataclass(frozen=True, slots=True)
class SimulatedAnswer:
    """The answer to a call. *body*: JSON unless it is already text; None: an empty body."""

    status: int
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The body as it is sent."""
        if self.body is None:
            return ""
        return self.body if isinstance(self.body, str) else json.dumps(self.body, ensure_ascii=False)

    @property
    def content_type(self) -> str:
        """The media type of ``text``."""
        return "text/html" if self.body is None or isinstance(self.body, str) else "application/json"


WRONG_PASSWORD = SimulatedAnswer(401, {"data": "Invalid username or password"})
NO_TOKEN = SimulatedAnswer(401, {"error": {"code": 401, "message": "No API token provided"}})
BAD_TOKEN = SimulatedAnswer(401, {"error": {"code": 401, "message": "Bad credentials."}})
BAD_PAYLOAD = SimulatedAnswer(500, {"error": {"code": 500, "message": "Invalid request payload"}})
FORBIDDEN = SimulatedAnswer(403, {"error": {"code": 403, "message": "Access Denied."}})

_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus} | {
    405: "Not Allowed",
    413: "Request Entity Too Large",
    503: "Service Temporarily Unavailable",
    504: "Gateway Time-out",
}  # as nginx has them
_SORRY_PAGE: Final = (
    "<!doctype html>\n<html>\n<head><title>We will be back soon</title></head>\n"
    "<body><h1>We will be back soon</h1><p>The service is being maintained.</p></body>\n</html>\n"
)


def html_page(status: int) -> str:
    """Return the page of a proxy: nginx's error page for *status*, or for a 2xx a sorry page."""
    if 200 <= status < 300:
        return _SORRY_PAGE
    title = f"{status} {_PHRASES.get(status, '')}".strip()
    return (
        f"<html>\r\n<head><title>{title}</title></head>\r\n"
        f"<body>\r\n<center><h1>{title}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    )


def html_answer(status: int) -> SimulatedAnswer:
    """Return the answer of a proxy, in HTML."""
    return SimulatedAnswer(status, html_page(status))


TOO_LARGE = html_answer(413)


def _refused(message: str) -> SimulatedAnswer:
    return SimulatedAnswer(400, {"data": {"message": message}, "code": 400})


CHUNK_NOT_TRANSFERRED = _refused("The chunk file was not transferred")
BAD_RANGE = _refused("Invalid Content-Range header value")
MISSING_FILE = _refused("Missing file")


def _rfc2616(status: int, detail: str) -> SimulatedAnswer:
    problem = {
        "type": "https://tools.ietf.org/html/rfc2616#section-10",
        "title": "An error occurred",
        "status": status,
        "detail": detail,
    }
    return SimulatedAnswer(status, problem)


NOT_FOUND = _rfc2616(404, "Not Found")
METHOD_NOT_ALLOWED = _rfc2616(405, "Method Not Allowed")


def parse_object(body: bytes) -> dict[str, Any] | None:
    """Read a JSON object; None when the body is anything else."""
    try:
        value = json.loads(body)
    except ValueError:  # not JSON, or not UTF-8
        return None
    return value if isinstance(value, dict) else None


def parse_create(body: bytes) -> RecordSpec | None:
    """Read a create-upload payload; None stands for 500 "Invalid request payload"."""
    payload = parse_object(body)
    if payload is None:
        return None
    name, template = payload.get("name"), payload.get("template", {})
    share = _parse_share(payload.get("share", {}))
    if not isinstance(name, str) or not 0 < len(name) <= NAME_LIMIT or share is None:
        return None
    if not isinstance(template, dict) or not all(isinstance(value, str) for value in template.values()):
        return None
    return RecordSpec(name, template, share)


def parse_update(body: bytes, spec: RecordSpec) -> RecordSpec | None:
    """Read an update payload, whose keys are all optional, into a new *spec*; None stands for 500."""
    payload = parse_object(body)
    if payload is None:
        return None
    changed = {"name": spec.name, "template": dict(spec.template)} | payload
    whole = json.dumps({key: changed[key] for key in ("name", "template")}).encode()
    fresh = parse_create(whole)
    return None if fresh is None else RecordSpec(fresh.name, fresh.template, spec.share)


def _parse_share(value: object) -> RecordSharing | None:
    if not isinstance(value, dict) or not value.keys() <= {"users", "groups"}:
        return None
    users, groups = value.get("users", []), value.get("groups", [])
    if not _is_ids(users) or not _is_ids(groups):
        return None
    return RecordSharing(tuple(users), tuple(groups))


def _is_ids(value: object) -> bool:
    return isinstance(value, list) and all(type(number) is int for number in value)  # True is not an id


@dataclass(frozen=True, slots=True)
class Query:
    """The query of a ``list`` call. *since* and *until* bound ``created`` (Unix seconds, half-open)."""

    search: str = ""
    since: float | None = None
    until: float | None = None
    offset: int = 0
    limit: int | None = None

    def matches(self, spec: RecordSpec, created: float) -> bool:
        """True when a record matches: by full text of its metadata, and by its day."""
        texts = [spec.name, *spec.template.values()]
        if not any(self.search.casefold() in text.casefold() for text in texts):
            return False
        return (self.since is None or self.since <= created) and (self.until is None or created < self.until)


def parse_query(body: bytes) -> Query | None:
    """Read a list payload, whose keys are all optional; None stands for 500 "Invalid request payload"."""
    payload = parse_object(body) if body.strip() else {}
    if payload is None:
        return None
    search, offset, limit = payload.get("search", ""), payload.get("offset", 0), payload.get("limit")
    if not isinstance(search, str) or not _is_count(offset) or not (limit is None or _is_count(limit)):
        return None
    try:
        since = _day(payload.get("start_date"))
        until = _day(payload.get("end_date"))
    except (TypeError, ValueError):  # not a text, not a date
        return None
    return Query(
        search,
        since.timestamp() if since else None,
        (until + timedelta(days=1)).timestamp() if until else None,
        offset,
        limit,
    )


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _day(text: Any) -> datetime | None:
    """Read ``MM-DD-YYYY``; the simulator's days are in UTC."""
    return None if text is None else datetime.strptime(text, "%m-%d-%Y").replace(tzinfo=UTC)
