"""Sets up what the demonstration needs: a temporary folder, a server behind a slow link, and videos that appear.

The daemon itself is started elsewhere, in ``testing/demo/__init__.py``. This module touches only the folder that it is
given, and the loopback.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

from uploader.diagnostics.video import Video
from uploader.domain import errors
from uploader.domain.units import format_bytes
from uploader.runtime.clock import Clock
from uploader.testing.demo.link import HOST, Link
from uploader.testing.simulator import Settings, Simulator

RATE: Final = 8_000_000.0  # bytes/s, 64 Mbit/s: 65 MB take eight seconds
PROCESSING: Final = 1.0  # s from the last byte until a video is ready
SETTLE: Final = 1.0  # s that a file must not change
LIVE_FRAMES, LIVE_PAUSE = 6, 0.25  # a live video: frames at a time, s between them; a camera's 24 a second
NEEDED: Final = 250_000_000  # free bytes: every video here and on the server, twice for uploads that start over

CONFIG: Final = """\
[server]
url = {url}
username = {username}
password_file = {password_file}
doubt_settle = "1s"     # on the loopback, a request whose answer was lost is processed quickly

[upload]
workers = 2
chunk_size = "4 MiB"

[[watch]]
path = {recordings}
settle = "{settle:g}s"
rescan = "1s"

[state]
dir = {state}

[log]
level = "error"
"""


@dataclass(frozen=True, slots=True)
class Film:
    """A video to write. *at*: seconds after the start; *live*: written frame by frame, as a recorder does."""

    name: str  # below the watched folder
    frames: int
    at: float
    live: bool = False

    @property
    def video(self) -> Video:
        """The video's content: each film has its own colour."""
        return Video(frames=self.frames, seed=self.frames)

    @property
    def size(self) -> int:
        """The size in bytes."""
        return self.video.size


FILMS: Final = (
    Film("Skills lab 4.mp4", 30, at=0.3),
    Film("Lecture hall.mp4", 160, at=0.6),
    Film("Night shift.mp4", 120, at=1.0, live=True),
    Film("ward-5/Bedside.mp4", 90, at=1.6),
    Film("手術室 🎬.mp4", 60, at=2.4),
    Film("Interview_012.mp4", 100, at=3.2),
)


@contextmanager
def temporary_folder(*, keep: bool) -> Iterator[Path]:
    """Make a temporary folder, and remove it with all its content at the end unless *keep* is true."""
    place = tempfile.gettempdir()
    if (free := shutil.disk_usage(place).free) < NEEDED:
        what = f"{place} has {format_bytes(free)} left, and the demonstration needs {format_bytes(NEEDED)}"
        raise errors.UploaderError(what, hint="name another folder with TMPDIR")
    folder = Path(tempfile.mkdtemp(prefix="valt-demo-"))
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder)


class StageSet:
    """The server behind its link, and the watched folder. As an async context: the server runs while it lasts."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.recordings = folder / "recordings"
        self.config = folder / "config.toml"
        self.simulator = Simulator(folder / "server", Settings(processing=PROCESSING), clock=clock)
        self.url = ""  # the server's address for the daemon
        self.restarts = 0
        self.written_at: dict[str, float] = {}  # by path: when bytes were last written; monotonic
        self._folder, self._clock = folder, clock
        self._link = Link(RATE, clock)
        self._ports = 0, 0  # the server's own, the link's

    @property
    def log_ins(self) -> int:
        """How often the server has issued a token."""
        return sum(call.name == "login" and call.status == 200 for call in self.simulator.calls)

    async def __aenter__(self) -> Self:
        self.recordings.mkdir()
        await self._switch_on()
        self._write_config()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.switch_off()

    async def switch_off(self) -> None:
        """Stop the server: connections break and tokens are forgotten; its folder stays."""
        await self._link.close()
        await self.simulator.stop()

    async def switch_on_again(self) -> None:
        """Start the server again on the same port and folder."""
        await self._switch_on()
        self.restarts += 1

    async def _switch_on(self) -> None:
        url = await self.simulator.start(HOST, self._ports[0])
        own = urlsplit(url).port or 0
        self._ports = own, await self._link.open(own, self._ports[1])
        self.url = f"http://{HOST}:{self._ports[1]}"

    def _write_config(self) -> None:
        password = self._folder / "password"
        password.touch(mode=0o600)
        password.write_text(self.simulator.settings.password, encoding="utf-8")
        text = CONFIG.format(
            url=_quoted(self.url),
            username=_quoted(self.simulator.settings.username),
            password_file=_quoted(password),
            recordings=_quoted(self.recordings),
            settle=SETTLE,
            state=_quoted(self._folder / "state"),
        )
        self.config.write_text(text, encoding="utf-8")

    def path_of(self, film: Film) -> str:
        """Return the path of a film, as the daemon names it."""
        return str(self.recordings / film.name)

    async def drop(self, film: Film) -> None:
        """Write a film into the watched folder: at once, or as slowly as it is recorded."""
        target = self.recordings / film.name
        target.parent.mkdir(exist_ok=True)
        pieces = film.video.pieces()
        while batch := list(islice(pieces, LIVE_FRAMES if film.live else None)):
            _append(target, batch)
            self.written_at[str(target)] = self._clock.monotonic()
            await self._clock.sleep(LIVE_PAUSE if film.live else 0.0)


def _append(target: Path, pieces: list[bytes]) -> None:
    """Append the pieces to a file. This takes milliseconds, so it needs no thread, which could outlive a Ctrl-C."""
    with target.open("ab") as file:
        file.writelines(pieces)


def _quoted(value: str | Path) -> str:
    """Quote a text for TOML, whose strings include those of JSON."""
    return json.dumps(str(value), ensure_ascii=False)
