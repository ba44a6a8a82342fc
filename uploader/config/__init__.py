"""The configuration: one frozen ``Config``, from a TOML file and the environment, or all its faults at once.

    models.py    what is configured: the tables, their defaults, what each value must be
    loading.py   how it is read: file and environment, and which of them comes first
    faults.py    how what is wrong with it is said

Must never read ``os.environ`` (it is handed in), and never hold a password: ``credentials`` reads that.

Touches: the configuration file; the environment is passed in.
Imports: domain.
"""

from uploader.config.loading import CONFIG_VARIABLE, DEFAULT_FILE, PASSWORD_VARIABLE, PREFIX, find_config, load
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
