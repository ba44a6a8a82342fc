"""A copy in another file system has what its original has, as far as that is permitted; what it lacks is said once."""

from __future__ import annotations

import errno
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from harness import Rig
from parts import at

from uploader.domain import events
from uploader.files import attributes
from uploader.files.attributes import copy_attributes

SETXATTR = os.setxattr
ACL = "system.posix_acl_access"
# Version 2; user 4711 may read and write; owner rw, group r, mask rw, others none. See linux/posix_acl_xattr.h.
RULES = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in ((1, 6, 2**32 - 1), (2, 6, 4711), (4, 4, 2**32 - 1), (16, 6, 2**32 - 1), (32, 0, 2**32 - 1))
)


@contextmanager
def two_files(folder: Path) -> Iterator[tuple[int, int]]:
    """An original with attributes of every kind, and an empty copy."""
    source, copied = (os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o600) for name in ("original", "copy"))
    try:
        os.setxattr(source, "user.room", b"7")
        os.utime(source, (1000, 2000))
        yield source, copied
    finally:
        os.close(source)
        os.close(copied)


def refused(*args: Any, **kwargs: Any) -> None:
    """What a file system says that does not know, or does not permit, something."""
    raise OSError(errno.EPERM, "Operation not permitted", args, kwargs)


def test_a_copy_keeps_what_its_original_has(tmp_path: Path) -> None:
    """Rights, attributes and times; nothing is reported."""
    with two_files(tmp_path) as (source, copied):
        os.fchmod(source, 0o640)
        assert copy_attributes(source, copied) == frozenset()
        status = os.fstat(copied)
        assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o640, 2000)
        assert os.getxattr(copied, "user.room") == b"7"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file to another owner")
def test_root_keeps_owner_group_and_access_list(tmp_path: Path) -> None:
    """As ``mv`` does; the rights and the ACL fit together."""
    with two_files(tmp_path) as (source, copied):
        os.fchown(source, 4711, 4712)
        os.fchmod(source, 0o2640)
        try:
            os.setxattr(source, ACL, RULES)
        except OSError:
            pytest.skip("this file system has no ACLs")
        assert copy_attributes(source, copied) == frozenset()
        status = os.fstat(copied)
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (4711, 4712, 0o2660)
        assert os.getxattr(copied, ACL) == os.getxattr(source, ACL)


def test_what_is_not_permitted_is_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One refusal keeps nothing else from being copied, and no foreign owner's rights are given."""
    with two_files(tmp_path) as (source, copied):
        os.fchmod(source, 0o6755)
        real = os.fstat
        status = SimpleNamespace(
            st_mode=0o106755, st_uid=os.getuid() + 1, st_gid=os.getgid() + 1, st_atime_ns=0, st_mtime_ns=5
        )
        monkeypatch.setattr(os, "fstat", lambda fd: status if fd == source else real(fd))
        monkeypatch.setattr(os, "fchown", refused)
        monkeypatch.setattr(os, "setxattr", refused)
        assert copy_attributes(source, copied) == {"owner", "group", "user.room"}
        monkeypatch.undo()
        assert stat.S_IMODE(os.fstat(copied).st_mode) == 0o755


def test_what_belongs_to_one_inode_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels of the target's own policy, and marks of an overlay."""
    with two_files(tmp_path) as (source, _):
        names = ["security.selinux", "trusted.overlay.opaque", "user.room"]
        monkeypatch.setattr(os, "listxattr", lambda _: names)
        assert attributes._attributes(source) == ["user.room"]


async def test_what_a_copy_lacks_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For each archive; the file is moved all the same."""
    done = tmp_path / "done"
    link = os.link

    def across(source: str, target: str, **more: Any) -> None:  # the state folder is on one file system
        if source.endswith(".mp4"):
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, target, **more)

    monkeypatch.setattr(os, "link", across)
    monkeypatch.setattr(os, "setxattr", refused)
    async with Rig(tmp_path, watch={"after_upload": "move", "move_to": str(done)}) as rig:
        await rig.start()
        for name in ("a.mp4", "b.mp4"):
            path = rig.write(name, name.encode())
            SETXATTR(path, "user.room", b"7")
            await rig.scan()
            await rig.finished(path)
            assert not at(path).exists()
            assert (done / name).read_bytes() == name.encode()
        (said,) = rig.seen(events.AttributesNotKept)
        assert (said.folder, said.what) == (str(done), "user.room")
