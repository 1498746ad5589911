"""A cache whose disk loses its power at random moments; scripts/crash calls it.

The cache is on an ext4 filesystem whose image is a file of another filesystem. What the image
holds at one moment is what the disk would hold: the rest is in the kernel's memory only. Freezing
the outer filesystem gives the image as of one moment; a copy of it is then mounted as the machine
would mount its disk again, with another boot id. The journal is told not to care for data, so that
names, sizes and times reach the disk long before the bytes do, and the disk was full of other bytes
before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import processes
from contents import Content, data
from crash import FAULTS, LOADS, Site, log_versions
from mounts import WBFS, check, run
from stand_in import StandIn

IMAGE_BYTES = 256 << 20
OUTER_BYTES = 1 << 30
CARELESS = "data=writeback,nodelalloc,dioread_lock,noauto_da_alloc,commit=1"
LONGEST_LOAD_S = 5.0
CHECK_S = 300.0
BOOT_ID = "/proc/sys/kernel/random/boot_id"
AFTER = "after"
NOT_WHOLE = "is not known to be whole"


@contextmanager
def mounted(what: Path, where: Path, *options: str) -> Iterator[None]:
    """Have a filesystem mounted while the context lasts."""
    where.mkdir(exist_ok=True)
    check("mount", *options, what, where)
    try:
        yield
    finally:
        check("umount", "-l", where)


def make_image(image: Path, size: int) -> None:
    """Make an ext4 filesystem in a file."""
    with image.open("wb") as file:
        file.truncate(size)
    check("mkfs.ext4", "-q", "-F", image)


def fill_with_other_bytes(folder: Path) -> None:
    """Have what was never written be seen for what it is: not zeros."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\xa5" * (1 << 20))
    check("sync", "-f", folder)
    filler.unlink()
    check("sync", "-f", folder)


def copy_of_one_moment(image: Path, outer: Path, copy: Path) -> None:
    """Copy an image as it is at one moment."""
    check("fsfreeze", "--freeze", outer)
    try:
        check("cp", "--sparse=always", image, copy)
    finally:
        check("fsfreeze", "--unfreeze", outer)


class Power:
    """A site whose cache is on such a disk, and the cuts of its power."""

    def __init__(self, home: Path, server: StandIn, seed: int) -> None:
        self.home = home
        self.server = server
        self.chance = random.Random(seed)
        self.env = server.env(home / "home")
        self.versions = log_versions(server)
        self.figures: Counter[str] = Counter()

    def cut(self, times: int) -> list[str]:
        """Work, and cut the power so many times; return what wasn't right after any."""
        outer, disk = self.home / "outer", self.home / "disk"
        make_image(self.home / "outer.img", OUTER_BYTES)
        with mounted(self.home / "outer.img", outer, "-o", "loop"):
            make_image(outer / "disk.img", IMAGE_BYTES)
            with mounted(outer / "disk.img", disk, "-o", f"loop,{CARELESS}"):
                fill_with_other_bytes(disk)
                site = Site(
                    self.home,
                    disk / "cache",
                    env=self.env,
                    versions=self.versions,
                    chance=self.chance,
                )
                try:
                    for number in range(times):
                        problems = self._cut_once(site, number, outer)
                        if problems:
                            return problems
                finally:
                    site.close()
        return []

    def _cut_once(self, site: Site, number: int, outer: Path) -> list[str]:
        chance = self.chance
        kind = chance.choice(LOADS)
        if chance.random() < 0.6:
            site.mounted()
            to = chance.choice(["0MB", "20MB", "40MB"])
            run(*WBFS, "cache", "--cache-dir", site.cache_dir, "prune", "--to", to)
        copy = self.home / "cut.img"
        with self.server.faults(**chance.choice(FAULTS)), site.load(kind):
            time.sleep(LONGEST_LOAD_S * chance.random())
            copy_of_one_moment(outer / "disk.img", outer, copy)
        if chance.random() < 0.3:
            site.kill()
        self.figures[kind] += 1
        task = self.home / "after.json"
        task.write_text(
            json.dumps({"env": self.env, "versions": self.versions, "image": str(copy)})
        )
        done = run(
            *("unshare", "--mount", "--propagation", "private"),
            *(sys.executable, __file__, AFTER, task),
            timeout_s=CHECK_S,
        )
        if done.returncode:
            return [f"after cut {number}, during {kind}: {done.stdout}{done.stderr[-3000:]}"]
        self.figures.update(json.loads(done.stdout))
        return []


def look_after(task: Path) -> None:
    """Mount the disk that the power cut left as after a boot, and the cache; exit 1 if it is wrong.

    Prints what was found: how many cached files had not been written, for one. It has mounts of
    its own, which end with it.
    """
    told = json.loads(task.read_text())
    home = Path(tempfile.mkdtemp(prefix="wbfs-after-"))
    boot_id = home / "boot_id"
    boot_id.write_text("12345678-1234-4123-8123-123456789abc\n")
    check("mount", "--bind", boot_id, BOOT_ID)
    versions = {
        version: {path: Content(*content) for path, content in files.items()}
        for version, files in told["versions"].items()
    }
    with mounted(Path(told["image"]), home / "disk", "-o", "loop"):
        site = Site(
            home,
            home / "disk/cache",
            env=told["env"],
            versions=versions,
            chance=random.Random(1),
        )
        try:
            problems = [*site.wrong(), *wrong_for_the_sdk(site)]
            log = site.mounted().log()
            site.left_behind()
            problems += [f"left behind: {name}" for name in site.left_behind()]
        finally:
            site.close()
    if problems:
        sys.exit("\n".join([*problems[:20], f"the disk's image is {told['image']}"]))
    shutil.rmtree(home)
    print(json.dumps({"cuts": 1, "cached files not known to be whole": log.count(NOT_WHOLE)}))


def wrong_for_the_sdk(site: Site) -> list[str]:
    """Return what the SDK would take for right, since its size is, though it isn't."""
    contents = {content for files in site.versions.values() for content in files.values()}
    sizes = {hashlib.md5(data(content)).hexdigest(): content.size for content in contents}
    found = []
    for path in site.sdk_cache_dir.rglob("obj/md5/*/*"):
        name = path.parent.name + path.name
        is_trusted = path.stat().st_size == sizes.get(name)
        if is_trusted and hashlib.md5(path.read_bytes()).hexdigest() != name:
            found.append(f"the SDK's cache has other bytes as {name}")
    return found


def main() -> None:
    """Cut the power as many times as the command line says, or look at what a cut left."""
    processes.adopt_orphans()
    if sys.argv[1] == AFTER:
        look_after(Path(sys.argv[2]))
        return
    cuts, seed = int(sys.argv[1]), int(sys.argv[2])
    home = Path(tempfile.mkdtemp(prefix="wbfs-power-"))
    server = StandIn(home / "server")
    try:
        power = Power(home, server, seed)
        problems = power.cut(cuts)
    finally:
        server.stop()
    if problems:
        sys.exit("\n".join([*problems, f"seed {seed}; all of it is in {home}"]))
    shutil.rmtree(home)
    print(f"{cuts} power cuts: everything was right afterwards: {dict(power.figures)}")


if __name__ == "__main__":
    main()
