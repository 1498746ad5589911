"""A stand-in for whoever mounts for a daemon that may not, and passes it the open /dev/fuse."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mounts import run

MS_RDONLY, MS_NOSUID, MS_NODEV = 1, 2, 4


@contextmanager
def mounted(path: Path, *, kind: str = "fuse", user: int = 0) -> Iterator[int]:
    """Mount at a path what nobody serves yet; yield the descriptor, of which no copy is kept."""
    path.mkdir(exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={descriptor},rootmode=40000,user_id={user},group_id={user},default_permissions"
    flags = MS_RDONLY | MS_NOSUID | MS_NODEV
    place = os.fsencode(path)
    if libc.mount(b"driver", place, kind.encode(), flags, f"{options},allow_other".encode()):
        os.close(descriptor)
        raise OSError(ctypes.get_errno(), "the stand-in driver can't mount")
    try:
        yield descriptor
    finally:
        run("umount", "-l", path)


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Yield a socket at a path, whose first caller is to be given the descriptor."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(20)
        yield listener


def give(listener: socket.socket, *descriptors: int) -> None:
    """Give the next caller descriptors, and what belongs to them."""
    caller, _ = listener.accept()
    with caller:
        socket.send_fds(caller, [b'{"volume": "data"}'], descriptors)
