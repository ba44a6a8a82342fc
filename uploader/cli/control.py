"""The operator commands ``retry``, ``forget``, ``pause`` and ``resume``.

They act through the running daemon or, when it is stopped, on its state, with the same results and the same output.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import click

from uploader.app import control_socket, status
from uploader.app.operator import Operator
from uploader.cli.common import absolute, cli, clock, config_option, load_config, open_store
from uploader.cli.query import stored
from uploader.config import Config
from uploader.domain import events
from uploader.domain.commands import typed
from uploader.domain.model import EVERYTHING, covers, shown
from uploader.stages.lease import Leases
from uploader.store.disk import may_exist

Act = Callable[[Operator, str], Awaitable[bool]]  # for one path; False when the command does not apply to it


@cli.command()
@config_option
@click.argument("paths", nargs=-1, type=click.Path())
def retry(file: Path | None, paths: tuple[str, ...]) -> int:
    """Let parked or waiting uploads continue now: these, or all.

    The server is called again at once, also with a password that it has refused. For a watched folder or a move_to
    folder: accept the file system that is mounted there now.
    """
    _, config = load_config(file)
    chosen = [absolute(path) for path in paths]
    if not chosen:
        chosen = [row.path for row in stored(config)[0].uploads if row.last_error is not None]
        if not chosen:
            click.echo("nothing is parked, and nothing waits for a retry")
    running, released = _by_operator(config, "retry", chosen, Operator.retry, first=Operator.try_server_again)
    continues = "continues" if running else "continues when the daemon runs (or type: valt-uploader once)"
    for path in chosen:
        click.echo(f"{shown(path)}: {continues if path in released else _unknown(path)}")
    return 0 if set(chosen) <= set(released) else 1


@cli.command(name="forget")
@config_option
@click.argument("paths", nargs=-1, required=True, type=click.Path())
def forget_command(file: Path | None, paths: tuple[str, ...]) -> int:
    """Drop these unfinished uploads.

    A file that is still there is sent again from its beginning; to prevent that, pause or remove it first. An empty
    record of the upload is deleted from the server. If the server may have a record whose id was never received, it
    is looked for first, and `status` shows the upload until then.

    Instead of a path, the id of an orphan record that holds a video, as `status` shows it: it is no longer reported,
    and stays on the server.
    """
    _, config = load_config(file)
    orphans = {orphan.record for orphan in stored(config)[0].orphans}
    chosen = [path if path in orphans else absolute(path) for path in paths]
    running, forgotten = _by_operator(config, "forget", chosen, Operator.forget)
    left = [row for row in stored(config)[0].uploads if row.forgotten]
    in_doubt = {name for row in left for name in (row.path, row.where)}
    for path in chosen:
        if path not in forgotten:
            text = "not forgotten: it is still to be deleted automatically" if path in orphans else _unknown(path)
        elif path in in_doubt:
            when = "" if running else " when the daemon runs (or type: valt-uploader once)"
            text = f"forgotten; the server may have a record of it, which is looked for first{when}"
        else:
            text = "forgotten"
        click.echo(f"{shown(path)}: {text}")
    return 0 if set(chosen) <= set(forgotten) else 1


@cli.command()
@config_option
@click.argument("paths", nargs=-1, type=click.Path())
def pause(file: Path | None, paths: tuple[str, ...]) -> int:
    """Pause these files or folders, or everything.

    Nothing new is begun for them; a chunk that is being sent is finished. A pause lasts until `resume`, also over
    restarts.
    """
    _, config = load_config(file)
    chosen = [absolute(path) for path in paths] or [EVERYTHING]
    _, paused = _by_operator(config, "pause", chosen, Operator.pause)
    for path in chosen:
        was = "" if path in paused else "was already "
        click.echo(f"{status.named(path)}: {was}{status.PAUSED}; to continue: {typed('resume', path)}")
    return 0


@cli.command()
@config_option
@click.argument("paths", nargs=-1, type=click.Path())
def resume(file: Path | None, paths: tuple[str, ...]) -> int:
    """End the pause of these files or folders, or all pauses."""
    _, config = load_config(file)
    chosen = [absolute(path) for path in paths] or [EVERYTHING]
    _, resumed = _by_operator(config, "resume", chosen, Operator.resume)
    left = stored(config)[0].paused
    for path in chosen:
        above = next((name for name in left if covers([name], path)), None)
        text = "continues" if path in resumed else "was not paused"
        if above is not None:
            text = f"still paused, because {status.named(above)} is; to continue: {typed('resume', above)}"
        click.echo(f"{status.named(path)}: {text}")
    return 0 if set(chosen) <= set(resumed) and not any(covers(left, path) for path in chosen) else 1


def _unknown(path: str) -> str:
    return f"no unfinished upload has this name; for its state type: {typed('explain', path)}"


def _by_operator(
    config: Config, do: str, paths: list[str], act: Act, *, first: Callable[[Operator], Awaitable[None]] | None = None
) -> tuple[bool, list[str]]:
    """Apply a command to *paths*, through the daemon or, when it is stopped, to the state.

    Returns whether the daemon runs, and the paths to which the command applied. *do*: the command's name, by which the
    daemon knows what to do. When it is stopped, *first* is done once, then *act* for each path.
    """
    if not may_exist(config.state.dir) and do != "pause":  # before the first start there is only something to pause
        return False, []
    answer = control_socket.ask(config.state.dir, do, paths) if may_exist(config.state.dir) else None
    if answer is not None:
        return True, answer["done"]

    async def work() -> list[str]:
        async with open_store(config, events.Bus()) as store:
            operator = Operator(store, Leases(store), clock, events.Bus(), config.server.doubt_settle)
            if first is not None:
                await first(operator)
            return [path for path in paths if await act(operator, path)]

    return False, asyncio.run(work())
