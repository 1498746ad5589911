"""`--run`: what a run reads through a mount is its input, and nothing else is; no read suffers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import prepared
import pytest
from conftest import Mounter
from lineage import used
from mounts import WBFS, Mount, check, wait_until
from stand_in import StandIn, users_of

KEYS = {"writer": "f" * 39 + "1", "viewer": "f" * 39 + "2"}
NAMES = (
    *("before", "thread", "fork", "mapped", "subprocess", "linked", "piped", "listed"),
    *("fork-workers", "spawn-workers", "forkserver-workers", "namespace", "agent"),
)
FILES = 12
LOG = f"""
import random, wandb
with wandb.init(entity="lineage-team", project="sources", id="logger") as run:
    for name in {NAMES!r}:
        artifact = wandb.Artifact(name, type="dataset")
        for number in range({FILES}):
            with artifact.new_file(f"{{number}}.txt") as file:
                file.write(f"{{name}} {{number}}")
        run.log_artifact(artifact)
    artifact = wandb.Artifact("large", type="dataset")
    for number in range(2):
        with artifact.new_file(f"{{number}}.bin", "wb") as file:
            file.write(random.Random(number).randbytes(6 << 20))
    run.log_artifact(artifact)
    run.link_artifact(run.use_artifact("linked:latest"), "lineage-team/links/linked")
with wandb.init(entity="my-team", project="my-project") as run:
    for number in range(4):
        artifact = wandb.Artifact("bike-dataset", type="dataset")
        with artifact.new_file("images/bikes/1.png", "wb") as file:
            file.write(bytes([number]))
        run.log_artifact(artifact).wait()
for name in ("named", "suffers", "agent"):
    wandb.init(entity="lineage-team", project="training", id=name).finish()
"""
SOURCES = "lineage-team/sources"
TRAINING = "lineage-team/training"
TRAINER = Path(__file__).with_name("trainer.py")
README = Path(__file__).parents[3] / "README.md"
TIMEOUT_S = 150.0


@dataclass(frozen=True, slots=True)
class Site:
    """A server of this module's own, and the environment of a member of its team."""

    server: StandIn
    env: dict[str, str]

    def told(self) -> int:
        """How often the server was told that a run used a version."""
        return len(self.server.requests(operation="UseArtifact"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    server = StandIn(tmp_path_factory.mktemp("lineage-server"))
    try:
        members = {"writer": "admin", "viewer": "view-only"}
        teams = [{"name": name, "members": members} for name in ("lineage-team", "my-team")]
        server.accounts({"users": users_of(KEYS), "teams": teams})
        env = server.env(tmp_path_factory.mktemp("lineage-home"), KEYS["writer"])
        done = prepared.run_sdk("-c", LOG, env=env)
        assert done.returncode == 0, done.stderr[-2000:]
        yield Site(server, env | {"WANDB_ENTITY": "lineage-team"})
    finally:
        server.stop()


def mount_for(
    run: str, mounter: Mounter, site: Site, *options: str, key: str = "writer", **settings: object
) -> Mount:
    mount: Mount = mounter(
        server=site.server,
        api_key=KEYS[key],
        options=["--run", run, *options],
        program=None,
        **settings,
    )
    return mount


def settled(mount: Mount, **expected: object) -> None:
    """Wait until `status.json` says so, and nothing that was read waits for a look."""
    wait_until(
        lambda: expected.items() <= mount.status()["lineage"].items(),
        what=f"{expected}, and not {mount.status()['lineage']}",
    )


def versions(*names: str) -> list[str]:
    return sorted(f"{SOURCES}/{name}:v0" for name in names)


def read_all(folder: Path) -> list[str]:
    return [(folder / f"{number}.txt").read_text() for number in range(FILES)]


@contextmanager
def reading_as(settings: Mapping[str, str], site: Site, folder: Path) -> Iterator[None]:
    """Have a program that has these settings read a file, and go on while the context lasts."""
    command = ["sh", "-c", 'cat "$0" && echo && read -r _', folder / "0.txt"]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=site.env | settings, **pipes) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() != b""
        yield


@pytest.mark.promises("11.2")
def test_each_reader_s_own_run(mounter: Mounter, site: Site, tmp_path: Path) -> None:
    mount = mount_for("auto", mounter, site)
    site.server.clear_requests()
    done = prepared.run_sdk(TRAINER, mount.path / SOURCES, env=site.env, timeout_s=TIMEOUT_S)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = {what: f"{TRAINING}/{id}" for what, id in json.loads(done.stdout).items()}
    first = {"before", "thread", "fork", "mapped", "subprocess", "linked", "piped"}
    first |= {"fork-workers", "spawn-workers", "forkserver-workers", "namespace"}
    count = len(first) + 10
    settled(mount, run="auto", recorded=count, pending=0, failed=0, dropped=0)
    runs["agent's"] = f"{TRAINING}/agent"
    everything = (*runs.values(), f"{SOURCES}/listed:v0", f"{SOURCES}/thread:v0")
    found = used(site.env, everything)
    of_others = "my-team/my-project/bike-dataset:v3"
    assert found[runs["every way"]] == [*versions(*first), of_others]
    assert found[runs["agent's"]] == versions("agent")
    assert found[runs["second"]] == found[runs["third"]] == versions("thread")
    assert found[runs["beside"]] == found[runs["each other"]] == versions("fork")
    assert found[runs["again"]] == found[runs["logs anew"]] == versions("mapped")
    assert found[runs["forks"]] == versions("mapped")
    assert found[runs["forked"]] == versions("piped")
    assert found[f"{SOURCES}/listed:v0"] == []
    assert found[f"{SOURCES}/thread:v0"] == sorted(
        runs[what] for what in ("every way", "second", "third")
    )
    # Three epochs of eight workers, and all else: once a run and version.
    assert site.told() == count
    assert mount.log().count(" as an input of ") == count
    metrics = (mount.path / ".wbfs/metrics").read_text()
    assert f"wbfs_lineage_recorded_total {count}.0" in metrics


@pytest.mark.promises("11.3")
def test_what_is_nobody_s_input(mounter: Mounter, site: Site) -> None:
    mount = mount_for("auto", mounter, site, "--allow-other")
    site.server.clear_requests()
    named = {"WANDB_RUN_ID": "named", "WANDB_PROJECT": "training"}
    folder = mount.path / SOURCES / "thread/latest"
    # All go on until they were looked at, and so the last one.
    readers = ExitStack()
    for settings in (
        {"WANDB_RUN_ID": "", "WANDB_PROJECT": "training"},
        {"WANDB_RUN_ID": "named", "WANDB_PROJECT": ""},
        named | {"WANDB_MODE": "disabled"},
        named | {"WANDB_BASE_URL": "https://wandb.example.com"},
    ):
        readers.enter_context(reading_as(settings, site, folder))
    if os.getuid() == 0:
        # Another user, who can't get there by the path.
        program = "import os; os.setuid(65534); open('0.txt').read()"
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=folder,
            env=site.env | named,
            timeout=TIMEOUT_S,
            check=True,
        )
    # The run that logged it all; and what there is to see for `ls` and the like.
    of_logger = {"WANDB_RUN_ID": "logger", "WANDB_PROJECT": "sources"}
    readers.enter_context(reading_as(of_logger, site, folder))
    check("ls", "-lR", folder, env=site.env | named)
    wait_until(lambda: "was logged by" in mount.log(), what="it looked")
    readers.enter_context(reading_as(named, site, mount.path / SOURCES / "fork/latest"))
    with readers:
        settled(mount, recorded=1, pending=0, failed=0, dropped=0)
    assert site.told() == 1
    assert used(site.env, [f"{TRAINING}/named"])[f"{TRAINING}/named"] == versions("fork")


def test_the_readme_s_trainer(mounter: Mounter, site: Site) -> None:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    # Without --run: it says itself what it uses.
    mounter(
        server=site.server,
        api_key=KEYS["writer"],
        path=Path(site.env["HOME"], "artifacts"),
        program=None,
    )
    program = "\n".join([*blocks, "print(len(Bikes()), Bikes()[0], run.path)"])
    done = prepared.run_sdk("-c", program, env=site.env | {"WANDB_ENTITY": "my-team"})
    assert done.returncode == 0, done.stderr
    count, content, run = done.stdout.split()
    assert (count, content) == ("1", repr(b"\x03"))
    assert used(site.env, [run]) == {run: ["my-team/my-project/bike-dataset:v3"]}


@pytest.mark.promises("11.1", "11.5")
def test_an_offline_run_gets_its_inputs_when_it_is_synced(
    mounter: Mounter, site: Site, tmp_path: Path
) -> None:
    mount = mount_for("auto", mounter, site)
    program = f"""
import json, time, wandb
with wandb.init(project="offline", mode="offline") as run:
    open({str(mount.path / SOURCES / "thread/latest/0.txt")!r}).read()
    # It is looked at while it goes on.
    while not json.load(open({str(mount.path / ".wbfs/status.json")!r}))["lineage"]["pending"]:
        time.sleep(0.1)
    print(run.dir)
"""
    done = prepared.run_sdk("-c", program, env=site.env)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.split()[-1]).parent
    settled(mount, recorded=0, pending=1)
    # A crash; and a later mount that is for nobody's run.
    mount.kill()
    wandb = Path(sys.executable).with_name("wandb")
    check(wandb, "sync", folder, env=site.env)
    later: Mount = mounter(server=site.server, api_key=KEYS["writer"], program=None)
    # It sends what waits, and records nothing itself.
    named = {"WANDB_RUN_ID": "named", "WANDB_PROJECT": "training"}
    with reading_as(named, site, later.path / SOURCES / "mapped/v0"):
        settled(later, run=None, recorded=1, pending=0)
    run = f"lineage-team/offline/{folder.name.rpartition('-')[2]}"
    assert used(site.env, [run]) == {run: versions("thread")}


def test_a_named_run_has_what_anybody_reads(mounter: Mounter, site: Site) -> None:
    run = f"{TRAINING}/anybody"
    mount = mount_for(run, mounter, site)
    other = mount_for(run, mounter, site)
    # It is not there yet, and the two mounts share a cache.
    for one in (mount, other):
        assert read_all(one.path / SOURCES / "piped/latest")[3] == "piped 3"
    settled(mount, run=run, recorded=0, pending=1)
    start = "import wandb; wandb.init(project='training', id='anybody').finish()"
    assert prepared.run_sdk("-c", start, env=site.env).returncode == 0
    # Taken down, it tells the server at once.
    mount.umount()
    settled(other, pending=0)
    assert used(site.env, [run]) == {run: versions("piped")}


@pytest.mark.promises("11.4", "11.5")
def test_no_read_suffers(mounter: Mounter, site: Site) -> None:
    run = f"{TRAINING}/suffers"
    mount = mount_for(run, mounter, site)
    expected = {name: [f"{name} {number}" for number in range(FILES)] for name in NAMES}
    data = mount.path / SOURCES
    read_all(data / "before/latest")
    settled(mount, recorded=1, pending=0)
    # Names and files are known by now; it is the recording that fails.
    check(*WBFS, "prefetch", *(data / name / "v0" for name in NAMES), env=mount.env)
    with site.server.faults(port="api", match="graphql", error_share=1.0, error_status=429):
        assert read_all(data / "thread/v0") == expected["thread"]
        settled(mount, pending=1)
    with site.server.faults(port="api", match="graphql", error_share=1.0):
        assert read_all(data / "mapped/v0") == expected["mapped"]
        settled(mount, pending=2)
    with site.server.faults(port="api", match="graphql", stall=True):
        assert read_all(data / "subprocess/v0") == expected["subprocess"]
        settled(mount, pending=3)
        # It is sent for no longer than two seconds.
        mount.umount()
    again = mount_for(run, mounter, site)
    settled(again, recorded=3, pending=0)
    # Without a server at all, and with a daemon that is killed.
    site.server.stop()
    assert read_all(again.path / SOURCES / "piped/v0") == expected["piped"]
    wait_until(lambda: "not recorded yet" in again.log(), what="it was tried")
    settled(again, pending=1)
    again.kill()
    site.server.restart()
    last = mount_for(run, mounter, site)
    settled(last, recorded=1, pending=0, failed=0)
    assert used(site.env, [run])[run] == versions(
        "before", "thread", "mapped", "subprocess", "piped"
    )


MAPPING = """
import mmap, os, random, sys, threading, time
files = [os.open(os.path.join(sys.argv[1], name), os.O_RDONLY) for name in os.listdir(sys.argv[1])]
end = time.monotonic() + 5
touched = 0
def touch(chance):
    global touched
    while time.monotonic() < end or touched <= 100:
        file = chance.choice(files)
        os.close(os.open(f"/proc/self/fd/{file}", os.O_RDONLY))
        with mmap.mmap(file, 0, access=mmap.ACCESS_READ) as pages:
            for _ in range(20):
                pages[chance.randrange(len(pages))]
                touched += 1
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
def map_memory():
    # It takes alone the lock that page faults share with who reads the environment.
    while time.monotonic() < end:
        mmap.mmap(-1, 1 << 20).close()
threads = [threading.Thread(target=touch, args=(random.Random(one),)) for one in range(4)]
threads.append(threading.Thread(target=map_memory))
for one in threads:
    one.start()
for one in threads:
    one.join()
print(touched)
"""
LOOKING_ALWAYS = """
import wbfs.daemon.lineage.recorder
wbfs.daemon.lineage.recorder.AGAIN_S = 0.0
from wbfs.cli.main import main
main()
"""


def test_faults_of_mapped_pages_while_the_environment_is_read(mounter: Mounter, site: Site) -> None:
    mount: Mount = mounter(
        server=site.server,
        api_key=KEYS["writer"],
        options=["--run", "auto"],
        program=[sys.executable, "-c", LOOKING_ALWAYS],
    )
    with site.server.faults(port="files", bandwidth_bytes_per_s=2e6):
        folder = mount.path / SOURCES / "large/v0"
        touched = check(sys.executable, "-c", MAPPING, folder, env=site.env, timeout_s=TIMEOUT_S)
    assert int(touched) > 100
    check("cat", mount.path / SOURCES / "thread/v0/0.txt")
    settled(mount, dropped=0, recorded=0)


def test_who_may_not_is_told_once(mounter: Mounter, site: Site) -> None:
    # A viewer reads nothing either: what is kept of a member's reading is.
    cache = mount_for("auto", mounter, site)
    for name in ("thread", "fork"):
        read_all(cache.path / SOURCES / name / "v0")
    viewer = mount_for(f"{TRAINING}/named", mounter, site, key="viewer")
    for name in ("thread", "fork"):
        assert read_all(viewer.path / SOURCES / name / "v0")[0] == f"{name} 0"
    settled(viewer, recorded=0, pending=0, failed=2)
    assert len(re.findall("WARNING.*is not recorded as an input", viewer.log())) == 1
    assert viewer.errors() == []
