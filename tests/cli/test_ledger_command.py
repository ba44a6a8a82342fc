"""``ledger`` and ``link``: finished uploads, proof that the list is whole, and comparison with the server."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from fakes import a_finish, an_upload
from process import Site, at_work, sha256

from uploader.diagnostics import ledger_audit
from uploader.domain.events import Bus
from uploader.domain.model import RecordIds, State
from uploader.runtime.clock import SystemClock
from uploader.store import Store
from uploader.store.disk import StateFolder

NAMES = ("a.mp4", "b two.mp4", "c.mp4")


async def finished(site: Site) -> list[Path]:
    """Upload three files."""
    files = [site.record(name, 1000) for name in NAMES]
    assert (await site.run("upload", *files)).code == 0
    return files


async def test_the_ledger_lists_what_was_finished(tmp_path: Path) -> None:
    """Number, time, size, checksum, record and path of each; the chain is proved by --verify."""
    async with at_work(tmp_path) as site:
        assert (await site.run("ledger", "--verify")).out == "no line yet\n"
        files = await finished(site)
        listed, verified = await asyncio.gather(site.run("ledger"), site.run("ledger", "--verify"))
        assert (listed.code, len(listed.lines)) == (0, 3)
        for number, line in enumerate(listed.lines, start=1):
            assert line.split()[0] == str(number)
        for file in files:
            assert any(line.endswith(f"  {file}") and sha256(file)[:16] in line for line in listed.lines)
        assert (verified.code, verified.out) == (0, "3 lines, each linked to the one before it\n")


async def test_a_changed_ledger_line_is_found(tmp_path: Path) -> None:
    """Exit 78 with the line; only lines that a later line confirms are listed."""
    async with at_work(tmp_path) as site:
        await finished(site)
        ledger = site.state / "ledger.jsonl"
        lines = ledger.read_text().splitlines(keepends=True)
        lines[1] = lines[1].replace('"size": 1000', '"size": 999')
        ledger.write_text("".join(lines))
        for arguments in ((), ("--verify",), ("--verify", "--download")):
            ended = await site.run("ledger", *arguments)
            assert ended.code == 78
            assert len(ended.lines) == (0 if arguments else 1)
            assert ended.err.startswith(
                f"error: {ledger}: line 3: the line before it was changed; put the whole file back"
            )
            assert len(ended.err.splitlines()) == 1


async def test_a_removed_ledger_line_is_found(tmp_path: Path) -> None:
    """A gap breaks the chain as a change does."""
    async with at_work(tmp_path) as site:
        await finished(site)
        ledger = site.state / "ledger.jsonl"
        lines = ledger.read_text().splitlines(keepends=True)
        ledger.write_text(lines[0] + lines[2])
        ended = await site.run("ledger", "--verify")
        assert ended.code == 78
        assert "line 2: it says it is line 3; a line was added or taken out" in ended.err


async def test_a_changed_or_missing_end_of_the_ledger_is_found(tmp_path: Path) -> None:
    """The state holds the hash of the last line; every command that reads the ledger reports it."""
    async with at_work(tmp_path) as site:
        files = await finished(site)
        ledger = site.state / "ledger.jsonl"
        whole = ledger.read_text()
        lines = whole.splitlines(keepends=True)
        spoils = {
            "".join(lines[:2]): "it ends after line 2, but the state has seen line 3; its end was cut off",
            whole[:-20]: "it ends after line 2, but the state has seen line 3; its end was cut off",
            whole.replace(lines[2], lines[2].replace('"chunks": 1', '"chunks": 2')): (
                "line 3: it is not the line that the state has seen; it was changed"
            ),
        }
        for content, complaint in spoils.items():
            ledger.write_text(content)
            for arguments in (("ledger", "--verify"), ("ledger",), ("status",), ("once",)):
                ended = await site.run(*arguments)
                assert ended.code == 78
                assert ended.err.startswith(f"error: {ledger}: {complaint}; put the whole file back from a copy; if ")
            assert ledger.read_text() == content
        ledger.write_text(whole)
        assert (await site.run("ledger", "--verify")).code == 0
        assert (await site.run("link", files[2])).code == 0


async def test_the_ledger_can_be_read_with_a_damaged_state(tmp_path: Path) -> None:
    """Its list and links are shown; only the proof needs the state, which holds the hash of the last line."""
    async with at_work(tmp_path) as site:
        files = await finished(site)
        (site.state / "state.json").write_text("{")
        listed, linked, verified = await asyncio.gather(
            site.run("ledger"), site.run("link", files[2]), site.run("ledger", "--verify")
        )
        assert (listed.code, len(listed.lines), linked.code, len(linked.lines)) == (0, 3, 0, 1)
        assert (verified.code, verified.out) == (78, "")
        assert verified.err.startswith(f"error: {site.state}/state.json is damaged: ")


async def test_download_compares_every_byte_with_what_was_sent(tmp_path: Path) -> None:
    """Equal, differing and unavailable videos are told apart; anything but equal is exit 1."""
    async with at_work(tmp_path) as site:
        files = await finished(site)
        good = await site.run("ledger", "--verify", "--download")
        assert good.code == 0
        assert sorted(good.lines[1:-1]) == sorted(f"equal        {file}" for file in files)
        assert good.lines[-1] == "3 equal, 0 differ, 0 unavailable"

        records = {record.name: record for record in site.simulator.records()}
        altered = bytearray(records["a"].path.read_bytes())
        altered[500] ^= 1
        records["a"].path.write_bytes(altered)
        async with aiohttp.ClientSession() as http:
            login = {"username": "uploader", "password": "secret"}
            async with http.post(f"{site.url}/api/v3/login", json=login) as answer:
                token = (await answer.json())["data"]["access_token"]
            url = f"{site.url}/api/v3/records/{records['c'].id}/delete"
            async with http.post(url, params={"access_token": token}, json={}) as answer:
                assert answer.status == 200
        bad = await site.run("ledger", "--verify", "--download")
        assert bad.code == 1
        assert any(line.startswith(f"differs      {files[0]}: ") for line in bad.lines)
        assert f"equal        {files[1]}" in bad.lines
        assert (
            f"unavailable  {files[2]}: was ready, but is no longer on the server; "
            "to send it again, copy the file under another name" in bad.lines
        )
        assert bad.lines[-1] == "1 equal, 1 differ, 1 unavailable"


async def test_download_goes_on_after_a_video_that_is_not_handed_out(tmp_path: Path) -> None:
    """The address of its link answers for that one; its line says what, and the others are compared."""
    async with at_work(tmp_path) as site:
        files = await finished(site)
        (record,) = (record for record in site.simulator.records() if record.name == files[1].stem)
        record.path.unlink()
        shown = await site.run("ledger", "--verify", "--download")
        assert shown.code == 1
        assert f"unavailable  {files[1]}: {site.url}: answered 404 (Not Found)" in shown.lines
        assert shown.lines[-1] == "2 equal, 0 differ, 1 unavailable"


async def test_download_says_a_closed_port_once_and_by_its_own_address(tmp_path: Path) -> None:
    """No video can be fetched then: the command ends with that one error."""
    async with at_work(tmp_path) as site:
        await finished(site)
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            site.simulator._api.base_url = f"http://127.0.0.1:{closed.getsockname()[1]}"
            shown = await site.run("ledger", "--verify", "--download")
        assert shown.code == 1
        assert shown.err == f"error: {site.simulator._api.base_url}: cannot be reached: Connection refused\n"


async def test_download_calls_no_video_unavailable_when_the_server_is_down(tmp_path: Path) -> None:
    """--download ends with that one error."""
    async with at_work(tmp_path) as site:
        await finished(site)
        await site.simulator.stop()
        ended = await site.run("ledger", "--verify", "--download")
        assert ended.code == 1
        assert ended.lines == ["3 lines, each linked to the one before it"]
        assert ended.err.startswith(f"error: {site.url}: cannot be reached")


def test_the_link_of_a_path_is_that_of_its_newest_record(tmp_path: Path) -> None:
    """A recorder that reuses a name has a record for each recording."""
    disk = StateFolder(tmp_path)
    store = Store(disk, SystemClock(), Bus())
    for number in range(1, 4):
        store.ledger.append(a_finish(record=f"record-{number}", size=number))
    disk.close()
    assert ledger_audit.find(tmp_path, "/rec/a.mp4") == RecordIds("record-3", "video-1")


@pytest.mark.parametrize("then", ["read_state", "chain"])
async def test_the_link_of_a_file_that_is_just_finished_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    """It finishes between the command's two readings, of the state and of the ledger: one of them shows it."""
    disk, loop = StateFolder(tmp_path), asyncio.get_running_loop()
    store = Store(disk, SystemClock(), Bus())
    upload = await store.save(an_upload(State.FINISHING))

    async def finish() -> None:
        await store.finish(a_finish())
        store.drop(upload)
        await store.commit()

    real = getattr(ledger_audit, then)

    def read(*arguments: Any) -> Any:
        found = real(*arguments)
        found = list(found) if then == "chain" else found
        if upload.path in store.uploads:
            asyncio.run_coroutine_threadsafe(finish(), loop).result(10)
        return found

    monkeypatch.setattr(ledger_audit, then, read)
    assert await asyncio.to_thread(ledger_audit.find, tmp_path, upload.path) == upload.ids
    assert not store.uploads
    await store.close()


async def test_link_prints_the_download_link_alone(tmp_path: Path) -> None:
    """It leads to the bytes of the recording; a file that was not uploaded has none."""
    async with at_work(tmp_path) as site:
        files = await finished(site)
        link = await site.run("link", "recordings/b two.mp4")
        assert (link.code, link.err, len(link.lines)) == (0, "", 1)
        async with aiohttp.ClientSession() as http, http.get(link.lines[0]) as answer:
            assert await answer.read() == files[1].read_bytes()
        none = await site.run("link", "recordings/d.mp4")
        assert (none.code, none.out) == (1, "")
        assert none.err == (
            f"error: {site.recordings}/d.mp4 has not been uploaded; for the reason type: valt-uploader explain PATH\n"
        )
