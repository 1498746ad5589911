"""Where a file's bytes come from: a signed URL of W&B, a reference's own server, another artifact.

Blocking code, run in worker threads.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

from wbfs.fetch.outage import Reach
from wbfs.fetch.urls import SignedUrls
from wbfs.model.entries import Blob, Entry, Manifest, Version
from wbfs.model.errors import IntegrityError, NotFound, ReferenceChanged, UrlExpired, WbfsError
from wbfs.remote.artifacts import WandbApi
from wbfs.remote.bytes import ByteStream, Location, open_stream
from wbfs.remote.references import References
from wbfs.remote.transport import Deadline, Transport
from wbfs.store.manifests import Manifests, ManifestTable

log = logging.getLogger(__name__)

ARTIFACT_SCHEME = "wandb-artifact://"
MAX_HOPS = 5
"""Artifacts that a `wandb-artifact://` reference may lead through to its file."""


class Sources:
    """Manifests, and the bytes of their entries."""

    def __init__(
        self,
        *,
        api: WandbApi,
        reach: Reach,
        transport: Transport,
        references: References,
        manifests: Manifests,
    ) -> None:
        self._api = api
        self._reach = reach
        self._transport = transport
        self._references = references
        self._manifests = manifests
        self._urls = SignedUrls(api=api, ask=reach.ask, manifests=manifests)

    def manifest(self, version: Version, *, deadline: Deadline) -> ManifestTable:
        """Return the version's table, from the store or else from the server.

        Raises the errors of `WandbApi.manifest`, and StoreError.
        """
        return self._manifest(version, deadline, MAX_HOPS)

    def _manifest(self, version: Version, deadline: Deadline, hops: int) -> ManifestTable:
        table = self._manifests.open(version.id)
        if table is None:
            manifest = self._reach.ask(
                lambda deadline: self._api.manifest(version, deadline=deadline), deadline
            )
            if not manifest.digest_matches:
                # Shown all the same: of artifacts that several runs logged together, the server's
                # digest is not known to be this one.
                log.warning(
                    "%s: its manifest does not match its digest %s; compare it with whoever logged"
                    " it before you rely on it",
                    version.path,
                    version.digest,
                )
            manifest = self._with_sizes(manifest, deadline, hops)
            table = self._manifests.add(version, manifest)
        return table

    def _with_sizes(self, manifest: Manifest, deadline: Deadline, hops: int) -> Manifest:
        """Give references to other artifacts their targets' sizes: manifests have 0 for them."""
        sized: list[Entry] = []
        targets: dict[str, ManifestTable | None] = {}
        try:
            for entry in manifest.entries:
                if entry.reference is None or not entry.reference.uri.startswith(ARTIFACT_SCHEME):
                    sized.append(entry)
                    continue
                artifact_id, path = _split_artifact_uri(entry.reference.uri)
                if artifact_id not in targets:
                    targets[artifact_id] = self._target_manifest(artifact_id, deadline, hops)
                table = targets[artifact_id]
                target = table.entry(path) if table else None
                sized.append(replace(entry, size=target.size if target else entry.size))
        finally:
            for table in targets.values():
                if table is not None:
                    table.close()
        return replace(manifest, entries=tuple(sized))

    def _target_manifest(
        self, artifact_id: str, deadline: Deadline, hops: int
    ) -> ManifestTable | None:
        if hops == 0:
            return None
        try:
            version = self._api.version_by_id(artifact_id, deadline=deadline)
        except NotFound:
            # The artifact is gone; its file is shown, and reading it says so.
            return None
        return self._manifest(version, deadline, hops - 1)

    def open(
        self, version: Version, entry: Entry, *, start: int, stop: int | None, deadline: Deadline
    ) -> AbstractContextManager[ByteStream]:
        """Ask for the bytes of a version's entry from `start` to before `stop`, or to the end.

        Raises the errors of `open_stream`; ReferenceChanged where a reference no longer leads to
        what the manifest recorded; ReferenceUnsupported.
        """
        for _ in range(MAX_HOPS):
            if entry.reference is None:
                return self._open_wandb(version, entry, start, stop, deadline)
            if not entry.reference.uri.startswith(ARTIFACT_SCHEME):
                handler = self._references.for_uri(entry.reference.uri)
                return handler.open(entry.reference, start=start, stop=stop, deadline=deadline)
            version, entry = self._follow(entry.reference.uri, deadline)
        raise ReferenceChanged(
            f"the reference {entry.path!r} of {version.path} leads through more than {MAX_HOPS}"
            " artifacts: it may lead to itself"
        )

    @contextmanager
    def _open_wandb(
        self, version: Version, entry: Entry, start: int, stop: int | None, deadline: Deadline
    ) -> Iterator[ByteStream]:
        url = self._urls.get(version, entry.path, deadline=deadline)
        location = self._locate(entry.blob, url, start, stop)
        try:
            with open_stream(
                self._transport, location, start=start, stop=stop, deadline=deadline
            ) as stream:
                yield stream
        except UrlExpired:
            self._urls.forget(version, entry.path)
            raise

    def _locate(self, blob: Blob, url: str, start: int, stop: int | None) -> Location:
        """Return where a range of a blob is asked for, given its signed URL at W&B's store.

        Nothing else decides that: a cache that a fleet of machines shares would be asked from here,
        by the blob's content and the range, at a URL, with headers and through a proxy of its own.
        """
        return Location(url=url, headers=self._transport.extra_headers)

    def _follow(self, uri: str, deadline: Deadline) -> tuple[Version, Entry]:
        artifact_id, path = _split_artifact_uri(uri)
        try:
            version = self._api.version_by_id(artifact_id, deadline=deadline)
        except NotFound as error:
            raise ReferenceChanged(f"the artifact behind {uri} is gone: {error}") from error
        table = self.manifest(version, deadline=deadline)
        try:
            entry = table.entry(path)
        finally:
            table.close()
        if entry is None:
            raise IntegrityError(f"{version.path} has no file {path!r}, which {uri} names")
        return version, entry


def damaged(entry: Entry, error: IntegrityError) -> WbfsError:
    """Return the error of an entry whose bytes were wrong twice."""
    if entry.reference is not None and not entry.reference.uri.startswith(ARTIFACT_SCHEME):
        # Without a query, which may be a signature.
        uri = entry.reference.uri.partition("?")[0]
        return ReferenceChanged(
            f"{uri} is no longer what was logged: {error}; log the artifact again to take it as it"
            " is now"
        )
    return IntegrityError(
        f"it is damaged on the server or on the way, twice: {error}; log the artifact again, or"
        " ask who runs the server"
    )


def _split_artifact_uri(uri: str) -> tuple[str, str]:
    """Split `wandb-artifact://<hex id>/<path>` into the id and the path."""
    artifact_id, _, path = uri.removeprefix(ARTIFACT_SCHEME).partition("/")
    return artifact_id, path
