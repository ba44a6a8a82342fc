"""Secrets that open something for a while: access tokens and download links.

They live in memory alone, so a restart forgets them as the real server's does. Must never be written or shown.
"""

from __future__ import annotations

import base64
import json
import secrets
from typing import Generic, TypeVar

from uploader.runtime.clock import Clock

T = TypeVar("T")


class ExpiringTokens(Generic[T]):
    """What each secret opens, for *lifetime* seconds. It remembers no more than those still good."""

    def __init__(self, lifetime: float, clock: Clock) -> None:
        self._lifetime = lifetime
        self._clock = clock
        self._good: dict[str, tuple[float, T]] = {}  # in the order they end

    def issue(self, opens: T, *, form: str = "{}") -> str:
        """Make a new secret that opens *opens*; *form* puts random text in a shape."""
        now = self._clock.monotonic()
        self._good = {secret: entry for secret, entry in self._good.items() if now < entry[0]}
        secret = form.format(secrets.token_urlsafe(32))
        self._good[secret] = (now + self._lifetime, opens)
        return secret

    def opens(self, secret: str) -> T | None:
        """What *secret* opens, or None when it is unknown or too old."""
        until, opens = self._good.get(secret, (0.0, None))
        return opens if self._clock.monotonic() < until else None

    def forget_all(self) -> None:
        """Nothing issued so far opens anything any more."""
        self._good.clear()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


# Download links carry a JSON Web Token; ours has its head, and random text for the rest.
JWT_FORM = _base64url(json.dumps({"typ": "JWT", "alg": "HS256"}).encode()) + ".{0}.{0}"
