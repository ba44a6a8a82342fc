"""No password, token or link in any output, log, state, ledger or process list, whatever goes wrong."""

from __future__ import annotations

import asyncio
import itertools
from pathlib import Path

import pytest
from process import PATIENCE, Ended, Site, at_work

from uploader.simulator import Fault, Settings

PASSWORD = 'canary-Pässword%20&+"x'
TOKEN = "canary-token"


def faults() -> list[Fault]:
    """Answers that repeat our own URL, in each shape that failures have, and ends without an answer."""
    url = f"/api/v3/records?access_token={TOKEN}-0-9&password={PASSWORD}"
    return [
        Fault(call="create", kind="status", status=502, body=f"<html><title>{url}</title></html>"),
        Fault(call="upload", kind="status", status=404, body=f'{{"detail": "no route for {url}"}}'),
        Fault(call="upload", kind="lose-answer"),
        Fault(call="upload", kind="expire-token"),
        Fault(call="upload", kind="status", status=400, body=f'{{"data": {{"message": "{TOKEN}-0-9"}}}}', skip=1),
        Fault(call="link", kind="status", status=500, body=f"access_token%3D{TOKEN}-1-9"),
    ]


async def command_line(process_id: int) -> bytes:
    """What the process list shows."""
    return await asyncio.to_thread(Path(f"/proc/{process_id}/cmdline").read_bytes)


async def driven(site: Site) -> tuple[list[Ended], bytes]:
    """Drive every command that logs in, with the log at debug; what they said, and what the process list showed."""
    environ = {"VALT_UPLOADER_LOG__LEVEL": "debug"}
    files = [site.record("a.mp4"), site.record("b.mp4")]
    daemon = await site.start("run", environ=environ)
    await daemon.event("logged-in")
    shown = await command_line(daemon.pid)
    site.simulator.faults += faults()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*(fault.struck.wait() for fault in site.simulator.faults if fault.call == "upload"))
    said = [await site.run("status", "--json", environ=environ), await site.run("check", environ=environ)]
    said.append(await site.run("explain", files[0], environ=environ))
    said.append(await site.run("link", files[0], environ=environ))
    said.append(await daemon.stop())
    said.append(await site.run("once", environ=environ))
    said.append(await site.run("ledger", "--verify", "--download", environ=environ))
    site.password.write_text(f"{PASSWORD}?")
    said.append(await site.run("once", environ=environ))
    return said, shown


async def test_no_secret_leaves_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every byte of what was said and kept is searched for a password and tokens that occur nowhere else."""
    number = itertools.count()
    monkeypatch.setattr("secrets.token_urlsafe", lambda _: f"{TOKEN}-{next(number)}-9")
    async with at_work(tmp_path, Settings(password=PASSWORD, processing=0.0), upload="drain = '1s'") as site:
        said, shown = await driven(site)
        assert next(number) > 3  # tokens were handed out
        assert sum(call.name == "login" for call in site.simulator.calls) > 3
        kept = {path.name: path.read_bytes() for path in site.state.iterdir() if path.is_file()}
        assert "state.json" in kept
        places = {**kept, "process list": shown}
        places |= {f"output {index}": (ended.out + ended.err).encode() for index, ended in enumerate(said)}
        for place, content in places.items():
            for secret in ("canary", "Pässword", "P\\u00e4ssword", "P%C3%A4ssword"):
                assert secret.encode() not in content, f"{secret} in {place}: {content.decode()}"
