"""What people ask of a mount: why it waits, what a file is, and what the machine lacks."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from large_manifest import log_version_of
from mounts import COMMAND_TIMEOUT_S, WBFS, Mount, run, wait_until
from rich.console import Console
from stand_in import StandIn

from wbfs.cli.mounts.watch import _Counts, _shown
from wbfs.daemon.mounts.looking.health import Health
from wbfs.daemon.mounts.looking.survey import Seen

LARGE = 6 << 20
LOG = f"""
import sys
import wandb
with wandb.init(project="asked") as run:
    artifact = wandb.Artifact("data", type="dataset")
    for name in ("a", "b", "slow"):
        with artifact.new_file(f"folder/{{name}}.txt") as file:
            file.write(f"this is {{name}} of those that are asked for")
    with artifact.new_file("large.bin", mode="wb") as file:
        file.write(bytes({LARGE}))
    artifact.add_reference(sys.argv[1] + "/asked.txt")
    artifact.add_reference(sys.argv[1] + "/gone.txt", checksum=False)
    run.log_artifact(artifact).wait()
    print(run.entity)
"""


@pytest.fixture(scope="module")
def mount(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """Return a mount of what the SDK logged that all tests here ask."""
    folder = tmp_path_factory.mktemp("asked")
    (stand_in.public_dir / "asked.txt").write_text("elsewhere")
    entity = stand_in.run_sdk(LOG, folder / "sdk", stand_in.public_url)
    mounted = Mount(
        path=folder / "mount",
        env=stand_in.env(folder / "home"),
        cache_dir=folder / "cache",
        log_file=folder / "mount.log",
        source=f"{entity}/asked/data",
        program=None,
    )
    yield mounted
    mounted.take_down()


def why(mount: Mount, path: str, *words: str) -> dict[str, str]:
    # Of a folder only so much is told as there is time for.
    done = run(*WBFS, "why", "--timeout", "45", *words, mount.path / path, env=mount.env)
    assert done.returncode == 0, done.stderr
    return {line[:10].strip(): line[11:] for line in done.stdout.splitlines()}


def test_a_file_before_and_after_it_is_read(mount: Mount, stand_in: StandIn) -> None:
    rows = why(mount, "latest/folder/a.txt")
    assert rows["version"].endswith("/asked/data:v0 (dataset, latest)")
    assert rows["file"] == "folder/a.txt"
    assert rows["here"] == "no"
    assert rows["from"] == f"{stand_in.base_url}, by a signed URL"
    assert "last fetch" not in rows
    text = (mount.path / "latest/folder/a.txt").read_text()
    rows = why(mount, "v0/folder/a.txt")
    assert rows["size"] == f"{len(text)} B"
    here = rows["here"].removeprefix("whole and checked, ")
    assert Path(here).read_text() == text
    assert rows["last fetch"].startswith(f"for a reader, {len(text)} B in ")
    assert "from" not in rows
    folder = why(mount, "v0/folder")
    assert folder["folder"] == "folder"
    assert folder["here"].startswith(f"1 file, {len(text)} B whole")
    assert folder["not here"].startswith("2 files, ")
    assert folder["from"] == f"{stand_in.base_url}, by a signed URL: {folder['not here']}"
    assert why(mount, "v0/asked.txt")["reference"] == f"{stand_in.public_url}/asked.txt"


def test_a_part_and_a_failure(mount: Mount, stand_in: StandIn) -> None:
    with (mount.path / "v0/large.bin").open("rb", buffering=0) as file:
        os.pread(file.fileno(), 4096, LARGE // 2)
        rows = why(mount, "v0/large.bin")
        assert re.fullmatch(r"in part, [\d.]+ [kM]B", rows["here"]) or "whole" in rows["here"]
        done = run(*WBFS, "why", mount.path / "v0", env=mount.env)
        assert "folder     all of the version\nin all     6 files, " in done.stdout
        assert re.search(
            r"^in part +1 file, 6.3 MB, of which [\d.]+ [kM]B are here$", done.stdout, re.M
        )
        host = stand_in.public_url.removesuffix("/public")
        assert re.search(
            rf"^from +{host}: 2 files, 9 B without 1 of unknown size$", done.stdout, re.M
        )
    with stand_in.faults(port="files", match="^/artifacts|^/wandb_artifacts", wrong_bytes=True):
        done = run("cat", mount.path / "v0/folder/b.txt")
        assert "Input/output error" in done.stderr
        rows = why(mount, "v0/folder/b.txt")
        assert "damaged on the server or on the way" in rows["last fetch"]
        assert "EIO" in rows["failed"]
        done = run(*WBFS, "status", mount.path, env=mount.env)
        assert re.search(r"  errors +\S+ EIO: .*b\.txt", done.stdout)
    assert (mount.path / "v0/folder/b.txt").read_text()
    done = run(*WBFS, "why", mount.path / "v0/gone.txt", env=mount.env)
    assert done.returncode == 1
    assert re.search(r"can't look at .*gone.txt: .*; can't find out the size of .*: ", done.stderr)


def test_a_folder_of_very_many_files(mount: Mount, stand_in: StandIn, tmp_path: Path) -> None:
    logged = log_version_of(stand_in, "many", folders=2, files_per_folder=10_000)
    above = Mount(
        path=tmp_path / "mount",
        env=mount.env,
        cache_dir=mount.cache_dir,
        log_file=tmp_path / "log",
        source=logged.source,
        program=None,
    )
    try:
        rows = why(above, "")
    finally:
        above.take_down()
    assert rows["in all"].startswith("20,000 files, ")


def test_who_waits_for_what(mount: Mount, stand_in: StandIn) -> None:
    path = mount.path / "latest/folder/slow.txt"
    with (
        stand_in.faults(port="files", match="^/artifacts|^/wandb_artifacts", delay_s=20.0, first=1),
        subprocess.Popen(["cat", path], stdout=subprocess.DEVNULL) as reader,
    ):
        wait_until(
            lambda: any(one["seconds"] > 0.2 for one in mount.status()["waiting"]["longest"]),
            what="it waits",
        )
        done = run(*WBFS, "status", mount.path, env=mount.env)
        assert done.returncode == 0
        assert re.search(
            r"  waiting +read \S+:v0/folder/slow.txt for [\d.]+ s, by cat", done.stdout
        )
        assert f", by cat (process {reader.pid})\n" in done.stdout
        assert re.search(r"  fetching +\S+slow.txt, for a reader: 0 B of ", done.stdout)
        # It is not here, and that can be told meanwhile.
        assert why(mount, "v0/folder/slow.txt")["here"] == "no"
        reader.wait(COMMAND_TIMEOUT_S)
    status = mount.status()
    assert any(name.endswith("/data:latest") for name in status["aliases"])
    assert set(status["aliases"].values()) == {"v0"}
    assert status["fetched"]["opened_files"] > status["fetched"]["opened_here"] >= 0
    assert status["fetched"]["from_memory_bytes"] <= status["fetched"]["served_bytes"]


def test_what_is_none_of_ours(mount: Mount, tmp_path: Path) -> None:
    done = run(*WBFS, "why", tmp_path, env=mount.env)
    assert done.returncode == 2
    assert "is not below a mount of wbfs" in done.stderr
    done = run(*WBFS, "why", mount.path, env=mount.env)
    assert done.returncode == 2
    assert "is above the versions" in done.stderr


def test_a_mount_that_hangs(mount: Mount) -> None:
    os.kill(mount.pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        # Neither is kept by what is left behind.
        done = run(*WBFS, "why", "--timeout", "0.5", mount.path / "v0/folder/a.txt", env=mount.env)
        assert time.monotonic() - started < COMMAND_TIMEOUT_S
    finally:
        os.kill(mount.pid, signal.SIGCONT)
    assert done.returncode == 1
    assert "no answer within 0.5 s; wbfs status says whether the mount hangs" in done.stderr
    assert why(mount, "v0/folder/a.txt")["file"] == "folder/a.txt"


def test_watching(mount: Mount) -> None:
    terminal, theirs = pty.openpty()
    env = {**mount.env, "COLUMNS": "200", "TERM": "xterm"}
    command = [*WBFS, "status", "--watch", str(mount.path)]
    with subprocess.Popen(command, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as shown:
        os.close(theirs)
        text = b""
        deadline = time.monotonic() + COMMAND_TIMEOUT_S
        while text.count(b"serving") < 3 and time.monotonic() < deadline:
            text += os.read(terminal, 1 << 16)
        shown.send_signal(signal.SIGINT)
        assert shown.wait(COMMAND_TIMEOUT_S) == 0
    os.close(terminal)
    assert text.count(b"serving") >= 3
    for word in (b"network", b"under way", b"waiting", b"prefetched", b"wasted", b"0 B/s"):
        assert word in text
    # All of it can be read on a small terminal, too.
    seen = [Seen(path=mount.path, health=Health.SERVES, status=mount.status())] * 2
    console = Console(width=80, file=io.StringIO())
    console.print(_shown(seen, {}, console))
    assert isinstance(console.file, io.StringIO)
    for word in ("network", "under way", "prefetched"):
        assert console.file.getvalue().count(word) >= 2
    # There it is shown, and nowhere else; nor is it what others want to know.
    done = run(*command, env=env | {"FORCE_COLOR": "1"})
    assert done.returncode == 2
    assert "there is none (podman exec and kubectl exec give one with -it;" in done.stderr
    terminal, theirs = pty.openpty()
    dumb = env | {"TERM": "dumb"}
    assert (
        subprocess.run(command, env=dumb, stdout=theirs, timeout=COMMAND_TIMEOUT_S).returncode == 2
    )
    os.close(theirs)
    os.close(terminal)
    assert run(*command, "--json", env=env).returncode == 2
    # What it needs is not there everywhere.
    code = "import sys; sys.modules['rich.live'] = None; from wbfs.cli.main import main; main()"
    done = run(sys.executable, "-c", code, "status", "--watch", env=mount.env)
    assert done.returncode == 2
    assert "pip install 'wbfs[watch]'" in done.stderr


def test_rates_are_those_of_the_time_between_two_answers() -> None:
    # However late they come.
    before, now = (
        _Counts({"at_s": at_s, "fetched": {"fetched_bytes": count}, "requests": {}})
        for at_s, count in ((10.0, 1_000), (12.0, 5_000))
    )
    assert now.rates(before)[0] == "2.0 kB/s"


def test_a_doctor(mount: Mount, stand_in: StandIn, tmp_path: Path) -> None:
    command = [*WBFS, "doctor", "--cache-dir", mount.cache_dir]
    done = run(*command, env=mount.env)
    found = dict(re.findall(r"^(?:ok|!!) (\S+) +(.*)$", done.stdout, re.MULTILINE))
    assert found["/dev/fuse"] == "can be opened"
    assert found["clock"] == "as the server's"
    assert found["login"].startswith("admin at http://")
    assert str(mount.cache_dir) in found["cache"]
    assert found["gateway"] == "none is named"
    for name in ("allow_other", "read-ahead", "requests", "files", "CAs", "proxy", "extras"):
        assert name in found
    if os.getuid() == 0:
        # A container's root has /dev/fuse, and may not mount by that alone.
        done = run("setpriv", "--bounding-set=-sys_admin", *command, env=mount.env)
        assert done.returncode == 1
        assert re.search(r"^!! fusermount3 +may mount nothing here$", done.stdout, re.M)
        assert re.search(r"^ok read-ahead +the kernel reads 128 KiB ahead", done.stdout, re.M)
    (tmp_path / "bin").mkdir()
    worse = mount.env | {
        "PATH": str(tmp_path / "bin"),
        "WANDB_API_KEY": "x" * 40,
        "https_proxy": "http://user:secret@127.0.0.1:9",
        "SSL_CERT_DIR": str(tmp_path / "none"),
    }
    done = run(*WBFS, "doctor", "--cache-dir", "/proc/nothing", env=worse)
    assert done.returncode == 1
    assert re.search(r"^!! fusermount3 +is not installed\n +-> apt install", done.stdout, re.M)
    assert re.search(r"^!! cache ", done.stdout, re.M)
    assert re.search(r"^!! login ", done.stdout, re.M)
    assert re.search(r"^!! CAs .*\n +-> correct or unset SSL_CERT_DIR", done.stdout, re.M)
    # What is on the way to the server is looked at without a login, too.
    done = run(*command, env=worse | {"WANDB_API_KEY": "short"})
    assert re.search(r"^!! CAs .*\n(?s:.*)^!! login ", done.stdout, re.M)
    # A gateway is looked at where one is named, as by a mount.
    done = run(*command, "--blob-gateway", stand_in.files_url, env=mount.env)
    assert re.search(r"^ok gateway +127\.0\.0\.1:\d+ answers$", done.stdout, re.M)
    done = run(*command, env=mount.env | {"WBFS_BLOB_GATEWAY": "http://127.0.0.1:1"})
    assert re.search(r"^!! gateway .*refused", done.stdout, re.M)
    done = run(*command, env=worse | {"WBFS_BLOB_GATEWAY": "https://127.0.0.1:1"})
    assert re.search(r"^!! gateway .*SSL_CERT_DIR(?s:.*)^ok extras ", done.stdout, re.M)
    # Whatever is not well has what to do.
    assert not re.search(r"^!! .*\n(?! +-> )", done.stdout, re.M)
    assert "secret" not in done.stdout
    assert "x" * 40 not in done.stdout


def test_the_last_fetches(mount: Mount) -> None:
    lines = (mount.path / ".wbfs/fetches.jsonl").read_text().splitlines()
    fetches = [json.loads(line) for line in lines]
    assert len({fetch["path"] for fetch in fetches}) == len(fetches)
    for fetch in fetches:
        assert fetch["seconds"] > 0
        assert fetch["why"] in ("a reader", "read-ahead", "prefetch")
