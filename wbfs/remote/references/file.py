"""References to local files: read only where the manifest knows a digest to check them by.

A manifest is foreign input. One that names `file:///etc/shadow` must not make a mount that others
may read show it: never without a digest, and with one, which they may have guessed, only where
whoever mounts has allowed it.

The SDK appends a file's name to its folder's URI as it is: what looks like a quoted letter, a query
or a fragment may be part of a name. So one URI may name several files; the digest tells which.
"""

from __future__ import annotations

import base64
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote

from wbfs.model.digests import Algorithm, new_hasher
from wbfs.model.entries import Reference
from wbfs.model.errors import AccessDenied, ReferenceChanged, ReferenceMissing, RemoteError
from wbfs.remote.api.manifests import is_digest_of_uri
from wbfs.remote.http.bytes import ByteStream
from wbfs.remote.http.failures import without_login
from wbfs.remote.http.transport import PIECE_BYTES, Deadline

FILE_OPTION = "--allow-file-references"

_IMPOSSIBLE = re.compile("[\0\ud800-\udfff]")


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
        paths = _paths(reference.uri)
        if is_digest_of_uri(reference) or any(_is_digest_of(path, reference) for path in paths):
            raise ReferenceChanged(
                f"the file {paths[0]} was logged without a checksum: nothing tells whether it is"
                " still the one that was meant; log it with checksum=True"
            )
        path = _choose(paths, reference)
        with _open(path) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(start)
            yield ByteStream(size=size, etag="", pieces=_pieces(path, file, start, stop))

    def refuse(self, reference: Reference) -> None:
        """Raise AccessDenied unless files may be read."""
        if not self._allowed:
            raise AccessDenied(
                f"the artifact refers to {without_login(reference.uri)!r} on this machine, and no"
                " file is read for"
                " artifacts where other users read the mount too; if they may read what artifacts"
                f" name, mount with {FILE_OPTION}"
            )


def _paths(uri: str) -> list[str]:
    """Return the paths that a file URI may name on this machine, the likeliest first.

    Raises ReferenceChanged.
    """
    _, _, rest = uri.partition(":")
    host = ""
    if rest.startswith("//"):
        host, slash, rest = rest.removeprefix("//").partition("/")
        rest = slash + rest
    shown = without_login(uri)
    if host not in ("", "localhost"):
        there = host.rpartition("@")[2]
        raise ReferenceChanged(f"{shown!r} names a file of another machine, {there!r}")
    parts = rest.split("/")
    # As the SDK reads it; then a folder's URI with names behind it, which end it sooner and sooner.
    paths = [unquote(re.split("[?#]", rest, maxsplit=1)[0])]
    for count in range(len(parts), -1, -1):
        paths.append("/".join([*map(unquote, parts[:count]), *parts[count:]]))
    # A manifest is foreign input, and these are no paths anywhere.
    paths = [path for path in dict.fromkeys(paths) if path and not _IMPOSSIBLE.search(path)]
    if not paths:
        raise ReferenceChanged(f"{shown!r} names no file that there could be")
    return paths


def _choose(paths: list[str], reference: Reference) -> str:
    """Return which of the paths is meant: of several that are there, the one with the digest."""
    there = [path for path in paths if os.path.isfile(path)]
    if len(there) > 1:
        for path in there:
            if _digest_of(path) == reference.token:
                return path
    return (there or paths)[0]


def _digest_of(path: str) -> str:
    """Return a file's MD5 as manifests write it, the empty text where it can't be read."""
    hasher = new_hasher(Algorithm.MD5)
    try:
        with _open(path) as file:
            for piece in _pieces(path, file, 0, None):
                hasher.update(piece)
    except (ReferenceChanged, RemoteError):
        return ""
    return base64.b64encode(hasher.digest()).decode()


def _is_digest_of(path: str, reference: Reference) -> bool:
    """Whether the recorded digest is that of the path: the SDK takes it of a URI of its own."""
    if not os.path.isabs(path):
        return False
    return is_digest_of_uri(replace(reference, uri=Path(os.path.realpath(path)).as_uri()))


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
