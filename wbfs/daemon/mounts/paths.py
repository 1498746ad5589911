"""What a path below a mount is: which files of which version, and of which mount.

Which mount, and so whose cache and which server, is told by the kernel's mount table and by the
record of the mount's daemon. Which version is told by the extended attributes of paths, which are
read through the mount and need not be believed: the server is asked for that version with the
user's own key, and every byte is checked against that one's digests. At worst something else is
fetched that the user may read, into the user's own cache.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wbfs.daemon.mounts.looking.health import Health, health_of
from wbfs.daemon.mounts.records import Record, Records
from wbfs.daemon.mounts.table import Mount, mount_of, resolve
from wbfs.fs.control import CONTROL_NAME
from wbfs.fs.nodes import XATTR_PREFIX
from wbfs.model.errors import NotNow, UsageError
from wbfs.model.names import name_at


@dataclass(frozen=True, slots=True, kw_only=True)
class MountedCache:
    """Where a mount keeps what it fetches, from which server; sizes in bytes, None for no limit.

    `blob_gateway` is the URL of what is asked before W&B's store, or empty.
    """

    server: str
    offline: bool
    cache_dir: Path
    cache_size: int | None
    min_free: int
    blob_gateway: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MountedPath:
    """A file, or all that a mount shows below a folder, of the version `name` (`vN`).

    `path` is the path in the artifact; the mount shows only what starts with `path_prefix`.
    """

    cache: MountedCache
    entity: str
    project: str
    collection: str
    name: str
    artifact_id: str
    path: str
    path_prefix: str

    @property
    def version(self) -> str:
        """The version's name as the SDK writes it."""
        return name_at(self.entity, self.project, self.collection, self.name)


def look_at(text: str) -> MountedPath | None:
    """Return what the path is that a user gave; None where it is on no mount of wbfs.

    Raises UsageError where it is, and nothing can be fetched for it.
    """
    path = resolve(Path(text))
    mount = mount_of(path)
    if mount is None:
        return None
    record = Records().of(mount)
    if record is None and not mount.is_ours:
        return None
    record = _usable(mount, record)
    if mount.root != "/":
        raise UsageError(
            f"{mount.mountpoint} shows a folder of the mount at {record.mountpoint}: give the path"
            " below that"
        )
    try:
        os.stat(path)
    except FileNotFoundError:
        # It may be a name, with the mount as the working directory.
        return None
    except OSError as error:
        raise _unreadable(path, mount, error) from error
    version = _version_of(path, mount)
    if version is None:
        if path.is_relative_to(mount.mountpoint / CONTROL_NAME):
            raise UsageError(f"{path} is of the mount itself: name a path in a version")
        raise UsageError(
            f"{path} is above the versions: name one of them, such as"
            f" {path.joinpath(*_missing_levels(path, mount))}"
        )
    cache = MountedCache(
        server=record.server,
        offline=record.offline,
        cache_dir=Path(record.cache_dir),
        cache_size=record.cache_size,
        min_free=record.min_free,
        blob_gateway=record.blob_gateway,
    )
    if not os.path.isdir(cache.cache_dir):
        raise UsageError(
            f"the cache of {mount.mountpoint}, {cache.cache_dir}, is not to be seen from here: run"
            " it where the mount's daemon runs"
        )
    top = _top(path, mount, version)
    parts = list(path.relative_to(top).parts)
    if top == mount.mountpoint:
        # Only with an alias there can be a version at the mountpoint; a folder goes behind that.
        source = record.shown
        parts = [*source.folder.split("/"), *parts] if source.folder else parts
    return MountedPath(
        cache=cache,
        entity=version["entity"],
        project=version["project"],
        collection=version["artifact"],
        name=version["version"],
        artifact_id=version["id"],
        path="/".join(parts),
        path_prefix=record.path_prefix,
    )


def _usable(mount: Mount, record: Record | None) -> Record:
    """Return what the daemon of a mount, which must be ours and answer, wrote down."""
    if record is None and mount.is_another_users:
        raise UsageError(
            f"{mount.mountpoint} is a mount of another user (uid {mount.user_id}), who alone may"
            " write to its cache: run it as that user"
        )
    match health_of(mount.mountpoint):
        case Health.DEAD:
            raise NotNow(
                f"can't look at {mount.mountpoint}: the mount's daemon is gone: mount it again"
            )
        case Health.HANGS:
            raise NotNow(
                f"can't look at {mount.mountpoint}: the mount's daemon does not answer: end it with"
                f" wbfs umount --force {mount.mountpoint}, and mount it again"
            )
    if record is None:
        raise UsageError(
            f"there is no record of the mount at {mount.mountpoint}, which says where its cache is:"
            " run it with the XDG_STATE_HOME and HOME of the mount, or name the version instead"
        )
    return record


def _version_of(path: Path, mount: Mount) -> dict[str, str] | None:
    """Return what the mount says of a path's version; None above versions. Raises UsageError."""
    found = {}
    for name in ("id", "entity", "project", "artifact", "version"):
        value = _attribute(path, name, mount)
        if value is None:
            return None
        found[name] = value
    return found


def _attribute(path: Path, name: str, mount: Mount) -> str | None:
    try:
        return os.fsdecode(os.getxattr(path, XATTR_PREFIX + name))
    except OSError as error:
        if error.errno == errno.ENODATA:
            return None
        raise _unreadable(path, mount, error) from error


def _top(path: Path, mount: Mount, version: dict[str, str]) -> Path:
    """Return the version's directory, or the mountpoint where that is it, or a folder of it."""
    top = path
    while top != mount.mountpoint:
        above = _attribute(top.parent, "id", mount)
        if above is None:
            break
        if above != version["id"]:
            raise NotNow(
                f"{top.parent} has become another version at this moment: run the command again"
            )
        top = top.parent
    return top


def _missing_levels(path: Path, mount: Mount) -> list[str]:
    """Return what a path above the versions lacks."""
    levels = ("entity", "project", "artifact")
    missing = [f"<{level}>" for level in levels if _attribute(path, level, mount) is None]
    return [*missing, "latest"]


def _unreadable(path: Path, mount: Mount, error: OSError) -> NotNow:
    causes = [
        str(one.get("cause"))
        for one in told_by(mount, "errors.jsonl")
        if path.name in str(one.get("cause"))
    ]
    why = causes[-1] if causes else f"{mount.mountpoint / CONTROL_NAME / 'errors.jsonl'} says why"
    return NotNow(f"can't look at {path}: {error.strerror}; {why}")


def told_by(mount: Mount, name: str) -> list[dict[str, Any]]:
    """Return what a mount tells in one of its own files, line by line."""
    try:
        text = (mount.mountpoint / CONTROL_NAME / name).read_text(encoding="utf-8")
    except OSError:
        # A daemon of an older version.
        return []
    return [json.loads(line) for line in text.splitlines()]
