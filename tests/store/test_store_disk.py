"""The state folder on a real file system: when what is durable, and which process may use it."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from uploader.domain import errors
from uploader.store.disk import StateFolder

NAME = "state.json"
NOBODY = 65534


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[StateFolder]:
    """A locked state folder."""
    folder = StateFolder(tmp_path / "state")
    yield folder
    folder.close()


class Recorder:
    """Notes what is done to a folder, in order; ``fail_at`` names the step that fails, counted from 1."""

    OPERATIONS = ("open", "write", "fsync", "link", "rename", "unlink", "ftruncate")

    def __init__(self, watched: Path) -> None:
        self.steps: list[str] = []
        self.missing: list[str] = []  # steps after which the watched name was not there
        self.fail_at = 0
        self._watched = watched

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Stand between the code and the operating system."""
        for name in self.OPERATIONS:
            patch.setattr(os, name, self._wrapped(name, getattr(os, name)))

    def _wrapped(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(first: Any, *rest: Any, **more: Any) -> Any:
            what = Path(f"/proc/self/fd/{first}").readlink().name if isinstance(first, int) else str(first)
            second = f" {rest[0]}" if name in {"link", "rename"} else ""
            self.steps.append(f"{name} {what}{second}")
            if len(self.steps) == self.fail_at:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            try:
                return real(first, *rest, **more)
            finally:
                if not self._watched.exists():
                    self.missing.append(self.steps[-1])

        return operation


@pytest.fixture
def recorder(folder: StateFolder) -> Iterator[Recorder]:
    """A recorder of what is done to the folder from here on; the state has been saved twice before."""
    folder.replace(NAME, b"first")
    folder.replace(NAME, b"second")
    recorder = Recorder(folder.folder / NAME)
    with pytest.MonkeyPatch.context() as patch:
        recorder.install(patch)
        yield recorder


def names(folder: StateFolder) -> set[str]:
    """What is in the folder, but for the lock."""
    return {path.name for path in folder.folder.iterdir()} - {"lock"}


def test_a_replaced_file_is_kept_as_the_previous_generation(folder: StateFolder) -> None:
    """The newest two saves are there, whole, and no other file."""
    assert folder.read(NAME) is None
    for content in (b"first", b"second", b"third"):
        folder.replace(NAME, content)
        assert folder.read(NAME) == content
    assert folder.read(NAME + ".1") == b"second"
    assert names(folder) == {NAME, NAME + ".1"}


def test_a_save_is_durable_before_it_has_its_name(folder: StateFolder, recorder: Recorder) -> None:
    """First the content, then the name, then the folder: this order survives a power cut."""
    folder.replace(NAME, b"third")
    assert [step for step in recorder.steps if not step.startswith(("open", "write"))] == [
        "unlink state.json.tmp",
        "fsync state.json.tmp",
        "unlink state.json.1.tmp",
        "link state.json state.json.1.tmp",
        "rename state.json.1.tmp state.json.1",
        "rename state.json.tmp state.json",
        "fsync state",
    ]
    assert recorder.steps.index("write state.json.tmp") < recorder.steps.index("fsync state.json.tmp")


def test_a_whole_file_is_under_the_name_after_each_step(folder: StateFolder, recorder: Recorder) -> None:
    """Whenever a crash comes."""
    folder.replace(NAME, b"third")
    assert recorder.missing == []


@pytest.mark.parametrize("step", range(1, 10))
def test_a_disk_that_fails_at_any_step_leaves_a_whole_state(folder: StateFolder, recorder: Recorder, step: int) -> None:
    """The previous save or this one, never a mix; and the next save succeeds."""
    recorder.fail_at = step
    with pytest.raises(OSError, match="Input/output error"):
        folder.replace(NAME, b"third")
    recorder.fail_at = 0
    assert folder.read(NAME) in ({b"second"} if step < 9 else {b"third"})
    assert recorder.missing == []
    folder.replace(NAME, b"fourth")
    assert folder.read(NAME) == b"fourth"
    assert folder.read(NAME + ".1") in {b"second", b"third"}


def test_a_save_takes_nine_steps(folder: StateFolder, recorder: Recorder) -> None:
    """The test above fails each of them."""
    folder.replace(NAME, b"third")
    assert len(recorder.steps) == 9


def test_a_temporary_file_left_by_a_crash_is_overwritten(folder: StateFolder) -> None:
    """It is not read."""
    folder.replace(NAME, b"first")
    for leftover in (NAME + ".tmp", NAME + ".1.tmp"):
        (folder.folder / leftover).write_bytes(b"half")
    folder.replace(NAME, b"second")
    assert (folder.read(NAME), folder.read(NAME + ".1")) == (b"second", b"first")
    assert names(folder) == {NAME, NAME + ".1"}


def test_an_appended_line_is_durable_and_so_is_its_file_s_name(folder: StateFolder, recorder: Recorder) -> None:
    """The first line makes the file, so the folder is synced; later lines need only their own fsync."""
    folder.append("ledger", b"one\n")
    folder.append("ledger", b"two\n")
    assert [step for step in recorder.steps if "fsync" in step] == ["fsync ledger", "fsync state", "fsync ledger"]
    assert folder.read("ledger") == b"one\ntwo\n"


@pytest.mark.parametrize("step", [1, 2, 3, 4])
def test_an_append_that_fails_leaves_nothing_of_its_line(folder: StateFolder, recorder: Recorder, step: int) -> None:
    """Whichever step fails, the same line can be appended again and is there once."""
    recorder.fail_at = step
    with pytest.raises(OSError, match="Input/output error"):
        folder.append("ledger", b"one\n")
    folder.append("ledger", b"one\n")
    assert folder.read("ledger") == b"one\n"


def test_a_disk_that_runs_full_leaves_no_half_line(folder: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC comes after some bytes are written; they are removed again."""
    folder.append("ledger", b"one\n")
    write = os.write

    def full(fd: int, content: bytes) -> int:
        if len(content) < 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(fd, content[:5])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            folder.append("ledger", b"a line that is too long\n")
    assert folder.read("ledger") == b"one\n"


def test_a_partial_write_is_continued(folder: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may take fewer bytes than given."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, content: write(fd, content[:3]))
    folder.replace(NAME, b"0123456789")
    assert folder.read(NAME) == b"0123456789"


def test_truncate_removes_only_the_end(folder: StateFolder) -> None:
    """The bytes before it stay."""
    folder.append("ledger", b"one\ntw")
    folder.truncate("ledger", 4)
    assert folder.read("ledger") == b"one\n"


def test_only_the_owner_can_read_folder_and_files(tmp_path: Path) -> None:
    """0700 and 0600, whatever the umask; a folder of the daemon with a wider mode is closed."""
    place = tmp_path / "deep" / "state"
    place.mkdir(parents=True)
    place.chmod(0o775)
    before = os.umask(0)
    try:
        folder = StateFolder(place)
        folder.replace(NAME, b"x")
        folder.replace(NAME, b"y")
        folder.append("ledger", b"z")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()}
        folder.close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert modes == dict.fromkeys([NAME, NAME + ".1", "ledger", "lock"], 0o600)


def test_a_link_in_the_folder_is_never_followed(folder: StateFolder, tmp_path: Path) -> None:
    """Neither reading nor writing leaves the folder."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"untouched")
    for name in (NAME, "ledger"):
        (folder.folder / name).symlink_to(outside)
        with pytest.raises(errors.StateUnusable, match="cannot be read") as caught:
            folder.read(name)
        assert caught.value.exit_code == 78
    with pytest.raises(OSError, match="symbolic links"):
        folder.append("ledger", b"x")
    folder.replace(NAME, b"ours")
    assert outside.read_bytes() == b"untouched"
    assert not (folder.folder / NAME).is_symlink()


def test_a_second_daemon_names_the_first(folder: StateFolder) -> None:
    """It exits with 75, as one process at a time may use the folder."""
    with pytest.raises(errors.AlreadyRunning, match=f"process {os.getpid()} already works") as caught:
        StateFolder(folder.folder)
    assert caught.value.exit_code == 75


def test_the_lock_is_free_once_its_folder_is_closed(folder: StateFolder) -> None:
    """Closing twice does no harm."""
    folder.close()
    folder.close()
    StateFolder(folder.folder).close()


def test_the_lock_of_a_daemon_that_was_killed_is_free(tmp_path: Path) -> None:
    """A kill -9 leaves the file and its number behind, but not the lock."""
    code = f"""
import sys, pathlib
from uploader.store.disk import StateFolder
folder = StateFolder(pathlib.Path({str(tmp_path)!r}))
print("locked", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(errors.AlreadyRunning, match=f"process {other.pid} "):
            StateFolder(tmp_path)
        other.kill()
        other.wait()
    assert (tmp_path / "lock").read_text() == f"{other.pid}\n"
    StateFolder(tmp_path).close()


def test_reading_needs_no_lock(folder: StateFolder) -> None:
    """Status works beside a running daemon, and makes no folder."""
    folder.replace(NAME, b"x")
    reader = StateFolder(folder.folder, lock=False)
    assert reader.read(NAME) == b"x"
    reader.close()
    with pytest.raises(errors.StateUnusable):
        StateFolder(folder.folder / "nowhere", lock=False)
    assert not (folder.folder / "nowhere").exists()


def test_a_failed_open_of_the_folder_leaves_no_handle(folder: StateFolder) -> None:
    """However often a second daemon tries."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(errors.AlreadyRunning):
            StateFolder(folder.folder)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    """Exit 73, with the path and what to do."""
    place = tmp_path / "state"
    place.write_bytes(b"")
    with pytest.raises(errors.StateUnusable, match=r"set \[state\] dir to another folder") as caught:
        StateFolder(place)
    assert caught.value.exit_code == 73


def opened_by_nobody(place: Path) -> tuple[int, str]:
    """Open the state folder *place* as a user without rights: the exit code and what was said."""
    code = f"""
import os, pathlib, sys
from uploader.domain import errors
from uploader.store.disk import StateFolder
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid({NOBODY})
    os.setuid({NOBODY})
try:
    StateFolder(pathlib.Path({str(place)!r}))
except errors.UploaderError as error:
    print(error)
    sys.exit(error.exit_code)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert result.stderr == ""
    return result.returncode, result.stdout


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A folder that every user of the machine can come to, as pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        yield place


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_cannot_be_written_ends_the_daemon(open_place: Path, exists: bool) -> None:
    """Exit 73 with a hint, whether it is read-only or cannot be made."""
    place = open_place / "state"
    if exists:
        place.mkdir(mode=0o555)
    open_place.chmod(0o555)
    code, said = opened_by_nobody(place)
    assert code == 73
    assert "the state folder cannot be used: Permission denied" in said
    assert "make it writable for this user" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to somebody else")
def test_a_world_writable_folder_of_another_user_is_refused(open_place: Path) -> None:
    """Others could change the state; the hint says how to close it."""
    place = open_place / "state"
    place.mkdir()
    place.chmod(0o777)
    code, said = opened_by_nobody(place)
    assert code == 73
    assert f"others can write to the state folder; chmod 0700 {place}" in said
