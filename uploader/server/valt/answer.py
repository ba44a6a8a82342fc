"""One answer of the API, and whether VALT gave it or something before VALT did. Pure.

A proxy, a load balancer or a captive portal answers in the server's place, with any status. Only the shape of the body
tells (docs/protocol.md, *Who answers*).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from html import unescape
from typing import Any, Final

from uploader.domain.model import shown

EXCERPT_LIMIT: Final = 200  # characters of a server's text that an error shows

_URL = re.compile(r"https?:\S+|\S*access_token\S*", re.IGNORECASE)
_NOT_JSON: Final = object()


class ApiCall(Enum):
    """The calls of the API: a name for people, and whether the call changes the server."""

    LOGIN = ("log-in", False)
    CREATE = ("create record", True)
    UPLOAD = ("upload chunk", True)
    DETAILS = ("record details", False)
    LIST = ("list records", False)
    LINK = ("download link", False)
    DOWNLOAD = ("download", False)
    DELETE = ("delete record", True)
    VERSION = ("server version", False)

    def __init__(self, label: str, changes: bool) -> None:
        self.label = label
        self.changes = changes  # when the answer is lost, the outcome is in doubt


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """A complete answer. Header names are lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def good(self) -> bool:
        """True for 2xx."""
        return 200 <= self.status < 300

    @property
    def document(self) -> Any:
        """The body as JSON; None when it is no JSON."""
        return _document(self.body, None)

    @property
    def fields(self) -> dict[str, Any]:
        """The body as a JSON object; empty when it is none."""
        document = self.document
        return document if isinstance(document, dict) else {}


def has_failure_shape(answer: ApiAnswer) -> bool:
    """Return True when the body has one of the four shapes in which VALT reports a failure.

    They are ``{"error": {"message": text}}``, ``{"detail": text}`` (RFC 2616), ``{"data": {"message": text}}`` and
    ``{"data": text}``. More keys are allowed.
    """
    fields = answer.fields
    error, data = fields.get("error"), fields.get("data")
    texts = (
        error.get("message") if isinstance(error, dict) else None,
        fields.get("detail"),
        data.get("message") if isinstance(data, dict) else data,
    )
    return any(isinstance(text, str) for text in texts)


def is_page(answer: ApiAnswer) -> bool:
    """Return True when the body is a page for people, which VALT never sends.

    An empty body is no page: PHP calls it ``text/html``. Neither is JSON, whatever it is called.
    """
    body = answer.body.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not body or _document(answer.body, _NOT_JSON) is not _NOT_JSON:
        return False
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    return body.startswith(b"<") or kind in {"text/html", "application/xhtml+xml"}


def message_of(answer: ApiAnswer) -> str:
    """Extract the message from the body of a failure, in any of its four shapes or in a proxy's HTML; safe to print."""
    document = _document(answer.body, _NOT_JSON)
    return excerpt(_html_words(answer.body) if document is _NOT_JSON else _words(document))


def not_understood(call: ApiCall, answer: ApiAnswer) -> str:
    """Return what happened, in words, for a 2xx of a form that VALT does not use."""
    return f"{call.label}: answered {answer.status}, but not as a VALT server does"


def excerpt(text: str) -> str:
    """Make a server's text safe to print and to save: some repeat the request's URL, which holds the token."""
    return shown(_URL.sub("(URL)", text), EXCERPT_LIMIT)


def _document(body: bytes, otherwise: object) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return otherwise


def _words(document: Any, depth: int = 3) -> str:
    if isinstance(document, str):
        return document
    if isinstance(document, dict) and depth:
        for key in ("message", "detail", "error", "data", "title"):
            if found := _words(document.get(key), depth - 1):
                return found
    return ""


def _html_words(body: bytes) -> str:
    text = body[:4096].decode("utf-8", "replace")
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    words = title[1] if title else re.sub(r"<[^>]*>", " ", text)
    return " ".join(unescape(words).split())
