"""Reads the passwords from where the operator put them, and refuses a file that other users can read.

There are two: of the account on the server, and of the proxy if it wants one. Text that cannot be a password (UTF-16,
several lines, a blank at its end …) is refused here, so that it does not cost a log-in on the way to a locked account.

Each is read anew at each log-in, so that a changed password needs no restart. Neither the password nor any part of what
was read ever gets into an error, a log or a value that lives longer than the log-in. Of a refused password only a
``fingerprint`` is remembered: it shows whether the password has been changed, and not what it was.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import hmac
import os
import stat
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from uploader.config import PASSWORD_VARIABLE, PROXY_PASSWORD_VARIABLE, ServerConfig
from uploader.domain.errors import PasswordUnusable
from uploader.domain.model import shown

SYSTEMD_CREDENTIAL: Final = "valt-password"  # the name in systemd's LoadCredential=
PROXY_CREDENTIAL: Final = "valt-proxy-password"  # likewise
PASSWORD_SIZE_LIMIT: Final = 4096  # bytes; a longer file is not a password but the wrong file

# Follows no link, does not block on a FIFO, takes over no terminal, is not inherited by a child.
_OPEN: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_UTF16_MARKS: Final = (b"\xff\xfe", b"\xfe\xff")  # byte order marks

# Each guess at a fingerprint costs about 50 ms and 16 MiB.
_SCRYPT: Final = {"n": 2**14, "r": 8, "p": 1, "dklen": 32}

PasswordSource = Literal["credential", "file", "environment"]


@dataclass(frozen=True, slots=True)
class _Places:
    """Where a password may be: the name of a systemd credential, a key of ``[server]``, a variable."""

    what: str
    credential: str
    key: str
    variable: str


_ACCOUNT: Final = _Places("password", SYSTEMD_CREDENTIAL, "password_file", PASSWORD_VARIABLE)
_PROXY: Final = _Places("password of the proxy", PROXY_CREDENTIAL, "proxy_password_file", PROXY_PASSWORD_VARIABLE)


def read_password(server: ServerConfig, environ: Mapping[str, str]) -> str:
    """Return the password of ``server.username``, from the first of these places that has one.

    1. systemd's credential ``valt-password`` (systemd alone decides who may read that folder);
    2. ``server.password_file``: a regular file, owned by this user or by root, that no other user can read;
    3. ``$VALT_UPLOADER_PASSWORD``, which every process of the same user can see: the last resort.

    One that is there and cannot be used is an error: the next place is not tried. Raises PasswordUnusable.
    """
    return _read_from(_ACCOUNT, server, environ)


def read_proxy_password(server: ServerConfig, environ: Mapping[str, str]) -> str:
    """Return the password of ``server.proxy_username``, from its own three places; empty when there is no such user.

    They are the credential ``valt-proxy-password``, ``server.proxy_password_file``, ``$VALT_UPLOADER_PROXY_PASSWORD``.
    Raises PasswordUnusable.
    """
    return _read_from(_PROXY, server, environ) if server.proxy_username else ""


def _read_from(places: _Places, server: ServerConfig, environ: Mapping[str, str]) -> str:
    source, path = _place(places, server, environ)
    if path is not None:
        private = source == "file"
        name = f"server.{places.key} {shown(path)}" if private else f"the systemd credential {places.credential}"
        return _password(_read(path, private=private), name)
    if source == "environment":
        return _password(environ[places.variable].encode(errors="surrogateescape"), f"${places.variable}")
    raise PasswordUnusable(
        f"no {places.what} is configured",
        hint=f"set server.{places.key}, the systemd credential {places.credential}, or ${places.variable}",
    )


def basic_authorization(username: str, password: str) -> str:
    """Return the value of a Proxy-Authorization header (RFC 7617, in UTF-8). It is as secret as the password."""
    pair = f"{username}:{password}".encode("utf-8", "surrogatepass")
    return f"Basic {base64.b64encode(pair).decode('ascii')}"


def check_passwords(server: ServerConfig, environ: Mapping[str, str], remember: Callable[[str], None]) -> None:
    """Read every password that is needed, and hand it to *remember*. Raises PasswordUnusable for the first unusable."""
    remember(read_password(server, environ))
    if server.proxy_username:
        remember(read_proxy_password(server, environ))


def account(server: ServerConfig, environ: Mapping[str, str]) -> str:
    """Return server, user and password as one secret text: all a log-in depends on. Raises PasswordUnusable."""
    return "\0".join((server.url, server.username, read_password(server, environ)))


def fingerprint(secret: str, salt: bytes | None = None) -> str:
    """Return a text that identifies *secret* without revealing it: scrypt over it and a random *salt*."""
    salt = os.urandom(16) if salt is None else salt
    return f"scrypt:{salt.hex()}:{hashlib.scrypt(secret.encode('utf-8', 'surrogatepass'), salt=salt, **_SCRYPT).hex()}"


def is_of(made: str, secret: str) -> bool:
    """True when *made* is a fingerprint of *secret*; False also when it is no fingerprint at all."""
    kind, _, rest = made.partition(":")
    salt = rest.partition(":")[0]
    try:
        again = fingerprint(secret, bytes.fromhex(salt))
    except ValueError:
        return False
    return kind == "scrypt" and hmac.compare_digest(made.encode("utf-8", "surrogatepass"), again.encode())


class PasswordWatch:
    """Checks whether a secret is still the same. An unchanged one costs a comparison, a changed one a scrypt."""

    def __init__(self, read: Callable[[], str]) -> None:
        """*read* reads the secret; it may raise PasswordUnusable."""
        self._read = read
        self._key = os.urandom(32)
        self._last = b"", "", False  # digest of the secret, the fingerprint, and whether they differed

    def fingerprint(self) -> str | None:
        """The fingerprint of the secret as it is now; None when it cannot be read."""
        try:
            return fingerprint(self._read())
        except PasswordUnusable:
            return None

    def differs_from(self, made: str) -> bool:
        """True when the secret can be read and is not the one that *made* was made of."""
        try:
            secret = self._read()
        except PasswordUnusable:
            return False
        # scrypt is slow on purpose, so it runs only when something has changed.
        digest = hmac.digest(self._key, secret.encode("utf-8", "surrogatepass"), "sha256")
        if self._last[:2] != (digest, made):
            self._last = digest, made, not is_of(made, secret)
        return self._last[2]


def password_source(server: ServerConfig, environ: Mapping[str, str]) -> PasswordSource | None:
    """Return which place ``read_password`` takes the password from; None when there is none.

    Opens and reads nothing, so that place may be unusable all the same.
    """
    return _place(_ACCOUNT, server, environ)[0]


def proxy_password_source(server: ServerConfig, environ: Mapping[str, str]) -> PasswordSource | None:
    """Return which place ``read_proxy_password`` takes the password from; None when none is needed."""
    return _place(_PROXY, server, environ)[0] if server.proxy_username else None


def _place(
    places: _Places, server: ServerConfig, environ: Mapping[str, str]
) -> tuple[PasswordSource | None, Path | None]:
    """Return the first place that has a password, and its path if it is a file."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    credential = Path(folder, places.credential) if folder else None
    if credential is not None and os.path.lexists(credential):
        return "credential", credential
    file: Path | None = getattr(server, places.key)
    if file is not None:
        return "file", file
    return ("environment" if places.variable in environ else None), None


def _password(raw: bytes, source: str) -> str:
    """Decode *raw*, without the line end that editors add. Errors name the *source*, never the content."""
    if len(raw) > PASSWORD_SIZE_LIMIT:
        raise PasswordUnusable(
            f"{source} is longer than {PASSWORD_SIZE_LIMIT} bytes", hint="put the password alone into it"
        )
    if b"\0" in raw or raw.startswith(_UTF16_MARKS):
        utf16 = raw.startswith(_UTF16_MARKS) or not (0 in raw[::2] and 0 in raw[1::2])
        what = "is not UTF-8 text, but UTF-16" if utf16 else "holds bytes that are zero"
        raise PasswordUnusable(f"{source} {what}", hint="write the password again, as UTF-8")
    try:
        text = raw.decode("utf-8-sig")  # Notepad puts a byte order mark before it
    except UnicodeDecodeError:
        text = None
    if text is None:  # raised here and not above, since the decoder's error contains what it read
        raise PasswordUnusable(f"{source} is not UTF-8 text", hint="write the password again, as UTF-8")
    password = text.rstrip("\r\n")
    if odd := _oddity(password):
        what, hint = odd
        raise PasswordUnusable(f"{source} {what}", hint=hint)
    return password


def _oddity(password: str) -> tuple[str, str] | None:
    """Return why a text cannot be a password, and what to do; None when it can be one."""
    if not password:
        return "is empty", "write the password into it"
    if len(password.splitlines()) > 1:
        return "has more than one line", "put the password alone into it, in one line"
    for part, where in ((password[0], "begins"), (password[-1], "ends")):
        if part.isspace():
            return f"{where} with a blank", "take the blank away; a password that has one there must be changed"
    if any(unicodedata.category(char) in {"Cc", "Cf"} for char in password):
        return "holds an invisible character", "type the password into it anew, rather than pasting it"
    return None


def _read(path: Path, *, private: bool) -> bytes:
    """Read at most ``PASSWORD_SIZE_LIMIT`` + 1 bytes. *private*: refuse a file that others can read."""
    try:
        handle = os.open(path, _OPEN)
    except OSError as error:
        linked = error.errno == errno.ELOOP
        hint = "name the file itself, not a link to it" if linked else "name a file that this user can read"
        raise PasswordUnusable(f"{shown(path)} cannot be opened: {error.strerror}", hint=hint) from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise PasswordUnusable(f"{shown(path)} is not a regular file", hint="name a file with the password in it")
        if private:
            _demand_private(path, status)
        return os.read(handle, PASSWORD_SIZE_LIMIT + 1)
    except OSError as error:
        raise PasswordUnusable(f"{shown(path)} cannot be read: {error.strerror}") from None
    finally:
        os.close(handle)


def _demand_private(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in {os.geteuid(), 0}:
        raise PasswordUnusable(
            f"{shown(path)} belongs to another user (uid {status.st_uid}), who could replace it",
            hint=f"chown it to the user the daemon runs as (uid {os.geteuid()}) or to root",
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise PasswordUnusable(
            f"{shown(path)} can be used by others (mode {mode:04o})",
            hint=f"chmod 600 {shown(path)}; for a Docker secret, which is 0444 by default, set its uid and mode: 0400",
        )
