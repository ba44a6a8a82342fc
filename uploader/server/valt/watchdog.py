"""Ends a call that makes no progress, and turns what aiohttp raises into an ``UploaderError``: words, never a URL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import aiohttp

from uploader.config import ServerConfig
from uploader.domain import errors
from uploader.server.valt.answer import ApiCall
from uploader.server.valt.body import ChunkBody
from uploader.server.valt.broken import broken
from uploader.server.valt.proxy import is_of_the_server, not_passed_on
from uploader.server.valt.tls import no_connection


class DownloadBroke(errors.DownloadUnavailable):
    """The connection to the address of a link broke, or what came is no HTTP."""


class Watchdog:
    """Ends a call that makes no progress, and says what its end without an answer means."""

    def __init__(self, stall: float) -> None:
        self._stall = stall
        self.timeout: asyncio.Timeout | None = None
        self.body: ChunkBody | None = None
        self.connected = False
        """True once the request has its connection: nothing of it was sent before."""

    def moved(self, factor: int = 1) -> None:
        """Note progress: the call may now stall for *factor* times the stall time."""
        if self.timeout is not None and not self.timeout.expired():
            self.timeout.reschedule(asyncio.get_running_loop().time() + factor * self._stall)

    def failure(self, call: ApiCall, what: str) -> errors.UploaderError:
        """Return the error for a call that ended without an answer."""
        if self.body is not None and not self.body.last_byte_may_have_gone:
            return errors.ChunkCut(f"{call.label}: {what}, before its last byte")
        if call.changes:
            lost = "what became of the call" if "the answer" in what else "its answer"
            return errors.AnswerLost(f"{call.label}: {what}, and {lost} is not known")
        return errors.ServerDown(f"{call.label}: {what}")


# What aiohttp raises for a connection that broke, or for an answer that is no HTTP. A name with an empty label, or one
# that is too long, is a UnicodeError of the name lookup.
BREAKS: Final = (
    aiohttp.ClientError,
    aiohttp.http_exceptions.HttpProcessingError,
    OSError,
    asyncio.IncompleteReadError,
    UnicodeError,
)


@asynccontextmanager
async def watched(call: ApiCall, server: ServerConfig, mask: Callable[[str], str] = str) -> AsyncIterator[Watchdog]:
    """Run a call of the API while the context lasts. *mask* takes secrets out of what the server has sent."""
    watchdog = Watchdog(server.stall_timeout)
    try:
        async with asyncio.timeout(server.stall_timeout) as timeout:
            watchdog.timeout = timeout
            yield watchdog
    except aiohttp.ConnectionTimeoutError as error:
        raise _unreachable(error, server, server.url, mask) from None
    except TimeoutError as error:
        if server.proxy and not watchdog.connected:
            raise _unreachable(error, server, server.url, mask) from None
        raise watchdog.failure(call, no_progress(server)) from None
    except (aiohttp.ClientConnectorError, aiohttp.ServerFingerprintMismatch) as error:
        raise _unreachable(error, server, server.url, mask) from None
    except BREAKS as error:
        if not watchdog.connected and (server.proxy or isinstance(error, UnicodeError)):
            raise _unreachable(error, server, server.url, mask) from None
        failure = None if watchdog.body is None else watchdog.body.failure
        if failure is not None and not isinstance(failure, aiohttp.ClientError | OSError):
            raise failure from None
        raise watchdog.failure(call, broken(error, mask)) from None


def _unreachable(
    error: Exception, server: ServerConfig, at: str, mask: Callable[[str], str] = str
) -> errors.ServerDown:
    """Return the error for a request to *at* (scheme, host, port) that got no connection."""
    if server.proxy and not is_of_the_server(error):
        return not_passed_on(error, server, at, mask)
    if isinstance(error, TimeoutError):
        return errors.Unreachable(f"{at}: cannot be reached: no connection in time")
    if isinstance(error, UnicodeError):
        return errors.Unreachable(f"{at}: cannot be reached: its name cannot be looked up", hint="is server.url right?")
    return no_connection(error, at)


@asynccontextmanager
async def watched_download(at: str, server: ServerConfig) -> AsyncIterator[Watchdog]:
    """Run a request to the address of a download link while the context lasts.

    *at*: its scheme, host and port, which every error names. All failures are ``DownloadUnavailable``.
    """
    watchdog = Watchdog(server.stall_timeout)
    try:
        async with asyncio.timeout(server.stall_timeout) as timeout:
            watchdog.timeout = timeout
            yield watchdog
    except aiohttp.ConnectionTimeoutError as error:
        raise _no_download(_unreachable(error, server, at)) from None
    except TimeoutError:
        raise errors.DownloadUnavailable(f"{at}: {no_progress(server)}") from None
    except (aiohttp.ClientConnectorError, aiohttp.ServerFingerprintMismatch) as error:
        raise _no_download(_unreachable(error, server, at)) from None
    except BREAKS as error:
        if not watchdog.connected and (server.proxy or isinstance(error, UnicodeError)):
            raise _no_download(_unreachable(error, server, at)) from None
        raise DownloadBroke(f"{at}: {broken(error)}") from None


def _no_download(down: errors.ServerDown) -> errors.DownloadUnavailable:
    return errors.DownloadUnavailable(down.what, hint=down.hint, reached=False)


def no_progress(server: ServerConfig) -> str:
    """Return the words for a call that was ended because nothing moved."""
    return f"no progress for {server.stall_timeout:g} s"
