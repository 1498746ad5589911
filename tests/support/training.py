"""A stand-in for training: a program in a container that reads the same again and again."""

from __future__ import annotations

from mounts import wait_until
from podman import Container

READ = """
import os, sys, time

def read(what):
    try:
        return what()
    except OSError as error:
        return error.strerror

paths = sys.argv[1:]
held = open(paths[0], "rb")

def read_held():
    # The kernel may have its bytes still, but nothing that only a daemon answers.
    os.getxattr(held.fileno(), "user.wandb.name")
    return os.pread(held.fileno(), 100, 0).decode()

while True:
    said = [read(lambda: open(path).read()) for path in paths]
    print(" | ".join([*said, read(read_held)]))
    time.sleep(0.05)
"""
"""Prints a line a round: what each file says by its path, and the first one, which stays open."""


def wait_for(training: Container, *wanted: str) -> None:
    """Return once it reads this in a round."""
    last = ""

    def is_wanted() -> bool:
        nonlocal last
        last = (training.log().splitlines() or [""])[-1]
        return last == " | ".join(wanted)

    try:
        wait_until(is_wanted, what=f"it reads {wanted}")
    except AssertionError as error:
        raise AssertionError(f"{error}, but {last!r}") from None
