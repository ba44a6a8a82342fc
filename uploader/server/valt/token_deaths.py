"""Recognises that another program logs in as the same user: each log-in then ends the token of the other. Pure.

The sign is a token that is refused soon after its log-in, again and again. Two programs that each log in anew at once
would do so for ever. So from the ``SHARED_AFTER``-th such token on, log-ins are spaced: 5 s, doubling to 5 minutes. A
token that works for ``SHORT_LIFE`` seconds ends that.
"""

from __future__ import annotations

from typing import Final

from uploader.domain import errors

SHORT_LIFE: Final = 120.0  # s; a token that is refused earlier than that after its log-in was ended by somebody
MEMORY: Final = 900.0  # s; a token that ended longer ago says nothing of the next one
SHARED_AFTER: Final = 3  # tokens with a short life, one after the other
PAUSE_FIRST, PAUSE_CAP = 5.0, 300.0  # s between the end of a token and the next log-in


class TokenDeaths:
    """Counts the tokens that had a short life. All times are seconds of the monotonic clock."""

    def __init__(self) -> None:
        self._count = 0  # tokens with a short life, one after the other
        self._ended_at = 0.0  # when the last of them was refused
        self._unused = 0  # tokens, one after the other, that were refused before any call had succeeded with them

    @property
    def shared(self) -> bool:
        """True when another program seems to log in as this user."""
        return self._count >= SHARED_AFTER

    @property
    def in_vain(self) -> bool:
        """True when another log-in now would hardly help."""
        return self.shared or self._unused > 1

    def ended(self, age: float, now: float) -> None:
        """Note that a token is refused, *age* seconds after its log-in."""
        if age >= SHORT_LIFE or now - self._ended_at > MEMORY:
            self._count = 0
        self._unused += 1
        if age < SHORT_LIFE:
            self._count, self._ended_at = self._count + 1, now

    def worked(self, age: float) -> None:
        """Note that a call with a token has succeeded, *age* seconds after its log-in."""
        self._unused = 0
        if age >= SHORT_LIFE:
            self._count = 0

    def was_valid(self) -> None:
        """Take back that the last token had ended: the next one, too, is refused for one call only."""
        self._count, self._unused = max(0, self._count - 1), 0

    def log_in_now(self) -> None:
        """Let the next log-in be made at once: the operator wants it."""
        self._count = self._unused = 0

    def wait(self, now: float) -> float:
        """Return the seconds until the next log-in may be made."""
        if not self.shared:
            return 0.0
        pause = min(PAUSE_CAP, PAUSE_FIRST * 2.0 ** min(self._count - SHARED_AFTER, 30))
        return max(0.0, self._ended_at + pause - now)

    def error(self, what: str, now: float) -> errors.AccountShared:
        """Return the error for a call that cannot be made, or that was refused with a new token."""
        hint = "another program logs in as this user; give each uploader an account of its own"
        if not self.shared:
            hint = f"if this goes on, {hint}"
        return errors.AccountShared(what, hint=hint, retry_after=self.wait(now))
