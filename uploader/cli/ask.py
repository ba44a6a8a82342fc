"""``status``, ``explain``, ``check``; ``retry`` and ``forget``, the operator's hand.

Through the running daemon or, when it is stopped, from the state: the words are the same. Must never change
anything that was not asked for.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import click

from uploader import control, doctor, events, report
from uploader.cli.common import absolute, cli, clock, config_option, load_config, open_store
from uploader.config import Config
from uploader.files import MountedShare, Shares
from uploader.house import forget, release_stored
from uploader.log import redactor
from uploader.model import Home, Learnt, shown
from uploader.stages.discover import Tally, glance
from uploader.store import Store
from uploader.store.disk import StateFolder
from uploader.store.ledger import Known
from uploader.store.store import look


@cli.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def status(file: Path | None, as_json: bool) -> int:
    """Show what is known of unfinished files.

    Counts, and every unfinished file with its reason and what happens next.
    """
    _, config = load_config(file)
    document = control.ask(config.state.dir, "status") if config.state.dir.exists() else None
    if document is None:
        document = report.status(config, _stored(config)[0], clock.now())
    click.echo(json.dumps(document, indent=2) if as_json else "\n".join(report.status_lines(document)))
    return 0


def _stored(config: Config, path: str = "") -> tuple[report.Known, tuple[Known, ...]]:
    """Read what is known with the daemon stopped, and what was sent from *path*; before the first start, nothing."""
    warnings = report.standing_warnings(config, os.environ)
    if not config.state.dir.exists():
        return report.Known((), (), Learnt(), 0, folders=_glance(config, {}), warnings=warnings), ()
    disk = StateFolder(config.state.dir, lock=False)
    try:
        saved, ledger = look(disk)
        sent = ledger.of(path)
    finally:
        disk.close()
    folders = _glance(config, {home.root: home for home in saved.homes})
    known = report.Known(saved.uploads, saved.orphans, saved.learnt, ledger.count, folders=folders, warnings=warnings)
    return known, sent


def _glance(config: Config, homes: Mapping[str, Home]) -> list[Tally]:
    shares = Shares(lambda root: MountedShare(root, clock, home=homes.get(root)))
    return asyncio.run(glance(config.watch, shares))


@cli.command()
@config_option
@click.argument("path", type=click.Path())
def explain(file: Path | None, path: str) -> int:
    """Say why this file is, or is not, uploaded.

    Each rule, timer and attempt; the last line is the verdict.
    """
    _, config = load_config(file)
    path = absolute(path)
    answer = control.ask(config.state.dir, "explain", [path]) if config.state.dir.exists() else None
    if answer is not None:
        lines = answer["lines"]
    else:
        known, sent = _stored(config, path)
        lines = report.explain(config, path, known, sent, clock.now())
    click.echo("\n".join(lines))
    return 0


@cli.command()
@config_option
@click.argument("paths", nargs=-1, type=click.Path())
def retry(file: Path | None, paths: tuple[str, ...]) -> int:
    """Let parked or waiting uploads go on now: these, or all."""
    _, config = load_config(file)
    chosen = [absolute(path) for path in paths]
    if not chosen:
        chosen = [row.path for row in _stored(config)[0].uploads if row.trouble is not None]
        if not chosen:
            click.echo("nothing is parked, and nothing waits to be tried again")
    running, released = _by_hand(config, "retry", chosen, release_stored)
    goes_on = "goes on" if running else "goes on when the daemon runs (or: valt-uploader once)"
    for path in chosen:
        click.echo(f"{shown(path)}: {goes_on if path in released else 'nothing unfinished is known of it'}")
    return 0 if set(chosen) <= set(released) else 1


@cli.command(name="forget")
@config_option
@click.argument("paths", nargs=-1, required=True, type=click.Path())
def forget_command(file: Path | None, paths: tuple[str, ...]) -> int:
    """Know nothing more of these unfinished uploads.

    Their files, if they are still there, are sent anew.
    """
    _, config = load_config(file)
    chosen = [absolute(path) for path in paths]
    settle = config.server.doubt_settle

    async def forget_stored(store: Store, path: str) -> bool:
        if path not in store.uploads:
            return False
        await forget(store, path, clock, events.Bus(), settle=settle)
        return True

    _, forgotten = _by_hand(config, "forget", chosen, forget_stored)
    for path in chosen:
        click.echo(f"{shown(path)}: {'forgotten' if path in forgotten else 'nothing unfinished is known of it'}")
    return 0 if set(chosen) <= set(forgotten) else 1


def _by_hand(
    config: Config, do: str, paths: list[str], act: Callable[[Store, str], Awaitable[bool]]
) -> tuple[bool, list[str]]:
    """Have the daemon do something to uploads, or do it to the state when it is stopped: did it run, and to which."""
    if not paths or not config.state.dir.exists():
        return False, []
    answer = control.ask(config.state.dir, do, paths)
    return answer is not None, _on_state(config, paths, act) if answer is None else answer["done"]


def _on_state(config: Config, paths: list[str], act: Callable[[Store, str], Awaitable[bool]]) -> list[str]:
    """Do something to uploads with the daemon stopped; the answer is those it was done to."""

    async def work() -> list[str]:
        async with open_store(config, events.Bus()) as store:
            return [path for path in paths if await act(store, path)]

    return asyncio.run(work())


@cli.command()
@config_option
def check(file: Path | None) -> int:
    """Find what keeps recordings from arriving.

    Looks at everything that could, and says what to do. Exit codes: 0 fine, 1 not, 2 usage or configuration.
    """
    path, config = load_config(file)
    folders = "1 watched folder" if len(config.watch) == 1 else f"{len(config.watch)} watched folders"
    click.echo(doctor.Finding("configuration", f"{shown(path)}: {folders}, no faults"))

    async def work() -> bool:
        fine = True
        async for finding in doctor.examine(config, os.environ, clock):
            click.echo(redactor.clean(str(finding)))
            fine = fine and finding.mood != "bad"
        return fine

    return 0 if asyncio.run(work()) else 1
