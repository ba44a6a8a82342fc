"""Secrets that give access for a limited time: access tokens and download links.

They are kept in memory only, so a restart forgets them, as the real server does. They are never written or shown.
"""

from __future__ import annotations

import base64
import json
import secrets
from typing import Generic, TypeVar

from uploader.runtime.clock import Clock

T = TypeVar("T")


class ExpiringTokens(Generic[T]):
    """Secrets that are valid for *lifetime* seconds, and what each gives access to. Expired ones are forgotten."""

    def __init__(self, lifetime: float, clock: Clock) -> None:
        self._lifetime = lifetime
        self._clock = clock
        self._valid: dict[str, tuple[float, T]] = {}  # in the order in which they expire

    def issue(self, opens: T, *, form: str = "{}") -> str:
        """Make a new secret for *opens*; *form*: a format string for its random text."""
        now = self._clock.monotonic()
        self._valid = {secret: entry for secret, entry in self._valid.items() if now < entry[0]}
        secret = form.format(secrets.token_urlsafe(32))
        self._valid[secret] = (now + self._lifetime, opens)
        return secret

    def opens(self, secret: str) -> T | None:
        """Return what *secret* gives access to, or None when it is unknown or expired."""
        until, opens = self._valid.get(secret, (0.0, None))
        return opens if self._clock.monotonic() < until else None

    def forget_all(self) -> None:
        """Make all secrets issued so far invalid."""
        self._valid.clear()


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


# Real download links carry a JSON Web Token; this one has its head, and random text for the rest.
JWT_FORM = _base64url(json.dumps({"typ": "JWT", "alg": "HS256"}).encode()) + ".{0}.{0}"
