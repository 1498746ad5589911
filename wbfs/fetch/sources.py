"""Where a file's bytes come from: a signed URL of W&B, a reference's own server, another artifact.

Blocking code, run in worker threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

from wbfs.fetch.apart.manifests import MAX_HOPS, ManifestLoader
from wbfs.fetch.small.urls import SignedUrls
from wbfs.fetch.work.background import Background
from wbfs.fetch.work.outage import Reach
from wbfs.model.digests import new_hasher
from wbfs.model.entries import ARTIFACT_SCHEME, Entry, Reference, Version, split_artifact_uri
from wbfs.model.errors import IntegrityError, NotFound, ReferenceChanged, UrlExpired
from wbfs.remote.api.artifacts import WandbApi
from wbfs.remote.http.bytes import ByteStream, Location, open_stream
from wbfs.remote.http.failures import host_of, without_login
from wbfs.remote.http.gateway import Gateway
from wbfs.remote.http.transport import Deadline, Transport
from wbfs.remote.references import References
from wbfs.store.known.manifest_table import ManifestTable
from wbfs.store.known.manifests import Manifests


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
        background: Background,
        manifest_limit: int,
        gateway: Gateway,
    ) -> None:
        """Take no manifest of more than `manifest_limit` bytes.

        W&B's own files are asked for by way of `gateway`.
        """
        self.gateway = gateway
        self._api = api
        self._transport = transport
        self._references = references
        self._loader = ManifestLoader(
            api=api,
            reach=reach,
            manifests=manifests,
            background=background,
            limit=manifest_limit,
        )
        self._manifests = manifests
        self._urls = SignedUrls(api=api, ask=reach.ask, manifests=manifests)

    def manifest(self, version: Version, *, deadline: Deadline) -> ManifestTable:
        """Return the version's table, from the store or else from the server.

        Raises the errors of `WandbApi.manifest`, and StoreError.
        """
        return self._loader.load(version, deadline=deadline)

    def table(self, version: Version) -> ManifestTable | None:
        """Return a table of the caller's own, of a version whose manifest is in the store."""
        return self._manifests.open(version.id)

    def open(
        self,
        version: Version,
        entry: Entry,
        *,
        start: int,
        stop: int | None,
        deadline: Deadline,
        is_checked: bool = True,
    ) -> AbstractContextManager[ByteStream]:
        """Ask for the bytes of a version's entry from `start` to before `stop`, or to the end.

        `is_checked` tells that all of them are, some time: a gateway is not believed without.
        Raises the errors of `open_stream`; ReferenceChanged where a reference no longer leads to
        what the manifest recorded; ReferenceUnsupported.
        """
        wanted = entry
        version, entry = self._behind(version, entry, deadline)
        if entry.reference is None:
            is_checked = is_checked and wanted.digest == entry.digest
            return self._open_wandb(version, entry, start, stop, deadline, is_checked)
        if entry.reference.is_local and wanted is not entry:
            self._check_local(wanted, entry.reference, deadline)
        handler = self._references.for_uri(entry.reference.uri)
        return handler.open(entry.reference, start=start, stop=stop, deadline=deadline)

    def size(self, version: Version, entry: Entry, *, deadline: Deadline) -> int | None:
        """Ask for the size of an entry of which the manifest doesn't tell it, or not for sure.

        None where the server doesn't tell either. Raises the errors of `open`.
        """
        wanted = entry
        version, entry = self._behind(version, entry, deadline)
        if wanted is not entry and entry.is_sized:
            return entry.size
        reference = entry.reference
        if reference is not None and reference.is_web:
            return self._references.web.size(reference, deadline=deadline)
        with self.open(
            version, entry, start=0, stop=1, deadline=deadline, is_checked=False
        ) as stream:
            return stream.size

    def _behind(self, version: Version, entry: Entry, deadline: Deadline) -> tuple[Version, Entry]:
        """Return whose bytes an entry's are: another artifact's, or its own."""
        first = version, entry
        for _ in range(MAX_HOPS):
            if entry.reference is None or not entry.reference.is_of_artifact:
                return version, entry
            version, entry = self._follow(entry.reference.uri, deadline)
        version, entry = first
        raise ReferenceChanged(
            f"the reference {entry.path!r} of {version.path} leads through more than {MAX_HOPS}"
            " artifacts: it may lead to itself"
        )

    def refuse(self, reference: Reference) -> None:
        """Raise AccessDenied for a reference that may not be read; asks nobody."""
        self._references.refuse(reference)

    def prepare(
        self, version: Version, entries: list[Entry], *, deadline: Deadline, is_ahead: bool = False
    ) -> None:
        """Ask for what `open` needs to know of those entries, in one question to the server.

        What `is_ahead` of who reads takes along files that follow. Raises RemoteError,
        AccessDenied, NotFound.
        """
        paths = [entry.path for entry in entries if entry.reference is None]
        self._urls.prepare(version, paths, deadline=deadline, is_ahead=is_ahead)

    def origin(self, version: Version, entry: Entry) -> str | None:
        """Return what names the server that an entry's bytes come from; asks nobody.

        None where a file of W&B's has no URL yet, which says which it is.
        """
        if entry.reference is not None:
            if entry.reference.is_of_artifact:
                return ARTIFACT_SCHEME
            # Not to be taken for W&B's own store, which may be at the same address.
            return f"references at {host_of(entry.reference.uri)}"
        url = self._urls.known(version, entry.path)
        return host_of(url) if url else None

    def location(self, version: Version, entry: Entry) -> Location | None:
        """Return where all of a file of W&B's is, if its URL is known; asks nobody."""
        url = self._urls.known(version, entry.path)
        return Location(url=url) if url and entry.reference is None else None

    def was_listed(self, version: Version, folder: str) -> None:
        """Note that the folder at that path was listed, whose files' URLs are asked for ahead."""
        self._urls.was_listed(version, folder)

    @property
    def refused_urls(self) -> int:
        """How often the store refused a URL."""
        return self._urls.refused

    def forget_url(self, version: Version, entry: Entry, url: str) -> None:
        """Drop a URL that the store refuses."""
        self._urls.forget(version, entry.path, url)

    @contextmanager
    def _open_wandb(
        self,
        version: Version,
        entry: Entry,
        start: int,
        stop: int | None,
        deadline: Deadline,
        is_checked: bool,
    ) -> Iterator[ByteStream]:
        location = Location(url=self._urls.get(version, entry.path, deadline=deadline))
        ask = (
            partial(self.gateway.open, entry.blob)
            if is_checked
            else partial(open_stream, self._transport)
        )
        try:
            with ask(location, start=start, stop=stop, deadline=deadline) as stream:
                yield stream
        except UrlExpired:
            self._urls.forget(version, entry.path, location.url)
            raise

    def _check_local(self, wanted: Entry, reference: Reference, deadline: Deadline) -> None:
        """Check all of a file of this machine that other artifacts' references lead to.

        Whoever asked could not know that it is one, and may show its bytes before they are checked,
        or check none. Raises ReferenceChanged.
        """
        handler = self._references.for_uri(reference.uri)
        if wanted.digest is not None:
            hasher = new_hasher(wanted.digest.algorithm)
            with handler.open(reference, start=0, stop=None, deadline=deadline) as stream:
                for piece in stream.pieces:
                    hasher.update(piece)
                    self._transport.checkpoint()
            if hasher.hexdigest() == wanted.digest.hex:
                return
        raise ReferenceChanged(
            f"{wanted.path!r} leads through other artifacts to"
            f" {without_login(reference.uri)!r} on this machine, which is not known to be what was"
            " logged; log the file itself"
        )

    def _follow(self, uri: str, deadline: Deadline) -> tuple[Version, Entry]:
        artifact_id, path = split_artifact_uri(uri)
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
