"""Notifies systemd of the daemon's state: ready, status, reloading, stopping, watchdog (sd_notify(3)).

A call raises nothing when systemd is gone, and blocks the event loop for ``SEND_TIMEOUT`` at most. Without
``$NOTIFY_SOCKET`` every call does nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Mapping

from uploader.domain.model import shown

SEND_TIMEOUT = 0.2  # seconds; systemd's queue is full only on an overloaded machine, and a message may be lost


class Notifier:
    """Sends notifications to systemd."""

    def __init__(self, environ: Mapping[str, str], monotonic: Callable[[], float]) -> None:
        """*monotonic* returns CLOCK_MONOTONIC in seconds, the clock that systemd uses, too."""
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._monotonic = monotonic

    def ready(self, status: str) -> None:
        """Say that the start, or the reload, is complete. *status* is the line that ``systemctl status`` shows."""
        self._send("READY=1", _status(status))

    def status(self, text: str) -> None:
        """Change the line that ``systemctl status`` shows."""
        self._send(_status(text))

    def reloading(self) -> None:
        """Say that the configuration is being read. ``ready`` must follow, whether it was accepted or not."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={int(self._monotonic() * 1_000_000)}")

    def stopping(self) -> None:
        """Say that the daemon is ending."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """Say that the daemon is alive: due at least every ``watchdog_interval`` seconds."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(SEND_TIMEOUT)
            sock.connect(self._address)
            sock.send("\n".join(lines).encode())


def watchdog_interval(environ: Mapping[str, str]) -> float | None:
    """Return the seconds between two calls of ``Notifier.watchdog``, or None when systemd does not ask for them.

    Half of ``$WATCHDOG_USEC``, as sd_watchdog_enabled(3) advises. ``$WATCHDOG_PID`` names the process that must send
    them: a child that inherits the environment sends nothing.
    """
    usec = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    if not (usec.isascii() and usec.isdigit()) or int(usec) == 0:
        return None
    return int(usec) / 1_000_000 / 2


def _address(name: str) -> str | None:
    """Return the socket's address: a path, or an abstract name, which is written with ``@`` for NUL."""
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else None


def _status(text: str) -> str:
    # shown() leaves no line break: a text cannot add a second assignment.
    return f"STATUS={shown(text)}"
