"""``retry``, ``forget``, ``pause`` and ``resume``: the operator's hand.

Through the running daemon or, when it is stopped, in the state: the words are the same. Must never do to one file
what was asked of another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import click

from uploader.app import control_socket
from uploader.app.operator import Operator
from uploader.cli.common import absolute, cli, clock, config_option, load_config, open_store
from uploader.cli.query import stored
from uploader.config import Config
from uploader.domain import events
from uploader.domain.model import EVERYTHING, covers, shown
from uploader.stages.lease import Leases

Act = Callable[[Operator, str], Awaitable[bool]]


@cli.command()
@config_option
@click.argument("paths", nargs=-1, type=click.Path())
def retry(file: Path | None, paths: tuple[str, ...]) -> int:
    """Let parked or waiting uploads go on now: these, or all.

    The server is called again at once, also with a password that it has refused.
    """
    _, config = load_config(file)
    chosen = [absolute(path) for path in paths]
    if not chosen:
        chosen = [row.path for row in stored(config)[0].uploads if row.trouble is not None]
        if not chosen:
            click.echo("nothing is parked, and nothing waits to be tried again")
    running, released = _by_operator(config, "retry", chosen, Operator.retry, first=Operator.try_server_again)
    goes_on = "goes on" if running else "goes on when the daemon runs (or: valt-uploader once)"
    for path in chosen:
        click.echo(f"{shown(path)}: {goes_on if path in released else 'nothing unfinished is known of it'}")
    return 0 if set(chosen) <= set(released) else 1


@cli.command(name="forget")
@config_option
@click.argument("paths", nargs=-1, required=True, type=click.Path())
def forget_command(file: Path | None, paths: tuple[str, ...]) -> int:
    """Know nothing more of these unfinished uploads.

    Their files, if they are still there, are sent anew. The id of a record that was given up and holds a video, as
    `status` shows it, ends that report; the record stays on the server.
    """
    _, config = load_config(file)
    orphans = {orphan.record for orphan in stored(config)[0].orphans}
    chosen = [path if path in orphans else absolute(path) for path in paths]
    _, forgotten = _by_operator(config, "forget", chosen, Operator.forget)
    for path in chosen:
        not_yet = "it is still to be cleared away" if path in orphans else "nothing unfinished is known of it"
        click.echo(f"{shown(path)}: {'forgotten' if path in forgotten else not_yet}")
    return 0 if set(chosen) <= set(forgotten) else 1


@cli.command()
@config_option
@click.argument("paths", nargs=-1, type=click.Path())
def pause(file: Path | None, paths: tuple[str, ...]) -> int:
    """Begin nothing new for these files or folders, or at all.

    A chunk that is being sent comes to its end. It lasts until `resume`, over restarts.
    """
    _, config = load_config(file)
    chosen = [absolute(path) for path in paths] or [EVERYTHING]
    _, paused = _by_operator(config, "pause", chosen, Operator.pause)
    for path in chosen:
        click.echo(f"{_named(path)}: {'paused' if path in paused else 'was paused before'}; resume lets it go on")
    return 0


@cli.command()
@config_option
@click.argument("paths", nargs=-1, type=click.Path())
def resume(file: Path | None, paths: tuple[str, ...]) -> int:
    """Let go on what was paused: these, or everything."""
    _, config = load_config(file)
    chosen = [absolute(path) for path in paths] or [EVERYTHING]
    _, resumed = _by_operator(config, "resume", chosen, Operator.resume)
    left = stored(config)[0].paused
    for path in chosen:
        above = next((name for name in left if covers([name], path)), None)
        text = "goes on" if path in resumed else "was not paused"
        click.echo(f"{_named(path)}: {text if above is None else 'still paused, with ' + _named(above)}")
    return 0 if set(chosen) <= set(resumed) and not any(covers(left, path) for path in chosen) else 1


def _named(path: str) -> str:
    return "everything" if path == EVERYTHING else shown(path)


def _by_operator(
    config: Config, do: str, paths: list[str], act: Act, *, first: Callable[[Operator], Awaitable[None]] | None = None
) -> tuple[bool, list[str]]:
    """Have the daemon do something to uploads, or do it to the state when it is stopped: did it run, and to which.

    *first*: what the daemon does besides, whatever the paths are.
    """
    if not config.state.dir.exists() and do != "pause":
        return False, []
    answer = control_socket.ask(config.state.dir, do, paths) if config.state.dir.exists() else None
    if answer is not None:
        return True, answer["done"]

    async def work() -> list[str]:
        async with open_store(config, events.Bus()) as store:
            operator = Operator(store, Leases(store), clock, events.Bus(), config.server.doubt_settle)
            if first is not None:
                await first(operator)
            return [path for path in paths if await act(operator, path)]

    return False, asyncio.run(work())
