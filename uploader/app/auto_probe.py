"""Probes the server before it gets the first chunks, and again when what was found out is too old.

A server that takes each chunk for the whole file answers 2xx and ``ready`` all the same. So a file that needs more than
one chunk waits for the probe, once for all workers. It is never held up for long: when the probe fails, files are sent
whole, in one request, until the next try.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from uploader.config import ServerConfig
from uploader.diagnostics.probe_results import ProbeResult, apply
from uploader.diagnostics.trial import Observations, ServerTrial
from uploader.domain import events
from uploader.domain.chunk_size import chunks_work, transcodes
from uploader.domain.retry import DAY, MINUTE
from uploader.runtime.clock import Clock
from uploader.runtime.log import get_logger
from uploader.server.circuit_breaker import CircuitBreaker
from uploader.server.port import Server
from uploader.store import Store

log = get_logger(__name__)

PROBE_AGAIN_FIRST, PROBE_AGAIN_CAP = 10 * MINUTE, DAY  # s after a probe that could not find out everything; doubled
LONGEST_PROBE: Final = 3 * MINUTE  # s; then files are sent whole meanwhile


class AutoProbe:
    """Runs the probe when it is needed: see ``stages.context.AutoProbe``."""

    def __init__(
        self,
        config: ServerConfig,
        store: Store,
        valt: Server,
        breaker: CircuitBreaker,
        clock: Clock,
        bus: events.Bus,
    ) -> None:
        self._on, self._url, self._doubt_settle = config.probe == "auto", config.url, config.doubt_settle
        self._store, self._valt, self._breaker, self._clock, self._bus = store, valt, breaker, clock, bus
        self._wanted = asyncio.Event()
        self._begun_at: float | None = None  # monotonic; None: no probe is under way
        self._not_before = 0.0  # monotonic
        self._failures = 0  # probes in a row that could not find out everything
        self.records: set[str] = set()  # ids of the records of the probe that is under way: not to be deleted yet
        self.learnt: Callable[[], None] = lambda: None
        """Called when a probe has found something out. Set by the application."""

    def underway(self) -> bool:
        """True while the server is being probed, or is about to be. Begins a probe if it is needed."""
        now = self._clock.monotonic()
        if not self._on or self._is_known():
            return False
        if self._begun_at is not None:
            return now - self._begun_at < LONGEST_PROBE
        if now < self._not_before:
            return False
        self._begun_at = now
        self._wanted.set()
        return True

    def _is_known(self) -> bool:
        learnt, now = self._store.capabilities, self._clock.now()
        return chunks_work(learnt, now=now) is not None and transcodes(learnt, now=now) is not None

    async def run(self) -> None:
        """Probe whenever that is wanted until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                await self._breaker.clear()
                self._begun_at = self._clock.monotonic()
                await self._probe()
            except Exception:  # a bug in the probe must not end the daemon: files are sent whole
                log.exception("fault")
            finally:
                self._begun_at = None
                self.records.clear()
                pause = min(PROBE_AGAIN_FIRST * 2.0 ** min(self._failures, 20), PROBE_AGAIN_CAP)
                self._failures = 0 if self._is_known() else self._failures + 1
                self._not_before = self._clock.monotonic() + pause

    async def _probe(self) -> None:
        trial = ServerTrial(self._valt, self, self._clock)
        self._bus.publish(events.ServerProbeBegan(self._url))
        seen = await trial.run()
        if not seen.accepts:
            self._bus.publish(events.ServerProbeFailed(_why_not(seen)))
            return
        version = await trial.version()
        await self.save(ProbeResult(learnt=seen.learnt(version=version, now=self._clock.now())))
        self._bus.publish(events.ServerProbed(version, seen.chunks, seen.resend, seen.transcodes))
        self.learnt()

    async def save(self, result: ProbeResult) -> str | None:
        """Save a result of the probe in the state: see ``trial.ResultStore``.

        If this process is killed, the next one need not spare its records: nobody looks at them any more.
        """
        self.records |= {orphan.record for orphan in result.orphans}
        abandoned = [replace(orphan, next_look=orphan.since + self._doubt_settle) for orphan in result.orphans]
        apply(self._store, replace(result, orphans=tuple(abandoned)))
        await self._store.commit()
        return "the daemon"


def _why_not(seen: Observations) -> str:
    one = seen.one
    return str(one.error) if one.error is not None else one.why_not or "its record shows no video"
