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
    type=click.Choice(["offset", "strict", "blueimp", "append", "whole", "last", "first", "short", "double"]),
    default="offset",
    show_default=True,
    help="How it interprets chunks. The last four spoil files, and say that all is well.",
)
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where it stores videos; default: a new temporary folder."
)
@click.option(
    "--processing", type=click.FloatRange(min=0), default=2.0, show_default=True, help="Seconds until a video is ready."
)
@click.option("--token-lifetime", type=click.FloatRange(min=0), default=28800.0, show_default=True, help="Seconds.")
@click.option("--body-limit", type=click.IntRange(min=1), help="Bytes; a larger request is refused with 413.")
@click.option("--single-token", is_flag=True, help="A log-in ends the token before it.")
@click.option(
    "--status-word", default="ready", show_default=True, metavar="WORD", help="A processed video's status, say failed."
)
@click.option(
    "--durations",
    type=click.Choice(["right", "none", "zero"]),
    default="right",
    show_default=True,
    help="The duration in records: as the stored bytes say, no such key, or 0.",
)
@click.option("--refuses-delete", is_flag=True, help="Deleting is answered 403.")
@click.option("--transcodes", is_flag=True, help="Downloads give other bytes than were stored.")
@click.option(
    "--download",
    type=click.Choice(
        ["here", "closed", "forbidden", "no-head", "no-length", "redirect", "elsewhere", "page"],
    ),
    default="here",
    show_default=True,
    help="How download links work: well, or with one of these failures.",
)
@click.option("--own-download-port", is_flag=True, help="Downloads have a port of their own, as VALT's 8000.")
@click.option(
    "--link-lifetime", type=click.FloatRange(min=0), default=1800.0, show_default=True, help="Seconds, for downloads."
)
@click.option(
    "--list",
    "list_shape",
    type=click.Choice(["records", "bare"]),
    default="records",
    show_default=True,
    help="The form of a list of records: within an object, or by itself.",
)
@click.option(
    "--create",
    type=click.Choice(["post", "get"]),
    default="post",
    show_default=True,
    help="How a record is created; by GET it has no name at first.",
)
@click.option("--sticky", is_flag=True, help="Two nodes behind a load balancer with a sticky cookie.")
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
