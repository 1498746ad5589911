"""Spare processes: what they were is not to be found in them, and how many there are."""

from __future__ import annotations

import os
import sys

import pytest
from mounts import check

from wbfs.fetch.apart.carriers import (
    FETCHED_BYTES_PER_S,
    SERVED_BYTES_PER_S,
    carriers_for,
    spares_for,
)

SECRET = "0123456789" * 4
SHOW = """
import os
import time
from functools import partial
from pathlib import Path
from wbfs.fetch.apart.spares import NAME, Spares
from wbfs.fetch.apart.worker import Program, packed, unpacked

def environment(channel, *names):
    # What a process finds there.
    program = Program(name="tell", prepare=partial(partial, os.getenv), silent_s=40)
    channel.sendall(packed(program) + packed(list(enumerate(names))))
    channel.settimeout(40)
    received, answers = bytearray(), {}
    while len(answers) < len(names):
        received += channel.recv(4096)
        for message in unpacked(received):
            answers |= {said[0]: said[1] for said in message}
    return [answers[number] for number in range(len(names))]


def is_ready(process):
    return (process / "cmdline").read_text().strip(chr(0)) == NAME

os.environ["CHANGED"] = "by now"
with open("/dev/null") as mine, Spares(2) as spares:
    [children] = [Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    for process in (Path("/proc", pid) for pid in children):
        deadline = time.monotonic() + 40
        while not is_ready(process) and time.monotonic() < deadline:
            time.sleep(0.01)
        print(is_ready(process), (process / "environ").read_text().split(chr(0)))
        print(len(os.listdir(process / "fd")))
    spare = spares.take()
    print(environment(spare.channel, "CHANGED", "LAST", "WANDB_API_KEY"))
    spare.end()
print(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
"""


def test_spares_have_nothing_of_what_they_were() -> None:
    env = {**os.environ, "WANDB_API_KEY": SECRET, "LAST": "kept"}
    lines = check(sys.executable, "-c", SHOW, "x" * 40, env=env).splitlines()
    for shown, descriptors in (lines[0:2], lines[2:4]):
        assert shown.startswith("True ")
        assert "'LAST=kept'" in shown
        assert SECRET not in shown
        assert "WANDB" not in shown
        # The standard streams, where they lead nowhere, that to nowhere, and the way here.
        assert int(descriptors) <= 5
    assert lines[4:] == ["['by now', 'kept', None]", "[]"]


THREADS_BYTES_PER_S = 0.97e9
"""What threads of the mount's own process fetch and serve, two processors or more."""


def rate(processors: int, carriers: int) -> float:
    """Return the bytes a second that a reader gets through stages that share the processors."""
    if not carriers:
        return THREADS_BYTES_PER_S
    both_s = 1 / FETCHED_BYTES_PER_S + 1 / SERVED_BYTES_PER_S
    return min(carriers * FETCHED_BYTES_PER_S, SERVED_BYTES_PER_S, processors / both_s)


@pytest.mark.parametrize(("processors", "carriers"), [(1, 0), (2, 2), (4, 2), (16, 2), (64, 2)])
def test_as_many_fetch_large_files_as_are_of_use(processors: int, carriers: int) -> None:
    assert carriers_for(processors) == carriers
    assert spares_for(processors) == carriers + min(processors, 2)
    if processors > 1:
        best = max(rate(processors, count) for count in range(processors + 1))
        assert rate(processors, carriers) == best
        # One fewer would not do, where there are processors for it.
        assert processors == 2 or rate(processors, carriers - 1) < best
