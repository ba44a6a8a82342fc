"""``run``, ``once``, ``upload``: the commands that send recordings."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from uploader import files
from uploader.app import status
from uploader.app.application import Application, submit_paths
from uploader.app.daemon import Daemon
from uploader.app.progress import Bars
from uploader.cli.common import absolute, cli, clock, config_option, load_config, log_event, open_store
from uploader.config import Config, WatchConfig
from uploader.domain import errors, events, mapping, untaken
from uploader.domain.model import RecordSpec, State, Upload, shown
from uploader.domain.units import format_bytes
from uploader.files import DISPOSALS
from uploader.runtime.garbage import ShortCollections
from uploader.runtime.log import configure, redactor
from uploader.server.credentials import check_passwords
from uploader.store import Store

FIRST_LOOK: Final = 30.0  # s that a folder may take to answer ``once``; then its share is reported as hung


@cli.command()
@config_option
def run(file: Path | None) -> int:
    """Run the daemon in the foreground.

    SIGTERM or SIGINT ends it, within `upload.drain` seconds; a second one ends it at once. SIGHUP reloads the
    configuration.
    """
    path, config = load_config(file)
    check_passwords(config.server, os.environ, redactor.remember)  # fails at once when one cannot be used

    async def work() -> int:
        bus = events.Bus()
        bus.listen(log_event)
        async with open_store(config, bus) as store:
            await Daemon(path, config, store, clock, bus, os.environ).run()
        return 0

    with ShortCollections(clock.monotonic):
        return asyncio.run(work())


@cli.command()
@config_option
def once(file: Path | None) -> int:
    """Send everything that is complete now, then exit.

    Waits for files in the watched folders to settle. Exit codes: 0 all ready, 1 not all ready, 2 usage or
    configuration.
    """
    _, config = load_config(file)
    check_passwords(config.server, os.environ, redactor.remember)

    async def work() -> int:
        if found := [problem for problem in await _first_look(config) if problem]:
            raise errors.ConfigError(found)
        bus = events.Bus()
        bus.listen(log_event)
        async with open_store(config, bus) as store:
            before = store.ledger.count
            _hurry(store)
            application = Application(config, store, clock, bus, os.environ)
            ran_to_end = await _until_signal(
                application,
                lambda stop: application.run_until_idle(lambda application: application.discover.scan_all(), stop),
            )
            unfinished = {
                upload.path: _why(upload, paused=store.is_paused(upload)) for upload in store.uploads.values()
            }
            settling = {
                candidate.sighting.path: f"not sent yet: {candidate.reason}"
                for candidate in application.settle.candidates.values()
            }
            waiting = settling | unfinished
            scanned = application.discover.folder_stats()
            text = f"{store.ledger.count - before} uploaded now, {len(waiting)} not ready"
            if left := untaken.summed(stats.untaken for stats in scanned):
                text += f", {sum(left.values())} not taken"
            click.echo(text if ran_to_end else f"{text}; ended by a signal before everything was checked")
            folders = {stats.folder: stats.away or stats.unreadable for stats in scanned}
            unseen = {folder: f"not scanned, or only in part: {why}" for folder, why in folders.items() if why}
            for stats in scanned:
                if stats.untaken:
                    names = untaken.in_words(stats.untaken)
                    click.echo(
                        f"{shown(stats.folder)}: no include pattern takes {names}; add them to include, or exclude"
                    )
            for path, why in sorted({**waiting, **unseen}.items()):
                click.echo(f"{shown(path)}: {why}")
            return 0 if ran_to_end and not waiting and not unseen else 1

    return asyncio.run(work())


async def _first_look(config: Config) -> list[str]:
    """Return each watched folder's problem, "" for a usable one. Checks them at the same time, since one may hang."""

    async def look(watch: WatchConfig) -> str:
        path, writable = str(watch.path), DISPOSALS[watch.after_upload].takes_away
        try:
            problem = await files.ShareThreads("folder check").call(
                lambda: files.folder_problem(path, writable=writable), time_limit=FIRST_LOOK
            )
        except errors.ShareNotReady as error:
            return f"{shown(path)}: {error} ([[watch]] path): repair its server or the connection to it, then try again"
        return f"{problem} ([[watch]] path): create it, mount it, or give this user access" if problem else ""

    return await asyncio.gather(*map(look, config.watch))


def _hurry(store: Store) -> None:
    """Let uploads that wait for a retry continue now.

    A refused password still waits: a timer may run ``once`` again and again, and the account would be locked.
    """
    for upload in tuple(store.uploads.values()):
        if upload.state is not State.PARKED and upload.last_error is not None:
            store.put(replace(upload, last_error=replace(upload.last_error, next_try=clock.now())))


async def _until_signal(application: Application, work: Callable[[asyncio.Event], Awaitable[None]]) -> bool:
    """Run *work*; return True when it ran to its end, False when a signal ended it.

    SIGINT or SIGTERM sets the event that *work* is given. A second signal cancels it.
    """
    stop, loop, main = asyncio.Event(), asyncio.get_running_loop(), asyncio.current_task()
    signals = 0

    def end(number: signal.Signals) -> None:
        nonlocal signals
        signals += 1
        if signals == 1:
            application.bus.publish(events.Stopping(number.name, application.config.upload.drain))
            stop.set()
        elif main is not None:
            main.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, number)
    try:
        await work(stop)
    except ExceptionGroup as group:
        raise errors.first_of(group) from None
    except asyncio.CancelledError:  # expected after a second signal only
        if signals < 2:
            raise
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return signals == 0


def _why(upload: Upload, *, paused: bool) -> str:
    """Say in one line why an upload is not finished, and what happens next."""
    reason = "" if upload.last_error is None else f": {upload.last_error.reason}"
    if paused:
        reason = f": {status.PAUSED}"
    return f"{upload.state}{reason}; {status.what_next(upload, clock.now(), paused=paused)}"


@cli.command()
@config_option
@click.option("--name", help="The record's name, in place of [watch.record].")
@click.option("--template", "pairs", multiple=True, metavar="K=V", help="A template field; may be repeated.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True))
def upload(file: Path | None, name: str | None, pairs: tuple[str, ...], paths: tuple[str, ...]) -> int:
    """Send these files, with a progress bar for each.

    Exit codes as for `once`. A file name that begins with a dash goes after "--".
    """
    _, config = load_config(file, need_watch=False)
    chosen = [absolute(path) for path in paths]
    for path in chosen:
        if (kind := files.kind_of(path)) != "file":
            raise click.UsageError(f"{shown(path)}: is a {kind}, not a regular file")
    override = _override(name, pairs)
    check_passwords(config.server, os.environ, redactor.remember)
    console = Console(stderr=True)
    if console.is_terminal:
        configure("error", config.log.format, environ=os.environ)

    async def work() -> int:
        bus = events.Bus()
        bus.listen(log_event)
        async with open_store(config, bus) as store:
            _hurry(store)
            application = Application(config, store, clock, bus, os.environ, named=chosen, override=override)
            before = store.ledger.count
            with Bars(console, chosen) as bars:
                bus.listen(bars.hear)
                await _until_signal(
                    application,
                    lambda stop: application.run_until_idle(
                        lambda application: submit_paths(application, chosen), stop, only=chosen
                    ),
                )
            return max([_tell_upload(store, path, before) for path in dict.fromkeys(chosen)])

    return asyncio.run(work())


def _override(name: str | None, pairs: tuple[str, ...]) -> Callable[[RecordSpec], RecordSpec] | None:
    """Return the function that applies ``--name`` and ``--template`` to a record; None without these options."""
    if name is None and not pairs:
        return None
    split = [pair.partition("=") for pair in pairs]
    for key, equals, _ in split:
        if not key or not equals:
            raise click.BadParameter("expected K=V, for instance --template 1=Room7", param_hint="--template")
    template = {key: mapping.cut(mapping.clean(value), mapping.TEMPLATE_VALUE_LIMIT) for key, _, value in split}
    title = None if name is None else mapping.cut(mapping.clean(name), mapping.RECORD_NAME_LIMIT)

    return lambda spec: RecordSpec(title or spec.name, {**spec.template, **template}, spec.share)


def _tell_upload(store: Store, path: str, before: int) -> int:
    """Print the result of one file; return 0 when it is ready, else 1. *before*: ledger lines at the start."""
    unfinished, sent, now = store.uploads.get(path), store.ledger.of(path), files.look(path, "")
    text, code = "not sent: the file is still being written, or was removed", 1
    if unfinished is not None:
        text = _why(unfinished, paused=store.is_paused(unfinished))
    elif sent and sent[-1].seq > before:
        text, code = f"ready, record {sent[-1].record}, {format_bytes(sent[-1].size)}", 0
    elif now is not None and store.ledger.knows(path, now.size, now.mtime_ns):
        as_now = [entry for entry in sent if (entry.size, entry.mtime_ns) == (now.size, now.mtime_ns)]
        text, code = f"uploaded before, record {as_now[-1].record}, {format_bytes(now.size)}", 0
    click.echo(f"{shown(path)}: {text}")
    return code
