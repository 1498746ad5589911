"""A mount under a supervisor: what it is told, and what the environment alone can say."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemons import END_TIMEOUT_S
from mounts import WBFS, check, run, wait_until
from stand_in import StandIn

WATCHED_S = 1.0


@contextmanager
def front(
    env: dict[str, str], tmp_path: Path, *words: str | Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run `wbfs mount` in front, with a mount at tmp_path/"mount" perhaps; take it down."""
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*WBFS, "mount", *map(str, words)],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield process
    finally:
        run("fusermount3", "-u", "-z", tmp_path / "mount")
        process.kill()
        process.wait(END_TIMEOUT_S)
        print((tmp_path / "log").read_text())


def wait_for_mount(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    log = tmp_path / "log"
    wait_until(
        lambda: "is mounted on" in log.read_text() or process.poll() is not None,
        what="it is mounted",
    )
    assert process.poll() is None, log.read_text()


@pytest.mark.parametrize("is_file", [True, False])
def test_a_supervisor_is_told(stand_in: StandIn, tmp_path: Path, is_file: bool) -> None:
    name = str(tmp_path / "notify") if is_file else f"@wbfs-notify-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(name if is_file else f"\0{name[1:]}")
        notified.settimeout(END_TIMEOUT_S)
        env = stand_in.env(tmp_path / "home") | {
            "NOTIFY_SOCKET": name,
            "WATCHDOG_USEC": str(int(WATCHED_S * 1e6)),
        }
        words = ("-f", "--make-dir", "--cache-dir", tmp_path / "cache", tmp_path / "mount")
        with front(env, tmp_path, *words) as process:
            ready, status = notified.recv(4096).decode().splitlines()
            assert ready == "READY=1"
            assert status == f"STATUS=everything is mounted on {tmp_path}/mount"
            assert os.path.ismount(tmp_path / "mount")
            for _ in range(3):
                assert notified.recv(4096) == b"WATCHDOG=1"
            process.send_signal(signal.SIGTERM)
            while (message := notified.recv(4096)) == b"WATCHDOG=1":
                pass
            assert message == b"STOPPING=1\nSTATUS=unmounting"
            assert process.wait(END_TIMEOUT_S) == 0


def test_nobody_is_told_in_the_background(stand_in: StandIn, tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as notified:
        notified.bind(str(tmp_path / "notify"))
        env = stand_in.env(tmp_path / "home") | {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        # A service that mounts for itself would be taken for ready.
        check(*WBFS, "mount", "--cache-dir", tmp_path / "cache", tmp_path / "mount", env=env)
        check(*WBFS, "umount", tmp_path / "mount", env=env)
        with pytest.raises(BlockingIOError):
            notified.recv(4096)


def test_by_the_environment_alone(stand_in: StandIn, tmp_path: Path) -> None:
    env = stand_in.env(tmp_path / "home")
    (tmp_path / "key").write_text(env.pop("WANDB_API_KEY") + "\n")
    env |= {
        "WBFS_FOREGROUND": "1",
        "WBFS_SOURCE": "admin",
        "WBFS_MOUNTPOINT": str(tmp_path / "some/where/mount"),
        "WBFS_MAKE_DIR": "1",
        "WBFS_TOKEN_FILE": str(tmp_path / "key"),
        "WBFS_CACHE_DIR": str(tmp_path / "cache"),
        "WBFS_CACHE_SIZE": "1GB",
        "WBFS_ALIAS_TTL": "7",
        "WBFS_UMASK": "022",
        "WBFS_PIN": "true",
        # As Kubernetes tells of a service named wbfs-metrics.
        "WBFS_METRICS_PORT": "tcp://10.0.0.1:9170",
    }
    with front(env, tmp_path) as process:
        wait_for_mount(process, tmp_path)
        path = tmp_path / "some/where/mount"
        try:
            status = (path / ".wbfs/status.json").read_text()
            for words in ('"source": "admin"', '"limit_bytes": 1000000000', '"alias_ttl_s": 7.0'):
                assert words in status
            assert '"pin": true' in status
            # Words go before it.
            done = run(*WBFS, "mount", path, env=env)
            assert done.returncode == 1
            assert f"{path} is a mount of wbfs already" in done.stderr
        finally:
            check(*WBFS, "umount", path, env=env)
        assert process.wait(END_TIMEOUT_S) == 0
    done = run(*WBFS, "mount", env=env | {"WBFS_MOUNTPOINT": "", "WBFS_CACHE_SIZE": "much"})
    assert done.returncode == 2
    done = run(*WBFS, "mount", env=env | {"WBFS_MOUNTPOINT": ""})
    assert done.returncode == 2
    assert "Missing argument '[SOURCE] MOUNTPOINT'" in done.stderr


def test_the_first_process_stays_in_front(stand_in: StandIn, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root may have processes of its own numbers")
    env = stand_in.env(tmp_path / "home")
    (tmp_path / "mount").mkdir()
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    words = ["mount", "--cache-dir", tmp_path / "cache", tmp_path / "mount"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "sh", "-c", 'exec "$@"', "sh", *WBFS, *map(str, words)],
            env=env,
            stdout=log,
            stderr=log,
        )
    try:
        wait_for_mount(process, tmp_path)
    finally:
        process.kill()
        process.wait(END_TIMEOUT_S)


def key_of(env: dict[str, str]) -> str:
    return env.pop("WANDB_API_KEY")


def test_a_key_in_a_file_is_read_again(stand_in: StandIn, tmp_path: Path) -> None:
    env = stand_in.env(tmp_path / "home")
    key = key_of(env)
    (tmp_path / "mount").mkdir()
    file = tmp_path / "key"
    command = [*WBFS, "mount", "--cache-dir", tmp_path / "cache"]
    command += ["--token-file", file, tmp_path / "mount"]
    done = run(*command, env=env)
    assert done.returncode == 77
    assert f"can't read the API key {file}: No such file or directory" in done.stderr
    file.write_text("x" * 40)
    assert run(*command, env=env).returncode == 77
    file.write_text(key)
    done = run(*command, env=env | {"WANDB_API_KEY": key})
    assert done.returncode == 77
    assert "both WANDB_API_KEY and WBFS_TOKEN_FILE are set" in done.stderr
    # netrc has another one.
    (tmp_path / "netrc").write_text(
        f"machine {stand_in.base_url.removeprefix('http://')} login user password {'y' * 40}\n"
    )
    check(*command, env=env | {"NETRC": str(tmp_path / "netrc")})
    try:
        pid = run("pgrep", "-f", f"{tmp_path}/cache").stdout.split()
        assert not any(key.encode() in Path(f"/proc/{one}/environ").read_bytes() for one in pid)
        assert "admin" in os.listdir(tmp_path / "mount")
        # What it says then is what counts once the server refuses what it said before.
        for text, is_right in (("z" * 40, False), (key, True)):
            file.write_text(text)
            with stand_in.faults(port="api", first=1, error_share=1.0, error_status=401):
                done = run("ls", tmp_path / "mount/admin")
            assert (done.returncode == 0) is is_right, done.stderr
            assert is_right or "Permission denied" in done.stderr
    finally:
        check(*WBFS, "umount", tmp_path / "mount", env=env)


def test_systemds_credentials(stand_in: StandIn, tmp_path: Path) -> None:
    env = stand_in.env(tmp_path / "home")
    key = key_of(env)
    (tmp_path / "mount").mkdir()
    (tmp_path / "wandb-api-key").write_text(f"{key}\n")
    env["CREDENTIALS_DIRECTORY"] = str(tmp_path)
    command = [*WBFS, "mount", "--cache-dir", tmp_path / "cache", tmp_path / "mount"]
    check(*command, env=env)
    check(*WBFS, "umount", tmp_path / "mount", env=env)
    # The user's own word goes before it.
    done = run(*command, env=env | {"WANDB_API_KEY": "x" * 40})
    assert done.returncode == 77
