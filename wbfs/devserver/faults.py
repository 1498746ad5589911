"""Switches that make the server slow, failing or lying, for tests. Set while it runs."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections import deque
from typing import Literal

import msgspec
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wbfs.devserver.objects.files import refuse
from wbfs.devserver.objects.signing import EXPIRED, SIGNATURE, issue_time
from wbfs.devserver.request_log import CONTROL_PREFIX

SLOW_PIECE_BYTES = 16 << 10
REDIRECTED = "redirected"
"""What tells, in a URL's query, how often its request was sent on."""


class ConnectionCut(Exception):
    """Ends a response in the middle, so that the server closes the connection."""


class FaultSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What goes wrong, and for which requests; the defaults are no faults.

    port: "api", "files" or "" for both. match: a regular expression that is searched for in the
    path (on the file port: "/" and the key). first: only so many of the requests that those two
    pick, -1 for all.

    delay_s: before anything else happens. stall: no answer at all. stall_after_bytes: headers and
    so many bytes of the body, then nothing; -1 for never. stall_s: after so many seconds a stalled
    connection is ended, if the client has not gone before. bandwidth_bytes_per_s: of one
    connection, 0 for no limit. requests_per_s: beyond that 429 with Retry-After, 0 for no limit.
    error_share: share of requests answered with `error_status`; which ones is the same every time.
    retry_after_s: what such an answer's Retry-After says, None for no such header. redirects: how
    often a request is sent on, to the same host, before it is answered. chunked: bodies come in
    chunks, and how long they are is not said.
    cut_after_bytes: the connection is closed after so many bytes of a body, -1 for never.
    wrong_bytes: bodies of the right length and other bytes. ignores_ranges: all is sent where a
    part was asked for, as by a proxy that knows none. compresses: and it is compressed on the way.

    expired_urls: every request is refused as one with an expired URL, however fresh. revoked_urls:
    so is every request with a URL that was signed before these settings came into force.
    url_lifetime_s: of the URLs that are signed from now on, whatever port, match and first say;
    None for the server's own.
    """

    port: Literal["", "api", "files"] = ""
    match: str = ""
    first: int = -1
    delay_s: float = 0.0
    stall: bool = False
    stall_after_bytes: int = -1
    stall_s: float = 300.0
    bandwidth_bytes_per_s: float = 0.0
    requests_per_s: float = 0.0
    error_share: float = 0.0
    error_status: int = 500
    retry_after_s: int | None = None
    redirects: int = 0
    chunked: bool = False
    cut_after_bytes: int = -1
    wrong_bytes: bool = False
    ignores_ranges: bool = False
    compresses: bool = False
    expired_urls: bool = False
    revoked_urls: bool = False
    url_lifetime_s: float | None = None

    def __post_init__(self) -> None:
        try:
            re.compile(self.match)
        except re.error as error:
            raise ValueError(f"match is no regular expression: {error}") from error


class Faults:
    """The faults in force."""

    def __init__(self) -> None:
        self.change(FaultSettings())

    def change(self, settings: FaultSettings) -> None:
        """Put other faults in force, for the requests that come from now on."""
        self.settings = settings
        self._in_force_since = time.time()
        self._left = settings.first
        self._random = random.Random(1)
        self._answered: deque[float] = deque()

    def middleware(self, app: ASGIApp, port: str) -> ASGIApp:
        """Return the app with the faults in front of it."""

        async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or not self._hits(scope, port):
                await app(scope, receive, send)
                return
            # Read once: a request keeps the faults that it began with.
            settings, in_force_since = self.settings, self._in_force_since
            await asyncio.sleep(settings.delay_s)
            if settings.stall:
                await _stall(receive, settings.stall_s)
                raise ConnectionCut
            refusal = self._refusal(settings, in_force_since, Request(scope))
            if refusal is not None:
                await refusal(scope, receive, send)
                return
            tampering = _Tampering(settings, receive, send)
            answering, asked = app, scope
            if settings.ignores_ranges or settings.compresses:
                asked = _with_headers(scope, gzip=settings.compresses)
                answering = GZipMiddleware(app, compresslevel=1) if settings.compresses else app
            try:
                await answering(asked, receive, tampering.send)
            except Exception:
                # The app may have wrapped it.
                if tampering.has_cut:
                    raise ConnectionCut from None
                raise

        return faulty

    def _hits(self, scope: Scope, port: str) -> bool:
        settings = self.settings
        path: str = scope["path"]
        if path.startswith(CONTROL_PREFIX) or settings.port not in ("", port):
            return False
        if not re.search(settings.match, path) or self._left == 0:
            return False
        self._left -= 1
        return True

    def _refusal(
        self, settings: FaultSettings, in_force_since: float, request: Request
    ) -> Response | None:
        query = request.query_params
        revoked = settings.revoked_urls and SIGNATURE in query
        if settings.expired_urls or (revoked and issue_time(query) < in_force_since):
            return refuse(EXPIRED)
        if settings.requests_per_s and (wait_s := self._wait_s(settings.requests_per_s)):
            return Response(status_code=429, headers={"Retry-After": str(wait_s)})
        if self._random.random() < settings.error_share:
            retry_s = settings.retry_after_s
            headers = {} if retry_s is None else {"Retry-After": str(retry_s)}
            return Response(status_code=settings.error_status, headers=headers)
        redirected = int(query.get(REDIRECTED, 0))
        if redirected < settings.redirects:
            onwards = request.url.include_query_params(**{REDIRECTED: redirected + 1})
            return RedirectResponse(str(onwards), status_code=307)
        return None

    def _wait_s(self, requests_per_s: float) -> int:
        """Return the whole seconds that a client must wait, 0 for none."""
        now = time.monotonic()
        window_s = max(1.0, 1 / requests_per_s)
        while self._answered and self._answered[0] <= now - window_s:
            self._answered.popleft()
        if len(self._answered) >= requests_per_s * window_s:
            return max(1, round(self._answered[0] + window_s - now))
        self._answered.append(now)
        return 0


def _with_headers(scope: Scope, *, gzip: bool) -> Scope:
    """Return a request that asks for no range, and that lets its answer be compressed, or not."""
    left = [one for one in scope["headers"] if one[0] not in (b"range", b"accept-encoding")]
    return {**scope, "headers": [*left, (b"accept-encoding", b"gzip" if gzip else b"identity")]}


class _Tampering:
    """A response's way out, slowed, changed, stalled or cut."""

    def __init__(self, settings: FaultSettings, receive: Receive, send: Send) -> None:
        self._settings = settings
        self._receive = receive
        self._send = send
        self._began = time.monotonic()
        self._sent = 0
        self.has_cut = False

    async def send(self, message: Message) -> None:
        """Pass a message on. Raises ConnectionCut where the response is to end."""
        body: bytes = message.get("body", b"")
        if message["type"] == "http.response.start" and self._settings.chunked:
            # Without the length, the server sends chunks.
            headers = [one for one in message["headers"] if one[0] != b"content-length"]
            message = {**message, "headers": headers}
        if message["type"] != "http.response.body" or not body:
            await self._send(message)
            return
        settings = self._settings
        if settings.wrong_bytes:
            body = bytes([body[0] ^ 0xFF]) + body[1:]
        ends = [end for end in (settings.stall_after_bytes, settings.cut_after_bytes) if end >= 0]
        end = min(ends, default=self._sent + len(body))
        if end >= self._sent + len(body):
            await self._pass_on(body, more=bool(message.get("more_body")))
            return
        await self._pass_on(body[: end - self._sent], more=True)
        if end == settings.stall_after_bytes:
            await _stall(self._receive, settings.stall_s)
        self.has_cut = True
        raise ConnectionCut

    async def _pass_on(self, body: bytes, *, more: bool) -> None:
        rate = self._settings.bandwidth_bytes_per_s
        # About fifty pieces a second: more could not be timed, fewer would come in gusts.
        step = max(SLOW_PIECE_BYTES, int(rate / 50)) if rate else max(len(body), 1)
        for start in range(0, max(len(body), 1), step):
            piece = body[start : start + step]
            last = start + step >= len(body)
            await self._send(
                {"type": "http.response.body", "body": piece, "more_body": more or not last}
            )
            self._sent += len(piece)
            if rate:
                await asyncio.sleep(self._began + self._sent / rate - time.monotonic())


async def _stall(receive: Receive, limit_s: float) -> None:
    """Wait until the client goes, or the time is up."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            while (await receive())["type"] != "http.disconnect":
                pass
