"""Reads the body of an answer as what VALT meant: unpacked, without a byte order mark or PHP's diagnostics. Pure.

A box on the way may compress an answer that nobody asked it to compress, and a PHP server whose ``display_errors`` is
on prints its notices before or behind the JSON. Neither changes what VALT said. Everything is bounded.
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass
from html import unescape
from typing import Any, Final

BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
NOTICES_LIMIT: Final = 100  # diagnostics of PHP around one answer
_GZIP: Final = b"\x1f\x8b\x08"  # the first bytes of gzip (RFC 1952): no text begins so
_NO_COMPRESSION: Final = frozenset({"", "identity", "none", "utf-8"})  # some servers name the charset here

CUT_OFF: Final = "with a body that was cut off"

NOT_JSON: Final = object()

# PHP's own form (main.c, php_error_cb), with and without html_errors; the lengths are bounds, not parts of the form.
_KINDS: Final = (
    rb"(?:PHP )?(?:Notice|Warning|Deprecated|Strict Standards|(?:Catchable |Recoverable )?[Ff]atal error|Parse error)"
)
_BEGIN: Final = rb"\s*(?:<br ?/?>\s*)?(?:<b>)?" + _KINDS + rb"(?:</b>)?: "
_NOTICE: Final = re.compile(
    _BEGIN + rb"(?:(?! on line ).){0,4000} on line (?:<b>)?\d{1,9}(?:</b>)?(?:<br ?/?>)?\s*", re.DOTALL
)
_FATAL: Final = re.compile(rb"\s*(?:<[^>]{1,20}>\s*){0,3}(?:PHP )?(?:(?:Catchable |Recoverable )?[Ff]atal|Parse) error")
_DIAGNOSTIC: Final = re.compile(_BEGIN)
_TAGS: Final = re.compile(r"<(script|style)\b.*?(?:</\1>|$)|<[^>]*>", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Content:
    """What a body says. ``document``: its JSON, or ``NOT_JSON``; ``notice``: what PHP printed around it, as text."""

    document: Any
    notice: str = ""


def unpacked(body: bytes, encoding: str, limit: int) -> tuple[bytes, str]:
    """Undo the compression of a body, named in Content-Encoding or not. At most *limit* bytes come out of it.

    Returns the bytes, and in words what is wrong with them: empty when nothing is.
    """
    kind = encoding.strip().lower()
    if body.startswith(_GZIP):
        kind = "gzip"  # also when it is not named
    if kind in _NO_COMPRESSION or not body:
        return body, ""
    if kind in {"gzip", "x-gzip"}:
        return _inflated(body, 16 + zlib.MAX_WBITS, limit)
    if kind == "deflate":  # zlib's format; some send the bare one (RFC 9110, 8.4.1.2)
        is_zlib = body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
        return _inflated(body, zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS, limit)
    name = kind if re.fullmatch(r"[a-z0-9, -]{1,30}", kind) else "something unknown"
    return body, f"with a body that is compressed with {name}, which was not asked for"


def _inflated(body: bytes, window: int, limit: int) -> tuple[bytes, str]:
    engine, plain = zlib.decompressobj(window), b""
    try:
        plain = engine.decompress(body, limit)
    except zlib.error:
        return b"", "with a body whose compression is damaged"
    if engine.unconsumed_tail:
        return plain, f"with a compressed body that unpacks to more than {limit} bytes"
    return plain, "" if engine.eof else "with a compressed body that was cut off"


def content_of(body: bytes) -> Content:
    """Find the JSON in a body, and set apart what PHP has printed around it. If PHP has failed, there is no JSON."""
    document = parsed(body)
    if document is not NOT_JSON:
        return Content(document)
    text = body.removeprefix(BYTE_ORDER_MARK)
    if _DIAGNOSTIC.match(text) is None and b" on line " not in text[-4000:]:
        return Content(NOT_JSON)
    before, rest = _notices(text)
    document, behind = _first_document(rest) if rest.startswith(b"{") else (NOT_JSON, b"")
    after, left = _notices(behind)
    if document is NOT_JSON or left.strip() or _FATAL.search(before + after):
        return Content(NOT_JSON, words_of(before or text) if _DIAGNOSTIC.match(text) else "")
    return Content(document, words_of(before + after))


def _notices(text: bytes) -> tuple[bytes, bytes]:
    """Divide a text into the diagnostics of PHP that it begins with, and the rest."""
    at = 0
    for _ in range(NOTICES_LIMIT):
        found = _NOTICE.match(text, at)
        if found is None:
            break
        at = found.end()
    return text[:at], text[at:]


def _first_document(text: bytes) -> tuple[Any, bytes]:
    """Return the JSON object that a text begins with, and what follows it."""
    try:
        whole = text.decode("utf-8")
        document, end = json.JSONDecoder().raw_decode(whole)
    except (ValueError, RecursionError):
        return NOT_JSON, b""
    return document, whole[end:].encode("utf-8")


def parsed(body: bytes) -> Any:
    """Return a body as JSON, with or without a byte order mark; ``NOT_JSON`` when it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return NOT_JSON


def words_of(page: bytes, charset: str = "") -> str:
    """Return the title of a page, or else its text without tags, in one line."""
    text = _decoded(page[:4096], charset)
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    words = title[1] if title else _TAGS.sub(" ", text)
    return " ".join(unescape(words).split())


def _decoded(text: bytes, charset: str) -> str:
    """Decode the beginning of a page. One that is not UTF-8 is in the charset that it names, or Western."""
    for name in (charset, _named_charset(text)):
        if name.lower() in {"iso-8859-1", "iso-8859-15", "latin1", "windows-1252"}:
            return text.decode("cp1252", "replace")
    decoded = text.decode("utf-8", "replace")
    broken = decoded.rstrip("\ufffd")  # a character may have been cut off at the end
    return text.decode("cp1252", "replace") if "\ufffd" in broken and text.lstrip().startswith(b"<") else decoded


def _named_charset(page: bytes) -> str:
    found = re.search(rb"charset=[\"']?([A-Za-z0-9-]{1,20})", page)
    return "" if found is None else found[1].decode("ascii")
