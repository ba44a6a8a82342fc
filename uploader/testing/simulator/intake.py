"""How request bodies come in: whole, before anything looks at them, in memory that does not grow with them.

This is what nginx and PHP do: a request that is cut before its last byte is never seen by the application. The
file of an upload form goes to a spool file on the way. Must never decide what a request means.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from uploader.runtime.clock import Clock
from uploader.testing.simulator.faults import Fault, fault_answer
from uploader.testing.simulator.wire import SimulatedAnswer

READ_SIZE = 1 << 20  # bytes asked of the connection at a time
_WRITE_SIZE = 4 << 20  # bytes gathered per write, so that a gigabyte costs 256 hops to a thread
_PAYLOAD_LIMIT = 1 << 20  # bytes of a JSON payload that are kept; no honest one comes near


class BodyCutError(Exception):
    """The body did not come to its end: the client went away, or a fault cut the connection."""


@contextmanager
def _cuts() -> Iterator[None]:
    """Turn what aiohttp raises for a body that ends too soon into ours."""
    try:
        yield
    except (ConnectionError, web.RequestPayloadError) as error:
        raise BodyCutError from error


class EarlyAnswerError(Exception):
    """A fault answers while the body is still on its way."""

    def __init__(self, answer: SimulatedAnswer) -> None:
        super().__init__(answer.status)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Form:
    """What PHP makes of an upload form: the part ``file``, spooled, and its size. None and 0 without one."""

    file: Path | None = None
    size: int = 0


class Intake:
    """One request's body, with the fault that strikes it on its way."""

    def __init__(self, request: web.Request, fault: Fault | None, clock: Clock) -> None:
        self._request = request
        self._fault = fault
        self._clock = clock
        self._slowed = 0  # bytes that a slow fault has already paid for
        self._stalled = False

    @property
    def received(self) -> int:
        """Bytes of the body that have come in so far."""
        return self._request.content.total_bytes

    async def payload(self) -> bytes:
        """Receive a small body whole; of a large one only the beginning is kept."""
        kept = bytearray()
        async for piece in self._pieces():
            if len(kept) < _PAYLOAD_LIMIT:
                kept += piece
        return bytes(kept)

    async def form(self, spool: Path) -> Form:
        """Receive an upload form whole, its part ``file`` into *spool*. The last one counts, as in PHP."""
        await self._gate()
        form = Form()
        if self._request.content_type == "multipart/form-data":
            try:
                with _cuts():
                    form = await self._parts(spool)
            except (ValueError, HttpProcessingError):  # not a form after all
                form = Form()
        async for _ in self._pieces():
            pass
        return form

    async def _parts(self, spool: Path) -> Form:
        form = Form()
        reader = await self._request.multipart()
        while (part := await reader.next()) is not None:
            if not isinstance(part, BodyPartReader):  # a form within the form
                await part.release()
            elif part.name == "file" and part.filename is not None:
                form = Form(spool, await self._spool(part, spool))
            else:
                while await part.read_chunk(READ_SIZE):
                    await self._gate()
        return form

    async def _spool(self, part: BodyPartReader, spool: Path) -> int:
        """Write the part's bytes to *spool*, each batch in a thread while the next one comes in."""
        loop = asyncio.get_running_loop()
        size = 0
        batch: list[bytes] = []
        gathered = 0
        with spool.open("wb", buffering=0) as sink:
            writing = loop.run_in_executor(None, sink.writelines, [])
            try:
                while piece := await part.read_chunk(READ_SIZE):
                    batch.append(piece)
                    gathered += len(piece)
                    if gathered >= _WRITE_SIZE:
                        await writing
                        writing = loop.run_in_executor(None, sink.writelines, batch)
                        size, gathered, batch = size + gathered, 0, []
                    await self._gate()
            finally:
                await writing
            await loop.run_in_executor(None, sink.writelines, batch)
        return size + gathered

    async def _pieces(self) -> AsyncIterator[bytes]:
        """What is left of the body, to its very end."""
        await self._gate()
        with _cuts():
            while piece := await self._request.content.readany():
                yield piece
                await self._gate()

    async def _gate(self) -> None:
        """Let the fault have its way with the body, as far as it has come."""
        fault = self._fault
        if fault is None:
            return
        reached = self.received >= (fault.after_bytes or 0)
        match fault.kind:
            case "cut-body" if reached:
                raise BodyCutError
            case "status" if reached and fault.after_bytes is not None:
                raise EarlyAnswerError(fault_answer(fault))
            case "stall" if reached and fault.after_bytes is not None and not self._stalled:
                self._stalled = True
                await fault.stand_still(self._clock)
            case "slow":
                fresh = self.received - self._slowed
                self._slowed = self.received
                await self._clock.sleep(fresh / fault.rate)
            case _:
                pass
