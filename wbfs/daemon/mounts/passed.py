"""A mount that somebody else makes: its descriptor of /dev/fuse is passed to the daemon.

Who may mount opens /dev/fuse, mounts, and hands the descriptor to a daemon that may not: as an open
file, /dev/fd/N, or over a socket. Where it is mounted the daemon need not see, and must not look
before it answers. Whoever has passed it keeps no copy: the mount would outlive its daemon.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import stat
import time
from pathlib import Path

from wbfs.model.errors import NotNow, UsageError

FUSE_DEVICE = os.makedev(10, 229)
RECEIVE_TIMEOUT_S = 60.0
"""Seconds that the other side has to make its socket, and to pass the descriptor."""
MESSAGE_BYTES = 4096
"""What may come beside it; nobody needs it here."""
RETRY_S = 0.1

_DESCRIPTOR = re.compile(r"/dev/fd/(\d{1,9})")


def descriptor_of(mountpoint: str) -> int | None:
    """Return the descriptor that is named instead of a mountpoint, None where none is."""
    match = _DESCRIPTOR.fullmatch(mountpoint)
    return int(match[1]) if match else None


def take(descriptor: int) -> int:
    """Return the number of a descriptor of /dev/fuse that was passed; no process gets it.

    Raises UsageError.
    """
    try:
        found = os.fstat(descriptor)
    except OSError as error:
        raise UsageError(
            f"/dev/fd/{descriptor} is no open file ({error.strerror}): whoever starts wbfs has to"
            " pass an open descriptor of /dev/fuse"
        ) from None
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != FUSE_DEVICE:
        raise UsageError(
            f"/dev/fd/{descriptor} is not /dev/fuse: whoever starts wbfs has to pass a descriptor"
            " of that, with which it has mounted"
        )
    os.set_inheritable(descriptor, False)
    if descriptor > 2:
        return descriptor
    # Something else is read and printed there, and put there in the background.
    taken = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 3)
    with open(os.devnull, "r+b", buffering=0) as null:
        os.dup2(null.fileno(), descriptor)
    return taken


def receive(path: Path, *, timeout_s: float = RECEIVE_TIMEOUT_S) -> int:
    """Return the descriptor that comes over the socket at `path`, which may have to be made yet.

    Raises NotNow where none comes.
    """
    give_up_s = time.monotonic() + timeout_s
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        try:
            _connect(asking, path, give_up_s)
            asking.settimeout(max(RETRY_S, give_up_s - time.monotonic()))
            _, descriptors, _, _ = socket.recv_fds(asking, MESSAGE_BYTES, 1)
        except (TimeoutError, BlockingIOError):
            raise NotNow(
                f"no descriptor of /dev/fuse has come over {path} within {timeout_s:g} s: look"
                " whether who is to pass it runs, and answers"
            ) from None
        except OSError as error:
            # One that is no error of the kernel's has no number: too long a path, say.
            why = error.strerror or error
            raise NotNow(
                f"no descriptor of /dev/fuse has come over {path}: {why}; look whether who is to"
                " pass it runs"
            ) from error
    if not descriptors:
        raise NotNow(f"who has the socket {path} has passed no descriptor of /dev/fuse")
    return descriptors[0]


def _connect(asking: socket.socket, path: Path, give_up_s: float) -> None:
    """Connect as soon as somebody listens, and has room for one more. Raises OSError."""
    # Without a limit it would wait for that room for ever.
    asking.settimeout(RETRY_S)
    while True:
        try:
            return asking.connect(os.fspath(path))
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            if time.monotonic() > give_up_s:
                raise
        time.sleep(RETRY_S)


def device_of(descriptor: int) -> str | None:
    """Return the number ("0:45") of the mount behind a descriptor; None where that can't be told.

    The kernel says so since its version 6.16.
    """
    for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "fuse_connection":
            return f"0:{int(value)}"
    return None
