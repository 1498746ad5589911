"""A cache that a fleet of machines shares, in front of W&B's store: it is asked for bytes first.

What it brings is checked as what the store brings, and where it brings nothing, or other bytes than
were asked for, the store is asked at once. So a gateway that fails costs a moment, once, and is
left alone for a while; one that is wrong costs the file once more. It is told a signed URL, and no
key. Blocking code, for worker threads.

Two kinds are known. To a web cache, as nginx is one, a blob is `GET /md5/<hex>`, and the signed URL
is in a header. Dragonfly is an HTTP proxy on each machine: it is asked for the signed URL itself,
as one of http:// since it can't see into https://, and told by a header what content that is
(https://d7y.io/docs/). It answers a request for a range with 200.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from wbfs.model.digests import Digest
from wbfs.model.entries import Blob
from wbfs.model.errors import Offline, RemoteError, RemoteProtocolError, UrlExpired
from wbfs.model.lately import Lately
from wbfs.remote.http.bodies import Piece
from wbfs.remote.http.bytes import ByteStream, Location, ObjectMissing, open_stream
from wbfs.remote.http.failures import host_of
from wbfs.remote.http.redirects import Peer
from wbfs.remote.http.transport import Deadline, Transport

log = logging.getLogger(__name__)

ORIGIN_HEADER = "X-Blob-Origin"
DRAGONFLY = "dragonfly+"
"""What a gateway's URL begins with where that is Dragonfly's proxy."""
PATIENCE_S = 6.0
"""Seconds in which an answer has to begin, and that it may then be silent. It may wait itself, for
another machine's slice to come from the store: were it given up then, the store had more to send.
"""
PROBE_S = 1.0
"""The same, where a gateway that has failed is tried again."""
LEFT_ALONE_S = 30.0
"""Seconds in which a gateway that has failed is not asked."""
SLOWEST_BYTES_PER_S = 256 << 10
"""What its bytes must come at, beyond its patience."""


class Gateway:
    """One gateway, as one process sees it."""

    def __init__(self, url: str, transport: Transport, *, is_trusted: bool = False) -> None:
        """`url` is http(s)://, or dragonfly+http:// for Dragonfly's proxy; empty, there is none.

        Bytes of one that `is_trusted` may be shown before their digest is checked.
        """
        self.url = url.rstrip("/")
        self._is_trusted = is_trusted
        self._transport = transport
        self._lock = threading.Lock()
        self._trouble = ""
        self._failed_s = 0.0
        self._next_s = 0.0
        self._bytes = 0
        # By the blobs' keys.
        self._brought: Lately[str, bool] = Lately()
        self._wrong: Lately[str, bool] = Lately()

    @contextmanager
    def open(
        self, blob: Blob, location: Location, *, start: int, stop: int | None, deadline: Deadline
    ) -> Iterator[ByteStream]:
        """Ask for bytes of a blob that are at `location`: here, or else there.

        Raises what `open_stream` raises of the location.
        """
        with ExitStack() as stack:
            refusal: RemoteError | None = None
            stream: ByteStream | None = None
            try:
                stream = self._open(stack, blob, location, start, stop, deadline)
            except Offline:
                raise
            except (UrlExpired, ObjectMissing) as error:
                # It may be the store's own word.
                refusal = error
            except RemoteError as error:
                self._failed(str(error))
            if stream is None:
                stream = stack.enter_context(
                    open_stream(
                        self._transport, location, start=start, stop=stop, deadline=deadline
                    )
                )
                if refusal is not None:
                    self._failed(
                        f"{refusal}, and {host_of(location.url)} gives it: is that among the stores"
                        " that it may ask?"
                    )
            yield stream

    def distrust(self, blob: Blob) -> None:
        """Have a blob whose bytes were wrong asked for here no more."""
        self._wrong.put(blob.key, True)
        if self.has_brought(blob):
            self._brought.pop(blob.key)
            self._failed(f"it brought wrong bytes of {blob.key}")

    def has_brought(self, blob: Blob) -> bool:
        """Whether bytes of a blob came from here lately."""
        return self._brought.get(blob.key) is not None

    def needs_check(self, blob: Blob) -> bool:
        """Whether no byte of a blob may be shown before all are checked."""
        return not self._is_trusted and self.has_brought(blob)

    def learn(self, blob: Blob, count: int, *, trouble: str) -> None:
        """Take note of what another process got from here, or why it has left it alone."""
        if trouble:
            self._failed(trouble)
        elif count:
            self._note(blob, count)
            self._is_well(time.monotonic())

    def _note(self, blob: Blob, count: int) -> None:
        self._brought.put(blob.key, True)
        with self._lock:
            self._bytes += count

    @property
    def is_asked(self) -> bool:
        """Whether there is one, and it is not left alone."""
        with self._lock:
            return bool(self.url) and not (self._trouble and time.monotonic() < self._next_s)

    @property
    def bytes(self) -> int:
        """How many have come from here."""
        return self._bytes

    @property
    def trouble(self) -> str:
        """Why it is left alone, or empty."""
        return self._trouble

    def report(self) -> dict[str, Any] | None:
        """Return where it is, how many bytes came from it, and why it is left alone, if it is."""
        if not self.url:
            return None
        return {"url": self.url, "bytes": self._bytes, "trouble": self._trouble or None}

    def _open(
        self,
        stack: ExitStack,
        blob: Blob,
        location: Location,
        start: int,
        stop: int | None,
        deadline: Deadline,
    ) -> ByteStream | None:
        """Ask the gateway; None where it is not to be asked. Raises RemoteError."""
        # Of what is empty no range can be had, and without a size nothing tells an early end.
        if not self.url or blob.digest is None or not blob.size or self._wrong.get(blob.key):
            return None
        patience_s = self._patience_s()
        if patience_s is None:
            return None
        count = min(blob.size, blob.size if stop is None else stop) - start
        began_s = time.monotonic()
        # Nothing is tried twice here.
        attempt = Deadline.after(
            min(deadline.remaining_s, patience_s + count / SLOWEST_BYTES_PER_S),
            patience_s=patience_s,
            retried_s=0,
        )
        with ExitStack() as trying:
            stream = trying.enter_context(
                open_stream(
                    self._transport,
                    self._locate(blob.digest, location.url),
                    start=start,
                    stop=stop,
                    deadline=attempt,
                )
            )
            if stream.is_whole:
                raise RemoteProtocolError(f"{self._name} knows no ranges")
            if stream.size not in (None, blob.size):
                raise RemoteProtocolError(
                    f"{self._name} has {stream.size} bytes of what has {blob.size}"
                )
            stack.enter_context(trying.pop_all())
        return ByteStream(
            size=stream.size,
            etag=stream.etag,
            pieces=self._pieces(stream, blob, count, began_s),
            end_is_certain=stream.end_is_certain,
        )

    def _locate(self, digest: Digest, url: str) -> Location:
        """Return where a blob is asked for, given its signed URL: nothing else decides that."""
        content = f"{digest.algorithm}/{digest.hex}"
        if not self.url.startswith(DRAGONFLY):
            return Location(
                url=f"{self.url}/{content}", peer=Peer.GATEWAY, headers={ORIGIN_HEADER: url}
            )
        return Location(
            url=f"http://{url.partition('://')[2]}",
            peer=Peer.GATEWAY,
            headers={
                "X-Dragonfly-Use-P2P": "true",
                "X-Dragonfly-Content-For-Calculating-Task-ID": f"wandb/{content}",
            },
            proxies={"http": self.url.removeprefix(DRAGONFLY)},
        )

    def _pieces(
        self, stream: ByteStream, blob: Blob, count: int, began_s: float
    ) -> Iterator[Piece]:
        """Yield the pieces, which must be `count` bytes. Raises RemoteError."""
        came = 0
        try:
            for piece in stream.pieces:
                came += len(piece)
                if came > count:
                    raise RemoteProtocolError(f"{self._name} sent more than was asked for")
                self._note(blob, len(piece))
                yield piece
            if came < count:
                raise RemoteError(f"{self._name} ended its answer {count - came} bytes early")
        except RemoteError as error:
            self._failed(str(error))
            raise
        self._is_well(began_s)

    def _patience_s(self) -> float | None:
        """Return how long to wait for an answer; None where it is left alone."""
        with self._lock:
            if not self._trouble:
                return PATIENCE_S
            now = time.monotonic()
            if now < self._next_s:
                return None
            # One request finds out how it is; the others go past it meanwhile.
            self._next_s = now + LEFT_ALONE_S
            return PROBE_S

    def _failed(self, trouble: str) -> None:
        with self._lock:
            had, self._trouble = self._trouble, trouble
            self._failed_s = time.monotonic()
            self._next_s = self._failed_s + LEFT_ALONE_S
        if not had:
            log.warning("the blob gateway %s is left alone for now: %s", self._name, trouble)

    def _is_well(self, began_s: float) -> None:
        """Note that an answer was whole that began then: it may be older than what has failed."""
        with self._lock:
            if not self._trouble or began_s < self._failed_s:
                return
            self._trouble = ""
        log.info("the blob gateway %s answers again", self._name)

    @property
    def _name(self) -> str:
        return host_of(self.url)
