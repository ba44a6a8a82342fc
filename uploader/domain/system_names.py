"""Names that NAS systems, operating systems and sync tools give to what they keep beside recordings. Pure.

Recycle bins, snapshots, thumbnails, old versions: what lies in such a folder is a recording that somebody deleted, or a
second copy of one. So these folders are not entered, and such files are not taken, in every watched folder, whatever
``exclude`` says. ``enter`` of a ``[[watch]]`` takes a name out of this list. docs/configuration.md shows the list.

A name is in it only if one program makes it and no person would give it to a folder of recordings. Left out for that
reason: *snapshot*, *trash*, *recycle*, *backup*, *archive*, *uploads*, *cache*, *temp*, *Sub*.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final


@dataclass(frozen=True, slots=True)
class SystemNames:
    """Names of one kind and one maker. ``names``: shell patterns; case is ignored. ``source``: how they are known."""

    what: str
    maker: str
    names: tuple[str, ...]
    source: str


BIN, SNAPSHOTS, METADATA = "a recycle bin", "a folder of snapshots", "a folder of thumbnails and metadata"
TEMPORARY, VERSIONS = "a folder of temporary files", "a folder of deleted and old versions"

FOLDERS: Final = (
    SystemNames(BIN, "a Synology or UGREEN NAS", ("#recycle",), "Synology Knowledge Center, Recycle Bin"),
    SystemNames(SNAPSHOTS, "a Synology NAS", ("#snapshot", "@sharesnap"), "Synology Snapshot Replication, help"),
    SystemNames(METADATA, "a Synology NAS", ("@eaDir", "@sharebin", "@SynoDrive"), "DSM, seen on shares"),
    SystemNames(TEMPORARY, "a Synology NAS", ("@tmp", ".SynologyWorkingDirectory"), "DSM and Synology Drive, seen"),
    SystemNames(BIN, "a QNAP NAS", ("@Recycle", "Network Recycle Bin*"), "QTS user guide, Network Recycle Bin"),
    SystemNames(SNAPSHOTS, "a QNAP NAS", ("@Recently-Snapshot",), "QTS user guide, Snapshots"),
    SystemNames(
        METADATA, "a QNAP NAS", (".@__thumb", "@__thumb", ".@__*", ".@upload_cache", ".streams"), "QTS, seen on shares"
    ),
    SystemNames(BIN, "a Buffalo NAS", ("trashbox",), "Buffalo LinkStation user manual, Recycle Bin"),
    SystemNames(BIN, "a WD My Cloud", ("Recycle Bin - Volume*",), "WD My Cloud user manual"),
    SystemNames(METADATA, "a WD My Cloud", (".wdmc", "Nas_Prog"), "WD My Cloud, seen on shares"),
    SystemNames(
        BIN,
        "Samba",
        (".recycle", ".recycle bin", ".recyclebin", ".recycle.bin", ".recycled", ".trashcan"),
        "vfs_recycle(8), recycle:repository; Unraid, TrueNAS, OpenMediaVault and Gluster guides",
    ),
    SystemNames(SNAPSHOTS, "NetApp, Isilon and other filers", (".snapshot", "~snapshot", ".ckpt"), "ONTAP and OneFS"),
    SystemNames(SNAPSHOTS, "ZFS", (".zfs",), "zfsprops(7), snapdir"),
    SystemNames(SNAPSHOTS, "btrfs with snapper, and GPFS", (".snapshots",), "snapper(8)"),
    SystemNames(SNAPSHOTS, "Ceph and Gluster", (".snap", ".snaps", ".glusterfs"), "CephFS and Gluster documentation"),
    SystemNames(SNAPSHOTS, "Windows and Samba", ("@GMT-????.??.??-??.??.??",), "vfs_shadow_copy2(8); MS-SMB2 2.2.1"),
    SystemNames(BIN, "Windows", ("$RECYCLE.BIN", "RECYCLER", "RECYCLED"), "Microsoft, Recycle Bin since Windows 95"),
    SystemNames(
        METADATA,
        "Windows",
        ("System Volume Information", "Config.Msi", "$Extend", "DfsrPrivate", "found.[0-9][0-9][0-9]"),
        "Microsoft: volume metadata, Windows Installer, DFS Replication, chkdsk",
    ),
    SystemNames(BIN, "macOS", (".Trashes", ".Trash", "Network Trash Folder"), "Apple; Finder on volumes and shares"),
    SystemNames(
        TEMPORARY,
        "macOS",
        (".TemporaryItems", "Temporary Items", "(A Document Being Saved By *", "*.sb-????????-??????"),
        "Apple, NSFileManager item replacement",
    ),
    SystemNames(
        METADATA,
        "macOS and netatalk",
        (
            *(".DocumentRevisions-V100", ".Spotlight-V100", ".fseventsd", ".AppleDouble", ".AppleDB", ".AppleDesktop"),
            *("TheVolumeSettingsFolder", "TheFindByContentFolder", ".MobileBackups", "__MACOSX"),
        ),
        "Apple; afp.conf(5); Archive Utility",
    ),
    SystemNames(BIN, "a Linux desktop", (".Trash-[0-9]*",), "freedesktop.org, Trash specification 1.0"),
    SystemNames(METADATA, "a Linux desktop", (".thumbnails",), "freedesktop.org, Thumbnail Managing Standard"),
    SystemNames(VERSIONS, "Syncthing", (".stversions", ".stfolder"), "Syncthing documentation, File Versioning"),
    SystemNames(VERSIONS, "Resilio Sync", (".sync", ".SyncArchive", ".SyncTrash"), "Resilio help, Archive"),
    SystemNames(TEMPORARY, "Dropbox", (".dropbox.cache",), "Dropbox help, cache folder"),
    SystemNames(TEMPORARY, "Google Drive", (".tmp.drivedownload", ".tmp.driveupload"), "Google Drive for desktop"),
    SystemNames(VERSIONS, "GoodSync", ("_gsdata_",), "GoodSync manual, _gsdata_"),
    SystemNames(VERSIONS, "MEGA", (".debris",), "MEGAsync help, local debris"),
    SystemNames(BIN, "Nextcloud and ownCloud", ("files_trashbin",), "Nextcloud administration manual, data folder"),
    SystemNames(VERSIONS, "Nextcloud and ownCloud", ("files_versions", ".owncloudsync"), "the same"),
    SystemNames(TEMPORARY, "rsync", (".~tmp~", ".rsync-partial"), "rsync(1), --delay-updates and --partial-dir"),
    SystemNames(TEMPORARY, "Safari", ("*.*.download",), "Safari, an unfinished download is a folder NAME.download"),
)

FILES: Final = (
    SystemNames("metadata", "macOS", ("._*", ".DS_Store", ".apdisk", ".localized", "Icon\r"), "AppleDouble, RFC 1740"),
    SystemNames("metadata", "Windows", ("Thumbs.db", "ehthumbs*.db", "desktop.ini"), "Microsoft, Explorer"),
    SystemNames("metadata", "a Linux desktop", (".directory",), "KDE, Dolphin"),
    SystemNames(
        "a file that was deleted while it was open",
        "NFS, SMB or FUSE",
        (".nfs[0-9a-f]*", ".smbdelete*", ".fuse_hidden*"),
        "Linux: fs/nfs/unlink.c, fs/smb/client; libfuse, hard_remove",
    ),
    SystemNames(
        "a database of a sync tool",
        "Nextcloud, Syncthing, FreeFileSync, Dropbox",
        (".owncloudsync*", "._sync_*", ".sync_*.db*", ".stignore", "*.ffs_db", "*.ffs_lock", ".dropbox"),
        "their manuals",
    ),
    SystemNames("an unfinished download", "Chrome", (".com.google.Chrome.*",), "Chromium, download target on macOS"),
)


@dataclass(frozen=True, slots=True)
class Found:
    """A name of the list: what it is, and the pattern that ``enter`` takes it out with."""

    what: str
    maker: str
    pattern: str


@lru_cache(maxsize=4096)
def system_folder(name: str) -> Found | None:
    """Return what a folder of this name is; None when it may hold recordings."""
    return _found(FOLDERS, name) if _ANY_FOLDER.match(name) else None


def system_file(name: str) -> Found | None:
    """Return what a file of this name is; None when it may be a recording."""
    return _found(FILES, name) if _ANY_FILE.match(name) else None


def _found(rows: Sequence[SystemNames], name: str) -> Found | None:
    for row in rows:
        for pattern in row.names:
            if _compiled((pattern,)).match(name):
                return Found(row.what, row.maker, pattern)
    return None


@lru_cache(maxsize=512)
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, patterns)), re.IGNORECASE)


_ANY_FOLDER: Final = _compiled(tuple(pattern for row in FOLDERS for pattern in row.names))
_ANY_FILE: Final = _compiled(tuple(pattern for row in FILES for pattern in row.names))
