"""The HTTP client for one VALT server: one origin, one log-in for all workers, every failure an ``UploaderError``.

It implements ``server/port.py``, which says what each call and each failure means. A call holds a slot of the circuit
breaker, also during the log-in that it may need. It is ended when it makes no progress for ``stall_timeout``. A call
that changes the server is repeated only after a 401: nothing was done then. The client follows no redirect (only
``links`` does, on the same host), uses no proxy from the environment, and shows no URL: each of these would give the
token away. ``session`` has the connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self, TypeVar

from yarl import URL

from uploader.config import ServerConfig
from uploader.domain import errors, events
from uploader.domain.model import RecordIds, RecordSpec
from uploader.domain.retry import login_pause
from uploader.runtime.clock import Clock
from uploader.runtime.log import MASK, Redactor
from uploader.server.port import ByteSource, RecordDetails, RecordListed, Throttle
from uploader.server.valt import failures, wire
from uploader.server.valt.answer import ApiAnswer, ApiCall
from uploader.server.valt.body import ChunkBody, NoThrottle
from uploader.server.valt.breaker import Breaker, NoBreaker, Slot
from uploader.server.valt.cookies import CookieJar, CookieJars
from uploader.server.valt.links import Downloads
from uploader.server.valt.proxy import LOG_IN_WANTED, ProxyRoute, wants_log_in
from uploader.server.valt.server_time import ServerTime
from uploader.server.valt.session import Session
from uploader.server.valt.token_deaths import TokenDeaths
from uploader.server.valt.watchdog import Watchdog, watched

API_PATH: Final = "/api/v3"
CONNECT_TIMEOUT: Final = 10.0  # s, with name lookup and TLS; the kernel's default is two minutes
ANSWER_TIMEOUT_FACTOR: Final = 5  # × stall_timeout: a server may copy gigabytes between last byte and answer
TOKEN_LIFETIME: Final = 27_000.0  # s; no expiry is documented, the vendor's client logs in again every 28,800 s
LIST_LIMIT: Final = 100  # rows asked for in one call, when records of an exact name are searched
LIST_PAGES: Final = 20  # such calls, at most: two thousand records of one name do not occur
SHORT_PAGE: Final = 20  # rows; a page of fewer is taken as the last, whatever limit the server applies
FAILURE_LIMIT: Final = 64 * 1024  # bytes of a failure's body that are searched for its message
NO_THROTTLE: Final = NoThrottle()
# bytes of a body that the socket has taken, after which the server must be receiving it: the kernel buffers 128 KiB
BODY_MOVES: Final = 1024 * 1024

_AT_ONCE: Final = "answered 401 right after a good log-in"
_ANY_RECORD: Final = {"search": "valt-uploader", "offset": 0, "limit": 1}  # asked only to see whether a token is valid

Remember = Callable[[str], None]
Content = TypeVar("Content")


@dataclass(frozen=True, slots=True)
class _Token:
    value: str
    since: float  # monotonic

    def __repr__(self) -> str:
        return "_Token(***)"


@dataclass(frozen=True, slots=True)
class _Refusal:
    password: str = field(repr=False)
    until: float  # monotonic
    error: errors.PasswordRefused


class Valt:
    """The ``Server`` port over the VALT v3 API, for one user. An async context manager."""

    def __init__(
        self,
        server: ServerConfig,
        *,
        password: Callable[[], str],
        clock: Clock,
        bus: events.Bus,
        remember: Remember,
        breaker: Breaker | None = None,
        proxy_password: Callable[[], str] = lambda: "",
    ) -> None:
        """*password* is called for each log-in, *remember* with every secret, so that the log masks it.

        *proxy_password* reads the one of the proxy, if there is one.
        With *breaker*, any call may raise ``BreakerOpen`` before anything is sent.
        """
        self._server = server
        self._password = password
        self._clock = clock
        self._bus = bus
        self._remember_for_log = remember
        self._secrets = Redactor()
        self._breaker: Breaker = NoBreaker() if breaker is None else breaker
        self._token: _Token | None = None
        self._refusal: _Refusal | None = None
        self._deaths = TokenDeaths()
        self._logging_in = asyncio.Lock()
        self._time = ServerTime()
        self._session = Session(server, ProxyRoute(server, proxy_password, self._remember))
        self._jars = CookieJars()
        self.log_ins = 0  # number of good log-ins: after each the server may be of another version

    async def __aenter__(self) -> Self:
        await self._session.open(CONNECT_TIMEOUT)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def server_now(self) -> float:
        """Return the server's time in Unix seconds, from its Date headers (to one second), or else the local time."""
        return self._time.now(self._clock)

    @property
    def skew(self) -> float:
        """Seconds by which the server's clock is ahead of the local one."""
        return self._time.skew(self._clock)

    async def login_if_needed(self) -> None:
        """Log in unless there is a valid token. Raises ``PasswordRefused`` and others."""
        if self._fresh_token() is None:
            async with self._breaker.slot():
                await self._token_now()

    async def agree_on_time(self) -> None:
        """Log in if needed, and make a call if ``server_now`` may be wrong. Raises as any call does."""
        await self.login_if_needed()
        if not self._time.is_sure(self._clock):
            await self.version()

    def forget_refusal(self) -> None:
        """Let a password that was refused be tried again: the operator has asked for it."""
        self._refusal = None
        self._deaths.log_in_now()

    async def create_record(self, spec: RecordSpec) -> RecordIds:
        """Create a record. Raises ``AnswerLost`` when one may exist all the same (rule 6)."""
        return await self._created(wire.create_payload(spec))

    async def create_nameless_record(self) -> RecordIds:
        """Create a record by GET, as the vendor's first page says. Raises ``AnswerLost`` likewise."""
        return await self._created(None)

    async def _created(self, payload: Mapping[str, Any] | None) -> RecordIds:
        jar = CookieJar()
        ids = await self._json_call(ApiCall.CREATE, "/records/create-upload", wire.ids_of, payload, jar=jar)
        self._jars.keep(ids.record, jar)
        return ids

    async def name_record(self, record: str, spec: RecordSpec) -> None:
        """Give *record* its name and its fields."""
        path, payload = f"/records/{_checked(record)}/update", wire.update_payload(spec)
        await self._json_call(ApiCall.UPDATE, path, lambda _: None, payload, jar=self._jars.of(record))

    async def details(self, record: str) -> RecordDetails:
        """Return the details of *record*. Raises ``RecordGone``."""
        path = f"/records/{_checked(record)}"
        return await self._json_call(ApiCall.DETAILS, path, wire.details_of, jar=self._jars.of(record))

    async def find_records(self, name: str, *, since: float | None = None) -> tuple[RecordListed, ...]:
        """List the records of exactly this *name*. The server's search is not exact, and answers in pages."""
        rows: dict[str, RecordListed] = {}
        for _ in range(LIST_PAGES):
            body = wire.search_payload(name, since, len(rows), LIST_LIMIT)
            listed = await self._json_call(ApiCall.LIST, "/records", wire.listed_of, body)
            before = len(rows)
            for row in listed:
                rows.setdefault(row.record, row)
            if len(listed) < SHORT_PAGE or len(rows) == before:  # the last page, or a server that ignores the offset
                break
        return tuple(row for row in rows.values() if row.name == name)

    async def delete_record(self, record: str) -> None:
        """Delete *record*. No error when it does not exist any more."""
        path = f"/records/{_checked(record)}/delete"
        with contextlib.suppress(errors.RecordGone):
            await self._json_call(ApiCall.DELETE, path, lambda _: None, {}, jar=self._jars.of(record))
        self._jars.forget(record)

    async def version(self) -> str | None:
        """Return the server's version; None when it does not tell this user. Raises as any call does."""
        try:
            return await self._json_call(ApiCall.VERSION, "/admin/general", wire.version_of)
        except (errors.ServerRefused, errors.CallFailed):
            return None

    async def download_link(self, ids: RecordIds) -> str:
        """Return the link to a video, which is a secret and valid for 30 minutes. Raises ``RecordGone``."""
        path = f"/records/download/{_checked(ids.record)}/{_checked(ids.video)}"
        return await self._json_call(ApiCall.LINK, path, wire.link_of, jar=self._jars.of(ids.record))

    async def download(self, ids: RecordIds) -> AsyncIterator[bytes]:
        """Yield the bytes of a video. Raises ``DownloadUnavailable`` for every failure of its link's address."""
        async with contextlib.aclosing(self._downloads.content(ids)) as blocks:
            async for block in blocks:
                yield block

    async def video_size(self, ids: RecordIds, *, confirm: bool = False) -> int | None:
        """Return how many bytes the server hands out for a video; None when it does not say. Raises as ``download``."""
        return await self._downloads.size(ids, confirm=confirm)

    @property
    def _downloads(self) -> Downloads:
        return Downloads(self._server, self.download_link, self._session, self._breaker, self._jars)

    async def send_chunk(
        self,
        ids: RecordIds,
        path: str,
        span: tuple[int, int, int],
        source: ByteSource,
        *,
        before_last_byte: Callable[[], Awaitable[None]],
        on_progress: Callable[[int], None],
        throttle: Throttle = NO_THROTTLE,
    ) -> int | None:
        """Send the bytes *span* = (start, end, total) of a video; return how many bytes the server says it holds.

        None when it does not say. *source* is positioned at *start*; *throttle* limits the bandwidth.

        Raises ``ChunkCut`` when the server cannot have seen the chunk, ``AnswerLost`` when it may have, what reading
        the file raised, or the error that the server's refusal means (``failures``).
        """
        async with self._breaker.slot() as slot:
            return await self._send_chunk(slot, ids, path, span, source, before_last_byte, on_progress, throttle)

    async def _send_chunk(
        self,
        slot: Slot,
        ids: RecordIds,
        path: str,
        span: tuple[int, int, int],
        source: ByteSource,
        before_last_byte: Callable[[], Awaitable[None]],
        on_progress: Callable[[int], None],
        throttle: Throttle,
    ) -> int | None:
        start, end, total = span
        token, taken = await self._token_now(), 0
        boundary = f"valt-uploader-{uuid.uuid4().hex}"
        jar = self._jars.of(ids.record)
        async with watched(ApiCall.UPLOAD, self._server, self._secrets.mask) as watchdog:

            def progress(count: int) -> None:
                nonlocal taken
                watchdog.moved()
                taken += count
                if taken >= BODY_MOVES:
                    slot.free()  # the call may take hours: the server is up, so others need not wait for its answer
                if count:
                    on_progress(count)

            async def last_byte() -> None:
                await before_last_byte()
                watchdog.moved(ANSWER_TIMEOUT_FACTOR)

            body = ChunkBody(
                wire.multipart_frame(boundary, wire.multipart_filename(path)),
                source,
                (start, end),
                throttle=throttle,
                before_last_byte=last_byte,
                on_progress=progress,
            )
            headers = {
                "Content-Range": wire.content_range(start, end, total),
                "Content-Type": f"multipart/form-data; boundary={boundary}",
            }
            url = self._url(f"/records/{_checked(ids.record)}/videos/{_checked(ids.video)}", token)
            watchdog.body = body
            answer = await self._exchange("POST", url, watchdog, jar, data=body, headers=headers)
        failure = self._failure_of(ApiCall.UPLOAD, answer, body.size)
        if failure is None and body.last_byte_may_have_gone:
            self._breaker.record_success()
            jar.found()
            self._deaths.worked(self._clock.monotonic() - token.since)
            return wire.held_of(answer)
        if isinstance(failure, errors.RecordGone):
            jar.missed()
        if isinstance(failure, errors.TokenExpired):
            self._forget(token)
            if not await self._is_valid(token, ApiCall.UPLOAD) and self._deaths.in_vain:
                raise self._deaths.error(f"{ApiCall.UPLOAD.label}: {_AT_ONCE}", self._clock.monotonic())
        # a 2xx before the last byte, or an answer such as 502: it does not say what became of the chunk
        failure = failure or errors.AnswerLost(f"{ApiCall.UPLOAD.label}: answered {answer.status}")
        if isinstance(failure, errors.AnswerLost) and not body.last_byte_may_have_gone:
            raise errors.ChunkCut(f"{failure.what}, before its last byte")
        raise failure

    async def _json_call(
        self,
        call: ApiCall,
        path: str,
        read: Callable[[ApiAnswer], Content],
        payload: Mapping[str, Any] | None = None,
        *,
        jar: CookieJar | None = None,
    ) -> Content:
        """Make a call with the token, and *read* its answer; after a 401 once more with a new one, in the same slot.

        *jar*: the cookies of the record that it is about.
        """
        async with self._breaker.slot():
            for attempt in (1, 2):
                token = await self._token_now()
                async with watched(call, self._server, self._secrets.mask) as watchdog:
                    method = "GET" if payload is None else "POST"
                    once = call.changes and payload is None  # aiohttp makes a GET again by itself
                    answer = await self._exchange(
                        method, self._url(path, token), watchdog, jar, json=payload, once=once
                    )
                failure = self._failure_of(call, answer)
                if failure is None:
                    break
                if jar is not None and isinstance(failure, errors.RecordGone):
                    jar.missed()
                if not isinstance(failure, errors.TokenExpired):
                    raise failure
                if attempt == 2:
                    if await self._is_valid(token, call):
                        raise errors.RightMissing(
                            f"{call.label}: {_AT_ONCE}", hint="does this user have the right to it?"
                        )
                    self._forget(token)
                    raise self._deaths.error(f"{call.label}: {_AT_ONCE}", self._clock.monotonic())
                self._forget(token)
            content = read(answer)
            if jar is not None:
                jar.found()
            self._breaker.record_success()  # only now: a portal answers 200 to everything
            self._deaths.worked(self._clock.monotonic() - token.since)
            return content

    async def _is_valid(self, token: _Token, refused: ApiCall) -> bool:
        """True when *token*, which was refused for one call, is good for another. Its caller holds a slot."""
        call = ApiCall.VERSION if refused is ApiCall.LIST else ApiCall.LIST
        path, body = ("/admin/general", None) if refused is ApiCall.LIST else ("/records", _ANY_RECORD)
        async with watched(call, self._server, self._secrets.mask) as watchdog:
            method = "GET" if body is None else "POST"
            answer = await self._exchange(method, self._url(path, token), watchdog, json=body)
        failure = self._failure_of(call, answer)
        if isinstance(failure, errors.TokenExpired):
            return False
        if isinstance(failure, errors.RetryableError):
            raise failure  # it says nothing of the token: the call is tried again later
        self._deaths.was_valid()
        return True

    def _fresh_token(self) -> _Token | None:
        token, now = self._token, self._clock.monotonic()
        return token if token is not None and now - token.since < TOKEN_LIFETIME else None

    async def _token_now(self) -> _Token:
        """Return the shared token. The first caller that finds none, or an old one, logs in for all.

        It takes no slot: its caller holds one, and while the breaker is half-open there may be only that one.
        """
        async with self._logging_in:
            if (token := self._fresh_token()) is not None:
                return token
            now = self._clock.monotonic()
            password = self._password()
            self._remember(password)
            self._refuse_again(password, now)
            if self._deaths.wait(now) > 0:
                raise self._deaths.error("the last token was refused right after a good log-in", now)
            payload = {"username": self._server.username, "password": password}
            async with watched(ApiCall.LOGIN, self._server, self._secrets.mask) as watchdog:
                answer = await self._exchange("POST", self._url("/login"), watchdog, json=payload)
            failure = self._failure_of(ApiCall.LOGIN, answer)
            if failure is not None:
                if isinstance(failure, errors.PasswordRefused):
                    self._refusal = _Refusal(password, now + login_pause(1), failure)
                elif isinstance(failure, errors.ServerRefused):  # without a token no call can be made: all files wait
                    raise errors.ServerDown(failure.what, hint=failure.hint)
                raise failure
            value = wire.token_of(answer)
            self._breaker.record_success()
            self._remember(value)
            self._token = _Token(value, self._clock.monotonic())
            self.log_ins += 1
            self._bus.publish(events.LoggedIn(self._server.username))
            return self._token

    def _remember(self, secret: str) -> None:
        self._secrets.remember(secret)
        self._remember_for_log(secret)

    def _failure_of(self, call: ApiCall, answer: ApiAnswer, size: int | None = None) -> errors.UploaderError | None:
        """Return the error that an answer means; None when it may be a yes. *size*: bytes of the request."""
        if answer.status == LOG_IN_WANTED:
            return wants_log_in(self._server)
        if not answer.good:
            return failures.failure(call, self._masked(answer), now=self._clock.now(), size=size)
        return failures.in_place_of_a_yes(call, answer, now=self._clock.now(), size=size)

    def _masked(self, answer: ApiAnswer) -> ApiAnswer:
        """Mask the secrets that an answer repeats, before any of its words are used."""
        headers = {name: answer.mask(value) for name, value in answer.headers.items()}
        body = answer.mask(answer.body[:FAILURE_LIMIT].decode("utf-8", "surrogateescape"))
        return replace(answer, headers=headers, body=body.encode("utf-8", "surrogateescape"))

    def _refuse_again(self, password: str, now: float) -> None:
        """Raise the last refusal of this password again for a while, so that not every worker tries to log in."""
        refusal = self._refusal
        if refusal is not None and refusal.password == password and now < refusal.until:
            raise errors.PasswordRefused(refusal.error.what, hint=refusal.error.hint)

    def _forget(self, token: _Token) -> None:
        """Drop the token that failed, unless another worker has replaced it already."""
        if self._token is not token:
            return
        self._token, now, known = None, self._clock.monotonic(), self._deaths.shared
        self._deaths.ended(now - token.since, now)
        if self._deaths.shared and not known:
            self._bus.publish(events.AccountShared(self._server.username, self._deaths.error("", now).hint))

    def _url(self, path: str, token: _Token | None = None) -> URL:
        url = URL(self._server.url + API_PATH + path, encoded=True)
        return url if token is None else url.with_query(access_token=token.value)

    async def _exchange(
        self, method: str, url: URL, watchdog: Watchdog, jar: CookieJar | None = None, **request: Any
    ) -> ApiAnswer:
        began = self._clock.monotonic()

        def mask(text: str) -> str:
            for cookie in () if jar is None else jar.secrets():
                text = text.replace(cookie, MASK)
            return self._secrets.mask(text)

        answer = await self._session.exchange(method, url, watchdog, mask, jar=jar, **request)
        self._time.note(answer.headers.get("date"), self._clock, took=self._clock.monotonic() - began)
        return answer


def _checked(value: str) -> str:
    """Return the id *value* if it may stand in a URL. ``wire`` lets no other id through, so this only makes sure."""
    if wire.safe_id(value) is None:
        raise errors.ServerRefused("an id that cannot stand in a URL")
    return value
