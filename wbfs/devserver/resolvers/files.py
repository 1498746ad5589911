"""Files as the API shows them: of artifacts, of runs, manifests, and uploads to come."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

from ariadne import ObjectType

from wbfs.devserver.data.accounts import Access
from wbfs.devserver.data.artifacts import Artifact, Entry
from wbfs.devserver.data.ids import encode_id
from wbfs.devserver.data.memberships import Collection
from wbfs.devserver.data.runs import Run, RunFile
from wbfs.devserver.errors import PermissionDenied
from wbfs.devserver.objects.uploads import ManifestRecord, Upload
from wbfs.devserver.resolvers.context import Context, Info

file_type = ObjectType("File")

TYPES = [file_type]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileNode:
    """A file; `digest` and `md5` are base64, `size_bytes` is its length.

    ref: the URI of a reference, whose bytes the server doesn't have.
    object_key: where the bytes are, or will be after an upload.
    readable: whether the viewer may have a URL of the bytes.
    url_path: gives the path of the URL that needs a key and does not expire.
    upload: where to put the bytes; None for a file that is only read.
    """

    id: str
    name: str
    size_bytes: int
    digest: str | None
    md5: str | None
    updated_at: str | None
    ref: str | None
    object_key: str | None
    readable: bool
    url_path: Callable[[], str | None] = lambda: None
    upload: Upload | None = None
    artifact: Artifact | None = None
    mimetype: str | None = None


EntryConverter = Callable[[Entry], FileNode]


def entry_nodes(
    ctx: Context, artifact: Artifact, collection: Collection, access: Access
) -> EntryConverter:
    """Return the function from an artifact's entry to a file.

    collection: the one through which the viewer reaches the artifact; the files'
        permanent URLs name it.
    access: what the viewer may do with the artifact on that way.
    """
    services = ctx.services
    project = services.projects.by_id(collection.project_id)
    entity = services.accounts.entity_by_id(project.entity_id)
    where = [entity.name, project.name, collection.name, encode_id("Artifact", artifact.id)]

    prefix = encode_id("File", artifact.id) + ":"

    def url_path(entry: Entry) -> str | None:
        if entry.birth_artifact_id is None:
            return None
        parts = [
            *where,
            encode_id("Artifact", entry.birth_artifact_id),
            base64.b64decode(entry.digest).hex(),
            entry.path.rpartition("/")[2],
        ]
        return "/artifactsV2/default/" + "/".join(quote(part, safe="") for part in parts)

    def convert(entry: Entry) -> FileNode:
        return FileNode(
            id=prefix + entry.path,
            name=entry.path,
            size_bytes=entry.size,
            digest=entry.digest,
            md5=entry.digest if artifact.digest_algorithm == "MANIFEST_MD5" else None,
            updated_at=artifact.updated_at,
            ref=entry.ref,
            object_key=entry.object_key,
            readable=access >= Access.READ,
            # Few ask for it, and a page has a thousand.
            url_path=partial(url_path, entry),
        )

    return convert


def run_file_node(ctx: Context, run: Run, file: RunFile) -> FileNode:
    """Return a file of a run; its size is 0 until it was uploaded."""
    origin = ctx.services.origin
    project = ctx.services.projects.by_id(run.project_id)
    entity = ctx.services.accounts.entity_by_id(project.entity_id)
    return FileNode(
        id=encode_id("RunFile", file.id),
        name=file.name,
        size_bytes=origin.size(file.object_key) if origin.exists(file.object_key) else 0,
        digest=None,
        md5=None,
        updated_at=file.created_at,
        ref=None,
        object_key=file.object_key,
        readable=ctx.services.projects.access(ctx.viewer, project) >= Access.READ,
        url_path=lambda: "/files/" + quote(f"{entity.name}/{project.name}/{run.name}/{file.name}"),
    )


def manifest_node(record: ManifestRecord) -> FileNode:
    """Return a manifest file to be uploaded."""
    return FileNode(
        id=encode_id("ManifestFile", record.id),
        name="wandb_manifest.json",
        size_bytes=0,
        digest=record.digest,
        md5=record.digest,
        updated_at=None,
        ref=None,
        object_key=record.object_key,
        readable=True,
    )


@file_type.field("displayName")
def display_name(file: FileNode, info: Info) -> str:
    return file.name


@file_type.field("storagePath")
def storage_path(file: FileNode, info: Info) -> str | None:
    return file.object_key


@file_type.field("directUrl")
def direct_url(file: FileNode, info: Info) -> str | None:
    if not file.readable:
        raise PermissionDenied(f"permission denied: no access to the content of {file.name!r}")
    if file.object_key is None:
        return file.ref
    return info.context.services.origin.get_url(file.object_key)


@file_type.field("url")
def url(file: FileNode, info: Info, upload: bool = False) -> str | None:
    """The URL that needs a key, or with `upload` the one to upload to."""
    if upload:
        return _put_url(file, info)
    path = file.url_path()
    return None if path is None else info.context.services.base_url() + path


@file_type.field("uploadUrl")
def upload_url(file: FileNode, info: Info) -> str | None:
    return _put_url(file, info)


def _put_url(file: FileNode, info: Info) -> str | None:
    if file.upload is not None:
        return file.upload.url
    if file.object_key is None:
        return None
    return info.context.services.origin.put_url(file.object_key)


@file_type.field("uploadHeaders")
def upload_headers(file: FileNode, info: Info) -> list[str]:
    return [] if file.upload is None else list(file.upload.headers)


@file_type.field("uploadMultipartUrls")
def upload_multipart_urls(file: FileNode, info: Info) -> dict[str, Any] | None:
    if file.upload is None or file.upload.upload_id is None:
        return None
    return {
        "upload_id": file.upload.upload_id,
        "upload_url_parts": [
            {"part_number": number, "upload_url": part_url}
            for number, part_url in file.upload.part_urls.items()
        ],
    }
