"""A share that ignores case, as Windows does: each file has one name, the listed one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Rig
from parts import CHUNK, at, content_of, sha256

from uploader.domain import events

DATA = content_of(4 * CHUNK)


def _caseless(real: Callable[..., Any]) -> Callable[..., Any]:
    """Let a call find a name in the folder of a handle in whatever case it is asked for."""

    def call(name: Any, *rest: Any, **more: Any) -> Any:
        folder = more.get("dir_fd", more.get("src_dir_fd"))
        if folder is not None and isinstance(name, str):
            with os.scandir(folder) as entries:
                names = [entry.name for entry in entries]
            same = [known for known in names if known.casefold() == name.casefold()]
            name = name if name in names or not same else same[0]
        return real(name, *rest, **more)

    return call


@pytest.fixture(autouse=True)
def _caseless_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every folder is of that kind."""
    for call in ("open", "stat", "rename", "unlink"):
        monkeypatch.setattr(os, call, _caseless(getattr(os, call)))


async def test_name_that_changes_in_case_alone_while_it_is_sent_is_followed(tmp_path: Path) -> None:
    """The old name still leads to the file: there is one record, and a ledger line under the new name."""
    async with Rig(tmp_path) as rig:
        stall = rig.fault("upload", "stall", skip=1)
        await rig.start()
        path = await rig.drop("lecture.mp4", DATA)
        await rig.until(stall.standing.is_set)
        new = at(path).rename(rig.watch / "Lecture.MP4")
        await rig.scan()
        await rig.event(events.FileRenamed, path=str(new), before=path)
        stall.release()
        await rig.event(events.UploadFinished)
        await rig.scan()
        await rig.finished(await rig.drop("other.mp4", b"other"))
        assert [record.sha256 for record in rig.records] == [sha256(DATA), sha256(b"other")]
        assert [known.record for known in rig.store.ledger.of(str(new))] == [rig.records[0].id]


async def test_a_hard_link_is_not_taken_for_a_change_of_case(tmp_path: Path) -> None:
    """It is sent under its own name as well."""
    async with Rig(tmp_path) as rig:
        stall = rig.fault("upload", "stall", skip=1)
        await rig.start()
        path = await rig.drop("a.mp4", DATA)
        await rig.until(stall.standing.is_set)
        os.link(path, rig.watch / "b.mp4")
        await rig.scan()
        stall.release()
        await rig.finished(path, str(rig.watch / "b.mp4"))
        assert len(rig.records) == 2
