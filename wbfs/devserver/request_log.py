"""What was asked of the server: who, what, which range, how many bytes. For tests' assertions."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_REQUESTS = 200_000
CONTROL_PREFIX = "/_devserver/"

_OPERATION = re.compile(r"\b(?:query|mutation)\s+(\w+)")


@dataclass(slots=True, kw_only=True)
class LoggedRequest:
    """One request; never a key and never a signed query.

    number: counts on when the log is cleared. time: when it came, in seconds since 1970. port:
    "api" or "files". key: the object's, on the file port. operation: of GraphQL. user: a hash of
    the API key. range: the header. authorization: whether there was such a header. status: 0 where
    none was sent (yet). bytes_sent: of the body, handed to the connection; of a client that goes in
    mid-body, up to 1 MiB and what the kernel's buffers hold may not have reached it.
    """

    number: int
    time: float
    port: str
    method: str
    path: str
    key: str
    operation: str
    user: str
    range: str
    user_agent: str
    authorization: bool
    status: int = 0
    bytes_sent: int = 0


@dataclass(slots=True)
class RequestLog:
    """The last requests, oldest first."""

    requests: deque[LoggedRequest] = field(default_factory=lambda: deque(maxlen=MAX_REQUESTS))
    count: int = 0

    def as_json(self) -> list[dict[str, Any]]:
        """Return the requests as plain data."""
        return [asdict(request) for request in self.requests]

    def middleware(self, app: ASGIApp, port: str) -> ASGIApp:
        """Return the app with its requests logged."""

        async def logged(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http" or scope["path"].startswith(CONTROL_PREFIX):
                await app(scope, receive, send)
                return
            operation = ""
            if scope["path"] == "/graphql":
                body, receive = await _peek(receive)
                operation = _operation_of(body)
            await self._pass_on(app, scope, receive, send, self._start(scope, port, operation))

        return logged

    async def _pass_on(
        self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, request: LoggedRequest
    ) -> None:
        gone = False

        async def watched() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or message["type"] == "http.disconnect"
            return message

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
            await send(message)
            # What is sent to a client that has gone goes nowhere, and the server doesn't say so.
            if message["type"] == "http.response.body" and request.method != "HEAD" and not gone:
                request.bytes_sent += len(message.get("body", b""))

        await app(scope, watched, counted)

    def _start(self, scope: Scope, port: str, operation: str) -> LoggedRequest:
        headers = Headers(scope=scope)
        self.count += 1
        request = LoggedRequest(
            number=self.count,
            time=time.time(),
            port=port,
            method=scope["method"],
            path=scope["path"],
            key=scope["path"].lstrip("/") if port == "files" else "",
            operation=operation,
            user=_user_of(headers),
            range=headers.get("range", ""),
            user_agent=headers.get("user-agent", ""),
            authorization="authorization" in headers,
        )
        self.requests.append(request)
        return request


async def _peek(receive: Receive) -> tuple[bytes, Receive]:
    """Read a request's whole body; return it and what gives it out again."""
    messages: list[Message] = []
    body = b""
    while True:
        message = await receive()
        messages.append(message)
        if message["type"] != "http.request":
            break
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    pending = deque(messages)

    async def again() -> Message:
        return pending.popleft() if pending else await receive()

    return body, again


def _operation_of(body: bytes) -> str:
    try:
        document = json.loads(body)
    except ValueError:
        return ""
    if not isinstance(document, dict):
        return ""
    if document.get("operationName"):
        return str(document["operationName"])
    match = _OPERATION.search(str(document.get("query", "")))
    return match[1] if match else ""


def _user_of(headers: Mapping[str, str]) -> str:
    """Return a short hash of the API key, so that a test can tell users apart."""
    try:
        pair = base64.b64decode(headers.get("authorization", "").partition(" ")[2], validate=True)
    except ValueError:
        return ""
    return hashlib.sha256(pair.partition(b":")[2]).hexdigest()[:12] if pair else ""
