"""No password, token or link is in any output, log, state, ledger or process list, whatever goes wrong."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from process import PROCESS_TIMEOUT, Ended, Process, Site, at_work, until

from uploader.testing.simulator import CallName, Fault, FaultKind, Settings

PASSWORD = 'canary-Pässword%20&+"x'
TOKEN = "canary-token"
LOUD = {"VALT_UPLOADER_LOG__LEVEL": "debug"}
FORMS = ("canary", "Pässword", "P\\u00e4ssword", "P%C3%A4ssword")
CALLS: tuple[CallName, ...] = ("login", "create", "upload", "details", "list", "link", "delete", "version")
KINDS: tuple[FaultKind, ...] = (
    "cut-body",
    "lose-answer",
    "late",
    "status",
    "store-then-status",
    "garbage",
    "stall",
    "slow",
    "expire-token",
)
URL = f"/api/v3/records?access_token={TOKEN}-0-9&password={PASSWORD}"
ECHOES = (
    f"<html><title>{URL}</title></html>",
    json.dumps({"detail": f"no route for {URL}"}),
    json.dumps({"data": {"message": f"{TOKEN}-0-9"}, "code": 400}),
    json.dumps({"error": {"code": 401, "message": PASSWORD}}),
    json.dumps({"data": f"access_token%3D{TOKEN}-1-9"}),
    f"{TOKEN}-0-9 {PASSWORD}",
)


@pytest.fixture
def secret_numbers(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Make each token and link unique. Yields the number of the next one."""
    number = itertools.count()
    monkeypatch.setattr("secrets.token_urlsafe", lambda _: f"{TOKEN}-{next(number)}-9")
    return number


@pytest.fixture
def secret_token(monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the server give one token only, so that answers can repeat a secret of their receiver."""
    monkeypatch.setattr("secrets.token_urlsafe", lambda _: f"{TOKEN}-0-9")
    return f"{TOKEN}-0-9"


class Evidence:
    """Collects all that a process prints or leaves behind, and finds secrets in it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._places: dict[str, bytes] = {}

    def said(self, what: str, ended: Ended, *, secret_out: bool = False) -> Ended:
        """Keep what a command said; *secret_out*: but for its standard output, which is a secret on purpose."""
        self._places[f"{what} {len(self._places)}"] = (("" if secret_out else ended.out) + ended.err).encode()
        return ended

    async def run(self, command: str, *arguments: str | Path) -> Ended:
        """Run a command, its log at debug, and keep what it said."""
        return self.said(command, await self._site.run(command, *arguments, environ=LOUD))

    async def process(self, process: Process) -> None:
        """Keep what the process list shows."""
        for name in ("cmdline", "status", "comm"):
            self._places[f"/proc/{name}"] = await asyncio.to_thread(Path(f"/proc/{process.pid}/{name}").read_bytes)

    def kept(self) -> None:
        """Keep every byte of the state folder as it is now."""
        for path in self._site.state.iterdir():
            if path.is_file():
                self._places[f"{path.name} {len(self._places)}"] = path.read_bytes()

    def is_clean(self) -> None:
        """No secret in any form anywhere."""
        assert any(place.startswith("state.json") for place in self._places)
        for place, content in self._places.items():
            for secret in FORMS:
                assert secret.encode() not in content, f"{secret} in {place}: {content.decode('utf-8', 'replace')}"


async def test_no_secret_leaves_the_daemon(tmp_path: Path, secret_numbers: Any) -> None:
    """With the log at debug, answers that repeat the request's URL, and every command that asks the daemon."""
    async with at_work(tmp_path, Settings(password=PASSWORD, processing=0.0), upload="drain = '1s'") as site:
        evidence = Evidence(site)
        files = [site.record("a.mp4"), site.record("b.mp4")]
        daemon = await site.start("run", environ=LOUD)
        await daemon.event("logged-in")
        await evidence.process(daemon)
        site.simulator.faults += [
            Fault(call="create", kind="status", status=502, body=ECHOES[0]),
            Fault(call="upload", kind="status", status=404, body=ECHOES[1]),
            Fault(call="upload", kind="lose-answer"),
            Fault(call="upload", kind="expire-token"),
            Fault(call="upload", kind="status", status=400, body=ECHOES[2], skip=1),
            Fault(call="link", kind="status", status=500, body=ECHOES[4]),
        ]
        async with asyncio.timeout(PROCESS_TIMEOUT):
            await asyncio.gather(*(fault.struck.wait() for fault in site.simulator.faults if fault.call == "upload"))
        evidence.kept()
        for command in ("status --json", f"explain {files[0]}", "pause", "resume", "check --probe"):
            await evidence.run(*command.split())
        evidence.said("link", await site.run("link", files[0], environ=LOUD), secret_out=True)
        for command, path in zip(("retry", "forget"), files, strict=True):
            await evidence.run(command, path)
        evidence.said("run", await daemon.stop())
        assert next(secret_numbers) > 3
        evidence.kept()
        evidence.is_clean()


async def test_no_secret_leaves_a_command(tmp_path: Path, secret_numbers: Any) -> None:
    """Every command that works by itself, also with a refused password; only ``link`` prints its link."""
    async with at_work(tmp_path, Settings(password=PASSWORD, processing=0.0)) as site:
        evidence = Evidence(site)
        path = site.record("a.mp4")
        site.simulator.faults.append(Fault(call="create", kind="status", status=400, body=ECHOES[5]))
        for command in ("once", "status", f"explain {path}", "retry", "once"):
            await evidence.run(*command.split())
            evidence.kept()
        for command in ("ledger --verify --download", f"upload {site.record('c.mp4')}"):
            assert (await evidence.run(*command.split())).code == 0
        link = evidence.said("link", await site.run("link", path, environ=LOUD), secret_out=True)
        assert TOKEN in link.out
        site.password.write_text(f"{PASSWORD}?")
        for command in ("once", "once", "check"):
            assert (await evidence.run(command)).code == 1
        assert next(secret_numbers) > 3
        evidence.kept()
        evidence.is_clean()


@pytest.mark.parametrize("kind", KINDS)
async def test_no_failed_call_shows_a_secret(tmp_path: Path, secret_token: str, kind: FaultKind) -> None:
    """Each call fails in this way, with a body that repeats the secrets in another form each time."""
    assert secret_token in ECHOES[0]
    settings = Settings(password=PASSWORD, processing=0.2)
    async with at_work(tmp_path, settings, server='stall_timeout = "300ms"', upload="drain = '1s'") as site:
        evidence = Evidence(site)
        for number, call in enumerate(CALLS):
            status = (502, 400, 401, 500, 403)[number % 5]
            site.simulator.faults.append(
                Fault(call=call, kind=kind, status=status, body=ECHOES[number % 6], seconds=0.5, rate=1e7)
            )
        for name in ("a.mp4", "b.mp4", "c.mp4"):
            site.record(name)
        daemon = await site.start("run", environ=LOUD)
        struck = [fault for fault in site.simulator.faults if fault.call in {"login", "create", "upload", "details"}]
        async with asyncio.timeout(PROCESS_TIMEOUT):
            await asyncio.gather(*(fault.struck.wait() for fault in struck))
        evidence.kept()
        evidence.said("status", await site.run("status", "--json", environ=LOUD))
        evidence.said("check", await site.run("check", environ=LOUD))
        evidence.said("run", await daemon.stop())
        evidence.kept()
        evidence.is_clean()


@pytest.mark.parametrize(("call", "status"), [("login", 302), ("create", 400), ("upload", 404)])
async def test_parking_reasons_hold_no_secret(tmp_path: Path, secret_token: str, call: CallName, status: int) -> None:
    """A refusal whose words become the reason in state and status repeats the secrets."""
    async with at_work(tmp_path, Settings(password=PASSWORD, processing=0.0)) as site:
        evidence = Evidence(site)
        host = "elsewhere" if call == "login" else secret_token  # before the first log-in it is no secret
        for body in ECHOES:
            headers = {"Location": f"https://{host}.example/{PASSWORD}"} if status == 302 else {}
            site.simulator.faults.append(
                Fault(call=call, kind="status", status=status, body=body, headers=headers, times=2)
            )
        site.record("a.mp4")
        daemon = await site.start("run", environ=LOUD)
        await until(lambda: any("why" in line or "reason" in line for line in daemon.err), "a reason")
        evidence.kept()
        evidence.said("status", await site.run("status", environ=LOUD))
        evidence.said("run", await daemon.stop())
        evidence.kept()
        evidence.is_clean()


CRASH = """
import sys
from uploader.server.valt.client import Valt
from uploader.stages.orphan_cleanup import OrphanCleanup

async def fault(self, *_, **__):
    token = await self._token_now()
    raise RuntimeError(f"GET {self._url('/records', token)} with {self._password()}, {token.value}, {token}") from (
        ValueError(f"token={token.value}")
    )

async def crash(self):
    await self._clock.sleep(0.5)
    await fault(self._valt)

Valt.create_record = fault
if "crash" in sys.argv[1]:
    OrphanCleanup.run = crash
del sys.argv[1]
sys.argv[0] = "valt-uploader"
from uploader.__main__ import main
main()
"""


@pytest.mark.parametrize("how", ["fault", "crash"])
async def test_a_trace_back_holds_no_secret(tmp_path: Path, secret_token: str, how: str) -> None:
    """An error whose text is all secrets: in one file's upload, and one that ends the daemon."""
    assert secret_token in ECHOES[0]
    async with at_work(tmp_path, Settings(password=PASSWORD, processing=0.0)) as site:
        evidence = Evidence(site)
        site.record("a.mp4")
        program = (sys.executable, "-c", CRASH, how)
        daemon = await site.start("run", program=program, environ=LOUD)
        if how == "fault":
            told = await daemon.event("fault")
            await daemon.event("upload-parked")
            evidence.kept()
            evidence.said("run", await daemon.stop())
        else:
            ended = evidence.said("run", await daemon.ended())
            assert ended.code == 1
            told = daemon.events("uncaught exception")[0]
            evidence.kept()
        assert "RuntimeError: GET" in told["trace"]
        assert "***" in told["trace"]
        evidence.is_clean()


async def test_other_processes_cannot_read_the_daemon_s_memory(tmp_path: Path) -> None:
    """Not even of its user; it writes no core dump and no TLS keys."""
    async with at_work(tmp_path) as site:
        environ = {"SSLKEYLOGFILE": str(tmp_path / "keys")}
        daemon = await site.start("run", environ=environ)
        await daemon.event("started")
        owner = await asyncio.to_thread(lambda: os.stat(f"/proc/{daemon.pid}/environ").st_uid)  # noqa: PTH116
        assert owner == 0  # whoever runs it: that is what not *dumpable* looks like
        program = (sys.executable, "-c", DUMPABLE)
        ended = await site.run_bare(program=program, environ=environ)
        assert ended.out.split() == ["1", "0", "None"]


DUMPABLE = """
import ctypes, os
from uploader.runtime.hardening import harden
libc = ctypes.CDLL(None)
print(libc.prctl(3, 0, 0, 0, 0))
harden(os.environ)
print(libc.prctl(3, 0, 0, 0, 0), os.environ.get("SSLKEYLOGFILE"))
"""
