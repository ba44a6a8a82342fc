"""The operator's hand, over a real socket in the state folder."""

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


async def test_a_question_is_answered(tmp_path: Path) -> None:
    """Command and paths arrive as they were given, names that are not UTF-8 included."""
    paths = ["/rec/a b.mp4", os.fsdecode(b"/rec/\xff\n.mp4"), "/rec/録画.mp4"]
    async with ControlSocket(tmp_path, echo):
        assert await asked(tmp_path, "retry", paths) == {"do": "retry", "paths": paths}
        assert await asked(tmp_path, "status") == {"do": "status", "paths": []}


async def test_many_may_ask_at_once(tmp_path: Path) -> None:
    """Each gets its own answer."""
    async with ControlSocket(tmp_path, echo):
        answers = await asyncio.gather(*(asked(tmp_path, str(number)) for number in range(8)))
    assert [answer["do"] for answer in answers] == [str(number) for number in range(8)]


async def test_a_folder_s_path_may_be_longer_than_an_address(tmp_path: Path) -> None:
    """A socket's address ends after 107 bytes; a state folder may lie as deep as it likes."""
    folder = tmp_path.joinpath(*["a folder of some length" * 4] * 4)
    folder.mkdir(parents=True)
    assert len(str(folder)) > 300
    async with ControlSocket(folder, echo):
        assert (folder / SOCKET_NAME).is_socket()
        assert await asked(folder, "status") == {"do": "status", "paths": []}


async def test_the_socket_is_for_its_owner_alone(tmp_path: Path) -> None:
    """0600, whatever the umask; and gone when the daemon has ended."""
    before = os.umask(0)
    try:
        async with ControlSocket(tmp_path, echo):
            assert stat.S_IMODE((tmp_path / SOCKET_NAME).stat().st_mode) == 0o600
    finally:
        os.umask(before)
    assert not (tmp_path / SOCKET_NAME).exists()


async def test_only_root_and_our_own_user_are_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is at the other end is known from the kernel: anybody else gets no answer but a no."""
    async with ControlSocket(tmp_path, echo):
        for user, heard in ((0, True), (os.geteuid(), True), (os.geteuid() + 1, False)):
            peer = (4711).to_bytes(4, "little") + user.to_bytes(4, "little") + bytes(4)
            with monkeypatch.context() as patch:
                patch.setattr("asyncio.trsock.TransportSocket.getsockopt", lambda *_, peer=peer: peer)
                answer = json.loads(await raw(tmp_path, b'{"do": "status", "paths": []}\n'))
            assert ("error" not in answer) is heard


# Long answers


@pytest.mark.parametrize("count", [0, 1, control_socket.ROWS, control_socket.ROWS + 1, 1000])
async def test_an_answer_by_rows_is_one_with_a_list(tmp_path: Path, count: int) -> None:
    """However many rows it has, the client reads one JSON object with everything in its place."""
    rows = [{"path": os.fsdecode(b"/rec/\xff"), "number": number} for number in range(count)]

    async def answer(_do: str, _paths: list[str]) -> dict[str, Any]:
        return {"before": 1, "rows": iter(rows), "none": iter(()), "after": None}

    async with ControlSocket(tmp_path, answer):
        assert await asked(tmp_path, "status") == {"before": 1, "rows": rows, "none": [], "after": None}


@given(st.dictionaries(st.text(), st.lists(st.integers() | st.text())))
def test_pieces_of_an_answer_make_up_its_json(answer: dict[str, Any]) -> None:
    """Whatever is in it, given as lists or by rows."""
    line = b"".join(control_socket.encoded(answer))
    assert line == b"".join(control_socket.encoded({key: iter(value) for key, value in answer.items()}))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == answer


async def test_rows_are_made_beside_the_event_loop_and_no_faster_than_they_are_taken(tmp_path: Path) -> None:
    """A client that does not read holds up neither the others nor more than some pieces in memory."""
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


async def test_a_client_that_goes_away_in_the_middle_of_an_answer_disturbs_nobody(tmp_path: Path) -> None:
    """What is left of its rows is not made; the next is answered."""
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
async def test_garbage_is_no_request(tmp_path: Path, line: bytes) -> None:
    """It is told so, reaches nobody, and the next request is heard."""
    async with ControlSocket(tmp_path, echo):
        assert json.loads(await raw(tmp_path, line)) == NOT_ONE
        assert await asked(tmp_path, "status") == {"do": "status", "paths": []}


@given(st.binary(max_size=200))
def test_no_line_crashes_the_reader(line: bytes) -> None:
    """A request, or none: whatever the bytes."""
    assert _request(line) is None or line.startswith(b"{")


@pytest.mark.parametrize("request_", [b"", b'{"do": "status"', b"x" * (REQUEST_LIMIT + 1000)])
async def test_a_request_without_an_end_is_dropped(tmp_path: Path, request_: bytes) -> None:
    """Whoever hangs up early, or never comes to an end, gets nothing; the next is heard."""
    async with ControlSocket(tmp_path, echo):
        with suppress(ConnectionError):  # hung up on before all of it was sent
            assert await raw(tmp_path, request_) == b""
        assert await asked(tmp_path, "status") == {"do": "status", "paths": []}


async def test_a_no_reaches_the_operator(tmp_path: Path) -> None:
    """With its reason and its hint."""

    async def refuse(do: str, paths: list[str]) -> dict[str, Any]:
        raise errors.FileMissing(f"nothing is known of {paths[0]}", hint="is it spelt right?")

    async with ControlSocket(tmp_path, refuse):
        with pytest.raises(errors.UploaderError, match=r"^nothing is known of /x; is it spelt right\?$"):
            await asked(tmp_path, "forget", ["/x"])


async def test_a_daemon_that_is_not_there_does_not_answer(tmp_path: Path) -> None:
    """No folder, no socket, or the socket of a daemon that was killed: then the state is asked."""
    assert await asked(tmp_path / "nowhere", "status") is None
    assert await asked(tmp_path, "status") is None
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / SOCKET_NAME))
    assert (tmp_path / SOCKET_NAME).exists()
    assert await asked(tmp_path, "status") is None


async def test_a_new_daemon_takes_a_killed_one_s_place(tmp_path: Path) -> None:
    """The socket that was left behind is replaced."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / SOCKET_NAME))
    async with ControlSocket(tmp_path, echo):
        assert await asked(tmp_path, "status") == {"do": "status", "paths": []}


async def test_a_folder_that_is_none_is_an_error_not_a_silence(tmp_path: Path) -> None:
    """Something is there, and it is not a daemon's."""
    path = tmp_path / "file"
    path.write_bytes(b"")
    with pytest.raises(errors.UploaderError, match="the daemon does not answer: Not a directory"):
        await asked(path, "status")


@pytest.mark.parametrize("half", [b"", b'{"do": "sta'])
async def test_a_daemon_that_ends_in_the_middle_is_said_so(tmp_path: Path, half: bytes) -> None:
    """Half an answer is none."""

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


async def test_a_control_that_cannot_listen_leaves_nothing_open(tmp_path: Path) -> None:
    """A folder that is gone: the error is told, and no handle stays."""
    before = open_handles()
    with pytest.raises(FileNotFoundError):
        async with ControlSocket(tmp_path / "nowhere", echo):
            pass
    assert open_handles() == before
