"""Real mounts of one small cache, a server that fails, and what must be true of them.

Everything that happens goes through here, is written into the judge's schedule, and is judged. The
model is plain: files by version and path, each known by what its bytes are made from.
"""

from __future__ import annotations

import contextlib
import errno
import json
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import prepared
from contents import Content, Files, data, files_of_version
from faults import FAULTS
from judge import SLACK_S, Judge, Window
from mounts import DEFECTS, WBFS, Mount, check, run
from programs import Hangs, Program
from reader import random_pieces
from stand_in import StandIn
from versions import ENTITY, PROJECT, Versions

COLLECTION = "files"
CACHE_SIZE = "50MB"
DISK_SIZE = "120m"
TIMEOUT_S = 10.0
ALIAS_TTL_S = 1.0
EXIT_CODES = (0, 1, 2, 77)
"""All but those of a mount: done, may go better, wrong use, not there or not allowed."""
COMMAND_S = 120.0
HANGS_AFTER_S = 150.0
LATELY = 10_000
"""So many of the last bytes of a log are about what happened just now."""
CHECKED_VERSIONS = 2
"""How many of the last versions are read in whole at the end."""
SDK_LOG = """
import sys, wandb
from pathlib import Path
with wandb.init(project=sys.argv[1]) as run:
    artifact = wandb.Artifact("logged-by-the-sdk", type="dataset")
    artifact.add_dir(sys.argv[2])
    run.log_artifact(artifact).wait()
    print(artifact.version)
"""
SDK_DOWNLOAD = """
import sys, wandb
wandb.Api().artifact(sys.argv[1]).download(sys.argv[2])
"""


class World:
    """One server, one cache on a small disk, mounts of it, and programs that read."""

    def __init__(
        self, home: Path, *, mounts: int = 2, readers: int = 0, verify_always: bool = False
    ) -> None:
        """Start all of it below `home`, an empty folder; `readers` read beside what is done."""
        self.home = home
        self.judge = Judge(
            timeout_s=TIMEOUT_S, alias_ttl_s=ALIAS_TTL_S, verify_always=verify_always
        )
        self.versions: dict[str, Files] = {}
        self.aliases: dict[str, list[tuple[float, str | None]]] = {}
        """From when which alias stood for which version, None for none."""
        self.mounts: list[Mount] = []
        self._fault: Window | None = None
        self._lied = False
        self._disk = home / "disk"
        self._disk.mkdir()
        self._cleanup = contextlib.ExitStack()
        self._programs: list[Program] = []
        self._hand = Program()
        try:
            check("mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE}", "none", self._disk)
            self._cleanup.callback(check, "umount", "-l", self._disk)
            self.server = StandIn(home / "server")
            self._cleanup.callback(self.server.stop)
            self._env = self.server.env(home / "home")
            self._logger = Versions(self.server)
            self.log_version()
            for number in range(mounts):
                self.mounts.append(self._mount(number))
            self._programs = [Program(self._expectations, str(number)) for number in range(readers)]
        except BaseException:
            self.close()
            raise

    # What is on the server.

    def log_version(self) -> None:
        """Log a version more."""
        files = files_of_version(len(self.versions))
        name = self._logger.log(COLLECTION, files)
        self.judge.note(f"log {COLLECTION} {name}")
        self._note_version(f"{ENTITY}/{PROJECT}/{COLLECTION}/{name}", files)
        self._note_alias("latest", name)

    def log_with_the_sdk(self) -> None:
        """Log a version of small files by the real SDK."""
        files = {
            path: content
            for path, content in files_of_version(1000 + len(self.versions)).items()
            if content.size <= 20_000
        }
        folder = self.home / f"logged-{len(self.versions)}"
        for path, content in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data(content))
        version = self.server.run_sdk(SDK_LOG, self.home / "sdk", PROJECT, folder)
        self.judge.note(f"log {version} with the SDK")
        self._note_version(f"{ENTITY}/{PROJECT}/logged-by-the-sdk/{version}", files)

    def _note_version(self, name: str, files: Files) -> None:
        self.versions[name] = files
        # Readers look at it while it is replaced.
        written = self.home / "expectations.new"
        written.write_text(
            json.dumps(
                {
                    "mounts": [str(self._mountpoint(number)) for number in range(2)],
                    "versions": self.versions,
                    "patience_s": self.judge.patience_s,
                }
            )
        )
        written.rename(self._expectations)

    @property
    def _expectations(self) -> Path:
        return self.home / "expectations.json"

    def _note_alias(self, alias: str, version: str | None) -> None:
        self.aliases.setdefault(alias, []).append((time.monotonic(), version))

    def _alias_has(self, alias: str) -> str | None:
        return self.aliases.get(alias, [(0.0, None)])[-1][1]

    def move_alias(self, alias: str, chance: random.Random) -> None:
        """Give an alias to a version, or from one to another."""
        version = chance.choice(self._own_versions())
        self._logger.set_alias(COLLECTION, alias, version)
        self.judge.note(f"alias {alias} is {version}")
        self._note_alias(alias, version)

    def delete_alias(self, alias: str) -> None:
        """Delete an alias, if there is such."""
        version = self._alias_has(alias)
        if version is not None:
            self._logger.delete_alias(COLLECTION, alias, version)
            self.judge.note(f"alias {alias} of {version} is deleted")
            self._note_alias(alias, None)

    def _own_versions(self) -> list[str]:
        return [Path(name).name for name in self.versions if Path(name).parts[2] == COLLECTION]

    # What is wrong with the world.

    @property
    def is_calm(self) -> bool:
        """Whether no fault is on."""
        return self._fault is None

    def fault(self, name: str) -> None:
        """Have a fault be on, in place of the one before."""
        self.calm()
        fault = FAULTS[name]
        self.judge.note(f"fault on: {name}")
        self._fault = self.judge.begin(name, fault)
        self._lied |= fault.lies
        self.server._call("PUT", "faults", dict(fault.settings)).raise_for_status()

    def calm(self) -> None:
        """End the fault that is on."""
        if self._fault is not None:
            self.server._call("DELETE", "faults").raise_for_status()
            self._fault.until = time.monotonic()
            self.judge.note(f"fault off: {self._fault.what}")
            self._fault = None

    @property
    def _filler(self) -> Path:
        return self._disk / "filler"

    def fill_disk(self) -> None:
        """Leave nothing free on the cache's disk."""
        self.judge.note("fill the disk")
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(1 << 16))

    def free_disk(self) -> None:
        """Undo that."""
        self.judge.note("free the disk")
        self._filler.unlink(missing_ok=True)

    def remove_cache(self, part: str) -> None:
        """Remove the cache's folder, or a part of it, under the mounts."""
        self.judge.note(f"rm -rf cache/{part}")
        # A daemon may make a file in it meanwhile: it is not emptied then.
        run("rm", "-rf", self.cache_dir / part)

    @property
    def cache_dir(self) -> Path:
        """The cache that all mounts share."""
        return self._disk / "cache"

    # Mounts.

    def _mountpoint(self, number: int) -> Path:
        return self.home / f"mount{number}"

    def _mount(self, number: int) -> Mount:
        return Mount(
            path=self._mountpoint(number),
            env=self._env,
            cache_dir=self.cache_dir,
            log_file=self.home / f"mount{number}.log",
            options=[
                *("--cache-size", CACHE_SIZE, "--min-free", "0"),
                *("--timeout", f"{TIMEOUT_S:g}", "--alias-ttl", f"{ALIAS_TTL_S:g}"),
                *(["--verify=always"] if self.judge.verify_always else []),
            ],
        )

    @contextmanager
    def _without_mount(self, number: int, what: str) -> Iterator[None]:
        """Mount again when the context ends."""
        self.judge.note(f"mount {number}: {what}")
        window = self.judge.begin_without_mount(what, number)
        yield
        began = time.monotonic()
        try:
            self.mounts[number] = self._mount(number)
        except AssertionError as error:
            if not self.judge.is_disturbed(began, time.monotonic()) or self.is_calm:
                raise self.judge.broken(f"can't mount: {error}") from error
            # A new mount has to reach the server once.
            self.calm()
            self.mounts[number] = self._mount(number)
        window.until = time.monotonic()
        self.judge.note(f"mount {number}: it is there again")

    def kill(self, number: int) -> None:
        """Kill a daemon, and mount again where its mount is still in the way."""
        self._look_at(number)
        with self._without_mount(number, "kill -9"):
            self.mounts[number].kill()
        self.judge.figures["kills"] += 1

    def remount(self, number: int) -> None:
        """Take a mount down though programs may use it, and mount again."""
        self._look_at(number)
        mount = self.mounts[number]
        with self._without_mount(number, "umount"):
            run(*WBFS, "umount", "--lazy", mount.path)
            # It goes on for those that have files open.
            self._wait_for(lambda: not mount.is_alive(), f"the daemon of mount {number} ends")
        self.judge.figures["remounts"] += 1

    # What programs do.

    def _ask(self, request: dict[str, Any], mount: int) -> dict[str, Any]:
        try:
            return self._hand.ask(request, within_s=HANGS_AFTER_S)
        except Hangs as error:
            raise self.judge.broken(str(error)) from error

    def use(self, aliases: Sequence[str], chance: random.Random) -> None:
        """Do a few of the things that programs do."""
        for _ in range(chance.randrange(1, 8)):
            mount = chance.randrange(len(self.mounts))
            match chance.randrange(12):
                case 0:
                    self.read_in_order(mount, chance)
                case 1:
                    self.read_alias(mount, chance.choice(aliases))
                case 2:
                    self.stat(mount, chance)
                case 3:
                    self.list_version(mount, chance)
                case 4:
                    self.list_collection(mount)
                case _:
                    self.read(mount, chance)

    def _judge(self, request: dict[str, Any], answer: dict[str, Any], mount: int) -> None:
        self.judge.judge(request, answer, mount, lambda: self.mounts[mount].log()[-LATELY:])

    def read(self, mount: int, chance: random.Random) -> None:
        """Read a file of a version through a mount: all of it, or ranges."""
        version = chance.choice(list(self.versions))
        path, content = chance.choice(list(self.versions[version].items()))
        how = chance.choice(["plain", "mmap", "direct"])
        pieces = random_pieces(chance, content.size)
        self.judge.note_read(f"mount {mount}: read {how} {version}/{path!r} {pieces}")
        self._read(mount, f"{version}/{path}", content, how, pieces)

    def _read(
        self,
        mount: int,
        path: str,
        content: Content,
        how: str = "plain",
        pieces: list[tuple[int, int]] | None = None,
    ) -> None:
        request = {
            "do": "read",
            "path": str(self._mountpoint(mount) / path),
            "content": content,
            "how": how,
            "pieces": pieces or [(0, content.size + 1)],
        }
        self._judge(request, self._ask(request, mount), mount)

    def read_in_order(self, mount: int, chance: random.Random) -> None:
        """Read the small files of a version one after another, as a data loader does."""
        version = chance.choice(list(self.versions))
        self.judge.note_read(f"mount {mount}: read {version} in order")
        for path, content in sorted(self.versions[version].items()):
            if content.size <= 20_000:
                self._read(mount, f"{version}/{path}", content)

    def stat(self, mount: int, chance: random.Random) -> None:
        """Ask for a file's size."""
        version = chance.choice(list(self.versions))
        path, content = chance.choice(list(self.versions[version].items()))
        request = {"do": "stat", "path": str(self._mountpoint(mount) / version / path)}
        self.judge.note_read(f"mount {mount}: stat {version}/{path!r}")
        answer = self._ask(request, mount)
        self._judge(request, answer, mount)
        if answer.get("size", content.size) != content.size:
            raise self.judge.broken(f"{request['path']!r} has {answer['size']} bytes")

    def list_version(self, mount: int, chance: random.Random) -> None:
        """List a folder of a version: exactly its files and folders."""
        version = chance.choice(list(self.versions))
        names = {Path(path).parts[0] for path in self.versions[version]}
        listed = self._list(mount, version)
        if listed is not None and listed != names:
            raise self.judge.broken(f"{version} lists {listed ^ names} wrongly")

    def list_collection(self, mount: int) -> None:
        """List the versions and aliases: all that are old, and none that never was."""
        before = self.judge.old_names_until(time.monotonic())
        listed = self._list(mount, f"{ENTITY}/{PROJECT}/{COLLECTION}")
        if listed is None:
            return
        versions = set(self._own_versions())
        missing = {
            name
            for name, since in self._versions_since().items()
            if since < before and name not in listed
        }
        unknown = {name for name in listed - versions if self._may_be(name, before) <= {None}}
        if missing or unknown:
            raise self.judge.broken(f"the versions' listing lacks {missing} and invents {unknown}")

    def _versions_since(self) -> dict[str, float]:
        return {version: since for since, version in self.aliases["latest"] if version}

    def _list(self, mount: int, path: str) -> set[str] | None:
        request = {"do": "list", "path": str(self._mountpoint(mount) / path)}
        self.judge.note_read(f"mount {mount}: list {path}")
        answer = self._ask(request, mount)
        self._judge(request, answer, mount)
        return set(answer["names"]) if "names" in answer else None

    def _may_be(self, alias: str, since: float) -> set[str | None]:
        """Return what an alias may stand for by what was true at some time from `since` on."""
        history = [(0.0, None), *self.aliases.get(alias, [])]
        ends = [began for began, _ in history[1:]] + [float("inf")]
        return {
            version for (_, version), ended in zip(history, ends, strict=True) if ended >= since
        }

    def read_alias(self, mount: int, alias: str) -> None:
        """Read the file that no two versions share through an alias: one that it stands for."""
        before = self.judge.old_names_until(time.monotonic())
        path = f"{ENTITY}/{PROJECT}/{COLLECTION}/{alias}/its own.bin"
        self.judge.note_read(f"mount {mount}: read {path!r}")
        candidates = self._may_be(alias, before)
        contents = [
            self.versions[f"{ENTITY}/{PROJECT}/{COLLECTION}/{version}"]["its own.bin"]
            for version in candidates
            if version is not None
        ]
        request = {
            "do": "read",
            "path": str(self._mountpoint(mount) / path),
            "how": "plain",
            "content": None,
            "pieces": [(0, 4096)],
        }
        for content in contents or [Content(0, 1)]:
            answer = self._ask({**request, "content": content}, mount)
            if "wrong" not in answer and "short" not in answer:
                break
        if answer.get("errno") == errno.ENOENT and None in candidates:
            return
        if not contents and "errno" not in answer:
            raise self.judge.broken(f"{path!r} is there though the alias was deleted")
        self._judge({**request, "content": content}, answer, mount)

    # Commands.

    def _command(
        self, *words: str | Path, may_fail: bool = False
    ) -> subprocess.CompletedProcess[str]:
        """Run a command of wbfs; it succeeds, or something explains why it doesn't."""
        shown = " ".join(map(str, words))
        self.judge.note(f"wbfs {shown}")
        began = time.monotonic()
        try:
            done = run(*WBFS, *words, env=self._env, timeout_s=COMMAND_S)
        except subprocess.TimeoutExpired as error:
            raise self.judge.broken(f"wbfs {shown} hangs") from error
        except AssertionError as error:
            raise self.judge.broken(f"wbfs {shown}: {error}") from error
        self.judge.figures[f"wbfs {words[0]}: {done.returncode}"] += 1
        is_explained = may_fail or self.judge.is_disturbed(began, time.monotonic())
        if done.returncode not in EXIT_CODES or (done.returncode and not is_explained):
            raise self.judge.broken(f"wbfs {shown}: exit {done.returncode}: {done.stderr[-1500:]}")
        return done

    def cache_command(self, *words: str) -> None:
        """Run `wbfs cache ...`; nothing in the cache is ever damaged."""
        # Without a cache, having just been removed, there is nothing to do it to.
        done = self._command("cache", "--cache-dir", self.cache_dir, *words, may_fail=True)
        if "damaged" in done.stdout or (done.returncode and self.cache_dir.exists()):
            raise self.judge.broken(f"wbfs cache {words}: {done.stdout}{done.stderr}")

    def get(self, chance: random.Random) -> None:
        """Download a version beside the mounts, and compare all of it."""
        version = chance.choice(list(self.versions))
        root = self.home / "got"
        *place, name = Path(version).parts
        source = f"{'/'.join(place)}:{name}"
        options = ("--cache-dir", self.cache_dir, "--cache-size", CACHE_SIZE, "--min-free", "0")
        timeout = ("--timeout", f"{TIMEOUT_S:g}")
        done = self._command("get", *options, *timeout, "--root", root, source)
        self._compare_folder(root, self.versions[version], is_whole=done.returncode == 0)

    def sdk_download(self, chance: random.Random) -> None:
        """Download a version with the SDK, which shares its cache with wbfs and checks nothing."""
        version = chance.choice(list(self.versions))
        root = self.home / "downloaded"
        *place, name = Path(version).parts
        self.judge.note(f"the SDK downloads {version}")
        began = time.monotonic()
        source = f"{'/'.join(place)}:{name}"
        try:
            done = prepared.run_sdk(
                "-c", SDK_DOWNLOAD, source, root, env=self._env, timeout_s=COMMAND_S
            )
            is_whole, said = done.returncode == 0, done.stderr[-1500:]
        except subprocess.TimeoutExpired:
            # It asks a failing server for longer than we do.
            is_whole, said = False, f"no end within {COMMAND_S:.0f} s"
        if not is_whole:
            self.judge.figures["the SDK's downloads that failed"] += 1
            if not self.judge.is_disturbed(began, time.monotonic()):
                raise self.judge.broken(f"the SDK's download of {version}: {said}")
        # What the SDK fetched from a lying server itself, it keeps and gives again.
        if not self._lied:
            self._compare_folder(root, self.versions[version], is_whole=is_whole)
        shutil.rmtree(root, ignore_errors=True)

    def _compare_folder(self, root: Path, files: Files, *, is_whole: bool) -> None:
        for path, content in files.items():
            is_there = is_whole or (root / path).exists()
            if is_there and (root / path).read_bytes() != data(content):
                raise self.judge.broken(f"{root / path} was written wrongly")
        shutil.rmtree(root, ignore_errors=True)

    def prefetch(self, mount: int, chance: random.Random) -> None:
        """Fetch what is large of a version; once that is done, no wrong byte of it may be seen."""
        version = chance.choice(self._own_versions())
        name = f"{ENTITY}/{PROJECT}/{COLLECTION}/{version}"
        lied = self._fault is not None and FAULTS[self._fault.what].lies
        folder = self._mountpoint(mount) / name
        options = ("--timeout", f"{TIMEOUT_S:g}")
        # What there is no room for, it refuses to fetch.
        is_full = self._filler.exists()
        done = self._command("prefetch", *options, folder / "large", may_fail=is_full)
        if done.returncode == 0 and not lied:
            for path, content in self.versions[name].items():
                if path.startswith("large/"):
                    self.judge.has_checked(content)

    # What is always true.

    def look(self) -> None:
        """Raise Violation unless all that must be true at any time is."""
        for number in range(len(self.mounts)):
            self._look_at(number)
        for program in self._programs:
            try:
                for told in program.told(within_s=HANGS_AFTER_S):
                    self.judge.figures["right"] += told.get("right", 0)
                    if "request" in told:
                        self._judge(told["request"], told["answer"], told["mount"])
            except Hangs as error:
                raise self.judge.broken(str(error)) from error

    def _look_at(self, number: int) -> None:
        mount = self.mounts[number]
        if not mount.is_alive():
            raise self.judge.broken(
                f"the daemon of mount {number} has ended: {mount.log()[-3000:]}"
            )
        log = mount.log()
        if defect := DEFECTS.search(log):
            around = log[max(0, defect.start() - 500) :][:4000]
            raise self.judge.broken(f"mount {number} logs:\n{around}")

    def settle(self) -> None:
        """End all faults and readers; soon nothing is at work any more, and all is right."""
        self.calm()
        self.free_disk()
        self.look()
        self._end_readers()
        for number, mount in enumerate(self.mounts):
            self._wait_for(lambda mount=mount: self._is_idle(mount), f"mount {number} is idle")
            defects = mount.status().get("defects", 0)
            if defects:
                raise self.judge.broken(f"mount {number} counts {defects} defects")
        time.sleep(max(0.0, self._calm_in_s()))
        for version in list(self.versions)[-CHECKED_VERSIONS:]:
            for number in range(len(self.mounts)):
                self._check_version(number, version)
        self.look()

    def _check_version(self, mount: int, version: str) -> None:
        """Have everything of a version fetched and checked, and read it: no byte may be wrong."""
        self._command("prefetch", self._mountpoint(mount) / version)
        for content in self.versions[version].values():
            self.judge.has_checked(content)
        self.judge.note_read(f"mount {mount}: read all of {version}")
        for path, content in self.versions[version].items():
            self._read(mount, f"{version}/{path}", content)

    def _calm_in_s(self) -> float:
        """Return how long a fault that has ended may still show."""
        ends = [window.until or 0.0 for window in self.judge.windows]
        return max(ends, default=0.0) + self.judge.aftermath_s + 0.1 - time.monotonic()

    def _wait_for(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + self.judge.patience_s + SLACK_S
        while not condition():
            if time.monotonic() > deadline:
                raise self.judge.broken(f"not in time: {what}")
            time.sleep(0.1)

    def _is_idle(self, mount: Mount) -> bool:
        status = mount.status()
        return not status["fetched"]["in_progress"] and not any(status["busy_threads"].values())

    def _end_readers(self) -> None:
        for program in self._programs:
            program.end()
        self._programs = []

    def close(self) -> None:
        """Take everything down, whatever state it is in."""
        with self._cleanup:
            for program in [*self._programs, self._hand]:
                self._cleanup.callback(program.end)
            for mount in self.mounts:
                self._cleanup.callback(mount.take_down)
            self.calm()
