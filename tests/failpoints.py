"""Makes a process kill itself at a named place, or makes a system call fail or hang. The product has no code for it.

``arm`` wraps, in a process of the tests, each step of a save, of the ledger and of a removal (``os`` itself is wrapped,
so that no private name is needed) and each call to the server. A place has a name like ``save in-doubt: named``; a call
that fails is named like ``fsync state.json.tmp``.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import stat
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypedDict

FSYNCED_AGAIN = signal.SIGUSR2  # ends a process that repeats an fsync on a file whose fsync has failed (fsyncgate)


class Plan(TypedDict, total=False):
    """What goes wrong in a process."""

    kill: str  # the place at which it kills itself, the first time it is reached
    fail: str  # the call that fails
    error: str  # the error of that call, as ``errno`` names it
    hang: str  # the call that never returns, as with a dead share; or the place that is never left
    skip: int  # calls that succeed before the first failure
    times: int  # calls that fail then
    save_again: float  # s between two tries of a save that was refused
    answer: float  # s after which a write counts as hanging


class Armed:
    """Carries out one plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._seen: Counter[str] = Counter()
        self._suspect: set[int] = set()  # descriptors whose fsync has failed
        self._label = ""  # of the current save
        self._begun = False  # an upload has been in the state

    def place(self, name: str) -> None:
        """Note that a place is reached: kill the process or hang, if the plan says so."""
        if name == self._plan.get("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if name == self._plan.get("hang"):
            threading.Event().wait()

    # The system

    def wrap_system(self) -> None:
        """Wrap each system call that changes a file."""
        for name in ("open", "write", "fsync", "rename", "unlink"):
            setattr(os, name, self._wrapped(name, getattr(os, name), getattr(self, f"_{name}", _nothing)))
        real = os.close

        def close(fd: int) -> None:
            self._suspect.discard(fd)
            real(fd)

        os.close = close

    def _wrapped(self, call: str, real: Callable[..., Any], places: Callable[..., None]) -> Callable[..., Any]:
        def wrapped(first: Any, *rest: Any, **more: Any) -> Any:
            target = rest[0] if call == "rename" else first
            name = _name(target)
            if name is None:
                return real(first, *rest, **more)
            if call == "fsync" and first in self._suspect:
                os.kill(os.getpid(), FSYNCED_AGAIN)
            if f"{call} {name}" == self._plan.get("hang"):
                threading.Event().wait()
            self._fail(f"{call} {name}", first, rest)
            places(name, False, first, *rest)
            done = real(first, *rest, **more)
            places(name, True, first, *rest)
            return done

        return wrapped

    def _fail(self, call: str, first: Any, arguments: tuple[Any, ...]) -> None:
        if call != self._plan.get("fail"):
            return
        if call.startswith("open") and not arguments[0] & os.O_CREAT:
            return  # it is only read
        self._seen[call] += 1
        skip = self._plan.get("skip", 0)
        if skip < self._seen[call] <= skip + self._plan.get("times", 1):
            if call.startswith("fsync") and stat.S_ISREG(os.fstat(first).st_mode):
                self._suspect.add(first)  # not a folder: each try of a save renames again, so its fsync may be repeated
            number = getattr(errno, self._plan["error"])
            raise OSError(number, os.strerror(number))

    def _write(self, name: str, done: bool, fd: int, content: bytes) -> None:
        if name not in {"state.json.tmp", "ledger.jsonl"}:
            return
        if not done:
            self._label = "ledger" if name == "ledger.jsonl" else f"save {self._label_of(bytes(content))}"
        self.place(f"{self._label}: {'written' if done else 'begun'}")
        if not done and self._plan.get("kill") == f"{self._label}: torn":
            os.pwrite(fd, content[: len(content) // 2], 0)  # O_APPEND puts it at the end all the same
            self.place(f"{self._label}: torn")

    def _fsync(self, name: str, done: bool, _: int) -> None:
        if done and self._label:
            self.place(f"{self._label}: {'synced' if name in {'state.json.tmp', 'ledger.jsonl'} else 'durable'}")

    def _rename(self, name: str, done: bool, *_: Any) -> None:
        if name in {"state.json", "state.json.1"} and done:
            self.place(f"{self._label}: {'named' if name == 'state.json' else 'kept'}")
        elif name.endswith((".mp4", ".gone")):  # into a hidden folder, or to a hidden name
            self.place(f"removal: {'aside' if done else 'begun'}")

    def _unlink(self, name: str, done: bool, *_: Any) -> None:
        if name.endswith((".mp4", ".gone")) and done:
            self.place("removal: gone")

    def _label_of(self, content: bytes) -> str:
        """Return the label of a save: the state of its one upload, and whether it holds an orphan."""
        document = json.loads(content)
        label = "done" if self._begun else "empty"
        for upload in document["uploads"]:
            self._begun = True
            label = upload["state"]
            if upload.get("doubt_end") == upload["identity"]["size"]:
                label += " at the end"
        return label + (" with an orphan" if document["orphans"] else "")

    # The server

    def wrap_server(self) -> None:
        """Wrap each call to the server: a place before it and one after it."""
        from uploader.server.valt import Valt

        for name in ("login_if_needed", "create_record", "details", "delete_record", "find_records"):
            setattr(Valt, name, self._around(name.partition("_")[0], getattr(Valt, name)))
        setattr(Valt, "agree_on_time", self._around("login", Valt.agree_on_time))  # noqa: B010 - any signature will do
        setattr(Valt, "send_chunk", self._chunk(Valt.send_chunk))  # noqa: B010 - any signature will do

    def _around(self, name: str, real: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def around(*arguments: Any, **more: Any) -> Any:
            self.place(f"{name}: before")
            answer = await real(*arguments, **more)
            self.place(f"{name}: after")
            return answer

        return around

    def _chunk(self, real: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def send_chunk(*arguments: Any, **more: Any) -> Any:
            self._seen["chunk"] += 1
            chunk = f"chunk {self._seen['chunk']}"
            mark, moved = more["before_last_byte"], more["on_progress"]

            async def before_last_byte() -> None:
                await mark()
                self.place(f"{chunk}: marked")
                asyncio.get_running_loop().call_soon(self.place, f"{chunk}: gone")  # once the last byte is written

            def on_progress(count: int) -> None:
                moved(count)
                self.place(f"{chunk}: moving")

            self.place(f"{chunk}: before")
            more |= {"before_last_byte": before_last_byte, "on_progress": on_progress}
            answer = await real(*arguments, **more)
            self.place(f"{chunk}: answered")
            return answer

        return send_chunk


def arm(plan: Plan) -> None:
    """Carry out *plan* in this process."""
    from uploader.store import store

    if "save_again" in plan:
        store.SAVE_RETRY_INTERVAL = plan["save_again"]  # type: ignore[misc]  # a constant elsewhere
    if "answer" in plan:
        store.SLOW_WRITE_WARNING = plan["answer"]  # type: ignore[misc]  # the same
    if plan.keys() & {"kill", "fail", "hang"}:
        armed = Armed(plan)
        armed.wrap_system()
        armed.wrap_server()


def _name(target: Any) -> str | None:
    """Return the file name that a call is about; None when there is none."""
    try:
        return Path(f"/proc/self/fd/{target}").readlink().name if isinstance(target, int) else Path(target).name
    except (OSError, TypeError):
        return None


def _nothing(*_: Any) -> None:
    """Do nothing: this call has no place."""
