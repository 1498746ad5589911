"""The corpus that other tests mount: each of its versions can be downloaded and is whole."""

from __future__ import annotations

from pathlib import Path

import corpus
import pytest
from sdk import run_program
from stand_in import StandIn

pytestmark = pytest.mark.sdk


def test_the_corpus(fresh_stand_in: StandIn, tmp_path: Path) -> None:
    fresh_stand_in.accounts(corpus.accounts("admin"))
    corpus.write_reference_files(fresh_stand_in.public_dir)
    environment = fresh_stand_in.env(tmp_path / "home")
    (tmp_path / "corpus").mkdir()
    logged = corpus.log_corpus(
        environment
        | {"CORPUS_FOLDER": str(tmp_path / "corpus"), "CORPUS_HTTP_URL": fresh_stand_in.public_url}
    )
    names = [item.name for item in logged.items]
    assert len(set(names)) == len(names)
    assert {item.kind for item in logged.items} == {"source", "portfolio", "registry"}

    downloaded = run_program(
        "download_all", fresh_stand_in.env(tmp_path / "other-home"), tmp_path, *names
    )
    assert list(downloaded) == names
    mixed = downloaded["corpus-team/corpus/mixed:v0"]
    assert mixed["naïve café/日本語.txt"] == "日本語\n".encode().hex()
    assert mixed["empty"] == ""
    assert downloaded["corpus-team/corpus/picked:v1"] == mixed
    assert downloaded["corpus-team/corpus/nothing:v0"] == {}
    references = downloaded["corpus-team/corpus/references:v0"]
    assert references["http/remote.bin"] == corpus.content("remote.bin", 300_000).hex()
    assert references["artifact/three.bin"] == mixed["folder/three.bin"]
    assert len(downloaded["Corpus-org/wandb-registry-model/released:v0"]["model.bin"]) == 40 << 20
