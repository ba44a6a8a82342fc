"""The body of an upload request: its length is known, and its end is held back until the mark is saved."""

from __future__ import annotations

from typing import Any, cast

import pytest
from aiohttp.abc import AbstractStreamWriter
from sources import Blocks

from uploader.server.port import Throttle
from uploader.server.valt.body import FIRST_PIECE_SIZE, ChunkBody
from uploader.server.valt.client import NO_THROTTLE

HEAD, TAIL = b"HEAD\r\n\r\n", b"\r\n--b--\r\n"


class Wire:
    """A socket that keeps what it was given, beside what else happened, in order."""

    def __init__(self) -> None:
        self.log: list[Any] = []

    async def write(self, data: Any) -> None:
        """Take *data*."""
        self.log.append(bytes(data))

    @property
    def sent(self) -> bytes:
        """All bytes so far."""
        return b"".join(entry for entry in self.log if isinstance(entry, bytes))


def body_of(
    wire: Wire, source: Blocks, length: int, *, throttle: Throttle = NO_THROTTLE, fails: Exception | None = None
) -> ChunkBody:
    """A body that notes on the wire's log when its last byte was announced."""

    async def before_last_byte() -> None:
        wire.log.append("mark")
        if fails is not None:
            raise fails

    def progress(count: int) -> None:
        if count:
            wire.log.append(count)

    return ChunkBody(
        (HEAD, TAIL), source, (0, length), throttle=throttle, before_last_byte=before_last_byte, on_progress=progress
    )


async def write(body: ChunkBody, wire: Wire) -> None:
    """Send the body as aiohttp does."""
    await body.write(cast("AbstractStreamWriter", wire))


async def test_a_body_is_as_long_as_it_says() -> None:
    """Content-Length is known before the first byte: head, chunk and tail."""
    wire = Wire()
    body = body_of(wire, Blocks(b"abc", b"de"), 5)
    await write(body, wire)
    assert wire.sent == HEAD + b"abcde" + TAIL
    assert body.size == len(wire.sent)


async def test_the_end_goes_only_after_its_mark() -> None:
    """Rule 4: until the mark is saved, the server cannot have seen the chunk; progress follows each piece."""
    wire = Wire()
    body = body_of(wire, Blocks(b"abc", b"de"), 5)
    await write(body, wire)
    assert wire.log == [HEAD, b"abc", 3, b"de", 2, "mark", TAIL]
    assert body.last_byte_may_have_gone
    assert body.failure is None


async def test_the_size_of_pieces_follows_the_speed_of_the_link() -> None:
    """So that progress of a slow link is visible, and a fast one is not slowed down."""
    wire = Wire()
    await write(body_of(wire, Blocks(b"x" * (8 * FIRST_PIECE_SIZE)), 8 * FIRST_PIECE_SIZE), wire)
    assert [entry for entry in wire.log if isinstance(entry, int)] == [
        FIRST_PIECE_SIZE,
        2 * FIRST_PIECE_SIZE,
        4 * FIRST_PIECE_SIZE,
        FIRST_PIECE_SIZE,
    ]  # the last is what is left


@pytest.mark.parametrize("where", ["file", "mark"])
async def test_an_error_during_a_body_leaves_its_end_unsent(where: str) -> None:
    """A changed file, or a mark that cannot be saved: the server never gets a whole request."""
    wire, error = Wire(), ValueError("stopped")
    source = Blocks(b"abc", then=error if where == "file" else None)
    body = body_of(wire, source, 3, fails=error if where == "mark" else None)
    with pytest.raises(ValueError, match="stopped"):
        await write(body, wire)
    assert wire.sent == HEAD + b"abc"
    assert (body.last_byte_may_have_gone, body.failure) == (False, error)


async def test_a_body_cannot_be_read_as_one_piece() -> None:
    """It is streamed, so that memory stays bounded."""
    with pytest.raises(TypeError, match="never decoded"):
        body_of(Wire(), Blocks(), 0).decode()


class Turnstile:
    """A throttle that lets through so many bytes at a time, and counts its calls."""

    def __init__(self, most: int) -> None:
        self.most, self.granted = most, [0]

    async def take(self, wanted: int) -> int:
        """Allow some of it."""
        self.granted.append(min(wanted, self.most))
        return self.granted[-1]


async def test_the_bandwidth_limit_is_asked_once_for_each_piece() -> None:
    """For as many bytes as are then sent."""
    wire, throttle = Wire(), Turnstile(1000)
    await write(body_of(wire, Blocks(b"x" * 2500, b"y" * 300), 2800, throttle=throttle), wire)
    assert throttle.granted[1:] == [1000, 1000, 500, 300]
    assert [entry for entry in wire.log if isinstance(entry, int)] == throttle.granted[1:]
