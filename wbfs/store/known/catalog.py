"""What the server said of names, kept over mounts: so that they are there without it.

    <cache>/catalog.sqlite

Answers of different servers and of different users never mix: each is kept for the server and the
user (W&B's viewer) that it was given to. Which user a login is, an API key for instance, is found
by a hash of it with a salt of this file; the key itself is in no file. A key is 40 random
characters or more, so that nobody finds it by trying. Blocking code, safe to call from any thread.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from wbfs.model.entries import Collection, Project, Version, Viewer
from wbfs.model.errors import AccessDenied, StoreError
from wbfs.store.known.shared_database import Damaged, SharedDatabase

NOT_THERE_KEPT_S = 30 * 86400.0
"""Seconds that "there is no such name" is kept."""

_FORMAT = 1
_SCHEMA = (
    "CREATE TABLE about (salt BLOB NOT NULL)",
    "INSERT INTO about VALUES (randomblob(16))",
    "CREATE TABLE viewers (owner BLOB PRIMARY KEY, server TEXT, viewer TEXT) WITHOUT ROWID",
    "CREATE TABLE logins (login BLOB PRIMARY KEY, owner BLOB) WITHOUT ROWID",
    # `thing` is NULL where the server said that there is no such name. `listed`: it is of the
    # directory's listing, and was given again with that if it was the same.
    "CREATE TABLE names (owner BLOB, directory TEXT, name TEXT, kind TEXT, thing TEXT,"
    " given_at REAL, listed INTEGER, PRIMARY KEY (owner, directory, name)) WITHOUT ROWID",
    "CREATE TABLE listings (owner BLOB, directory TEXT, given_at REAL,"
    " PRIMARY KEY (owner, directory)) WITHOUT ROWID",
)

Thing = str | Project | Collection | Version
"""What a name is; an entity is a text, its own name."""
_KINDS: dict[str, type] = {
    "entity": str,
    "project": Project,
    "collection": Collection,
    "version": Version,
}
_KIND_OF = {type_: kind for kind, type_ in _KINDS.items()}

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenName:
    """What the server said of a name in a directory; None: there is no such thing.

    `given_at` is when it said so, in seconds since the epoch.
    """

    directory: str
    name: str
    thing: Thing | None
    given_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenListing:
    """All names that the server listed for a directory, at `given_at` seconds since the epoch."""

    directory: str
    things: tuple[tuple[str, Thing], ...]
    given_at: float


def find_viewer(cache_dir: Path, server: str, login: str | None) -> Viewer:
    """Return who the login was when the server said so last; `server` is its URL.

    Without a login it is the only user that the cache knows of the server: whoever may read the
    cache directory needs no key to see what is in it. Raises AccessDenied where it isn't known who
    it is, StoreError.
    """

    def find(db: sqlite3.Connection) -> list[Viewer]:
        if login is None:
            rows = db.execute("SELECT viewer FROM viewers WHERE server = ?", (server,))
        else:
            rows = db.execute(
                "SELECT viewer FROM logins JOIN viewers USING (owner) WHERE login = ?",
                (_hash_login(db, server, login),),
            )
        return [_decode(text, Viewer) for (text,) in rows]

    viewers = _database(cache_dir).read(find)
    if len(viewers) == 1:
        return viewers[0]
    if login is not None:
        raise AccessDenied(
            f"the cache {cache_dir} has nothing that {server} gave to this login: mount once with"
            " the server at hand"
        )
    names = ", ".join(sorted(viewer.username for viewer in viewers)) or "nobody"
    raise AccessDenied(
        f"no W&B API key was found, and of {server} the cache {cache_dir} knows {names}: set"
        " WANDB_API_KEY, or run `wandb login`"
    )


class Catalog:
    """What one user was told by one server, in one cache directory.

    A directory is `/`, an entity, `entity/project` or `entity/project/collection`, and behind that
    a moment where it is the collection of then.
    """

    def __init__(
        self, cache_dir: Path, *, server: str, viewer: Viewer, read_login: Callable[[], str]
    ) -> None:
        """`read_login` returns what tells the login from others, or raises AccessDenied for none.

        Raises StoreError.
        """
        self._database = _database(cache_dir)
        self._server = server
        self._viewer = viewer
        self._owner = owner_of(server, viewer)
        self._read_login = read_login
        self._login = self._current_login()
        self._is_tidied = False

    def _current_login(self) -> str | None:
        try:
            return self._read_login()
        except AccessDenied:
            return None

    def name(self, directory: str, name: str) -> GivenName | None:
        """Return what the name was last, None where nobody asked. Raises StoreError."""

        def find(db: sqlite3.Connection) -> GivenName | None:
            row = db.execute(
                "SELECT kind, thing, max(names.given_at, coalesce(listings.given_at, 0)) FROM names"
                " LEFT JOIN listings ON listings.owner = names.owner"
                " AND listings.directory = names.directory AND names.listed"
                " WHERE names.owner = ? AND names.directory = ? AND name = ?",
                (self._owner, directory, name),
            ).fetchone()
            if row is None:
                return None
            kind, thing, given_at = row
            return GivenName(
                directory=directory,
                name=name,
                thing=None if thing is None else _thing_of(kind, thing),
                given_at=given_at,
            )

        return self._database.read(find)

    def listed_at(self, directory: str) -> float | None:
        """Return when the directory was listed last, None for never. Raises StoreError."""
        return self._database.read(lambda db: self._listed_at(db, directory))

    def _listed_at(self, db: sqlite3.Connection, directory: str) -> float | None:
        row = db.execute(
            "SELECT given_at FROM listings WHERE owner = ? AND directory = ?",
            (self._owner, directory),
        ).fetchone()
        return None if row is None else float(row[0])

    def listing(self, directory: str) -> GivenListing | None:
        """Return the directory's last listing, by name. Raises StoreError.

        What was said of single names since is in it.
        """

        def find(db: sqlite3.Connection) -> GivenListing | None:
            given_at = self._listed_at(db, directory)
            if given_at is None:
                return None
            rows = db.execute(
                "SELECT name, kind, thing FROM names"
                " WHERE owner = ? AND directory = ? AND listed AND thing IS NOT NULL",
                (self._owner, directory),
            )
            things = tuple((name, _thing_of(kind, thing)) for name, kind, thing in rows)
            return GivenListing(directory=directory, things=things, given_at=given_at)

        return self._database.read(find)

    def known(self, directory: str) -> list[tuple[str, Thing]]:
        """Return what is known in a directory, listed or not, as given, the latest first.

        Raises StoreError.
        """

        def find(db: sqlite3.Connection) -> list[tuple[str, Thing]]:
            rows = db.execute(
                "SELECT name, kind, thing FROM names"
                " WHERE owner = ? AND directory = ? AND thing IS NOT NULL ORDER BY given_at DESC",
                (self._owner, directory),
            )
            return [(name, _thing_of(kind, thing)) for name, kind, thing in rows]

        return self._database.read(find)

    def write(self, given: Sequence[GivenName | GivenListing]) -> None:
        """Keep what the server said, in one transaction, and that it knows this login.

        Raises StoreError, also where the login has been changed: what the server says now it may
        say to another user.
        """
        if self._current_login() not in (self._login, None):
            raise StoreError(
                "the API key is another one than when it was mounted, and maybe another user's:"
                " what names are is not kept any more; mount again"
            )

        def keep(db: sqlite3.Connection) -> None:
            self._write_viewer(db)
            if not self._is_tidied:
                oldest = time.time() - NOT_THERE_KEPT_S
                db.execute("DELETE FROM names WHERE thing IS NULL AND given_at < ?", (oldest,))
            for one in given:
                if isinstance(one, GivenListing):
                    self._write_listing(db, one)
                else:
                    self._write_names(db, one.given_at, one.directory, [(one.name, one.thing)], 0)

        self._database.write(keep)
        self._is_tidied = True

    def _write_viewer(self, db: sqlite3.Connection) -> None:
        # Each time: the file may be a new one.
        db.execute(
            "INSERT INTO viewers VALUES (?, ?, ?) ON CONFLICT (owner) DO UPDATE"
            " SET viewer = excluded.viewer WHERE viewer != excluded.viewer",
            (self._owner, self._server, _encode(self._viewer)),
        )
        if self._login is not None:
            db.execute(
                "INSERT INTO logins VALUES (?, ?) ON CONFLICT (login) DO UPDATE"
                " SET owner = excluded.owner WHERE owner != excluded.owner",
                (_hash_login(db, self._server, self._login), self._owner),
            )

    def _write_listing(self, db: sqlite3.Connection, listing: GivenListing) -> None:
        place = (self._owner, listing.directory)
        db.execute(
            "INSERT INTO listings VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
            " SET given_at = excluded.given_at",
            (*place, listing.given_at),
        )
        rows = db.execute(
            "SELECT name FROM names"
            " WHERE owner = ? AND directory = ? AND listed AND thing IS NOT NULL",
            place,
        )
        gone = {name for (name,) in rows} - {name for name, _ in listing.things}
        db.executemany(
            "DELETE FROM names WHERE owner = ? AND directory = ? AND name = ?",
            [(*place, name) for name in gone],
        )
        self._write_names(db, listing.given_at, listing.directory, listing.things, 1)

    def _write_names(
        self,
        db: sqlite3.Connection,
        given_at: float,
        directory: str,
        things: Iterable[tuple[str, Thing | None]],
        listed: int,
    ) -> None:
        # A listing whose names have not changed costs no row but its own.
        db.executemany(
            "INSERT INTO names VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
            " SET kind = excluded.kind, thing = excluded.thing, given_at = excluded.given_at,"
            " listed = max(listed, excluded.listed)"
            " WHERE NOT excluded.listed OR NOT listed OR thing IS NOT excluded.thing",
            (
                (
                    self._owner,
                    directory,
                    name,
                    _KIND_OF.get(type(thing)),
                    None if thing is None else _encode(thing),
                    given_at,
                    listed,
                )
                for name, thing in things
            ),
        )


def owner_of(server: str, viewer: Viewer) -> bytes:
    """Return what tells one user of one server from others, in all files of a cache."""
    return hashlib.sha256(f"{server}\0{viewer.id}".encode()).digest()


def catalog_path(cache_dir: Path) -> Path:
    """Return where a cache's catalog is, or would be."""
    return cache_dir / "catalog.sqlite"


def _database(cache_dir: Path) -> SharedDatabase:
    return SharedDatabase(catalog_path(cache_dir), format=_FORMAT, schema=_SCHEMA)


def _hash_login(db: sqlite3.Connection, server: str, login: str) -> bytes:
    row = db.execute("SELECT salt FROM about").fetchone()
    if row is None:
        raise Damaged("it has no salt")
    return hmac.digest(row[0], f"{server}\0{login}".encode(), "sha256")


def _encode(thing: Thing | Viewer) -> str:
    # The standard library's, since it takes any text: descriptions may hold lone surrogates.
    return json.dumps(msgspec.to_builtins(thing))


def _thing_of(kind: str, text: str) -> Thing:
    if kind not in _KINDS:
        raise Damaged(f"it holds things of the kind {kind!r}")
    thing: Thing = _decode(text, _KINDS[kind])
    return thing


def _decode(text: str, type_: type[T]) -> T:
    try:
        return msgspec.convert(json.loads(text), type_)
    except (ValueError, TypeError) as error:
        raise Damaged(f"it holds what wbfs never wrote: {error}") from error
