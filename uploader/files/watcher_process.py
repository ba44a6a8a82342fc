"""A program of its own: tells what changes below a folder, as lines of JSON on its standard output.

    python watcher_process.py FOLDER DEBOUNCE_MS RECURSIVE(0 or 1)

First ``[]``, once it listens; then batches ``[[change, path], …]`` with the numbers of ``watchfiles.Change``; at last
``{"error": "…"}`` if it fails. Ends when its standard input does, which its parent holds open.

watchfiles keeps the interpreter's lock while it asks for a watch on each folder: 20,000 of them stop everything else in
the process for a third of a second to a second. In this process nothing else runs. ``files.watching`` starts it. It
imports nothing of ours, so that it takes little time and memory.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Final

from watchfiles._rust_notify import RustNotify

CHANGES_PER_LINE: Final = 500  # changes on one line: the reader handles one line at a time
BURST_END: Final = 50  # ms without an event after which a burst is over; what ``watchfiles.watch`` takes


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def _say(line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main(folder: str, debounce: int, *, recursive: bool) -> None:
    """Tell of changes until the parent ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with RustNotify([folder], False, False, 0, recursive, True) as watcher:
            _say([])
            while True:
                changes = watcher.watch(debounce, BURST_END, 0, None)
                if not isinstance(changes, set):  # a signal
                    return
                rows = sorted(changes)
                for start in range(0, len(rows), CHANGES_PER_LINE):
                    _say(rows[start : start + CHANGES_PER_LINE])
    except Exception as error:  # noqa: BLE001 - its native part raises at will, and the parent must hear what
        _say({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), recursive=sys.argv[3] == "1")
