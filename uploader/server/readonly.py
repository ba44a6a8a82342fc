"""A client for commands that only ask (``check``, ``link``, ``ledger --download``): it knows what the state knows.

Must never write to the state, nor log in with a password that was refused and whose time has not come: what runs such
a command every minute would lock the account.
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
from uploader.server.credentials import account, read_password
from uploader.server.port import Server
from uploader.server.valt import Valt
from uploader.store import codec
from uploader.store.disk import StateFolder
from uploader.store.store import read_state


def saved_in(folder: Path) -> codec.StateSnapshot:
    """What the state holds; nothing when there is none or it cannot be read: what ails it is said elsewhere."""
    with suppress(errors.UploaderError):
        disk = StateFolder(folder, lock=False)
        try:
            return read_state(disk)
        finally:
            disk.close()
    return codec.StateSnapshot()


def valt_to_ask(config: Config, environ: Mapping[str, str], clock: Clock) -> Server:
    """Make the client. Its log-in raises ``PasswordRefused`` without asking when it was refused before."""

    def password() -> str:
        refuse_again(saved_in(config.state.dir).capabilities, account(config.server, environ), clock.now())
        return read_password(config.server, environ)

    return Valt(config.server, password=password, clock=clock, bus=Bus(), remember=redactor.remember)
