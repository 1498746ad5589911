"""Slow, failing and lying servers: right bytes or an error, and nobody else is held up."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import prepared
import pytest
from conftest import Mounter
from disk import taken
from mounts import COMMAND_TIMEOUT_S, Mount, check, run, wait_until
from population import Population
from stand_in import StandIn

FILES = 60
LARGE = 5 << 20
TIMEOUT_S = 10
"""That of mounts which are to run into it; the server answers sooner, however busy the machine."""
LOG = f"""
import random
import sys
import wandb
with wandb.init(project="faults") as run:
    artifact = wandb.Artifact("files", type="dataset")
    for number in range({FILES}):
        with artifact.new_file(f"small/{{number:02}}.bin", mode="wb") as file:
            file.write(random.Random(number).randbytes(20_000))
    with artifact.new_file("large.bin", mode="wb") as file:
        file.write(random.Random("large").randbytes({LARGE}))
    run.log_artifact(artifact).wait()
    print(run.entity)
"""


@pytest.fixture(scope="session")
def version(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a version with many small files and a large one."""
    entity = stand_in.run_sdk(LOG, tmp_path_factory.mktemp("faults"))
    return Path(entity, "faults", "files", "v0")


def right_digest(mount: Mount, version: Path) -> str:
    """Return the large file's MD5 as the manifest has it, in hexadecimal."""
    import base64

    value = os.getxattr(mount.path / version / "large.bin", "user.wandb.digest")
    return base64.b64decode(value).hex()


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "fault",
    [
        {"cut_after_bytes": 1 << 20, "first": 3},
        {"error_share": 1.0, "first": 2},
        {"requests_per_s": 1.0, "first": 2},
        {"delay_s": 1.0},
        {"wrong_bytes": True, "first": 1},
        {"expired_urls": True, "first": 1},
        {"chunked": True},
        {"redirects": 2},
    ],
    ids=lambda fault: next(iter(fault)),
)
def test_the_bytes_are_right_all_the_same(
    mounter: Mounter, version: Path, stand_in: StandIn, fault: dict[str, float]
) -> None:
    # So that wrong bytes of the large file are not served, as those of small ones never are.
    mount = mounter(options=["--verify=always"] if "wrong_bytes" in fault else [])
    expected = right_digest(mount, version)
    with stand_in.faults(port="files", **fault):
        assert md5(mount.path / version / "large.bin") == expected


def test_a_cut_transfer_goes_on_where_it_stopped(
    mounter: Mounter, version: Path, stand_in: StandIn
) -> None:
    mount = mounter()
    expected = right_digest(mount, version)
    stand_in.clear_requests()
    with stand_in.faults(port="files", cut_after_bytes=100_000, first=4):
        assert md5(mount.path / version / "large.bin") == expected
    gets = stand_in.requests(port="files", method="GET")
    assert sum(get.bytes_sent for get in gets) <= LARGE + 4 * (64 << 10)


def read_error(path: Path) -> int | None:
    """Return the errno of reading a file's first bytes."""
    try:
        with path.open("rb") as file:
            file.read(10)
    except OSError as error:
        return error.errno
    return None


@pytest.mark.promises("5.1", "5.4")
def test_wrong_bytes_twice_are_eio_and_never_served(
    mounter: Mounter, version: Path, stand_in: StandIn
) -> None:
    mount = mounter()
    check("ls", mount.path / version)
    with stand_in.faults(port="files", wrong_bytes=True):
        assert read_error(mount.path / version / "small/00.bin") == errno.EIO
    assert "damaged on the server or on the way" in mount.log()
    assert not [path for path in (mount.cache_dir / "blobs").rglob("*") if path.is_file()]
    assert len((mount.path / version / "small/00.bin").read_bytes()) == 20_000


@pytest.mark.promises("6.4")
def test_errors_that_last_are_errors_in_time(
    mounter: Mounter, version: Path, stand_in: StandIn
) -> None:
    mount = mounter(options=["--timeout", str(TIMEOUT_S)])
    assert len(os.listdir(mount.path / version)) == 2
    with stand_in.faults(port="files", error_share=1.0):
        began = time.monotonic()
        assert read_error(mount.path / version / "small/01.bin") == errno.EIO
        assert time.monotonic() - began < COMMAND_TIMEOUT_S
    with stand_in.faults(port="files", error_share=1.0, error_status=429, retry_after_s=600):
        began = time.monotonic()
        assert read_error(mount.path / version / "small/01.bin") == errno.EIO
        # Not at the end of its time.
        assert time.monotonic() - began < TIMEOUT_S
        assert "asks for 600 s of peace" in mount.errors()[-1]["cause"]
    with stand_in.faults(stall=True):
        began = time.monotonic()
        assert read_error(mount.path / version / "small/02.bin") == errno.ETIMEDOUT
        assert time.monotonic() - began < COMMAND_TIMEOUT_S
        assert run("ls", mount.path / "somebody-unknown").stderr.endswith("Connection timed out\n")
    assert md5(mount.path / version / "small/02.bin")
    assert {error["errno"] for error in mount.errors()} == {"EIO", "ETIMEDOUT"}


@pytest.mark.promises("6.8")
@pytest.mark.parametrize(
    ("program", "name", "is_killed_at_once"),
    [("cat", "small/03.bin", True), ("stat", "", False), ("ls", "", False)],
)
def test_who_waits_is_killed_once_it_is_answered(
    mounter: Mounter,
    version: Path,
    stand_in: StandIn,
    program: str,
    name: str,
    is_killed_at_once: bool,
) -> None:
    mount = mounter(options=["--timeout", str(TIMEOUT_S)])
    path = mount.path / version / name if name else mount.path / "somebody-unknown"
    if name:
        path.stat()
    stand_in.clear_requests()
    with (
        stand_in.faults(stall=True),
        subprocess.Popen([program, path], stdout=subprocess.DEVNULL) as user,
    ):
        wait_until(stand_in.requests, what="a program waits for the server")
        user.kill()
        if not is_killed_at_once:
            with pytest.raises(subprocess.TimeoutExpired):
                user.wait(0.5)
        assert user.wait(COMMAND_TIMEOUT_S) == -signal.SIGKILL


@pytest.mark.parametrize("fault", [{"error_share": 1.0, "error_status": 503}, {"stall": True}])
@pytest.mark.parametrize("verify", ["complete", "always"])
def test_a_large_size_is_no_reason_to_wait_for_nothing(
    mounter: Mounter, version: Path, stand_in: StandIn, fault: dict[str, float], verify: str
) -> None:
    mount = mounter(options=["--timeout", str(TIMEOUT_S), "--verify", verify])
    path = mount.path / version / "large.bin"
    assert path.stat().st_size == LARGE
    with stand_in.faults(port="files", **fault):
        began = time.monotonic()
        with pytest.raises(OSError, match="error|timed out"):
            path.read_bytes()
        # At 64 KiB/s, the slowest that is waited for as long as it comes, it would be 80 s.
        assert time.monotonic() - began < COMMAND_TIMEOUT_S


@pytest.mark.promises("6.1")
def test_an_outage_does_not_make_files_vanish(
    mounter: Mounter, version: Path, stand_in: StandIn
) -> None:
    mount = mounter(options=["--timeout", str(TIMEOUT_S), "--alias-ttl", "1"])
    check("ls", "-lR", mount.path / version.parent)
    check("cat", mount.path / version / "small/03.bin")
    time.sleep(1.1)  # the listing's time-to-live
    with stand_in.faults(port="api", error_share=1.0):
        listed = check("ls", mount.path / version / "small").splitlines()
        assert len(listed) == FILES
        assert "latest" in check("ls", mount.path / version.parent)
        check("cat", mount.path / version / "small/03.bin")
        # The last answer to come in time is an error, or none does.
        said = run("ls", mount.path / "never-seen").stderr
        assert said.endswith(("Input/output error\n", "Connection timed out\n"))


needs_kernel_limits = pytest.mark.skipif(
    os.getuid() != 0 and not Path("/sys/fs/fuse/connections").is_mount(),
    reason="the kernel sends 12 reads at once at most, and only root may change that here",
)


@pytest.fixture
def stalled_readers(mounter: Mounter, version: Path, stand_in: StandIn) -> Iterator[Mount]:
    """Mount, cache one file, then let 50 programs wait for files that don't come."""
    mount = mounter(options=["--timeout", "200"])
    small = mount.path / version / "small"
    check("cat", small / "59.bin")
    os.listdir(mount.path)
    readers: list[subprocess.Popen[bytes]] = []
    with stand_in.faults(port="files", stall=True):
        try:
            for number in range(50):
                path = small / f"{number:02}.bin"
                readers.append(subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL))
            wait_until(
                lambda: mount.status()["fetched"]["in_progress"] >= 50,
                what="50 files are being waited for",
            )
            yield mount
        finally:
            for reader in readers:
                reader.kill()
            # At once, though what they wait for doesn't come.
            for reader in readers:
                reader.wait(COMMAND_TIMEOUT_S)


def test_a_folder_takes_few_questions_and_expired_urls_are_asked_for_again(
    mounter: Mounter, version: Path, stand_in: StandIn
) -> None:
    mount = mounter()
    small = mount.path / version / "small"
    names = sorted(os.listdir(small))
    stand_in.clear_requests()
    check("cat", *(small / name for name in names[:30]))
    with stand_in.faults(revoked_urls=True):
        check("cat", *(small / name for name in names[30:]))
    questions = stand_in.requests(operation="ArtifactMembershipFiles")
    gets = stand_in.requests(port="files", method="GET")
    refused = [get for get in gets if get.status == 403]
    assert 1 <= len(refused) <= 4
    # Of the folder, and of each file, refused once: its own, and one for those that follow.
    assert len(questions) <= 2 * (2 + len(refused))
    assert len([get for get in gets if get.status == 200]) == FILES


@pytest.mark.promises("6.5")
@needs_kernel_limits
def test_fifty_stalled_readers_hold_up_nobody(stalled_readers: Mount, version: Path) -> None:
    folder = stalled_readers.path / version
    # Past the page cache, so that the daemon is asked.
    check("dd", f"if={folder}/small/59.bin", "iflag=nocache", "count=0")
    assert len(os.listdir(folder / "small")) == FILES
    check("ls", "-lR", stalled_readers.path / version.parent)
    assert len((folder / "small/59.bin").read_bytes()) == 20_000
    # Those go on waiting, for longer than a test may take.
    assert stalled_readers.status()["fetched"]["in_progress"] >= 50


DEFECT = """
import sys
import wbfs.fs.tree
from wbfs.cli.main import main
real = wbfs.fs.tree.Tree.look_up
async def look_up(self, parent, name):
    if name == "raise-a-defect":
        raise KeyError("a defect of ours")
    return await real(self, parent, name)
wbfs.fs.tree.Tree.look_up = look_up
main()
"""


@pytest.mark.promises("6.7")
def test_a_defect_is_its_callers_alone(mounter: Mounter, version: Path, tmp_path: Path) -> None:
    program = tmp_path / "defect.py"
    program.write_text(DEFECT)
    mount = mounter(program=(sys.executable, str(program)), may_log_defects=True)
    done = run("stat", mount.path / "raise-a-defect")
    assert "Input/output error" in done.stderr
    assert "Traceback" in mount.log()
    assert "a defect of ours" in mount.log()
    assert len(os.listdir(mount.path / version)) == 2
    assert mount.errors()[0]["error"] == "KeyError"


@pytest.mark.promises("5.7")
def test_kill_9_in_mid_fetch(mounter: Mounter, version: Path, stand_in: StandIn) -> None:
    mount = mounter()
    expected = right_digest(mount, version)
    # Some of it comes, and never all.
    with stand_in.faults(port="files", stall_after_bytes=200_000):
        reader = subprocess.Popen(["md5sum", mount.path / version / "large.bin"], stderr=-1)
        partial = mount.cache_dir / "partial"
        wait_until(lambda: taken(partial), what="bytes come")
        mount.kill()
        reader.communicate(timeout=COMMAND_TIMEOUT_S)
        assert reader.returncode != 0
    again = mounter(path=mount.path)
    assert md5(again.path / version / "large.bin") == expected
    wait_until(lambda: not list(partial.iterdir()), what="the abandoned download is removed")


REFERENCES = """
import pathlib, sys
import wandb
folder = pathlib.Path(sys.argv[1])
with wandb.init(project="references") as run:
    artifact = wandb.Artifact("changing", type="dataset")
    artifact.add_reference((folder / "file.txt").as_uri())
    artifact.add_reference(sys.argv[2] + "/changing.txt")
    artifact.add_reference(sys.argv[2] + "/gone.txt")
    artifact.add_reference("custom://bucket/key", name="custom.txt")
    run.log_artifact(artifact).wait()
    print(run.entity)
"""


@pytest.mark.promises("5.6")
def test_references_that_changed(mounter: Mounter, stand_in: StandIn, tmp_path: Path) -> None:
    stand_in.public_dir.mkdir(exist_ok=True)
    changing = [tmp_path / "file.txt", stand_in.public_dir / "changing.txt"]
    gone = stand_in.public_dir / "gone.txt"
    for path in (*changing, gone):
        path.write_text("as it was logged")
    env = stand_in.env(tmp_path / "home")
    done = prepared.run_sdk("-c", REFERENCES, tmp_path, stand_in.public_url, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    entity = done.stdout.split()[-1]
    version = Path(entity, "references", "changing", "v0")
    mount = mounter(cache=tmp_path / "one")
    for name in ("file.txt", "changing.txt", "gone.txt"):
        assert (mount.path / version / name).read_text() == "as it was logged"
    for path in changing:
        path.write_text("and another text")
    gone.unlink()
    fresh = mounter(cache=tmp_path / "two")
    for name in ("file.txt", "changing.txt", "gone.txt"):
        assert read_error(fresh.path / version / name) == errno.ESTALE
        # What was read before is what was logged, still.
        assert (mount.path / version / name).read_text() == "as it was logged"
    assert read_error(fresh.path / version / "custom.txt") == errno.EOPNOTSUPP
    reasons = [error["cause"] for error in fresh.errors()]
    assert any("no longer what was logged" in reason for reason in reasons)
    assert any("is gone" in reason for reason in reasons)
    assert any("references to custom://" in reason for reason in reasons)


@pytest.mark.promises("2.2")
def test_what_is_open_goes_on_whatever_is_renamed(
    mounter: Mounter, version: Path, stand_in: StandIn
) -> None:
    mount = mounter(options=["--alias-ttl", "1"])
    expected = right_digest(mount, version)
    entity, project, artifact, _ = version.parts
    population = Population(stand_in)
    small = mount.path / version / "small"
    with (
        (mount.path / version / "large.bin").open("rb") as file,
        (small / "07.bin").open("rb") as one,
    ):
        content = file.read(1000)
        population.rename_artifact(entity, project, artifact, "renamed")
        assert one.read() == random.Random(7).randbytes(20_000)
        population.rename_project(entity, project, "another")
        # And another one is called so by now.
        population.add_projects(entity, [project])
        population.add_versions(entity, project, artifact, 1)
        content += file.read()
    assert hashlib.md5(content).hexdigest() == expected
    # By its old names it is the new one, once the time-to-live is over.
    wait_until(lambda: os.listdir(mount.path / version) == ["file"], what="the new one is seen")
    path = mount.path / entity / "another/renamed/v0"
    assert (path / "small/09.bin").read_bytes() == random.Random(9).randbytes(20_000)
    assert mount.errors() == []
