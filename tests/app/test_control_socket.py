"""The control socket: operator commands to the running daemon, over a real socket in the state folder."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fakes import CONDITION_TIMEOUT
from hypothesis import given
from hypothesis import strategies as st

from uploader.app import control_socket
from uploader.app.control_socket import REQUEST_LIMIT, SOCKET_NAME, ControlSocket, _request, ask
from uploader.domain import errors

NOT_ONE = {"error": "not a request of valt-uploader"}


async def echo(do: str, paths: list[str]) -> dict[str, Any]:
    """Answer with what was asked."""
    return {"do": do, "paths": paths}


async def asked(folder: Path, do: str, paths: list[str] | None = None) -> Any:
    """Ask as the commands do, beside the loop."""
    return await asyncio.wait_for(asyncio.to_thread(ask, folder, do, paths), CONDITION_TIMEOUT)


async def raw(folder: Path, request: bytes) -> bytes:
    """Send bytes to the socket, and read until it is closed."""
    reader, writer = await asyncio.open_unix_connection(folder / SOCKET_NAME)
    async with asyncio.timeout(CONDITION_TIMEOUT):
        writer.write(request)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    return answer


async def test_a_request_is_answered(tmp_path: Path) -> None:
    """Command and paths arrive as they were given, names that are not UTF-8 included."""
    paths = ["/rec/a b.mp4", os.fsdecode(b"/rec/\xff\n.mp4"), "/rec/録画.mp4"]
    async with ControlSocket(tmp_path, echo):
        assert await asked(tmp_path, "retry", paths) == {"do": "retry", "paths": paths}
        assert await asked(tmp_path, "status") == {"do": "status", "paths": []}


async def test_concurrent_requests_each_get_their_own_answer(tmp_path: Path) -> None:
    """Several clients ask at the same time."""
    async with ControlSocket(tmp_path, echo):
        answers = await asyncio.gather(*(asked(tmp_path, str(number)) for number in range(8)))
    assert [answer["do"] for answer in answers] == [str(number) for number in range(8)]


async def test_the_state_folder_may_have_a_path_longer_than_a_socket_address(tmp_path: Path) -> None:
    """A socket's address ends after 107 bytes; the path of a state folder may be longer."""
    folder = tmp_path.joinpath(*["a folder of some length" * 4] * 4)
    folder.mkdir(parents=True)
    assert len(str(folder)) > 300
    async with ControlSocket(folder, echo):
        assert (folder / SOCKET_NAME).is_socket()
        assert await asked(folder, "status") == {"do": "status", "paths": []}


async def test_only_the_owner_can_use_the_socket(tmp_path: Path) -> None:
    """Its mode is 0600 whatever the umask, and it is removed when the daemon has ended."""
    before = os.umask(0)
    try:
        async with ControlSocket(tmp_path, echo):
            assert stat.S_IMODE((tmp_path / SOCKET_NAME).stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert not (tmp_path / SOCKET_NAME).exists()


async def test_only_root_and_the_daemon_s_own_user_are_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel tells which user has connected; any other user gets only a refusal."""
    async with ControlSocket(tmp_path, echo):
        for user, heard in ((0, True), (os.geteuid(), True), (os.geteuid() + 1, False)):
            peer = (4711).to_bytes(4, "little") + user.to_bytes(4, "little") + bytes(4)
            with monkeypatch.context() as patch:
                patch.setattr("asyncio.trsock.TransportSocket.getsockopt", lambda *_, peer=peer: peer)
                answer = json.loads(await raw(tmp_path, b'{"do": "status", "paths": []}\n'))
            assert ("error" not in answer) is heard


# Long answers


@pytest.mark.parametrize("count", [0, 1, control_socket.ROWS, control_socket.ROWS + 1, 1000])
async def test_an_answer_sent_in_rows_is_read_as_one_json_object(tmp_path: Path, count: int) -> None:
    """However many rows it has, the client gets one object with a list of them."""
    rows = [{"path": os.fsdecode(b"/rec/\xff"), "number": number} for number in range(count)]

    async def answer(_do: str, _paths: list[str]) -> dict[str, Any]:
        return {"before": 1, "rows": iter(rows), "none": iter(()), "after": None}

    async with ControlSocket(tmp_path, answer):
        assert await asked(tmp_path, "status") == {"before": 1, "rows": rows, "none": [], "after": None}


@given(st.dictionaries(st.text(), st.lists(st.integers() | st.text())))
def test_the_parts_of_an_answer_join_to_valid_json(answer: dict[str, Any]) -> None:
    """Whatever values it holds, given as lists or row by row."""
    line = b"".join(control_socket.encoded(answer))
    assert line == b"".join(control_socket.encoded({key: iter(value) for key, value in answer.items()}))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == answer


async def test_rows_are_made_in_a_thread_and_only_as_fast_as_they_are_read(tmp_path: Path) -> None:
    """A client that does not read delays no other client, and only a few rows are held in memory for it."""
    count, made, places = 4000, 0, set[int]()

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal made
        for number in range(count):
            made += 1
            places.add(threading.get_ident())
            yield {"number": number, "filler": "x" * 10_000}

    async def answer(do: str, paths: list[str]) -> dict[str, Any]:
        return {"rows": rows()} if do == "status" else {"do": do, "paths": paths}

    async with ControlSocket(tmp_path, answer):
        reader, writer = await asyncio.open_unix_connection(tmp_path / SOCKET_NAME)
        writer.write(b'{"do": "status", "paths": []}\n')
        # as many pieces would have been made beside these
        for _ in range(count * 10_000 // control_socket.ANSWER_PIECE):
            assert (await asked(tmp_path, "retry"))["do"] == "retry"
        assert 0 < made < count
        async with asyncio.timeout(CONDITION_TIMEOUT):
            line = bytearray()
            while not line.endswith(b"\n"):
                line += await reader.read(2**20)
        writer.close()
    assert [row["number"] for row in json.loads(line)["rows"]] == list(range(count))
    assert threading.get_ident() not in places


async def test_a_client_that_disconnects_during_an_answer_affects_no_other(tmp_path: Path) -> None:
    """The remaining rows are not made, and the next request is answered."""
    made = 0

    def rows() -> Iterator[str]:
        nonlocal made
        while True:
            made += 1
            yield "x" * 10_000

    async def answer(do: str, _paths: list[str]) -> dict[str, Any]:
        return {"rows": rows()} if do == "status" else {"do": do}

    async with ControlSocket(tmp_path, answer):
        reader, writer = await asyncio.open_unix_connection(tmp_path / SOCKET_NAME)
        writer.write(b'{"do": "status", "paths": []}\n')
        assert await reader.read(1000)
        writer.transport.abort()
        for _ in range(3):
            assert await asked(tmp_path, "retry") == {"do": "retry"}
        so_far = made
        for _ in range(10):
            assert await asked(tmp_path, "retry") == {"do": "retry"}
        assert made == so_far


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"status\n",
        b"[]\n",
        b"7\n",
        b"null\n",
        b"{}\n",
        b'{"do": "status"}\n',
        b'{"do": 7, "paths": []}\n',
        b'{"do": "retry", "paths": "/rec/a.mp4"}\n',
        b'{"do": "retry", "paths": [7]}\n',
        b'{"do": "retry", "paths": null}\n',
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b'{"do": NaN, "paths": []}\n',
    ],
)
async def test_garbage_is_refused(tmp_path: Path, line: bytes) -> None:
    """The client gets an error, no command runs, and the next request is answered."""
    async with ControlSocket(tmp_path, echo):
        assert json.loads(await raw(tmp_path, line)) == NOT_ONE
        assert await asked(tmp_path, "status") == {"do": "status", "paths": []}


@given(st.binary(max_size=200))
def test_no_line_crashes_the_reader(line: bytes) -> None:
    """Any bytes are read as a request or refused."""
    assert _request(line) is None or line.startswith(b"{")


@pytest.mark.parametrize("request_", [b"", b'{"do": "status"', b"x" * (REQUEST_LIMIT + 1000)])
async def test_a_request_without_an_end_is_dropped(tmp_path: Path, request_: bytes) -> None:
    """A client that disconnects early, or never ends its line, gets no answer; the next request is answered."""
    async with ControlSocket(tmp_path, echo):
        with suppress(ConnectionError):  # hung up on before all of it was sent
            assert await raw(tmp_path, request_) == b""
        assert await asked(tmp_path, "status") == {"do": "status", "paths": []}


async def test_a_refusal_reaches_the_operator(tmp_path: Path) -> None:
    """The error arrives with its reason and its hint."""

    async def refuse(do: str, paths: list[str]) -> dict[str, Any]:
        raise errors.FileMissing(f"nothing is known of {paths[0]}", hint="is it spelt right?")

    async with ControlSocket(tmp_path, refuse):
        with pytest.raises(errors.UploaderError, match=r"^nothing is known of /x; is it spelt right\?$"):
            await asked(tmp_path, "forget", ["/x"])


async def test_without_a_daemon_there_is_no_answer(tmp_path: Path) -> None:
    """With no folder, no socket, or the socket of a killed daemon, the command uses the saved state."""
    assert await asked(tmp_path / "nowhere", "status") is None
    assert await asked(tmp_path, "status") is None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / SOCKET_NAME))
    assert (tmp_path / SOCKET_NAME).exists()
    assert await asked(tmp_path, "status") is None


async def test_a_new_daemon_replaces_the_socket_of_a_killed_one(tmp_path: Path) -> None:
    """The socket file that was left behind is replaced."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / SOCKET_NAME))
    async with ControlSocket(tmp_path, echo):
        assert await asked(tmp_path, "status") == {"do": "status", "paths": []}


async def test_a_path_that_is_not_a_state_folder_is_an_error(tmp_path: Path) -> None:
    """It is reported, and not taken for a daemon that is stopped."""
    path = tmp_path / "file"
    path.write_bytes(b"")
    with pytest.raises(errors.UploaderError, match="the daemon does not answer: Not a directory"):
        await asked(path, "status")


@pytest.mark.parametrize("half", [b"", b'{"do": "sta'])
async def test_a_daemon_that_ends_during_an_answer_is_reported(tmp_path: Path, half: bytes) -> None:
    """A partial answer is not used."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(half)
        writer.close()

    server = await asyncio.start_unix_server(hang_up, tmp_path / SOCKET_NAME)
    async with server:
        with pytest.raises(errors.UploaderError, match="ended before it answered"):
            await asked(tmp_path, "status")


def open_handles() -> int:
    """How many this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_a_control_socket_that_cannot_listen_leaves_no_handle_open(tmp_path: Path) -> None:
    """The folder is gone: the error is raised, and every handle is closed."""
    before = open_handles()
    with pytest.raises(FileNotFoundError):
        async with ControlSocket(tmp_path / "nowhere", echo):
            pass
    assert open_handles() == before
