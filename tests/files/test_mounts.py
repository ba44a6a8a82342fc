"""The mount table, what it says of a folder, and the limits of inotify."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from uploader.domain.model import MountIdentity
from uploader.files import mounts
from uploader.files.mounts import Mount, identity_of, inotify_limit, mode_for, mount_of, out_of_inotify, parse
from uploader.files.mounts import too_many_folders as too_many

TABLE = r"""
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
36 21 0:52 / /mnt/nas rw,relatime shared:9 master:1 - cifs //nas/rec rw,vers=3.1.1
37 21 0:53 /day /mnt/one\040two rw - fuse.sshfs user@host:/srv rw
38 21 254:0 /srv/real /mnt/bind rw - ext4 /dev/vda rw
39 21 0:54 / /mnt/tab\011\134end rw - tmpfs
40 21 0:55 / /mnt/nosource rw - tmpfs none rw
a line that is none
41 21
"""


def test_the_mount_table_is_read_by_its_mount_ids() -> None:
    """With optional fields or without, escapes undone; an invalid line is skipped."""
    table = parse(TABLE)
    assert table[36] == Mount(36, "/", "/mnt/nas", "cifs", "//nas/rec")
    assert table[37] == Mount(37, "/day", "/mnt/one two", "fuse.sshfs", "user@host:/srv")
    assert set(table) == {21, 36, 37, 38, 40}


@pytest.mark.parametrize(
    ("fstype", "network"),
    [
        *((name, True) for name in ("cifs", "smb3", "nfs", "nfs4", "fuse.sshfs", "fuse", "9p", "vboxsf", "virtiofs")),
        *((name, False) for name in ("ext4", "xfs", "btrfs", "tmpfs", "overlay", "fuseblk", "exfat", "zfs")),
    ],
)
def test_file_systems_that_other_hosts_write_to_are_polled(fstype: str, *, network: bool) -> None:
    """``auto``: events on a local disk, scans alone on a share; the reason names the file system."""
    mode = mode_for("auto", Mount(1, "/", "/mnt", fstype, "somewhere"))
    assert mode.events is not network
    assert fstype in mode.why
    assert ("scans alone" in str(mode)) is network


def test_a_configured_mode_overrides_the_detected_one() -> None:
    """``events`` and ``poll`` apply everywhere; on an unknown file system events are tried beside scans."""
    nas = Mount(1, "/", "/mnt", "nfs4", "nas:/rec")
    assert str(mode_for("events", nas)) == 'events and scans (mode = "events")'
    assert str(mode_for("poll", None)) == 'scans alone (mode = "poll")'
    assert mode_for("auto", None).events


def test_an_open_folder_is_found_in_the_table(tmp_path: Path) -> None:
    """By its handle, so that a later mount at its path changes nothing."""
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        found = mount_of(fd)
        assert found is not None
        assert str(tmp_path).startswith(found.point)
        assert mount_of(fd, lambda: TABLE.replace("254:0", "9:9").replace("21 1", "999999 1")) is None
    finally:
        os.close(fd)
    assert mount_of(fd) is None


def test_a_mount_identity_is_the_place_inside_the_file_system(tmp_path: Path) -> None:
    """It is the same through each mount; it has the source of a share, but not of a local disk."""
    (tmp_path / "rec").mkdir()
    fd = os.open(tmp_path / "rec", os.O_RDONLY)
    try:
        straight = identity_of("/w", fd, Mount(1, "/", "/", "ext4", "/dev/vda"))
        assert straight == MountIdentity("/w", "ext4", "", f"{tmp_path}/rec")
        bound = identity_of("/w", fd, Mount(2, f"{tmp_path}", f"{tmp_path}", "ext4", "/dev/vdb"))
        assert bound == straight
        share = identity_of("/w", fd, Mount(3, "/", f"{tmp_path}", "cifs", "//nas/rec"))
        assert share == MountIdentity("/w", "cifs", "//nas/rec", "/rec")
        assert identity_of("/w", fd, None) == MountIdentity("/w", "", "", "")
    finally:
        os.close(fd)


def test_inotify_limits_are_read_from_proc(tmp_path: Path) -> None:
    """As numbers; a missing or invalid one is unknown."""
    (tmp_path / "max_user_watches").write_text("8192\n")
    (tmp_path / "odd").write_text("many")
    assert inotify_limit("max_user_watches", tmp_path) == 8192
    assert inotify_limit("odd", tmp_path) is None
    assert inotify_limit("not there", tmp_path) is None


def test_too_many_folders_are_reported_with_the_sysctl() -> None:
    """From nine tenths of the limit on, as exceeding it is silent; the recommended number is large enough."""
    assert too_many(8_999, 10_000) == ""
    assert too_many(8_999, None) == ""
    assert "9000 folders need a watch each, and fs.inotify.max_user_watches = 10000" in too_many(9_000, 10_000)
    assert "sysctl fs.inotify.max_user_watches=20000 brings events back" in too_many(9_000, 10_000)
    assert "sysctl fs.inotify.max_user_watches=80000" in too_many(40_000, 10_000)


@pytest.mark.parametrize(
    ("words", "sysctl"),
    [
        ("OSError: OS file watch limit reached. (os error 28)", "fs.inotify.max_user_watches"),
        ("WatchfilesRustInternalError: Too many open files (os error 24)", "fs.inotify.max_user_instances"),
        ("RuntimeError: Unable to decode path", ""),
    ],
)
def test_an_error_of_the_watcher_names_its_inotify_limit(words: str, sysctl: str) -> None:
    """The two limits are told apart; any other error names none."""
    said = out_of_inotify(words)
    assert bool(said) is bool(sysctl)
    assert sysctl in said


def test_the_table_of_this_process_is_read() -> None:
    """It has at least the root."""
    assert "/" in {mount.point for mount in parse(mounts.read_mountinfo()).values()}
