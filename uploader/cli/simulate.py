"""``simulate`` and ``demo``: try the program without a VALT server.

The modules behind them are imported when called, so the commands that send real recordings do not need them.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from uploader.cli.common import cli


@cli.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="0: any free one.")
@click.option(
    "--semantics",
    type=click.Choice(["offset", "strict", "blueimp", "append", "whole"]),
    default="offset",
    show_default=True,
    help="How it interprets chunks.",
)
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where it stores videos; default: a new temporary folder."
)
@click.option(
    "--processing", type=click.FloatRange(min=0), default=2.0, show_default=True, help="Seconds until a video is ready."
)
@click.option("--token-lifetime", type=click.FloatRange(min=0), default=28800.0, show_default=True, help="Seconds.")
@click.option("--body-limit", type=click.IntRange(min=1), help="Bytes; a larger request is refused with 413.")
def simulate(**options: Any) -> int:
    """Run the built-in VALT server, for trying things out.

    User `uploader`, password `secret`.
    """
    from uploader.testing.simulator.command import serve

    return asyncio.run(serve(**options))


@cli.command()
@click.option("--keep", is_flag=True, help="Do not delete the folders at the end.")
def demo(keep: bool) -> int:
    """Show the program at work; ends by itself.

    Runs the built-in server, a folder into which videos are recorded, and the daemon.
    """
    from uploader.testing.demo import show

    return asyncio.run(show(keep=keep))
