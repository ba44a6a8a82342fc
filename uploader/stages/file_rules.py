"""Answers what the configuration in force says about a file: when it is complete, its record, and its disposal.

A reload replaces ``config``. Every rule is looked up when it is applied, so a change also holds for files whose upload
has begun.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Final

from uploader.config import Config, WatchConfig
from uploader.domain import mapping, selection
from uploader.domain.completeness import CompletenessRules
from uploader.domain.model import AfterUpload, ProofRule, RecordSpec, State, Upload
from uploader.files import WalkFilter, walk_filter
from uploader.stages.queues import Settled

NOT_TAKEN: Final = "no [[watch]] takes it any more"

Override = Callable[[RecordSpec], RecordSpec]


@dataclass(frozen=True, slots=True)
class DisposalRule:
    """What is done with the local file after its upload. ``move_to``: the target folder of "move"."""

    action: AfterUpload
    move_to: str | None = None


class FileRules:
    """The configured rules, for each file."""

    def __init__(self, config: Config, named: Collection[str] = (), override: Override | None = None) -> None:
        """*named*: the paths on the command line of ``upload``; *override* applies its options to their records."""
        self.config = config
        self._named, self._override = frozenset(named), override

    def watch_of(self, root: str) -> WatchConfig:
        """Return the ``[[watch]]`` of a folder; the defaults for a folder that is not watched (``upload PATH``)."""
        found = (watch for watch in self.config.watch if str(watch.path) == root)
        return next(found, None) or WatchConfig(path=Path(root))

    def completeness(self, root: str) -> CompletenessRules:
        """Return when a file of this folder counts as complete."""
        watch = self.watch_of(root)
        return CompletenessRules(watch.settle, watch.gate, watch.gate_timeout, watch.rescan, watch.done_marker)

    def skips_duplicates(self, path: str) -> bool:
        """True when *path* is not sent if its content was sent from another path."""
        watch = selection.owner(self.config.watch, path)
        return watch is not None and watch.on_duplicate == "skip"

    def walk_filter(self, root: str) -> WalkFilter | None:
        """Return which files of a watched folder a walk takes; None when the folder is not watched."""
        watch = next((watch for watch in self.config.watch if str(watch.path) == root), None)
        return None if watch is None else walk_filter(watch, self.config.watch)

    def disposal(self, upload: Upload) -> DisposalRule:
        """Return what is done with an upload's file. A file that no ``[[watch]]`` takes any more is kept."""
        watch = selection.owner(self.config.watch, upload.where) or selection.owner(self.config.watch, upload.path)
        if watch is None:
            return DisposalRule("keep")
        return DisposalRule(watch.after_upload, None if watch.move_to is None else str(watch.move_to))

    def proof(self, upload: Upload) -> ProofRule:
        """Return what must show that an upload has arrived before its file is touched."""
        watch = selection.owner(self.config.watch, upload.where) or selection.owner(self.config.watch, upload.path)
        return self.config.upload.proof if watch is None or watch.proof is None else watch.proof

    def takes(self, path: str) -> bool:
        """True when a file is to be sent: a ``[[watch]]`` takes it, or it was named on the command line."""
        return path in self._named or selection.owner(self.config.watch, path) is not None

    def upload_of(self, settled: Settled, chunk_size: int) -> tuple[Upload, str | None]:
        """Make the upload of a settled file, and the warning when its record rule did not match."""
        by_hand = settled.path in self._named
        upload = Upload(settled.path, settled.root, settled.identity, RecordSpec(""), chunk_size, by_hand=by_hand)
        upload, warning = self.mapped(upload)
        if by_hand and self._override is not None:
            upload = replace(upload, record=self._override(upload.record))
        return upload, warning

    def mapped(self, upload: Upload) -> tuple[Upload, str | None]:
        """Return the upload with the record and the disposal that the configuration gives it now."""
        watch = selection.owner(self.config.watch, upload.path) or self.watch_of(upload.root)
        relpath = selection.relative(watch.path, upload.path) or upload.path.rsplit("/", 1)[-1]
        mapped = mapping.record_for(watch.record, relpath=relpath, mtime=upload.identity.mtime_ns / 1e9)
        move_to = None if watch.move_to is None else str(watch.move_to)
        return replace(upload, record=mapped.record, after_upload=watch.after_upload, move_to=move_to), mapped.warning

    def reconfigured(self, upload: Upload, chunk_size: int) -> Upload | None:
        """Return the upload as the configuration has it now; None when it is not to be sent any more.

        While the server knows nothing of it, everything follows the configuration: record, chunk size, and whether the
        file is sent at all. After that only the disposal of the local file does, and a smaller *chunk_size* (0: the
        whole file): a file that was parked because its requests are too large goes on in smaller ones, in its record.
        """
        if upload.moving_to is None:  # else a move has begun, and these two describe it
            rule = self.disposal(upload)
            upload = replace(upload, after_upload=rule.action, move_to=rule.move_to)
        if State.SENDING in {upload.state, upload.parked_from} and 0 < chunk_size < (upload.chunk_size or inf):
            return replace(upload, chunk_size=chunk_size)
        if State.QUEUED not in {upload.state, upload.parked_from}:
            return upload
        upload = replace(upload, chunk_size=chunk_size)
        if upload.by_hand:
            return upload
        if selection.owner(self.config.watch, upload.path) is None:
            return None
        return replace(upload, record=self.mapped(upload)[0].record)
