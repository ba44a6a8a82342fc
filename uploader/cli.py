"""The commands. Each reads its configuration, calls one thing, and says how it went.

Must never hold a decision about a file: those are in the stages. What a script reads goes to stdout, everything
else to stderr.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from uploader import __version__, control, custody, doctor, errors, events, files, mapping, report
from uploader.clock import SystemClock
from uploader.config import Config, find_config, load
from uploader.credentials import read_password
from uploader.daemon import Daemon
from uploader.house import House, forget, offer, release_stored
from uploader.log import configure, get_logger, redactor
from uploader.model import Learnt, RecordSpec, State, Upload, shown
from uploader.progress import Bars
from uploader.store import Ledger, Store
from uploader.store.codec import Unreadable
from uploader.store.disk import StateFolder
from uploader.store.ledger import NAME
from uploader.store.store import peek
from uploader.units import format_bytes
from uploader.valt import Valt

log = get_logger("uploader")
clock = SystemClock()

config_option = click.option(
    "-c",
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="The configuration; for its default: valt-uploader -h",
)
paths_argument = click.argument("paths", nargs=-1, type=click.Path())


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Bring every finished recording of a watched folder to a VALT video server.

    \b
    Without -c the configuration is $VALT_UPLOADER_CONFIG,
    else /etc/valt-uploader/config.toml.
    """  # noqa: D301 - click's own mark for lines that stay as they are


def _load(file: Path | None, *, need_watch: bool = True) -> tuple[Path, Config]:
    path = file or find_config(os.environ)
    config = load(path, os.environ, need_watch=need_watch)
    configure(config.log.level, config.log.format, environ=os.environ)
    return path, config


def log_event(event: events.Event) -> None:
    """Write an event to the log, under its one name."""
    if event.level is not None:
        values = {field.name: getattr(event, field.name) for field in fields(event)}
        getattr(log, event.level)(event.name(), **{key: value for key, value in values.items() if value is not None})


@asynccontextmanager
async def _open_store(config: Config, bus: events.Bus) -> AsyncIterator[Store]:
    """Open the state of a process that works on it, and close it whatever happens."""
    disk = StateFolder(config.state.dir)
    try:
        store = Store(disk, clock, bus)
    except BaseException:  # whatever it was, the lock must not stay behind it
        disk.close()
        raise
    try:
        yield store
    finally:
        await store.close()


@cli.command()
@config_option
def run(file: Path | None) -> int:
    """Run the daemon in the foreground.

    Until SIGTERM or SIGINT; a second one ends it at once. SIGHUP reloads the configuration.
    """
    path, config = _load(file)
    redactor.remember(read_password(config.server, os.environ))  # without one there is nothing to wait for

    async def work() -> int:
        bus = events.Bus()
        bus.listen(log_event)
        async with _open_store(config, bus) as store:
            await Daemon(path, config, store, clock, bus, os.environ).run()
        return 0

    return asyncio.run(work())


@cli.command()
@config_option
def once(file: Path | None) -> int:
    """Send all that is complete in the folders now.

    Waits for files to settle, sends them, and exits: 0 all ready, 1 not all, 2 usage or configuration.
    """
    _, config = _load(file)
    problems = [files.folder_problem(str(watch.path), writable=watch.after_upload != "keep") for watch in config.watch]
    if found := [
        f"{problem} ([[watch]] path): make it, mount it, or mend its rights" for problem in problems if problem
    ]:
        raise errors.ConfigError(found)

    async def work() -> int:
        bus = events.Bus()
        bus.listen(log_event)
        async with _open_store(config, bus) as store:
            before = store.ledger.count
            _hurry(store)
            house = House(config, store, clock, bus, os.environ)
            whole = await _until_signal(
                house, lambda stop: house.run_to_end(lambda house: house.discover.scan_all(), stop)
            )
            unfinished = {upload.path: _why(upload) for upload in store.uploads.values()}
            settling = {one.sighting.path: f"not sent yet: {one.reason}" for one in house.settle.candidates()}
            waiting = settling | unfinished
            text = f"{store.ledger.count - before} uploaded now, {len(waiting)} not ready"
            click.echo(text if whole else f"{text}; ended by a signal before everything was looked at")
            for path, why in sorted(waiting.items()):
                click.echo(f"{shown(path)}: {why}")
            return 0 if whole and not waiting else 1

    return asyncio.run(work())


def _hurry(store: Store) -> None:
    """Let nothing wait for its time, a refused password least of all: whoever asks by hand has mended it."""
    store.learn(login_not_before=None)
    for upload in tuple(store.uploads.values()):
        if upload.state is not State.PARKED and upload.trouble is not None:
            store.put(replace(upload, trouble=replace(upload.trouble, next_try=clock.now())))


async def _until_signal(house: House, work: Callable[[asyncio.Event], Awaitable[None]]) -> bool:
    """Do *work* of a house; SIGINT or SIGTERM sets its event, and it ends in good order. A second one ends it at once.

    False when a signal has ended it.
    """
    stop, loop, main = asyncio.Event(), asyncio.get_running_loop(), asyncio.current_task()
    signals = 0

    def end(number: signal.Signals) -> None:
        nonlocal signals
        signals += 1
        if signals == 1:
            house.bus.publish(events.Stopping(number.name, house.config.upload.drain))
            stop.set()
        elif main is not None:
            main.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    try:
        await work(stop)
    except ExceptionGroup as group:
        raise _first(group) from None
    except asyncio.CancelledError:  # by our own second signal, and only by it
        if signals < 2:
            raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return signals == 0


def _first(error: BaseException) -> BaseException:
    """The first exception within groups of groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _why(upload: Upload) -> str:
    reason = "" if upload.trouble is None else f": {upload.trouble.reason}"
    return f"{upload.state}{reason}; {report.what_next(upload, clock.now())}"


@cli.command()
@config_option
@click.option("--name", help="The record's name, in place of [watch.record].")
@click.option("--template", "pairs", multiple=True, metavar="K=V", help="A template field; may be repeated.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True))
def upload(file: Path | None, name: str | None, pairs: tuple[str, ...], paths: tuple[str, ...]) -> int:
    """Send these files, with a progress bar each.

    Exit codes as `once`. A name that begins with a dash goes after "--".
    """
    _, config = _load(file, need_watch=False)
    chosen = [os.path.abspath(path) for path in paths]  # noqa: PTH100 - names stay as given: no link is resolved
    for path in chosen:
        if (kind := files.kind_of(path)) != "file":
            raise click.UsageError(f"{shown(path)}: is no regular file but a {kind}")
    retouch = _retouch(name, pairs)
    console = Console(stderr=True)
    if console.is_terminal:
        configure("error", config.log.format, environ=os.environ)

    async def work() -> int:
        bus = events.Bus()
        bus.listen(log_event)
        async with _open_store(config, bus) as store:
            _hurry(store)
            house = House(config, store, clock, bus, os.environ, retouch=retouch)
            before = store.ledger.count
            with Bars(console, chosen) as bars:
                bus.listen(bars.hear)
                await _until_signal(
                    house, lambda stop: house.run_to_end(lambda house: offer(house, chosen), stop, only=chosen)
                )
            return max([_tell_upload(store, path, before) for path in dict.fromkeys(chosen)])

    return asyncio.run(work())


def _retouch(name: str | None, pairs: tuple[str, ...]) -> Callable[[Upload], Upload]:
    """Make what the command line asked for of a record into the last word on it."""
    split = [pair.partition("=") for pair in pairs]
    for key, equals, _ in split:
        if not key or not equals:
            raise click.BadParameter("expected K=V, for instance --template 1=Room7", param_hint="--template")
    template = {key: mapping.cut(mapping.clean(value), mapping.VALUE_LIMIT) for key, _, value in split}
    title = None if name is None else mapping.cut(mapping.clean(name), mapping.NAME_LIMIT)

    def retouch(upload: Upload) -> Upload:
        spec = upload.record
        spec = RecordSpec(title or spec.name, {**spec.template, **template}, spec.share)
        return replace(upload, record=spec)

    return retouch


def _tell_upload(store: Store, path: str, before: int) -> int:
    """Say how one file ended, on a line of its own; 0 when it is ready. *before*: lines of the ledger at the start."""
    unfinished, sent, now = store.uploads.get(path), store.ledger.of(path), files.look(path, "")
    text, code = "not sent: it is still being written, or was taken away", 1
    if unfinished is not None:
        text = _why(unfinished)
    elif sent and sent[-1].seq > before:
        text, code = f"ready, record {sent[-1].record}, {format_bytes(sent[-1].size)}", 0
    elif now is not None and store.ledger.knows(path, now.size, now.mtime_ns):
        text, code = f"uploaded before, record {sent[-1].record}, {format_bytes(sent[-1].size)}", 0
    click.echo(f"{shown(path)}: {text}")
    return code


@cli.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def status(file: Path | None, as_json: bool) -> int:
    """Show what is known of unfinished files.

    Counts, and every unfinished file with its reason and what happens next.
    """
    _, config = _load(file)
    document = control.ask(config.state.dir, "status") if config.state.dir.exists() else None
    if document is None:
        document = report.status(config, _stored(config)[0], clock.now())
    click.echo(json.dumps(document, indent=2) if as_json else "\n".join(report.status_lines(document)))
    return 0


def _stored(config: Config) -> tuple[report.Known, Ledger | None]:
    """Read what is known with the daemon stopped; before the first start that is nothing."""
    warnings = report.standing_warnings(config)
    if not config.state.dir.exists():
        return report.Known((), (), Learnt(), 0, warnings=warnings), None
    disk = StateFolder(config.state.dir, lock=False)
    try:
        saved, ledger = peek(disk), Ledger(disk, repair=False)
    except Unreadable as error:
        raise errors.StateUnusable(f"{config.state.dir / NAME}: {error}", hint=custody.PUT_BACK) from None
    finally:
        disk.close()
    return report.Known(saved.uploads, saved.orphans, saved.learnt, ledger.count, warnings=warnings), ledger


@cli.command()
@config_option
@click.argument("path", type=click.Path())
def explain(file: Path | None, path: str) -> int:
    """Say why this file is, or is not, uploaded.

    Each rule, timer and attempt; the last line is the verdict.
    """
    _, config = _load(file)
    path = os.path.abspath(path)  # noqa: PTH100 - as in upload
    answer = control.ask(config.state.dir, "explain", [path]) if config.state.dir.exists() else None
    if answer is not None:
        lines = answer["lines"]
    else:
        known, ledger = _stored(config)
        lines = report.explain(config, path, known, () if ledger is None else ledger.of(path), clock.now())
    click.echo("\n".join(lines))
    return 0


@cli.command()
@config_option
@paths_argument
def retry(file: Path | None, paths: tuple[str, ...]) -> int:
    """Let parked or waiting uploads go on now: these, or all."""
    _, config = _load(file)
    chosen = [os.path.abspath(path) for path in paths]  # noqa: PTH100 - as in upload
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
    _, config = _load(file)
    chosen = [os.path.abspath(path) for path in paths]  # noqa: PTH100 - as in upload
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
        async with _open_store(config, events.Bus()) as store:
            return [path for path in paths if await act(store, path)]

    return asyncio.run(work())


@cli.command()
@config_option
def check(file: Path | None) -> int:
    """Find what keeps recordings from arriving.

    Looks at everything that could, and says what to do. Exit codes: 0 fine, 1 not, 2 usage or configuration.
    """
    path, config = _load(file)
    folders = "1 watched folder" if len(config.watch) == 1 else f"{len(config.watch)} watched folders"
    click.echo(doctor.Finding("configuration", f"{shown(path)}: {folders}, no faults"))

    async def work() -> bool:
        fine = True
        async for finding in doctor.examine(config, os.environ, clock):
            click.echo(redactor.clean(str(finding)))
            fine = fine and finding.mood != "bad"
        return fine

    return 0 if asyncio.run(work()) else 1


@cli.command()
@config_option
@click.argument("path", type=click.Path())
def link(file: Path | None, path: str) -> int:
    """Print the download link of an uploaded file.

    It lives 30 minutes, and whoever has it can watch.
    """
    _, config = _load(file)
    ids = custody.find(config.state.dir, os.path.abspath(path))  # noqa: PTH100 - as in upload

    async def work() -> str:
        async with _valt(config) as valt:
            return await valt.download_link(ids)

    click.echo(asyncio.run(work()))
    return 0


def _valt(config: Config) -> Valt:
    return Valt(
        config.server,
        password=lambda: read_password(config.server, os.environ),
        clock=clock,
        bus=events.Bus(),
        remember=redactor.remember,
    )


@cli.command()
@config_option
@click.option("--verify", is_flag=True, help="Prove that no line was changed, added or taken out.")
@click.option("--download", is_flag=True, help="With --verify: compare checksums with what the server hands out.")
def ledger(file: Path | None, verify: bool, download: bool) -> int:
    """List the finished uploads; prove the list.

    Exit code 78 when a line was changed, added or taken out; 1 when the server's bytes differ.
    """
    if download and not verify:
        raise click.UsageError("--download goes with --verify")
    _, config = _load(file)
    lines, broken = custody.read_chain(config.state.dir)
    if not verify:
        for line in lines:
            click.echo(custody.told(line))
    if broken is not None:
        raise errors.StateUnusable(broken, hint=custody.PUT_BACK)
    if verify:
        chained = f"{len(lines)} lines, each linked to the one before it"
        click.echo({0: "no line yet", 1: "1 line, the first of its chain"}.get(len(lines), chained))
    return asyncio.run(_compare(config, lines)) if download else 0


async def _compare(config: Config, lines: list[Any]) -> int:
    differing = missing = 0
    async with _valt(config) as valt:
        async for comparison in custody.compare(lines, valt):
            click.echo(comparison)
            differing += comparison.equal is False
            missing += comparison.equal is None
    equal = len(lines) - differing - missing
    click.echo(f"{equal} equal, {differing} differ, {missing} not to be had")
    return 1 if differing or missing else 0


@cli.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any free one.")
@click.option(
    "--semantics",
    type=click.Choice(["offset", "strict", "blueimp", "append", "whole"]),
    default="offset",
    show_default=True,
    help="What a chunk means to it.",
)
@click.option("--folder", type=click.Path(path_type=Path), help="Where it keeps what it gets; default: a new one.")
@click.option(
    "--processing", type=click.FloatRange(min=0), default=2.0, show_default=True, help="Seconds until a video is ready."
)
@click.option("--token-lifetime", type=click.FloatRange(min=0), default=28800.0, show_default=True, help="Seconds.")
@click.option("--body-limit", type=click.IntRange(min=1), help="Bytes; larger requests are answered 413.")
def simulate(**options: Any) -> int:
    """Run the built-in VALT server.

    For trying things out. User `uploader`, password `secret`.
    """
    from uploader.simulator.command import serve

    return asyncio.run(serve(**options))


@cli.command()
@click.option("--keep", is_flag=True, help="Leave the folders behind to look at.")
def demo(keep: bool) -> int:
    """See it work, and end by itself.

    The built-in server, a folder with videos dropping in, and the daemon.
    """
    from uploader.demo import show

    return asyncio.run(show(keep=keep))
