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
from uploader.domain.model import Learnt, Orphan
from uploader.runtime.clock import Clock
from uploader.store import Store, codec
from uploader.store.disk import StateFolder
from uploader.store.store import STATE

COMMAND: Final = "probed"  # over the control socket


@dataclass(frozen=True, slots=True)
class News:
    """What a probe has to tell. Of ``learnt`` only what it says about the server's ways is taken over."""

    orphans: tuple[Orphan, ...] = ()
    cleared: tuple[str, ...] = ()  # records that are gone again
    learnt: Learnt | None = None


def news_of(text: str) -> News:
    """Read what came over the control socket. Raises ``UploaderError``."""
    try:
        return codec.from_json(News, text.encode("ascii"))
    except (codec.Unreadable, UnicodeEncodeError) as error:
        raise errors.UploaderError(f"this is no news of a probe: {error}") from None


def take_in(store: Store, news: News) -> None:
    """Keep *news*, in memory. Nothing but a probe's own records is touched."""
    for orphan in news.orphans:
        if orphan.record not in store.orphans:
            store.put_orphan(replace(orphan, probe=True))
    for record in news.cleared:
        known = store.orphans.get(record)
        if known is not None and known.probe:
            store.drop_orphan(record)
    if (learnt := news.learnt) is not None:
        store.learn(
            whole_only_until=learnt.whole_only_until,
            chunk_limit=learnt.chunk_limit,
            chunk_limit_until=learnt.chunk_limit_until,
            resend_is_safe=learnt.resend_is_safe,
            probed_at=learnt.probed_at,
            version=learnt.version,
        )


class Keeper:
    """Whoever keeps the state of this configuration."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._config, self._clock = config, clock

    async def tell(self, news: News) -> str | None:
        """Have *news* kept; the answer is who keeps it, None when nobody does."""
        folder = self._config.state.dir
        try:
            if not (folder / STATE).exists():
                return None
            text = codec.to_json(news)
            if await asyncio.to_thread(control_socket.ask, folder, COMMAND, [text]) is not None:
                return "the daemon"
            if folder.stat().st_uid != os.geteuid():
                return None
            return await self._write(news)
        except (errors.UploaderError, OSError):  # an older daemon, or no right to look: then the probe names it itself
            return None

    async def _write(self, news: News) -> str:
        disk = StateFolder(self._config.state.dir)
        try:
            store = Store(disk, self._clock, events.Bus())
        except BaseException:  # whatever it was, the lock must not stay behind it
            disk.close()
            raise
        try:
            take_in(store, news)
            await store.commit()
        finally:
            await store.close()
        return "the state"
