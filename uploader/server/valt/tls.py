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


def no_connection(error: Exception, at: str) -> errors.ServerDown:
    """Turn the failure to connect to *at* (scheme, host, port) into an error: reason, and for TLS what to do."""
    if isinstance(error, aiohttp.ServerFingerprintMismatch):
        what = f"{at}: its certificate is not the one that server.pin_sha256 names"
        return errors.ServerDown(what, hint="find out why before you change the pin: somebody may stand in between")
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _not_trusted(error.certificate_error, at)
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return _no_handshake(error.os_error, at)
    if at.startswith("https:") and isinstance(getattr(error, "os_error", None), ConnectionResetError):
        what = f"{at}: no safe connection: it was closed in the handshake"
        return errors.ServerDown(what, hint="does it speak TLS 1.2 or newer there?")
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number) if number is not None and number > 0 else str(getattr(error, "strerror", "") or "")
    return errors.Unreachable(f"{at}: cannot be reached: {reason or 'no connection'}")


# OpenSSL's X509_V_ERR_… numbers (x509_vfy.h). Any other number is about who signed it.
_EXPIRED, _NOT_YET_VALID, _OTHER_NAME, _OTHER_ADDRESS = 10, 9, 62, 64
_OF_ANOTHER: Final = "server.url must use a name that the certificate was made for, or the server needs another one"
_CERTIFICATE_HINTS: Final = {
    _EXPIRED: "renew the certificate on the server (if this machine's clock is right)",
    _NOT_YET_VALID: "set this machine's clock, or renew the certificate on the server",
    _OTHER_NAME: _OF_ANOTHER,
    _OTHER_ADDRESS: _OF_ANOTHER,
}
_UNKNOWN_ISSUER: Final = "set server.ca_file to the authority that signed it, or server.pin_sha256 to its fingerprint"


def _not_trusted(error: BaseException, at: str) -> errors.ServerDown:
    words = getattr(error, "verify_message", None) or "it cannot be checked"
    hint = _CERTIFICATE_HINTS.get(getattr(error, "verify_code", 0), _UNKNOWN_ISSUER)
    return errors.ServerDown(f"{at}: its certificate is not trusted: {words}", hint=hint)


_PLAIN: Final = "a server that speaks plain http answers on this port: use its https port in server.url"
_TOO_OLD: Final = "the server must offer TLS 1.2 or newer"
_NO_CLIENT: Final = "no client certificate can be configured: let this program pass without one"
# Parts of OpenSSL's reasons, with what they mean and what to do; the first row that fits applies.
_HANDSHAKE_HINTS: Final = (
    (("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER", "PACKET_LENGTH"), "no TLS there", _PLAIN),
    (("PROTOCOL", "INSUFFICIENT_SECURITY"), "no common TLS version", _TOO_OLD),
    (("NO_SHARED_CIPHER", "HANDSHAKE_FAILURE"), "no common cipher", _TOO_OLD),
    (("CERTIFICATE_REQUIRED", "BAD_CERTIFICATE"), "it demands a client certificate", _NO_CLIENT),
    (("EOF",), "it was closed in the handshake", "does it speak TLS 1.2 or newer there?"),
)


def _no_handshake(error: BaseException, at: str) -> errors.ServerDown:
    reason = str(getattr(error, "reason", None) or "")
    words = reason.replace("_", " ").lower()
    for parts, meaning, hint in _HANDSHAKE_HINTS:
        if any(part in reason for part in parts):
            return errors.ServerDown(f"{at}: no safe connection: {meaning} ({words})", hint=hint)
    return errors.ServerDown(f"{at}: no safe connection: {words or 'the handshake failed'}")


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
