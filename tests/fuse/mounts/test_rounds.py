"""Requests that are there already are taken in a row: not one a round of trio's loop."""

from __future__ import annotations

import sys
from pathlib import Path

from mounts import run

FILES = 8
PROGRAM = """
import errno
import stat
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pyfuse3
import trio

from wbfs.daemon.fuse.kernel import Kernel
from wbfs.daemon.fuse.serving import answer
from wbfs.fetch.work.background import in_background

path, signs, files = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])


class Rounds(trio.abc.Instrument):
    count = 0

    def before_io_wait(self, timeout):
        self.count += 1


class Files(pyfuse3.Operations):
    def __init__(self):
        super().__init__()
        self.rounds = Rounds()
        self.released = []
        self.has_all = trio.Event()

    async def getattr(self, inode, ctx=None):
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = stat.S_IFDIR | 0o755 if inode == 1 else stat.S_IFREG | 0o644
        entry.attr_timeout = entry.entry_timeout = 300
        return entry

    async def lookup(self, parent, name, ctx=None):
        if name == b"wait":
            # Nothing is answered until the program has closed what it had open.
            (signs / "waits").touch()
            deadline = time.monotonic() + 60
            while not (signs / "closed").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            self.released.clear()
        return await self.getattr(2 + sum(name))

    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(fh=1, keep_cache=True)

    async def flush(self, handle):
        raise pyfuse3.FUSEError(errno.ENOSYS)

    async def release(self, handle):
        self.released.append(self.rounds.count)
        if len(self.released) == files:
            self.has_all.set()

    async def refuse(self):
        pass


READER = '''
import os, sys, threading, time
path, signs, files = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.close(os.open(path + "/first", os.O_RDONLY))
opened = [os.open(f"{path}/{number}", os.O_RDONLY) for number in range(files)]
waiting = threading.Thread(target=os.stat, args=(path + "/wait",))
waiting.start()
while not os.path.exists(signs + "/waits"):
    time.sleep(0.01)
for fd in opened:
    os.close(fd)
open(signs + "/closed", "x").close()
waiting.join()
'''


async def main():
    operations = Files()
    trio.lowlevel.add_instrument(operations.rounds)
    told = trio.Event()
    async with in_background() as background:
        pyfuse3.init(operations, str(path), {"ro", "default_permissions"})
        answering = background.spawn(
            partial(answer, background, operations, Kernel(background), told), name="answer"
        )
        reader = subprocess.Popen([sys.executable, "-c", READER, *sys.argv[1:]])
        with trio.move_on_after(60):
            await operations.has_all.wait()
            print(len(operations.released), len(set(operations.released)))
        told.set()
        await answering.result()
    pyfuse3.close()
    print(reader.wait(60))


trio.run(main)
"""


def test_requests_that_are_there_are_taken_in_one_round(tmp_path: Path) -> None:
    path, signs = tmp_path / "mount", tmp_path / "signs"
    path.mkdir()
    signs.mkdir()
    done = run(sys.executable, "-c", PROGRAM, path, signs, str(FILES), timeout_s=150)
    assert done.returncode == 0, done.stderr
    released, rounds, reader = map(int, done.stdout.split())
    assert (released, reader) == (FILES, 0), done.stderr
    # Two where others had their turn in between.
    assert rounds <= 2
