"""What every path of a mount is. Knows nothing of FUSE but inode numbers. Trio thread."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import trio

from wbfs.fetch.fetcher import Fetcher
from wbfs.fs.inodes import ROOT_INODE, Inode, TreeKey, split_inode
from wbfs.fs.names import Names
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
    path_of,
)
from wbfs.fs.prefix import PathPrefix
from wbfs.model.entries import Version
from wbfs.model.errors import NotADirectory, NotFound, StaleInode, WbfsError
from wbfs.model.names import Source, is_safe_component
from wbfs.store.manifests import ROOT_FOLDER, Folder, ManifestTable

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """What a name is, and for how many seconds that may be believed; None for no such name."""

    node: Node | None
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Mounted:
    """The directory at the mountpoint: `base`, or with an alias a folder of what that names."""

    base: Listed
    alias: str = ""
    folder: str = ""


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
        # What the kernel was told of, but for folders and files: those are rows of a manifest.
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
            )
        if not mounted.folder:
            return top, answer.valid_until
        table = await self._fetcher.manifest(top.version)
        number = ROOT_FOLDER
        for name in mounted.folder.split("/"):
            folder = table.folder_by_name(number, name)
            if folder is None:
                raise NotFound(f"{top.version.path} has no folder {mounted.folder!r}")
            number = folder.id
        return self._folder_node(top, table, number), answer.valid_until

    async def node(self, inode: Inode) -> Node:
        """Return what an inode number is. Raises StaleInode, WbfsError."""
        if inode == ROOT_INODE:
            return (await self.root())[0]
        key, row = split_inode(inode)
        top = self._tops.get(key)
        if isinstance(top, Version):
            file = (await self._fetcher.manifest(top)).file(row)
            if file is not None:
                return VersionFile(top, file)
        elif isinstance(top, VersionDirectory):
            table = await self._fetcher.manifest(top.version)
            return self._folder_node(top, table, row)
        elif top is not None:
            return top
        raise StaleInode(f"inode {inode} is none that this mount gave out")

    def attributes(self, node: Node, *, is_root: bool = False) -> Attributes:
        """Return what `stat` shows of the node, and remember it for when the kernel asks again."""
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
        if old is not None and _identity(old) != _identity(top):
            raise WbfsError(f"two directories have one inode number: {old} and {top}")
        self._tops[key] = top

    async def look_up(self, parent: Inode, name: str) -> Found:
        """Return what `name` is in the directory `parent`. Raises WbfsError."""
        node, valid_until = await self._node_until(parent)
        match node:
            case RootDirectory() | EntityDirectory() | ProjectDirectory() | CollectionDirectory():
                answer = await self._names.child(node, name)
                return Found(answer.child, answer.valid_until - trio.current_time())
            case VersionDirectory() | FolderDirectory():
                top, number = _place(node)
                table = await self._fetcher.manifest(top.version)
                child = self._child(table, top, number, name)
                if child is None:
                    # Once a name: the kernel remembers what isn't there.
                    folder = "/".join((path_of(top), *table.folder_path(number)))
                    log.info("no %r in %s: the manifest has no such file", name, folder)
                return Found(child, valid_until - trio.current_time())
            case VersionFile():
                raise NotADirectory(f"{path_of(node)} is a file")

    async def listing(self, inode: Inode) -> DirectoryListing:
        """Return the listing of a directory, as it is now. Raises WbfsError."""
        node, valid_until = await self._node_until(inode)
        match node:
            case RootDirectory() | EntityDirectory() | ProjectDirectory() | CollectionDirectory():
                listing = await self._names.children(node)
                return DirectoryListing(
                    node=node, valid_until=listing.valid_until, children=listing.children
                )
            case VersionDirectory() | FolderDirectory():
                # Fetched now, so that opening the directory fails and not reading it.
                await self._fetcher.manifest(_place(node)[0].version)
                return DirectoryListing(node=node, valid_until=valid_until)
            case VersionFile():
                raise NotADirectory(f"{path_of(node)} is a file")

    async def children(self, listing: DirectoryListing, skip: int) -> Iterator[tuple[str, Node]]:
        """Yield a listing's names and nodes but for the first `skip`, before the next await."""
        node = listing.node
        if not isinstance(node, VersionDirectory | FolderDirectory):
            return iter(listing.children[skip:])
        top, number = _place(node)
        table = await self._fetcher.manifest(top.version)
        return self._children(table, top, number, skip)

    def _child(
        self, table: ManifestTable, top: VersionDirectory, number: int, name: str
    ) -> Node | None:
        if not is_safe_component(name):
            return None
        child: Node | None = None
        if (file := table.file_by_name(number, name)) is not None:
            child = VersionFile(top.version, file)
        elif (folder := table.folder_by_name(number, name)) is not None:
            child = FolderDirectory(top, folder)
        if child is None or not self._prefix:
            return child
        return child if self._shown(table, number)(name, child) else None

    def _shown(self, table: ManifestTable, number: int) -> Callable[[str, Node], bool]:
        """Return what tells of a folder's names whether the prefix lets them through."""
        path = table.folder_path(number)
        if not self._prefix.matches(table):
            return lambda name, node: False
        return lambda name, node: self._prefix.shows(
            path, name, is_folder=isinstance(node, FolderDirectory)
        )

    def _children(
        self, table: ManifestTable, top: VersionDirectory, number: int, skip: int
    ) -> Iterator[tuple[str, Node]]:
        parent = table.folder(number)
        if parent is None:
            raise StaleInode(f"{path_of(top)} has no folder of number {number}")
        if not self._prefix:
            return _children(table, top, parent, skip)
        shown = self._shown(table, number)
        children = _children(table, top, parent, 0)
        return islice((child for child in children if shown(*child)), skip, None)

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
    """One open directory: a version's folder is read from its table, others are kept here."""

    node: Directory
    valid_until: float
    children: tuple[tuple[str, Node], ...] = ()

    @property
    def ttl_s(self) -> float:
        """For how many more seconds the names may be believed."""
        return self.valid_until - trio.current_time()


def _place(node: VersionDirectory | FolderDirectory) -> tuple[VersionDirectory, int]:
    if isinstance(node, VersionDirectory):
        return node, ROOT_FOLDER
    return node.top, node.folder.id


def _identity(top: Listed | VersionDirectory | Version) -> tuple[str, ...]:
    """What makes two directories, or versions, the same: not their times, nor other names."""
    if isinstance(top, Version):
        return ("file", top.id)
    if isinstance(top, VersionDirectory):
        return ("folder", top.version.id, path_of(top))
    return (type(top).__name__, path_of(top))


def _children(
    table: ManifestTable, top: VersionDirectory, parent: Folder, skip: int
) -> Iterator[tuple[str, Node]]:
    for folder in table.folders(parent, skip):
        yield folder.name, FolderDirectory(top, folder)
    for file in table.files(parent, max(0, skip - parent.folder_count)):
        yield file.name, VersionFile(top.version, file)
