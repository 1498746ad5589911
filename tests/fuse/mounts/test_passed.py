"""A daemon that may not mount serves a mount that somebody else makes and passes to it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import passing
import processes
import pytest
import yaml
from daemons import END_TIMEOUT_S
from mounts import COMMAND_TIMEOUT_S, WBFS, check, run, wait_until
from stand_in import StandIn

from wbfs.daemon.mounts.looking import health
from wbfs.daemon.mounts.mountpoint import prepare_mountpoint
from wbfs.daemon.mounts.passed import receive
from wbfs.daemon.mounts.table import mount_at
from wbfs.model.errors import NotNow

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="only root may mount for others")

USER = 12345


def unprivileged(user: int) -> list[str]:
    """Return what runs a program as a user who may do nothing."""
    return [
        *("setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs"),
        # Only to read Python, wherever it is installed.
        *("--bounding-set=-all,+dac_read_search", "--inh-caps=-all,+dac_read_search"),
        "--ambient-caps=+dac_read_search",
    ]


OLD_KERNEL = """
from wbfs.cli.main import main
from wbfs.daemon.mounts import own
own.device_of = lambda descriptor: None
main()
"""
LOG = """
import wandb
with wandb.init(project="passed") as run:
    artifact = wandb.Artifact("data", type="dataset")
    with artifact.new_file("a.txt") as file:
        file.write("content")
    run.log_artifact(artifact).wait()
    print(run.entity)
"""


@pytest.fixture(scope="module")
def artifact(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the name of what the SDK logged."""
    return f"{stand_in.run_sdk(LOG, tmp_path_factory.mktemp('home'))}/passed/data:v0"


Serve = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def serve(stand_in: StandIn, tmp_path: Path) -> Iterator[Serve]:
    """Return what starts a daemon in front: serve(*words, fds=(), before=())."""
    running: list[subprocess.Popen[str]] = []
    tmp_path.chmod(0o755)
    (tmp_path / "home").mkdir()
    os.chown(tmp_path / "home", USER, USER)

    def start(
        *words: str | Path, fds: Sequence[int] = (), before: Sequence[str] = ()
    ) -> subprocess.Popen[str]:
        command = [*before, *WBFS, "mount", "-f", "--cache-dir", tmp_path / "home/cache", *words]
        with (tmp_path / "log").open("wb") as log:
            running.append(
                subprocess.Popen(
                    [str(word) for word in command],
                    env=env_of(stand_in, tmp_path),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=fds,
                    text=True,
                )
            )
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.wait(END_TIMEOUT_S)
    print((tmp_path / "log").read_text())


def env_of(stand_in: StandIn, tmp_path: Path) -> dict[str, str]:
    return stand_in.env(tmp_path / "home")


def said(tmp_path: Path) -> str:
    return (tmp_path / "log").read_text()


def wait_for(process: subprocess.Popen[str], tmp_path: Path) -> None:
    wait_until(
        lambda: "is mounted on" in said(tmp_path) or process.poll() is not None,
        timeout_s=END_TIMEOUT_S,
        what="it serves",
    )
    assert process.poll() is None, said(tmp_path)


def settings_of_others(mounted: Path) -> list[Path]:
    """Return how far the kernel reads ahead on disks, and on what is mounted at a path.

    Of other filesystems' numbers there is no telling whose they will be.
    """
    mount = mount_at(mounted)
    assert mount is not None
    devices = [path for path in Path("/sys/class/bdi").iterdir() if not path.name.startswith("0:")]
    return [path / "read_ahead_kb" for path in (*devices, Path("/sys/class/bdi", mount.device))]


def test_a_descriptor_without_any_privilege(
    stand_in: StandIn, artifact: str, serve: Serve, tmp_path: Path
) -> None:
    with (
        passing.mounted(tmp_path / "other") as other,
        passing.mounted(tmp_path / "mount", user=USER) as descriptor,
    ):
        os.close(other)
        before = {path: path.read_text() for path in settings_of_others(tmp_path / "other")}
        process = serve(
            artifact, f"/dev/fd/{descriptor}", fds=[descriptor], before=unprivileged(USER)
        )
        os.close(descriptor)
        wait_for(process, tmp_path)
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert f"Uid:\t{USER}\t" in status
        assert (tmp_path / "mount/a.txt").read_text() == "content"
        # Its number is known, and nothing else's settings were touched.
        device = f"0:{os.minor((tmp_path / 'mount').stat().st_dev)}"
        done = run(*WBFS, "status", "--json", tmp_path / "mount", env=env_of(stand_in, tmp_path))
        assert done.returncode == 0, done.stdout
        [found] = json.loads(done.stdout)
        # Only its own user may ask it, whom root is to that end.
        assert found["status"]["device"] == device
        assert found["pid"] == process.pid
        for setting, value in before.items():
            assert setting.read_text() == value
        # What programs that it starts would have of it would outlive it.
        process.send_signal(signal.SIGTERM)
        assert process.wait(END_TIMEOUT_S) == 0
        assert "Transport endpoint" in run("ls", tmp_path / "mount").stderr
        done = run(*WBFS, "status", tmp_path / "mount", env=env_of(stand_in, tmp_path))
        assert done.returncode in (3, 4)


def test_a_descriptor_in_the_place_of_a_stream(
    stand_in: StandIn, artifact: str, tmp_path: Path
) -> None:
    """As mount.fuse3 opens it where it has no standard input."""
    command = [*WBFS, "mount", "--cache-dir", tmp_path / "cache", "--log-file", tmp_path / "log"]
    with passing.mounted(tmp_path / "mount") as descriptor:
        done = subprocess.run(
            [*map(str, command), artifact, "/dev/fd/0"],
            env=env_of(stand_in, tmp_path),
            stdin=descriptor,
            capture_output=True,
            timeout=END_TIMEOUT_S,
        )
        os.close(descriptor)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "mount/a.txt").read_text() == "content"
        pid: int = json.loads((tmp_path / "mount/.wbfs/status.json").read_text())["pid"]
    wait_until(lambda: processes.exit_code(pid) is not None, what="it ends with its mount")


def test_a_socket_that_is_made_later(
    stand_in: StandIn, artifact: str, serve: Serve, tmp_path: Path
) -> None:
    process = serve("--fd-socket", tmp_path / "socket", artifact)
    with (
        passing.mounted(tmp_path / "mount", kind="fuse.driver") as descriptor,
        passing.listening(tmp_path / "socket") as listener,
    ):
        passing.give(listener, descriptor)
        os.close(descriptor)
        wait_for(process, tmp_path)
        assert (tmp_path / "mount/a.txt").read_text() == "content"
        env = env_of(stand_in, tmp_path)
        done = run(*WBFS, "status", "--wait", "45", tmp_path / "mount", env=env)
        assert done.returncode == 0, done.stdout
        assert f"process {process.pid}" in done.stdout
        # It ends as it does with a mount of its own: unmounted by whoever has mounted it.
        run("umount", tmp_path / "mount")
        assert process.wait(END_TIMEOUT_S) == 0, said(tmp_path)


def test_a_pod_by_the_sample(stand_in: StandIn, artifact: str, tmp_path: Path) -> None:
    """The driver is a stand-in, and the kernel one that does not tell a descriptor's mount."""
    words = [f"source={artifact}", f"server={stand_in.base_url}"]
    sample = check(
        *WBFS, "deploy", "kubernetes-unprivileged", *(w for word in words for w in ("--set", word))
    )
    pod = yaml.safe_load(sample)["spec"]
    (sidecar,) = pod["initContainers"]
    user = sidecar["securityContext"]["runAsUser"]
    places = {one["mountPath"]: tmp_path / one["name"] for one in sidecar["volumeMounts"]}

    def here(text: str) -> str:
        """Put this test's folders in for those of the container."""
        for path, place in places.items():
            text = re.sub(rf"^{path}(?=/|$)", str(place), text)
        return text

    env = {one["name"]: here(one["value"]) for one in sidecar["env"]}
    env |= {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    (tmp_path / "wandb").mkdir()
    (tmp_path / "wandb/api-key").write_text(stand_in.api_key)
    cleanup = ExitStack()
    for name in ("fuse", "cache"):
        volume = tmp_path / "pods/1/volumes/kubernetes.io~empty-dir" / name
        volume.mkdir(parents=True)
        volume.chmod(0o777)
        (tmp_path / name).mkdir()
        check("mount", "--bind", volume, tmp_path / name)
        cleanup.callback(run, "umount", "-l", tmp_path / name)
    attributes = pod["volumes"][1]["csi"]["volumeAttributes"]
    target = places["/data"]
    before = unprivileged(user)
    with (
        cleanup,
        passing.driver(places["/fuse"] / attributes["fdPassingSocketName"], target, user=user),
        (tmp_path / "log").open("wb") as log,
    ):
        process = subprocess.Popen(
            [*before, sys.executable, "-c", OLD_KERNEL, *map(here, sidecar["args"])],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            probe = [*before, *WBFS, *map(here, sidecar["startupProbe"]["exec"]["command"][1:])]
            wait_until(
                lambda: run(*probe, env=env).returncode == 0 or process.poll() is not None,
                timeout_s=END_TIMEOUT_S,
                what="the probe succeeds",
            )
            assert (target / "a.txt").read_text() == "content"
            # What its user asks of it is known though another one has mounted it.
            for words in (["why", target / "a.txt"], ["prefetch", "--no-wait", target]):
                done = run(*before, *WBFS, *words, env=env)
                assert done.returncode == 0, done.stderr
            process.send_signal(signal.SIGTERM)
            assert process.wait(END_TIMEOUT_S) == 0
        finally:
            process.kill()
            process.wait(END_TIMEOUT_S)
            print(said(tmp_path))


@pytest.mark.parametrize(
    "what",
    ["closed", "another file", "nothing passed", "another passed", "a path too long", "no mount"],
)
def test_what_is_no_descriptor_of_fuse(
    artifact: str, serve: Serve, tmp_path: Path, what: str
) -> None:
    code, words = 2, "is not /dev/fuse: whoever starts wbfs has to pass"
    with open(os.devnull) as null, passing.listening(tmp_path / "socket") as listener:
        match what:
            case "closed":
                words = "is no open file (Bad file descriptor)"
                process = serve("/dev/fd/77")
            case "another file":
                process = serve(f"/dev/fd/{null.fileno()}", fds=[null.fileno()])
            case "nothing passed":
                code, words = 1, "has passed no descriptor"
                process = serve("--fd-socket", tmp_path / "socket")
                passing.give(listener)
            case "a path too long":
                code, words = 1, "path too long"
                process = serve("--fd-socket", tmp_path / ("x" * 120))
            case "no mount":
                code, words = 79, "has to have mounted with it"
                with open("/dev/fuse", "r+b", buffering=0) as unmounted:
                    fds = [unmounted.fileno()]
                    process = serve(artifact, f"/dev/fd/{fds[0]}", fds=fds)
            case _:
                process = serve("--fd-socket", tmp_path / "socket")
                passing.give(listener, null.fileno())
        assert process.wait(END_TIMEOUT_S) == code, said(tmp_path)
    *before, last = said(tmp_path).splitlines()
    assert words in last
    assert what == "no mount" or not before


def test_a_socket_that_has_no_room(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as others:
        listener.bind(str(path))
        listener.listen(0)
        for _ in range(2):
            other = others.enter_context(socket.socket(socket.AF_UNIX))
            other.setblocking(False)
            other.connect_ex(str(path))
        began_s = time.monotonic()
        with pytest.raises(NotNow, match="within 0.3 s: look whether who is to pass it runs"):
            receive(path, timeout_s=0.3)
        assert time.monotonic() - began_s < COMMAND_TIMEOUT_S


def test_a_mount_that_nobody_serves(
    stand_in: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mount"
    monkeypatch.setattr(health, "LOOK_TIMEOUT_S", 0.3)
    with passing.mounted(path) as descriptor:
        # Neither looks at it from a process that could not be left behind.
        with pytest.raises(NotNow, match=rf"at {path} \(fuse\) does not answer"):
            prepare_mountpoint(path, make=True)
        done = run(*WBFS, "umount", "--if-mounted", path, env=env_of(stand_in, tmp_path))
        assert done.returncode == 2
        assert f"wbfs has not mounted what is at {path} (fuse)" in done.stderr
        # Nor at what is below it, where a name would be asked for.
        with pytest.raises(NotNow, match=rf"is on what is mounted at {path} \(fuse\), which"):
            prepare_mountpoint(path / "below", make=True)
        for words, code in ((("status",), 3), (("umount", "--if-mounted"), 0)):
            done = run(*WBFS, *words, path / "below", env=env_of(stand_in, tmp_path))
            assert done.returncode == code, done.stderr
        os.close(descriptor)


def test_a_mountpoint_beside_a_socket(serve: Serve, tmp_path: Path) -> None:
    process = serve("--fd-socket", tmp_path / "socket", "a/b", tmp_path / "mount")
    assert process.wait(END_TIMEOUT_S) == 2
    assert "no MOUNTPOINT beside --fd-socket" in said(tmp_path)
