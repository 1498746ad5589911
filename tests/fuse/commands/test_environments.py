"""Commands in odd surroundings: no home, no user, `~`, relative paths, few descriptors, URLs."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from conftest import Mounter
from mounts import WBFS, Mount, check, run, wait_until
from stand_in import StandIn

PROJECT = "surroundings"
FILES = 150
LOG = f"""
import wandb
with wandb.init(project="{PROJECT}") as run:
    metadata = {{"long": "x" * 10_000}}
    artifact = wandb.Artifact("data", type="dataset", description="y" * 3000, metadata=metadata)
    artifact.add_reference("http://127.0.0.1:9/" + "z" * 3000, name="long", checksum=False)
    for number in range({FILES}):
        with artifact.new_file(f"folder/{{number}}.txt") as file:
            file.write(str(number))
    run.log_artifact(artifact).wait()
print(run.entity)
"""


@pytest.fixture(scope="module")
def artifact(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what the SDK logged, as entity/project/artifact."""
    return f"{stand_in.run_sdk(LOG, tmp_path_factory.mktemp('home'))}/{PROJECT}/data"


@pytest.fixture
def bare(stand_in: StandIn, tmp_path: Path) -> dict[str, str]:
    """Return an environment that names no place, with a key."""
    env = stand_in.env(tmp_path / "home")
    kept = ("WANDB_BASE_URL", "WANDB_API_KEY", "WANDB_ENTITY")
    return {
        name: value
        for name, value in env.items()
        if name in kept or not name.startswith(("WANDB", "XDG", "NETRC"))
    }


@pytest.fixture
def mount_as(tmp_path: Path) -> Iterator[Callable[..., Mount]]:
    """Return what mounts with settings of the test's own."""
    with ExitStack() as mounts:

        def mount(**settings: object) -> Mount:
            mounted = Mount(path=tmp_path / "mount", log_file=tmp_path / "log", **settings)  # type: ignore[arg-type]
            mounts.callback(mounted.take_down)
            return mounted

        yield mount


def inside(script: str, env: Mapping[str, str], folder: Path, *arguments: str | Path) -> str:
    """Run a shell's script in a namespace of its own, from a folder; return what it prints.

    `wbfs` is there a function. What is mounted in it is gone with it.
    """
    if os.getuid() != 0:
        pytest.skip("only root may have a namespace of its own")
    functions = f'wbfs() {{ {" ".join(WBFS)} "$@"; }}\n'
    command = ("unshare", "--mount", "env", "-C", folder, "sh", "-ec", functions + script, "sh")
    done = run(*command, *arguments, env=env)
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_no_home_and_no_user(artifact: str, bare: Mapping[str, str], tmp_path: Path) -> None:
    (tmp_path / "mount").mkdir()
    script = """
mount --bind /dev/null /etc/passwd
unset HOME
wbfs mount --cache-dir cache --log-file log "$1" mount
cat mount/v0/folder/7.txt; echo
wbfs umount mount
wbfs get --cache-dir cache --path-prefix folder/7. --root root "$1:v0"
export HOME=/proc/nothing
wbfs mount -f "$1" mount 2>&1 || true
wbfs prefetch --no-wait "$1:v0" 2>&1 || true
"""
    said = inside(script, bare, tmp_path, artifact).splitlines()
    assert said[:2] == ["7", str(tmp_path / "root")]
    assert (tmp_path / "root/folder/7.txt").read_text() == "7"
    assert "can't make the cache folder /proc/nothing/.cache" in said[2]
    assert "--cache-dir" in said[2]
    assert "can't log to /proc/nothing/.local/state" in said[3]
    assert "XDG_STATE_HOME" in said[3]


def test_a_home_that_nobody_may_write_to(
    artifact: str, bare: Mapping[str, str], tmp_path: Path
) -> None:
    if os.getuid() != 0:
        pytest.skip("only root may be somebody else")
    tmp_path.chmod(0o755)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    temporary.chmod(0o1777)
    env = {**bare, "HOME": "/", "TMPDIR": str(temporary)}
    somebody = ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"]
    # Only to read Python, wherever it is installed.
    somebody += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    command = [*somebody, *WBFS, "prefetch", f"{artifact}:v0/folder/7.txt"]
    done = run(*command, env=env)
    assert done.returncode == 0, done.stderr
    own = temporary / "wbfs-12345"
    assert own.stat().st_mode & 0o777 == 0o700
    assert list(own.glob("cache/wbfs/blobs/*/*"))
    # What somebody else has made there is not believed; systemd's word goes before it.
    check("rm", "-r", own)
    own.mkdir(mode=0o777)
    done = run(*command, env=env)
    assert done.returncode != 0
    assert list(own.iterdir()) == []
    systemds = tmp_path / "systemds"
    systemds.mkdir()
    os.chown(systemds, 12345, 12345)
    env |= {"HOME": "/nonexistent", "CACHE_DIRECTORY": str(systemds)}
    done = run(*command, env=env)
    assert done.returncode == 0, done.stderr
    assert list(systemds.glob("wbfs/blobs/*/*"))


def test_a_working_directory_that_is_gone(
    artifact: str, bare: Mapping[str, str], tmp_path: Path
) -> None:
    (tmp_path / "mount").mkdir()
    script = """
mkdir gone; cd gone; rmdir ../gone
wbfs mount --log-file "$2/log" "$1" "$2/mount"
cat "$2/mount/v0/folder/7.txt"; echo
wbfs umount "$2/mount"
wbfs get "$1:v0" 2>&1 || true
wbfs umount mount 2>&1 || true
"""
    said = inside(script, bare, tmp_path, artifact, tmp_path).splitlines()
    assert said[0] == "7"
    for text, path in zip(said[1:], ("artifacts", "mount"), strict=True):
        assert text == (
            f"wbfs: the path '{path}' is relative to the working directory, and that is gone: name"
            " it from the root on"
        )


def test_paths_mean_what_they_meant_at_the_start(
    artifact: str,
    stand_in: StandIn,
    bare: dict[str, str],
    tmp_path: Path,
    mount_as: Callable[..., Mount],
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    host = stand_in.base_url.partition("://")[2]
    (work / "netrc").write_text(f"machine {host} login user password {stand_in.api_key}\n")
    (work / "netrc").chmod(0o600)
    del bare["WANDB_API_KEY"]
    env = bare | {"HOME": "home", "NETRC": "netrc", "WANDB_CACHE_DIR": "sdk", "TMPDIR": "."}
    env |= {"XDG_STATE_HOME": "state", "AWS_CONFIG_FILE": "aws", "PYTHONPATH": "lib"}
    program = ("env", "-C", str(work), *WBFS)
    mount = mount_as(env=env, source=artifact, cache_dir=Path("cache"), program=program)
    assert os.readlink(f"/proc/{mount.pid}/cwd") == "/"
    names = os.listdir(mount.path / "v0/folder")
    # Enough for a process of its own to fetch them.
    assert [(mount.path / "v0/folder" / name).read_text() + ".txt" for name in names] == names
    assert mount.status()["cache"]["dir"] == str(work / "cache")
    assert [path.suffix for path in (work / "state/wbfs/mounts").iterdir()] == [".json"]
    pids = run("pgrep", "-P", str(mount.pid)).stdout.split()
    assert pids
    folders = set()
    for pid in pids:
        # One that has nothing to do ends.
        with suppress(FileNotFoundError):
            folders.add(os.readlink(f"/proc/{pid}/cwd"))
    assert folders == {"/"}
    # What is safely on disk is given to the SDK's cache a moment later.
    wait_until((work / "sdk").exists, what="the SDK's cache is there")
    assert sorted(path.name for path in work.iterdir()) == ["cache", "netrc", "sdk", "state"]


def test_a_tilde_that_no_shell_has_seen(
    artifact: str, bare: Mapping[str, str], tmp_path: Path
) -> None:
    script = """
mkdir "$HOME/m"
wbfs mount --cache-dir=~/c --log-file=~/log "$1" '~/m'
cat ~/m/v0/folder/7.txt; echo
wbfs prefetch '~/m/v0/folder/8.txt' 2>/dev/null
wbfs umount '~/m'
WBFS_CACHE_DIR='~/c' wbfs cache info
ls -A
"""
    home = tmp_path / "home"
    (tmp_path / "work").mkdir()
    said = inside(script, bare, tmp_path / "work", artifact).splitlines()
    assert said[0] == "7"
    assert said[1].split() == ["cache", str(home / "c")]
    # Nothing is where it was run.
    assert said[-1].startswith("disk")
    assert (home / "log").exists()


def test_what_is_left_out_is_said_where_it_is_seen(
    artifact: str, bare: Mapping[str, str], tmp_path: Path, mount_as: Callable[..., Mount]
) -> None:
    broken = tmp_path / "wandb/settings"
    broken.parent.mkdir()
    broken.write_text("[default]\nentity = a\nentity = a\n")
    env = {**bare, "WANDB_DIR": str(tmp_path)}
    mount = mount_as(env=env, source=artifact, cache_dir=tmp_path / "cache")
    text = f"the W&B settings file {broken} is left out: it is malformed; correct or remove it"
    assert mount.started.stderr == f"wbfs: {text}\n"
    assert text in mount.log()
    assert (mount.path / "v0/folder/7.txt").read_text() == "7"


@pytest.mark.promises("3.5")
def test_copies_to_other_filesystems(
    artifact: str, bare: Mapping[str, str], tmp_path: Path
) -> None:
    (tmp_path / "mount").mkdir()
    script = """
wbfs mount --cache-dir cache --log-file log "$1" mount
folder=mount/v0/folder
mkdir disk merged copies
mount -t tmpfs none disk
mkdir disk/upper disk/work
mount -t overlay overlay -o lowerdir=mount/v0,upperdir=disk/upper,workdir=disk/work merged
echo " and more" >> merged/folder/7.txt
cat merged/folder/7.txt merged/folder/8.txt; echo
echo new > merged/folder/new
cp -a $folder copies/cp
cp -a $folder disk/cp
tar --xattrs -C mount/v0 -c folder | tar --xattrs -C copies -x
"$2" -c "import shutil; shutil.copytree('$folder', 'copies/copytree')"
! command -v rsync > /dev/null || rsync -aX $folder copies/rsync
umount merged
cat disk/cp/7.txt; echo
wbfs umount mount
"""
    said = inside(script, bare, tmp_path, artifact, WBFS[0])
    assert said.splitlines() == ["7 and more", "8", "7"]
    for copied in (tmp_path / "copies").iterdir():
        assert sum(path.is_file() for path in copied.rglob("*")) == FILES
        assert os.getxattr(next(copied.rglob("7.txt")), "user.wandb.name").endswith(b"data:v0")


def limits_of(pid: int) -> list[str]:
    """Return a process's soft and hard limit of descriptors."""
    [line] = [
        line
        for line in Path(f"/proc/{pid}/limits").read_text().splitlines()
        if line.startswith("Max open files")
    ]
    return line.split()[3:5]


@pytest.mark.promises("6.10")
@pytest.mark.parametrize("closed", ["2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_nothing_is_open_at_the_start(artifact: str, mounter: Mounter, closed: str) -> None:
    """As of a program that closes all before it starts others."""
    mount = mounter(artifact, program=["sh", "-c", f'exec "$@" {closed}', "sh", *WBFS])
    assert (mount.path / "v0/folder/7.txt").read_text() == "7"
    open_at = [os.readlink(f"/proc/{mount.pid}/fd/{number}") for number in range(3)]
    assert open_at == [os.devnull, str(mount.log_file), str(mount.log_file)]
    mount.umount()
    assert not mount.is_alive()


def test_few_descriptors(artifact: str, mounter: Mounter) -> None:
    mount = mounter(artifact, program=("prlimit", "--nofile=64:96", *WBFS))
    assert limits_of(mount.pid) == ["96", "96"]
    folder = mount.path / "v0/folder"
    with ExitStack() as files:
        # One descriptor a content, however many have it open.
        same = [files.enter_context((folder / "7.txt").open()) for _ in range(300)]
        assert {file.read() for file in same} == {"7"}
        failures = set()
        for number in range(FILES):
            try:
                assert files.enter_context((folder / f"{number}.txt").open()).read() == str(number)
            except OSError as error:
                failures.add(error.errno)
        assert failures == {errno.EMFILE}
        assert "ulimit -Hn" in mount.errors()[-1]["cause"]
    for number in range(FILES):
        assert (folder / f"{number}.txt").read_text() == str(number)


HOLD = 'for n in $(seq "$1"); do exec {fd}</dev/null; done; shift; exec "$@"'


# While processes are made, files of the cache opened, the mount made, and told of.
@pytest.mark.parametrize("free", [5, 14, 24, 26])
def test_too_few_descriptors_leave_no_mount(
    artifact: str, stand_in: StandIn, tmp_path: Path, free: int
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    env = stand_in.env(tmp_path / "home")
    command = (*WBFS, "mount", "--cache-dir", tmp_path / "cache", artifact, place)
    done = run("prlimit", "--nofile=64", "bash", "-c", HOLD, "-", str(61 - free), *command, env=env)
    assert "Traceback" not in done.stderr
    if done.returncode == 0:
        # With one processor there may be enough.
        assert not done.stderr
        check("fusermount3", "-u", "-z", place)
    else:
        assert done.returncode == 1
        assert "ulimit -Hn" in done.stderr
    assert not os.path.ismount(place)


@pytest.mark.parametrize(
    "words", [("mount", "x/y"), ("get", "x/y/z:v0"), ("prefetch", "x/y/z:v0"), ("status",)]
)
def test_a_limit_that_is_too_low_is_named(
    stand_in: StandIn, tmp_path: Path, words: tuple[str, ...]
) -> None:
    env = stand_in.env(tmp_path / "home")
    done = run("prlimit", "--nofile=63", *WBFS, *words, env=env)
    assert done.returncode == 2
    assert done.stderr == (
        "wbfs: this process may have 63 files open at once, and wbfs needs 64: raise the hard limit"
        " (ulimit -Hn)\n"
    )


def test_a_page_of_the_app_as_a_source(
    artifact: str, stand_in: StandIn, mounter: Mounter, tmp_path: Path
) -> None:
    entity = artifact.partition("/")[0]
    project = f"{stand_in.base_url}/{entity}/{PROJECT}"
    mount = mounter(f"{project}/artifacts/dataset/data/v0/files/folder?x=1")
    assert (mount.path / "7.txt").read_text() == "7"
    # What is below it is known to the commands, too.
    assert "1 files" in run(*WBFS, "prefetch", mount.path / "7.txt", env=mount.env).stderr
    for url, words in (
        (f"{project}/runs/abc", f"in {entity}/{PROJECT}"),
        (f"https://wandb.ai/{entity}/{PROJECT}", "set WANDB_BASE_URL"),
        ("s3://bucket/data", "a s3:// URL is no artifact"),
        (f"{project}/runs/abc".partition("//")[2], f"in {entity}/{PROJECT}"),
    ):
        done = run(*WBFS, "get", url, env=mount.env)
        assert done.returncode == 2
        assert words in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_a_slow_login(artifact: str, stand_in: StandIn, mounter: Mounter) -> None:
    with stand_in.faults(port="api", first=1, delay_s=9.0):
        mount = mounter(artifact, options=("--timeout", "45"))
    assert (mount.path / "v0/folder/7.txt").read_text() == "7"
    assert mount.status()["server_lost_since"] is None


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"WANDB_BASE_URL": "http://[::1"}, 2, "WANDB_BASE_URL"),
        ({"WANDB_API_KEY": "\udcff"}, 77, "the W&B API key"),
        ({"WBFS_CACHE_DIR": "/proc/nothing"}, 1, "/proc/nothing"),
        ({"XDG_STATE_HOME": "/proc/nothing"}, 2, "can't log to /proc/nothing"),
        ({"http_proxy": "http://127.0.0.1:9", "no_proxy": "-"}, 1, "through the proxy 127.0.0.1:9"),
        ({"all_proxy": "ftp://127.0.0.1:9", "no_proxy": "-"}, 2, "is no proxy's address"),
        ({"http_proxy": "some where", "no_proxy": "-"}, 2, "is no proxy's address"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_mount_says_what_is_wrong_around_it(
    bare: Mapping[str, str], tmp_path: Path, changes: Mapping[str, str], code: int, words: str
) -> None:
    (tmp_path / "mount").mkdir()
    done = run(*WBFS, "mount", "--timeout", "10", tmp_path / "mount", env={**bare, **changes})
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("wbfs: ")
    assert words in done.stderr
    assert not os.path.ismount(tmp_path / "mount")
