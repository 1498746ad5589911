"""`wbfs prefetch`: what is named is in the cache afterwards, and nothing else was fetched."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import prepared
import pytest
from conftest import Mounter
from defects import broken_wbfs
from mounts import WBFS, Mount, check, run, wait_until
from stand_in import StandIn

from wbfs.cli.files.orders import look_at_all
from wbfs.daemon.mounts.paths import look_at
from wbfs.model.errors import UsageError

TRAIN = 300
VAL = 20
SIZE = 5_000
LARGE = 6 << 20
LOG = f"""
import random
import wandb
with wandb.init(project="prefetching") as run:
    artifact = wandb.Artifact("files", type="dataset")
    names = [f"train/{{number // 100}}/{{number:03}}.bin" for number in range({TRAIN})]
    names += [f"val/{{number:03}}.bin" for number in range({VAL})]
    names += ["val2/strange.bin", "val/copy of 003.bin"]
    for name in names:
        with artifact.new_file(name, mode="wb") as file:
            file.write(random.Random(name.replace("copy of ", "")).randbytes({SIZE}))
    for name, size in (("large/large.bin", {LARGE}), ("val/empty", 0)):
        with artifact.new_file(name, mode="wb") as file:
            file.write(random.Random(name).randbytes(size))
    run.log_artifact(artifact).wait()
    print(run.entity)
"""


@pytest.fixture(scope="module")
def artifact(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Log the version `prefetching/files:v0`; return entity/project/artifact."""
    entity = stand_in.run_sdk(LOG, tmp_path_factory.mktemp("prefetching"))
    return f"{entity}/prefetching/files"


@pytest.fixture
def env(stand_in: StandIn, tmp_path: Path) -> dict[str, str]:
    # Another cache than the mount's, and the same user's state.
    return stand_in.env(tmp_path / "home") | {
        "WBFS_CACHE_DIR": str(tmp_path / "other cache"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }


Prefetch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def prefetch(env: dict[str, str]) -> Prefetch:
    """Return what runs `wbfs prefetch WORDS...`."""

    def prefetch(
        *words: str | Path, env: Mapping[str, str] = env
    ) -> subprocess.CompletedProcess[str]:
        return run(*WBFS, "prefetch", *words, env=env, timeout_s=100)

    return prefetch


def gets(stand_in: StandIn) -> list[str]:
    """Return the keys that file bytes were asked for by, since the log was cleared."""
    asked = stand_in.requests(port="files", method="GET")
    return [one.key for one in asked if not one.key.startswith("manifests/")]


def md5(name: str, size: int) -> str:
    """Return the digest of a file's bytes, which its key ends in."""
    return hashlib.md5(random.Random(name).randbytes(size)).hexdigest()


def read(folder: Path) -> int:
    """Read all files below a folder, check them, and return how many there are."""
    count = 0
    for path in folder.rglob("*"):
        if path.is_file():
            count += 1
            name = "/".join(path.parts[path.parts.index("v0") + 1 :])
            size = {"large/large.bin": LARGE, "val/empty": 0}.get(name, SIZE)
            content = random.Random(name.replace("copy of ", "")).randbytes(size)
            assert path.read_bytes() == content, name
    return count


def test_a_folder_below_a_mount(
    stand_in: StandIn, mounter: Mounter, artifact: str, prefetch: Prefetch, tmp_path: Path
) -> None:
    mount = mounter()
    version = mount.path / artifact / "v0"
    stand_in.clear_requests()
    done = prefetch(version / "train")
    assert done.returncode == 0, done.stderr
    assert f"{TRAIN} files: {TRAIN} fetched; 1.5 MB fetched in " in done.stderr
    assert len(gets(stand_in)) == TRAIN
    # Not one a file.
    questions = stand_in.requests(port="api", operation="ArtifactMembershipFiles")
    assert 1 <= len(questions) <= 3
    assert not (tmp_path / "other cache").exists()
    stand_in.clear_requests()
    assert read(version / "train") == TRAIN
    assert gets(stand_in) == []
    # What was fetched is as good as read.
    assert mount.status()["fetched"]["used_files"] == 0
    # Once more, and there is nothing left to do.
    done = prefetch(version / "train", version / "train/0/000.bin")
    assert done.returncode == 0
    assert f"{TRAIN + 1} files: 0 fetched, {TRAIN + 1} were here already; 0 B" in done.stderr
    assert gets(stand_in) == []
    # Nothing else was fetched.
    assert read(version / "val") == VAL + 2
    assert len(set(gets(stand_in))) >= VAL


def test_several_paths(
    stand_in: StandIn, mounter: Mounter, artifact: str, prefetch: Prefetch
) -> None:
    mount = mounter()
    version = mount.path / artifact / "latest"
    stand_in.clear_requests()
    done = prefetch(version / "val", version / "large/large.bin", version / "val2", version / "val")
    assert done.returncode == 0, done.stderr
    # Two files have the same bytes, one has none, and one folder was named twice.
    assert f"{2 * (VAL + 2) + 2} files: {VAL + 2} fetched" in done.stderr
    stand_in.clear_requests()
    version = mount.path / artifact / "v0"
    assert read(version / "val") + read(version / "val2") + read(version / "large") == VAL + 4
    assert gets(stand_in) == []


@pytest.mark.parametrize(
    ("source", "path", "found"),
    [
        ("{artifact}:v0", "", ""),
        ("{artifact}:v0", "train/0", "train/0"),
        ("{artifact}:v0/train", "", "train"),
        ("{artifact}:latest/train/0", "003.bin", "train/0/003.bin"),
        ("{artifact}", "latest", ""),
        ("{artifact}", "v0/val", "val"),
    ],
)
def test_a_path_is_what_the_source_makes_of_it(
    mounter: Mounter,
    artifact: str,
    env: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    path: str,
    found: str,
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", env["XDG_STATE_HOME"])
    mount = mounter(source.format(artifact=artifact))
    place = look_at(str(mount.path / path))
    assert place is not None
    assert (place.path, place.name) == (found, "v0")
    assert f"{place.entity}/{place.project}/{place.collection}" == artifact
    assert place.cache.cache_dir == mount.cache_dir


def test_a_mount_with_a_path_prefix(
    stand_in: StandIn, mounter: Mounter, artifact: str, prefetch: Prefetch
) -> None:
    mount = mounter(f"{artifact}:v0", options=("--path-prefix", "val/00"))
    stand_in.clear_requests()
    for path in (mount.path, mount.path / "val"):
        done = prefetch(path)
        assert done.returncode == 0, done.stderr
        assert "10 files: " in done.stderr
    assert len(gets(stand_in)) == 10


@pytest.mark.promises("4.8")
def test_by_name(stand_in: StandIn, mounter: Mounter, artifact: str, env: dict[str, str]) -> None:
    mount = mounter(cache=Path(env["WBFS_CACHE_DIR"]))
    entity, project, name = artifact.split("/")
    stand_in.clear_requests()
    command = [*WBFS, "prefetch", f"{artifact}:v0/val"]
    # From within the mount, where it is a path that isn't there.
    done = subprocess.run(
        command, env=env, cwd=mount.path, timeout=100, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(gets(stand_in)) == VAL
    settings = env | {"WANDB_ENTITY": entity, "WANDB_PROJECT": project}
    check(*WBFS, "prefetch", f"{name}:latest/val2/strange.bin", env=settings)
    stand_in.clear_requests()
    version = mount.path / artifact / "v0"
    assert read(version / "val") + read(version / "val2") == VAL + 3
    assert gets(stand_in) == []


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL],
    ids=lambda one: one.name,
)
def test_interrupted_and_run_again(
    stand_in: StandIn,
    mounter: Mounter,
    artifact: str,
    prefetch: Prefetch,
    env: dict[str, str],
    number: signal.Signals,
) -> None:
    mount = mounter()
    version = mount.path / artifact / "v0"
    stand_in.clear_requests()
    # So many files never come that it can't be over before.
    with stand_in.faults(port="files", match="^/wandb_artifacts/.*[01]$", stall=True):
        running = subprocess.Popen(
            [*WBFS, "prefetch", str(version)], env=env, stderr=subprocess.PIPE, text=True
        )
        wait_until(lambda: blobs(mount) >= 64, what="something is fetched")
        running.send_signal(number)
        _, said = running.communicate(timeout=50)
    if number == signal.SIGKILL:
        assert running.returncode == -number
    else:
        assert running.returncode == 128 + number
        assert "the same command goes on from here" in said
    assert "Traceback" not in said
    before = blobs(mount)
    assert before < TRAIN
    stand_in.clear_requests()
    done = prefetch(version)
    assert done.returncode == 0, done.stderr
    # The large one comes in parts.
    large = md5("large/large.bin", LARGE)
    small = [key for key in gets(stand_in) if not key.endswith(large)]
    assert len(small) == len(set(small)) <= TRAIN + VAL + 2 - before
    stand_in.clear_requests()
    assert read(version) == TRAIN + VAL + 4
    assert gets(stand_in) == []


def blobs(mount: Mount) -> int:
    return sum(1 for path in (mount.cache_dir / "blobs").rglob("*") if path.is_file())


def test_no_wait(
    stand_in: StandIn, mounter: Mounter, artifact: str, prefetch: Prefetch, tmp_path: Path
) -> None:
    mount = mounter()
    version = mount.path / artifact / "v0"
    with stand_in.faults(port="files", match="^/wandb_artifacts/", delay_s=1.0):
        done = prefetch("--no-wait", version / "train")
        assert done.returncode == 0, done.stderr
        said = re.fullmatch(
            rf"wbfs: fetching {TRAIN} files, 1.5 MB in the background, as process (\d+);"
            r" its log is (.+)\n",
            done.stderr,
        )
        assert said is not None, done.stderr
        log = Path(said[2])
        try:
            assert blobs(mount) < TRAIN
            assert tmp_path / "state" in log.parents
            # A mount serves meanwhile.
            assert len(os.listdir(version / "val")) == VAL + 2
            wait_until(
                lambda: f"{TRAIN} files: {TRAIN} fetched" in log.read_text(),
                what="all is fetched",
            )
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(said[1]), signal.SIGTERM)
    stand_in.clear_requests()
    assert read(version / "train") == TRAIN
    assert gets(stand_in) == []
    # What can't be begun is said at once.
    done = prefetch("--no-wait", f"{artifact}:v0/nothing")
    assert done.returncode == 77
    assert "has no file or folder 'nothing'" in done.stderr


def test_giving_up(stand_in: StandIn, mounter: Mounter, artifact: str, prefetch: Prefetch) -> None:
    train = mounter().path / artifact / "v0/train"
    with stand_in.faults(
        port="files", match="^/wandb_artifacts/", error_share=1.0, error_status=404
    ):
        done = prefetch(train)
    assert done.returncode == 1
    assert f"{TRAIN} files: 0 fetched, {TRAIN} failed" in done.stderr
    with stand_in.faults(port="files", match="^/wandb_artifacts/", expired_urls=True):
        done = prefetch(train)
    assert done.returncode == 1
    assert "gave up, and did not try" in done.stderr


def test_what_does_not_fit(
    stand_in: StandIn,
    mounter: Mounter,
    artifact: str,
    prefetch: Prefetch,
    small_disk: Callable[[str], Path],
) -> None:
    mount = mounter(options=["--cache-size", "2MB"])
    version = mount.path / artifact / "v0"
    stand_in.clear_requests()
    done = prefetch(version)
    assert done.returncode == 2
    assert "of a cache of 2.0 MB it may take 1.9 MB: raise --cache-size" in done.stderr
    done = prefetch(f"{artifact}:v0", "--cache-dir", small_disk("4m") / "cache", "--min-free", "0")
    assert done.returncode == 1
    assert "the disk of" in done.stderr
    assert gets(stand_in) == []
    done = prefetch(version / "val")
    assert done.returncode == 0, done.stderr
    done = prefetch(version / "train" / "0", version / "train" / "1")
    assert done.returncode == 0, done.stderr
    stand_in.clear_requests()
    assert read(version / "train" / "0") + read(version / "train" / "1") == 200
    assert gets(stand_in) == []


def test_what_was_there_makes_room(
    stand_in: StandIn, artifact: str, prefetch: Prefetch, small_disk: Callable[[str], Path]
) -> None:
    options = ["--cache-dir", small_disk("2600k") / "cache", "--min-free", "100k"]
    first = [f"{artifact}:v0/train/{number}" for number in (0, 1)]
    assert prefetch(*first, *options).returncode == 0
    second = [f"{artifact}:v0/{name}" for name in ("train/0", "train/2", "val")]
    stand_in.clear_requests()
    done = prefetch(*second, *options)
    assert done.returncode == 0, done.stderr
    assert len(gets(stand_in)) == 100 + VAL
    stand_in.clear_requests()
    done = prefetch(*second, *options)
    assert done.returncode == 0, done.stderr
    assert gets(stand_in) == []


def test_wrong_bytes(
    stand_in: StandIn, mounter: Mounter, artifact: str, prefetch: Prefetch
) -> None:
    mount = mounter()
    val = mount.path / artifact / "v0/val"
    with stand_in.faults(port="files", match=md5("val/007.bin", SIZE), wrong_bytes=True):
        done = prefetch(val)
    assert done.returncode == 1
    assert "val/007.bin: it is damaged on the server or on the way, twice" in done.stderr
    assert f"{VAL - 1} fetched, 2 were here already, 1 failed" in done.stderr
    done = prefetch(val)
    assert done.returncode == 0
    assert f"1 fetched, {VAL + 1} were here already" in done.stderr


def test_expired_urls(
    stand_in: StandIn, mounter: Mounter, artifact: str, prefetch: Prefetch
) -> None:
    val = mounter().path / artifact / "v0/val"
    with stand_in.faults(port="files", match="^/wandb_artifacts/", expired_urls=True, first=3):
        done = prefetch(val)
    assert done.returncode == 0, done.stderr
    assert "signature" not in done.stderr.lower()
    assert read(val) == VAL + 2


COUNTED = """
import sys
from wbfs.cli.main import main
from wbfs.store.content.blobs import Blobs
opened = 0
original = Blobs.open
def counted(*args):
    global opened
    opened += 1
    return original(*args)
Blobs.open = counted
try:
    main()
finally:
    print(opened)
"""


def test_what_is_here_is_looked_at_once(
    artifact: str, prefetch: Prefetch, env: dict[str, str]
) -> None:
    assert prefetch(f"{artifact}:v0").returncode == 0
    command = (sys.executable, "-c", COUNTED, "prefetch", f"{artifact}:v0")
    done = run(*command, env=env, timeout_s=100)
    files = TRAIN + VAL + 4
    assert f"{files} files: 0 fetched, {files} were here already" in done.stderr
    # Nobody looks for an empty one.
    assert done.stdout == f"{files - 1}\n"


def test_a_defect_fails_its_file_only(
    artifact: str, prefetch: Prefetch, env: dict[str, str]
) -> None:
    words = ("prefetch", f"{artifact}:v0/val")
    command = broken_wbfs("wbfs.fetch.fetcher:Fetcher.ensure", "val/007.bin", *words)
    done = run(*command, env=env, timeout_s=100)
    assert done.returncode == 1
    assert "LookupError: a defect on purpose" in done.stderr
    assert "a defect of wbfs (LookupError) while doing this: get " in done.stderr
    assert "1 failed, 1 of them by a defect of wbfs: please report it" in done.stderr
    assert f"{VAL + 2} files: {VAL - 1} fetched" in done.stderr


REFERENCES = """
import sys
import wandb
with wandb.init(project="prefetching") as run:
    artifact = wandb.Artifact("references", type="dataset")
    for name in ("kept.txt", "gone.txt"):
        artifact.add_reference(sys.argv[1] + "/prefetched/" + name)
    artifact.add_reference(sys.argv[1] + "/prefetched/unchecked.txt", checksum=False)
    run.log_artifact(artifact).wait()
    print(run.entity)
"""


def test_references(
    stand_in: StandIn, mounter: Mounter, prefetch: Prefetch, env: dict[str, str]
) -> None:
    folder = stand_in.public_dir / "prefetched"
    folder.mkdir(parents=True)
    for name in ("kept.txt", "gone.txt", "unchecked.txt"):
        (folder / name).write_text(f"this is {name}")
    done = prepared.run_sdk("-c", REFERENCES, stand_in.public_url, env=env, timeout_s=100)
    assert done.returncode == 0, done.stderr[-2000:]
    (folder / "gone.txt").unlink()
    version = mounter().path / done.stdout.split()[-1] / "prefetching/references/v0"
    done = prefetch(version)
    assert done.returncode == 1
    assert "3 files: 2 fetched, 1 failed" in done.stderr
    assert "gone.txt" in done.stderr
    stand_in.clear_requests()
    assert (version / "kept.txt").read_text() == "this is kept.txt"
    assert (version / "unchecked.txt").read_text() == "this is unchecked.txt"
    assert stand_in.requests(port="files", method="GET") == []


def test_what_can_not_be_prefetched(
    mounter: Mounter,
    artifact: str,
    env: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    mount = mounter()
    entity, project, _ = artifact.split("/")
    refused(mount.path, words=f"{mount.path}/<entity>/<project>/<artifact>/latest")
    refused(mount.path / entity, words=f"{entity}/<project>/<artifact>/latest")
    refused(mount.path / entity / project, words=f"{project}/<artifact>/latest")
    refused(mount.path / artifact, words=f"{artifact}/latest")
    refused(tmp_path, words="is not below a mount of wbfs")
    version = mount.path / artifact / "v0"
    refused(version / "nothing", words="is neither a path below a mount of wbfs")
    other = mounter(cache=tmp_path / "third cache").path / artifact / "v0"
    refused(version, other, words="different caches")
    with contextlib.closing(sqlite3.connect(tmp_path / "cache/catalog.sqlite")) as catalog:
        wait_until(
            lambda: catalog.execute("SELECT 1 FROM logins").fetchone(),
            what="the cache knows whose login it is",
        )
    offline = mounter(options=["--offline"]).path / artifact / "v0"
    refused(offline, words="is mounted with --offline")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    refused(version, words=f"set WANDB_BASE_URL={mount.status()['server']}")
    mount.kill()
    refused(version, words="the mount's daemon is gone")


def refused(*paths: Path, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        look_at_all([str(path) for path in paths])


def test_errors_are_one_line(mounter: Mounter, artifact: str, prefetch: Prefetch) -> None:
    version = mounter().path / artifact / "v0"
    for command, code, words in (
        ((f"{artifact}:v7",), 77, "there is no version or alias 'v7'"),
        ((f"{artifact}:v0/tr",), 77, "has no file or folder 'tr'"),
        ((version, "--cache-size", "1TB"), 2, "--cache-size is the mount's to say"),
    ):
        done = prefetch(*command)
        assert done.returncode == code
        [line] = done.stderr.splitlines()
        assert line.startswith("wbfs: ")
        assert words in line
