"""Breaks the product on purpose, one rule at a time. Each break must be found within a bounded number of worlds.

A mutant that survives is a defect of the simulation. Each one patches the product's own code, and is undone again.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from simulation import life
from simulation.client import Client
from simulation.disk import CALLS
from simulation.folder import Reading
from simulation.plan import Plan
from simulation.recordings import CALLS as DISPOSAL
from simulation.run import Found, play, simulated
from uploader.app import application
from uploader.domain import errors, lifecycle, proof
from uploader.domain.chunk_size import ChunkRule, chunks_work
from uploader.domain.lifecycle import Step
from uploader.domain.model import Orphan, ServerCapabilities, State, Upload
from uploader.domain.selection import HIDDEN_PREFIX
from uploader.files import Recording, attributes, copying, dispose, inspection, naming, set_aside
from uploader.files.set_aside import Disposer
from uploader.runtime.log import get_logger
from uploader.server.port import RecordDetails
from uploader.server.valt.watchdog import Watchdog
from uploader.stages import enqueue, failure_handler, transfer
from uploader.stages.enqueue import Enqueue, FileKind
from uploader.stages.file_check import FileCheck
from uploader.stages.finish import Finish
from uploader.stages.orphan_cleanup import OrphanCleanup
from uploader.stages.prove import Prove
from uploader.stages.records import RecordCreator
from uploader.stages.transfer import Transfer
from uploader.store import Store
from uploader.store.disk import StateFolder

APPENDER: Final = Plan(seed=0, kind="append")
MOST: Final = 2000  # worlds until a mutant counts as alive


class Patch(Protocol):
    """pytest's ``MonkeyPatch``."""

    def setattr(self, target: Any, name: str, value: Any) -> None:
        """Replace an attribute until the test is over."""


@dataclass(frozen=True)
class Mutant:
    """What is broken, how, which failures must be reported, and the worlds that are tried first."""

    name: str
    breaks: tuple[Callable[[Patch], None], ...]
    found_as: tuple[str, ...]  # one of these must be in what is said
    plan: Plan = APPENDER  # of its worlds but for the seed: some find it sooner than others
    seeds: tuple[int, ...] = ()  # known to find it, tried first; ``python -m simulation --mutants`` says which do


def hunt(mutant: Mutant, patch: Patch) -> tuple[str, Plan]:
    """Break the product and look for a world that says so: what it says, and which world it was.

    Raises ``AssertionError`` when the mutant lives. Worlds that say something else are passed over.
    """
    for breaks in mutant.breaks:
        breaks(patch)
    with simulated():
        for seed in (*mutant.seeds, *range(MOST)):
            plan = replace(mutant.plan, seed=seed)
            try:
                play(plan)
            except Found as found:
                if any(words in str(found) for words in mutant.found_as):
                    return str(found), plan
    raise AssertionError(f"{mutant.name} lives: {MOST} worlds have not found it")


def _unsaved(which: Callable[[Upload], bool]) -> Callable[[Patch], None]:
    """Let ``Store.save`` only remember some uploads."""

    def breaks(patch: Patch) -> None:
        save = Store.save

        async def mutant(self: Store, upload: Upload) -> Upload:
            return self.put(upload) if which(upload) else await save(self, upload)

        patch.setattr(Store, "save", mutant)

    return breaks


def _no_folder_fsync(patch: Patch) -> None:
    def replace_file(self: StateFolder, name: str, content: bytes) -> None:
        self._write_new(name + ".tmp", content)
        with contextlib.suppress(FileNotFoundError):
            self._keep_previous(name)
        CALLS.rename(name + ".tmp", name, src_dir_fd=self._dir, dst_dir_fd=self._dir)

    patch.setattr(StateFolder, "replace", replace_file)


def _no_file_fsync(patch: Patch) -> None:
    def write_new(self: StateFolder, name: str, content: bytes) -> None:
        with contextlib.suppress(FileNotFoundError):
            CALLS.unlink(name, dir_fd=self._dir)
        CALLS.write(CALLS.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600, dir_fd=self._dir), content)

    patch.setattr(StateFolder, "_write_new", write_new)


def _in_place(patch: Patch) -> None:
    def replace_file(self: StateFolder, name: str, content: bytes) -> None:
        fd = CALLS.open(name, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=self._dir)
        CALLS.ftruncate(fd, 0)
        CALLS.write(fd, content)
        CALLS.fsync(fd)
        CALLS.fsync(self._dir)

    patch.setattr(StateFolder, "replace", replace_file)


def _nothing_made_durable(patch: Patch) -> None:
    patch.setattr(StateFolder, "_make_durable", lambda self: None)


def _offset_before_the_answer(patch: Patch) -> None:
    save = Store.save

    async def mutant(self: Store, upload: Upload) -> Upload:
        if upload.state is not State.IN_DOUBT:
            return await save(self, upload)
        ahead = self.put(lifecycle.acknowledge(upload, now=0.0))
        await self.commit()
        return self.put(replace(upload, serial=ahead.serial, revision=ahead.revision))

    patch.setattr(Store, "save", mutant)


def _sent_again_in_doubt(patch: Patch) -> None:
    async def resolve(self: Transfer, upload: Upload) -> None:
        await self._store.save(lifecycle.advance(upload, Step.RESEND))

    patch.setattr(Transfer, "_resolve", resolve)


def _lost_answer_is_a_cut(patch: Patch) -> None:
    patch.setattr(Watchdog, "failure", lambda self, call, what: errors.ChunkCut(f"{call.label}: {what}"))


def _no_wait_in_doubt(patch: Patch) -> None:
    patch.setattr(Transfer, "_time_in_doubt", lambda self, upload: float("inf"))


def _doubt_by_the_wall_clock(patch: Patch) -> None:
    def time_in_doubt(self: Transfer, upload: Upload) -> float:
        waited = self._clock.now() - (upload.doubt_at or 0.0)
        return waited if waited >= 0 else float("inf")

    patch.setattr(Transfer, "_time_in_doubt", time_in_doubt)


def _created_is_ready(patch: Patch) -> None:
    status_of = RecordDetails.status_of

    def hasty(self: RecordDetails, video: str) -> str | None:
        return "ready" if status_of(self, video) == "created" else status_of(self, video)

    patch.setattr(RecordDetails, "status_of", hasty)


class _NoLock:
    async def __aenter__(self) -> None:
        """Do nothing."""

    async def __aexit__(self, *_: object) -> None:
        """Do nothing."""


def _everybody_logs_in(patch: Patch) -> None:
    connect = Client.__aenter__

    async def mutant(self: Client) -> Client:
        self._logging_in = _NoLock()  # type: ignore[assignment]
        return await connect(self)

    patch.setattr(Client, "__aenter__", mutant)


def _no_settle_time(patch: Patch) -> None:
    config_for = life.config_for

    def hasty(after_upload: str) -> Any:
        config = config_for(after_upload)
        return config.model_copy(update={"server": config.server.model_copy(update={"doubt_settle": 0.0})})

    patch.setattr(life, "config_for", hasty)


def _orphan_unlooked(patch: Patch) -> None:
    async def look(self: OrphanCleanup, orphan: Orphan) -> None:
        await self._store.commit()
        try:
            await self._valt.delete_record(orphan.record)
        except errors.UploaderError:
            self._store.put_orphan(replace(orphan, next_look=self._clock.now() + 60.0))
        else:
            self._store.drop_orphan(orphan.record)
        await self._store.commit()

    patch.setattr(OrphanCleanup, "look", look)


def _orphan_unsaved(patch: Patch) -> None:
    look = OrphanCleanup.look

    async def mutant(self: OrphanCleanup, orphan: Orphan) -> None:
        class Hasty:
            def __getattr__(self, name: str) -> Any:
                return getattr(store, name)

            async def commit(self) -> None:
                """Return without saving."""

        store, self._store = self._store, Hasty()  # type: ignore[assignment]
        try:
            await look(self, orphan)
        finally:
            self._store = store

    patch.setattr(OrphanCleanup, "look", mutant)


def _every_empty_record_is_own(patch: Patch) -> None:
    patch.setattr(RecordCreator, "_may_be_own", lambda self, row, upload: True)


def _token_in_the_log(patch: Patch) -> None:
    exchange, log = Client._exchange, get_logger("uploader.server.valt.client")

    async def mutant(self: Client, method: str, url: Any, *how: Any, **request: Any) -> Any:
        log.debug("call", method=method, url=str(url))
        return await exchange(self, method, url, *how, **request)

    patch.setattr(Client, "_exchange", mutant)


def _named_once_per_file(patch: Patch) -> None:
    name, named = RecordCreator.name, set[str]()

    async def mutant(self: RecordCreator, upload: Upload) -> None:
        if upload.path not in named:
            named.add(upload.path)
            await name(self, upload)

    patch.setattr(RecordCreator, "name", mutant)


def _nameless_not_searched(patch: Patch) -> None:
    find = Client.find_records

    async def mutant(self: Client, name: str, *, since: float | None = None) -> Any:
        return await find(self, name, since=since) if name else ()

    patch.setattr(Client, "find_records", mutant)


def _removed_before_the_ledger(patch: Patch) -> None:
    async def finish(self: Finish, upload: Upload) -> None:
        rule = await self._disposal(upload)
        await self._dispose(upload.path, rule)
        await self._write_line(upload.path, rule.action)
        self._store.drop(self._store.uploads[upload.path])
        await self._store.commit()

    patch.setattr(Finish, "finish", finish)


def _beginning_not_proved(patch: Patch) -> None:
    skip_to = Recording.skip_to

    async def mutant(self: Recording, offset: int, digest: str) -> None:
        del digest
        self.rewind()
        async for _ in self.blocks(offset):
            pass

    assert skip_to is not mutant
    patch.setattr(Recording, "skip_to", mutant)


def _change_unnoticed(patch: Patch) -> None:
    async def unchanged(self: Any, *_: Any) -> None:
        """Detect no change."""

    patch.setattr(Reading, "check_unchanged", unchanged)
    patch.setattr(FileCheck, "_check_in_place", unchanged)


def _any_file_is_removed(patch: Patch) -> None:
    def still_there(root: int, relpath: str, *_: Any) -> Any:
        with contextlib.suppress(OSError):
            return inspection.snapshot(root, relpath)
        return None

    patch.setattr(dispose, "_still_there", still_there)


def _intent_forgotten(patch: Patch) -> None:
    admit = Enqueue.admit

    async def mutant(self: Enqueue, settled: Any) -> None:
        upload = self._store.upload_at(settled.path)
        if upload is not None and upload.parked_from is State.CREATING and upload.identity != settled.identity:
            self._store.drop(upload)
            await self._store.commit()
            await self._enqueue_new(settled)
        else:
            await admit(self, settled)

    assert FileKind.UNCLEAR
    patch.setattr(Enqueue, "admit", mutant)


def _wall_clock_believed(patch: Patch) -> None:
    def server_now(self: Client) -> float:
        return self._clock.now() + (0.0 if self._time._ahead is None else self._time._ahead - self._time._apart)

    patch.setattr(Client, "server_now", server_now)
    patch.setattr(Client, "agree_on_time", Client.login_if_needed)


def _copies_share_a_name(patch: Patch) -> None:
    def copy(source: int, folder: int, wanted: str, sha256: str, disposer: Disposer) -> str:
        name = f"{HIDDEN_PREFIX}shared.part"
        with contextlib.suppress(FileNotFoundError):
            DISPOSAL.unlink(name, dir_fd=folder)
        fd = DISPOSAL.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, dir_fd=folder)
        copying._fill(source, fd, sha256, disposer)
        return naming.reveal(folder, name, wanted, naming.by_claim)

    patch.setattr(copying, "_copy_by_hidden_name", copy)


def _copy_not_synced(patch: Patch) -> None:
    def fill(source: int, fd: int, sha256: str, disposer: Disposer) -> None:
        del sha256, disposer
        copying._write_all(fd, DISPOSAL.pread(source, 1 << 20, 0))
        attributes.copy_attributes(source, fd)

    patch.setattr(copying, "_fill", fill)


def _archive_not_synced(patch: Patch) -> None:
    patch.setattr(dispose, "sync_folder", lambda folder: None)


def _removal_not_synced(patch: Patch) -> None:
    patch.setattr(set_aside, "_sync", lambda folder: None)


def _put_back_overwrites(patch: Patch) -> None:
    def reveal(folder: int, hidden: str, wanted: str, *_: Any, source: int) -> str:
        DISPOSAL.rename(hidden, wanted, src_dir_fd=source, dst_dir_fd=folder)
        return wanted

    patch.setattr(set_aside, "reveal", reveal)


def _set_aside_and_forgotten(patch: Patch) -> None:
    patch.setattr(set_aside, "left_of", lambda *_: ())
    patch.setattr(set_aside, "is_left_over", lambda *_: False)


def _removed_by_name(patch: Patch) -> None:
    def remove(folder: int, name: str, *_: Any) -> None:
        DISPOSAL.unlink(name, dir_fd=folder)
        naming.sync_folder(folder)

    patch.setattr(set_aside, "remove", remove)


def _ready_is_enough(patch: Patch) -> None:
    async def prove(self: Prove, upload: Upload) -> None:
        await self._proven(upload.path, "ready")

    patch.setattr(Prove, "prove", prove)


def _size_not_asked(patch: Patch) -> None:
    patch.setattr(proof, "_by_size", lambda evidence: proof.Proven("size"))


def _duration_not_compared(patch: Patch) -> None:
    patch.setattr(proof, "durations_agree", lambda recorded, shown: True)


def _spoilt_removed_first(patch: Patch) -> None:
    start_over = lifecycle.start_over

    def mutant(upload: Upload, *, now: float, settle: float, spoilt: bool = False) -> tuple[Upload, Orphan | None]:
        fresh, orphan = start_over(upload, now=now, settle=settle, spoilt=spoilt)
        if spoilt:
            (orphan,) = lifecycle.spoilt_orphans(replace(upload, spoilt=fresh.spoilt[-1:]), now=now, replaced=True)
        return replace(fresh, spoilt=()), orphan

    patch.setattr(lifecycle, "start_over", mutant)


def _chunks_before_they_were_seen_to_work(patch: Patch) -> None:
    def chunk_size_now(config: ChunkRule, capabilities: ServerCapabilities, *, now: float) -> int:
        if chunks_work(capabilities, now=now) is False:
            return 0
        return config.chunk_size

    for module in (application, enqueue, failure_handler, transfer):
        patch.setattr(module, "chunk_size_now", chunk_size_now)


MOVER: Final = Plan(seed=0, kind="append", after_upload="move", disks="two links")
SPOILER: Final = Plan(seed=0, kind="double", after_upload="delete")
DELETER: Final = Plan(seed=0, kind="append", after_upload="delete", disks="one noreplace")

MUTANTS: Final = (
    Mutant("the folder is not synced after a save", (_no_folder_fsync,), ("I6:", "I4:", "I5:")),
    Mutant("a save is not synced before it gets its name", (_no_file_fsync,), ("I6:",)),
    Mutant("the state is rewritten in place", (_in_place,), ("I6:",), seeds=(108,)),
    Mutant("what a start finds is not made durable", (_nothing_made_durable,), ("I4:", "I5:", "I6:"), seeds=(1078,)),
    Mutant(
        "the intent is not saved before the call", (_unsaved(lambda upload: upload.state is State.CREATING),), ("I4:",)
    ),
    Mutant(
        "the ids are not saved before the first chunk",
        (_unsaved(lambda upload: upload.state is State.SENDING and upload.offset == 0),),
        ("I4:",),
    ),
    Mutant(
        "the mark is not saved before the last byte",
        (_unsaved(lambda upload: upload.state is State.IN_DOUBT),),
        ("I4:",),
    ),
    Mutant("the offset is saved before the answer", (_offset_before_the_answer,), ("I4:",)),
    Mutant("a chunk in doubt is sent again", (_sent_again_in_doubt,), ("I2:",)),
    Mutant("a lost answer counts as a cut", (_lost_answer_is_a_cut,), ("I2:", "I13:", "I1:", "I5:")),
    Mutant("a doubt is resolved before its settle time", (_no_wait_in_doubt,), ("I1:", "I13:"), seeds=(33,)),
    Mutant(
        "a doubt is timed by the wall clock",
        (_doubt_by_the_wall_clock,),
        ("I1:",),
        plan=Plan(0, "whole", faults=0.5, cuts=True, clock=1.0, only=("jump",)),
        seeds=(393,),
    ),
    Mutant("nothing is given time to settle", (_no_settle_time,), ("I1:", "I13:")),
    Mutant("a file is removed before its video is ready", (_created_is_ready,), ("I5:",)),
    Mutant("a file is removed before its line in the ledger", (_removed_before_the_ledger,), ("I5:",)),
    Mutant(
        "a file is removed although it has changed",
        (_any_file_is_removed,),
        ("I5:",),
        plan=Plan(0, "append", only=("rewrite", "replace")),
    ),
    Mutant("each task logs in by itself", (_everybody_logs_in,), ("I8:",)),
    Mutant("an orphan is deleted without a look", (_no_settle_time, _orphan_unlooked), ("holds a video",), seeds=(94,)),
    Mutant(
        "an orphan is deleted before it is saved as one",
        (_orphan_unsaved,),
        ("not saved as an orphan",),
        plan=Plan(0, "append", disk=0.3, only=("rewrite", "replace")),
        seeds=(18,),
    ),
    Mutant("every empty record of the name is taken for the product's own", (_every_empty_record_is_own,), ("I13:",)),
    Mutant("a token is in a log line", (_token_in_the_log,), ("I7:",)),
    Mutant(
        "a record that starts over gets no name",
        (_named_once_per_file,),
        ("has no name",),
        plan=Plan(0, "append", create="get"),
    ),
    Mutant(
        "a record without a name is not looked for after a lost answer",
        (_nameless_not_searched,),
        ("I13:",),
        plan=Plan(0, create="get"),
    ),
    Mutant(
        "the beginning is not compared before an upload resumes",
        (_beginning_not_proved,),
        ("I1:", "I14:"),
        plan=Plan(0, disk=0.0, after_upload="keep"),
        seeds=(19,),
    ),
    Mutant("a change while sending is not noticed", (_change_unnoticed,), ("I1:", "I14:", "I5:"), seeds=(194,)),
    Mutant(
        "an intent is forgotten when its file changes",
        (_intent_forgotten,),
        ("I13:",),
        plan=Plan(0, "append", faults=0.6, only=("rewrite", "replace")),
        seeds=(14,),
    ),
    Mutant(
        "the server's clock is computed from the machine's wall clock",
        (_wall_clock_believed,),
        ("I13:",),
        plan=Plan(0, "append", only=("jump",)),
        seeds=(539,),
    ),
    Mutant("copies share a temporary name", (_copies_share_a_name,), ("I5:", "I23:"), plan=MOVER, seeds=(160,)),
    Mutant("a copy is not synced before its source goes", (_copy_not_synced,), ("no copy in the archive",), plan=MOVER),
    Mutant("the archive is not synced before the source goes", (_archive_not_synced,), ("no copy in",), plan=MOVER),
    Mutant("a removal is not synced before it counts", (_removal_not_synced,), ("is there again",), plan=DELETER),
    Mutant("what is put back overwrites", (_put_back_overwrites,), ("I23:",), plan=DELETER, seeds=(243,)),
    Mutant("what a crash left set aside is forgotten", (_set_aside_and_forgotten,), ("I24:", "I11:"), plan=DELETER),
    Mutant("a file is removed by its name, unchecked", (_removed_by_name,), ("no ready record holds",), plan=DELETER),
    Mutant("ready is enough", (_ready_is_enough,), ("no ready record holds",), plan=SPOILER, seeds=(1,)),
    Mutant("the size is not asked", (_size_not_asked,), ("no ready record holds",), plan=SPOILER, seeds=(1,)),
    Mutant(
        "durations are not compared",
        (_duration_not_compared,),
        ("no ready record holds",),
        plan=replace(SPOILER, kind="transcoding"),
        seeds=(10,),
    ),
    Mutant(
        "a spoilt record is removed first",
        (_spoilt_removed_first,),
        ("I27:",),
        plan=replace(SPOILER, kind="last"),
        seeds=(0,),
    ),
    Mutant(
        "chunks before they were seen to work",
        (_chunks_before_they_were_seen_to_work,),
        ("I26:",),
        plan=replace(SPOILER, kind="short"),
        seeds=(8,),
    ),
)
