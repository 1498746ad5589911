"""Large files: what is read is fetched and little else, once, in ranges, and checked in the end."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Mounter
from mounts import check, run, wait_until
from stand_in import StandIn
from tensors import header_of

from wbfs.daemon.fuse.kernel import MAX_BACKGROUND

SIZE = 40 << 20
MIB = 1 << 20
PIECE = 128 << 10
LOG = f"""
import random
import sys
import wandb
with wandb.init(project="ranges") as run:
    artifact = wandb.Artifact("large", type="model")
    for name in ("model.bin", "other.bin"):
        with artifact.new_file(name, mode="wb") as file:
            file.write(random.Random(name).randbytes({SIZE}))
    artifact.add_file(sys.argv[1], "model.safetensors")
    run.log_artifact(artifact).wait()
    print(run.entity)
"""
CONTENT = random.Random("model.bin").randbytes(SIZE)
TENSOR = 2_000_003
HEADER, _ = header_of([TENSOR] * (SIZE // TENSOR) + [SIZE % TENSOR])
OTHER = random.Random("other.bin").randbytes(SIZE)


@pytest.fixture(scope="session")
def version(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a version with three large files, one of them of tensors."""
    folder = tmp_path_factory.mktemp("ranges")
    tensors = folder / "tensors"
    tensors.write_bytes(HEADER + CONTENT)
    entity = stand_in.run_sdk(LOG, folder, tensors)
    return Path(entity, "ranges", "large", "v0")


@pytest.fixture
def moved(stand_in: StandIn) -> Moved:
    """Return what tells how many bytes the file port has sent."""
    return Moved(stand_in)


class Moved:
    """The file port's traffic since the last `clear`."""

    def __init__(self, stand_in: StandIn) -> None:
        self._stand_in = stand_in
        self.clear()

    def clear(self) -> None:
        self._stand_in.clear_requests()

    @property
    def gets(self) -> int:
        return len(self._stand_in.requests(port="files", method="GET"))

    @property
    def bytes(self) -> int:
        return sum(get.bytes_sent for get in self._stand_in.requests(port="files", method="GET"))


def read_at(path: Path, *places: tuple[int, int]) -> None:
    """Read (offset, size) pairs through one handle and compare them."""
    with path.open("rb", buffering=0) as file:
        for offset, size in places:
            assert os.pread(file.fileno(), size, offset) == CONTENT[offset : offset + size]


@pytest.mark.promises("4.4")
def test_first_bytes_cost_little(mounter: Mounter, version: Path, moved: Moved) -> None:
    mount = mounter()
    os.listdir(mount.path / version)
    moved.clear()
    read_at(mount.path / version / "model.bin", (0, 4096))
    assert moved.gets == 1
    assert moved.bytes <= MIB
    # The end of a file too, where archives and tables have their index.
    other = mounter(cache=mount.cache_dir.parent / "other cache")
    os.listdir(other.path / version)
    moved.clear()
    read_at(other.path / version / "model.bin", (SIZE - 8, 8), (SIZE - 200_000, 100_000))
    assert moved.bytes <= MIB


def test_from_end_to_end(mounter: Mounter, version: Path, moved: Moved) -> None:
    mount = mounter()
    os.listdir(mount.path / version)
    moved.clear()
    copy = mount.cache_dir.parent / "copy"
    check("cp", mount.path / version / "model.bin", copy)
    assert copy.read_bytes() == CONTENT
    assert moved.bytes == SIZE
    assert moved.gets < 20
    wait_until(lambda: mount.status()["fetched"]["fetched_files"] == 1, what="it is sealed")
    moved.clear()
    again = mounter()
    check("cmp", copy, again.path / version / "model.bin")
    assert moved.gets == 0


@pytest.mark.promises("4.10")
@pytest.mark.parametrize("habit", ["ignores_ranges", "compresses"])
def test_a_proxy_that_sends_all(
    mounter: Mounter, version: Path, stand_in: StandIn, habit: str
) -> None:
    mount = mounter()
    os.listdir(mount.path / version)
    stand_in.clear_requests()
    with stand_in.faults(port="files", **{habit: True}):
        read_at(mount.path / version / "model.bin", (SIZE - 8, 8), (5 * MIB, MIB), (0, SIZE))
        wait_until(lambda: mount.status()["fetched"]["fetched_files"] == 1, what="it is sealed")
    assert {one.status for one in stand_in.requests(port="files", method="GET")} == {200}
    # In one pass, of which all is taken.
    assert mount.status()["fetched"]["fetched_bytes"] == SIZE
    assert mount.errors() == []


PATTERNS = {
    "backwards": [(offset, 65536) for offset in range(20 * MIB, 12 * MIB, -65536)],
    "interleaved": [
        (start + step * 65536, 65536)
        for step in range(64)
        for start in (0, 10 * MIB, 20 * MIB, 30 * MIB)
    ],
    "far and wide": [(random.Random(number).randrange(SIZE - 4096), 4096) for number in range(60)],
    "every other": [(offset, 65536) for offset in range(0, 16 * MIB, 131072)],
    "past the end": [(SIZE - 100, 100), (SIZE - 4096, 4096), (5, 100_000)],
}


@pytest.mark.parametrize("pattern", list(PATTERNS))
def test_any_order(mounter: Mounter, version: Path, moved: Moved, pattern: str) -> None:
    mount = mounter()
    os.listdir(mount.path / version)
    moved.clear()
    places = PATTERNS[pattern]
    read_at(mount.path / version / "model.bin", *places)
    assert moved.bytes <= 3 * sum(size for _, size in places) + len(places) * MIB // 2
    assert moved.bytes <= SIZE


@pytest.mark.promises("4.2")
def test_many_readers_one_fetch(mounter: Mounter, version: Path, moved: Moved) -> None:
    mount = mounter()
    os.listdir(mount.path / version)
    moved.clear()
    path = mount.path / version / "model.bin"
    readers = [subprocess.Popen(["md5sum", path], stdout=-1, text=True) for _ in range(6)]
    for reader in readers:
        output, _ = reader.communicate(timeout=100)
        assert output.split()[0] == hashlib.md5(CONTENT).hexdigest()
    # As if the kernel had nothing in memory.
    read_at(path, *((offset, MIB) for offset in range(0, SIZE, MIB)))
    assert moved.bytes == SIZE


MAPPED = f"""
import mmap, random, sys, threading, time
content = random.Random("model.bin").randbytes({SIZE})
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
done = []
def fault_in(number):
    at = number * {SIZE} // 8 + 4096
    if mapped[at : at + 5000] == content[at : at + 5000]:
        done.append(number)
threads = [threading.Thread(target=fault_in, args=[number], daemon=True) for number in range(8)]
for thread in threads:
    thread.start()
deadline = time.monotonic() + 40
while len(done) < int(sys.argv[2]) and time.monotonic() < deadline:
    time.sleep(0.01)
print(len(done), flush=True)
import os
os._exit(0)
"""


TENSORS = f"""
import mmap, random, sys
content = random.Random("model.bin").randbytes({SIZE})
with open(sys.argv[1], "rb") as file:
    mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
header = 8 + int.from_bytes(mapped[:8], "little")
print(mapped[8:header].count(b"data_offsets"))
for number in (3, 15, 7, 11, 19):
    at = number * {TENSOR}
    assert mapped[header + at : header + at + {TENSOR}] == content[at : at + {TENSOR}]
"""


def test_tensors_that_are_skipped_are_not_fetched(
    mounter: Mounter, version: Path, moved: Moved
) -> None:
    mount = mounter()
    path = mount.path / version / "model.safetensors"
    path.stat()
    moved.clear()
    assert int(check(sys.executable, "-c", TENSORS, path)) == SIZE // TENSOR + 1
    assert moved.bytes <= 2 * 5 * TENSOR
    # One tensor's requests come side by side.
    assert moved.gets <= 8 * 5


def test_mapped_pages_wait_for_themselves_only(
    mounter: Mounter, version: Path, stand_in: StandIn
) -> None:
    mount = mounter(options=["--timeout", "200"])
    path = mount.path / version / "model.bin"
    path.stat()
    assert run(sys.executable, "-c", MAPPED, path, "8").stdout == "8\n"
    fresh = mounter(cache=mount.cache_dir.parent / "fresh", options=["--timeout", "200"])
    path = fresh.path / version / "model.bin"
    path.stat()
    stand_in.clear_requests()
    # A fault holds Python's lock: each in a process of its own, and the first one waits long.
    page = "import mmap, sys; f = open(sys.argv[1], 'rb'); at = int(sys.argv[2]);"
    page += "sys.stdout.buffer.write(mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ)[at:at + 5000])"
    with stand_in.faults(port="files", stall_after_bytes=0):
        stalled = subprocess.Popen(
            [sys.executable, "-c", page, path, "4096"], stdout=subprocess.DEVNULL
        )
        # What is asked for now stalls for good.
        wait_until(lambda: under_way(stand_in), what="it is fetched")
    try:
        # Where nothing was read ahead of the first.
        for at in range(20 * MIB, 36 * MIB, 2 * MIB):
            done = subprocess.run(
                [sys.executable, "-c", page, path, str(at)], capture_output=True, timeout=100
            )
            assert done.stdout == CONTENT[at : at + 5000]
        assert stalled.poll() is None
    finally:
        stalled.kill()
        stalled.wait(50)


def under_way(stand_in: StandIn) -> list[str]:
    """Return which ranges of files the server has begun to send, and not ended."""
    asked = stand_in.requests(port="files", method="GET")
    return [one.range for one in asked if one.bytes_sent == 0]


def test_read_ahead_holds_up_nobody_and_ends_with_its_handle(
    mounter: Mounter, version: Path, stand_in: StandIn, moved: Moved
) -> None:
    mount = mounter()
    path = mount.path / version / "model.bin"

    def in_progress() -> int:
        found: int = mount.status()["fetched"]["in_progress"]
        return found

    with path.open("rb", buffering=0) as file:
        # What the kernel itself reads ahead it takes to the end, whoever closes the file.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        for offset in range(0, 4 * MIB, MIB):
            assert file.read(MIB) == CONTENT[offset : offset + MIB]
        mount.wait_until_idle()
        # So slow that it takes longer than a test may.
        with stand_in.faults(port="files", bandwidth_bytes_per_s=16 << 10):
            # What is there is read on, until more is fetched ahead.
            while not in_progress():
                assert file.read(PIECE) == CONTENT[offset + MIB : offset + MIB + PIECE]
                offset += PIECE
        # Far ahead of what is under way, and none of it is waited for.
        assert os.pread(file.fileno(), 4096, 30 * MIB) == CONTENT[30 * MIB : 30 * MIB + 4096]
        assert in_progress()
    wait_until(lambda: not in_progress(), what="nothing is fetched any more")
    assert moved.bytes < SIZE * 2 // 3


@pytest.mark.promises("6.3")
@pytest.mark.parametrize(
    "fault",
    [
        {"cut_after_bytes": 300_000, "first": 25},
        {"error_share": 0.4, "first": 12},
        {"error_share": 0.4, "error_status": 503, "first": 12},
        {"requests_per_s": 5.0, "first": 10},
        {"delay_s": 0.2},
        {"expired_urls": True, "first": 1},
        {"revoked_urls": True},
        {"stall_after_bytes": 100_000, "stall_s": 2, "first": 3},
    ],
    ids=str,
)
def test_the_bytes_are_right_all_the_same(
    mounter: Mounter, version: Path, stand_in: StandIn, moved: Moved, fault: dict[str, float]
) -> None:
    mount = mounter()
    path = mount.path / version / "model.bin"
    read_at(path, (7 * MIB, 100_000))
    moved.clear()
    with stand_in.faults(port="files", **fault):
        assert path.read_bytes() == CONTENT
    assert mount.errors() == []
    # What is in a socket's buffers when a connection is cut is sent again.
    assert moved.bytes < SIZE + 8 * MIB


def test_urls_expire_in_mid_file(
    mounter: Mounter, version: Path, stand_in: StandIn, moved: Moved
) -> None:
    mount = mounter()
    path = mount.path / version / "model.bin"
    with path.open("rb", buffering=0) as file:
        for part in range(4):
            with stand_in.faults(port="files", revoked_urls=True):
                size = SIZE // 4
                assert file.read(size) == CONTENT[part * size : (part + 1) * size]
    assert mount.errors() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_processes_that_fetch_fail(
    mounter: Mounter, version: Path, stand_in: StandIn, moved: Moved, number: signal.Signals
) -> None:
    mount = mounter()
    path = mount.path / version / "model.bin"
    os.listdir(path.parent)
    moved.clear()
    slow = stand_in.faults(port="files", bandwidth_bytes_per_s=4 * MIB)
    with slow, path.open("rb", buffering=0) as file:
        assert file.read(8 * MIB) == CONTENT[: 8 * MIB]
        wait_until(lambda: fetching(mount.pid), what="processes fetch it")
        for pid in fetching(mount.pid):
            assert b"WANDB" not in Path(f"/proc/{pid}/environ").read_bytes()
            # Ctrl-C at the terminal is not for it.
            assert os.getpgid(pid) == pid
            os.kill(pid, number)
    assert path.read_bytes() == CONTENT
    assert mount.errors() == []
    # What is in the buffers of their connections, some MiB each, is sent again.
    assert moved.bytes < SIZE + 24 * MIB


def fetching(pid: int) -> list[int]:
    """Return a daemon's processes that fetch large files."""
    found = run("ps", "--ppid", str(pid), "-o", "pid=,args=").stdout.splitlines()
    return [int(line.split()[0]) for line in found if "large files" in line]


def pages_kept(path: Path) -> bytes | None:
    """Return the file's bytes as a program gets them now, or None for EIO."""
    try:
        return path.read_bytes()
    except OSError as error:
        if error.errno == errno.EIO:
            return None
        raise


@pytest.mark.promises("5.2")
def test_wrong_bytes_do_not_stay(
    mounter: Mounter, version: Path, stand_in: StandIn, moved: Moved
) -> None:
    mount = mounter()
    path = mount.path / version / "model.bin"
    path.stat()
    with stand_in.faults(port="files", wrong_bytes=True, first=1):
        read_at_any_rate = pages_kept(path)
    # A program may have had them before the last byte was there to check the digest.
    assert read_at_any_rate is not None
    wait_until(lambda: "it is fetched once more" in mount.log(), what="the digest was checked")
    wait_until(lambda: path.read_bytes() == CONTENT, what="the kernel has forgotten wrong bytes")


@pytest.mark.promises("5.4")
def test_bytes_that_are_wrong_twice_are_eio(
    mounter: Mounter, version: Path, stand_in: StandIn, moved: Moved
) -> None:
    mount = mounter()
    path = mount.path / version / "model.bin"
    path.stat()
    with stand_in.faults(port="files", wrong_bytes=True):
        pages_kept(path)
        wait_until(lambda: "it is fetched once more" in mount.log(), what="it was checked")
        wait_until(lambda: pages_kept(path) is None, what="it is an error")
        assert any("twice" in error["cause"] for error in mount.errors())
        # Nor does a program see it through a handle of its own, while that is remembered.
        wait_until(
            lambda: pages_kept(path) is None and pages_kept(path) is None, what="it stays one"
        )
    assert not [found for found in (mount.cache_dir / "blobs").rglob("*") if found.is_file()]
    time.sleep(2.1)  # the handles' memory of their failure
    assert path.read_bytes() == CONTENT


@pytest.mark.promises("5.3")
def test_verify_always(mounter: Mounter, version: Path, stand_in: StandIn, moved: Moved) -> None:
    mount = mounter(options=["--verify=always"])
    path = mount.path / version / "model.bin"
    os.listdir(path.parent)
    moved.clear()
    with stand_in.faults(port="files", wrong_bytes=True):
        assert pages_kept(path) is None
        assert moved.bytes >= 2 * SIZE
    time.sleep(2.1)
    read_at(path, (0, 10))
    assert "is fetched once more" in mount.log()
    other = mount.path / version / "other.bin"
    with stand_in.faults(port="files", wrong_bytes=True, first=1):
        assert other.read_bytes() == OTHER
    assert mount.status()["verify_always"] is True


def test_kill_9_in_mid_fetch(
    mounter: Mounter, version: Path, stand_in: StandIn, moved: Moved
) -> None:
    mount = mounter()
    path = mount.path / version / "model.bin"
    maps = mount.cache_dir / "partial"
    # So slow that reading ahead has not got the rest meanwhile, after which nothing is partial.
    with stand_in.faults(port="files", bandwidth_bytes_per_s=2 * MIB), path.open("rb") as file:
        assert file.read(20 * MIB) == CONTENT[: 20 * MIB]
        read = mount.cache_dir.with_name("read")
        read.touch()
        wait_until(
            lambda: any(one.stat().st_mtime > read.stat().st_mtime for one in maps.glob("*.map")),
            what="it is noted what has come",
        )
        mount.kill()
    again = mounter(path=mount.path)
    moved.clear()
    assert (again.path / version / "model.bin").read_bytes() == CONTENT
    assert moved.bytes <= SIZE - 20 * MIB
    wait_until(lambda: not list(maps.iterdir()), what="nothing is left of it")


SLOW_SEAL = """
import time
import wbfs.store.content.large_blob
from wbfs.cli.main import main
real = wbfs.store.content.large_blob.check_content
def check(*args):
    real(*args)
    open({sealing!r}, "w").close()
    time.sleep(60)
wbfs.store.content.large_blob.check_content = check
main()
"""


@pytest.mark.promises("5.7")
def test_kill_9_in_mid_seal(mounter: Mounter, version: Path, tmp_path: Path, moved: Moved) -> None:
    program, sealing = tmp_path / "slow_seal.py", tmp_path / "sealing"
    program.write_text(SLOW_SEAL.format(sealing=str(sealing)))
    mount = mounter(program=(sys.executable, str(program)))
    assert (mount.path / version / "model.bin").read_bytes() == CONTENT
    wait_until(sealing.exists, what="it is being sealed")
    mount.kill()
    assert not [found for found in (mount.cache_dir / "blobs").rglob("*") if found.is_file()]
    again = mounter(path=mount.path)
    moved.clear()
    assert (again.path / version / "model.bin").read_bytes() == CONTENT
    assert moved.bytes == 0
    wait_until(lambda: again.status()["fetched"]["fetched_files"] == 1, what="it is sealed")


def test_a_later_mount_goes_on(mounter: Mounter, version: Path, moved: Moved) -> None:
    mount = mounter()
    read_at(mount.path / version / "model.bin", *((at, MIB) for at in range(0, 10 * MIB, MIB)))
    mount.umount()
    again = mounter()
    moved.clear()
    read_at(again.path / version / "model.bin", *((at, MIB) for at in range(0, 10 * MIB, 4 * MIB)))
    assert moved.bytes <= SIZE - 10 * MIB


@pytest.mark.promises("8.3")
def test_a_full_disk_is_read_past(
    mounter: Mounter, version: Path, small_disk: Callable[[str], Path]
) -> None:
    mount = mounter(cache=small_disk("16m") / "cache", options=["--min-free", "0"])
    assert (mount.path / version / "model.bin").read_bytes() == CONTENT
    assert (mount.path / version / "other.bin").read_bytes() == OTHER
    assert mount.errors() == []
    assert "are read past the cache" in mount.log()


@pytest.mark.promises("8.3")
def test_a_small_cache_is_read_past(mounter: Mounter, version: Path) -> None:
    mount = mounter(options=["--cache-size", "10MiB"])
    assert (mount.path / version / "model.bin").read_bytes() == CONTENT
    assert (mount.path / version / "other.bin").read_bytes() == OTHER
    assert mount.errors() == []
    used = sum(path.stat().st_blocks * 512 for path in mount.cache_dir.rglob("*"))
    assert used < SIZE + (10 << 20)


@pytest.mark.parametrize("options", [[], ["--cache-size", "60MB"]], ids=["no limit", "eviction"])
def test_two_daemons_fetch_the_same(mounter: Mounter, version: Path, options: list[str]) -> None:
    mounts = [mounter(options=options), mounter(options=options)]
    # The same file at the same time, then each the other's.
    orders = [["model.bin", "model.bin", "other.bin"], ["model.bin", "other.bin", "model.bin"]]
    readers = [
        subprocess.Popen(
            ["md5sum", *(mount.path / version / name for name in order)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for mount, order in zip(mounts, orders, strict=True)
    ]
    digests = {"model.bin": hashlib.md5(CONTENT), "other.bin": hashlib.md5(OTHER)}
    for reader, order in zip(readers, orders, strict=True):
        output, _ = reader.communicate(timeout=100)
        found = [line.split()[0] for line in output.splitlines()]
        assert found == [digests[name].hexdigest() for name in order]
    for mount in mounts:
        assert mount.errors() == []
        wait_until(
            lambda mount=mount: mount.status()["fetched"]["in_progress"] == 0, what="all is done"
        )
    if not options:
        wait_until(
            lambda: not list((mounts[0].cache_dir / "partial").iterdir()), what="nothing is left"
        )


def test_the_kernels_settings_are_told(mounter: Mounter) -> None:
    mount = mounter()
    device = os.stat(mount.path).st_dev
    setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    kernel = mount.status()["kernel"]
    assert kernel["read_ahead_kb"] == int(setting.read_text())
    if os.getuid() == 0:
        assert kernel["read_ahead_kb"] > 128
        assert kernel["max_background"] == MAX_BACKGROUND


def test_a_signal_ends_it_in_mid_fetch(mounter: Mounter, version: Path, stand_in: StandIn) -> None:
    mount = mounter()
    path = mount.path / version / "model.bin"
    with stand_in.faults(port="files", bandwidth_bytes_per_s=MIB):
        reader = subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL, stderr=-1)
        wait_until(lambda: mount.status()["fetched"]["in_progress"], what="it is fetched")
        os.kill(mount.pid, signal.SIGTERM)
        wait_until(lambda: not mount.is_alive(), what="the daemon has ended")
        reader.communicate(timeout=50)
    assert "Traceback" not in mount.log()
