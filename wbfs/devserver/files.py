"""The file origin's HTTP: signed GET, HEAD and PUT with exact ranges, and a folder of public files.

It is another origin than the API and, as object stores do, refuses a request that carries an
Authorization header beside a signature: a client that leaks its API key is caught.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from wbfs.devserver.errors import InvalidRequest
from wbfs.devserver.origin import Origin

PIECE_BYTES = 1 << 20

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


@dataclass(frozen=True, slots=True)
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
            return _store_error(403, "AccessDenied")
        return _send(request, path)

    async def serve(request: Request) -> Response:
        key = request.path_params["key"]
        if "authorization" in request.headers:
            return _store_error(400, "InvalidArgument")
        if refusal := origin.refusal(request.method, key, request.query_params):
            return _store_error(403, refusal)
        try:
            if request.method != "PUT":
                return _send(request, origin.path(key))
            upload = request.query_params.get("uploadId")
            if upload is None:
                return await _take(request, origin, origin.path(key))
            part = int(request.query_params["partNumber"])
            return await _take(request, origin, origin.part_path(upload, part))
        except InvalidRequest:
            return _store_error(400, "InvalidRequest")

    return Starlette(
        routes=[
            Route("/public/{path:path}", serve_public, methods=["GET", "HEAD"]),
            Route("/{key:path}", serve, methods=["GET", "HEAD", "PUT"]),
        ]
    )


def _send(request: Request, path: Path) -> Response:
    if not path.is_file():
        return _store_error(404, "NoSuchKey")
    found = path.stat()
    size = found.st_size
    etag = f'"{found.st_mtime_ns:x}-{size:x}"'
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": etag,
        "Last-Modified": formatdate(found.st_mtime, usegmt=True),
        "Content-Type": "application/octet-stream",
    }
    wanted = request.headers.get("range")
    if_range = request.headers.get("if-range")
    if wanted is None or (if_range is not None and if_range != etag):
        span, status = _Span(0, size), 200
    else:
        requested = _span_of(wanted, size)
        if requested is None:
            return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{size}"})
        span, status = requested, 206
        headers["Content-Range"] = f"bytes {span.start}-{span.stop - 1}/{size}"
    headers["Content-Length"] = str(span.stop - span.start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    return StreamingResponse(_pieces(path, span), status_code=status, headers=headers)


def _span_of(header: str, size: int) -> _Span | None:
    """Return what a Range header asks for, or None where that can't be had."""
    match = _RANGE.fullmatch(header.replace(" ", ""))
    if match is None or not (match[1] or match[2]):
        return None
    if not match[1]:
        length = min(int(match[2]), size)
        return _Span(size - length, size) if length else None
    start = int(match[1])
    stop = min(int(match[2]) + 1, size) if match[2] else size
    return _Span(start, stop) if start < stop else None


async def _pieces(path: Path, span: _Span) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        file.seek(span.start)
        at = span.start
        while at < span.stop:
            piece = file.read(min(PIECE_BYTES, span.stop - at))
            if not piece:
                return
            at += len(piece)
            yield piece


async def _take(request: Request, origin: Origin, path: Path) -> Response:
    md5 = hashlib.md5(usedforsecurity=False)
    with origin.receive(path) as receiving:
        async for piece in request.stream():
            md5.update(piece)
            receiving.file.write(piece)
        announced = request.headers.get("content-md5")
        if announced is not None and announced != base64.b64encode(md5.digest()).decode():
            return _store_error(400, "BadDigest")
        receiving.keep()
    return Response(headers={"ETag": f'"{md5.hexdigest()}"'})


def _store_error(status: int, code: str) -> Response:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code></Error>'
    return Response(body, status_code=status, media_type="application/xml")
