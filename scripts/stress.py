"""The stress run itself; scripts/stress sets up what it needs and calls it."""

from __future__ import annotations

import collections
import errno
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from mounts import Mount, run
from stand_in import StandIn

SMALL, LARGE = 60, 3
READERS = 6
LONGEST_READ_S = 30.0
FAILED = {errno.EIO, errno.ETIMEDOUT}
NOT_THERE = {errno.ENOTCONN, errno.ECONNABORTED, errno.ENOENT}
"""Errors of a mount whose daemon was killed a moment ago; of any other they are defects."""
LOG = f"""
import random
import wandb
with wandb.init(project="stress") as run:
    artifact = wandb.Artifact("files", type="dataset")
    for number in range({SMALL + LARGE}):
        size = 20_000 if number < {SMALL} else 6_000_000
        with artifact.new_file(f"{{number}}.bin", mode="wb") as file:
            file.write(random.Random(number).randbytes(size))
    run.log_artifact(artifact).wait()
    print(run.entity)
"""
FAULTS: list[dict[str, object]] = [
    {},
    {},
    {"error_share": 0.3},
    {"cut_after_bytes": 10_000},
    {"cut_after_bytes": 2_000_000},
    {"delay_s": 0.3},
    {"stall": True},
    {"requests_per_s": 20},
    {"revoked_urls": True},
    {"bandwidth_bytes_per_s": 3_000_000},
]
WRONG_BYTES: dict[str, object] = {"wrong_bytes": True}
"""Only where every byte is checked before it is served: a large file's are not by default."""


def content(number: int) -> bytes:
    """Return what the file of that number holds."""
    return random.Random(number).randbytes(20_000 if number < SMALL else 6_000_000)


class Stress:
    """One run."""

    def __init__(self, home: Path, seconds: float, verify: str) -> None:
        self.home = home
        self.verify = verify
        self.faults = [*FAULTS, WRONG_BYTES] if verify == "always" else FAULTS
        self.deadline = time.monotonic() + seconds
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.defects: list[str] = []
        self.contents = [content(number) for number in range(SMALL + LARGE)]
        self.server = StandIn(home / "server")
        env = self.server.env(home / "logging")
        done = run(sys.executable, "-c", LOG, env=env, timeout_s=60)
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        self.version = Path(done.stdout.split()[-1], "stress", "files", "v0")
        self.mounts = [self.mount(number) for number in range(2)]
        self.kills = [0, 0]

    def mount(self, number: int) -> Mount:
        """Mount, with a cache that holds a part of the files only."""
        return Mount(
            path=self.home / f"mount{number}",
            env=self.server.env(self.home / f"home{number}"),
            cache_dir=self.home / "cache",
            log_file=self.home / f"mount{number}.log",
            options=[
                *("--cache-size", "8MB", "--timeout", "4", "--alias-ttl", "1"),
                *("--verify", self.verify),
            ],
        )

    def running(self) -> bool:
        """Whether there is time left and nothing was found yet."""
        return time.monotonic() < self.deadline and not self.defects

    def read(self, seed: int) -> None:
        """Read files at random, whole or in parts."""
        chance = random.Random(seed)
        while self.running():
            number = chance.randrange(SMALL + LARGE)
            mount = chance.randrange(2)
            kills = self.kills[mount]
            path = self.home / f"mount{mount}" / self.version / f"{number}.bin"
            expected = self.contents[number]
            began = time.monotonic()
            try:
                with path.open("rb", buffering=0) as file:
                    start = chance.choice([0, chance.randrange(len(expected))])
                    size = chance.choice([4096, len(expected)])
                    file.seek(start)
                    # The kernel gives what it has before a page that fails: the next read says so.
                    got = b""
                    while piece := file.read(size - len(got)):
                        got += piece
                if got and chance.random() < 0.5:
                    fd = os.open(path, os.O_RDONLY)
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    os.close(fd)
            except OSError as error:
                self.outcomes[errno.errorcode[error.errno or 0]] += 1
                # An odd number of kills and mounts: it is down.
                was_down = kills % 2 == 1 or self.kills[mount] != kills
                if error.errno not in (FAILED | NOT_THERE if was_down else FAILED):
                    self.defects.append(f"{path}: {error}")
            else:
                self.outcomes["right"] += 1
                if got != expected[start : start + size]:
                    self.defects.append(f"{path}: wrong bytes at {start}, {len(got)} of {size}")
            if time.monotonic() - began > LONGEST_READ_S:
                self.defects.append(f"{path}: waited {time.monotonic() - began:.0f} s")

    def disturb(self) -> None:
        """Change the faults every second; now and then kill a daemon and mount again."""
        chance = random.Random("disturb")
        while self.running():
            fault = chance.choice(self.faults)
            port = chance.choice(["files", "files", "api"])
            with self.server.faults(port=port, **fault):
                time.sleep(1)
            if chance.random() < 0.1:
                number = chance.randrange(2)
                self.kills[number] += 1
                self.mounts[number].kill()
                self.outcomes["killed"] += 1
                self.mounts[number] = self.mount(number)
                self.kills[number] += 1

    def go(self) -> None:
        """Run it all, and say what happened."""
        work: list[Callable[[], None]] = [
            lambda seed=seed: self.read(seed) for seed in range(READERS)
        ]  # type: ignore[misc]
        threads = [threading.Thread(target=one, daemon=True) for one in (*work, self.disturb)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0, self.deadline - time.monotonic()) + 4 * LONGEST_READ_S)
            if thread.is_alive():
                self.defects.append("a thread hangs")
        for mount in self.mounts:
            if "Traceback" in mount.log():
                self.defects.append(f"a defect is in {mount.log_file}")

    def end(self) -> None:
        """Take everything down."""
        for mount in self.mounts:
            mount.take_down()
        self.server.stop()


def main() -> None:
    """Run for as long as the command line says, half of it with every byte checked beforehand."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    for verify in ("complete", "always"):
        home = Path(tempfile.mkdtemp(prefix="wbfs-stress-"))
        stress = Stress(home, seconds / 2, verify)
        try:
            stress.go()
        finally:
            stress.end()
        print(f"--verify={verify}: {dict(stress.outcomes)}")
        if stress.defects:
            sys.exit("\n".join([*stress.defects[:20], f"logs are in {home}"]))
        if not stress.outcomes["right"]:
            sys.exit("nothing was read: the run shows nothing")
        shutil.rmtree(home)
    print("every byte was right")


if __name__ == "__main__":
    try:
        main()
    except subprocess.TimeoutExpired as error:
        sys.exit(f"stress: {error}")
