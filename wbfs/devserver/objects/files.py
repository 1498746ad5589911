"""The file origin's HTTP: signed GET, HEAD and PUT with exact ranges, and a folder of public files.

It is another origin than the API and, as object stores do, refuses a request that carries an
Authorization header beside a signature: a client that leaks its API key is caught.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import BinaryIO

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from wbfs.devserver.errors import InvalidRequest
from wbfs.devserver.objects.origin import Origin
from wbfs.devserver.objects.signing import Refusal

PIECE_BYTES = 1 << 20

_RANGE = re.compile(r"bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """The bytes that are sent: from start to before stop."""

    start: int
    stop: int


def create_files(*, origin: Origin, public: Path) -> Starlette:
    """Return the ASGI app; `public` is a folder whose files need no signature."""
    public.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def serve_public(request: Request) -> Response:
        path = (public / request.path_params["path"]).resolve()
        if not path.is_relative_to(public.resolve()):
            return store_error(403, "AccessDenied", "Access Denied")
        return _send(request, path, lambda found: f"{found.st_mtime_ns:x}-{found.st_size:x}")

    async def serve(request: Request) -> Response:
        key = request.path_params["key"]
        if "authorization" in request.headers:
            return store_error(400, "InvalidArgument", "Only one auth mechanism allowed")
        refusal = origin.refusal(request.method, key, request.query_params)
        if refusal is not None:
            return refuse(refusal)
        try:
            if request.method == "PUT":
                return await _take(request, origin, key)
            return _send(request, origin.path(key), lambda found: origin.etag(key, found))
        except InvalidRequest as error:
            return store_error(400, "InvalidRequest", str(error))

    return Starlette(
        routes=[
            Route("/public/{path:path}", serve_public, methods=["GET", "HEAD"]),
            Route("/{key:path}", serve, methods=["GET", "HEAD", "PUT"]),
        ]
    )


def refuse(refusal: Refusal) -> Response:
    """Return the answer to a request that its signed query doesn't allow."""
    return store_error(403, refusal.code, refusal.message)


def store_error(status: int, code: str, message: str) -> Response:
    """Return an error as an object store words it."""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    )
    return Response(body, status_code=status, media_type="application/xml")


def _send(request: Request, path: Path, etag_of: Callable[[os.stat_result], str]) -> Response:
    try:
        file = path.open("rb")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return store_error(404, "NoSuchKey", "The specified key does not exist.")
    found = os.fstat(file.fileno())
    etag = f'"{etag_of(found)}"'
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Last-Modified": formatdate(found.st_mtime, usegmt=True),
        "Content-Type": "application/octet-stream",
    }
    span = _Span(start=0, stop=found.st_size)
    status = 200
    wanted = _RANGE.fullmatch(request.headers.get("range", ""))
    unchanged = request.headers.get("if-range", etag) in (etag, headers["Last-Modified"])
    if wanted is not None and unchanged and _is_range(wanted[1], wanted[2]):
        span = _span(wanted[1], wanted[2], found.st_size)
        if span.start >= span.stop:
            file.close()
            answer = store_error(416, "InvalidRange", "The requested range is not satisfiable")
            answer.headers["Content-Range"] = f"bytes */{found.st_size}"
            return answer
        status = 206
        headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{found.st_size}"
    headers["Content-Length"] = str(span.stop - span.start)
    if request.method == "HEAD":
        file.close()
        return Response(status_code=status, headers=headers)
    return StreamingResponse(_pieces(file, span), status_code=status, headers=headers)


def _is_range(first: str, last: str) -> bool:
    """Whether a range makes sense; HTTP wants one that doesn't to be ignored."""
    if first and last:
        return int(first) <= int(last)
    return bool(first or last)


def _span(first: str, last: str, size: int) -> _Span:
    """Return what a range is of an object; nothing where it lies beyond its end."""
    if not first:
        return _Span(start=max(size - int(last), 0), stop=size)
    return _Span(start=int(first), stop=min(int(last) + 1, size) if last else size)


async def _pieces(file: BinaryIO, span: _Span) -> AsyncIterator[bytes]:
    with file:
        file.seek(span.start)
        left = span.stop - span.start
        while left:
            piece = file.read(min(PIECE_BYTES, left))
            if not piece:
                return
            left -= len(piece)
            yield piece
            # Sending to a client that has gone does not wait: without this the whole file would
            # be read before its end were noticed.
            await asyncio.sleep(0)


async def _take(request: Request, origin: Origin, key: str) -> Response:
    """Store an object, or a part of an upload, whole or not at all."""
    upload = request.query_params.get("uploadId")
    part = int(request.query_params.get("partNumber", 0))
    path = origin.path(key) if upload is None else origin.part_path(upload, part)
    md5 = hashlib.md5(usedforsecurity=False)
    with origin.receive(path) as receiving:
        try:
            async for piece in request.stream():
                md5.update(piece)
                receiving.file.write(piece)
        except ClientDisconnect:
            return store_error(400, "IncompleteBody", "The connection was closed in mid-body")
        announced = request.headers.get("content-md5")
        if announced is not None and announced != base64.b64encode(md5.digest()).decode():
            return store_error(400, "BadDigest", "The Content-MD5 is not that of the body")
        found = receiving.keep()
    if upload is None:
        origin.store_etag(key, md5.hexdigest(), found)
    return Response(headers={"ETag": f'"{md5.hexdigest()}"'})
