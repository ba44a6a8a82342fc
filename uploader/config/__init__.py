"""Loads the configuration: one frozen ``Config`` from a TOML file and the environment, or all its faults at once.

    models.py    the tables, their keys and defaults, and the checks of each value
    loading.py   reads the file and the environment, which overrides the file
    faults.py    describes what is wrong with a value

A ``Config`` never holds a password: ``server.credentials`` reads it.

Touches: the configuration file; the environment is passed in.
Imports: domain.
"""

from uploader.config.loading import (
    CONFIG_VARIABLE,
    DEFAULT_FILE,
    PASSWORD_VARIABLE,
    PREFIX,
    PROXY_PASSWORD_VARIABLE,
    find_config,
    load,
)
from uploader.config.models import (
    Config,
    LogConfig,
    RecordConfig,
    ServerConfig,
    StateConfig,
    StatusConfig,
    UploadConfig,
    WatchConfig,
)

__all__ = [
    "CONFIG_VARIABLE",
    "DEFAULT_FILE",
    "PASSWORD_VARIABLE",
    "PREFIX",
    "PROXY_PASSWORD_VARIABLE",
    "Config",
    "LogConfig",
    "RecordConfig",
    "ServerConfig",
    "StateConfig",
    "StatusConfig",
    "UploadConfig",
    "WatchConfig",
    "find_config",
    "load",
]
