"""What every path of a mount is. Knows nothing of FUSE but inode numbers. Trio thread."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import trio

from wbfs.fetch.fetcher import Fetcher, Reader
from wbfs.fetch.sizes import Size
from wbfs.fetch.small.whole import is_sized_by_reading
from wbfs.fs.above.names import Names
from wbfs.fs.folders import FolderRows, OpenFolder, Row, Shows
from wbfs.fs.inodes import ROOT_INODE, Inode, TreeKey, inode_of, split_inode
from wbfs.fs.listings import Listing
from wbfs.fs.nodes import (
    Attributes,
    CollectionDirectory,
    Directory,
    EntityDirectory,
    FolderDirectory,
    Listed,
    Node,
    ProjectDirectory,
    RootDirectory,
    VersionDirectory,
    VersionFile,
    attributes_of,
    file_attributes,
    file_key,
    folder_attributes,
    inode_of_node,
    path_of,
)
from wbfs.fs.prefix import PathPrefix
from wbfs.model.entries import Version
from wbfs.model.errors import InodeTaken, IsADirectory, NotADirectory, NotFound, StaleInode
from wbfs.model.lately import Lately
from wbfs.model.names import Source, is_safe_component
from wbfs.store.known.manifest_table import ROOT_FOLDER, UNSIZED, File, ManifestTable

log = logging.getLogger(__name__)

OPENED_FILES = 1 << 14
"""Files that were opened lately and are remembered; each takes 0.7 KB."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a name is, and for how many seconds that may be believed; None for no such name."""

    attributes: Attributes | None
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Mounted:
    """The directory at the mountpoint: `base`, or with an alias a folder of what that names."""

    base: Listed
    alias: str = ""
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Changed:
    """Names, by their directories' numbers, that are something else than before; `root` as well?"""

    names: list[tuple[Inode, str]]
    root: bool


async def find_mounted(names: Names, source: Source) -> Mounted:
    """Look up the directories that a SOURCE names, down to its collection. Raises WbfsError."""
    base: Listed = RootDirectory()
    for name in (source.entity, source.project, source.collection):
        if not name:
            break
        child = (await names.child(base, name)).child
        if child is None:
            raise NotFound(
                f"there is no {name!r} in {path_of(base)}, or you may not see it: check the"
                " spelling, and which user `wandb login` logged in"
            )
        if isinstance(child, VersionDirectory):
            raise AssertionError("a collection is the third part of a source")
        base = child
    return Mounted(base, source.alias, source.folder)


class Tree:
    """One mount's directories and files by inode number and by name."""

    def __init__(
        self, *, names: Names, fetcher: Fetcher, mounted: Mounted, prefix: PathPrefix
    ) -> None:
        """Show of each version what `prefix` lets through."""
        self._prefix = prefix
        self._names = names
        self._fetcher = fetcher
        self._mounted = mounted
        self._rows = FolderRows()
        # Files that were opened lately: whoever reads them again, as each epoch does, has no need
        # of the manifest's table.
        self._files: Lately[Inode, File] = Lately(OPENED_FILES)
        # What the kernel was told of, but for folders and files: those are rows of a manifest. None
        # is dropped, since it may be some process's working directory; each takes 100 bytes.
        self._tops: dict[TreeKey, Listed | VersionDirectory | Version] = {}

    async def root(self) -> tuple[Directory, float]:
        """Return the directory at the mountpoint and until when it is that. Raises WbfsError."""
        mounted = self._mounted
        if not mounted.alias:
            return mounted.base, math.inf
        answer = await self._names.child(mounted.base, mounted.alias)
        top = answer.child
        if not isinstance(top, VersionDirectory):
            raise NotFound(
                f"there is no version or alias {mounted.alias!r} of {path_of(mounted.base)}"
                f"{self._names.then}"
            )
        if not mounted.folder:
            return top, answer.valid_until
        table = await self._fetcher.manifest(top.version)
        folder = table.folder_at(mounted.folder)
        if folder is None:
            raise NotFound(f"{top.version.path} has no folder {mounted.folder!r}")
        return self._folder_node(top, table, folder.id), answer.valid_until

    async def look_again(self) -> Changed:
        """Ask anew what is behind every alias; return what the kernel knows otherwise.

        Raises WbfsError.
        """
        before = (await self.root())[0]
        # What the mountpoint shows the kernel knows by another number.
        base = inode_of_node(self._mounted.base)
        names = [
            (ROOT_INODE if parent == base and not self._mounted.alias else parent, name)
            for parent, name in await self._names.look_again()
        ]
        after = (await self.root())[0]
        shown = [_place(node) for node in (before, after) if not isinstance(node, Listed)]
        if len({top.version.id for top, _ in shown}) < 2:
            return Changed(names, root=False)
        # Below the mountpoint the names of both may be known, as there or as not there.
        for top, number in shown:
            table = await self._fetcher.manifest(top.version)
            if (folder := table.folder(number)) is not None:
                names += [(ROOT_INODE, name) for (name,) in table.folder_names(folder)]
                names += [(ROOT_INODE, name) for name, _ in table.file_sizes(folder)]
        return Changed(names, root=True)

    async def node(self, inode: Inode) -> Node:
        """Return what an inode number is. Raises StaleInode, WbfsError."""
        if inode == ROOT_INODE:
            return (await self.root())[0]
        key, row = split_inode(inode)
        top = self._tops.get(key)
        if isinstance(top, Version):
            file = (await self._fetcher.manifest(top)).file(row)
            if file is not None:
                return VersionFile(top, _sized(file, self._fetcher.sizes.told(inode)))
        elif isinstance(top, VersionDirectory):
            table = await self._fetcher.manifest(top.version)
            return self._folder_node(top, table, row)
        elif top is not None:
            return top
        raise StaleInode(f"inode {inode} is none that this mount gave out")

    async def stat(self, inode: Inode) -> Attributes:
        """Return what `stat` shows of an inode, asked of its origin if need be.

        Raises StaleInode, WbfsError.
        """
        node = await self.node(inode)
        if isinstance(node, VersionFile) and not node.file.entry.is_sized:
            size = await self._size(node, inode)
            return file_attributes(inode, node.version, size.bytes, is_sure=size.is_sure)
        return self.attributes(node)

    async def open(self, inode: Inode) -> Reader:
        """Return what reads an inode's file. Raises IsADirectory, StaleInode, WbfsError."""
        known = self._files.get(inode)
        if known is not None:
            # By the way that it is shown now: by another one it may be denied.
            top = self._tops.get(split_inode(inode)[0])
            if isinstance(top, Version) and self._fetcher.has_manifest(top):
                return self._fetcher.reader(top, known, inode)
        node = await self.node(inode)
        if not isinstance(node, VersionFile):
            raise IsADirectory(f"inode {inode} is a directory")
        file = node.file
        self._fetcher.refuse(file.entry)
        if is_sized_by_reading(file.entry):
            file = replace(file, entry=replace(file.entry, size=None, size_is_hint=False))
        elif not file.entry.is_sized:
            file = _sized(file, (await self._size(node, inode, is_read=True)).bytes)
        is_learnt = self._fetcher.sizes.told(inode) is not None
        if node.file.entry.is_sized and not is_learnt:
            self._files.put(inode, node.file)
        reader = self._fetcher.reader(node.version, file, inode, is_learnt=is_learnt)
        await reader.begin()
        return reader

    async def _size(self, node: VersionFile, inode: Inode, *, is_read: bool = False) -> Size:
        table = await self._fetcher.manifest(node.version)
        return await self._fetcher.sizes.of(node.version, node.file, inode, table, is_read=is_read)

    def told_size(self, inode: Inode) -> int | None:
        """Return the size of a file that the manifest doesn't tell, if it was found out."""
        return self._fetcher.sizes.told(inode)

    def attributes(self, node: Node, *, is_root: bool = False) -> Attributes:
        """Return what `stat` shows of the node, and remember it for when the kernel asks again.

        Raises InodeTaken.
        """
        attributes = attributes_of(node)
        if is_root:
            return replace(attributes, inode=ROOT_INODE)
        key, _ = split_inode(attributes.inode)
        match node:
            case VersionFile():
                self._register(key, node.version)
            case FolderDirectory():
                self._register(key, node.top)
            case _:
                self._register(key, node)
        return attributes

    def _register(self, key: TreeKey, top: Listed | VersionDirectory | Version) -> None:
        old = self._tops.get(key)
        if old is top:
            return
        if old is not None and _identity(old) != _identity(top):
            raise InodeTaken(
                f"{_name_of(top)} can't be shown beside {_name_of(old)}: both would have the inode"
                " number of one, which is rare; mount it by itself"
            )
        self._tops[key] = top

    async def look_up(self, parent: Inode, name: str) -> Found:
        """Return what `name` is in the directory `parent`. Raises WbfsError."""
        key, row = split_inode(parent)
        top = self._tops.get(key)
        if isinstance(top, VersionDirectory):
            return Found(await self._look_up_row(top, row, name), math.inf)
        node, valid_until = await self._node_until(parent)
        attributes = None
        match node:
            case RootDirectory() | EntityDirectory() | ProjectDirectory() | CollectionDirectory():
                answer = await self._names.child(node, name)
                valid_until = answer.valid_until
                if answer.child is not None:
                    attributes = self.attributes(answer.child)
            case VersionDirectory() | FolderDirectory():
                attributes = await self._look_up_row(*_place(node), name)
            case VersionFile():
                raise NotADirectory(f"{path_of(node)} is a file")
        return Found(attributes, valid_until - trio.current_time())

    async def _look_up_row(
        self, top: VersionDirectory, folder: int, name: str
    ) -> Attributes | None:
        """Return what the name is in the folder of that number: one query, and no objects."""
        table = await self._fetcher.manifest(top.version)
        found = table.find(folder, name) if is_safe_component(name) else None
        if found is not None and self._prefix:
            shows = self._shows(table, folder)
            found = found if shows(name, found.is_folder) else None
        if found is None:
            # Once a name: the kernel remembers what isn't there.
            path = "/".join((path_of(top), *table.folder_path(folder)))
            log.info("no %r in %s: the manifest has no such file", name, path)
            return None
        if found.is_folder:
            key = top.key
            self._register(key, top)
            return folder_attributes(inode_of(key, found.id), top.version)
        key = file_key(top.version)
        self._register(key, top.version)
        inode = inode_of(key, found.id)
        size: int | None = found.size
        if found.size < 0:
            size = self._fetcher.sizes.told(inode)
        if size is not None:
            return file_attributes(inode, top.version, size, is_sure=True)
        if found.size == UNSIZED:
            # A name that is looked up is most likely opened, or its attributes are wanted.
            return await self.stat(inode)
        return file_attributes(inode, top.version, ~found.size, is_sure=False)

    async def listing(self, inode: Inode) -> DirectoryListing | OpenFolder:
        """Return the listing of a directory, as it is now. Raises WbfsError."""
        node, valid_until = await self._node_until(inode)
        match node:
            case RootDirectory() | EntityDirectory() | ProjectDirectory() | CollectionDirectory():
                return DirectoryListing(node=node, names=await self._names.children(node))
            case VersionDirectory() | FolderDirectory():
                top, number = _place(node)
                # Fetched now, so that opening the directory fails and not reading it.
                table = await self._fetcher.manifest(top.version)
                folder = table.folder(number)
                if folder is None:
                    raise StaleInode(f"{path_of(top)} has no folder of number {number}")
                opened = OpenFolder(
                    node=node,
                    version=top.version,
                    folder=folder,
                    folder_key=top.key,
                    file_key=file_key(top.version),
                    valid_until=valid_until,
                )
                self._register(opened.folder_key, top)
                self._register(opened.file_key, top.version)
                return opened
            case VersionFile():
                raise NotADirectory(f"{path_of(node)} is a file")

    async def rows(self, opened: OpenFolder, skip: int) -> Sequence[Row]:
        """Return what is behind the first `skip` names, up to a chunk's end. Raises WbfsError."""
        table = await self._fetcher.manifest(opened.version)
        if not skip:
            path = "/".join(table.folder_path(opened.folder.id))
            self._fetcher.listed.was_listed(opened.version, opened.folder, path)
        shows = self._shows(table, opened.folder.id) if self._prefix else None
        return self._rows.after(opened, skip, table, shows)

    def _shows(self, table: ManifestTable, folder: int) -> Shows:
        """Return what tells of the names in a folder if the prefix lets them through."""
        if not self._prefix.matches(table):
            return lambda name, is_folder: False
        path = table.folder_path(folder)
        return lambda name, is_folder: self._prefix.shows(path, name, is_folder=is_folder)

    async def _node_until(self, inode: Inode) -> tuple[Node, float]:
        if inode == ROOT_INODE:
            return await self.root()
        return await self.node(inode), math.inf

    def _folder_node(
        self, top: VersionDirectory, table: ManifestTable, number: int
    ) -> VersionDirectory | FolderDirectory:
        if number == ROOT_FOLDER:
            return top
        folder = table.folder(number)
        if folder is None:
            raise StaleInode(f"{path_of(top)} has no folder of number {number}")
        return FolderDirectory(top, folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryListing:
    """One open directory above the versions."""

    node: Listed
    names: Listing

    @property
    def ttl_s(self) -> float:
        """For how many more seconds the names may be believed."""
        return self.names.valid_until - trio.current_time()


def _place(node: VersionDirectory | FolderDirectory) -> tuple[VersionDirectory, int]:
    if isinstance(node, VersionDirectory):
        return node, ROOT_FOLDER
    return node.top, node.folder.id


def _sized(file: File, size: int | None) -> File:
    """Return a file with the size that was found out, if it was."""
    if file.entry.is_sized or size is None:
        return file
    return replace(file, entry=replace(file.entry, size=size, size_is_hint=False))


def _name_of(top: Listed | VersionDirectory | Version) -> str:
    return f"what is in {top.path}" if isinstance(top, Version) else path_of(top)


def _identity(top: Listed | VersionDirectory | Version) -> tuple[str, ...]:
    """What makes two directories, or versions, the same: not their times, nor other names."""
    if isinstance(top, Version):
        return ("file", top.id)
    if isinstance(top, VersionDirectory):
        return ("folder", top.version.id, path_of(top))
    return (type(top).__name__, path_of(top))
