"""``upload``: named files and their result lines; status, explain, retry and forget for them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import termios
from pathlib import Path
from typing import Any

from process import MIB, PROCESS_TIMEOUT, Site, at_work, sha256

from uploader.domain.units import format_bytes
from uploader.testing.simulator import Fault, Settings

ID = r"[0-9a-f-]{36}"


async def test_each_file_gets_one_line_and_the_rest_is_log(tmp_path: Path) -> None:
    """In a pipe, stdout is one line for each file in the order given; stderr is the log alone."""
    async with at_work(tmp_path) as site:
        files = [site.record("b.mp4", 2048), site.record("with space.mov", 1)]
        ended = await site.run("upload", *files)
        assert ended.code == 0
        for line, file, size in zip(ended.lines, files, (2048, 1), strict=True):
            assert re.fullmatch(f"{re.escape(str(file))}: ready, record {ID}, {format_bytes(size)}", line), line
        assert ended.complaints == []
        assert {record.sha256 for record in site.simulator.records()} == {sha256(file) for file in files}


async def test_a_file_that_was_uploaded_before_is_not_sent_again(tmp_path: Path) -> None:
    """The line says so, and the exit code is 0."""
    async with at_work(tmp_path) as site:
        file = site.record("a.mp4")
        first = await site.run("upload", file)
        record = first.out.split("record ")[1].split(",")[0]
        second = await site.run("upload", file)
        assert (second.code, second.out) == (0, f"{file}: uploaded before, record {record}, {format_bytes(200_000)}\n")
        assert len(site.simulator.records()) == 1


async def test_a_file_that_is_back_is_reported_with_its_own_record(tmp_path: Path) -> None:
    """Its path had other content meanwhile, which was uploaded after it."""
    async with at_work(tmp_path) as site:
        file = site.record("a.mp4", 1000)
        first = await site.run("upload", file)
        record = first.out.split("record ")[1].split(",")[0]
        kept = file.rename(tmp_path / "kept.mp4")
        site.record("a.mp4", 2000)
        assert (await site.run("upload", file)).code == 0
        kept.replace(file)
        ended = await site.run("upload", file)
        assert (ended.code, ended.out) == (0, f"{file}: uploaded before, record {record}, {format_bytes(1000)}\n")
        assert len(site.simulator.records()) == 2


async def test_an_empty_file_is_not_reported_as_its_earlier_upload(tmp_path: Path) -> None:
    """Its path had other content that was uploaded; the file is reported as not ready."""
    async with at_work(tmp_path) as site:
        file = site.record("a.mp4")
        assert (await site.run("upload", file)).code == 0
        site.record("a.mp4", 0)
        ended = await site.run("upload", file)
        assert ended.code == 1
        assert ended.out.startswith(f"{file}: parked: the file is empty")


async def test_names_and_template_fields_come_from_the_command_line(tmp_path: Path) -> None:
    """``--name`` and each ``--template K=V`` override the configuration."""
    more = '[watch.record]\nname = "configured"\ntemplate = { "1" = "configured", "2" = "{stem}" }'
    async with at_work(tmp_path, more=more) as site:
        file = site.record("a.mp4")
        arguments = ("--name", "By hand", "--template", "1=Room 7", "--template", "3=a=b")
        assert (await site.run("upload", *arguments, file)).code == 0
        (record,) = site.simulator.records()
        assert record.name == "By hand"
        assert record.template == {"1": "Room 7", "2": "a", "3": "a=b"}
        faulty = await site.run("upload", "--template", "Room 7", file)
        assert faulty.code == 2
        assert "expected K=V" in faulty.err


async def test_relative_paths_and_names_with_a_leading_dash_are_taken(tmp_path: Path) -> None:
    """A path counts from the current folder; after ``--`` a leading dash is part of a name."""
    async with at_work(tmp_path) as site:
        files = [site.record(name, 1000) for name in ("plain.mp4", "--name.mp4", "-v.mp4")]
        names = ("plain.mp4", "--name.mp4", "../recordings/-v.mp4")
        ended = await site.run("upload", "--", *names, cwd=site.recordings)
        assert ended.code == 0
        assert [line.partition(": ready")[0] for line in ended.lines] == [str(file) for file in files]
        assert len(site.ledger()) == 3


async def test_upload_needs_no_watched_folder(tmp_path: Path) -> None:
    """A server and a state folder are enough; ``once`` without watched folders reports that it has nothing to do."""
    async with at_work(tmp_path) as site:
        file = site.record("a.mp4")
        assert (await site.run("upload", file)).code == 0
        config = site.config.read_text().partition("[[watch]]")[0]
        site.config.write_text(config)
        assert (await site.run("upload", file)).code == 0
        assert "at least one folder is required" in (await site.run("once")).err


async def test_a_terminal_shows_a_bar_with_rate_and_time_left(tmp_path: Path) -> None:
    """On a pseudo-terminal each file has its bar; the result stands below as a line."""
    async with at_work(tmp_path) as site:
        file = site.record("film.mp4", 2 * MIB)
        site.simulator.faults.append(Fault(call="upload", kind="slow", rate=2 * MIB, times=None))
        terminal, end = os.openpty()
        termios.tcsetwinsize(end, (24, 140))
        try:
            process = await site.start("upload", file, stdout=end, stderr=end, environ={"TERM": "xterm"})
        finally:
            os.close(end)
        shown = await asyncio.to_thread(drained, terminal)
        assert (await process.ended()).code == 0
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
        assert re.search(r"film\.mp4 .*━+.* \d+(\.\d)?/2\.0 MiB +[\d.]+ [kM]B/s +\d\d:\d\d", plain), plain[-2000:]
        assert re.search(f"{re.escape(str(file))}: ready, record {ID}, {format_bytes(2 * MIB)}\r\n$", plain), plain[
            -500:
        ]
        assert '"event"' not in plain


def drained(terminal: int) -> str:
    """Everything that is written to a pseudo-terminal until its other end is closed."""
    said = bytearray()
    try:
        while block := os.read(terminal, 65_536):
            said += block
    except OSError:  # EIO: no process has it open any more
        pass
    finally:
        os.close(terminal)
    return said.decode("utf-8", "replace")


# What is known of a file


def without_clock(document: dict[str, Any]) -> dict[str, Any]:
    """A status document without what differs from moment to moment."""
    rows = [{**row, "next_try": None, "next": None} for row in document["uploads"]]
    return {**document, "uploads": rows, "daemon": None, "settling": [], "folders": []}


async def with_troubles(site: Site) -> dict[str, Path]:
    """Make files of each kind: sent, empty, excluded, outside, missing; the server refuses the second record."""
    outside = site.path / "outside.mp4"
    outside.write_bytes(b"outside")
    files = {
        "sent": site.record("sent.mp4"),
        "empty": site.record("empty.mp4", 0),
        "excluded": site.record("clip.mp4.part"),
        "outside": outside,
        "missing": site.recordings / "missing.mp4",
    }
    body = json.dumps({"error": {"code": 403, "message": "not yours"}})
    site.simulator.faults.append(Fault(call="create", kind="status", status=403, body=body, skip=1, times=None))
    return files


async def test_status_and_explain_use_the_same_words_running_and_stopped(tmp_path: Path) -> None:
    """State, reason and next step: the daemon's answer and the one from the saved state agree."""
    async with at_work(tmp_path) as site:
        files = await with_troubles(site)
        daemon = await site.start("run")
        await daemon.event("upload-finished", path=str(files["sent"]))
        refused = site.record("refused.mp4")
        await daemon.event("upload-parked", path=str(refused))
        await daemon.event("upload-parked", path=str(files["empty"]))
        questions = [("status",), ("status", "--json"), *(("explain", path) for path in files.values())]
        running = await asyncio.gather(*(site.run(*question) for question in questions))
        assert (await daemon.stop()).code == 0
        stopped = await asyncio.gather(*(site.run(*question) for question in questions))
        assert all(ended.code == 0 for ended in (*running, *stopped))

        assert running[0].lines[1] == f"daemon   running, process {daemon.pid}"
        assert stopped[0].lines[1] == "daemon   stopped"
        assert running[0].lines[2] == stopped[0].lines[2] == "files    2 parked; 1 done"
        assert "why:  create record: answered 403 (not yours); give this user the right on the server" in stopped[0].out
        documents = [json.loads(ended[1].out) for ended in (running, stopped)]
        assert without_clock(documents[0]) == without_clock(documents[1])
        assert documents[0]["daemon"] == {"pid": daemon.pid}
        assert documents[0]["counts"]["parked"] == 2

        results = {name: (a.lines[-1], b.lines[-1]) for name, a, b in zip(files, running[2:], stopped[2:], strict=True)}
        for first, second in results.values():
            assert first == second
        assert {name: pair[0].removeprefix("result   ") for name, pair in results.items()} == {
            "sent": "uploaded; it is sent again only if its content changes",
            "empty": "not finished: continues automatically when the file is back or has changed",
            "excluded": "not sent: no [[watch]] takes it",
            "outside": "not sent: no [[watch]] takes it",
            "missing": "not sent: the file does not exist",
        }
        assert "'clip.mp4.part' matches an exclude pattern" in stopped[2 + 2].out
        assert "not below this folder" in stopped[2 + 3].out


async def test_explain_says_what_an_unsent_file_waits_for(tmp_path: Path) -> None:
    """With the daemon running, for the settle time; without it, for the daemon."""
    async with at_work(tmp_path, watch='settle = "1h"') as site:
        file = site.record("a.mp4")
        before = await site.run("explain", file)
        assert before.lines[-1] == "result   it will be sent when the daemon runs (or: valt-uploader once)"
        daemon = await site.start("run")
        await daemon.event("file-found")
        during = await site.run("explain", "recordings/a.mp4")
        assert during.lines[-1] == "result   settling: it must be unchanged for 3600 s"
        assert f"{file}\n  settling, {format_bytes(200_000)}" in (await site.run("status")).out


async def test_retry_lets_a_parked_upload_go_on(tmp_path: Path) -> None:
    """By name or all, with the daemon running or stopped; an unknown path is reported, with exit 1."""
    async with at_work(tmp_path) as site:
        file = site.record("a.mp4")
        site.simulator.faults.append(Fault(call="create", kind="status", status=403, times=2))
        daemon = await site.start("run")
        await daemon.event("upload-parked", path=str(file))
        mark = len(daemon.log)
        running = await site.run("retry", "recordings/a.mp4", "recordings/b.mp4")
        assert (running.code, running.lines) == (1, [f"{file}: continues", unknown(site.recordings / "b.mp4")])
        await daemon.event("upload-parked", since=mark)
        await daemon.stop()
        stopped = await site.run("retry")
        then = "continues when the daemon runs (or type: valt-uploader once)"
        assert (stopped.code, stopped.out) == (0, f"{file}: {then}\n")
        assert (await site.run("once")).out == "1 uploaded now, 0 not ready\n"
        assert (await site.run("retry")).out == "nothing is parked, and nothing waits for a retry\n"


def unknown(path: Path) -> str:
    """What a command says of a path that no unfinished upload has."""
    return f"{path}: no unfinished upload has this name; for its state type: valt-uploader explain {path}"


async def test_forget_says_that_a_record_which_may_exist_is_looked_for_first(tmp_path: Path) -> None:
    """With the daemon running or stopped; ``status`` shows the upload until then."""
    async with at_work(tmp_path) as site:
        file = site.record("a.mp4")
        site.simulator.faults.append(Fault(call="create", kind="lose-answer"))
        site.simulator.faults.append(Fault(call="list", kind="status", status=500, times=None))
        daemon = await site.start("run")
        await daemon.event("upload-in-doubt", path=str(file))
        text = f"{file}: forgotten; the server may have a record of it, which is looked for first"
        assert (await site.run("forget", file)).lines == [text]
        assert "next: forgotten by operator; the server may have a record of it" in (await site.run("status")).out
        await daemon.stop()
        again = await site.run("forget", file)
        assert again.lines == [f"{text} when the daemon runs (or type: valt-uploader once)"]


async def test_forget_drops_an_upload_and_deletes_its_record(tmp_path: Path) -> None:
    """With the daemon running or stopped; each unknown path is reported, and the others are done."""
    async with at_work(tmp_path) as site:
        files = [site.record("a.mp4"), site.record("b.mp4")]
        body = json.dumps({"error": {"code": 403, "message": "full"}})
        site.simulator.faults.append(Fault(call="upload", kind="status", status=403, body=body, times=2))
        daemon = await site.start("run")
        for file in files:
            await daemon.event("upload-parked", path=str(file))
        for file in files:
            file.unlink()
        running = await site.run("forget", "nowhere.mp4", files[0])
        assert (running.code, running.lines) == (
            1,
            [unknown(tmp_path / "nowhere.mp4"), f"{files[0]}: forgotten"],
        )
        await daemon.event("orphan-cleared", path=str(files[0]))
        await daemon.stop()
        stopped = await site.run("forget", files[1])
        assert (stopped.code, stopped.out) == (0, f"{files[1]}: forgotten\n")
        stored = site.stored()
        assert (stored["uploads"], [orphan["path"] for orphan in stored["orphans"]]) == ([], [str(files[1])])


async def test_commands_before_the_first_start_make_no_state_folder(tmp_path: Path) -> None:
    """status, explain, retry, forget and ledger answer without one."""
    async with at_work(tmp_path, probed=False) as site:
        file = site.record("a.mp4")
        asked = [("status",), ("explain", file), ("retry",), ("retry", file), ("forget", file), ("ledger",)]
        ended = await asyncio.gather(*(site.run(*question) for question in asked))
        assert [one.code for one in ended] == [0, 0, 0, 1, 1, 0]
        assert all(one.err == "" for one in ended)
        assert not site.state.exists()


async def test_upload_waits_until_the_server_has_processed_the_video(tmp_path: Path) -> None:
    """It ends when the server says ready, not before."""
    async with at_work(tmp_path, Settings(processing=0.8)) as site:
        file = site.record("a.mp4")
        process = await site.start("upload", file)
        await process.event("upload-sent")
        assert process.out == []
        async with asyncio.timeout(PROCESS_TIMEOUT):
            assert (await process.ended()).code == 0
        assert [record.status for record in site.simulator.records()] == ["ready"]
