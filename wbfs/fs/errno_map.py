"""The one place where an error becomes an errno: what a program sees of what went wrong."""

from __future__ import annotations

import errno

from wbfs.model.errors import (
    AccessDenied,
    BadHandle,
    IsADirectory,
    NoDescriptor,
    NotADirectory,
    NotFound,
    ReferenceChanged,
    ReferenceIsFolder,
    ReferenceUnsupported,
    RemoteTimeout,
    StaleInode,
    WbfsError,
)

ERRNO: dict[type[WbfsError], int] = {
    NotFound: errno.ENOENT,
    NotADirectory: errno.ENOTDIR,
    IsADirectory: errno.EISDIR,
    BadHandle: errno.EBADF,
    NoDescriptor: errno.EMFILE,
    StaleInode: errno.ESTALE,
    AccessDenied: errno.EACCES,
    RemoteTimeout: errno.ETIMEDOUT,
    ReferenceChanged: errno.ESTALE,
    ReferenceIsFolder: errno.EISDIR,
    ReferenceUnsupported: errno.EOPNOTSUPP,
}


def errno_for(error: WbfsError) -> int:
    """Return the errno of an error: that of its nearest class in the table, else EIO."""
    for kind in type(error).__mro__:
        if kind in ERRNO:
            return ERRNO[kind]
    return errno.EIO
