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
from typing import Any

import requests
from demo_data import fetch_data

from wbfs.daemon.mounts.table import mount_at, resolve

ROOT = Path(__file__).parent.parent
STATE = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "wbfs-demo"
MOUNT = STATE / "artifacts"
NARROW_MOUNT = STATE / "bikes"
USER = "ada"
PROJECT = f"{USER}/first-steps"
TEAM = "birds"
BIKES = f"artifacts/{PROJECT}/bike-dataset"
PENGUINS = f"artifacts/{TEAM}/field-work/penguins/latest"
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


def show(line: str) -> str:
    """Print a command line as one would type it, run it, print and return its output."""
    print(f"$ {line}", flush=True)
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=STATE,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    print(done.stdout, end="", flush=True)
    expect(done.returncode == 0, f"`{line}` exits with 0, and not {done.returncode}")
    return done.stdout


class Demo:
    """The server and the mounts in the state folder."""

    def start(self) -> None:
        """Take down what an earlier demo left, then start the server and log the artifacts."""
        stop()
        remove_state()
        MOUNT.mkdir(parents=True)
        NARROW_MOUNT.mkdir()
        self.data = STATE / "data"
        print("Getting a few small real datasets and a model ...", flush=True)
        fetch_data(self.data, ROOT / ".venv" / "demo-downloads")

        title("A stand-in for the W&B server, on loopback")
        for name in list(os.environ):
            # Neither another server's settings nor a proxy have to do with loopback.
            if name.startswith("WANDB_") or name.lower().endswith("_proxy"):
                del os.environ[name]
        self.server_dir = STATE / "server"
        with (STATE / "server.log").open("wb") as log:
            command = ["wbfs", "devserver", "--data-dir", str(self.server_dir), "--port", "0"]
            server = subprocess.Popen(
                [*command, "--user", USER],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (STATE / "server.pid").write_text(str(server.pid))
        wait_until(self.has_started, "the server starts")
        self.make_team()
        os.environ.update(
            WANDB_BASE_URL=self.base_url,
            WANDB_API_KEY=self.key,
            WANDB_DIR=str(STATE),
            WANDB_CACHE_DIR=str(STATE / "wandb-cache"),
            WANDB_DATA_DIR=str(STATE / "wandb-data"),
            WANDB_CONFIG_DIR=str(STATE / "wandb-config"),
            WANDB_SILENT="true",
            WANDB_ERROR_REPORTING="false",
            WBFS_CACHE_DIR=str(STATE / "cache"),
            # Where mounts log.
            XDG_STATE_HOME=str(STATE / "state"),
        )
        env_file = STATE / "env"
        env_file.write_text(
            f"export WANDB_BASE_URL={self.base_url}\n"
            f"export WANDB_API_KEY=$(cat {shlex.quote(str(self.server_dir / 'api-key'))})\n"
            f"export WBFS_CACHE_DIR={shlex.quote(str(STATE / 'cache'))}\n"
        )
        print(f"It answers at {self.base_url}. The wandb SDK logs artifacts to it ...", flush=True)
        subprocess.run(
            [sys.executable, str(ROOT / "scripts" / "demo_log.py"), str(self.data)],
            # Whoever logs is somewhere else: what is in their cache the mount would not fetch.
            env=os.environ | {"WANDB_CACHE_DIR": str(STATE / "logging-cache")},
            stdin=subprocess.DEVNULL,
            timeout=LOG_TIMEOUT_S,
            check=True,
        )

    def has_started(self) -> bool:
        """Return whether the server answers; its address and key are known then."""
        try:
            addresses = json.loads((self.server_dir / "devserver.json").read_text())
            self.base_url: str = addresses["base_url"]
            self.key = (self.server_dir / "api-key").read_text().strip()
            self.ask_server("ready")
        except (OSError, ValueError):
            return False
        return True

    def make_team(self) -> None:
        """Have the user be in a team, whose artifacts are another entity's."""
        teams = [{"name": TEAM, "members": {USER: "admin"}}]
        answer = requests.put(
            f"{self.base_url}/_devserver/accounts",
            json={"teams": teams},
            auth=("api", self.key),
            timeout=WAIT_S,
        )
        answer.raise_for_status()

    def ask_server(self, what: str) -> list[dict[str, object]]:
        """Return the server's answer about itself."""
        answer = requests.get(
            f"{self.base_url}/_devserver/{what}", auth=("api", self.key), timeout=WAIT_S
        )
        answer.raise_for_status()
        found: list[dict[str, object]] = answer.json()
        return found

    def look_around(self) -> None:
        """Mount, look, read, copy; say what was downloaded, and check it."""
        title("Mount everything that this user may see")
        show("wbfs mount artifacts")
        entities = show("ls artifacts").split()
        expect(entities == [USER, TEAM], "the mount lists the user's own entity, and their team")
        artifacts = show(f"ls artifacts/{PROJECT}").split()
        expected = ["bike-dataset", "speech-detector"]
        expect(artifacts == expected, f"the project lists {expected}")
        names = set(show(f"ls {BIKES}").split())
        expected = ["best", "latest", "small", "v0", "v1"]
        expect(
            names == set(expected), f"bike-dataset has two versions and their aliases {expected}"
        )

        title("Looking downloads nothing")
        listed = show(f"ls -lR {BIKES}/latest")
        expect("bike.png" in listed and "rentals.csv" in listed, "latest has its files")
        show(f"du -sh --apparent-size {BIKES}/latest")
        self.say_downloaded([])

        title("Reading one folder downloads that folder")
        show(f"cp -r {BIKES}/latest/images/bikes copied")
        show("ls -l copied")
        pictures = ["images/bikes/1.png", "images/bikes/2.png"]
        for name in pictures:
            logged, copied = self.data / name, STATE / "copied" / Path(name).name
            expect(copied.read_bytes() == logged.read_bytes(), f"{copied} is what was logged")
        self.say_downloaded(pictures)

        title("What was read stays: another version with the same file, and another mount, have it")
        show(f"cmp {BIKES}/small/images/bikes/1.png copied/1.png")
        show(f"wbfs mount {PROJECT}/bike-dataset:best/images bikes")
        show("cmp bikes/bikes/2.png copied/2.png")
        show("wbfs umount bikes")
        self.say_downloaded(pictures)

        title("Outside a run: any program can read it")
        head = show(f"cat {PENGUINS}/penguins.csv | head -n 3")
        expect("bill_length_mm" in head, "penguins.csv has its columns")
        model = show(
            'python3 -c "import mmap, sys; file = open(sys.argv[1]);'
            " print(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)[2:7])"
            f'" artifacts/{PROJECT}/speech-detector/production/model.onnx'
        )
        start = (self.data / "silero" / "model.onnx").read_bytes()[2:7]
        expect(model == f"{start!r}\n", f"the model's first bytes are {start!r}")
        told = show(
            'python3 -c "import os, sys; path = sys.argv[1];'
            " [print(name, '=', os.getxattr(path, name).decode()) for name in os.listxattr(path)]"
            f'" {BIKES}/best'
        )
        expect("user.wandb.version = v1" in told, "the extended attributes tell the version")
        self.say_downloaded([*pictures, "penguins/penguins.csv", "silero/model.onnx"])

        title("Inside a run: what it reads is its input, be it only a part")
        show("wbfs umount artifacts")
        show("wbfs mount --run auto artifacts")
        train = f"python {shlex.quote(str(ROOT / 'scripts' / 'demo_train.py'))}"
        run = show(f"{train} first-steps {BIKES}/best/images {PENGUINS}").split()[-1]
        show(f"wbfs use {PROJECT}/speech-detector:production --run {run}")

        title("From another project, and from another entity")
        other_run = show(f"{train} second-steps {PENGUINS} {BIKES}/small").split()[-1]
        expect(other_run.startswith(f"{USER}/second-steps/"), "the run is of another project")

        self.make_and_use(run)

        title("What became of it")
        wait_until(lambda: not self.status()["lineage"]["pending"], "the server knows all inputs")
        bikes, penguins = f"{PROJECT}/bike-dataset", f"{TEAM}/field-work/penguins:v0"
        for path, expected in (
            (run, [penguins, f"{bikes}:v1", f"{bikes}:v2", f"{PROJECT}/speech-detector:v0"]),
            (other_run, [penguins, f"{bikes}:v0"]),
        ):
            used = show(
                'python -c "import wandb; print(*(one.source_qualified_name for one in'
                f" wandb.Api().run('{path}').used_artifacts()))\""
            )
            expect(sorted(used.split()) == sorted(expected), f"the run has the inputs {expected}")

    def make_and_use(self, run: str) -> None:
        """Make a version that repeats another one, and have it be an input of the run."""
        title("Created and used at once: what it repeats is neither read nor uploaded again")
        show(f'cp -rs --no-preserve=mode "$PWD/{BIKES}/best" derived')
        show("echo picture,label >derived/labels.csv")
        seen = len(self.ask_server("requests"))
        put = f"wbfs put derived {PROJECT}/bike-dataset --type dataset --alias labelled --use {run}"
        name = f"{PROJECT}/bike-dataset:v2\n"
        expect(show(put) == name, "the version is new")
        expect("labels.csv" in show(f"ls {BIKES}/labelled"), "the mount shows it at once")
        moved = [
            f"{request['method']} {request['bytes_sent']}"
            for request in self.ask_server("requests")[seen:]
            if str(request["key"]).startswith("wandb_artifacts/")
        ]
        expect(moved == ["PUT 0"], f"just labels.csv was uploaded, and nothing read: {moved}")
        expect(show(put) == name, "twice is once")

    def status(self) -> dict[str, Any]:
        """Return what the mount says of itself."""
        status: dict[str, Any] = json.loads((MOUNT / ".wbfs" / "status.json").read_text())
        return status

    def say_downloaded(self, expected: list[str]) -> None:
        """Say which files the server has sent so far and which not, by its own log; check it."""
        sizes = {
            str(path.relative_to(self.data)): path.stat().st_size
            for path in sorted(self.data.rglob("*"))
            if path.is_file()
        }
        sent = [
            request["bytes_sent"]
            for request in self.ask_server("requests")
            if request["method"] == "GET" and str(request["key"]).startswith("wandb_artifacts/")
        ]
        # No two of the files have the same size.
        downloaded = [name for name, size in sizes.items() if size in sent]
        total = sum(sizes[name] for name in downloaded)
        rest = [name for name in sizes if name not in downloaded]
        print(
            f"-> the server has sent {len(sent)} files, {total:,} of {sum(sizes.values()):,} bytes"
        )
        print(f"   downloaded:     {' '.join(downloaded) or '-'}")
        print(f"   not downloaded: {' '.join(rest)}", flush=True)
        expect(sorted(downloaded) == sorted(expected), f"just {expected} were downloaded")
        expect(len(sent) == len(expected), "each file was downloaded once")
        fetched = self.status()["fetched"]
        expect(fetched["fetched_bytes"] == total, f"status.json counts {total} fetched bytes")

    def say_what_next(self) -> None:
        """Say what to try while it is all up."""
        programs = ROOT / ".venv" / "bin"
        wbfs, wandb = (shlex.quote(str(programs / name)) for name in ("wbfs", "wandb"))
        mount, env_file = (shlex.quote(str(path)) for path in (MOUNT, STATE / "env"))
        title("It is all still up. Try, for example")
        print(f"  ls -lR {mount}/{PROJECT}")
        print(f"  cat {mount}/.wbfs/status.json")
        print("\nMount a single artifact somewhere else:")
        print(f"  . {env_file}")
        print(f"  mkdir -p /tmp/bikes && {wbfs} mount {PROJECT}/bike-dataset:best /tmp/bikes")
        print(f"  ls /tmp/bikes && {wbfs} umount /tmp/bikes")
        print("\nYour own artifacts, in a terminal that knows nothing of the demo's server:")
        print(f"  {wandb} login")
        print(f"  mkdir -p ~/artifacts && {wbfs} mount ~/artifacts")
        print("\nTake the demo down:\n  scripts/demo --stop")


def stop() -> None:
    """Take down the mounts and the server of the state folder, if they are up.

    Raises CheckFailed where a mount stays, once all else is down.
    """
    staying = [str(mount) for mount in (NARROW_MOUNT, MOUNT) if not _unmounts(mount)]
    _stop_server()
    expect(not staying, f"{' and '.join(staying)} is unmounted")


def _unmounts(path: Path) -> bool:
    command = ["wbfs", "umount", str(path)]
    for attempt in (command, [*command, "--lazy"]):
        if mount_at(resolve(path)) is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(attempt, timeout=WAIT_S, check=False)
    return mount_at(resolve(path)) is None


def _stop_server() -> None:
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


def remove_state() -> None:
    """Remove the state folder, what was copied from a mount too: that is as read-only as there."""
    for folder, _, _ in os.walk(STATE):
        os.chmod(folder, 0o700)
    if STATE.exists():
        shutil.rmtree(STATE)


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    # A zombie has ended too; in a container nobody may wait for it.
    return state != "Z"


def say_logs() -> None:
    """Print the end of each log, for whoever looks into a failure."""
    for log in (STATE / "server.log", *STATE.glob("state/wbfs/*.log")):
        if log.exists():
            print(
                f"\nThe end of {log}:\n{log.read_text(errors='replace')[-3000:]}", file=sys.stderr
            )


def main() -> None:
    """Run the demo as asked for on the command line."""
    if "--stop" in sys.argv:
        stop()
        print("The demo is down.")
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    demo = Demo()
    try:
        demo.start()
        demo.look_around()
    except BaseException as error:
        try:
            stop()
        finally:
            # What went wrong first is what is told of.
            if isinstance(error, (CheckFailed, subprocess.SubprocessError)):
                say_logs()
                raise error from None
        raise
    if "--check" in sys.argv:
        stop()
        remove_state()
        print("\nEverything was as expected, and is taken down.")
    else:
        demo.say_what_next()


if __name__ == "__main__":
    try:
        main()
    except (CheckFailed, subprocess.SubprocessError) as error:
        sys.exit(f"demo: not as expected: {error}")
