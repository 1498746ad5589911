"""Sizes that manifests don't tell: asked of the origins, or else found out by fetching the file.

What is known once is kept, in memory and, by `KnownSizes`, for later mounts. A program that asks
for one file of a folder after another has the next ones asked for meanwhile, a bounded number at
once. A size that the manifest tells as a hint, as it does of web servers' files, is asked for too:
it may be that of a compressed answer. Of files that nobody compresses again, like pictures, it is
believed where that of another one there was found to be true: servers have habits. Trio thread.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import trio

from wbfs.fetch.resources import Resources
from wbfs.fetch.small.whole import WholeFiles
from wbfs.fetch.wanted import Wanted
from wbfs.fetch.work.flights import Flights
from wbfs.fetch.work.offload import Kind
from wbfs.fetch.work.outage import SilentServers
from wbfs.model.entries import ARTIFACT_SCHEME, Blob, Entry, Version
from wbfs.model.errors import (
    Offline,
    ReferenceChanged,
    RemoteError,
    StoreError,
    WbfsError,
)
from wbfs.model.lately import Lately
from wbfs.remote.http.transport import Deadline
from wbfs.store.known.manifest_table import File, ManifestTable

log = logging.getLogger(__name__)

MOST_KNOWN = 1 << 18
"""Sizes that are kept in memory, 100 bytes each; what is forgotten is found again on the disk."""
MOST_AHEAD = 256
"""Files of a folder whose sizes are asked for before they are wanted, at most; and how many times
as many they are each time that another one is wanted."""
AHEAD_GROWTH = 4
MOST_FAILURES = 1000
FOLDERS = 1000
"""Folders, and places at servers, of which something is remembered."""
ASK_TIMEOUT_S = 15.0
HINT_TIMEOUT_S = 5.0
"""Seconds that a server has to tell a size, and whether a hint is true."""
BELIEVED_S = 60.0
"""Seconds in which the hints of a place whose server can't tell are believed."""
FAILURE_MEMORY_S = 2.0
"""Seconds in which the same failure is told again."""
WRITE_AFTER_S = 0.5
# fmt: off
PACKED = frozenset((
    "7z", "apk", "avif", "avi", "br", "bz2", "docx", "flac", "gif", "gz", "heic", "jar", "jpeg",
    "jpg", "lz4", "m4a", "m4v", "mkv", "mov", "mp3", "mp4", "mpeg", "mpg", "npz", "odt", "ogg",
    "opus", "parquet", "png", "pptx", "rar", "snappy", "tgz", "webm", "webp", "whl", "woff2",
    "xlsx", "xz", "zip", "zst",
))
# fmt: on
"""Types of files that are compressed as they are, so that no server does it on the way."""
FETCHES = 2
"""Times that a file whose end nothing vouches for is fetched to find two that are alike."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Size:
    """A file's size in bytes; where it isn't sure it is a hint of the manifest."""

    bytes: int
    is_sure: bool


class Sizes:
    """The sizes of files of one session that are not, or not for sure, in the manifests."""

    def __init__(self, resources: Resources, whole: WholeFiles) -> None:
        """`whole` fetches those of which nothing else tells the size."""
        self._resources = resources
        self._whole = whole
        self._disk = resources.known_sizes
        self._by_key: Lately[str, int] = Lately(MOST_KNOWN)
        # What the kernel was told of, which may hear nothing else as long as it is so.
        self._by_inode: Lately[int, int] = Lately(MOST_KNOWN)
        self._flights: Flights[int | None] = Flights(resources.background)
        self._ahead: Lately[tuple[str, int], int] = Lately(FOLDERS)
        self._failures: Lately[str, tuple[WbfsError, float]] = Lately(MOST_FAILURES)
        self._silent = SilentServers()
        # Until when a place's hints are believed; -inf for one of which one was found wrong.
        self._believed: Lately[str, float] = Lately(FOLDERS)
        # None for those that were found not to be true; until the disk says so, too.
        self._unwritten: dict[str, int | None] = {}
        self._is_writing = False
        self._forgotten = 0

    def told(self, inode: int) -> int | None:
        """Return the size that was found of an inode's file."""
        return self._by_inode.get(inode)

    async def of(
        self,
        version: Version,
        file: File,
        inode: int,
        table: ManifestTable,
        *,
        is_read: bool = False,
    ) -> Size:
        """Return a file's size: for sure, or a hint that is believed.

        Where it is to be read, one is believed only of a server that can't be had. `table` is the
        version's. Raises WbfsError.
        """
        entry = file.entry
        size = self._known(entry)
        if size is None and (is_read or not self._believes(entry)):
            ahead = self._next_ones(version, file, table)
            await self._recall([entry, *ahead])
            self._ask_ahead(version, ahead)
            size = self._known(entry)
            if size is None:
                try:
                    size = await self._join(version, entry)
                except WbfsError as error:
                    if entry.size is None or is_read and not isinstance(error, RemoteError):
                        raise
                    # Whoever reads it is told.
                    log.debug("%s: its size is the manifest's: %s", entry.path, error)
        if size is None:
            assert entry.size is not None
            return Size(entry.size, is_sure=False)
        self._judge(entry, size)
        self._by_inode.put(inode, size)
        return Size(size, is_sure=True)

    async def ask(self, version: Version, entry: Entry) -> int:
        """Return the size of a file, asked for where it isn't known yet. Raises WbfsError."""
        size = self._known(entry)
        if size is None:
            await self._recall([entry])
            size = self._known(entry)
        return await self._join(version, entry) if size is None else size

    def learn(self, entry: Entry, size: int) -> None:
        """Take note of a file's size."""
        key = entry.blob.key
        if self._by_key.get(key) != size:
            self._by_key.put(key, size)
            self._write(key, size)

    def forget(self, entry: Entry, inode: int | None = None) -> None:
        """Take note that a size was found not to be true, which may be that of an inode's file."""
        key = entry.blob.key
        self._by_key.pop(key)
        self._forgotten += 1
        if inode is not None:
            self._by_inode.pop(inode)
        self._write(key, None)

    async def close(self) -> None:
        """Write what isn't written yet."""
        await self._write_all()

    def _known(self, entry: Entry) -> int | None:
        key = entry.blob.key
        size = self._by_key.get(key)
        if size is None:
            blob = Blob(key=key, size=None, digest=entry.digest)
            size = self._resources.blobs.content_size(blob)
            if size is not None:
                self.learn(entry, size)
        return size

    def _believes(self, entry: Entry) -> bool:
        until = self._believed.get(_place_of(entry)) or -math.inf
        return entry.size is not None and trio.current_time() < until

    def _judge(self, entry: Entry, size: int | None) -> None:
        """Take note whether a hint was true; None: it can't be found out now."""
        place = _place_of(entry)
        before = self._believed.get(place)
        if entry.size is None or before == -math.inf:
            # One was found not to be: each is asked for.
            return
        if size is None:
            until = max(before or 0.0, trio.current_time() + BELIEVED_S)
        elif size != entry.size:
            until = -math.inf
        elif place.rpartition(".")[2] in PACKED:
            until = math.inf
        else:
            # The next one may be compressed: servers do it from some size on, or have variants.
            return
        self._believed.put(place, until)

    def _next_ones(self, version: Version, file: File, table: ManifestTable) -> list[Entry]:
        """Return files whose sizes may be wanted next: none at first, and then ever more."""
        place = version.id, file.folder
        count = self._ahead.get(place) or 0
        self._ahead.put(place, min(max(1, count) * AHEAD_GROWTH, MOST_AHEAD))
        if not count:
            return []
        return [one.entry for one in table.unsized(file.folder, file.id, count)]

    async def _recall(self, entries: Sequence[Entry]) -> None:
        """Look on the disk for what an earlier mount found out."""
        keys = {key for entry in entries if self._by_key.get(key := entry.blob.key) is None}
        keys -= self._unwritten.keys()
        forgotten = self._forgotten
        found = await self._use_disk(lambda: self._disk.find(keys)) if keys else None
        if forgotten != self._forgotten:
            # It was read before; origins are asked again.
            return
        for key, size in (found or {}).items():
            self._by_key.put(key, size)

    def _ask_ahead(self, version: Version, entries: Sequence[Entry]) -> None:
        for entry in entries:
            key = entry.blob.key
            if self._known(entry) is not None or self._believes(entry):
                continue
            if key not in self._flights and not self._failed(key):
                self._resources.background.spawn(
                    partial(self._try, version, entry), name=f"ask for the size of {entry.path}"
                )

    async def _try(self, version: Version, entry: Entry) -> None:
        try:
            await self._join(version, entry)
        except WbfsError as error:
            log.debug("%s: its size is not known: %s", entry.path, error)

    async def _join(self, version: Version, entry: Entry) -> int:
        """Ask the origin, or join who asks. Raises WbfsError."""
        key = entry.blob.key
        wanted = Wanted(version, entry)
        failure = self._failed(key)
        if failure is not None:
            raise failure.with_traceback(None)
        timeout_s = ASK_TIMEOUT_S if entry.size is None else HINT_TIMEOUT_S
        timeout_s = min(timeout_s, self._resources.timeout_s)
        try:
            size = await self._flights.join(
                key,
                partial(self._ask, wanted, timeout_s),
                timeout_s=timeout_s,
                what=f"find out the size of {wanted.path}",
            )
            if size is None:
                size = await self._fetch_to_know(wanted)
                self.learn(entry, size)
        except WbfsError as error:
            self._failures.put(key, (error, trio.current_time()))
            self._judge(entry, None)
            raise
        return size

    def _failed(self, key: str) -> WbfsError | None:
        """Return the failure of a file, as long as it is remembered."""
        error, at_s = self._failures.get(key) or (None, -math.inf)
        return error if trio.current_time() - at_s < FAILURE_MEMORY_S else None

    async def _ask(self, wanted: Wanted, timeout_s: float) -> int | None:
        sources = self._resources.sources
        origin = sources.origin(wanted.version, wanted.entry) or ARTIFACT_SCHEME
        if origin == ARTIFACT_SCHEME:
            # It is W&B that is asked, of whose silence others take note.
            return await self._ask_origin(wanted, timeout_s)
        timeout_s = self._silent.patience_s(origin, timeout_s)
        asked_at = trio.current_time()
        try:
            size = await self._ask_origin(wanted, timeout_s)
        except Offline:
            raise
        except RemoteError as error:
            self._silent.failed(origin, error, asked_at=asked_at, timeout_s=timeout_s)
            raise
        except WbfsError:
            self._silent.answered(origin)
            raise
        self._silent.answered(origin)
        return size

    async def _ask_origin(self, wanted: Wanted, timeout_s: float) -> int | None:
        deadline = Deadline.after(timeout_s)
        size = await self._resources.fetch(
            Kind.SIZES,
            wanted,
            lambda: self._resources.sources.size(wanted.version, wanted.entry, deadline=deadline),
            deadline=deadline,
        )
        if size is not None:
            # Before the flight ends: whoever finds neither asks again.
            self.learn(wanted.entry, size)
        return size

    async def _fetch_to_know(self, wanted: Wanted) -> int:
        """Fetch a file whose size its origin doesn't tell; return how many bytes it has.

        What may have ended too early must come once more, and end there too. Raises WbfsError.
        """
        wanted = wanted.of_any_size
        for left in reversed(range(FETCHES)):
            sealed = await self._whole.fetch(wanted)
            size = os.fstat(sealed.fd).st_size
            if sealed.in_memory or self._resources.blobs.content_size(wanted.entry.blob) == size:
                break
            try:
                await self._whole.fetch(wanted.of_size(size))
                break
            except ReferenceChanged:
                if not left:
                    raise
        return size

    def _write(self, key: str, size: int | None) -> None:
        self._unwritten[key] = size
        if not self._is_writing:
            self._is_writing = True
            self._resources.background.spawn(self._write_soon, name="writing sizes")

    async def _write_soon(self) -> None:
        try:
            while self._unwritten:
                await trio.sleep(WRITE_AFTER_S)
                await self._write_all()
        finally:
            self._is_writing = False

    async def _write_all(self) -> None:
        written = dict(self._unwritten)
        if written:
            # Also when the mount ends meanwhile.
            with trio.CancelScope(shield=True):
                await self._use_disk(lambda: self._disk.write(written))
        for key, size in written.items():
            if self._unwritten.get(key, ...) == size:
                del self._unwritten[key]

    async def _use_disk(self, work: Callable[[], T]) -> T | None:
        try:
            return await self._resources.offload.run(Kind.DISK, work)
        except StoreError as error:
            log.info("%s; origins are asked again", error)
            return None


def _place_of(entry: Entry) -> str:
    """Return what is likely to be served alike: what is in one folder of a server, of one type."""
    uri = entry.reference.uri.partition("?")[0] if entry.reference else ""
    folder, _, name = uri.rpartition("/")
    return f"{folder}/*.{name.rpartition('.')[2].lower()}"
