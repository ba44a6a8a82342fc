"""Keeps the cookies of each upload, so that a load balancer sends all of its calls to one node. Pure, in memory only.

A balancer with a sticky cookie names a node in it. Chunks that reach different nodes are put together by none. So the
answers to the calls of one record have a jar of their own: from *create record* on, its chunks, questions, proofs and
its deletion go where the first call went. Another upload begins with an empty jar and may go to another node. The
answer to a log-in has none: with its session, PHP would serve one request of all workers after the other.

A jar ends with the program, or when ``JARS_KEPT`` newer ones have been used: then another node may answer, and what is
in doubt stays in doubt. A cookie is sent to the server's own host alone. Its value may be a secret: it is never shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

JARS_KEPT: Final = 1000  # records; the jar that was used longest ago is forgotten first
COOKIES_KEPT: Final = 16  # cookies of one record; the oldest is forgotten first
COOKIE_LIMIT: Final = 4096  # characters of a cookie's name and value (RFC 6265, 6.1); a longer one is not kept
JAR_LIMIT: Final = 8192  # characters of all cookies of one record: no server takes a longer header
READABLE_VALUE: Final = 6  # characters; a shorter value, like "node1", is masked nowhere: it would garble every text

_PAIR = re.compile(r"\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*=\s*([\x21-\x3a\x3c-\x7e]*(?: +[\x21-\x3a\x3c-\x7e]+)*)\s*")


@dataclass(frozen=True, slots=True)
class _Cookie:
    name: str
    value: str
    path: str
    secure: bool

    def __repr__(self) -> str:
        return f"_Cookie({self.name!r}, ***)"


class CookieJar:
    """The cookies of one upload."""

    def __init__(self) -> None:
        self._cookies: dict[tuple[str, str], _Cookie] = {}  # by name and path; the oldest first
        self._known = False  # a node that these cookies lead to has known the record

    def found(self) -> None:
        """Note that the record was known where these cookies lead to."""
        self._known = True

    def missed(self) -> None:
        """Note a 404. If the record was never known there, the next call may be sent to another node."""
        if not self._known:
            self._cookies.clear()

    def __len__(self) -> int:
        """Return the number of cookies."""
        return len(self._cookies)

    def note(self, headers: Iterable[str], url: str) -> None:
        """Learn from the Set-Cookie headers of an answer of *url*. What cannot be read, or is too long, is dropped."""
        for header in headers:
            found = _read(header, url)
            if found is None:
                continue
            cookie, ended = found
            self._cookies.pop((cookie.name, cookie.path), None)
            if not ended:
                self._cookies[cookie.name, cookie.path] = cookie
            while len(self._cookies) > COOKIES_KEPT or self._size() > JAR_LIMIT:
                del self._cookies[next(iter(self._cookies))]

    def header(self, url: str) -> str:
        """Return the Cookie header for a request to *url*; empty for none. The caller has checked its host."""
        parts = urlsplit(url)
        fitting = [
            cookie
            for cookie in self._cookies.values()
            if _is_below(parts.path or "/", cookie.path) and (parts.scheme == "https" or not cookie.secure)
        ]
        fitting.sort(key=lambda cookie: -len(cookie.path))  # RFC 6265, 5.4: the longest path first
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in fitting)

    def secrets(self) -> list[str]:
        """Return the values that no text may show."""
        return [cookie.value for cookie in self._cookies.values() if len(cookie.value) >= READABLE_VALUE]

    def _size(self) -> int:
        return sum(len(cookie.name) + len(cookie.value) + 3 for cookie in self._cookies.values())


class CookieJars:
    """The jars of all uploads, by the id of their record."""

    def __init__(self) -> None:
        self._jars: dict[str, CookieJar] = {}  # the one that was used longest ago first

    def of(self, record: str) -> CookieJar:
        """Return the jar of a record: the one that is kept, or a new one."""
        return self.keep(record, self._jars.get(record) or CookieJar())

    def keep(self, record: str, jar: CookieJar) -> CookieJar:
        """Keep *jar* for a record, and return it."""
        self._jars.pop(record, None)
        self._jars[record] = jar
        if len(self._jars) > JARS_KEPT:
            del self._jars[next(iter(self._jars))]
        return jar

    def forget(self, record: str) -> None:
        """Forget the jar of a record that is gone."""
        self._jars.pop(record, None)


def _read(header: str, url: str) -> tuple[_Cookie, bool] | None:
    """Read one Set-Cookie header: the cookie, and whether it ends the one of that name; None when it does not count.

    Lifetimes are not followed: a jar lives no longer than its upload, which is to stay on its node.
    """
    pair, *attributes = header.split(";")
    match = _PAIR.fullmatch(pair)
    if match is None or len(match[1]) + len(match[2]) > COOKIE_LIMIT:
        return None
    given = {
        name.strip().lower(): value.strip() for name, _, value in (attribute.partition("=") for attribute in attributes)
    }
    parts = urlsplit(url)
    domain = given.get("domain", "").lstrip(".").lower()
    host = (parts.hostname or "").lower()
    if domain and domain != host and not host.endswith(f".{domain}"):
        return None
    secure = "secure" in given
    if secure and parts.scheme != "https":
        return None
    path = given.get("path", "")
    if not path.startswith("/"):
        path = (parts.path.rpartition("/")[0] or "/") if parts.path.startswith("/") else "/"
    return _Cookie(match[1], match[2], path, secure), not match[2] or _has_ended(given)


def _has_ended(given: dict[str, str]) -> bool:
    """True for a cookie that the server takes back: Max-Age of zero or less, or an expiry of long ago.

    A later expiry is not compared with a clock: the server's may be wrong.
    """
    if re.fullmatch(r"-?\d{1,12}", given.get("max-age", "")):
        return int(given["max-age"]) <= 0
    try:
        return parsedate_to_datetime(given.get("expires", "")).year < 2000
    except (ValueError, OverflowError):
        return False


def _is_below(path: str, folder: str) -> bool:
    return path == folder or (path.startswith(folder) and (folder.endswith("/") or path[len(folder)] == "/"))
