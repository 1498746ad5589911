"""Signed URLs: asked for in batches where a folder's files are read one after another.

Each file's own question would cost a data loader a round trip to the API a file. The first file of
a folder is asked for alone; each further question takes along four times as many of the files that
follow. In a folder that was listed a file that is waited for is asked for alone: `ahead.listed`
asks for the others.
What is being asked for by another, who reads it too or fetches ahead, is waited for and not asked
for twice. Thread-safe, blocking code.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing

from wbfs.model.entries import Version
from wbfs.model.errors import RemoteError
from wbfs.remote.api.artifacts import WandbApi
from wbfs.remote.http.transport import Deadline
from wbfs.store.known.manifests import Manifests

LIFETIME_S = 300.0
"""Seconds that a URL is kept; one that the store refuses earlier is asked for again."""
GROWTH = 4
MOST_AT_ONCE = 256
"""Files of a question; one for more is not waited for: a file's own is answered sooner."""
PATIENCE_S = 2.0
"""Seconds for which another's question is waited for; then a file is asked for after all."""
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
        # Of files that are being asked for, what tells that this is over.
        self._under_way: dict[tuple[str, str], threading.Event] = {}
        self.refused = 0

    def was_listed(self, version: Version, folder: str) -> None:
        """Have each file of the folder at that path asked for alone from now on."""
        with self._lock:
            self._questions[version.id, folder] = ALONE
            self._questions.move_to_end((version.id, folder))

    def get(self, version: Version, path: str, *, deadline: Deadline) -> str:
        """Return a URL of the version's file. Raises RemoteError, AccessDenied, NotFound."""
        if url := self.known(version, path):
            return url
        with self._lock:
            other = self._under_way.get((version.id, path))
        if other is not None:
            other.wait(min(PATIENCE_S, deadline.remaining_s))
        with self._lock:
            if url := self._good(version, path):
                return url
            count, question = self._begin(version, [path], ALONE)
        found = self._ask_for(version, [path], count, question, deadline).get(path)
        if found is None:
            raise RemoteError(
                f"the server gave no URL for {path!r} of {version.path}, though the manifest has"
                " it: the artifact may be being deleted"
            )
        return found

    def _begin(
        self, version: Version, paths: list[str], if_listed: int
    ) -> tuple[int, threading.Event]:
        """Have others wait for these files, with the lock held; return what `_ask_for` needs."""
        question = threading.Event()
        self._announce(version, paths, question)
        count = self._batch_size(version.id, paths[-1].rpartition("/")[0])
        return count or if_listed, question

    def _announce(self, version: Version, paths: list[str], question: threading.Event) -> None:
        if len(paths) <= MOST_AT_ONCE:
            for path in paths:
                self._under_way[version.id, path] = question

    def _ask_for(
        self,
        version: Version,
        paths: list[str],
        count: int,
        question: threading.Event,
        deadline: Deadline,
    ) -> dict[str, str]:
        """Ask for the files' URLs, and for those of files that follow, `count` in all."""
        try:
            if count > len(paths):
                behind = self._paths_behind(version, paths[-1], count - len(paths))
                with self._lock:
                    paths = paths + self._unknown(version, behind)
                    self._announce(version, paths, question)
            asked_at = time.monotonic()
            urls = self._ask(
                lambda deadline: self._api.file_urls(version, paths, deadline=deadline), deadline
            )
            with self._lock:
                # The empty text for those that the server lacks, which only `get` asks again for.
                for path in paths:
                    self._urls.pop((version.id, path), None)
                    self._urls[version.id, path] = urls.get(path, ""), asked_at + LIFETIME_S
                while len(self._urls) > MOST_KEPT:
                    self._urls.popitem(last=False)
            return urls
        finally:
            with self._lock:
                for path in paths:
                    if self._under_way.get((version.id, path)) is question:
                        del self._under_way[version.id, path]
            question.set()

    def known(self, version: Version, path: str) -> str:
        """Return the URL of a file if it was asked for lately, "" if not."""
        with self._lock:
            return self._good(version, path)

    def _good(self, version: Version, path: str) -> str:
        """Return what `known` does; with the lock held."""
        url, valid_until = self._urls.get((version.id, path), ("", 0.0))
        return url if time.monotonic() < valid_until else ""

    def prepare(
        self, version: Version, paths: list[str], *, deadline: Deadline, is_ahead: bool = False
    ) -> None:
        """Ask for those of the files' URLs that aren't known, in one question.

        It takes along files that follow, as those of `get` do; in a folder that was listed only
        where it `is_ahead` of who reads there. Raises what asking raises; a file without a URL is
        left to `get`.
        """
        with self._lock:
            unknown = self._unknown(version, paths)
            others = {self._under_way.get((version.id, path)) for path in paths}
            if unknown:
                if_listed = MOST_AT_ONCE if is_ahead else ALONE
                count, question = self._begin(version, unknown, if_listed)
        if unknown:
            self._ask_for(version, unknown, count, question, deadline)
        patience = Deadline.after(min(PATIENCE_S, deadline.remaining_s))
        for other in filter(None, others):
            other.wait(patience.remaining_s)

    def _unknown(self, version: Version, paths: list[str]) -> list[str]:
        """Return the files whose URLs are neither known nor asked for; with the lock held."""
        now = time.monotonic()
        keys = ((version.id, path) for path in paths)
        return [
            key[1]
            for key in keys
            if key not in self._under_way and self._urls.get(key, ("", 0.0))[1] <= now
        ]

    def forget(self, version: Version, path: str, url: str) -> None:
        """Drop a URL that the store refuses, and those that were asked for before or with it.

        Nothing is dropped where the file has another by now, or none: that is known already.
        """
        with self._lock:
            kept = self._urls.get((version.id, path))
            if kept is None or kept[0] != url:
                return
            refused_until = kept[1]
            self.refused += 1
            for key, (_, valid_until) in list(self._urls.items()):
                if valid_until <= refused_until:
                    del self._urls[key]

    def _batch_size(self, artifact_id: str, folder: str) -> int:
        """Return how many files to ask for, or ALONE; remember that it was asked once more."""
        key = (artifact_id, folder)
        count = self._questions.pop(key, 1)
        self._questions[key] = min(count * GROWTH, MOST_AT_ONCE)
        while len(self._questions) > MOST_KEPT:
            self._questions.popitem(last=False)
        return count

    def _paths_behind(self, version: Version, path: str, count: int) -> list[str]:
        """Return up to `count` files of the path's folder that come behind it."""
        table = self._manifests.open(version.id)
        if table is None:
            return []
        with closing(table):
            return list(table.paths_behind(path, count))
