"""Every error has the errno that the design gives it."""

from __future__ import annotations

import errno
import inspect

import pytest

from wbfs.fs.errno_map import errno_for
from wbfs.model import errors

EXPECTED = {
    "NotFound": errno.ENOENT,
    "NotADirectory": errno.ENOTDIR,
    "IsADirectory": errno.EISDIR,
    "BadHandle": errno.EBADF,
    "NoDescriptor": errno.EMFILE,
    "StaleInode": errno.ESTALE,
    "AccessDenied": errno.EACCES,
    "LoginRefused": errno.EACCES,
    "RemoteTimeout": errno.ETIMEDOUT,
    "ReferenceChanged": errno.ESTALE,
    "ReferenceMissing": errno.ESTALE,
    "ReferenceIsFolder": errno.EISDIR,
    "ReferenceUnsupported": errno.EOPNOTSUPP,
}


@pytest.mark.parametrize(
    "kind",
    [kind for _, kind in inspect.getmembers(errors, inspect.isclass)],
    ids=lambda k: k.__name__,
)
def test_errno(kind: type[errors.WbfsError]) -> None:
    assert issubclass(kind, errors.WbfsError)
    assert errno_for(kind("why")) == EXPECTED.get(kind.__name__, errno.EIO)
