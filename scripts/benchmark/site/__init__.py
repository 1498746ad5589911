"""What all contenders read from: artifacts, the stand-in server, nginx and a link to far away.

The artifacts are logged to the stand-in server. nginx stands in front of it: it passes the API on,
with the files' URLs changed to its own, and serves the files from the stand-in's folder, since an
object store's speed is not what is compared. It has no eye for signatures. The same files are below
/plain/ of the same nginx, for those that know nothing of W&B.

Everything listens on loopback twice: near, and far, behind the link. All of it speaks TLS, with a
certificate made for the run, or all of it plain HTTP.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from certificates import Authority
from large_manifest import log_version_of
from stand_in import StandIn

from benchmark.programs import PROJECT
from benchmark.site.artifacts import log_past_sdk, log_with_sdk, share_bytes
from benchmark.site.data import LARGE, PIECE_BYTES, Sizes, files_below, make, million_shape
from benchmark.site.growing import log_growing
from benchmark.site.link import build_link
from benchmark.site.servers import HOST, Place, free_ports, start, start_nginx

PROBE_BYTES = 48 << 20
COPIES = 3
"""Of what is read, in memory: the mount's pages, those of its cache, and one to spare."""
WITH_SDK = ("large", "small")
PAST_SDK = ("train", "tree")


class Site:
    """The servers and the data, below one folder."""

    def __init__(
        self, home: Path, sizes: Sizes, artifacts: Iterable[str], stack: ExitStack, *, tls: bool
    ) -> None:
        """Start the servers, make the artifacts and log them; `stack` takes it all down.

        artifacts: the names of those that are wanted. tls: whether the servers speak TLS.
        """
        self.home = home
        self.sizes = sizes
        self.plain = home / "plain"
        self.names = frozenset(artifacts)
        self.plain.mkdir()
        for name in sorted(self.names):
            make(name, self.plain / name, sizes)
        # In hexadecimal; of no file where that is not wanted.
        self.large_md5 = ""
        if "large" in self.names:
            with self.large.open("rb") as file:
                self.large_md5 = hashlib.file_digest(file, "md5").hexdigest()
        with (self.plain / "probe").open("wb") as probe:
            probe.truncate(PROBE_BYTES)
        self._stand_in = StandIn(home / "server")
        stack.callback(self._stand_in.stop)
        self._authority = Authority(home) if tls else None
        scheme = "https" if tls else "http"
        ports = iter(free_ports(6))
        self.near = Place(scheme=scheme, api_port=next(ports), files_port=next(ports))
        self.far = Place(scheme=scheme, api_port=next(ports), files_port=next(ports))
        self._control_port, behind_link = ports
        self.nginx = start_nginx(
            stack,
            home,
            certificate=self._certified(),
            stand_in=(self._stand_in.base_url, self._stand_in.files_url),
            objects=self._objects,
            plain=self.plain,
            files_port=self.near.files_port,
            apis={self.near.api_port: self.near.files_url, behind_link: self.far.files_url},
        )
        relayed = {
            self.far.api_port: behind_link,
            self.far.files_port: self.near.files_port,
        }
        self.link = start(
            stack,
            [
                *build_link(home),
                str(self._control_port),
                *(f"{listening}:{target}" for listening, target in relayed.items()),
            ],
            ports=[self._control_port, *relayed],
        )
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

        if "growing" in self.names:
            log_growing(self._stand_in, self.entity, sizes.growing)

    @property
    def ca_file(self) -> Path | None:
        """The certificate of the authority that clients are to trust; None without TLS."""
        return self._authority.ca_file if self._authority else None

    def _certified(self) -> Path | None:
        """Return a new file with the servers' key and certificates; None without TLS."""
        if self._authority is None:
            return None
        file = self.home / "server.pem"
        self._authority.sign(HOST).private_key_and_cert_chain_pem.write_to_path(file)
        return file

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
        env = self._stand_in.env(home) | {"WANDB_BASE_URL": place.base_url}
        if self.ca_file:
            # requests, and the SDK's service, which is in Go.
            env |= dict.fromkeys(("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"), str(self.ca_file))
        return env

    def trusting(self, option: str) -> list[str]:
        """Return the arguments by which a program trusts the servers; `option` is its own."""
        return [option, str(self.ca_file)] if self.ca_file else []

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
        self.touch_memory(name)

    def touch_memory(self, name: str) -> None:
        """Have free memory that is there to be taken, for what is about to be read.

        A virtual machine's host takes it back once it was free for a second or two, and who takes a
        GiB of that first waits a second for it (1.2 s to write one, 0.24 else).
        """
        wanted = COPIES * sum(path.stat().st_size for path in files_below(self.plain / name))
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        size = max(mmap.PAGESIZE, min(wanted, free // 2))
        mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()

    def forget(self) -> None:
        """Leave nothing to write, and nothing cached where root's permission is there."""
        os.sync()
        caches = Path("/proc/sys/vm/drop_caches")
        if os.access(caches, os.W_OK):
            caches.write_text("3")
