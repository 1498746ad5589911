"""What W&B has: projects, collections, versions, a manifest's entries, and their blobs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from wbfs.model.digests import Algorithm, Digest
from wbfs.model.names import name_at

ARTIFACT_SCHEME = "wandb-artifact://"
AZURE_URI = re.compile(
    r"https://(([a-z0-9-]+)(\.z\d+)?\.blob\.core\.windows\.net)/(.*)", re.I | re.S
)
"""The https URIs that are of Azure's blobs, as the SDK tells it too."""
MAX_REPORTED = 100
"""Left-out entries that are kept by name; the rest are counted."""
SHOWN_CHARACTERS = 300
"""Of a left-out entry's path, and of the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Viewer:
    """Whose key it is: the user's own entity and the teams that they belong to."""

    id: str
    entity: str
    username: str
    teams: tuple[str, ...]

    @property
    def entities(self) -> tuple[str, ...]:
        """The entity and the teams, each once, the entity first."""
        return tuple(dict.fromkeys((self.entity, *self.teams)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """A project of an entity; `created_at_ns` is nanoseconds since the epoch."""

    entity: str
    name: str
    created_at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """A named series of versions: a source sequence, or a portfolio of links."""

    entity: str
    project: str
    name: str
    type: str
    created_at_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """One immutable artifact as a member of one collection.

    `name` is `vN` with the collection's own index, which for a link is not the source's.
    `metadata` is JSON text. `digest` is the digest of the manifest, in hexadecimal. `joined_at_ns`
    is when it was logged to the collection, or linked to it; 0 where that wasn't asked for.
    """

    id: str
    entity: str
    project: str
    collection: str
    name: str
    type: str
    digest: str
    digest_algorithm: str = "MANIFEST_MD5"
    aliases: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    size: int = 0
    file_count: int = 0
    created_at_ns: int = 0
    joined_at_ns: int = 0
    description: str = ""
    metadata: str = "{}"

    @property
    def path(self) -> str:
        """`entity/project/collection:vN`, as the SDK writes it."""
        return name_at(self.entity, self.project, self.collection, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """Where an entry's bytes live outside W&B.

    `token` is the entry's digest field as the manifest has it: an etag for object stores and http,
    the URI itself where the content was not looked at (`checksum=False`). `etag` and `version_id`
    are what the manifest's `extra` recorded, or empty.
    """

    uri: str
    token: str
    etag: str = ""
    version_id: str = ""

    @property
    def unchecked(self) -> bool:
        """Whether the manifest says nothing of the object's content.

        That of a file behind another artifact's unchecked reference is not known either.
        """
        return self.token == self.uri or (self.is_of_artifact and "://" in self.token)

    @property
    def is_local(self) -> bool:
        """Whether it leads to a file of this machine."""
        return self.uri.partition(":")[0].lower() == "file"

    @property
    def is_of_artifact(self) -> bool:
        """Whether it leads to another artifact's file."""
        return self.uri.startswith(ARTIFACT_SCHEME)

    @property
    def is_web(self) -> bool:
        """Whether it leads to a web server, of which nothing else is known."""
        is_http = self.uri.partition(":")[0].lower() in ("http", "https")
        return is_http and AZURE_URI.fullmatch(self.uri) is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One row of a manifest: a file's path and what its bytes are.

    `digest` is None for a reference whose content digest the manifest doesn't know. `size` is in
    bytes, and None where the manifest doesn't tell. With `size_is_hint` it may be another: it is
    that of an answer which may have been compressed. `birth_artifact_id` is the
    artifact that first stored the bytes. `artifact` names the one that the entry is of, among those
    of all servers, where the reference is an unchecked one.
    """

    path: str
    size: int | None
    digest: Digest | None
    reference: Reference | None = None
    birth_artifact_id: str = ""
    artifact: str = ""
    size_is_hint: bool = False
    _blob: Blob | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def is_sized(self) -> bool:
        """Whether the size is known to be that of the file."""
        return self.size is not None and not self.size_is_hint

    @property
    def blob(self) -> Blob:
        """The blob that holds this entry's bytes."""
        if self._blob is None:
            # Frozen it is all the same: asked for again and again, it is made once.
            object.__setattr__(self, "_blob", self._make_blob())
        assert self._blob is not None
        return self._blob

    def _make_blob(self) -> Blob:
        if self.digest is not None:
            key = f"{self.digest.algorithm}-{self.digest.hex}"
        elif self.reference is not None:
            # Not by URI alone: what identifies the content goes in too. Where nothing does, it is
            # whatever it was when this version was first read.
            reference = self.reference
            parts = (reference.uri, reference.token, reference.version_id, self.artifact)
            text = "\0".join(parts).encode("utf-8", "surrogatepass")
            key = "ref-" + hashlib.sha256(text).hexdigest()
        else:
            raise ValueError(f"entry {self.path!r} has neither a digest nor a reference")
        return Blob(key=key, size=self.size, digest=self.digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """Content by what identifies it: the unit that is fetched once and stored once.

    `key` is its file name in the store.
    """

    key: str
    size: int | None
    digest: Digest | None = field(compare=False)


class LeftOut:
    """The entries that a manifest has and the tree doesn't: how many, and some with the reason."""

    def __init__(self, count: int = 0, report: Iterable[tuple[str, str]] = ()) -> None:
        self.count = count
        self.report = list(report)

    def add(self, path: str, reason: str) -> None:
        """Count an entry; of the first ones it is kept which they are."""
        self.count += 1
        if len(self.report) < MAX_REPORTED:
            self.report.append((_shown(path), _shown(reason)))


def _shown(text: str) -> str:
    """Return a text that may be anything as one that can be written down."""
    if len(text) > SHOWN_CHARACTERS:
        text = text[:SHOWN_CHARACTERS] + "..."
    return text.encode("utf-8", "backslashreplace").decode()


class Row(NamedTuple):
    """What a manifest says of one file: what an `Entry` has beside its path, in least memory."""

    size: int | None
    algorithm: Algorithm
    digest: bytes | None
    birth_artifact_id: str
    reference: Reference | None
    size_is_hint: bool = False


def split_artifact_uri(uri: str) -> tuple[str, str]:
    """Split `wandb-artifact://<hex id>/<path>` into the id and the path."""
    artifact_id, _, path = uri.removeprefix(ARTIFACT_SCHEME).partition("/")
    return artifact_id, path
