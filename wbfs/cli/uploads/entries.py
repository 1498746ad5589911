"""The entries of the version to be: digests of what is read, and of what a mount shows, unread."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wbfs.cli.uploads.content import Shown
from wbfs.fetch.bulk.pipeline import Selection
from wbfs.model.digests import Algorithm, Digest, ManifestDigest
from wbfs.model.errors import NotFound, NotNow, UsageError
from wbfs.store.content.hashing import RunningDigest
from wbfs.store.known.manifest_table import ManifestTable

READERS = 8
"""Files that are read at once."""
STEP_BYTES = 8 << 20
"""Bytes after which it is told how far it is."""
BATCH = 512
"""Files that wait for a reader."""
POLL_S = 0.2
WATCH_S = 2.0
WATCH_SHARE = 20
"""How many times as long as it takes there is between two looks at all files, if that is longer
than WATCH_S."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An entry as the SDK takes it: `digest` as manifests write it, `size` in bytes.

    Of the bytes `local_path` says where they are, or `birth_artifact_id` which artifact has them,
    or `ref` where they stay. `stamp` tells a file from what it is after it was written to.
    """

    path: str
    digest: str
    size: int | None
    local_path: str | None = None
    birth_artifact_id: str | None = None
    ref: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    stamp: tuple[int, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return what the SDK is told of it."""
        names = ("path", "digest", "size", "local_path", "birth_artifact_id", "ref", "extra")
        return {name: getattr(self, name) for name in names}


class Tally:
    """How far the reading is, as `wbfs.cli.words.progress` shows it; sizes are in bytes."""

    def __init__(self) -> None:
        self.files = self.bytes = self.done = self.position = 0
        self.is_counted = False
        self._lock = threading.Lock()

    def add(self, count: int, *, files: int = 0) -> None:
        """Take bytes, and files, for done; in any thread."""
        with self._lock:
            self.position += count
            self.done += files


def digest_of_all(drafts: Iterable[Draft]) -> str:
    """Return the digest that a version of these entries has, in hexadecimal.

    Raises UsageError where two have the same path.
    """
    digest, last = ManifestDigest(Algorithm.MD5), None
    for draft in sorted(drafts, key=lambda one: one.path):
        if draft.path == last:
            raise UsageError(f"there would be two files {draft.path!r} in the artifact: rename one")
        digest.add(draft.path, draft.digest)
        last = draft.path
    return digest.hexdigest()


def drafts_of(
    shown: Shown, selection: Selection, table: ManifestTable, *, is_same: bool
) -> Iterator[Draft]:
    """Yield the entries of what a mount shows of a version, whose table this is.

    `is_same` is whether it is one of the collection that is put into. One without a digest has to
    be read. Raises NotFound.
    """
    alone = table.entry(selection.path) if selection.path else None
    if alone is None and table.folder_at(selection.path) is None:
        raise NotFound(f"{table.version_path} has neither a file nor a folder {selection.path!r}")
    entries = iter([alone]) if alone else table.entries_below(selection.path)
    skip = len(selection.path) + 1 if selection.path else 0
    for entry in entries:
        if not entry.path.startswith(selection.path_prefix):
            continue
        rest = "" if alone else entry.path[skip:]
        path, real = (shown.prefix + rest, shown.real / rest) if rest else (shown.name, shown.real)
        digest = entry.digest
        is_md5 = digest is not None and digest.algorithm is Algorithm.MD5
        if (reference := entry.reference) is not None:
            extra = {"etag": reference.etag, "versionID": reference.version_id}
            if digest is not None and not is_md5:
                extra["alg"] = "XXH128"
            yield Draft(
                path=path,
                digest=reference.token,
                size=entry.size,
                ref=reference.uri,
                extra={name: value for name, value in extra.items() if value},
            )
        elif digest is None or not is_md5:
            yield Draft(path=path, digest="", size=entry.size, local_path=str(real))
        elif is_same:
            birth = entry.birth_artifact_id or selection.version.id
            yield Draft(path=path, digest=digest.base64, size=entry.size, birth_artifact_id=birth)
        else:
            yield Draft(path=path, digest=digest.base64, size=entry.size, local_path=str(real))


def read_all(
    files: Mapping[str, Path], tally: Tally, *, checkpoint: Callable[[], None]
) -> list[Draft]:
    """Read files, whose paths in the artifact are given, for their digests.

    `checkpoint` is called in the calling thread now and then, and raises where nobody waits any
    more. Raises UsageError for a file that can't be read, NotNow for one that is written to.
    """
    items = list(files.items())
    tally.files, tally.bytes = len(items), sum(_size(path) for _, path in items)
    tally.is_counted = True
    found: list[Draft] = []
    ended = threading.Event()
    with ThreadPoolExecutor(READERS) as readers:
        for start in range(0, len(items), BATCH):
            work = [
                readers.submit(_read, name, path, tally, ended)
                for name, path in items[start : start + BATCH]
            ]
            try:
                pending = set(work)
                while pending:
                    checkpoint()
                    done, pending = wait(pending, timeout=POLL_S, return_when=FIRST_EXCEPTION)
                    for one in done:
                        one.result()
            finally:
                if pending:
                    ended.set()
                for one in work:
                    one.cancel()
            found += [one.result() for one in work]
    return found


def _read(name: str, path: Path, tally: Tally, ended: threading.Event) -> Draft:
    try:
        # What was a file may have become a pipe meanwhile, and nobody writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            before = os.fstat(descriptor)
            digest = RunningDigest(descriptor, Algorithm.MD5, checkpoint=lambda: None)
            done = 0
            while done < before.st_size and not ended.is_set():
                step = min(STEP_BYTES, before.st_size - done)
                done += step
                digest.advance(done)
                tally.add(step)
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise UsageError(f"can't read {path}: {error.strerror}") from error
    if not stat.S_ISREG(after.st_mode):
        raise UsageError(f"can't put {path}: it is no file any more")
    if _stamp(before) != _stamp(after):
        raise _written_to(path)
    tally.add(0, files=1)
    return Draft(
        path=name,
        digest=Digest(Algorithm.MD5, digest.hexdigest()).base64,
        size=after.st_size,
        local_path=str(path),
        stamp=_stamp(after),
    )


class Watch:
    """Looks whether files that were read are as they were."""

    def __init__(self, drafts: Iterable[Draft], *, checkpoint: Callable[[], None]) -> None:
        """`checkpoint` is called meanwhile, and raises where nobody waits any more."""
        self._read = [(Path(one.local_path), one.stamp) for one in drafts if one.local_path]
        self._checkpoint = checkpoint
        self._next_s = 0.0

    def look(self) -> None:
        """Look at all of them. Raises NotNow."""
        began_s = time.monotonic()
        for path, stamp in self._read:
            if stamp:
                self._checkpoint()
                try:
                    found = _stamp(path.stat())
                except OSError:
                    found = ()
                if found != stamp:
                    raise _written_to(path)
        took_s = time.monotonic() - began_s
        self._next_s = time.monotonic() + max(WATCH_S, WATCH_SHARE * took_s)

    def look_at_times(self) -> None:
        """Look where it is some time since the last look. Raises NotNow."""
        self._checkpoint()
        if time.monotonic() > self._next_s:
            self.look()


def _written_to(path: Path) -> NotNow:
    return NotNow(f"{path} changes while it is put: run the command again once it is whole")


def _stamp(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        # Whoever reads it is told.
        return 0
