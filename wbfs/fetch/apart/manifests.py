"""A version's manifest, from the server to its table in the store.

Its bytes go to the disk as they come: neither they nor what is in them stays in memory. Blocking
code, run in worker threads.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import IO

from wbfs.fetch.apart.builder import Builder
from wbfs.fetch.apart.tables import Build, Done, FillIn
from wbfs.fetch.background import Background
from wbfs.fetch.outage import Reach
from wbfs.model.entries import Version
from wbfs.model.errors import NotFound, RemoteProtocolError, StoreError, StoreFull
from wbfs.remote.artifacts import MANIFEST_ATTEMPTS, WandbApi
from wbfs.remote.transport import Deadline
from wbfs.store.folder import store_error
from wbfs.store.manifests import Manifests, ManifestTable

log = logging.getLogger(__name__)

MAX_HOPS = 5
"""Artifacts that a `wandb-artifact://` reference may lead through to its file."""


class ManifestLoader:
    """Loads the tables of versions."""

    def __init__(
        self, *, api: WandbApi, reach: Reach, manifests: Manifests, background: Background
    ) -> None:
        self._api = api
        self._reach = reach
        self._manifests = manifests
        self._builder = Builder(background)

    def load(self, version: Version, *, deadline: Deadline) -> ManifestTable:
        """Return the version's table, from the store or else from the server.

        A manifest that is large may take longer than until `deadline`, as long as its bytes come.
        Raises the errors of `WandbApi.manifest`, and StoreError.
        """
        return self._load(version, deadline.remaining_s, MAX_HOPS)

    def _load(self, version: Version, timeout_s: float, hops: int) -> ManifestTable:
        table = self._manifests.open(version.id)
        if table is None:
            try:
                self._fetch_table(version, timeout_s, hops)
            except StoreFull:
                self._manifests.spill()
                self._fetch_table(version, timeout_s, hops)
            table = self._manifests.open(version.id)
        if table is None:
            raise StoreError(
                f"the cached manifest of {version.path} was removed at once: is the cache too"
                " small? Make it larger with --cache-size"
            )
        return table

    def _fetch_table(self, version: Version, timeout_s: float, hops: int) -> None:
        with self._manifests.drafting(version.id) as draft, self._manifests.scratch() as file:
            done = self._fetch_and_build(version, draft, file, timeout_s)
            self._fill_in_sizes(draft, done, timeout_s, hops, size=file.tell())

    def _fetch_and_build(
        self, version: Version, draft: Path, file: IO[bytes], timeout_s: float
    ) -> Done:
        for attempt in range(1, MANIFEST_ATTEMPTS + 1):
            is_last = attempt == MANIFEST_ATTEMPTS
            self._fetch(version, file, timeout_s)
            try:
                done = self._build(version, draft, file)
            except RemoteProtocolError:
                if is_last:
                    raise
                continue
            # Damaged on the way, maybe; if it stays so, it is the server's word.
            if done.digest_matches or is_last:
                break
        if not done.digest_matches:
            # Shown all the same: of artifacts that several runs logged together, the server's
            # digest is not known to be this one.
            log.warning(
                "%s: its manifest does not match its digest %s; compare it with whoever logged it"
                " before you rely on it",
                version.path,
                version.digest,
            )
        return done

    def _fetch(self, version: Version, file: IO[bytes], timeout_s: float) -> None:
        file.seek(0)
        file.truncate()
        try:
            self._reach.ask(
                lambda deadline: self._api.manifest(version, file, deadline=deadline),
                Deadline.after(timeout_s),
            )
            file.flush()
        except OSError as error:
            raise store_error(f"store the manifest of {version.path}", error) from error

    def _build(self, version: Version, draft: Path, file: IO[bytes]) -> Done:
        order = Build(
            # It has no name of its own.
            manifest=Path(f"/proc/{os.getpid()}/fd/{file.fileno()}"),
            table=draft,
            version_path=version.path,
            digest=version.digest,
            digest_algorithm=version.digest_algorithm,
        )
        return self._builder.obey(order, size=file.tell())

    def _fill_in_sizes(
        self, draft: Path, done: Done, timeout_s: float, hops: int, *, size: int
    ) -> None:
        tables: dict[str, ManifestTable] = {}
        try:
            for artifact_id in done.targets if hops else ():
                try:
                    version = self._api.version_by_id(
                        artifact_id, deadline=Deadline.after(timeout_s)
                    )
                except NotFound:
                    # The artifact is gone; its files are shown, and reading them says so.
                    continue
                tables[artifact_id] = self._load(version, timeout_s, hops - 1)
            if tables:
                targets = {artifact_id: table.path for artifact_id, table in tables.items()}
                self._builder.obey(FillIn(table=draft, targets=targets), size=size)
        finally:
            for table in tables.values():
                table.close()
