"""Programs may be called anything: no command fails for what else runs on the machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import processes
import pytest

from wbfs.cli.mounts import status_words
from wbfs.cli.uploads import sdk_program

PROGRAM = """
import sys
with open("/proc/self/comm", "wb") as file:
    file.write(b"caf\\xe9) Z 1 \\x1b\\n")
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def odd() -> Iterator[int]:
    """Return a process whose name is no text."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], **pipes) as program:
        assert program.stdout is not None
        program.stdout.readline()
        yield program.pid


def test_one_that_waits_for_a_mount(odd: int) -> None:
    assert status_words._who(odd).endswith(f" (process {odd})")


def test_one_beside_an_upload(odd: int) -> None:
    assert odd in sdk_program._children(os.getpid())
    assert sdk_program._bytes_read(os.getpid()) == 0


def test_one_of_a_test(odd: int) -> None:
    assert odd in [one.pid for one in processes.descendants()]
