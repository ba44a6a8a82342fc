"""Calls through a proxy: encrypted to the server, its log-in never shown, each of its refusals named as the proxy's."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from connect_proxy import ConnectProxy, connect_proxy
from fakes import MemoryDisk, VirtualClock
from process import at_work, sha256
from sources import Blocks
from test_broken import ANSWERS, assert_plain, good_answer, http
from test_client import IDS, SPEC, Home
from test_origin import CALLS
from test_tls import DAY, NOW, log_in, pin_of, serving

from uploader.config import load
from uploader.domain import errors, events, retry
from uploader.domain.model import RecordIds
from uploader.runtime.log import MASK
from uploader.server.circuit_breaker import CircuitBreaker
from uploader.server.reachability import connects_to
from uploader.server.valt import client
from uploader.store import Store

PASSWORD = "canary-pröxy"
LOG_IN = base64.b64encode(f"ours:{PASSWORD}".encode()).decode()


class Through(Home):
    """A client before a proxy that wants a log-in."""

    def __init__(self, url: str, proxy: str, *, user: str = "ours", **server: Any) -> None:
        super().__init__(url, proxy=proxy, proxy_username=user, **server)
        self.valt._session._route._password = lambda: PASSWORD


@asynccontextmanager
async def https_server(certificate: trustme.LeafCert, seen: list[bytes]) -> AsyncIterator[str]:
    """A VALT server over TLS that answers every call well, also those to a download link."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                seen.append(head)
                length = re.search(rb"(?i)content-length: (\d+)", head)
                await reader.readexactly(int(length[1]) if length else 0)
                line = head.partition(b"\r\n")[0]
                if b"records/download" in line:
                    writer.write(http(json.dumps({"url": f"{url[0]}/distribution/x.mp4?access_token=jwt"}).encode()))
                elif b"/distribution/" in line:
                    writer.write(http(b"video", b"Content-Type: video/mp4"))
                else:
                    writer.write(http(good_answer(line)))
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=serving(certificate))
    url = [f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"]
    async with server:
        yield url[0]


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    """An authority that is trusted, as ``ca_file``."""
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return made


async def test_all_calls_and_downloads_go_through_the_tunnel_and_the_proxy_reads_nothing(
    tmp_path: Path, authority: trustme.CA
) -> None:
    """It sees host and port. Its log-in goes to it alone."""
    seen: list[bytes] = []
    assert ANSWERS
    async with (
        https_server(authority.issue_cert("127.0.0.1"), seen) as url,
        connect_proxy(ConnectProxy("ours", PASSWORD)) as proxy,
    ):
        home = Through(url, proxy.url, ca_file=tmp_path / "ca.pem")
        async with home.valt:
            for call in CALLS.values():
                await call(home)
            assert [block async for block in home.valt.download(IDS)] == [b"video"]
            assert await home.valt.video_size(IDS) == 5
        assert {line.split()[0] for line in proxy.lines} == {"CONNECT"}
        assert {line.split()[1] for line in proxy.lines} == {url.removeprefix("https://")}
        assert len(seen) >= len(CALLS) + 3
        for secret in (b"canary-password", b"canary-token", b"/api/v3", b"access_token"):
            assert secret not in bytes(proxy.clear)
        assert not [head for head in seen if b"roxy-" in head or LOG_IN.encode() in head]
        assert PASSWORD in home.secrets
        assert LOG_IN in home.secrets


async def test_the_certificate_is_checked_through_the_tunnel(tmp_path: Path, authority: trustme.CA) -> None:
    """By its authority, its name, its date, its pin: a proxy that reads along is found out before a password goes."""
    good, seen = authority.issue_cert("127.0.0.1"), list[bytes]()
    ca, pin = {"ca_file": tmp_path / "ca.pem"}, {"pin_sha256": pin_of(good)}
    async with https_server(good, seen) as url, connect_proxy() as proxy:
        through = {"proxy": proxy.url}
        assert await log_in(url, **ca, **through) is None
        assert await log_in(url, **pin, **through) is None
        count = len(seen)
        said = await log_in(url, **through)
        assert said is not None
        assert said.startswith(f"{url}: its certificate is not trusted: ")
        said = await log_in(url, pin_sha256="00" * 32, **through)
        assert said is not None
        assert said.startswith(f"{url}: its certificate is not the one that server.pin_sha256 names")
        assert len(seen) == count
        for other in (
            authority.issue_cert("elsewhere.example"),
            authority.issue_cert("127.0.0.1", not_before=NOW - 9 * DAY, not_after=NOW - DAY),
        ):
            async with https_server(other, seen) as another:
                said = await log_in(another, **ca, **through)
                assert said is not None
                assert said.startswith(f"{another}: its certificate is not trusted: ")
        assert len(seen) == count


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
async def test_old_tls_is_refused_through_the_tunnel(tmp_path: Path, authority: trustme.CA) -> None:
    """As without a proxy."""
    context = serving(authority.issue_cert("127.0.0.1"))
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context)
    async with server, connect_proxy() as proxy:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        said = await log_in(url, ca_file=tmp_path / "ca.pem", proxy=proxy.url)
    assert said is not None
    assert "no safe connection" in said


REFUSALS: list[tuple[dict[str, Any], str, str, type[errors.ServerDown]]] = [
    ({"user": "other"}, "ours", "the proxy {proxy} refused the log-in of ours (407); check", errors.ProxyRefused),
    ({"user": "other"}, "", "the proxy {proxy} wants a log-in (407); set server.proxy_user", errors.ProxyRefused),
    ({"refuses": 403}, "ours", "the proxy {proxy} refuses to connect to {url} (403 Forbidden)", errors.ProxyRefused),
    ({"refuses": 405}, "ours", "the proxy {proxy} refuses to connect to {url} (405 Method", errors.ProxyRefused),
    ({"refuses": 502}, "ours", "{url}: cannot be reached: the proxy {proxy} answered 502 Bad Gat", errors.Unreachable),
    ({"refuses": 503}, "ours", "{url}: cannot be reached: the proxy {proxy} answered 503 Service", errors.Unreachable),
    ({"breaks": True}, "ours", "{url}: cannot be reached through the proxy {proxy}: it closed", errors.Unreachable),
    ({"silent": True}, "ours", "{url}: cannot be reached through the proxy {proxy}: no connec", errors.Unreachable),
]


@pytest.mark.parametrize(("kind", "user", "words", "error"), REFUSALS)
async def test_what_the_proxy_refuses_is_named_as_the_proxys_and_leaves_no_doubt(
    kind: dict[str, Any], user: str, words: str, error: type[errors.ServerDown], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every call: no byte of it has reached the server. Its page is not shown: it may hold anything."""
    monkeypatch.setattr(client, "CONNECT_TIMEOUT", 0.2)
    page = f"<html><title>{PASSWORD} {LOG_IN}</title></html>".encode()
    async with connect_proxy(ConnectProxy(**kind, page=page)) as proxy:
        url = "https://valt.example.com:8443"
        home = Through(url, proxy.url, user=user)
        async with home.valt:
            for name, call in CALLS.items():
                home.valt._token = None if name == "login" else client._Token("canary-token", 1e9)
                with pytest.raises(errors.ServerDown) as caught:
                    await call(home)
                assert type(caught.value) is error
                assert str(caught.value).startswith(words.format(proxy=proxy.url, url=url))
                assert_plain(str(caught.value))
                assert PASSWORD not in str(caught.value)
                assert LOG_IN not in str(caught.value)


async def test_a_proxy_that_is_away_is_named_by_its_own_address() -> None:
    """A closed port, and a name that does not resolve."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{free.getsockname()[1]}"
        for proxy, reason in ((away, "Connection refused"), ("http://proxy.invalid:3128", "")):
            home = Through("https://valt.example.com", proxy)
            async with home.valt:
                with pytest.raises(errors.Unreachable) as caught:
                    await home.valt.login_if_needed()
                assert str(caught.value).startswith(f"the proxy {proxy} cannot be reached: {reason}")
                assert str(caught.value).endswith("is server.proxy right?")


async def test_a_link_that_the_proxy_refuses_says_so(tmp_path: Path, authority: trustme.CA) -> None:
    """Many proxies allow tunnels to port 443 alone, and VALT's downloads are on port 8000."""
    async with https_server(authority.issue_cert("127.0.0.1"), []) as url, connect_proxy() as proxy:
        home = Through(url, proxy.url, ca_file=tmp_path / "ca.pem")
        async with home.valt:

            async def link(ids: RecordIds) -> str:
                del ids
                proxy.refuses = 403
                return "https://127.0.0.1:1/x.mp4?access_token=jwt"

            await home.valt.login_if_needed()
            home.valt.download_link = link  # type: ignore[method-assign]
            with pytest.raises(errors.DownloadUnavailable) as caught:
                await home.valt.video_size(IDS)
            assert str(caught.value).startswith(f"the proxy {proxy.url} refuses to connect to https://127.0.0.1:1 (403")
            assert not caught.value.reached


async def test_a_plain_server_is_called_through_the_proxy_too() -> None:
    """With the whole URL. A 407 is the proxy's there, as well."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
        seen.append(head)
        writer.write(http(good_answer(head.partition(b"\r\n")[0]), b"Connection: close"))
        writer.close()

    seen: list[bytes] = []
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server, connect_proxy(ConnectProxy("ours", PASSWORD)) as proxy:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        home = Through(url, proxy.url)
        async with home.valt:
            await home.valt.create_record(SPEC)
            await home.valt.send_chunk(
                IDS, "a.mp4", (0, 4, 4), Blocks(b"data"), before_last_byte=_nothing, on_progress=lambda _: None
            )
        assert proxy.lines[0] == f"POST {url}/api/v3/login"
        assert len(seen) == 3
        assert not [head for head in seen if b"roxy-" in head]
        proxy.password = "another"
        async with Through(url, proxy.url).valt as valt:
            with pytest.raises(errors.ProxyRefused, match="refused the log-in of ours"):
                await valt.login_if_needed()


async def _nothing() -> None:
    """Save no mark."""


async def test_a_changed_password_of_the_proxy_is_used_at_the_next_connection() -> None:
    """Without a restart."""
    async with connect_proxy(ConnectProxy("ours", "new")) as proxy:
        home = Through("https://127.0.0.1:9", proxy.url)
        async with home.valt:
            with pytest.raises(errors.ProxyRefused):
                await home.valt.login_if_needed()
            home.valt._session._route._password = lambda: "new"
            with pytest.raises(errors.ServerDown) as caught:
                await home.valt.login_if_needed()
            assert not isinstance(caught.value, errors.ProxyRefused)


async def test_a_refused_log_in_at_the_proxy_is_not_repeated_for_minutes() -> None:
    """An account of a directory may be behind it, which others use, too."""
    clock = VirtualClock()
    bus = events.Bus()
    breaker = CircuitBreaker(Store(MemoryDisk(), clock, bus), clock, bus)
    assert await breaker.trip(errors.ProxyRefused("407")) >= retry.OUTAGE_PAUSE_CAP / 2


async def test_the_bare_connect_goes_the_same_way(authority: trustme.CA) -> None:
    """It is a tunnel to an https:// server, with the proxy's log-in; to an http:// server a connection to the proxy."""
    async with https_server(authority.issue_cert("127.0.0.1"), []) as url, connect_proxy() as proxy:
        assert await connects_to(url, proxy=proxy.url)()
        assert proxy.lines == [f"CONNECT {url.removeprefix('https://')}"]
        assert not await connects_to("https://127.0.0.1:1", proxy=proxy.url)()
        proxy.user, proxy.password = "ours", PASSWORD
        assert not await connects_to(url, proxy=proxy.url)()
        assert await connects_to(url, proxy=proxy.url, log_in=lambda: f"Basic {LOG_IN}")()

        def unusable() -> str:
            raise errors.PasswordUnusable("is empty")

        assert not await connects_to(url, proxy=proxy.url, log_in=unusable)()
        before = len(proxy.lines)
        assert await connects_to("http://127.0.0.1:1", proxy=proxy.url)()
        assert len(proxy.lines) == before
    assert not await connects_to(url, proxy=proxy.url)()


# The configuration


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        ("http://user:canary-word@proxy:3128", "has a user or a password in it"),
        ("user@proxy", "has a user or a password in it"),
        ("https://proxy:3128", "https:// to the proxy is not supported; use its http:// port"),
        ("socks5://proxy:1080", "expected only http://, host and port"),
        ("http://proxy:3128/path?canary-word", "expected only http://, host and port"),
        ("http://proxy:99999", "expected only http://, host and port"),
        ("pro xy", "expected only http://, host and port"),
    ],
)
def test_a_proxy_is_an_address_and_nothing_else(tmp_path: Path, proxy: str, words: str) -> None:
    """What else is in it may be a password, so it is not repeated."""
    environ = {"VALT_UPLOADER_SERVER__URL": "https://valt", "VALT_UPLOADER_SERVER__USERNAME": "u"}
    with pytest.raises(errors.ConfigError) as caught:
        load(None, environ | {"VALT_UPLOADER_SERVER__PROXY": proxy}, need_watch=False)
    assert words in str(caught.value)
    assert "VALT_UPLOADER_SERVER__PROXY" in str(caught.value)
    assert "canary-word" not in str(caught.value)


def test_keys_of_the_proxy_without_a_proxy_are_faults(tmp_path: Path) -> None:
    """They would have no effect. Without a scheme the proxy is http://."""
    environ = {"VALT_UPLOADER_SERVER__URL": "https://valt", "VALT_UPLOADER_SERVER__USERNAME": "u"}
    user = {"VALT_UPLOADER_SERVER__PROXY_USERNAME": "ours"}
    with pytest.raises(errors.ConfigError, match=r"PROXY_USERNAME: has no effect without server\.proxy"):
        load(None, environ | user, need_watch=False)
    config = load(None, environ | user | {"VALT_UPLOADER_SERVER__PROXY": "proxy.example:3128"}, need_watch=False)
    assert config.server.proxy == "http://proxy.example:3128"


# The whole program


async def test_files_are_sent_through_a_proxy_and_its_password_is_nowhere(tmp_path: Path) -> None:
    """``check`` says so, ``once`` sends, and no log, state, status or process list shows the password."""
    async with at_work(tmp_path) as site, connect_proxy(ConnectProxy("ours", PASSWORD)) as proxy:
        secret = tmp_path / "proxy-password"
        secret.write_text(f"{PASSWORD}\n", encoding="utf-8")
        secret.chmod(0o600)
        key = f'password_file = "{site.password}"\nproxy = "{proxy.url}"\nproxy_username = "ours"\n'
        key += f'proxy_password_file = "{secret}"'
        site.configure(server=key, more='[log]\nlevel = "debug"')
        file = site.record("a.mp4")
        check = await site.run("check", environ={"HTTPS_PROXY": "http://u:canary-env@elsewhere:1", "no_proxy": "x"})
        assert check.code == 0
        assert f"calls go through {proxy.url}, user ours; what is sent is readable by the proxy" in check.out
        assert f"HTTPS_PROXY, no_proxy are set and not used: only server.proxy counts, {proxy.url}" in check.out
        ended = await site.run("once")
        assert ended.code == 0, ended
        assert [record.sha256 for record in site.simulator.records()] == [sha256(file)]
        assert [line for line in proxy.lines if "/api/v3/records/create-upload" in line]
        status = await site.run("status", "--json")
        assert json.loads(status.out)["proxy"] == proxy.url
        secret.write_text("wrong-canary\n", encoding="utf-8")
        site.record("b.mp4")
        failed = await site.run("once")
        assert failed.code == 1
        assert f"the proxy {proxy.url} refused the log-in of ours (407)" in failed.err
        everything = "".join(each.out + each.err for each in (check, ended, status, failed))
        everything += "".join(path.read_text("utf-8") for path in site.state.iterdir() if path.is_file())
        for word in (PASSWORD, LOG_IN, "canary-env", "wrong-canary", "Basic "):
            assert word not in everything
        assert MASK not in failed.err


async def test_a_password_that_cannot_be_used_ends_every_command_that_sends_as_a_bad_configuration(
    tmp_path: Path,
) -> None:
    """Of the account or of the proxy: before any log-in. A reload keeps the old configuration."""
    async with at_work(tmp_path) as site:
        file = site.record("a.mp4")
        good = site.password.read_bytes()
        for odd, words in ((b"canary \n", "ends with a blank"), ("canary".encode("utf-16"), "is not UTF-8 text, but")):
            site.password.write_bytes(odd)
            for command in (("run",), ("once",), ("upload", str(file))):
                ended = await site.run(*command)
                assert ended.code == 2
                (complaint,) = ended.complaints
                assert f"server.password_file {site.password} {words}" in complaint
                assert "canary" not in ended.out + ended.err
            check = await site.run("check")
            assert check.code == 1
            assert words in check.out
        assert not site.simulator.calls
        site.password.write_bytes(good)
        daemon = await site.start("run")
        await daemon.event("upload-finished")
        log_ins = sum(call.name == "login" for call in site.simulator.calls)
        site.password.write_bytes(b"two\nlines\n")
        daemon.send(signal.SIGHUP)
        rejected = await daemon.event("config-rejected")
        assert "has more than one line" in json.dumps(rejected)
        site.record("b.mp4")
        await daemon.event("upload-finished", file="kept", path=str(site.recordings / "b.mp4"))
        assert sum(call.name == "login" for call in site.simulator.calls) == log_ins
        assert (await daemon.stop()).code == 0
