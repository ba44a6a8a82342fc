"""What the daemon tells systemd, over a real datagram socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import FailingDisk, MemoryDisk, VirtualClock, an_upload, until
from snapshots import config_of

from uploader.app.daemon import Daemon
from uploader.app.systemd import Notifier, watchdog_interval
from uploader.domain import events
from uploader.domain.model import State
from uploader.store import Store
from uploader.store.store import SLOW_WRITE_WARNING

NOON = 43_200.25  # seconds on the monotonic clock


class Supervisor:
    """The receiving end of $NOTIFY_SOCKET."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.settimeout(5)
        self.socket.bind(address)

    def heard(self) -> list[str]:
        """The assignments of the next datagram."""
        return self.socket.recv(65536).decode().split("\n")

    def backlog(self) -> list[str]:
        """Every datagram that is waiting."""
        self.socket.settimeout(0)
        waiting = []
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting.append(self.socket.recv(65536).decode())
        return waiting


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    """A supervisor that listens on a path."""
    supervisor = Supervisor(str(tmp_path / "notify"))
    yield supervisor
    supervisor.socket.close()


@pytest.fixture
def notifier(supervisor: Supervisor) -> Notifier:
    """A notifier that talks to the supervisor."""
    return Notifier({"NOTIFY_SOCKET": supervisor.address}, lambda: NOON)


def test_ready_and_its_status_arrive_together(supervisor: Supervisor, notifier: Notifier) -> None:
    """They are one datagram, so that systemctl never shows one without the other."""
    notifier.ready("watching 2 folders")
    assert supervisor.heard() == ["READY=1", "STATUS=watching 2 folders"]


def test_status_watchdog_and_stopping_are_sd_notify_assignments(supervisor: Supervisor, notifier: Notifier) -> None:
    """As sd_notify(3) defines them."""
    notifier.status("sending a.mp4")
    notifier.watchdog()
    notifier.stopping()
    assert [supervisor.heard() for _ in range(3)] == [
        ["STATUS=sending a.mp4"],
        ["WATCHDOG=1"],
        ["STOPPING=1"],
    ]


def test_reloading_carries_the_monotonic_time_in_microseconds(supervisor: Supervisor, notifier: Notifier) -> None:
    """RELOADING=1 comes with the time of the clock that was passed in."""
    notifier.reloading()
    assert supervisor.heard() == ["RELOADING=1", "MONOTONIC_USEC=43200250000"]


def test_a_status_cannot_contain_a_second_assignment(supervisor: Supervisor, notifier: Notifier) -> None:
    """A file name with a line break stays inside STATUS."""
    notifier.status("sending a\nWATCHDOG=trigger\r\u202e.mp4")
    assert supervisor.heard() == ["STATUS=sending a\\x0aWATCHDOG=trigger\\x0d\\u202e.mp4"]


def test_a_name_that_is_not_utf8_is_escaped(supervisor: Supervisor, notifier: Notifier) -> None:
    """The datagram is valid UTF-8."""
    notifier.status("sending \udcff.mp4")
    assert supervisor.heard() == ["STATUS=sending \\xff.mp4"]


def test_an_abstract_socket_is_found_by_its_at_sign() -> None:
    """``@name`` stands for the abstract socket whose name begins with NUL."""
    supervisor = Supervisor(f"\0valt-uploader-test-{os.getpid()}")
    Notifier({"NOTIFY_SOCKET": "@" + supervisor.address[1:]}, lambda: NOON).watchdog()
    assert supervisor.heard() == ["WATCHDOG=1"]
    supervisor.socket.close()


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234"])
def test_without_a_usable_socket_nothing_is_sent(supervisor: Supervisor, address: str | None) -> None:
    """Outside systemd, or with an address of another family, every call does nothing."""
    notifier = Notifier({} if address is None else {"NOTIFY_SOCKET": address}, lambda: NOON)
    notifier.ready("up")
    notifier.stopping()
    assert supervisor.backlog() == []


@pytest.mark.parametrize("name", ["gone", "x" * 200])
def test_a_missing_notify_socket_raises_nothing(tmp_path: Path, name: str) -> None:
    """Without a listener, or with an impossible path, the message is lost."""
    Notifier({"NOTIFY_SOCKET": str(tmp_path / name)}, lambda: NOON).ready("up")


def test_a_full_notify_queue_loses_the_message_and_does_not_block(supervisor: Supervisor, notifier: Notifier) -> None:
    """When systemd does not read, each call returns within its time-out."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
        filler.settimeout(0.1)
        filler.connect(supervisor.address)
        with contextlib.suppress(TimeoutError):
            while True:
                filler.send(b"STATUS=busy")
    notifier.status("lost")
    backlog = supervisor.backlog()
    assert backlog
    assert set(backlog) == {"STATUS=busy"}


def test_the_watchdog_is_fed_at_half_of_its_time() -> None:
    """WatchdogSec=120 asks for one message every 60 seconds."""
    assert watchdog_interval({"WATCHDOG_USEC": "120000000"}) == 60.0


def test_another_process_id_in_the_environment_means_no_watchdog() -> None:
    """$WATCHDOG_PID names the process that feeds it."""
    assert watchdog_interval({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}) == 1.0
    assert watchdog_interval({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid() + 1)}) is None


async def test_the_watchdog_is_fed_only_while_the_state_s_disk_answers(tmp_path: Path, supervisor: Supervisor) -> None:
    """A write may take the watchdog's whole time; a longer one ends the messages until it is done."""
    clock, disk = VirtualClock(), FailingDisk(MemoryDisk())
    store = Store(disk, clock, events.Bus())
    environ = {"NOTIFY_SOCKET": supervisor.address, "WATCHDOG_USEC": "120000000"}
    daemon = Daemon(tmp_path / "config.toml", config_of(tmp_path), store, clock, events.Bus(), environ)
    feeding = asyncio.create_task(daemon._feed_watchdog())

    async def fed(seconds: float) -> int:
        await clock.advance(seconds)
        return supervisor.backlog().count("WATCHDOG=1")

    assert await fed(30) == 1
    disk.begun.clear()
    disk.gate.clear()
    saving = asyncio.create_task(store.save(an_upload(State.SENDING)))
    await until(lambda: disk.begun)
    assert await fed(120) == 2
    assert await fed(3600) == 0
    disk.gate.set()
    await saving
    assert await fed(60) == 1
    feeding.cancel()
    await store.close()


async def test_the_watchdog_is_fed_until_the_reason_is_logged(tmp_path: Path, supervisor: Supervisor) -> None:
    """However short the watchdog's time is, the journal has the reason before the restart."""
    clock, disk, heard = VirtualClock(), FailingDisk(MemoryDisk()), list[events.Event]()
    bus = events.Bus()
    bus.listen(heard.append)
    store = Store(disk, clock, bus)
    environ = {"NOTIFY_SOCKET": supervisor.address, "WATCHDOG_USEC": "16000000"}
    daemon = Daemon(tmp_path / "config.toml", config_of(tmp_path), store, clock, bus, environ)
    feeding = asyncio.create_task(daemon._feed_watchdog())
    disk.begun.clear()
    disk.gate.clear()
    saving = asyncio.create_task(store.save(an_upload(State.SENDING)))
    await until(lambda: disk.begun)
    await clock.advance(SLOW_WRITE_WARNING - 0.5)
    assert (supervisor.backlog().count("WATCHDOG=1"), heard) == (4, [])
    await clock.advance(3600)
    assert not supervisor.backlog()
    assert [type(event) for event in heard] == [events.StateNotSaved]
    disk.gate.set()
    await saving
    feeding.cancel()
    await store.close()


@pytest.mark.parametrize("usec", ["", "0", "-5", "soon", "²"])
def test_no_watchdog_time_means_no_watchdog(usec: str) -> None:
    """An empty, zero or meaningless time switches it off."""
    assert watchdog_interval({"WATCHDOG_USEC": usec}) is None
    assert watchdog_interval({}) is None
