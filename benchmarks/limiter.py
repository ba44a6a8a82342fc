"""Measures how exact, smooth and fair the bandwidth limit is on a real clock.

    .venv/bin/python benchmarks/limiter.py [--seconds 10] [--sockets] [RATE ...]

For each rate, with 1 and with 4 uploads: the bytes sent compared with the rate, the busiest 200 ms compared with the
rate, the smallest and the largest upload compared with an even part, and the CPU time. With ``--sockets`` the bytes go
over the loopback and are counted where they arrive, in the same process.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from uploader.bandwidth import Bandwidth, UploadThrottle
from uploader.config import Config
from uploader.domain.events import Bus
from uploader.domain.units import parse_rate
from uploader.runtime.clock import SystemClock

RATES = ("8 kbit/s", "1 Mbit/s", "20 Mbit/s", "1 Gbit/s", "10 Gbit/s")
WINDOW = 0.2  # s
ROOT = "/srv/recordings"

Log = list[tuple[float, int, int]]  # time, number of the throttle, bytes
Deliver = Callable[[int, int], Awaitable[None]]  # number of the throttle, bytes


def configured(rate: str) -> Config:
    """Return a configuration with this limit."""
    server = {"url": "https://valt.example.com", "username": "uploader"}
    return Config.model_validate({"server": server, "watch": [{"path": ROOT}], "upload": {"bandwidth": rate}})


async def send(throttle: UploadThrottle, number: int, deliver: Deliver) -> None:
    """Send without end, as a worker does."""
    while True:
        await deliver(number, await throttle.take(throttle.piece))


async def run(rate: str, throttles: int, seconds: float, *, sockets: bool) -> Log:
    """Send over *throttles* throttles for *seconds*; return what was sent."""
    log: Log = []

    async def note(number: int, count: int) -> None:
        log.append((time.monotonic(), number, count))

    async with AsyncExitStack() as stack:
        deliver = await stack.enter_async_context(loopback(throttles, note)) if sockets else note
        bandwidth = Bandwidth(configured(rate), SystemClock(), Bus())
        tasks = [asyncio.ensure_future(bandwidth.run())]
        tasks += [asyncio.ensure_future(send(bandwidth.throttle(ROOT), number, deliver)) for number in range(throttles)]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return log


@asynccontextmanager
async def loopback(throttles: int, note: Deliver) -> AsyncIterator[Deliver]:
    """Open a connection for each throttle to a server that logs what arrives."""
    zeros = memoryview(bytes(1 << 20))
    ended = [asyncio.Event() for _ in range(throttles)]
    writers: list[asyncio.StreamWriter] = []

    async def arrive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = int(await reader.readexactly(2))
        while block := await reader.read(1 << 20):
            await note(number, len(block))
        writer.close()
        ended[number].set()

    async def deliver(number: int, count: int) -> None:
        writers[number].write(zeros[:count])
        await writers[number].drain()

    server = await asyncio.start_server(arrive, "127.0.0.1", 0)
    for number in range(throttles):
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"%02d" % number)
        writers.append(writer)
    yield deliver
    for writer in writers:
        writer.close()
    for event in ended:
        await event.wait()
    server.close()


def busiest(log: Log) -> int:
    """Return the most bytes in any window of ``WINDOW`` seconds."""
    inside: deque[tuple[float, int]] = deque()
    total = most = 0
    for moment, _, count in log:
        inside.append((moment, count))
        total += count
        while inside[0][0] < moment - WINDOW:
            total -= inside.popleft()[1]
        most = max(most, total)
    return most


def main() -> None:
    """Measure, and print a line for each rate and number of throttles."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rates", nargs="*", default=RATES, metavar="RATE")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--sockets", action="store_true")
    options = parser.parse_args()
    print("rate        throttles   exact    busiest 200 ms   throttles' shares    pieces/s       CPU")
    for rate in options.rates:
        for throttles in (1, 4):
            began, cpu = time.monotonic(), time.process_time()
            log = asyncio.run(run(rate, throttles, options.seconds, sockets=options.sockets))
            took, cpu = time.monotonic() - began, time.process_time() - cpu
            wanted = parse_rate(rate) * options.seconds
            had = [sum(count for _, throttle, count in log if throttle == number) for number in range(throttles)]
            even, burst = sum(had) / throttles, busiest(log) / parse_rate(rate) / WINDOW
            shares = f"{min(had) / even:7.1%} {max(had) / even:7.1%}"
            exact, pieces = sum(had) / wanted - 1, len(log) / options.seconds
            print(f"{rate:10} {throttles:6} {exact:+8.2%} {burst:12.2f} x    {shares} {pieces:10.0f} {cpu / took:9.1%}")


if __name__ == "__main__":
    main()
