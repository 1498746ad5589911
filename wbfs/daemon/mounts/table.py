"""What is mounted where, as the kernel says. No mount is asked: it may hang, or be dead."""

from __future__ import annotations

import codecs
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wbfs.model.errors import UsageError

FILESYSTEM_TYPE = "fuse.wbfs"
"""Our name in the mount table; other programs rely on it."""
MAX_LINKS = 40
"""Symbolic links on one path, as the kernel has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A line of the mount table.

    `device` is the filesystem's number, "0:45", which no other has while it is there; `root` the
    path in it that the mountpoint shows; `options` are the filesystem's, with commas between.
    """

    mountpoint: Path
    root: str
    device: str
    filesystem_type: str
    options: str

    @property
    def is_ours(self) -> bool:
        """Whether it says that it is wbfs."""
        return self.filesystem_type == FILESYSTEM_TYPE

    @property
    def is_fuse(self) -> bool:
        """Whether some daemon serves it, perhaps ours under another name."""
        return self.filesystem_type.partition(".")[0] == "fuse"

    @property
    def may_be_ours(self) -> bool:
        """Whether it is wbfs, or may be: who mounts to pass the descriptor need not give a name."""
        return self.is_ours or self.filesystem_type == "fuse"

    @property
    def user_id(self) -> int | None:
        """The number of the user who mounted it, where it is a FUSE filesystem."""
        return self._number("user_id")

    @property
    def group_id(self) -> int | None:
        """The number of that user's group."""
        return self._number("group_id")

    def _number(self, wanted: str) -> int | None:
        for option in self.options.split(","):
            name, _, value = option.partition("=")
            if name == wanted:
                return int(value)
        return None

    @property
    def is_another_users(self) -> bool:
        """Whether it is known to be a mount of somebody else than who runs this."""
        return self.user_id not in (None, os.getuid())

    @property
    def may_be_unmounted(self) -> bool:
        """Whether it is wbfs's, and who runs this is root or has mounted it."""
        return self.is_ours and (os.getuid() == 0 or not self.is_another_users)


def mounts(process: str = "self") -> Iterator[Mount]:
    """Yield all mounts that a process sees, in the order in which they were made. Raises OSError.

    That this one does can be read always.
    """
    # Bytes: a path need not be UTF-8, and has odd ideas of where a line ends. Whoever is shut up in
    # an empty folder sees none at all.
    for line in filter(None, Path(f"/proc/{process}/mountinfo").read_bytes().split(b"\n")):
        left, _, right = line.partition(b" - ")
        _, _, device, root, mountpoint, *_ = left.split(b" ")
        filesystem_type, _, options = right.split(b" ", 2)
        yield Mount(
            mountpoint=Path(_unescape(mountpoint)),
            root=_unescape(root),
            device=device.decode(),
            filesystem_type=os.fsdecode(filesystem_type),
            options=os.fsdecode(options),
        )


def _unescape(escaped: bytes) -> str:
    """Return a path of the table, where spaces and the like are written in octal."""
    unescaped = codecs.escape_decode(escaped)[0]
    assert isinstance(unescaped, bytes)
    return os.fsdecode(unescaped)


def who_else_sees(device: str) -> dict[str, int]:
    """Return the other namespaces in which our mount on a device is, and a process of each.

    Of processes that may be looked at.
    """
    looked_at = {os.readlink("/proc/self/ns/mnt")}
    found = {}
    for process in filter(str.isdecimal, os.listdir("/proc")):
        # It may be another user's, or end meanwhile.
        with contextlib.suppress(OSError):
            namespace = os.readlink(f"/proc/{process}/ns/mnt")
            if namespace not in looked_at:
                looked_at.add(namespace)
                if any(mount.device == device and mount.is_ours for mount in mounts(process)):
                    found[namespace] = int(process)
    return found


def mounts_at(path: Path) -> list[Mount]:
    """Return what is mounted exactly at `path`, the topmost last."""
    return [mount for mount in mounts() if mount.mountpoint == path]


def mount_at(path: Path) -> Mount | None:
    """Return what is mounted exactly at `path`, the topmost where there are several."""
    return next(reversed(mounts_at(path)), None)


def mount_of(path: Path) -> Mount | None:
    """Return the mount that `path`, absolute and without symbolic links, is on."""
    found = None
    for mount in mounts():
        if path.is_relative_to(mount.mountpoint) and (
            found is None or mount.mountpoint.is_relative_to(found.mountpoint)
        ):
            found = mount
    return found


def resolve(path: Path) -> Path:
    """Return the absolute path without symbolic links; what isn't there is taken as it is written.

    No mount of wbfs is asked on the way: it may hang, and there are no links on it. Raises
    UsageError.
    """
    ours = {mount.mountpoint for mount in mounts() if mount.may_be_ours}
    found, links = Path("/"), 0
    try:
        left = list(reversed(path.absolute().parts[1:]))
    except FileNotFoundError:
        raise UsageError(f"{path} is relative to the working directory, and that is gone") from None
    while left:
        name = left.pop()
        if name == "..":
            found = found.parent
            continue
        found /= name
        if found in ours or not ours.isdisjoint(found.parents):
            continue
        try:
            target = Path(os.readlink(found))
        except OSError:
            # Not a link, or not there.
            continue
        links += 1
        if links > MAX_LINKS:
            raise UsageError(f"{path} leads in a circle, over more than {MAX_LINKS} links")
        found = Path("/") if target.is_absolute() else found.parent
        left += reversed(target.parts[1:] if target.is_absolute() else target.parts)
    return found
