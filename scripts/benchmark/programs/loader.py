"""Reads a folder of small files as training does; a process of its own, like `programs/reader.py`.

`epochs` has the access pattern of PyTorch's DataLoader with `shuffle=True`: the files are listed
first; each epoch starts its worker processes anew, deals batches of indices to them in turn, two of
them ahead for each, and takes what they read in the batches' order. It needs no PyTorch.
"""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait

BATCH_FILES = 64
BATCHES_AHEAD = 2
"""Of each worker: torch's prefetch_factor."""

Figures = dict[str, float]


def shares(*, path: str, processes: int, seed: int | None) -> Figures:
    """Read each file once, by several processes at once, in order or, with a seed, shuffled."""
    began = time.perf_counter()
    paths = files_of(path)
    listed = time.perf_counter()
    order = range(len(paths)) if seed is None else shuffled(len(paths), seed)
    chosen = [paths[index] for index in order]
    total = in_processes([chosen[number::processes] for number in range(processes)])
    ended = time.perf_counter()
    return {
        "seconds": ended - began,
        "bytes": total,
        "count": len(paths),
        "list_s": listed - began,
        "listed": len(paths),
    }


def crowd(*, path: str, processes: int, count: int) -> Figures:
    """Read the same first files by several processes at once, each of them all."""
    chosen = files_of(path)[:count]
    began = time.perf_counter()
    total = in_processes([chosen] * processes)
    return {"seconds": time.perf_counter() - began, "bytes": total}


def in_processes(shares: Sequence[Sequence[str]]) -> int:
    """Read each share by a process of its own, all at once; return how many bytes they are."""
    readers = []
    for share in shares:
        ours, theirs = mp.Pipe()
        process = mp.Process(target=read_share, args=(theirs, share))
        process.start()
        theirs.close()
        readers.append((process, ours))
    total = 0
    for process, pipe in readers:
        total += pipe.recv()
        process.join()
    return total


def epochs(*, path: str, workers: int, epochs: int, seed: int, batches: int | None) -> Figures:
    """Read all files in each epoch, in batches that worker processes read.

    The time to the first batch and that of the first epoch count from the program's start on, with
    the listing. batches: how many an epoch has, as many as there are if it is None.
    """
    began = time.perf_counter()
    paths = files_of(path)
    figures: Figures = {"list_s": time.perf_counter() - began, "listed": len(paths)}
    total = count = 0
    for number in range(1, epochs + 1):
        order = shuffled(len(paths), seed + number)
        starts = range(0, len(order), BATCH_FILES)[:batches]
        dealt = [order[at : at + BATCH_FILES] for at in starts]
        started = began if number == 1 else time.perf_counter()
        for size in received(paths, dealt, workers):
            figures.setdefault("first_batch_s", time.perf_counter() - began)
            total += size
        figures[f"epoch_{number}_s"] = time.perf_counter() - started
        count += sum(map(len, dealt))
    return figures | {"seconds": time.perf_counter() - began, "count": count, "bytes": total}


def received(paths: Sequence[str], batches: Sequence[Sequence[int]], workers: int) -> Iterator[int]:
    """Yield what is read of each batch, in bytes and in order, by workers of their own."""
    pipes: list[Connection] = []
    processes = []
    for _ in range(workers):
        ours, theirs = mp.Pipe()
        inherited = [*pipes, ours]
        process = mp.Process(target=work, args=(theirs, inherited, paths), daemon=True)
        process.start()
        theirs.close()
        pipes.append(ours)
        processes.append(process)
    waiting = iter(enumerate(batches))
    arrived: dict[int, int] = {}

    def deal() -> None:
        found = next(waiting, None)
        if found is not None:
            pipes[found[0] % workers].send(found)

    for _ in range(workers * BATCHES_AHEAD):
        deal()
    for number in range(len(batches)):
        while number not in arrived:
            for pipe in wait(pipes):
                assert isinstance(pipe, Connection)
                finished, count = pipe.recv()
                arrived[finished] = count
        deal()
        yield arrived.pop(number)
    for pipe, process in zip(pipes, processes, strict=True):
        pipe.send(None)
        process.join()


def work(pipe: Connection, inherited: Sequence[Connection], paths: Sequence[str]) -> None:
    """Read the batches that come, until there are no more."""
    # With these open it would not notice that the parent is gone.
    for one in inherited:
        one.close()
    while (dealt := pipe.recv()) is not None:
        number, indices = dealt
        pipe.send((number, sum(read(paths[index]) for index in indices)))


def read_share(pipe: Connection, paths: Sequence[str]) -> None:
    """Read files one after another."""
    pipe.send(sum(map(read, paths)))


def read(path: str) -> int:
    """Read a file as a data set does; return its size."""
    with open(path, "rb") as file:
        return len(file.read())


def files_of(path: str) -> list[str]:
    """List the files of a folder's folders, sorted."""
    with os.scandir(path) as found:
        folders = sorted(entry.path for entry in found)
    files = []
    for folder in folders:
        with os.scandir(folder) as found:
            files += sorted(entry.path for entry in found if entry.is_file())
    return files


def shuffled(count: int, seed: int) -> list[int]:
    """Return the numbers below `count` in an order by chance."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


HOW: dict[str, Callable[..., Figures]] = {one.__name__: one for one in (shares, crowd, epochs)}


def main() -> None:
    """Do what the argument says."""
    # What torch does on Linux, too.
    mp.set_start_method("fork")
    arguments = json.loads(sys.argv[1])
    print(json.dumps(HOW[arguments.pop("how")](**arguments)))


if __name__ == "__main__":
    main()
