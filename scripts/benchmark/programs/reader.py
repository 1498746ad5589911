"""Reads files as a program would and prints, as JSON, what it took; a process of its own.

It must not be the process that starts or serves a mount: a page fault in a mapped file of a mount
that the same process serves never ends. The only argument is a JSON object: `how` names one of the
functions below, the rest are its arguments. It uses nothing but Python's own library.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import resource
import sys
import time
from collections.abc import Callable

PIECE_BYTES = 1 << 20
SMALL_READ_BYTES = 4096


def sequential(*, path: str) -> dict[str, float]:
    """Read a file from end to end in pieces of 1 MiB; its opening counts."""
    began = time.perf_counter()
    piece = bytearray(PIECE_BYTES)
    total = 0
    with open(path, "rb", buffering=0) as file:
        opened = time.perf_counter()
        while count := file.readinto(piece):
            total += count
    ended = time.perf_counter()
    return {"seconds": ended - began, "bytes": total, "open_s": opened - began}


def listing(*, path: str) -> dict[str, float]:
    """List a folder's names."""
    began = time.perf_counter()
    count = len(os.listdir(path))
    return {"seconds": time.perf_counter() - began, "count": count}


def first(*, path: str) -> dict[str, float]:
    """Open a file and read its first 4 KiB."""
    began = time.perf_counter()
    fd = os.open(path, os.O_RDONLY)
    opened = time.perf_counter()
    total = len(os.pread(fd, SMALL_READ_BYTES, 0))
    ended = time.perf_counter()
    os.close(fd)
    return {"seconds": ended - began, "bytes": total, "open_s": opened - began}


def scattered(*, path: str, count: int, seed: int) -> dict[str, float]:
    """Read `count` times 4 KiB, aligned so, anywhere in a file."""
    fd = os.open(path, os.O_RDONLY)
    chance = random.Random(seed)
    places = [chance.randrange(os.fstat(fd).st_size // SMALL_READ_BYTES) for _ in range(count)]
    began = time.perf_counter()
    slowest_s = 0.0
    total = 0
    before = began
    for place in places:
        total += len(os.pread(fd, SMALL_READ_BYTES, place * SMALL_READ_BYTES))
        now = time.perf_counter()
        slowest_s = max(slowest_s, now - before)
        before = now
    os.close(fd)
    return {"seconds": before - began, "bytes": total, "count": count, "slowest_s": slowest_s}


def tensors(*, path: str, share: float, seed: int) -> dict[str, float]:
    """Map a safetensors file and copy out a share of its tensors, in an order by chance."""
    began = time.perf_counter()
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    start = 8 + int.from_bytes(mapped[:8], "little")
    header = json.loads(mapped[8:start])
    extents = [row["data_offsets"] for name, row in header.items() if name != "__metadata__"]
    chosen = random.Random(seed).sample(extents, max(1, round(len(extents) * share)))
    total = 0
    for first_byte, stop in chosen:
        total += len(mapped[start + first_byte : start + stop])
    ended = time.perf_counter()
    mapped.close()
    return {"seconds": ended - began, "bytes": total, "count": len(chosen)}


def named(path: str, names: str) -> list[str]:
    """Return paths below a folder, from a file with one a line."""
    with open(names) as file:
        return [os.path.join(path, line) for line in file.read().splitlines()]


def whole(path: str) -> int:
    """Open a file, read it to its end and close it; return its size."""
    total = 0
    fd = os.open(path, os.O_RDONLY)
    while piece := os.read(fd, PIECE_BYTES):
        total += len(piece)
    os.close(fd)
    return total


def folder(*, path: str, seed: int | None) -> dict[str, float]:
    """Read all files below a folder whole, in order or, with a seed, shuffled; listing counts."""
    began = time.perf_counter()
    paths = [os.path.join(where, name) for where, _, names in os.walk(path) for name in names]
    paths.sort()
    if seed is not None:
        random.Random(seed).shuffle(paths)
    listed = time.perf_counter()
    total = 0
    for one in paths:
        total += whole(one)
    ended = time.perf_counter()
    return {
        "seconds": ended - began,
        "bytes": total,
        "count": len(paths),
        "list_s": listed - began,
    }


def stats(*, path: str, names: str) -> dict[str, float]:
    """Stat files below a folder that a file names, one a line."""
    paths = named(path, names)
    began = time.perf_counter()
    for one in paths:
        os.stat(one)
    return {"seconds": time.perf_counter() - began, "count": len(paths)}


def opens(*, path: str, names: str) -> dict[str, float]:
    """Open, read and close files below a folder that a file names, one a line."""
    paths = named(path, names)
    began = time.perf_counter()
    size = sum(map(whole, paths))
    return {"seconds": time.perf_counter() - began, "bytes": size, "count": len(paths)}


def held(*, path: str, names: str, count: int) -> dict[str, float]:
    """Open all files that a file names and keep them open; read some of them again besides."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    paths = named(path, names)
    began = time.perf_counter()
    fds = [os.open(one, os.O_RDONLY) for one in paths]
    total = sum(len(os.pread(fd, SMALL_READ_BYTES, 0)) for fd in fds)
    opened = time.perf_counter()
    total += sum(map(whole, paths[:count]))
    ended = time.perf_counter()
    for fd in fds:
        os.close(fd)
    return {"seconds": opened - began, "bytes": total, "meanwhile_s": ended - opened}


HOW: dict[str, Callable[..., dict[str, float]]] = {
    one.__name__: one
    for one in (sequential, listing, first, scattered, tensors, folder, stats, opens, held)
}


def main() -> None:
    """Do what the argument says."""
    arguments = json.loads(sys.argv[1])
    print(json.dumps(HOW[arguments.pop("how")](**arguments)))


if __name__ == "__main__":
    main()
