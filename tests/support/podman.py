"""Containers for tests: this host's programs in them, this checkout's wbfs, and no image built."""

from __future__ import annotations

import contextlib
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from mounts import COMMAND_TIMEOUT_S, WBFS, check, wait_until

import wbfs

COPIED = ("passwd", "group", "ld.so.cache", "nsswitch.conf", "fuse.conf")
SEARCHED = "/opt/wbfs/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
MOUNTING = ("--device", "/dev/fuse", "--cap-add", "SYS_ADMIN")
"""What lets a container's root mount."""
UNPRIVILEGED = (
    *("--user", "1000:1000", "--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges"),
)
"""What a careful cluster demands of a container."""


def why_no_containers() -> str:
    """Return what keeps tests from having containers, empty where nothing is known to."""
    if os.getuid() != 0:
        return "only root may have containers that mount"
    missing = [name for name in ("podman", "tini") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}; scripts/setup does, as root" if missing else ""


class Podman:
    """podman with a storage of its own; containers share the host's network, and end with it."""

    def __init__(self, user: int = 0) -> None:
        """Prepare what containers find as their root, in a folder of its own.

        They may be another user's, who has no privilege, and none of this checkout's wbfs in them.
        """
        self._user = user
        # Not below pytest's: podman takes no long paths, and not all users of containers see that.
        folder = self._folder = Path(tempfile.mkdtemp(prefix="wbfs-podman-", dir="/tmp"))
        folder.chmod(0o755)
        self._root = folder / "root"
        for name in ("dev", "etc", "home", "mnt", "proc", "root", "run", "sys", "tmp", "usr"):
            (self._root / name).mkdir(parents=True)
        (self._root / "tmp").chmod(0o1777)
        for name in ("bin", "lib", "lib64", "sbin"):
            # With Debian they are links.
            if Path("/", name).is_symlink():
                (self._root / name).symlink_to(os.readlink(f"/{name}"))
        for name in COPIED:
            with contextlib.suppress(FileNotFoundError):
                shutil.copy(f"/etc/{name}", self._root / "etc")
        with (self._root / "etc/fuse.conf").open("a") as file:
            file.write("user_allow_other\n")
        (self._root / "etc/mtab").symlink_to("/proc/self/mounts")
        program = self._root / "opt/wbfs/bin/wbfs"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec {shlex.join(WBFS)} "$@"\n')
        program.chmod(0o755)
        shown = {Path("/usr")}
        if not user:
            shown |= {Path(sys.prefix), Path(sys.base_prefix), Path(wbfs.__file__).parent.parent}
        shown = {path for path in shown if shown.isdisjoint(path.parents)}
        self._shown = [f"--volume={path}:{path}:ro" for path in sorted(shown)]
        (folder / "containers.conf").write_text(_settings())
        self._env = {**os.environ, "CONTAINERS_CONF": str(folder / "containers.conf")}
        self._podman = ["podman", "--storage-driver", "vfs", "--root", str(folder / "storage")]
        self._podman += ["--runroot", str(folder / "run")]
        if user:
            ids = (f"--reuid={user}", f"--regid={user}", "--clear-groups")
            self._podman = ["setpriv", *ids, "env", "-C", str(folder), *self._podman]
            self._env |= {"HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
            check("chown", "-R", f"{user}:{user}", folder)

    def __call__(
        self, *words: str | Path, env: Mapping[str, str] | None = None, passed: int | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run podman; `env` is for what is started in containers by --env NAME.

        The descriptor `passed` is 3 there, for --preserve-fds=1.
        """
        renumbered = (
            [] if passed is None else ["bash", "-c", f'exec "$@" 3<&{passed} {passed}<&-', "sh"]
        )
        return subprocess.run(
            [*renumbered, *self._podman, *map(str, words)],
            env={**self._env, **(env or {})},
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            pass_fds=[] if passed is None else [passed],
        )

    def run(
        self,
        *command: str | Path,
        options: Sequence[str | Path] = (),
        env: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in a container of its own; `env` is all that it gets of ours."""
        return self("run", "--rm", *self._as(options, env), *command, env=env)

    def start(
        self,
        name: str,
        *command: str | Path,
        options: Sequence[str | Path] = (),
        env: Mapping[str, str] | None = None,
        passed: int | None = None,
    ) -> Container:
        """Start a container and return at once."""
        options = ["--detach", "--name", name, *options]
        done = self("run", *self._as(options, env), *command, env=env, passed=passed)
        assert done.returncode == 0, done.stderr
        return Container(self, name)

    def _as(self, options: Sequence[str | Path], env: Mapping[str, str] | None) -> list[str | Path]:
        # By name, so that no key is in a command line.
        names = [f"--env={name}" for name in env or {}]
        always = ["--network=host", f"--env=PATH={SEARCHED}", *self._shown]
        return [*always, *names, *options, "--rootfs", self._root]

    def remove_containers(self) -> None:
        """End and remove all containers, and their volumes."""
        self("rm", "--force", "--time", "0", "--all")
        self("volume", "rm", "--force", "--all")

    def take_down(self) -> None:
        """Leave nothing behind."""
        self.remove_containers()
        if self._user:
            # It ends what keeps the user's namespace.
            self("system", "migrate")
        shutil.rmtree(self._folder)


class Container:
    """A container that was started, by its name."""

    def __init__(self, podman: Podman, name: str) -> None:
        self._podman = podman
        self.name = name

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        return self._podman("exec", self.name, *command)

    def check(self, *command: str | Path) -> str:
        """Run a command in it that must succeed; return what it prints."""
        done = self.run(*command)
        assert done.returncode == 0, done.stderr + self.log()
        return done.stdout

    def log(self) -> str:
        """What it has printed so far, on both streams."""
        done = self._podman("logs", self.name)
        return done.stdout + done.stderr

    @property
    def pid(self) -> int:
        """Its first process, as the host numbers it; 0 where it does not run."""
        return int(self._podman("inspect", "--format", "{{.State.Pid}}", self.name).stdout)

    def wait_until_mounted(self) -> None:
        """Return once a mount in it says that it is one."""
        wait_until(
            lambda: "is mounted on" in self.log() or not self.pid,
            what="it is mounted",
        )
        assert self.pid, self.log()

    def stop(self, *words: str) -> int:
        """Have it told to end; return its exit code."""
        self._podman("stop", "--time", "40", self.name)
        return self.exit_code()

    def kill(self) -> None:
        """End all of it as a crash would."""
        self._podman("kill", "--signal", "KILL", self.name)
        self.exit_code()

    def restart(self) -> None:
        """Start it again, as it was started."""
        done = self._podman("start", self.name)
        assert done.returncode == 0, done.stderr

    def exit_code(self) -> int:
        """Wait for its end."""
        return int(self._podman("wait", self.name).stdout)


def _settings() -> str:
    """Return podman's settings, for where limits can't be raised, or there is no systemd."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return f"""
[containers]
log_driver = "k8s-file"
default_ulimits = ["nofile={files}:{files}", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "{"runc" if shutil.which("runc") else "crun"}"
"""
