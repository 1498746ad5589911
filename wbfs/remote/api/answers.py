"""What W&B's API answers becomes plain data.

What is not as the protocol has it raises RemoteProtocolError, in every function here.
"""

from __future__ import annotations

import base64
import binascii
import functools
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ParamSpec, TypeVar

from wbfs.model.entries import Collection, Project, Version, Viewer
from wbfs.model.errors import NotFound, RemoteProtocolError
from wbfs.model.names import is_version_name
from wbfs.model.runs import Run

P = ParamSpec("P")
R = TypeVar("R")

COMMITTED = "COMMITTED"


def _parses(function: Callable[P, R]) -> Callable[P, R]:
    """Make what a server's answer lacks an error of the protocol, and not a defect of ours."""

    @functools.wraps(function)
    def parse(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise RemoteProtocolError(
                f"the server's answer is not as W&B's protocol has it: {error!r}"
            ) from error

    return parse


@_parses
def parse_viewer(node: Mapping[str, Any]) -> Viewer:
    """Return whose key it is."""
    teams = (node.get("teams") or {}).get("edges") or ()
    return Viewer(
        id=node["id"],
        entity=node.get("entity") or node.get("username") or "",
        username=node.get("username") or "",
        teams=tuple(edge["node"]["name"] for edge in teams),
    )


@_parses
def parse_organizations(entity: Mapping[str, Any]) -> dict[str, str]:
    """Return the organizations' names by their entities."""
    found = [entity["organization"]] if entity.get("organization") else []
    found += (entity.get("user") or {}).get("organizations") or []
    return {one["orgEntity"]["name"]: one["name"] for one in found if one.get("orgEntity")}


@_parses
def parse_features(info: Mapping[str, Any]) -> frozenset[str]:
    """Return the features that a `serverInfo` has on."""
    features = info.get("features") or ()
    return frozenset(one["name"] for one in features if one and one.get("isEnabled"))


@_parses
def parse_creator(artifact: Mapping[str, Any]) -> Run | None:
    """Return the run that logged an artifact, None where none did or it isn't seen."""
    creator = artifact.get("createdBy") or {}
    project = creator.get("project") or {}
    if creator.get("__typename") != "Run" or not project:
        return None
    return Run(entity=project["entity"]["name"], project=project["name"], name=creator["name"])


@_parses
def parse_direct_url(file: Mapping[str, Any]) -> str:
    """Return a file's signed URL."""
    if not isinstance(file["directUrl"], str):
        raise TypeError("directUrl is no text")
    return file["directUrl"]


@_parses
def parse_file_url(edge: Mapping[str, Any]) -> tuple[str, str]:
    """Return the path and the signed URL of an edge of a files listing; "" for no URL."""
    return edge["node"]["name"], edge["node"]["directUrl"] or ""


@_parses
def parse_project(node: Mapping[str, Any], entity: str) -> Project:
    """Return a project of the entity."""
    return Project(entity=entity, name=node["name"], created_at_ns=_time_ns(node["createdAt"]))


@_parses
def parse_collection(node: Mapping[str, Any], entity: str, project: str) -> Collection:
    """Return a collection of the project."""
    return Collection(
        entity=entity,
        project=project,
        name=node["name"],
        type=node["type"]["name"],
        created_at_ns=_time_ns(node["createdAt"]),
    )


@_parses
def parse_place(node: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return entity, project and name of a node's collection; empty texts for one not seen."""
    collection = node.get("artifactCollection") or {}
    project = collection.get("project") or {}
    entity = project.get("entity") or {}
    return entity.get("name") or "", project.get("name") or "", collection.get("name") or ""


@_parses
def parse_listed_version(edge: Mapping[str, Any], place: tuple[str, str, str]) -> Version | None:
    """Return the version of a listing's edge, None for one that is not committed."""
    node = edge["node"]
    if node.get("state") != COMMITTED:
        return None
    # Those of its other collections are listed too.
    aliases = [alias["alias"] for alias in node.get("aliases") or () if parse_place(alias) == place]
    return parse_version(node, place, edge["version"], aliases, membership_at(node, place))


@_parses
def parse_memberships(
    artifact: Mapping[str, Any],
) -> list[tuple[tuple[str, str, str], Mapping[str, Any]]]:
    """Return the places of the collections that an artifact is in, and its memberships there."""
    edges = (artifact.get("artifactMemberships") or {}).get("edges") or ()
    return [(parse_place(edge["node"]), edge["node"]) for edge in edges]


def membership_at(
    artifact: Mapping[str, Any], place: tuple[str, str, str]
) -> Mapping[str, Any] | None:
    """Return an artifact's membership in the collection at `place`, if it is in there."""
    return dict(parse_memberships(artifact)).get(place)


@_parses
def parse_member(
    membership: Mapping[str, Any],
    artifact: Mapping[str, Any],
    place: tuple[str, str, str],
    missing: str,
) -> Version:
    """Return an artifact as a member of the collection at `place`. Raises NotFound."""
    if artifact.get("state") != COMMITTED:
        raise NotFound(f"{missing}: it is {str(artifact.get('state')).lower()}")
    aliases = [alias["alias"] for alias in membership.get("aliases") or ()]
    own_name = next(filter(is_version_name, aliases), f"v{membership['versionIndex']}")
    return parse_version(artifact, place, own_name, aliases, membership)


@_parses
def parse_version(
    artifact: Mapping[str, Any],
    place: tuple[str, str, str],
    name: str,
    aliases: Sequence[str],
    membership: Mapping[str, Any] | None,
) -> Version:
    """Return an artifact as the version `name` of the collection at `place`."""
    entity, project, collection = place
    return Version(
        id=artifact["id"],
        entity=entity,
        project=project,
        collection=collection,
        name=name,
        type=(artifact.get("artifactType") or {}).get("name") or "",
        digest=artifact.get("digest") or "",
        digest_algorithm=artifact.get("digestAlgorithm") or "MANIFEST_MD5",
        aliases=tuple(alias for alias in aliases if not is_version_name(alias)),
        tags=tuple(tag["name"] for tag in artifact.get("tags") or ()),
        size=int(artifact.get("size") or 0),
        file_count=int(artifact.get("fileCount") or 0),
        created_at_ns=_time_ns(artifact["createdAt"]),
        joined_at_ns=_joined_at_ns(artifact, membership),
        description=artifact.get("description") or "",
        metadata=artifact.get("metadata") or "{}",
    )


def _joined_at_ns(artifact: Mapping[str, Any], membership: Mapping[str, Any] | None) -> int:
    """Return when an artifact was logged to a collection, or linked to it; 0 for not known."""
    if membership is None:
        return 0
    kind = (membership.get("artifactCollection") or {}).get("__typename")
    since = artifact if kind == "ArtifactSequence" else membership
    return _time_ns(since["createdAt"]) if since.get("createdAt") else 0


def _time_ns(text: str) -> int:
    """Return nanoseconds since the epoch; a time without a zone is UTC."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return int(time.timestamp()) * 1_000_000_000 + time.microsecond * 1000


def artifact_id_of(text: str) -> str | None:
    """Return the id that `text` is, or that it is the hexadecimal form of; None for neither."""
    try:
        decoded = bytes.fromhex(text)
    except ValueError:
        try:
            decoded = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            return None
    if not decoded.startswith(b"Artifact:"):
        return None
    return base64.b64encode(decoded).decode()
