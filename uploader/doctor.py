"""``check``: looks at everything that could keep recordings from arriving, and says what to do about it.

Reads and asks; writes nothing, neither here nor on the server. Must never stop at the first finding.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from uploader import control, errors, files, report
from uploader.clock import Clock
from uploader.config import PASSWORD_VARIABLE, Config
from uploader.credentials import password_source, read_password
from uploader.events import Bus
from uploader.log import redactor
from uploader.model import shown
from uploader.store.disk import StateFolder
from uploader.store.store import look
from uploader.units import format_duration
from uploader.valt import Valt

SKEW_LIMIT: Final = 60.0  # s between the clocks before it is worth a word: records are dated by the server's
INOTIFY: Final = Path("/proc/sys/fs/inotify")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. ``bad``: recordings will not arrive; ``note``: they will, and yet."""

    what: str
    text: str
    mood: str = "ok"  # ok | note | bad

    def __str__(self) -> str:
        return f"{self.mood:<5}{self.what:<15}{self.text}"


async def examine(config: Config, environ: Mapping[str, str], clock: Clock) -> AsyncIterator[Finding]:
    """Yield finding after finding."""
    for warning in report.standing_warnings(config, {}):  # where the password is from is said below
        yield Finding("configuration", warning, "note")
    for finding in _folders(config):
        yield finding
    yield _inotify()
    yield _state(config)
    password = _password(config, environ)
    yield password
    reachable = await _name(config)
    yield reachable
    if "bad" not in {password.mood, reachable.mood}:
        async for finding in _server(config, environ, clock):
            yield finding


def _folders(config: Config) -> Iterator[Finding]:
    for watch in config.watch:
        problem = files.folder_problem(str(watch.path), writable=watch.after_upload != "keep")
        if problem is not None:
            yield Finding("folder", f"{problem}: make it, mount it, or give this user the right", "bad")
            continue
        mode = "scans" if watch.mode == "poll" else "events and scans"
        yield Finding("folder", f"{watch.path}: {mode}, every {watch.rescan:g} s (mode = {watch.mode})")
        if watch.move_to is not None and not os.access(_nearest(watch.move_to), os.W_OK | os.X_OK):
            yield Finding("folder", f"{watch.move_to}: files cannot be moved there by this user", "bad")


def _nearest(path: Path) -> Path:
    """The folder itself, or the nearest above it that exists: where it would be made."""
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _inotify() -> Finding:
    limits = []
    for name in ("max_user_watches", "max_user_instances"):
        try:
            limits.append(f"{name} = {int((INOTIFY / name).read_text())}")
        except (OSError, ValueError):
            return Finding("inotify", "its limits cannot be read here; scans find what events miss", "note")
    return Finding("inotify", ", ".join(limits))


def _state(config: Config) -> Finding:
    folder = config.state.dir
    if not folder.exists():
        usable = os.access(_nearest(folder), os.W_OK | os.X_OK)
        text = f"{folder}: not there yet; {'made at the first start' if usable else 'and it cannot be made'}"
        return Finding("state", text, "ok" if usable else "bad")
    try:
        disk = StateFolder(folder, lock=False)
        try:
            saved, ledger = look(disk)
        finally:
            disk.close()
        daemon = control.ask(folder, "status")
    except errors.UploaderError as error:
        return Finding("state", str(error), "bad")
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding("state", f"{folder}: cannot be written by this user", "bad")
    running = "stopped" if daemon is None else "running"
    return Finding("state", f"{folder}: {len(saved.uploads)} unfinished, {ledger.count} done; the daemon is {running}")


def _password(config: Config, environ: Mapping[str, str]) -> Finding:
    try:
        redactor.remember(read_password(config.server, environ))
    except errors.UploaderError as error:
        return Finding("password", str(error), "bad")
    match password_source(config.server, environ):
        case "file":
            return Finding("password", f"{shown(config.server.password_file or '')}: nobody else can read it")
        case "environment":
            text = f"from ${PASSWORD_VARIABLE}, which every process of this user can see; a password_file is safer"
            return Finding("password", text, "note")
        case source:
            return Finding("password", f"from the systemd {source}")


async def _name(config: Config) -> Finding:
    host = urlsplit(config.server.url).hostname or ""
    with suppress(ValueError):
        return Finding("name", f"{ipaddress.ip_address(host)} is an address; there is nothing to look up")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return Finding("name", f"{host}: {error.strerror}; look at server.url and at the name service", "bad")
    return Finding("name", f"{host} is {', '.join(dict.fromkeys(str(row[4][0]) for row in found))}")


async def _server(config: Config, environ: Mapping[str, str], clock: Clock) -> AsyncIterator[Finding]:
    valt = Valt(
        config.server,
        password=lambda: read_password(config.server, environ),
        clock=clock,
        bus=Bus(),
        remember=redactor.remember,
    )
    async with valt:
        try:
            await valt.login_if_needed()
        except errors.UploaderError as error:
            yield Finding("log-in", str(error), "bad")
            return
        yield Finding("log-in", f"{config.server.url} takes user {config.server.username}")
        try:
            version = await valt.version()
        except errors.UploaderError as error:
            yield Finding("version", str(error), "note")
        else:
            text = f"VALT {version}" if version else "not told to this user; that does no harm"
            yield Finding("version", text, "ok" if version else "note")
    far = abs(valt.skew) > SKEW_LIMIT
    side = "ahead of" if valt.skew > 0 else "behind"
    text = f"the server's is {format_duration(abs(valt.skew))} {side} ours" if far else "agrees with the server's"
    yield Finding("clock", text, "note" if far else "ok")
