"""A trainer with runs, which reads through a mount in every way. Argument: the artifacts' folder.

It prints what it is asked to tell as JSON: its runs' ids by what they did.
"""

from __future__ import annotations

import datetime
import json
import logging.config
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import reading

EPOCHS = 3
WORKERS = 8
FOLDER_SECONDS = 100
"""Seconds in which a run that begins finds a folder of its name."""
LOOKED_AT_S = 100.0


def wait_until_noted(data: Path, count: int) -> None:
    """Wait until the mount has noted so many inputs: who reads goes on until it was looked at."""
    wait_for(data, lambda lineage: lineage["recorded"] + lineage["pending"] >= count)


def read_until_noted(data: Path, name: str, count: int) -> None:
    """Read a version until the mount has noted so many inputs.

    What the thread has read a moment ago, in another run, is not looked at again at once.
    """

    def is_noted(lineage: dict[str, Any]) -> bool:
        noted: bool = lineage["recorded"] + lineage["pending"] >= count
        if not noted:
            reading.read(str(data / name))
        return noted

    reading.read(str(data / name))
    wait_for(data, is_noted)


def wait_for(data: Path, is_so: Callable[[dict[str, Any]], bool]) -> None:
    """Wait for what the mount says of inputs."""
    deadline = time.monotonic() + LOOKED_AT_S
    while True:
        lineage = json.loads((data.parents[1] / ".wbfs/status.json").read_text())["lineage"]
        if is_so(lineage):
            return
        assert time.monotonic() < deadline, lineage
        time.sleep(0.1)


def load(method: str, folder: str, workers: int = 2) -> None:
    """Read with workers, as a DataLoader has them."""
    context = multiprocessing.get_context(method)
    processes = [
        context.Process(target=reading.read, args=(folder, EPOCHS)) for _ in range(workers)
    ]
    for one in processes:
        one.start()
    for one in processes:
        one.join()
        assert one.exitcode == 0


def read_in_every_way(data: Path) -> None:
    thread = threading.Thread(target=reading.read, args=(str(data / "thread/latest"),))
    thread.start()
    thread.join()
    reading.fork(str(data / "fork/v0"))
    reading.map_pages(str(data / "mapped/latest"))
    load("fork", str(data / "fork-workers/latest"), WORKERS)
    load("spawn", str(data / "spawn-workers/latest"))
    load("forkserver", str(data / "forkserver-workers/latest"))
    folder = str(data / "subprocess/latest")
    subprocess.run([sys.executable, "-c", f"open({folder!r} + '/0.txt').read()"], check=True)
    # By a link, which is the same artifact as that of another name.
    subprocess.run(["cat", data.parent / "links/linked/latest/0.txt"], stdout=-3, check=True)
    subprocess.run(
        ["sh", "-c", f"tar cf - {data}/piped/latest 2>&1 | wc -c"], stdout=-3, check=True
    )
    # By a version of another entity's; in a PID namespace of its own; and with another run's name.
    other = data.parent.parent / "my-team/my-project/bike-dataset/v3/images/bikes/1.png"
    subprocess.run(["cat", other], stdout=-3, check=True)
    command = ["unshare", "--pid", "--fork"] if os.getuid() == 0 else []
    subprocess.run([*command, "cat", data / "namespace/v0/0.txt"], stdout=-3, check=True)
    with subprocess.Popen(
        ["sh", "-c", 'cat "$0" && read -r _', data / "agent/v0/0.txt"],
        env=os.environ | {"WANDB_RUN_ID": "agent", "WANDB_PROJECT": "training"},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    ):
        # All that was read before, too.
        wait_until_noted(data, 13)
    for line in ("ls -lR", "find -size +1c", "stat -t"):
        command = [*line.split()[:1], data / "listed/latest", *line.split()[1:]]
        subprocess.run(command, stdout=-3, check=True)


def train(data: Path, name: str) -> None:
    """Read in a run of that name."""
    import wandb

    with wandb.init(project="training", id=name):
        read_until_noted(data, "piped/v0", 18)


def main() -> None:
    import wandb

    data = Path(sys.argv[1])
    runs = {}
    reading.read(str(data / "before/latest"))
    with wandb.init(project="training") as run:
        runs["every way"] = run.id
        read_in_every_way(data)
        own = wandb.Artifact("own", type="dataset")
        with own.new_file("0.txt") as file:
            file.write("its own")
        run.log_artifact(own).wait()
        reading.read(str(data.parent / "training/own/v0"))
    # What it has logged itself is left out, and counts no more.
    wait_for(data, lambda lineage: (lineage["recorded"], lineage["pending"]) == (13, 0))
    # Runs in succession, for which the same thread reads the same.
    for noted, what in ((14, "second"), (15, "third")):
        with wandb.init(project="training") as run:
            runs[what] = run.id
            read_until_noted(data, "thread/v0", noted)
    # Resumed within the second that it began in, its folder has another name.
    began = datetime.datetime.now()
    for second in range(FOLDER_SECONDS):
        moment = began + datetime.timedelta(seconds=second)
        Path(os.environ["WANDB_DIR"], "wandb", f"run-{moment:%Y%m%d_%H%M%S}-again").mkdir()
    with wandb.init(project="training", id="again") as run:
        runs["again"] = run.id
        read_until_noted(data, "mapped/v0", 16)
    with wandb.init(project="training") as run:
        runs["forks"] = run.id
        read_until_noted(data, "mapped/v0", 17)
        forked = multiprocessing.get_context("fork").Process(target=train, args=(data, "forked"))
        forked.start()
        forked.join()
        assert forked.exitcode == 0
        runs["forked"] = "forked"
    with wandb.init(project="training") as run:
        runs["logs anew"] = run.id
        # This closes the SDK's log.
        logging.config.dictConfig({"version": 1})
        read_until_noted(data, "mapped/v0", 19)
    with (
        wandb.init(project="training", reinit="create_new") as run,
        wandb.init(project="training", reinit="create_new") as other,
    ):
        runs["beside"], runs["each other"] = run.id, other.id
        read_until_noted(data, "fork/latest", 21)
    wandb.init(project="training", mode="disabled")
    reading.read(str(data / "listed/latest"))
    print(json.dumps(runs))


if __name__ == "__main__":
    main()
