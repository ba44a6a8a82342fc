"""The product's own client, ``Valt``, connected to the simulated server: only aiohttp's session is replaced.

So log-in, retries after 401, the last byte that is held back, time-outs and the meaning of each result are the
product's. From its last byte on, a request reaches the server whatever happens: neither a kill nor a time-out stops it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol, Self

import aiohttp
from yarl import URL

from simulation.server import BAD_GATEWAY, LATEST, NOT_THERE, SORRY, TOO_LARGE, Reply, Request, Server
from uploader.server.valt import Valt

# What may happen to a request, and how often among all that go wrong.
FAULTS: Final = (
    "refused", "lost", "lost", "late", "late", "silent", "done-lost", "done-lost", "500", "done-502", "done-502",
    "503", "403", "expired", "expired", "slow", "garbage", "proxy-404", "proxy-200",
)  # fmt: skip
HOP: Final = 0.05  # s that a request, or an answer, takes
INSTEAD: Final[dict[str, Reply | None]] = {  # what comes without the work being done
    "lost": None,
    "403": Reply(403, b'{"data":"Access denied"}'),
    "413": Reply(413, TOO_LARGE),
    "500": Reply(500, b"{}"),
    "proxy-200": Reply(200, SORRY, {"Content-Type": "text/html"}),
    "proxy-404": Reply(404, NOT_THERE, {"Content-Type": "text/html"}),
    "503": Reply(503, b"", {"Retry-After": "7"}),
}
CHUNK_FAULTS: Final = (*FAULTS, "cut", "cut", "cut", "413", "early-401", "early-413")


class Ground(Protocol):
    """What the client needs from the world."""

    now: float
    life: int
    server: Server
    lost_logins: int  # log-ins that were done and whose answer was lost

    def act(self, life: int, what: str) -> None:
        """Number what the client does. Raises ``Dead`` when the process is killed here, or was killed before."""

    def chance(self) -> float:
        """Return a random number from 0 to 1."""

    def link_fails(self) -> bool:
        """True when something goes wrong with this request."""

    def is_down(self) -> bool:
        """True while the server cannot be reached at all."""

    def after(self, seconds: float, event: Callable[[], None]) -> None:
        """Let something happen to the world later, whichever process runs then."""

    def before_request(self, request: Request) -> None:
        """Check that this request may be made. Raises ``AssertionError``."""

    def before_last_byte(self, request: Request) -> None:
        """Check that the last byte of this request may go. Raises ``AssertionError``."""

    def ended(self, request: Request) -> None:
        """Note that the client no longer waits for this request."""


class Client(Valt):
    """``Valt``, connected to a world."""

    ground: Ground

    async def __aenter__(self) -> Self:
        """Connect."""
        self._session._session = Session(self.ground)  # type: ignore[assignment]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Do nothing: no connection is held."""


class _Interrupted(BaseException):
    """An early answer has stopped the body."""


class _Writer:
    """The socket, as a body sees it: it takes some bytes, then the link may fail."""

    def __init__(self, limit: int | None, end: BaseException, size: int, at_last_byte: Callable[[], None]) -> None:
        """*size*: bytes of the whole body; *at_last_byte* is called when the last of them is taken."""
        self.limit, self.end, self.size, self.at_last_byte = limit, end, size, at_last_byte
        self.taken = bytearray()

    async def write(self, data: bytes | memoryview) -> None:
        """Take bytes."""
        if self.limit is not None and len(self.taken) + len(data) > self.limit:
            raise self.end
        self.taken += data
        if len(self.taken) == self.size:
            self.at_last_byte()
        await asyncio.sleep(0)

    async def drain(self) -> None:
        """Return at once: no buffer is ever full."""


@dataclass(eq=False)
class _Answer:
    """aiohttp's response, as far as the client uses it."""

    reply: Reply

    @property
    def status(self) -> int:
        return self.reply.status

    @property
    def headers(self) -> dict[str, str]:
        return self.reply.headers

    @property
    def raw_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return tuple((name.encode(), value.encode()) for name, value in self.reply.headers.items())

    @property
    def content(self) -> Self:
        return self

    async def iter_any(self) -> AsyncIterator[bytes]:
        """Yield the body."""
        yield self.reply.body

    async def iter_chunked(self, size: int) -> AsyncIterator[bytes]:
        """Yield the body in blocks of *size* bytes."""
        for start in range(0, len(self.reply.body), size):
            yield self.reply.body[start : start + size]

    def close(self) -> None:
        """Do nothing."""


class Session:
    """aiohttp's session, as far as the client uses it."""

    def __init__(self, ground: Ground) -> None:
        self._ground, self._life = ground, ground.life

    def request(self, method: str, url: URL, **more: Any) -> _Exchange:
        """Make a request."""
        assert more.pop("allow_redirects") is False
        return _Exchange(self._ground, self._life, method, url, more)


class _Exchange:
    """One request and its answer."""

    def __init__(self, ground: Ground, life: int, method: str, url: URL, more: dict[str, Any]) -> None:
        self._ground, self._life, self._data = ground, life, more.get("data")
        headers = more.get("headers") or {}
        self._range = headers.get("Content-Range", "")
        token = url.query.get("access_token", "")
        payload = more.get("json") or {}
        self._request = Request(method, url.path, token, payload, self._range, wanted=headers.get("Range", ""))

    async def __aenter__(self) -> _Answer:
        ground, request = self._ground, self._request
        ground.act(self._life, f"{request.method} {request.path} {self._range}")
        ground.before_request(request)
        try:
            return await self._answered()
        finally:
            if ground.life == self._life:
                ground.ended(request)

    async def __aexit__(self, *_: object) -> None:
        """Do nothing: no connection is held."""

    async def _answered(self) -> _Answer:
        ground = self._ground
        fault = self._fault()
        closed = self._request.path.startswith("/distribution/") and not ground.server.hands_out
        if fault == "refused" or ground.is_down() or closed:
            await asyncio.sleep(0)
            raise aiohttp.ClientConnectorError(_KEY, ConnectionRefusedError(111, "Connection refused"))
        if self._data is not None and (early := await self._send_body(fault)) is not None:
            return _Answer(early)
        if self._data is None:
            ground.before_last_byte(self._request)
        future: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        self._travel(fault, future)
        reply = await future
        ground.act(self._life, f"answer {None if reply is None else reply.status}")
        if reply is None:
            raise aiohttp.ServerDisconnectedError
        return _Answer(reply)

    def _fault(self) -> str:
        ground = self._ground
        if not ground.link_fails():
            return ""
        faults = FAULTS if self._data is None else CHUNK_FAULTS
        return faults[int(ground.chance() * len(faults))]

    async def _send_body(self, fault: str) -> Reply | None:
        """Send the body; return an answer that comes before its end. Raises what aiohttp would."""
        data, stops = self._data, fault in {"cut", "early-401", "early-413"}
        assert data is not None
        end = ConnectionResetError(104, "Connection reset by peer") if fault == "cut" else _Interrupted()
        limit = int(self._ground.chance() * data.size) if stops else None
        writer: Any = _Writer(limit, end, data.size, lambda: self._ground.before_last_byte(self._request))
        try:
            await data.write(writer)
        except ConnectionResetError as error:
            raise aiohttp.ClientOSError(error.errno, error.strerror) from None
        except _Interrupted:
            if fault == "early-413":
                return Reply(413, TOO_LARGE)
            self._ground.server.expire()
            return Reply(401, b'{"data":"Bad credentials."}')
        except Exception as error:
            raise aiohttp.ClientConnectionError("the body ended") from error
        assert len(writer.taken) == data.size, "the body is not as long as it has said"
        content = bytes(writer.taken).partition(b"\r\n\r\n")[2]
        content = content[: content.rindex(b"\r\n--")]
        request = self._request
        self._request = Request(request.method, request.path, request.token, request.payload, request.range, content)
        return None

    def _travel(self, fault: str, future: asyncio.Future[Reply | None]) -> None:
        """Hand the request over to the world."""
        if fault in INSTEAD:
            self._ground.after(HOP, lambda: self._answer(future, INSTEAD[fault]))
            return
        if fault == "expired":
            self._ground.server.expire()
        if fault == "late":
            self._ground.after(HOP, lambda: self._answer(future, None))
        late = fault in {"late", "silent"}
        self._ground.after(
            1 + (LATEST - 1) * self._ground.chance() if late else HOP, lambda: self._arrive(fault, future)
        )

    def _arrive(self, fault: str, future: asyncio.Future[Reply | None]) -> None:
        """Do what the request asks for; its answer may be lost or replaced on the way."""
        done = self._ground.server.do(self._request)
        reply: Reply | None = done
        if fault in {"done-lost", "late", "silent"}:
            reply = None
        elif fault == "done-502":
            reply = Reply(502, BAD_GATEWAY)
        elif fault == "garbage" and done.status < 300:
            reply = Reply(200, b"<html>")
        if fault == "silent":
            self._note_login(heard=False)
        else:
            later = 40.0 * self._ground.chance() if fault == "slow" else HOP
            self._ground.after(later, lambda: self._answer(future, reply))

    def _answer(self, future: asyncio.Future[Reply | None], reply: Reply | None) -> None:
        """Deliver the answer if the client still waits for it; None: the connection breaks."""
        heard = self._ground.life == self._life and not future.done()
        if heard:
            future.set_result(reply)
        self._note_login(heard=heard and reply is not None and b"access_token" in reply.body)

    def _note_login(self, *, heard: bool) -> None:
        if self._request.path.endswith("/login") and not heard:
            self._ground.lost_logins += 1


_KEY: Final[Any] = type("Key", (), {"ssl": False, "host": "valt", "port": 80, "is_ssl": False})()
