"""A VALT server that discards everything as fast as it arrives.

    python -m benchmarks.sink [--tls CERT KEY] [--delay SECONDS]

It prints its port. Bodies of uploads are dropped inside the kernel (``MSG_TRUNC``, without a copy); under TLS they are
decrypted into one buffer. Each connection has a thread. ``benchmarks.raw`` shows how fast it is.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from email.utils import formatdate

BUFFER = 1 << 20  # bytes
_number = itertools.count(1)
counts: Counter[str] = Counter()  # calls, by name
sizes: dict[str, int] = {}  # by record: bytes of its video, once it is complete
first_upload: list[float] = []  # Unix seconds at which the first bytes of an upload arrived


class Connection:
    """One connection of a client."""

    def __init__(self, peer: socket.socket, delay: float) -> None:
        self._peer, self._delay = peer, delay
        self._buffer = bytearray(BUFFER)
        self._rest = b""
        self._flags = 0 if isinstance(peer, ssl.SSLSocket) else socket.MSG_TRUNC

    def serve(self) -> None:
        """Answer requests until the client closes the connection."""
        with contextlib.suppress(OSError), self._peer:
            self._peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while (head := self._head()) is not None:
                line, *lines = head.split(b"\r\n")
                if b"/videos/" in line and not first_upload:
                    first_upload.append(time.time())
                headers = dict(each.lower().split(b": ", 1) for each in lines)
                if headers.get(b"expect"):
                    self._peer.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                self._drop(int(headers.get(b"content-length", 0)))
                if self._delay:
                    time.sleep(self._delay)
                path = line.split(b" ")[1].split(b"?")[0].decode()
                _note_end(path, headers.get(b"content-range", b"").decode())
                if path.startswith("/distribution/"):
                    self._hand_out(path)
                else:
                    self._answer(path, headers.get(b"host", b"").decode())

    def _head(self) -> bytes | None:
        while b"\r\n\r\n" not in self._rest:
            got = self._peer.recv(65536)
            if not got:
                return None
            self._rest += got
        head, self._rest = self._rest.split(b"\r\n\r\n", 1)
        return head

    def _drop(self, length: int) -> None:
        length -= len(self._rest)
        self._rest = b""
        while length > 0:
            got = self._peer.recv_into(self._buffer, min(length, BUFFER), self._flags)
            if not got:
                raise ConnectionError
            length -= got

    def _hand_out(self, path: str) -> None:
        """Answer HEAD with the size of the video."""
        counts["size"] += 1
        head = b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: %d\r\n\r\n"
        self._peer.sendall(head % sizes[path.split("/")[2]])

    def _answer(self, path: str, host: str) -> None:
        name, status, body = answer_to(path, f"{'https' if isinstance(self._peer, ssl.SSLSocket) else 'http'}://{host}")
        counts[name] += 1
        text = b"" if body is None else json.dumps(body).encode()
        head = b"HTTP/1.1 %s\r\nDate: %s\r\nContent-Length: %d\r\n\r\n"
        self._peer.sendall(head % (status, formatdate(usegmt=True).encode(), len(text)) + text)


def _note_end(path: str, content_range: str) -> None:
    """Note that a record's video is complete, if this was the last chunk."""
    span, _, total = content_range.removeprefix("bytes ").partition("/")
    if span and int(span.partition("-")[2]) + 1 == int(total):
        sizes[path.split("/")[4]] = int(total)


def answer_to(path: str, origin: str) -> tuple[str, bytes, object]:
    """Return the name of a call, its status and its answer."""
    match path.removeprefix("/api/v3").split("/")[1:]:
        case ["login"]:
            return "login", b"200 OK", {"data": {"access_token": "token"}}
        case ["records", "create-upload"]:
            number = next(_number)
            return "create", b"200 OK", {"id": f"record-{number}", "videos": [f"video-{number}"]}
        case ["records", _, "videos", _]:
            return "upload", b"201 Created", None
        case ["records", record]:
            video = {"id": record.replace("record", "video"), "status": {"type": "ready"}}
            known = {"id": record, "name": "", "created": int(time.time()), "author": {"name": "uploader"}}
            return "details", b"200 OK", {"data": known | {"videos": [video] if record in sizes else None}}
        case ["records", "download", record, video]:
            return "link", b"200 OK", {"url": f"{origin}/distribution/{record}/{video}.mp4?access_token=link"}
        case ["admin", "general"]:
            return "version", b"200 OK", {"data": {"version": "6.7.2"}}
        case ["counts"]:
            return "counts", b"200 OK", {**counts, "first_upload": first_upload}
        case _:
            return "other", b"200 OK", {"data": {"records": []}}


def serve(listener: socket.socket, context: ssl.SSLContext | None, delay: float) -> None:
    """Accept connections for ever."""
    while True:
        peer, _ = listener.accept()
        threading.Thread(target=_one, args=(peer, context, delay), daemon=True).start()


def _one(peer: socket.socket, context: ssl.SSLContext | None, delay: float) -> None:
    with contextlib.suppress(OSError):
        Connection(peer if context is None else context.wrap_socket(peer, server_side=True), delay).serve()


def main() -> None:
    """Listen on a free port of the loopback."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"))
    parser.add_argument("--delay", type=float, default=0.0)
    options = parser.parse_args()
    context = None
    if options.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*options.tls)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        print(listener.getsockname()[1], flush=True)
        threading.Thread(target=serve, args=(listener, context, options.delay), daemon=True).start()
        sys.stdin.read()  # until the parent process has ended


if __name__ == "__main__":
    main()
