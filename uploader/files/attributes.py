"""Gives a copy the owner, group, rights, extended attributes and times of its original, as far as that is permitted.

POSIX ACLs are extended attributes (``system.posix_acl_access``). Only root may give a file to another owner; a file
system may not know what another one does. What could not be kept is returned, so that it can be said.

All functions block, and work on open files.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

OWNER, GROUP, RIGHTS, TIMES = "owner", "group", "rights", "times"
# They belong to one inode or one file system, and mean nothing, or something else, on another.
BOUND: Final = ("security.selinux", "security.ima", "security.evm", "trusted.overlay.", "user.overlay.")


def copy_attributes(source: int, copied: int) -> frozenset[str]:
    """Copy everything but the content between two open files. Returns what could not be kept."""
    status, lost = os.fstat(source), set[str]()
    lost |= _copy_owner(status, copied)
    # With another owner or group, a set-user-ID or set-group-ID bit would give somebody else's rights.
    mode = status.st_mode & (0o1777 if lost else 0o7777)
    _try(lambda: os.fchmod(copied, mode), RIGHTS, lost)
    for name in _attributes(source):  # after the rights: an ACL is more than they can say
        _try(lambda name=name: os.setxattr(copied, name, os.getxattr(source, name)), name, lost)  # type: ignore[misc]
    _try(lambda: os.utime(copied, ns=(status.st_atime_ns, status.st_mtime_ns)), TIMES, lost)
    return frozenset(lost)


def _copy_owner(status: os.stat_result, copied: int) -> set[str]:
    """Give the copy the owner and the group, or the group alone."""
    now, lost = os.fstat(copied), set[str]()
    if (now.st_uid, now.st_gid) == (status.st_uid, status.st_gid):
        return lost
    _try(lambda: os.fchown(copied, status.st_uid, status.st_gid), OWNER, lost)
    if lost and now.st_gid != status.st_gid:
        _try(lambda: os.fchown(copied, -1, status.st_gid), GROUP, lost)
    if lost and now.st_uid == status.st_uid:
        lost.discard(OWNER)  # only the group was another one
    return lost


def _attributes(source: int) -> list[str]:
    try:
        return [name for name in os.listxattr(source) if not name.startswith(BOUND)]
    except OSError:  # the file system knows none
        return []


def _try(act: Callable[[], None], what: str, lost: set[str]) -> None:
    try:
        act()
    except OSError:
        lost.add(what)
