"""Makes a client for commands that only read from the server (``check``, ``link``, ``ledger --download``).

It reads the state and does not write it. It does not log in with a password that was refused and must not be tried yet:
a timer that runs such a command every minute would lock the account.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from uploader.config import Config
from uploader.domain import errors
from uploader.domain.events import Bus
from uploader.runtime.clock import Clock
from uploader.runtime.log import redactor
from uploader.server.circuit_breaker import refuse_again
from uploader.server.credentials import account, read_password, read_proxy_password
from uploader.server.port import Server
from uploader.server.valt import Valt
from uploader.store import codec
from uploader.store.disk import StateFolder
from uploader.store.opening import read_state


def saved_in(folder: Path) -> codec.StateSnapshot:
    """Read the state. Empty when there is none, or when it cannot be read: other commands report why."""
    with suppress(errors.UploaderError):
        disk = StateFolder(folder, lock=False)
        try:
            return read_state(disk)
        finally:
            disk.close()
    return codec.StateSnapshot()


def valt_to_ask(config: Config, environ: Mapping[str, str], clock: Clock) -> Server:
    """Make the client. Its log-in raises ``PasswordRefused``, without a call, while ``refuse_again`` does."""

    def password() -> str:
        refuse_again(saved_in(config.state.dir).capabilities, account(config.server, environ), clock.now())
        return read_password(config.server, environ)

    return Valt(
        config.server,
        password=password,
        clock=clock,
        bus=Bus(),
        remember=redactor.remember,
        proxy_password=lambda: read_proxy_password(config.server, environ),
    )
