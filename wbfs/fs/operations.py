"""The filesystem as pyfuse3 wants it: requests in, attributes, names and bytes out.

Every operation goes through one boundary, `_operation`, where an exception becomes an errno: what
pyfuse3 does not expect would leave the request unanswered and end the whole mount. Trio thread.
"""

from __future__ import annotations

import errno
import functools
import logging
import math
import os
import stat
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

import pyfuse3
import trio

from wbfs.fetch.fetcher import Fetcher, Reader
from wbfs.fetch.work.background import Background
from wbfs.fs.control import CONTROL_NAME, Control, ErrorLog, LeftOut
from wbfs.fs.entries import BLOCK_SIZE, FOREVER_S, Entries, Ownership, no_such_name
from wbfs.fs.errno_map import errno_for
from wbfs.fs.folders import OpenFolder, Row, chunk_end
from wbfs.fs.handles import HandleId, Handles
from wbfs.fs.inodes import CONTROL_FOLDER, ROOT_INODE, Inode
from wbfs.fs.nodes import (
    XATTR_PREFIX,
    Directory,
    Node,
    listed_xattrs,
    xattrs_of,
)
from wbfs.fs.tree import DirectoryListing, Tree
from wbfs.fs.under_way import UnderWay
from wbfs.model.entries import Version
from wbfs.model.errors import InodeTaken, WbfsError
from wbfs.model.names import NAME_MAX
from wbfs.store.folder import disk_of
from wbfs.store.known.manifest_table import UNSIZED

log = logging.getLogger(__name__)

DOTS = (b".", b"..")
LOG_AGAIN_S = 60.0
"""Seconds before the same error is logged again."""
MAX_LOGGED = 1000
"""Errors remembered as logged."""

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(slots=True)
class OpenControlFile:
    """A control file's contents as they were when it was opened."""

    contents: bytes


@dataclass(frozen=True, slots=True)
class OpenDirectory:
    """A directory that is open; at the mount's root one name is the mount's own."""

    listing: DirectoryListing | OpenFolder
    is_root: bool


def _operation(
    function: Callable[Concatenate[Operations, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Operations, P], Coroutine[Any, Any, R]]:
    """Make an operation answer with a value or an errno, whatever happens in it."""
    name = function.__name__

    @functools.wraps(function)
    async def bounded(self: Operations, /, *args: P.args, **kwargs: P.kwargs) -> R:
        self._requests[name] += 1
        if self._refuses:
            raise pyfuse3.FUSEError(errno.ENOTCONN)
        request = self._under_way.begin(name, args)
        try:
            return await function(self, *args, **kwargs)
        except pyfuse3.FUSEError:
            raise
        except trio.Cancelled:
            # The mount ends, but whoever waits gets an answer.
            raise pyfuse3.FUSEError(errno.ENOTCONN) from None
        except WbfsError as error:
            number = errno_for(error)
            self._report(name, number, error)
            raise pyfuse3.FUSEError(number) from error
        except Exception as error:
            number = errno_for(self._background.defect(f"{name}{args[:1]!r}", error))
            self._errors.add(operation=name, errno_name=errno.errorcode[number], error=error)
            raise pyfuse3.FUSEError(number) from error
        finally:
            self._under_way.end(request)
            if self._refuses and not self._under_way:
                self._idle.set()

    return bounded


class Operations(pyfuse3.Operations):
    """The requests of one mount."""

    supports_dot_lookup = False
    enable_writeback_cache = False
    enable_acl = False

    def __init__(
        self,
        *,
        tree: Tree,
        fetcher: Fetcher,
        control: Control,
        left_out: LeftOut,
        errors: ErrorLog,
        requests: Counter[str],
        under_way: UnderWay,
        background: Background,
        ownership: Ownership,
        cache_dir: Path,
        on_open: Callable[[int, int, Version], None],
    ) -> None:
        """`on_open` is told whenever a version's file was opened: by which thread and user."""
        super().__init__()
        self._tree = tree
        self._fetcher = fetcher
        self._control = control
        self._left_out = left_out
        # Set once the kernel has said that it will ask.
        self.began = trio.Event()
        self._under_way = under_way
        self._refuses = False
        self._idle = trio.Event()
        self._entries = Entries(ownership)
        self._cache_dir = cache_dir
        self._on_open = on_open
        self._files: Handles[Reader | OpenControlFile] = Handles()
        self._directories: Handles[OpenDirectory | None] = Handles()
        self._logged: dict[tuple[str, str], float] = {}
        self._errors = errors
        self._requests = requests
        self._background = background

    def _report(self, operation: str, number: int, error: WbfsError) -> None:
        """Say why a program gets an errno: in errors.jsonl, and now and then in the log."""
        name = errno.errorcode.get(number, str(number))
        self._errors.add(operation=operation, errno_name=name, error=error)
        now = trio.current_time()
        key = (operation, str(error))
        if now - self._logged.get(key, -math.inf) < LOG_AGAIN_S:
            return
        if len(self._logged) >= MAX_LOGGED:
            self._logged.clear()
        self._logged[key] = now
        log.error("%s: %s: %s", operation, name, error)

    def init(self) -> None:
        """Note that the kernel is there."""
        self.began.set()

    async def refuse(self) -> None:
        """Fail every request from now on, and return when those under way have ended."""
        self._refuses = True
        if self._under_way:
            await self._idle.wait()

    def close(self) -> None:
        """Let go of what is still open when the mount ends: the kernel releases nothing then."""
        for opened in self._files.clear():
            if isinstance(opened, Reader):
                opened.close()
        self._directories.clear()

    # Names

    @_operation
    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if len(name) > NAME_MAX:
            # As on every filesystem. The kernel lets longer ones through to FUSE.
            raise pyfuse3.FUSEError(errno.ENAMETOOLONG)
        text = os.fsdecode(name)
        if parent_inode == ROOT_INODE and text == CONTROL_NAME:
            return self._entries.control_folder()
        if parent_inode == CONTROL_FOLDER:
            file = self._control.by_name(text)
            return self._entries.control_file(file) if file else no_such_name(FOREVER_S)
        found = await self._tree.look_up(Inode(parent_inode), text)
        if found.attributes is None:
            return no_such_name(found.ttl_s)
        return self._entries.of(found.attributes, found.ttl_s)

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Numbers are computed: there is nothing to forget."""

    @_operation
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        if inode == CONTROL_FOLDER:
            return self._entries.control_folder()
        if (file := self._control.by_inode(Inode(inode))) is not None:
            return self._entries.control_file(file)
        if inode == ROOT_INODE:
            # The mountpoint must answer also while the server doesn't.
            node, valid_until = await self._tree.root()
            attributes = self._tree.attributes(node, is_root=True)
            return self._entries.of(attributes, valid_until - trio.current_time())
        return self._entries.of(await self._tree.stat(Inode(inode)), math.inf)

    # Directories

    @_operation
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> HandleId:
        if inode == CONTROL_FOLDER:
            return self._directories.add(None)
        listing = await self._tree.listing(Inode(inode))
        return self._directories.add(OpenDirectory(listing, inode == ROOT_INODE))

    @_operation
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        opened = self._directories.get(HandleId(fh))
        if opened is None:
            for number, file in enumerate(self._control.files[start_id:], start_id + 1):
                attributes = self._entries.control_file(file)
                if not pyfuse3.readdir_reply(token, file.name.encode(), attributes, number):
                    return
            return
        listing = opened.listing
        own = self._entries.of(self._tree.attributes(listing.node), listing.ttl_s)
        # The directory itself and the one above: the kernel looks at their names only.
        for number, dots in enumerate(DOTS[start_id:], start_id + 1):
            if not pyfuse3.readdir_reply(token, dots, own, number):
                return
        skip = max(start_id - len(DOTS), 0)
        if isinstance(listing, OpenFolder):
            while skip < listing.count:
                rows = await self._tree.rows(listing, skip)
                if opened.is_root:
                    rows = [row for row in rows if not self._is_left_out(row[1], listing.node)]
                if not self._reply_rows(token, own, rows):
                    return
                skip = chunk_end(skip)
            return
        has_replied = False
        while not has_replied and (children := await listing.names.after(skip)):
            for number, (name, node) in enumerate(children, skip + len(DOTS) + 1):
                if opened.is_root and self._is_left_out(os.fsencode(name), listing.node):
                    continue
                try:
                    shown = self._tree.attributes(node)
                except InodeTaken as error:
                    # One name less is better than none.
                    self._report("readdir", errno.EIO, error)
                    continue
                entry = self._entries.of(shown, listing.ttl_s)
                if not pyfuse3.readdir_reply(token, os.fsencode(name), entry, number):
                    return
                has_replied = True
            skip += len(children)

    def _is_left_out(self, name: bytes, root: Directory) -> bool:
        """Whether a name at the mount's root isn't shown, since it is the mount's own there."""
        if name != CONTROL_NAME.encode():
            return False
        self._left_out.add(root)
        return True

    def _reply_rows(
        self, token: pyfuse3.ReaddirToken, folder: pyfuse3.EntryAttributes, rows: Iterable[Row]
    ) -> bool:
        """Answer with names of a folder, whose attributes differ little from its own.

        Return whether there is room for more.
        """
        file = copy(folder)
        file.st_mode = pyfuse3.ModeT(stat.S_IFREG | 0o444 & ~self._entries.ownership.umask)
        unsure = copy(file)
        # The kernel takes attributes with every name; these it is to ask for when they are wanted.
        unsure.attr_timeout = 0.0
        unsized = copy(unsure)
        unsized.entry_timeout = 0.0
        for position, name, inode, size in rows:
            if size is None:
                entry = folder
            else:
                told = size if size >= 0 else self._tree.told_size(inode)
                entry = file
                if told is None:
                    entry, size = (unsized if size == UNSIZED else unsure), ~size
                else:
                    size = told
                entry.st_size = size
                entry.st_blocks = -(-size // 512)
            entry.st_ino = inode
            # It copies them.
            if not pyfuse3.readdir_reply(token, name, entry, position + len(DOTS)):
                return False
        return True

    @_operation
    async def releasedir(self, fh: int) -> None:
        self._directories.pop(HandleId(fh))

    # Files

    @_operation
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise pyfuse3.FUSEError(errno.EROFS)
        if (control := self._control.by_inode(Inode(inode))) is not None:
            handle = self._files.add(OpenControlFile(await control.render()))
            return pyfuse3.FileInfo(fh=handle, direct_io=True, keep_cache=False)
        reader = await self._tree.open(Inode(inode))
        self._on_open(ctx.pid, ctx.uid, reader.version)
        handle = self._files.add(reader)
        self._under_way.opened(handle, reader, ctx.pid)
        return pyfuse3.FileInfo(fh=handle, keep_cache=reader.keeps_pages)

    @_operation
    async def read(self, fh: int, off: int, size: int) -> bytes:
        opened = self._files.get(HandleId(fh))
        if isinstance(opened, OpenControlFile):
            return opened.contents[off : off + size]
        began = time.perf_counter()
        data = await opened.read(off, size)
        self._fetcher.counters.note_read(time.perf_counter() - began)
        # pyfuse3 takes any contiguous buffer, which saves a copy.
        return data  # type: ignore[return-value]

    @_operation
    async def flush(self, fh: int) -> None:
        # Nothing to write; the kernel asks once and never again.
        raise pyfuse3.FUSEError(errno.ENOSYS)

    @_operation
    async def release(self, fh: int) -> None:
        opened = self._files.pop(HandleId(fh))
        self._under_way.closed(HandleId(fh))
        if isinstance(opened, Reader):
            opened.close()

    # Extended attributes and the filesystem as a whole

    @_operation
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        text = os.fsdecode(name)
        if not text.startswith(XATTR_PREFIX):
            # Not ENODATA: `ls -l` would go on to ask for each file.
            raise pyfuse3.FUSEError(errno.ENOTSUP)
        node = await self._node_with_xattrs(inode)
        value = xattrs_of(node).get(text) if node is not None else None
        if value is None:
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        return value.encode("utf-8", "surrogatepass")

    @_operation
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        node = await self._node_with_xattrs(inode)
        return [name.encode() for name in listed_xattrs(node)] if node is not None else []

    @_operation
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        # What is read comes to rest in the cache: its disk's numbers say what there is room for.
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = BLOCK_SIZE
        data.f_blocks = data.f_bfree = data.f_bavail = 0
        try:
            disk = disk_of(self._cache_dir)
        except OSError as error:
            log.debug("the cache's disk has no numbers: %s", error.strerror)
        else:
            data.f_bsize = data.f_frsize = disk.f_frsize or BLOCK_SIZE
            data.f_blocks, data.f_bfree, data.f_bavail = disk.f_blocks, disk.f_bfree, disk.f_bavail
        data.f_files = data.f_ffree = data.f_favail = 0
        data.f_namemax = NAME_MAX
        return data

    # Everything is read-only. The mount is too, so the kernel asks none of these; whoever opened
    # /dev/fuse for us might have forgotten to say `ro`.

    async def _read_only(self, *_: Any, **__: Any) -> NoReturn:
        raise pyfuse3.FUSEError(errno.EROFS)

    setattr = mknod = mkdir = unlink = rmdir = symlink = rename = link = write = create = _read_only
    setxattr = removexattr = _read_only

    async def _node_with_xattrs(self, inode: int) -> Node | None:
        """Return what an inode is; None for the mount's own, which has no attributes."""
        if inode == CONTROL_FOLDER or self._control.by_inode(Inode(inode)):
            return None
        return await self._tree.node(Inode(inode))
