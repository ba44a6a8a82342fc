"""Starts processes of the program quickly: an interpreter that has imported everything forks each of them.

Each is a process of its own, with its own id, environment, folder and signals; only the half second of imports is
shared. ``python warm.py`` is the interpreter; ``warmed`` starts and ends it. A process may carry a ``failpoints`` plan:
where it kills itself, or which system call fails.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import select
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import failpoints
from process import PROCESS_TIMEOUT, Ended, Site

TOGETHER = 8  # concurrent processes; more than cores, as they mostly wait

NO_AUTHORITIES = {"SSL_CERT_FILE": "/dev/null", "SSL_CERT_DIR": "/"}  # reading them takes most of the time of a start


@dataclass
class Running:
    """A forked process and the files of its output."""

    pid: int
    out: Path
    err: Path
    ended: asyncio.Future[int]

    async def end(self) -> Ended:
        """Wait until the process has ended."""
        try:
            async with asyncio.timeout(PROCESS_TIMEOUT):
                code = await asyncio.shield(self.ended)
        except TimeoutError:
            raise AssertionError(f"the process does not end: {self.errors()}") from None
        return Ended(code, self.out.read_text("utf-8", "replace"), self.errors())

    def errors(self) -> str:
        """Read the standard error so far."""
        return self.err.read_text("utf-8", "replace")

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the log events of this *name* so far."""
        lines = [json.loads(line) for line in self.errors().splitlines() if line.startswith("{") and line.endswith("}")]
        return [line for line in lines if line["event"] == name]

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if the process still runs."""
        if not self.ended.done():
            os.kill(self.pid, number)


@dataclass
class Warm:
    """The interpreter that forks."""

    process: asyncio.subprocess.Process
    _waiting: dict[int, asyncio.Future[int]] = field(default_factory=dict)
    _numbers: Any = field(default_factory=count)
    _slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(TOGETHER))

    async def listen(self) -> None:
        """Read every report of a start or an end, until the interpreter ends."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            number, value = json.loads(line)
            if not (future := self._waiting.pop(number)).done():
                future.set_result(value)

    async def start(self, site: Site, *arguments: str | Path, plan: failpoints.Plan | None = None) -> Running:
        """Start the program with *site*'s configuration."""
        number = next(self._numbers)
        out, err = site.path / f"out-{number}", site.path / f"err-{number}"
        out.touch()
        err.touch()
        command, *rest = map(str, arguments)
        born, ended = (asyncio.get_running_loop().create_future() for _ in range(2))
        self._waiting |= {2 * number: born, 2 * number + 1: ended}
        order = {
            "number": number,
            "arguments": [command, "-c", str(site.config), *rest],
            "environ": {**site.environ, **NO_AUTHORITIES},
            "folder": str(site.path),
            "out": str(out),
            "err": str(err),
            "plan": plan or {},
        }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        await self.process.stdin.drain()
        async with asyncio.timeout(PROCESS_TIMEOUT):
            return Running(await born, out, err, ended)

    async def run(self, site: Site, *arguments: str | Path, plan: failpoints.Plan | None = None) -> Ended:
        """Run the program with *site*'s configuration to its end; at most ``TOGETHER`` at a time."""
        async with self._slots:
            return await (await self.start(site, *arguments, plan=plan)).end()


def place(folder: Path, number: int) -> Path:
    """Make the folder of site number *number* in *folder*."""
    made = folder / str(number)
    made.mkdir()
    return made


@asynccontextmanager
async def warmed() -> AsyncIterator[Warm]:
    """Start the interpreter. In the end, kill it and whatever it has forked."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, stdin=PIPE, stdout=PIPE, process_group=0, limit=2**20
    )
    warm = Warm(process)
    listening = asyncio.create_task(warm.listen())
    try:
        yield warm
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        await listening


def serve() -> None:
    """Fork a process for each line of standard input; report its process id and, later, its exit code."""
    import uploader.__main__  # noqa: F401 - what the forks share

    gc.freeze()  # so that the collector does not copy shared memory
    orders = os.fdopen(os.dup(0), "rb", buffering=0)
    children: dict[int, int] = {}  # process id: number of the order
    poll = select.poll()
    poll.register(orders, select.POLLIN)
    wakeup, woken = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    poll.register(wakeup, select.POLLIN)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready = {fd for fd, _ in poll.poll()}
        if wakeup in ready:
            os.read(wakeup, 4096)
            while children and (reaped := os.waitpid(-1, os.WNOHANG))[0]:
                _say(2 * children.pop(reaped[0]) + 1, os.waitstatus_to_exitcode(reaped[1]))
        if orders.fileno() in ready:
            line = orders.readline()
            if not line:
                return
            order = json.loads(line)
            if (pid := os.fork()) == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _become(order)
            children[pid] = order["number"]
            _say(2 * order["number"], pid)


def _say(number: int, value: int) -> None:
    os.write(1, f"[{number}, {value}]\n".encode())


def _become(order: Mapping[str, Any]) -> NoReturn:
    """Turn this forked process into the program."""
    from uploader.__main__ import main

    for number, path in enumerate(("/dev/null", order["out"], order["err"])):
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.dup2(fd, number)
        os.close(fd)
    os.environ.clear()
    os.environ.update(order["environ"])
    os.chdir(order["folder"])
    sys.argv = ["valt-uploader", *order["arguments"]]
    failpoints.arm(order["plan"])
    main()


if __name__ == "__main__":
    serve()
