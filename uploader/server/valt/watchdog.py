"""Ends a call that makes no progress, and turns what aiohttp raises into an ``UploaderError``: words, never a URL."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import aiohttp

from uploader.config import ServerConfig
from uploader.domain import errors
from uploader.server.valt.answer import ApiCall
from uploader.server.valt.body import ChunkBody
from uploader.server.valt.tls import no_connection


class AnswerTooLarge(aiohttp.ClientError):
    """An answer's headers are larger than ``client.HEADER_LIMIT``, so it is not from a VALT server."""


class DownloadBroke(errors.DownloadUnavailable):
    """The connection to the address of a link broke, or what came is no HTTP."""


class Watchdog:
    """Ends a call that makes no progress, and says what its end without an answer means."""

    def __init__(self, stall: float) -> None:
        self._stall = stall
        self.timeout: asyncio.Timeout | None = None
        self.body: ChunkBody | None = None

    def moved(self, factor: int = 1) -> None:
        """Note progress: the call may now stall for *factor* times the stall time."""
        if self.timeout is not None and not self.timeout.expired():
            self.timeout.reschedule(asyncio.get_running_loop().time() + factor * self._stall)

    def failure(self, call: ApiCall, what: str) -> errors.UploaderError:
        """Return the error for a call that ended without an answer."""
        if self.body is not None and not self.body.last_byte_may_have_gone:
            return errors.ChunkCut(f"{call.label}: {what}, before its last byte")
        if call.changes:
            return errors.AnswerLost(f"{call.label}: {what}, and its answer is not known")
        return errors.ServerDown(f"{call.label}: {what}")


@asynccontextmanager
async def watched(call: ApiCall, server: ServerConfig) -> AsyncIterator[Watchdog]:
    """Run a call of the API while the context lasts."""
    watchdog = Watchdog(server.stall_timeout)
    try:
        async with asyncio.timeout(server.stall_timeout) as timeout:
            watchdog.timeout = timeout
            yield watchdog
    except aiohttp.ConnectionTimeoutError:
        raise errors.Unreachable(f"{server.url}: cannot be reached: no connection in time") from None
    except TimeoutError:
        raise watchdog.failure(call, no_progress(server)) from None
    except (aiohttp.ClientConnectorError, aiohttp.ServerFingerprintMismatch) as error:
        raise no_connection(error, server.url) from None
    except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as error:
        failure = None if watchdog.body is None else watchdog.body.failure
        if failure is not None and not isinstance(failure, aiohttp.ClientError | OSError):
            raise failure from None
        raise watchdog.failure(call, broken(error)) from None


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
    except aiohttp.ConnectionTimeoutError:
        raise errors.DownloadUnavailable(f"{at}: cannot be reached: no connection in time", reached=False) from None
    except TimeoutError:
        raise errors.DownloadUnavailable(f"{at}: {no_progress(server)}") from None
    except (aiohttp.ClientConnectorError, aiohttp.ServerFingerprintMismatch) as error:
        down = no_connection(error, at)
        raise errors.DownloadUnavailable(down.what, hint=down.hint, reached=False) from None
    except (aiohttp.ClientError, OSError, asyncio.IncompleteReadError) as error:
        raise DownloadBroke(f"{at}: {broken(error)}") from None


def no_progress(server: ServerConfig) -> str:
    """Return the words for a call that was ended because nothing moved."""
    return f"no progress for {server.stall_timeout:g} s"


# The first kind that fits applies. An OSError with a number is named by its number.
_BROKEN: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (aiohttp.ServerDisconnectedError, "the server closed the connection"),
    (AnswerTooLarge, "the answer's headers are larger than any VALT server's"),
    (aiohttp.ClientPayloadError, "the answer was cut off"),
    (asyncio.IncompleteReadError, "the answer was cut off"),
    (aiohttp.ClientResponseError, "the answer is no HTTP"),
    (aiohttp.http_exceptions.HttpProcessingError, "the answer is no HTTP"),
    (ssl.SSLError, "TLS failed in the middle of the connection"),
    (aiohttp.InvalidURL, "its address is no URL"),
    (ConnectionResetError, "the connection was reset"),
)
_BY_NUMBER: Final = {
    errno.ECONNRESET: "the connection was reset",
    errno.ECONNABORTED: "the connection was aborted",
    errno.EPIPE: "the server closed the connection",
    errno.ETIMEDOUT: "the connection timed out",
}


def broken(error: BaseException) -> str:
    """Return the words for a connection that broke. They name no class of a library."""
    number = error.errno if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) else None
    if number is not None and number > 0:
        return _BY_NUMBER.get(number) or f"the connection broke: {os.strerror(number)}"
    return next((words for kind, words in _BROKEN if isinstance(error, kind)), "the connection broke")
