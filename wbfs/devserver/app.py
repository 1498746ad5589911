"""The whole server: two ports in one process, the control routes, and a clean end."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from wbfs.devserver.api import ApiSettings, create_api
from wbfs.devserver.certificates import load_certificates
from wbfs.devserver.data.database import Database
from wbfs.devserver.faults import ConnectionCut, Faults, FaultSettings
from wbfs.devserver.objects.files import create_files
from wbfs.devserver.objects.origin import URL_LIFETIME_S, Origin
from wbfs.devserver.request_log import CONTROL_PREFIX, RequestLog

STOP_TIMEOUT_S = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Where the server keeps its data and listens; port 0 is any free one, `tls` for https."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 0
    file_port: int = 0
    user: str = "admin"
    url_lifetime_s: float = URL_LIFETIME_S
    max_page_size: int = 5000
    storage_layout: str = "V2"
    xxh128: bool = True
    tls: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where the server can be reached."""

    base_url: str
    files_url: str


class _Server(uvicorn.Server):
    """A server among several: the process's signals are not its own to take."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class DevServer:
    """The server, listening from the moment it is made."""

    def __init__(self, settings: ServerSettings) -> None:
        """Open the data, making it where there is none, and the ports. Raises OSError."""
        data_dir = settings.data_dir
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.api_key_file = data_dir / "api-key"
        api_key = _load_api_key(self.api_key_file)
        self._sockets = [
            _listen(settings.host, settings.port),
            _listen(settings.host, settings.file_port),
        ]
        certificates = load_certificates(data_dir, settings.host) if settings.tls else None
        self.ca_file = None if certificates is None else certificates.ca
        served_by = None if certificates is None else certificates.server
        scheme = "http" if certificates is None else "https"
        base_url, files_url = (_url(scheme, settings.host, one) for one in self._sockets)
        self.addresses = Addresses(base_url=base_url, files_url=files_url)
        origin = Origin(data_dir, base_url=lambda: files_url, lifetime_s=settings.url_lifetime_s)
        self._database = Database(data_dir / "devserver.sqlite")
        api = create_api(
            database=self._database,
            origin=origin,
            base_url=base_url,
            settings=ApiSettings(
                admin_name=settings.user,
                admin_api_key=api_key,
                xxhash_digests_enabled=settings.xxh128,
                storage_layout=settings.storage_layout,
                max_page_size=settings.max_page_size,
            ),
        )
        log, faults = RequestLog(), Faults()
        files = create_files(origin=origin, public=data_dir / "public")

        def change_faults(changed: FaultSettings) -> None:
            faults.change(changed)
            lifetime_s = changed.url_lifetime_s
            origin.lifetime_s = settings.url_lifetime_s if lifetime_s is None else lifetime_s

        control = _control(log, faults, change_faults, api_key)
        ours = Starlette(routes=[*control, Mount("/", app=api)])
        self._servers = [
            _serve(log.middleware(faults.middleware(app, port), port), served_by)
            for app, port in ((ours, "api"), (files, "files"))
        ]
        self._announce(data_dir / "devserver.json")

    def _announce(self, path: Path) -> None:
        """Write where the server is, so that the file is never seen half written."""
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(self.addresses) | {"pid": os.getpid()}) + "\n")
        temporary.rename(path)

    async def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        try:
            await asyncio.gather(
                *(
                    server.serve(sockets=[listening])
                    for server, listening in zip(self._servers, self._sockets, strict=True)
                )
            )
        finally:
            self._database.close()

    def _stop(self) -> None:
        for server in self._servers:
            server.should_exit = True


def _serve(app: ASGIApp, certificate: Path | None) -> _Server:
    config = uvicorn.Config(
        app,
        # Whichever other parser is installed: this one holds to the announced Content-Length.
        http="h11",
        access_log=False,
        log_config=None,
        log_level="error",
        lifespan="off",
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
        timeout_keep_alive=60,
        ssl_certfile=certificate,
    )
    logging.getLogger("uvicorn.error").addFilter(_is_defect)
    return _Server(config)


def _is_defect(record: logging.LogRecord) -> bool:
    """Leave out of the log what a fault or the server's end does to a request."""
    error = record.exc_info and record.exc_info[1]
    return not isinstance(error, ConnectionCut | asyncio.CancelledError)


def _control(
    log: RequestLog, faults: Faults, change: Callable[[FaultSettings], None], api_key: str
) -> list[Route]:
    """Return the routes that tests turn the switches with."""
    expected = "Basic " + base64.b64encode(f"api:{api_key}".encode()).decode()

    def refused(request: Request) -> Response | None:
        given = request.headers.get("authorization", "")
        if secrets.compare_digest(given.encode(), expected.encode()):
            return None
        return JSONResponse({"error": "the admin's key is needed"}, status_code=401)

    async def ready(request: Request) -> Response:
        return refused(request) or JSONResponse({})

    async def requests(request: Request) -> Response:
        if (refusal := refused(request)) is not None:
            return refusal
        if request.method == "DELETE":
            log.requests.clear()
        return JSONResponse(log.as_json())

    async def switches(request: Request) -> Response:
        if (refusal := refused(request)) is not None:
            return refusal
        if request.method == "DELETE":
            change(FaultSettings())
        elif request.method == "PUT":
            try:
                change(msgspec.json.decode(await request.body(), type=FaultSettings))
            except msgspec.DecodeError as error:
                return JSONResponse({"error": str(error)}, status_code=400)
        return JSONResponse(msgspec.to_builtins(faults.settings))

    return [
        Route(f"{CONTROL_PREFIX}ready", ready),
        Route(f"{CONTROL_PREFIX}requests", requests, methods=["GET", "DELETE"]),
        Route(f"{CONTROL_PREFIX}faults", switches, methods=["GET", "PUT", "DELETE"]),
    ]


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio turns Nagle's algorithm off: it would cost 40 ms an answer.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    # From here on a client's connection waits to be accepted instead of being refused.
    listening.listen()
    return listening


def _url(scheme: str, host: str, listening: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{listening.getsockname()[1]}"


def _load_api_key(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        key = secrets.token_hex(20)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(key + "\n")
        return key
