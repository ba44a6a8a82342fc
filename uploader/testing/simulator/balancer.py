"""Plays a load balancer with a sticky cookie before two nodes, each of which knows its own records alone.

A request without the cookie goes to either node, in an order without a rhythm, and its answer sets the cookie. A node
answers 404 to calls about a record that was made on the other one. Both accept every token.
"""

from __future__ import annotations

from http.cookies import CookieError, SimpleCookie
from typing import Final

NODES: Final = ("a", "b")
COOKIE: Final = "SERVERID"  # as HAProxy's documentation calls it


class Balancer:
    """Chooses a node for each request, and remembers which node has which record."""

    def __init__(self) -> None:
        self._next = 0
        self._homes: dict[str, str] = {}  # the node of each record, by its id

    def choose(self, cookies: str) -> tuple[str, str]:
        """Return the node for a request with this Cookie header, and the Set-Cookie header of its answer, or ""."""
        try:
            named = SimpleCookie(cookies).get(COOKIE)
        except CookieError:
            named = None
        if named is not None and named.value in NODES:
            return named.value, ""
        node = NODES[self._next.bit_count() % len(NODES)]  # the Thue-Morse sequence: a b b a b a a b
        self._next += 1
        return node, f"{COOKIE}={node}; Path=/; HttpOnly"

    def made(self, record: str, node: str) -> None:
        """Note that *record* was made on *node*."""
        self._homes[record] = node

    def knows(self, node: str, record: str) -> bool:
        """True when *node* has *record*. One that was there before the start is on both."""
        return self._homes.get(record, node) == node
