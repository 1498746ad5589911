"""Signed URLs: alone for one file, in growing batches for a folder, fresh ones when refused."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fetching import new_manifests
from tables import DIGEST, VERSION, add_table

from wbfs.fetch.small import urls as urls_module
from wbfs.fetch.small.urls import MOST_AT_ONCE, SignedUrls
from wbfs.model.entries import Entry, Reference, Version
from wbfs.model.errors import RemoteError
from wbfs.remote.http.transport import Deadline

FILES = 1000


class FakeApi:
    """Gives URLs that tell which question they answer; the first may be answered last."""

    def __init__(self) -> None:
        self.questions: list[list[str]] = []
        self.first_came = threading.Event()
        self.another_came = threading.Event()
        self.first_waits_s = 0.0
        self.first_fails = False

    def file_urls(
        self, version: Version, paths: Sequence[str], *, deadline: Deadline
    ) -> dict[str, str]:
        self.questions.append(list(paths))
        number = len(self.questions)
        if number == 1:
            self.first_came.set()
            self.another_came.wait(self.first_waits_s)
            if self.first_fails:
                raise RemoteError("the first fails")
        else:
            self.another_came.set()
        return {path: f"{number}:{path}" for path in paths if path != "gone"}


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
    urls.forget(VERSION, "a/0002", "2:a/0002")
    assert len(api.questions) == 3
    assert get(urls, "a/0002").startswith("4:")
    assert get(urls, "a/0003").startswith("4:")
    # What was asked for later may well be good still.
    assert get(urls, "b/0000") == "3:b/0000"


def test_a_refusal_that_comes_late_is_no_other(api: FakeApi, urls: SignedUrls) -> None:
    paths = [f"a/{number:04}" for number in range(9)]
    urls.prepare(VERSION, paths, deadline=Deadline.after(100))
    urls.forget(VERSION, "a/0002", "1:a/0002")
    assert urls.refused == 1
    # Of a file that nobody has asked for since, and of one that has a new URL.
    urls.forget(VERSION, "a/0003", "1:a/0003")
    urls.prepare(VERSION, paths, deadline=Deadline.after(100))
    urls.forget(VERSION, "a/0004", "1:a/0004")
    assert urls.refused == 1
    assert get(urls, "a/0004") == "2:a/0004"
    assert len(api.questions) == 2


SHORT_S = 0.5


@pytest.mark.parametrize("reads", [True, False], ids=["read", "fetched ahead"])
def test_what_is_asked_for_is_not_asked_for_by_others(
    api: FakeApi, urls: SignedUrls, reads: bool
) -> None:
    api.first_waits_s = SHORT_S
    with ThreadPoolExecutor() as threads:
        deadline = Deadline.after(100)
        ahead = threads.submit(urls.prepare, VERSION, ["a/0001", "a/0002"], deadline=deadline)
        assert api.first_came.wait(100)
        if reads:
            assert get(urls, "a/0002") == "1:a/0002"
        else:
            urls.prepare(VERSION, ["a/0002"], deadline=deadline)
            assert urls.known(VERSION, "a/0002") == "1:a/0002"
        ahead.result(100)
    assert api.questions == [["a/0001", "a/0002"]]


def test_another_question_that_fails_or_takes_long_is_no_obstacle(
    api: FakeApi, urls: SignedUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urls_module, "PATIENCE_S", SHORT_S)
    api.first_waits_s = 100
    api.first_fails = True
    with ThreadPoolExecutor() as threads:
        ahead = threads.submit(
            urls.prepare, VERSION, ["a/0001", "a/0002"], deadline=Deadline.after(100)
        )
        assert api.first_came.wait(100)
        assert get(urls, "a/0002") == "2:a/0002"
        with pytest.raises(RemoteError, match="the first fails"):
            ahead.result(100)
    assert get(urls, "a/0001").endswith(":a/0001")


def test_what_is_fetched_ahead_takes_others_along_in_a_listed_folder(
    api: FakeApi, urls: SignedUrls
) -> None:
    urls.was_listed(VERSION, "a")
    assert get(urls, "a/0300") == "1:a/0300"
    assert get(urls, "a/0303") == "2:a/0303"
    urls.prepare(VERSION, ["a/0301", "a/0302"], deadline=Deadline.after(100), is_ahead=True)
    assert api.questions[:2] == [["a/0300"], ["a/0303"]]
    # No more than are due, and none whose URL is good.
    last = 302 + MOST_AT_ONCE - 2
    assert api.questions[2:] == [
        [f"a/{number:04}" for number in range(301, last + 1) if number != 303]
    ]
    assert get(urls, f"a/{last:04}") == f"3:a/{last:04}"


def test_a_question_for_many_files_is_not_waited_for(
    api: FakeApi, urls: SignedUrls, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Who waits has the first question's URL.
    monkeypatch.setattr(urls_module, "PATIENCE_S", 100.0)
    api.first_waits_s = 5.0
    paths = [f"a/{number:04}" for number in range(MOST_AT_ONCE + 1)]
    with ThreadPoolExecutor() as threads:
        ahead = threads.submit(urls.prepare, VERSION, paths, deadline=Deadline.after(100))
        assert api.first_came.wait(100)
        assert get(urls, "a/0002") == "2:a/0002"
        ahead.result(100)


def test_a_file_that_the_server_lacks(urls: SignedUrls) -> None:
    with pytest.raises(RemoteError, match="gave no URL for 'gone' of e/p/c:v0"):
        get(urls, "gone")
