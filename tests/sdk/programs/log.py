"""Log artifacts of every kind in one run, download them, and tell what came out."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import wandb

RESULT, HTTP_URL = Path(sys.argv[1]), sys.argv[2]
FILES = {
    "root.txt": b"in the root\n",
    "empty": b"",
    "folder/with space.txt": b"a space",
    "naïve café/日本語.txt": "日本語".encode(),
    "/".join(f"level{i}" for i in range(12)) + "/deep.bin": bytes(range(256)) * 40,
    "folder/big.bin": bytes(range(251)) * 5000,
}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def tree(folder: str | Path) -> dict[str, str]:
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes().hex() for path in paths}


def describe(artifact: wandb.Artifact) -> dict[str, Any]:
    return {
        "id": artifact.id,
        "name": artifact.name,
        "version": artifact.version,
        "aliases": sorted(artifact.aliases),
        "tags": sorted(artifact.tags),
        "type": artifact.type,
        "metadata": dict(artifact.metadata),
        "description": artifact.description,
        "ttl_s": artifact.ttl.total_seconds() if artifact.ttl is not None else None,
        "size": artifact.size,
        "file_count": artifact.file_count,
        "digest": artifact.digest,
        "state": artifact.state,
        "paths": sorted(artifact.manifest.entries),
    }


def main() -> None:
    here = Path.cwd()
    out: dict[str, Any] = {}
    with wandb.init(project="log", job_type="test") as run:
        run.log({"loss": 0.5})
        out["run"] = {"id": run.id, "entity": run.entity}

        first = wandb.Artifact("files", "dataset", metadata={"rows": 3}, description="of files")
        first.add_dir(str(write(here / "files", FILES)))
        first.ttl = timedelta(days=3)
        run.log_artifact(first, aliases=["best", "first"], tags=["one tag", "two"]).wait()
        out["first"] = describe(first)
        out["first_tree"] = tree(first.download())

        again = wandb.Artifact("files", "dataset")
        again.add_dir(str(here / "files"))
        run.log_artifact(again, aliases=["again"]).wait()
        out["again"] = describe(again)

        second = wandb.Artifact("files", "dataset")
        second.add_dir(str(here / "files"))
        with second.new_file("added.txt", mode="w") as file:
            file.write("added")
        run.log_artifact(second, aliases=["best"]).wait()
        out["second"] = describe(second)

        incremental = wandb.Artifact("files", "dataset", incremental=True)
        with incremental.new_file("increment.txt", mode="w") as file:
            file.write("increment")
        with incremental.new_file("root.txt", mode="w") as file:
            file.write("replaced")
        run.log_artifact(incremental).wait()
        out["incremental"] = describe(incremental)
        out["incremental_tree"] = tree(incremental.download())

        draft = incremental.new_draft()
        draft.remove("increment.txt")
        draft.add_file(str(write(here / "more", {"m.txt": b"more"}) / "m.txt"), name="draft.txt")
        run.log_artifact(draft).wait()
        out["draft"] = describe(draft)
        out["draft_tree"] = tree(draft.download())

        write(here / "refs", {"x.bin": b"x" * 1000, "sub/y.bin": b"y" * 10})
        references = wandb.Artifact("references", "dataset")
        references.add_reference(f"{HTTP_URL}/remote.bin")
        references.add_reference((here / "refs").as_uri(), name="local")
        references.add_reference(first.get_entry("folder/big.bin"), name="other/big.bin")
        run.log_artifact(references).wait()
        out["references"] = describe(references)
        out["references_tree"] = tree(references.download())
        entry = references.get_entry("remote.bin")
        out["ref_target"] = entry.ref_target()
        out["reference_sizes"] = {
            path: entry.size for path, entry in references.manifest.entries.items()
        }

        table = wandb.Table(columns=["n"], data=[[1], [2]])
        with_table = wandb.Artifact("table", "dataset")
        with_table.add(table, "numbers")
        run.log_artifact(with_table).wait()
        same_table = wandb.Artifact("table-again", "dataset")
        same_table.add(table, "copied")
        run.log_artifact(same_table).wait()
        out["table"] = [list(row) for _, row in same_table.get("copied").iterrows()]
        out["table_refs"] = {path: entry.ref for path, entry in same_table.manifest.entries.items()}
        out["with_table"] = describe(with_table)

        somewhere = wandb.Artifact("somewhere", "dataset", storage_region="minio-local")
        with somewhere.new_file("text.txt", mode="w") as file:
            file.write("somewhere")
        run.log_artifact(somewhere).wait()
        config = somewhere.manifest.to_manifest_json()["storagePolicyConfig"]
        out["somewhere"] = [somewhere.commit_hash, config, tree(somewhere.download())]
        nowhere = wandb.Artifact("nowhere", "dataset", storage_region="coreweave-us")
        try:
            run.log_artifact(nowhere).wait()
        except ValueError as error:
            out["nowhere"] = str(error)

        shared = wandb.Artifact("shared", "model")
        shared.add_file(str(here / "files/folder/big.bin"), name="copied.bin")
        run.log_artifact(shared).wait()
        entry = shared.manifest.entries["copied.bin"]
        out["shared"] = {"born_in": entry.birth_artifact_id, **describe(shared)}
        out["shared_tree"] = tree(shared.download())

    parts = []
    for number in range(2):
        with wandb.init(project="log", group="together") as run:
            part = wandb.Artifact("distributed", "dataset")
            with part.new_file(f"part{number}.txt", mode="w") as file:
                file.write(f"part {number}")
            log = run.upsert_artifact if number == 0 else run.finish_artifact
            parts.append(log(part, distributed_id="together"))
    parts[-1].wait()
    out["distributed"] = describe(parts[-1])
    out["distributed_tree"] = tree(parts[-1].download())

    with wandb.init(project="log", id=out["run"]["id"], resume="must") as run:
        out["resumed"] = [run.id, run.resumed, run.summary["loss"], run.starting_step]
        run.log({"loss": 0.25})

    RESULT.write_text(json.dumps(out), "utf-8")


main()
