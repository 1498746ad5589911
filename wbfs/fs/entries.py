"""Attributes as the kernel takes them, and for how long it may believe them."""

from __future__ import annotations

import math
import os
import stat
import time
from dataclasses import dataclass

import pyfuse3

from wbfs.fs.control import ControlFile
from wbfs.fs.inodes import CONTROL_FOLDER, ROOT_INODE, Inode
from wbfs.fs.nodes import Attributes

FOREVER_S = 10 * 365 * 86400.0
"""The time-out of what never changes: everything below a version."""
BLOCK_SIZE = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Ownership:
    """Whose the files are, and which permission bits they don't have."""

    uid: int
    gid: int
    umask: int


class Entries:
    """The attributes of one mount's files and directories."""

    def __init__(self, ownership: Ownership) -> None:
        self.ownership = ownership
        self._began_ns = time.time_ns()

    def of(self, attributes: Attributes, ttl_s: float) -> pyfuse3.EntryAttributes:
        """Return attributes that hold for so many seconds, as far as they are sure."""
        timeout_s = min(max(ttl_s, 0.0), FOREVER_S)
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = attributes.inode
        entry.generation = 0
        entry.entry_timeout = timeout_s
        entry.attr_timeout = FOREVER_S if attributes.inode != ROOT_INODE else timeout_s
        if not attributes.size_is_sure:
            entry.attr_timeout = 0.0
        entry.st_mode = attributes.mode & ~self.ownership.umask
        entry.st_nlink = 1
        entry.st_uid = self.ownership.uid
        entry.st_gid = self.ownership.gid
        entry.st_size = attributes.size
        entry.st_blksize = BLOCK_SIZE
        entry.st_blocks = -(-attributes.size // 512)
        # The server doesn't say how old the root and entities are.
        mtime_ns = attributes.mtime_ns or self._began_ns
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = mtime_ns
        return entry

    def control_folder(self) -> pyfuse3.EntryAttributes:
        """Return those of `.wbfs`."""
        return self._control_entry(CONTROL_FOLDER, stat.S_IFDIR | 0o500)

    def control_file(self, file: ControlFile) -> pyfuse3.EntryAttributes:
        """Return those of a file in it."""
        return self._control_entry(file.inode, stat.S_IFREG | 0o400)

    def _control_entry(self, inode: Inode, mode: int) -> pyfuse3.EntryAttributes:
        """Return attributes that let in whoever mounted, whose paths and errors are in there.

        With `default_permissions` the kernel keeps others out.
        """
        entry = self.of(Attributes(inode=inode, mode=mode, size=0, mtime_ns=0), math.inf)
        entry.st_mode = pyfuse3.ModeT(mode)
        entry.st_uid, entry.st_gid = os.getuid(), os.getgid()
        return entry


def no_such_name(ttl_s: float) -> pyfuse3.EntryAttributes:
    """Return the answer that lets the kernel remember that a name is not there."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = 0
    entry.entry_timeout = min(max(ttl_s, 0.0), FOREVER_S)
    return entry
