"""A mount comes down whatever ends it, and its daemon never crashes: it ends with an exit code."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import Starter
from daemons import END_TIMEOUT_S, SIGNALS, Daemon, is_mounted
from mount_table import mounted_at
from mounts import WBFS, check, run, wait_until
from stand_in import StandIn

from wbfs.daemon.mounts import taking_down
from wbfs.daemon.mounts.mountpoint import unmount

OTHER_SIGNALS = (signal.SIGQUIT, signal.SIGUSR2, signal.SIGXCPU, signal.SIGPWR)
"""What a terminal, a batch system or a limit ends programs with, too."""
LOG = """
import wandb
with wandb.init(project="ends") as run:
    artifact = wandb.Artifact("large", type="dataset")
    with artifact.new_file("large.bin", mode="wb") as file:
        file.write(bytes(8 << 20))
    run.log_artifact(artifact).wait()
    print(run.entity)
"""
SMALL_FILES = 40
LOG_SMALL = f"""
import wandb
with wandb.init(project="ends") as run:
    artifact = wandb.Artifact("small", type="dataset")
    for number in range({SMALL_FILES}):
        with artifact.new_file(f"{{number}}.txt") as file:
            file.write(str(number))
    run.log_artifact(artifact).wait()
    print(run.entity)
"""
WAYS = ("umount", "lazy umount", *SIGNALS)


def abort(daemon: Daemon) -> None:
    """Cut the connection of the mount, as root may where the kernel's control files are."""
    if os.getuid() != 0:
        pytest.skip("only root may mount the control filesystem")
    [row] = mounted_at(daemon.path)
    connections = "/sys/fs/fuse/connections"
    minor = row.device.partition(":")[2]
    script = f"mount -t fusectl none {connections} && echo 1 > {connections}/{minor}/abort"
    check("unshare", "--mount", "sh", "-c", script)


def records(daemon: Daemon) -> list[Path]:
    """What daemons wrote down about themselves in the state directory."""
    return list(Path(daemon.env["XDG_STATE_HOME"]).glob("wbfs/mounts/*"))


@pytest.fixture(scope="module")
def waiting(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Log a version with a large file; return its name."""
    return stand_in.run_sdk(LOG, tmp_path_factory.mktemp("waiting")) + "/ends/large:v0"


@pytest.fixture(scope="module")
def small(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the SOURCE of a version of small files."""
    return f"{stand_in.run_sdk(LOG_SMALL, tmp_path_factory.mktemp('small'))}/ends/small:v0"


@pytest.mark.parametrize("seed", range(20))
def test_ends_in_any_order(start: Starter, seed: int) -> None:
    chance = random.Random(seed)
    daemon = start()
    if chance.random() < 0.6:
        daemon.wait_until_mounted()
    else:
        daemon.wait_until_signals_are_noted()
        time.sleep(chance.uniform(0, 0.5))
    for way in chance.choices(WAYS, k=chance.randint(2, 5)):
        if isinstance(way, signal.Signals):
            daemon.process.send_signal(way)
        else:
            run("fusermount3", "-u", *(["-z"] if way == "lazy umount" else []), daemon.path)
        time.sleep(chance.choice((0, 0, 0.001, 0.01, 0.1)))
    # A way that is refused, since the mount is in use, ends nothing.
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.exit_code() == 0, daemon.log()
    assert not is_mounted(daemon.path)
    assert "Traceback" not in daemon.log()


@pytest.mark.promises("9.2")
@pytest.mark.parametrize("number", [*SIGNALS, *OTHER_SIGNALS])
def test_every_signal_unmounts(start: Starter, number: signal.Signals) -> None:
    daemon = start()
    daemon.wait_until_mounted()
    daemon.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: "Current thread" in daemon.log(), what="it says where it is")
    assert is_mounted(daemon.path)
    daemon.process.send_signal(number)
    assert daemon.exit_code() == 0
    assert not is_mounted(daemon.path)
    assert f"{number.name}: unmounting" in daemon.log()


def test_a_signal_at_once_after_a_lazy_umount(start: Starter) -> None:
    for _ in range(5):
        daemon = start()
        daemon.wait_until_mounted()
        check("fusermount3", "-u", "-z", daemon.path)
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.exit_code() == 0, daemon.log()


def test_signals_without_end(start: Starter) -> None:
    daemon = start()
    daemon.wait_until_mounted()
    deadline = time.monotonic() + END_TIMEOUT_S
    while daemon.process.poll() is None:
        assert time.monotonic() < deadline, daemon.log()
        for number in SIGNALS:
            daemon.process.send_signal(number)
        time.sleep(0.001)
    assert daemon.process.returncode == 0, daemon.log()
    assert not is_mounted(daemon.path)


def test_an_aborted_mount_is_taken_down(start: Starter) -> None:
    daemon = start()
    daemon.wait_until_mounted()
    abort(daemon)
    assert daemon.exit_code() == 79
    assert not is_mounted(daemon.path)
    assert "was lost" in daemon.log()
    assert os.listdir(daemon.path) == []
    assert records(daemon) == []


def test_an_abort_and_a_signal(start: Starter) -> None:
    for number in SIGNALS:
        daemon = start()
        daemon.wait_until_mounted()
        daemon.process.send_signal(signal.SIGSTOP)
        abort(daemon)
        daemon.process.send_signal(number)
        daemon.process.send_signal(signal.SIGCONT)
        # Whichever it finds first.
        assert daemon.exit_code() in (0, 79), daemon.log()
        assert not is_mounted(daemon.path)


def test_a_folder_above_is_renamed(start: Starter, tmp_path: Path) -> None:
    (tmp_path / "above/place").mkdir(parents=True)
    (tmp_path / "mount").symlink_to(tmp_path / "above/place")
    daemon = start()
    daemon.wait_until_mounted()
    (tmp_path / "above").rename(tmp_path / "renamed")
    assert is_mounted(tmp_path / "renamed/place")
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.exit_code() == 0
    assert not is_mounted(tmp_path / "renamed/place")
    assert os.listdir(tmp_path / "renamed/place") == []


def test_another_mount_at_its_place_stays(start: Starter, tmp_path: Path) -> None:
    daemon = start()
    daemon.wait_until_mounted()
    # It serves on for whoever has something of it open.
    with subprocess.Popen(["sleep", "1000"], cwd=daemon.path) as user:
        try:
            check("fusermount3", "-u", "-z", daemon.path)
            other = start()
            other.wait_until_mounted()
            [row] = mounted_at(daemon.path)
            daemon.process.send_signal(signal.SIGTERM)
            assert daemon.exit_code() == 0, daemon.log()
            assert mounted_at(daemon.path) == [row]
            assert other.process.poll() is None
            assert other.umount().returncode == 0
            assert other.exit_code() == 0
        finally:
            user.kill()


def test_a_number_that_was_given_out_again(start: Starter) -> None:
    for _ in range(20):
        daemon = start()
        daemon.wait_until_mounted()
        rows = mounted_at(daemon.path)
        daemon.process.send_signal(signal.SIGSTOP)
        check("fusermount3", "-u", "-z", daemon.path)
        other = start()
        other.wait_until_mounted()
        if mounted_at(daemon.path) == rows:
            break
        # Somebody else's mount was quicker.
        assert other.umount().returncode == 0
        daemon.process.send_signal(signal.SIGCONT)
        assert daemon.exit_code() == 0, daemon.log()
    else:
        pytest.skip("the number went to somebody else's mount each time")
    daemon.process.send_signal(signal.SIGCONT)
    assert daemon.exit_code() == 0, daemon.log()
    assert mounted_at(daemon.path) == rows
    assert other.process.poll() is None
    assert len(records(other)) == 1
    assert other.umount().returncode == 0
    assert other.exit_code() == 0


@pytest.mark.parametrize("how", [{}, {"lazy": True}, {"force": True}])
def test_somebody_else_unmounts_it_meanwhile(
    start: Starter, monkeypatch: pytest.MonkeyPatch, how: dict[str, bool]
) -> None:
    daemon = start()
    daemon.wait_until_mounted()
    monkeypatch.setenv("XDG_STATE_HOME", daemon.env["XDG_STATE_HOME"])

    def twice(path: Path, *, lazy: bool) -> None:
        check("fusermount3", "-u", "-z", path)
        unmount(path, lazy=lazy)

    monkeypatch.setattr(taking_down, "unmount", twice)
    taking_down.take_down(daemon.path, **{"lazy": False, "force": False, **how})
    assert daemon.exit_code() in (0, 79), daemon.log()
    assert not is_mounted(daemon.path)


def test_below_a_dead_mount_may_go_better_next_time(start: Starter) -> None:
    daemon = start()
    daemon.wait_until_mounted()
    daemon.process.kill()
    daemon.exit_code()
    done = run(*WBFS, "mount", "--make-dir", daemon.path / "below", env=daemon.env)
    assert done.returncode == 1
    assert "below: Transport endpoint is not connected" in done.stderr


def test_a_mount_on_top_stays(start: Starter, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root may mount there")
    daemon = start()
    daemon.wait_until_mounted()
    check("mount", "-t", "tmpfs", "none", daemon.path)
    try:
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.exit_code() == 0
        assert "is under another mount" in daemon.log()
        assert len(mounted_at(daemon.path)) == 2
    finally:
        check("umount", daemon.path)


@pytest.mark.promises("9.3")
def test_a_hung_daemon(start: Starter) -> None:
    daemon = start()
    daemon.wait_until_mounted()
    daemon.process.send_signal(signal.SIGSTOP)
    # A program that waits for it, for good.
    with subprocess.Popen(["ls", daemon.path / "entity"], stderr=subprocess.DEVNULL) as user:
        try:
            command = [*WBFS, "mount", "--cache-dir", daemon.path.with_name("cache")]
            done = run(*command, daemon.path, env=daemon.env)
            assert done.returncode == 1
            assert "does not answer: end it with wbfs umount --force" in done.stderr
            done = run(*WBFS, "prefetch", daemon.path / "entity/project/a/v0", env=daemon.env)
            assert done.returncode == 1
            assert "does not answer" in done.stderr
            done = run(*command, "--log-file", daemon.path / "log", daemon.path, env=daemon.env)
            assert "inside the mountpoint" in done.stderr
            done = daemon.umount()
            assert done.returncode == 1
            [line] = done.stderr.splitlines()
            assert f"(process {daemon.process.pid}) does not answer" in line
            assert f"wbfs umount --force {daemon.path}" in line
            assert is_mounted(daemon.path)
            done = daemon.umount("--force")
            assert done.returncode == 0, done.stderr
            assert user.wait(END_TIMEOUT_S) != 0
        finally:
            user.kill()
    assert not is_mounted(daemon.path)
    assert daemon.exit_code() == -signal.SIGKILL
    assert records(daemon) == []


def test_a_hung_daemon_that_nobody_waits_for(start: Starter) -> None:
    daemon = start()
    daemon.wait_until_mounted()
    daemon.process.send_signal(signal.SIGSTOP)
    done = daemon.umount()
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert f"its daemon (process {daemon.process.pid}) has not ended within 20 s" in line
    assert f"kill -KILL {daemon.process.pid}" in line
    assert not is_mounted(daemon.path)
    daemon.process.send_signal(signal.SIGCONT)
    assert daemon.exit_code() == 0


def test_force_on_a_mount_that_serves(start: Starter) -> None:
    daemon = start()
    daemon.wait_until_mounted()
    with subprocess.Popen(["sleep", "1000"], cwd=daemon.path) as user:
        try:
            assert daemon.umount("--force").returncode == 0
        finally:
            user.kill()
    assert not is_mounted(daemon.path)
    # Aborted: it finds its mount there still, or not any more.
    assert daemon.exit_code() in (0, 79)


def test_no_fuse_has_a_code_of_its_own(stand_in: StandIn, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "place").mkdir()
    env = stand_in.env(tmp_path) | {"PATH": str(tmp_path / "bin")}
    for options in ([], ["-f"]):
        command = [*WBFS, "mount", *options, "--cache-dir", tmp_path / "cache"]
        assert run(*command, tmp_path / "place", env=env).returncode == 78


def test_a_mount_whose_path_is_not_utf8(start: Starter, tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"caf\xe9 \r \xe2\x80\xa8 \\134 of tests")
    odd.mkdir()
    daemon = start(path=odd / "mount")
    daemon.wait_until_mounted()
    other = start()
    other.wait_until_mounted()
    with (odd / "mount/.wbfs/status.json").open():
        done = daemon.umount()
        assert done.returncode == 1, done.stderr
        assert "is in use: leave it and close its files" in done.stderr
    for one in (other, daemon):
        done = one.umount()
        assert done.returncode == 0, done.stderr
        assert one.exit_code() == 0


def test_records(start: Starter) -> None:
    daemon = start()
    daemon.wait_until_mounted()
    [record] = records(daemon)
    assert record.stat().st_mode & 0o777 == 0o600
    assert record.parent.stat().st_mode & 0o777 == 0o700
    daemon.process.kill()
    daemon.exit_code()
    assert records(daemon) == [record]
    again = start()
    again.wait_until_mounted()
    assert len(records(again)) == 1
    assert again.umount().returncode == 0
    assert again.exit_code() == 0
    assert records(again) == []


def test_records_that_can_not_be_read(start: Starter) -> None:
    daemon = start()
    daemon.wait_until_mounted()
    [record] = records(daemon)
    # As where another daemon removes its own at that moment.
    odd = record.with_name(record.name.removesuffix(".json") + "1.json")
    odd.symlink_to("nowhere")
    other = start(path=daemon.path.with_name("other"))
    other.wait_until_mounted()
    assert len(records(other)) == 3
    for one in (daemon, other):
        assert one.umount().returncode == 0
        assert one.exit_code() == 0
    assert records(daemon) == [odd]


def test_a_state_directory_that_others_may_write_to(start: Starter) -> None:
    daemon = start()
    daemon.wait_until_mounted()
    assert daemon.umount().returncode == 0
    folder = Path(daemon.env["XDG_STATE_HOME"], "wbfs/mounts")
    folder.chmod(0o777)
    daemon = start()
    daemon.wait_until_mounted()
    assert list(folder.iterdir()) == []
    assert "others may write to it" in daemon.log()
    done = run(*WBFS, "prefetch", daemon.path, env=daemon.env)
    assert "there is no record of the mount" in done.stderr
    # It is unmounted all the same; nobody waits for the daemon.
    assert daemon.umount().returncode == 0
    assert daemon.exit_code() == 0


def test_no_descriptor_is_left(start: Starter, small: str) -> None:
    daemon = start(small)
    daemon.wait_until_mounted()
    pid = daemon.process.pid
    assert (daemon.path / "0.txt").read_text() == "0"
    used = max(int(name) for name in os.listdir(f"/proc/{pid}/fd")) + 1
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 8, used + 8))
    opened = []
    with ExitStack() as files:
        for number in range(SMALL_FILES):
            try:
                file = files.enter_context((daemon.path / f"{number}.txt").open())
                opened.append(file.read())
            except OSError:
                break
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.exit_code() == 0, daemon.log()
    assert opened == [str(number) for number in range(len(opened))]
    assert len(opened) < SMALL_FILES
    assert not is_mounted(daemon.path)


def test_who_waits_gets_an_answer(start: Starter, stand_in: StandIn, waiting: str) -> None:
    for number in SIGNALS:
        daemon = start(waiting)
        daemon.wait_until_mounted()
        stand_in.clear_requests()
        with (
            stand_in.faults(port="files", match="^/wandb_artifacts/", stall=True),
            subprocess.Popen(["cat", daemon.path / "large.bin"], stdout=subprocess.DEVNULL) as user,
        ):
            wait_until(lambda: stand_in.requests(port="files", method="GET"), what="a read waits")
            daemon.process.send_signal(number)
            assert daemon.exit_code() == 0, daemon.log()
            assert user.wait(END_TIMEOUT_S) == 1
        assert not is_mounted(daemon.path)
