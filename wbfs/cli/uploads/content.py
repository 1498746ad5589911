"""What is to be put: a file or a folder with all below it, and what of it is below mounts.

Symbolic links are followed, as the SDK does. What a mount shows is not read, nor even asked for
name by name: which version it is, is all that has to be known. Blocking code.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from wbfs.daemon.mounts.paths import MountedPath, look_at
from wbfs.daemon.mounts.records import Records
from wbfs.daemon.mounts.table import resolve
from wbfs.model.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a mount shows at the path `real`: a file of a version, or a folder with all below it.

    `name` is its path in the artifact if it is a file, and `prefix` that of what is below it.
    """

    real: Path
    at: MountedPath
    name: str
    prefix: str


@dataclass(slots=True)
class Content:
    """What is there: files to be read, by their paths in the artifact, and what mounts show.

    `empty_folders` counts what an artifact can't have.
    """

    files: dict[str, Path] = field(default_factory=dict)
    shown: list[Shown] = field(default_factory=list)
    empty_folders: int = 0


def look_through(path: Path, *, server: str) -> Content:
    """Return what is at a path; mounts are those that show what is at the server `server`.

    Raises UsageError where something of it can't be put.
    """
    found, below = Content(), _BelowMounts(server)
    real = resolve(path)
    if (shown := below.find(real)) is not None:
        found.shown.append(Shown(real=real, at=shown, name=path.name, prefix=""))
    elif stat.S_ISDIR(_status(path, real).st_mode):
        _walk(real, found, below)
    else:
        found.files[_checked(path.name, path)] = real
    return found


def _walk(root: Path, found: Content, below: _BelowMounts) -> None:
    """Add all that is below a folder."""
    # The folders that are left, with their paths in the artifact and those that they are in.
    left: list[tuple[Path, str, tuple[Path, ...]]] = [(root, "", ())]
    while left:
        folder, prefix, above = left.pop()
        try:
            with os.scandir(folder) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
        except OSError as error:
            raise UsageError(f"can't list {folder}: {error.strerror}") from error
        found.empty_folders += not entries
        for entry in entries:
            name = _checked(prefix + entry.name, Path(entry.path))
            real = below.target(entry) if entry.is_symlink() else Path(entry.path)
            if (shown := below.find(real)) is not None:
                found.shown.append(Shown(real=real, at=shown, name=name, prefix=f"{name}/"))
                continue
            status = _status(Path(entry.path), real)
            if not stat.S_ISDIR(status.st_mode):
                found.files[name] = real
                continue
            inside = (*above, folder)
            if entry.is_symlink() and any(one.is_relative_to(real) for one in inside):
                raise UsageError(f"{entry.path} leads in a circle, to {real}: remove that link")
            left.append((real, f"{name}/", inside))


def _status(path: Path, real: Path) -> os.stat_result:
    """Return what is known of a file or a folder. Raises UsageError for what is neither."""
    try:
        status = os.stat(real)
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from error
    if not (stat.S_ISDIR(status.st_mode) or stat.S_ISREG(status.st_mode)):
        raise UsageError(f"can't put {path}: it is neither a file nor a folder; leave it out")
    return status


def _checked(name: str, path: Path) -> str:
    """Return a path in an artifact, if it can be one. Raises UsageError."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UsageError(
            f"can't put {os.fsencode(path)!r}: its name is not UTF-8, and an artifact's are;"
            " rename it"
        ) from None
    return name


class _BelowMounts:
    """Tells what paths below the user's own mounts are, and asks those once a version."""

    def __init__(self, server: str) -> None:
        self._mountpoints = frozenset(where for where, _ in Records().of_server(server))
        self._tops: dict[Path, MountedPath] = {}

    def target(self, link: os.DirEntry[str]) -> Path:
        """Return where a symbolic link leads to. Raises UsageError."""
        try:
            target = Path(os.readlink(link.path))
        except OSError as error:
            raise UsageError(f"can't read {link.path}: {error.strerror}") from error
        # Below a mount there are no links: that much is known without a look at each folder.
        if target.is_absolute() and ".." not in target.parts and self._mountpoint(target):
            return target
        return resolve(Path(link.path))

    def find(self, path: Path) -> MountedPath | None:
        """Return what a path without symbolic links is of a version; None where it is on no mount.

        Raises UsageError where it is on one, and above the versions.
        """
        mountpoint = self._mountpoint(path)
        if mountpoint is None:
            return None
        for top in (path, *path.parents):
            if (known := self._tops.get(top)) is not None:
                parts = (known.path, *path.relative_to(top).parts)
                return replace(known, path="/".join(filter(None, parts)))
            if top == mountpoint:
                break
        shown = look_at(str(path))
        if shown is not None:
            top, inside = path, PurePosixPath(shown.path)
            while top != mountpoint and inside.name and inside.name == top.name:
                top, inside = top.parent, inside.parent
            self._tops[top] = replace(shown, path="/".join(inside.parts))
        return shown

    def _mountpoint(self, path: Path) -> Path | None:
        return next((one for one in (path, *path.parents) if one in self._mountpoints), None)
