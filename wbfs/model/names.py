"""Names of entities, projects, collections and aliases, and the SOURCE of a mount."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from wbfs.model.errors import NameInvalid

REGISTRY_PREFIX = "wandb-registry-"
NAME_MAX = 255
"""Bytes that one component of a path may have, as on every Linux filesystem."""

ARTIFACT_URI = "wandb-artifact://"
_PROJECT_TABS = ("artifacts", "overview", "reports", "runs", "sweeps", "table", "workspace")
_VERSION = re.compile(r"v[0-9]+")


def name_at(entity: str, project: str, collection: str, alias: str) -> str:
    """Return the name of a version, or of an alias, as the SDK writes it."""
    return f"{entity}/{project}/{collection}:{alias}"


def is_version_name(name: str) -> bool:
    """Whether `name` is a version's own name (`v0`, `v17`), which never moves."""
    return _VERSION.fullmatch(name) is not None


def is_safe_component(name: str) -> bool:
    """Whether `name` can stand as one component of a path on Linux."""
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        return False
    # A lone surrogate (JSON can hold one) has no bytes to be looked up by.
    try:
        return len(name.encode()) <= NAME_MAX
    except UnicodeEncodeError:
        return False


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The directory that a mount shows: parts from the left, empty where it shows them all.

    `alias` is a version's name, an alias, a digest or an id. `folder` is a path in the artifact.
    """

    entity: str = ""
    project: str = ""
    collection: str = ""
    alias: str = ""
    folder: str = ""

    @property
    def place(self) -> tuple[str, str, str, str]:
        """Entity, project, collection and alias."""
        return self.entity, self.project, self.collection, self.alias

    def __str__(self) -> str:
        """Return it as one writes it, with nothing left out."""
        above = "/".join(filter(None, (self.entity, self.project, self.collection)))
        return "/".join(
            filter(None, (f"{above}:{self.alias}" if self.alias else above, self.folder))
        )


def parse_source(text: str, *, default_entity: str, default_project: str) -> Source:
    """Parse `entity[/project[/artifact[:alias[/folder]]]]`, or `[[entity/]project/]artifact:alias`.

    With an alias, parts missing on the left come from the defaults, as with the SDK; without one
    the parts count from the left. The empty text means everything. Raises NameInvalid.
    """
    left, colon, right = text.partition(":")
    parts = left.strip("/").split("/") if left.strip("/") else []
    alias, _, folder = right.strip("/").partition("/")
    if len(parts) > 3:
        raise NameInvalid(
            f"source {text!r} has {len(parts)} parts before the alias, but entity/project/artifact"
            " are three; a folder goes behind an alias: entity/project/artifact:alias/folder"
        )
    if colon and not (parts and alias):
        raise NameInvalid(f"source {text!r} needs an artifact before the ':' and an alias behind")
    if colon:
        defaults = [default_entity, default_project, ""]
        parts = [*defaults[: 3 - len(parts)], *parts]
        for name, part in zip(("entity", "project"), parts, strict=False):
            if not part:
                raise NameInvalid(
                    f"source {text!r} names no {name} and your W&B settings have none: write"
                    f" {name}/... in front or set WANDB_{name.upper()}"
                )
    folders = [part for part in folder.split("/") if part]
    for part in (*parts, *([alias] if alias else []), *folders):
        if not is_safe_component(part):
            raise NameInvalid(f"source {text!r} has an invalid part {part!r}")
    entity, project, collection = (*parts, "", "", "")[:3]
    return Source(
        entity=entity,
        project=project,
        collection=collection,
        alias=alias,
        folder="/".join(folders),
    )


def source_of_url(url: str) -> str:
    """Return as a SOURCE what a page of W&B's shows, or an artifact's URI names.

    Raises NameInvalid for pages of what is no part of a mount.
    """
    if url.startswith(ARTIFACT_URI):
        return url.removeprefix(ARTIFACT_URI).strip("/")
    parts = urlsplit(url)
    names = [unquote(name) for name in parts.path.split("/") if name]
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    match names:
        case [*_, "registry", _] if "selectionPath" in query:
            source = query["selectionPath"]
            return f"{source}:{query['version']}" if "version" in query else source
        case ["orgs", organization, "registry", name]:
            return f"{organization}/{REGISTRY_PREFIX}{name}"
        case [entity] | [entity, "projects"]:
            return entity
        case [entity, project]:
            return f"{entity}/{project}"
        case [entity, project, tab] if tab in _PROJECT_TABS:
            return f"{entity}/{project}"
        case [entity, project, "artifacts", _]:
            return f"{entity}/{project}"
        case [entity, project, "artifacts", _, artifact]:
            return f"{entity}/{project}/{artifact}"
        case [entity, project, "artifacts", _, artifact, alias, "files", *folders]:
            return "/".join((f"{entity}/{project}/{artifact}:{alias}", *folders))
        case [entity, project, "artifacts", _, artifact, alias, *_]:
            return f"{entity}/{project}/{artifact}:{alias}"
        case [entity, project, "runs", *_]:
            raise NameInvalid(
                f"{_shown(parts)} is a run's page, and wbfs shows artifacts: those that it logged"
                f" are in {entity}/{project}"
            )
    raise NameInvalid(
        f"{_shown(parts)} is no page of an entity, a project or an artifact: give"
        " entity/project/artifact:alias, or the address of an artifact's page"
    )


def _shown(parts: SplitResult) -> str:
    """Return a URL as it may be told."""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
