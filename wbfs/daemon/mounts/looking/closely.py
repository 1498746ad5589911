"""What a mount says of one path: what it is, and how its last fetch went. It may have to wait."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wbfs.daemon.mounts.paths import MountedPath, look_at, told_by
from wbfs.daemon.mounts.table import mount_of, resolve
from wbfs.fs.nodes import XATTR_PREFIX

ATTRIBUTES = ("name", "type", "aliases", "digest", "size", "uri", "birth_artifact", "created_at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known of a path: its attributes, its last fetch if any, and errors with its name."""

    mounted: MountedPath
    is_folder: bool
    attributes: dict[str, str]
    fetch: dict[str, Any] | None
    errors: list[dict[str, Any]]


def look_closely(text: str) -> Known | None:
    """Return what is known of a path; None where it is on no mount of wbfs. Raises UsageError."""
    mounted = look_at(text)
    path = resolve(Path(text))
    mount = mount_of(path)
    if mounted is None or mount is None:
        return None
    is_folder = path.is_dir()
    if is_folder:
        # The list of its files is fetched, if it isn't here; where it can't be, the errors say so.
        with contextlib.suppress(OSError), os.scandir(path) as entries:
            next(entries, None)
    full = f"{mounted.version}/{mounted.path}"
    fetches = told_by(mount, "fetches.jsonl")
    errors = told_by(mount, "errors.jsonl")
    return Known(
        mounted=mounted,
        is_folder=is_folder,
        attributes=_attributes(path),
        fetch=next((one for one in reversed(fetches) if one.get("path") == full), None),
        errors=[one for one in errors if full in str(one.get("cause"))],
    )


def _attributes(path: Path) -> dict[str, str]:
    found = {}
    for name in ATTRIBUTES:
        try:
            value = os.getxattr(path, XATTR_PREFIX + name)
        except OSError:
            # It has none of that name.
            continue
        if value:
            found[name] = os.fsdecode(value)
    return found
