"""Directories of thousands of names: listed page by page, and asked for once."""

from __future__ import annotations

import errno
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Mounter
from mounts import run, wait_until
from population import Population
from stand_in import StandIn

PROJECTS = [f"project-{number:04}" for number in range(5000)]
ARTIFACTS = [f"artifact-{number:04}" for number in range(5000)]
VERSIONS = 2000
TYPES = ("dataset", "model", "raw-data")
PAGE_S = 0.4
"""Seconds that the server takes for each page, where it is slow."""

ENTITY = Path("admin")
PROJECT = ENTITY / "crowded"
COLLECTION = ENTITY / "versioned" / "many"
LISTED = {
    ENTITY: ("GetProjects", {*PROJECTS, PROJECT.name, COLLECTION.parent.name}),
    PROJECT: ("ProjectArtifactCollections", {*ARTIFACTS}),
    COLLECTION: ("ProjectArtifacts", {"latest", *(f"v{number}" for number in range(VERSIONS))}),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """Return a server of this module's own, with thousands of each kind."""
    server = StandIn(tmp_path_factory.mktemp("large") / "server")
    try:
        population = Population(server)
        population.add_projects("admin", PROJECTS)
        population.begin_artifacts("admin", PROJECT.name, ARTIFACTS, TYPES)
        population.add_versions("admin", COLLECTION.parent.name, COLLECTION.name, VERSIONS)
        yield server
    finally:
        server.stop()


def pages_of(count: int) -> int:
    """Return how many pages of 50, 200, and then 500 names hold so many."""
    sizes, pages = [50, 200], 0
    while count > 0:
        count -= sizes[pages] if pages < len(sizes) else 500
        pages += 1
    return pages


def operations(server: StandIn) -> Counter[str]:
    """Return how often the server was asked for what, but for its features."""
    asked = Counter(request.operation for request in server.requests(port="api"))
    del asked["ServerFeaturesQuery"]
    return asked


def test_a_mount_asks_what_the_server_can_do_before_a_version_is_looked_up(
    mounter: Mounter, server: StandIn
) -> None:
    def times() -> int:
        return len(server.requests(operation="ServerFeaturesQuery"))

    before = times()
    mounter(server=server)
    wait_until(lambda: times() == before + 1, what="it is asked")


@pytest.mark.parametrize("directory", LISTED, ids=("projects", "artifacts", "versions"))
def test_names_come_page_by_page_and_are_asked_for_once(
    mounter: Mounter, server: StandIn, directory: Path
) -> None:
    operation, names = LISTED[directory]
    mount = mounter(server=server)
    path = mount.path / directory
    assert path.is_dir()
    before = mount.status()["requests"]
    server.clear_requests()
    with server.faults(port="api", delay_s=PAGE_S):
        began = time.monotonic()
        with os.scandir(path) as entries:
            found = [next(entries).name]
            first_s = time.monotonic() - began
            # Another program, as it is under way: it looks at each name, at its own pace.
            other = subprocess.Popen(["ls", "-lU", path], stdout=subprocess.PIPE, text=True)
            found += [entry.name for entry in entries]
        all_s = time.monotonic() - began
        others, _ = other.communicate(timeout=100)
    assert first_s < all_s / 2
    assert sorted(found) == sorted(names)
    assert other.returncode == 0
    assert sorted(line.split()[-1] for line in others.splitlines()[1:]) == sorted(names)
    # From then on they are in order.
    if directory == COLLECTION:
        assert os.listdir(path) == [*(f"v{number}" for number in range(VERSIONS)), "latest"]
    else:
        assert os.listdir(path) == sorted(names)
    for name in sorted(names)[:: len(names) // 50]:
        assert (path / name).is_dir()
    # A version comes with all its names.
    count = VERSIONS if directory == COLLECTION else len(names)
    assert operations(server) == {operation: pages_of(count)}
    # Nor did the kernel ask the daemon for each name.
    after = mount.status()["requests"]
    for request in ("lookup", "getattr"):
        assert after.get(request, 0) - before.get(request, 0) < len(names) / 10


def test_mounts_share_a_listing_and_it_is_kept(mounter: Mounter, server: StandIn) -> None:
    operation, names = LISTED[ENTITY]
    first, second = mounter(server=server), mounter(server=server)
    assert {*os.listdir(first.path / ENTITY)} == names
    first.umount()
    server.clear_requests()
    assert {*os.listdir(second.path / ENTITY)} == names
    offline = mounter(server=server, options=["--offline"])
    assert {*os.listdir(offline.path / ENTITY)} == names
    assert operations(server)[operation] == 0
    # Who mounts anew wants to see what is new.
    third = mounter(server=server)
    assert {*os.listdir(third.path / ENTITY)} == names
    assert operations(server)[operation] == pages_of(len(names))


@pytest.mark.promises("1.5")
@pytest.mark.parametrize(
    ("fault", "number"),
    [({"error_share": 1.0}, errno.EIO), ({"stall": True}, errno.ETIMEDOUT)],
    ids=("error", "silence"),
)
def test_a_listing_that_fails_midway_is_no_short_one(
    mounter: Mounter, server: StandIn, fault: dict[str, Any], number: int
) -> None:
    mount = mounter(server=server, options=["--timeout", "10"])
    found: list[str] = []
    with (
        server.faults(port="api", delay_s=PAGE_S),
        os.scandir(mount.path / ENTITY) as entries,
    ):
        found.append(next(entries).name)
        other = subprocess.Popen(
            ["ls", "-f", mount.path / ENTITY], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        with (
            server.faults(port="api", **fault),
            pytest.raises(OSError, match=os.strerror(number)) as caught,
        ):
            found += (entry.name for entry in entries)
        _, said = other.communicate(timeout=100)
    assert caught.value.errno == number
    assert 1 < len(found) < len(PROJECTS)
    assert other.returncode != 0
    assert os.strerror(number).encode() in said
    assert "can't list admin" in mount.errors()[-1]["cause"]
    wait_until(
        lambda: run("ls", mount.path / ENTITY).returncode == 0, what="the server is found again"
    )
    assert {*os.listdir(mount.path / ENTITY)} == LISTED[ENTITY][1]


def test_what_was_listed_before_completes_a_listing_that_fails(
    mounter: Mounter, server: StandIn
) -> None:
    names = LISTED[ENTITY][1]
    mount = mounter(server=server, options=["--alias-ttl", "1", "--timeout", "10"])
    assert {*os.listdir(mount.path / ENTITY)} == names
    time.sleep(1.1)
    with (
        server.faults(port="api", delay_s=PAGE_S),
        os.scandir(mount.path / ENTITY) as entries,
    ):
        found = [next(entries).name]
        with server.faults(port="api", error_share=1.0):
            found += (entry.name for entry in entries)
            assert sorted(found) == sorted(names)
            assert {*os.listdir(mount.path / ENTITY)} == names
    assert mount.errors() == []
