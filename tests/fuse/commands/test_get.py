"""`wbfs get` writes what the SDK's `download()` writes, checked, and goes on after a break."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import prepared
import pytest
from corpus import CorpusItem
from defects import broken_wbfs
from mounts import WBFS, check, run, wait_until
from stand_in import StandIn

LARGE = 6 << 20
LOG = f"""
import random
import wandb
with wandb.init(project="getting") as run:
    artifact = wandb.Artifact("files", type="dataset")
    for name in (
        "images/bikes/1.png", "images/bikes/2.png", "images/bikes2/3.png", "images/b.txt",
        "images/cars/1.png", "images.txt", "readme.md", "copy of readme.md",
    ):
        with artifact.new_file(name, mode="wb") as file:
            file.write(random.Random(name.removeprefix("copy of ")).randbytes(10_000))
    with artifact.new_file("large.bin", mode="wb") as file:
        file.write(random.Random("large").randbytes({LARGE}))
    run.log_artifact(artifact).wait()
    run.link_artifact(artifact, "getting/linked")
    print(run.entity)
"""
DOWNLOAD = """
import json, sys
import wandb
api = wandb.Api()
for name, root, prefix in json.loads(sys.argv[1]):
    print(api.artifact(name).download(root=root, path_prefix=prefix))
"""


@pytest.fixture(scope="session")
def entity(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Log the version `getting/files:v0`, and return whose it is."""
    env = stand_in.env(tmp_path_factory.mktemp("getting"))
    done = prepared.run_sdk("-c", LOG, env=env, timeout_s=100)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()[-1]


@pytest.fixture
def env(stand_in: StandIn, tmp_path: Path) -> dict[str, str]:
    return stand_in.env(tmp_path / "home") | {"WBFS_CACHE_DIR": str(tmp_path / "cache")}


Get = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def get(entity: str, env: dict[str, str]) -> Get:
    """Return what runs `wbfs get getting/files:v0 WORDS...`."""

    def get(
        *words: str | Path, name: str = "getting/files:v0", env: Mapping[str, str] = env
    ) -> subprocess.CompletedProcess[str]:
        return run(*WBFS, "get", f"{entity}/{name}", *words, env=env, timeout_s=100)

    return get


def download(stand_in: StandIn, home: Path, *jobs: tuple[str, str | None, str | None]) -> str:
    """Have the SDK download (name, root, prefix) with an empty cache; return what it prints."""
    import json

    env = stand_in.env(home)
    done = prepared.run_sdk("-c", DOWNLOAD, json.dumps(jobs), env=env, timeout_s=100)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def file_gets(stand_in: StandIn) -> int:
    gets = stand_in.requests(port="files", method="GET")
    return sum(get.path.startswith("/wandb_artifacts/") for get in gets)


@pytest.mark.promises("10.1")
def test_the_corpus_is_what_the_sdk_downloads(
    stand_in: StandIn, corpus: tuple[CorpusItem, ...], env: dict[str, str], tmp_path: Path
) -> None:
    names = sorted({f"{one.path}:{one.version}" for one in corpus})[:8]
    jobs = [(name, str(tmp_path / "sdk" / str(n)), None) for n, name in enumerate(names)]
    download(stand_in, tmp_path / "sdk-home", *jobs)
    for (name, root, _), number in zip(jobs, range(len(jobs)), strict=True):
        ours = tmp_path / "ours" / str(number)
        done = run(*WBFS, "get", name, "--root", ours, env=env, timeout_s=100)
        assert done.returncode == 0, done.stderr
        # An artifact without files makes no folder.
        if Path(root).exists() or ours.exists():
            assert check("diff", "-r", ours, root) == ""


def test_path_prefixes(stand_in: StandIn, entity: str, get: Get, tmp_path: Path) -> None:
    prefixes = ["images/b", "images/bikes", "images/bikes/", "images/bikes/1.png", "images/", "i"]
    nothing = ["/images", "./images", "images//bikes", "images/zebras"]
    name = f"{entity}/getting/files:v0"
    roots = {prefix: tmp_path / "sdk" / str(n) for n, prefix in enumerate(prefixes)}
    download(
        stand_in,
        tmp_path / "sdk-home",
        *((name, str(root), prefix) for prefix, root in roots.items()),
    )
    for prefix, root in roots.items():
        ours = tmp_path / "ours" / root.name
        done = get("--root", ours, "--path-prefix", prefix)
        assert (done.returncode, done.stdout) == (0, f"{ours}\n"), done.stderr
        assert check("diff", "-r", ours, root) == ""
    for prefix in nothing:
        done = get("--root", tmp_path / "nothing", "--path-prefix", prefix)
        assert done.returncode == 0
        assert "nothing was written" in done.stderr
        assert not (tmp_path / "nothing").exists()


def test_the_default_root_is_the_sdks(
    stand_in: StandIn, entity: str, get: Get, env: dict[str, str], tmp_path: Path
) -> None:
    for name in ("getting/files:v0", "getting/linked:v0", "getting/files"):
        [printed] = download(
            stand_in, tmp_path / "sdk-home", (f"{entity}/{name}", None, None)
        ).splitlines()[-1:]
        expected = Path(printed).relative_to(tmp_path / "sdk-home")
        done = get(name=name)
        assert done.returncode == 0, done.stderr
        root = Path(done.stdout.strip())
        assert root == tmp_path / "home" / expected
        assert check("diff", "-r", root, printed) == ""
    mode = (root / "readme.md").stat().st_mode & 0o777
    assert mode == 0o666 & ~int(check("sh", "-c", "umask"), 8)


@pytest.mark.promises("10.2")
def test_what_is_right_is_left_alone(stand_in: StandIn, get: Get, tmp_path: Path) -> None:
    root = tmp_path / "root"
    stand_in.clear_requests()
    assert get("--root", root).returncode == 0
    # Two of the nine have the same bytes.
    keys = {one.path for one in stand_in.requests(port="files", method="GET")}
    assert len([key for key in keys if key.startswith("/wandb_artifacts/")]) == 8
    content = (root / "readme.md").read_bytes()
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    (root / "strange.txt").write_text("somebody else's")
    (root / "readme.md").write_bytes(b"!" + content[1:])
    (root / "images.txt").unlink()
    stand_in.clear_requests()
    check("rm", "-r", tmp_path / "cache", tmp_path / "home")
    done = get("--root", root)
    assert done.returncode == 0, done.stderr
    assert "2 written, 7 were right already" in done.stderr
    assert file_gets(stand_in) == 2
    assert (root / "readme.md").read_bytes() == content
    assert (root / "strange.txt").read_text() == "somebody else's"
    for path, mtime_ns in before.items():
        if path.is_file() and path.name not in ("readme.md", "images.txt"):
            assert path.stat().st_mtime_ns == mtime_ns
    # From the cache, if it is to another place.
    stand_in.clear_requests()
    assert get("--root", tmp_path / "again").returncode == 0
    assert file_gets(stand_in) == 6


@pytest.mark.parametrize(
    "fault",
    [
        {"cut_after_bytes": 100_000, "first": 4},
        {"error_share": 0.4},
        {"requests_per_s": 20.0, "first": 10},
        {"wrong_bytes": True, "first": 1},
        {"expired_urls": True, "first": 1},
    ],
    ids=lambda fault: next(iter(fault)),
)
def test_faults(stand_in: StandIn, get: Get, tmp_path: Path, fault: dict[str, float]) -> None:
    expected = tmp_path / "expected"
    assert get("--root", expected).returncode == 0
    check("rm", "-r", tmp_path / "cache", tmp_path / "home")
    with stand_in.faults(port="files", match="^/wandb_artifacts/", **fault):
        done = get("--root", tmp_path / "root")
    assert done.returncode == 0, done.stderr
    assert check("diff", "-r", tmp_path / "root", expected) == ""
    assert "signature" not in done.stderr.lower()


@pytest.mark.promises("10.1")
def test_wrong_bytes_are_an_error_of_their_file(
    stand_in: StandIn, get: Get, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    assert get("--root", first).returncode == 0
    check("rm", "-r", tmp_path / "cache", tmp_path / "home")
    digest = hashlib.md5((first / "images.txt").read_bytes()).hexdigest()
    with stand_in.faults(port="files", match=digest, wrong_bytes=True):
        done = get("--root", tmp_path / "root")
    assert done.returncode == 1
    assert "images.txt" in done.stderr
    assert "twice" in done.stderr
    assert "8 written, 1 failed" in done.stderr
    assert not (tmp_path / "root/images.txt").exists()
    (first / "images.txt").unlink()
    assert check("diff", "-r", tmp_path / "root", first) == ""
    done = get("--root", tmp_path / "root")
    assert done.returncode == 0
    assert "1 written, 8 were right already" in done.stderr


def test_nohup(stand_in: StandIn, entity: str, env: dict[str, str], tmp_path: Path) -> None:
    root = tmp_path / "root"
    command = ["nohup", *WBFS, "get", f"{entity}/getting/files:v0", "--root", str(root)]
    with stand_in.faults(port="files", bandwidth_bytes_per_s=4 << 20):
        running = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        wait_until((root / "readme.md").exists, what="something is there")
        running.send_signal(signal.SIGHUP)
        _, said = running.communicate(timeout=100)
    assert running.returncode == 0, said


@pytest.mark.promises("10.2")
@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL],
    ids=lambda one: one.name,
)
def test_interrupted_and_run_again(
    stand_in: StandIn,
    entity: str,
    get: Get,
    env: dict[str, str],
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    root = tmp_path / "root"
    command = [*WBFS, "get", f"{entity}/getting/files:v0", "--root", str(root)]
    # It can't be over before.
    with stand_in.faults(port="files", match=large_digest(), stall_after_bytes=100_000):
        running = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        wait_until((root / "readme.md").exists, what="something is there")
        running.send_signal(number)
        _, said = running.communicate(timeout=50)
    if number == signal.SIGKILL:
        assert running.returncode == -number
    else:
        assert running.returncode == 128 + number
        assert "interrupted; the same command goes on from here" in said
    assert "Traceback" not in said
    left = {path.name for path in root.rglob("*") if path.is_file()}
    assert "large.bin" not in left
    assert not [name for name in left if name.startswith(".")]
    done = get("--root", root)
    assert done.returncode == 0, done.stderr
    assert "were right already" in done.stderr
    download(
        stand_in, tmp_path / "sdk-home", (f"{entity}/getting/files:v0", str(tmp_path / "sdk"), None)
    )
    assert check("diff", "-r", root, tmp_path / "sdk") == ""


@pytest.mark.promises("10.3")
def test_nothing_is_written_outside(get: Get, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "victim").write_text("as it was")
    (root / "images").symlink_to(outside)
    (root / "readme.md").symlink_to(outside / "victim")
    (root / "large.bin").mkdir()
    done = get("--root", root)
    assert done.returncode == 1
    assert "a symbolic link, which may lead anywhere" in done.stderr
    assert "there is a folder in the file's place" in done.stderr
    assert [path.name for path in outside.iterdir()] == ["victim"]
    assert (outside / "victim").read_text() == "as it was"
    assert not (root / "readme.md").is_symlink()
    assert (root / "images.txt").exists()


def test_a_full_target_disk(get: Get, small_disk: Callable[[str], Path]) -> None:
    root = small_disk("3m")
    done = get("--root", root)
    assert done.returncode == 1
    assert "the disk is full; free space, or use another place" in done.stderr
    assert "gave up, and did not try" in done.stderr
    assert not [path.name for path in root.rglob("*") if path.name.startswith(".")]
    assert not (root / "large.bin").exists()


@pytest.fixture(params=["too small", "on a full disk", "read-only"])
def poor_cache(
    request: pytest.FixtureRequest, get: Get, small_disk: Callable[[str], Path], tmp_path: Path
) -> tuple[str | Path, ...]:
    """Return the options for a cache that can't hold the large file, or nothing new at all."""
    if request.param == "too small":
        return ("--cache-size", "1MB")
    disk = small_disk("3m")
    options = ("--cache-dir", disk / "cache", "--min-free", "0")
    if request.param == "read-only":
        done = get("--root", tmp_path / "first", "--path-prefix", "images.txt", *options)
        assert done.returncode == 0, done.stderr
        check("mount", "-o", "remount,ro", disk)
    return options


def test_what_the_cache_can_not_hold(
    stand_in: StandIn, get: Get, tmp_path: Path, poor_cache: tuple[str | Path, ...]
) -> None:
    expected, root = tmp_path / "expected", tmp_path / "root"
    assert get("--root", expected).returncode == 0
    done = get("--root", root, *poor_cache)
    assert done.returncode == 0, done.stderr
    assert "9 written" in done.stderr
    assert check("diff", "-r", root, expected) == ""
    done = get("--root", root, *poor_cache)
    assert done.returncode == 0, done.stderr
    assert "9 were right already" in done.stderr


def test_wrong_bytes_past_the_cache(
    stand_in: StandIn, get: Get, small_disk: Callable[[str], Path], tmp_path: Path
) -> None:
    options = ("--cache-dir", small_disk("3m") / "cache", "--min-free", "0")
    digest = large_digest()
    with stand_in.faults(port="files", match=digest, wrong_bytes=True):
        done = get("--root", tmp_path / "root", *options)
    assert done.returncode == 1
    assert "large.bin: it is damaged on the server or on the way, twice" in done.stderr
    assert not (tmp_path / "root/large.bin").exists()
    # Once is not yet an error.
    with stand_in.faults(port="files", match=digest, wrong_bytes=True, first=1):
        done = get("--root", tmp_path / "root", *options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "root/large.bin").stat().st_size == LARGE


def large_digest() -> str:
    """Return the digest of the large file, which its key ends in."""
    return hashlib.md5(random.Random("large").randbytes(LARGE)).hexdigest()


@pytest.mark.parametrize(
    ("place", "marker", "failed"),
    [
        ("wbfs.fetch.fetcher:Fetcher.ensure", "images.txt", ["images.txt"]),
        ("wbfs.fetch.bulk.target:TargetFolder.write", "images.txt", ["images.txt"]),
        # A few hundred files of one folder are looked at together.
        (
            "wbfs.fetch.bulk.target:Target.folder",
            "images/bikes/",
            ["images/bikes/1.png", "images/bikes/2.png"],
        ),
        ("wbfs.fetch.ahead.queue:Prefetch.add", "", []),
    ],
)
def test_a_defect_fails_its_files_only(
    entity: str,
    get: Get,
    env: dict[str, str],
    tmp_path: Path,
    place: str,
    marker: str,
    failed: list[str],
) -> None:
    expected, root = tmp_path / "expected", tmp_path / "root"
    assert get("--root", expected).returncode == 0
    check("rm", "-r", tmp_path / "cache", tmp_path / "home")
    words = ("get", f"{entity}/getting/files:v0", "--root", root)
    done = run(*broken_wbfs(place, marker, *words), env=env, timeout_s=100)
    assert "LookupError: a defect on purpose" in done.stderr
    assert "Traceback" in done.stderr
    reasons = [line for line in done.stderr.splitlines() if "a defect of wbfs (Look" in line]
    assert len(reasons) == len(failed)
    for name in failed:
        assert any(name in reason for reason in reasons)
        (expected / name).unlink()
    if failed:
        assert f"{len(failed)} of them by a defect of wbfs: please report it" in done.stderr
    assert done.returncode == (1 if failed else 0)
    check("find", expected, root, "-type", "d", "-empty", "-delete")
    assert check("diff", "-r", root, expected) == ""


def test_the_process_that_fetches_hangs(
    stand_in: StandIn, entity: str, get: Get, env: dict[str, str], tmp_path: Path
) -> None:
    expected, root = tmp_path / "expected", tmp_path / "root"
    assert get("--root", expected).returncode == 0
    check("rm", "-r", tmp_path / "cache", tmp_path / "home")
    name = f"{entity}/getting/files:v0"
    command = [*WBFS, "get", name, "--root", str(root), "--timeout", "15"]
    with stand_in.faults(port="files", match="^/wandb_artifacts/", delay_s=1.5):
        running = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        wait_until(lambda: children(running.pid), what="a process fetches small files")
        for pid in children(running.pid):
            os.kill(pid, signal.SIGSTOP)
    _, said = running.communicate(timeout=100)
    assert running.returncode == 0, said
    assert check("diff", "-r", root, expected) == ""


def children(pid: int) -> list[int]:
    """Return the processes that a command fetches small files by."""
    found = run("ps", "--ppid", str(pid), "-o", "pid=,args=").stdout.splitlines()
    return [int(line.split()[0]) for line in found if "wbfs.fetch.apart" in line]


def test_what_is_not_there(get: Get, tmp_path: Path) -> None:
    done = get(name="getting/files:v7")
    assert done.returncode == 77
    assert done.stderr.startswith("wbfs: ")
    done = get(name="getting/files:v0/images")
    assert done.returncode == 2
    assert "--path-prefix images/" in done.stderr


REFERENCES = """
import sys
import wandb
with wandb.init(project="getting-references") as run:
    artifact = wandb.Artifact("references", type="dataset")
    for name in ("kept.txt", "gone.txt"):
        artifact.add_reference(sys.argv[1] + "/" + name)
    run.log_artifact(artifact).wait()
    print(run.entity)
"""


def test_missing_references(stand_in: StandIn, env: dict[str, str], tmp_path: Path) -> None:
    stand_in.public_dir.mkdir(exist_ok=True)
    for name in ("kept.txt", "gone.txt"):
        (stand_in.public_dir / name).write_text(f"this is {name}")
    done = prepared.run_sdk("-c", REFERENCES, stand_in.public_url, env=env, timeout_s=100)
    assert done.returncode == 0, done.stderr[-2000:]
    name = f"{done.stdout.split()[-1]}/getting-references/references:v0"
    (stand_in.public_dir / "gone.txt").unlink()
    command = [*WBFS, "get", name, "--root", tmp_path / "root"]
    done = run(*command, env=env)
    assert done.returncode == 1
    assert "gone.txt" in done.stderr
    done = run(*command, "--allow-missing-references", env=env)
    assert done.returncode == 0, done.stderr
    assert "1 are missing references" in done.stderr
    assert os.listdir(tmp_path / "root") == ["kept.txt"]
