"""The VALT v3 API (docs/protocol.md).

    wire.py    what goes over the wire and what comes back, as pure functions
    body.py    the body of an upload request: known length, constant memory, the mark before the last byte
    tls.py     how far TLS is trusted, and what to do when it is not
    client.py  the only user of aiohttp's client: one log-in, one origin, every failure an error of ours

Must never decide what happens to an upload: it reports, ``retry`` and ``lifecycle`` decide.

Touches: the server's sockets, TLS.
Imports: config, domain, files, runtime.
"""

from uploader.server.valt.client import Valt

__all__ = ["Valt"]
