"""What a download link hands out: the bytes of a video, and their number.

A link leads to another port of the server (VALT: 8000), is valid for 30 minutes, and is a secret. So an error names
its scheme, host and port alone, and nothing that is answered there is quoted. A link is called only if it leads to the
server's own host, and over TLS if the server's URL does; a redirect likewise. The API works while this address does
not: each failure there is ``DownloadUnavailable``, and none counts against the server.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import aiohttp
from yarl import URL

from uploader.config import ServerConfig
from uploader.domain import errors
from uploader.domain.model import RecordIds
from uploader.server.valt.answer import ApiCall
from uploader.server.valt.breaker import Breaker, Slot
from uploader.server.valt.cookies import CookieJars
from uploader.server.valt.session import Session
from uploader.server.valt.watchdog import DownloadBroke, Watchdog, watched_download

BLOCK: Final = 1024 * 1024  # bytes of a video that are handed on at a time
PEEK: Final = 1024  # bytes of a body that are looked at for whether it is a page
REDIRECTS: Final = 3  # followed for one request; a server that serves files from elsewhere needs one
BUSY: Final = frozenset({429, 503})  # nginx says either when its limit_req is exceeded
STALE: Final = frozenset({401, 403, 404, 410})  # the link may have expired: a new one is asked for, once
ELSEWHERE: Final = "it leads to another host, which is never followed"
_A_PAGE: Final = "answered with a page instead of the video"

_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype html|html|head|title|body)[\s>]", re.IGNORECASE)
_LENGTH = re.compile(r"\d{1,18}")
_TOTAL = re.compile(r"bytes 0-0/(\d{1,18})")


@dataclass(frozen=True, slots=True)
class _Offer:
    """The head of an answer of the link's host. Header names are lower case."""

    at: str
    response: aiohttp.ClientResponse
    headers: Mapping[str, str]
    watchdog: Watchdog

    @property
    def status(self) -> int:
        return self.response.status

    @property
    def is_video(self) -> bool:
        """True unless the body is a page for people."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower() != "text/html"

    @property
    def is_plain(self) -> bool:
        """True when the bytes of the body are those of the video, so that its length is the video's."""
        return self.headers.get("content-encoding", "identity").strip().lower() in {"", "identity"}

    def size(self) -> int | None:
        """Return how many bytes the whole video has; None when the answer does not say it."""
        if not (self.is_video and self.is_plain):
            return None
        if self.status == 206:
            total = _TOTAL.fullmatch(self.headers.get("content-range", "").strip())
            return int(total[1]) or None if total else None
        length = self.headers.get("content-length", "").strip()
        return int(length) or None if self.status == 200 and _LENGTH.fullmatch(length) else None

    async def first_block(self) -> bytes:
        """Return the beginning of the body, as far as it has come; empty when there is none."""
        with suppress(aiohttp.ClientPayloadError):  # cut off: the head of the answer counts all the same
            async for block in self.response.content.iter_chunked(PEEK):
                return block
        return b""

    def unavailable(self, what: str = "") -> errors.DownloadUnavailable:
        """Return the error for an answer that is not the video."""
        if not what:
            phrase = next((f" ({known.phrase})" for known in HTTPStatus if known == self.status), "")
            what = f"answered {self.status}{phrase}"
        return errors.DownloadUnavailable(f"{self.at}: {what}", busy=self.status in BUSY)


class Downloads:
    """Asks for links, and calls them. Each request holds a slot of the circuit breaker until it is answered."""

    def __init__(
        self,
        server: ServerConfig,
        link: Callable[[RecordIds], Awaitable[str]],
        session: Session,
        breaker: Breaker,
        jars: CookieJars,
    ) -> None:
        self._server, self._link, self._session = server, link, session
        self._breaker, self._jars = breaker, jars

    async def content(self, ids: RecordIds) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a video as they are handed out."""
        async with self._fresh(ids, await self._own_link(ids), {}) as offer:
            if offer.status != 200:
                raise offer.unavailable()
            if not offer.is_video:
                raise offer.unavailable(_A_PAGE)
            if not offer.is_plain:
                raise offer.unavailable("answered with a compressed body: these are not the video's own bytes")
            first = True
            async for block in offer.response.content.iter_chunked(BLOCK):
                offer.watchdog.moved()
                if first and _is_page(block):
                    raise offer.unavailable(_A_PAGE)
                first = False
                yield block

    async def size(self, ids: RecordIds, *, confirm: bool) -> int | None:
        """Return how many bytes are handed out for a video; None when that is not said."""
        url = await self._own_link(ids)
        if not confirm:
            with suppress(DownloadBroke):  # some servers send a body, too, and some break the connection
                async with self._asked("HEAD", ids, url, {}) as offer:
                    size = offer.size()
                    if size is not None:
                        return size
                    offer.response.close()  # its body, if it has one, may still be on its way
        async with self._fresh(ids, url, {"Range": "bytes=0-0"}) as offer:
            if offer.status not in {200, 206, 416}:
                raise offer.unavailable()
            if not offer.is_video or (offer.status == 200 and _is_page(await offer.first_block())):
                raise offer.unavailable(_A_PAGE)
            offer.response.close()  # a server that does not know ranges sends the whole video
            return offer.size()

    async def _own_link(self, ids: RecordIds) -> URL:
        return own(self._server.url, await self._link(ids))

    @asynccontextmanager
    async def _fresh(self, ids: RecordIds, url: URL, headers: Mapping[str, str]) -> AsyncIterator[_Offer]:
        """Call a link with GET; if it may have expired, once more with a new one."""
        async with self._asked("GET", ids, url, headers) as offer:
            if offer.status not in STALE:
                yield offer
                return
        async with self._asked("GET", ids, await self._own_link(ids), headers) as offer:
            yield offer

    @asynccontextmanager
    async def _asked(self, method: str, ids: RecordIds, url: URL, headers: Mapping[str, str]) -> AsyncIterator[_Offer]:
        """Make one request, and follow its redirects while they stay on this host."""
        async with self._slot() as slot:
            for _ in range(REDIRECTS + 1):
                async with self._answered(method, ids, url, headers) as offer:
                    if offer.status not in {301, 302, 303, 307, 308}:
                        slot.free()  # the API need not wait for the bytes
                        yield offer
                        return
                    url = self._target(url, offer)
            raise errors.DownloadUnavailable(f"{_address(url)}: more than {REDIRECTS} redirects")

    @asynccontextmanager
    async def _slot(self) -> AsyncIterator[Slot]:
        async with self._breaker.slot() as slot:
            try:
                yield slot
            except errors.DownloadUnavailable:
                slot.free()  # so that the breaker keeps none: no call of the API has failed
                raise

    @asynccontextmanager
    async def _answered(
        self, method: str, ids: RecordIds, url: URL, headers: Mapping[str, str]
    ) -> AsyncIterator[_Offer]:
        at = _address(url)
        async with (
            watched_download(at, self._server) as watchdog,
            self._session.request(method, url, watchdog, jar=self._jars.of(ids.record), headers=headers) as response,
        ):
            yield _Offer(at, response, {name.lower(): value for name, value in response.headers.items()}, watchdog)

    def _target(self, url: URL, offer: _Offer) -> URL:
        location = offer.headers.get("location", "")
        try:
            target = str(url.join(URL(location, encoded=True)))
        except ValueError:
            target = ""
        return own(self._server.url, target, what=f"{offer.at}: answered {offer.status}")


def own(server_url: str, link: str, *, what: str = ApiCall.LINK.label) -> URL:
    """Return a link as a URL if it leads to the server's own host, and uses TLS if the server's URL does.

    Raises ``DownloadUnavailable``, which begins with *what*.
    """
    try:
        url, home = URL(link, encoded=True), URL(server_url)
        good = url.scheme in {"http", "https"} and url.host == home.host and url.user is None and url.password is None
    except ValueError:
        good = False
    if not good:
        raise errors.DownloadUnavailable(f"{what}: {ELSEWHERE}")
    if url.scheme != "https" and home.scheme == "https":
        raise errors.DownloadUnavailable(f"{what}: it leads out of TLS, where its secret could be read")
    return url


def _is_page(block: bytes) -> bool:
    """Return True when a body begins as HTML does: nginx gives its own pages the type of the video's name."""
    return _PAGE.match(block) is not None


def _address(url: URL) -> str:
    return str(url.origin())
