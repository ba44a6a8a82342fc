"""``ledger`` and ``link``: list finished uploads, prove the list, compare it with the server, link to a video.

Reads the ledger and never changes it.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from uploader.cli.common import absolute, cli, config_option, load_config, valt_of
from uploader.config import Config
from uploader.diagnostics import ledger_audit


@cli.command()
@config_option
@click.argument("path", type=click.Path())
def link(file: Path | None, path: str) -> int:
    """Print the download link of an uploaded file.

    The link is valid for 30 minutes. Anyone who has it can watch the video.
    """
    _, config = load_config(file)
    ids = ledger_audit.find(config.state.dir, absolute(path))

    async def work() -> str:
        async with valt_of(config) as valt:
            return await valt.download_link(ids)

    click.echo(asyncio.run(work()))
    return 0


@cli.command()
@config_option
@click.option("--verify", is_flag=True, help="Prove that no line was changed, added or removed.")
@click.option("--download", is_flag=True, help="With --verify: download each video and compare its checksum.")
def ledger(file: Path | None, verify: bool, download: bool) -> int:
    """List the finished uploads, or prove the list.

    Exit code 78 when a line was changed, added or removed; 1 when a video on the server differs or is unavailable.
    """
    if download and not verify:
        raise click.UsageError("--download needs --verify")
    _, config = load_config(file)
    if not verify:
        for line in ledger_audit.lines(config.state.dir):
            click.echo(ledger_audit.line_text(line))
        return 0
    count = ledger_audit.prove(config.state.dir)
    chained = f"{count} lines, each linked to the one before it"
    click.echo({0: "no line yet", 1: "1 line, the first of its chain"}.get(count, chained))
    return asyncio.run(_compare(config)) if download else 0


async def _compare(config: Config) -> int:
    equal = differing = unavailable = 0
    async with valt_of(config) as valt:
        async for comparison in ledger_audit.compare_with_server(ledger_audit.lines(config.state.dir), valt):
            click.echo(comparison)
            equal += comparison.equal is True
            differing += comparison.equal is False
            unavailable += comparison.equal is None
    click.echo(f"{equal} equal, {differing} differ, {unavailable} unavailable")
    return 1 if differing or unavailable else 0
