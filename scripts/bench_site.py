"""What all contenders read from: two artifacts, the stand-in server, nginx and a link to far away.

The wandb SDK logs the artifacts to the stand-in server. nginx stands in front of it: it passes the
API on, with the files' URLs changed to its own, and serves the files from the stand-in's folder,
since an object store's speed is not what is compared. It has no eye for signatures. The same files
are below /plain/ of the same nginx, for those that know nothing of W&B.

Everything listens on loopback twice: near, and far, behind `bench_link`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from mounts import run, wait_until
from stand_in import StandIn

LOG_TIMEOUT_S = 900.0
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
HOST = "127.0.0.1"
PROJECT = "bench"
LARGE = "model.safetensors"
PIECE_BYTES = 4 << 20
FOLDER_FILES = 1000
HEADER_BYTES = 128 << 10
TENSOR_BYTES = (4 << 20, 2 << 20, 8 << 10)

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
LOG = """
import sys
import wandb
with wandb.init(project=sys.argv[1]) as run:
    for name in sys.argv[3:]:
        artifact = wandb.Artifact(name, type="dataset")
        artifact.add_dir(f"{sys.argv[2]}/{name}", policy="immutable", skip_cache=True)
        run.log_artifact(artifact).wait(600)
    print(run.entity)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much there is to read: bytes of the large file, and how many small ones of which size."""

    large: int
    small_files: int
    small_bytes: int = 16 << 10

    @property
    def needed(self) -> int:
        """Bytes of disk that a run may take: each has its cache, or its copy, and the server."""
        return 6 * (self.large + 2 * self.small_files * self.small_bytes)


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

    def __init__(self, home: Path, sizes: Sizes, stack: ExitStack) -> None:
        """Make the data, start the servers, log the artifacts; `stack` takes it all down."""
        self.home = home
        self.sizes = sizes
        self.plain = home / "plain"
        self._make_data()
        self._stand_in = StandIn(home / "server")
        stack.callback(self._stand_in.stop)
        ports = iter(free_ports(6))
        self.near = Place(api_port=next(ports), files_port=next(ports))
        self.far = Place(api_port=next(ports), files_port=next(ports))
        self._control_port, far_api_port = ports
        self._start_nginx(stack, far_api_port)
        self._start_link(stack, far_api_port)
        self.entity = self._log_artifacts()
        share_bytes(self._objects, self.plain)

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
        os.sync()
        caches = Path("/proc/sys/vm/drop_caches")
        if os.access(caches, os.W_OK):
            caches.write_text("3")
        piece = bytearray(PIECE_BYTES)
        for path in files_below(self.plain / name):
            with path.open("rb", buffering=0) as file:
                while file.readinto(piece):
                    pass

    def _make_data(self) -> None:
        self.large.parent.mkdir(parents=True)
        write_safetensors(self.large, self.sizes.large)
        chance = random.Random("small")
        for number in range(self.sizes.small_files):
            folder = self.plain / "small" / f"{number // FOLDER_FILES:03}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:06}.bin").write_bytes(chance.randbytes(self.sizes.small_bytes))

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
                *(sys.executable, str(Path(__file__).with_name("bench_link.py"))),
                str(self._control_port),
                f"{self.far.api_port}:{far_api_port}",
                f"{self.far.files_port}:{self.near.files_port}",
            ],
            ports=[self._control_port, self.far.api_port, self.far.files_port],
        )

    def _log_artifacts(self) -> str:
        """Log both artifacts with the SDK; return their entity."""
        env = self._stand_in.env(self.home / "logging")
        command = [sys.executable, "-c", LOG, PROJECT, str(self.plain), "large", "small"]
        done = run(*command, env=env, timeout_s=LOG_TIMEOUT_S)
        assert done.returncode == 0, f"the artifacts can't be logged: {done.stderr[-2000:]}"
        shutil.rmtree(self.home / "logging")
        return done.stdout.split()[-1]


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


def files_below(folder: Path) -> Iterator[Path]:
    """Yield a folder's files, at any depth."""
    return (path for path in folder.rglob("*") if path.is_file())


def share_bytes(objects: Path, plain: Path) -> None:
    """Make the plain files hard links to the server's objects: one copy on disk and in memory."""
    stored = {md5(path): path for path in files_below(objects)}
    for path in list(files_below(plain)):
        found = stored[md5(path)]
        path.unlink()
        path.hardlink_to(found)


def md5(path: Path) -> bytes:
    """Return a file's MD5."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).digest()


def write_safetensors(path: Path, size: int) -> None:
    """Write a file of that many bytes laid out as a model is: length, JSON header, tensors.

    Its tensors are of the sizes of a transformer's: large ones, and small ones between them.
    """
    chance = random.Random("large")
    room = size - HEADER_BYTES
    lengths: list[int] = []
    for length in itertools.cycle(TENSOR_BYTES):
        if room <= 0:
            break
        lengths.append(min(length, room))
        room -= lengths[-1]
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for number, length in enumerate(lengths):
        header[f"layers.{number}.weight"] = {
            "dtype": "U8",
            "shape": [length],
            "data_offsets": [start, start + length],
        }
        start += length
    text = json.dumps(header).encode()
    text += b" " * (size - start - 8 - len(text))
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        while start:
            piece = chance.randbytes(min(start, PIECE_BYTES))
            start -= file.write(piece)
