"""What the commands share: the command group, the option ``-c``, the log, and how the state is opened."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path

import click

from uploader import __version__
from uploader.config import Config, find_config, load
from uploader.domain import events
from uploader.runtime.clock import SystemClock
from uploader.runtime.log import configure, get_logger
from uploader.server.port import Server
from uploader.server.readonly import valt_to_ask
from uploader.store import Store
from uploader.store.disk import StateFolder

log = get_logger("uploader")
clock = SystemClock()

config_option = click.option(
    "-c",
    "--config",
    "file",
    type=click.Path(path_type=Path),
    help="The configuration file; for its default: valt-uploader -h",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Upload finished recordings from watched folders to a VALT video server.

    \b
    Without -c the configuration is $VALT_UPLOADER_CONFIG,
    else /etc/valt-uploader/config.toml.
    """  # noqa: D301 - \b is click's mark for lines that are not wrapped


def load_config(file: Path | None, *, need_watch: bool = True) -> tuple[Path, Config]:
    """Read the configuration and set up the log accordingly. Returns its path and content. Raises ``ConfigError``."""
    path = file or find_config(os.environ)
    config = load(path, os.environ, need_watch=need_watch)
    configure(config.log.level, config.log.format, environ=os.environ)
    return path, config


def absolute(path: str) -> str:
    """Make a path from the command line absolute, without resolving links in it."""
    return os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow links


def log_event(event: events.Event) -> None:
    """Write an event to the log, under its name and at its level."""
    if event.level is not None:
        values = {field.name: getattr(event, field.name) for field in fields(event)}
        getattr(log, event.level)(event.name(), **{key: value for key, value in values.items() if value is not None})


@asynccontextmanager
async def open_store(config: Config, bus: events.Bus) -> AsyncIterator[Store]:
    """Open the state for changes while the context lasts. Raises ``StateUnusable`` and others."""
    disk = StateFolder(config.state.dir)
    try:
        store = Store(disk, clock, bus)
    except BaseException:  # also when interrupted: the lock is released
        disk.close()
        raise
    try:
        yield store
    finally:
        await store.close()


def valt_of(config: Config) -> Server:
    """Make a client for a command that only reads from the server."""
    return valt_to_ask(config, os.environ, clock)
