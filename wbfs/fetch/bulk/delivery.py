"""Where many files are got to: a directory, or no further than the cache. Trio thread."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from wbfs.fetch.bulk.following import Following
from wbfs.fetch.bulk.slices import Slice
from wbfs.fetch.bulk.straight import fetch_straight
from wbfs.fetch.bulk.target import Target, TargetError, TargetFull, copy, split
from wbfs.fetch.resources import Resources
from wbfs.fetch.small.whole import is_large
from wbfs.fetch.transfer import deadline_of
from wbfs.fetch.wanted import Wanted
from wbfs.fetch.work.offload import Kind, checkpoint
from wbfs.model.entries import Entry
from wbfs.model.errors import StoreError, StoreFull, WbfsError
from wbfs.store.known.manifest_table import File

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Found:
    """What is there of a slice: files that are right, that are to be got, and in nobody's power."""

    right: list[Entry] = field(default_factory=list)
    to_get: list[File] = field(default_factory=list)
    failures: list[tuple[Entry, WbfsError]] = field(default_factory=list)


class Delivery(Protocol):
    """Brings files to where they belong; `full` is the error of a full disk there."""

    @property
    def full(self) -> type[WbfsError]: ...

    async def begin(self) -> None:
        """Get ready, once there is a file to be delivered. Raises WbfsError."""

    async def look(self, piece: Slice) -> Found:
        """Look which files are where they belong. Raises WbfsError where none of them can be."""

    def follow(self, wanted: Wanted) -> Following | None:
        """Return what gets a file while it begins to be delivered; None where it is no use."""

    async def put(self, wanted: Wanted, fd: int, following: Following | None) -> bool:
        """Deliver a file whose bytes are open as `fd`; return False if it was there already.

        `following` is closed in any case. Raises WbfsError.
        """

    async def put_past_cache(self, wanted: Wanted, error: StoreError) -> int:
        """Deliver a file that the cache can't take, because of `error`; return its size.

        Raises WbfsError: that error, where it was the cache that it belonged in.
        """

    async def end(self) -> None:
        """Do what is done once for all files."""


class ToTarget:
    """Files are written to a directory."""

    full = TargetFull

    def __init__(self, target: Target, resources: Resources) -> None:
        """Nothing is opened yet."""
        self._target = target
        self._resources = resources
        self._copies: set[Following] = set()

    async def begin(self) -> None:
        """Open the directory, made where it isn't there. Raises TargetError."""
        await self._resources.offload.run(Kind.DISK, self._target.open)

    async def look(self, piece: Slice) -> Found:
        """Look which files the directory has. Raises TargetError."""
        return await self._resources.offload.run(Kind.DISK, partial(self._look, piece))

    def _look(self, piece: Slice) -> Found:
        found = Found()
        folder = self._target.folder(piece.folder)
        for file in piece.files:
            try:
                self._target.claim(piece.folder + file.name)
                is_right = folder.is_right(file.name, file.entry.blob, checkpoint=checkpoint)
            except TargetError as error:
                found.failures.append((file.entry, error))
                continue
            if is_right:
                found.right.append(file.entry)
            else:
                found.to_get.append(file)
        return found

    def follow(self, wanted: Wanted) -> Following | None:
        """Return what copies a large file while it comes."""
        # Whether one without a digest is right already is known once all of it is here.
        if not is_large(wanted.entry) or wanted.entry.digest is None:
            return None
        return Following(self._resources, self._target, wanted, self._copies)

    async def put(self, wanted: Wanted, fd: int, following: Following | None) -> bool:
        """Write a copy of the open file, or the rest of one. Raises TargetError."""
        folder, name = split(wanted.entry.path)
        stop = os.fstat(fd).st_size

        def write() -> bool:
            opened = self._target.folder(folder)
            if wanted.entry.digest is None and opened.has_bytes_of(name, fd):
                return False
            opened.write(
                name,
                lambda new: copy(fd, new, stop=stop, checkpoint=checkpoint),
                begun=following.take() if following else None,
            )
            return True

        try:
            # To the end: a thread that was left behind would leave its file behind.
            return await self._resources.offload.run(Kind.DISK, write, to_the_end=True)
        finally:
            if following is not None:
                following.close()

    async def put_past_cache(self, wanted: Wanted, error: StoreError) -> int:
        """Fetch the file straight into the directory. Raises WbfsError."""
        log.info("%s is written past the cache: %s", wanted.path, error)
        resources, entry = self._resources, wanted.entry
        folder, name = split(entry.path)
        deadline = deadline_of(resources.timeout_s, entry.size)

        def note(count: int) -> None:
            resources.offload.post(partial(self._note_fetched, count))

        def write() -> int:
            size = 0

            def fill(fd: int) -> None:
                nonlocal size
                opener = resources.opener(wanted)
                fetch_straight(opener, entry, fd, path=wanted.path, deadline=deadline, note=note)
                size = os.fstat(fd).st_size

            self._target.folder(folder).write(name, fill)
            return size

        size = await resources.fetch(Kind.DATA, wanted, write, deadline=deadline, to_the_end=True)
        resources.counters.fetched_files += 1
        return size

    def _note_fetched(self, count: int) -> None:
        self._resources.counters.fetched_bytes += count

    async def end(self) -> None:
        """Do nothing: every file has its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """What the cache has of a file: bytes of its disk that it takes now, and is to take still.

    What is neither `is_ready` nor `is_missing` is to be checked first.
    """

    is_ready: bool
    is_missing: bool
    now: int = 0
    more: int = 0


class ToCache:
    """Files are fetched into the cache, and are used just now, so that others go before them.

    Of all contents that were looked at, each once: `held` is how many bytes of the cache's they
    take, `missing` how many are to come; `to_fetch` files of `to_fetch_bytes` are missing.
    """

    full = StoreFull

    def __init__(self, resources: Resources) -> None:
        """Nothing is looked for yet."""
        self._resources = resources
        self._seen: set[str] = set()
        self._missing: set[str] = set()
        self.held = 0
        self.missing = 0
        self.to_fetch = 0
        self.to_fetch_bytes = 0

    async def begin(self) -> None:
        """Do nothing: the session has its cache."""

    async def look(self, piece: Slice) -> Found:
        """Look which files the cache has. Raises StoreError."""
        entries = piece.entries
        all_held = await self._resources.offload.run(
            Kind.DISK, lambda: [self._look(entry) for entry in entries]
        )
        found = Found()
        for file, held in zip(piece.files, all_held, strict=True):
            if held.is_ready:
                found.right.append(file.entry)
            else:
                found.to_get.append(file)
            key = file.entry.blob.key
            if key in self._seen:
                continue
            self._seen.add(key)
            self.held += held.now
            self.missing += held.more
            if held.is_missing:
                self._missing.add(key)
                self.to_fetch += 1
                self.to_fetch_bytes += file.entry.size or 0
        return found

    def _look(self, entry: Entry) -> _Held:
        blobs, blob = self._resources.blobs, entry.blob
        if entry.size == 0:
            # It is never asked for.
            return _Held(is_ready=True, is_missing=False)
        # What is meant is not what makes room for the rest.
        is_ready = blobs.use(blob)
        held = blobs.size_of(blob)
        if held is not None:
            return _Held(is_ready=is_ready, is_missing=False, now=held)
        now = self._resources.partial.size_of(blob) if is_large(entry) else 0
        more = max(0, blobs.rounded(entry.size or 0) - now)
        return _Held(is_ready=False, is_missing=True, now=now, more=more)

    def follow(self, wanted: Wanted) -> None:
        """Do nothing: what comes is where it belongs."""

    async def put(self, wanted: Wanted, fd: int, following: Following | None) -> bool:
        """Return whether it was missing, and not another one with the same content before it."""
        was_missing = wanted.entry.blob.key in self._missing
        self._missing.discard(wanted.entry.blob.key)
        return was_missing

    async def put_past_cache(self, wanted: Wanted, error: StoreError) -> int:
        """Raise the error: it is the cache that the file belongs in."""
        raise error

    async def end(self) -> None:
        """Have all of it safely on disk: a mount would have to check what isn't."""
        try:
            await self._resources.offload.run(Kind.SYNC, self._resources.blobs.flush)
        except StoreError as error:
            log.warning("%s", error)
