"""Signed URLs: alone for one file, in growing batches for a folder, fresh ones when refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from fetching import new_manifests
from tables import DIGEST, VERSION, add_table

from wbfs.fetch.small.urls import MOST_AT_ONCE, SignedUrls
from wbfs.model.entries import Entry, Reference, Version
from wbfs.model.errors import RemoteError
from wbfs.remote.http.transport import Deadline

FILES = 1000


class FakeApi:
    """Gives URLs that tell which question they answer."""

    def __init__(self) -> None:
        self.questions: list[list[str]] = []

    def file_urls(
        self, version: Version, paths: Sequence[str], *, deadline: Deadline
    ) -> dict[str, str]:
        self.questions.append(list(paths))
        return {path: f"{len(self.questions)}:{path}" for path in paths if path != "gone"}


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture
def urls(api: FakeApi, tmp_path: Path) -> SignedUrls:
    manifests = new_manifests(tmp_path, "server")
    entries = [
        Entry(path=f"{folder}/{number:04}", size=1, digest=DIGEST)
        for folder in ("a", "b")
        for number in range(FILES)
    ]
    reference = Reference(uri="http://h/x", token="t")
    entries.append(Entry(path="a/0001-reference", size=1, digest=None, reference=reference))
    add_table(manifests, VERSION.id, entries).close()
    return SignedUrls(api=api, ask=lambda ask, deadline: ask(deadline), manifests=manifests)  # type: ignore[arg-type]


def get(urls: SignedUrls, path: str) -> str:
    return urls.get(VERSION, path, deadline=Deadline.after(100))


def test_one_file_is_asked_for_alone(api: FakeApi, urls: SignedUrls) -> None:
    assert get(urls, "a/0500") == "1:a/0500"
    assert get(urls, "a/0500") == "1:a/0500"
    assert get(urls, "b/0500") == "2:b/0500"
    assert api.questions == [["a/0500"], ["b/0500"]]


def test_a_folder_in_order_takes_few_questions(api: FakeApi, urls: SignedUrls) -> None:
    for number in range(FILES):
        assert get(urls, f"a/{number:04}").endswith(f":a/{number:04}")
    sizes = [len(question) for question in api.questions]
    assert sizes[:5] == [1, 4, 16, 64, 256]
    assert max(sizes) == MOST_AT_ONCE
    assert len(sizes) <= 8
    asked = [path for question in api.questions for path in question]
    assert len(asked) == len(set(asked)) == FILES


def test_a_refused_url_goes_with_those_of_its_time(api: FakeApi, urls: SignedUrls) -> None:
    for number in range(3):
        get(urls, f"a/{number:04}")
    get(urls, "b/0000")
    urls.forget(VERSION, "a/0002")
    assert len(api.questions) == 3
    assert get(urls, "a/0002").startswith("4:")
    assert get(urls, "a/0003").startswith("4:")
    # What was asked for later may well be good still.
    assert get(urls, "b/0000") == "3:b/0000"


def test_a_file_that_the_server_lacks(urls: SignedUrls) -> None:
    with pytest.raises(RemoteError, match="gave no URL for 'gone' of e/p/c:v0"):
        get(urls, "gone")
