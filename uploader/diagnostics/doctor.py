"""``check``: tests everything that could keep recordings from being uploaded, and says what to do.

It goes on after an error, so that one run shows all of them. It writes nothing but a hidden file in each watched
folder, which it removes again.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from uploader import files
from uploader.app import control_socket, status
from uploader.config import PASSWORD_VARIABLE, Config
from uploader.diagnostics.event_check import check_events
from uploader.diagnostics.finding import Finding
from uploader.diagnostics.proof_check import check_proof
from uploader.domain import errors
from uploader.domain.model import MountIdentity, shown
from uploader.domain.units import format_duration
from uploader.domain.untaken import in_words
from uploader.files import DISPOSALS, Mode, MountedShare, WalkFilter
from uploader.files.mounts import inotify_limit, mode_for, too_many_folders
from uploader.files.walk import match_nothing
from uploader.runtime.clock import Clock
from uploader.runtime.log import redactor
from uploader.server.credentials import password_source, read_password, read_proxy_password
from uploader.server.readonly import saved_in, valt_to_ask
from uploader.store.disk import StateFolder, may_exist
from uploader.store.opening import read_both

SKEW_LIMIT: Final = 60.0  # s between the server's clock and this machine's before a warning: records get server times
PROXY_VARIABLES: Final = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"})  # also in small letters
SHARE_SKEW_LIMIT: Final = 2.0  # s between a share's clock and this machine's before a warning; FAT stores even seconds


async def examine(config: Config, environ: Mapping[str, str], clock: Clock) -> AsyncIterator[Finding]:
    """Run all tests, and yield each finding as soon as it is known."""
    for warning in status.standing_warnings(config, {}):  # {}: ``_password`` reports a password from there
        yield Finding("configuration", warning, "warning")
    async for finding in _folders(config, clock):
        yield finding
    yield _state(config)
    password = _password(config, environ)
    yield password
    for finding in _proxy(config, environ):
        yield finding
    reachable = await _name(config)
    yield reachable
    if "error" not in {password.severity, reachable.severity}:
        async for finding in _server(config, environ, clock):
            yield finding


async def _folders(config: Config, clock: Clock) -> AsyncIterator[Finding]:
    """Test each watched folder, and the folder that its files are moved to."""
    for watch in config.watch:
        root = str(watch.path)
        share = MountedShare(root, clock, identity=_mount_identities(config).get(root))
        found = await share.check()
        problem = found.away or files.folder_problem(root, writable=DISPOSALS[watch.after_upload].takes_away)
        if problem:
            is_replaced = found.away and found.mount is not None  # by another file system: its text says what to do
            todo = "" if is_replaced else ": create it, mount it, or give this user access"
            yield Finding("folder", f"{problem}{todo}", "error")
            continue
        mode = mode_for(watch.mode, found.mount)
        yield Finding("folder", f"{watch.path}: {mode}, every {watch.rescan:g} s")
        yield await _event_check(root, mode, clock)
        if watch.move_to is not None and not os.access(_nearest_existing(watch.move_to), os.W_OK | os.X_OK):
            text = f"{watch.move_to}: files cannot be moved there by this user: give this user write access"
            yield Finding("folder", text, "error")
        if mode.events:
            yield await _inotify(share)
        if left := await files.count_untaken(share, watch, config.watch):
            what = f"no include pattern takes {in_words(left)}: add their patterns to include, or to exclude"
            yield Finding("folder", f"{watch.path}: {what}", "warning")


def _mount_identities(config: Config) -> Mapping[str, MountIdentity]:
    """Return the mount identities of the watched folders that the state remembers, by folder."""
    return {identity.root: identity for identity in saved_in(config.state.dir).mount_identities}


async def _event_check(root: str, mode: Mode, clock: Clock) -> Finding:
    """Test with a hidden file whether events arrive, and compare the clocks."""
    seen = await check_events(root, clock)
    if seen.problem:
        return Finding(
            "events", f"{root}: a hidden file cannot be created there ({seen.problem}): events not tested", "warning"
        )
    skew, clocks = seen.skew or 0.0, "its clock agrees with this machine's"
    if too_far := abs(skew) > SHARE_SKEW_LIMIT:
        clocks = f"its clock is {format_duration(abs(skew))} {'ahead of' if skew > 0 else 'behind'} this machine's"
        clocks += "; nothing to do: file ages are measured by this machine's clock"
    if seen.delay is None:
        text = "no event came for a test file; scans find files without events"
        return Finding("events", f"{root}: {text}; {clocks}", "warning" if mode.events else "ok")
    return Finding(
        "events", f"{root}: event after {1000 * seen.delay:.0f} ms; {clocks}", "warning" if too_far else "ok"
    )


async def _inotify(share: MountedShare) -> Finding:
    """Compare the number of folders, each of which needs an inotify watch, with the limit."""
    watches, instances = inotify_limit("max_user_watches"), inotify_limit("max_user_instances")
    if watches is None or instances is None:
        return Finding("inotify", "its limits cannot be read here; scans find files without events", "warning")
    folders = 0
    with suppress(errors.ShareNotReady):
        async for batch in share.walk(WalkFilter(takes=match_nothing, enters=lambda _: True)):
            folders += batch.folders
    if why := too_many_folders(folders, watches):
        return Finding("inotify", f"{why}; until then scans alone find the files of {share.root}", "warning")
    return Finding("inotify", f"{folders} of max_user_watches = {watches}, max_user_instances = {instances}")


def _nearest_existing(path: Path) -> Path:
    """Return the folder itself or, if it does not exist, the nearest one above it that does."""
    return next(parent for parent in (path, *path.parents) if may_exist(parent))


def _state(config: Config) -> Finding:
    """Read the state, and ask whether the daemon runs."""
    folder = config.state.dir
    if not may_exist(folder):
        usable = os.access(_nearest_existing(folder), os.W_OK | os.X_OK)
        then = "created at the first start" if usable else "and this user cannot create it: create it, or set state.dir"
        text = f"{folder}: does not exist yet; {then}"
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
        return Finding("state", f"{folder}: cannot be written by this user; run check as the daemon's user", "error")
    running = "stopped" if daemon is None else "running"
    return Finding("state", f"{folder}: {len(saved.uploads)} unfinished, {ledger.count} done; the daemon is {running}")


def _password(config: Config, environ: Mapping[str, str]) -> Finding:
    """Read the password, and say where it comes from."""
    try:
        redactor.remember(read_password(config.server, environ))
    except errors.UploaderError as error:
        return Finding("password", str(error), "error")
    match password_source(config.server, environ):
        case "file":
            return Finding("password", f"{shown(config.server.password_file or '')}: no other user can read it")
        case "environment":
            text = f"from ${PASSWORD_VARIABLE}, which every process of this user can see; a password_file is safer"
            return Finding("password", text, "warning")
        case source:
            return Finding("password", f"from the systemd {source}")


def _proxy(config: Config, environ: Mapping[str, str]) -> list[Finding]:
    """Say which way calls go, and which variables would send them another way if they were used.

    Their values are not shown: they may hold a password.
    """
    server, found = config.server, []
    if server.proxy:
        try:
            redactor.remember(read_proxy_password(server, environ))
        except errors.UploaderError as error:
            return [Finding("proxy", str(error), "error")]
        user = f", user {server.proxy_username}" if server.proxy_username else ""
        end = "encrypted to the server" if server.url.startswith("https://") else "readable by the proxy"
        found.append(Finding("proxy", f"calls go through {server.proxy}{user}; what is sent is {end}"))
    ignored = sorted(name for name, value in environ.items() if name.upper() in PROXY_VARIABLES and value)
    if ignored:
        verb = "is" if len(ignored) == 1 else "are"
        way = f"only server.proxy counts, {server.proxy}" if server.proxy else "calls go straight to the server"
        todo = "" if server.proxy else "; if it can be reached only through a proxy, set server.proxy"
        found.append(Finding("proxy", f"{', '.join(ignored)} {verb} set and not used: {way}{todo}", "warning"))
    return found


async def _name(config: Config) -> Finding:
    """Look up the server's host name or, since a proxy looks that up itself, the proxy's."""
    host = urlsplit(config.server.proxy or config.server.url).hostname or ""
    key = "server.proxy" if config.server.proxy else "server.url"
    with suppress(ValueError):
        return Finding("name", f"{ipaddress.ip_address(host)} is an address: no name to look up")
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError:  # an empty label, as in "valt..example.com"
        return Finding("name", f"{host}: is not a host name; check {key}", "error")
    except OSError as error:
        return Finding("name", f"{host}: {error.strerror}; check {key} and the name service", "error")
    return Finding("name", f"{host} is {', '.join(dict.fromkeys(str(row[4][0]) for row in found))}")


async def _server(config: Config, environ: Mapping[str, str], clock: Clock) -> AsyncIterator[Finding]:
    """Log in, ask for the version, and compare the clocks."""
    async with valt_to_ask(config, environ, clock) as valt:
        try:
            await valt.login_if_needed()
        except errors.UploaderError as error:
            yield Finding("log-in", str(error), "error")
            return
        yield Finding("log-in", f"{config.server.url} accepts user {config.server.username}")
        try:
            version = await valt.version()
        except errors.UploaderError as error:
            yield Finding("version", str(error), "warning")
        else:
            text = f"VALT {version}" if version else "the server does not tell this user; nothing to do"
            yield Finding("version", text, "ok" if version else "warning")
        yield await check_proof(config, valt)
    too_far = abs(valt.skew) > SKEW_LIMIT
    side = "ahead of" if valt.skew > 0 else "behind"
    apart = f"the server's is {format_duration(abs(valt.skew))} {side} this machine's: set the one that is wrong"
    text = apart if too_far else "agrees with the server's"
    yield Finding("clock", text, "warning" if too_far else "ok")
