"""A filesystem that hands everything on to a folder, but for the operations that it refuses.

    python odd_filesystem.py FOLDER MOUNTPOINT [OPERATION=ERRNO...]

As those of memory cards, of network shares and of other FUSE daemons do: `chmod=EPERM`,
`link=EOPNOTSUPP`, `utime=EPERM`, `rename=ENOSYS`. Extended attributes, O_TMPFILE, fallocate and
SEEK_HOLE it never has. `colon=EINVAL` refuses names with a colon; `second=1` keeps times to the
second only, as ext3 did; `lower=1` knows no upper case; `untold=1` tells nothing of its size.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyfuse3
import trio

SECOND_NS = 10**9


@contextmanager
def _as_fuse() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise pyfuse3.FUSEError(error.errno or errno.EIO) from None


class OddFilesystem(pyfuse3.Operations):
    """The folder's files by path; a number is given to each path and never to another."""

    enable_writeback_cache = False

    def __init__(self, folder: Path, refused: dict[str, int], flags: set[str]) -> None:
        super().__init__()
        self._refused = refused
        self._flags = flags
        self._paths: dict[int, bytes] = {pyfuse3.ROOT_INODE: os.fsencode(folder)}
        # What is open, for when it has no path any more.
        self._open: dict[int, int] = {}

    def _refuse(self, operation: str) -> None:
        if operation in self._refused:
            raise pyfuse3.FUSEError(self._refused[operation])

    def _path(self, parent: int, name: bytes) -> bytes:
        if b":" in name:
            self._refuse("colon")
        return os.path.join(self._paths[parent], name.lower() if "lower" in self._flags else name)

    def _at(self, inode: int) -> bytes:
        """Return a path that leads to a file, be it that it was unlinked."""
        path = self._paths[inode]
        fds = [fd for fd, number in self._open.items() if number == inode]
        return f"/proc/self/fd/{fds[0]}".encode() if fds else path

    def _entry(self, path: bytes, *, is_open: bool = False) -> pyfuse3.EntryAttributes:
        with _as_fuse():
            found = os.stat(path) if is_open else os.lstat(path)
        if not is_open and path != self._paths[pyfuse3.ROOT_INODE]:
            self._paths[found.st_ino] = path
        entry = pyfuse3.EntryAttributes()
        for name in ("mode", "nlink", "uid", "gid", "size", "atime_ns", "mtime_ns", "ctime_ns"):
            value = getattr(found, f"st_{name}")
            if "second" in self._flags and name.endswith("_ns"):
                value = value // SECOND_NS * SECOND_NS
            setattr(entry, f"st_{name}", value)
        is_root = path == self._paths[pyfuse3.ROOT_INODE]
        entry.st_ino = pyfuse3.ROOT_INODE if is_root else found.st_ino
        entry.st_blocks = found.st_blocks
        entry.entry_timeout = entry.attr_timeout = 0
        return entry

    async def lookup(self, parent: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._entry(self._path(parent, name))

    async def getattr(self, inode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        path = self._at(inode)
        return self._entry(path, is_open=path != self._paths[inode])

    async def setattr(
        self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        path = self._at(inode)
        if fields.update_mode:
            self._refuse("chmod")
        if fields.update_atime or fields.update_mtime:
            self._refuse("utime")
        with _as_fuse():
            if fields.update_mode:
                os.chmod(path, stat.S_IMODE(attr.st_mode))
            if fields.update_size:
                os.truncate(fh if fh is not None else path, attr.st_size)
            if fields.update_atime or fields.update_mtime:
                old = os.stat(path)
                atime = attr.st_atime_ns if fields.update_atime else old.st_atime_ns
                mtime = attr.st_mtime_ns if fields.update_mtime else old.st_mtime_ns
                os.utime(path, ns=(atime, mtime))
        return self._entry(path, is_open=path != self._paths[inode])

    async def opendir(self, inode: int, ctx: Any) -> int:
        return inode

    async def readdir(self, inode: int, start: int, token: Any) -> None:
        for number, name in enumerate(sorted(os.listdir(self._paths[inode])), 1):
            if number > start and not pyfuse3.readdir_reply(
                token, name, self._entry(self._path(inode, name)), number
            ):
                return

    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        with _as_fuse():
            fd = os.open(self._at(inode), flags & ~os.O_NOFOLLOW)
        self._open[fd] = inode
        return pyfuse3.FileInfo(fh=fd)

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        self._refuse("create")
        path = self._path(parent, name)
        with _as_fuse():
            fd = os.open(path, flags | os.O_CREAT, mode)
        self._open[fd] = os.fstat(fd).st_ino
        return pyfuse3.FileInfo(fh=fd), self._entry(path)

    async def read(self, fh: int, offset: int, size: int) -> bytes:
        with _as_fuse():
            return os.pread(fh, size, offset)

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        self._refuse("write")
        with _as_fuse():
            return os.pwrite(fh, data, offset)

    async def fsync(self, fh: int, datasync: bool) -> None:
        self._refuse("fsync")

    async def flush(self, fh: int) -> None:
        """Nothing is kept back."""

    async def release(self, fh: int) -> None:
        del self._open[fh]
        os.close(fh)

    async def releasedir(self, fh: int) -> None:
        """Nothing is open."""

    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        path = self._path(parent, name)
        with _as_fuse():
            os.mkdir(path, mode & ~ctx.umask)
        return self._entry(path)

    async def unlink(self, parent: int, name: bytes, ctx: Any) -> None:
        with _as_fuse():
            os.unlink(self._path(parent, name))

    async def rmdir(self, parent: int, name: bytes, ctx: Any) -> None:
        with _as_fuse():
            os.rmdir(self._path(parent, name))

    async def rename(
        self, old: int, old_name: bytes, new: int, new_name: bytes, flags: int, ctx: Any
    ) -> None:
        self._refuse("rename")
        if flags:
            raise pyfuse3.FUSEError(errno.EINVAL)
        source, target = self._path(old, old_name), self._path(new, new_name)
        with _as_fuse():
            os.rename(source, target)
        self._paths = {
            inode: target + path[len(source) :]
            if path == source or path.startswith(source + b"/")
            else path
            for inode, path in self._paths.items()
        }

    async def link(self, inode: int, parent: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        self._refuse("link")
        path = self._path(parent, name)
        with _as_fuse():
            os.link(self._paths[inode], path)
        return self._entry(path)

    async def symlink(
        self, parent: int, name: bytes, target: bytes, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        self._refuse("symlink")
        path = self._path(parent, name)
        with _as_fuse():
            os.symlink(target, path)
        return self._entry(path)

    async def readlink(self, inode: int, ctx: Any) -> bytes:
        with _as_fuse():
            return os.readlink(self._paths[inode])

    async def statfs(self, ctx: Any) -> pyfuse3.StatvfsData:
        found, data = os.statvfs(self._paths[pyfuse3.ROOT_INODE]), pyfuse3.StatvfsData()
        for name in ("bsize", "frsize", "blocks", "bfree", "bavail", "files", "ffree", "favail"):
            if "untold" not in self._flags:
                setattr(data, f"f_{name}", getattr(found, f"f_{name}"))
        data.f_namemax = 255
        return data


def main() -> None:
    folder, mountpoint, *settings = sys.argv[1:]
    named = dict(setting.split("=") for setting in settings)
    flags = {name for name, value in named.items() if value == "1"}
    refused = {name: getattr(errno, named[name]) for name in named.keys() - flags}
    odd = OddFilesystem(Path(folder), refused, flags)
    pyfuse3.init(odd, mountpoint, {"fsname=odd", "default_permissions"})
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=False)


if __name__ == "__main__":
    main()
