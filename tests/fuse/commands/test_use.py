"""`wbfs use`: versions become inputs of runs, once, by any of their names; or it says why not."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import prepared
import pytest
from conftest import Mounter
from lineage import used
from mounts import COMMAND_TIMEOUT_S, Mount
from stand_in import StandIn, users_of

KEYS = {"user": "d" * 39 + "1", "viewer": "d" * 39 + "2"}
LOG = """
import wandb
def make(name, text):
    artifact = wandb.Artifact(name, type="dataset")
    with artifact.new_file("folder/text.txt") as file:
        file.write(text)
    return artifact
with wandb.init(entity="use-team", project="sources") as run:
    first = run.log_artifact(make("data", "first")).wait()
    second = run.log_artifact(make("data", "second"), aliases=["best"]).wait()
    run.link_artifact(second, "use-team/links/linked")
    run.link_artifact(second, "wandb-registry-dataset/registered")
    run.log_artifact(make("other", "other")).wait()
    print(run.id)
for name in ("first", "second", "third"):
    wandb.init(entity="use-team", project="training", id=name).finish()
"""
DATA = "use-team/sources/data"


@dataclass(frozen=True, slots=True)
class Team:
    """A team's artifacts, and its runs `use-team/training/first` to `third`."""

    server: StandIn
    logger: str


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    """Log all of it on a server of this module's own, since faults hit all who use one."""
    server = StandIn(tmp_path_factory.mktemp("use-server"))
    try:
        members = {"user": "admin", "viewer": "view-only"}
        server.accounts(
            {
                "users": users_of(KEYS),
                "teams": [{"name": "use-team", "members": members}],
                "organizations": [{"name": "Use", "teams": ["use-team"]}],
            }
        )
        env = server.env(tmp_path_factory.mktemp("use-home"), KEYS["user"])
        done = prepared.run_sdk("-c", LOG, env=env)
        assert done.returncode == 0, done.stderr[-2000:]
        yield Team(server, f"use-team/sources/{done.stdout.split()[-1]}")
    finally:
        server.stop()


@pytest.fixture
def env(team: Team, tmp_path: Path) -> dict[str, str]:
    return team.server.env(tmp_path / "home", KEYS["user"]) | {
        "WBFS_CACHE_DIR": str(tmp_path / "cache"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }


Using = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def use(env: dict[str, str]) -> Using:
    """Return what runs `wbfs use WORDS...`."""

    def use(*words: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
        done = prepared.run_wbfs("use", *words, env=env | settings, timeout_s=COMMAND_TIMEOUT_S)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return use


def told(server: StandIn) -> int:
    """How often the server was told of a use."""
    return len(server.requests(operation="UseArtifact"))


def test_by_every_name_it_is_one_use_of_the_source(
    use: Using, env: Mapping[str, str], team: Team, mounter: Mounter
) -> None:
    team.server.clear_requests()
    mount: Mount = mounter(server=team.server, api_key=KEYS["user"], program=None)
    done = use(f"{DATA}:best", "--run", "use-team/training/first")
    assert done.stdout == f"{DATA}:v1 is an input of use-team/training/first\n", done.stderr
    for name in (
        "use-team/links/linked:latest",
        "Use/wandb-registry-dataset/registered:v0",
        mount.path / "use-team/sources/data/latest/folder/text.txt",
        mount.path / "use-team/links/linked/v0",
        mount.path / "Use-org/wandb-registry-dataset/registered/latest/folder",
    ):
        done = use(name, "--run", "use-team/training/first")
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith("v0 is an input of use-team/training/first\n") or (
            done.stdout == f"{DATA}:v1 is an input of use-team/training/first\n"
        )
    assert told(team.server) == 1
    # Several at once; what the SDK's settings say, and the environment, is filled in.
    several = [f"{DATA}:v0", "use-team/sources/other:latest"]
    settings = {"WANDB_ENTITY": "use-team", "WANDB_PROJECT": "training", "WBFS_RUN": "second"}
    assert use(*several, **settings).returncode == 0
    runs = [f"use-team/training/{name}" for name in ("first", "second", "third")]
    assert used(env, [*runs, f"{DATA}:v1"]) == {
        runs[0]: [f"{DATA}:v1"],
        runs[1]: [f"{DATA}:v0", "use-team/sources/other:v0"],
        runs[2]: [],
        f"{DATA}:v1": runs[:1],
    }


@pytest.mark.promises("11.6")
def test_what_can_not_be_recorded_has_a_reason_and_an_exit_code(use: Using, team: Team) -> None:
    run = ("--run", "use-team/training/third")
    team.server.clear_requests()
    for words, settings, code, reason in (
        ([], {}, 2, "give a NAME or a PATH"),
        ([f"{DATA}:v0"], {}, 2, "whose input is it?"),
        ([f"{DATA}:v0", "--run", "a/b/c/d"], {}, 2, "'a/b/c/d' is no run"),
        ([f"{DATA}:v9", *run], {}, 77, "no version or alias 'v9'"),
        ([f"{DATA}:v0", *run], {"WANDB_API_KEY": "e" * 40}, 77, "API key"),
        ([f"{DATA}:v0", *run], {"WANDB_API_KEY": KEYS["viewer"]}, 77, "permission denied"),
        ([f"{DATA}:v0", "--run", team.logger], {}, 2, "was logged by"),
    ):
        done = use(*words, **settings)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert reason in done.stderr
    # Nothing of it waits, and only the viewer's was worth asking.
    assert use("--pending").returncode == 0
    assert told(team.server) == 1


def test_several_at_once_is_one_use_and_all_know_it(use: Using, team: Team) -> None:
    team.server.clear_requests()
    with (
        team.server.faults(port="api", match="graphql", delay_s=0.3),
        ThreadPoolExecutor() as ranks,
    ):
        words = (f"{DATA}:v0", "--run", "use-team/training/third")
        done = [rank.result() for rank in [ranks.submit(use, *words) for _ in range(3)]]
    assert [one.returncode for one in done] == [0] * 3, done
    assert told(team.server) == 1


def test_what_waits_is_kept_and_sent_later(
    use: Using, env: Mapping[str, str], team: Team, tmp_path: Path
) -> None:
    absent = "use-team/training/later"
    done = use(f"{DATA}:v0", "--run", absent)
    assert done.returncode == 1
    assert "not found" in done.stderr
    assert use("--pending").returncode == 1
    with team.server.faults(port="api", match="graphql", error_share=1.0):
        assert use("--pending", "--timeout", "1").returncode == 1
    log = "import wandb; wandb.init(entity='use-team', project='training', id='later').finish()"
    assert prepared.run_sdk("-c", log, env=env).returncode == 0
    # Another user's is none of ours.
    assert use("--pending", WANDB_API_KEY=KEYS["viewer"]).stdout == ""
    assert use("--pending").stdout == f"{DATA}:v0 is an input of {absent}\n"
    assert use("--pending").stdout == ""
    assert used(env, [absent]) == {absent: [f"{DATA}:v0"]}
