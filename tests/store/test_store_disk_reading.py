"""Reading from the state folder: a regular file, or a part of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from uploader.domain import errors
from uploader.store.disk import StateFolder


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StateFolder]:
    """A locked state folder."""
    folder = StateFolder(tmp_path / "state")
    yield folder
    folder.close()


def test_a_part_of_a_file_is_read_whole(folder: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even when the system returns single bytes; it is shorter only at the end of the file."""
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: pread(fd, min(length, 1), offset))
    folder.append("ledger", b"0123456789")
    assert folder.size("ledger") == 10
    assert folder.read_at("ledger", 3, 4) == b"3456"
    assert folder.read_at("ledger", 8, 4) == b"89"
    assert folder.read_at("ledger", 10, 4) == b""
    assert folder.read("ledger") == b"0123456789"
    assert folder.where("ledger") == str(folder.folder / "ledger")


def test_a_file_that_is_not_there_has_no_size_and_no_bytes(folder: StateFolder) -> None:
    """It is no error, as at the first start."""
    assert folder.size("ledger") is None
    assert folder.read("ledger") is None
    assert folder.read_at("ledger", 0, 10) == b""


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_only_a_regular_file_is_read(folder: StateFolder, make: Callable[[Path], None]) -> None:
    """A FIFO would look empty, and an empty ledger would send everything again; it is not waited for."""
    make(folder.folder / "ledger")
    for read in (folder.read, folder.size, lambda name: folder.read_at(name, 0, 1)):
        with pytest.raises(errors.StateUnusable, match="ledger cannot be read: it is not a regular file") as caught:
            read("ledger")
        assert caught.value.exit_code == 78


def test_reading_leaves_no_handle_open(folder: StateFolder) -> None:
    """Whether it succeeds or not."""
    folder.append("ledger", b"line")
    (folder.folder / "fifo").mkdir()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in ("ledger", "missing", "fifo"):
        with contextlib.suppress(errors.StateUnusable):
            folder.read_at(name, 0, 4)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
