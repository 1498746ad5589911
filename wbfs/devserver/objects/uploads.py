"""Logging an artifact's content: its files, its manifests, and the commit of both."""

from __future__ import annotations

import base64
import binascii
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wbfs.devserver.data.artifacts import Artifact, Artifacts
from wbfs.devserver.data.database import Database, now
from wbfs.devserver.data.ids import decode_id
from wbfs.devserver.data.manifests import artifact_digest, parse_manifest, serialize_manifest
from wbfs.devserver.data.memberships import Memberships
from wbfs.devserver.data.projects import Project
from wbfs.devserver.errors import InvalidRequest, NotFound
from wbfs.devserver.objects.origin import Origin


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSpec:
    """A file that a client is about to upload: base64 digests and its parts' numbers."""

    name: str
    md5: str
    digest: str
    parts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """Where a file goes; `url` is None if the origin has it already.

    birth_artifact: the artifact under which the bytes are stored.
    part_urls: by part number, for an upload in parts.
    """

    object_key: str
    birth_artifact: Artifact
    url: str | None
    headers: tuple[str, ...]
    upload_id: str | None
    part_urls: Mapping[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """A file's bytes in the origin and the artifact that they were first uploaded for."""

    object_key: str
    birth_artifact_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRecord:
    """A manifest file that belongs to an artifact that is being logged."""

    id: int
    artifact_id: int
    base_artifact_id: int | None
    type: str
    digest: str
    object_key: str


class Uploads:
    """Takes artifacts' content into `origin`; `layout` is the storage layout V1 or V2."""

    def __init__(
        self,
        database: Database,
        origin: Origin,
        artifacts: Artifacts,
        memberships: Memberships,
        layout: str,
    ) -> None:
        self._database = database
        self._origin = origin
        self._artifacts = artifacts
        self._memberships = memberships
        self._layout = layout

    def add_manifest(
        self, artifact: Artifact, type: str, digest: str, base_artifact_id: int | None
    ) -> ManifestRecord:
        """Announce a manifest; the digest of one that is not yet written is empty."""
        manifest_id = self._database.write(
            "INSERT INTO manifest (artifact_id, base_artifact_id, type, digest, object_key)"
            " VALUES (?, ?, ?, ?, '')",
            (artifact.id, base_artifact_id, type, digest),
        )
        self._database.write(
            "UPDATE manifest SET object_key = ? WHERE id = ?",
            (_manifest_key(str(manifest_id)), manifest_id),
        )
        return self.manifest(manifest_id)

    def update_manifest(
        self, record: ManifestRecord, digest: str, base_artifact_id: int | None
    ) -> ManifestRecord:
        """Announce what is now in a manifest."""
        self._database.write(
            "UPDATE manifest SET digest = ?, base_artifact_id = COALESCE(?, base_artifact_id)"
            " WHERE id = ?",
            (digest, base_artifact_id, record.id),
        )
        return self.manifest(record.id)

    def manifest(self, manifest_id: int) -> ManifestRecord:
        """Return a manifest by row id; raises NotFound if there is none."""
        record = self._database.one(
            ManifestRecord, "SELECT * FROM manifest WHERE id = ?", (manifest_id,)
        )
        if record is None:
            raise NotFound("artifact manifest not found")
        return record

    def add_file(self, artifact: Artifact, spec: FileSpec) -> Upload:
        """Return where to upload a file to, unless its project has the same bytes already."""
        project = self._artifacts.project(artifact)
        known = self._database.all(
            StoredObject,
            "SELECT object_key, birth_artifact_id FROM object"
            " JOIN artifact ON artifact.id = birth_artifact_id"
            " WHERE project_id = ? AND object.digest = ?",
            (project.id, spec.digest),
        )
        for stored in known:
            if self._origin.exists(stored.object_key):
                return Upload(
                    object_key=stored.object_key,
                    birth_artifact=self._artifacts.by_id(stored.birth_artifact_id),
                    url=None,
                    headers=(),
                    upload_id=None,
                    part_urls={},
                )
        key = _object_key(project, artifact.id, spec.digest, self._layout)
        self._database.write(
            "INSERT INTO object (object_key, project_id, digest, birth_artifact_id)"
            " VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (key, project.id, spec.digest, artifact.id),
        )
        upload_id, part_urls = None, {}
        if spec.parts != tuple(range(1, len(spec.parts) + 1)):
            raise InvalidRequest("parts are numbered from 1 without gaps")
        if spec.parts:
            upload_id, urls = self._origin.start_multipart(key, len(spec.parts))
            part_urls = dict(zip(spec.parts, urls, strict=True))
        return Upload(
            object_key=key,
            birth_artifact=artifact,
            url=self._origin.put_url(key),
            headers=() if spec.parts else (f"Content-MD5:{spec.md5}",),
            upload_id=upload_id,
            part_urls=part_urls,
        )

    def complete_multipart(self, key: str, upload_id: str, etags: Mapping[int, str]) -> str:
        """Join a file's parts; return the base64 digest that was announced for it.

        Raises MultipartError if the parts don't match.
        """
        digests = self._database.column("SELECT digest FROM object WHERE object_key = ?", (key,))
        if not digests:
            raise NotFound("no such upload")
        self._origin.complete_multipart(key, upload_id, etags)
        return digests[0]

    def commit(self, artifact: Artifact) -> Artifact:
        """Fix an artifact's content, give it its version, and move its aliases to it.

        Raises InvalidRequest if its manifest or one of its files was never uploaded.
        """
        if artifact.state == "COMMITTED":
            return artifact
        records = self._database.all(
            ManifestRecord,
            "SELECT * FROM manifest WHERE artifact_id = ? AND digest != '' ORDER BY id",
            (artifact.id,),
        )
        if not records:
            raise InvalidRequest("artifact has no manifest")
        contents, config = self._merge(artifact, records)
        digest, manifest_key = artifact.digest, records[-1].object_key
        is_whole = len(records) == 1 and records[0].type == "FULL"
        if not is_whole or config.get("storageLayout", "V1") != self._layout:
            manifest_key = _manifest_key(f"{artifact.id}-full")
            region = config.get("storageRegion")
            with self._origin.receive(self._origin.path(manifest_key)) as target:
                target.file.write(serialize_manifest(contents, self._layout, region))
                target.keep()
            digest = artifact_digest(contents, artifact.digest_algorithm)
        size = self._add_entries(artifact, contents)
        collection = self._artifacts.sequence(artifact)
        membership = self._memberships.add(collection, artifact.id)
        self._database.write(
            "UPDATE artifact SET state = 'COMMITTED', digest = ?, manifest_key = ?, size = ?,"
            " file_count = ?, version_index = ?, commit_hash = ?, updated_at = ? WHERE id = ?",
            (
                digest,
                manifest_key,
                size,
                len(contents),
                membership.version_index,
                secrets.token_hex(10),
                now(),
                artifact.id,
            ),
        )
        self._memberships.set_aliases(membership, json.loads(artifact.requested_aliases))
        return self._artifacts.by_id(artifact.id)

    def _merge(
        self, artifact: Artifact, records: Sequence[ManifestRecord]
    ) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """Return the contents that manifests make together, and the last one's storage config."""
        contents: dict[str, dict[str, Any]] = {}
        config: dict[str, Any] = {}
        for record in records:
            if record.type == "FULL":
                contents = {}
            elif record.type == "INCREMENTAL" and record.base_artifact_id is not None:
                base = self._artifacts.by_id(record.base_artifact_id)
                if base.manifest_key is None or base.collection_id != artifact.collection_id:
                    raise InvalidRequest("the base is no version of this collection")
                base_data = self._origin.path(base.manifest_key).read_bytes()
                contents = json.loads(base_data)["contents"] | contents
            if not self._origin.exists(record.object_key):
                raise InvalidRequest("manifest was not uploaded")
            manifest = parse_manifest(
                self._origin.path(record.object_key).read_bytes(), record.digest
            )
            contents |= manifest.contents
            config = manifest.storage_policy_config
        return contents, config

    def _add_entries(self, artifact: Artifact, contents: Mapping[str, Mapping[str, Any]]) -> int:
        """Fill the table of entries from a manifest; return the sum of the sizes."""
        project = self._artifacts.project(artifact)
        rows = []
        size = 0
        for path, entry in contents.items():
            birth_id, key = None, None
            if "ref" not in entry:
                birth_id = decode_id("Artifact", entry.get("birthArtifactID", "")) or artifact.id
                key = self._stored_key(project, birth_id, entry["digest"])
                if key is None:
                    raise InvalidRequest(f"file {path!r} was not uploaded")
            entry_size = entry.get("size") or 0
            size += entry_size
            rows.append(
                (artifact.id, path, entry["digest"], entry_size, entry.get("ref"), birth_id, key)
            )
        self._database.write("DELETE FROM entry WHERE artifact_id = ?", (artifact.id,))
        self._database.write_many(
            "INSERT INTO entry (artifact_id, path, digest, size, ref, birth_artifact_id,"
            " object_key) VALUES (?, ?, ?, ?, ?, ?, ?)",
            rows,
        )
        return size

    def _stored_key(self, project: Project, birth_id: int, digest: str) -> str | None:
        keys = (_object_key(project, birth_id, digest, layout) for layout in ("V2", "V1"))
        return next((key for key in keys if self._origin.exists(key)), None)


def _manifest_key(name: str) -> str:
    return f"manifests/{name}/wandb_manifest.json"


def _object_key(project: Project, birth_id: int, digest: str, layout: str) -> str:
    try:
        digest_hex = base64.b64decode(digest, validate=True).hex()
    except binascii.Error as error:
        raise InvalidRequest(f"invalid digest: {digest!r}") from error
    if layout == "V1":
        return f"wandb_artifacts/{project.entity_id}/{digest_hex}"
    return f"wandb_artifacts/{project.id}/{birth_id}/{digest_hex}"
