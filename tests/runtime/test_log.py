"""The log: its formats, and that it cannot be forged, never stops the daemon and never delays it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import pty
import re
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, TextIO

import pytest
from log_state import log_as_before

from uploader.runtime import log

HOSTILE = 'a\n{"event": "forged"}\r\x1b[2J\u202e\u2028\udcff.mp4'
HARMLESS = r'a\x0a{"event": "forged"}\x0d\x1b[2J\u202e\u2028\xff.mp4'


class Log:
    """A log that is written to a file and read back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stream: TextIO = path.open("w", encoding="utf-8")

    def configure(self, level: str = "info", fmt: log.Format = "json", **environ: str) -> None:
        """Log to the file."""
        log.configure(level, fmt, environ=environ, stream=self.stream)

    @property
    def lines(self) -> list[str]:
        """What was written, line by line, whatever any reader takes for a line break."""
        return self.path.read_text(encoding="utf-8").splitlines()

    @property
    def events(self) -> list[dict[str, Any]]:
        """What was written, as JSON."""
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Log]:
    """A log in a file; logging, its hooks and the redactor are as before afterwards."""
    with log_as_before():
        written = Log(tmp_path / "log")
        yield written
    written.stream.close()


@pytest.fixture
def pipe() -> Iterator[tuple[io.FileIO, TextIO]]:
    """A pipe: the end that is read and the end that is logged to."""
    reading, writing = os.pipe()
    reader, writer = io.FileIO(reading), os.fdopen(writing, "w", encoding="utf-8")
    yield reader, writer
    writer.close()
    reader.close()


def test_a_line_is_json_with_time_level_and_event_first(written: Log) -> None:
    """Time is ISO 8601 in UTC; the fields follow in the order in which they were given."""
    written.configure()
    log.get_logger("uploader.stages.transfer").info("chunk sent", size=16, path="b.mp4", ok=True, left=None)
    (event,) = written.events
    assert list(event) == ["time", "level", "event", "logger", "size", "path", "ok", "left"]
    assert event["time"].endswith("Z")
    assert abs(datetime.fromisoformat(event["time"]).timestamp() - time.time()) < 60
    assert list(event.values())[1:] == ["info", "chunk sent", "uploader.stages.transfer", 16, "b.mp4", True, None]


def test_auto_means_json_without_a_terminal(written: Log) -> None:
    """A file, a pipe and the journal get JSON."""
    written.configure(fmt="auto", JOURNAL_STREAM="8:1234")
    log.get_logger("uploader").warning("low on disk")
    assert written.events[0]["event"] == "low on disk"


@pytest.mark.parametrize(("environ", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_auto_means_console_on_a_terminal(written: Log, environ: dict[str, str], coloured: bool) -> None:
    """Lines are readable, in colour unless $NO_COLOR says otherwise."""
    master, slave = pty.openpty()
    with os.fdopen(slave, "w", encoding="utf-8") as terminal:
        log.configure("info", "auto", environ=environ, stream=terminal)
        log.get_logger("uploader").info("chunk sent", size=16)
        line = os.read(master, 4096).decode()
    os.close(master)
    assert "chunk sent" in line
    assert not line.startswith("{")
    assert ("\x1b[" in line) is coloured


def test_a_console_line_in_a_file_is_plain(written: Log) -> None:
    """Without a terminal the console format has no colour codes."""
    written.configure(fmt="console")
    log.get_logger("uploader").info("chunk sent", size=16)
    assert re.fullmatch(r"\d\d:\d\d:\d\d \[info     \] chunk sent size=16", written.lines[0])
    assert "\x1b" not in written.lines[0]


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_a_hostile_name_stays_on_its_line(written: Log, fmt: log.Format) -> None:
    """Line breaks, terminal codes, bidi marks and bytes that are no text are escaped wherever they stand."""
    written.configure(fmt=fmt)
    logger = log.get_logger("uploader")
    logger.info("seen", path=HOSTILE)
    logger.info("seen", nested={HOSTILE: [HOSTILE]})
    logger.info(HOSTILE, **{HOSTILE: 1})
    logging.getLogger("aiohttp").warning("bad request: %s", HOSTILE)
    logger.error("failed", exc_info=ValueError(HOSTILE))
    assert len(written.lines) == 5
    assert all(line.isprintable() for line in written.lines)


def test_an_escaped_name_is_still_legible(written: Log) -> None:
    """A person can read back what is escaped."""
    written.configure()
    log.get_logger("uploader").info("seen", path=Path(HOSTILE))
    assert written.events[0]["path"] == HARMLESS


def test_a_field_cannot_pass_for_one_of_the_fixed_keys(written: Log) -> None:
    """A field named like a fixed key gets an underscore."""
    written.configure()
    log.get_logger("uploader").info("seen", time=1, level="x", logger="y", exception="z", stack="s")
    assert [*written.events[0]][4:] == ["time_", "level_", "logger_", "exception_", "stack_"]


def test_values_without_a_json_form_still_make_json(written: Log) -> None:
    """Infinity, exceptions, objects and endless nests are written as text."""
    written.configure()
    bottomless: list[object] = []
    bottomless.append(bottomless)
    log.get_logger("uploader").info("odd", a=float("inf"), b=KeyError("k"), c=object, d=bottomless)
    event = written.events[0]
    assert (event["a"], event["b"], event["c"]) == ("inf", "KeyError: 'k'", "<class 'object'>")


def test_the_level_applies_to_the_program_s_own_events(written: Log) -> None:
    """Libraries log from WARNING on, also at debug, whatever level they set for themselves."""
    written.configure(level="debug")
    log.get_logger("uploader.files").debug("ours")
    for name in ("aiohttp.client", "asyncio", "watchfiles.main", "uploaderish"):
        logging.getLogger(name).info("hidden")
        logging.getLogger(name).warning("shown")
    eager = logging.getLogger("eager.library")
    eager.setLevel(logging.DEBUG)
    eager.debug("hidden")
    assert not logging.getLogger("aiohttp.client").isEnabledFor(logging.INFO)  # not even put together
    assert [event["event"] for event in written.events] == ["ours", *["shown"] * 4]


def test_events_below_the_level_are_left_out(written: Log) -> None:
    """At warning, info is silent; after another ``configure`` at info it is heard, and once only."""
    written.configure(level="warning")
    log.get_logger("uploader").info("quiet")
    written.configure(level="info")
    log.get_logger("__main__").info("heard")
    assert [(event["event"], event["logger"]) for event in written.events] == [("heard", "uploader.__main__")]


def test_an_unknown_level_is_refused(written: Log) -> None:
    """It raises at once."""
    with pytest.raises(ValueError, match="unknown log level: loud"):
        written.configure(level="loud")


def test_warnings_become_events(written: Log) -> None:
    """Python warnings go through the log."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        written.configure()
        warnings.warn("soon gone", DeprecationWarning, stacklevel=1)
    (event,) = written.events
    assert event["logger"] == "py.warnings"
    assert "DeprecationWarning: soon gone" in event["event"]


def fail(secret: str) -> None:
    """Fail as a daemon fails: in a group, for a reason."""
    try:
        int(secret[:0])
    except ValueError as exc:
        raise ExceptionGroup("two stages failed", [OSError(5, "disk"), RuntimeError("why")]) from exc


@pytest.mark.parametrize("fmt", ["json", "console"])
def test_an_exception_is_one_line_with_frames_and_cause_and_no_locals(written: Log, fmt: log.Format) -> None:
    """The kind, the text, the frames, the members of a group and the cause are told; values are not."""
    written.configure(fmt=fmt)
    try:
        fail("a-local-value")
    except ExceptionGroup:
        log.get_logger("uploader").exception("stage failed")
    (line,) = written.lines
    for part in ("ExceptionGroup: two stages failed", "test_log.py:", " fail", "[Errno 5] disk", "from ValueError"):
        assert part in line
    assert "a-local-value" not in line


async def test_uncaught_exceptions_are_logged(written: Log) -> None:
    """Of the main thread, another thread, a destructor and the event loop."""
    written.configure()
    loop = asyncio.get_running_loop()
    log.install_hooks(loop)
    boom = ValueError("boom")
    sys.excepthook(ValueError, boom, None)
    thread = threading.Thread(target=fail, args=["x"], name="hasher")
    thread.start()
    thread.join()
    sys.unraisablehook(type("Args", (), {"object": "a finaliser", "exc_value": boom})())
    loop.call_exception_handler({"message": "task failed", "exception": boom})
    events = written.events
    assert [event["level"] for event in events] == ["critical", "critical", "error", "error"]
    assert events[1]["thread"] == "hasher"
    assert events[3]["event"] == "task failed"
    assert all("boom" in event["trace"] for event in (events[0], events[2], events[3]))


def test_an_orderly_end_logs_no_exception(written: Log) -> None:
    """Ctrl-C and a thread that exits write nothing."""
    written.configure()
    log.install_hooks()
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    thread = threading.Thread(target=sys.exit)
    thread.start()
    thread.join()
    assert written.lines == []


class Explosive:
    """Something that cannot even be described."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


def test_an_event_that_cannot_be_formatted_is_dropped_and_counted(written: Log) -> None:
    """A wrong format string or an object that raises costs only its own line."""
    written.configure()
    log.get_logger("uploader").info("odd", thing=Explosive())
    logging.getLogger("aiohttp").warning("%d chunks", "one")
    log.get_logger("uploader").info("next")
    assert [event["event"] for event in written.events] == ["next"]
    assert log.dropped() == 2


def test_a_full_disk_drops_the_line(written: Log) -> None:
    """ENOSPC is not raised to the caller."""
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        log.configure("info", "json", environ={}, stream=full)
        log.get_logger("uploader").info("lost")
    assert log.dropped() == 1


def test_a_closed_pipe_drops_the_line(written: Log, pipe: tuple[io.FileIO, TextIO]) -> None:
    """A broken pipe is not raised to the caller, and fails nothing at exit."""
    reader, writer = pipe
    log.configure("info", "json", environ={}, stream=writer)
    reader.close()
    log.get_logger("uploader").info("lost")
    assert log.dropped() == 1
    writer.close()


def test_a_full_pipe_delays_no_caller(written: Log, pipe: tuple[io.FileIO, TextIO]) -> None:
    """Lines are dropped at once; when the pipe is read again, whole lines arrive again."""
    reader, writer = pipe
    log.configure("info", "json", environ={}, stream=writer)
    logger = log.get_logger("uploader")
    begun = time.monotonic()
    while log.dropped() < 100:
        logger.info("filling", text=["x" * 290] * 30)
    assert time.monotonic() - begun < 5
    os.set_blocking(reader.fileno(), False)
    head = reader.read()
    logger.info("back")
    lines = (head + reader.read()).splitlines()
    assert json.loads(lines[-1])["event"] == "back"
    assert all(json.loads(line)["event"] == "filling" for line in lines[:-2])  # lines[-2] is the torn one


def test_a_stream_without_descriptor_is_written_to(written: Log) -> None:
    """A stream in memory takes the lines as they are."""
    stream = io.StringIO()
    log.configure("info", "json", environ={}, stream=stream)
    log.get_logger("uploader").info("seen", path="ü.mp4")
    assert json.loads(stream.getvalue())["path"] == "ü.mp4"
