"""Builds requests and reads answers of the VALT API: pure functions between payloads and values.

The source of every rule here is docs/protocol.md. No text made here ever holds a URL or a token: an error names the
call and the status.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from uploader.domain import errors
from uploader.domain.model import RecordIds, RecordSpec, shown
from uploader.domain.retry import DAY
from uploader.server.port import RecordDetails, RecordListed
from uploader.server.valt.answer import ApiAnswer, ApiCall, described, not_understood

ANSWER_LIMIT: Final = 1024 * 1024  # bytes of an answer that are read; VALT's are far smaller
FILENAME_LIMIT: Final = 200  # characters of the multipart file name
PART_NAME: Final = "file"  # the one part of an upload

_ID = re.compile(r"[A-Za-z0-9-]{1,64}")
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")


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


def update_payload(spec: RecordSpec) -> dict[str, Any]:
    """Return the body of *name record*. Its form is not documented: that of *create record* without the sharing."""
    payload = create_payload(spec)
    payload.pop("share", None)
    return payload


def search_payload(name: str, since: float | None, offset: int, limit: int) -> dict[str, Any]:
    """Return the body of *list records*. *since*: Unix seconds; days are the server's, so one more is asked for."""
    payload: dict[str, Any] = {"search": name, "offset": offset, "limit": limit}
    if since is not None:
        payload["start_date"] = datetime.fromtimestamp(since - DAY, UTC).strftime("%m-%d-%Y")
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
    data = answer.fields.get("data")
    token = data.get("access_token") if isinstance(data, dict) else None
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise errors.ServerDown(
            not_understood(ApiCall.LOGIN, answer),
            hint="is server.url the VALT server itself, or does something stand before it?",
        )
    return token


def ids_of(answer: ApiAnswer) -> RecordIds:
    """Read the ids of *create record*. Raises ``AnswerLost`` without usable ids: a record may exist all the same."""
    document = answer.fields
    inner = document.get("data")
    if isinstance(inner, dict) and "id" in inner:
        document = inner  # the other calls wrap their answers, so a wrapped one is accepted here, too
    videos = document.get("videos")
    record, video = safe_id(document.get("id")), safe_id(videos[0] if isinstance(videos, list) and videos else None)
    if record is None or video is None:
        what = f"{ApiCall.CREATE.label}: answered {answer.status} without usable ids"
        raise errors.AnswerLost(f"{what}, {described(ApiCall.CREATE, answer)}")
    return RecordIds(record, video)


def details_of(answer: ApiAnswer) -> RecordDetails:
    """Read *record details*. Raises ``ServerDown`` when the answer has another form."""
    data = answer.fields.get("data")
    record = safe_id(data.get("id")) if isinstance(data, dict) else None
    if not isinstance(data, dict) or record is None:
        raise errors.ServerDown(not_understood(ApiCall.DETAILS, answer))
    name, created, duration = _text(data.get("name")), _number(data.get("created")), _number(data.get("duration"))
    return RecordDetails(record, name, _author(data), created, _videos(data), duration)


def listed_of(answer: ApiAnswer) -> tuple[RecordListed, ...]:
    """Read *list records* in either of its two forms. Rows without an id are left out. Raises ``ServerDown``."""
    data = answer.fields.get("data")
    rows = data.get("records") if isinstance(data, dict) else data
    if not isinstance(rows, list):
        raise errors.ServerDown(not_understood(ApiCall.LIST, answer))
    listed = []
    for row in rows:
        record = safe_id(row.get("id")) if isinstance(row, dict) else None
        if record is not None:
            listed.append(RecordListed(record, _text(row.get("name")), _author(row), _number(row.get("created"))))
    return tuple(listed)


def link_of(answer: ApiAnswer) -> str:
    """Read a download link, which is a secret. The client must check its host. Raises ``ServerDown``."""
    document = answer.fields
    inner = document.get("data")
    url = document.get("url") or (inner.get("url") if isinstance(inner, dict) else None)
    if not isinstance(url, str) or not url.startswith(("https://", "http://")):
        what = f"{ApiCall.LINK.label}: answered {answer.status} without a link"
        raise errors.ServerDown(f"{what}, {described(ApiCall.LINK, answer)}")
    return url


def version_of(answer: ApiAnswer) -> str | None:
    """Read the server's version; None when the answer has none. Raises ``ServerRefused`` when it is no JSON object."""
    fields = answer.fields
    if not fields:
        raise errors.ServerRefused(not_understood(ApiCall.VERSION, answer))
    data = fields.get("data")
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
