"""Signed URLs: asked for in batches where a folder's files are read one after another.

Each file's own question would cost a data loader a round trip to the API a file. The first file of
a folder is asked for alone; each further question takes along four times as many of the files that
follow. In a folder that was listed each is asked for alone: `ahead.listed` asks for the others,
whom nobody waits for. Thread-safe, blocking code.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from wbfs.model.entries import Version
from wbfs.model.errors import RemoteError
from wbfs.remote.api.artifacts import WandbApi
from wbfs.remote.http.transport import Deadline
from wbfs.store.known.manifests import Manifests

LIFETIME_S = 300.0
"""Seconds that a URL is kept; one that the store refuses earlier is asked for again."""
GROWTH = 4
MOST_AT_ONCE = 256
MOST_KEPT = 20_000
"""URLs that are kept, of about a kilobyte each."""
ALONE = 0

Ask = Callable[[Callable[[Deadline], dict[str, str]], Deadline], dict[str, str]]
"""What asks the API a question, with a deadline: `Reach.ask`."""


class SignedUrls:
    """The URLs that were asked for lately, by artifact id and path."""

    def __init__(self, *, api: WandbApi, ask: Ask, manifests: Manifests) -> None:
        self._api = api
        self._ask = ask
        self._manifests = manifests
        self._lock = threading.Lock()
        self._urls: OrderedDict[tuple[str, str], tuple[str, float]] = OrderedDict()
        self._questions: OrderedDict[tuple[str, str], int] = OrderedDict()
        self.refused = 0

    def was_listed(self, version: Version, folder: str) -> None:
        """Have each file of the folder at that path asked for alone from now on."""
        with self._lock:
            self._questions[version.id, folder] = ALONE
            self._questions.move_to_end((version.id, folder))

    def get(self, version: Version, path: str, *, deadline: Deadline) -> str:
        """Return a URL of the version's file. Raises RemoteError, AccessDenied, NotFound."""
        with self._lock:
            url, valid_until = self._urls.get((version.id, path), ("", 0.0))
            if url and time.monotonic() < valid_until:
                return url
            count = self._batch_size(version.id, path.rpartition("/")[0])
        paths = [path] if count == 1 else self._with_followers(version, path, count)
        found = self._ask_for(version, paths, deadline).get(path)
        if found is None:
            raise RemoteError(
                f"the server gave no URL for {path!r} of {version.path}, though the manifest has"
                " it: the artifact may be being deleted"
            )
        return found

    def _ask_for(self, version: Version, paths: list[str], deadline: Deadline) -> dict[str, str]:
        asked_at = time.monotonic()
        urls = self._ask(
            lambda deadline: self._api.file_urls(version, paths, deadline=deadline), deadline
        )
        with self._lock:
            # The empty text for those that the server lacks, which only `get` asks for again.
            for path in paths:
                self._urls.pop((version.id, path), None)
                self._urls[version.id, path] = urls.get(path, ""), asked_at + LIFETIME_S
            while len(self._urls) > MOST_KEPT:
                self._urls.popitem(last=False)
        return urls

    def known(self, version: Version, path: str) -> str:
        """Return the URL of a file if it was asked for lately, "" if not."""
        with self._lock:
            url, valid_until = self._urls.get((version.id, path), ("", 0.0))
        return url if time.monotonic() < valid_until else ""

    def prepare(self, version: Version, paths: list[str], *, deadline: Deadline) -> None:
        """Ask for those of the files' URLs that aren't known, in one question.

        It takes along files that follow, as those of `get` do. Raises what asking raises; a file
        without a URL is left to `get`.
        """
        now = time.monotonic()
        with self._lock:
            unknown = [
                path for path in paths if self._urls.get((version.id, path), ("", 0.0))[1] <= now
            ]
            if not unknown:
                return
            count = self._batch_size(version.id, unknown[-1].rpartition("/")[0])
        if count > len(unknown):
            followers = self._with_followers(version, unknown[-1], count - len(unknown) + 1)
            unknown += [path for path in followers if path not in unknown]
        self._ask_for(version, unknown, deadline)

    def forget(self, version: Version, path: str) -> None:
        """Drop a URL that the store refuses, and those that were asked for before or with it."""
        with self._lock:
            self.refused += 1
            _, refused_until = self._urls.pop((version.id, path), ("", 0.0))
            for key, (_, valid_until) in list(self._urls.items()):
                if valid_until <= refused_until:
                    del self._urls[key]

    def _batch_size(self, artifact_id: str, folder: str) -> int:
        """Return how many files to ask for, and remember that it was asked once more."""
        key = (artifact_id, folder)
        count = self._questions.pop(key, 1)
        self._questions[key] = min(count * GROWTH, MOST_AT_ONCE)
        while len(self._questions) > MOST_KEPT:
            self._questions.popitem(last=False)
        return max(1, count)

    def _with_followers(self, version: Version, path: str, count: int) -> list[str]:
        """Return the path and up to `count` - 1 files of its folder behind it."""
        table = self._manifests.open(version.id)
        if table is None:
            return [path]
        try:
            return [path, *table.paths_behind(path, count - 1)]
        finally:
            table.close()
