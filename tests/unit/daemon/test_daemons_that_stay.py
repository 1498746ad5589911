"""Why a daemon has not ended, though its mount is gone: only what is known is said."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_records import record

from wbfs.daemon.mounts import taking_down
from wbfs.daemon.mounts.table import Mount, mounts, who_else_sees
from wbfs.model.errors import NotNow

DEVICE = "0:77"
MOUNT = Mount(
    mountpoint=Path("/data"), root="/", device=DEVICE, filesystem_type="fuse.wbfs", options=""
)


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Return a descriptor of a process that does not end."""
    monkeypatch.setattr(taking_down, "MOMENT_S", 0.0)
    monkeypatch.setattr(taking_down, "END_TIMEOUT_S", 0.0)
    with subprocess.Popen(["sleep", "1000"]) as process:
        descriptor = os.pidfd_open(process.pid)
        yield descriptor
        os.close(descriptor)
        process.kill()


@pytest.mark.parametrize(
    ("before", "words"),
    [({"mnt:[1]": 5}, "not where process 6 is"), ({"mnt:[2]": 5}, "has not ended"), ({}, "ended")],
)
def test_another_mount_may_have_the_number_by_now(
    daemon: int, monkeypatch: pytest.MonkeyPatch, before: dict[str, int], words: str
) -> None:
    monkeypatch.setattr(taking_down, "who_else_sees", lambda device: {"mnt:[1]": 6})
    with pytest.raises(NotNow, match=words):
        taking_down._wait(MOUNT, record(DEVICE, pid=os.getpid()), daemon, before, set())


SHUT_UP = """
import os, sys
os.chroot(sys.argv[1])
os.chdir("/")
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root may shut a program up in a folder")
def test_a_program_that_sees_no_mount(tmp_path: Path) -> None:
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    command = ["unshare", "--mount", sys.executable, "-c", SHUT_UP, str(tmp_path)]
    with subprocess.Popen(command, **pipes) as program:
        assert program.stdout is not None
        program.stdout.readline()
        assert list(mounts(str(program.pid))) == []
        assert who_else_sees(DEVICE) == {}
