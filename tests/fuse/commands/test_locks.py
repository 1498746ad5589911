"""Lock files: aliases stay what they were, in mounts and downloads, or it is said why not."""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import prepared
import pytest
from conftest import Mounter
from mounts import COMMAND_TIMEOUT_S, WBFS, check, run
from stand_in import StandIn

LOG = """
import wandb
with wandb.init(project="locking") as run:
    for content in {contents}:
        artifact = wandb.Artifact("{name}", type="dataset")
        with artifact.new_file("a.txt") as file:
            file.write(content)
        run.log_artifact(artifact, aliases=["best"]).wait()
    print(run.entity)
"""
DELETE = """
import wandb
wandb.Api().artifact("{name}").delete(delete_aliases=True)
"""


class User:
    """Logs, locks and reads what is locked."""

    def __init__(self, stand_in: StandIn, tmp_path: Path) -> None:
        self.home = tmp_path / "home"
        self.home.mkdir()
        self.env = stand_in.env(self.home) | {"WBFS_CACHE_DIR": str(tmp_path / "cache")}
        self.file = tmp_path / "wbfs.lock"

    def sdk(self, program: str) -> str:
        done = prepared.run_sdk("-c", program, env=self.env)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.strip()

    def log(self, name: str, *contents: str) -> str:
        entity = self.sdk(LOG.format(name=name, contents=list(contents))).split()[-1]
        return f"{entity}/locking/{name}"

    def lock(self, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        words = ("lock", "--file", str(self.file), *words)
        return prepared.run_wbfs(*words, env=self.env | settings, timeout_s=COMMAND_TIMEOUT_S)

    def locked(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = tomllib.loads(self.file.read_text())["artifact"]
        return found

    def get(self, name: str, root: Path) -> subprocess.CompletedProcess[str]:
        return run(*WBFS, "get", "--lock", self.file, "--root", root, name, env=self.env)


@pytest.fixture
def user(stand_in: StandIn, tmp_path: Path) -> User:
    return User(stand_in, tmp_path)


@pytest.mark.promises("2.4")
def test_an_alias_stays_what_it_was_locked_to(user: User, mounter: Mounter, tmp_path: Path) -> None:
    path = user.log("data", "zero", "one")
    other = user.log("other", "other")
    done = user.lock(f"{path}:best", f"{other}:latest")
    assert (done.returncode, done.stdout) == (0, f"{path}:best is v1\n{other}:latest is v0\n")
    assert [one["name"] for one in user.locked()] == [f"{path}:best", f"{other}:latest"]
    assert user.lock("--check").returncode == 0
    user.log("data", "two")

    moved = user.lock("--check")
    assert (moved.returncode, moved.stdout) == (3, f"{path}:best was v1 and is v2\n")
    nobody = user.lock("--check", "--timeout", "1", WANDB_BASE_URL="http://127.0.0.1:9")
    assert (nobody.returncode, nobody.stdout) == (1, "")
    locked = mounter(options=["--lock", str(user.file), "--alias-ttl", "0"])
    for _ in range(2):
        assert (locked.path / path / "best/a.txt").read_text() == "one"
        assert (locked.path / path / "latest/a.txt").read_text() == "two"
        assert sorted(os.listdir(locked.path / path)) == ["best", "latest", "v0", "v1", "v2"]
    inode = (locked.path / path / "best").stat().st_ino
    listed = {entry.name: entry.inode() for entry in os.scandir(locked.path / path)}
    assert listed["best"] == inode
    narrow = mounter(f"{path}:best", options=["--lock", str(user.file)])
    assert (narrow.path / "a.txt").read_text() == "one"
    root = tmp_path / "root"
    assert user.get(f"{path}:best", root).returncode == 0
    assert (root / "a.txt").read_text() == "one"
    # A version's own name needs no lock.
    assert user.get(f"{path}:v2", tmp_path / "v2").returncode == 0
    refused = user.get(f"{path}:latest", tmp_path / "latest")
    assert refused.returncode != 0
    assert "latest is not in the lock file: wbfs lock adds it" in refused.stderr
    assert not (tmp_path / "latest").exists()

    # Adding leaves what is there alone, and says so.
    again = user.lock(f"{path}:best")
    assert "it is v2 now: --update takes that" in again.stderr
    assert user.locked()[0]["version"] == "v1"
    assert user.lock("--update", f"{path}:best").returncode == 0
    assert [one["version"] for one in user.locked()] == ["v2", "v0"]
    assert user.lock("--check").returncode == 0
    # A link to the file goes on leading there.
    file = user.file.rename(tmp_path / "elsewhere.lock")
    user.file.symlink_to(file.name)
    assert user.lock("--update").returncode == 0
    assert user.file.is_symlink()


@pytest.mark.promises("2.4")
def test_what_is_gone_or_another_one_is_an_error(
    user: User, mounter: Mounter, tmp_path: Path
) -> None:
    path = user.log("lost", "zero", "one")
    assert user.lock(f"{path}:best").returncode == 0
    text = user.file.read_text()
    digest = user.locked()[0]["digest"]
    user.file.write_text(text.replace(digest, "0" * len(digest)))
    mountpoint = tmp_path / "refused"
    mountpoint.mkdir()
    mounting = (*WBFS, "mount", "--lock", user.file, mountpoint)
    for done in (run(*mounting, env=user.env), user.get(f"{path}:best", tmp_path / "root")):
        assert done.returncode != 0
        assert f"{path}:best is locked to v1 with the digest 000" in done.stderr
        assert "wbfs lock --update" in done.stderr
    anew = user.lock("--check")
    assert (anew.returncode, anew.stdout) == (
        3,
        f"{path}:best is v1 as before, but that was logged anew\n",
    )

    user.file.write_text(text)
    user.sdk(DELETE.format(name=f"{path}:v1"))
    for done in (run(*mounting, env=user.env), user.get(f"{path}:best", tmp_path / "root")):
        assert done.returncode != 0
        assert f"{path}:best is locked to v1, which is gone" in done.stderr
    gone = user.lock("--check")
    assert gone.returncode == 3
    assert gone.stdout.startswith(f"{path}:best was v1, and is gone: ")
    assert not (tmp_path / "root").exists()
    # What can't be looked up leaves the file as it was.
    done = user.lock("--update")
    assert done.returncode != 0
    assert f"take it out of {user.file}" in done.stderr
    assert user.file.read_text() == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "No such file or directory; wbfs lock NAME... writes one"),
        ("what is this", "can't read the lock file"),
        ("[[artifact]]\nname = 'a/b/c:d'\n", "missing required field `version`"),
        (
            "[[artifact]]\nname = 'c:d'\nversion = 'v0'\nid = 'x'\ndigest = 'y'\n",
            "'c:d' is no entity/project/artifact:alias",
        ),
        *(
            (
                f"[[artifact]]\nname = '{name}'\nversion = '{version}'\nid = 'x'\ndigest = 'y'\n",
                said,
            )
            for name, version, said in (
                ("a/../c:d", "v0", "'a/../c:d' is no entity/project/artifact:alias"),
                ("a/b/c:d/e", "v0", "'a/b/c:d/e' is no entity/project/artifact:alias"),
                ("a/b/c:d", "d", "'d', of a/b/c:d, is no version"),
            )
        ),
        (
            2 * "[[artifact]]\nname = 'a/b/c:d'\nversion = 'v0'\nid = 'x'\ndigest = 'y'\n",
            "has a/b/c:d twice",
        ),
        ("\ud800", "can't read the lock file"),
    ],
)
def test_a_file_that_is_none(user: User, text: str | None, said: str) -> None:
    if text is not None:
        user.file.write_bytes(text.encode(errors="surrogatepass"))
    for words in (("--check",), ("--update",)):
        done = user.lock(*words)
        assert done.returncode != 0
        assert said in done.stderr
        assert done.stderr.count("\n") == 1
    if text is not None:
        assert user.file.read_bytes() == text.encode(errors="surrogatepass")


def test_wrong_use(user: User) -> None:
    for words, said in (
        ((), "give a NAME"),
        (("--check", "--update"), "leave it or --update out"),
        (("team/project/thing",), "names no version"),
        (("team/project/thing:v0/folder",), "names no version"),
        (("team/project/thing:v0",), "there is no"),
    ):
        done = user.lock(*words)
        assert done.returncode != 0
        assert said in done.stderr
    assert not user.file.exists()
    assert "wbfs.lock" in check(*WBFS, "lock", "--help")
