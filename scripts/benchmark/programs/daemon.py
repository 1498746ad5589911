"""A pyfuse3 filesystem that does nothing: it serves a folder's files from memory.

What it takes is what the kernel, libfuse, pyfuse3 and trio take; a filesystem with something to do
can't take less. It is a process of its own: `bench_daemon.py FOLDER MOUNTPOINT`, until it is
unmounted.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pyfuse3
import trio

FOREVER_S = 10 * 365 * 86400.0
MAX_TASKS = 128


class Operations(pyfuse3.Operations):
    """Inode numbers are indices of lists; all that is answered is made beforehand."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, folder: Path) -> None:
        """Read all files below a folder."""
        super().__init__()
        self._attributes: list[pyfuse3.EntryAttributes] = [_attributes(0, folder)]
        self._contents: list[bytes] = [b""]
        self._children: dict[int, dict[bytes, int]] = {}
        self._add(folder)

    def _add(self, path: Path) -> int:
        inode = len(self._attributes)
        self._attributes.append(_attributes(inode, path))
        self._contents.append(b"")
        if path.is_dir():
            found = sorted(path.iterdir())
            self._children[inode] = {os.fsencode(one.name): self._add(one) for one in found}
        else:
            self._contents[inode] = path.read_bytes()
        return inode

    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        inode = self._children[parent_inode].get(name)
        if inode is None:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._attributes[inode]

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        pass

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._attributes[inode]

    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        children = list(self._children[fh].items())
        for number in range(start_id, len(children)):
            name, inode = children[number]
            if not pyfuse3.readdir_reply(token, name, self._attributes[inode], number + 1):
                return

    async def releasedir(self, fh: int) -> None:
        pass

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=inode, keep_cache=True)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return self._contents[fh][off : off + size]

    async def flush(self, fh: int) -> NoReturn:
        raise pyfuse3.FUSEError(errno.ENOSYS)

    async def release(self, fh: int) -> None:
        pass

    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> NoReturn:
        raise pyfuse3.FUSEError(errno.ENOTSUP)


def _attributes(inode: int, path: Path) -> pyfuse3.EntryAttributes:
    found = path.stat()
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = inode
    entry.entry_timeout = entry.attr_timeout = FOREVER_S
    entry.st_mode, entry.st_nlink, entry.st_size = found.st_mode & ~0o222, 1, found.st_size
    entry.st_uid, entry.st_gid = found.st_uid, found.st_gid
    entry.st_blksize, entry.st_blocks = 4096, -(-found.st_size // 512)
    entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = found.st_mtime_ns
    return entry


def main() -> None:
    """Serve until it is unmounted."""
    folder, mountpoint = sys.argv[1:]
    operations = Operations(Path(folder))
    pyfuse3.init(operations, mountpoint, {"default_permissions", "fsname=bench", "ro"})
    try:
        trio.run(lambda: pyfuse3.main(max_tasks=MAX_TASKS))
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main()
