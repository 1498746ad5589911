"""A large file: one content, shared by all handles on it, and the one state that it is in.

    FILLING -> CHECKING -> SEALED          all bytes are here, and their digest was checked
                        -> FILLING         they were wrong: once more, and checked before read
                        -> WRONG           they were wrong once more
                        -> UNSEALABLE      the disk failed: they can be read, but not checked

Trio thread, but for what runs in `Offload`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from enum import Enum, auto
from functools import partial

import trio

from wbfs.fetch.large.flight import Opening
from wbfs.fetch.large.generation import PAST_STORE_S, Generation
from wbfs.fetch.large.hash_ahead import HashAhead
from wbfs.fetch.large.layout import HEADER_BEGINNING, header_stop, parts_of
from wbfs.fetch.large.pages import PAST_STORE, UncheckedPages
from wbfs.fetch.large.planner import Plan, ReadAhead
from wbfs.fetch.resources import Resources
from wbfs.fetch.transfer import damaged, deadline_of, stretched, transfer
from wbfs.fetch.wanted import Wanted
from wbfs.fetch.work.background import Work
from wbfs.fetch.work.flights import Flights
from wbfs.fetch.work.offload import Kind
from wbfs.model.entries import Blob
from wbfs.model.errors import IntegrityError, StoreError, StoreFull, WbfsError, while_doing
from wbfs.remote.http.bodies import Piece
from wbfs.store.content.sealed import SealedBlob

log = logging.getLogger(__name__)


class State(Enum):
    """What is known of the bytes; see above."""

    FILLING = auto()
    CHECKING = auto()
    SEALED = auto()
    UNSEALABLE = auto()
    WRONG = auto()


_KEPT = (State.FILLING, State.CHECKING, State.UNSEALABLE)
"""States in which a later mount may go on with what is here."""


class LargeFile:
    """One content that is being read."""

    def __init__(
        self,
        resources: Resources,
        pages: UncheckedPages,
        blob: Blob,
        *,
        mismatches: int,
        verify: bool,
        on_change: Callable[[LargeFile], None],
    ) -> None:
        """With `verify` no byte is served before all were checked.

        `mismatches` is how often the bytes were wrong before. `on_change` is called whenever
        something that was under way is no longer.
        """
        assert blob.size is not None
        self.blob = blob
        self.size = blob.size
        self.users = 0
        self.mismatches = mismatches
        self.state = State.FILLING
        # Of all handles: what one has read the kernel keeps for the others, so that the requests
        # for one program's bytes come through any of them.
        self.runs = ReadAhead(blob.size)
        self._is_divided = False
        self._resources = resources
        self._pages = pages
        self._verify = verify
        self._on_change = on_change
        self._whole: Flights[SealedBlob] = Flights(resources.background)
        self._past_store: Flights[memoryview] = Flights(resources.background)
        self._sealed: SealedBlob | None = None
        self._error: WbfsError | None = None
        # The digest is taken, be it of a part, by one thread at a time.
        self._hashing: Work[None] | None = None
        self.hashed = HashAhead(resources)
        # None while the store can't hold any.
        self._generation: Generation | None = None
        self._store_tried_at = -math.inf
        self._begin()

    def _begin(self) -> None:
        """Go on with what the store has of it, or begin anew, where the store can hold it."""
        self._store_tried_at = trio.current_time()
        self.hashed.begin(None)
        try:
            blob = self._resources.partial.large(self.blob)
        except StoreError as error:
            log.debug("a file is read past the cache: %s", error)
            self._generation = None
            if isinstance(error, StoreFull):
                # For when it is tried again.
                resources = self._resources
                resources.background.spawn(
                    partial(resources.offload.run, Kind.DISK, resources.room.evict),
                    name="make room in the cache",
                )
            return
        self._generation = Generation(
            self._resources, blob, content=self.blob, on_landed=self.go_on
        )
        self.hashed.begin(blob)

    def _try_store_again(self, wanted: Wanted) -> None:
        if self._generation is None and trio.current_time() > self._store_tried_at + PAST_STORE_S:
            self._begin()
            self.go_on(wanted)

    @property
    def generation(self) -> str:
        """What the generation of its bytes is known by."""
        return self._generation.blob.generation if self._generation else PAST_STORE

    @property
    def is_idle(self) -> bool:
        """Whether nobody uses it and nothing is under way."""
        flights = self.requests + len(self._whole) + len(self._past_store)
        return not (self.users or flights or self._hashing)

    @property
    def requests(self) -> int:
        """How many are under way."""
        return self._generation.requests if self._generation else 0

    def read_ahead_for(self) -> list[Opening]:
        """Return the handles that requests under way are ahead of, once a request."""
        return self._generation.read_ahead_for() if self._generation else []

    async def read(self, opening: Opening, offset: int, size: int, plan: Plan) -> memoryview:
        """Return exactly `size` bytes at `offset`, which the file must have. Raises WbfsError."""
        while True:
            if self.state is State.WRONG:
                assert self._error is not None
                raise self._error.with_traceback(None)
            if self._verify and self.state is not State.SEALED:
                await self.whole(opening.wanted)
            self._try_store_again(opening.wanted)
            generation = self._generation
            gaps = generation.held.missing(offset, offset + size) if generation else []
            if generation is None or gaps and generation.is_past_store:
                return await self._read_past_store(opening, offset, offset + size)
            if generation.is_doubtful and self.state is not State.SEALED:
                try:
                    await self.whole(opening.wanted)
                except StoreError as error:
                    log.warning("%s is read past the cache: %s", opening.wanted.path, error)
                    return await self._read_past_store(opening, offset, offset + size)
                continue
            if gaps:
                await generation.bring(opening.wanted, gaps, plan)
                continue
            mismatches = self.mismatches
            try:
                data = await generation.read(offset, size)
            except StoreError as error:
                if mismatches != self.mismatches:
                    # It was closed, with bytes that were wrong.
                    continue
                if self._verify:
                    # What comes past the store is not checked.
                    raise while_doing(f"read {opening.wanted.path}", error) from error
                log.warning("%s is read past the cache: %s", opening.wanted.path, error)
                return await self._read_past_store(opening, offset, offset + size)
            if mismatches == self.mismatches:
                if self.state is not State.SEALED:
                    self._pages.add(opening.inode, generation.blob.generation)
                return data

    def index_stop(self, beginning: memoryview) -> int | None:
        """Return where the file's index ends, given its first bytes; None, or once found, not."""
        if self._is_divided:
            return None
        self._is_divided = True
        stop = header_stop(bytes(beginning[:HEADER_BEGINNING]))
        return stop if stop is not None and stop < self.size else None

    async def divide(self, opening: Opening, stop: int) -> None:
        """Find out what parts the file has, by its index, which ends at `stop`."""
        try:
            header = await self.read(opening, 0, stop, Plan(stop=stop))
        except WbfsError as error:
            log.debug("%s: its index isn't read: %s", opening.wanted.path, error)
        else:
            self.runs.divide(parts_of(bytes(header), self.size))

    def read_ahead(self, opening: Opening, start: int, stop: int) -> None:
        """Ask for what is missing of an extent and not on its way."""
        if self._generation is not None and self.state is State.FILLING and not self._verify:
            self._generation.read_ahead(opening, start, stop)

    def stop_reading_ahead(self, opening: Opening) -> None:
        """End the requests that were made ahead of a handle and that nobody waits for."""
        if self._generation is not None:
            self._generation.stop_reading_ahead(opening)

    def stop_whole(self) -> None:
        """End a request that brings all of it from a server that knows no ranges: nobody reads."""
        if self._generation is not None:
            self._generation.stop_whole()

    async def whole(self, wanted: Wanted) -> SealedBlob:
        """Fetch all that is missing, check it and return it. Raises WbfsError."""
        return await self._whole.join(
            self.blob,
            partial(self._fetch_whole, wanted),
            timeout_s=stretched(self._resources.timeout_s, self.size),
            what=f"read {wanted.path}",
        )

    async def flush(self) -> None:
        """Have what it holds safely on disk, for a later mount."""
        if self._generation is not None and self.state in _KEPT:
            await self._generation.flush()

    def save(self) -> None:
        """Note what it holds, for a later mount: this one ends."""
        if self._generation is not None and self.state in _KEPT:
            self._generation.save_now()

    def close(self) -> None:
        """Let go of the store's file; only when it is idle, and for good."""
        if self._generation is not None:
            self._generation.close()

    def go_on(self, wanted: Wanted) -> None:
        """Do what is next, now that something has ended: check the bytes once all are here."""
        generation = self._generation
        is_due = self.state is State.FILLING and self._hashing is None
        if is_due and generation is not None and generation.is_whole:
            self.state = State.CHECKING
            self._hashing = self._resources.background.spawn(
                partial(self._check, generation, wanted), name=f"check {wanted.path}"
            )
        self._on_change(self)

    async def _fetch_whole(self, wanted: Wanted) -> SealedBlob:
        try:
            while self._sealed is None:
                if self._error is not None:
                    raise self._error.with_traceback(None)
                if self._hashing is not None:
                    await self._hashing.ended.wait()
                    continue
                self._try_store_again(wanted)
                generation = self._generation
                if generation is None:
                    raise StoreError(
                        "it can't be kept to be checked: the cache takes no files; see the log"
                    )
                await generation.fill(
                    wanted,
                    on_progress=partial(self._hash_ahead, generation, wanted),
                    before_more=partial(
                        self.hashed.keep_up,
                        generation,
                        generation.held.total,
                        is_taken=self._is_hashing_ahead,
                    ),
                )
                self.go_on(wanted)
            return self._sealed
        finally:
            self._change_soon()

    def _change_soon(self) -> None:
        async def change() -> None:
            self._on_change(self)

        # A flight that others join is under way until it has returned. Not posted: what is done
        # after the session's end can't start anything.
        self._resources.background.spawn(change, name=f"go on without {self.blob.key}")

    def _hash_ahead(self, generation: Generation, wanted: Wanted) -> None:
        """Take what is there into the digest while the rest comes: somebody waits for all of it."""
        if self._hashing is None and self.state is State.FILLING:
            self._hashing = self._resources.background.spawn(
                partial(self._hash, generation, wanted), name=f"hash {wanted.path}"
            )

    def _is_hashing_ahead(self) -> bool:
        return self._hashing is not None and self.state is State.FILLING

    async def _hash(self, generation: Generation, wanted: Wanted) -> None:
        try:
            await self.hashed.take(generation)
        except StoreError as error:
            log.info("%s; it is tried again when all is there", error)
        finally:
            self._hashing = None
            self.go_on(wanted)

    async def _check(self, generation: Generation, wanted: Wanted) -> None:
        """Check the bytes of a generation, all of which are here; it ends in another state."""
        try:
            await self._seal_or_drop(generation, wanted)
        except StoreError as error:
            self._give_up_sealing(wanted, error)
        except Exception as error:  # noqa: BLE001 - it is noted, and told to those who wait
            defect = self._resources.background.defect(f"check {wanted.path}", error)
            self._give_up_sealing(wanted, defect)
        finally:
            self._hashing = None
            self.go_on(wanted)

    async def _seal_or_drop(self, generation: Generation, wanted: Wanted) -> None:
        resources = self._resources
        # The check of a large file takes a while, in which the daemon may be killed.
        await generation.save()
        # In steps: there may be somebody who follows it.
        await self.hashed.take(generation)
        try:
            self._sealed = await resources.offload.run(Kind.CHECK, generation.blob.seal)
        except IntegrityError as error:
            await self._drop(generation, wanted, error)
            return
        self.state = State.SEALED
        resources.counters.fetched_files += 1
        resources.writeback.due()
        self._pages.are_right(generation.blob.generation)

    def _give_up_sealing(self, wanted: Wanted, error: WbfsError) -> None:
        # Whoever can do with bytes that were not checked reads them all the same.
        self.state = State.UNSEALABLE
        self._error = error
        log.warning("%s stays unchecked: %s", wanted.path, error)

    async def _drop(self, generation: Generation, wanted: Wanted, mismatch: IntegrityError) -> None:
        """Drop bytes that are not the file's: from the store, and from the kernel's memory."""
        self.mismatches += 1
        self._resources.counters.failed_fetches += 1
        # From now on nothing of it is served before it was checked.
        self._verify = True
        try:
            await self._resources.offload.run(Kind.DISK, generation.blob.discard)
        except StoreError as error:
            log.warning("bytes that are wrong stay in the cache: %s", error)
        generation.close()
        self._pages.are_wrong(generation.blob.generation)
        self._resources.sources.gateway.distrust(self.blob)
        if self.mismatches == 1:
            log.warning("%s: %s; it is fetched once more", wanted.path, mismatch)
            self.state = State.FILLING
            self._begin()
        else:
            self.state = State.WRONG
            self._error = while_doing(f"read {wanted.path}", damaged(wanted.entry, mismatch))

    async def _read_past_store(self, opening: Opening, start: int, stop: int) -> memoryview:
        """Fetch just what is read, into memory: there is no room on the disk."""
        wanted, resources = opening.wanted, self._resources

        async def fetch() -> memoryview:
            buffer = bytearray(stop - start)

            def write(offset: int, piece: Piece) -> None:
                buffer[offset - start : offset - start + len(piece)] = piece

            # Of a server that knows no ranges all that is before it comes too.
            knows = resources.ranges.sends_parts(
                resources.sources.origin(wanted.version, wanted.entry)
            )
            deadline = deadline_of(resources.timeout_s, stop - start if knows else stop)
            move = partial(
                transfer,
                resources.opener(wanted, is_checked=False),
                wanted.entry,
                write,
                path=wanted.path,
                start=start,
                stop=lambda: stop,
                deadline=deadline,
            )
            try:
                await resources.fetch(Kind.DATA, wanted, move, deadline=deadline)
            finally:
                self._change_soon()
            resources.counters.fetched_bytes += stop - start
            return memoryview(buffer)

        data = await self._past_store.join(
            (start, stop), fetch, timeout_s=resources.timeout_s, what=f"read {wanted.path}"
        )
        self._pages.add(opening.inode, PAST_STORE)
        return data
