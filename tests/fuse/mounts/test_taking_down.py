"""`wbfs umount` of many mounts, of dead ones, and of none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import Mounter
from mounts import WBFS, Mount, check, run
from stand_in import StandIn

from wbfs.daemon.mounts.taking_down import NotMounted, take_down

ALONE = f"""
wbfs() {{ {" ".join(WBFS)} "$@"; }}
# Nothing here may touch another test's mounts, nor anybody else's; where there are none, it fails.
umount --all --lazy --no-canonicalize --internal-only --types fuse.wbfs || true
"""
"""A shell's script begins so that works in a namespace with no mounts but its own."""


def alone(script: str, env: Mapping[str, str], folder: Path) -> list[str]:
    """Run a script where no mount is but its own; return the lines that it prints."""
    if os.getuid() != 0:
        pytest.skip("only root may make a namespace")
    command = ("unshare", "--mount", "--pid", "--fork", "--mount-proc", "env", "-C", folder)
    done = run(*command, "sh", "-ec", ALONE + script, env=env, timeout_s=200)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


def test_all_the_dead_and_the_living(stand_in: StandIn, tmp_path: Path) -> None:
    script = """
mkdir one two three
for name in one two three; do wbfs mount --cache-dir cache $name; done
# Who is in it keeps no dead one.
(cd one && exec sleep 60) &
until [ "$(readlink /proc/$!/cwd)" = "$(pwd -P)/one" ]; do sleep 0.05; done
kill -KILL $(wbfs status one | sed -n 's/.* process \\([0-9]*\\),.*/\\1/p')
# Only what is dead, of those that are named, too.
wbfs umount --dead two
wbfs status >all || echo "the worst is $?"
grep -c ': serving' all; grep -c ': dead' all
wbfs umount --dead
wbfs status | grep -c ': serving'
# One that can't come down keeps no other from it.
(cd two && exec sleep 1000) &
until [ "$(readlink /proc/$!/cwd)" = "$(pwd -P)/two" ]; do sleep 0.05; done
wbfs umount --all 2>said || echo "left: $?"
grep -c 'two is in use' said
wbfs status | grep -c ': serving'
kill $!; wait $! || true
wbfs stop --all
wbfs umount --all
wbfs status || echo "nothing: $?"
"""
    lines = alone(script, stand_in.env(tmp_path / "home"), tmp_path)
    assert lines == ["the worst is 4", "2", "1", "2", "left: 1", "1", "1", "nothing: 3"]


def test_what_lives_again_is_not_taken_for_dead(mounter: Mounter) -> None:
    mount = mounter()
    with pytest.raises(NotMounted, match="is not dead"):
        take_down(mount.path, lazy=False, force=False, only_dead=True)
    assert os.path.ismount(mount.path)


def test_what_is_not_mounted(mounter: Mounter, tmp_path: Path) -> None:
    mount = mounter()
    if os.getuid() == 0:
        _of_others(mount, tmp_path)
    command = [*WBFS, "umount", "--if-mounted", tmp_path]
    assert run(*command, env=mount.env).returncode == 0
    done = run(*WBFS, "stop", tmp_path, mount.path, env=mount.env)
    assert done.returncode == 2
    assert done.stderr.startswith(f"wbfs: wbfs is not mounted at {tmp_path}")
    assert not os.path.ismount(mount.path)
    assert run(*command, mount.path, env=mount.env).returncode == 0


def _of_others(mount: Mount, tmp_path: Path) -> None:
    # Only to read Python, wherever it is installed.
    somebody = ["setpriv", "--reuid=12345", "--inh-caps=+dac_read_search"]
    somebody += ["--ambient-caps=+dac_read_search"]
    for how in ("--lazy", "--force"):
        done = run(*somebody, *WBFS, "umount", how, mount.path, env=mount.env)
        assert done.returncode == 2
        assert "is another user's (uid 0): that user or root takes it down" in done.stderr
    # A bind of it comes down without it.
    bind = tmp_path / "bind"
    bind.mkdir()
    check("mount", "--bind", mount.path, bind)
    check(*WBFS, "umount", bind, env=mount.env)
    assert os.path.ismount(mount.path)
    # It does not come down without the bind.
    check("mount", "--bind", mount.path, bind)
    done = run(*WBFS, "umount", mount.path, env=mount.env)
    assert done.returncode == 1
    assert f"is unmounted, but not at {bind}, which is bound to it" in done.stderr
    check("mount", "--bind", bind, mount.path)
    check(*WBFS, "umount", bind, env=mount.env)


@pytest.mark.parametrize("words", [(), ("--all", "x"), ("--if-mounted",), ("--all", "--dead", "x")])
def test_wrong_use(words: tuple[str, ...], stand_in: StandIn, tmp_path: Path) -> None:
    done = run(*WBFS, "umount", *words, env=stand_in.env(tmp_path))
    assert done.returncode == 2
    assert "give a MOUNTPOINT, or --all or --dead" in done.stderr
