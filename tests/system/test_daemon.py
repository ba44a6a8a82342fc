"""``run`` as a process: what it tells systemd, signals, a new configuration, and two daemons side by side."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fakes import MemoryDisk, VirtualClock, an_upload, next_value
from process import MIB, PROCESS_TIMEOUT, Site, at_work, sha256, until

from uploader.app import status
from uploader.app.application import Application
from uploader.app.daemon import Daemon
from uploader.config import Config
from uploader.domain import events
from uploader.domain.model import State, Upload
from uploader.store import Store
from uploader.testing.simulator import Fault, Settings


class Supervisor:
    """The receiving end of ``$NOTIFY_SOCKET``."""

    def __init__(self, path: Path) -> None:
        self.environ = {"NOTIFY_SOCKET": str(path)}
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(str(path))
        self.said: list[str] = []

    async def hears(self, start: str, *, since: int = 0) -> str:
        """Wait for an assignment that begins like this."""
        while not (found := [line for line in self.said[since:] if line.startswith(start)]):
            async with asyncio.timeout(PROCESS_TIMEOUT):
                self.said += (await asyncio.get_running_loop().sock_recv(self.socket, 65_536)).decode().split("\n")
        return found[0]


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    """Somebody who listens."""
    supervisor = Supervisor(tmp_path / "notify")
    yield supervisor
    supervisor.socket.close()


def slowly(site: Site, rate: float = MIB) -> Fault:
    """Let every chunk from now on take its time: *rate* in bytes per second."""
    slow = Fault(call="upload", kind="slow", rate=rate, times=None)
    site.simulator.faults.append(slow)
    return slow


# systemd


async def test_systemd_is_told_of_start_work_and_end(tmp_path: Path, supervisor: Supervisor) -> None:
    """READY when it runs, a status line when it changes, WATCHDOG while it works, STOPPING at its end."""
    async with at_work(tmp_path) as site:
        environ = {**supervisor.environ, "WATCHDOG_USEC": "200000"}
        daemon = await site.start("run", environ=environ)
        assert await supervisor.hears("READY=1")
        assert await supervisor.hears("STATUS=") == "STATUS=nothing to do; 0 done"
        site.record("a.mp4")
        await daemon.event("upload-finished")
        assert await supervisor.hears("STATUS=nothing to do; 1 done")
        mark = len(supervisor.said)
        assert await supervisor.hears("WATCHDOG=1", since=mark)
        ended = await daemon.stop()
        assert (ended.code, ended.out) == (0, "")
        assert await supervisor.hears("STOPPING=1")
        assert [line["event"] for line in daemon.log[-2:]] == ["stopping", "stopped"]


async def test_the_status_line_names_the_password_problem(tmp_path: Path, supervisor: Supervisor) -> None:
    """``systemctl status`` says what the operator must correct, not that the server is down."""
    async with at_work(tmp_path) as site:
        site.record("a.mp4")
        site.password.write_text("another one")
        await site.start("run", environ=supervisor.environ)
        line = await supervisor.hears("STATUS=the server refused")
        assert line == "STATUS=the server refused the log-in: user name or password is wrong, 1 queued; 0 done"


# A daemon with many uploads, in this process


class ByPath(Mapping[str, Upload]):
    """Uploads by path. It counts how often they are iterated over."""

    def __init__(self, uploads: Mapping[str, Upload], count: Callable[[], None]) -> None:
        self._uploads, self._count = uploads, count

    def __getitem__(self, path: str) -> Upload:
        return self._uploads[path]

    def __len__(self) -> int:
        return len(self._uploads)

    def __iter__(self) -> Iterator[str]:
        for path in self._uploads:
            self._count()
            yield path


class CountingStore(Store):
    """Counts how many uploads were looked at by somebody who went through all of them."""

    looked_at = 0

    @property
    def uploads(self) -> Mapping[str, Upload]:
        """As they are, and counted."""
        return ByPath(super().uploads, self._count)

    def _count(self) -> None:
        self.looked_at += 1


@asynccontextmanager
async def daemon_with(tmp_path: Path, *uploads: Upload) -> AsyncIterator[tuple[Daemon, CountingStore]]:
    """Make a daemon with these uploads and a built application that does not run."""
    (tmp_path / "watch").mkdir()
    config = Config.model_validate(
        {
            "server": {"url": "https://valt.example.com", "username": "uploader"},
            "watch": [{"path": str(tmp_path / "watch")}],
            "state": {"dir": str(tmp_path)},
        }
    )
    clock, bus = VirtualClock(), events.Bus()
    store = CountingStore(MemoryDisk(), clock, bus)
    for upload in uploads:
        store.put(upload)
    daemon = Daemon(tmp_path / "config.toml", config, store, clock, bus, {})
    daemon._application = Application(config, store, clock, bus, {})
    store.looked_at = 0
    yield daemon, store
    await store.close()


MANY = [an_upload(path=f"/rec/{number:03}.mp4") for number in range(500)]


async def test_the_status_line_costs_the_same_however_many_uploads_there_are(tmp_path: Path) -> None:
    """It is made every two seconds and reads none of them."""
    async with daemon_with(tmp_path, *MANY, an_upload(State.SENDING)) as (daemon, store):
        assert daemon._status_line() == "500 queued, 1 sending; 0 done"
        assert store.looked_at == 0
        store.put(next_value(store, an_upload(State.VERIFYING)))
        store.drop(store.table.all[MANY[0].path])
        assert daemon._status_line() == "499 queued, 1 verifying; 0 done"
        assert store.looked_at == 0


async def test_explain_looks_its_upload_up(tmp_path: Path) -> None:
    """However many uploads there are, and by either of its file's names."""
    renamed = an_upload(State.SENDING, path="/rec/a.mp4", renamed_to="/rec/b.mp4")
    async with daemon_with(tmp_path, *MANY, renamed) as (daemon, store):
        for path in ("/rec/a.mp4", "/rec/b.mp4"):
            lines = (await daemon.answer("explain", [path]))["lines"]
            assert "state    sending, 40 of 100 bytes acknowledged" in lines
            assert "file     was /rec/a.mp4 when its upload began, is /rec/b.mp4 now" in lines
        assert store.looked_at == 0


async def test_explain_says_that_a_file_is_paused(tmp_path: Path) -> None:
    """Also when its folder is."""
    async with daemon_with(tmp_path, an_upload(path="/rec/a.mp4")) as (daemon, store):
        store.pause("/rec")
        lines = (await daemon.answer("explain", ["/rec/a.mp4"]))["lines"]
        assert f"reason   {status.PAUSED}" in lines
        assert lines[-1] == "result   not finished: continues after: valt-uploader resume"


async def test_a_status_shows_a_single_moment(tmp_path: Path) -> None:
    """Its rows are made later, but from what was known when it was asked for; each upload is read once."""
    async with daemon_with(tmp_path, *MANY) as (daemon, store):
        document = await daemon.answer("status", [])
        assert store.looked_at == len(MANY)
        store.put(next_value(store, an_upload(State.SENDING, path=MANY[0].path)))
        store.drop(store.table.all[MANY[1].path])
        store.pause(MANY[2].path)
        rows = list(document["uploads"])
        assert [row["path"] for row in rows] == [upload.path for upload in MANY]
        assert {row["state"] for row in rows} == {"queued"}
        assert {row["reason"] for row in rows} == {None}
        assert document["counts"]["queued"] == len(MANY)


# Signals


async def test_sigterm_lets_the_chunk_in_flight_end_and_the_next_start_goes_on(tmp_path: Path) -> None:
    """Exit 0 within ``drain``; the same record is filled further, and no byte is sent twice."""
    async with at_work(tmp_path, upload='chunk_size = "1 MiB"') as site:
        file = site.record("a.mp4", 5 * MIB)
        slow = slowly(site, 2 * MIB)
        slow.skip = 1
        daemon = await site.start("run")
        async with asyncio.timeout(PROCESS_TIMEOUT):
            await slow.struck.wait()
        ended = await daemon.stop()
        assert ended.code == 0
        (upload,) = site.stored()["uploads"]
        assert (upload["state"], upload["offset"]) == ("sending", 2 * MIB)
        site.simulator.faults.clear()
        again = await site.start("run")
        resumed = await again.event("upload-resumed")
        assert (resumed["record"], resumed["offset"]) == (upload["ids"]["record"], 2 * MIB)
        await again.event("upload-finished")
        (record,) = site.simulator.records()
        assert record.sha256 == sha256(file)
        ranges = [call.content_range for call in site.simulator.calls if call.name == "upload"]
        assert len(ranges) == len(set(ranges)) == 5


async def test_a_chunk_is_cut_when_the_drain_time_is_over(tmp_path: Path) -> None:
    """Cut before its last byte it was never seen, and is sent again to its record."""
    async with at_work(tmp_path, upload='chunk_size = "whole"\ndrain = "200ms"') as site:
        file = site.record("a.mp4", 32 * MIB)  # more than the sockets between us hold
        still = Fault(call="upload", kind="stall", after_bytes=MIB)
        site.simulator.faults.append(still)
        daemon = await site.start("run")
        async with asyncio.timeout(PROCESS_TIMEOUT):
            await still.standing.wait()
        assert (await daemon.stop()).code == 0
        still.release()
        assert [upload["state"] for upload in site.stored()["uploads"]] == ["sending"]
        again = await site.start("run")
        await again.event("upload-finished")
        (record,) = site.simulator.records()
        assert record.sha256 == sha256(file)


async def test_a_second_sigterm_ends_it_at_once(tmp_path: Path) -> None:
    """Whatever ``drain`` is; the state is saved, with the doubt about the last chunk."""
    async with at_work(tmp_path, upload='drain = "1h"') as site:
        site.record("a.mp4", 1000)
        still = Fault(call="upload", kind="stall")
        site.simulator.faults.append(still)
        daemon = await site.start("run")
        async with asyncio.timeout(PROCESS_TIMEOUT):
            await still.standing.wait()
        daemon.send(signal.SIGTERM)
        await daemon.event("stopping", signal="SIGTERM")
        ended = await daemon.stop()
        assert ended.code == 0
        assert "Traceback" not in ended.err
        assert [upload["state"] for upload in site.stored()["uploads"]] == ["in-doubt"]


async def test_a_daemon_that_was_stopped_and_continued_finishes(tmp_path: Path) -> None:
    """SIGSTOP during a chunk and SIGCONT later: one record, equal bytes."""
    async with at_work(tmp_path, upload='chunk_size = "1 MiB"') as site:
        file = site.record("a.mp4", 3 * MIB)
        slow = slowly(site, 4 * MIB)
        daemon = await site.start("run")
        async with asyncio.timeout(PROCESS_TIMEOUT):
            await slow.struck.wait()
        daemon.send(signal.SIGSTOP)
        stat = Path(f"/proc/{daemon.pid}/stat")
        await until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "the process stands still")
        daemon.send(signal.SIGCONT)
        await daemon.event("upload-finished")
        (record,) = site.simulator.records()
        assert record.sha256 == sha256(file)


# A new configuration


async def test_a_good_configuration_is_put_into_force(tmp_path: Path, supervisor: Supervisor) -> None:
    """SIGHUP: an added folder is watched from now on, and systemd is told RELOADING, then READY."""
    async with at_work(tmp_path) as site:
        daemon = await site.start("run", environ=supervisor.environ)
        await supervisor.hears("READY=1")
        other = tmp_path / "other"
        other.mkdir()
        site.configure(more=f'[[watch]]\npath = "{other}"\nsettle = "100ms"\nrescan = "300ms"\n')
        mark = len(supervisor.said)
        daemon.send(signal.SIGHUP)
        await daemon.event("config-reloaded", file=str(site.config))
        assert await supervisor.hears("RELOADING=1", since=mark)
        assert await supervisor.hears("READY=1", since=mark)
        await daemon.event("folder-watched", folder=str(other))
        (other / "new.mp4").write_bytes(b"new")
        await daemon.event("upload-finished", path=str(other / "new.mp4"))
        assert (await daemon.stop()).code == 0


async def test_a_faulty_configuration_changes_nothing(tmp_path: Path, supervisor: Supervisor) -> None:
    """SIGHUP: the old one stays in force, the log says what is wrong, and systemd is told READY again."""
    async with at_work(tmp_path) as site:
        daemon = await site.start("run", environ=supervisor.environ)
        await supervisor.hears("READY=1")
        site.configure(watch='setle = "1s"')
        mark = len(supervisor.said)
        daemon.send(signal.SIGHUP)
        rejected = await daemon.event("config-rejected")
        assert rejected["level"] == "error"
        assert "watch[0].setle: unknown key; did you mean settle?" in rejected["faults"]
        assert await supervisor.hears("READY=1", since=mark)
        file = site.record("a.mp4")
        await daemon.event("upload-finished", path=str(file))


async def test_a_reload_during_an_upload_loses_nothing(tmp_path: Path) -> None:
    """The chunk in flight ends, and the upload goes on in the same record under the new configuration."""
    async with at_work(tmp_path, upload='chunk_size = "1 MiB"') as site:
        file = site.record("a.mp4", 4 * MIB)
        slow = slowly(site, 4 * MIB)
        daemon = await site.start("run")
        async with asyncio.timeout(PROCESS_TIMEOUT):
            await slow.struck.wait()
        site.configure(upload='chunk_size = "2 MiB"')
        daemon.send(signal.SIGHUP)
        await daemon.event("config-reloaded")
        site.simulator.faults.clear()
        await daemon.event("upload-finished")
        (record,) = site.simulator.records()
        assert record.sha256 == sha256(file)
        ranges = [call.content_range for call in site.simulator.calls if call.name == "upload"]
        assert len(ranges) == len(set(ranges)) == 4


async def test_a_state_folder_is_not_changed_by_a_reload(tmp_path: Path) -> None:
    """The daemon reports it, and applies the rest of the new configuration."""
    async with at_work(tmp_path) as site:
        daemon = await site.start("run")
        await daemon.event("folder-watched")
        site.configure(more=f'[state]\ndir = "{tmp_path / "elsewhere"}"')
        daemon.send(signal.SIGHUP)
        notice = await daemon.event("config-warning")
        assert notice["what"] == "state.dir has changed: the old one stays in use until the daemon is restarted"
        assert not (tmp_path / "elsewhere").exists()


# Two daemons


async def test_two_daemons_with_states_of_their_own_do_not_disturb_each_other(tmp_path: Path) -> None:
    """Two configurations, two folders, one server: each sends its own files, also with equal names."""
    (tmp_path / "two").mkdir()
    async with (
        at_work(tmp_path, more="", watch="") as one,
        at_work(tmp_path / "two", Settings(processing=0.0)) as two,
    ):
        two.configure(server=f'url = "{one.url}"')
        files = [one.record("a.mp4", seed=1), two.record("a.mp4", seed=2)]
        daemons = [await one.start("run"), await two.start("run")]
        for daemon, file in zip(daemons, files, strict=True):
            await daemon.event("upload-finished", path=str(file))
        assert {record.sha256 for record in one.simulator.records()} == {sha256(file) for file in files}
        assert [len(one.ledger()), len(two.ledger())] == [1, 1]
