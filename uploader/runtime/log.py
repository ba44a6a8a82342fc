"""The log: structlog on top of the standard library's logging. One event is one line, with secrets masked.

Every line passes through the one handler made here, whether it comes from this program, a library, a warning or an
uncaught exception. The handler never prints a password or a token. No text can begin a line of its own. A line that
cannot be written is dropped and counted; it neither stops nor delays the daemon.

The level applies to this program's own events. Libraries are logged from WARNING on, even at debug: an HTTP library at
debug writes URLs, and a URL of this API contains the token.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import select
import string
import sys
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import Enum
from math import isfinite
from pathlib import PurePath
from traceback import walk_tb
from types import TracebackType
from typing import Any, Final, Literal, TextIO
from urllib.parse import quote

import structlog
from structlog.typing import EventDict, WrappedLogger

from uploader.domain.model import shown

Format = Literal["auto", "json", "console"]

LOGGER_ROOT: Final = "uploader"  # the root of this program's loggers
MASK: Final = "***"
SECRETS_REMEMBERED: Final = 16  # secrets; a log-in adds two, the password and a token
SHORTEST_SECRET: Final = 4  # characters
MESSAGE_LIMIT: Final = 2000  # characters of an event's text; only libraries write that much
TRACE_LIMIT: Final = 4000  # characters of an exception with its frames and causes
FRAMES_SHOWN: Final = 12  # the innermost frames of each exception
NESTING_LIMIT: Final = 4  # nested containers in a field, and causes of an exception
WRITE_TIMEOUT_MS: Final = 100  # how long a line waits for a reader that has kept up so far

_SENSITIVE_KEYS: Final = frozenset({"access_token", "password", "token"})
_KEY = r"(access_token|password|token)"
_WORDS: Final = ("password", "token")  # each key contains one of them
_PATTERNS: Final = (
    # access_token=abc and its percent-encoded form
    re.compile(rf"(?i){_KEY}(=|%3D)(?!\\*[\"'])[^&\s\"']+"),
    # "access_token": "abc", password='a b'; the closing quote may have been cut off
    re.compile(rf"(?i){_KEY}([\"']?\s*[:=]\s*([\"']))(?:\\.|(?!\3).)+"),
    # the same inside a string that is quoted itself: \"token\": \"abc\"
    re.compile(rf"(?i){_KEY}((?:\\+[\"'])?\s*[:=]\s*\\+[\"'])[^\"'\\]+"),
)
# Characters that no encoding and no quoting changes.
_UNCHANGED: Final = frozenset(string.ascii_letters + string.digits + "-._~")


class Redactor:
    """Masks the secrets it has been given, and whatever looks like one, in any text.

    A secret of fewer than ``SHORTEST_SECRET`` characters is not remembered: masking each "a" would garble every line,
    and reveal the secret by what is missing. The patterns still mask it in forms like ``password=a``.
    """

    def __init__(self) -> None:
        self._secrets: dict[str, re.Pattern[str]] = {}  # the newest last

    def remember(self, secret: str) -> None:
        """Mask *secret* from now on: plain, percent-encoded and backslash-escaped. The last 16 are kept."""
        if len(secret) < SHORTEST_SECRET:
            return
        secrets = {known: pattern for known, pattern in self._secrets.items() if known != secret}
        secrets[secret] = re.compile("".join(_any_form(char) for char in secret))
        # Replaced as a whole, since another thread may be masking a line at the same time.
        self._secrets = dict(list(secrets.items())[-SECRETS_REMEMBERED:])

    def mask(self, text: str) -> str:
        """Return *text* with every remembered secret replaced by ``***``."""
        for pattern in self._secrets.values():
            text = pattern.sub(MASK, text)
        return text

    def clean(self, text: str) -> str:
        """Return *text* without the remembered secrets and without the values of ``token=…`` and the like."""
        text = self.mask(text)
        folded = text.casefold()
        if any(word in folded for word in _WORDS):  # most texts have neither word, so the slow patterns are skipped
            for pattern in _PATTERNS:
                text = pattern.sub(rf"\1\2{MASK}", text)
        return text


def _any_form(char: str) -> str:
    """Return a pattern for *char* as itself or as URLs, JSON, ``repr`` and ``shown`` write it."""
    if char in _UNCHANGED:
        return re.escape(char)
    percent = re.sub("%", "%(?:25)*", quote(char, safe="", errors="surrogateescape"))  # encoded twice, too
    units = char.encode("utf-16-be", "surrogatepass")
    utf16 = "".join(rf"\\+u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))
    forms = [r"\\*" + re.escape(char), f"(?i:{percent})", f"(?i:{utf16})", rf"(?i:\\+U{ord(char):08x})"]
    forms += [rf"(?i:\\+u{ord(char):x})", rf"(?i:\\+x{ord(char) & 0xFF:02x})"]
    if char == " ":
        forms.append(r"\+")
    return f"(?:{'|'.join(forms)})"


redactor: Final = Redactor()


class LineHandler(logging.Handler):
    """Writes each event as one line, at once, or drops and counts it.

    Not a ``StreamHandler``: a text stream keeps what it could not write, tries again at exit and changes the exit code
    to 120. It also waits without limit for a reader that has stopped reading.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self.dropped = 0
        self._stream = stream
        self._fd = _descriptor(stream)
        self._stalled = False  # the last line was not written
        self._torn = False  # the last line was written in part: the next one begins on a new line

    def emit(self, record: logging.LogRecord) -> None:
        """Write *record*. Raises nothing."""
        try:
            # Its texts are clean already. The patterns would take JSON's own quotes for those of a value.
            line = redactor.mask(self.format(record)) + "\n"
            self._write(line.encode("utf-8", "backslashreplace"))
        except Exception:  # noqa: BLE001 - a field's repr may raise anything; a log line must not stop the daemon
            self.dropped += 1
            self._stalled = True
        else:
            self._stalled = False

    def _write(self, line: bytes) -> None:
        if self._fd is None:
            self._stream.write(line.decode())
            return
        if self._torn:
            line = b"\n" + line
        while line:
            if not _writable(self._fd, 0 if self._stalled else WRITE_TIMEOUT_MS):
                raise BlockingIOError
            # No more than a pipe takes without blocking once it is writable.
            line = line[os.write(self._fd, line[: select.PIPE_BUF]) :]
            self._torn = bool(line)


def _writable(descriptor: int, timeout_ms: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(timeout_ms))


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, AttributeError):
        return None


def dropped() -> int:
    """Return how many lines could not be written since ``configure``."""
    return sum(handler.dropped for handler in logging.getLogger().handlers if isinstance(handler, LineHandler))


def configure(level: str, fmt: Format, *, environ: Mapping[str, str], stream: TextIO | None = None) -> None:
    """Set up the log; may be called again, as after a reload of the configuration.

    *level*: debug, info, warning or error. *fmt*: ``auto`` is console on a terminal and JSON elsewhere, so JSON under
    systemd, whose journal is not a terminal. Terminals get colours unless ``$NO_COLOR`` is set. *stream*: by default
    standard error. Raises ValueError for an unknown level.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"unknown log level: {shown(level)}")
    stream = sys.stderr if stream is None else stream
    terminal = stream.isatty()
    console = fmt == "console" or (fmt == "auto" and terminal)
    colours = terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    renderer = (
        structlog.dev.ConsoleRenderer(
            colors=colours, sort_keys=False, timestamp_key="time", pad_event_to=0, pad_level=True
        )
        if console
        else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    handler = LineHandler(stream)
    form = [_tidy, _for_people, renderer] if console else [_tidy, renderer]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=form))
    handler.addFilter(_own_or_serious)
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, LineHandler)]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    root.setLevel(max(number, logging.WARNING))
    logging.getLogger(LOGGER_ROOT).setLevel(number)
    logging.captureWarnings(capture=True)
    logging.raiseExceptions = False


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of the module *name*, below ``LOGGER_ROOT``."""
    inside = name == LOGGER_ROOT or name.startswith(f"{LOGGER_ROOT}.")
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name if inside else f"{LOGGER_ROOT}.{name}")
    return logger


def install_hooks(loop: asyncio.AbstractEventLoop | None = None) -> None:
    """Send uncaught exceptions to the log: those of the main thread, other threads, destructors and *loop*."""
    log = get_logger(__name__)

    def of_main(kind: type[BaseException], exc: BaseException, trace: TracebackType | None) -> None:
        del kind, trace  # the exception has both
        if not isinstance(exc, KeyboardInterrupt):
            log.critical("uncaught exception", exc_info=exc)

    def of_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
            thread = args.thread.name if args.thread else "?"
            log.critical("uncaught exception in a thread", thread=thread, exc_info=args.exc_value)

    def of_destructor(args: sys.UnraisableHookArgs) -> None:
        log.error("exception ignored", where=repr(args.object), exc_info=args.exc_value)

    def of_loop(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        exc = context.get("exception")
        message = context.get("message", "unhandled exception in the event loop")
        log.error(str(message), exc_info=exc if isinstance(exc, BaseException) else None)

    sys.excepthook = of_main
    threading.excepthook = of_thread
    sys.unraisablehook = of_destructor
    if loop is not None:
        loop.set_exception_handler(of_loop)


def _own_or_serious(record: logging.LogRecord) -> bool:
    own = record.name == LOGGER_ROOT or record.name.startswith(f"{LOGGER_ROOT}.")
    return own or record.levelno >= logging.WARNING


def _tidy(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Return the event as it is printed: time, level, event, logger, then its fields, with secrets masked."""
    record: logging.LogRecord = event.pop("_record")
    event.pop("_from_structlog")
    event.pop("stack_info", None)
    trace = _exception(event.pop("exc_info", None))
    moment = datetime.fromtimestamp(record.created, UTC)
    line: EventDict = {
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "event": shown(redactor.clean(str(event.pop("event", ""))), MESSAGE_LIMIT),
        "logger": shown(record.name),
    }
    for key, value in _plain_items(event):
        # The renderers treat these keys specially, so a field with such a name is renamed.
        line[f"{key}_" if key in {*line, "exception", "stack", "exc_info", "logger_name"} else key] = value
    if trace is not None:
        line["trace"] = shown(redactor.clean(_described(trace)), TRACE_LIMIT)
    return line


def _for_people(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Return the event as a terminal shows it: in local time, and without the logger if it is one of this program's."""
    event["time"] = datetime.fromisoformat(event["time"]).astimezone().strftime("%H:%M:%S")
    if event["logger"].split(".")[0] == LOGGER_ROOT:
        del event["logger"]
    return event


def _exception(exc_info: object) -> BaseException | None:
    """Return the exception in any form of logging's ``exc_info``."""
    if isinstance(exc_info, tuple):
        exc_info = exc_info[1]
    elif exc_info and not isinstance(exc_info, BaseException):
        exc_info = sys.exception()
    return exc_info if isinstance(exc_info, BaseException) else None


def _described(exc: BaseException, depth: int = NESTING_LIMIT) -> str:
    """Return *exc* with its frames, innermost first, and its causes in one line; never with local variables."""
    frames = [
        f"{PurePath(frame.f_code.co_filename).name}:{line} {frame.f_code.co_qualname}"
        for frame, line in walk_tb(exc.__traceback__)
    ]
    text = f"{type(exc).__name__}: {exc}"
    if frames:
        text += f" (at {' < '.join(reversed(frames[-FRAMES_SHOWN:]))})"
    cause = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
    if depth > 0 and isinstance(exc, BaseExceptionGroup):
        text += f" [{'; '.join(_described(inner, depth - 1) for inner in exc.exceptions)}]"
    if depth > 0 and cause is not None:
        text += f", from {_described(cause, depth - 1)}"
    return text


def _plain_items(mapping: Mapping[Any, object], depth: int = NESTING_LIMIT) -> Iterator[tuple[str, object]]:
    for key, value in mapping.items():
        name = shown(redactor.clean(str(key)))
        yield name, MASK if name.lower() in _SENSITIVE_KEYS else _plain(value, depth)


def _plain(value: object, depth: int) -> object:
    """Return *value* as a JSON value, its texts masked and escaped.

    Secrets are masked before a text is cut or escaped, since a part of a secret would not be recognised. A number that
    contains a secret becomes a masked text, so that masking the finished line cannot break it.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, int | float):
        text = redactor.clean(repr(value))
        return value if text == repr(value) and isfinite(value) else text
    if isinstance(value, Mapping) and depth > 0:
        return dict(_plain_items(value, depth - 1))
    if isinstance(value, list | tuple | set | frozenset) and depth > 0:
        return [_plain(item, depth - 1) for item in value]
    if isinstance(value, BaseException):
        value = f"{type(value).__name__}: {value}"
    return shown(redactor.clean(str(value) if isinstance(value, str | PurePath) else repr(value)))


# At import, so that the loggers of all modules are set up from the start.
structlog.configure(
    processors=[
        structlog.stdlib.filter_by_level,
        structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
    ],
    logger_factory=structlog.stdlib.LoggerFactory(),
    wrapper_class=structlog.stdlib.BoundLogger,
)
