"""A varied set of artifacts, logged by the real wandb SDK: what tests mount and compare.

`log_corpus` runs this file as a program in a process of its own. What it logs is the
same each time, byte for byte.
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import prepared

TIMEOUT_S = 120.0
PROJECT = "corpus"
TEAM = "corpus-team"
ORGANIZATION = "Corpus"
REFERENCE_FILES = {"remote.bin": 300_000, "remote folder/remote.txt": 2_000}
MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusItem:
    """One version, under one of the names that it has.

    kind: "source", "portfolio" or "registry", how it is in that collection.
    aliases: the names beside the version that resolve to it in that collection.
    """

    entity: str
    project: str
    collection: str
    version: str
    aliases: tuple[str, ...]
    type: str
    kind: str

    @property
    def name(self) -> str:
        """The name for `wandb.Api().artifact`."""
        return f"{self.entity}/{self.project}/{self.collection}:{self.version}"

    @property
    def path(self) -> Path:
        """The collection's path in a mount of everything."""
        return Path(self.entity, self.project, self.collection)


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Everything that was logged."""

    items: tuple[CorpusItem, ...]


def accounts(user: str) -> dict[str, Any]:
    """Return the accounts document that the corpus needs, for the user who logs it."""
    return {
        "teams": [{"name": TEAM, "members": {user: "admin"}}],
        "organizations": [{"name": ORGANIZATION, "teams": [TEAM]}],
    }


def write_reference_files(folder: Path) -> None:
    """Write what has to be served at CORPUS_HTTP_URL, with an ETag for each file."""
    for name, size in REFERENCE_FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(name, size))


def content(seed: str, size: int) -> bytes:
    """Return `size` bytes that follow from `seed`."""
    return random.Random(seed).randbytes(size)


def log_corpus(env: Mapping[str, str]) -> Corpus:
    """Log the corpus as the user of `env`, for whom `accounts` were made.

    env: a whole environment for the SDK (`StandIn.env`), and beside that
        CORPUS_FOLDER: an empty folder to work in; `file://` references point into
            it, so it has to stay,
        CORPUS_HTTP_URL: where the files of `write_reference_files` are served.
    """
    result = Path(env["CORPUS_FOLDER"]) / "corpus.json"
    done = prepared.run_sdk(__file__, result, env=env, folder=result.parent, timeout_s=TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(result.read_text("utf-8"))
    return Corpus(
        items=tuple(CorpusItem(**row | {"aliases": tuple(row["aliases"])}) for row in rows)
    )


def main(result: Path) -> None:
    """Log everything; write the list of it to `result`, as JSON."""
    import wandb

    folder, http_url = Path(os.environ["CORPUS_FOLDER"]), os.environ["CORPUS_HTTP_URL"]
    logged: list[tuple[wandb.Artifact, str]] = []

    def write(name: str, files: Mapping[str, bytes]) -> str:
        root = folder / name
        for path, data in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        return str(root)

    def log(run: wandb.Run, artifact: wandb.Artifact, **options: Any) -> wandb.Artifact:
        run.log_artifact(artifact, **options).wait()
        logged.append((artifact, "source"))
        return artifact

    with wandb.init(project=PROJECT, entity=TEAM) as run:
        shared = content("shared", 70_000)
        mixed = {
            "root.txt": b"a line\n" * 100,
            "empty": b"",
            "with space.txt": b"a space in the name",
            "naïve café/日本語.txt": "日本語\n".encode(),
            "/".join(f"level{number}" for number in range(20)) + "/deep.bin": content("deep", 999),
            "folder/three.bin": content("three", 3 * MIB),
            "folder/shared.bin": shared,
            "folder/page.bin": content("page", 4096),
            "folder/page-1.bin": content("page-1", 4095),
            "folder/page+1.bin": content("page+1", 4097),
            "folder.txt": b"beside the folder",
            ".hidden/.file": b"hidden",
            "CASE.txt": b"upper",
            "case.txt": b"lower",
            "n" * 200 + ".txt": b"a long name",
        }
        mixed |= {f"many/{number:04}.txt": f"{number}\n".encode() for number in range(300)}
        first = wandb.Artifact(
            "mixed", "dataset", description="of every kind", metadata={"rows": 3, "é": [None, 1.5]}
        )
        first.add_dir(write("mixed", mixed))
        log(run, first, aliases=["best", "2024-01"], tags=["small", "two words"])

        second = first.new_draft()
        second.remove("folder.txt")
        with second.new_file("added/later.txt", mode="w") as file:
            file.write("in the second version\n")
        log(run, second, aliases=["candidate"])

        third = wandb.Artifact("mixed", "dataset", incremental=True)
        with third.new_file("added/increment.txt", mode="w") as file:
            file.write("an increment\n")
        log(run, third, aliases=["best"])

        big = wandb.Artifact("weights", "model")
        big.add_dir(
            write(
                "weights",
                {
                    "model.bin": content("model", 20 * MIB),
                    "copy of shared.bin": shared,
                    "config.json": b'{"layers": 3}',
                },
            )
        )
        log(run, big, aliases=["prod"])

        single = wandb.Artifact("single-file", "model")
        single.add_file(str(Path(write("single", {"only.txt": b"only"})) / "only.txt"))
        log(run, single)

        log(run, wandb.Artifact("nothing", "dataset"))

        references = wandb.Artifact("references", "dataset")
        for name in REFERENCE_FILES:
            references.add_reference(f"{http_url}/{name.replace(' ', '%20')}", name=f"http/{name}")
        local = write("local", {"a.bin": content("a", 5000), "sub/b.txt": b"b"})
        references.add_reference(Path(local).as_uri(), name="file")
        references.add_reference(first.get_entry("folder/three.bin"), name="artifact/three.bin")
        references.add_reference(first.get_entry("empty"), name="artifact/empty")
        with references.new_file("stored.txt", mode="w") as file:
            file.write("not a reference\n")
        log(run, references)

        # A portfolio's indices are its own: v0 is the source's v2.
        for artifact, aliases in ((third, ["golden"]), (first, [])):
            link = run.link_artifact(artifact, f"{TEAM}/{PROJECT}/picked", aliases=aliases)
            logged.append((link, "portfolio"))
        link = run.link_artifact(big, "wandb-registry-model/released", aliases=["stable"])
        logged.append((link, "registry"))

    with wandb.init(project="other-project") as run:
        other = wandb.Artifact("mixed", "raw-data")
        other.add_dir(write("other", {"root.txt": b"another artifact of this name", "s": shared}))
        log(run, other)

    api = wandb.Api()
    rows = []
    for artifact, kind in logged:
        name = f"{artifact.entity}/{artifact.project}/{artifact.collection.name}"
        # Asked for again, since later versions have taken aliases over.
        found = api.artifact(f"{name}:{artifact.version}")
        rows.append(
            {
                "entity": found.entity,
                "project": found.project,
                "collection": found.collection.name,
                "version": found.version,
                "aliases": sorted(found.aliases),
                "type": found.type,
                "kind": kind,
            }
        )
    result.write_text(json.dumps(rows, indent=1), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
