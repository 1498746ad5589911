"""The manifests that a cache has, one table a version.

    manifests/<server>/<artifact id>.sqlite

Blocking code.
"""

from __future__ import annotations

import fcntl
import logging
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from urllib.parse import quote

from wbfs.model.errors import NoDescriptor, StoreError
from wbfs.store.bounds.room import Room
from wbfs.store.content.marks import BLOCK_BYTES
from wbfs.store.folder import store_error
from wbfs.store.known.manifest_table import ManifestTable
from wbfs.store.known.places import Cached, Elsewhere, Place, Scratch, remove_leftovers

log = logging.getLogger(__name__)

SPILLED_S = 10.0
"""Seconds in which new tables are not written to a cache that had no room for one."""


def remove_abandoned_tables(cache_dir: Path) -> None:
    """Remove what was begun of tables, and is left of it by daemons that were killed."""
    for folder in (cache_dir / "manifests").glob("*"):
        remove_leftovers(folder)


class Manifests:
    """The manifest tables of one server in a cache directory."""

    def __init__(self, cache_dir: Path, server: str, room: Room) -> None:
        """Take the folder, which is made when it is needed, in a cache that has that `room`.

        `server` is the W&B host, since ids are unique per server.
        """
        self._server = server
        self._folder = _server_folder(cache_dir, server)
        self._room = room
        self._elsewhere = Elsewhere()
        self._elsewhere_until = -math.inf

    def name(self, artifact_id: str) -> str:
        """Return what names a version among those of all servers."""
        return f"{self._server}/{artifact_id}"

    def open(self, artifact_id: str) -> ManifestTable | None:
        """Return the table of a version, or None where there is none that can be used.

        Raises NoDescriptor.
        """
        for folder in filter(None, (self._folder, self._elsewhere.folder)):
            try:
                return ManifestTable(folder / _file_name(artifact_id))
            except FileNotFoundError:
                continue
            except NoDescriptor:
                raise
            except OSError as error:
                failure = self._room.note_failure("open a cached manifest", error)
                if isinstance(failure, NoDescriptor):
                    raise failure from error
            except StoreError as error:
                log.warning("%s; it is fetched again", error)
        return None

    def spill(self) -> None:
        """Have tables written elsewhere for a while: the cache has no room for one."""
        self._elsewhere_until = time.monotonic() + SPILLED_S

    def _place(self) -> Place:
        """Return where a table is written now."""
        if self._room.is_full or time.monotonic() < self._elsewhere_until:
            return self._elsewhere
        return Cached(self._folder, self._room)

    @contextmanager
    def drafting(self, artifact_id: str) -> Iterator[Path]:
        """Give the path of an empty file, which becomes a version's table at the context's end.

        Where that is an exception, nothing is left of it. Where it is StoreFull, `spill` and try
        again. Raises StoreError, StoreFull.
        """
        name = _file_name(artifact_id)
        try:
            place = self._place()
            fd, draft = place.create(name)
        except NoDescriptor:
            raise
        except StoreError:
            self.spill()
            place = self._elsewhere
            fd, draft = place.create(name)
        path = draft.with_name(name)
        try:
            # Locked, so that neither eviction nor another daemon takes it for a leftover.
            fcntl.flock(fd, fcntl.LOCK_SH)
            yield draft
            try:
                os.fsync(fd)
                place.take(os.fstat(fd).st_blocks * BLOCK_BYTES)
                draft.rename(path)
            except OSError as error:
                raise store_error(f"write the manifest {path}", error) from error
        finally:
            draft.unlink(missing_ok=True)
            os.close(fd)

    def scratch(self) -> IO[bytes]:
        """Return a file without a name, for what becomes a table. Raises StoreError, StoreFull.

        So do its writes.
        """
        place = self._place()
        fd, path = place.create("scratch")
        path.unlink(missing_ok=True)
        return Scratch(fd, place)


def _server_folder(cache_dir: Path, server: str) -> Path:
    return cache_dir / "manifests" / quote(server, safe="")


def _file_name(artifact_id: str) -> str:
    return f"{quote(artifact_id, safe='')}.sqlite"


def table_path(cache_dir: Path, server: str, artifact_id: str) -> Path:
    """Where the table of a version of a server is in a cache directory, or would be."""
    return _server_folder(cache_dir, server) / _file_name(artifact_id)
