"""Switches that make the server slow, failing or lying, for tests. Set while it runs."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import deque
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wbfs.devserver.request_log import CONTROL_PREFIX

LONGEST_STALL_S = 300.0
SLOW_PIECE_BYTES = 16 << 10


class ConnectionCut(Exception):
    """Ends a response in the middle, so that the server closes the connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultSettings:
    """What goes wrong, and for which requests; the defaults are no faults.

    port: "api", "files" or "" for both. match: a regular expression that the path must have.
    first: only so many requests, -1 for all. delay_s: before the answer. stall: no answer at all.
    bandwidth_bytes_per_s: of one connection, 0 for no limit. requests_per_s: beyond that 429 with
    Retry-After, 0 for no limit. error_share: share of requests answered with `error_status`.
    cut_after_bytes: the connection is closed after so many bytes of a body, -1 for never.
    wrong_bytes: bodies of the right length and other bytes. expired_urls: signed URLs are refused.
    """

    port: str = ""
    match: str = ""
    first: int = -1
    delay_s: float = 0.0
    stall: bool = False
    bandwidth_bytes_per_s: float = 0.0
    requests_per_s: float = 0.0
    error_share: float = 0.0
    error_status: int = 500
    cut_after_bytes: int = -1
    wrong_bytes: bool = False
    expired_urls: bool = False


class Faults:
    """The faults in force."""

    def __init__(self) -> None:
        self._set(FaultSettings())

    def _set(self, settings: FaultSettings) -> None:
        self.settings = settings
        self._left = settings.first
        self._random = random.Random(1)
        self._answered: deque[float] = deque()

    def change(self, settings: FaultSettings) -> None:
        """Put other faults in force, for the requests that come from now on."""
        self._set(settings)

    def middleware(self, app: ASGIApp, port: str) -> ASGIApp:
        """Return the app with the faults in front of it."""

        async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or not self._hits(scope, port):
                await app(scope, receive, send)
                return
            settings = self.settings
            await asyncio.sleep(settings.delay_s)
            if settings.stall:
                await _stall(receive)
                raise ConnectionCut
            if (refusal := self._refusal(settings)) is not None:
                await refusal(scope, receive, send)
                return
            await app(scope, receive, _Tampering(settings, send))

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

    def _refusal(self, settings: FaultSettings) -> Response | None:
        if settings.expired_urls:
            body = "<Error><Code>ExpiredToken</Code></Error>"
            return Response(body, status_code=403, media_type="application/xml")
        if settings.requests_per_s and (wait_s := self._wait_s(settings.requests_per_s)):
            return Response(status_code=429, headers={"Retry-After": str(wait_s)})
        if self._random.random() < settings.error_share:
            return Response(status_code=settings.error_status)
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


class _Tampering:
    """A response's way out, slowed, changed or cut."""

    def __init__(self, settings: FaultSettings, send: Send) -> None:
        self._settings = settings
        self._send = send
        self._sent = 0

    async def __call__(self, message: Message) -> None:
        body: bytes = message.get("body", b"")
        if message["type"] != "http.response.body" or not body:
            await self._send(message)
            return
        settings = self._settings
        if settings.wrong_bytes:
            body = bytes([body[0] ^ 0xFF]) + body[1:]
        cut = 0 <= settings.cut_after_bytes < self._sent + len(body)
        if cut:
            body = body[: settings.cut_after_bytes - self._sent]
        await self._pass_on(body, more=cut or bool(message.get("more_body")))
        if cut:
            raise ConnectionCut

    async def _pass_on(self, body: bytes, *, more: bool) -> None:
        rate = self._settings.bandwidth_bytes_per_s
        step = SLOW_PIECE_BYTES if rate else max(len(body), 1)
        for start in range(0, max(len(body), 1), step):
            piece = body[start : start + step]
            last = start + step >= len(body)
            await self._send(
                {"type": "http.response.body", "body": piece, "more_body": more or not last}
            )
            self._sent += len(piece)
            if rate:
                await asyncio.sleep(len(piece) / rate)


async def _stall(receive: Receive) -> None:
    """Wait until the client goes."""
    async with asyncio.timeout(LONGEST_STALL_S):
        while (await receive())["type"] != "http.disconnect":
            pass
