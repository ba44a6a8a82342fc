"""Deletes orphans from the server: records that this program made and will not finish (docs/protocol.md, rule 7).

Never deletes a record that holds a video, except the test data of a probe, and one that arrived spoilt when the record
that replaces it is proven. Never deletes a record that the state does not list as an orphan: only those are known to be
this program's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from typing import Final

from uploader.config import ServerConfig
from uploader.domain import errors, events
from uploader.domain.model import Orphan
from uploader.domain.retry import DAY, HOUR, MINUTE, FailureScope, rule_of
from uploader.runtime.clock import Clock
from uploader.runtime.log import get_logger
from uploader.runtime.slices import in_slices
from uploader.server.circuit_breaker import CircuitBreaker
from uploader.server.port import RecordServer
from uploader.store import Store

log = get_logger(__name__)

ORPHAN_CHECK_INTERVAL: Final = 1.0  # s between two checks for due orphans
BUG_PAUSE: Final = HOUR  # s until an orphan is looked at again after a bug
ORPHAN_WITH_VIDEO_INTERVAL: Final = DAY  # s between two looks at an orphan that holds a video, or is not deleted


Adopt = Callable[[Orphan], Awaitable[bool]]


class OrphanCleanup:
    """Looks at each orphan when it is due, and deletes it if it is empty."""

    def __init__(
        self,
        server: ServerConfig,
        store: Store,
        valt: RecordServer,
        breaker: CircuitBreaker,
        clock: Clock,
        bus: events.Bus,
        adopt: Adopt | None = None,
    ) -> None:
        """*adopt* adopts an orphan that has landed whole, if that is still possible."""
        self._longest = max(server.doubt_settle, MINUTE)  # s; a longer wait comes from a clock that was set
        self._store, self._valt, self._breaker, self._clock, self._bus = store, valt, breaker, clock, bus
        self._adopt = adopt
        self.in_use: Collection[str] = ()  # records of a probe that is under way in this process: not looked at
        self._due: dict[str, tuple[float, float]] = {}  # by record: ``next_look``, also as monotonic time

    async def run(self) -> None:
        """Look at orphans that are due until cancelled."""
        while True:
            await self._clock.sleep(ORPHAN_CHECK_INTERVAL)
            await self.look_at_due()

    async def look_at_due(self) -> None:
        """Look at every orphan that is due."""
        if len(self._due) > len(self._store.orphans):
            self._due = {record: due for record, due in self._due.items() if record in self._store.orphans}
        async for record in in_slices(self._store.orphans, self._clock):
            orphan = self._store.orphans.get(record)
            if orphan is not None and record not in self.in_use and self._is_due(orphan):
                await self._breaker.clear()
                await self._look_guarded(orphan)

    def _is_due(self, orphan: Orphan) -> bool:
        """True when the orphan is due by the monotonic clock. Before that a request to it may still be on its way."""
        now = self._clock.monotonic()
        next_look, due = self._due.get(orphan.record, (None, 0.0))
        if next_look != orphan.next_look:
            rare = orphan.landed or orphan.refused or orphan.found or orphan.probe
            longest = ORPHAN_WITH_VIDEO_INTERVAL if rare else self._longest
            due = now + min(max(0.0, orphan.next_look - self._clock.now()), longest)
            self._due[orphan.record] = orphan.next_look, due
        return now >= due

    async def _look_guarded(self, orphan: Orphan) -> None:
        try:
            await self.look(orphan)
        except errors.StateUnusable:
            raise  # without its state the daemon cannot go on
        except Exception:  # a bug with one orphan must not end the others, nor the daemon
            log.exception("fault", record=orphan.record)
            await self._look_later(orphan, BUG_PAUSE)
            if (put_off := self._store.orphans.get(orphan.record)) is not None:
                self._due[orphan.record] = put_off.next_look, self._clock.monotonic() + BUG_PAUSE

    async def look(self, orphan: Orphan) -> None:
        """Delete one orphan, unless it holds a video."""
        await self._store.commit()  # that it is an orphan must be saved before it is deleted
        try:
            details = await self._valt.details(orphan.record)
            if stays := details.videos is not None and not (orphan.probe or orphan.replaced):
                if await self._is_adopted(orphan):
                    return
                await self._keep(orphan)
            else:
                await self._valt.delete_record(orphan.record)
        except errors.RecordGone:  # somebody has deleted it; so ends one that holds a video, too
            stays = False
        except errors.ServerRefused as error:
            await self._stay_refused(orphan, error)
            return
        except errors.UploaderError as error:
            await self._put_off(orphan, error)
            return
        if not stays:
            await self._drop(orphan)

    async def _is_adopted(self, orphan: Orphan) -> bool:
        return self._adopt is not None and orphan.identity is not None and await self._adopt(orphan)

    async def _put_off(self, orphan: Orphan, error: errors.UploaderError) -> None:
        """Look again later. A failure of the server pauses all calls, or a refused password would be tried again."""
        if rule_of(error).scope is FailureScope.SERVER:
            await self._breaker.trip(error)
        await self._look_later(orphan, MINUTE)

    async def _stay_refused(self, orphan: Orphan, error: errors.ServerRefused) -> None:
        """Publish once that the server refuses the call, and try daily."""
        await self._look_later(replace(orphan, refused=True), ORPHAN_WITH_VIDEO_INTERVAL)
        if not orphan.refused:
            self._bus.publish(events.OrphanNotDeleted(orphan.record, orphan.path, str(error)))

    async def _look_later(self, orphan: Orphan, after: float) -> None:
        if orphan.record in self._store.orphans:  # else the operator has dropped it meanwhile
            self._store.put_orphan(replace(orphan, next_look=self._clock.now() + after))
            await self._store.commit()

    async def _keep(self, orphan: Orphan) -> None:
        """Publish once that the operator must decide. Look daily whether that was done."""
        await self._look_later(replace(orphan, landed=True), ORPHAN_WITH_VIDEO_INTERVAL)
        if not orphan.landed:
            hint = (
                "compare it with the finished record, and delete one of the two on the server; "
                f"or, to keep both: valt-uploader forget {orphan.record}"
            )
            self._bus.publish(events.OrphanHasVideo(orphan.record, orphan.path, hint))

    async def _drop(self, orphan: Orphan) -> None:
        self._store.drop_orphan(orphan.record)
        await self._store.commit()
        self._bus.publish(events.OrphanCleared(orphan.record, orphan.path))
