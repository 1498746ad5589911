"""What `wbfs get` and `wbfs prefetch` were told to get: looked up, and where it is to go."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wbfs.cli.files.bulk import Words
from wbfs.cli.given.places import user_path
from wbfs.cli.given.sources import source_of
from wbfs.cli.words.sizes import show_size
from wbfs.daemon.locks import locked_version
from wbfs.daemon.mounts.paths import MountedCache, MountedPath, look_at
from wbfs.daemon.session import Session
from wbfs.fetch.bulk.delivery import ToCache, ToTarget
from wbfs.fetch.bulk.pipeline import Pipeline, Selection
from wbfs.fetch.bulk.target import Target
from wbfs.fetch.work.offload import Kind
from wbfs.model.entries import Version
from wbfs.model.errors import NotFound, NotNow, UsageError
from wbfs.model.locks import Locked
from wbfs.model.names import is_safe_component, is_version_name
from wbfs.remote.credentials import load_credentials
from wbfs.remote.http.transport import Deadline
from wbfs.store.bounds.room import Shortage


class Download:
    """A version, or what a prefix of its paths picks, that is to be written to a directory."""

    def __init__(
        self,
        source: str,
        *,
        root: Path | None,
        path_prefix: str,
        allow_missing_references: bool,
        locks: Sequence[Locked] = (),
    ) -> None:
        """`source` names the version; without a root it goes to where the SDK downloads it.

        With `locks` it must be one of those, or name a version itself.
        """
        named = source_of(source)
        if named != source and named.count("/") < 2:
            raise UsageError(f"{source} names no artifact: give the address of an artifact's page")
        self._source = named if ":" in named else f"{named}:latest"
        self._path_prefix = path_prefix
        self._locks = {locked.place: locked for locked in locks}
        self._allow_missing = allow_missing_references
        self.root = root
        picked = f" whose path starts with {path_prefix!r}" if path_prefix else ""
        self.words = Words(
            got="written",
            right="were right already",
            none=f"there is no file{picked}; nothing was written",
        )

    async def pipeline(self, session: Session) -> Pipeline:
        """Look the version up, and decide on the root. Raises WbfsError."""
        version = await self._find(session)
        if self.root is None:
            self.root = await _default_root(session, version)
        return Pipeline(
            fetcher=session.fetcher,
            resources=session.resources,
            selections=[Selection(version, path_prefix=self._path_prefix)],
            delivery=ToTarget(Target(self.root, umask=session.umask), session.resources),
            allow_missing_references=self._allow_missing,
        )

    async def _find(self, session: Session) -> Version:
        source = await session.source(self._source)
        if source.folder:
            raise UsageError(
                f"{self._source!r} goes on behind the alias: for a folder alone, name the version"
                f" and add --path-prefix {source.folder}/"
            )
        if source.place in self._locks:
            return await locked_version(session, self._locks[source.place])
        if self._locks and not is_version_name(source.alias):
            raise UsageError(f"{self._source} is not in the lock file: wbfs lock adds it")
        return await session.version(*source.place)

    async def begin(self, session: Session, pipeline: Pipeline) -> None:
        """Say which files can't be written anywhere. Raises WbfsError."""
        await pipeline.note_left_out()


async def _default_root(session: Session, version: Version) -> Path:
    """Return where the SDK downloads a version to: after its source, also that of a link.

    Raises WbfsError.
    """
    deadline = Deadline.after(session.resources.timeout_s)
    try:
        source = await session.offload.run(
            Kind.METADATA, lambda: session.api.version_by_id(version.id, deadline=deadline)
        )
    except NotFound as error:
        raise UsageError(
            f"can't tell the default directory for {version.path}, which is named after the"
            f" collection that it was logged to: {error}; say where with --root"
        ) from error
    name = f"{source.collection}:{source.name}"
    if not is_safe_component(name):
        raise UsageError(f"no directory can be named {name!r}; say where to download with --root")
    return user_path(os.environ.get("WANDB_ARTIFACT_DIR") or "artifacts") / name


@dataclass(frozen=True, slots=True)
class Places:
    """What is to be in a cache: paths below mounts, which have all the same one, and names."""

    places: tuple[MountedPath | str, ...]
    cache: MountedCache | None


def look_at_all(paths: Sequence[str]) -> Places:
    """Tell paths below mounts from names. Raises UsageError."""
    places: list[MountedPath | str] = []
    caches: set[MountedCache] = set()
    for text in paths:
        path = os.path.expanduser(source_of(text))
        found = look_at(path)
        if found is not None:
            if found.cache.offline:
                raise UsageError(
                    f"{path} is mounted with --offline, and nothing can be fetched for it: mount it"
                    " without"
                )
            caches.add(found.cache)
        elif os.path.lexists(path):
            raise UsageError(f"{path} is not below a mount of wbfs: see findmnt -t fuse.wbfs")
        elif ":" not in path:
            raise UsageError(
                f"{path} is neither a path below a mount of wbfs nor a name like"
                " entity/project/artifact:alias/folder: check the spelling, and that it is mounted"
            )
        places.append(found or path)
    if len(caches) > 1:
        raise UsageError(
            "the paths are on mounts with different caches, servers, gateways or limits: give those"
            " of one mount at a time"
        )
    cache = next(iter(caches), None)
    if cache is not None:
        server = load_credentials(key_is_needed=False).base_url
        if server != cache.server:
            raise UsageError(
                f"the mount shows {cache.server}, but your W&B settings name {server}: set"
                f" WANDB_BASE_URL={cache.server}"
            )
    return Places(tuple(places), cache)


async def find_selections(session: Session, places: Sequence[MountedPath | str]) -> list[Selection]:
    """Look up what paths below mounts, and names, are. Raises WbfsError."""
    versions: dict[tuple[str, str, str, str], Version] = {}

    async def look_up(entity: str, project: str, collection: str, alias: str) -> Version:
        place = (entity, project, collection, alias)
        if place not in versions:
            versions[place] = await session.version(*place)
        return versions[place]

    selections = []
    for place in places:
        if isinstance(place, str):
            source = await session.source(place)
            version = await look_up(*source.place)
            selections.append(Selection(version, source.folder))
            continue
        version = await look_up(place.entity, place.project, place.collection, place.name)
        if version.id != place.artifact_id:
            raise UsageError(
                f"the server has another {version.path} than the mount: the artifact was"
                " deleted and logged again; mount it again"
            )
        selections.append(Selection(version, place.path, place.path_prefix))
    return selections


class Prefetch:
    """Files, folders and versions that are to be in the cache, all of them at once."""

    words = Words(got="fetched", right="were here already", none="there is no file")

    def __init__(
        self,
        places: Places,
        *,
        cache_dir: Path,
        on_counted: Callable[[int, int], None] = lambda files, size: None,
    ) -> None:
        """`on_counted` is told how many files are missing, and their bytes; then it begins."""
        self._places = places.places
        self._cache_dir = cache_dir
        self._on_counted = on_counted

    async def pipeline(self, session: Session) -> Pipeline:
        """Look the versions up. Raises WbfsError."""
        self._delivery = ToCache(session.resources)
        return Pipeline(
            fetcher=session.fetcher,
            resources=session.resources,
            selections=await find_selections(session, self._places),
            delivery=self._delivery,
        )

    async def begin(self, session: Session, pipeline: Pipeline) -> None:
        """Look at everything, and make room for what is missing; raise where there can't be."""
        await pipeline.survey()
        delivery = self._delivery
        shortage = await session.offload.run(
            Kind.DISK, lambda: session.room.make_beside(delivery.held, delivery.missing)
        )
        if shortage is not None:
            raise self._too_large(shortage, session)
        self._on_counted(delivery.to_fetch, delivery.to_fetch_bytes)

    def _too_large(self, shortage: Shortage, session: Session) -> UsageError:
        needed, allowed = show_size(shortage.needed), show_size(shortage.allowed)
        bounds = session.room.bounds
        if shortage.is_of_disk:
            return NotNow(
                f"it takes {needed} more, and the disk of {self._cache_dir} has room for {allowed},"
                f" with {show_size(bounds.min_free or 0)} left free: free space, use a cache on"
                " another disk, or name a folder"
            )
        return UsageError(
            f"it takes {needed}, and of a cache of {show_size(bounds.limit or 0)} it may take"
            f" {allowed}: raise --cache-size, the mount's where it is mounted, or name a folder"
        )
