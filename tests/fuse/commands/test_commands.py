"""`wbfs mount` and `wbfs umount`: what they refuse, in one line, and that they leave nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import Mounter
from mount_table import mounted_at
from mounts import COMMAND_TIMEOUT_S, DEFECTS, WBFS, Mount, check, run, wait_until
from stand_in import StandIn


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return an empty directory to mount on."""
    path = tmp_path / "place"
    path.mkdir()
    return path


def refused(
    path: Path,
    env: Mapping[str, str],
    *options: str | Path,
    words: str,
    code: int = 2,
) -> None:
    """Check that mounting fails with one line that has `words`, and leaves nothing behind."""
    cache = path.parent / "cache-of-refused"
    command = [*WBFS, "mount", "--cache-dir", cache, "--log-file", path.parent / "log"]
    done = run(*command, *options, path, env=env)
    assert done.returncode == code
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("wbfs: ")
    assert words in lines[0]
    assert "fuse.wbfs" not in [row.kind for row in mounted_at(path)]
    left = ["pgrep", "-f", str(cache)]
    wait_until(lambda: run(*left).stdout == "", what="no process of it is left")


def test_wrong_key(stand_in: StandIn, place: Path, tmp_path: Path) -> None:
    env = stand_in.env(tmp_path, "f" * 40)
    refused(place, env, words="wandb login", code=77)
    assert "f" * 40 not in (tmp_path / "log").read_text()


def test_no_key(stand_in: StandIn, place: Path, tmp_path: Path) -> None:
    env = {name: value for name, value in stand_in.env(tmp_path).items() if name != "WANDB_API_KEY"}
    refused(place, env, words="wandb login", code=77)


def test_unreachable_server(stand_in: StandIn, place: Path, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        env = stand_in.env(tmp_path) | {"WANDB_BASE_URL": f"http://127.0.0.1:{port}"}
        refused(place, env, words=f"127.0.0.1:{port}", code=1)


def test_missing_fusermount(stand_in: StandIn, place: Path, tmp_path: Path) -> None:
    empty = tmp_path / "bin"
    empty.mkdir()
    env = stand_in.env(tmp_path) | {"PATH": str(empty)}
    refused(place, env, words="apt install fuse3", code=78)


def test_missing_mountpoint(stand_in: StandIn, tmp_path: Path) -> None:
    refused(tmp_path / "nothing", stand_in.env(tmp_path), words="mkdir -p")


def test_a_file_is_no_mountpoint(stand_in: StandIn, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused(tmp_path / "file", stand_in.env(tmp_path), words="is not a directory")
    assert (tmp_path / "file").read_text() == "x"


def test_mountpoint_that_is_not_empty(stand_in: StandIn, place: Path, tmp_path: Path) -> None:
    (place / "precious").write_text("x")
    refused(place, stand_in.env(tmp_path), words="is not empty")
    assert (place / "precious").read_text() == "x"


def test_cache_inside_the_mountpoint(stand_in: StandIn, place: Path, tmp_path: Path) -> None:
    env = stand_in.env(tmp_path)
    refused(place, env, "--cache-dir", place / "cache", words="inside the mountpoint")
    refused(place, env, "--log-file", place / "log", words="inside the mountpoint")
    (tmp_path / "link").symlink_to(place)
    refused(place, env, "--cache-dir", tmp_path / "link" / "cache", words="inside the mountpoint")
    assert list(place.iterdir()) == []


def test_places_that_cannot_be_written(stand_in: StandIn, place: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    env = stand_in.env(tmp_path)
    refused(
        place, env, "--cache-dir", tmp_path / "file" / "cache", words="can't use the cache folder"
    )
    refused(place, env, "--log-file", tmp_path / "file" / "log", words="can't log to")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--timeout", "nan"),
        ("--timeout", "inf"),
        ("--alias-ttl", "nan"),
        ("--uid", "-1"),
        ("--gid", str((1 << 32) - 1)),
        ("--umask", "-1"),
        ("--manifest-limit", "0"),
    ],
)
def test_wrong_use(stand_in: StandIn, place: Path, tmp_path: Path, option: str, value: str) -> None:
    command = [*WBFS, "mount", "--cache-dir", tmp_path / "cache", option, value, place]
    done = run(*command, env=stand_in.env(tmp_path))
    assert done.returncode == 2, done.stderr
    assert f"Invalid value for '{option}'" in done.stderr
    assert not os.path.ismount(place)


def test_a_log_is_named_after_any_path(stand_in: StandIn, tmp_path: Path) -> None:
    long = tmp_path / "/".join(["数" * 80] * 3)
    done = run(*WBFS, "mount", "--cache-dir", tmp_path / "c", long, env=stand_in.env(tmp_path))
    assert "does not exist" in done.stderr


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ("no-such-entity", 77, "there is no 'no-such-entity'"),
        ("a/b/c/d", 2, "has 4 parts"),
        ("artifact:", 2, "an alias behind"),
    ],
)
def test_sources_that_are_not_there(
    stand_in: StandIn, place: Path, tmp_path: Path, source: str, code: int, words: str
) -> None:
    refused(place, stand_in.env(tmp_path), source, words=words, code=code)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a volume")
def test_a_volume_of_its_own_is_mounted_on(place: Path, mounter: Mounter) -> None:
    check("mount", "-t", "tmpfs", "none", place)
    try:
        mount = mounter(path=place)
        assert os.listdir(place)
        mount.umount()
        assert os.listdir(place) == []
        # As long as nothing is in it.
        (place / "precious").write_text("x")
        refused(place, mount.env, words="is not empty")
    finally:
        check("umount", place)


def test_already_mounted(mounter: Mounter, stand_in: StandIn, tmp_path: Path) -> None:
    mount = mounter()
    command = [*WBFS, "mount", "--cache-dir", tmp_path / "cache", mount.path]
    done = run(*command, env=stand_in.env(tmp_path))
    assert done.returncode == 1
    assert f"wbfs umount {mount.path}" in done.stderr
    assert mount.is_alive()
    assert os.listdir(mount.path)


@pytest.mark.promises("9.4")
def test_stale_mountpoint_is_cleaned_up(mounter: Mounter, tmp_path: Path) -> None:
    mount = mounter()
    mount.kill()
    done = run("df", mount.path)
    assert "Transport endpoint is not connected" in done.stderr
    again = mounter(path=mount.path)
    assert os.listdir(again.path)
    again.umount()
    assert os.listdir(again.path) == []


@pytest.mark.promises("9.3")
def test_umount_waits_for_the_daemon(mounter: Mounter) -> None:
    mount = mounter()
    mount.umount()
    assert not mount.is_alive()
    assert not os.path.ismount(mount.path)
    done = run(*WBFS, "umount", mount.path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"wbfs: wbfs is not mounted at {mount.path}")


def test_umount_of_a_stale_mountpoint(mounter: Mounter) -> None:
    mount = mounter()
    mount.kill()
    mount.umount()
    assert os.listdir(mount.path) == []


def patient_wbfs(name: str) -> tuple[str, ...]:
    """Return a `wbfs` for which a moment is as long as it may be where the machine is busy."""
    program = "from wbfs.daemon.mounts import taking_down; from wbfs.cli.main import main;"
    return (sys.executable, "-c", f"{program} taking_down.{name} = 40.0; main()")


def test_umount_while_in_use(mounter: Mounter) -> None:
    mount = mounter()
    with subprocess.Popen(["sleep", "1000"], cwd=mount.path) as user:
        try:
            done = run(*WBFS, "umount", mount.path)
            assert done.returncode == 1
            assert "is in use" in done.stderr
            assert mount.is_alive()
            check(*WBFS, "umount", "--lazy", mount.path)
            assert not os.path.ismount(mount.path)
        finally:
            user.kill()
    wait_until(lambda: not mount.is_alive(), what="the daemon ends with its last user")


def test_umount_of_what_somebody_looks_at(mounter: Mounter) -> None:
    mount = mounter()
    with subprocess.Popen(["sleep", "3"], cwd=mount.path):
        check(*patient_wbfs("IN_USE_S"), "umount", mount.path, env=mount.env)
    assert not mount.is_alive()


@contextmanager
def namespace_with_a_copy(mount: Mount, seconds: int) -> Iterator[int]:
    """Have a process, for so long, in a namespace with a copy of this mount and of no other's.

    Another test's may hang, so that nothing may look at it.
    """
    if os.getuid() != 0:
        pytest.skip("only root may make a namespace")
    script = """
        grep ' fuse.wbfs ' /proc/self/mounts | cut -d ' ' -f 2 | while read -r path; do
            [ "$path" = "$0" ] || umount -l -c -i "$path"
        done
        exec sleep "$1"
    """
    command = ["unshare", "--mount", "sh", "-c", script, str(mount.path), str(seconds)]
    with subprocess.Popen(command) as other:
        try:
            comm = Path(f"/proc/{other.pid}/comm")
            wait_until(lambda: comm.read_text() == "sleep\n", what="it has a copy")
            yield other.pid
        finally:
            other.kill()


def test_umount_while_another_namespace_has_a_copy(mounter: Mounter) -> None:
    mount = mounter()
    with namespace_with_a_copy(mount, 1000) as pid:
        done = run(*WBFS, "umount", mount.path, env=mount.env)
    assert done.returncode == 1
    assert f"is unmounted, but not where process {pid} is" in done.stderr
    assert f"(process {mount.pid})" in done.stderr
    wait_until(lambda: not mount.is_alive(), what="the daemon ends with the last copy")


def test_umount_while_another_namespace_has_a_copy_for_a_moment(mounter: Mounter) -> None:
    mount = mounter()
    with namespace_with_a_copy(mount, 3):
        check(*patient_wbfs("MOMENT_S"), "umount", mount.path, env=mount.env)
    assert not mount.is_alive()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_unmount(mounter: Mounter, number: signal.Signals) -> None:
    mount = mounter()
    os.kill(mount.pid, number)
    wait_until(lambda: not mount.is_alive(), what="the daemon ends")
    assert not os.path.ismount(mount.path)
    assert "unmounting" in mount.log()


def test_a_link_to_the_mountpoint(mounter: Mounter, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    mount = mounter(path=tmp_path / "link")
    assert os.path.ismount(tmp_path / "real")
    mount.umount()
    assert not os.path.ismount(tmp_path / "real")


def test_foreground(stand_in: StandIn, place: Path, tmp_path: Path) -> None:
    command = [*WBFS, "mount", "-f", "--cache-dir", tmp_path / "cache", place]
    log = tmp_path / "stderr"
    with log.open("wb") as stderr:
        daemon = subprocess.Popen(
            list(map(str, command)), env=stand_in.env(tmp_path), stderr=stderr
        )
    try:
        wait_until(lambda: "is mounted on" in log.read_text(), what="it says that it is mounted")
        assert os.listdir(place)
        daemon.send_signal(signal.SIGINT)
        assert daemon.wait(COMMAND_TIMEOUT_S) == 0
        assert "SIGINT: unmounting" in log.read_text()
        assert not os.path.ismount(place)
    finally:
        daemon.kill()
        daemon.wait(COMMAND_TIMEOUT_S)
        run("fusermount3", "-u", "-z", place)


@pytest.mark.promises("9.1")
def test_the_daemon_lets_go_of_its_starter(mounter: Mounter, tmp_path: Path) -> None:
    # Its output is captured by a pipe: had the daemon kept it, `run` would not return.
    mount = mounter()
    assert os.readlink(f"/proc/{mount.pid}/fd/0") == "/dev/null"
    assert os.readlink(f"/proc/{mount.pid}/cwd") == "/"
    assert os.getsid(mount.pid) == mount.pid
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_no_mount_is_left_by_a_starter_that_was_killed(
    stand_in: StandIn, place: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    command = [*WBFS, "mount", "--cache-dir", tmp_path / "cache", "--log-file", log, place]
    with stand_in.faults(port="api", delay_s=10.0):
        stand_in.clear_requests()
        starter = subprocess.Popen(list(map(str, command)), env=stand_in.env(tmp_path))
        wait_until(lambda: stand_in.requests(port="api"), what="it logs in")
        starter.kill()
        starter.wait(COMMAND_TIMEOUT_S)
    wait_until(lambda: "is unmounted" in log.read_text(), what="it is unmounted")
    assert "has ended before it was ready" in log.read_text()
    assert not DEFECTS.search(log.read_text())
    assert not os.path.ismount(place)


def test_help_has_examples() -> None:
    for command in ([], ["mount"], ["umount"], ["devserver"]):
        text = check(*WBFS, *command, "--help")
        assert "Example" in text
        assert f"wbfs {' '.join(command)}".strip() in text
