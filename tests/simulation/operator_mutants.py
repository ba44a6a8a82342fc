"""Puts back, one by one, the faults of an earlier version in which an upload had no single owner."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final, TypeVar

from simulation.mutants import Mutant, Patch
from simulation.plan import Plan
from uploader.domain import lifecycle
from uploader.domain.model import Orphan, State, Upload
from uploader.stages.file_rules import DisposalRule, FileRules
from uploader.stages.lease import Leases
from uploader.stages.queues import Job
from uploader.stages.transfer import Outcome, Transfer
from uploader.store import uploads
from uploader.store.uploads import UploadTable

R = TypeVar("R")

BUSY: Final = Plan(0, "append", operator=True)
QUIET: Final = Plan(0, "append", kills=(), faults=0.0, actions=False, disk=0.0, variety=False, workers=1)


def _no_lease(patch: Patch) -> None:
    async def work(
        self: Leases, path: str, states: Collection[State], act: Callable[[Upload], Awaitable[R]]
    ) -> R | None:
        upload = self._store.uploads.get(path)
        if upload is None or upload.state not in states or self._store.is_paused(upload):
            return None
        return await act(upload)

    patch.setattr(Leases, "work", work)


def _nobody_is_stopped(patch: Patch) -> None:
    @asynccontextmanager
    async def revoke(self: Leases, upload: Upload) -> AsyncIterator[Upload | None]:
        yield self._store.table.current(upload)

    patch.setattr(Leases, "revoke", revoke)


def _stale_writes_are_taken(patch: Patch) -> None:
    put, drop = UploadTable.put, UploadTable.drop

    def blind_put(self: UploadTable, upload: Upload) -> Upload:
        before = self.all.get(upload.path)
        return put(self, replace(upload, revision=0 if before is None else before.revision))

    def blind_drop(self: UploadTable, upload: Upload) -> None:
        if (before := self.all.get(upload.path)) is not None:
            drop(self, before)

    patch.setattr(UploadTable, "put", blind_put)
    patch.setattr(UploadTable, "drop", blind_drop)


def _queued_keeps_its_rule(patch: Patch) -> None:
    def reconfigured(self: FileRules, upload: Upload, chunk_size: int) -> Upload:
        del chunk_size
        return upload

    patch.setattr(FileRules, "reconfigured", reconfigured)


def _disposal_of_yesterday(patch: Patch) -> None:
    def disposal(self: FileRules, upload: Upload) -> DisposalRule:
        return DisposalRule(upload.after_upload, upload.move_to)

    patch.setattr(FileRules, "disposal", disposal)


def _aside_for_ever(patch: Patch) -> None:
    do, aside = Transfer._do, "_ever_aside"

    async def mutant(self: Transfer, job: Job) -> Any:
        stood = self.__dict__.setdefault(aside, set())
        outcome = await do(self, job)
        if outcome is Outcome.STEPPED_ASIDE:
            stood.add(job.path)
        elif outcome is Outcome.LEFT:
            stood.discard(job.path)
        return Outcome.STEPPED_ASIDE if job.path in stood else outcome

    patch.setattr(Transfer, "_do", mutant)


def _only_the_first_name(patch: Patch) -> None:
    patch.setattr(UploadTable, "at", lambda self, name: self.all.get(name))


def _spoilt_not_remembered(patch: Patch) -> None:
    worth_saving = uploads.worth_saving
    patch.setattr(uploads, "worth_saving", lambda upload: worth_saving(replace(upload, spoilt=())))


def _spoilt_of_forgotten_removed(patch: Patch) -> None:
    spoilt_orphans = lifecycle.spoilt_orphans

    def mutant(upload: Upload, *, now: float, replaced: bool) -> tuple[Orphan, ...]:
        del replaced
        return spoilt_orphans(upload, now=now, replaced=True)

    patch.setattr(lifecycle, "spoilt_orphans", mutant)


MUTANTS: Final = (
    Mutant("an upload has no lease", (_no_lease,), ("I21:", "I16:", "I3:"), plan=BUSY, seeds=(10,)),
    Mutant("a stale write is taken", (_nobody_is_stopped, _stale_writes_are_taken), ("I16:",), plan=BUSY, seeds=(678,)),
    Mutant("a queued file keeps its old rule", (_queued_keeps_its_rule,), ("I19:",), plan=BUSY),
    Mutant(
        "what becomes of a file was decided when it was queued",
        (_queued_keeps_its_rule, _disposal_of_yesterday),
        ("I18:",),
        plan=BUSY,
    ),
    Mutant(
        "an upload that stood aside is queued for ever",
        (_aside_for_ever,),
        ("in circles",),
        plan=replace(QUIET, commands=((150, "forget", "/rec/a.mp4"),)),  # while the small file is sent
    ),
    Mutant(
        "spoilt records of a queued upload are not saved",
        (_spoilt_not_remembered,),
        ("I27:",),
        plan=replace(BUSY, kind="last"),
        seeds=(1121,),
    ),
    Mutant(
        "spoilt records of a forgotten upload are removed",
        (_spoilt_of_forgotten_removed,),
        ("I27:",),
        plan=replace(BUSY, kind="last"),
        seeds=(4,),
    ),
    Mutant(
        "a renamed file is known by its first name alone", (_only_the_first_name,), ("I20:",), plan=BUSY, seeds=(160,)
    ),
)
