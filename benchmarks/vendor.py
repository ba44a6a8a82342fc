"""Sends a file as the vendor's client and many scripts do: reads all of it, builds the form in memory, posts it.

python -m benchmarks.vendor URL FILE
"""

from __future__ import annotations

import http.client
import json
import resource
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

BOUNDARY = "a-boundary"


def main() -> None:
    """Send one file."""
    url, path = urlsplit(sys.argv[1]), Path(sys.argv[2])
    began, cpu = time.perf_counter(), time.process_time()
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{path.name}"\r\n\r\n'
    content = path.read_bytes()
    body = head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
    connection = http.client.HTTPConnection(url.hostname or "", url.port)
    connection.request(
        "POST",
        "/api/v3/records/a/videos/b",
        body,
        {
            "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
            "Content-Range": f"bytes 0-{len(content) - 1}/{len(content)}",
        },
    )
    connection.getresponse().read()
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"wall": wall, "cpu": cpu, "peak": peak}))


if __name__ == "__main__":
    main()
