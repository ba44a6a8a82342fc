"""Applies retry decisions (try again, park, start over, settle again) to an upload. All stages use it.

``retry.decide`` makes the decision. The stage that failed still holds the lease of the upload. Every change is saved
before the upload is put on another queue.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol

from uploader.config import Config
from uploader.domain import errors, events, learnt, lifecycle, retry
from uploader.domain.causes import Causes
from uploader.domain.chunk_size import chunk_size_now, chunks_work, halved, limit_now
from uploader.domain.commands import typed
from uploader.domain.model import ActionBy, LastError, ServerCapabilities, Sighting, State, Upload
from uploader.domain.retry import Action, Decision
from uploader.runtime.log import get_logger
from uploader.server.circuit_breaker import CircuitBreaker
from uploader.server.file_faults import CallKind, FileFaults, OwnFailure, kind_of, may_be_own
from uploader.stages.context import StageContext
from uploader.stages.lease import Paused
from uploader.stages.queues import SightingBatch, bug_reason
from uploader.store import Stale

log = get_logger(__name__)


class FailureRules(Protocol):
    """What the failure handler needs of ``FileRules``."""

    config: Config

    def reconfigured(self, upload: Upload, chunk_size: int) -> Upload | None:
        """Return the upload under the configuration in force; None when it is not to be sent any more."""


class FailureHandler:
    """Handles the exceptions of a stage's work on an upload."""

    def __init__(self, context: StageContext, rules: FailureRules, breaker: CircuitBreaker) -> None:
        self._shares, self._store, self._queues = context.shares, context.store, context.queues
        self._clock, self._bus = context.clock, context.bus
        self._rules, self._breaker = rules, breaker
        self._file_faults, self._causes, self._changes = FileFaults(), Causes(), context.changes

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Learn from the events what has succeeded for each file, while the context lasts."""
        stop = self._bus.listen(self._hear)
        try:
            yield
        finally:
            stop()

    def _hear(self, event: events.Event) -> None:
        match event:
            case events.RecordCreated(path=path) | events.RecordAdopted(path=path):
                self._file_faults.succeeded(path, CallKind.RECORD)
            case events.ChunkAcknowledged(path=path):
                self._file_faults.succeeded(path, CallKind.CHUNK)
            case events.DoubtResolved(path=path) | events.VideoReady(path=path):
                self._file_faults.succeeded(path, CallKind.ASK)
            case events.UploadSent(path=path) | events.UploadForgotten(path=path):
                self._causes.forget(path)
                self._changes.forget(path)

    async def guard(self, path: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do a stage's *work* on the upload of *path*, and handle what it raises."""
        began = self._store.uploads.get(path)
        try:
            await work()
            await self._went_well(path, None if began is None else began.state)
        except Paused:
            return  # the ``resume`` command lets it go on
        except errors.UploaderError as error:
            await self.handle(path, error)
        except Stale:  # it was changed between a read and a write: go on with its current value
            log.debug("changed-meanwhile", path=path)
            self._queues.again.put(path)
        except Exception as error:  # a bug with one upload must not end the others
            log.exception("fault", path=path)
            await self.handle_bug(path, error)

    async def _went_well(self, path: str, began: State | None) -> None:
        """Note that the server was asked about a record, and has answered."""
        if began is not State.VERIFYING:
            return  # other work makes calls of several kinds, or none: its events say which have succeeded
        self._file_faults.succeeded(path, CallKind.ASK)
        upload = self._store.uploads.get(path)
        if upload is not None and upload.state is began and upload.last_error is not None:
            await self._store.save(replace(upload, last_error=None))  # the record is there after all

    async def handle(self, path: str, error: errors.UploaderError) -> None:
        """Do what follows from *error* for the upload of *path*."""
        upload = self._store.uploads.get(path)
        if upload is None or upload.state is State.PARKED:
            return
        own = self._own_failure(upload, error)
        self._causes.note(path, error)
        decision = retry.decide(error, self._history(upload, own), self._clock.uniform)
        if decision.server_level:
            await self._breaker.trip(error)  # the next worker waits until it closes
        elif decision.costs:
            await self._breaker.record_failure(error)
        upload = self._store.uploads[path]  # its file may have been renamed meanwhile
        self._note_capabilities(decision, upload)
        match decision.action:
            case Action.RESETTLE:
                await self._resettle(upload, decision)
            case Action.PARK:
                await self._park(upload, decision)
            case Action.START_OVER:
                await self._start_over(upload, decision)
            case Action.TRY_AGAIN:
                await self._try_again(upload, decision)

    def _own_failure(self, upload: Upload, error: errors.UploaderError) -> OwnFailure:
        """Find out whether a failure of the server concerns this file only."""
        if not may_be_own(error):
            return OwnFailure()
        own = self._file_faults.failed(upload.path, kind_of(upload.state))
        if own.times:
            self._breaker.set_aside()
        return own

    def _history(self, upload: Upload, own: OwnFailure) -> retry.FailureHistory:
        last_error = upload.last_error
        return retry.FailureHistory(
            attempts=0 if last_error is None else last_error.attempts,
            not_ready=0 if last_error is None else last_error.not_ready,
            cuts=0 if last_error is None else last_error.cuts,
            restarts=upload.restarts,
            gone=upload.gone,
            chunk_size=upload.chunk_size,
            size=upload.identity.size,
            offset=upload.offset,
            chunks_work=chunks_work(self._store.capabilities, now=self._clock.now()) is True,
            requests=upload.chunks,
            begun=upload.state is not State.QUEUED,
            outage=self._breaker.going_on,
            own_failures=own.times,
            others_answered=own.others_answered and not self._breaker.going_on,
            asked=upload.state is not State.SENDING,
            sent=upload.identity.size in {upload.offset, upload.doubt_end},
            gone_looks=0 if last_error is None else last_error.gone_looks,
            send_again=last_error is not None and last_error.send_again,
            cause=self._causes.of(upload.path),
        )

    async def handle_bug(self, path: str, error: Exception) -> None:
        """Park the upload of *path* after a bug, so that one file does not stop the others."""
        upload = self._store.uploads.get(path)
        if upload is not None and upload.state is not State.PARKED:
            await self._park(upload, Decision(Action.PARK, LastError(bug_reason(error), ActionBy.OPERATOR), retry.DAY))

    def _note_capabilities(self, decision: Decision, upload: Upload) -> None:
        until = self._clock.now() + retry.CAPABILITIES_VALID_FOR
        known_before = self._store.capabilities
        if decision.whole_only:
            self._store.learn(whole_only_until=until, chunks=False)
        if decision.limit_seen:
            limit = halved(upload.chunk_size, upload.identity.size)
            # another upload may have seen a smaller one
            known = limit_now(self._store.capabilities, now=self._clock.now())
            self._store.learn(chunk_limit=limit if known is None else min(limit, known), chunk_limit_until=until)
        self._publish_limits(known_before)

    def _publish_limits(self, before: ServerCapabilities) -> None:
        """Publish what was learnt just now. A limit that was known, and is only valid longer now, is not."""
        now, learnt_now = self._clock.now(), self._store.capabilities
        if limit_now(before, now=now) == limit_now(learnt_now, now=now):
            learnt_now = replace(learnt_now, chunk_limit=None)
        learnt_now = replace(learnt_now, nameless_until=None)  # published when it was learnt
        if (before.whole_only_until or 0.0) > now:
            learnt_now = replace(learnt_now, whole_only_until=None)
        for limit in learnt.limits(learnt_now, now=now):
            self._bus.publish(events.ServerLimitLearnt(limit))

    def _with_time(self, decision: Decision) -> LastError:
        next_try = None if decision.after is None else self._clock.now() + decision.after
        return replace(decision.last_error, next_try=next_try)

    async def _try_again(self, upload: Upload, decision: Decision) -> None:
        last_error, after = self._with_time(decision), decision.after or 0.0
        if decision.halve_chunk:
            upload = replace(upload, chunk_size=halved(upload.chunk_size, upload.identity.size))
        await self._store.save(replace(upload, last_error=last_error))
        if not decision.server_level:  # the outage is published once, for all files
            self._bus.publish(events.UploadRetryScheduled(upload.path, last_error.reason, round(after, 1)))
        self._queues.again.put(upload.path, after)

    async def _park(self, upload: Upload, decision: Decision) -> None:
        last_error = self._with_time(decision)
        await self._store.save(lifecycle.park(upload, last_error))
        command = typed("retry", upload.path)
        self._bus.publish(events.UploadParked(upload.path, last_error.reason, last_error.action_by, command))
        if decision.after is not None:
            self._queues.again.put(upload.path, decision.after)

    async def _start_over(self, upload: Upload, decision: Decision) -> None:
        now = self._clock.now()
        settle = self._orphan_settle(upload)
        fresh, orphan = lifecycle.start_over(upload, now=now, settle=settle, spoilt=decision.spoilt)
        learning = decision.whole_only or decision.halve_chunk  # not counted as a restart: it ends by itself
        chunk_size = chunk_size_now(self._rules.config.upload, self._store.capabilities, now=now)
        fresh = replace(
            self._rules.reconfigured(fresh, chunk_size) or fresh,
            restarts=upload.restarts if learning else fresh.restarts,
            gone=upload.gone + decision.gone,
            last_error=self._with_time(decision),
        )
        self._store.put_orphan(orphan)
        await self._store.save(fresh)
        old = None if upload.ids is None else upload.ids.record
        self._bus.publish(events.UploadStartedOver(upload.path, decision.last_error.reason, old))
        self._queues.again.put(upload.path, decision.after or 0.0)

    async def _resettle(self, upload: Upload, decision: Decision) -> None:
        """Drop the upload; the file settles again as it is now. What was given up is counted."""
        self._changes.note(upload.where, upload.restarts + (upload.ids is not None))
        orphan = lifecycle.orphan_of(upload, now=self._clock.now(), settle=self._orphan_settle(upload))
        self._store.put_orphan(orphan)
        self._store.drop(upload)
        await self._store.commit()
        self._bus.publish(events.FileChangedWhileSending(upload.path, decision.last_error.reason))
        await self.look_again(upload)

    async def look_again(self, upload: Upload) -> None:
        """Pass the file of an upload that has ended to the settle stage: it may be another recording now."""
        try:
            ((_, what),) = await self._shares.of(upload.root).look([upload.where])
        except errors.ShareNotReady:
            return  # the scan finds it when the share is back
        if isinstance(what, Sighting):
            await self._queues.sightings.put(SightingBatch(upload.root, (what,)))

    def _orphan_settle(self, upload: Upload) -> float:
        """Return the seconds until the record of a dropped upload may be deleted; 0 unless a request is in doubt."""
        return self._rules.config.server.doubt_settle if upload.state is State.IN_DOUBT else 0.0
