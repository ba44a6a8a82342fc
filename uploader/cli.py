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
from uploader.model import Learnt, RecordSpec, Upload, shown
from uploader.progress import Bars
from uploader.store import Ledger, Store
from uploader.store.disk import StateFolder
from uploader.store.store import peek
from uploader.units import format_bytes
from uploader.valt import Valt

log = get_logger("uploader")
clock = SystemClock()

config_option = click.option(
    "-c", "--config", "file", type=click.Path(path_type=Path), help="The configuration; default: see --help above."
)
paths_argument = click.argument("paths", nargs=-1, type=click.Path())


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Bring every finished recording of a watched folder to a VALT video server.

    Without -c the configuration is $VALT_UPLOADER_CONFIG, else /etc/valt-uploader/config.toml.
    """


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
    """Open the state of a process that works on it; checks the password first, so that nothing is begun without."""
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
    """Run the daemon in the foreground, until SIGTERM or SIGINT. SIGHUP reloads the configuration."""
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
    """Send everything that is complete in the watched folders now, then exit: 0 all ready, 1 not all, 2 usage."""
    _, config = _load(file)
    for watch in config.watch:
        if problem := files.folder_problem(str(watch.path), writable=watch.after_upload != "keep"):
            raise errors.ConfigError([f"{problem} ([[watch]] path)"])

    async def work() -> int:
        bus = events.Bus()
        bus.listen(log_event)
        async with _open_store(config, bus) as store:
            before = store.ledger.count
            house = House(config, store, clock, bus, os.environ)
            await _until_signal(lambda stop: house.run_to_end(lambda house: house.discover.scan_all(), stop))
            unfinished = len(store.uploads) + len(tuple(house.settle.candidates()))
            click.echo(f"{store.ledger.count - before} uploaded now, {unfinished} not ready")
            for upload in store.uploads.values():
                click.echo(f"{shown(upload.path)}: {_why(upload)}", err=True)
            return 1 if unfinished else 0

    return asyncio.run(work())


async def _until_signal(work: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Do *work*, which ends in good order when SIGINT or SIGTERM sets its event."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        await work(stop)
    except* errors.UploaderError as group:
        raise group.exceptions[0] from None
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _why(upload: Upload) -> str:
    reason = "" if upload.trouble is None else f": {upload.trouble.reason}"
    return f"{upload.state}{reason}; {report.what_next(upload, clock.now())}"


@cli.command()
@config_option
@click.option("--name", help="The record's name, in place of [watch.record].")
@click.option("--template", "pairs", multiple=True, metavar="K=V", help="A template field; may be repeated.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True))
def upload(file: Path | None, name: str | None, pairs: tuple[str, ...], paths: tuple[str, ...]) -> int:
    """Send these files, with a progress bar each. Exit codes as `once`."""
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
            house = House(config, store, clock, bus, os.environ, retouch=retouch)
            with Bars(console, chosen) as bars:
                bus.listen(bars.hear)
                await _until_signal(
                    lambda stop: house.run_to_end(lambda house: offer(house, chosen), stop, only=chosen)
                )
            return max([_tell_upload(store, path) for path in dict.fromkeys(chosen)])

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


def _tell_upload(store: Store, path: str) -> int:
    """Say how one file ended; 0 when it is ready."""
    unfinished, sent = store.uploads.get(path), store.ledger.of(path)
    if unfinished is not None:
        click.echo(f"{shown(path)}: {_why(unfinished)}", err=True)
        return 1
    if not sent:
        click.echo(f"{shown(path)}: not sent: it is still being written, or was taken away", err=True)
        return 1
    click.echo(f"{shown(path)}: ready, record {sent[-1].record}, {format_bytes(sent[-1].size)}")
    return 0


@cli.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def status(file: Path | None, as_json: bool) -> int:
    """Show what is known: counts, and every unfinished file with its reason and what happens next."""
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
    finally:
        disk.close()
    return report.Known(saved.uploads, saved.orphans, saved.learnt, ledger.count, warnings=warnings), ledger


@cli.command()
@config_option
@click.argument("path", type=click.Path())
def explain(file: Path | None, path: str) -> int:
    """Say why this file is, or is not, uploaded: each rule, timer and attempt."""
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
    answer = control.ask(config.state.dir, "retry", chosen) if config.state.dir.exists() else None
    released = answer["released"] if answer is not None else _on_state(config, chosen, release_stored)
    for path in chosen:
        click.echo(f"{shown(path)}: {'goes on' if path in released else 'nothing unfinished is known of it'}")
    return 0 if set(chosen) <= set(released) else 1


@cli.command(name="forget")
@config_option
@click.argument("paths", nargs=-1, required=True, type=click.Path())
def forget_command(file: Path | None, paths: tuple[str, ...]) -> int:
    """Know nothing more of these unfinished uploads. Their files, if they are still there, are sent anew."""
    _, config = _load(file)
    chosen = [os.path.abspath(path) for path in paths]  # noqa: PTH100 - as in upload
    settle = config.server.doubt_settle

    async def forget_stored(store: Store, path: str) -> bool:
        await forget(store, path, clock, events.Bus(), settle=settle)
        return True

    if not config.state.dir.exists() or control.ask(config.state.dir, "forget", chosen) is None:
        _on_state(config, chosen, forget_stored)
    for path in chosen:
        click.echo(f"{shown(path)}: forgotten")
    return 0


def _on_state(config: Config, paths: list[str], act: Callable[[Store, str], Awaitable[bool]]) -> list[str]:
    """Do something to uploads with the daemon stopped; the answer is those it was done to."""

    async def work() -> list[str]:
        async with _open_store(config, events.Bus()) as store:
            return [path for path in paths if await act(store, path)]

    return asyncio.run(work())


@cli.command()
@config_option
def check(file: Path | None) -> int:
    """Look at everything that could keep recordings from arriving, and say what to do. 0 fine, 1 not, 2 usage."""
    path, config = _load(file)
    click.echo(doctor.Finding("configuration", f"{path}: {len(config.watch)} watched, no faults"))

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
    """Ask the server for the download link of an uploaded file. It lives 30 minutes; whoever has it can watch."""
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
    """List the finished uploads; prove the list."""
    if download and not verify:
        raise click.UsageError("--download goes with --verify")
    _, config = _load(file)
    lines, broken = custody.read_chain(config.state.dir)
    if not verify:
        for line in lines:
            click.echo(custody.told(line))
    if broken is not None:
        raise errors.StateUnusable(broken, hint="the lines before it hold; put the whole file back from a copy")
    if verify:
        click.echo(f"{len(lines)} lines, each linked to the one before it")
    return asyncio.run(_compare(config, lines)) if download else 0


async def _compare(config: Config, lines: list[Any]) -> int:
    differing = missing = 0
    async with _valt(config) as valt:
        async for comparison in custody.compare(lines, valt):
            click.echo(f"{comparison.text:<8}  {shown(comparison.line.upload.path)}")
            differing += comparison.equal is False
            missing += comparison.equal is None
    equal = len(lines) - differing - missing
    click.echo(f"{equal} equal, {differing} differ, {missing} not to be had")
    return 1 if differing or missing else 0


@cli.command()
@click.option("--port", default=8080, show_default=True, help="0: any free one.")
@click.option("--semantics", default="offset", show_default=True, help="What a chunk means to it.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where it keeps what it gets; default: a new one.")
@click.option("--processing", default=2.0, show_default=True, help="Seconds until a video is ready.")
@click.option("--token-lifetime", default=28800.0, show_default=True, help="Seconds.")
@click.option("--body-limit", type=int, help="Bytes; larger requests are answered 413.")
def simulate(**options: Any) -> int:
    """Run the built-in VALT server, for trying things out. User `uploader`, password `secret`."""
    from uploader.simulator.command import serve

    return asyncio.run(serve(**options))


@cli.command()
@click.option("--keep", is_flag=True, help="Leave the folders behind to look at.")
def demo(keep: bool) -> int:
    """See it work: the built-in server, a folder with videos dropping in, the daemon; ends by itself."""
    from uploader.demo import show

    return asyncio.run(show(keep=keep))
