"""Without the server: what was resolved and read before is there, the rest fails at once."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import prepared
import pytest
from conftest import Mounter
from mounts import WBFS, Mount, check, run, wait_until
from stand_in import StandIn, users_of

from wbfs.model.errors import AccessDenied
from wbfs.store.known.catalog import find_viewer

KEYS = {"ada": "a" * 39 + "1", "bob": "b" * 39 + "2"}
LOG = """
import random
import sys
import wandb
with wandb.init(entity="away", project=sys.argv[1]) as run:
    artifact = wandb.Artifact("data", type="dataset")
    for number in range(20):
        with artifact.new_file(f"folder/{number:02}.bin", mode="wb") as file:
            file.write(random.Random(f"{sys.argv[2]} {number}").randbytes(10_000))
    with artifact.new_file("large.bin", mode="wb") as file:
        file.write(random.Random(sys.argv[2]).randbytes(6 << 20))
    run.log_artifact(artifact, aliases=["best"]).wait()
    run.link_artifact(artifact, "wandb-registry-model/linked")
"""
AT_ONCE_S = 20.0
"""Less than any time limit that is waited for here, and much for a busy machine."""


PATIENCE_S = 20


def log_version(server: StandIn, home: Path, project: str, content: str) -> None:
    """Log a version of `project`/data with the SDK, as Ada."""
    env = server.env(home, KEYS["ada"])
    done = prepared.run_sdk("-c", LOG, project, content, env=env)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """Return a server of this module's own, since it is stopped: Ada's team, and Bob."""
    folder = tmp_path_factory.mktemp("offline")
    server = StandIn(folder / "server")
    try:
        server.accounts(
            {
                "users": users_of(KEYS),
                "teams": [{"name": "away", "members": {"ada": "admin"}}],
                "organizations": [{"name": "Away Inc", "teams": ["away"]}],
            }
        )
        log_version(server, folder / "home", "shared", "first")
        yield server
    finally:
        server.stop()


@contextmanager
def gone(server: StandIn) -> Iterator[None]:
    """Let there be no server."""
    server.stop()
    try:
        yield
    finally:
        server.restart()


def tree_of(top: Path) -> dict[str, tuple[object, ...]]:
    """Return what there is below a directory: numbers, times, sizes, attributes and contents."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, names, files in os.walk(top):
        assert names or files
        for name in (*names, *files):
            path = Path(folder, name)
            stat = path.stat()
            attributes = [os.getxattr(path, key) for key in sorted(os.listxattr(path))]
            content = hashlib.md5(path.read_bytes()).hexdigest() if name in files else ""
            found[str(path.relative_to(top))] = (
                stat.st_ino,
                stat.st_mtime_ns,
                stat.st_size,
                attributes,
                content,
            )
    return found


def failure(path: Path) -> tuple[int | None, float]:
    """Return the errno of listing or reading what is at `path`, and the seconds that it took."""
    began = time.monotonic()
    try:
        if path.suffix:
            with path.open("rb") as file:
                file.read(10)
        else:
            os.listdir(path)
    except OSError as error:
        return error.errno, time.monotonic() - began
    return None, time.monotonic() - began


def refuses_at_once(mount: Mount, path: str, number: int, reason: str) -> None:
    """Check that a path fails with that errno, without waiting, and that it is said why."""
    found, seconds = failure(mount.path / path)
    assert found == number, mount.log()
    assert seconds < AT_ONCE_S
    if number == errno.EIO:
        assert re.search(reason, mount.errors()[-1]["cause"]), mount.errors()
        assert re.search(reason, mount.log())


@pytest.mark.promises("7.1")
def test_what_was_read_is_there_without_the_server(
    mounter: Mounter, server: StandIn, tmp_path: Path
) -> None:
    first = mounter(server=server, api_key=KEYS["ada"])
    os.listdir(first.path)
    data = "away/shared/data"
    before = tree_of(first.path / "away")
    assert "shared/data/best/folder/19.bin" in before
    assert "shared/data/v0/large.bin" in before
    assert failure(first.path / data / "no-such-alias")[0] == errno.ENOENT
    first.umount()

    server.clear_requests()
    offline = mounter(server=server, api_key=KEYS["ada"], options=["--offline"])
    assert tree_of(offline.path / "away") == before
    assert set(os.listdir(offline.path)) == {"ada", "away"}
    refuses_at_once(offline, f"{data}/no-such-alias", errno.ENOENT, "")
    refuses_at_once(offline, f"{data}/v0/no-such-folder", errno.ENOENT, "")
    never = r"can't look up 'v9' in away/shared/data: this mount is offline \(--offline\) and it"
    refuses_at_once(offline, f"{data}/v9", errno.EIO, f"{never} was never looked up before")
    refuses_at_once(offline, "ada", errno.EIO, "can't list ada: .* never listed before")
    assert offline.status()["offline"] is True
    assert offline.status()["server_lost_since"] is None
    assert server.requests() == []
    assert "last answer" not in offline.log()

    with gone(server):
        began = time.monotonic()
        lost = mounter(server=server, api_key=KEYS["ada"], options=["--timeout", "100"])
        assert tree_of(lost.path / "away") == before
        assert time.monotonic() - began < 90
        refuses_at_once(lost, f"{data}/no-such-alias", errno.ENOENT, "")
        refuses_at_once(lost, f"{data}/v9", errno.EIO, "'v9' .*: the server can't be had since")
        assert "WARNING" in lost.log()
        assert lost.status()["offline"] is False
        assert lost.status()["server_lost_since"]
    # Once it is back it is asked again.
    wait_until(lambda: failure(lost.path / "ada")[0] is None, what="the server is found")
    assert lost.status()["server_lost_since"] is None


@pytest.mark.promises("7.2")
def test_what_was_only_listed_is_not_read(
    mounter: Mounter, server: StandIn, tmp_path: Path
) -> None:
    first = mounter(server=server, api_key=KEYS["ada"])
    data = "away/shared/data"
    os.listdir(first.path / data)
    (first.path / data / "v0/folder/03.bin").read_bytes()
    with (first.path / data / "v0/large.bin").open("rb", buffering=0) as file:
        beginning = file.read(4096)
    first.umount()
    server.clear_requests()
    offline = mounter(
        "away/shared/data:v0", server=server, api_key=KEYS["ada"], options=["--offline"]
    )
    assert len(os.listdir(offline.path / "folder")) == 20
    assert len((offline.path / "folder/03.bin").read_bytes()) == 10_000
    reason = "can't read .*folder/04.bin: this mount is offline"
    refuses_at_once(offline, "folder/04.bin", errno.EIO, reason)
    with (offline.path / "large.bin").open("rb", buffering=0) as file:
        assert file.read(4096) == beginning
        file.seek(-4096, os.SEEK_END)
        with pytest.raises(OSError, match="Input/output error"):
            file.read(4096)
    assert re.search("can't read .*large.bin: .* is offline", offline.errors()[-1]["cause"])
    refuses_at_once(offline, "folder/99.bin", errno.ENOENT, "")
    elsewhere = run(
        *(*WBFS, "mount", "--offline", "--cache-dir", tmp_path / "cache"),
        *("away/other", tmp_path / "mount0"),
        env=server.env(tmp_path / "home", KEYS["ada"]),
    )
    assert elsewhere.returncode == 1
    assert "'other' in away: this mount is offline (--offline)" in elsewhere.stderr
    assert server.requests() == []
    with gone(server):
        lost = mounter("away/shared/data:v0", server=server, api_key=KEYS["ada"])
        assert len((lost.path / "folder/03.bin").read_bytes()) == 10_000
        # The server was waited for when it was mounted; nothing is gained by waiting again.
        refuses_at_once(lost, "folder/05.bin", errno.EIO, "can't read .*folder/05.bin: can't reach")
    wait_until(
        lambda: failure(lost.path / "folder/06.bin")[0] is None,
        what="what was never read is fetched again",
    )


def knows_login(cache: Path, server: StandIn) -> bool:
    try:
        find_viewer(cache, server.base_url, None)
    except AccessDenied:
        return False
    return True


def test_an_alias_stays_as_it_was_resolved_last(
    mounter: Mounter, server: StandIn, tmp_path: Path
) -> None:
    log_version(server, tmp_path / "home", "moving", "first")
    place = Path("away/moving/data")
    file = place / "latest/folder/00.bin"
    options = ["--alias-ttl", "1", "--timeout", str(PATIENCE_S)]
    online = mounter(server=server, api_key=KEYS["ada"], options=options)
    old = (online.path / file).read_bytes()
    names = os.listdir(online.path / place)
    wait_until(lambda: knows_login(tmp_path / "cache", server), what="the cache knows the login")
    offline = mounter(server=server, api_key=KEYS["ada"], options=["--offline", *options])
    wait_until(lambda: failure(offline.path / file)[0] is None, what="the catalog is written")
    with gone(server):
        # What was known stays, past its time too; that there is no answer is waited for once.
        began = time.monotonic()
        for _ in range(4):
            time.sleep(1.1)
            for mount in (online, offline):
                assert sorted(os.listdir(mount.path / place)) == sorted(names)
                assert (mount.path / file).read_bytes() == old
        assert time.monotonic() - began < 4 * 1.1 + PATIENCE_S + 2 * AT_ONCE_S
        assert online.status()["server_lost_since"]
        assert online.errors() == []
    log_version(server, tmp_path / "home", "moving", "second")
    # The other daemon is told by the one that asks.
    for mount in (online, offline):
        wait_until(
            lambda mount=mount: "v1" in os.listdir(mount.path / place),
            what="the new version is seen once the server is back",
        )
        wait_until(
            lambda mount=mount: (mount.path / file).read_bytes() != old, what="the alias moves"
        )
        assert (mount.path / place / "v0/folder/00.bin").read_bytes() == old
    assert "answers again" in online.log()


def test_a_second_mount_asks_for_no_name_again(mounter: Mounter, server: StandIn) -> None:
    first = mounter(server=server, api_key=KEYS["ada"])
    second = mounter(server=server, api_key=KEYS["ada"])
    listed = check("ls", "-R", first.path / "away/shared")
    # What is not written yet is when it ends.
    first.umount()
    server.clear_requests()
    again = check("ls", "-R", second.path / "away/shared")
    assert again.replace(str(second.path), "") == listed.replace(str(first.path), "")
    assert server.requests() == []
    # What it was told before it was mounted is not enough for one that can ask.
    third = mounter(server=server, api_key=KEYS["ada"])
    check("ls", "-R", third.path / "away/shared")
    assert server.requests(operation="ProjectArtifacts")


def test_what_was_resolved_a_second_ago_survives_a_crash(mounter: Mounter, server: StandIn) -> None:
    first = mounter(server=server, api_key=KEYS["ada"])
    folder = "away/shared/data/v0/folder"
    listed = os.listdir(first.path / folder)
    wait_until(lambda: knows_login(first.cache_dir, server), what="the cache knows the login")
    beside = mounter(server=server, api_key=KEYS["ada"], options=["--offline"])
    wait_until(lambda: failure(beside.path / folder)[0] is None, what="it is written")
    beside.umount()
    first.kill()
    offline = mounter(server=server, api_key=KEYS["ada"], path=first.path, options=["--offline"])
    assert os.listdir(offline.path / folder) == listed


def mount_fails(server: StandIn, tmp_path: Path, api_key: str | None, words: str) -> None:
    """Check that an offline mount is refused with `words`; no key where `api_key` is None."""
    place = tmp_path / "refused"
    place.mkdir(exist_ok=True)
    env = server.env(tmp_path / "home", api_key)
    if api_key is None:
        del env["WANDB_API_KEY"]
    done = run(
        *(*WBFS, "mount", "--offline", "--cache-dir", tmp_path / "cache", place),
        env=env,
    )
    assert done.returncode == 77
    [line] = done.stderr.splitlines()
    assert words in line
    assert KEYS["ada"] not in line


@pytest.mark.promises("7.3")
def test_another_user_does_not_see_what_the_first_was_told(
    mounter: Mounter, server: StandIn, tmp_path: Path
) -> None:
    mount_fails(server, tmp_path, KEYS["ada"], "mount once with the server at hand")
    mount_fails(server, tmp_path, None, "knows nobody")
    first = mounter(server=server, api_key=KEYS["ada"])
    assert (first.path / "away/shared/data/v0/folder/00.bin").read_bytes()
    first.umount()
    mount_fails(server, tmp_path, KEYS["bob"], "mount once with the server at hand")
    # Without any key it is the only user who was here.
    no_key = ("env", "-u", "WANDB_API_KEY", *WBFS)
    offline = mounter(server=server, options=["--offline"], program=no_key)
    assert (offline.path / "away/shared/data/v0/folder/00.bin").read_bytes()
    assert offline.status()["user"] == "ada"
    refuses_at_once(offline, "away/other", errno.EIO, "never looked up before")

    second = mounter(server=server, api_key=KEYS["bob"])
    assert os.listdir(second.path) == ["bob"]
    assert failure(second.path / "away")[0] == errno.ENOENT
    second.umount()
    offline = mounter(server=server, api_key=KEYS["bob"], options=["--offline"])
    assert os.listdir(offline.path) == ["bob"]
    refuses_at_once(offline, "away", errno.ENOENT, "")
    mount_fails(server, tmp_path, None, "knows ada, bob")
    again = mounter(server=server, api_key=KEYS["ada"], options=["--offline"])
    assert (again.path / "away/shared/data/v0/folder/00.bin").read_bytes()


@pytest.mark.promises("7.4")
@pytest.mark.parametrize("command", ["prefetch", "get", "mount"])
def test_what_a_command_looked_up_is_there(
    mounter: Mounter, server: StandIn, tmp_path: Path, command: str
) -> None:
    cache, home = tmp_path / "cache", tmp_path / "home"
    if command == "mount":
        narrow = mounter("away/shared/data:best", server=server, api_key=KEYS["ada"])
        (narrow.path / "folder/07.bin").read_bytes()
        narrow.umount()
    else:
        options = ["--root", tmp_path / "root"] if command == "get" else []
        done = run(
            *(*WBFS, command, "--cache-dir", cache, *options, "away/shared/data:best"),
            env=server.env(home, KEYS["ada"]),
        )
        assert done.returncode == 0, done.stderr
    server.clear_requests()
    offline = mounter(server=server, api_key=KEYS["ada"], cache=cache, options=["--offline"])
    versions = offline.path / "away/shared/data"
    version = os.getxattr(versions / "best", "user.wandb.version").decode()
    expected = random.Random("first 7").randbytes(10_000)
    names = [version, "best"]
    names += [
        os.getxattr(versions / "best", f"user.wandb.{name}").decode() for name in ("id", "digest")
    ]
    for name in names:
        assert (versions / name / "folder/07.bin").read_bytes() == expected
    # What is known is listed, as far as it would be by the server.
    assert os.listdir(offline.path / "away") == ["shared"]
    assert os.listdir(offline.path / "away/shared") == ["data"]
    assert {version, "best"} <= set(os.listdir(versions)) <= {version, "best", "latest"}
    for folder in ("away", "away/shared", "away/shared/data"):
        assert (offline.path / folder).stat().st_mtime > time.time() - 3600
    refuses_at_once(offline, "away/shared/data/v99", errno.EIO, "never looked up before")
    refuses_at_once(offline, "ada", errno.EIO, "never listed before")
    assert server.requests() == []


def test_a_registry_is_found_offline(mounter: Mounter, server: StandIn) -> None:
    source = "Away Inc/wandb-registry-model/linked:latest"
    first = mounter(source, server=server, api_key=KEYS["ada"])
    content = (first.path / "folder/00.bin").read_bytes()
    first.umount()
    offline = mounter(source, server=server, api_key=KEYS["ada"], options=["--offline"])
    assert (offline.path / "folder/00.bin").read_bytes() == content


def test_a_damaged_catalog_and_a_cleared_cache(mounter: Mounter, server: StandIn) -> None:
    mount = mounter(server=server, api_key=KEYS["ada"], options=["--alias-ttl", "1"])
    data = mount.path / "away/shared/data"
    check("ls", "-R", mount.path / "away/shared")
    time.sleep(1)
    (mount.cache_dir / "catalog.sqlite").write_bytes(b"no database" * 10_000)
    time.sleep(1.1)
    assert sorted(os.listdir(data)) == ["best", "latest", "v0"]
    wait_until(lambda: "was damaged" in mount.log(), what="it is noticed")
    check("ls", "-R", mount.path / "away/shared")
    check("cat", data / "v0/folder/00.bin")
    assert mount.errors() == []
    mount.umount()
    check(*WBFS, "cache", "--cache-dir", mount.cache_dir, "clear")
    info = json.loads(check(*WBFS, "cache", "--cache-dir", mount.cache_dir, "info", "--json"))
    assert info["manifest_bytes"] == 0
    assert info["catalog_bytes"] > 0
    offline = mounter(server=server, api_key=KEYS["ada"], options=["--offline"])
    path = "away/shared/data"
    assert sorted(os.listdir(offline.path / path)) == ["best", "latest", "v0"]
    refuses_at_once(offline, f"{path}/v0", errno.EIO, "can't list the files .* is offline")


def test_a_catalog_that_cannot_be_written(
    mounter: Mounter, server: StandIn, tmp_path: Path
) -> None:
    # What can't just make way.
    (tmp_path / "cache/catalog.sqlite/folder").mkdir(parents=True)
    mount = mounter(server=server, api_key=KEYS["ada"], options=["--alias-ttl", "0"])
    for _ in range(3):
        check("ls", "-R", mount.path / "away/shared")
    assert mount.errors() == []
    wait_until(lambda: "catalog.sqlite" in mount.log(), what="it is said")
    check("ls", "-R", mount.path / "away/shared")
    assert mount.log().count("catalog.sqlite") == 1
