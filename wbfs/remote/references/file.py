"""References to local files: read only where the manifest knows a digest to check them by.

A manifest is foreign input. One that names `file:///etc/shadow` without a digest must not make a
mount that others may read show it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO
from urllib.parse import urlsplit
from urllib.request import url2pathname

from wbfs.model.entries import Reference
from wbfs.model.errors import ReferenceChanged, ReferenceMissing
from wbfs.remote.bytes import ByteStream
from wbfs.remote.manifests import is_digest_of_uri
from wbfs.remote.transport import PIECE_BYTES, Deadline


class FileReferences:
    """Reads them from this machine's disks."""

    @contextmanager
    def open(
        self, reference: Reference, *, start: int, stop: int | None, deadline: Deadline
    ) -> Iterator[ByteStream]:
        """Open the file; the caller checks its digest.

        Raises ReferenceChanged, or ReferenceMissing where it is gone.
        """
        path = _path(reference.uri)
        if is_digest_of_uri(reference):
            raise ReferenceChanged(
                f"the file {path} was logged without a checksum: nothing tells whether it is still"
                " the one that was meant; log it with checksum=True"
            )
        with _open(path) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(start)
            yield ByteStream(size=size, etag="", pieces=_pieces(file, start, stop))


def _path(uri: str) -> str:
    """Return the path that a file URI names on this machine. Raises ReferenceChanged."""
    parts = urlsplit(uri)
    path = url2pathname(parts.path)
    if parts.netloc not in ("", "localhost"):
        raise ReferenceChanged(f"{uri!r} names a file of another machine, {parts.netloc!r}")
    # A manifest is foreign input, and these are no paths anywhere.
    if "\0" in path or any(0xD800 <= ord(letter) <= 0xDFFF for letter in path):
        raise ReferenceChanged(f"{uri!r} names no file that there could be")
    return path


def _open(path: str) -> BinaryIO:
    try:
        # Not to wait for whoever writes to a pipe of that name.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        gone = isinstance(error, (FileNotFoundError, NotADirectoryError))
        raise (ReferenceMissing if gone else ReferenceChanged)(
            f"the file {path}, which the artifact refers to, can't be read on this machine:"
            f" {error.strerror}"
        ) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ReferenceChanged(f"{path}, which the artifact refers to, is no regular file")
    return os.fdopen(fd, "rb")


def _pieces(file: BinaryIO, at: int, stop: int | None) -> Iterator[bytes]:
    while stop is None or at < stop:
        piece = file.read(PIECE_BYTES if stop is None else min(PIECE_BYTES, stop - at))
        if not piece:
            return
        at += len(piece)
        yield piece
