"""The catalog: what was said of names comes back, to those it was said to, whatever happens."""

from __future__ import annotations

import fcntl
import logging
import multiprocessing
import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from wbfs.model.entries import Collection, Project, Version, Viewer
from wbfs.model.errors import AccessDenied, StoreError, StoreFull
from wbfs.store.known import shared_database
from wbfs.store.known.catalog import Catalog, GivenListing, GivenName, Thing, find_viewer

SERVER = "https://wandb.example.com"
ADA = Viewer(id="VXNlcjox", entity="ada", username="ada", teams=("team",))
BOB = Viewer(id="VXNlcjoy", entity="bob", username="bob", teams=("team",))
KEYS = {"ada": "a" * 40, "bob": "b" * 40}
PROJECT = Project(entity="team", name="proj", created_at_ns=1)
COLLECTION = Collection(entity="team", project="proj", name="data", type="dataset", created_at_ns=2)
PLACE = "team/proj/data"


def catalog(tmp_path: Path, viewer: Viewer = ADA, server: str = SERVER) -> Catalog:
    return Catalog(tmp_path, server=server, viewer=viewer, read_login=lambda: KEYS[viewer.username])


def version(number: int, **values: object) -> Version:
    return Version(
        id=f"id{number}",
        entity="team",
        project="proj",
        collection="data",
        name=f"v{number}",
        type="dataset",
        digest="abc",
        **values,  # type: ignore[arg-type]
    )


def name(text: str, thing: Thing | None, given_at: float = 100.0) -> GivenName:
    return GivenName(directory=PLACE, name=text, thing=thing, given_at=given_at)


def listing(*things: tuple[str, Thing], given_at: float = 100.0) -> GivenListing:
    return GivenListing(directory=PLACE, things=things, given_at=given_at)


ODD = version(
    7,
    aliases=("latest", "日本"),
    tags=("t",),
    size=1 << 40,
    created_at_ns=1_700_000_000_123_456_000,
    description="a lone surrogate \ud800 and a NUL \0",
    metadata='{"a": [1]}',
)


@pytest.mark.parametrize(
    "given",
    [
        GivenName(directory="/", name="team", thing="team", given_at=1.5),
        GivenName(directory="team", name="proj", thing=PROJECT, given_at=1.5),
        GivenName(directory="team/proj", name="data", thing=COLLECTION, given_at=1.5),
        name("latest", ODD),
        name("nothing", None),
    ],
)
def test_a_name_comes_back_as_it_was(tmp_path: Path, given: GivenName) -> None:
    assert catalog(tmp_path).name(given.directory, given.name) is None
    catalog(tmp_path).write([given])
    assert catalog(tmp_path).name(given.directory, given.name) == given
    assert catalog(tmp_path).name(given.directory, "another") is None
    assert catalog(tmp_path).listing(given.directory) is None


def test_a_listing_comes_back_and_replaces_the_one_before(tmp_path: Path) -> None:
    kept = catalog(tmp_path)
    kept.write([listing(("best", version(0)), ("v0", version(0)))])
    assert kept.listed_at(PLACE) == 100.0
    assert kept.listing(PLACE) == listing(("best", version(0)), ("v0", version(0)))
    assert kept.name(PLACE, "v0") == name("v0", version(0))
    kept.write([listing(("v0", version(0)), ("v1", version(1)), given_at=200.0)])
    assert kept.listing(PLACE) == listing(("v0", version(0)), ("v1", version(1)), given_at=200.0)
    # The listing says it again, and says that the alias is gone.
    assert kept.name(PLACE, "v0") == name("v0", version(0), 200.0)
    assert kept.name(PLACE, "best") is None
    assert kept.listing("team/proj") is None
    kept.write([listing(given_at=300.0)])
    assert kept.listing(PLACE) == listing(given_at=300.0)


def test_a_later_answer_is_in_the_listing(tmp_path: Path) -> None:
    kept = catalog(tmp_path)
    kept.write([name("deadbeef", version(0)), listing(("best", version(0)), ("old", version(0)))])
    kept.write([name("best", version(1), 150.0), name("old", None, 160.0)])
    assert kept.listing(PLACE) == listing(("best", version(1)))
    assert kept.name(PLACE, "best") == name("best", version(1), 150.0)
    assert kept.name(PLACE, "old") == name("old", None, 160.0)
    # A name that was never listed stays when another listing hasn't got it either.
    kept.write([listing(("best", version(2)), given_at=200.0)])
    assert kept.name(PLACE, "deadbeef") == name("deadbeef", version(0))
    assert kept.name(PLACE, "best") == name("best", version(2), 200.0)
    assert kept.name(PLACE, "old") is not None


def test_answers_of_users_and_servers_do_not_mix(tmp_path: Path) -> None:
    other = "https://other.example.com"
    catalog(tmp_path).write([name("v0", version(0)), listing(("v0", version(0)))])
    for viewer, server in ((BOB, SERVER), (ADA, other)):
        theirs = catalog(tmp_path, viewer, server)
        assert theirs.name(PLACE, "v0") is None
        assert theirs.listing(PLACE) is None
        theirs.write([name("v0", None)])
    assert catalog(tmp_path).name(PLACE, "v0") == name("v0", version(0))


def test_a_login_is_found_again(tmp_path: Path) -> None:
    with pytest.raises(AccessDenied, match="knows nobody"):
        find_viewer(tmp_path, SERVER, None)
    catalog(tmp_path).write([])
    assert find_viewer(tmp_path, SERVER, KEYS["ada"]) == ADA
    # Without a key it is the only one there is.
    assert find_viewer(tmp_path, SERVER, None) == ADA
    for server, login in ((SERVER, KEYS["bob"]), ("https://other.example.com", KEYS["ada"])):
        with pytest.raises(AccessDenied, match="mount once with the server at hand"):
            find_viewer(tmp_path, server, login)
    catalog(tmp_path, BOB).write([])
    assert find_viewer(tmp_path, SERVER, KEYS["bob"]) == BOB
    with pytest.raises(AccessDenied, match="knows ada, bob"):
        find_viewer(tmp_path, SERVER, None)


def test_no_key_is_in_the_file(tmp_path: Path) -> None:
    catalog(tmp_path).write([name("v0", version(0))])
    files = [path.read_bytes() for path in tmp_path.iterdir()]
    assert any(b"team/proj/data" in content for content in files)
    assert not any(KEYS["ada"].encode() in content for content in files)
    assert {path.stat().st_mode & 0o077 for path in tmp_path.glob("*.lock")} == {0}


def test_a_changed_login_writes_nothing(tmp_path: Path) -> None:
    keys = iter([KEYS["ada"], KEYS["ada"], KEYS["bob"]])
    kept = Catalog(tmp_path, server=SERVER, viewer=ADA, read_login=lambda: next(keys))
    kept.write([name("v0", version(0))])
    with pytest.raises(StoreError, match="another user's"):
        kept.write([name("v1", version(1))])
    assert catalog(tmp_path).name(PLACE, "v1") is None


def test_what_is_not_there_is_forgotten_in_the_end(tmp_path: Path) -> None:
    now = time.time()
    catalog(tmp_path).write([name("old", None, now - 40 * 86400), name("new", None, now)])
    catalog(tmp_path).write([])
    assert catalog(tmp_path).name(PLACE, "old") is None
    assert catalog(tmp_path).name(PLACE, "new") is not None


def overwrite(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def scribble(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))


def other_tables(path: Path) -> None:
    db = sqlite3.connect(path)
    db.executescript("DROP TABLE names; CREATE TABLE names (x)")
    db.close()


def other_things(path: Path) -> None:
    db = sqlite3.connect(path)
    db.executescript("UPDATE names SET thing = '{\"id\": 5}'")
    db.close()


@pytest.mark.parametrize("damage", [overwrite, cut, scribble, other_tables, other_things])
def test_a_damaged_file_is_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: object
) -> None:
    assert callable(damage)
    first, second = catalog(tmp_path), catalog(tmp_path)
    given = [name(f"n{number}", version(number)) for number in range(200)]
    first.write(given)
    damage(tmp_path / "catalog.sqlite")
    with caplog.at_level(logging.WARNING):
        assert [first.name(PLACE, "n5"), second.name(PLACE, "n5")] == [None, None]
    [record] = caplog.records
    assert "was damaged" in record.getMessage()
    assert "made anew" in record.getMessage()
    # Whoever had it open before goes on, and is found again.
    second.write([name("v1", version(1))])
    assert first.name(PLACE, "v1") == name("v1", version(1))
    assert find_viewer(tmp_path, SERVER, KEYS["ada"]) == ADA


def test_an_old_journal_is_not_rolled_back_into_the_new_file(tmp_path: Path) -> None:
    kept = catalog(tmp_path)
    kept.write([name("v0", version(0))])
    overwrite(tmp_path / "catalog.sqlite")
    (tmp_path / "catalog.sqlite-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" * 200)
    kept.write([name("v1", version(1))])
    assert catalog(tmp_path).name(PLACE, "v1") == name("v1", version(1))
    assert sorted(os.listdir(tmp_path)) == ["catalog.lock", "catalog.sqlite"]


def test_a_file_of_another_wbfs_is_left_alone(tmp_path: Path) -> None:
    catalog(tmp_path).write([name("v0", version(0))])
    db = sqlite3.connect(tmp_path / "catalog.sqlite")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match="another version of wbfs"):
        catalog(tmp_path).write([])
    db = sqlite3.connect(tmp_path / "catalog.sqlite")
    assert db.execute("SELECT count(*) FROM names").fetchone() == (1,)
    db.close()


def test_a_place_that_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "catalog.sqlite" / "folder").mkdir(parents=True)
    with pytest.raises(StoreError, match=r"can't read .*catalog\.sqlite"):
        catalog(tmp_path).name(PLACE, "v0")


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_database, "BUSY_S", 0.1)


@pytest.mark.usefixtures("short_waits")
def test_a_busy_file_is_an_error_in_time(tmp_path: Path) -> None:
    kept = catalog(tmp_path)
    kept.write([name("v0", version(0))])
    other = sqlite3.connect(tmp_path / "catalog.sqlite", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(StoreError, match="locked"):
        kept.name(PLACE, "v0")
    other.execute("ROLLBACK")
    other.close()
    with (tmp_path / "catalog.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="other daemons"):
            kept.name(PLACE, "v0")
    assert kept.name(PLACE, "v0") == name("v0", version(0))


def write_many(folder: Path, first: int) -> None:
    kept = catalog(folder)
    for number in range(first, first + 30):
        kept.write([name(f"n{number}", version(number))])
        assert kept.name(PLACE, f"n{number}") is not None


def test_many_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=write_many, args=(tmp_path, 100 * number)) for number in range(2)
    ]
    threads = [
        threading.Thread(target=write_many, args=(tmp_path, 100 * number)) for number in (2, 3)
    ]
    for one in (*processes, *threads):
        one.start()
    for one in (*processes, *threads):
        one.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    kept = catalog(tmp_path)
    for first in (0, 100, 200, 300):
        for number in range(first, first + 30):
            assert kept.name(PLACE, f"n{number}") is not None


def test_large_listings_are_written_once(tmp_path: Path) -> None:
    things = tuple((f"v{number}", version(number, metadata="x" * 200)) for number in range(5000))
    kept = catalog(tmp_path)
    kept.write([listing(*things)])
    found = kept.listing(PLACE)
    assert found is not None
    assert dict(found.things) == dict(things)
    before = (tmp_path / "catalog.sqlite").stat().st_size
    kept.write([listing(*things, given_at=200.0)])
    assert kept.listed_at(PLACE) == 200.0
    assert (tmp_path / "catalog.sqlite").stat().st_size == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a directory on a disk of 200 kB."""
    if os.getuid() != 0:
        pytest.skip("only root may mount a small disk")
    path = tmp_path / "small disk"
    path.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "none", path], check=True, timeout=50
    )
    yield path
    subprocess.run(["umount", "-l", path], check=True, timeout=50)


def test_a_full_disk_loses_nothing(small_disk: Path) -> None:
    kept = catalog(small_disk)
    kept.write([name("v0", version(0))])
    with pytest.raises(StoreFull, match="the disk is full"):
        kept.write([name("v0", None), name("v1", version(1, description="x" * 400_000))])
    assert kept.name(PLACE, "v0") == name("v0", version(0))
    kept.write([name("v2", version(2))])
    assert kept.name(PLACE, "v2") == name("v2", version(2))


def write_for_ever(folder: Path, ready: Event) -> None:
    kept = catalog(folder)
    for number in range(1_000_000):
        kept.write([name(f"n{number % 50}", version(number, description="x" * 5000))])
        ready.set()


def test_kill_9_loses_nothing_that_was_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = multiprocessing.get_context("spawn")
    catalog(tmp_path).write([name("v0", version(0))])
    for milliseconds in (0, 1, 3, 7):
        ready = context.Event()
        writer = context.Process(target=write_for_ever, args=(tmp_path, ready))
        writer.start()
        assert ready.wait(100)
        time.sleep(milliseconds / 1000)
        writer.kill()
        writer.join(100)
        assert catalog(tmp_path).name(PLACE, "v0") == name("v0", version(0))
        assert catalog(tmp_path).name(PLACE, "n0") is not None
    assert not caplog.records
    db = sqlite3.connect(tmp_path / "catalog.sqlite")
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def transactions(tmp_path: Path) -> int:
    """Return how often the file was changed: SQLite counts its transactions in the header."""
    return int.from_bytes((tmp_path / "catalog.sqlite").read_bytes()[24:28], "big")


def test_a_listing_of_thousands_is_one_transaction(tmp_path: Path) -> None:
    kept = catalog(tmp_path)
    kept.write([name("latest", ODD)])
    before = transactions(tmp_path)
    many = listing(*((f"v{number}", version(number)) for number in range(5000)))
    kept.write([many])
    assert transactions(tmp_path) == before + 1
    found = catalog(tmp_path).listing(PLACE)
    assert found is not None
    assert dict(found.things) == dict(many.things)
