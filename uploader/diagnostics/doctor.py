"""``check``: looks at everything that could keep recordings from arriving, and says what to do about it.

Reads and asks; writes nothing but a hidden file that it removes again. Must never stop at the first finding.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from uploader import files
from uploader.app import control_socket, status
from uploader.config import PASSWORD_VARIABLE, Config
from uploader.diagnostics.event_check import check_events
from uploader.domain import errors
from uploader.domain.model import MountIdentity, shown
from uploader.domain.units import format_duration
from uploader.files import DISPOSALS, Mode, MountedShare, WalkFilter
from uploader.files.mounts import inotify_limit, mode_for, too_many_folders
from uploader.files.walk import match_nothing
from uploader.runtime.clock import Clock
from uploader.runtime.log import redactor
from uploader.server.credentials import password_source, read_password
from uploader.server.readonly import saved_in, valt_to_ask
from uploader.store.disk import StateFolder
from uploader.store.store import read_both

SKEW_LIMIT: Final = 60.0  # s between the clocks before it is worth a word: records are dated by the server's
SHARE_SKEW_LIMIT: Final = 2.0  # s between a share's clock and ours before it is worth a word; FAT counts in twos


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. ``error``: recordings will not arrive. ``warning``: they will, but look."""

    what: str
    text: str
    severity: str = "ok"  # ok | warning | error

    def __str__(self) -> str:
        return f"{self.severity:<8}{self.what:<15}{self.text}"


async def examine(config: Config, environ: Mapping[str, str], clock: Clock) -> AsyncIterator[Finding]:
    """Yield finding after finding."""
    for warning in status.standing_warnings(config, {}):  # where the password is from is said below
        yield Finding("configuration", warning, "warning")
    async for finding in _folders(config, clock):
        yield finding
    yield _state(config)
    password = _password(config, environ)
    yield password
    reachable = await _name(config)
    yield reachable
    if "error" not in {password.severity, reachable.severity}:
        async for finding in _server(config, environ, clock):
            yield finding


async def _folders(config: Config, clock: Clock) -> AsyncIterator[Finding]:
    for watch in config.watch:
        root = str(watch.path)
        share = MountedShare(root, clock, identity=_mount_identities(config).get(root))
        standing = await share.check()
        problem = standing.away or files.folder_problem(root, writable=DISPOSALS[watch.after_upload].takes_away)
        if problem:
            another = standing.away and standing.mount is not None  # which says itself what to do
            todo = "" if another else ": make it, mount it, or give this user the right"
            yield Finding("folder", f"{problem}{todo}", "error")
            continue
        mode = mode_for(watch.mode, standing.mount)
        yield Finding("folder", f"{watch.path}: {mode}, every {watch.rescan:g} s")
        yield await _event_check(root, mode, clock)
        if watch.move_to is not None and not os.access(_nearest(watch.move_to), os.W_OK | os.X_OK):
            yield Finding("folder", f"{watch.move_to}: files cannot be moved there by this user", "error")
        if mode.events:
            yield await _inotify(share)


def _mount_identities(config: Config) -> Mapping[str, MountIdentity]:
    """Where the watched folders lay, as the state remembers."""
    return {home.root: home for home in saved_in(config.state.dir).mount_identities}


async def _event_check(root: str, mode: Mode, clock: Clock) -> Finding:
    """Prove by a hidden file what the mode promises, and compare the clocks."""
    seen = await check_events(root, clock)
    if seen.problem:
        return Finding(
            "events", f"{root}: no hidden file can be made there ({seen.problem}), so nothing was tried", "warning"
        )
    skew, clocks = seen.skew or 0.0, "its clock agrees with ours"
    if far := abs(skew) > SHARE_SKEW_LIMIT:
        clocks = f"its clock is {format_duration(abs(skew))} {'ahead of' if skew > 0 else 'behind'} ours"
        clocks += "; that does no harm: ages are measured by ours alone"
    if seen.delay is None:
        text = "its event never came; scans find what events miss"
        return Finding("events", f"{root}: {text}; {clocks}", "warning" if mode.events else "ok")
    return Finding(
        "events", f"{root}: its event came after {1000 * seen.delay:.0f} ms; {clocks}", "warning" if far else "ok"
    )


async def _inotify(share: MountedShare) -> Finding:
    """Count the folders that each want a watch."""
    watches, instances = inotify_limit("max_user_watches"), inotify_limit("max_user_instances")
    if watches is None or instances is None:
        return Finding("inotify", "its limits cannot be read here; scans find what events miss", "warning")
    folders = 0
    with suppress(errors.ShareNotReady):
        async for batch in share.walk(WalkFilter(takes=match_nothing, enters=lambda _: True)):
            folders += batch.folders
    if why := too_many_folders(folders, watches):
        return Finding("inotify", f"{why}; until then scans alone find the files of {share.root}", "warning")
    return Finding("inotify", f"{folders} of max_user_watches = {watches}, max_user_instances = {instances}")


def _nearest(path: Path) -> Path:
    """The folder itself, or the nearest above it that exists: where it would be made."""
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _state(config: Config) -> Finding:
    folder = config.state.dir
    if not folder.exists():
        usable = os.access(_nearest(folder), os.W_OK | os.X_OK)
        text = f"{folder}: not there yet; {'made at the first start' if usable else 'and it cannot be made'}"
        return Finding("state", text, "ok" if usable else "error")
    try:
        disk = StateFolder(folder, lock=False)
        try:
            saved, ledger = read_both(disk)
        finally:
            disk.close()
        daemon = control_socket.ask(folder, "status")
    except errors.UploaderError as error:
        return Finding("state", str(error), "error")
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding("state", f"{folder}: cannot be written by this user", "error")
    running = "stopped" if daemon is None else "running"
    return Finding("state", f"{folder}: {len(saved.uploads)} unfinished, {ledger.count} done; the daemon is {running}")


def _password(config: Config, environ: Mapping[str, str]) -> Finding:
    try:
        redactor.remember(read_password(config.server, environ))
    except errors.UploaderError as error:
        return Finding("password", str(error), "error")
    match password_source(config.server, environ):
        case "file":
            return Finding("password", f"{shown(config.server.password_file or '')}: nobody else can read it")
        case "environment":
            text = f"from ${PASSWORD_VARIABLE}, which every process of this user can see; a password_file is safer"
            return Finding("password", text, "warning")
        case source:
            return Finding("password", f"from the systemd {source}")


async def _name(config: Config) -> Finding:
    host = urlsplit(config.server.url).hostname or ""
    with suppress(ValueError):
        return Finding("name", f"{ipaddress.ip_address(host)} is an address; there is nothing to look up")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return Finding("name", f"{host}: {error.strerror}; look at server.url and at the name service", "error")
    return Finding("name", f"{host} is {', '.join(dict.fromkeys(str(row[4][0]) for row in found))}")


async def _server(config: Config, environ: Mapping[str, str], clock: Clock) -> AsyncIterator[Finding]:
    async with valt_to_ask(config, environ, clock) as valt:
        try:
            await valt.login_if_needed()
        except errors.UploaderError as error:
            yield Finding("log-in", str(error), "error")
            return
        yield Finding("log-in", f"{config.server.url} takes user {config.server.username}")
        try:
            version = await valt.version()
        except errors.UploaderError as error:
            yield Finding("version", str(error), "warning")
        else:
            text = f"VALT {version}" if version else "not told to this user; that does no harm"
            yield Finding("version", text, "ok" if version else "warning")
    far = abs(valt.skew) > SKEW_LIMIT
    side = "ahead of" if valt.skew > 0 else "behind"
    text = f"the server's is {format_duration(abs(valt.skew))} {side} ours" if far else "agrees with the server's"
    yield Finding("clock", text, "warning" if far else "ok")
