"""A separate program that prints what changes below a folder, as lines of JSON on its standard output.

    python watcher_process.py FOLDER DEBOUNCE_MS RECURSIVE(0 or 1)

Prints ``[]`` once it listens; then batches ``[[change, path], …]`` with the numbers of ``watchfiles.Change``; and
``{"error": "…"}`` if it fails. Ends when its standard input is closed, which its parent holds open.

``files.watching`` starts it, because watchfiles holds the interpreter's lock while it sets a watch on each folder:
20,000 folders stop everything else in the process for a third of a second to a second. It imports nothing of the
package ``uploader``, so that it needs little time and memory.
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


def _write_line(line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main(folder: str, debounce: int, *, recursive: bool) -> None:
    """Print changes until the parent ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with RustNotify([folder], False, False, 0, recursive, True) as watcher:
            _write_line([])
            while True:
                changes = watcher.watch(debounce, BURST_END, 0, None)
                if not isinstance(changes, set):  # a signal
                    return
                rows = sorted(changes)
                for start in range(0, len(rows), CHANGES_PER_LINE):
                    _write_line(rows[start : start + CHANGES_PER_LINE])
    except Exception as error:  # noqa: BLE001 - its native part may raise anything, and the parent must learn of it
        _write_line({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), recursive=sys.argv[3] == "1")
