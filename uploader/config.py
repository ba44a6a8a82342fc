"""The configuration: a TOML file and the environment become one frozen ``Config``, or a list of all faults.

The environment overrides the file, key by key (``VALT_UPLOADER_SERVER__URL``). Must never read ``os.environ``
(it is handed in), never hold a password, never repeat in a fault a value that may hold one, and never stop at
the first fault: whoever mends a configuration wants to mend it once.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from uploader.errors import ConfigError
from uploader.mapping import check_placeholders, parse_match
from uploader.model import AfterUpload, Share, shown
from uploader.units import UNLIMITED, RateStep, parse_chunk_size, parse_duration, parse_rate, parse_schedule, quoted

PREFIX: Final = "VALT_UPLOADER_"
CONFIG_VARIABLE: Final = f"{PREFIX}CONFIG"  # names the file
PASSWORD_VARIABLE: Final = f"{PREFIX}PASSWORD"  # read by ``credentials`` alone
DEFAULT_FILE: Final = Path("/etc/valt-uploader/config.toml")
_AS_URL: Final = 'expected an address like "https://valt.example.com"'

Loc = tuple[int | str, ...]  # the way to a value: ("watch", 0, "settle")


def _above_zero(seconds: float) -> float:
    if seconds <= 0:
        raise ValueError('expected a duration above zero like "60s"')
    return seconds


def _absolute(value: object) -> object:
    """A path with ``~`` expanded. What was given is not repeated: it may be a password in the wrong place."""
    if not isinstance(value, str | Path):
        return value
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        raise ValueError("the home folder of ~ is not known here; write the path out") from None
    if not path.is_absolute() or "\0" in str(path):
        raise ValueError('expected an absolute path like "/srv/recordings"')
    return path


def _unset_if_empty(value: object) -> object:
    return None if value == "" else value


def _split_origin(url: str) -> tuple[str, str]:
    """The origin of *url* as ``scheme://host[:port]``, and its host. Raises ValueError when it is more or less."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(_AS_URL) from None
    if parts.scheme not in {"http", "https"} or not re.fullmatch(r"[\w.:%-]+", host) or re.search(r"\s", url):
        raise ValueError(_AS_URL)
    if parts.path not in {"", "/"} or "@" in url or "?" in url or "#" in url:
        raise ValueError('expected only scheme, host and port, like "https://valt.example.com:8443"')
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}" + ("" if port is None else f":{port}"), host


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if value and not (host and colon and re.fullmatch("[0-9]{1,5}", port) and int(port) < 2**16):
        raise ValueError(f'expected an address and a port like "127.0.0.1:8484", or "", got {quoted(value)}')
    return value


def _placeholders(text: str, info: ValidationInfo) -> str:
    """Check *text* against the groups of ``match``, which stands before it in ``RecordConfig``."""
    if "match" not in info.data:  # faulty itself: which groups it would have is not known
        check_placeholders(text, None)
    else:
        match = info.data["match"]
        check_placeholders(text, match.groupindex if match else ())
    return text


# Each type says in plain words what is expected where pydantic itself would speak of types.
Switch = Annotated[bool, Field(description="true or false")]
Text = Annotated[str, Field(description="text in quotes")]
Duration = Annotated[float, BeforeValidator(parse_duration)]
Timeout = Annotated[Duration, AfterValidator(_above_zero)]
Rate = Annotated[float, BeforeValidator(parse_rate)]
PathHere = Annotated[Path, BeforeValidator(_absolute), Field(description='an absolute path like "/srv/recordings"')]
OptionalPath = Annotated[
    Path | None,
    BeforeValidator(_absolute),
    BeforeValidator(_unset_if_empty),
    Field(description='an absolute path like "/etc/ssl/our-ca.pem"'),
]
Patterns = Annotated[tuple[str, ...], Field(description='a list of patterns like ["*.mp4", "*.mov"]')]
Placeholders = Annotated[str, AfterValidator(_placeholders)]


class _Table(BaseModel):
    """A table of the file: frozen, and strict about its keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerConfig(_Table):
    """``[server]``: where recordings go, and how far it is trusted. Durations in seconds."""

    allow_plaintext: Switch = False  # before ``url``, whose check needs it
    url: Annotated[str, Field(description='an address like "https://valt.example.com"')]
    username: Annotated[str, Field(description='the name of a VALT account like "uploader"')]
    password_file: OptionalPath = None
    ca_file: OptionalPath = None
    pin_sha256: Annotated[str | None, Field(description="64 hexadecimal digits")] = None
    tls_verify: Switch = True
    resend_is_safe: Switch = False
    stall_timeout: Timeout = 60.0
    doubt_settle: Duration = 20.0

    @field_validator("url")
    @classmethod
    def _origin(cls, value: str, info: ValidationInfo) -> str:
        """``scheme://host[:port]`` and nothing else: whatever else it holds may be a secret, and is not shown."""
        url, host = _split_origin(value if "://" in value else f"https://{value}")
        if url.startswith("http://") and not info.data.get("allow_plaintext", True) and not _is_loopback(host):
            raise ValueError(
                "http:// sends password and recordings unencrypted; use https://, or set server.allow_plaintext = true"
            )
        return url

    @field_validator("username")
    @classmethod
    def _not_blank(cls, value: str) -> str:
        if not value.strip():
            raise ValueError('expected the name of a VALT account like "uploader", got an empty text')
        return value

    @field_validator("ca_file")
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        try:
            if value is not None:
                value.open("rb").close()
        except OSError as error:
            raise ValueError(f"{shown(value or '')} cannot be read: {error.strerror}") from None
        return value

    @field_validator("pin_sha256")
    @classmethod
    def _hexadecimal(cls, value: str | None) -> str | None:
        digits = (value or "").replace(":", "").lower()
        if digits and not re.fullmatch("[0-9a-f]{64}", digits):
            raise ValueError("expected the SHA-256 of the server's certificate: 64 hexadecimal digits, colons allowed")
        return digits or None


class UploadConfig(_Table):
    """``[upload]``: how recordings travel. Sizes in bytes, rates in bytes per second, durations in seconds."""

    workers: Annotated[int, Field(ge=1, le=64, description="a whole number from 1 to 64")] = 4
    chunk_size: Annotated[int, BeforeValidator(parse_chunk_size)] = 16 * 1024 * 1024  # 0: "whole"
    bandwidth: Annotated[tuple[RateStep, ...], BeforeValidator(parse_schedule)] = UNLIMITED
    ready_timeout: Timeout = 1800.0
    drain: Duration = 10.0
    order: Literal["oldest", "smallest", "newest"] = "oldest"
    recording_aware: Switch = False
    recording_bandwidth: Rate = 1_250_000.0  # 10 Mbit/s


class RecordConfig(_Table):
    """``[watch.record]``: which record a file becomes; ``mapping.record_for`` applies it."""

    match: Annotated[
        re.Pattern[str] | None,
        BeforeValidator(parse_match),
        BeforeValidator(_unset_if_empty),
        Field(description="a regular expression in 'single quotes'"),
    ] = None  # before ``name`` and ``template``, whose checks need its groups
    name: Annotated[Placeholders, Field(description='text with placeholders like "{stem}"')] = "{stem}"
    template: Annotated[dict[str, Placeholders], Field(description='a table of texts like { "1" = "{stem}" }')] = Field(
        default_factory=dict
    )
    share: Annotated[Share, Field(description="a table of numbers like { users = [1, 2], groups = [4] }")] = Share()


class WatchConfig(_Table):
    """One ``[[watch]]``: a folder, which of its files count, and what becomes of them. Durations in seconds."""

    path: PathHere
    include: Patterns = (*("*.mp4", "*.mov", "*.mkv", "*.avi", "*.ts", "*.mts", "*.m4v", "*.webm", "*.mpg", "*.wmv"),)
    exclude: Patterns = ("*.part", "*.tmp", ".*", "~*")
    recursive: Switch = True
    mode: Literal["auto", "events", "poll"] = "auto"
    settle: Duration = 10.0
    rescan: Timeout = 60.0
    gate: Switch = True
    gate_timeout: Duration = 600.0
    done_marker: Text = ""
    on_duplicate: Literal["send", "skip"] = "send"
    after_upload: AfterUpload = "keep"  # before ``move_to``, whose check needs it
    move_to: Annotated[OptionalPath, Field(validate_default=True)] = None
    record: Annotated[RecordConfig, Field(description="a [watch.record] table")] = RecordConfig()

    @field_validator("move_to")
    @classmethod
    def _elsewhere(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None and info.data.get("after_upload") == "move":
            raise ValueError('is required by after_upload = "move"; name a folder like "/srv/uploaded"')
        if value is not None and value == info.data.get("path"):
            raise ValueError("is the watched folder itself; name another one")
        return value


class StateConfig(_Table):
    """``[state]``: where the daemon keeps what it must not forget."""

    dir: PathHere = Path("/var/lib/valt-uploader")


class StatusConfig(_Table):
    """``[status]``: the page, the metrics and the health check; ``""`` is off."""

    listen: Annotated[Text, AfterValidator(_listen)] = ""


class LogConfig(_Table):
    """``[log]``: how much is said, and in which form."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Config(_Table):
    """Everything that is configured, ready to use. Two are equal when they mean the same."""

    server: Annotated[ServerConfig, Field(description="a [server] table")]
    upload: Annotated[UploadConfig, Field(description="an [upload] table")] = UploadConfig()
    watch: Annotated[tuple[WatchConfig, ...], Field(description="[[watch]] tables, in double brackets")] = ()
    state: Annotated[StateConfig, Field(description="a [state] table")] = StateConfig()
    status: Annotated[StatusConfig, Field(description="a [status] table")] = StatusConfig()
    log: Annotated[LogConfig, Field(description="a [log] table")] = LogConfig()

    def not_in_force(self) -> list[str]:
        """The keys that are set away from their default although this version does not act on them."""
        found = []
        for section, key, asks_for_it in _NOT_IN_FORCE:
            if section == "watch":
                tables = [(f"watch[{index}]", watch) for index, watch in enumerate(self.watch)]
            else:
                tables = [(section, getattr(self, section))]
            found += [f"{name}.{key}" for name, table in tables if asks_for_it(getattr(table, key))]
        return found


# What is accepted and not yet acted upon: section, key, and whether a value asks for more than there is.
_NOT_IN_FORCE: Final[tuple[tuple[str, str, Callable[[Any], bool]], ...]] = (
    ("upload", "bandwidth", lambda steps: any(step.bytes_per_second is not None for step in steps)),
    ("upload", "recording_aware", bool),
    ("watch", "mode", lambda mode: mode == "poll"),
    ("watch", "done_marker", bool),
    ("watch", "on_duplicate", lambda choice: choice == "skip"),
    ("status", "listen", bool),
)


def find_config(environ: Mapping[str, str]) -> Path:
    """The file to load when none is named: ``$VALT_UPLOADER_CONFIG``, else ``/etc/valt-uploader/config.toml``."""
    return Path(environ.get(CONFIG_VARIABLE) or DEFAULT_FILE)


def load(path: Path | None, environ: Mapping[str, str], *, need_watch: bool = True) -> Config:
    """The configuration from the file at *path* (``None``: no file) and from *environ*, which overrides it.

    Raises ConfigError with every fault on a line of its own: file or environment, key, what is wrong and what
    to do. *need_watch* false accepts a configuration without any watched folder.
    """
    from_environ, faults = _read_environ(environ)
    try:
        from_file = {} if path is None else _read_toml(path)
    except ValueError as error:
        raise ConfigError([str(error), *faults]) from None
    origin = _Origin("configuration" if path is None else shown(path), from_environ, environ.keys())
    values = _merged(_merged({"server": {}}, from_file), from_environ)
    if folder := environ.get("STATE_DIRECTORY", "").partition(":")[0]:  # systemd's StateDirectory=, the first
        values = _merged({"state": {"dir": folder}}, values)
    config = None
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        faults[:0] = [_told(item, origin) for item in error.errors(include_url=False)]
    faults += [f"{origin.of(loc)}: {text}" for loc, text in _watch_faults(values.get("watch", []), need_watch)]
    if config is None or faults:  # outside of the handler: its error carries the values it refused
        raise ConfigError(faults)
    return config


class _EnvironKeys(Config, BaseSettings):
    """The keys as pydantic-settings wants to see them. Never instantiated: that would read ``os.environ``."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__")


class _EnvironSource(EnvSettingsSource):
    """The values of the environment that is handed in; a text that is not JSON is left for validation to refuse."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(_EnvironKeys)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {name.lower(): value for name, value in self._environ.items()}

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        try:
            return super().decode_complex_value(field_name, field, value)
        except ValueError:
            return value


def _read_environ(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """What *environ* sets, and a fault for each variable with our prefix that sets nothing."""
    known = {CONFIG_VARIABLE, PASSWORD_VARIABLE}
    for section, field in Config.model_fields.items():
        known.add(f"{PREFIX}{section}".upper())
        if section != "watch":  # a list: only as a whole
            known |= {f"{PREFIX}{section}__{key}".upper() for key in _keys_of(_table_in(field.annotation))}
    given = {name: value for name, value in environ.items() if name.upper().startswith(PREFIX)}
    faults = [
        f"environment: {shown(name)}: unknown variable; "
        + (_near(name.upper(), known) or f"sections and keys are joined like {PREFIX}SERVER__URL")
        for name in sorted(given)
        if name.upper() not in known
    ]
    return _EnvironSource({name: given[name] for name in given if name.upper() in known})(), faults


def _read_toml(path: Path) -> dict[str, Any]:
    """The tables of the file. Raises ValueError with the one fault that keeps it from being read."""
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        fault = f"cannot be read: {error.strerror}; name another file with -c, or mend its rights"
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        fault = f"line {line}: not UTF-8 text; save the file as UTF-8"
    except tomllib.TOMLDecodeError as error:
        text, _, place = str(error).rstrip(")").rpartition(" (at ")
        fault = f"{place}: not TOML: {text}; texts need quotes, tables [brackets]"
    raise ValueError(f"{shown(path)}: {fault}")


def _merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """*low* overridden by *high*, key by key within each section."""
    result = dict(low)
    for section, value in high.items():
        below = result.get(section)
        result[section] = {**below, **value} if isinstance(below, dict) and isinstance(value, dict) else value
    return result


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where each value came from, so that a fault names the file or the variable that must be mended."""

    file: str
    from_environ: Mapping[str, Any]
    variables: Collection[str]

    def of(self, loc: Loc) -> str:
        """``config.toml: watch[0].settle`` or ``environment: VALT_UPLOADER_UPLOAD__WORKERS``."""
        section = self.from_environ.get(str(loc[0]))
        within = isinstance(section, dict)
        if section is None or (within and (len(loc) == 1 or loc[1] not in section)):
            return f"{self.file}: {_key(loc)}"
        variables = {name.upper() for name in self.variables}
        for depth in (2, 1):
            variable = PREFIX + "__".join(str(part) for part in loc[:depth]).upper()
            if variable in variables:
                break
        rest = _key(loc[depth:])
        return f"environment: {variable}" + (f" {rest}" if rest else "")


def _key(loc: Loc) -> str:
    parts = (f"[{part}]" if isinstance(part, int) else f".{shown(part)}" for part in loc)
    return "".join(parts).removeprefix(".")


# What is not repeated, since it may be a password in the wrong place, on its own or within a table's JSON.
_SECRETIVE: Final = frozenset({"url", "password_file"})
_CONTAINER_WANTED: Final = frozenset(
    {"model_type", "model_attributes_type", "tuple_type", "dict_type", "dataclass_type"}
)


def _told(item: ErrorDetails, origin: _Origin) -> str:
    """One of pydantic's findings as a line for a person."""
    loc, kind, value = item["loc"], item["type"], item["input"]
    keys, expected = _described(loc)
    match kind:
        case "value_error":
            text = str(item["ctx"]["error"])
        case "extra_forbidden" | "unexpected_keyword_argument":
            text = f"unknown key; {_near(str(loc[-1]), keys) or 'known here are ' + ', '.join(sorted(keys))}"
        case "missing":
            text = f"is missing; give {expected}"
        case "literal_error":
            text = f"expected {item['ctx']['expected']}".replace("'", '"') + f", got {quoted(value)}"
        case _ if isinstance(value, str) and kind in _CONTAINER_WANTED:
            text = f"expected {expected}, got plain text (in the environment, lists and tables are JSON)"
        case _ if loc[-1] in _SECRETIVE:
            text = f"expected {expected}, got something else"
        case _:
            text = f"expected {expected}, got {quoted(value)}"
    return f"{origin.of(loc)}: {text}"


def _near(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else ""


def _described(loc: Loc) -> tuple[Collection[str], str]:
    """The keys of the table that *loc* points into, and what is expected there in plain words."""
    table: type | None = Config
    keys: Collection[str] = ()
    expected = "another kind of value"
    for part in loc:
        if isinstance(part, str) and table is not None:
            keys = _keys_of(table)
            field = table.model_fields.get(part) if issubclass(table, BaseModel) else None
            expected = (field and field.description) or expected
            table = _table_in(field.annotation) if field else None
    return keys, expected


def _table_in(annotation: Any) -> type | None:
    """The model or dataclass that *annotation* is, or is a list of."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and (issubclass(candidate, BaseModel) or is_dataclass(candidate)):
            return candidate
    return None


def _keys_of(table: type | None) -> list[str]:
    if table is None:
        return []
    return list(table.model_fields if issubclass(table, BaseModel) else table.__annotations__)


def _watch_faults(watch: object, need_watch: bool) -> list[tuple[Loc, str]]:
    """What is wrong with the list of folders as a whole, whatever is wrong with its entries."""
    if not isinstance(watch, list):
        return []
    if need_watch and not watch:
        return [(("watch",), 'at least one folder is required; add [[watch]] with path = "/srv/recordings"')]
    found: list[tuple[Loc, str]] = []
    first: dict[Path, int] = {}
    for index, entry in enumerate(watch):
        text = entry.get("path") if isinstance(entry, dict) else None
        if isinstance(text, str) and (at := first.setdefault(Path(text), index)) != index:
            found.append((("watch", index, "path"), f"the same folder as watch[{at}].path; remove one of them"))
    return found
