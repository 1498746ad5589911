"""A version's manifest, from the server to its table in the store.

Its bytes go to the disk as they come: neither they nor what is in them stays in memory. Blocking
code, run in worker threads.

A manifest doesn't know the sizes of files that are other artifacts': those artifacts' tables do.
They are loaded within a time of their own, so that a version can be listed whatever it leads to.
Those that can't be had by then are pending in the table, which is completed when it is next loaded.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from wbfs.fetch.apart.builder import LARGE_BYTES, Builder
from wbfs.fetch.apart.tables import Build, Done, FillIn
from wbfs.fetch.work.background import Background
from wbfs.fetch.work.outage import Reach
from wbfs.model.entries import Version
from wbfs.model.errors import (
    AccessDenied,
    RemoteError,
    RemoteProtocolError,
    StoreError,
    StoreFull,
    TooLarge,
    WbfsError,
    while_doing,
)
from wbfs.remote.api.artifacts import MANIFEST_ATTEMPTS, WandbApi
from wbfs.remote.http.transport import Deadline
from wbfs.store.folder import store_error
from wbfs.store.known.manifest_table import ManifestTable
from wbfs.store.known.manifests import Manifests

log = logging.getLogger(__name__)

MAX_HOPS = 5
"""Artifacts that a `wandb-artifact://` reference may lead through to its file."""
MAX_TARGETS = 10_000
"""Artifacts that are looked at for a version's sizes when it is loaded; the next load goes on."""
TARGETS_AT_ONCE = 50
"""Artifacts that are asked for in one question."""
TARGETS_SHARE = 0.5
"""Of the time that is left for a version, what its targets may take together."""
TARGET_SHARE = 0.25
"""Of the time that is left for all targets, what one of them may take."""
LEAST_S = 4.0
"""Seconds that are left for a version whose own manifest took all of them."""
COMPLETE_S = 5.0
"""Seconds that a table in the store is waited for to be completed: it can do without."""
COMPLETE_AGAIN_S = 60.0
"""Seconds before that is tried again."""
FOLDER_BYTES = 16
"""What a slash counts for in a manifest's size: folders of their own are as much work as files."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Patience:
    """How long a version is waited for.

    One that is a target is given up at the moment `until`. `through` are the ids of the versions
    that lead to it.
    """

    timeout_s: float
    until: Deadline | None = None
    through: frozenset[str] = frozenset()

    def bounded(self, deadline: Deadline) -> Deadline:
        """Return a deadline, or `until` where that is earlier."""
        if self.until is None:
            return deadline
        return min(deadline, self.until, key=lambda one: one.at_s)


class ManifestLoader:
    """Loads the tables of versions."""

    def __init__(
        self,
        *,
        api: WandbApi,
        reach: Reach,
        manifests: Manifests,
        background: Background,
        limit: int,
    ) -> None:
        """Take no manifest of more than `limit` bytes."""
        self._api = api
        self._reach = reach
        self._manifests = manifests
        self._limit = limit
        self._builder = Builder(background)
        # When it was last tried to complete a version's table, in seconds of the monotonic clock.
        self._tried_s: dict[str, float] = {}

    def load(self, version: Version, *, deadline: Deadline) -> ManifestTable:
        """Return the version's table, from the store or else from the server.

        A manifest that is large may take longer than until `deadline`, as long as its bytes come.
        Raises the errors of `WandbApi.manifest`, and StoreError.
        """
        return self._load(version, _Patience(timeout_s=deadline.remaining_s))

    def _load(self, version: Version, patience: _Patience) -> ManifestTable:
        table = self._manifests.open(version.id)
        if table is None:
            try:
                self._fetch(version, patience)
            except StoreFull:
                self._manifests.spill()
                self._fetch(version, patience)
        elif self._is_to_complete(version, table):
            with closing(table):
                self._complete(version, table, patience)
        else:
            return table
        table = self._manifests.open(version.id)
        if table is None:
            raise StoreError(
                f"the cached manifest of {version.path} was removed at once: is the cache too"
                " small? Make it larger with --cache-size"
            )
        return table

    def _fetch(self, version: Version, patience: _Patience) -> None:
        """Put a version's table into the store."""
        deadline = Deadline.after(patience.timeout_s)
        with self._manifests.drafting(version.id) as draft:
            with self._manifests.scratch() as file:
                self._fetch_and_build(version, draft, file, patience)
            with closing(ManifestTable(draft)) as table:
                pending = table.pending(MAX_TARGETS)
            left_s = max(LEAST_S, deadline.remaining_s)
            targets = self._targets(version, pending, left_s * TARGETS_SHARE, patience)
            if targets:
                self._fill_in(draft, targets)

    def _is_to_complete(self, version: Version, table: ManifestTable) -> bool:
        tried_s = self._tried_s.get(version.id)
        if tried_s is not None and time.monotonic() - tried_s < COMPLETE_AGAIN_S:
            return False
        return not table.is_complete

    def _complete(self, version: Version, table: ManifestTable, patience: _Patience) -> None:
        """Put a table with more sizes in the place of one that has some pending."""
        pending = table.pending(MAX_TARGETS)
        targets = self._targets(version, pending, min(COMPLETE_S, patience.timeout_s), patience)
        if not targets:
            return
        try:
            with self._manifests.drafting(version.id) as draft:
                try:
                    shutil.copyfile(table.path, draft)
                except OSError as error:
                    raise store_error(f"write the manifest {draft}", error) from error
                self._fill_in(draft, targets)
        except StoreError as error:
            log.warning("%s: some sizes stay unknown: %s", version.path, error)

    def _fill_in(self, draft: Path, targets: dict[str, Path]) -> None:
        order = FillIn(table=draft, targets=targets)
        self._builder.obey(order, size=draft.stat().st_size)

    def _targets(
        self, version: Version, pending: Sequence[str], within_s: float, patience: _Patience
    ) -> dict[str, Path]:
        """Return the tables of those of the artifacts that can be had within so many seconds."""
        if not pending:
            return {}
        self._tried_s[version.id] = time.monotonic()
        through = patience.through | {version.id}
        until = patience.bounded(Deadline.after(within_s))
        targets: dict[str, Path] = {}
        if len(through) > MAX_HOPS:
            return targets
        try:
            for first in range(0, len(pending), TARGETS_AT_ONCE):
                found = self._ask_versions(pending[first : first + TARGETS_AT_ONCE], until)
                for artifact_id, target in found.items():
                    if until.expired:
                        break
                    # What leads to itself has no size there.
                    if target.id not in through:
                        path = self._table_of(target, until, through)
                        targets |= {} if path is None else {artifact_id: path}
        except (RemoteError, AccessDenied) as error:
            log.info("%s: some sizes stay unknown for now: %s", version.path, error)
        return targets

    def _ask_versions(self, ids: Sequence[str], until: Deadline) -> dict[str, Version]:
        return self._reach.ask(
            lambda deadline: self._api.versions_by_id(ids, deadline=deadline), until
        )

    def _table_of(self, target: Version, until: Deadline, through: frozenset[str]) -> Path | None:
        """Return where a target's table is, or None where it can't be had."""
        within_s = until.remaining_s * TARGET_SHARE
        patience = _Patience(timeout_s=within_s, until=Deadline.after(within_s), through=through)
        try:
            table = self._load(target, patience)
        except WbfsError as error:
            log.info("sizes of files of %s stay unknown for now: %s", target.path, error)
            return None
        # Not held open: there may be thousands.
        table.close()
        return table.path

    def _fetch_and_build(
        self, version: Version, draft: Path, file: IO[bytes], patience: _Patience
    ) -> None:
        for attempt in range(1, MANIFEST_ATTEMPTS + 1):
            is_last = attempt == MANIFEST_ATTEMPTS
            self._download(version, file, patience)
            try:
                done = self._build(version, draft, file)
            except TooLarge:
                raise
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

    def _download(self, version: Version, file: IO[bytes], patience: _Patience) -> None:
        file.seek(0)
        file.truncate()

        def ask(deadline: Deadline) -> None:
            self._api.manifest(
                version,
                file,
                limit=self._limit,
                deadline=deadline,
                is_patient=patience.until is None,
            )

        try:
            self._reach.ask(ask, patience.bounded(Deadline.after(patience.timeout_s)))
            file.flush()
        except OSError as error:
            raise store_error(f"store the manifest of {version.path}", error) from error

    def _build(self, version: Version, draft: Path, file: IO[bytes]) -> Done:
        order = Build(
            # It has no name of its own.
            manifest=Path(f"/proc/{os.getpid()}/fd/{file.fileno()}"),
            table=draft,
            version_path=version.path,
            artifact=self._manifests.name(version.id),
            digest=version.digest,
            digest_algorithm=version.digest_algorithm,
        )
        try:
            return self._builder.obey(order, size=_weight(file))
        except StoreError as error:
            raise while_doing(f"read the manifest of {version.path}", error) from error


def _weight(file: IO[bytes]) -> int:
    """Return how many bytes of a usual manifest would be as much work as this one."""
    size = file.tell()
    if size >= LARGE_BYTES:
        return size
    file.seek(0)
    return size + FOLDER_BYTES * file.read().count(b"/")
