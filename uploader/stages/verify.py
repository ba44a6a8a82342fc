"""Stage 5, first part: wait until the server reports the video as ready.

The server may process for ``ready_timeout`` plus a time that grows with the size of the file, and is asked ever more
rarely. Nothing is sent again because a server is slow.
"""

from __future__ import annotations

import asyncio
from typing import Final

from uploader.config import UploadConfig
from uploader.domain import errors, events, lifecycle, retry
from uploader.domain.lifecycle import Step
from uploader.domain.model import State, Upload
from uploader.runtime.monotonic_age import MonotonicAges
from uploader.server.circuit_breaker import CircuitBreaker
from uploader.server.port import RecordServer
from uploader.stages.context import StageContext
from uploader.stages.failure_handler import FailureHandler

VERIFY_CONCURRENCY: Final = 4  # records asked about at the same time
READY_STATUS: Final = "ready"
EXPECTED_STATUSES: Final = frozenset({"", "created", READY_STATUS})
# words with which a server gives up; any other means that it is still at work
FAILED_STATUSES: Final = frozenset(
    {
        "failed",
        "failure",
        "fail",
        "error",
        "errored",
        "invalid",
        "corrupt",
        "rejected",
        "aborted",
        "cancelled",
        "canceled",
    }
)
FAILED_FOR: Final = 60.0  # s for which such a word must stay; a server may try again by itself


class Verify:
    """Asks the server about each record that was sent, whenever it is due."""

    def __init__(
        self,
        context: StageContext,
        config: UploadConfig,
        valt: RecordServer,
        breaker: CircuitBreaker,
        failure_handler: FailureHandler,
    ) -> None:
        self._store, self._leases, self._queues = context.store, context.leases, context.queues
        self._clock, self._bus = context.clock, context.bus
        self._config, self._valt, self._breaker, self._failure_handler = config, valt, breaker, failure_handler
        self._ages = MonotonicAges(context.clock)
        self.last_words: dict[str, str] = {}
        """By path: the last status of each video that the server is still processing."""
        self._worded_at: dict[str, float] = {}  # by path: since when that is its status, monotonic

    async def run(self) -> None:
        """Ask until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(VERIFY_CONCURRENCY):
                group.create_task(self._ask_when_due(), name=f"verify {number}")

    async def _ask_when_due(self) -> None:
        while True:
            path = await self._queues.sent.next_due()
            await self._breaker.clear()
            await self._leases.work(path, {State.VERIFYING}, self._ask_guarded)
            upload = self._store.uploads.get(path)
            if upload is None or upload.state is not State.VERIFYING:
                self._ages.forget(path)
                self.last_words.pop(path, None)
                self._worded_at.pop(path, None)

    async def _ask_guarded(self, upload: Upload) -> None:
        await self._failure_handler.guard(upload.path, lambda: self.ask(upload))

    def _note_word(self, path: str, record: str, word: str) -> None:
        """Publish each unexpected status word once, and note since when it stands."""
        if self.last_words.get(path) == word:
            return
        self.last_words[path] = word
        self._worded_at[path] = self._clock.monotonic()
        if word not in EXPECTED_STATUSES:
            self._bus.publish(events.VideoStatus(path, record, word))

    def _pause(self, path: str, status: str | None, age: float) -> float:
        """Return the seconds until the next look: soon, if the server may have given up on the video."""
        pause = retry.poll_pause(age)
        if (status or "").casefold() not in FAILED_STATUSES:
            return pause
        return min(pause, max(1.0, self._worded_at[path] + FAILED_FOR - self._clock.monotonic()))

    def _has_failed(self, path: str, status: str | None) -> bool:
        """True when the server has given up on the video, for as long as ``FAILED_FOR``."""
        stands = self._clock.monotonic() - self._worded_at[path]
        return (status or "").casefold() in FAILED_STATUSES and stands >= FAILED_FOR

    async def ask(self, upload: Upload) -> None:
        """Look at the record once: it is ready, or is looked at again later. Raises ``UploaderError``."""
        if upload.ids is None or upload.sent_at is None:
            raise lifecycle.IllegalStep("sent, but without a record or a time")
        details = await self._valt.details(upload.ids.record)
        status = details.status_of(upload.ids.video)
        age = self._ages.of(upload.path, upload.sent_at)
        self._note_word(upload.path, details.record, status or "")
        if status == READY_STATUS:
            found = {"ready_at": self._clock.now(), "duration": details.duration}
            # Saved with the proof. Until then a restart asks again.
            upload = self._store.put(lifecycle.advance(self._store.uploads[upload.path], Step.READY, **found))
            self._bus.publish(events.VideoReady(upload.path, details.record, round(age, 1)))
            self._queues.unproven.put(upload.path)
        elif self._has_failed(upload.path, status):
            raise errors.VideoFailed(
                f"the server says {status!r} of its video; the file is kept",
                hint="look at the record on the server; delete it there to have the file sent again",
            )
        elif age < retry.ready_limit(self._config.ready_timeout, upload.identity.size):
            self._queues.sent.put(upload.path, self._pause(upload.path, status, age))
        else:
            answer = "shows no video" if status is None else f"still says {status!r}"
            raise errors.NotReadyInTime(
                f"every byte was acknowledged, but the server {answer} after {age / 60:.0f} min; the file is kept"
            )
