"""The tests notice by themselves what ends badly, whatever they look at."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import Process, descendants, leaving_none, mounts_below

ROOT = Path(__file__).parents[3]
INNER = """
import os, signal, subprocess, sys, time, warnings
import pytest
from mounts import run, wait_until
from processes import descendants, is_running

DEFECT = '''
import wbfs.fs.tree
from wbfs.cli.main import main
async def look_up(*args):
    raise KeyError("a defect of ours")
wbfs.fs.tree.Tree.look_up = look_up
main()
'''

def test_a_daemon_crashes(mounter):
    os.kill(mounter().pid, signal.SIGSEGV)

def test_a_daemon_crashes_beside_another(mounter):
    mount, _ = mounter(), mounter()
    os.kill(mount.pid, signal.SIGABRT)
    wait_until(lambda: not mount.is_alive(), what="it is gone")

def test_a_daemon_is_killed_on_purpose(mounter):
    mounter().kill()

@pytest.fixture
def with_a_defect(tmp_path):
    program = tmp_path / "defect.py"
    program.write_text(DEFECT)
    return (sys.executable, str(program))

def test_a_daemon_has_a_defect(mounter, with_a_defect):
    run("stat", mounter(program=with_a_defect).path / "x")

def test_a_daemon_has_a_defect_on_purpose(mounter, with_a_defect):
    run("stat", mounter(program=with_a_defect, may_log_defects=True).path / "x")

def test_what_is_in_the_background_crashes():
    reading, writing = os.pipe()
    command = "exec 3<&0; sh -c 'read it; kill -SEGV $$' <&3 >&- 2>&- & echo $!"
    started = subprocess.run(["sh", "-c", command], stdin=reading, capture_output=True, timeout=50)
    # Not before its parent has ended.
    os.close(writing)
    wait_until(lambda: not is_running(int(started.stdout)), what="it has crashed")

def test_what_is_in_the_background_has_a_defect(tmp_path):
    log = tmp_path / "home/state/wbfs/prefetch.log"
    log.parent.mkdir(parents=True)
    log.write_text("ERROR the prefetch ends on a defect")

def test_a_program_leaves_another_running():
    run("sh", "-c", "setsid sleep 1000 >&- 2>&- & echo")
    assert not [one for one in descendants() if one.command == "sleep 1000"]

def test_two_are_left(tmp_path):
    global left
    left = subprocess.Popen(["sleep", "1001"])
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)

@pytest.mark.timeout(1)
def test_it_hangs():
    time.sleep(1002)

def test_it_warns():
    warnings.warn("a warning")
"""
LEFT = r"left by the tests: process \d+, sleep 1001; .*test_two_are_left.*, a mount on /.+"
BAD = {
    "test_a_daemon_crashes": "ended by SIGSEGV",
    "test_a_daemon_crashes_beside_another": "ended by SIGABRT",
    "test_a_daemon_has_a_defect": "logged a defect: .*lookup",
    "test_what_is_in_the_background_crashes": "ended by SIGSEGV",
    "test_what_is_in_the_background_has_a_defect": "ends on a defect",
    "test_it_hangs": r"Timeout \(>1.0s\)",
    "test_it_warns": "UserWarning: a warning",
}
GOOD = [
    "test_a_daemon_is_killed_on_purpose",
    "test_a_daemon_has_a_defect_on_purpose",
    "test_a_program_leaves_another_running",
    "test_two_are_left",
]


def run_inner(
    tmp_path: Path, tests: str, workers: int
) -> tuple[subprocess.CompletedProcess[str], list[Process]]:
    """Run tests in so many workers, with the fixtures and the configuration of these tests.

    Return what was printed, and the processes that were left.
    """
    (tmp_path / "test_inner.py").write_text(tests)
    command = [
        *(sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "tests.fuse.conftest"),
        *("-c", ROOT / "pyproject.toml", "--rootdir", tmp_path, "--basetemp", tmp_path / "base"),
        *("-n", str(workers), tmp_path / "test_inner.py"),
    ]
    with leaving_none() as marked:
        done = subprocess.run(
            [str(word) for word in command],
            env=marked | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests/support'}", "COLUMNS": "1000"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        left = [one for one in descendants() if "test_inner.py::" in str(one)]
    return done, left


@pytest.mark.skipif(os.getuid() != 0, reason="only root may mount a disk, which is left behind")
def test_bad_ends_are_noticed(tmp_path: Path) -> None:
    done, left = run_inner(tmp_path, INNER, 2)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    said = re.findall(r"^(?:FAILED|ERROR) \S+::(\w+) - (.*)$", done.stdout, re.MULTILINE)
    # What is left is said beside the last test.
    said_of_tests = {name: text for name, text in said if not re.search(LEFT, text)}
    assert len(said) - len(said_of_tests) == 1, done.stdout
    assert said_of_tests.keys() == BAD.keys()
    for name, words in BAD.items():
        assert re.search(words, said_of_tests[name])
    # All but those that hang and warn pass; it is after them that something bad is found.
    assert f"2 failed, {len(GOOD) + len(BAD) - 2} passed" in done.stdout
    assert left == []
    assert not mounts_below(tmp_path)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may have mounts of its own")
def test_mounts_are_a_workers_own() -> None:
    assert os.readlink("/proc/self/ns/mnt") != os.readlink(f"/proc/{os.getppid()}/ns/mnt")
    # Nor are they passed on, or taken over.
    assert b" shared:" not in Path("/proc/self/mountinfo").read_bytes()


WORKER_THAT_DIES = """
import os, subprocess
def test_it():
    subprocess.Popen(["sleep", "1003"])
    os._exit(1)
"""


def test_a_worker_that_dies_leaves_nothing(tmp_path: Path) -> None:
    done, left = run_inner(tmp_path, WORKER_THAT_DIES, 1)
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout + done.stderr
    assert "crashed while running" in done.stdout
    assert left == []
