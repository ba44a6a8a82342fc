"""Stage 5: wait until the server says ``ready``.

Nothing else is ground for touching a local file. Must never send anything again because a server is slow: it may
process for as long as the file's size earns it, and is asked ever more rarely.
"""

from __future__ import annotations

import asyncio
from typing import Final

from uploader import events, lifecycle, retry
from uploader.ages import Ages
from uploader.clock import Clock
from uploader.config import UploadConfig
from uploader.lifecycle import Step
from uploader.model import State, Trouble, Turn, Upload
from uploader.outage import Outage
from uploader.stages import Pipes
from uploader.stages.setback import Setbacks
from uploader.store import Store
from uploader.valt import Valt

ASKERS: Final = 4  # records asked about at the same time
READY: Final = "ready"
LOOK_AT_PARKED: Final = retry.HOUR  # s between two looks at a record that was not ready in time


class Verify:
    """Asks about every record that was sent, when its time has come."""

    def __init__(
        self,
        config: UploadConfig,
        store: Store,
        valt: Valt,
        outage: Outage,
        setbacks: Setbacks,
        pipes: Pipes,
        clock: Clock,
        bus: events.Bus,
    ) -> None:
        self._config, self._store, self._valt, self._outage = config, store, valt, outage
        self._setbacks, self._pipes, self._clock, self._bus = setbacks, pipes, clock, bus
        self._ages = Ages(clock)

    async def run(self) -> None:
        """Ask until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(ASKERS):
                group.create_task(self._ask_when_due(), name=f"verify {number}")

    async def _ask_when_due(self) -> None:
        while True:
            path = await self._pipes.sent.next_due()
            await self._outage.clear()
            upload = self._store.uploads.get(path)
            if upload is not None and upload.state is State.VERIFYING and not self._store.is_paused(upload):
                await self._setbacks.guard(path, self.ask(upload))
            upload = self._store.uploads.get(path)
            if upload is None or upload.state is not State.VERIFYING:
                self._ages.forget(path)

    async def ask(self, upload: Upload) -> None:
        """Look at the record once: ready, or when to look again. Raises our errors."""
        if upload.ids is None or upload.sent_at is None:
            raise lifecycle.IllegalStep("sent, but without a record or a time")
        details = await self._valt.details(upload.ids.record)
        status = details.status_of(upload.ids.video)
        now, age = self._clock.now(), self._ages.of(upload.path, upload.sent_at)
        if status == READY:
            await self._store.save(lifecycle.advance(upload, Step.READY, ready_at=now))
            self._bus.publish(events.VideoReady(upload.path, upload.ids.record, round(age, 1)))
            self._pipes.ready.put(upload.path)
        elif age < retry.ready_patience(self._config.ready_timeout, upload.identity.size):
            self._pipes.sent.put(upload.path, retry.poll_pause(age))
        else:
            seen = "shows no video" if status is None else f"still says {status!r}"
            reason = f"every byte was acknowledged, but the server {seen} after {age / 60:.0f} min; the file is kept"
            trouble = Trouble(reason, Turn.OPERATOR, next_try=now + LOOK_AT_PARKED)
            await self._store.save(lifecycle.park(upload, trouble))
            self._bus.publish(events.UploadParked(upload.path, reason, trouble.turn))
            self._pipes.again.put(upload.path, LOOK_AT_PARKED)
