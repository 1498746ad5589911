"""Nothing of one version, or directory, is ever taken for another's."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Mounter
from mounts import Mount, run, wait_until
from stand_in import StandIn

from wbfs.store.content.marks import is_marked

LOG_UNCHECKED = """
import sys
import wandb
uri, project, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
with wandb.init(project=project) as run:
    artifact = wandb.Artifact("unchecked", type="dataset")
    artifact.add_reference(uri, name="data.bin", checksum=False)
    for number in range(times):
        with artifact.new_file(f"{number}.txt") as file:
            file.write("another version")
    run.log_artifact(artifact).wait()
    print(run.entity)
"""


@pytest.mark.parametrize("in_place", [True, False], ids=["one mount", "a new mount"])
def test_an_unchecked_reference_is_its_versions_own(
    mounter: Mounter, stand_in: StandIn, tmp_path: Path, in_place: bool
) -> None:
    project = f"unchecked-{in_place}"
    data = stand_in.public_dir / f"{project}.bin"
    uri = f"{stand_in.public_url}/{data.name}"
    data.write_bytes(b"as it was first")
    entity = stand_in.run_sdk(LOG_UNCHECKED, tmp_path / "sdk", uri, project, "0")
    mount = mounter()
    artifact = mount.path / entity / project / "unchecked"
    assert (artifact / "v0/data.bin").read_bytes() == b"as it was first"
    data.write_bytes(b"and later")
    stand_in.run_sdk(LOG_UNCHECKED, tmp_path / "sdk", uri, project, "1")
    if not in_place:
        kept = list((tmp_path / "cache/blobs").rglob("ref-*"))
        assert kept
        wait_until(lambda: all(is_marked(path.stat()) for path in kept), what="it is kept for good")
        artifact = mounter().path / entity / project / "unchecked"
    assert (artifact / "v1/data.bin").read_bytes() == b"and later"
    # What was read of a version before stays what it is.
    assert (artifact / "v0/data.bin").read_bytes() == b"as it was first"


LOG_TWO = """
import wandb
with wandb.init(project="two") as run:
    for name in ("one", "other"):
        artifact = wandb.Artifact(name, type="dataset")
        for letter in "bcd":
            with artifact.new_file(f"folder/{letter}.txt") as file:
                file.write(f"{name} {letter}")
        run.log_artifact(artifact).wait()
    print(run.entity)
"""
PATCHED = """
import {module}
from wbfs.cli.main import main
{module}.{name} = {value}
main()
"""


@pytest.fixture
def patched(mounter: Mounter, tmp_path: Path) -> Callable[..., Mount]:
    """Return what mounts with another constant: patched(server, module, name, value, ...)."""

    def mount(server: StandIn, module: str, name: str, value: int, source: str = "") -> Mount:
        program = tmp_path / "patched.py"
        program.write_text(PATCHED.format(module=module, name=name, value=value))
        return mounter(source, server=server, program=(sys.executable, str(program)))

    return mount


def test_a_manifest_that_became_another_one(
    patched: Callable[..., Mount], mounter: Mounter, fresh_stand_in: StandIn, tmp_path: Path
) -> None:
    server = fresh_stand_in
    entity = server.run_sdk(LOG_TWO, tmp_path / "sdk")
    # What is listed next closes the table of what was listed before.
    mount = patched(server, "wbfs.fetch.fetcher", "OPEN_MANIFESTS", 1)
    project = mount.path / entity / "two"
    one, other = project / "one/v0/folder", project / "other/v0/folder"

    def forget_tables() -> None:
        os.listdir(other)
        for table in (tmp_path / "cache/manifests").rglob("*.sqlite"):
            table.unlink()
        server.clear_requests()

    assert (one / "c.txt").read_text() == "one c"
    number = (one / "c.txt").stat().st_ino
    forget_tables()
    # The same again is no harm.
    assert (one / "b.txt").read_text() == "one b"
    assert len(server.requests(operation="FetchArtifactManifest")) == 1

    forget_tables()
    digest = base64.b64encode(hashlib.md5(b"one d").digest())
    [path] = [path for path in server.data_dir.rglob("*.json") if digest in path.read_bytes()]
    manifest = json.loads(path.read_text())
    manifest["contents"]["folder/a.txt"] = manifest["contents"]["folder/d.txt"]
    path.write_text(json.dumps(manifest))
    for name in ("b.txt", "c.txt", "d.txt"):
        with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
            (one / name).read_text()
    assert "is another one than it was" in mount.errors()[-1]["cause"]
    assert (other / "d.txt").read_text() == "other d"
    # A mount that gave no numbers out yet shows it as it is.
    mount = mounter(server=server, cache=tmp_path / "new")
    one = mount.path / entity / "two/one/v0/folder"
    assert sorted(os.listdir(one)) == ["a.txt", "b.txt", "c.txt", "d.txt"]
    assert (one / "c.txt").read_text() == "one c"
    assert (one / "c.txt").stat().st_ino == number + 1


LOG_MANY = """
import wandb
with wandb.init(project="many") as run:
    for number in range(24):
        artifact = wandb.Artifact(f"artifact-{number}", type="dataset")
        with artifact.new_file("file.txt") as file:
            file.write(f"{number}")
        run.log_artifact(artifact)
    print(run.entity)
"""


def test_names_with_one_inode_number_cost_one_of_them(
    patched: Callable[..., Mount], mounter: Mounter, fresh_stand_in: StandIn, tmp_path: Path
) -> None:
    server = fresh_stand_in
    entity = server.run_sdk(LOG_MANY, tmp_path / "sdk")
    # So few bits that some of the names have the number of another.
    mount = patched(server, "wbfs.fs.inodes", "KEY_BITS", 5, source=f"{entity}/many")
    shown = os.listdir(mount.path)
    assert 2 <= len(shown) < 24
    left_out = {f"artifact-{number}" for number in range(24)} - set(shown)
    causes = [error["cause"] for error in mount.errors()]
    for name in left_out:
        assert any(cause.startswith(f"{entity}/many/{name} can't be shown") for cause in causes)
        done = run("stat", mount.path / name)
        assert "Input/output error" in done.stderr
    name = left_out.pop()
    alone = mounter(f"{entity}/many/{name}", server=server)
    assert (alone.path / "v0/file.txt").read_text() == name.removeprefix("artifact-")
