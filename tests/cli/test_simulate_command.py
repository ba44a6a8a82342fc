"""``simulate`` as a process, and its options."""

from __future__ import annotations

import asyncio
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import aiohttp
import click
from process import at_work, sha256

from uploader.cli import cli
from uploader.testing.simulator import DownloadKind, Semantics, Settings


async def test_simulate_serves_a_page_and_keeps_what_it_gets(tmp_path: Path) -> None:
    """``simulate --port 0`` says where it is, shows its records as a page, and leaves the files in its folder."""
    async with at_work(tmp_path) as site:
        kept = tmp_path / "kept"
        server = await site.launch(
            *("simulate", "--port", "0", "--folder", kept, "--processing", "0"), *("--semantics", "append")
        )
        url = (await server.line("VALT simulator at")).split()[3]
        site.configure(server=f'url = "{url}"')
        file = site.record("shown.mp4")
        assert (await site.run("once")).code == 0
        async with aiohttp.ClientSession() as http, http.get(f"{url}/") as answer:
            page = await answer.text()
        assert "shown" in page
        assert "append" in page
        assert [sha256(path) for path in kept.glob("*/video.mp4")] == [sha256(file)]
        await server.line("login  200")
        ended = await server.stop()
        assert (ended.code, ended.err) == (0, "")


def test_simulate_offers_every_kind_of_server() -> None:
    """The choices of its options are those of the settings, and so are the defaults."""
    options = {option.name: option for option in cli.commands["simulate"].params}
    kinds = {"semantics": list(Semantics), "download": get_args(DownloadKind), "durations": ["right", "none", "zero"]}
    kinds |= {"list_shape": ["records", "bare"], "create": ["post", "get"]}
    for name, values in kinds.items():
        choice = options[name].type
        assert isinstance(choice, click.Choice)
        assert list(choice.choices) == [str(value) for value in values]
    chosen = cli.commands["simulate"].make_context("simulate", []).params
    settings = {each.name: each.default for each in fields(Settings)}
    assert {name for name in chosen if name not in settings} == {"port", "folder"}
    assert {name: chosen[name] for name in chosen if name in settings} == {
        name: default for name, default in settings.items() if name in chosen
    }


async def test_simulate_can_be_a_server_that_must_not_be_believed(tmp_path: Path) -> None:
    """Options make it refuse downloads and deletion, end tokens, and call videos failed; downloads are printed."""
    async with at_work(tmp_path) as site:
        kept = tmp_path / "kept"
        server = await site.launch(
            *("simulate", "--port", "0", "--folder", kept, "--processing", "0", "--status-word", "failed"),
            *("--semantics", "last", "--download", "forbidden", "--durations", "none", "--refuses-delete"),
            *("--single-token", "--transcodes", "--own-download-port", "--link-lifetime", "60"),
        )
        url = (await server.line("VALT simulator at")).split()[3]
        async with aiohttp.ClientSession(f"{url}/api/v3/") as http:

            async def call(path: str, payload: object = None, method: str = "POST") -> tuple[int, Any]:
                async with http.request(method, path, json=payload) as answer:
                    return answer.status, await answer.json(content_type=None)

            async def log_in() -> str:
                answer = await call("login", {"username": "uploader", "password": "secret"})
                return f"?access_token={answer[1]['data']['access_token']}"

            older, token = await log_in(), await log_in()
            assert (await call(f"admin/general{older}", method="GET"))[0] == 401
            made = (await call(f"records/create-upload{token}", {"name": "spoilt"}))[1]
            record, video = made["id"], made["videos"][0]
            for start in (0, 3):
                form = aiohttp.FormData()
                form.add_field("file", b"abc", filename="a.mp4")
                headers = {"Content-Range": f"bytes {start}-{start + 2}/6"}
                async with http.post(f"records/{record}/videos/{video}{token}", data=form, headers=headers) as answer:
                    assert answer.status == 201
            details = (await call(f"records/{record}{token}", method="GET"))[1]["data"]
            assert details["videos"][0]["status"]["type"] == "failed"
            assert "duration" not in details
            assert (await call(f"records/{record}/delete{token}", {}))[0] == 403
            link = (await call(f"records/download/{record}/{video}{token}", method="GET"))[1]["url"]
            assert not link.startswith(url)
            async with http.get(link) as answer:
                assert answer.status == 403
        await server.line(f"download  {record}  GET  403")
        assert [path.read_bytes() for path in kept.glob("*/video.mp4")] == [b"abc"]


async def test_simulate_says_why_it_cannot_start(tmp_path: Path) -> None:
    """A port that is taken, or a folder that cannot be made, is one line of error."""
    async with at_work(tmp_path) as site:
        port = site.url.rpartition(":")[2]
        taken, folder = await asyncio.gather(
            site.run_bare("simulate", "--port", port, "--folder", tmp_path / "kept"),
            site.run_bare("simulate", "--port", "0", "--folder", site.password / "below"),
        )
        assert taken.code == folder.code == 1
        assert taken.complaints[0].startswith(f"error: port {port} cannot be listened on: ")
        assert folder.err.startswith(f"error: {site.password}/below cannot be used: Not a directory")
        assert len(taken.err.splitlines()) == len(folder.err.splitlines()) == 1
