"""What the API tells of artifacts is what the real SDK logged, on the stand-in server."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import corpus
import pytest
from stand_in import StandIn
from tables import entry_of

from wbfs.model.digests import new_hasher
from wbfs.model.entries import Collection, Entry, Project, Version
from wbfs.model.errors import (
    AccessDenied,
    NotFound,
    RateLimited,
    RemoteError,
    RemoteTimeout,
    UrlExpired,
)
from wbfs.remote.api import queries
from wbfs.remote.api.artifacts import WandbApi
from wbfs.remote.api.graphql import Page, PageRequest
from wbfs.remote.api.manifests import Manifest
from wbfs.remote.credentials import load_credentials
from wbfs.remote.http.bytes import SLOWEST_BYTES_PER_S, Location, open_stream
from wbfs.remote.http.transport import Deadline, Transport
from wbfs.remote.references import References

pytestmark = pytest.mark.sdk

TEAM, PROJECT = corpus.TEAM, corpus.PROJECT

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class World:
    """A server of this module's own, since faults hit all who use one, and what is on it."""

    server: StandIn
    items: tuple[corpus.CorpusItem, ...]
    home: Path

    def api(self, api_key: str | None = None) -> tuple[WandbApi, Transport]:
        """Return the API as a user sees it, and its transport."""
        credentials = load_credentials(self.server.env(self.home, api_key), self.home)
        transport = Transport.for_credentials(credentials, checkpoint=lambda: None)
        return WandbApi(transport=transport, credentials=credentials), transport


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("remote")
    server = StandIn(folder / "server")
    try:
        server.accounts(corpus.accounts("admin"))
        corpus.write_reference_files(server.public_dir)
        (folder / "corpus").mkdir()
        env = server.env(folder / "home") | {
            "CORPUS_FOLDER": str(folder / "corpus"),
            "CORPUS_HTTP_URL": server.public_url,
        }
        yield World(server=server, items=corpus.log_corpus(env).items, home=folder / "home")
    finally:
        server.stop()


@pytest.fixture
def transport(world: World) -> Iterator[Transport]:
    _, transport = world.api()
    yield transport
    transport.close()


@pytest.fixture
def api(world: World) -> Iterator[WandbApi]:
    api, transport = world.api()
    yield api
    transport.close()


def soon(seconds: float = 100) -> Deadline:
    return Deadline.after(seconds)


def mixed(api: WandbApi, alias: str = "v0") -> Version:
    return api.version(TEAM, PROJECT, "mixed", alias, deadline=soon())


def fetch(transport: Transport, url: str, start: int = 0, stop: int | None = None) -> bytes:
    location = Location(url=url)
    with open_stream(transport, location, start=start, stop=stop, deadline=soon()) as stream:
        return b"".join(map(bytes, stream.pieces))


def entries(api: WandbApi, version: Version) -> dict[str, Entry]:
    manifest = Manifest(
        manifest_of(api, version),
        digest=version.digest,
        digest_algorithm=version.digest_algorithm,
        what=version.path,
    )
    assert manifest.digest_matches
    assert manifest.left_out.count == 0
    return {path: entry_of(path, manifest.row(path)) for path in manifest.paths}


def manifest_of(api: WandbApi, version: Version, seconds: float = 100) -> bytes:
    file = io.BytesIO()
    api.manifest(version, file, limit=1 << 30, deadline=soon(seconds))
    return file.getvalue()


def test_viewer_and_entities(api: WandbApi) -> None:
    viewer = api.viewer(deadline=soon())
    assert (viewer.username, viewer.entity) == ("admin", "admin")
    assert TEAM in viewer.teams
    assert api.entity_exists(TEAM, deadline=soon())
    assert not api.entity_exists("nobody", deadline=soon())


def test_a_key_that_the_server_does_not_know(world: World) -> None:
    api, transport = world.api("x" * 40)
    with pytest.raises(AccessDenied, match="wandb login") as caught:
        api.viewer(deadline=soon())
    assert "x" * 40 not in str(caught.value)
    transport.close()


def every_page(ask: Callable[[PageRequest], Page[T]], size: int = 100) -> list[T]:
    """Return what all pages of a listing hold."""
    found: list[T] = []
    page: Page[T] | None = None
    while page is None or page.next is not None:
        page = ask(PageRequest(after=page.next if page else None, size=size))
        found += page.items
    return found


def projects(api: WandbApi, entity: str) -> list[Project]:
    return every_page(lambda wanted: api.projects(entity, wanted, deadline=soon()))


def collections(api: WandbApi, entity: str, project: str, size: int = 100) -> list[Collection]:
    return every_page(
        lambda wanted: api.collections(entity, project, wanted, deadline=soon()), size
    )


def versions(api: WandbApi, collection: Collection) -> list[Version]:
    return every_page(lambda wanted: api.versions(collection, wanted, deadline=soon()))


def test_projects(api: WandbApi) -> None:
    listed = projects(api, TEAM)
    assert {project.name for project in listed} == {PROJECT}
    assert api.project(TEAM, PROJECT, deadline=soon()) in listed
    assert listed[0].created_at_ns > 0
    assert "other-project" in {one.name for one in projects(api, "admin")}


@pytest.mark.parametrize(
    "ask",
    [
        lambda api: projects(api, "nobody"),
        lambda api: api.project(TEAM, "nothing", deadline=soon()),
        lambda api: collections(api, TEAM, "nothing"),
        lambda api: api.collection(TEAM, PROJECT, "missing", deadline=soon()),
        lambda api: api.version(TEAM, PROJECT, "missing", "v0", deadline=soon()),
        lambda api: mixed(api, "v99"),
        lambda api: mixed(api, "no-such-alias"),
        lambda api: mixed(api, "QXJ0aWZhY3Q6OTk5OTk5"),
        lambda api: api.version_by_id("QXJ0aWZhY3Q6OTk5OTk5", deadline=soon()),
        lambda api: api.organization_entity("No Such", member="admin", deadline=soon()),
    ],
)
def test_what_is_not_there(api: WandbApi, ask: Callable[[WandbApi], object]) -> None:
    with pytest.raises(NotFound):
        ask(api)


def test_collections_of_every_type_source_and_linked(world: World, api: WandbApi) -> None:
    for entity, project in {(item.entity, item.project) for item in world.items}:
        expected = {
            item.collection: item.type
            for item in world.items
            if (item.entity, item.project) == (entity, project)
        }
        listed = collections(api, entity, project)
        assert {of.name: of.type for of in listed}.items() >= expected.items()
        for collection in listed:
            found = api.collection(entity, project, collection.name, deadline=soon())
            assert found == collection


def test_all_pages_are_listed(world: World, api: WandbApi) -> None:
    everything = collections(api, TEAM, PROJECT)
    world.server.clear_requests()
    assert collections(api, TEAM, PROJECT, size=1) == everything
    pages = world.server.requests(operation="ProjectArtifactCollections")
    assert len(pages) == len(everything)
    assert len(everything) > 2


def test_versions_have_the_names_and_aliases_of_their_own_collection(
    world: World, api: WandbApi
) -> None:
    places = {(item.entity, item.project, item.collection): item.type for item in world.items}
    for (entity, project, name), kind in places.items():
        collection = Collection(
            entity=entity, project=project, name=name, type=kind, created_at_ns=0
        )
        listed = versions(api, collection)
        found = {version.name: set(version.aliases) for version in listed}
        logged = {
            item.version: {alias for alias in item.aliases if alias != item.version}
            for item in world.items
            if (item.entity, item.project, item.collection) == (entity, project, name)
        }
        assert found == logged
        for version in listed:
            for alias in (version.name, *version.aliases):
                again = api.version(entity, project, name, alias, deadline=soon())
                # Aliases come in no order.
                assert set(again.aliases) == set(version.aliases)
                assert (again.id, again.name, again.path) == (
                    version.id,
                    version.name,
                    version.path,
                )


def test_what_is_told_of_a_version(api: WandbApi) -> None:
    version = mixed(api)
    assert version.type == "dataset"
    assert version.description == "of every kind"
    assert set(version.tags) == {"small", "two words"}
    assert '"rows"' in version.metadata
    assert version.file_count == len(entries(api, version))
    assert version.size == sum(entry.size or 0 for entry in entries(api, version).values())
    assert version.created_at_ns > 1_600_000_000 * 10**9


def test_a_version_by_its_digest_and_its_id(api: WandbApi) -> None:
    version = mixed(api, "candidate")
    assert mixed(api, version.digest).id == version.id
    assert mixed(api, version.id) == mixed(api, version.name)
    hexadecimal = base64.b64decode(version.id).hex()
    assert mixed(api, hexadecimal).id == version.id
    assert api.version_by_id(hexadecimal, deadline=soon()).path == version.path


def test_an_id_is_not_found_in_collections_that_it_is_not_in(api: WandbApi) -> None:
    version = mixed(api)
    assert api.version(TEAM, PROJECT, "picked", version.id, deadline=soon()).name == "v1"
    with pytest.raises(NotFound):
        api.version(TEAM, PROJECT, "weights", version.id, deadline=soon())


def test_a_registry_by_its_organization(api: WandbApi) -> None:
    entity = api.organization_entity(corpus.ORGANIZATION, member="admin", deadline=soon())
    assert api.organization_entity(entity, member=TEAM, deadline=soon()) == entity
    assert api.organization_entity("", member=TEAM, deadline=soon()) == entity
    released = api.version(entity, "wandb-registry-model", "released", "stable", deadline=soon())
    source = api.version_by_id(released.id, deadline=soon())
    assert (released.name, source.path) == ("v0", f"{TEAM}/{PROJECT}/weights:v0")


def test_every_file_of_every_manifest(world: World, api: WandbApi, transport: Transport) -> None:
    for item in world.items:
        version = api.version(
            item.entity, item.project, item.collection, item.version, deadline=soon()
        )
        stored = [entry for entry in entries(api, version).values() if entry.reference is None]
        urls = api.file_urls(version, [entry.path for entry in stored], deadline=soon())
        assert urls.keys() == {entry.path for entry in stored}
        for entry in stored[:20]:
            body = fetch(transport, urls[entry.path])
            assert entry.digest is not None
            hasher = new_hasher(entry.digest.algorithm)
            hasher.update(body)
            assert (len(body), hasher.hexdigest()) == (entry.size, entry.digest.hex)


def test_urls_are_asked_for_by_name_and_in_batches(
    world: World, api: WandbApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = mixed(api)
    names = [f"many/{number:04}.txt" for number in range(25)]
    monkeypatch.setattr(queries, "FILES_PAGE_SIZE", 10)
    world.server.clear_requests()
    urls = api.file_urls(version, [*names, "no such file"], deadline=soon())
    assert list(urls) == names
    assert len(world.server.requests(operation="ArtifactMembershipFiles")) == 3


def test_ranges_of_a_file(api: WandbApi, transport: Transport) -> None:
    urls = api.file_urls(mixed(api), ["folder/three.bin"], deadline=soon())
    whole = corpus.content("three", 3 << 20)
    url = urls["folder/three.bin"]
    assert fetch(transport, url, 1000, 5000) == whole[1000:5000]
    assert fetch(transport, url, len(whole) - 10) == whole[-10:]
    assert fetch(transport, url, len(whole) - 10, len(whole) + 100) == whole[-10:]


def test_references(world: World, api: WandbApi, transport: Transport) -> None:
    version = api.version(TEAM, PROJECT, "references", "latest", deadline=soon())
    found = entries(api, version)
    handlers = References(transport)

    def read(path: str) -> bytes:
        reference = found[path].reference
        assert reference is not None
        opened = handlers.for_uri(reference.uri).open(
            reference, start=0, stop=None, deadline=soon()
        )
        with opened as stream:
            return b"".join(map(bytes, stream.pieces))

    for name, size in corpus.REFERENCE_FILES.items():
        assert found[f"http/{name}"].size == size
        assert found[f"http/{name}"].digest is None
        assert read(f"http/{name}") == corpus.content(name, size)
    local = found["file/a.bin"]
    assert local.digest is not None
    assert local.digest.hex == hashlib.md5(read("file/a.bin")).hexdigest()
    # Manifests have 0 for the size of a file of another artifact, but know its digest.
    other = found["artifact/three.bin"]
    target = entries(api, mixed(api))["folder/three.bin"]
    assert other.reference is not None
    assert (other.size, other.digest) == (None, target.digest)
    hex_id = other.reference.uri.removeprefix("wandb-artifact://").partition("/")[0]
    assert api.version_by_id(hex_id, deadline=soon()).id == mixed(api).id


def test_a_manifest_url_that_was_refused_is_asked_for_again(world: World, api: WandbApi) -> None:
    version = mixed(api)
    with world.server.faults(port="files", expired_urls=True, first=1):
        assert entries(api, version)
    with (
        world.server.faults(port="files", expired_urls=True),
        pytest.raises(UrlExpired) as caught,
    ):
        manifest_of(api, version)
    assert "?" not in str(caught.value)


def test_a_store_that_asks_for_fewer_requests_gets_no_second_round(
    world: World, api: WandbApi
) -> None:
    version = mixed(api)
    world.server.clear_requests()
    with (
        world.server.faults(port="files", error_share=1.0, error_status=429),
        pytest.raises(RateLimited),
    ):
        manifest_of(api, version, 1.0)
    assert len(world.server.requests(operation="FetchArtifactManifest")) == 1


def test_a_manifest_that_was_cut_goes_on_where_it_ended(world: World, api: WandbApi) -> None:
    version = mixed(api)
    world.server.clear_requests()
    with world.server.faults(port="files", first=1, cut_after_bytes=500):
        assert entries(api, version)
    ranges = [one.range for one in world.server.requests(port="files", method="GET")]
    assert ranges == ["", "bytes=500-"]


def test_a_slow_manifest_comes_in_spite_of_the_deadline(world: World, api: WandbApi) -> None:
    version = mixed(api)
    whole = manifest_of(api, version)
    bandwidth = 1.3 * SLOWEST_BYTES_PER_S
    with world.server.faults(port="files", bandwidth_bytes_per_s=bandwidth):
        assert manifest_of(api, version, len(whole) / bandwidth / 3) == whole
    with (
        world.server.faults(port="files", stall_after_bytes=1000),
        pytest.raises(RemoteTimeout),
    ):
        manifest_of(api, version, 0.5)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"error_share": 1.0, "error_status": 503}, RemoteError),
        ({"error_share": 1.0, "error_status": 429}, RateLimited),
        ({"stall": True}, RemoteTimeout),
    ],
)
def test_an_outage_is_never_not_found(
    world: World, fault: dict[str, object], error: type[RemoteError]
) -> None:
    api, transport = world.api()
    with world.server.faults(port="api", **fault):
        with pytest.raises(error) as version:
            api.version(TEAM, PROJECT, "mixed", "v0", deadline=soon(1.0))
        with pytest.raises(error) as project:
            api.project(TEAM, "nothing", deadline=soon(1.0))
        assert (type(version.value), type(project.value)) == (error, error)
    # What could not be asked in the outage was not taken for an answer.
    assert mixed(api).name == "v0"
    transport.close()


def test_the_key_goes_to_the_api_alone(world: World, api: WandbApi, transport: Transport) -> None:
    world.server.clear_requests()
    urls = api.file_urls(mixed(api), ["root.txt"], deadline=soon())
    fetch(transport, urls["root.txt"])
    assert {one.authorization for one in world.server.requests(port="api")} == {True}
    assert {one.authorization for one in world.server.requests(port="files")} == {False}
