"""The VALT v3 API (docs/protocol.md).

    wire.py      payloads and answers, as pure functions
    answer.py    one answer, and whether VALT gave it or something before VALT did; pure
    content.py   the body of an answer as VALT meant it: unpacked, without what PHP printed around it; pure
    cookies.py   the cookies of each upload; pure
    failures.py  what an answer means that is no yes; pure
    body.py      the body of an upload request: known length, constant memory, a callback before its last byte
    sendfile.py  the socket beneath a connection, for bytes that are sent straight from a file
    breaker.py   what the client needs of a circuit breaker
    tls.py       TLS settings, and the errors of a connection that was never made
    watchdog.py  ends calls that make no progress
    broken.py    how a connection broke, or what came in place of an answer, in words
    proxy.py     the way through a proxy, and what it refuses
    session.py   connections, limits of what is read, cookies, the proxy
    server_time.py  the server's clock, from the dates of its answers
    token_deaths.py  whether another program logs in with the same account; pure
    links.py     download links: the size of a video, and its bytes
    client.py    the calls of the API: one log-in, one origin, every failure an ``UploaderError``

The client reports; what happens to an upload is decided in ``domain.retry`` and ``domain.lifecycle``.

Touches: the server's sockets, TLS.
Imports: config, domain, files, runtime.
"""

from uploader.server.valt.client import Valt

__all__ = ["Valt"]
