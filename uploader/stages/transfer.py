"""Stage 4: create the record, send chunk after chunk, save what was acknowledged.

A worker takes one upload from its saved state to the state in which every byte is acknowledged, step by step along
``lifecycle.TABLE``. It saves what it is about to do before it does it. It has one request in flight for each record,
and never sends an acknowledged byte again. After an error the upload waits in a queue, and the worker is free. A large
upload steps aside between two chunks when a small one waits, so no worker is reserved for small files.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, Protocol

from uploader.bandwidth import UploadThrottle
from uploader.config import Config, ServerConfig
from uploader.domain import errors, events, lifecycle
from uploader.domain.chunk_size import chunk_size_now, chunks_work, grown, transcodes
from uploader.domain.lifecycle import Step
from uploader.domain.model import RecordIds, State, Upload
from uploader.domain.retry import READY_POLL_FIRST, poll_pause, ready_limit
from uploader.files import Bookmark, Recording
from uploader.runtime.monotonic_age import MonotonicAges
from uploader.server.capabilities import CapabilityTracker
from uploader.server.circuit_breaker import CircuitBreaker
from uploader.server.port import RecordServer
from uploader.stages.context import PROBE_POLL, AutoProbe, StageContext
from uploader.stages.failure_handler import FailureHandler
from uploader.stages.file_check import FileCheck
from uploader.stages.file_rules import NOT_TAKEN
from uploader.stages.lease import raise_if_paused
from uploader.stages.queues import Job
from uploader.stages.records import RECEIVED_STATUSES, RecordCreator

TRANSFER_STATES: Final = frozenset({State.QUEUED, State.CREATING, State.SENDING, State.IN_DOUBT})


class TransferRules(Protocol):
    """What the stage needs of ``FileRules``."""

    config: Config

    def reconfigured(self, upload: Upload, chunk_size: int) -> Upload | None:
        """Return the upload under the configuration in force; None when it is not to be sent any more."""


class Outcome(Enum):
    """How the work of a worker on an upload ended."""

    LEFT = "left"  # the upload left this stage, waits for its next try, or is parked
    STEPPED_ASIDE = "stepped-aside"  # a small file goes first; then this upload goes on


@dataclass(slots=True)
class _Memory:
    """What is kept in memory about an upload between two workers. Without it more is read, but nothing goes wrong."""

    bookmark: Bookmark | None = None  # position in the file, so that it need not be read again
    resent_at: int | None = None  # offset of a chunk in doubt that is sent again; a refusal is not about its range
    aside: bool = False  # it has stepped aside for a small file
    good: int = 0  # chunks of the current size acknowledged in a row
    named: str = ""  # the record that has its name, or cannot have one
    looked: bool = False  # after its first chunk the record showed no video, as it should


class Transfer:
    """Sends uploads; each worker is one call of ``work``."""

    def __init__(
        self,
        context: StageContext,
        server: ServerConfig,
        valt: RecordServer,
        breaker: CircuitBreaker,
        failure_handler: FailureHandler,
        throttles: Callable[[str], UploadThrottle],
        rules: TransferRules,
        auto_probe: AutoProbe,
    ) -> None:
        """*throttles* makes the throttle of a chunk, by its watched folder, whose bandwidth limit it keeps to."""
        self._shares, self._store, self._leases = context.shares, context.store, context.leases
        self._queues, self._clock, self._bus = context.queues, context.clock, context.bus
        self._server, self._valt, self._breaker, self._failure_handler, self._throttles = (
            server,
            valt,
            breaker,
            failure_handler,
            throttles,
        )
        self._rules, self._auto_probe = rules, auto_probe
        self._capabilities = CapabilityTracker(server, context.store, valt, context.clock, context.bus)
        self._stopping = asyncio.Event()
        self._memories: dict[str, _Memory] = {}  # by path, of the uploads that are in this stage
        self._doubts = MonotonicAges(context.clock)
        self._file_check = FileCheck(context.shares, context.bus, context.changes)
        self._records = RecordCreator(context, server.username, server.doubt_settle, valt, self._capabilities)
        self.active = 0
        """Number of workers that are busy with an upload."""

    async def work(self) -> None:
        """Run one worker: take job after job until ``stop``."""
        small: Job | None = None
        while not self._stopping.is_set():
            job = small or await self._queues.jobs.get()
            await self._breaker.clear()  # an outage may have begun while we waited for a job
            outcome = await self._do(job)
            small = None
            if outcome is Outcome.STEPPED_ASIDE:
                small = self._queues.jobs.take_small()
                self._queues.jobs.put_nowait(job)

    async def _do(self, job: Job) -> Outcome | None:
        """Work on the upload of a job until it ends or steps aside. None when it was not begun or was taken away."""
        self.active += 1
        try:
            return await self._leases.work(job.path, TRANSFER_STATES, self._drive_guarded)
        finally:
            self.active -= 1
            upload = self._store.uploads.get(job.path)
            if upload is None or upload.state not in TRANSFER_STATES:
                self._memories.pop(job.path, None)
                self._doubts.forget(job.path)
                self._records.forget(job.path)

    def stop(self) -> None:
        """Begin nothing more. Chunks that are in flight may end."""
        self._stopping.set()

    async def _drive_guarded(self, upload: Upload) -> Outcome:
        """Call ``drive``, and let the failure handler handle what it raises."""
        outcome = Outcome.LEFT

        async def drive() -> None:
            nonlocal outcome
            outcome = await self.drive(upload.path)

        await self._failure_handler.guard(upload.path, drive)
        return outcome

    async def drive(self, path: str) -> Outcome:
        """Advance an upload, state by state, until it leaves this stage or steps aside. Raises ``UploaderError``."""
        memory = self._memories.setdefault(path, _Memory())
        was_aside, memory.aside = memory.aside, False
        async with AsyncExitStack() as stack:
            recording: Recording | None = None
            while not self._stopping.is_set():
                upload = self._store.uploads.get(path)
                if upload is None or upload.state not in TRANSFER_STATES or self._store.is_paused(upload):
                    break
                if upload.forgotten and upload.state is not State.CREATING:
                    await self._drop_forgotten(upload)
                    break
                if upload.state is State.QUEUED and not await self._may_begin(upload):
                    break
                if upload.state is State.CREATING:
                    await self._records.find(upload)
                elif upload.state is State.IN_DOUBT:
                    await self._resolve(upload)
                else:
                    if recording is None:
                        recording = await self._open(upload, stack)
                    if upload.state is State.QUEUED:
                        await self._records.create(path, self._is_as_configured)
                    else:
                        await self._send(upload, recording, announce=not was_aside)
                        if self._steps_aside(path):
                            memory.bookmark, memory.aside = recording.bookmark(), True
                            return Outcome.STEPPED_ASIDE
        return Outcome.LEFT

    async def _may_begin(self, upload: Upload) -> bool:
        """Apply the configuration in force. False when the file must not be sent, or not yet."""
        if self._waits_for_probe(upload):
            self._queues.again.put(upload.path, PROBE_POLL)
            return False
        return await self._take_configuration(upload)

    async def _open(self, upload: Upload, stack: AsyncExitStack) -> Recording:
        """Open the file of an upload, until *stack* ends. The ids of its record are saved then."""
        if upload.state is State.SENDING:
            await self._store.commit()  # a reload may have cancelled that save
        recording = await stack.enter_async_context(self._shares.of(upload.root).open(upload.where, upload.identity))
        if upload.state is State.QUEUED and recording.mtime_ns != upload.identity.mtime_ns:
            upload = await self._file_check.before_first_byte(upload, recording)
        current = self._store.table.current(upload)
        if current is not None and (current.identity, current.inode) != (upload.identity, recording.inode):
            self._store.put(replace(current, identity=upload.identity, inode=recording.inode))
        return recording

    async def _take_configuration(self, upload: Upload) -> bool:
        """Apply the configuration in force before a record is created. False when the file is not to be sent."""
        current = self._rules.reconfigured(upload, self._normal_chunk_size())
        if current is None:
            self._store.drop(upload)
            await self._store.commit()
            self._bus.publish(events.FileIgnored(upload.path, NOT_TAKEN))
        elif current != upload:
            self._store.put(current)
        return current is not None

    def _waits_for_probe(self, upload: Upload) -> bool:
        """True when the file needs several chunks, and the server is being probed for whether it takes them."""
        chunk_size = self._rules.config.upload.chunk_size
        if chunk_size == 0 or upload.identity.size <= chunk_size:
            return False
        known = chunks_work(self._store.capabilities, now=self._clock.now()) is not None
        return not known and self._auto_probe.underway()

    def _is_as_configured(self, upload: Upload) -> bool:
        return self._rules.reconfigured(upload, self._normal_chunk_size()) == upload

    def _normal_chunk_size(self) -> int:
        return chunk_size_now(self._rules.config.upload, self._store.capabilities, now=self._clock.now())

    async def _drop_forgotten(self, upload: Upload) -> None:
        """Drop an upload after ``forget``, once it is known whether its record was created."""
        self._store.put_orphan(lifecycle.orphan_of(upload, now=self._clock.now(), settle=0.0))
        self._store.drop(upload)
        await self._store.commit()

    def _steps_aside(self, path: str) -> bool:
        """True when a small file waits and more than one chunk of this one is left."""
        upload = self._store.uploads.get(path)
        if upload is None or upload.state is not State.SENDING or lifecycle.chunk_end(upload) == upload.identity.size:
            return False
        return self._queues.jobs.small_waits

    async def _resolve(self, upload: Upload) -> None:
        """Find out what became of the chunk in doubt before anything else is sent (rule 4)."""
        ids = _ids(upload)
        details = await self._valt.details(ids.record)
        arrived = details.status_of(ids.video) is not None
        raise_if_paused(self._store, upload.path)
        waited = self._time_in_doubt(upload)
        if arrived and upload.doubt_end == upload.identity.size:
            await self._acknowledge(upload.path)
            self._bus.publish(events.DoubtResolved(upload.path, ids.record, "the last chunk had landed"))
        elif not arrived and await self._capabilities.resend_is_safe():
            self._memories[upload.path].resent_at = upload.offset
            await self._store.save(lifecycle.advance(self._store.uploads[upload.path], Step.RESEND))
            self._bus.publish(events.DoubtResolved(upload.path, ids.record, "sent again: that is safe here"))
        elif (rest := self._doubt_limit(upload) - waited) > 0:
            what = "it is not known yet what became of its last request"
            raise errors.StillInDoubt(what, wait=min(rest, max(self._server.doubt_settle - waited, poll_pause(waited))))
        else:
            raise errors.RecordSpoilt("this server does not show what became of a chunk")

    def _doubt_limit(self, upload: Upload) -> float:
        """Return the seconds for which a chunk may be in doubt.

        After the last chunk the server puts the file together, which may take as long as processing. A record that was
        given up before that lands after all, beside its replacement.
        """
        if upload.doubt_end != upload.identity.size:
            return self._server.doubt_settle
        return max(
            self._server.doubt_settle, ready_limit(self._rules.config.upload.ready_timeout, upload.identity.size)
        )

    def _time_in_doubt(self, upload: Upload) -> float:
        """Return the seconds for which the answer has been missing, by the monotonic clock."""
        return self._doubts.of(upload.path, upload.doubt_at or 0.0)

    async def _send(self, upload: Upload, recording: Recording, *, announce: bool) -> None:
        """Send the next chunk. When the token has expired, log in once and send the chunk again."""
        if upload.offset == 0 and self._memories[upload.path].named != _ids(upload).record:
            raise_if_paused(self._store, upload.path)
            await self._records.name(upload)  # before the first chunk, so after any crash, too
            raise_if_paused(self._store, upload.path)
            self._memories[upload.path].named = _ids(upload).record
        if upload.chunks == 1 and not self._memories[upload.path].looked:
            await self._check_assembles(upload)
        if recording.position != upload.offset:
            await self._go_to_offset(upload, recording)
            if announce:
                ids, size = _ids(upload), upload.identity.size
                self._bus.publish(events.UploadResumed(upload.path, ids.record, upload.offset, size))
        self._memories[upload.path].bookmark = start = recording.bookmark()
        try:
            await self._send_chunk(upload, recording)
        except errors.TokenExpired:
            recording.return_to(start)
            try:
                await self._send_chunk(raise_if_paused(self._store, upload.path), recording)
            except errors.TokenExpired as error:
                what = f"{error.what}, right after a good log-in"
                raise errors.RightMissing(what, hint="does this user have the right to upload?") from None

    async def _check_assembles(self, upload: Upload) -> None:
        """Look at the record after the first of several chunks. Raises ``ArrivedSpoilt`` if it shows a video already.

        Such a server takes each chunk for the whole file. This finds it before the second chunk is sent, also if the
        server has changed since it was probed.
        """
        ids = _ids(upload)
        raise_if_paused(self._store, upload.path)
        details = await self._valt.details(ids.record)
        raise_if_paused(self._store, upload.path)
        if details.status_of(ids.video) in RECEIVED_STATUSES:
            raise errors.ArrivedSpoilt(
                "this server takes each chunk for the whole file: it shows a video after the first"
            )
        self._memories[upload.path].looked = True

    async def _go_to_offset(self, upload: Upload, recording: Recording) -> None:
        """Go to the offset of the upload: by the bookmark if the file is still the same, else by reading up to it."""
        mark = self._memories[upload.path].bookmark
        acknowledged = upload.offset, upload.digest
        if mark is not None and (mark.position, mark.hash.hexdigest()) == acknowledged and recording.is_as_at(mark):
            recording.return_to(mark)
        else:
            await recording.skip_to(upload.offset, upload.digest)

    async def _send_chunk(self, upload: Upload, recording: Recording) -> None:
        path, size, ids, end = upload.path, upload.identity.size, _ids(upload), lifecycle.chunk_end(upload)
        position, memory = upload.offset, self._memories[upload.path]

        def progress(count: int) -> None:
            nonlocal position
            position += count
            self._bus.publish(events.BytesSent(path, position, size))

        async def before_last_byte() -> None:
            await self._file_check.before_last_byte(self._store.uploads[path], recording, last=end == size)
            doubt = {"doubt_end": end, "doubt_digest": recording.digest, "doubt_at": self._clock.now()}
            if end == size:  # all of it was compared, so this is the time of the content that was sent
                doubt["identity"] = replace(upload.identity, mtime_ns=recording.mtime_ns)
            doubt["inode"] = recording.inode
            await self._store.save(lifecycle.advance(self._store.uploads[path], Step.LAST_BYTE, **doubt))

        try:
            held = await self._valt.send_chunk(
                ids,
                path,  # as it was found, even if the file was renamed since: it must be the same for all chunks
                (upload.offset, end, size),
                recording,
                before_last_byte=before_last_byte,
                on_progress=progress,
                throttle=self._throttles(upload.root),
            )
        except errors.AnswerLost as error:
            self._doubt_begins(path)
            self._bus.publish(events.UploadInDoubt(path, ids.record, str(error)))
            raise
        except errors.UploaderError as error:
            memory.good = 0
            await self._not_taken(path)
            if isinstance(error, errors.ChunkRefused) and memory.resent_at == upload.offset:
                raise errors.RecordSpoilt(f"a chunk that was sent again: {error.what}") from None
            raise
        finally:
            memory.resent_at = None
        if held is not None and held != end:
            raise errors.RecordSpoilt(f"the server says it holds {held} bytes where {end} were sent")
        await recording.confirm()
        await self._acknowledge(path, await self._recorded(self._store.uploads[path]) if end == size else 0.0)

    def _doubt_begins(self, path: str) -> None:
        """Count ``doubt_settle`` from now, when the request has ended. The failure handler saves it."""
        upload = self._store.uploads[path]
        if upload.state is State.IN_DOUBT:
            upload = self._store.put(replace(upload, doubt_at=self._clock.now()))
            self._time_in_doubt(upload)  # called so that the monotonic clock counts from now; the result is not used

    async def _not_taken(self, path: str) -> None:
        """Go back from IN_DOUBT to SENDING: the chunk was refused, or the server never saw all of it."""
        upload = self._store.uploads[path]
        if upload.state is State.IN_DOUBT:
            await self._store.save(lifecycle.advance(upload, Step.REFUSED))

    async def _recorded(self, upload: Upload) -> float:
        """Return the length of a file in seconds, if it is needed as evidence. Later it may be another file."""
        if not transcodes(self._store.capabilities, now=self._clock.now()):
            return 0.0
        try:
            return await self._shares.of(upload.root).duration(upload.where, upload.identity) or 0.0
        except errors.ShareNotReady:
            return 0.0  # asked again when it is needed

    async def _acknowledge(self, path: str, recorded: float = 0.0) -> None:
        """Save that the chunk in doubt has arrived. After the last chunk, pass the upload to the verify stage."""
        upload = lifecycle.acknowledge(self._store.uploads[path], now=self._clock.now())
        upload = replace(upload, recorded=recorded)
        memory = self._memories[path]
        memory.good += 1
        chunk_size = grown(upload.chunk_size, self._normal_chunk_size(), memory.good)
        if chunk_size != upload.chunk_size:
            upload, memory.good = replace(upload, chunk_size=chunk_size), 0
        upload = await self._store.save(upload)
        size = upload.identity.size
        self._bus.publish(events.ChunkAcknowledged(upload.path, upload.offset, size))
        if upload.state is State.VERIFYING:
            ids = _ids(upload)
            self._bus.publish(events.UploadSent(upload.path, ids.record, size, upload.chunks, upload.digest))
            self._queues.sent.put(upload.path, READY_POLL_FIRST)


def _ids(upload: Upload) -> RecordIds:
    if upload.ids is None:
        raise lifecycle.IllegalStep(f"an upload that is {upload.state} has no record")
    return upload.ids
