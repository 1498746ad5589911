"""References to local files: read only where the manifest knows a digest to check them by.

A manifest is foreign input. One that names `file:///etc/shadow` must not make a mount that others
may read show it: never without a digest, and with one, which they may have guessed, only where
whoever mounts has allowed it.
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
from wbfs.model.errors import AccessDenied, ReferenceChanged, ReferenceMissing, RemoteError
from wbfs.remote.bytes import ByteStream
from wbfs.remote.manifests import is_digest_of_uri
from wbfs.remote.transport import PIECE_BYTES, Deadline

FILE_OPTION = "--allow-file-references"


class FileReferences:
    """Reads them from this machine's disks."""

    def __init__(self, *, allowed: bool) -> None:
        """Refuse all of them, unless they are `allowed`."""
        self._allowed = allowed

    @contextmanager
    def open(
        self, reference: Reference, *, start: int, stop: int | None, deadline: Deadline
    ) -> Iterator[ByteStream]:
        """Open the file; the caller checks its digest.

        Raises AccessDenied where none may be read; ReferenceChanged, or ReferenceMissing where it
        is gone.
        """
        self.refuse(reference)
        path = _path(reference.uri)
        if is_digest_of_uri(reference):
            raise ReferenceChanged(
                f"the file {path} was logged without a checksum: nothing tells whether it is still"
                " the one that was meant; log it with checksum=True"
            )
        with _open(path) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(start)
            yield ByteStream(size=size, etag="", pieces=_pieces(path, file, start, stop))

    def refuse(self, reference: Reference) -> None:
        """Raise AccessDenied unless files may be read."""
        if not self._allowed:
            raise AccessDenied(
                f"the artifact refers to {reference.uri!r} on this machine, and no file is read for"
                " artifacts where other users read the mount too; if they may read what artifacts"
                f" name, mount with {FILE_OPTION}"
            )


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
        # To open a device may do something.
        _check_kind(path, os.stat(path))
        # Not to wait for whoever writes to a pipe that has taken its place.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        gone = isinstance(error, (FileNotFoundError, NotADirectoryError))
        raise (ReferenceMissing if gone else ReferenceChanged)(
            f"the file {path}, which the artifact refers to, can't be read on this machine:"
            f" {error.strerror}"
        ) from error
    file = os.fdopen(fd, "rb")
    try:
        _check_kind(path, os.fstat(fd))
    except ReferenceChanged:
        file.close()
        raise
    return file


def _check_kind(path: str, found: os.stat_result) -> None:
    """Raise ReferenceChanged where it is no regular file."""
    if not stat.S_ISREG(found.st_mode):
        raise ReferenceChanged(f"{path}, which the artifact refers to, is no regular file")


def _pieces(path: str, file: BinaryIO, at: int, stop: int | None) -> Iterator[bytes]:
    while stop is None or at < stop:
        try:
            piece = file.read(PIECE_BYTES if stop is None else min(PIECE_BYTES, stop - at))
        except OSError as error:
            raise RemoteError(f"can't read the file {path}: {error.strerror}") from error
        if not piece:
            return
        at += len(piece)
        yield piece
