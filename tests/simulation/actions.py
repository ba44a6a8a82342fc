"""What recorders, people and machines do to a world while the product works."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from simulation.plan import SETTLE

if TYPE_CHECKING:
    from simulation.world import World

Action = Callable[["World", str], None]


def _grow(world: World, path: str) -> None:
    """A recorder appends, with pauses shorter than the settle time."""
    file = world.folder.files.get(path)
    content = b"" if file is None else file.data
    for number in range(1 + int(world.chance() * 4)):
        content += world.content(4)
        world.after(number * SETTLE * 0.8 * world.chance(), world._writes(path, content))


def _replace(world: World, path: str) -> None:
    world.folder.write(path, world.content(1 + int(world.chance() * 24)), new=True)


def _rewrite(world: World, path: str) -> None:
    """A recorder replaces the content by other bytes of the same length."""
    file = world.folder.files.get(path)
    if file is not None:
        world.folder.write(path, world.content(max(0, len(file.data) - 4)))


def _cut(world: World, path: str) -> None:
    file = world.folder.files.get(path)
    if file is not None and len(file.data) > 5:
        world.folder.write(path, file.data[: 5 + int(world.chance() * (len(file.data) - 5))])


def _touch(world: World, path: str) -> None:
    world.folder.touch(path)


def _rename(world: World, path: str) -> None:
    world.folder.rename(path, path.replace(".mp4", "-renamed.mp4"))


def _remove(world: World, path: str) -> None:
    world.folder.remove(path)


def _unmount(world: World, path: str) -> None:
    del path
    world.folder.away = "the share is not mounted"

    def back() -> None:
        world.folder.away = ""

    world.after(5 + 60 * world.chance(), back)


def _jump(world: World, path: str) -> None:
    """Somebody sets the clock."""
    del path
    world.set_clock()


def _down(world: World, path: str) -> None:
    """The server is away for some minutes."""
    del path
    world.go_down(10 + 120 * world.chance())


def _port_closed(world: World, path: str) -> None:
    """The port that download links lead to is closed for some minutes."""
    del path
    world.server.hands_out = False

    def opened() -> None:
        world.server.hands_out = True

    world.after(60 + 600 * world.chance(), opened)


def _odd_host(world: World, path: str) -> None:
    """From now on the host that download links lead to answers HEAD with 405, or tells no sizes."""
    del path
    if world.plan.seed % 2:
        world.server.tells_sizes = False
    else:
        world.server.answers_head = False


def _limit(world: World, path: str) -> None:
    """For some seconds the server takes smaller requests only."""
    del path
    world.server.limit = 3 + int(world.chance() * 4)

    def lifted() -> None:
        world.server.limit = world.receiver.limit

    world.after(1 + 60 * world.chance(), lifted)


def _late_file(world: World, path: str) -> None:
    world.folder.write(path.replace(".mp4", "-late.mp4"), world.content(1 + int(world.chance() * 24)))


ACTIONS: Final[dict[str, Action]] = {
    "grow": _grow,
    "replace": _replace,
    "rewrite": _rewrite,
    "cut": _cut,
    "touch": _touch,
    "rename": _rename,
    "remove": _remove,
    "unmount": _unmount,
    "jump": _jump,
    "down": _down,
    "port closed": _port_closed,
    "odd host": _odd_host,
    "limit": _limit,
    "late file": _late_file,
}


def rewrite_quietly(world: World) -> None:
    """Put other bytes into a half-sent file while no process runs, and set its old mtime.

    One that was sent whole may be touched so unnoticed: who it is is told by size and mtime (docs/reliability.md).
    """
    path = world.paths[int(world.chance() * len(world.paths))]
    file = world.folder.files.get(path)
    half_sent = any(
        upload["path"] == path and upload["state"] == "sending" and upload["offset"]
        for upload in world.disk.announced()["uploads"]
    )
    if file is not None and half_sent:
        world.folder.write(path, world.content(len(file.data) - 4), mtime_ns=file.mtime_ns)
