"""A daemon in a container: what it needs, that it comes down, and who reads what it mounts."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import passing
import pytest
from mounts import WBFS, run, wait_until
from podman import MOUNTING, UNPRIVILEGED, Container, Podman
from stand_in import StandIn
from training import READ, wait_for

LOST = "Transport endpoint is not connected"
CONTAINERFILE = (Path(__file__).parents[3] / "scripts/Containerfile").read_text()
LARGE = 40 << 20
LOG_LARGE = f"""
import random, wandb
with wandb.init(project="contained") as run:
    artifact = wandb.Artifact("large", type="dataset")
    with artifact.new_file("large.bin", mode="wb") as file:
        file.write(random.Random("large").randbytes({LARGE}))
    run.log_artifact(artifact).wait()
    print(run.entity)
"""


def words_of(instruction: str) -> list[str]:
    """Return the program of the image's Containerfile."""
    [found] = re.findall(rf"{instruction} (\[.*\])$", CONTAINERFILE, re.MULTILINE)
    words: list[str] = json.loads(found)
    return words


ENTRY = words_of("ENTRYPOINT")
HEALTH = words_of("HEALTHCHECK .*CMD")
MOUNT = [*ENTRY, "mount", "--cache-dir", "/tmp/cache"]


@pytest.fixture
def env(stand_in: StandIn) -> dict[str, str]:
    """Return what containers are told: the server and the key, nothing else."""
    return {"WANDB_BASE_URL": stand_in.base_url, "WANDB_API_KEY": stand_in.api_key}


def start(
    podman: Podman,
    env: dict[str, str],
    *words: str | Path,
    options: Sequence[str | Path] = MOUNTING,
    name: str = "daemon",
    passed: int | None = None,
) -> Container:
    """Start a mount by the image's entry, on a root that is read-only."""
    options = ["--read-only", *options]
    return podman.start(name, *MOUNT, *words, options=options, env=env, passed=passed)


def read_beside(podman: Podman, shared: Path, *paths: str) -> Container:
    """Start what reads the files in another container, which may do nothing at all."""
    return podman.start(
        "training",
        *(sys.executable, "-u", "-c", READ, *paths),
        options=[f"--volume={shared}:/data:ro,rslave", *UNPRIVILEGED, "--read-only"],
    )


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "/dev/fuse is missing"),
        (["--device", "/dev/fuse"], "it takes --cap-add SYS_ADMIN beside --device /dev/fuse"),
    ],
)
def test_what_a_container_lacks(
    podman: Podman, env: dict[str, str], options: list[str], words: str
) -> None:
    done = podman.run(*MOUNT, "/mnt", options=["--read-only", *options], env=env)
    assert done.returncode == 78
    assert words in done.stderr


def test_it_mounts_and_ends(
    podman: Podman, stand_in: StandIn, env: dict[str, str], contained: str
) -> None:
    """With one capability, on a volume's own root, and nowhere to write but there and in /tmp.

    Without a home, and in front without being told.
    """
    options = [*MOUNTING, "--cap-drop=ALL", "--env=HOME=/", "--volume=data:/data"]
    daemon = start(podman, env, contained, "/data", options=options)
    daemon.wait_until_mounted()
    assert daemon.check("cat", "/data/folder/7.txt") == "content 7"
    settings = json.loads(daemon.check("cat", "/data/.wbfs/status.json"))["kernel"]
    assert settings == {"read_ahead_kb": 512, "max_background": 2048}
    # What nobody waits for is waited for.
    daemon.check("sh", "-c", "(sleep 0.01 &)")
    # Others end while they are looked at.
    look = ("sh", "-c", "cat /proc/[0-9]*/stat; true")
    wait_until(lambda: ") Z " not in daemon.check(*look), what="nothing that has ended is left")
    with stand_in.faults(port="files", delay_s=100.0):
        daemon.check("sh", "-c", "cat /data/folder/8.txt > /dev/null 2>&1 &")
        # Not by the force that it would be ended with after a while.
        assert daemon.stop() == 0


def test_a_program_beside_it(podman: Podman, env: dict[str, str], contained: str) -> None:
    script = "wbfs mount --cache-dir /tmp/cache $0 /mnt && cat /mnt/folder/7.txt"
    options = ["--read-only", *MOUNTING, "--env=XDG_STATE_HOME=/tmp"]
    done = podman.run("sh", "-c", script, contained, options=options, env=env)
    assert (done.returncode, done.stdout) == (0, "content 7"), done.stderr


def test_its_health(podman: Podman, stand_in: StandIn, env: dict[str, str], contained: str) -> None:
    daemon = start(podman, env, "--timeout=10", contained.partition("/")[0], "/mnt")
    daemon.wait_until_mounted()
    assert daemon.run(*HEALTH).returncode == 0
    with stand_in.faults(port="api", error_share=1.0, error_status=503):
        daemon.run("stat", "/mnt/other")
        assert daemon.run(*HEALTH).returncode == 6
    daemon.check("umount", "/mnt")
    assert daemon.exit_code() == 0


def test_two_with_one_cache(podman: Podman, env: dict[str, str], contained: str) -> None:
    script = "wbfs mount $0 /mnt && cat /mnt/folder/* && wbfs umount /mnt"
    command = ["sh", "-c", script, contained]
    options = [*MOUNTING, "--read-only", "--volume=cache:/cache"]
    options += ["--env=WBFS_CACHE_DIR=/cache/wbfs", "--env=XDG_STATE_HOME=/tmp"]
    first = podman.run(*command, options=options, env=env)
    second = podman.run(*command, options=[*options, "--env=WBFS_OFFLINE=1"], env=env)
    for done in (first, second):
        assert done.returncode == 0, done.stderr
        assert "content 7" in done.stdout
    # Another user has to have another one.
    done = podman.run(*command, options=[*options, "--user", "1000"], env=env)
    assert done.returncode == 2
    assert "/cache/wbfs" in done.stderr
    assert "belongs to" in done.stderr


def test_more_is_read_than_there_is_memory_for(
    podman: Podman, stand_in: StandIn, env: dict[str, str], shared: Path, tmp_path: Path
) -> None:
    limited = podman.run("true", options=["--memory=32m"])
    if limited.returncode != 0:
        pytest.skip(f"podman limits no memory here: {limited.stderr.strip()}")
    source = f"{stand_in.run_sdk(LOG_LARGE, tmp_path / 'home')}/contained/large:v0"
    words = ("--allow-other", "--make-dir", "--cache-dir=/cache/wbfs", source, shared / "mount")
    options = [*MOUNTING, f"--volume={shared}:{shared}:rshared", "--volume=cache:/cache"]
    daemon = start(podman, env, *words, options=[*options, "--memory=192m"])
    daemon.wait_until_mounted()
    options = [f"--volume={shared}:/data:ro,rslave", *UNPRIVILEGED, "--memory=32m"]
    done = podman.run("md5sum", "/data/mount/large.bin", options=options)
    expected = hashlib.md5(random.Random("large").randbytes(LARGE)).hexdigest()
    assert done.stdout.split()[:1] == [expected], done.stderr
    assert daemon.stop() == 0


@pytest.fixture
def sidecar(podman: Podman, env: dict[str, str], contained: str, shared: Path) -> Container:
    """Return a daemon whose mount the host has, too."""
    mountpoint = shared / "mount"
    return start(
        podman,
        env,
        *("--allow-other", "--make-dir", contained, mountpoint),
        options=[*MOUNTING, f"--volume={shared}:{shared}:rshared", "--restart=on-failure"],
    )


def test_a_sidecar_comes_back_under_training(
    podman: Podman, sidecar: Container, shared: Path, env: dict[str, str], contained: str
) -> None:
    sidecar.wait_until_mounted()
    training = read_beside(podman, shared, "/data/mount/folder/7.txt")
    wait_for(training, "content 7", "content 7")
    first = sidecar.pid
    os.kill(first, signal.SIGKILL)
    # It is started again by itself, takes the dead mount down, and makes another.
    wait_until(lambda: sidecar.pid not in (0, first), what="it was started again")
    wait_for(training, "content 7", LOST)
    # So does another one in its place.
    sidecar.kill()
    podman("rm", "--force", "--time", "0", sidecar.name)
    assert LOST in run("stat", "-f", shared / "mount").stderr
    words = ("--allow-other", "--make-dir", contained, shared / "mount")
    options = [*MOUNTING, f"--volume={shared}:{shared}:rshared"]
    another = start(podman, env, *words, options=options, name="another")
    wait_for(training, "content 7", LOST)
    # The host sees how it is, with the numbers that processes have there; and may take it down.
    done = run(*WBFS, "status", shared / "mount")
    assert done.returncode == 0, done.stderr
    assert re.search(r"  daemon     process \d+ of a container, for ", done.stdout), done.stdout
    done = run(*WBFS, "umount", shared / "mount")
    assert done.returncode == 0, done.stderr
    assert another.exit_code() == 0
    wait_for(training, "No such file or directory", LOST)
    assert os.listdir(shared / "mount") == []


def test_by_fluid(
    podman: Podman, stand_in: StandIn, contained: str, shared: Path, tmp_path: Path
) -> None:
    """What Fluid has written for a ThinRuntime's container, and what it does with that."""
    target = shared / "thin-fuse"
    secret = "/etc/fluid/secrets/wandb/api-key"
    options = {"base-url": stand_in.base_url, "token-file": secret}
    document = {
        "mounts": [{"mountPoint": f"wandb://{contained}", "name": "data", "options": options}],
        "targetPath": str(target),
        "runtimeOptions": {"cache-dir": "/tmp/cache"},
        "accessModes": ["ReadOnlyMany"],
    }
    folder = tmp_path / "fluid"
    for path, text in (
        (folder / "config/config.json", json.dumps(document)),
        (folder / "secrets/wandb/api-key", stand_in.api_key),
    ):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    daemon = podman.start(
        "fluid",
        *(*ENTRY, "fluid"),
        options=[
            *("--privileged", "--read-only", "--restart=on-failure"),
            *(f"--volume={shared}:{shared}:rshared", f"--volume={folder}:/etc/fluid:ro"),
        ],
        env={"MOUNT_POINT": str(target), "MOUNT_OPTIONS": "ro", "FLUID_RUNTIME_TYPE": "thin"},
    )
    daemon.wait_until_mounted()
    training = read_beside(podman, shared, "/data/thin-fuse/folder/7.txt")
    wait_for(training, "content 7", "content 7")
    os.kill(daemon.pid, signal.SIGKILL)
    wait_for(training, "content 7", LOST)
    daemon.check("sh", "-c", 'wbfs status "$MOUNT_POINT"')
    # Before it ends a container.
    daemon.check("umount", target)
    assert daemon.exit_code() == 0
    assert stand_in.api_key not in daemon.log()


def test_a_descriptor_that_it_is_started_with(
    podman: Podman, env: dict[str, str], contained: str, shared: Path
) -> None:
    # A user whom nobody knows, as some clusters have one for each project.
    options = [*UNPRIVILEGED, "--user=1000710000:0", "--preserve-fds=1"]
    with passing.mounted(shared / "mount") as descriptor:
        words = (contained, "/dev/fd/3")
        daemon = start(podman, env, *words, options=options, passed=descriptor)
        os.close(descriptor)
        daemon.wait_until_mounted()
        training = read_beside(podman, shared, "/data/mount/folder/7.txt")
        wait_for(training, "content 7", "content 7")
        assert daemon.stop() == 0
        wait_for(training, LOST, LOST)


def test_a_descriptor_that_it_asks_for(
    podman: Podman, env: dict[str, str], contained: str, shared: Path, tmp_path: Path
) -> None:
    """The one who may mount passes the descriptor, and does so again once the daemon was killed."""
    (tmp_path / "passed").mkdir(mode=0o777)
    (tmp_path / "passed").chmod(0o777)
    socket = tmp_path / "passed/socket"
    options = [*UNPRIVILEGED, f"--volume={socket.parent}:/passed", "--restart=on-failure"]
    # Where it is seen there, too, its health can be asked.
    options.append(f"--volume={shared}:/data:ro,rslave")
    daemon = start(podman, env, "--fd-socket", "/passed/socket", contained, options=options)
    training = None
    for held in ("content 7", LOST):
        with passing.mounted(shared / "mount") as descriptor:
            with passing.listening(socket) as listener:
                socket.chmod(0o777)
                passing.give(listener, descriptor)
                os.close(descriptor)
            socket.unlink()
            wait_until(
                lambda: run("cat", shared / "mount/folder/7.txt").stdout == "content 7",
                what="it serves",
            )
            training = training or read_beside(podman, shared, "/data/mount/folder/7.txt")
            wait_for(training, "content 7", held)
            assert daemon.run(*HEALTH).returncode == 0
            # All are those that one has mounted oneself.
            assert daemon.run("wbfs", "umount", "--all").returncode == 0
            assert daemon.run(*HEALTH).returncode == 0
            status = Path(f"/proc/{daemon.pid}/status").read_text()
            assert "CapEff:\t0000000000000000" in status
            os.kill(daemon.pid, signal.SIGKILL)
            wait_for(training, LOST, LOST)
