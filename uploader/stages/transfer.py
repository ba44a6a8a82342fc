"""Stage 4: create the record, send chunk after chunk, save what was acknowledged.

A worker drives one upload from where it stands towards *every byte acknowledged*; ``lifecycle.TABLE`` is its map.
Must never act before the save that announces the act has returned, have two requests for one record in flight, or
send a byte again that was acknowledged. What it cannot solve at once it hands back with a time: waiting holds no
worker. A large file holds one no longer than a chunk takes while a small one waits: it steps aside, the small one goes,
and then it is its turn again. No worker is kept free for small files: it would stand idle while the link has room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Final
from weakref import WeakValueDictionary

from uploader import errors, events, lifecycle
from uploader.ages import Ages
from uploader.bandwidth import Lane
from uploader.clock import Clock
from uploader.config import ServerConfig
from uploader.files import Bookmark, Recording, Shares
from uploader.lifecycle import Step
from uploader.model import Orphan, RecordIds, Sighting, State, Upload, shown
from uploader.outage import Outage
from uploader.retry import POLL_FIRST
from uploader.stages import Job, Pipes
from uploader.stages.setback import Setbacks
from uploader.store import Store
from uploader.valt import RecordDetails, RecordListed, Valt
from uploader.valt.wire import multipart_filename
from uploader.ways import Ways

CLOCK_GRAIN: Final = 2.0  # s; a Date header and ``created`` are both whole seconds
LANDED: Final = frozenset({"created", "ready"})
NAME_PAUSE: Final = 1.0  # s, at least, until a record is made whose name is that of one in doubt
HERE: Final = (State.QUEUED, State.CREATING, State.SENDING, State.IN_DOUBT)


class Transfer:
    """The pool of workers."""

    def __init__(
        self,
        server: ServerConfig,
        shares: Shares,
        store: Store,
        valt: Valt,
        outage: Outage,
        setbacks: Setbacks,
        lanes: Callable[[str], Lane],
        pipes: Pipes,
        clock: Clock,
        bus: events.Bus,
    ) -> None:
        """*lanes*: who says how fast the files of a watched folder may go."""
        self._server, self._shares, self._store, self._valt, self._outage = server, shares, store, valt, outage
        self._lanes = lanes
        self._setbacks, self._pipes, self._clock, self._bus = setbacks, pipes, clock, bus
        self._ways = Ways(server, store, valt, clock, bus)
        self._stopping = asyncio.Event()
        self._resent: dict[str, int] = {}  # where a chunk was sent again: a no to it is no word about ranges
        self._active: dict[str, asyncio.Task[None]] = {}
        self._missed: dict[str, Job] = {}  # came back to the queue while a worker was still putting it aside
        self._aside: set[str] = set()  # have stepped aside for a small one
        self._marks: dict[str, Bookmark] = {}  # where each that is not sent yet stood, so that it is not read again
        self._doubts = Ages(clock)
        # One record of a name is made at a time, so that after a crash it can only be one upload's (rule 6).
        self._names: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def active(self) -> tuple[str, ...]:
        """Paths that a worker is busy with."""
        return tuple(self._active)

    async def work(self) -> None:
        """Take job after job until ``stop``; one worker."""
        small: Job | None = None
        while not self._stopping.is_set():
            job = small or await self._pipes.jobs.get()
            await self._outage.clear()  # an outage may have begun while we waited for a job
            await self._do(job)
            small = None
            if job.path in self._aside:
                small = self._pipes.jobs.take_small()
                self._pipes.jobs.put_nowait(job)

    async def _do(self, job: Job) -> None:
        """Drive the upload of one job as far as it goes, in a task of its own that can be taken away from it."""
        upload = self._store.uploads.get(job.path)
        waits = upload is not None and upload.trouble is not None and upload.trouble.next_try is not None
        if upload is None or upload.state not in HERE or waits:
            return  # it has moved on since it was queued
        if job.path in self._active:
            self._missed[job.path] = job
            return
        self._active[job.path] = asyncio.ensure_future(self._setbacks.guard(job.path, self.drive(job.path)))
        try:
            await asyncio.shield(self._active[job.path])
        except asyncio.CancelledError:
            task = self._active[job.path]
            if not task.cancelled():  # this worker was cancelled, not the upload alone
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                raise
        finally:
            del self._active[job.path]
            if job.path not in self._store.uploads:
                self._doubts.forget(job.path)
            if missed := self._missed.pop(job.path, None):
                self._pipes.jobs.put_nowait(missed)

    def stop(self) -> None:
        """Begin nothing more; chunks that are in flight may end."""
        self._stopping.set()

    async def let_go(self, path: str) -> None:
        """Stop working on *path* and return when nobody does: the operator takes it away."""
        if task := self._active.get(path):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def drive(self, path: str) -> None:
        """Bring one upload forward, state by state, until it has left this stage. Raises our errors."""
        was_aside = path in self._aside
        self._aside.discard(path)
        async with AsyncExitStack() as stack:
            recording: Recording | None = None
            while not self._stopping.is_set():
                upload = self._store.uploads.get(path)
                if upload is not None and self._store.is_paused(upload):
                    return
                if upload is None or upload.state not in HERE:
                    self._marks.pop(path, None)
                    return
                if upload.state is State.CREATING:
                    await self._find_record(upload)
                elif upload.state is State.IN_DOUBT:
                    await self._resolve(upload)
                else:
                    if recording is None:
                        share = self._shares.of(upload.root)
                        recording = await stack.enter_async_context(share.open(upload.where, upload.identity))
                    if upload.state is State.QUEUED:
                        await self._begin(upload)
                    else:
                        await self._send(upload, recording, tell=not was_aside)
                        if self._steps_aside(path):
                            self._marks[path] = recording.bookmark()
                            return

    def _steps_aside(self, path: str) -> bool:
        """True when a small file waits, and more than one chunk of this one is left."""
        upload = self._store.uploads.get(path)
        if upload is None or upload.state is not State.SENDING or lifecycle.chunk_end(upload) == upload.identity.size:
            return False
        if self._pipes.jobs.small_waits:
            self._aside.add(path)
        return path in self._aside

    async def _begin(self, upload: Upload) -> None:
        """Save the intent, make the record, save its ids."""
        async with self._names.setdefault(upload.record.name, asyncio.Lock()):
            if self._namesake_in_doubt(upload):
                what = "whether the record of another file of the same name was made is not known yet"
                raise errors.StillInDoubt(what, wait=max(NAME_PAUSE, self._server.doubt_settle))
            await self._valt.agree_on_time()  # the intent is timed by the server's clock
            await self._ways.look()
            now = self._clock.now()
            intent = {"intent_at": self._valt.server_now(), "begun_at": upload.begun_at or now}
            upload = await self._store.save(lifecycle.advance(upload, Step.INTEND, **intent))
            try:
                ids = await self._valt.create_record(upload.record)
            except errors.AnswerLost as error:
                self._bus.publish(events.UploadInDoubt(upload.path, "", str(error)))
                raise
            except errors.UploaderError:
                await self._store.save(lifecycle.advance(upload, Step.NOT_CREATED))
                raise
            await self._store.save(lifecycle.advance(upload, Step.CREATED, ids=ids))
            self._bus.publish(events.RecordCreated(upload.path, ids.record, ids.video))

    def _namesake_in_doubt(self, upload: Upload) -> bool:
        """True while a record of this name may exist that is another upload's: the two could not be told apart."""
        others = (other for other in self._store.begun.values() if other.state is State.CREATING)
        return any(other.record.name == upload.record.name and other.path != upload.path for other in others)

    async def _find_record(self, upload: Upload) -> None:
        """Find out whether the record of a saved intent exists (rule 6)."""
        found = await self._empty_records(upload)
        asked_for = self._valt.server_now() - (upload.intent_at or 0.0)
        if not found and -CLOCK_GRAIN <= asked_for < self._server.doubt_settle:
            wait = self._server.doubt_settle - asked_for
            raise errors.StillInDoubt("whether its record was made is not known yet", wait=wait)
        record = found[0] if len(found) == 1 else None
        if record is not None and record.videos is not None:  # it names its video
            ids = RecordIds(record.record, next(iter(record.videos)))
            await self._store.save(lifecycle.advance(upload, Step.CREATED, ids=ids))
            self._bus.publish(events.RecordAdopted(upload.path, record.record))
            return
        outcome = f"{len(found)} records may be it: left alone" if found else "no record was made"
        if record is not None:
            # Ours and empty, but its video's id was in the answer that was lost: it can only be cleared away.
            now = self._clock.now()
            self._store.put_orphan(Orphan(record.record, record.name, upload.path, since=now, next_look=now))
            outcome = f"record {record.record} was made; its video is not known, so it is cleared away"
        await self._store.save(lifecycle.advance(upload, Step.NOT_CREATED))
        self._bus.publish(events.DoubtResolved(upload.path, "", outcome))

    async def _empty_records(self, upload: Upload) -> list[RecordDetails]:
        """Look at every record that may be this upload's: those in which nothing has landed."""
        empty = []
        for row in await self._valt.find_records(upload.record.name):
            if self._may_be_ours(row, upload):
                with suppress(errors.RecordGone):
                    details = await self._valt.details(row.record)
                    statuses = None if details.videos is None else list(details.videos.values())
                    if statuses is None or (len(statuses) == 1 and statuses[0] not in LANDED):
                        empty.append(details)
        return empty

    def _may_be_ours(self, row: RecordListed, upload: Upload) -> bool:
        taken = {other.ids.record for other in self._store.begun.values() if other.ids is not None}
        return (
            row.author == self._server.username
            and row.created >= (upload.intent_at or 0.0) - CLOCK_GRAIN
            and row.record not in taken
            and row.record not in self._store.orphans
        )

    async def _resolve(self, upload: Upload) -> None:
        """Ask what became of the chunk whose answer is not known, before anything else (rule 4)."""
        ids = _ids(upload)
        details = await self._valt.details(ids.record)
        landed = details.status_of(ids.video) is not None
        waited = self._time_in_doubt(upload)
        if landed and upload.doubt_end == upload.identity.size:
            await self._acknowledge(upload)
            self._bus.publish(events.DoubtResolved(upload.path, ids.record, "the last chunk had landed"))
        elif not landed and await self._ways.resend_is_safe():
            self._resent[upload.path] = upload.offset
            await self._store.save(lifecycle.advance(upload, Step.RESEND))
            self._bus.publish(events.DoubtResolved(upload.path, ids.record, "sent again: that is safe here"))
        elif waited < self._server.doubt_settle:
            what = "what became of its last request is not known yet"
            raise errors.StillInDoubt(what, wait=self._server.doubt_settle - waited)
        else:
            raise errors.RecordSpoilt("what became of a chunk cannot be learnt from this server")

    def _time_in_doubt(self, upload: Upload) -> float:
        """Seconds that the answer has been missing."""
        return self._doubts.of(upload.path, upload.doubt_at or 0.0)

    async def _send(self, upload: Upload, recording: Recording, *, tell: bool) -> None:
        """Send the next chunk; a token that has expired is replaced once, and the chunk sent again."""
        if recording.position != upload.offset:
            await self._go_to_offset(upload, recording)
            if tell:
                ids, size = _ids(upload), upload.identity.size
                self._bus.publish(events.UploadResumed(upload.path, ids.record, upload.offset, size))
        self._marks[upload.path] = start = recording.bookmark()
        try:
            await self._send_chunk(upload, recording)
        except errors.TokenExpired:
            recording.return_to(start)
            try:
                await self._send_chunk(self._store.uploads[upload.path], recording)
            except errors.TokenExpired as error:
                what = f"{error.what}, right after a good log-in"
                raise errors.RightMissing(what, hint="does this user have the right to upload?") from None

    async def _go_to_offset(self, upload: Upload, recording: Recording) -> None:
        """Go to where the upload stands: by what we know from before if the file is still the same, else by reading."""
        mark = self._marks.get(upload.path)
        stands = upload.offset, upload.digest
        if mark is not None and (mark.position, mark.hash.hexdigest()) == stands and recording.is_as_at(mark):
            recording.return_to(mark)
        else:
            await recording.skip_to(upload.offset, upload.digest)

    async def _send_chunk(self, upload: Upload, recording: Recording) -> None:
        path, size, ids, end = upload.path, upload.identity.size, _ids(upload), lifecycle.chunk_end(upload)
        position = upload.offset

        def progress(count: int) -> None:
            nonlocal position
            position += count
            self._bus.publish(events.BytesSent(path, position, size))

        async def before_last_byte() -> None:
            await recording.check_unchanged()
            await self._check_in_place(self._store.uploads[path])
            doubt = {"doubt_end": end, "doubt_digest": recording.digest, "doubt_at": self._clock.now()}
            doubt["inode"] = recording.inode
            await self._store.save(lifecycle.advance(self._store.uploads[path], Step.LAST_BYTE, **doubt))

        try:
            held = await self._valt.send_chunk(
                ids,
                multipart_filename(path),  # also if it has another name by now: it is constant over all chunks
                (upload.offset, end, size),
                recording,
                before_last_byte=before_last_byte,
                on_progress=progress,
                lane=self._lanes(upload.root),
            )
        except errors.AnswerLost as error:
            self._doubt_begins(path)
            self._bus.publish(events.UploadInDoubt(path, ids.record, str(error)))
            raise
        except errors.UploaderError as error:
            await self._not_taken(path)
            if isinstance(error, errors.ChunkRefused) and self._resent.get(path) == upload.offset:
                raise errors.RecordSpoilt(f"a chunk that was sent again: {error.what}") from None
            raise
        finally:
            self._resent.pop(path, None)
        if held is not None and held != end:
            raise errors.RecordSpoilt(f"the server says it holds {held} bytes where {end} were sent")
        await recording.confirm()
        await self._acknowledge(self._store.uploads[path])

    def _doubt_begins(self, path: str) -> None:
        """Count the doubt's settle time from now: the request was alive until we gave it up. Saved by the setback."""
        upload = self._store.uploads[path]
        if upload.state is State.IN_DOUBT:
            self._time_in_doubt(self._store.put(replace(upload, doubt_at=self._clock.now())))

    async def _not_taken(self, path: str) -> None:
        """Note that a chunk was plainly refused, or not seen at all: nothing is in doubt."""
        upload = self._store.uploads[path]
        if upload.state is State.IN_DOUBT:
            await self._store.save(lifecycle.advance(upload, Step.REFUSED))

    async def _acknowledge(self, upload: Upload) -> None:
        upload = await self._store.save(lifecycle.acknowledge(upload, now=self._clock.now()))
        size = upload.identity.size
        self._bus.publish(events.ChunkAcknowledged(upload.path, upload.offset, size))
        if upload.state is State.VERIFYING:
            ids = _ids(upload)
            self._bus.publish(events.UploadSent(upload.path, ids.record, size, upload.chunks, upload.digest))
            self._pipes.sent.put(upload.path, POLL_FIRST)

    async def _check_in_place(self, upload: Upload) -> None:
        """Raise ``FileChanged`` when another file has taken the name of the one that is being sent.

        One that is merely gone is sent to its end all the same: the open file may be all that is left of it.
        """
        ((_, seen),) = await self._shares.of(upload.root).look([upload.where])
        known = upload.identity.size, upload.identity.mtime_ns
        if isinstance(seen, Sighting) and (seen.size, seen.mtime_ns) != known:
            raise errors.FileChanged(f"{shown(upload.where)} was replaced while it was being sent")


def _ids(upload: Upload) -> RecordIds:
    if upload.ids is None:
        raise lifecycle.IllegalStep(f"an upload that is {upload.state} has no record")
    return upload.ids
