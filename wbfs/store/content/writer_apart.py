"""Writing to a large blob that is another process's. Blocking code."""

from __future__ import annotations

import os
from threading import Lock
from typing import Self

from wbfs.model.errors import StoreError
from wbfs.store.bounds.room import Room
from wbfs.store.content.large_blob import FileOf, write_fully
from wbfs.store.folder import store_error


class WriterApart:
    """Writes to the file of a `LargeBlob` that another process has open; a context manager."""

    def __init__(self, file: FileOf, room: Room, turn: Lock) -> None:
        """Open the file; one writes at a time, in `turn`. Raises StoreError where it is gone."""
        self._path = file.path
        self._room = room
        self._turn = turn
        try:
            self._fd = os.open(file.path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise store_error(f"open {file.path}", error) from error
        found = os.fstat(self._fd)
        if (found.st_dev, found.st_ino) != (file.device, file.inode):
            os.close(self._fd)
            raise StoreError(f"can't write {file.path}: it is another file by now")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def write(self, offset: int, piece: bytes | memoryview) -> None:
        """Put bytes in their place. Raises StoreError, StoreFull."""
        self._room.add(
            len(piece),
            lambda: self._write(piece, offset),
            doing=f"write {self._path}",
        )

    def _write(self, piece: bytes | memoryview, offset: int) -> None:
        # The kernel writes for one at a time, too; who waits for it there takes processor time.
        with self._turn:
            write_fully(self._fd, piece, offset)
