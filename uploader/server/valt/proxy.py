"""The way through the proxy of ``server.proxy``, and what it means when the proxy does not pass a call on.

Calls of an https:// server go through a tunnel (CONNECT): the proxy learns its name and port, and sees nothing else.
Those of an http:// server are given to the proxy to read. The user name and the password of the proxy go to it alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final

import aiohttp
from yarl import URL

from uploader.config import ServerConfig
from uploader.domain import errors
from uploader.server.credentials import basic_authorization
from uploader.server.valt.broken import broken

LOG_IN_WANTED: Final = 407
_UNABLE: Final = frozenset({500, 502, 503, 504})  # the proxy tried, and did not reach the server
_RETRY: Final = "then type: valt-uploader retry"


class ProxyRoute:
    """What each request needs to go through the proxy; nothing where there is none."""

    def __init__(self, server: ServerConfig, password: Callable[[], str], remember: Callable[[str], None]) -> None:
        """*password* reads the password of the proxy, for each connection; *remember* gets it to mask it."""
        self._server, self._password, self._remember = server, password, remember
        self._read = ""  # the password as it was when it was last read
        self._header = ""

    def options(self, url: URL) -> dict[str, Any]:
        """Return what aiohttp needs for a request to *url*. Raises ``PasswordUnusable``."""
        if not self._server.proxy:
            return {}
        header = self._authorization()
        headers = {"Proxy-Authorization": header} if header else {}
        if url.scheme == "https":
            return {"proxy": URL(self._server.proxy), "proxy_headers": headers}
        return {"proxy": URL(self._server.proxy), "headers": headers}

    def _authorization(self) -> str:
        """Return the value of Proxy-Authorization; empty for none."""
        if not self._server.proxy_username:
            return ""
        password = self._password()
        if password != self._read or not self._header:
            self._read, self._header = password, basic_authorization(self._server.proxy_username, password)
            self._remember(password)
            self._remember(self._header.partition(" ")[2])  # some proxies repeat it in their page
        return self._header


def wants_log_in(server: ServerConfig) -> errors.ProxyRefused:
    """Return the error for a 407: the proxy wants a log-in, or another one."""
    if server.proxy_username:
        what = f"the proxy {server.proxy} refused the log-in of {server.proxy_username} (407)"
        return errors.ProxyRefused(what, hint=f"check server.proxy_username and its password, {_RETRY}")
    if server.proxy:
        hint = "set server.proxy_username and server.proxy_password_file"
        return errors.ProxyRefused(f"the proxy {server.proxy} wants a log-in (407)", hint=hint)
    return errors.ProxyRefused("a proxy on the way wants a log-in (407)", hint="set server.proxy to that proxy")


def is_of_the_server(error: Exception) -> bool:
    """True for a failure of TLS, which is with the server itself, at the other end of the tunnel."""
    if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientConnectorDNSError):
        return False
    return isinstance(error, aiohttp.ClientConnectorError | aiohttp.ServerFingerprintMismatch)


def not_passed_on(
    error: Exception, server: ServerConfig, at: str, mask: Callable[[str], str] = str
) -> errors.ServerDown:
    """Return the error for a request to *at* (scheme, host, port) that got no connection through the proxy."""
    proxy = server.proxy
    if isinstance(error, aiohttp.ClientHttpProxyError):
        status = error.status
        if status == LOG_IN_WANTED:
            return wants_log_in(server)
        phrase = next((f" {known.phrase}" for known in HTTPStatus if known == status), "")
        if status in _UNABLE:
            return errors.Unreachable(f"{at}: cannot be reached: the proxy {proxy} answered {status}{phrase}")
        what = f"the proxy {proxy} refuses to connect to {at} ({status}{phrase})"
        return errors.ProxyRefused(what, hint=f"let this machine connect there through the proxy, {_RETRY}")
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.errno
        reason = os.strerror(number) if number is not None and number > 0 else error.strerror or "no connection"
        return errors.Unreachable(f"the proxy {proxy} cannot be reached: {reason}", hint="is server.proxy right?")
    if isinstance(error, TimeoutError):
        return errors.Unreachable(f"{at}: cannot be reached through the proxy {proxy}: no connection in time")
    words = broken(error, mask).replace("the server", "it")
    return errors.Unreachable(f"{at}: cannot be reached through the proxy {proxy}: {words}")
