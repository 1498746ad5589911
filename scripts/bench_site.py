"""What all contenders read from: artifacts, the stand-in server, nginx and a link to far away.

The artifacts are logged to the stand-in server. nginx stands in front of it: it passes the API on,
with the files' URLs changed to its own, and serves the files from the stand-in's folder, since an
object store's speed is not what is compared. It has no eye for signatures. The same files are below
/plain/ of the same nginx, for those that know nothing of W&B.

Everything listens on loopback twice: near, and far, behind `bench_link`.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench_artifacts import PROJECT, log_past_sdk, log_with_sdk, share_bytes
from bench_data import LARGE, PIECE_BYTES, Sizes, files_below, make, million_shape
from bench_link import build_link
from large_manifest import log_version_of
from mounts import wait_until
from stand_in import StandIn

START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
HOST = "127.0.0.1"
PROBE_BYTES = 48 << 20
WITH_SDK = ("large", "small")
PAST_SDK = ("train", "tree")

NGINX = """
daemon off;
master_process off;
pid {home}/nginx.pid;
error_log {home}/nginx-error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 1000000;
    client_body_temp_path {home}/nginx-tmp;
    proxy_temp_path {home}/nginx-tmp;
    fastcgi_temp_path {home}/nginx-tmp;
    uwsgi_temp_path {home}/nginx-tmp;
    scgi_temp_path {home}/nginx-tmp;
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Accept-Encoding "";
    sub_filter_once off;
    sub_filter_types application/json;
    upstream api {{ server {api}; keepalive 32; }}
    server {{
        listen {host}:{files};
        root {objects};
        location /plain/ {{ alias {plain}/; autoindex on; }}
    }}
    {apis}
}}
"""
API = """
    server {{
        listen {host}:{port};
        sub_filter "{stored}" "{public}";
        proxy_redirect "{stored}" "{public}";
        location / {{ proxy_pass http://api; }}
    }}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the servers are for a client that is near, or far; ports of loopback."""

    api_port: int
    files_port: int

    @property
    def base_url(self) -> str:
        """The W&B server's URL."""
        return f"http://{HOST}:{self.api_port}"

    @property
    def files_url(self) -> str:
        """The file server's URL."""
        return f"http://{HOST}:{self.files_port}"

    @property
    def plain_url(self) -> str:
        """The folder of the same files under their own names."""
        return f"{self.files_url}/plain"


class Site:
    """The servers and the data, below one folder."""

    def __init__(
        self, home: Path, sizes: Sizes, artifacts: Iterable[str], stack: ExitStack
    ) -> None:
        """Start the servers, make the artifacts and log them; `stack` takes it all down.

        artifacts: the names of those that are wanted.
        """
        self.home = home
        self.sizes = sizes
        self.plain = home / "plain"
        self.names = frozenset(artifacts)
        self.plain.mkdir()
        for name in sorted(self.names):
            make(name, self.plain / name, sizes)
        with (self.plain / "probe").open("wb") as probe:
            probe.truncate(PROBE_BYTES)
        self._stand_in = StandIn(home / "server")
        stack.callback(self._stand_in.stop)
        ports = iter(free_ports(6))
        self.near = Place(api_port=next(ports), files_port=next(ports))
        self.far = Place(api_port=next(ports), files_port=next(ports))
        self._control_port, far_api_port = ports
        self._start_nginx(stack, far_api_port)
        self._start_link(stack, far_api_port)
        with_sdk = [name for name in WITH_SDK if name in self.names]
        self.entity = log_with_sdk(self._stand_in, self.plain, home / "logging", with_sdk)
        share_bytes(self._objects, self.plain, with_sdk)
        for name in PAST_SDK:
            if name in self.names:
                log_past_sdk(self._stand_in, self.entity, self.plain / name)
        if "million" in self.names:
            folders, files, largest = million_shape(sizes)
            log_version_of(
                self._stand_in,
                "million",
                folders=folders,
                files_per_folder=files,
                large_folder=largest,
                project=PROJECT,
                entity=self.entity,
            )

    @property
    def _objects(self) -> Path:
        return self.home / "server" / "objects"

    @property
    def large(self) -> Path:
        """The large file, as it is on the local disk."""
        return self.plain / "large" / LARGE

    def version(self, name: str) -> str:
        """Return where the version of an artifact is in a mount."""
        return f"{self.entity}/{PROJECT}/{name}/v0"

    def address(self, name: str) -> str:
        """Return the name of an artifact's version as the SDK and `wbfs get` have it."""
        return f"{self.entity}/{PROJECT}/{name}:v0"

    def env(self, place: Place, home: Path) -> dict[str, str]:
        """Return the environment of a W&B client at that place, with nothing of anybody else's."""
        return self._stand_in.env(home) | {"WANDB_BASE_URL": place.base_url}

    def carried(self) -> dict[str, int]:
        """What came over the link so far: bytes and connections."""
        with socket.create_connection((HOST, self._control_port), timeout=5) as control:
            answer: dict[str, int] = json.loads(control.makefile("rb").read())
        return answer

    def settle(self, name: str) -> None:
        """Make a cold start fair: nothing left to write, no page cached but the server's."""
        self.forget()
        piece = bytearray(PIECE_BYTES)
        for path in files_below(self.plain / name):
            with path.open("rb", buffering=0) as file:
                while file.readinto(piece):
                    pass

    def forget(self) -> None:
        """Leave nothing to write, and nothing cached where root's permission is there."""
        os.sync()
        caches = Path("/proc/sys/vm/drop_caches")
        if os.access(caches, os.W_OK):
            caches.write_text("3")

    def _start_nginx(self, stack: ExitStack, far_api_port: int) -> None:
        apis = "".join(
            API.format(host=HOST, port=port, stored=self._stand_in.files_url, public=public)
            for port, public in (
                (self.near.api_port, self.near.files_url),
                (far_api_port, self.far.files_url),
            )
        )
        config = self.home / "nginx.conf"
        config.write_text(
            NGINX.format(
                home=self.home,
                host=HOST,
                files=self.near.files_port,
                api=self._stand_in.base_url.removeprefix("http://"),
                objects=self._objects,
                plain=self.plain,
                apis=apis,
            )
        )
        # Debian has it where only root's PATH leads to.
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
        start(
            stack,
            [
                program,
                "-e",
                f"{self.home}/nginx-error.log",
                "-p",
                str(self.home),
                "-c",
                str(config),
            ],
            ports=[self.near.files_port, self.near.api_port, far_api_port],
        )

    def _start_link(self, stack: ExitStack, far_api_port: int) -> None:
        start(
            stack,
            [
                *build_link(self.home),
                str(self._control_port),
                f"{self.far.api_port}:{far_api_port}",
                f"{self.far.files_port}:{self.near.files_port}",
            ],
            ports=[self._control_port, self.far.api_port, self.far.files_port],
        )


def start(stack: ExitStack, command: list[str], *, ports: list[int]) -> None:
    """Start a server, wait until it listens, and have the stack end it."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def end() -> None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)

    def is_up() -> bool:
        assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
        return all(listens(port) for port in ports)

    stack.callback(end)
    wait_until(is_up, timeout_s=START_TIMEOUT_S, what=f"{command[0]} listens")


def listens(port: int) -> bool:
    """Whether a connection to the port is taken."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def free_ports(count: int) -> list[int]:
    """Return ports that nobody uses at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [int(one.getsockname()[1]) for one in sockets]
