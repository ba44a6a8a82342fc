"""Reads the file and the environment into one ``Config``, or raises all faults at once.

The environment overrides the file, key by key (``VALT_UPLOADER_SERVER__URL``). ``STATE_DIRECTORY``, which systemd sets,
is only the default of ``state.dir``. The environment is passed in; ``os.environ`` is not read here. Loading does not
stop at the first fault, so that all can be mended at once.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from uploader.config.faults import Loc, fault_text, keys_of, near, table_in, watch_faults
from uploader.config.models import Config
from uploader.domain.errors import ConfigError
from uploader.domain.model import shown

PREFIX: Final = "VALT_UPLOADER_"
CONFIG_VARIABLE: Final = f"{PREFIX}CONFIG"  # names the file
PASSWORD_VARIABLE: Final = f"{PREFIX}PASSWORD"  # read only by ``server/credentials.py``
PROXY_PASSWORD_VARIABLE: Final = f"{PREFIX}PROXY_PASSWORD"  # likewise
DEFAULT_FILE: Final = Path("/etc/valt-uploader/config.toml")


def find_config(environ: Mapping[str, str]) -> Path:
    """Return the file to read without ``-c``: ``$VALT_UPLOADER_CONFIG``, else ``/etc/valt-uploader/config.toml``."""
    return Path(environ.get(CONFIG_VARIABLE) or DEFAULT_FILE)


def load(path: Path | None, environ: Mapping[str, str], *, need_watch: bool = True) -> Config:
    """Load the configuration from the file at *path* (``None``: no file) and from *environ*, which overrides it.

    Raises ConfigError with every fault on a line of its own: file or environment, key, what is wrong and what to do.
    Without *need_watch* a configuration without watched folders is accepted.
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
        faults[:0] = [f"{origin.of(item['loc'])}: {fault_text(item)}" for item in error.errors(include_url=False)]
    faults += [f"{origin.of(loc)}: {text}" for loc, text in watch_faults(values.get("watch", []), need_watch)]
    if config is None or faults:  # not in the handler: pydantic's exception holds the refused values
        raise ConfigError(faults)
    return config


class _EnvironKeys(Config, BaseSettings):
    """The keys in the form that pydantic-settings needs. Not instantiated, which would read ``os.environ``."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter="__")


class _EnvironSource(EnvSettingsSource):
    """Reads the values of the given environment; validation refuses a text that should have been JSON."""

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
    """Return the values that *environ* sets, and a fault for each unknown variable with our own prefix."""
    known = {CONFIG_VARIABLE, PASSWORD_VARIABLE, PROXY_PASSWORD_VARIABLE}
    for section, field in Config.model_fields.items():
        known.add(f"{PREFIX}{section}".upper())
        if section != "watch":  # a list: only as a whole
            known |= {f"{PREFIX}{section}__{key}".upper() for key in keys_of(table_in(field.annotation))}
    given = {name: value for name, value in environ.items() if name.upper().startswith(PREFIX)}
    faults = [
        f"environment: {shown(name)}: unknown variable; "
        + (near(name.upper(), known) or f"sections and keys are joined like {PREFIX}SERVER__URL")
        for name in sorted(given)
        if name.upper() not in known
    ]
    return _EnvironSource({name: given[name] for name in given if name.upper() in known})(), faults


def _read_toml(path: Path) -> dict[str, Any]:
    """Read the tables of the file. Raises ValueError with the fault if it cannot be read."""
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        fault = f"cannot be read: {error.strerror}; name another file with -c, or change its permissions"
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        fault = f"line {line}: not UTF-8 text; save the file as UTF-8"
    except tomllib.TOMLDecodeError as error:
        text, _, place = str(error).rstrip(")").rpartition(" (at ")
        fault = f"{place}: not TOML: {text}; texts need quotes, tables [brackets]"
    raise ValueError(f"{shown(path)}: {fault}")


def _merged(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    """Return *low* overridden by *high*, key by key within each section."""
    result = dict(low)
    for section, value in high.items():
        below = result.get(section)
        result[section] = {**below, **value} if isinstance(below, dict) and isinstance(value, dict) else value
    return result


@dataclass(frozen=True, slots=True)
class _Origin:
    """Knows where each value came from, so that a fault names the file or the variable to correct."""

    file: str
    from_environ: Mapping[str, Any]
    variables: Collection[str]

    def of(self, loc: Loc) -> str:
        """Return ``config.toml: watch[0].settle`` or ``environment: VALT_UPLOADER_UPLOAD__WORKERS``."""
        section = self.from_environ.get(str(loc[0]))
        is_table = isinstance(section, dict)
        if section is None or (is_table and (len(loc) == 1 or loc[1] not in section)):
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
