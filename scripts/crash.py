"""Daemons that are killed at random moments; scripts/crash sets up what this needs and calls it."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import processes
from contents import Content, Files, files_of_version
from mounts import DEFECTS, WBFS, Mount, run, wait_until
from programs import Program
from stand_in import StandIn
from versions import ENTITY, PROJECT, Versions

VERSIONS = 3
CACHE_SIZE = "60MB"
READERS = 2
LONGEST_LOAD_S = 2.0
ENDS_WITHIN_S = 30.0
EXPECTED_IN_CACHE = re.compile(
    r"blobs/../[a-z0-9]+-[0-9a-f]+|manifests/[^/]+/[^/.]+\.sqlite(-wal|-shm)?"
    r"|used\.count|(catalog|uses)\.(lock|sqlite(-wal|-shm)?)|partial/[a-z0-9]+-[0-9a-f]+(\.map)?"
)
LOADS = ("readers", "readers", "prefetch", "prefetch a name", "get", "readers and prune")
FAULTS: tuple[Mapping[str, object], ...] = (
    {},
    {"port": "files", "bandwidth_bytes_per_s": 4_000_000},
    {"port": "files", "cut_after_bytes": 700_000},
    {"port": "files", "error_share": 0.2},
)


def log_versions(server: StandIn) -> dict[str, Files]:
    """Put a few versions on a server; return their files by the versions' names."""
    logger = Versions(server)
    contents = [files_of_version(number) for number in range(VERSIONS)]
    return {f"{ENTITY}/{PROJECT}/files/{logger.log('files', files)}": files for files in contents}


class Site:
    """A cache, beside it the SDK's, and a mount that comes and goes."""

    def __init__(
        self,
        home: Path,
        cache_dir: Path,
        *,
        env: Mapping[str, str],
        versions: Mapping[str, Files],
        chance: random.Random,
    ) -> None:
        """`env` leads to a server with the versions; what the mount needs is made in `home`."""
        self.home = home
        self.cache_dir = cache_dir
        self.env = {**env, "WANDB_CACHE_DIR": str(self.sdk_cache_dir)}
        self.versions = versions
        self.chance = chance
        self.mount: Mount | None = None
        self.killed: Mount | None = None

    @property
    def sdk_cache_dir(self) -> Path:
        """The SDK's cache, on the same disk."""
        return self.cache_dir.parent / "sdk-cache"

    def mounted(self) -> Mount:
        """Mount, if it isn't, and return the mount."""
        if self.mount is None:
            self.mount = Mount(
                path=self.home / "mount",
                env=self.env,
                cache_dir=self.cache_dir,
                log_file=self.home / "mount.log",
                options=["--cache-size", CACHE_SIZE, "--min-free", "0"],
            )
        return self.mount

    @contextmanager
    def load(self, kind: str) -> Iterator[None]:
        """Keep the mount and its cache busy while the context lasts."""
        mount = self.mounted()
        version = self.chance.choice(list(self.versions))
        *place, name = Path(version).parts
        source = f"{'/'.join(place)}:{name}"
        same_cache = ("--cache-dir", str(self.cache_dir), "--cache-size", CACHE_SIZE)
        commands: list[tuple[str | Path, ...]] = []
        programs = []
        match kind:
            case "prefetch":
                commands = [("prefetch", mount.path / version)]
            case "prefetch a name":
                commands = [("prefetch", *same_cache, "--min-free", "0", source)]
            case "get":
                root = ("--root", self.home / "got")
                commands = [("get", *same_cache, "--min-free", "0", *root, source)]
            case _:
                programs = [Program() for _ in range(READERS)]
                for program in programs:
                    program.send(self._requests(version))
                if "prune" in kind:
                    prune = ("cache", "--cache-dir", str(self.cache_dir), "prune", "--to")
                    commands = [(*prune, "5MB"), (*prune, "0MB")]
        running = [
            subprocess.Popen(
                [*WBFS, *map(str, command)],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            for command in commands
        ]
        try:
            yield
        finally:
            for process in running:
                # As often as not the command is killed, too.
                if self.chance.random() < 0.5:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)
            for program in programs:
                program.end()
            for process in running:
                process.wait(ENDS_WITHIN_S)

    def _requests(self, version: str) -> list[dict[str, object]]:
        """Return reads of a version's files in random order."""
        files = list(self.versions[version].items())
        self.chance.shuffle(files)
        return [self.request(version, path, content) for path, content in files]

    def request(self, version: str, path: str, content: Content) -> dict[str, object]:
        """Return the request for reading all of a file through the mount."""
        return {
            "do": "read",
            "path": str(self.mounted().path / version / path),
            "content": content,
            "how": "plain",
            "pieces": [(0, content.size + 1)],
        }

    def kill(self) -> None:
        """Kill the daemon; its processes end with it."""
        mount = self.mounted()
        children = children_of(mount.pid)
        mount.kill()
        self.mount, self.killed = None, mount
        wait_until(
            lambda: not any(map(processes.is_running, children)),
            timeout_s=ENDS_WITHIN_S,
            what="the killed daemon's processes end",
        )

    def wrong(self) -> list[str]:
        """Read everything through the mount; return what isn't right."""
        program = Program()
        found = []
        try:
            for version, files in self.versions.items():
                for path, content in files.items():
                    request = self.request(version, path, content)
                    answer = program.ask(request, within_s=120)
                    if not answer.keys().isdisjoint({"errno", "wrong", "short"}):
                        found.append(f"{version}/{path!r}: {answer}")
        finally:
            program.end()
        return found

    def left_behind(self) -> list[str]:
        """Return what is in the cache that nobody will use or tidy up, no mount being there."""
        mount = self.mounted()
        wait_until(lambda: is_idle(mount), timeout_s=ENDS_WITHIN_S, what="the mount is idle")
        mount.umount()
        self.mount = None
        found = []
        for path in self.cache_dir.rglob("*"):
            name = str(path.relative_to(self.cache_dir))
            if path.is_file() and not EXPECTED_IN_CACHE.fullmatch(name):
                found.append(name)
        return found

    def close(self) -> None:
        """Take everything down, also what a killed daemon left mounted."""
        mount = self.mount or self.killed
        if mount is not None:
            mount.take_down()


def is_idle(mount: Mount) -> bool:
    """Whether the mount is at no work."""
    status = mount.status()
    return not status["fetched"]["in_progress"] and not any(status["busy_threads"].values())


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started, and those that they have."""
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    return children + [grandchild for child in children for grandchild in children_of(child)]


def main() -> None:
    """Kill as many times as the command line says."""
    processes.adopt_orphans()
    kills, seed = int(sys.argv[1]), int(sys.argv[2])
    home = Path(tempfile.mkdtemp(prefix="wbfs-crash-"))
    server = StandIn(home / "server")
    site = Site(
        home,
        home / "cache",
        env=server.env(home / "home"),
        versions=log_versions(server),
        chance=random.Random(seed),
    )
    problems: list[str] = []
    loads: Counter[str] = Counter()
    try:
        for number in range(kills):
            chance = site.chance
            if chance.random() < 0.7:
                to = chance.choice(["0MB", "20MB", "40MB"])
                site.mounted()
                run(*WBFS, "cache", "--cache-dir", site.cache_dir, "prune", "--to", to)
            kind = chance.choice(LOADS)
            loads[kind] += 1
            with server.faults(**chance.choice(FAULTS)), site.load(kind):
                time.sleep(LONGEST_LOAD_S * chance.random() ** 2)
                site.kill()
            for problem in site.wrong():
                problems.append(f"after kill {number}, during {kind}: {problem}")
            if defect := DEFECTS.search(site.mounted().log()):
                problems.append(f"after kill {number}, during {kind}: {defect[0]}")
            if problems:
                break
            if number % 20 == 19:
                print(f"{number + 1} kills: {dict(loads)}", flush=True)
        # It tidies up when it is mounted next.
        problems += [f"left behind: {name}" for name in site.left_behind() and site.left_behind()]
    finally:
        site.close()
        server.stop()
    if problems:
        sys.exit("\n".join([*problems[:20], f"seed {seed}; logs are in {home}"]))
    shutil.rmtree(home)
    print(f"{kills} kills: everything was right afterwards, and nothing is left behind")


if __name__ == "__main__":
    main()
