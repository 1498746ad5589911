"""A program that reads from mounts and says what came of it.

Requests come as one line of JSON each on its standard input, and each is answered by one on its
standard output; with the path of a file of expectations and a seed as arguments it reads at random
instead, and tells of what isn't right at once and of what is now and then.

A request is {"do": "read" | "stat" | "list", "path", "content": [seed, size], "how": "plain" |
"mmap" | "direct", "pieces": [[start, size], ...]}; an answer has "began", "opened" and "ended" as
seconds of the monotonic clock, "longest_s" of one call, and at most one of "errno", "wrong" (an
offset in bytes), "short" (likewise), "names" and "size".
"""

from __future__ import annotations

import json
import mmap
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contents import Content, data

PIECE_BYTES = 1 << 20
TOLD_EVERY_S = 0.5
ALL_RIGHT, WRONG = 0, 255
"""How the process ends that reads a mapped file; an errno otherwise."""

Answer = dict[str, Any]


class Clock:
    """Takes the time of single calls: none may wait longer than its deadline."""

    def __init__(self) -> None:
        self.began = self.opened = time.monotonic()
        self.longest_s = 0.0

    @contextmanager
    def call(self) -> Iterator[None]:
        """Take the time of what is in the context."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.longest_s = max(self.longest_s, time.monotonic() - began)

    def answer(self, what: Answer) -> Answer:
        """Add the times to an answer."""
        times = {"began": self.began, "opened": self.opened, "ended": time.monotonic()}
        return {**what, **times, "longest_s": self.longest_s}


def perform(request: dict[str, Any]) -> Answer:
    """Do what a request says."""
    clock = Clock()
    try:
        return clock.answer(_DO[request["do"]](request, clock))
    except OSError as error:
        return clock.answer({"errno": error.errno})


def _stat(request: dict[str, Any], clock: Clock) -> Answer:
    with clock.call():
        return {"size": os.stat(request["path"]).st_size}


def _list(request: dict[str, Any], clock: Clock) -> Answer:
    with clock.call():
        return {"names": sorted(os.listdir(request["path"]))}


def _read(request: dict[str, Any], clock: Clock) -> Answer:
    expected = data(Content(*request["content"]))
    how = request["how"]
    flags = os.O_RDONLY | (os.O_DIRECT if how == "direct" else 0)
    with clock.call():
        fd = os.open(request["path"], flags)
    clock.opened = time.monotonic()
    try:
        if request.get("forget"):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if how == "mmap" and expected:
            return _compare_mapped(fd, expected, request["pieces"], clock)
        read = _read_direct if how == "direct" else os.pread
        for start, size in request["pieces"]:
            answer = _compare(fd, expected, start, size, read, clock)
            if answer:
                return answer
        return {}
    finally:
        os.close(fd)


def _compare(
    fd: int,
    expected: bytes,
    start: int,
    size: int,
    read: Callable[[int, int, int], bytes],
    clock: Clock,
) -> Answer:
    """Read one range; a call that gives less than was asked for before the end is gone on with.

    The kernel gives what it has before a page that fails, and the next call tells of the failure.
    """
    stop = min(start + size, len(expected))
    at = start
    while at < stop:
        with clock.call():
            got = read(fd, min(PIECE_BYTES, start + size - at), at)
        if not got:
            return {"short": at}
        if got != expected[at : at + len(got)]:
            return {"wrong": at + _first_difference(got, expected[at : at + len(got)])}
        at += len(got)
    return {}


def _first_difference(one: bytes, other: bytes) -> int:
    both = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in both if a != b), len(other))


def _read_direct(fd: int, size: int, start: int) -> bytes:
    # Its memory has to be aligned, and a map's is.
    with mmap.mmap(-1, max(size, 1)) as buffer:
        count = os.preadv(fd, [memoryview(buffer)[:size]], start)
        return buffer[:count]


def _compare_mapped(
    fd: int, expected: bytes, pieces: list[tuple[int, int]], clock: Clock
) -> Answer:
    """Read ranges of the mapped file, in a process of its own: a page that fails ends it."""
    child = os.fork()
    if child == 0:
        try:
            with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
                right = len(mapped) == len(expected) and all(
                    mapped[start : start + size] == expected[start : start + size]
                    for start, size in pieces
                )
            os._exit(ALL_RIGHT if right else WRONG)
        except OSError as error:
            os._exit(error.errno or WRONG)
        finally:
            os._exit(WRONG)
    with clock.call():
        _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGBUS:
        return {"errno": "SIGBUS"}
    if code == WRONG:
        return {"wrong": pieces[0][0]}
    return {"errno": code} if code else {}


_DO: dict[str, Callable[[dict[str, Any], Clock], Answer]] = {
    "stat": _stat,
    "list": _list,
    "read": _read,
}


def random_pieces(chance: random.Random, size: int) -> list[tuple[int, int]]:
    """Return ranges to read of a file: all of it, or a few anywhere; with some beyond its end."""
    if chance.random() < 0.4:
        return [(0, size + 1)]
    starts = [chance.randrange(size + 1) for _ in range(chance.randrange(1, 5))]
    return [(start, chance.choice([1, 4096, 70_000, 400_000])) for start in starts]


def random_read(chance: random.Random, folder: str, files: dict[str, Any]) -> dict[str, Any]:
    """Return a request for reading one of the files of a version, whose folder that is."""
    path = chance.choice(sorted(files))
    size = files[path][1]
    return {
        "do": "read",
        "path": f"{folder}/{path}",
        "content": files[path],
        "how": chance.choice(["plain", "plain", "plain", "mmap", "direct"]),
        "pieces": random_pieces(chance, size),
        "forget": chance.random() < 0.3,
    }


def read_at_random(expectations: Path, seed: int) -> None:
    """Read until the process is ended. Tell of what is right by number: {"right": 25}."""
    chance = random.Random(seed)
    right, told = 0, 0.0
    while True:
        expected = json.loads(expectations.read_text())
        version = chance.choice(sorted(expected["versions"]))
        mount = chance.randrange(len(expected["mounts"]))
        for _ in range(chance.randrange(1, 40)):
            request = random_read(
                chance, f"{expected['mounts'][mount]}/{version}", expected["versions"][version]
            )
            answer = perform(request)
            is_right = answer.keys().isdisjoint({"errno", "wrong", "short"})
            right += is_right
            if not is_right or answer["longest_s"] > expected["patience_s"]:
                _tell({"mount": mount, "request": request, "answer": answer})
            if time.monotonic() - told > TOLD_EVERY_S:
                _tell({"right": right})
                right, told = 0, time.monotonic()


def _tell(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


def main() -> None:
    """Answer requests, or read at random where arguments say what."""
    if len(sys.argv) > 1:
        read_at_random(Path(sys.argv[1]), int(sys.argv[2]))
    for line in sys.stdin:
        _tell(perform(json.loads(line)))


if __name__ == "__main__":
    main()
