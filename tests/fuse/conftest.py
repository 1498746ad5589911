"""Fixtures of the tests that mount: the logged corpus, and mounts that are always taken down."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from corpus import CorpusItem, accounts, log_corpus, write_reference_files
from daemons import Daemon
from mounts import Mount, check
from podman import Podman, why_no_containers
from stand_in import StandIn

LOG = """
import wandb
with wandb.init(project="contained") as run:
    artifact = wandb.Artifact("data", type="dataset")
    for number in range(20):
        with artifact.new_file(f"folder/{number}.txt") as file:
            file.write(f"content {number}")
    run.log_artifact(artifact).wait()
    print(run.entity)
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here, so that `-m "not fuse"` leaves it out; skip what can't be run."""
    here = Path(__file__).parent
    without = why_no_containers()
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.fuse)
        if without and here / "containers" in item.path.parents:
            # Here, so that it is said in a line.
            item.add_marker(pytest.mark.skip(reason=without))


@pytest.fixture(scope="session")
def corpus(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> tuple[CorpusItem, ...]:
    """Return what the corpus program logged with the real SDK."""
    folder = tmp_path_factory.mktemp("corpus")
    stand_in.accounts(accounts("admin"))
    write_reference_files(stand_in.public_dir)
    env = stand_in.env(tmp_path_factory.mktemp("corpus-home"))
    return log_corpus(
        env | {"CORPUS_FOLDER": str(folder), "CORPUS_HTTP_URL": stand_in.public_url}
    ).items


@pytest.fixture(scope="session")
def tls_stand_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    """Return a stand-in server that speaks TLS, by a certificate that only its users trust."""
    server = StandIn(tmp_path_factory.mktemp("tls-stand-in"), "--tls")
    yield server
    server.stop()


Mounter = Callable[..., Mount]


@pytest.fixture
def mounter(stand_in: StandIn, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Mounter]:
    """Return what mounts: mounter(source="", server=stand_in, api_key=None, cache=..., ...)."""
    numbers = count()

    def show_log(mounted: Mount) -> None:
        """Print it, for pytest to show where the test failed."""
        print(f"--- log of {mounted.path}:\n{mounted.log()}")

    def mount(
        source: str = "",
        *,
        server: StandIn = stand_in,
        api_key: str | None = None,
        cache: Path | None = None,
        path: Path | None = None,
        options: Sequence[str] = (),
        program: Sequence[str] | None = None,
        **settings: Any,
    ) -> Mount:
        number = next(numbers)
        home = tmp_path / f"home{number}"
        # A test may have had the SDK leave something there.
        home.mkdir(exist_ok=True)
        mounted = Mount(
            path=path or tmp_path / f"mount{number}",
            # All are one user's.
            env=server.env(home, api_key) | {"XDG_STATE_HOME": str(tmp_path / "state")},
            cache_dir=cache or tmp_path / "cache",
            log_file=tmp_path / f"mount{number}.log",
            source=source,
            options=options,
            program=program,
            **settings,
        )
        all_mounts.callback(show_log, mounted)
        all_mounts.callback(mounted.take_down)
        return mounted

    with ExitStack() as all_mounts:
        yield mount


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return what makes a directory on a disk of its own: small_disk("4m")."""
    if os.getuid() != 0:
        pytest.skip("only root may mount a small disk")
    disks: list[Path] = []

    def make(size: str) -> Path:
        path = tmp_path / f"disk of {size}"
        path.mkdir()
        check("mount", "-t", "tmpfs", "-o", f"size={size}", "none", path)
        disks.append(path)
        return path

    yield make
    for path in disks:
        check("umount", "-l", path)


Starter = Callable[..., Daemon]


@pytest.fixture
def start(stand_in: StandIn, tmp_path: Path) -> Iterator[Starter]:
    """Return what starts daemons in front: start(*options)."""
    daemons: list[Daemon] = []

    def start_one(*options: str | Path, path: Path = tmp_path / "mount") -> Daemon:
        daemon = Daemon(path, stand_in, *options)
        daemons.append(daemon)
        return daemon

    yield start_one
    for daemon in daemons:
        daemon.take_down()


@pytest.fixture(scope="session")
def engine() -> Iterator[Podman]:
    """Return podman, where it works."""
    engine = Podman()
    try:
        done = engine.run("true")
        if done.returncode != 0:
            pytest.skip(f"podman starts no container here: {done.stderr.strip()}")
        yield engine
    finally:
        engine.take_down()


@pytest.fixture
def podman(engine: Podman) -> Iterator[Podman]:
    """Return podman, whose containers end with the test."""
    yield engine
    engine.remove_containers()


@pytest.fixture(scope="session")
def contained(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the name of a version for containers, whose files say their number."""
    return f"{stand_in.run_sdk(LOG, tmp_path_factory.mktemp('home'))}/contained/data:v0"


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """Return a folder whose mounts are passed on to who has it, and back."""
    path = tmp_path / "shared"
    path.mkdir()
    check("mount", "--bind", path, path)
    check("mount", "--make-rshared", path)
    yield path
    check("umount", "-R", "-l", path)
