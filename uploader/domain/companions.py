"""Files that a program keeps beside a file for as long as it has not finished writing it. Pure.

``lecture.mp4.aria2`` beside ``lecture.mp4`` says that the download goes on, even while it stands still. A companion
holds its file back, as an open container does. It is recognised by its own name, which contains that of the file.

Left out: ``NAME.tmp`` and ``NAME.bak``, which too many programs leave behind for ever, and lock files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Companion:
    """The names of one program's companions. ``name`` is the group of the pattern that is the file's own name."""

    program: str
    pattern: str
    source: str


COMPANIONS: Final = (
    Companion("aria2", r"(?P<name>.+)\.aria2(__temp)?", "aria2 manual, control file"),
    Companion(
        "a browser, or another download",
        r"(?P<name>.+)\.(part|partial|crdownload|opdownload|download|filepart|fdmdownload|partial~)",
        "Firefox, KDE and yt-dlp (part), Edge and rclone (partial), Chrome (crdownload), Opera (opdownload), Safari "
        "(download), WinSCP (filepart), Free Download Manager (fdmdownload)",
    ),
    Companion("yt-dlp", r"(?P<name>.+)\.(ytdl|part-Frag[0-9]+(\.part)?)", "yt-dlp, fragments"),
    Companion("rclone", r"(?P<name>.+)\.[0-9a-f]{8}\.partial", "rclone manual, --partial-suffix"),
    Companion("lftp", r"(?P<name>.+)\.lftp-pget-status", "lftp(1), pget"),
    Companion(
        "a BitTorrent client",
        r"(?P<name>.+)\.(!ut|!qB|!bt|bc!)",
        "uTorrent, qBittorrent, BitTorrent, BitComet: option to mark unfinished files",
    ),
    Companion("Resilio Sync", r"(?P<name>.+)\.!sync", "Resilio help, .!sync files"),
    Companion("rsync", r"\.(?P<name>.+)\.(?-i:(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{6})", "rsync(1): .NAME.XXXXXX"),
    Companion("Syncthing", r"(\.syncthing\.|~syncthing~)(?P<name>.+)\.tmp", "Syncthing documentation, temporary files"),
    Companion("Nextcloud or ownCloud", r"\.(?P<name>.+)\.~[0-9a-f]+", "desktop client, download file"),
    Companion("FreeFileSync", r"(?P<name>.+?)(\.[0-9a-f]{4})?\.ffs_tmp", "FreeFileSync manual, fail-safe file copy"),
)
_PATTERNS: Final = tuple((row, re.compile(row.pattern, re.IGNORECASE | re.DOTALL)) for row in COMPANIONS)


@dataclass(frozen=True, slots=True)
class Held:
    """A companion that lies beside a file: its name, and the program that keeps it."""

    companion: str
    program: str


def belongs_to(companion: str) -> tuple[tuple[str, Held], ...]:
    """Return the names of the files that *companion* belongs to, if it is one. More than one pattern may fit."""
    found = ((match["name"], row) for row, pattern in _PATTERNS if (match := pattern.fullmatch(companion)))
    return tuple((name, Held(companion, row.program)) for name, row in found)


def reason(held: Held) -> str:
    """Say why the file is held back."""
    return f"{held.program} has not finished it: {held.companion} lies beside it"
