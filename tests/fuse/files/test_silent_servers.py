"""A server that says nothing holds up its own readers and nobody else's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from conftest import Mounter
from large_manifest import log_version_of
from mounts import wait_until
from stand_in import StandIn

READERS = 500
LARGE = 6 << 20
TIMEOUT_S = 120
"""That of the mount: what waits for the silent server waits for the whole test."""
PROMPT_S = 60.0
"""Less than that, and much for a busy machine."""
READ_ALL = """
import pathlib, sys, threading
folder = pathlib.Path(sys.argv[1])
for path in sorted(folder.iterdir()):
    threading.Thread(target=path.read_bytes).start()
print("reading", flush=True)
"""

LOG_MANY = """
import wandb
with wandb.init(project="silent") as run:
    artifact = wandb.Artifact("many", type="dataset")
    for folder, count in (("here", 5), ("there", 60), ("elsewhere", 5)):
        for number in range(count):
            with artifact.new_file(f"{folder}/{number}.txt") as file:
                file.write(f"content of {folder} {number}")
    run.log_artifact(artifact).wait()
    print(run.entity)
"""


class SilentServer:
    """Takes connections and requests, and never answers."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=READERS)
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._connections)

    def _accept(self) -> None:
        while True:
            try:
                self._connections.append(self._listening.accept()[0])
            except OSError:
                return

    def close(self) -> None:
        if self._listening.fileno() < 0:
            return
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()
        for connection in self._connections:
            connection.close()


@pytest.fixture
def silent() -> Iterator[SilentServer]:
    server = SilentServer()
    yield server
    server.close()


def row(url: str, etag: str, size: int) -> dict[str, object]:
    """Return a manifest's row for a reference."""
    return {"digest": etag, "size": size, "ref": url, "extra": {"etag": etag}}


@pytest.mark.promises("6.5")
@pytest.mark.parametrize("size", [100, LARGE])
def test_readers_of_a_silent_server_hold_up_nobody_else(
    mounter: Mounter, stand_in: StandIn, silent: SilentServer, tmp_path: Path, size: int
) -> None:
    public = stand_in.public_dir / f"heard-{size}"
    public.mkdir(parents=True)
    content = os.urandom(size)
    (public / "heard.bin").write_bytes(content)
    heard = f"{stand_in.public_url}/heard-{size}/heard.bin"
    with requests.Session() as session:
        session.trust_env = False
        etag = session.head(heard, timeout=PROMPT_S).headers["ETag"].strip('"')
    extra = {
        f"silent/{number:03}": row(f"{silent.url}/{number}", f"etag-{number}", size)
        for number in range(READERS)
    }
    extra["heard/heard.bin"] = row(heard, etag, size)
    logged = log_version_of(stand_in, f"silent-{size}", folders=2, files_per_folder=50, extra=extra)
    mount = mounter(options=["--timeout", str(TIMEOUT_S)])
    version = mount.path / logged.source.replace(":", "/")
    names = sorted((version / "folder-0000").iterdir())
    # What is here already is to be read too.
    kept = names[0].read_bytes()
    readers = subprocess.Popen(
        [sys.executable, "-c", READ_ALL, str(version / "silent")], stdout=subprocess.PIPE
    )
    try:
        assert readers.stdout is not None
        assert readers.stdout.readline() == b"reading\n"
        wait_until(lambda: len(silent) >= 32, what="the server is asked")
        began = time.monotonic()
        # W&B's own files, another server's, the local disk, and look-ups.
        for path in [*names[1:], *(version / "folder-0001").iterdir()]:
            assert path.read_bytes()
        assert (version / "heard" / "heard.bin").read_bytes() == content
        fd = os.open(names[0], os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.read(fd, len(kept)) == kept
        os.close(fd)
        assert "latest" in os.listdir(version.parent)
        assert not (version.parent / "nobody-has-named-it").exists()
        os.statvfs(mount.path)
        assert time.monotonic() - began < PROMPT_S
        assert readers.poll() is None
    finally:
        readers.send_signal(signal.SIGKILL)
        silent.close()
        readers.wait(2 * TIMEOUT_S)
        readers.stdout.close()


def test_a_silent_store_holds_up_no_look_up(
    mounter: Mounter, stand_in: StandIn, tmp_path: Path
) -> None:
    entity = stand_in.run_sdk(LOG_MANY, tmp_path / "logging")
    mount = mounter(options=["--timeout", str(TIMEOUT_S)])
    version = mount.path / entity / "silent" / "many" / "v0"
    kept = {path: path.read_bytes() for path in sorted((version / "here").iterdir())}
    with stand_in.faults(port="files", stall=True):
        readers = subprocess.Popen(
            [sys.executable, "-c", READ_ALL, str(version / "there")], stdout=subprocess.PIPE
        )
        try:
            assert readers.stdout is not None
            assert readers.stdout.readline() == b"reading\n"
            wait_until(lambda: mount.status()["busy_threads"]["data"] >= 32, what="they wait")
            began = time.monotonic()
            for path, content in kept.items():
                assert path.read_bytes() == content
            assert len(os.listdir(version / "elsewhere")) == 5
            assert os.listdir(mount.path / entity / "silent") == ["many"]
            os.stat(version.parent / "latest")
            assert time.monotonic() - began < PROMPT_S
        finally:
            readers.send_signal(signal.SIGKILL)
    readers.wait(2 * TIMEOUT_S)
    readers.stdout.close()
