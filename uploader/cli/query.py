"""The commands ``status``, ``explain`` and ``check``: they show what is known, and find what is wrong.

``status`` and ``explain`` are answered by the running daemon or, when it is stopped, from its state, in the same words.
They change nothing. ``check`` is in ``diagnostics/doctor.py`` and ``probe.py``.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path

import click

from uploader.app import control_socket, status
from uploader.app.explain import explanation, facts_of, look_at
from uploader.cli.common import absolute, cli, clock, config_option, load_config, valt_of
from uploader.config import Config
from uploader.diagnostics import doctor
from uploader.diagnostics.finding import Finding
from uploader.diagnostics.probe import Probe
from uploader.diagnostics.probe_results import ProbeResultStore
from uploader.domain.model import MountIdentity, ServerCapabilities, shown
from uploader.files import MountedShare, Shares
from uploader.runtime.log import redactor
from uploader.stages.discover import folder_status
from uploader.stages.watched_folder import FolderStats
from uploader.store.disk import StateFolder, may_exist
from uploader.store.ledger import LedgerEntry
from uploader.store.opening import read_both


@cli.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")
def status_command(file: Path | None, as_json: bool) -> int:
    """Show unfinished files, watched folders and the server.

    For each unfinished file: its state, the reason, and what happens next. Also works while the daemon is stopped.
    """
    _, config = load_config(file)
    document = control_socket.ask(config.state.dir, "status") if may_exist(config.state.dir) else None
    if document is None:
        document = status.status_document(config, stored(config)[0], clock.now())
    click.echo(json.dumps(document, indent=2) if as_json else "\n".join(status.status_lines(document)))
    return 0


def stored(config: Config, path: str = "") -> tuple[status.StatusSnapshot, tuple[LedgerEntry, ...]]:
    """Read the state for a daemon that is stopped, and the ledger entries of *path*. Empty before the first start."""
    warnings = status.standing_warnings(config, os.environ)
    if not may_exist(config.state.dir):
        return status.StatusSnapshot(
            (), (), ServerCapabilities(), 0, folders=_folder_status(config, {}), warnings=warnings
        ), ()
    disk = StateFolder(config.state.dir, lock=False)
    try:
        saved, ledger = read_both(disk)
        sent = ledger.of(path)
    finally:
        disk.close()
    folders = _folder_status(config, {identity.root: identity for identity in saved.mount_identities})
    known = status.StatusSnapshot(
        saved.uploads,
        saved.orphans,
        saved.capabilities,
        ledger.count,
        folders=folders,
        warnings=warnings,
        paused=saved.paused,
    )
    return known, sent


def _folder_status(config: Config, identities: Mapping[str, MountIdentity]) -> list[FolderStats]:
    """Check each watched folder now. *identities*: those that the state remembers, by folder."""
    shares = Shares(lambda root: MountedShare(root, clock, identity=identities.get(root)))
    return asyncio.run(folder_status(config.watch, shares))


@cli.command()
@config_option
@click.argument("path", type=click.Path())
def explain(file: Path | None, path: str) -> int:
    """Say why this file is, or is not, uploaded.

    Prints each rule, timer and attempt; the last line is the result.
    """
    _, config = load_config(file)
    path = absolute(path)
    answer = control_socket.ask(config.state.dir, "explain", [path]) if may_exist(config.state.dir) else None
    if answer is not None:
        lines = answer["lines"]
    else:
        known, sent = stored(config, path)
        seen = asyncio.run(look_at(path))
        lines = explanation(config, path, facts_of(known, path, sent), clock.now(), seen)
    click.echo("\n".join(lines))
    return 0


@cli.command()
@config_option
@click.option("--probe", "probes", is_flag=True, help="Also test with a small video how the server handles chunks.")
def check(file: Path | None, probes: bool) -> int:
    """Find what keeps recordings from being uploaded.

    Tests everything that could, and says what to do. Exit codes: 0 no errors, 1 errors, 2 usage or configuration.

    With --probe it creates some records on the server, sends one second of video to each, checks the result, and
    deletes them. It prints the settings for this server, and the daemon remembers the result.
    """
    path, config = load_config(file)
    folders = "1 watched folder" if len(config.watch) == 1 else f"{len(config.watch)} watched folders"
    click.echo(Finding("configuration", f"{shown(path)}: {folders}, no faults"))

    async def work() -> bool:
        fine = may_probe = True
        async for finding in doctor.examine(config, os.environ, clock):
            click.echo(redactor.clean(str(finding)))
            if finding.severity == "error":
                fine, may_probe = False, may_probe and finding.what == "proof"  # of that the probe tells more
        if probes and not may_probe:
            click.echo(Finding("probe", "not started: fix the errors above first", "warning"))
        elif probes:
            async with valt_of(config) as valt:
                async for finding in Probe(config, valt, ProbeResultStore(config, clock), clock).run():
                    click.echo(redactor.clean(str(finding)))
                    fine = fine and finding.severity != "error"
        return fine

    return 0 if asyncio.run(work()) else 1
