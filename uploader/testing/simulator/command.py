"""``valt-uploader simulate``: the built-in server in the foreground, with one line per call and download.

Not for real recordings: its user and password are public.
"""

from __future__ import annotations

import asyncio
import signal
import tempfile
from pathlib import Path
from typing import Any

import click

from uploader.domain.errors import UploaderError
from uploader.domain.model import shown
from uploader.testing.simulator import SeenCall, SeenDownload, Semantics, Settings, Simulator


async def serve(*, port: int, folder: Path | None, semantics: str, **options: Any) -> int:
    """Serve until SIGINT or SIGTERM. *options*: further ``Settings``.

    Raises ``UploaderError`` when the port is taken or the folder cannot be used.
    """
    settings = Settings(semantics=Semantics(semantics), **options)
    kept = folder or Path(tempfile.mkdtemp(prefix="valt-simulator-"))
    simulator = _simulator(kept, settings)
    simulator.on_call = _print_call
    simulator.downloads.on_seen = _print_download
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        url = await simulator.start(port=port)
    except OSError as error:
        hint = "another program may use it; --port 0 takes any free port"
        raise UploaderError(f"port {port} cannot be listened on: {error.strerror}", hint=hint) from None
    click.echo(f"VALT simulator at {url} (user {settings.username}, password {settings.password}, {semantics})")
    click.echo(f"Recordings are stored in {kept} and listed at {url}/")
    try:
        await stop.wait()
    finally:
        await simulator.stop()
    return 0


def _simulator(folder: Path, settings: Settings) -> Simulator:
    try:
        return Simulator(folder, settings)
    except OSError as error:
        hint = "name another --folder, or leave it out for a new one"
        raise UploaderError(f"{shown(folder)} cannot be used: {error.strerror}", hint=hint) from None
    except (ValueError, KeyError, TypeError) as error:
        hint = "empty it, or name another --folder"
        raise UploaderError(f"{shown(folder)} holds files that are not a simulator's: {error!r}", hint=hint) from None


def _print_call(call: SeenCall) -> None:
    node = None if call.node is None else f"node {call.node}"
    _print(call.name, call.record, call.content_range, call.status or "no answer", call.fault, node)


def _print_download(seen: SeenDownload) -> None:
    _print("download", seen.record, seen.method, seen.range, seen.status or "no answer", seen.fault)


def _print(*parts: object) -> None:
    click.echo("  ".join(shown(str(part)) for part in parts if part is not None))
