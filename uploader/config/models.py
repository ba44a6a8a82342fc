"""Defines every table of the configuration as a frozen model, with its defaults and checks.

``config/config.toml`` explains each key. Values are held in the units that the program uses: seconds, bytes, bytes per
second. A model never holds a password, and its errors never repeat a value that may be one. They do not name the file
or the variable; ``loading`` adds that.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from uploader.domain.model import AfterUpload, GateRule, ProofRule, RecordSharing, shown
from uploader.domain.placeholders import check_names, check_placeholders, parse_match
from uploader.domain.units import (
    UNLIMITED,
    RateStep,
    in_order,
    parse_chunk_size,
    parse_duration,
    parse_rate,
    quoted,
    schedule_steps,
    taken,
)

_SWITCH: Final = TypeAdapter(bool)
_AS_URL: Final = 'expected an address like "https://valt.example.com"'


def _above_zero(seconds: float) -> float:
    if seconds <= 0:
        raise ValueError('expected a duration above zero like "60s"')
    return seconds


def _absolute(value: object) -> object:
    """Expand ``~`` and require an absolute path. Errors do not repeat the value: it may be a misplaced password."""
    if not isinstance(value, str | Path):
        return value
    try:
        path = Path(value).expanduser()
    except RuntimeError:
        raise ValueError("the home folder of ~ is not known here; write the whole path") from None
    if not path.is_absolute() or "\0" in str(path):
        raise ValueError('expected an absolute path like "/srv/recordings"')
    return path


def _unset_if_empty(value: object) -> object:
    return None if value == "" else value


def _split_origin(url: str) -> tuple[str, str]:
    """Return *url* as ``scheme://host[:port]``, and its host. Raises ValueError when *url* is anything else."""
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
    """Check ``status.listen``: an address and a port, or nothing."""
    host, colon, port = value.rpartition(":")
    if value and not (host and colon and re.fullmatch("[0-9]{1,5}", port) and int(port) < 2**16):
        raise ValueError(f'expected an address and a port like "127.0.0.1:8484", or "", got {quoted(value)}')
    return value


def _marker(text: str) -> str:
    """Check ``done_marker``: the name of a file beside the recording, made from the recording's name."""
    check_names(text)
    if "/" in text or "\0" in text:
        raise ValueError(
            f'expected a name like "{{name}}.done", without folders: it lies beside its file; got {quoted(text)}'
        )
    if text.strip() in {"{name}", "{stem}{suffix}"}:
        raise ValueError('is the name of the recording itself; name another file, like "{name}.done"')
    return text


def _gate(value: object) -> GateRule:
    """Check ``gate``: a switch, or a word."""
    if value == "playable":
        return "playable"
    try:
        return _SWITCH.validate_python(value)
    except ValidationError:
        raise ValueError(f'expected true, false or "playable", got {quoted(value)}') from None


def _placeholders(text: str, info: ValidationInfo) -> str:
    """Check the placeholders of *text* against the groups of ``match``, which ``RecordConfig`` checks first."""
    if "match" not in info.data:  # ``match`` is faulty, so its groups are not known
        check_placeholders(text, None)
    else:
        match = info.data["match"]
        check_placeholders(text, match.groupindex if match else ())
    return text


# Each type describes the expected value in plain words, where pydantic would name a Python type.
Switch = Annotated[bool, Field(description="true or false")]
Text = Annotated[str, Field(description="text in quotes")]
Duration = Annotated[float, BeforeValidator(parse_duration)]
Timeout = Annotated[Duration, AfterValidator(_above_zero)]
Rate = Annotated[float, BeforeValidator(parse_rate)]
Timetable = Annotated[
    tuple[Annotated[RateStep, BeforeValidator(taken)], ...], AfterValidator(in_order), BeforeValidator(schedule_steps)
]
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
    """A table of the file: frozen; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerConfig(_Table):
    """``[server]``: the VALT server, the account, and TLS. Durations in seconds."""

    allow_plaintext: Switch = False  # stands before ``url``, whose check reads it
    url: Annotated[str, Field(description='an address like "https://valt.example.com"')]
    username: Annotated[str, Field(description='the name of a VALT account like "uploader"')]
    password_file: OptionalPath = None
    ca_file: OptionalPath = None
    pin_sha256: Annotated[str | None, Field(description="64 hexadecimal digits")] = None
    tls_verify: Switch = True
    resend_is_safe: Switch = False
    stall_timeout: Timeout = 60.0
    doubt_settle: Duration = 20.0
    probe: Literal["auto", "never"] = "auto"
    proxy: Annotated[str, Field(description='an address like "http://proxy.example.com:3128"')] = ""
    proxy_username: Text = ""
    proxy_password_file: OptionalPath = None

    @field_validator("proxy")
    @classmethod
    def _proxy_origin(cls, value: str) -> str:
        """Accept ``http://host[:port]`` or nothing. Anything else in it may be a secret, so it is not shown."""
        if not value:
            return value
        if "@" in value:
            raise ValueError(
                "has a user or a password in it, which everybody who reads it sees: set server.proxy_username, and "
                "server.proxy_password_file"
            )
        if value.lower().startswith("https://"):
            raise ValueError(
                "https:// to the proxy is not supported; use its http:// port: what is sent to an https:// server is "
                "encrypted all the way through the proxy"
            )
        try:
            return _split_origin(value if "://" in value else f"http://{value}")[0]
        except ValueError:
            raise ValueError('expected only http://, host and port, like "http://proxy.example.com:3128"') from None

    @field_validator("proxy_username")
    @classmethod
    def _proxy_is_there(cls, value: str, info: ValidationInfo) -> str:
        if value and info.data.get("proxy") == "":
            raise ValueError("has no effect without server.proxy: name the proxy there, or leave this out")
        return value

    @field_validator("url")
    @classmethod
    def _origin(cls, value: str, info: ValidationInfo) -> str:
        """Accept ``scheme://host[:port]`` only. Anything else in it may be a secret, so it is not shown."""
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
    """``[upload]``: how recordings are sent. Sizes in bytes, rates in bytes per second, durations in seconds."""

    workers: Annotated[int, Field(ge=1, le=64, description="a whole number from 1 to 64")] = 4
    chunk_size: Annotated[int, BeforeValidator(parse_chunk_size)] = 16 * 1024 * 1024  # 0: "whole"
    bandwidth: Timetable = UNLIMITED
    ready_timeout: Timeout = 1800.0
    drain: Duration = 10.0
    order: Literal["oldest", "smallest", "newest"] = "oldest"
    recording_aware: Switch = False
    recording_bandwidth: Rate = 1_250_000.0  # 10 Mbit/s
    proof: ProofRule = "auto"


class RecordConfig(_Table):
    """``[watch.record]``: name and fields of the record made for a file; ``mapping.record_for`` applies it."""

    match: Annotated[
        re.Pattern[str] | None,
        BeforeValidator(parse_match),
        BeforeValidator(_unset_if_empty),
        Field(description="a regular expression in 'single quotes'"),
    ] = None  # stands before ``name`` and ``template``, whose checks read its groups
    name: Annotated[Placeholders, Field(description='text with placeholders like "{stem}"')] = "{stem}"
    template: Annotated[dict[str, Placeholders], Field(description='a table of texts like { "1" = "{stem}" }')] = Field(
        default_factory=dict
    )
    share: Annotated[RecordSharing, Field(description="a table of numbers like { users = [1, 2], groups = [4] }")] = (
        RecordSharing()
    )


class WatchConfig(_Table):
    """One ``[[watch]]``: a folder, which of its files are sent, and what is done with them. Durations in seconds."""

    path: PathHere
    include: Patterns = (
        *("*.mp4", "*.mov", "*.mkv", "*.avi", "*.ts", "*.mts", "*.m4v", "*.webm", "*.mpg", "*.wmv"),
        *("*.mxf", "*.m2ts", "*.m2t", "*.mpeg", "*.m2p", "*.vob", "*.mod", "*.tod", "*.dv", "*.3gp", "*.3g2"),
        *("*.asf", "*.flv", "*.f4v", "*.qt", "*.mk3d", "*.ogv"),
    )
    exclude: Patterns = ("*.part", "*.tmp", ".*", "~*")
    enter: Patterns = ()
    recursive: Switch = True
    mode: Literal["auto", "events", "poll"] = "auto"
    settle: Duration = 10.0
    rescan: Timeout = 60.0
    gate: Annotated[GateRule, BeforeValidator(_gate)] = True
    gate_timeout: Duration = 600.0
    done_marker: Annotated[Text, AfterValidator(_marker)] = ""
    on_duplicate: Literal["send", "skip"] = "send"
    after_upload: AfterUpload = "keep"  # stands before ``move_to``, whose check reads it
    move_to: Annotated[OptionalPath, Field(validate_default=True)] = None
    proof: ProofRule | None = None  # None: as ``upload.proof`` says
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
    """``[state]``: the folder of the state file and the ledger."""

    dir: PathHere = Path("/var/lib/valt-uploader")


class StatusConfig(_Table):
    """``[status]``: the address of the page, the metrics and the health check; ``""`` is off."""

    listen: Annotated[Text, AfterValidator(_listen)] = ""


class LogConfig(_Table):
    """``[log]``: the level and the format of the log."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "console"] = "auto"


class Config(_Table):
    """The whole configuration, checked and ready to use. Two are equal when they mean the same."""

    server: Annotated[ServerConfig, Field(description="a [server] table")]
    upload: Annotated[UploadConfig, Field(description="an [upload] table")] = UploadConfig()
    watch: Annotated[tuple[WatchConfig, ...], Field(description="[[watch]] tables, in double brackets")] = ()
    state: Annotated[StateConfig, Field(description="a [state] table")] = StateConfig()
    status: Annotated[StatusConfig, Field(description="a [status] table")] = StatusConfig()
    log: Annotated[LogConfig, Field(description="a [log] table")] = LogConfig()

    def not_in_force(self) -> list[str]:
        """Return the keys that are set but have no effect in this version, such as ``status.listen``."""
        found = []
        for section, key, asks_for_it in _NOT_IN_FORCE:
            if asks_for_it(getattr(self, section)):
                found.append(f"{section}.{key}")
        return found


# Keys that are accepted and have no effect yet: section, key, and whether the section sets it.
_NOT_IN_FORCE: Final[tuple[tuple[str, str, Callable[[Any], bool]], ...]] = (
    ("status", "listen", lambda status: bool(status.listen)),
)
