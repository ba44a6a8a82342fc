"""One answer of the API, and whether VALT gave it or something before VALT did. Pure.

A proxy, a load balancer or a captive portal answers in the server's place, with any status. Only the shape of the body
tells (docs/protocol.md, *Who answers*).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from uploader.domain.model import shown
from uploader.server.valt.content import BYTE_ORDER_MARK, NOT_JSON, Content, content_of, words_of

EXCERPT_LIMIT: Final = 200  # characters of a server's text that an error shows
FIRST_WORDS: Final = 60  # characters of an answer that is not understood
KEYS_SHOWN: Final = 5  # keys of a JSON object that is not understood
MASKED: Final = 16 * 1024  # bytes of a page that are searched for secrets; ``words_of`` reads fewer
LONG_WORD: Final = 16  # characters; a longer word of an answer that may hold a secret is not shown

_WORD = re.compile(r"\S+")
_URL = re.compile(r"https?:(?=.)", re.IGNORECASE)


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
    UPDATE = ("name record", False)  # it may be repeated, so its outcome is never in doubt

    def __init__(self, label: str, changes: bool) -> None:
        self.label = label
        self.changes = changes  # when the answer is lost, the outcome is in doubt


def _unmasked(text: str) -> str:
    return text


@dataclass(frozen=True, slots=True)
class ApiAnswer:
    """A complete answer. Header names are lower case; the body is unpacked.

    *flaw*: in words, what is wrong with the body: cut off, too long, compressed in an unknown way. *mask* takes the
    secrets out of a text of the answer.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    flaw: str = ""
    mask: Callable[[str], str] = _unmasked

    @property
    def good(self) -> bool:
        """True for 2xx."""
        return 200 <= self.status < 300

    @property
    def content(self) -> Content:
        """The body's JSON, and what PHP has printed around it."""
        return content_of(self.body)

    @property
    def document(self) -> Any:
        """The body as JSON; None when it is no JSON."""
        document = self.content.document
        return None if document is NOT_JSON else document

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
    body = answer.body.removeprefix(BYTE_ORDER_MARK).lstrip()
    if not body or answer.content.document is not NOT_JSON:
        return False
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    return body.startswith(b"<") or kind in {"text/html", "application/xhtml+xml"}


def message_of(answer: ApiAnswer) -> str:
    """Extract the message from the body of a failure, in any of its four shapes or in a proxy's HTML; safe to print."""
    document = answer.content.document
    if document is not NOT_JSON:
        return excerpt(answer.mask(_words(document)))
    return excerpt(_page_words(answer))


def _page_words(answer: ApiAnswer) -> str:
    """Return the words of a body that is no JSON. It is masked before its beginning is cut out, and once more after."""
    charset = answer.headers.get("content-type", "").lower().partition("charset=")[2].strip(" \"';")
    masked = answer.mask(answer.body[:MASKED].decode("utf-8", "surrogateescape"))
    return answer.mask(words_of(masked.encode("utf-8", "surrogateescape"), charset))


def not_understood(call: ApiCall, answer: ApiAnswer) -> str:
    """Return what happened, in words, for a 2xx of a form that VALT does not use."""
    return f"{call.label}: answered {answer.status}, but not as a VALT server does: {described(call, answer)}"


def described(call: ApiCall, answer: ApiAnswer) -> str:
    """Return what an answer is, in words, with its first ones. What may be a secret is not shown."""
    body, document = answer.body.removeprefix(BYTE_ORDER_MARK).strip(), answer.content.document
    if not body:
        return answer.flaw or "with an empty body"
    if document is not NOT_JSON:
        return _kind_of(document)
    try:
        body.decode("utf-8")
        what = "with broken JSON" if body.startswith((b"{", b"[")) else "with a text"
    except UnicodeDecodeError:
        what = "with bytes that are no UTF-8 text"
    secret = call in {ApiCall.LOGIN, ApiCall.LINK}  # what is not understood may be a token under another name
    if "compress" in answer.flaw or (secret and body.startswith((b"{", b"["))):
        return answer.flaw or what
    words = _page_words(answer)
    if secret:
        words = " ".join(word if len(word) < LONG_WORD else "(…)" for word in words.split())
    first = excerpt(words)[:FIRST_WORDS].strip()
    return f"{answer.flaw or what}, which begins with '{first}'" if first else answer.flaw or what


def _kind_of(document: Any) -> str:
    if isinstance(document, dict):
        keys = ", ".join(shown(key, 20) for key in list(document)[:KEYS_SHOWN])
        return f"with a JSON object that has {'the keys ' + keys if keys else 'no keys'}"
    return "with a JSON list" if isinstance(document, list) else "with JSON that is no object"


def excerpt(text: str) -> str:
    """Make a server's text safe to print and to save: some repeat the request's URL, which holds the token."""
    return shown(_WORD.sub(_without_url, text), EXCERPT_LIMIT)


def _without_url(word: re.Match[str]) -> str:
    """Replace a URL in a word, up to its end. Word by word, since a search in a long word would take minutes."""
    if "access_token" in word[0].lower():
        return "(URL)"
    url = _URL.search(word[0])
    return word[0] if url is None else f"{word[0][: url.start()]}(URL)"


def _words(document: Any, depth: int = 3) -> str:
    if isinstance(document, str):
        return document
    if isinstance(document, dict) and depth:
        for key in ("message", "detail", "error", "data", "title"):
            if found := _words(document.get(key), depth - 1):
                return found
    return ""
