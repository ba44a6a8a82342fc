"""The control socket: commands reach the running daemon over a Unix socket in the state folder.

A client sends one JSON object and receives one. The socket has mode 0600, and requests of users other than root and
the daemon's own are refused (SO_PEERCRED). It offers nothing that could not be done to the state of a stopped daemon.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self

from uploader.domain import errors
from uploader.runtime.threads import DaemonThreads

SOCKET_NAME: Final = "control.sock"
REQUEST_LIMIT: Final = 1024 * 1024  # bytes
ANSWER_TIMEOUT: Final = 30.0  # s that a client waits for an answer
ANSWER_PIECE: Final = 256 * 1024  # characters of an answer that are encoded and sent together: about 5 ms of work
ROWS: Final = 50  # rows that one call encodes as JSON; no other thread runs meanwhile, for about 0.2 ms

Handler = Callable[[str, list[str]], Awaitable[dict[str, Any]]]  # a value of the answer may be an iterator over rows


class ControlSocket:
    """Answers requests while the context lasts."""

    def __init__(self, folder: Path, handler: Handler, *, leave: Callable[[], bool] = lambda: False) -> None:
        """*leave*: True when the folder may hang now. Then the end does not remove the socket; the next start does."""
        self._folder, self._handler, self._leave = folder, handler, leave
        self._server: asyncio.Server | None = None
        self._encoder = DaemonThreads("answers", most=1)  # a status of many uploads takes seconds to make

    async def __aenter__(self) -> Self:
        with suppress(FileNotFoundError):  # left by a daemon that was killed: this process holds the state's lock
            (self._folder / SOCKET_NAME).unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _short_path(self._folder) as address:
                listener.bind(address)
            (self._folder / SOCKET_NAME).chmod(0o600)
            self._server = await asyncio.start_unix_server(self._serve, sock=listener, limit=REQUEST_LIMIT)
        except BaseException:  # also when cancelled: the socket is not left open
            listener.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
            if not self._leave():
                with suppress(FileNotFoundError):
                    (self._folder / SOCKET_NAME).unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            pieces = encoded(await self._answer(reader, writer))
            loop = asyncio.get_running_loop()
            while piece := await loop.run_in_executor(self._encoder, next, pieces, b""):
                writer.write(piece)
                await writer.drain()  # so that the next piece is encoded only when this one was taken
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client has gone, or is not valt-uploader
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> dict[str, Any]:
        # Read before refusing: closing a socket with unread data would discard the refusal, too.
        line = await reader.readuntil(b"\n")
        if not _is_trusted(writer.get_extra_info("socket")):
            return {"error": "only root and the daemon's own user may do that"}
        request = _request(line)
        if request is None:
            return {"error": "not a request of valt-uploader"}
        try:
            return await self._handler(*request)
        except errors.UploaderError as error:
            return {"error": str(error)}


def encoded(answer: Mapping[str, Any]) -> Iterator[bytes]:
    """Encode an answer as one line of JSON, piece by piece. A value that is an iterator becomes a list, row by row.

    One call of ``json.dumps`` for all rows would block every other thread until it returns.
    """
    parts, size = list[str](), 0
    for part in _parts(answer):
        parts.append(part)
        size += len(part)
        if size >= ANSWER_PIECE:
            yield "".join(parts).encode("ascii")
            parts, size = [], 0
    yield "".join(parts).encode("ascii") + b"\n"


def _parts(answer: Mapping[str, Any]) -> Iterator[str]:
    between = "{"
    for key, value in answer.items():
        yield f"{between}{json.dumps(key)}: "
        between = ", "
        if isinstance(value, Iterator):
            comma = "["
            while rows := list(islice(value, ROWS)):
                yield comma + json.dumps(rows)[1:-1]
                comma = ", "
            yield "]" if comma == ", " else "[]"
        else:
            yield json.dumps(value)
    yield "}" if answer else "{}"


def _request(line: bytes) -> tuple[str, list[str]] | None:
    """Parse a request into its command and paths; None when it is not a request."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    do, paths = (document.get("do"), document.get("paths")) if isinstance(document, dict) else (None, None)
    if not isinstance(do, str) or not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        return None
    return do, paths


def _is_trusted(peer: socket.socket) -> bool:
    raw = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, user, _ = struct.unpack("3i", raw)
    return user in {0, os.geteuid()}


class _short_path:  # noqa: N801 - a context manager, used like a function
    """Name the socket through a descriptor of its folder: a socket address is limited to 107 bytes, a path is not."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> str:
        self._fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}/{SOCKET_NAME}"

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def ask(folder: Path, do: str, paths: list[str] | None = None) -> Mapping[str, Any] | None:
    """Send a command to the daemon of this state folder; None when none runs. Blocking. Raises ``UploaderError``."""
    request = json.dumps({"do": do, "paths": paths or []}).encode("ascii") + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client, _short_path(folder) as address:
            client.settimeout(ANSWER_TIMEOUT)
            client.connect(address)
            client.sendall(request)
            with client.makefile("rb") as stream:
                line = stream.readline()
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except OSError as error:
        raise errors.UploaderError(f"the daemon does not answer: {error.strerror or error}") from None
    if not line.endswith(b"\n"):
        raise errors.UploaderError("the daemon ended before it answered; type the command again")
    answer: Mapping[str, Any] = json.loads(line)
    if "error" in answer:
        raise errors.UploaderError(answer["error"])
    return answer
