"""The system calls of the product's own ``StateFolder``, simulated, and what a power cut leaves of them.

Bytes are durable after fsync of the file, names after fsync of the folder. Of the rest a power cut keeps a random
prefix: of the operations on names in their order, and of each file's bytes. A kill alone loses nothing.
"""

from __future__ import annotations

import errno
import io
import json
import os as real_os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NoReturn, Protocol

from uploader.store import disk as product
from uploader.store.disk import Piece, StateFolder

STATE: Final = "state.json"
LEDGER: Final = "ledger.jsonl"


class Ground(Protocol):
    """What the disk needs from the world."""

    life: int

    def act(self, life: int, what: str) -> None:
        """Number a system call. Raises ``Dead`` when the process is killed here, or was killed before."""

    def chance(self) -> float:
        """Return a random number from 0 to 1."""

    def disk_refuses(self) -> bool:
        """True when this write is to fail."""

    def fail(self, what: str) -> NoReturn:
        """Note that an invariant is broken, and end everything."""


@dataclass(eq=False)
class Inode:
    """A file: its content, and the part of it that is durable."""

    data: bytes = b""
    durable: bytes = b""


class Handle(int):
    """A file descriptor with its file; ``inode`` is None for the folder itself."""

    disk: Disk
    life: int
    inode: Inode | None


@dataclass(eq=False)
class Disk:
    """The folder. It survives every life of the process."""

    ground: Ground
    names: dict[str, Inode] = field(default_factory=dict)
    durable: dict[str, Inode] = field(default_factory=dict)
    moves: list[tuple[str, str, Inode | None]] = field(default_factory=list)  # dropped, set, since the last fsync
    promised: bytes | None = None  # the last state whose save has returned
    tried: list[bytes] = field(default_factory=list)  # states whose save has begun since
    read_in: int = -1  # the last life that has read it
    ledger: bytes = b""  # lines whose append has returned
    on_save: Callable[[], None] | None = None  # called when a save has returned
    on_append: Callable[[bytes], None] | None = None  # called with each line whose append has returned

    def lose_power(self) -> None:
        """Keep what is durable, and a prefix of the rest."""
        names = dict(self.durable)
        for old, new, inode in self.moves[: int(self.ground.chance() * (len(self.moves) + 1))]:
            names.pop(old, None)
            if inode is not None:
                names[new] = inode
        self.names, self.durable, self.moves = names, dict(names), []
        for inode in {id(inode): inode for inode in names.values()}.values():
            if inode.data != inode.durable:
                inode.data = inode.durable = self._remains(inode)

    def _remains(self, inode: Inode) -> bytes:
        kept = inode.durable
        if not inode.data.startswith(kept):  # cut shorter: one or the other
            return kept if self.ground.chance() < 0.5 else inode.data
        rest = inode.data[len(kept) :]
        count = int(self.ground.chance() * (len(rest) + 1))
        zeros = len(rest) - count if self.ground.chance() < 0.3 else 0  # the length was written, the bytes were not
        return kept + rest[:count] + bytes(zeros)

    def set_name(self, name: str, inode: Inode) -> None:
        """Give a file a name."""
        self.names[name] = inode
        self.moves.append(("", name, inode))

    def drop_name(self, name: str) -> Inode:
        """Take a name away. Raises ``FileNotFoundError``."""
        if name not in self.names:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", name)
        self.moves.append((name, "", None))
        return self.names.pop(name)

    def move_name(self, old: str, new: str) -> None:
        """Move a name over another: one operation of the journal. Raises ``FileNotFoundError``."""
        inode = self.drop_name(old)
        self.names[new] = inode
        self.moves[-1] = old, new, inode

    def sync_names(self) -> None:
        """Make the names durable."""
        self.durable, self.moves = dict(self.names), []

    def is_durable(self, name: str) -> bool:
        """True when a power cut would leave this file as it is."""
        inode = self.names[name]
        return self.durable.get(name) is inode and inode.durable == inode.data

    def announced(self) -> dict[str, Any]:
        """Return what the last completed save holds: a power cut now would leave at least that."""
        content = self.promised
        if content is None:
            return {"uploads": [], "orphans": []}
        if self._announced[0] is not content:
            self._announced = content, json.loads(content)
        return self._announced[1]

    _announced: tuple[bytes, dict[str, Any]] = (b"", {})


class Calls:
    """``os`` as ``store.disk`` uses it, for descriptors of a simulated folder; all other calls are the real ones."""

    def __getattr__(self, name: str) -> Any:
        return getattr(real_os, name)

    @staticmethod
    def _number(fd: int, what: str) -> Handle:
        if not isinstance(fd, Handle):
            raise TypeError(f"{what} on a real descriptor")
        fd.disk.ground.act(fd.life, what)
        return fd

    def open(self, name: Any, flags: int, mode: int = 0o777, *, dir_fd: Any = None) -> int:
        """Open a file of the folder."""
        del mode
        folder = self._number(dir_fd, f"open {name}")
        disk = folder.disk
        inode = disk.names.get(name)
        if inode is None:
            if not flags & real_os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, "No such file or directory", name)
            self._room(folder)
            inode = Inode()
            disk.set_name(name, inode)
        elif flags & real_os.O_EXCL:
            raise FileExistsError(errno.EEXIST, "File exists", name)
        return handle(disk, folder.life, inode)

    @staticmethod
    def _room(fd: Handle) -> None:
        if fd.disk.ground.disk_refuses():
            raise OSError(errno.ENOSPC, "No space left on device")

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Append, as the product only ever does. A refused write may leave a part of its bytes."""
        known = self._number(fd, "write")
        assert known.inode is not None
        if known.disk.ground.disk_refuses():
            known.inode.data += bytes(data)[: int(known.disk.ground.chance() * len(data))]
            raise OSError(errno.ENOSPC, "No space left on device")
        known.inode.data += bytes(data)
        return len(data)

    def fsync(self, fd: int) -> None:
        """Make bytes, or the folder's names, durable."""
        known = self._number(fd, "fsync")
        if known.disk.ground.disk_refuses():
            raise OSError(errno.EIO, "Input/output error")
        if known.inode is None:
            known.disk.sync_names()
        else:
            known.inode.durable = known.inode.data

    def ftruncate(self, fd: int, size: int) -> None:
        """Cut a file."""
        inode = self._number(fd, "ftruncate").inode
        assert inode is not None
        inode.data = inode.data[:size]

    def rename(self, old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        """Move a name over another, in one step."""
        known = self._number(src_dir_fd, f"rename {old} {new}")
        del dst_dir_fd
        self._room(known)
        known.disk.move_name(old, new)

    def link(self, old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int, follow_symlinks: bool) -> None:
        """Give a file a second name."""
        known = self._number(src_dir_fd, f"link {old} {new}")
        del dst_dir_fd, follow_symlinks
        self._room(known)
        if old not in known.disk.names:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", old)
        if new in known.disk.names:
            raise FileExistsError(errno.EEXIST, "File exists", new)
        known.disk.set_name(new, known.disk.names[old])

    def unlink(self, name: str, *, dir_fd: int) -> None:
        """Take a name away."""
        self._number(dir_fd, f"unlink {name}").disk.drop_name(name)

    def listdir(self, fd: int) -> list[str]:
        """List the folder."""
        assert isinstance(fd, Handle)
        return list(fd.disk.names)

    def fstat(self, fd: int) -> Any:
        """Return the size of a file."""
        assert isinstance(fd, Handle)
        assert fd.inode is not None
        return SimpleNamespace(st_size=len(fd.inode.data), st_mode=0o100600)

    def stat(self, name: str, *, dir_fd: int, follow_symlinks: bool) -> Any:
        """Return what has this name."""
        assert isinstance(dir_fd, Handle)
        assert not follow_symlinks
        return SimpleNamespace(st_mode=0o100600, st_size=len(dir_fd.disk.names[name].data))

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """Read a part."""
        inode = self._number(fd, "pread").inode
        assert inode is not None
        return inode.data[offset : offset + length]

    def fdopen(self, fd: int, mode: str) -> io.BytesIO:
        """Read a whole file."""
        del mode
        inode = self._number(fd, "read").inode
        assert inode is not None
        return io.BytesIO(inode.data)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        assert isinstance(fd, Handle)


def handle(disk: Disk, life: int, inode: Inode | None) -> Handle:
    """Make a descriptor."""
    fd = Handle(1000)
    fd.disk, fd.life, fd.inode = disk, life, inode
    return fd


class Folder(StateFolder):
    """The product's state folder on a simulated disk. It notes which saves were confirmed, and checks what is read."""

    def __init__(self, disk: Disk) -> None:
        self.folder = Path("/state")
        self._disk = disk
        self._lock = None
        self._unfinished = {}
        self._owner = real_os.stat_result((0,) * 10)
        self._dir = handle(disk, disk.ground.life, None)
        self._make_durable()

    def read(self, name: str) -> bytes | None:
        """Read as the product does. A state must be the last one whose save returned, or one begun after it (I6)."""
        content, disk = super().read(name), self._disk
        if name == STATE and disk.promised is not None and content != disk.promised and content not in disk.tried:
            disk.ground.fail(f"I6: the state is not the last one that was saved, nor a later one: {content!r}")
        disk.read_in = disk.ground.life
        if content is not None and disk.is_durable(name):
            self._promise(name, content)
        return content

    def size(self, name: str) -> int | None:
        """Return the size of a file. No confirmed line of the ledger may be missing when it is opened (I6)."""
        size, disk = super().size(name), self._disk
        if name == LEDGER:
            content = b"" if size is None else disk.names[name].data
            if not content.startswith(disk.ledger):
                disk.ground.fail("I6: lines of the ledger that were durable are gone")
            if size is not None and disk.is_durable(name):
                self._promise(name, content)
        return size

    def _promise(self, name: str, content: bytes) -> None:
        if name == STATE:
            self._disk.promised, self._disk.tried = content, []
        elif name == LEDGER:
            self._disk.ledger = content[: content.rfind(b"\n") + 1]  # an incomplete line was never confirmed

    def replace(self, name: str, *content: Piece) -> None:
        """Replace as the product does, and note that the save was confirmed."""
        whole = b"".join(content)
        if name == STATE:
            self._disk.tried.append(whole)
        super().replace(name, *content)
        self._promise(name, whole)
        if name == STATE and self._disk.on_save is not None:
            self._disk.on_save()

    def append(self, name: str, content: bytes) -> None:
        """Append as the product does, and note that the line was confirmed."""
        super().append(name, content)
        self._promise(name, self._disk.names[name].data)
        if name == LEDGER and self._disk.on_append is not None:
            self._disk.on_append(content)


CALLS: Final = Calls()


def install() -> None:
    """Direct the system calls of the product's ``StateFolder`` to the simulated disk."""
    product.os = CALLS  # type: ignore[assignment,attr-defined]


def uninstall() -> None:
    """Undo ``install``."""
    product.os = real_os  # type: ignore[attr-defined]
