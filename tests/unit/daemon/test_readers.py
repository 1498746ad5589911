"""Whose run it is that reads, where the process is a container's, or looks at another root."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wbfs.daemon.lineage.readers import Readers, kin_of
from wbfs.model.runs import Run

TIMEOUT_S = 30.0
RUN = "wandb/run-20261101_120000-1a2b"
BEGIN = f"""
import os, sys
def begin(root):
    os.makedirs(f"{{root}}/{RUN}/logs")
    return open(f"{{root}}/{RUN}/logs/debug.log", "w")
"""
CHROOTED = f"""
{BEGIN}
os.chroot(sys.argv[1])
log = begin("")
print(os.getpid(), flush=True)
sys.stdin.read()
"""
LOOKING = f"""
{BEGIN}
from wbfs.daemon.lineage.readers import Readers, kin_of
log = begin(sys.argv[1])
readers = Readers(server="https://wandb.example.com", default_entity="ada")
print(os.getpid(), *readers.runs_of(kin_of(os.getpid())))
"""
SERVICE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(15, b"wandb-core", 0, 0, 0)
logs = [open(path, "w") for path in sys.argv[1:]]
print("ready", flush=True)
sys.stdin.read()
"""
only_root = pytest.mark.skipif(os.getuid() != 0, reason="namespaces are root's to make")


def readers() -> Readers:
    return Readers(server="https://wandb.example.com", default_entity="ada")


@only_root
@pytest.mark.parametrize("of_its_own", [False, True], ids=["same mounts", "mounts of its own"])
def test_a_program_below_another_root(tmp_path: Path, of_its_own: bool) -> None:
    program = [sys.executable, "-c", CHROOTED, tmp_path]
    if of_its_own:
        script = 'mount -t tmpfs none "$0" && exec "$@"'
        program = ["unshare", "--mount", "sh", "-c", script, tmp_path, *program]
    with subprocess.Popen(
        list(map(str, program)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as chrooted:
        assert chrooted.stdin is not None
        assert chrooted.stdout is not None
        pid = int(chrooted.stdout.readline())
        (log,) = readers().runs_of(kin_of(pid))
        assert isinstance(log, str)
        # The folder can be opened by that path, from here.
        assert os.listdir(Path(log).parent) == ["logs"]
        assert os.path.basename(log) == "run-1a2b.wandb"
        chrooted.stdin.close()


@only_root
def test_a_container_s_first_process(tmp_path: Path) -> None:
    command = ("unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", LOOKING)
    found = subprocess.run(
        [*command, tmp_path], capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    )
    assert found.stdout.split() == ["1", f"{tmp_path}/{RUN}/run-1a2b.wandb"]


def test_folders_of_odd_names(tmp_path: Path) -> None:
    logs = []
    for name in (b"new\nline", b"not UTF-8 \xff"):
        folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name), RUN, "logs")
        folder.mkdir(parents=True)
        logs.append((folder / "debug.log").open("w"))
    # The SDK can't work in the other one.
    found = readers().runs_of(kin_of(os.getpid())[:1])
    for one in logs:
        one.close()
    assert found == {f"{tmp_path}/new\nline/{RUN}/run-1a2b.wandb"}


def test_a_fork_s_own_run_goes_before_its_parent_s(tmp_path: Path) -> None:
    pid = os.getpid()
    logs = {}
    with contextlib.ExitStack() as opened:
        for name, number in (("parent's", pid + 1), ("parent's too", pid + 1), ("own", pid)):
            folder = tmp_path / f"run-20261101_120000-{name}"
            (folder / "logs").mkdir(parents=True)
            log = opened.enter_context((folder / "logs/debug.log").open("w"))
            log.write(f"2026-11-01 INFO    MainThread:{number} [of it]\n")
            log.flush()
            logs[name] = str(folder / f"run-{name}.wandb")
            expected = {logs["own"]} if name == "own" else set(logs.values())
            assert readers().runs_of(kin_of(pid)[:1]) == expected


def test_a_name_that_the_trainer_gave_its_run_itself(tmp_path: Path) -> None:
    logs = {}
    with contextlib.ExitStack() as opened:
        for name in ("a", "b", "c-1"):
            folder = tmp_path / f"run-20261101_120000-{name}"
            (folder / "logs").mkdir(parents=True)
            opened.enter_context((folder / "logs/debug.log").open("w"))
            logs[name] = str(folder / f"run-{name}.wandb")
        Path(logs["c-1"]).with_name("run-c.wandb").touch()
        for name, expected in (
            # Its own environment, as it was at its start, does not have the name.
            ("a", {logs["a"]}),
            # Where there was a folder of the second, there is a number behind the name.
            ("c", {logs["c-1"]}),
            ("d", {Run(entity="ada", project="proj", name="d")}),
        ):
            settings = {"WANDB_RUN_ID": name, "WANDB_PROJECT": "proj"}
            # By way of another process, as programs are started by a shell.
            command = ["sh", "-c", "echo; cat; true"]
            pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            with subprocess.Popen(command, env=os.environ | settings, **pipes) as child:
                assert child.stdout is not None
                assert child.stdout.readline() == b"\n"
                assert readers().runs_of(kin_of(child.pid)) == expected
                assert child.stdin is not None
                child.stdin.close()


def test_the_service_has_the_log_open_that_the_trainer_has_closed(tmp_path: Path) -> None:
    pid = os.getpid()
    logs = []
    # Of its own two runs, one of a process that it started, and one that says nothing.
    for name, line in (
        ("a", f"MainThread:{pid} ["),
        ("b", f"Thread-1 (run):{pid} ["),
        ("c", f"MainThread:{pid + 1} ["),
    ):
        logs.append(tmp_path / f"run-20261101_120000-{name}/run-{name}.wandb")
        (logs[-1].parent / "logs").mkdir(parents=True)
        (logs[-1].parent / "logs/debug.log").write_text(f"2026-11-01 INFO    {line}of it]\n")
    nothing = tmp_path / "run-20261101_120000-d/run-d.wandb"
    nothing.parent.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", SERVICE, nothing, *logs],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as service:
        assert service.stdin is not None
        assert service.stdout is not None
        assert service.stdout.readline() == b"ready\n"
        found = readers().runs_of(kin_of(pid)[:1])
        service.stdin.close()
    assert found == {str(logs[0]), str(logs[1])}
