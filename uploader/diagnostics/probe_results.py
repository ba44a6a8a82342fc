"""What a probe has found finds its way into the state: through the running daemon, or with its own hand.

Must never make a state folder, nor write into one that belongs to another user: ``check`` may be run by anybody, and
what root leaves there the daemon cannot read.
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
from uploader.store.store import STATE_FILE

CONTROL_COMMAND: Final = "probed"  # over the control socket


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a probe has to tell. Of ``learnt`` only what it says about the server's ways is taken over."""

    orphans: tuple[Orphan, ...] = ()
    cleared: tuple[str, ...] = ()  # records that are gone again
    learnt: ServerCapabilities | None = None


def parse_probe_result(text: str) -> ProbeResult:
    """Read what came over the control socket. Raises ``UploaderError``."""
    try:
        return codec.from_json(ProbeResult, text.encode("ascii"))
    except (codec.UnreadableContent, UnicodeEncodeError) as error:
        raise errors.UploaderError(f"this is no news of a probe: {error}") from None


def apply(store: Store, result: ProbeResult) -> None:
    """Keep *result*, in memory. Nothing but a probe's own records is touched."""
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
            probed_at=learnt.probed_at,
            version=learnt.version,
        )


class ProbeResultStore:
    """Whoever keeps the state of this configuration."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._config, self._clock = config, clock

    async def save(self, result: ProbeResult) -> str | None:
        """Have *result* kept; the answer is who keeps it, None when nobody does."""
        folder = self._config.state.dir
        try:
            if not (folder / STATE_FILE).exists():
                return None
            text = codec.to_json(result)
            if await asyncio.to_thread(control_socket.ask, folder, CONTROL_COMMAND, [text]) is not None:
                return "the daemon"
            if folder.stat().st_uid != os.geteuid():
                return None
            return await self._write(result)
        except (errors.UploaderError, OSError):  # an older daemon, or no right to look: then the probe names it itself
            return None

    async def _write(self, result: ProbeResult) -> str:
        disk = StateFolder(self._config.state.dir)
        try:
            store = Store(disk, self._clock, events.Bus())
        except BaseException:  # whatever it was, the lock must not stay behind it
            disk.close()
            raise
        try:
            apply(store, result)
            await store.commit()
        finally:
            await store.close()
        return "the state"
