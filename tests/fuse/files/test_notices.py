"""A notice to the kernel that waits for a page, when the mount ends: nothing waits for ever."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mounts import run

PROGRAM = """
import errno
import stat
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pyfuse3
import trio

from wbfs.daemon.fuse.kernel import Kernel
from wbfs.daemon.fuse.serving import answer
from wbfs.fetch.work.background import in_background


class OneFile(pyfuse3.Operations):
    # Its reads wait, until the mount ends.
    def __init__(self):
        super().__init__()
        self.reading = trio.Event()
        self.refuses = False

    async def getattr(self, inode, ctx=None):
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = stat.S_IFDIR | 0o755 if inode == 1 else stat.S_IFREG | 0o644
        entry.st_size = 1 << 20
        entry.attr_timeout = entry.entry_timeout = 300
        return entry

    async def lookup(self, parent, name, ctx=None):
        return await self.getattr(2)

    async def open(self, inode, flags, ctx):
        return pyfuse3.FileInfo(fh=1, keep_cache=True)

    async def read(self, handle, offset, size):
        try:
            if not self.refuses:
                self.reading.set()
                await trio.sleep_forever()
        except trio.Cancelled:
            pass
        raise pyfuse3.FUSEError(errno.ENOTCONN)

    async def refuse(self):
        self.refuses = True


def waits_for_a_page():
    # No other wait of a thread of ours is uninterruptible.
    for stat in Path("/proc/self/task").glob("*/stat"):
        # A thread may end meanwhile.
        with suppress(FileNotFoundError, ProcessLookupError):
            if ") D " in stat.read_text():
                return True
    return False


async def main(path):
    operations = OneFile()
    told = trio.Event()
    async with in_background() as background:
        kernel = Kernel(background)
        pyfuse3.init(operations, path, {"ro", "default_permissions"})
        answering = background.spawn(
            partial(answer, background, operations, kernel, told), name="answer"
        )
        reader = subprocess.Popen(["cat", path + "/file"], stderr=subprocess.DEVNULL)
        with trio.move_on_after(50):
            await operations.reading.wait()
            kernel.drop_pages(frozenset({2}))
            while not waits_for_a_page():
                await trio.sleep(0.01)
            print("waits")
        told.set()
        with trio.move_on_after(50):
            await answering.result()
            print("ended")
    pyfuse3.close()
    print(reader.wait(50))


trio.run(main, sys.argv[1])
"""


def test_a_notice_that_waits_for_a_page(tmp_path: Path) -> None:
    path = tmp_path / "mount"
    path.mkdir()
    done = run(sys.executable, "-c", PROGRAM, path, timeout_s=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["waits", "ended", "1"], done.stderr
    assert os.listdir(path) == []
