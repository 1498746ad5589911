"""What the mount shows of everything that the real SDK logged, against the SDK's own download."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import prepared
import pytest
from conftest import Mounter
from corpus import ORGANIZATION, CorpusItem
from mounts import Mount, check
from stand_in import StandIn

DOWNLOAD = """
import json, sys
import wandb
api = wandb.Api()
for name, root in json.load(open(sys.argv[1])):
    api.artifact(name).download(root=root)
"""


@pytest.fixture(scope="session")
def downloads(
    stand_in: StandIn, corpus: tuple[CorpusItem, ...], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Path]:
    """Return where the SDK's `download()` put each version, by collection path and version."""
    home = tmp_path_factory.mktemp("downloads")
    roots = {(str(one.path), one.version): home / str(number) for number, one in enumerate(corpus)}
    jobs = [(f"{path}:{version}", str(root)) for (path, version), root in roots.items()]
    (home / "jobs.json").write_text(json.dumps(jobs))
    done = prepared.run_sdk(
        "-c",
        DOWNLOAD,
        home / "jobs.json",
        env=stand_in.env(home / "home"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return roots


@pytest.mark.promises("1.3", "1.4")
def test_every_version_is_what_the_sdk_downloads(
    mounter: Mounter, corpus: tuple[CorpusItem, ...], downloads: dict[tuple[str, str], Path]
) -> None:
    mount = mounter()
    compared = 0
    for one in corpus:
        root = downloads[str(one.path), one.version]
        # An artifact of nothing but an empty manifest is no folder to the SDK.
        root.mkdir(exist_ok=True)
        for name in (one.version, *one.aliases):
            shown = mount.path / one.path / name
            assert check("diff", "-r", shown, root) == ""
            compared += 1
    assert compared >= 2 * len(corpus)
    assert {"latest"} < {alias for one in corpus for alias in one.aliases}


def test_cp_copies_files(
    mounter: Mounter,
    corpus: tuple[CorpusItem, ...],
    downloads: dict[tuple[str, str], Path],
    tmp_path: Path,
) -> None:
    mount = mounter()
    one = next(one for one in corpus if "latest" in one.aliases)
    check("cp", "-r", mount.path / one.path / "latest", tmp_path / "copy")
    assert not (tmp_path / "copy").is_symlink()
    assert check("diff", "-r", tmp_path / "copy", downloads[str(one.path), one.version]) == ""


@pytest.mark.promises("3.6")
def test_looking_at_everything_fetches_no_file_bytes(
    mounter: Mounter, corpus: tuple[CorpusItem, ...], stand_in: StandIn
) -> None:
    mount = mounter()
    stand_in.clear_requests()
    # The root lists the user's own entity and teams; an organization's is found by its name.
    [registry] = [one.entity for one in corpus if one.kind == "registry"]
    assert registry not in os.listdir(mount.path)
    # Not what other tests have logged besides.
    roots = sorted({mount.path / one.entity / one.project for one in corpus})
    listed = check("ls", "-lR", *roots, timeout_s=100)
    found = check("find", *roots, "-type", "f", timeout_s=100).splitlines()
    for start in range(0, len(found), 500):
        check("stat", *found[start : start + 500])
    assert len(found) > 3 * len(corpus)
    assert all(one.collection in listed for one in corpus)
    # Manifests are files of the origin too; of others only their sizes may be asked.
    asked = stand_in.requests(port="files")
    assert [one.key for one in asked if one.key.startswith("manifests/")]
    others = [one for one in asked if not one.key.startswith("manifests/")]
    assert [one.key for one in others if one.bytes_sent > 1] == []


def largest_with_folders(mount_path: Path, corpus: tuple[CorpusItem, ...]) -> Path:
    """Return the version with the most folders that have files."""

    def folders(one: CorpusItem) -> int:
        return sum(bool(files) for _, _, files in os.walk(mount_path / one.path / one.version))

    return max((one for one in corpus), key=folders).path


def file_keys(stand_in: StandIn) -> list[str]:
    return [
        request.key
        for request in stand_in.requests(port="files", method="GET")
        if not request.key.startswith("manifests/")
    ]


@pytest.mark.promises("4.1")
def test_one_folder_is_a_partial_download_and_is_fetched_once(
    mounter: Mounter, corpus: tuple[CorpusItem, ...], stand_in: StandIn, tmp_path: Path
) -> None:
    mount = mounter()
    version = mount.path / largest_with_folders(mount.path, corpus) / "latest"
    folder = max(
        (Path(at) for at, _, files in os.walk(version) if files), key=lambda at: len(at.parts)
    )
    inside = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size]
    assert inside
    assert folder != version
    stand_in.clear_requests()
    check("cp", "-r", folder, tmp_path / "copy")
    contents = {path.read_bytes() for path in inside}
    assert len(file_keys(stand_in)) == len(contents)

    stand_in.clear_requests()
    for target in ("again", "and again"):
        check("cp", "-r", folder, tmp_path / target)
    again = mounter()
    check("diff", "-r", again.path / folder.relative_to(mount.path), folder)
    mount.umount()
    remounted = mounter()
    check("diff", "-r", remounted.path / folder.relative_to(mount.path), tmp_path / "copy")
    assert file_keys(stand_in) == []


@pytest.mark.promises("4.2")
def test_many_readers_of_one_file_fetch_it_once(
    mounter: Mounter, corpus: tuple[CorpusItem, ...], stand_in: StandIn
) -> None:
    mount = mounter()
    files = [
        path
        for one in corpus
        for path in (mount.path / one.path / one.version).rglob("*")
        if path.is_file()
    ]
    large = max(files, key=lambda path: path.stat().st_size)
    stand_in.clear_requests()
    with stand_in.faults(port="files", delay_s=0.5):
        readers = [
            subprocess.Popen(["md5sum", large], stdout=subprocess.PIPE, text=True)
            for _ in range(20)
        ]
        sums = {reader.communicate(timeout=100)[0].split()[0] for reader in readers}
    assert len(sums) == 1
    gets = stand_in.requests(port="files", method="GET")
    assert sum(get.bytes_sent for get in gets) == large.stat().st_size


def test_python_reads_and_maps(mounter: Mounter, corpus: tuple[CorpusItem, ...]) -> None:
    mount = mounter()
    one = corpus[0]
    path = next(
        path
        for path in sorted((mount.path / one.path / one.version).rglob("*"))
        if path.is_file() and path.stat().st_size > 10
    )
    program = (
        "import mmap, sys\n"
        "with open(sys.argv[1], 'rb') as file:\n"
        "    whole = file.read()\n"
        "    file.seek(5); part = file.read(3)\n"
        "    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "    assert mapped[:] == whole and part == whole[5:8]\n"
        "print(len(whole))"
    )
    assert int(check(sys.executable, "-c", program, path)) == path.stat().st_size


@pytest.mark.promises("1.8")
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_narrower_sources(
    mounter: Mounter, corpus: tuple[CorpusItem, ...], depth: int, tmp_path: Path
) -> None:
    everything = mounter()
    version = everything.path / largest_with_folders(everything.path, corpus) / "latest"
    folder = next(path for path in sorted(version.iterdir()) if path.is_dir())
    parts = (*version.relative_to(everything.path).parts, folder.name)[:depth]
    source = "/".join(parts[:3])
    if depth > 3:
        source += ":" + "/".join(parts[3:])
    narrow = mounter(source)
    shown = everything.path.joinpath(*parts)
    assert sorted(os.listdir(narrow.path)) == sorted(os.listdir(shown))
    if depth > 3:
        assert check("diff", "-r", narrow.path, shown) == ""
    else:
        names = sorted(os.listdir(shown))
        assert check("ls", "-l", narrow.path / names[0]) == check("ls", "-l", shown / names[0])


@pytest.mark.promises("1.2")
def test_names_that_are_not_listed(mounter: Mounter, corpus: tuple[CorpusItem, ...]) -> None:
    mount = mounter()
    one = corpus[0]
    collection = mount.path / one.path
    version = collection / one.version
    for name in ("digest", "id"):
        value = os.getxattr(version, f"user.wandb.{name}").decode()
        assert value not in os.listdir(collection)
        assert check("diff", "-r", collection / value, version) == ""


@pytest.mark.promises("1.1", "1.2")
def test_a_registry_by_its_organizations_name(
    mounter: Mounter, corpus: tuple[CorpusItem, ...]
) -> None:
    [released] = [one for one in corpus if one.kind == "registry"]
    everything = mounter()
    assert released.entity not in os.listdir(everything.path)
    shown = everything.path / released.path / "stable"
    for entity in ("", f"{ORGANIZATION}/", f"{released.entity}/"):
        mount = mounter(f"{entity}{released.project}/{released.collection}:stable")
        assert check("diff", "-r", mount.path, shown) == ""
        mount.umount()


def operations_of_copying(mount: Mount, folder: Path, target: Path) -> set[str]:
    """Copy a folder; return the operations that the kernel asked for more than a few times."""
    before = mount.status()["requests"]
    check("cp", "-r", folder, target)
    after = mount.status()["requests"]
    return {name for name in after if after[name] - before.get(name, 0) > 3}


def test_what_the_kernel_has_is_not_asked_for_again(
    mounter: Mounter, corpus: tuple[CorpusItem, ...], tmp_path: Path
) -> None:
    mount = mounter()
    collection = mount.path / largest_with_folders(mount.path, corpus)
    version = os.getxattr(collection / "latest", "user.wandb.version").decode()
    assert "read" in operations_of_copying(mount, collection / "latest", tmp_path / "first")
    # Through another name it is the same file. Whatever else runs on the machine may make the
    # kernel drop pages, so that not every copy asks for nothing; one of a few does.
    asked = [
        operations_of_copying(mount, collection / name, tmp_path / f"{number} {name}")
        for number in range(3)
        for name in ("latest", version)
    ]
    opening = {"open", "release", "opendir", "readdir", "releasedir"}
    assert any(names <= opening for names in asked[0::2]), asked
    assert any("read" not in names for names in asked[1::2]), asked


@pytest.mark.promises("1.5")
def test_listings_of_many_pages(mounter: Mounter, tmp_path: Path) -> None:
    program = (
        "import wandb\n"
        "with wandb.init(project='paged') as run:\n"
        "    for number in range(5):\n"
        "        artifact = wandb.Artifact('many', type='dataset')\n"
        "        with artifact.new_file('f') as file: file.write(str(number))\n"
        "        run.log_artifact(artifact).wait()\n"
        "    for number in range(4):\n"
        "        artifact = wandb.Artifact(f'a{number}', type='dataset')\n"
        "        with artifact.new_file('f') as file: file.write('x')\n"
        "        run.log_artifact(artifact)\n"
    )
    server = StandIn(tmp_path / "server", "--max-page-size", "2")
    try:
        done = prepared.run_sdk("-c", program, env=server.env(tmp_path / "home"), timeout_s=100)
        assert done.returncode == 0, done.stderr[-2000:]
        project = mounter(server=server).path / "admin" / "paged"
        assert sorted(os.listdir(project)) == ["a0", "a1", "a2", "a3", "many"]
        names = [*(f"v{number}" for number in range(5)), "latest"]
        # As the pages come, and from then on in order.
        assert sorted(os.listdir(project / "many")) == sorted(names)
        assert os.listdir(project / "many") == names
        assert len(server.requests(operation="ProjectArtifacts")) == 3
        assert len(server.requests(operation="ProjectArtifactCollections")) == 3
    finally:
        server.stop()
