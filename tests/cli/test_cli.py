"""The commands as a whole: help, version, usage, pipes, and ``once`` as a process."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path

import pytest
from process import MIB, at_work, sha256

from uploader import __version__
from uploader.cli import run
from uploader.config import Config
from uploader.testing.simulator import Fault

COMMANDS = (
    "check",
    "demo",
    "explain",
    "forget",
    "ledger",
    "link",
    "once",
    "pause",
    "resume",
    "retry",
    "run",
    "simulate",
    "status",
    "upload",
)


async def test_version_is_one_line(tmp_path: Path) -> None:
    """``--version`` says name and version, and nothing else."""
    async with at_work(tmp_path) as site:
        ended = await site.run_bare("--version")
        assert (ended.code, ended.out, ended.err) == (0, f"valt-uploader {__version__}\n", "")


async def test_help_names_every_command_in_whole_sentences(tmp_path: Path) -> None:
    """No summary of a command is cut off, and -h is --help."""
    async with at_work(tmp_path) as site:
        short, long = await asyncio.gather(site.run_bare("-h"), site.run_bare("--help"))
        assert short == long
        assert short.code == 0
        assert "/etc/valt-uploader/config.toml" in short.out  # on one line, to be copied
        listed = short.out.partition("Commands:\n")[2].splitlines()
        assert [line.split()[0] for line in listed] == list(COMMANDS)
        assert all(line.endswith(".") and not line.endswith("..") for line in listed), listed


async def test_each_command_has_a_help_page(tmp_path: Path) -> None:
    """-h says how a command is used, and exits 0."""
    async with at_work(tmp_path) as site:
        for command, ended in zip(
            COMMANDS, await asyncio.gather(*(site.run_bare(command, "-h") for command in COMMANDS)), strict=True
        ):
            assert (ended.code, ended.err) == (0, "")
            assert ended.out.startswith(f"Usage: valt-uploader {command} [OPTIONS]")
            assert ("-c, --config PATH" in ended.out) == (command not in {"demo", "simulate"})


async def test_without_a_command_the_help_is_shown_and_the_exit_code_is_2(tmp_path: Path) -> None:
    """No error message comes before the help."""
    async with at_work(tmp_path) as site:
        ended = await site.run_bare()
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.startswith("Usage: valt-uploader")


@pytest.mark.parametrize(
    ("arguments", "complaint", "where"),
    [
        (["lanch"], "No such command 'lanch'.", "valt-uploader --help"),
        (["run", "--quick"], "No such option '--quick'.", "valt-uploader run --help"),
        (["upload"], "Missing argument 'PATHS...'.", "valt-uploader upload --help"),
        (
            ["simulate", "--port", "x"],
            "Invalid value for '--port': 'x' is not a valid integer range.",
            "simulate --help",
        ),
        (["simulate", "--port", "65536"], "65536 is not in the range 0<=x<=65535.", "simulate --help"),
        (["simulate", "--semantics", "odd"], "'offset', 'strict', 'blueimp', 'append', 'whole'", "simulate --help"),
    ],
)
async def test_usage_errors_say_what_is_wrong_and_where_help_is(
    tmp_path: Path, arguments: list[str], complaint: str, where: str
) -> None:
    """One line names the error, one says where to read more; exit 2."""
    async with at_work(tmp_path) as site:
        ended = await site.run_bare(*arguments)
        assert (ended.code, ended.out) == (2, "")
        first, second = ended.err.splitlines()
        assert first.startswith("error: ")
        assert complaint in first
        assert second.startswith("see: valt-uploader")
        assert where in second


async def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    """``ledger | head -1``: the command ends quietly."""
    async with at_work(tmp_path) as site:
        for number in range(3):
            site.record(f"{number}.mp4", 1000)
        assert (await site.run("once")).code == 0
        reader, writer = os.pipe()
        os.close(reader)
        try:
            ended = await site.run("ledger", stdout=writer)
        finally:
            os.close(writer)
        assert (ended.code, ended.err) == (0, "")


async def test_once_sends_everything_and_a_second_once_nothing(tmp_path: Path) -> None:
    """Complete files are sent byte for byte and summed up in one line; the second run makes no record."""
    async with at_work(tmp_path) as site:
        files = [site.record("a.mp4", 300_000), site.record("sub/b two.mov", 1), site.record("-c.mkv", 65_536)]
        first = await site.run("once")
        assert (first.code, first.out) == (0, "3 uploaded now, 0 not ready\n")
        assert {record.sha256 for record in site.simulator.records()} == {sha256(file) for file in files}
        second = await site.run("once")
        assert (second.code, second.out) == (0, "0 uploaded now, 0 not ready\n")
        assert len(site.simulator.records()) == 3


async def test_once_names_the_folder_whose_share_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other folders are looked at, and their problems are reported as well."""
    gate = threading.Event()

    def look(path: str, *, writable: bool) -> str | None:
        del writable
        if path == "/rec/hangs":
            gate.wait()
        return None if path == "/rec/fine" else f"{path}: is missing"

    monkeypatch.setattr("uploader.files.folder_problem", look)
    monkeypatch.setattr(run, "FIRST_LOOK", 0.2)
    config = Config.model_validate(
        {
            "server": {"url": "https://valt.example.com", "username": "uploader"},
            "watch": [{"path": "/rec/hangs"}, {"path": "/rec/fine"}, {"path": "/rec/gone"}],
            "state": {"dir": str(tmp_path)},
        }
    )
    try:
        hangs, fine, gone = await run._first_look(config)
    finally:
        gate.set()
    assert hangs.startswith("/rec/hangs: the share has not answered for 0.2 s ([[watch]] path): repair its server")
    assert fine == ""
    assert gone == "/rec/gone: is missing ([[watch]] path): create it, mount it, or give this user access"


async def test_once_lists_what_is_not_ready_with_its_reason(tmp_path: Path) -> None:
    """An empty file delays no other file; it has a line of its own, and the exit code is 1."""
    async with at_work(tmp_path) as site:
        site.record("a.mp4")
        empty = site.record("empty.mp4", 0)
        ended = await site.run("once")
        assert ended.code == 1
        summary, line = ended.lines
        assert summary == "1 uploaded now, 1 not ready"
        assert line.startswith(f"{empty}: parked: the file is empty")
        assert ended.complaints == []


async def test_once_leaves_a_file_that_grows_to_the_next_run(tmp_path: Path) -> None:
    """A file that never stands still is waited for in bounded time; then it is named, and nothing of it is sent."""
    async with at_work(tmp_path, watch='settle = "1s"') as site:
        growing = site.record("growing.mp4", 1000)

        async def grow() -> None:
            with growing.open("ab", buffering=0) as file:
                while True:
                    file.write(b"more")
                    await asyncio.sleep(0.05)

        writer = asyncio.create_task(grow())
        try:
            process = await site.start("once", environ={"VALT_UPLOADER_LOG__LEVEL": "debug"})
            await process.event("file-still-changing")
            ended = await process.stop(signal.SIGINT)
        finally:
            writer.cancel()
        assert ended.code == 1
        assert ended.lines[1].startswith(f"{growing}: not sent yet: it must be unchanged for 1 s")
        assert site.simulator.records() == []


async def test_a_signal_ends_once_in_good_order(tmp_path: Path) -> None:
    """SIGINT lets the chunk in flight end, reports that not everything was looked at, and the next run goes on."""
    async with at_work(tmp_path) as site:
        file = site.record("a.mp4", 4 * MIB)
        slow = Fault(call="upload", kind="slow", rate=MIB, times=None)
        site.simulator.faults.append(slow)
        process = await site.start("once")
        async with asyncio.timeout(20):
            await slow.struck.wait()
        ended = await process.stop(signal.SIGINT)
        assert ended.code == 1
        assert "ended by a signal" in ended.lines[0]
        assert "traceback" not in ended.err.lower()
        site.simulator.faults.clear()
        again = await site.run("once")
        assert (again.code, again.out) == (0, "1 uploaded now, 0 not ready\n")
        (record,) = site.simulator.records()
        assert record.sha256 == sha256(file)


async def test_a_second_signal_ends_once_without_waiting(tmp_path: Path) -> None:
    """The chunk in flight is cut, and nothing is lost by it."""
    async with at_work(tmp_path, upload='drain = "1h"') as site:
        site.record("a.mp4")
        still = Fault(call="upload", kind="stall", times=None)
        site.simulator.faults.append(still)
        process = await site.start("once")
        async with asyncio.timeout(20):
            await still.standing.wait()
        process.send(signal.SIGINT)
        await process.event("stopping", signal="SIGINT")
        ended = await process.stop(signal.SIGINT)
        assert ended.code == 1
        assert "traceback" not in ended.err.lower()
        assert [upload["state"] for upload in site.stored()["uploads"]] == ["in-doubt"]
