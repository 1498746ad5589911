"""The demo itself; scripts/demo sets up what it needs and calls it."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from demo_data import fetch_data

ROOT = Path(__file__).parent.parent
STATE = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "wbfs-demo"
MOUNT = STATE / "artifacts"
USER = "ada"
PROJECT = f"{USER}/first-steps"
WAIT_S = 30.0
LOG_TIMEOUT_S = 180.0
COMMAND_TIMEOUT_S = 60.0


class CheckFailed(Exception):
    """What the demo showed is not what it should be."""


def expect(condition: bool, what: str) -> None:
    """Raise CheckFailed, with what was expected, where it isn't so."""
    if not condition:
        raise CheckFailed(what)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll until it is so; raise CheckFailed after the deadline."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        expect(time.monotonic() < deadline, f"within {WAIT_S:.0f} s: {what}")
        time.sleep(0.05)


def title(text: str) -> None:
    """Print a heading."""
    print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n{text}", flush=True)


def show(*command: str) -> str:
    """Print a command as one would type it, run it, print and return its output."""
    home, mount = str(Path.home()), str(MOUNT)
    words = [word.replace(mount, "artifacts").replace(home, "~") for word in command]
    print("$ " + " ".join(map(shlex.quote, words)), flush=True)
    done = subprocess.run(
        command,
        cwd=STATE,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    print(done.stdout, end="", flush=True)
    expect(done.returncode == 0, f"{words} exits with 0, and not {done.returncode}")
    return done.stdout


class Demo:
    """The server and the mount in the state folder."""

    def __init__(self) -> None:
        self.server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Take down what an earlier demo left, then start the server and log the artifacts."""
        stop()
        shutil.rmtree(STATE, ignore_errors=True)
        MOUNT.mkdir(parents=True)
        data = STATE / "data"
        print("Getting a few small real datasets and a model ...", flush=True)
        fetch_data(data, ROOT / ".venv" / "demo-downloads")

        title("A stand-in for the W&B server, on loopback")
        server_dir = STATE / "server"
        with (STATE / "server.log").open("wb") as log:
            command = ["wbfs", "devserver", "--data-dir", str(server_dir), "--port", "0"]
            self.server = subprocess.Popen(
                [*command, "--user", USER],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (STATE / "server.pid").write_text(str(self.server.pid))
        addresses = server_dir / "devserver.json"
        wait_until(
            lambda: "WANDB_API_KEY" in (STATE / "server.log").read_text(), "the server starts"
        )
        base_url = json.loads(addresses.read_text())["base_url"]
        key = (server_dir / "api-key").read_text().strip()
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            del os.environ[name]
        os.environ.update(
            WANDB_BASE_URL=base_url,
            WANDB_API_KEY=key,
            WANDB_DIR=str(STATE),
            WANDB_CACHE_DIR=str(STATE / "wandb-cache"),
            WANDB_DATA_DIR=str(STATE / "wandb-data"),
            WANDB_CONFIG_DIR=str(STATE / "wandb-config"),
            WANDB_SILENT="true",
            WANDB_ERROR_REPORTING="false",
            WBFS_CACHE_DIR=str(STATE / "cache"),
        )
        env_file = STATE / "env"
        env_file.write_text(
            f"export WANDB_BASE_URL={base_url}\n"
            f"export WANDB_API_KEY=$(cat {shlex.quote(str(server_dir / 'api-key'))})\n"
        )
        print(f"It answers at {base_url}. The wandb SDK logs artifacts to it ...", flush=True)
        subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "demo_log.py"), str(data)],
            stdin=subprocess.DEVNULL,
            timeout=LOG_TIMEOUT_S,
            check=True,
        )

    def fetched(self) -> tuple[int, int]:
        """Return how many files and bytes the mount has fetched."""
        fetched = json.loads((MOUNT / ".wbfs" / "status.json").read_text())["fetched"]
        return fetched["fetched_files"], fetched["fetched_bytes"]

    def look_around(self) -> None:
        """Mount, look, read, copy; say what was downloaded, and check it."""
        title("Mount everything that this user may see")
        show("wbfs", "mount", str(MOUNT))
        entities = show("ls", str(MOUNT)).split()
        expect(USER in entities, "the mount lists the user's own entity")
        artifacts = show("ls", f"{MOUNT}/{PROJECT}").split()
        expected = ["bike-dataset", "penguins", "speech-detector"]
        expect(set(expected) <= set(artifacts), f"the project lists {expected}")
        bikes = f"{MOUNT}/{PROJECT}/bike-dataset"
        names = show("ls", bikes).split()
        expect(
            set(names) == {"v0", "v1", "latest", "best", "small"},
            "bike-dataset has two versions and three aliases",
        )

        title("Looking downloads nothing")
        listed = show("ls", "-lR", f"{bikes}/latest")
        expect("bike.png" in listed and "rentals.csv" in listed, "latest has its files")
        usage = show("du", "-sh", "--apparent-size", f"{bikes}/latest")
        expect(bool(usage), "du answers")
        self.say_fetched()
        expect(self.fetched() == (0, 0), "listing has downloaded no file")

        title("Reading one folder downloads that folder")
        show("cp", "-r", f"{bikes}/latest/images/bikes", "copied-bikes")
        copied = show("ls", "-l", "copied-bikes")
        expect("1.png" in copied and "2.png" in copied, "the copies are there")
        self.say_fetched()
        pictures = [STATE / "data" / "images" / "bikes" / name for name in ("1.png", "2.png")]
        size = sum(path.stat().st_size for path in pictures)
        expect(self.fetched() == (2, size), f"just the folder's 2 files, {size} bytes, came")
        for path in pictures:
            copy = STATE / "copied-bikes" / path.name
            expect(copy.read_bytes() == path.read_bytes(), f"{path.name} is what was logged")

        title("What was read stays: other versions with the same file, and other mounts, have it")
        show("cmp", f"{bikes}/v1/images/bikes/1.png", f"{bikes}/small/images/bikes/1.png")
        self.say_fetched()
        expect(self.fetched() == (2, size), "the same content came only once")

        title("Any program can read it")
        head = show("head", "-n", "3", f"{MOUNT}/{PROJECT}/penguins/latest/penguins.csv")
        expect("bill_length_mm" in head, "penguins.csv has its columns")
        model = f"{MOUNT}/{PROJECT}/speech-detector/production/model.onnx"
        show(
            "python3",
            "-c",
            "import mmap, sys; f = open(sys.argv[1], 'rb');"
            " m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ); print(len(m), m[:16])",
            model,
        )
        attribute = (
            "import os, sys; [print(n, '=', os.getxattr(sys.argv[1], n).decode())"
            " for n in os.listxattr(sys.argv[1])]"
        )
        told = show("python3", "-c", attribute, f"{bikes}/best")
        expect("user.wandb.version = v1" in told, "the extended attributes tell the version")
        files, size = self.fetched()
        self.say_fetched()
        expect(files == 4 and size > 2_000_000, "the model and one more file came")

    def say_fetched(self) -> None:
        """Say what was downloaded so far, of how much."""
        everything = sum(
            path.stat().st_size for path in (STATE / "data").rglob("*") if path.is_file()
        )
        files, size = self.fetched()
        print(f"-> downloaded so far: {files} files, {size:,} of {everything:,} bytes", flush=True)

    def say_what_next(self) -> None:
        """Say what to try while it is all up."""
        wbfs = ROOT / ".venv" / "bin" / "wbfs"
        title("It is all still up. Try, for example")
        print(f"  ls -lR {MOUNT}/{PROJECT}")
        print(f"  cat {MOUNT}/.wbfs/status.json")
        print("\nMount a single artifact somewhere else:")
        print(f"  . {STATE}/env")
        print(f"  mkdir -p /tmp/bikes && {wbfs} mount {PROJECT}/bike-dataset:best /tmp/bikes")
        print(f"  ls /tmp/bikes && {wbfs} umount /tmp/bikes")
        print("\nYour own artifacts: `wandb login`, then")
        print(f"  mkdir -p ~/artifacts && {wbfs} mount ~/artifacts")
        print("\nTake the demo down:\n  scripts/demo --stop")


def stop() -> None:
    """Take down the mount and the server of the state folder, if they are up."""
    if os.path.ismount(MOUNT) or _is_dead_mount():
        umount = ["wbfs", "umount", str(MOUNT)]
        if subprocess.run(umount, timeout=WAIT_S, check=False).returncode:
            subprocess.run([*umount, "--lazy"], timeout=WAIT_S, check=True)
    pid_file = STATE / "server.pid"
    if not pid_file.exists():
        return
    pid = int(pid_file.read_text())
    command_line = Path(f"/proc/{pid}/cmdline")
    # The number may long be another program's.
    if command_line.exists() and str(STATE).encode() in command_line.read_bytes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not _is_running(pid), "the server ends")
    pid_file.unlink()


def _is_dead_mount() -> bool:
    try:
        os.stat(MOUNT)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _is_running(pid: int) -> bool:
    # Ours is a child that must be waited for; an earlier demo's is not.
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return Path(f"/proc/{pid}").exists()


def main() -> None:
    """Run the demo as asked for on the command line."""
    if "--stop" in sys.argv:
        stop()
        print("The demo is down.")
        return
    demo = Demo()
    try:
        demo.start()
        demo.look_around()
    except (CheckFailed, subprocess.SubprocessError) as error:
        stop()
        sys.exit(f"demo: not as expected: {error}")
    except BaseException:
        stop()
        raise
    if "--check" in sys.argv:
        stop()
        expect(not os.path.ismount(MOUNT), "the mount is down")
        shutil.rmtree(STATE)
        print("\nEverything was as expected, and is taken down.")
    else:
        demo.say_what_next()


if __name__ == "__main__":
    main()
