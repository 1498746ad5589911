"""A stand-in for whoever mounts for a daemon that may not, and passes it the open /dev/fuse."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mounts import COMMAND_TIMEOUT_S, run

MS_RDONLY, MS_NOSUID, MS_NODEV = 1, 2, 4


@contextmanager
def mounted(path: Path, *, kind: str = "fuse", user: int = 0) -> Iterator[int]:
    """Mount at a path what nobody serves yet; yield the descriptor, of which no copy is kept."""
    path.mkdir(exist_ok=True)
    descriptor = _mount(path, kind=kind, user=user)
    try:
        yield descriptor
    finally:
        run("umount", "-l", path)


def _mount(path: Path, *, kind: str, user: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={descriptor},rootmode=40000,user_id={user},group_id={user},default_permissions"
    flags = MS_RDONLY | MS_NOSUID | MS_NODEV
    place = os.fsencode(path)
    if libc.mount(b"driver", place, kind.encode(), flags, f"{options},allow_other".encode()):
        os.close(descriptor)
        raise OSError(ctypes.get_errno(), "the stand-in driver can't mount")
    return descriptor


@contextmanager
def driver(path: Path, target: Path, *, user: int) -> Iterator[None]:
    """Do as meta-fuse-csi-plugin does for a pod: mount at `target` once somebody calls at `path`.

    Only that user may call, once. (pkg/csi_mounter/csi_mounter.go there.)
    """
    target.mkdir()
    with listening(path) as listener:
        for one in (path.parent, path):
            os.chown(one, user, user)
            one.chmod(0o755)

        def serve() -> None:
            caller, _ = listener.accept()
            with caller:
                descriptor = _mount(target, kind="fuse", user=0)
                socket.send_fds(caller, [b'{"volumeName":"data"}'], [descriptor])
                os.close(descriptor)
            listener.close()
            path.unlink()

        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield
        finally:
            run("umount", "-l", target)
            serving.join()


@contextmanager
def listening(path: Path) -> Iterator[socket.socket]:
    """Yield a socket at a path, whose first caller is to be given the descriptor."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(COMMAND_TIMEOUT_S)
        yield listener


def give(listener: socket.socket, *descriptors: int) -> None:
    """Give the next caller descriptors, and what belongs to them."""
    caller, _ = listener.accept()
    with caller:
        socket.send_fds(caller, [b'{"volume": "data"}'], descriptors)
