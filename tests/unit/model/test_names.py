"""The SOURCE of a mount, and what can be a name in a folder."""

from __future__ import annotations

import pytest

from wbfs.model.errors import NameInvalid
from wbfs.model.names import (
    Source,
    is_safe_component,
    is_version_name,
    parse_source,
    source_of_url,
)


@pytest.mark.parametrize(
    ("text", "components"),
    [
        ("", ()),
        ("team", ("team",)),
        ("team/project", ("team", "project")),
        ("team/project/", ("team", "project")),
        ("team/project/artifact", ("team", "project", "artifact")),
        ("team/project/artifact:v3", ("team", "project", "artifact", "v3")),
        ("team/project/artifact:v3/a/b", ("team", "project", "artifact", "v3", "a", "b")),
        ("team/project/artifact:v3//a/", ("team", "project", "artifact", "v3", "a")),
        ("project/artifact:latest", ("me", "project", "artifact", "latest")),
        ("artifact:latest", ("me", "mine", "artifact", "latest")),
        ("artifact:latest/images", ("me", "mine", "artifact", "latest", "images")),
    ],
)
def test_source(text: str, components: tuple[str, ...]) -> None:
    source = parse_source(text, default_entity="me", default_project="mine")
    parts = (source.entity, source.project, source.collection, source.alias)
    assert tuple(part for part in (*parts, *source.folder.split("/")) if part) == components


@pytest.mark.parametrize(
    "text",
    ["a/b/c/d", "a/b/c/d:v1", ":v1", "artifact:", "a/../c", "artifact:v1/../x", "a//c:v1", "\0"],
)
def test_bad_source(text: str) -> None:
    with pytest.raises(NameInvalid, match="source"):
        parse_source(text, default_entity="me", default_project="mine")


def test_missing_default_is_named() -> None:
    with pytest.raises(NameInvalid, match="names no project.*WANDB_PROJECT"):
        parse_source("artifact:latest", default_entity="me", default_project="")
    assert parse_source("", default_entity="", default_project="") == Source()


@pytest.mark.parametrize("name", ["a", "ä", "a b", "x" * 255, "..a", "a\nb", "日" * 85])
def test_safe_components(name: str) -> None:
    assert is_safe_component(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "x" * 256, "日" * 86, "\ud800"])
def test_unsafe_components(name: str) -> None:
    assert not is_safe_component(name)


def test_version_names() -> None:
    assert is_version_name("v0")
    assert is_version_name("v17")
    assert not any(map(is_version_name, ["v", "latest", "v1a", "V1", "v-1", " v1", "v٣"]))


@pytest.mark.parametrize(
    ("url", "source"),
    [
        ("https://wandb.ai/team", "team"),
        ("https://wandb.ai/team/projects", "team"),
        ("https://wandb.ai/team/my%20project/", "team/my project"),
        ("https://wandb.ai/team/project/workspace?nw=x", "team/project"),
        ("https://wandb.ai/team/project/artifacts", "team/project"),
        ("https://wandb.ai/team/project/artifacts/dataset", "team/project"),
        ("https://wandb.ai/team/project/artifacts/dataset/bikes", "team/project/bikes"),
        ("https://wandb.ai/team/project/artifacts/dataset/bikes/v3", "team/project/bikes:v3"),
        ("https://wandb.ai/team/project/artifacts/d/bikes/best/usage#x", "team/project/bikes:best"),
        ("https://wandb.ai/team/project/artifacts/d/bikes/v3/files", "team/project/bikes:v3"),
        (
            "https://wandb.ai/team/project/artifacts/d/bikes/v3/files/a%20b/c?x=1",
            "team/project/bikes:v3/a b/c",
        ),
        ("https://wandb.ai/orgs/my-org/registry/model", "my-org/wandb-registry-model"),
        (
            "https://wandb.ai/registry/model?selectionPath=my-org%2Fwandb-registry-model%2Fbikes"
            "&view=membership&version=v3",
            "my-org/wandb-registry-model/bikes:v3",
        ),
        (
            "https://wandb.ai/orgs/o/registry/model?selectionPath=o%2Fwandb-registry-model%2Fbikes",
            "o/wandb-registry-model/bikes",
        ),
        ("wandb-artifact:///team/project/bikes:v3/a", "team/project/bikes:v3/a"),
    ],
)
def test_what_a_page_shows(url: str, source: str) -> None:
    assert source_of_url(url) == source


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://wandb.ai/team/project/runs/abc123/overview", "a run's page.* in team/project"),
        ("https://wandb.ai/team/project/reports/Title--abc", "no page of"),
        ("https://user:secret@wandb.ai/?key=secret", "https://wandb.ai/ is no page of"),
    ],
)
def test_pages_of_what_is_in_no_mount(url: str, words: str) -> None:
    with pytest.raises(NameInvalid, match=words) as caught:
        source_of_url(url)
    assert "secret" not in str(caught.value)
