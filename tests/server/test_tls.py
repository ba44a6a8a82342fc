"""TLS: each doubtful certificate is refused with its reason before a password is sent."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from test_client import Home

from uploader.domain import errors
from uploader.server.valt.tls import no_connection

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
EXPIRED = {"not_before": NOW - 9 * DAY, "not_after": NOW - DAY}
NOT_YET = {"not_before": NOW + DAY, "not_after": NOW + 9 * DAY}


@dataclass
class Door:
    """A TLS server that knows nothing but log-ins."""

    url: str = ""
    requests: list[bytes] = field(default_factory=list)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand out a token."""
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            body = json.dumps({"data": {"access_token": "canary-token"}}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def door(context: ssl.SSLContext) -> AsyncIterator[Door]:
    """Serve with this certificate."""
    opened = Door()
    server = await asyncio.start_server(opened.answer, "127.0.0.1", 0, ssl=context)
    async with server:
        opened.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield opened


def serving(certificate: trustme.LeafCert) -> ssl.SSLContext:
    """A server's side with this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


def pin_of(certificate: trustme.LeafCert) -> str:
    """Its fingerprint, as ``pin_sha256`` takes it."""
    return sha256(ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())).hexdigest()


async def log_in(url: str, **server: Any) -> str | None:
    """Log in there; why not, or None."""
    home = Home(url, **server)
    try:
        async with home.valt:
            await home.valt.login_if_needed()
    except errors.ServerDown as error:
        return str(error)
    return None


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """An authority that is trusted, as ``ca_file``."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return made


async def test_a_valid_certificate_is_accepted(tmp_path: Path, authority: trustme.CA) -> None:
    """Signed by the configured authority, for the address that is called."""
    async with door(serving(authority.issue_cert("127.0.0.1"))) as server:
        assert await log_in(server.url, ca_file=tmp_path / "ca.pem") is None
        assert server.requests[0].startswith(b"POST /api/v3/login HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("names", "times", "trusted", "reason", "remedy"),
    [
        (["127.0.0.1"], EXPIRED, True, "certificate has expired", "renew the certificate on the server"),
        (["127.0.0.1"], NOT_YET, True, "not yet valid", "set this machine's clock, or renew"),
        (["elsewhere.example"], {}, True, "IP address mismatch", "server.url must use a name that the certificate"),
        (["127.0.0.1"], {}, False, "unable to get local issuer", "set server.ca_file to the authority that signed it"),
    ],
)
async def test_a_doubtful_certificate_is_refused(
    tmp_path: Path,
    authority: trustme.CA,
    names: list[str],
    times: dict[str, Any],
    trusted: bool,
    reason: str,
    remedy: str,
) -> None:
    """Expired, not yet valid, for another host, of an unknown authority: reason and remedy, and no password is sent."""
    signer = authority if trusted else trustme.CA()
    async with door(serving(signer.issue_cert(*names, **times))) as server:
        said = await log_in(server.url, ca_file=tmp_path / "ca.pem")
        assert said is not None
        assert reason in said
        assert f"; {remedy}" in said
        assert ("server.ca_file" in said) is (not trusted)
        assert server.requests == []


@pytest.mark.parametrize(
    ("reason", "words", "remedy"),
    [
        ("TLSV1_ALERT_PROTOCOL_VERSION", "no common TLS version", "the server must offer TLS 1.2 or newer"),
        ("UNSUPPORTED_PROTOCOL", "no common TLS version", "the server must offer TLS 1.2 or newer"),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", "no common cipher", "the server must offer TLS 1.2 or newer"),
        ("WRONG_VERSION_NUMBER", "no TLS there", "speaks plain http"),
        ("TLSV13_ALERT_CERTIFICATE_REQUIRED", "it demands a client certificate", "pass without one"),
        ("UNEXPECTED_EOF_WHILE_READING", "it was closed in the handshake", "does it speak TLS 1.2"),
        ("SOMETHING_NEW", "something new", ""),
        (None, "the handshake failed", ""),
    ],
)
def test_the_reason_of_openssl_is_said(reason: str | None, words: str, remedy: str) -> None:
    """With what it means and what to do; never with the name of a class."""
    cause = ssl.SSLError(1, "[SSL] (_ssl.c:1006)")
    cause.reason = reason  # type: ignore[assignment]
    key: Any = SimpleNamespace(ssl=True, host="valt", port=443, is_ssl=True)
    error = no_connection(aiohttp.ClientConnectorSSLError(key, cause), "https://valt:443")
    assert str(error).startswith(f"https://valt:443: no safe connection: {words}")
    assert remedy in error.hint


def self_signed(folder: Path) -> tuple[ssl.SSLContext, str, Path]:
    """What an appliance makes for itself: the server's side, its fingerprint, and the certificate as a file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "valt appliance")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = folder / "self.pem", folder / "self.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, secret)
    return context, sha256(made.public_bytes(serialization.Encoding.DER)).hexdigest(), certificate


async def test_a_self_signed_certificate_is_accepted_by_ca_file_or_pin(tmp_path: Path) -> None:
    """Without ``ca_file`` or ``pin_sha256`` it is refused."""
    context, pin, certificate = self_signed(tmp_path)
    async with door(context) as server:
        said = await log_in(server.url)
        assert said is not None
        assert "self-signed certificate" in said
        assert server.requests == []
        assert await log_in(server.url, ca_file=certificate) is None
        assert await log_in(server.url, pin_sha256=pin) is None


async def test_a_certificate_other_than_the_pinned_one_is_refused(authority: trustme.CA) -> None:
    """No request is made, and the reason says that somebody may be in between."""
    async with door(serving(authority.issue_cert("127.0.0.1"))) as server:
        said = await log_in(server.url, pin_sha256="00" * 32)
        assert said is not None
        assert "not the one that server.pin_sha256 names; find out why before you change the pin" in said
        assert server.requests == []


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
@pytest.mark.parametrize("mode", ["checked", "pinned", "unchecked"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_tls_1_0_and_1_1_are_always_refused(
    tmp_path: Path, authority: trustme.CA, version: ssl.TLSVersion, mode: str
) -> None:
    """Also with a pin or ``tls_verify = false``."""
    certificate = authority.issue_cert("127.0.0.1")
    context = serving(certificate)
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    modes: dict[str, dict[str, Any]] = {
        "checked": {"ca_file": tmp_path / "ca.pem"},
        "pinned": {"pin_sha256": pin_of(certificate)},
        "unchecked": {"tls_verify": False},
    }
    async with door(context) as server:
        said = await log_in(server.url, **modes[mode])
        assert said is not None
        assert "no safe connection" in said
        assert "TLS 1.2 or newer" in said
        assert server.requests == []


async def test_a_server_that_speaks_no_tls_is_named_so() -> None:
    """An https:// URL with the port of a plain server."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        said = await log_in(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert said is not None
    assert "no safe connection: no TLS there" in said
    assert "speaks plain http" in said
    assert re.search(r"[a-z][A-Z]|Error", said.replace("VALT", "")) is None  # no class of a library


@pytest.mark.parametrize("mode", ["checked", "pinned", "unchecked"])
async def test_tls_keys_are_not_logged(
    tmp_path: Path, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """``$SSLKEYLOGFILE`` is ignored, as whoever reads that file reads the token."""
    log = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    certificate = authority.issue_cert("127.0.0.1")
    modes: dict[str, dict[str, Any]] = {
        "checked": {"ca_file": tmp_path / "ca.pem"},
        "pinned": {"pin_sha256": pin_of(certificate)},
        "unchecked": {"tls_verify": False},
    }
    async with door(serving(certificate)) as server:
        assert await log_in(server.url, **modes[mode]) is None
    written = log.read_text() if log.exists() else ""
    assert [line for line in written.splitlines() if not line.startswith("#")] == []
