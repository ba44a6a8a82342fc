"""``check``: one line for everything that could keep recordings from arriving; exit 0 when nothing does."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from process import Ended, Site, at_work

from uploader.simulator import Fault


def bad(ended: Ended) -> list[str]:
    """The lines that say what is wrong."""
    return [line for line in ended.lines if line.startswith("bad ")]


async def test_all_good_is_exit_0_and_says_what_was_looked_at(tmp_path: Path) -> None:
    """Each thing has its line; nothing is made, neither here nor on the server."""
    async with at_work(tmp_path) as site:
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
    site.state.mkdir()
    (site.state / "state.json").write_text("{")


def _no_state_possible(site: Site) -> None:
    site.configure(more=f'[state]\ndir = "{site.password}/state"')


def _no_such_name(site: Site) -> None:
    site.configure(server='url = "https://valt.invalid"')


def _nobody_there(site: Site) -> None:
    site.configure(server='url = "http://127.0.0.1:9"')


@pytest.mark.parametrize(
    ("spoil", "thing", "text"),
    [
        (_no_folder, "folder", "is missing: make it, mount it, or give this user the right"),
        (_no_password, "password", "cannot be opened: No such file or directory"),
        (_open_password, "password", "can be used by others (mode 0640); chmod 600"),
        (_other_password, "log-in", "the server refused the log-in: user name or password is wrong"),
        (_damaged_state, "state", "state.json is damaged"),
        (_no_state_possible, "state", "password/state: not there yet; and it cannot be made"),
        (_no_such_name, "name", "valt.invalid: "),
        (_nobody_there, "log-in", "http://127.0.0.1:9: cannot be reached"),
    ],
)
async def test_each_fault_is_found_and_is_exit_1(
    tmp_path: Path, spoil: Callable[[Site], None], thing: str, text: str
) -> None:
    """Exactly that line is bad, it says what to do, and the rest is looked at all the same."""
    async with at_work(tmp_path) as site:
        spoil(site)
        ended = await site.run("check")
        assert (ended.code, ended.err) == (1, "")
        (line,) = bad(ended)
        assert line.split()[1] == thing
        assert text in line
        assert len(ended.lines) >= 6


async def test_all_faults_are_found_at_once(tmp_path: Path) -> None:
    """It never stops at the first."""
    async with at_work(tmp_path) as site:
        for spoil in (_no_folder, _open_password, _damaged_state):
            spoil(site)
        assert [line.split()[1] for line in bad(await site.run("check"))] == ["folder", "state", "password"]


async def test_what_is_no_fault_and_yet_worth_a_word_is_a_note(tmp_path: Path) -> None:
    """A version that is not told, a password in the environment, a clock that is off: exit 0."""
    async with at_work(tmp_path, server='password_file = ""') as site:
        forbidden = Fault(call="version", kind="status", status=403, headers={"Date": "Mon, 01 Jan 2024 00:00:00 GMT"})
        site.simulator.faults.append(forbidden)
        ended = await site.run("check", environ={"VALT_UPLOADER_PASSWORD": "secret"})
        assert ended.code == 0
        notes = {line.split()[1]: line for line in ended.lines if line.startswith("note ")}
        assert set(notes) >= {"password", "version", "clock"}, ended.out
        assert "every process of this user can see" in notes["password"]
        assert "behind ours" in notes["clock"]
        assert "secret" not in ended.out


async def test_the_daemon_is_seen_at_work_or_stopped(tmp_path: Path) -> None:
    """``check`` beside a running daemon disturbs nothing."""
    async with at_work(tmp_path) as site:
        site.record("a.mp4")
        daemon = await site.start("run")
        await daemon.event("upload-finished")
        running = await site.run("check")
        assert running.code == 0
        assert f"{site.state}: 0 unfinished, 1 done; the daemon is running" in running.out
        assert (await daemon.stop(signal.SIGINT)).code == 0
        assert "1 done; the daemon is stopped" in (await site.run("check")).out


async def test_a_folder_that_files_cannot_be_moved_to_is_bad(tmp_path: Path) -> None:
    """``move_to`` is looked at before the first file is ready: then it would be too late."""
    async with at_work(tmp_path) as site:
        site.configure(watch=f'after_upload = "move"\nmove_to = "{site.password}/uploaded"')
        (line,) = bad(await site.run("check"))
        assert line.endswith(f"{site.password}/uploaded: files cannot be moved there by this user")
