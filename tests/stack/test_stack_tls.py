"""TLS of a real nginx: what is refused is named with its remedy, and not one request is made."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from nginx import Front
from stack import Stack, stacked
from warm import Warm

pytestmark = pytest.mark.asyncio(loop_scope="module")  # all of them share what ``warm`` has imported

NOW, DAY = datetime.now(UTC), timedelta(days=1)

NAME = "server.url must use a name that the certificate was made for, or the server needs another one"
ISSUER = "set server.ca_file to the authority that signed it, or server.pin_sha256 to its fingerprint"
CERTIFICATES: dict[str, tuple[dict[str, Any], str]] = {
    "expired": (
        {"not_before": NOW - 9 * DAY, "not_after": NOW - DAY},
        "certificate has expired; renew the certificate on the server (if this machine's clock is right)",
    ),
    "not yet valid": (
        {"not_before": NOW + DAY, "not_after": NOW + 9 * DAY},
        "certificate is not yet valid; set this machine's clock, or renew the certificate on the server",
    ),
    "for another name": (
        {"names": ("valt.example",)},
        f"IP address mismatch, certificate is not valid for '127.0.0.1'.; {NAME}",
    ),
    "of an unknown authority": (
        {},
        f"unable to get local issuer certificate; {ISSUER}",
    ),
}
HANDSHAKES = {
    "TLS 1.1 only": (
        "ssl_protocols TLSv1.1; ssl_ciphers ALL:@SECLEVEL=0;",
        "no common TLS version (tlsv1 alert protocol version); the server must offer TLS 1.2 or newer",
    ),
    "other ciphers": (
        "ssl_protocols TLSv1.2; ssl_ciphers AES128-SHA;",
        "no common cipher (sslv3 alert handshake failure); the server must offer TLS 1.2 or newer",
    ),
    "no server of that name": ("ssl_reject_handshake on;", "tlsv1 unrecognized name"),
}


async def refused(stack: Stack, words: str) -> None:
    """``once`` and ``check`` say *words*, each of them; and nothing was asked through nginx."""
    stack.record(2)
    ended = await stack.run("once")
    assert ended.code == 1
    assert ended.complaints == [f"error: {words}"]
    checked = await stack.run("check")
    assert checked.code == 1
    assert f"log-in         {words}" in checked.out
    assert stack.calls("login") == 0
    assert not any(line.path.startswith("/") for line in stack.nginx.requests())
    assert stack.kept() == set(stack.sent)


@pytest.mark.parametrize(("certificate", "words"), CERTIFICATES.values(), ids=CERTIFICATES.keys())
async def test_a_certificate_that_must_not_be_trusted_is_refused(
    tmp_path: Path, warm: Warm, certificate: dict[str, Any], words: str
) -> None:
    """With the exact reason, and the remedy for that reason only."""
    async with stacked(tmp_path, warm, certificate=certificate) as stack:
        if not certificate:
            trustme.CA().cert_pem.write_to_path(str(stack.ca))
        await refused(stack, f"{stack.nginx.url}: its certificate is not trusted: {words}")


@pytest.mark.parametrize(("server", "words"), HANDSHAKES.values(), ids=HANDSHAKES.keys())
async def test_a_handshake_that_fails_is_named(tmp_path: Path, warm: Warm, server: str, words: str) -> None:
    """With what OpenSSL says and what it means."""
    async with stacked(tmp_path, warm, Front(server=server)) as stack:
        await refused(stack, f"{stack.nginx.url}: no safe connection: {words}")


async def test_https_to_a_port_without_tls_is_named(tmp_path: Path, warm: Warm) -> None:
    """An nginx that speaks plain HTTP there gets no request."""
    async with stacked(tmp_path, warm, Front(listen="")) as stack:
        url = stack.nginx.url.replace("http:", "https:")
        stack.configure(url=url)
        words = "no TLS there (wrong version number); a server that speaks plain http answers on this port: "
        await refused(stack, f"{url}: no safe connection: {words}use its https port in server.url")


async def test_http_to_a_port_with_tls_is_named_in_the_proxys_words(tmp_path: Path, warm: Warm) -> None:
    """Nginx answers 400: the words are its own, and server.url is to be looked at."""
    async with stacked(tmp_path, warm) as stack:
        stack.configure(url=stack.nginx.url.replace("https:", "http:"))
        stack.record(1)
        ended = await stack.run("once")
        assert ended.code == 1
        (complaint,) = ended.complaints
        words = "log-in: answered 400 by something before VALT: '400 The plain HTTP request was sent to HTTPS port'; "
        assert complaint.startswith(f"error: {words}")
        assert "is server.url right?" in complaint
        assert stack.calls("login") == 0


async def test_a_demand_for_a_client_certificate_is_named_in_the_proxys_words(tmp_path: Path, warm: Warm) -> None:
    """``ssl_verify_client``: nginx answers 400 after the handshake."""
    front = Front(server="ssl_verify_client on; ssl_client_certificate @folder@/certificate.pem;")
    async with stacked(tmp_path, warm, front) as stack:
        stack.record(1)
        ended = await stack.run("once")
        assert ended.code == 1
        (complaint,) = ended.complaints
        words = "log-in: answered 400 by something before VALT: '400 No required SSL certificate was sent'"
        assert complaint.startswith(f"error: {words}")
        assert stack.calls("login") == 0
