"""Sends a file with ``sendfile`` in a loop and nothing else: the fastest that the sink can be served.

python -m benchmarks.raw URL FILE
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit


def main() -> None:
    """Send one file."""
    url, path = urlsplit(sys.argv[1]), Path(sys.argv[2])
    with socket.create_connection((url.hostname or "", url.port or 80)) as peer, path.open("rb") as file:
        size = path.stat().st_size
        began, cpu = time.perf_counter(), time.process_time()
        peer.sendall(b"POST /api/v3/records/a/videos/b HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size)
        sent = 0
        while sent < size:
            sent += os.sendfile(peer.fileno(), file.fileno(), sent, size - sent)
        peer.recv(4096)
        wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"wall": wall, "cpu": cpu, "peak": peak}))


if __name__ == "__main__":
    main()
