"""Says in words how a connection broke, or what came in place of an answer. It names no class of a library."""

from __future__ import annotations

import ast
import asyncio
import errno
import os
import re
import socket
import ssl
from collections.abc import Callable
from typing import Final

import aiohttp

from uploader.server.valt.answer import excerpt

FIRST_WORDS: Final = 60  # characters of what came in place of an answer
NO_HTTP: Final = "the answer is no HTTP"


class AnswerTooLarge(aiohttp.ClientError):
    """An answer's headers are larger than ``session.HEADERS_LIMIT``, so it is not from a VALT server."""


class NotRepeated(aiohttp.ClientConnectionError):
    """A request that must not be made twice has ended without an answer; aiohttp would have made it again."""

    def __init__(self, why: Exception) -> None:
        super().__init__()
        self.why = why


_TOO_LARGE: Final = "the answer's headers are larger than any VALT server's"

# The first kind that fits applies. An OSError with a number is named by its number.
_BROKEN: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (aiohttp.ServerDisconnectedError, "the server closed the connection"),
    (AnswerTooLarge, _TOO_LARGE),
    (aiohttp.ClientPayloadError, "the answer was cut off"),
    (asyncio.IncompleteReadError, "the answer was cut off"),
    (ssl.SSLError, "TLS failed in the middle of the connection"),
    (aiohttp.InvalidURL, "its address is no URL"),
    (ConnectionResetError, "the connection was reset"),
    (UnicodeError, "its address is no name that can be looked up"),
    (socket.gaierror, "its name cannot be looked up"),
    (TimeoutError, "the connection timed out"),
)
_BY_NUMBER: Final = {
    errno.ECONNRESET: "the connection was reset",
    errno.ECONNABORTED: "the connection was aborted",
    errno.EPIPE: "the server closed the connection",
    errno.ETIMEDOUT: "the connection timed out",
}

# What the parsers of aiohttp (llhttp, and the one in Python) say, and what that means; the first that fits applies.
_NO_HTTP: Final[tuple[tuple[str, str], ...]] = (
    ("Got more than", _TOO_LARGE),
    ("Too many headers", _TOO_LARGE),
    ("can't be present with", "the answer has a Content-Length and is sent in chunks, too, which HTTP forbids"),
    ("Duplicate Content-Length", "the answer has two Content-Length headers"),
    ("in Content-Length", "the answer's Content-Length is no number"),
    ("chunk size", "the answer is sent in chunks, and the size of one is no number"),
    ("Invalid header token", "a header of the answer has a name that HTTP forbids"),
    ("Invalid HTTP header", "a header of the answer holds a character that HTTP forbids"),
    ("Invalid header value", "a header of the answer holds a character that HTTP forbids"),
    ("header value char", "a header of the answer holds a character that HTTP forbids"),
)


def broken(error: BaseException, mask: Callable[[str], str] = str) -> str:
    """Return the words for a connection that broke. *mask* takes secrets out of what the server has sent."""
    if isinstance(error, NotRepeated):
        return broken(error.why, mask)
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.http_exceptions.HttpProcessingError):
        return _no_http(str(error.message), mask)
    is_named = isinstance(error, ssl.SSLError | socket.gaierror)  # their numbers are no errno
    number = error.errno if isinstance(error, OSError) and not is_named else None
    if number is not None and number > 0:
        return _BY_NUMBER.get(number) or f"the connection broke: {os.strerror(number)}"
    return next((words for kind, words in _BROKEN if isinstance(error, kind)), "the connection broke")


def _no_http(said: str, mask: Callable[[str], str]) -> str:
    """Say what is wrong with an answer that is no HTTP, from what the parser *said* of it.

    Of a header only the name is shown: its value may be a secret.
    """
    words = next((meaning for part, meaning in _NO_HTTP if part in said), NO_HTTP)
    if words == _TOO_LARGE:
        return words
    found = re.search(r"\n\n  (b'.*'|b\".*\")\n", said)
    line = b""
    if found is not None:
        try:
            line = ast.literal_eval(found[1])
        except (ValueError, SyntaxError):
            line = b""
    if words != NO_HTTP:
        line = _name_of(line) if "token" in said else b""
    first = excerpt(mask(line.decode("utf-8", "replace")))[:FIRST_WORDS].strip()
    return f"{words}: '{first}'" if first else words


def _name_of(header: bytes) -> bytes:
    """Return the name of a header that HTTP forbids; of a line without a colon only the first word."""
    name, colon, _ = header.partition(b":")
    return name.partition(b"=")[0] if colon else (name.split() or [b""])[0]
