"""Builds requests and reads answers of the VALT API: pure functions between payloads and values.

The source of every rule here is docs/protocol.md. No text made here ever holds a URL or a token: an error names the
call and the status.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from html import unescape
from typing import Any, Final
from urllib.parse import urlsplit

from uploader.domain import errors
from uploader.domain.model import RecordIds, RecordSpec, shown
from uploader.domain.retry import retry_after
from uploader.server.port import RecordDetails, RecordListed

ANSWER_LIMIT: Final = 1024 * 1024  # bytes of an answer that are read; VALT's are far smaller
FILENAME_LIMIT: Final = 200  # characters of the multipart file name
ORIGIN_LIMIT: Final = 120  # characters of a redirect's target that an error shows
EXCERPT_LIMIT: Final = 200  # characters of a server's text that an error shows
PART_NAME: Final = "file"  # the one part of an upload

_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")
_NO_SPACE = re.compile(r"no space|disk (?:is )?full|quota exceeded")
_URL = re.compile(r"https?:\S+|\S*access_token\S*", re.IGNORECASE)


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


# Requests


def create_payload(spec: RecordSpec) -> dict[str, Any]:
    """Return the body of *create record*. Empty optional parts are left out."""
    payload: dict[str, Any] = {"name": spec.name}
    if spec.template:
        payload["template"] = dict(spec.template)
    share = {"users": list(spec.share.users), "groups": list(spec.share.groups)}
    if any(share.values()):
        payload["share"] = share
    return payload


def content_range(start: int, end: int, total: int) -> str:
    """Return ``bytes START-END/TOTAL``, END inclusive, for the bytes from *start* to *end* (exclusive)."""
    if not 0 <= start < end <= total:
        raise ValueError(f"no range: {start}-{end} of {total}")
    return f"bytes {start}-{end - 1}/{total}"


def multipart_frame(boundary: str, filename: str) -> tuple[bytes, bytes]:
    """Return the bytes before and after the one part of an upload (RFC 7578)."""
    before = (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="{PART_NAME}"; filename="{filename}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return before.encode("utf-8"), f"\r\n--{boundary}--\r\n".encode("ascii")


def multipart_filename(path: str) -> str:
    """Name a file in a multipart header as browsers do (WHATWG HTML, *multipart/form-data*).

    The base name in UTF-8 (bytes that are not become U+FFFD), CR LF and quote percent-encoded, other control
    characters replaced, at most ``FILENAME_LIMIT`` characters with the suffix kept.
    """
    name = path.rsplit("/", 1)[-1].encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    name = "".join("_" if unicodedata.category(char) == "Cc" and char not in "\r\n" else char for char in name)
    if len(name) > FILENAME_LIMIT:
        stem, dot, suffix = name.rpartition(".")
        tail = dot + suffix if stem and len(suffix) < 10 else ""
        name = name[: FILENAME_LIMIT - len(tail)] + tail
    return name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")


# Answers


def token_of(answer: ApiAnswer) -> str:
    """Read the token of a good log-in. Raises ``ServerDown`` when there is none: it is not a VALT server."""
    data = _object(_json(answer)).get("data")
    token = data.get("access_token") if isinstance(data, dict) else None
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise errors.ServerDown(
            "the log-in was answered, but not as a VALT server does",
            hint="is server.url the VALT server itself, or does something stand before it?",
        )
    return token


def ids_of(answer: ApiAnswer) -> RecordIds:
    """Read the ids of *create record*. Raises ``AnswerLost`` without usable ids: a record may exist all the same."""
    document = _object(_json(answer))
    inner = document.get("data")
    if isinstance(inner, dict) and "id" in inner:
        document = inner  # the other calls wrap their answers, so a wrapped one is accepted here, too
    videos = document.get("videos")
    record, video = safe_id(document.get("id")), safe_id(videos[0] if isinstance(videos, list) and videos else None)
    if record is None or video is None:
        raise errors.AnswerLost(f"{ApiCall.CREATE.label}: answered {answer.status} without usable ids")
    return RecordIds(record, video)


def details_of(answer: ApiAnswer) -> RecordDetails:
    """Read *record details*. Raises ``ServerDown`` when the answer has another form."""
    data = _object(_json(answer)).get("data")
    record = safe_id(data.get("id")) if isinstance(data, dict) else None
    if not isinstance(data, dict) or record is None:
        raise errors.ServerDown(f"{ApiCall.DETAILS.label}: answered {answer.status}, but not as a VALT server does")
    name, created, duration = _text(data.get("name")), _number(data.get("created")), _number(data.get("duration"))
    return RecordDetails(record, name, _author(data), created, _videos(data), duration)


def listed_of(answer: ApiAnswer) -> tuple[RecordListed, ...]:
    """Read *list records* in either of its two forms. Rows without an id are left out. Raises ``ServerDown``."""
    data = _object(_json(answer)).get("data")
    rows = data.get("records") if isinstance(data, dict) else data
    if not isinstance(rows, list):
        raise errors.ServerDown(f"{ApiCall.LIST.label}: answered {answer.status}, but not as a VALT server does")
    listed = []
    for row in rows:
        record = safe_id(row.get("id")) if isinstance(row, dict) else None
        if record is not None:
            listed.append(RecordListed(record, _text(row.get("name")), _author(row), _number(row.get("created"))))
    return tuple(listed)


def link_of(answer: ApiAnswer) -> str:
    """Read a download link, which is a secret. The client must check its host. Raises ``ServerDown``."""
    document = _object(_json(answer))
    inner = document.get("data")
    url = document.get("url") or (inner.get("url") if isinstance(inner, dict) else None)
    if not isinstance(url, str) or not url.startswith(("https://", "http://")):
        raise errors.ServerDown(f"{ApiCall.LINK.label}: answered {answer.status} without a link")
    return url


def version_of(answer: ApiAnswer) -> str | None:
    """Read the server's version; None when the answer has none."""
    data = _object(_json(answer)).get("data")
    version = data.get("version") if isinstance(data, dict) else None
    return shown(version, 40) if isinstance(version, str) else None


def held_of(answer: ApiAnswer) -> int | None:
    """Return N+1 for ``Range: 0-N`` in a good answer to a chunk: the bytes that the server holds (rule 2), or None."""
    match = re.fullmatch(r"(?:bytes=)?0-(\d{1,18})", answer.headers.get("range", "").strip())
    return int(match[1]) + 1 if match else None


def safe_id(value: object) -> str | None:
    """Return an id that may be put into a URL (``[A-Za-z0-9-]{1,64}``; a number is accepted, too), else None."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        value = str(value)
    return value if isinstance(value, str) and _ID.fullmatch(value) else None


def failure(call: ApiCall, answer: ApiAnswer, *, now: float) -> errors.UploaderError:
    """Return the error that an answer other than 2xx means. *now*: Unix seconds, for a Retry-After with a date."""
    status, message = answer.status, message_of(answer)
    what = f"{call.label}: answered {status}" + (f" ({message})" if message else "")
    if 300 <= status < 400:
        return _redirected(f"{call.label}: answered {status}", answer.headers.get("location", ""))
    if status == 401:
        return _unauthorized(call, what)
    if status == 403:
        return errors.RightMissing(what, hint="give this user the right on the server")
    if status == 404:
        return _not_found(call, what)
    if status == 413 and call is ApiCall.UPLOAD:
        return errors.ChunkTooLarge(what)
    if status in {429, 503} and (status == 429 or "retry-after" in answer.headers):
        return errors.ServerBusy(what, retry_after=retry_after(answer.headers.get("retry-after"), now=now))
    if status == 400 and call is ApiCall.UPLOAD:
        # PHP drops a form larger than its post_max_size, so "not transferred" may mean *too large* (rule 5).
        too_large = "not transferred" in message.lower()
        return errors.ChunkTooLarge(what) if too_large else errors.ChunkRefused(what)
    if status >= 500 or status in {408, 425}:
        return _server_error(call, status, what)
    return errors.ServerRefused(what)


def _redirected(what: str, location: str) -> errors.ServerDown:
    """Return the error for a redirect, with the origin of its target and no more. It concerns all files."""
    try:
        parts = urlsplit(location)
        origin = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    except ValueError:
        parts, origin = None, ""
    known = parts is not None and parts.scheme in {"http", "https"} and parts.hostname
    where = f" to {shown(origin, ORIGIN_LIMIT)}" if known else ""
    return errors.ServerDown(f"{what}: a redirect{where}, which is never followed", hint="set server.url to its target")


def _server_error(call: ApiCall, status: int, what: str) -> errors.UploaderError:
    """Distinguish a client error that VALT reports as 500, an outage, and an answer that leaves a doubt."""
    words = what.lower()
    if status == 500 and "invalid request payload" in words:
        return errors.PayloadRefused(what, hint="look at [watch.record]: template fields and share ids")
    if status == 507 or (status == 500 and _NO_SPACE.search(words)):
        full = errors.NoRoom if status == 500 and call.changes else errors.ServerFull
        return full(what, hint="make room on the server")
    if call.changes and status not in {408, 425, 503}:
        return errors.AnswerLost(what)  # 500, 502, 504: the server may have carried out the call all the same
    # A failed log-in concerns all files. Another call may fail for one record only.
    return errors.CallFailed(what) if status == 500 and call is not ApiCall.LOGIN else errors.ServerDown(what)


def _unauthorized(call: ApiCall, what: str) -> errors.UploaderError:
    if call is ApiCall.LOGIN:
        return errors.PasswordRefused(
            "the server refused the log-in: user name or password is wrong",
            hint="check server.username and the password",
        )
    return errors.TokenExpired(what)


def _not_found(call: ApiCall, what: str) -> errors.UploaderError:
    if call in {ApiCall.UPLOAD, ApiCall.DETAILS, ApiCall.LINK, ApiCall.DOWNLOAD, ApiCall.DELETE}:
        return errors.RecordGone(what)
    return errors.ServerRefused(what, hint="is server.url a VALT server with API v3?")


def message_of(answer: ApiAnswer) -> str:
    """Extract the message from the body of a failure, in any of its four forms or in a proxy's HTML; safe to print."""
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        return _excerpt(_html_words(answer.body))
    return _excerpt(_words(document))


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


def _excerpt(text: str) -> str:
    """Make a server's text safe to print and to save: some repeat the request's URL, which holds the token."""
    return shown(_URL.sub("(URL)", text), EXCERPT_LIMIT)


def _json(answer: ApiAnswer) -> Any:
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        return None


def _object(document: Any) -> dict[str, Any]:
    return document if isinstance(document, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float:
    # Compared before it is converted: JSON allows integers that no float can hold. NaN compares false, too.
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63
    return float(value) if good else 0.0


def _author(row: dict[str, Any]) -> str:
    author = row.get("author")
    return _text(author.get("name")) if isinstance(author, dict) else ""


def _videos(data: dict[str, Any]) -> Mapping[str, str] | None:
    rows = data.get("videos")
    if rows is None or rows in ([], {}):
        return None
    if isinstance(rows, dict):  # PHP encodes a list with a gap so
        rows = list(rows.values())
    if not isinstance(rows, list):  # an error and not "no video": a record without a video may be deleted
        raise errors.ServerDown(f"{ApiCall.DETAILS.label}: its videos are given, but not as a VALT server does")
    videos: dict[str, str] = {}
    for row in rows:
        video = safe_id(row.get("id")) if isinstance(row, dict) else None
        if video is not None:
            status = row.get("status")
            videos[video] = _text(status.get("type") if isinstance(status, dict) else status) or "unknown"
    return videos
