"""Where a mount reads references from, that other users read too: only where it was told to."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from conftest import Mounter
from mounts import Mount
from stand_in import StandIn

FILES = 40
LARGE = bytes(range(256)) * (5 << 12)
LOG = """
import pathlib, sys, wandb
url, folder = sys.argv[1], pathlib.Path(sys.argv[2])
with wandb.init(project="policy") as run:
    artifact = wandb.Artifact("references", type="dataset")
    for path in sorted(folder.iterdir()):
        artifact.add_reference(f"{url}/policy/{path.name}", name=f"http/{path.name}")
        artifact.add_reference(path.as_uri(), name=f"file/{path.name}")
    run.log_artifact(artifact).wait()
    print(run.entity)
"""


@pytest.fixture(scope="session")
def version(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a version with references to loopback and to files, small and large."""
    folder = stand_in.public_dir / "policy"
    folder.mkdir(parents=True)
    for number in range(FILES):
        (folder / f"{number:02}.txt").write_text(f"content {number}")
    (folder / "large.bin").write_bytes(LARGE)
    home = tmp_path_factory.mktemp("policy")
    entity = stand_in.run_sdk(LOG, home, stand_in.public_url, folder)
    return Path(entity, "policy/references/v0")


def denied(mount: Mount, folder: Path) -> str:
    """Try to read all files of a folder, in order; return the causes in words."""
    for name in [f"{number:02}.txt" for number in range(FILES)] + ["large.bin"]:
        with pytest.raises(PermissionError) as caught:
            (mount.path / folder / name).read_bytes()
        assert caught.value.errno == errno.EACCES
    return "\n".join({error["cause"] for error in mount.errors()})


def read(mount: Mount, folder: Path) -> None:
    for number in range(FILES):
        assert (mount.path / folder / f"{number:02}.txt").read_text() == f"content {number}"
    assert (mount.path / folder / "large.bin").read_bytes() == LARGE


@pytest.mark.promises("9.6")
def test_others_do_not_read_what_only_this_machine_may(
    mounter: Mounter, stand_in: StandIn, version: Path, tmp_path: Path
) -> None:
    mount = mounter(options=["--allow-other"])
    stand_in.clear_requests()
    assert "--allow-private-references" in denied(mount, version / "http")
    assert "--allow-file-references" in denied(mount, version / "file")
    # Not by reading ahead either, which a process of its own does.
    assert not [one for one in stand_in.requests(port="files") if "/policy/" in one.path]
    kept = [path for path in (tmp_path / "cache/blobs").rglob("*") if path.is_file()]
    assert not kept
    assert mount.is_alive()


@pytest.mark.parametrize(("option", "other"), [("file", "http"), ("private", "file")])
def test_each_option_allows_its_own(
    mounter: Mounter, version: Path, option: str, other: str
) -> None:
    mount = mounter(options=["--allow-other", f"--allow-{option}-references"])
    # What is not allowed first: they have the same content.
    denied(mount, version / other)
    read(mount, version / ("file" if option == "file" else "http"))


def test_what_one_s_own_mount_reads_is_not_another_s_to_show(
    mounter: Mounter, version: Path
) -> None:
    mount = mounter()
    read(mount, version / "http")
    read(mount, version / "file")
    # They share a cache.
    shared = mounter(options=["--allow-other"])
    denied(shared, version / "http")
    denied(shared, version / "file")
