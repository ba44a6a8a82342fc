"""``check``: one line for each thing that could keep recordings from arriving; exit 0 when there is no fault."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from process import Ended, Site, at_work, until

from uploader.app import control_socket, status
from uploader.diagnostics import doctor
from uploader.diagnostics.event_check import EventCheck
from uploader.files import Mode, MountedShare
from uploader.runtime.clock import SystemClock
from uploader.stages.watched_folder import FolderStats
from uploader.store import codec
from uploader.store.disk import StateFolder
from uploader.store.opening import read_state
from uploader.testing.simulator import Fault


def errors_of(ended: Ended) -> list[str]:
    """The lines that report an error."""
    return [line for line in ended.lines if line.startswith("error ")]


async def test_without_faults_each_check_has_a_line_and_the_exit_code_is_0(tmp_path: Path) -> None:
    """Nothing is made, neither locally nor on the server."""
    async with at_work(tmp_path, probed=False) as site:
        ended = await site.run("check")
        assert (ended.code, ended.err) == (0, "")
        looked = [line.split()[:2] for line in ended.lines]
        things = [
            "configuration",
            "folder",
            "events",
            "inotify",
            "state",
            "password",
            "name",
            "log-in",
            "version",
            "proof",
            "clock",
        ]
        assert looked == [["ok", thing] for thing in things]
        assert f"{site.config}: 1 watched folder, no faults" in ended.out
        assert "VALT 6.7.2" in ended.out
        assert not site.state.exists()
        assert [call.name for call in site.simulator.calls] == ["login", "version"]


def _no_folder(site: Site) -> None:
    site.recordings.rmdir()


def _no_password(site: Site) -> None:
    site.password.unlink()


def _open_password(site: Site) -> None:
    site.password.chmod(0o640)


def _other_password(site: Site) -> None:
    site.password.write_text("another one")


def _damaged_state(site: Site) -> None:
    (site.state / "state.json").write_text("{")


def _no_state_possible(site: Site) -> None:
    site.configure(more=f'[state]\ndir = "{site.password}/state"')


def _no_such_name(site: Site) -> None:
    site.configure(server='url = "https://valt.invalid"')


def _empty_label(site: Site) -> None:
    site.configure(server='url = "https://valt..example.com"')


def _nobody_there(site: Site) -> None:
    site.configure(server='url = "http://127.0.0.1:9"')


@pytest.mark.parametrize(
    ("spoil", "thing", "text"),
    [
        (_no_folder, "folder", "is missing: create it, mount it, or give this user access"),
        (_no_password, "password", "cannot be opened: No such file or directory"),
        (_open_password, "password", "can be used by others (mode 0640); chmod 600"),
        (_other_password, "log-in", "the server refused the log-in: user name or password is wrong"),
        (_damaged_state, "state", "state.json is damaged"),
        (_no_state_possible, "state", "password/state: does not exist yet; and this user cannot create it"),
        (_no_such_name, "name", "valt.invalid: "),
        (_empty_label, "name", "valt..example.com: is not a host name"),
        (_nobody_there, "log-in", "http://127.0.0.1:9: cannot be reached"),
    ],
)
async def test_each_fault_is_found_and_is_exit_1(
    tmp_path: Path, spoil: Callable[[Site], None], thing: str, text: str
) -> None:
    """Only its line is bad, it says what to do, and the other checks are made nevertheless."""
    async with at_work(tmp_path) as site:
        spoil(site)
        ended = await site.run("check")
        assert (ended.code, ended.err) == (1, "")
        (line,) = errors_of(ended)
        assert line.split()[1] == thing
        assert text in line
        assert len(ended.lines) >= 6


@pytest.mark.parametrize(
    ("changes", "severity", "text"),
    [
        ({}, "ok", "the server hands out what it got: arrivals are proven by their size"),
        ({"download": "no-length"}, "ok", "recordings are fetched back to be compared"),
        ({"download": "closed"}, "error", "arrivals cannot be proven: http://127.0.0.1:"),
        ({"download": "forbidden"}, "error", "answered 403"),
        ({"transcodes": True}, "error", "it transcodes, or has lost a part"),
    ],
)
async def test_check_asks_for_the_last_recording_that_was_sent(
    tmp_path: Path, changes: dict[str, Any], severity: str, text: str
) -> None:
    """So it finds out, before the next recording is sent, whether arrivals can be proven here."""
    async with at_work(tmp_path) as site:
        site.record("a.mp4", 1000)
        assert (await site.run("once")).code == 0
        site.simulator.change(**changes)
        ended = await site.run("check")
        (line,) = [line for line in ended.lines if line.split()[1] == "proof"]
        assert line.split()[0] == severity
        assert text in line
        assert ended.code == (severity == "error")


async def test_check_says_which_proxy_variables_are_not_used(tmp_path: Path) -> None:
    """By their names alone, as their values may hold a password; an empty one is not set."""
    async with at_work(tmp_path) as site:
        variables = {"HTTPS_PROXY": "http://u:canary@p:1", "all_proxy": "socks5://p", "http_proxy": "", "NO_PROXY": "x"}
        ended = await site.run("check", environ=variables)
        assert ended.code == 0
        (line,) = [line for line in ended.lines if line.split()[1] == "proxy"]
        assert line.startswith("warning proxy")
        assert "HTTPS_PROXY, NO_PROXY, all_proxy are set and not used: calls go straight to the server" in line
        assert "if it can be reached only through a proxy, set server.proxy" in line
        assert "canary" not in ended.out


async def test_check_says_that_the_server_is_believed(tmp_path: Path) -> None:
    """It is the operator's decision; a warning at every start says so, too."""
    async with at_work(tmp_path, upload='proof = "ready"') as site:
        lines = (await site.run("check")).lines
        assert any(line.startswith("warning proof          skipped") for line in lines)
        assert any("on the server's word alone" in line for line in lines)


async def test_all_faults_are_found_at_once(tmp_path: Path) -> None:
    """A fault does not end the check."""
    async with at_work(tmp_path) as site:
        for spoil in (_no_folder, _open_password, _damaged_state):
            spoil(site)
        assert [line.split()[1] for line in errors_of(await site.run("check"))] == ["folder", "state", "password"]


async def test_what_is_no_fault_and_yet_worth_a_word_is_a_warning(tmp_path: Path) -> None:
    """A version that is not told, a password in the environment, a clock that is off: exit 0."""
    async with at_work(tmp_path, server='password_file = ""') as site:
        forbidden = Fault(call="version", kind="status", status=403, headers={"Date": "Mon, 01 Jan 2024 00:00:00 GMT"})
        site.simulator.faults.append(forbidden)
        ended = await site.run("check", environ={"VALT_UPLOADER_PASSWORD": "secret"})
        assert ended.code == 0
        warnings = {line.split()[1]: line for line in ended.lines if line.startswith("warning ")}
        assert set(warnings) >= {"password", "version", "clock"}, ended.out
        assert "every process of this user can see" in warnings["password"]
        assert "behind this machine's: set the one that is wrong" in warnings["clock"]
        assert "secret" not in ended.out


async def test_check_says_whether_the_daemon_runs(tmp_path: Path) -> None:
    """``check`` does not disturb it."""
    async with at_work(tmp_path) as site:
        site.record("a.mp4")
        daemon = await site.start("run")
        await daemon.event("upload-finished")
        running = await site.run("check")
        assert running.code == 0
        assert f"{site.state}: 0 unfinished, 1 done; the daemon is running" in running.out
        assert (await daemon.stop(signal.SIGINT)).code == 0
        assert "1 done; the daemon is stopped" in (await site.run("check")).out


async def test_a_folder_that_files_cannot_be_moved_to_is_an_error(tmp_path: Path) -> None:
    """``move_to`` is looked at before the first file is ready: then it would be too late."""
    async with at_work(tmp_path) as site:
        site.configure(watch=f'after_upload = "move"\nmove_to = "{site.password}/uploaded"')
        (line,) = errors_of(await site.run("check"))
        assert line.endswith(
            f"{site.password}/uploaded: files cannot be moved there by this user: give this user write access"
        )


# How a folder is watched


async def test_check_shows_mode_delay_and_clock_of_each_folder(tmp_path: Path) -> None:
    """On a local disk: events and why, how soon they come, and that the clocks agree; nothing is left behind."""
    async with at_work(tmp_path) as site:
        out = (await site.run("check")).out
        assert re.search(rf"folder +{site.recordings}: events and scans \(\w+ is local\), every 0.3 s", out)
        assert re.search(rf"events +{site.recordings}: event after \d+ ms; its clock agrees with this machine's", out)
        assert re.search(r"inotify +1 of max_user_watches = \d+, max_user_instances = \d+", out)
        assert list(site.recordings.iterdir()) == []
        site.configure(watch='mode = "poll"')
        out = (await site.run("check")).out
        assert f'{site.recordings}: scans alone (mode = "poll"), every 0.3 s' in out
        assert "inotify" not in out


async def test_folder_of_another_file_system_is_an_error(tmp_path: Path) -> None:
    """``check`` knows from the state where it lay; with the daemon stopped, too, and says what takes it as it is."""
    async with at_work(tmp_path) as site:
        site.record("a.ts", 188 * 100)
        await site.run("once")
        disk = StateFolder(site.state)
        saved = read_state(disk)
        assert saved.mount_identities
        elsewhere = tuple(replace(home, inner="/elsewhere") for home in saved.mount_identities)
        disk.replace("state.json", codec.encode_state(replace(saved, mount_identities=elsewhere), now=0.0))
        disk.close()
        (line,) = errors_of(await site.run("check"))
        assert "another file system is there than before" in line
        assert f"valt-uploader retry {site.recordings}" in line
        assert "create it" not in line  # one piece of advice is enough


POLLED, HEARD = Mode(events=False, why="cifs"), Mode(events=True, why="ext4 is local")


@pytest.mark.parametrize(
    ("check", "mode", "severity", "text"),
    [
        (EventCheck(delay=0.0123, skew=0.5), HEARD, "ok", "event after 12 ms; its clock agrees with this machine's"),
        (EventCheck(delay=None, skew=0.0), HEARD, "warning", "no event came for a test file; scans find files"),
        (EventCheck(delay=None, skew=0.0), POLLED, "ok", "no event came for a test file"),
        (
            EventCheck(delay=0.1, skew=90.0),
            HEARD,
            "warning",
            "its clock is 1 min 30 s ahead of this machine's; nothing to do",
        ),
        (EventCheck(delay=None, skew=-7200.0), POLLED, "ok", "its clock is 2 h behind this machine's"),
        (
            EventCheck(problem="Read-only file system"),
            POLLED,
            "warning",
            "a hidden file cannot be created there (Read-",
        ),
    ],
)
async def test_the_test_file_shows_missing_events_and_a_wrong_clock(
    monkeypatch: pytest.MonkeyPatch, check: EventCheck, mode: Mode, severity: str, text: str
) -> None:
    """Whether the watch mode works, and which clock is off."""

    async def sing(*_: object) -> EventCheck:
        return check

    monkeypatch.setattr(doctor, "check_events", sing)
    finding = await doctor._event_check("/rec", mode, SystemClock())
    assert (finding.severity, text in finding.text) == (severity, True), finding


async def test_folders_are_counted_against_the_inotify_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each needs a watch, hidden ones too; with too many, the sysctl is named."""
    for number in range(5):
        (tmp_path / f".{number}").mkdir()
    share = MountedShare(str(tmp_path), SystemClock())
    monkeypatch.setattr(doctor, "inotify_limit", lambda _: 100)
    assert (await doctor._inotify(share)).text == "6 of max_user_watches = 100, max_user_instances = 100"
    monkeypatch.setattr(doctor, "inotify_limit", lambda _: 6)
    finding = await doctor._inotify(share)
    assert finding.severity == "warning"
    assert "sysctl fs.inotify.max_user_watches=12" in finding.text
    monkeypatch.setattr(doctor, "inotify_limit", lambda _: None)
    assert (await doctor._inotify(share)).severity == "warning"


async def test_status_shows_mode_and_last_scan_of_each_folder(tmp_path: Path) -> None:
    """With the daemon running; with it stopped, what the mode would be."""
    async with at_work(tmp_path) as site:
        (site.recordings / "day").mkdir()
        daemon = await site.start("run")
        await daemon.event("folder-watched")
        await until(lambda: "1 names in 2 folders at" in "\n".join(_status(site)), "the first scan")
        assert any(
            re.fullmatch(rf"folder   {site.recordings}: events and scans \(.*\)", line) for line in _status(site)
        )
        await daemon.stop(signal.SIGTERM)
        assert f"folder   {site.recordings}: events and scans (" in (await site.run("status")).out
        (site.recordings / "day").rmdir()
        site.recordings.rmdir()
        stopped = await site.run("status")
        assert f"folder   {site.recordings}: offline; uploads wait" in stopped.out
        rows = json.loads((await site.run("status", "--json")).out)["folders"]
        assert rows[0]["offline"] == f"{site.recordings}: is missing"


def _status(site: Site) -> list[str]:
    document = control_socket.ask(site.state, "status")
    assert document is not None
    return status.status_lines(document)


def test_status_shows_missed_events_and_unreadable_parts() -> None:
    """Beside the figures of the last scan."""
    stats = FolderStats(
        "/rec", mode="events and scans (ext4 is local)", scans=3, folders=2, names=7, scanned_at=0.0, missed=5
    )
    stats.unreadable = "/rec/x: Permission denied"
    lines = status._folder_lines(status._folder(stats))
    assert lines[1].endswith("5 found without an event")
    assert lines[2].startswith("         cannot be read: /rec/x: Permission denied; give the daemon's user access")
