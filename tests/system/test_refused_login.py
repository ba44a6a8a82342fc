"""A refused password is not tried again and again, neither by the daemon nor by a timer that runs a command."""

from __future__ import annotations

import asyncio
import re
import signal
from pathlib import Path

from process import Site, at_work, until

from uploader.testing.simulator import Settings


def logins(site: Site) -> int:
    """How often the server was asked to let us in."""
    return sum(call.name == "login" for call in site.simulator.calls)


async def wrong(site: Site) -> None:
    """A recording waits, the password is wrong, and ``once`` has found that out."""
    site.record("a.mp4")
    site.password.write_text("wrong-password\n")
    ended = await site.run("once")
    assert ended.code == 1
    assert "user name or password is wrong" in ended.err
    assert logins(site) == 1


async def test_once_run_by_a_timer_does_not_lock_the_account(tmp_path: Path) -> None:
    """Run repeatedly with the same wrong password, it logs in once and says what to do."""
    async with at_work(tmp_path) as site:
        await wrong(site)
        for _ in range(3):
            ended = await site.run("once")
            assert ended.code == 1
            (complaint,) = ended.complaints
            assert re.match(r"error: this password was refused before, and is not tried again for [1-5] min", complaint)
            assert complaint.endswith("valt-uploader retry")
        assert logins(site) == 1
        assert "wrong-password" not in (site.state / "state.json").read_text()


async def test_no_other_command_tries_a_refused_password(tmp_path: Path) -> None:
    """``upload``, ``check``, ``link`` and ``ledger --download`` read from the state that it was refused."""
    async with at_work(tmp_path) as site:
        path = site.record("a.mp4")
        assert (await site.run("once")).code == 0
        before = logins(site)
        site.password.write_text("wrong-password\n")
        assert (await site.run("upload", site.record("b.mp4"))).code == 1
        for command, *arguments in (("upload", path), ("link", path), ("ledger", "--verify", "--download"), ("check",)):
            ended = await site.run(command, *arguments)
            assert ended.code == 1
            assert "refused before" in ended.out + ended.err
        assert logins(site) == before + 1


async def test_a_changed_password_is_tried_without_retry(tmp_path: Path) -> None:
    """At once."""
    async with at_work(tmp_path) as site:
        await wrong(site)
        site.password.write_text("secret\n")
        ended = await site.run("once")
        assert (ended.code, ended.lines) == (0, ["1 uploaded now, 0 not ready"])


async def test_retry_allows_one_more_log_in_with_the_same_password(tmp_path: Path) -> None:
    """The account was corrected, not the password."""
    async with at_work(tmp_path, Settings(password="wrong-password", processing=0.0)) as site:
        site.simulator.settings = Settings(processing=0.0)
        await wrong(site)
        site.simulator.settings = Settings(password="wrong-password", processing=0.0)
        assert (await site.run("once")).code == 1
        assert (await site.run("retry")).code == 0
        ended = await site.run("once")
        assert (ended.code, ended.lines) == (0, ["1 uploaded now, 0 not ready"])


async def test_the_running_daemon_tries_a_changed_password_at_once(tmp_path: Path) -> None:
    """Also one started while the old one was refused; and SIGHUP has the same one tried again."""
    async with at_work(tmp_path) as site:
        await wrong(site)
        daemon = await site.start("run")
        await daemon.event("file-queued")
        assert logins(site) == 1
        daemon.send(signal.SIGHUP)
        await until(lambda: logins(site) == 2, "a log-in after SIGHUP")
        await daemon.event("outage-began")
        await asyncio.to_thread(site.password.write_text, "secret\n")
        await daemon.event("upload-finished")
        assert logins(site) == 3
        assert (await daemon.stop()).code == 0
