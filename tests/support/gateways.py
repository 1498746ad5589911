"""nginx as a gateway in front of a store: the sample that `wbfs deploy nginx` prints, as it is."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from object_stores import running
from ports import free_port

from wbfs.cli.main import commands

# What the system's own nginx.conf has around it; one process, which keeps to whoever runs it.
AROUND = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log notice;
events {{ worker_connections 4096; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/wbfs.conf;
}}
"""


@dataclass(frozen=True)
class Gateway:
    """A running one; all that it writes is in `folder`."""

    url: str
    folder: Path

    @property
    def kept(self) -> list[Path]:
        """The files of its cache."""
        return [path for path in (self.folder / "cache").rglob("*") if path.is_file()]

    def written(self) -> bytes:
        """All that it wrote, its cache too."""
        return b"".join(path.read_bytes() for path in self.folder.rglob("*") if path.is_file())


def command_of(folder: Path, **settings: str) -> list[str | Path]:
    """Write the sample down, with those values put in; return what runs nginx with it."""
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed: scripts/setup installs nginx-light")
    folder.mkdir()
    settings |= {"gateway_cache": str(folder / "cache"), "gateway_log": str(folder / "log")}
    given = [f"--set={name.replace('_', '-')}={value}" for name, value in settings.items()]
    done = CliRunner().invoke(commands, ["deploy", "nginx", *given], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    (folder / "wbfs.conf").write_text(done.output)
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder))
    return [program, "-c", folder / "nginx.conf", "-p", folder, "-e", folder / "error.log"]


@contextmanager
def nginx(folder: Path, store: str, **settings: str) -> Iterator[Gateway]:
    """Run it in front of a store."""
    port = free_port()
    listen = f"127.0.0.1:{port}"
    command = command_of(folder, store=store, listen=listen, clients="127.0.0.1", **settings)
    with running(command, port, folder / "output") as url:
        yield Gateway(url, folder)
