"""``demo``: its output in a pipe, its exit codes, and that it can fail."""

from __future__ import annotations

import asyncio
import hashlib
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from uploader.domain.model import RecordSharing
from uploader.runtime.clock import SystemClock
from uploader.testing.demo.link import Link
from uploader.testing.demo.stage_set import FILMS
from uploader.testing.demo.table import DIGITS, Row, what_is_wrong
from uploader.testing.simulator import ContentRange, RecordView

DEMO = (sys.executable, "-m", "uploader", "demo")
PATIENCE = 100  # seconds; its own limit is 90
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def with_setting(setting: str, *options: str) -> tuple[str, ...]:
    """The command line of a demo of which one constant is another."""
    lines = [
        "import sys",
        "from uploader.testing import demo",
        "from uploader.__main__ import run",
        f"demo.{setting}",
        f"sys.exit(run(['demo', *{list(options)}]))",
    ]
    return sys.executable, "-c", "\n".join(lines)


def environment(folder: Path) -> dict[str, str]:
    """Ours, with temporary files in *folder*, and with settings of a real daemon that must not matter."""
    return {**os.environ, "TMPDIR": str(folder), "FORCE_COLOR": "1", "VALT_UPLOADER_UPLOAD__WORKERS": "nonsense"}


def start(command: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    """Start a demo with both its ends in pipes."""
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment(folder), stdout=pipe, stderr=pipe, text=True)


@dataclass(frozen=True)
class Performance:
    """A demo that has ended."""

    code: int
    lines: list[str]
    errors: str
    left_behind: list[Path]

    def first(self, words: str) -> int:
        """The number of the first line with these words."""
        return next(number for number, line in enumerate(self.lines) if words in line)


def perform(command: Sequence[str], folder: Path) -> Performance:
    """Let a demo play to its end."""
    with start(command, folder) as process:
        output, errors = process.communicate(timeout=PATIENCE)
    return Performance(process.returncode, output.splitlines(), errors, list(folder.iterdir()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Performance:
    """One whole demo, for all who look at it."""
    return perform(DEMO, tmp_path_factory.mktemp("demo"))


def test_demo_ends_by_itself_with_exit_code_0(whole: Performance) -> None:
    """And nothing on stderr."""
    assert (whole.code, whole.errors) == (0, ""), whole.lines


def test_demo_leaves_nothing_behind(whole: Performance) -> None:
    """The temporary folder is as empty as before."""
    assert whole.left_behind == []


def test_demo_in_a_pipe_is_plain_text(whole: Performance) -> None:
    """No control characters but line feeds, even where colours are asked for."""
    assert not CONTROL.search("\n".join(whole.lines))


def test_table_shows_both_sides_of_every_file(whole: Performance) -> None:
    """Each film has a row with its record, its size and, twice, the checksum of the film as it was made."""
    rows = [re.split(r" {2,}", line.strip()) for line in whole.lines[whole.first("sha256 here") + 2 :]][: len(FILMS)]
    expected = []
    for film in FILMS:
        digest = hashlib.sha256(b"".join(film.video.pieces())).hexdigest()[:DIGITS]
        expected.append([film.name, f"{film.size:,}", digest, digest])
    assert [[row[0], *row[2:5]] for row in rows] == expected
    assert len({row[1] for row in rows if re.fullmatch("[0-9a-f]{8}", row[1])}) == len(FILMS)


def test_summary_is_the_last_line(whole: Performance) -> None:
    """It counts files, records, log-ins and restarts."""
    assert whole.lines[-1] == (
        "6 files, 6 records on the server, equal byte for byte; 2 log-ins, 1 restart survived, nothing stored twice."
    )


def test_the_restart_of_the_server_is_shown_in_order(whole: Performance) -> None:
    """It stops during a chunk, is missed, comes back, is logged in to again, and the upload goes on."""
    story = ["is switched off in the middle", "cannot reach the server", "is back on the same port", "logs in again"]
    told = [whole.first(words) for words in story]
    assert told == sorted(told)
    resumed = [number for number, line in enumerate(whole.lines) if "resumes" in line]
    assert resumed[-1] > whole.first("is back on the same port")


def test_a_growing_film_is_sent_only_after_it_stands_still(whole: Performance) -> None:
    """Its growth and its settling are shown before."""
    (film,) = [film for film in FILMS if film.live]
    grows, stands, is_sent = f"sees “{film.name}” grow", f"“{film.name}” no longer changes", f"sends “{film.name}”"
    assert whole.first(grows) < whole.first(stands) < whole.first(is_sent)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_the_demo_in_good_order(tmp_path: Path, number: signal.Signals) -> None:
    """It prints one line, exits with 130, and leaves nothing behind."""
    with start(DEMO, tmp_path) as process:
        assert process.stdout is not None
        while "sends “" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(number)
        output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output.splitlines()[-1], errors) == (130, "interrupted", "")
    assert list(tmp_path.iterdir()) == []


def test_demo_ends_when_its_pipe_is_closed(tmp_path: Path) -> None:
    """As after a signal, without an error message."""
    with start(DEMO, tmp_path) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(timeout=PATIENCE) == 130
        assert process.stderr.read() == ""
    assert list(tmp_path.iterdir()) == []


def test_a_demo_that_takes_too_long_fails(tmp_path: Path) -> None:
    """After its time limit with exit code 1; it leaves nothing behind."""
    late = perform(with_setting("LIMIT = 1.5"), tmp_path)
    assert (late.code, late.lines[-1], late.errors) == (1, "error: not done after 1.5 s", "")
    assert late.left_behind == []


def test_keep_names_the_folder_that_is_kept(tmp_path: Path) -> None:
    """With --keep the recordings and a private password stay."""
    kept = perform(with_setting("LIMIT = 1.5", "--keep"), tmp_path)
    (folder,) = kept.left_behind
    assert any(f"is kept in {folder};" in line for line in kept.lines)
    assert (folder / "recordings" / FILMS[0].name).stat().st_size == FILMS[0].size
    assert (folder / "password").stat().st_mode & 0o777 == 0o600


def test_too_little_disk_space_is_reported_before_anything_is_made(tmp_path: Path) -> None:
    """With a hint."""
    full = perform(with_setting("stage_set.NEEDED = 1 << 60"), tmp_path)
    assert (full.code, full.lines, full.left_behind) == (1, [], [])
    assert re.fullmatch(
        r"error: .* left, and the demonstration needs .*; name another folder with TMPDIR\n", full.errors
    )


def test_progress_bars_show_the_cursor_again(tmp_path: Path) -> None:
    """Whatever ends them."""
    ours, theirs = pty.openpty()
    env = {**environment(tmp_path), "TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(with_setting("LIMIT = 2.0"), env=env, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while block := _read(ours):
            shown += block
    os.close(ours)
    assert process.returncode == 1
    assert "━" in shown.decode()
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l") > 0


def _read(terminal: int) -> bytes:
    """What comes next; nothing once the other end is closed, which Linux reports as EIO."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""


SIZE, CHUNK = 10, 4
ROW = Row("a.mp4", SIZE, "aa", "r1", "aa")
RANGES = tuple(ContentRange(at, min(at + CHUNK, SIZE) - 1, SIZE) for at in range(0, SIZE, CHUNK))
RECORD = RecordView("r1", "v1", "a", {}, RecordSharing(), "ready", SIZE, "aa", 3, RANGES, (), 0.0, Path("video.mp4"))


def test_a_good_end_has_no_faults() -> None:
    """One file, one ready record, equal bytes, each range once, one restart and two log-ins."""
    assert what_is_wrong([ROW], [RECORD], 2, 1) == []


@pytest.mark.parametrize(
    ("row", "record", "said"),
    [
        (replace(ROW, there="bb"), RECORD, "a.mp4: the server holds other bytes"),
        (replace(ROW, there=None), RECORD, "a.mp4: the server holds other bytes"),
        (ROW, replace(RECORD, status="created"), "a.mp4: its record is created"),
        (
            ROW,
            replace(RECORD, ranges=(RANGES[0], *RANGES)),
            "a.mp4: its ranges were not acknowledged exactly once each",
        ),
        (ROW, replace(RECORD, ranges=RANGES[1:]), "a.mp4: its ranges were not acknowledged exactly once each"),
        (ROW, replace(RECORD, ranges=RANGES[:-1]), "a.mp4: its ranges were not acknowledged exactly once each"),
        (ROW, replace(RECORD, strays=(4,)), "a.mp4: its ranges were not acknowledged exactly once each"),
    ],
)
def test_difference_between_file_and_record_is_named(row: Row, record: RecordView, said: str) -> None:
    """Any difference makes the demo fail."""
    assert what_is_wrong([row], [record], 2, 1) == [said]


def test_file_without_a_record_of_its_own_is_named() -> None:
    """A file without a record, and two files with the same one."""
    assert what_is_wrong([replace(ROW, record=None)], [], 2, 1) == ["a.mp4 was not finished"]
    twice = what_is_wrong([ROW, replace(ROW, name="b.mp4")], [RECORD], 2, 1)
    assert twice == ["b.mp4 has no record of its own on the server"]


def test_record_without_a_file_is_named() -> None:
    """A second record of a file is a fault, ready or not."""
    second = replace(RECORD, id="r2", status="incomplete")
    assert what_is_wrong([ROW], [RECORD, second], 2, 1) == ["record r2 (a) on the server belongs to no file"]


def test_a_missing_restart_is_named() -> None:
    """And so are more log-ins than needed."""
    assert what_is_wrong([ROW], [RECORD], 1, 0) == ["the server should have been restarted once"]
    assert what_is_wrong([ROW], [RECORD], 3, 1) == ["the daemon logged in 3 times instead of 2"]


class StandingClock(SystemClock):
    """A clock at which no time passes; it remembers the longest sleep that was asked for."""

    longest = 0.0

    def monotonic(self) -> float:
        """Always the same moment."""
        return 0.0

    async def sleep(self, seconds: float) -> None:
        """Return at once."""
        self.longest = max(self.longest, seconds)
        await asyncio.sleep(0)


async def test_the_slow_link_passes_every_byte_at_its_rate() -> None:
    """The last byte arrives after size / rate seconds; the other direction is not slowed down."""
    content = os.urandom(300_000)
    clock = StandingClock()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(len(content)))
        await writer.drain()
        writer.close()

    link = Link(100_000.0, clock)
    async with asyncio.timeout(10), await asyncio.start_server(echo, "127.0.0.1") as server:
        port = await link.open(server.sockets[0].getsockname()[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(content)
        assert await reader.read(-1) == content
        writer.close()
        await link.close()
    assert clock.longest == pytest.approx(3.0)


async def test_a_closed_link_cuts_and_refuses_connections() -> None:
    """At once, at both ends, until it is opened again on the same port."""
    cut = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x")
        assert await reader.read() == b""
        writer.close()
        cut.set()

    link = Link(1e6, SystemClock())
    async with asyncio.timeout(10), await asyncio.start_server(listen, "127.0.0.1") as server:
        target = server.sockets[0].getsockname()[1]
        port = await link.open(target)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.readexactly(1) == b"x"
        await link.close()
        assert await reader.read() == b""
        writer.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        assert await link.open(target, port) == port
        await link.close()
        await cut.wait()
