"""``simulate`` and ``demo``: the product without a VALT server.

Must never be needed by the commands that send real recordings: what they use is imported only when called.
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
    from uploader.testing.simulator.command import serve

    return asyncio.run(serve(**options))


@cli.command()
@click.option("--keep", is_flag=True, help="Leave the folders behind to look at.")
def demo(keep: bool) -> int:
    """See it work, and end by itself.

    The built-in server, a folder with videos dropping in, and the daemon.
    """
    from uploader.testing.demo import show

    return asyncio.run(show(keep=keep))
