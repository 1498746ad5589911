"""Log one artifact and download it in every way that the SDK has."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import wandb

RESULT, PROJECT, *OPTIONS = sys.argv[1:]
FILES = {
    "images/bikes/1.txt": b"1",
    "images/bikes/2.txt": b"2",
    "images/bikes2/3.txt": b"3",
    "other/odd name & ü?#.bin": bytes(range(256)) * 20000,
    "root.txt": b"root",
}


def tree(folder: str | Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): path.stat().st_size
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def forget_cached_files() -> None:
    shutil.rmtree(Path(os.environ["WANDB_CACHE_DIR"]) / "artifacts" / "obj")


def main() -> None:
    here = Path.cwd()
    out: dict[str, Any] = {}
    for name, data in FILES.items():
        path = here / "source" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    algorithm = "XXH128" if "xxh128" in OPTIONS else "MD5"
    with wandb.init(project=PROJECT) as run:
        logged = wandb.Artifact("downloads", "dataset", digest_algorithm=algorithm)
        for name in FILES:
            logged.add_file(str(here / "source" / name), name=name)
        run.log_artifact(logged).wait()
        where = f"{run.entity}/{PROJECT}/downloads:latest"

    artifact = wandb.Api().artifact(where)
    out["digest"] = [artifact.digest, artifact.digest_algorithm, artifact.manifest.digest()]
    out["layout"] = artifact.manifest.storage_policy.config()
    forget_cached_files()
    entry = artifact.get_entry("other/odd name & ü?#.bin")
    out["entry"] = tree(Path(entry.download(root=str(here / "entry"))).parent)
    out["prefix"] = tree(artifact.download(root=str(here / "prefix"), path_prefix="images/bikes/"))
    out["no_slash"] = tree(
        artifact.download(root=str(here / "no-slash"), path_prefix="images/bikes")
    )
    out["parts"] = tree(artifact.download(root=str(here / "parts"), multipart=True))
    root = artifact.download(root=str(here / "root"))
    out["root"] = tree(root)
    out["equal"] = all(
        (Path(folder) / name).read_bytes() == data
        for folder in (root, here / "parts")
        for name, data in FILES.items()
    )
    artifact.verify(root=root)
    (Path(root) / "root.txt").write_bytes(b"ROOT")
    try:
        artifact.verify(root=root)
    except ValueError as error:
        out["corrupt"] = str(error)
    out["checkout"] = tree(artifact.checkout(root=root))
    artifact.verify(root=root)
    Path(RESULT).write_text(json.dumps(out), "utf-8")


main()
