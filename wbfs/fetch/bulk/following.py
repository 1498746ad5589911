"""A large file's copy in the target, made while the file comes.

Trio thread, but for what runs in `Offload`.
"""

from __future__ import annotations

import logging
import os
from functools import partial

import trio

from wbfs.fetch.bulk.target import Target, TargetError, TargetFull, copy, split
from wbfs.fetch.fetcher import Fetcher
from wbfs.fetch.large.content import LargeFile
from wbfs.fetch.resources import Resources
from wbfs.fetch.wanted import Wanted
from wbfs.fetch.work.background import Work
from wbfs.fetch.work.offload import Kind, checkpoint
from wbfs.model.errors import StoreError
from wbfs.store.content.large_blob import LargeBlob
from wbfs.store.content.marks import BLOCK_BYTES

log = logging.getLogger(__name__)

SHARED_BYTES = 1 << 20
"""The copy goes on at multiples of this: filesystems that share blocks share whole ones."""


class Following:
    """A copy that has no name yet, of what of a large file is in its digest.

    It is begun anew where that was wrong, and given up where it can't be made: whoever puts the
    file in its place does without it, and finds out what is the matter. But where there is no room
    for this one copy, nobody waits for the rest of the file.
    """

    def __init__(
        self, resources: Resources, target: Target, wanted: Wanted, copies: set[Following]
    ) -> None:
        """Nothing is begun before the file comes. `copies` are those that the target has."""
        self._resources = resources
        self._target = target
        self._wanted = wanted
        self._copies = copies
        self._waiting = trio.CancelScope()
        self._file: LargeFile | None = None
        self._work: Work[None] | None = None
        self._full: TargetFull | None = None
        # What the copy was made of, and where it is: one thread at a time has them.
        self._blob: LargeBlob | None = None
        self._fd: int | None = None
        # Whether there was no other copy since it went on last.
        self._was_alone = True

    async def ensure(self, fetcher: Fetcher) -> int:
        """Do what `Fetcher.ensure` does, and copy meanwhile; afterwards nothing is under way.

        Raises WbfsError: TargetFull without waiting for the rest of the file.
        """
        fd: int | None = None
        wanted = self._wanted
        try:
            try:
                with self._waiting:
                    fd = await fetcher.ensure(wanted.version, wanted.entry, on_large=self._begin)
            finally:
                await self._end()
            if self._full is not None:
                raise self._full
        except BaseException:
            self.close()
            if fd is not None:
                os.close(fd)
            raise
        assert fd is not None
        if self._file is not None and self._file.hashed.blob is not self._blob:
            # Its bytes were wrong.
            self.close()
        return fd

    def take(self) -> int | None:
        """Return the copy for the caller to go on with, from where it stands; None without one."""
        self._copies.discard(self)
        fd, self._fd = self._fd, None
        return fd

    def close(self) -> None:
        """Let go of the copy."""
        fd = self.take()
        if fd is not None:
            os.close(fd)

    def _begin(self, file: LargeFile) -> None:
        self._file = file
        self._work = self._resources.background.spawn(
            partial(self._follow, file), name=f"copy {self._wanted.path}"
        )

    async def _end(self) -> None:
        if self._work is not None:
            self._work.cancel()
            # Its thread looks at that after each piece.
            with trio.CancelScope(shield=True):
                await self._work.ended.wait()

    async def _follow(self, file: LargeFile) -> None:
        offload = self._resources.offload
        blob, stop = None, 0
        try:
            while True:
                blob, stop = await file.hashed.more(blob, stop)
                go_on = partial(self._copy, blob, stop)
                if not await offload.run(Kind.COPY, go_on, to_the_end=True):
                    return
        except TargetError as error:
            log.info("%s is copied once it is here: %s", self._wanted.path, error)
            self.close()
            # Where other copies took the room, there may be enough for one after the other.
            if isinstance(error, TargetFull) and self._was_alone:
                self._full = error
                self._waiting.cancel()
        except StoreError as error:
            # Be it that all of it is here, and the store has closed it: the copy is good so far.
            log.debug("%s is copied no further: %s", self._wanted.path, error)

    def _copy(self, blob: LargeBlob, stop: int) -> bool:
        """Copy what is new of `blob` before `stop`; return whether there is a copy at all."""
        path, name = split(self._wanted.entry.path)
        folder = self._target.folder(path)
        with folder.writing(name), blob.in_use() as source:
            if blob is not self._blob:
                self.close()
                self._blob = blob
                self._copies.add(self)
                # Each sees the other, whichever is first.
                for one in list(self._copies):
                    one._was_alone = False
                self._fd = folder.begin()
            if self._fd is None or not self._has_room(source, self._fd):
                self.close()
                return False
            self._was_alone = self._copies == {self}
            copy(source, self._fd, stop=stop - stop % SHARED_BYTES, checkpoint=checkpoint)
        return True

    def _has_room(self, source: int, fd: int) -> bool:
        """Whether the copy takes nothing of the disk that the cache may need. Raises StoreError."""
        if os.fstat(source).st_dev != os.fstat(fd).st_dev:
            return True
        # First, as more comes meanwhile.
        free = self._resources.room.free
        size = os.fstat(source).st_size
        # Of both files, what is not there yet: else it would be the cache that finds no room.
        blocks = (os.fstat(one).st_blocks for one in (source, fd))
        return free >= sum(max(0, size - count * BLOCK_BYTES) for count in blocks)
