"""Receives request bodies as a whole before anything processes them, in memory that does not grow with their size.

nginx and PHP do the same: the application never sees a request that is cut before its last byte. The file of an upload
form is written to a spool file meanwhile.
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

READ_SIZE = 1 << 20  # bytes read from the connection at a time
_WRITE_SIZE = 4 << 20  # bytes collected per write, so that a gigabyte costs 256 calls to a thread
_PAYLOAD_LIMIT = 1 << 20  # bytes of a JSON payload that are kept; real ones are much smaller


class BodyCutError(Exception):
    """The body did not arrive completely: the client went away, or a fault cut the connection."""


@contextmanager
def _cuts() -> Iterator[None]:
    """Turn what aiohttp raises for a body that ends too soon into ``BodyCutError``."""
    try:
        yield
    except (ConnectionError, web.RequestPayloadError) as error:
        raise BodyCutError from error


class EarlyAnswerError(Exception):
    """A fault answers while the body is still arriving."""

    def __init__(self, answer: SimulatedAnswer) -> None:
        super().__init__(answer.status)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Form:
    """An upload form as PHP sees it: the part ``file``, spooled, and its size. None and 0 without one."""

    file: Path | None = None
    size: int = 0


class Intake:
    """Receives one request's body, and applies a fault to it."""

    def __init__(self, request: web.Request, fault: Fault | None, clock: Clock) -> None:
        self._request = request
        self._fault = fault
        self._clock = clock
        self._slowed = 0  # bytes that a slow fault has already delayed
        self._stalled = False

    @property
    def received(self) -> int:
        """Bytes of the body that have arrived so far."""
        return self._request.content.total_bytes

    async def payload(self) -> bytes:
        """Receive a body; of one larger than ``_PAYLOAD_LIMIT`` only the beginning is kept."""
        kept = bytearray()
        async for piece in self._pieces():
            if len(kept) < _PAYLOAD_LIMIT:
                kept += piece
        return bytes(kept)

    async def form(self, spool: Path) -> Form:
        """Receive a whole upload form, its part ``file`` into *spool*. The last such part counts, as in PHP."""
        await self._gate()
        form = Form()
        if self._request.content_type == "multipart/form-data":
            try:
                with _cuts():
                    form = await self._parts(spool)
            except (ValueError, HttpProcessingError):  # not a form
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
        """Write the part's bytes to *spool*, each batch in a thread while the next one arrives; return their number."""
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
        """Yield the rest of the body, to its end."""
        await self._gate()
        with _cuts():
            while piece := await self._request.content.readany():
                yield piece
                await self._gate()

    async def _gate(self) -> None:
        """Apply the fault to the body as far as it has arrived."""
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
