"""What the commands share: the group, the option for the configuration, and the way to an open state.

Must never hold a command.
"""

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
    help="The configuration; for its default: valt-uploader -h",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
def cli() -> None:
    """Bring every finished recording of a watched folder to a VALT video server.

    \b
    Without -c the configuration is $VALT_UPLOADER_CONFIG,
    else /etc/valt-uploader/config.toml.
    """  # noqa: D301 - click's own mark for lines that stay as they are


def load_config(file: Path | None, *, need_watch: bool = True) -> tuple[Path, Config]:
    """Read the configuration and set the log up by it: which file, and what is in it. Raises ``ConfigError``."""
    path = file or find_config(os.environ)
    config = load(path, os.environ, need_watch=need_watch)
    configure(config.log.level, config.log.format, environ=os.environ)
    return path, config


def absolute(path: str) -> str:
    """Make a path from the command line absolute as it stands: no link in it is resolved."""
    return os.path.abspath(path)  # noqa: PTH100 - Path.resolve would follow links


def log_event(event: events.Event) -> None:
    """Write an event to the log, under its one name."""
    if event.level is not None:
        values = {field.name: getattr(event, field.name) for field in fields(event)}
        getattr(log, event.level)(event.name(), **{key: value for key, value in values.items() if value is not None})


@asynccontextmanager
async def open_store(config: Config, bus: events.Bus) -> AsyncIterator[Store]:
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


def valt_of(config: Config) -> Server:
    """Make a client for a command that only asks."""
    return valt_to_ask(config, os.environ, clock)
