"""References to files of this machine, as the SDK writes them, whatever their names are."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from conftest import Mounter
from stand_in import StandIn

NAMES = (
    "plain.txt",
    "a#b.txt",
    "50%.txt",
    "%41.txt",
    "A.txt",
    "what?.txt",
    "with space .txt",
    "naïve – 日本.txt",
    "semi;colon&=+.txt",
    "new\nline.txt",
    "sub#folder/a%20b?c#d.txt",
)
LOG = """
import pathlib, sys, wandb
folder = pathlib.Path(sys.argv[1])
with wandb.init(project="files") as run:
    artifact = wandb.Artifact("files", type="dataset")
    artifact.add_reference(folder.as_uri(), name="quoted")
    artifact.add_reference(f"file://{folder.parent}/plain", name="plain")
    for number, path in enumerate(sorted(folder.rglob("*.txt"))):
        artifact.add_reference(path.as_uri(), name=f"single/{number}.txt")
    artifact.add_reference(folder.as_uri(), name="unchecked", checksum=False)
    artifact = run.log_artifact(artifact).wait()
    # Of the SDK's own downloads those fail whose names are taken for a query, or for quoted.
    for number in range(len(list(folder.rglob("*.txt")))):
        artifact.get_entry(f"single/{number}.txt").download(sys.argv[2])
    print(run.entity)
"""


def test_files_of_odd_names(mounter: Mounter, stand_in: StandIn, tmp_path: Path) -> None:
    # The folder's own name is quoted in its URI.
    folder = tmp_path / "a folder %23"
    for base in (folder, tmp_path / "plain"):
        for number, name in enumerate(NAMES):
            path = base / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"content {number}")
    entity = stand_in.run_sdk(LOG, tmp_path / "home", folder, tmp_path / "downloaded")
    version = Path(entity, "files/files/v0")
    mount = mounter()
    for number, name in enumerate(NAMES):
        for base in ("quoted", "plain"):
            assert (mount.path / version / base / name).read_text() == f"content {number}", name
        shown = mount.path / version / "unchecked" / name
        assert shown.stat().st_size == len(f"content {number}")
        with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
            shown.read_bytes()
        assert "without a checksum" in mount.errors()[-1]["cause"], name
    downloaded = tmp_path / "downloaded/single"
    assert len(os.listdir(downloaded)) == len(NAMES)
    for path in downloaded.iterdir():
        assert (mount.path / version / "single" / path.name).read_bytes() == path.read_bytes()
