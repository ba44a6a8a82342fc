"""TLS settings of the client, and the errors of a connection that was never made.

Never allows a version before TLS 1.2, nor less security than was configured: password and recordings would be exposed.
"""

from __future__ import annotations

import os
import ssl
from typing import Final

import aiohttp

from uploader.config import ServerConfig
from uploader.domain import errors


def no_connection(error: Exception, server: ServerConfig) -> errors.ServerDown:
    """Turn the failure to connect into an error: origin and reason, and for TLS what to do."""
    if isinstance(error, aiohttp.ServerFingerprintMismatch):
        what = f"{server.url}: its certificate is not the one that server.pin_sha256 names"
        return errors.ServerDown(what, hint="find out why before you change the pin: somebody may stand in between")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        what = f"{server.url}: its certificate is not trusted: {_tls_words(error.certificate_error)}"
        return errors.ServerDown(what, hint=_TLS_HINT)
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return errors.ServerDown(f"{server.url}: no safe connection: {_tls_words(error)}")
    if server.url.startswith("https:") and isinstance(getattr(error, "os_error", None), ConnectionResetError):
        what = f"{server.url}: no safe connection: it was closed in the handshake"
        return errors.ServerDown(what, hint="does it speak TLS 1.2 or newer there?")
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number) if number is not None and number > 0 else str(getattr(error, "strerror", "") or "")
    return errors.Unreachable(f"{server.url}: cannot be reached: {reason or 'no connection'}")


_TLS_HINT: Final = "set server.ca_file to the authority that signed it, or server.pin_sha256 to its fingerprint"


def _tls_words(error: BaseException) -> str:
    return getattr(error, "verify_message", None) or getattr(error, "reason", None) or type(error).__name__


def tls_of(server: ServerConfig) -> ssl.SSLContext | aiohttp.Fingerprint:
    """Make the TLS settings: TLS 1.2 and above, host name checked, unless the operator has said otherwise."""
    if server.pin_sha256 and server.tls_verify:
        return aiohttp.Fingerprint(bytes.fromhex(server.pin_sha256))  # with aiohttp's context: TLS 1.2, no key log
    context = ssl.create_default_context(cafile=None if server.ca_file is None else str(server.ca_file))
    if not server.tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.keylog_filename = None  # type: ignore[assignment]  # undo SSLKEYLOGFILE; typeshed wants a str
    return context
