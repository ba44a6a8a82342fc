"""Every fault from outside is one clear line and the right exit code, without a trace-back and without loss."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import pytest
import trustme
from aiohttp import ClientSession, web
from process import Ended, Site, at_work

NOBODY = 65_534  # uid
# The interpreter may lie where only its owner gets to, so it becomes somebody else after it has started.
BECOME = f"import os; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})"
START = "import encodings.utf_8_sig, uploader.__main__ as program"
AS_NOBODY = (sys.executable, "-c", f"{START}; {BECOME}; program.main()")


def refused(ended: Ended, code: int, *lines: str) -> None:
    """Assert that it ended with *code*, nothing on stdout, and exactly one complaint that holds each of *lines*."""
    assert ended.code == code, ended
    assert ended.out == ""
    assert "Traceback" not in ended.err
    assert len(ended.complaints) == len(lines), ended.err
    for complaint, line in zip(ended.complaints, lines, strict=True):
        assert complaint.startswith("error: ")
        assert line in complaint


# The configuration


async def test_faulty_toml_is_named_with_its_line(tmp_path: Path) -> None:
    """File, line and column, and what is wrong there."""
    async with at_work(tmp_path) as site:
        site.config.write_text('[server]\nurl = "https://valt.example.com\n')
        refused(await site.run("once"), 2, f"{site.config}: line 2, column 32: not TOML")


async def test_every_faulty_key_is_named_at_once(tmp_path: Path) -> None:
    """One line for each fault, with the nearest valid name."""
    async with at_work(
        tmp_path, server="resend_is_save = true", upload='workers = "many"', watch="setle = 3", probed=False
    ) as site:
        ended = await site.run("once", environ={"VALT_UPLOADER_SERVR__URL": "x"})
        assert ended.code == 2
        assert len(ended.complaints) == 4, ended.err
        for text in ("workers", "did you mean resend_is_safe?", "did you mean settle?", "VALT_UPLOADER_SERVER__URL?"):
            assert sum(text in line for line in ended.complaints) == 1, ended.err
        assert not site.state.exists()


@pytest.mark.parametrize("command", ["run", "once", "status", "check"])
async def test_a_missing_configuration_is_named(tmp_path: Path, command: str) -> None:
    """Every command says which file it looked for."""
    async with at_work(tmp_path) as site:
        missing = tmp_path / "nowhere.toml"
        refused(await site.run_bare(command, "-c", missing), 2, f"{missing}: cannot be read: No such file or directory")


async def test_plaintext_to_another_machine_is_refused(tmp_path: Path) -> None:
    """Over http:// everybody on the way could read the password; only the loopback is allowed."""
    async with at_work(tmp_path, server='url = "http://valt.example.com"') as site:
        refused(await site.run("once"), 2, "server.url: http:// sends password and recordings unencrypted")


# Watched folders and files


async def test_once_names_every_missing_folder(tmp_path: Path) -> None:
    """It does not wait: exit 2, one line for each folder."""
    more = '[[watch]]\npath = "/nowhere/two"\n'
    async with at_work(tmp_path, watch='path = "/nowhere/one"', more=more) as site:
        refused(await site.run("once"), 2, "/nowhere/one: is missing", "/nowhere/two: is missing")


async def test_the_daemon_waits_for_a_missing_folder(tmp_path: Path) -> None:
    """It reports the folder and keeps running; once the folder exists, its files are sent."""
    async with at_work(tmp_path) as site:
        site.recordings.rmdir()
        daemon = await site.start("run")
        missing = await daemon.event("folder-offline", folder=str(site.recordings))
        assert "No such file or directory" in missing["reason"] or "missing" in missing["reason"]
        file = site.record("late.mp4")
        await daemon.event("folder-back", folder=str(site.recordings))
        await daemon.event("upload-finished", path=str(file))
        assert len(daemon.events("folder-offline")) == 1
        assert (await daemon.stop()).code == 0


async def test_an_empty_file_waits_for_its_content(tmp_path: Path) -> None:
    """It is parked, reported once and not as an error, and sent when it has content."""
    async with at_work(tmp_path) as site:
        file = site.record("late.mp4", 0)
        daemon = await site.start("run")
        parked = await daemon.event("upload-parked", path=str(file))
        assert (parked["level"], parked["action_by"]) == ("warning", "file")
        site.record("late.mp4", 1000)
        await daemon.event("upload-finished", path=str(file))
        assert len(daemon.events("upload-parked")) == 1


@pytest.mark.parametrize(
    ("make", "kind"),
    [(os.mkfifo, "FIFO"), (os.mkdir, "folder"), (lambda path: path.symlink_to("/etc/hostname"), "link")],
)
async def test_upload_refuses_all_but_regular_files(tmp_path: Path, make: Callable[[Path], None], kind: str) -> None:
    """A FIFO, a folder, a link: before anything begins, and without waiting for a FIFO."""
    async with at_work(tmp_path, probed=False) as site:
        path = tmp_path / "odd.mp4"
        make(path)
        ended = await site.run("upload", path)
        assert (ended.code, ended.out) == (2, "")
        assert ended.complaints[0] == f"error: {path}: is a {kind}, not a regular file"
        assert not site.state.exists()


async def test_upload_refuses_a_path_that_is_not_there(tmp_path: Path) -> None:
    """One line names the path."""
    async with at_work(tmp_path) as site:
        ended = await site.run("upload", "nowhere.mp4")
        assert ended.code == 2
        assert "nowhere.mp4" in ended.complaints[0]


# The password


def _none(site: Site) -> None:
    site.configure(server='password_file = ""')


def _missing(site: Site) -> None:
    site.password.unlink()


def _open_to_others(site: Site) -> None:
    site.password.chmod(0o644)


def _empty(site: Site) -> None:
    site.password.write_text("\n")


@pytest.mark.parametrize(
    ("command", "spoil", "complaint"),
    [
        ("run", _none, "no password is configured; set server.password_file"),
        ("once", _missing, "cannot be opened: No such file or directory; name a file that this user can read"),
        ("run", _open_to_others, "can be used by others (mode 0644); chmod 600"),
        ("once", _empty, "is empty; write the password into it"),
    ],
)
async def test_an_unusable_password_ends_once_and_run_at_the_start(
    tmp_path: Path, command: str, spoil: Callable[[Site], None], complaint: str
) -> None:
    """Exit 2 with what to do; the server is not called."""
    async with at_work(tmp_path) as site:
        site.record("a.mp4")
        spoil(site)
        refused(await site.run(command), 2, complaint)
        assert not site.simulator.calls


async def test_a_password_file_of_another_user_is_refused(tmp_path: Path) -> None:
    """Its owner can replace it, so it must belong to root or the daemon's user."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    async with at_work(tmp_path) as site:
        os.chown(site.password, NOBODY, -1)
        refused(await site.run("once"), 2, f"belongs to another user (uid {NOBODY})")


async def test_once_ends_at_once_when_the_password_is_refused(tmp_path: Path) -> None:
    """The operator must act: exit 1, one log-in, nothing lost."""
    async with at_work(tmp_path) as site:
        site.record("a.mp4")
        site.password.write_text("another one")
        refused(await site.run("once"), 1, "the server refused the log-in: user name or password is wrong")
        assert [call.name for call in site.simulator.calls] == ["login"]
        site.password.write_text("secret")
        assert (await site.run("once")).out == "1 uploaded now, 0 not ready\n"


async def test_the_daemon_waits_for_the_right_password(tmp_path: Path) -> None:
    """It keeps running, does not try again by itself, and every status names the password."""
    async with at_work(tmp_path) as site:
        site.record("a.mp4")
        site.password.write_text("another one")
        daemon = await site.start("run")
        down = await daemon.event("outage-began")
        assert "user name or password is wrong" in down["reason"]
        status = await site.run("status")
        assert (
            "files    the server refused the log-in: user name or password is wrong, 1 queued; 0 done" in status.lines
        )
        assert [call.name for call in site.simulator.calls] == ["login"]
        assert (await daemon.stop()).code == 0


async def test_retry_tries_a_corrected_password_at_once(tmp_path: Path) -> None:
    """Without waiting or a restart; the daemon may have noticed the change before."""
    async with at_work(tmp_path) as site:
        file = site.record("a.mp4")
        site.password.write_text("another one")
        daemon = await site.start("run")
        await daemon.event("outage-began")
        await daemon.event("file-queued")
        site.password.write_text("secret")
        asked = await site.run("retry", file)
        await daemon.event("upload-finished", path=str(file))
        unknown = f"{file}: no unfinished upload has this name; for its state type: valt-uploader explain {file}"
        assert asked.lines[0] in {f"{file}: continues", unknown}
        assert "files    nothing to do; 1 done" in (await site.run("status")).lines


async def test_once_tries_a_new_password_at_once(tmp_path: Path) -> None:
    """The daemon would wait for minutes before it tries the refused one again."""
    async with at_work(tmp_path) as site:
        site.record("a.mp4")
        site.password.write_text("another one")
        daemon = await site.start("run")
        await daemon.event("outage-began")
        await daemon.stop()
        stopped = await site.run("status")
        why = "the server refused the password before, so it is not tried again yet"
        assert f"files    {why}, 1 queued; 0 done" in stopped.lines
        site.password.write_text("secret")
        assert (await site.run("once")).out == "1 uploaded now, 0 not ready\n"


# The server


async def test_once_ends_quickly_when_the_server_is_unreachable(tmp_path: Path) -> None:
    """One line with the address and the reason, and exit 1."""
    async with at_work(tmp_path) as site:
        site.record("a.mp4")
        await site.simulator.stop()
        refused(await site.run("once"), 1, f"{site.url}: cannot be reached: ")
        assert site.stored()["uploads"] == []


async def test_the_daemon_goes_on_when_the_server_comes_back(tmp_path: Path) -> None:
    """It keeps trying, reports it once for all files, and nothing is lost meanwhile."""
    async with at_work(tmp_path) as site:
        files = [site.record(f"{number}.mp4") for number in range(3)]
        port = int(site.url.rpartition(":")[2])
        await site.simulator.stop()
        daemon = await site.start("run")
        down = await daemon.event("outage-began")
        assert down["reason"].startswith(f"{site.url}: cannot be reached: ")
        assert f"files    {site.url}: cannot be reached" in (await site.run("status")).out
        await site.simulator.start(port=port)
        await daemon.event("outage-ended")
        for file in files:
            await daemon.event("upload-finished", path=str(file))
        assert daemon.events("upload-retry-scheduled") == []


# TLS


@asynccontextmanager
async def behind_tls(site: Site, authority: trustme.CA) -> AsyncIterator[tuple[str, str]]:
    """Put an HTTPS server before the simulator: its address, and its certificate's fingerprint."""
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)

    async def pass_on(request: web.Request) -> web.Response:
        headers = {key: value for key, value in request.headers.items() if key in {"Content-Type", "Content-Range"}}
        body = await request.read()
        async with (
            ClientSession() as http,
            http.request(request.method, site.url + str(request.rel_url), data=body, headers=headers) as answer,
        ):
            return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)

    app = web.Application(client_max_size=0)
    app.router.add_route("*", "/{path:.*}", pass_on)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        der = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
        yield f"https://127.0.0.1:{runner.addresses[0][1]}", sha256(der).hexdigest()
    finally:
        await runner.cleanup()


async def test_an_unknown_certificate_is_refused_with_a_hint(tmp_path: Path) -> None:
    """The exact reason and the two keys that help; no password is sent."""
    async with at_work(tmp_path) as site, behind_tls(site, trustme.CA()) as (url, _):
        site.configure(server=f'url = "{url}"')
        ended = await site.run("once")
        refused(ended, 1, f"{url}: its certificate is not trusted: unable to get local issuer certificate")
        assert "set server.ca_file" in ended.err
        assert "server.pin_sha256" in ended.err
        assert not site.simulator.calls


async def test_a_certificate_of_the_configured_authority_is_accepted(tmp_path: Path) -> None:
    """``ca_file`` names the authority that signed it."""
    authority = trustme.CA()
    async with at_work(tmp_path) as site, behind_tls(site, authority) as (url, _):
        site.simulator.change(public_url=url)
        site.record("a.mp4")
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        site.configure(server=f'url = "{url}"\nca_file = "{tmp_path / "ca.pem"}"')
        assert (await site.run("once")).out == "1 uploaded now, 0 not ready\n"


async def test_only_the_pinned_certificate_is_accepted(tmp_path: Path) -> None:
    """``pin_sha256`` is for an appliance that signed its own."""
    async with at_work(tmp_path) as site, behind_tls(site, trustme.CA()) as (url, fingerprint):
        site.simulator.change(public_url=url)
        site.record("a.mp4")
        site.configure(server=f'url = "{url}"\npin_sha256 = "{fingerprint}"')
        assert (await site.run("once")).out == "1 uploaded now, 0 not ready\n"
        calls = len(site.simulator.calls)
        site.configure(server=f'url = "{url}"\npin_sha256 = "{fingerprint[::-1]}"')
        refused(await site.run("once"), 1, "")
        assert len(site.simulator.calls) == calls


async def test_unchecked_tls_is_a_warning_at_every_start_and_in_every_status(tmp_path: Path) -> None:
    """``tls_verify = false`` works."""
    async with at_work(tmp_path) as site, behind_tls(site, trustme.CA()) as (url, _):
        site.simulator.change(public_url=url)
        file = site.record("a.mp4")
        site.configure(server=f'url = "{url}"\ntls_verify = false')
        daemon = await site.start("run")
        notice = await daemon.event("config-warning")
        assert (notice["level"], notice["what"].partition(":")[0]) == ("warning", "server.tls_verify = false")
        await daemon.event("upload-finished", path=str(file))
        assert "warning  server.tls_verify = false" in (await site.run("status")).out
        check = await site.run("check")
        assert any(line.startswith("warning ") and "tls_verify" in line for line in check.lines)


# The state


async def test_a_state_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    """Exit 73, and which folder."""
    async with at_work(tmp_path) as site:
        site.configure(more=f'[state]\ndir = "{site.password}/state"')
        refused(await site.run("once"), 73, f"{site.password}/state: the state folder cannot be used: Not a directory")


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that everybody can look into; ``tmp_path`` lies in one that is its owner's alone."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


async def test_a_state_folder_that_this_user_cannot_write_is_named(public: Path) -> None:
    """Exit 73, as the daemon's user."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    async with at_work(public, probed=False) as site:
        os.chown(site.password, NOBODY, NOBODY)
        site.state.mkdir(mode=0o755)
        ended = await site.run("once", program=AS_NOBODY)
        refused(ended, 73, f"{site.state}: the state folder cannot be used: Permission denied; make it writable")


async def test_a_second_daemon_on_the_same_state_names_the_first(tmp_path: Path) -> None:
    """Exit 75 with the process id of the first, which goes on undisturbed."""
    async with at_work(tmp_path) as site:
        first = await site.start("run")
        await first.event("started")
        for command in ("run", "once"):
            refused(await site.run(command), 75, f"process {first.pid} already works on this state folder")
        file = site.record("a.mp4")
        await first.event("upload-finished", path=str(file))


async def _with_a_history(site: Site) -> None:
    """Leave a state behind in which two files are finished and one is parked."""
    for name in ("a.mp4", "b.mp4"):
        site.record(name, 1000)
    site.record("empty.mp4", 0)
    assert (await site.run("once")).code == 1


async def test_the_previous_state_can_be_restored_as_the_hint_says(tmp_path: Path) -> None:
    """It is copied into place, and nothing is sent twice."""
    async with at_work(tmp_path) as site:
        await _with_a_history(site)
        (site.state / "state.json").write_text("{")
        assert (await site.run("once")).code == 78
        shutil.copy(site.state / "state.json.1", site.state / "state.json")
        assert (await site.run("once")).out.startswith("0 uploaded now")
        assert len(site.simulator.records()) == 2


async def test_a_damaged_ledger_stops_every_command_that_reads_it(tmp_path: Path) -> None:
    """Exit 78 with the line, and ``check`` reports the same."""
    async with at_work(tmp_path) as site:
        await _with_a_history(site)
        path = site.state / "ledger.jsonl"
        path.write_text(path.read_text().replace('"size": 1000', '"size": 1001', 1))
        commands = (["run"], ["status"], ["link", site.recordings / "c.mp4"])
        for ended in await asyncio.gather(*(site.run(*command) for command in commands)):
            refused(ended, 78, "ledger.jsonl: line 2: the line before it was changed; put the whole file back")
        check = await site.run("check")
        assert check.code == 1
        assert any(line.startswith("error   state") and "ledger.jsonl: line 2" in line for line in check.lines)
