"""Walks over many files: what they ask the daemon for, and what they leave in its memory."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from conftest import Mounter
from mounts import Mount, check
from stand_in import StandIn

from wbfs.fs.folders import MAX_BYTES

FOLDERS = 40
IN_A_FOLDER = 1000
IN_THE_LARGE_FOLDER = 20_000
SMALL_FILES = 200
ALIASES = ["one", "two", "three", "four"]
NAMES = FOLDERS * (IN_A_FOLDER + 1) + IN_THE_LARGE_FOLDER + SMALL_FILES + 3
"""What `find` prints: files, folders and the version directory itself."""
MIB = 1 << 20

LOG = f"""
import wandb
from wandb.sdk.artifacts.artifact_manifest_entry import ArtifactManifestEntry

with wandb.init(project="scale") as run:
    artifact = wandb.Artifact("many", type="dataset")
    paths = [
        f"folder{{folder:02}}/{{number:06}}.jpg"
        for folder in range({FOLDERS})
        for number in range({IN_A_FOLDER})
    ]
    paths += [f"large/image-{{number:06}}.jpg" for number in range({IN_THE_LARGE_FOLDER})]
    # References, since there is nothing to upload of them.
    for path in paths:
        artifact.manifest.add_entry(
            ArtifactManifestEntry(path=path, digest="etag", ref="s3://nobodys/x", size=100)
        )
    for number in range({SMALL_FILES}):
        with artifact.new_file(f"small/{{number:03}}.txt") as file:
            file.write(f"file {{number}}")
    run.log_artifact(artifact, aliases={ALIASES!r}).wait()
    print(run.entity)
"""


@pytest.fixture(scope="module")
def source(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the SOURCE of a version of some tens of thousands of files."""
    entity = stand_in.run_sdk(LOG, tmp_path_factory.mktemp("scale"))
    return f"{entity}/scale/many:v0"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache that the tests share, so that the manifest is read once."""
    return tmp_path_factory.mktemp("scale-cache")


def requests_of(mount: Mount) -> Counter[str]:
    return Counter(mount.status()["requests"])


def find(folder: Path) -> int:
    return len(check("find", folder).splitlines())


def resident(pid: int) -> int:
    """Return how many bytes of a process are in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_a_second_walk_asks_for_nothing_but_listings(
    mounter: Mounter, source: str, cache: Path
) -> None:
    mount = mounter(source, cache=cache)
    assert find(mount.path) == NAMES
    before = requests_of(mount)
    assert find(mount.path) == NAMES
    # All attributes too.
    assert len(check("ls", "-lR", mount.path).splitlines()) > NAMES
    asked = requests_of(mount) - before
    assert asked["opendir"] == 2 * (FOLDERS + 3)
    # The kernel may drop a few names whenever it is short of memory.
    assert asked["lookup"] + asked["getattr"] < NAMES / 100
    # Hundreds of names at a time.
    assert asked["readdir"] < 2 * NAMES / 50
    assert asked["getxattr"] < 10


def test_walks_leave_nothing_in_the_daemons_memory(
    mounter: Mounter, source: str, cache: Path
) -> None:
    # Reading the manifest is another matter.
    first = mounter(source, cache=cache)
    assert find(first.path / "small") == SMALL_FILES + 1
    first.umount()
    mount = mounter(source.partition(":")[0], cache=cache)
    start = resident(mount.pid)
    # Through an alias it is another directory, whose names are the kernel's to remember.
    for name in ("v0", "latest", *ALIASES[:2]):
        assert find(mount.path / name) == NAMES
    full = resident(mount.pid)
    assert full - start < MAX_BYTES + 16 * MIB
    for name in (*ALIASES[2:], "v0", "latest"):
        assert find(mount.path / name) == NAMES
    # Some 15 bytes for each of the names that were new, and of the others.
    assert resident(mount.pid) - full < 2 * MIB


def test_a_large_folder_comes_a_piece_at_a_time(mounter: Mounter, source: str, cache: Path) -> None:
    mount = mounter(source, cache=cache)
    before = requests_of(mount)
    with os.scandir(mount.path / "large") as entries:
        assert next(entries).name == "image-000000.jpg"
    assert (requests_of(mount) - before)["readdir"] <= 2
    names = os.listdir(mount.path / "large")
    assert names == [f"image-{number:06}.jpg" for number in range(IN_THE_LARGE_FOLDER)]


@pytest.mark.promises("1.8")
def test_a_prefix_leaves_out_names_and_repeats_none(
    mounter: Mounter, source: str, cache: Path
) -> None:
    mount = mounter(source, cache=cache, options=("--path-prefix", "large/image-01"))
    assert os.listdir(mount.path) == ["large"]
    names = os.listdir(mount.path / "large")
    assert names == [f"image-{number:06}.jpg" for number in range(10_000, 20_000)]
    assert not (mount.path / "large/image-000001.jpg").exists()


def test_warm_files_are_opened_and_not_read(mounter: Mounter, source: str, cache: Path) -> None:
    mount = mounter(source, cache=cache)

    def read_all() -> list[str]:
        return [path.read_text() for path in sorted((mount.path / "small").iterdir())]

    def asked_for_all() -> Counter[str]:
        before = requests_of(mount)
        assert read_all() == [f"file {number}" for number in range(SMALL_FILES)]
        return requests_of(mount) - before

    assert asked_for_all()["read"] >= SMALL_FILES
    # More than once, since the kernel may be short of memory.
    asked = min((asked_for_all() for _ in range(3)), key=Counter.total)
    # One is for status.json.
    assert asked["open"] == SMALL_FILES + 1
    assert asked["lookup"] + asked["getattr"] + asked["getxattr"] == 0
    assert asked["read"] < 5
