"""What the retry policy has said is carried out, the same way for every stage.

Must never decide: ``retry.decide`` has. Everything it changes is saved before the upload goes anywhere.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace

from uploader import errors, events, lifecycle, retry
from uploader.clock import Clock
from uploader.config import Config
from uploader.files import Shares
from uploader.log import get_logger
from uploader.model import Sighting, State, Trouble, Turn, Upload
from uploader.outage import Outage
from uploader.retry import Action, Next
from uploader.stages import Pipes, Seen, our_fault
from uploader.stages.enqueue import chunk_size_now, limit_now
from uploader.store import Store

log = get_logger(__name__)


class Setbacks:
    """Knows how to put an upload aside, back, or to its beginning."""

    def __init__(
        self,
        config: Config,
        shares: Shares,
        store: Store,
        pipes: Pipes,
        outage: Outage,
        clock: Clock,
        bus: events.Bus,
    ) -> None:
        self._config, self._shares, self._store, self._pipes, self._outage = config, shares, store, pipes, outage
        self._clock, self._bus = clock, bus

    async def guard(self, path: str, work: Awaitable[None]) -> None:
        """Do a stage's *work* on the upload of *path*; whatever it raises becomes that upload's setback."""
        try:
            await work
        except errors.UploaderError as error:
            await self.take(path, error)
        except Exception as error:  # a fault of ours in one file's upload must not end the others
            log.exception("fault", path=path)
            await self.crash(path, error)

    async def take(self, path: str, error: errors.UploaderError) -> None:
        """Do what follows from *error* for the upload of *path*."""
        upload = self._store.uploads.get(path)
        if upload is None or upload.state is State.PARKED:
            return  # the operator was faster
        history = retry.History(
            attempts=upload.trouble.attempts if upload.trouble else 0,
            not_ready=upload.trouble.not_ready if upload.trouble else 0,
            cuts=upload.trouble.cuts if upload.trouble else 0,
            restarts=upload.restarts,
            gone=upload.gone,
            chunk_size=upload.chunk_size,
            size=upload.identity.size,
            begun=upload.state is not State.QUEUED,
            outage=self._outage.going_on,
        )
        verdict = retry.decide(error, history, self._clock.uniform)
        if verdict.server_level:
            await self._outage.trip(error)  # whoever takes the upload up next waits for its end, early or late
        elif verdict.costs:
            await self._outage.record_failure(error)
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

    async def crash(self, path: str, error: Exception) -> None:
        """Park the upload of *path* after a fault of ours: one bad file never stops the others."""
        upload = self._store.uploads.get(path)
        if upload is not None and upload.state is not State.PARKED:
            await self._park(upload, Next(Action.PARK, Trouble(our_fault(error), Turn.OPERATOR), retry.DAY))

    def _learn(self, verdict: Next, upload: Upload) -> None:
        until = self._clock.now() + retry.LEARNT_FOR
        if verdict.whole_only:
            self._store.learn(whole_only_until=until)
        if verdict.halve_chunk and verdict.action is Action.START_OVER:
            half = max(retry.MIN_CHUNK, min(upload.chunk_size, upload.identity.size) // 2)
            known = limit_now(self._store.learnt, now=self._clock.now())  # another upload may have learnt more by now
            self._store.learn(chunk_limit=half if known is None else min(half, known), chunk_limit_until=until)

    def _with_time(self, verdict: Next) -> Trouble:
        next_try = None if verdict.after is None else self._clock.now() + verdict.after
        return replace(verdict.trouble, next_try=next_try)

    async def _try_again(self, upload: Upload, verdict: Next) -> None:
        trouble, after = self._with_time(verdict), verdict.after or 0.0
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
        fresh = replace(
            fresh,
            restarts=upload.restarts if learning else fresh.restarts,
            gone=upload.gone + verdict.gone,
            chunk_size=chunk_size_now(self._config.upload, self._store.learnt, now=now),
            trouble=self._with_time(verdict),
        )
        self._store.put_orphan(orphan)
        await self._store.save(fresh)
        old = None if orphan is None else orphan.record
        self._bus.publish(events.StartedOver(upload.path, verdict.trouble.reason, old))
        self._pipes.again.put(upload.path, verdict.after or 0.0)

    async def _resettle(self, upload: Upload, verdict: Next) -> None:
        """Forget the upload; the file settles again as it is now."""
        orphan = lifecycle.orphan_of(upload, now=self._clock.now(), settle=self._orphan_settle(upload))
        self._store.put_orphan(orphan)
        self._store.drop(upload.path)
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
        return self._config.server.doubt_settle if upload.state is State.IN_DOUBT else 0.0
