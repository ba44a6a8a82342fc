"""Saves the results of a probe in the state, through the running daemon or, when it is stopped, directly.

Before the first start it makes the state. As root it makes no state folder, and it writes into none of another user:
the daemon could not read the files that root would leave there.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, replace
from typing import Final

from uploader.app import control_socket
from uploader.config import Config
from uploader.domain import errors, events
from uploader.domain.model import Orphan, ServerCapabilities
from uploader.runtime.clock import Clock
from uploader.store import Store, codec
from uploader.store.disk import StateFolder

CONTROL_COMMAND: Final = "probed"  # over the control socket


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a probe reports. Of ``learnt`` the capabilities are used, not what it says about log-ins."""

    orphans: tuple[Orphan, ...] = ()  # records that were created
    cleared: tuple[str, ...] = ()  # ids of records that were deleted again
    learnt: ServerCapabilities | None = None


def parse_probe_result(text: str) -> ProbeResult:
    """Parse a result that came over the control socket. Raises ``UploaderError``."""
    try:
        return codec.from_json(ProbeResult, text.encode("ascii"))
    except (codec.UnreadableContent, UnicodeEncodeError) as error:
        raise errors.UploaderError(f"not the result of a probe: {error}") from None


def apply(store: Store, result: ProbeResult) -> None:
    """Put *result* into the store; the caller commits. Of the orphans only those of probes are changed."""
    for orphan in result.orphans:
        if orphan.record not in store.orphans:
            store.put_orphan(replace(orphan, probe=True))
    for record in result.cleared:
        known = store.orphans.get(record)
        if known is not None and known.probe:
            store.drop_orphan(record)
    if (learnt := result.learnt) is not None:
        store.learn(
            whole_only_until=learnt.whole_only_until,
            chunk_limit=learnt.chunk_limit,
            chunk_limit_until=learnt.chunk_limit_until,
            resend_is_safe=learnt.resend_is_safe,
            chunks=learnt.chunks,
            transcodes=learnt.transcodes,
            probed_at=learnt.probed_at,
            version=learnt.version,
        )


class ProbeResultStore:
    """Saves probe results in the state of a configuration."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._config, self._clock = config, clock

    async def save(self, result: ProbeResult) -> str | None:
        """Save *result*; return what keeps it (``the daemon``, ``the state``), or None when it could not be saved."""
        folder = self._config.state.dir
        try:
            if not folder.exists():
                return None if os.geteuid() == 0 else await self._write(result)
            text = codec.to_json(result)
            if await asyncio.to_thread(control_socket.ask, folder, CONTROL_COMMAND, [text]) is not None:
                return "the daemon"
            if folder.stat().st_uid != os.geteuid():
                return None
            return await self._write(result)
        except (errors.UploaderError, OSError):  # a daemon of an older version, or no right to read the folder
            return None  # the probe then reports it

    async def _write(self, result: ProbeResult) -> str:
        disk = StateFolder(self._config.state.dir)
        try:
            store = Store(disk, self._clock, events.Bus())
        except BaseException:  # also when interrupted: the lock is released
            disk.close()
            raise
        try:
            apply(store, result)
            await store.commit()
        finally:
            await store.close()
        return "the state"
