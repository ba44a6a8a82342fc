"""Applies retry decisions (retry, park, start over, settle again) to an upload, the same way for every stage.

``retry.decide`` decides. The stage that failed holds the lease of the upload. Every change is saved before the upload
goes anywhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from uploader.config import Config
from uploader.domain import errors, events, lifecycle, retry
from uploader.domain.chunk_size import chunk_size_now, halved, limit_now
from uploader.domain.model import Sighting, State, Trouble, Turn, Upload
from uploader.domain.retry import Action, Next
from uploader.runtime.log import get_logger
from uploader.server.circuit_breaker import Outage
from uploader.stages.context import StageContext
from uploader.stages.lease import Paused
from uploader.stages.queues import Seen, our_fault
from uploader.store import Stale

log = get_logger(__name__)


class Rules(Protocol):
    """What the failure handler needs of ``FileRules``."""

    config: Config

    def reconfigured(self, upload: Upload, chunk_size: int) -> Upload | None:
        """Return the upload under the configuration in force; None when it is not to be sent any more."""


class Setbacks:
    """Handles whatever a stage's work on an upload raises."""

    def __init__(self, context: StageContext, rules: Rules, outage: Outage) -> None:
        self._shares, self._store, self._pipes = context.shares, context.store, context.pipes
        self._clock, self._bus = context.clock, context.bus
        self._rules, self._outage = rules, outage

    async def guard(self, path: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do a stage's *work* on the upload of *path*, and handle what it raises."""
        try:
            await work()
        except Paused:
            return  # ``resume`` sends it on
        except errors.UploaderError as error:
            await self.take(path, error)
        except Stale:  # it was changed between a read and a write: go on from what it is now
            log.debug("changed-meanwhile", path=path)
            self._pipes.again.put(path)
        except Exception as error:  # a bug of ours in one file's upload must not end the others
            log.exception("fault", path=path)
            await self.crash(path, error)

    async def take(self, path: str, error: errors.UploaderError) -> None:
        """Do what follows from *error* for the upload of *path*."""
        upload = self._store.uploads.get(path)
        if upload is None or upload.state is State.PARKED:
            return
        verdict = retry.decide(error, self._history(upload), self._clock.uniform)
        if verdict.server_level:
            await self._outage.trip(error)  # whoever takes the upload up next waits for its end
        elif verdict.costs:
            await self._outage.record_failure(error)
        upload = self._store.uploads[path]  # its file may have been renamed meanwhile
        self._learn(verdict, upload)
        match verdict.action:
            case Action.RESETTLE:
                await self._resettle(upload, verdict)
            case Action.PARK:
                await self._park(upload, verdict)
            case Action.START_OVER:
                await self._start_over(upload, verdict)
            case Action.TRY_AGAIN:
                await self._try_again(upload, verdict)

    def _history(self, upload: Upload) -> retry.History:
        trouble = upload.trouble
        return retry.History(
            attempts=0 if trouble is None else trouble.attempts,
            not_ready=0 if trouble is None else trouble.not_ready,
            cuts=0 if trouble is None else trouble.cuts,
            restarts=upload.restarts,
            gone=upload.gone,
            chunk_size=upload.chunk_size,
            size=upload.identity.size,
            offset=upload.offset,
            begun=upload.state is not State.QUEUED,
            outage=self._outage.going_on,
        )

    async def crash(self, path: str, error: Exception) -> None:
        """Park the upload of *path* after a bug of ours: one bad file never stops the others."""
        upload = self._store.uploads.get(path)
        if upload is not None and upload.state is not State.PARKED:
            await self._park(upload, Next(Action.PARK, Trouble(our_fault(error), Turn.OPERATOR), retry.DAY))

    def _learn(self, verdict: Next, upload: Upload) -> None:
        until = self._clock.now() + retry.LEARNT_FOR
        if verdict.whole_only:
            self._store.learn(whole_only_until=until)
        if verdict.limit_seen:
            limit = halved(upload.chunk_size, upload.identity.size)
            known = limit_now(self._store.learnt, now=self._clock.now())  # another upload may have seen a smaller one
            self._store.learn(chunk_limit=limit if known is None else min(limit, known), chunk_limit_until=until)

    def _with_time(self, verdict: Next) -> Trouble:
        next_try = None if verdict.after is None else self._clock.now() + verdict.after
        return replace(verdict.trouble, next_try=next_try)

    async def _try_again(self, upload: Upload, verdict: Next) -> None:
        trouble, after = self._with_time(verdict), verdict.after or 0.0
        if verdict.halve_chunk:
            upload = replace(upload, chunk_size=halved(upload.chunk_size, upload.identity.size))
        await self._store.save(replace(upload, trouble=trouble))
        if not verdict.server_level:  # said once, for all files, by the outage
            self._bus.publish(events.UploadWaits(upload.path, trouble.reason, round(after, 1)))
        self._pipes.again.put(upload.path, after)

    async def _park(self, upload: Upload, verdict: Next) -> None:
        trouble = self._with_time(verdict)
        await self._store.save(lifecycle.park(upload, trouble))
        self._bus.publish(events.UploadParked(upload.path, trouble.reason, trouble.turn))
        if verdict.after is not None:
            self._pipes.again.put(upload.path, verdict.after)

    async def _start_over(self, upload: Upload, verdict: Next) -> None:
        now = self._clock.now()
        fresh, orphan = lifecycle.start_over(upload, now=now, settle=self._orphan_settle(upload))
        learning = verdict.whole_only or verdict.halve_chunk  # ends by itself, and what it learns is kept
        chunk_size = chunk_size_now(self._rules.config.upload, self._store.learnt, now=now)
        fresh = replace(
            self._rules.reconfigured(fresh, chunk_size) or fresh,
            restarts=upload.restarts if learning else fresh.restarts,
            gone=upload.gone + verdict.gone,
            trouble=self._with_time(verdict),
        )
        self._store.put_orphan(orphan)
        await self._store.save(fresh)
        old = None if orphan is None else orphan.record
        self._bus.publish(events.StartedOver(upload.path, verdict.trouble.reason, old))
        self._pipes.again.put(upload.path, verdict.after or 0.0)

    async def _resettle(self, upload: Upload, verdict: Next) -> None:
        """Drop the upload; the file settles again as it is now."""
        orphan = lifecycle.orphan_of(upload, now=self._clock.now(), settle=self._orphan_settle(upload))
        self._store.put_orphan(orphan)
        self._store.drop(upload)
        await self._store.commit()
        self._bus.publish(events.FileChanged(upload.path, verdict.trouble.reason))
        await self.look_again(upload)

    async def look_again(self, upload: Upload) -> None:
        """Show the file of an upload that has ended to the settle stage: it may hold another recording by now."""
        try:
            ((_, what),) = await self._shares.of(upload.root).look([upload.where])
        except errors.ShareNotReady:
            return  # the scan finds it when the share is back
        if isinstance(what, Sighting):
            await self._pipes.seen.put(Seen(upload.root, (what,)))

    def _orphan_settle(self, upload: Upload) -> float:
        """Seconds until the record of an upload that is given up may be cleared away: only doubt has to settle."""
        return self._rules.config.server.doubt_settle if upload.state is State.IN_DOUBT else 0.0
