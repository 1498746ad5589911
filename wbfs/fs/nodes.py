"""What is in the tree: directories above the versions, folders and files of versions.

Plain values; `Tree` makes them, `attributes_of` and `xattrs_of` say what a program sees of them.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from datetime import UTC, datetime

from wbfs.fs.inodes import ROOT_INODE, Inode, TreeKey, inode_of, tree_key
from wbfs.model.entries import Collection, Entry, Project, Version
from wbfs.remote.http.failures import without_login
from wbfs.store.known.manifest_table import ROOT_FOLDER, File, Folder

XATTR_PREFIX = "user.wandb."
FILE_XATTRS = ("digest", "size", "birth_artifact", "uri")
"""What a file's own attributes are called, beside its version's name."""
LISTED_BYTES = 2048
"""What the listed attributes of one node take at most: ext4 has one block of 4 KiB for them, and
for those that other programs put there."""
XATTR_BYTES = 32
"""What an attribute takes beside its name and its value."""


@dataclass(frozen=True, slots=True)
class RootDirectory:
    """All entities."""


@dataclass(frozen=True, slots=True)
class EntityDirectory:
    """One entity's projects."""

    entity: str


@dataclass(frozen=True, slots=True)
class ProjectDirectory:
    """One project's collections."""

    project: Project


@dataclass(frozen=True, slots=True)
class CollectionDirectory:
    """One collection's versions and aliases."""

    collection: Collection

    @classmethod
    def called(cls, entity: str, project: str, name: str) -> CollectionDirectory:
        """Return that of a collection of which nothing but the name is known."""
        of = Collection(entity=entity, project=project, name=name, type="", created_at_ns=0)
        return cls(of)


@dataclass(frozen=True, slots=True)
class VersionDirectory:
    """A version by one of its names, `vN` or an alias: the root of its files.

    `name` is the name that it was looked up by.
    """

    version: Version
    name: str

    @property
    def key(self) -> TreeKey:
        """The key of this directory's folders."""
        version = self.version
        return tree_key(
            "folder", version.entity, version.project, version.collection, self.name, version.id
        )


@dataclass(frozen=True, slots=True)
class FolderDirectory:
    """A folder below a version directory."""

    top: VersionDirectory
    folder: Folder


@dataclass(frozen=True, slots=True)
class VersionFile:
    """A file of a version."""

    version: Version
    file: File


Listed = RootDirectory | EntityDirectory | ProjectDirectory | CollectionDirectory
"""Directories whose names the server lists."""
Directory = Listed | VersionDirectory | FolderDirectory
Node = Directory | VersionFile


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What `stat` shows; the mode is without the umask, times are nanoseconds since the epoch.

    A time of 0 is not known: it is the mount's. A size that isn't sure is to be asked for again.
    """

    inode: Inode
    mode: int
    size: int
    mtime_ns: int
    size_is_sure: bool = True


def file_key(version: Version) -> TreeKey:
    """The key of a version's files."""
    return tree_key("file", version.id)


def inode_of_node(node: Node) -> Inode:
    """Return the node's number, were the whole namespace mounted."""
    match node:
        case RootDirectory():
            return ROOT_INODE
        case EntityDirectory():
            return inode_of(tree_key("entity", node.entity))
        case ProjectDirectory():
            return inode_of(tree_key("project", node.project.entity, node.project.name))
        case CollectionDirectory():
            collection = node.collection
            return inode_of(
                tree_key("collection", collection.entity, collection.project, collection.name)
            )
        case VersionDirectory():
            return inode_of(node.key, ROOT_FOLDER)
        case FolderDirectory():
            return inode_of(node.top.key, node.folder.id)
        case VersionFile():
            return inode_of(file_key(node.version), node.file.id)


def path_of(node: Node) -> str:
    """Return the path for messages, as the whole namespace would have it."""
    match node:
        case RootDirectory():
            return "/"
        case EntityDirectory():
            return node.entity
        case ProjectDirectory():
            return f"{node.project.entity}/{node.project.name}"
        case CollectionDirectory():
            collection = node.collection
            return f"{collection.entity}/{collection.project}/{collection.name}"
        case VersionDirectory():
            version = node.version
            return f"{version.entity}/{version.project}/{version.collection}/{node.name}"
        case FolderDirectory():
            return f"{path_of(node.top)}/.../{node.folder.name}"
        case VersionFile():
            return f"{node.version.path}/{node.file.entry.path}"


def attributes_of(node: Node) -> Attributes:
    """Return what `stat` shows of the node."""
    inode = inode_of_node(node)
    match node:
        case RootDirectory() | EntityDirectory():
            mtime_ns = 0
        case ProjectDirectory():
            mtime_ns = node.project.created_at_ns
        case CollectionDirectory():
            mtime_ns = node.collection.created_at_ns
        case VersionDirectory():
            mtime_ns = node.version.created_at_ns
        case FolderDirectory():
            mtime_ns = node.top.version.created_at_ns
        case VersionFile():
            entry = node.file.entry
            return file_attributes(inode, node.version, entry.size or 0, is_sure=entry.is_sized)
    return Attributes(inode=inode, mode=stat.S_IFDIR | 0o555, size=0, mtime_ns=mtime_ns)


def file_attributes(inode: Inode, version: Version, size: int, *, is_sure: bool) -> Attributes:
    """Return what `stat` shows of a file of a version."""
    return Attributes(
        inode=inode,
        mode=stat.S_IFREG | 0o444,
        size=size,
        mtime_ns=version.created_at_ns,
        size_is_sure=is_sure,
    )


def folder_attributes(inode: Inode, version: Version) -> Attributes:
    """Return what `stat` shows of a folder of a version."""
    mode = stat.S_IFDIR | 0o555
    return Attributes(inode=inode, mode=mode, size=0, mtime_ns=version.created_at_ns)


def xattrs_of(node: Node) -> dict[str, str]:
    """Return all `user.wandb.*` attributes: what the node is in W&B's words, its own first."""
    match node:
        case RootDirectory():
            values = {}
        case EntityDirectory():
            values = {"entity": node.entity}
        case ProjectDirectory():
            values = {"entity": node.project.entity, "project": node.project.name}
        case CollectionDirectory():
            collection = node.collection
            values = {
                "entity": collection.entity,
                "project": collection.project,
                "artifact": collection.name,
                "type": collection.type,
            }
        case VersionDirectory():
            values = _version_xattrs(node.version)
        case FolderDirectory():
            values = _version_xattrs(node.top.version)
        case VersionFile():
            values = _file_xattrs(node.file.entry) | {
                name: value
                for name, value in _version_xattrs(node.version).items()
                if name not in FILE_XATTRS
            }
    return {XATTR_PREFIX + name: value for name, value in values.items()}


def listed_xattrs(node: Node) -> list[str]:
    """Return the names of the attributes that are listed: the node's own, and short in all.

    Programs copy what is listed along, and other filesystems take little.
    """
    names = []
    left = LISTED_BYTES
    for name, value in xattrs_of(node).items():
        if not _is_own(node, name.removeprefix(XATTR_PREFIX)):
            continue
        size = len(name) + len(value.encode("utf-8", "surrogatepass")) + XATTR_BYTES
        if size <= left:
            names.append(name)
            left -= size
    return names


def _is_own(node: Node, name: str) -> bool:
    """Whether an attribute is not only the version's that a folder or a file is of."""
    match node:
        case FolderDirectory():
            return name == "name"
        case VersionFile():
            return name == "name" or name in FILE_XATTRS
        case _:
            return True


def _file_xattrs(entry: Entry) -> dict[str, str]:
    values = {
        "digest": entry.digest.base64 if entry.digest else "",
        "size": "" if entry.size is None else str(entry.size),
        "birth_artifact": entry.birth_artifact_id,
    }
    if entry.reference is not None:
        # Passwords are for the server alone.
        values["digest"] = values["digest"] or without_login(entry.reference.token)
        values["uri"] = without_login(entry.reference.uri)
    return values


def _version_xattrs(version: Version) -> dict[str, str]:
    return {
        "name": version.path,
        "entity": version.entity,
        "project": version.project,
        "artifact": version.collection,
        "type": version.type,
        "version": version.name,
        "aliases": ",".join(version.aliases),
        "tags": ",".join(version.tags),
        "digest": version.digest,
        "size": str(version.size),
        "id": version.id,
        "created_at": _iso_time(version.created_at_ns),
        "description": version.description,
        "metadata": version.metadata,
    }


def _iso_time(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="seconds")
