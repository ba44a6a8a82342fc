"""The operator's commands, the changes that a reload makes to the configuration, and the random choice of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from simulation.folder import MOVED
from simulation.plan import CHUNK, SETTLE
from uploader.config import Config, RecordConfig, UploadConfig
from uploader.domain.model import EVERYTHING, RecordSharing

if TYPE_CHECKING:
    from simulation.world import World

Change = Callable[[Config], Config]
RENAMED: Final = "-renamed.mp4"
ALL_OF_A: Final = ("a*",)  # the larger file of a quiet world, and half of the files of any other


def _watch(config: Config, **changes: Any) -> Config:
    return config.model_copy(update={"watch": (config.watch[0].model_copy(update=changes),)})


def _upload(config: Config, **changes: Any) -> Config:
    return config.model_copy(update={"upload": config.upload.model_copy(update=changes)})


def _record(config: Config, **changes: Any) -> Config:
    values = config.watch[0].record.model_dump() | changes
    return _watch(config, record=RecordConfig.model_validate(values))


def _other_limits(config: Config) -> Config:
    new = UploadConfig.model_validate({"bandwidth": "1 Mbit/s"}).bandwidth
    return _upload(config, bandwidth=UploadConfig().bandwidth if config.upload.bandwidth == new else new)


# What a reload changes, by the word after ``reload`` in a command.
CHANGES: Final[dict[str, Change]] = {
    "keep": lambda config: _watch(config, after_upload="keep"),
    "delete": lambda config: _watch(config, after_upload="delete"),
    "move": lambda config: _watch(config, after_upload="move", move_to=Path(MOVED)),
    "archive": lambda config: _watch(config, after_upload="move", move_to=Path(f"{MOVED}/2")),
    "name": lambda config: _record(config, name="{stem}" if config.watch[0].record.name != "{stem}" else "new {stem}"),
    "template": lambda config: _record(config, template={} if config.watch[0].record.template else {"1": "{name}"}),
    "share": lambda config: _record(
        config, share=RecordSharing() if config.watch[0].record.share.users else RecordSharing((1,))
    ),
    "chunks": lambda config: _upload(config, chunk_size=CHUNK + 4 if config.upload.chunk_size == CHUNK else CHUNK),
    "workers": lambda config: _upload(config, workers=3 - config.upload.workers),
    "settle": lambda config: _watch(config, settle=SETTLE * (2 if config.watch[0].settle == SETTLE else 1)),
    "exclude": lambda config: _watch(config, exclude=() if config.watch[0].exclude == ALL_OF_A else ALL_OF_A),
    "limits": _other_limits,
    "nothing": lambda config: config,
}
RELOADS: Final = tuple(f"reload {change}" for change in CHANGES)
TO_A_FILE: Final = ("forget", "retry", "pause", "resume")
WHILE_STOPPED: Final = (*TO_A_FILE, "pause all", "resume all", "forget orphan", *RELOADS)
COMMANDS: Final = (*WHILE_STOPPED, "rename", "wake")

# In a quiet world nothing is parked or paused and the rule is *delete*: the other commands would do nothing there.
TRIED_AT_EACH_ACT: Final = tuple(
    command for command in COMMANDS if command not in {"resume", "resume all", "reload delete", "forget orphan"}
)
# One of these is given in a stormy world. Those that have found most faults are in it more than once.
OFTEN: Final = (*COMMANDS, *TO_A_FILE, "forget", "forget", "reload keep", "reload delete", "wake", "rename", "rename")


def chosen(world: World) -> tuple[str, str]:
    """Choose a command and the path it is given, which may be the file's name now or an earlier one.

    Parked uploads and reported orphans are chosen more often, as people do.
    """
    saved = world.disk.announced()
    parked = [upload for upload in saved["uploads"] if upload["state"] == "parked"]
    if any(orphan["landed"] for orphan in saved["orphans"]) and world.chance() < 0.3:
        return "forget orphan", world.paths[0]
    if parked and world.chance() < 0.5:
        path = parked[0]["path"]
        return TO_A_FILE[int(world.chance() * 2)], parked[0].get("renamed_to") or path if world.chance() < 0.7 else path
    command = OFTEN[int(world.chance() * len(OFTEN))]
    begun = [upload["path"] for upload in saved["uploads"]]
    among = begun if begun and world.chance() < 0.5 else world.paths
    path = among[int(world.chance() * len(among))]
    renamed = path.replace(".mp4", RENAMED)
    known = renamed in world.folder.files or (path not in world.folder.files and world.chance() < 0.5)
    return command, renamed if known and world.chance() < 0.5 else path


def named(world: World, command: str, path: str) -> tuple[str, str]:
    """Return the verb of a command and what it is about: a path, everything, an orphan's record, or a change."""
    verb, _, about = command.partition(" ")
    if about == "all":
        return verb, EVERYTHING
    if about == "orphan":
        landed = [str(orphan["record"]) for orphan in world.disk.announced()["orphans"] if orphan["landed"]]
        return verb, landed[0] if landed else "no-record"
    return verb, about or path
