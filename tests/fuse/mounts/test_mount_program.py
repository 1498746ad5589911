"""mount(8), /etc/fstab: real ones, in a mount namespace where mount.wbfs is where they look."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mounts import COMMAND_TIMEOUT_S, WBFS, check, run, wait_until
from stand_in import StandIn

LOG = """
import wandb
with wandb.init(project="hosts") as run:
    artifact = wandb.Artifact("data", type="dataset")
    with artifact.new_file("a.txt") as file:
        file.write("in it")
    run.log_artifact(artifact).wait()
    print(run.entity)
"""


class Host:
    """A mount namespace in which mount(8) finds mount.wbfs and wbfs; what is mounted stays there.

    `options` are what the artifact needs there, in a line of fstab.
    """

    def __init__(self, folder: Path, stand_in: StandIn) -> None:
        self.source = stand_in.run_sdk(LOG, folder / "home").strip() + "/hosts/data:v0"
        self.mountpoint = folder / "a mount"
        self.mountpoint.mkdir()
        self.server = stand_in.base_url
        (folder / "key").write_text(stand_in.api_key)
        self.options = (
            f"ro,allow_other,_netdev,nofail,noatime,cache_dir={folder}/cache,"
            f"log_file={folder}/log,token_file={folder}/key,env=WANDB_BASE_URL={stand_in.base_url},"
            f"env=XDG_STATE_HOME={folder}/state"
        )
        programs = folder / "sbin"
        programs.mkdir()
        for name in ("wbfs", "mount.wbfs"):
            (programs / name).symlink_to(Path(WBFS[0]).with_name(name))
        # Whoever else has a mount now could not end it while there is a copy of it.
        start = (
            "umount --all --lazy --no-canonicalize --types fuse,fuse.wbfs; echo; exec sleep 1000"
        )
        self._process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", start], stdout=subprocess.PIPE
        )
        assert self._process.stdout
        self._process.stdout.read(1)
        self.check("mount", "-t", "overlay", "-o", f"lowerdir={programs}:/usr/sbin", "o", "/sbin")

    def inside(self, *command: str | Path) -> list[str | Path]:
        """Return a command that runs a program there, with no environment at all."""
        return ["nsenter", f"--mount=/proc/{self._process.pid}/ns/mnt", "env", "-i", *command]

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a program there."""
        return run(*self.inside(*command), env=os.environ)

    def check(self, *command: str | Path) -> str:
        """Run a program there that must succeed."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command} exited with {done.returncode}: {done.stderr}"
        return done.stdout

    def read(self) -> str:
        """Return what is in the mounted file."""
        return self.check("/bin/cat", self.mountpoint / "a.txt")

    def mounts(self) -> int:
        """Return how many mounts are there, one above the other."""
        place = str(self.mountpoint).replace(" ", "\\040")
        table = Path(f"/proc/{self._process.pid}/mounts").read_text()
        return table.count(f" {place} fuse.wbfs ")

    def daemons(self, mountpoint: Path | None = None) -> list[str]:
        """Return the processes of the mounts there, or at and below another path."""
        place = mountpoint or self.mountpoint
        return run("pgrep", "-f", f"^[^ ]+ [^ ]*wbfs .*{place}").stdout.split()

    def umount(self) -> None:
        """Unmount as any filesystem, and wait for the daemon to end."""
        self.check("/bin/umount", self.mountpoint)
        wait_until(lambda: not self.daemons(), what="the daemon has ended")

    def close(self) -> None:
        """Leave nothing behind."""
        while self.run("/bin/umount", "-l", self.mountpoint).returncode == 0:
            pass
        wait_until(lambda: not self.daemons(), what="the daemons have ended")
        self._process.kill()
        self._process.wait(COMMAND_TIMEOUT_S)
        assert self._process.stdout
        self._process.stdout.close()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, stand_in: StandIn) -> Iterator[Host]:
    if os.getuid() != 0:
        pytest.skip("only root may make a mount namespace")
    host = Host(tmp_path_factory.mktemp("host"), stand_in)
    yield host
    host.close()


def fstab(host: Host, source: str, filesystem_type: str) -> Path:
    """Write a table with one line; return its path."""
    path = host.mountpoint.parent / "fstab"
    mountpoint = str(host.mountpoint).replace(" ", "\\040")
    path.write_text(f"{source} {mountpoint} {filesystem_type} {host.options},x-a.b=c 0 0\n")
    return path


def test_mount_and_again(host: Host) -> None:
    for _ in range(2):
        host.check("/bin/mount", "-t", "wbfs", host.source, host.mountpoint, "-o", host.options)
        assert host.read() == "in it"
    assert host.mounts() == 1
    another = ["/bin/mount", "-t", "wbfs", host.source[:-3], host.mountpoint, "-o", host.options]
    done = host.run(*another)
    assert done.returncode == 32
    assert "is a mount of wbfs already" in done.stderr
    host.umount()


@pytest.mark.parametrize("filesystem_type", ["wbfs", "fuse.wbfs"])
def test_the_table_is_mounted_and_again(host: Host, filesystem_type: str) -> None:
    if filesystem_type == "fuse.wbfs" and shutil.which("mount.fuse3") is None:
        pytest.skip("mount.fuse3 is not installed")
    table = fstab(host, host.source, filesystem_type)
    host.check("/bin/mount", "-T", table, "-a")
    host.check("/bin/mount", "-T", table, "-a")
    assert host.read() == "in it"
    host.umount()
    host.check("/bin/mount", "-T", table, host.mountpoint)
    assert host.read() == "in it"
    for pid in host.daemons():
        host.run("/bin/kill", "-KILL", pid)
    wait_until(lambda: not host.daemons(), what="the daemon is killed")
    # The dead mount is no obstacle.
    host.check("/bin/mount", "-T", table, host.mountpoint)
    assert host.read() == "in it"
    assert host.mounts() == 1
    host.umount()


def test_failures_have_the_exit_codes_of_mount(host: Host) -> None:
    def mount(source: str, options: str) -> subprocess.CompletedProcess[str]:
        return host.run("/bin/mount", "-t", "wbfs", source, host.mountpoint, "-o", options)

    wrong = mount(host.source, f"{host.options},alow_other")
    assert wrong.returncode == 1
    assert "no option 'alow_other'" in wrong.stderr
    missing = mount(host.source.replace("data", "no"), host.options)
    assert missing.returncode == 32
    assert "no 'no' in" in missing.stderr
    host.check("/bin/mount", "-f", "-t", "wbfs", host.source, host.mountpoint, "-o", host.options)
    assert not host.daemons()


def test_everything(host: Host) -> None:
    host.check("/bin/mount", "-t", "wbfs", "none", host.mountpoint, "-o", host.options)
    listed = host.check("/bin/ls", host.mountpoint / host.source.partition("/")[0]).split()
    assert "hosts" in listed
    host.check("/bin/mount", "-t", "wbfs", "wbfs", host.mountpoint, "-o", host.options)
    host.umount()


def test_autofs_mounts_what_is_looked_for(host: Host) -> None:
    automount = shutil.which("automount")
    if automount is None:
        pytest.skip("autofs is not installed")
    folder = host.mountpoint.parent
    top = folder / "auto"
    top.mkdir()
    # A colon that no slash follows is the end of a host's name to it.
    options = host.options.replace(":", r"\:").replace(r"\://", "://")
    (folder / "auto.map").write_text(f"* -fstype=wbfs,{options} :admin/hosts/&\n")
    (folder / "auto.master").write_text(f"{top} {folder}/auto.map\n")
    command = [automount, "-f", "-p", folder / "auto.pid", folder / "auto.master"]
    # Whoever is in its process group is not served, but sees the bare directory.
    daemon = subprocess.Popen(
        host.inside(*command), stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        mounted = ["/bin/grep", "-q", f" {top} autofs ", "/proc/self/mounts"]
        wait_until(lambda: host.run(*mounted).returncode == 0, what="autofs is at work")
        assert host.check("/bin/cat", top / "data:v0/a.txt") == "in it"
    finally:
        # It takes down what it has mounted.
        daemon.terminate()
        daemon.wait(COMMAND_TIMEOUT_S)
    wait_until(lambda: not host.daemons(top), what="the mount's daemon has ended")


def test_what_walks_over_all_disks_can_leave_it_out(host: Host) -> None:
    if shutil.which("updatedb") is None:
        pytest.skip("plocate is not installed")
    host.check("/bin/mount", "-t", "wbfs", host.source, host.mountpoint, "-o", host.options)
    found = []
    for types in ("NFS", "NFS fuse.wbfs"):
        database = host.mountpoint.parent / "locate.db"
        walk = ["updatedb", "-l", "0", "-U", host.mountpoint.parent, "-o", database]
        host.check(*walk, "--prune-bind-mounts", "no", "--prunepaths", "", "--prunefs", types)
        found.append(host.run("plocate", "-d", database, host.mountpoint / "a.txt").returncode == 0)
    host.umount()
    assert found == [True, False]


def test_slurm_mounts_for_the_first_job_and_mends_after_each(host: Host) -> None:
    script = host.mountpoint.parent / "slurm.sh"
    mountpoint = host.mountpoint.parent / "node"
    made = {
        "mountpoint": mountpoint,
        "source": host.source,
        "wbfs": Path(WBFS[0]).with_name("wbfs"),
        "token-file": host.mountpoint.parent / "key",
        "server": host.server,
        "cache-dir": host.mountpoint.parent / "cache",
    }
    settings = [word for key, value in made.items() for word in ("--set", f"{key}={value}")]
    sample = check(*WBFS, "deploy", "slurm", *settings)
    assert "--timeout 5 " in sample

    def in_slurm(context: str, *, hung_after_s: int = 40) -> None:
        # Until a mount is said to hang; one that serves may take long where the machine is busy.
        script.write_text(sample.replace("--timeout 5 ", f"--timeout {hung_after_s} "))
        # The daemon's state is root's own there; here it is the test's.
        home = f"HOME={host.mountpoint.parent}"
        host.check("env", home, f"SLURM_SCRIPT_CONTEXT={context}", "/bin/bash", script)

    try:
        in_slurm("prolog_slurmd")
        first = host.daemons(mountpoint)[0]
        in_slurm("prolog_slurmd")
        in_slurm("epilog_slurmd")
        assert host.daemons(mountpoint)[0] == first
        assert host.check("/bin/cat", mountpoint / "a.txt") == "in it"
        host.check("/bin/kill", "-STOP", first)
        in_slurm("epilog_slurmd", hung_after_s=1)
        assert not host.daemons(mountpoint)
        in_slurm("prolog_slurmd")
        assert host.check("/bin/cat", mountpoint / "a.txt") == "in it"
        # As a job's own, which is killed with it.
        host.run("/bin/kill", "-KILL", *host.daemons(mountpoint))
        wait_until(lambda: not host.daemons(mountpoint), what="the daemon is killed")
        in_slurm("epilog_slurmd")
        assert host.run("/bin/mountpoint", "-q", mountpoint).returncode == 32
    finally:
        for pid in host.daemons(mountpoint):
            host.run("/bin/kill", "-KILL", pid)
        host.run("/bin/umount", "-l", mountpoint)
        wait_until(lambda: not host.daemons(mountpoint), what="the daemons have ended")


def test_the_dashboard_asks_for_metrics_that_there_are(host: Host) -> None:
    options = f"{host.options},cache_size=1GB"
    host.check("/bin/mount", "-t", "wbfs", host.source, host.mountpoint, "-o", options)

    def metrics() -> str:
        return host.check("/bin/cat", host.mountpoint / ".wbfs/metrics")

    # It is counted once the mount answers.
    wait_until(lambda: "wbfs_cache_bytes " in metrics(), what="the cache is counted")
    told = set(re.findall(r"wbfs_\w+", metrics()))
    host.umount()
    document: dict[str, Any] = json.loads(check(*WBFS, "deploy", "grafana"))
    targets = [target for panel in document["panels"] for target in panel["targets"]]
    asked = set(re.findall(r"wbfs_\w+", " ".join(target["expr"] for target in targets)))
    assert len(asked) > 10
    assert asked <= told
    assert len({panel["id"] for panel in document["panels"]}) == len(document["panels"])
