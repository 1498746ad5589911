"""A gateway that machines share: the store sends once, and what is wrong with it harms nobody."""

from __future__ import annotations

import hashlib
import os
import random
import re
import threading
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import Mounter
from gateways import nginx
from mounts import WBFS, Mount, check
from ports import free_port
from stand_in import StandIn

from wbfs.cli.main import commands
from wbfs.devserver.objects.signing import SIGNATURE
from wbfs.remote.http.gateway import PATIENCE_S

SMALL, LARGE = 40, 9 << 20
SIZES = {f"small/{number:02}.bin": 3000 + number for number in range(SMALL)} | {"large.bin": LARGE}
LOG = f"""
import random
import wandb
with wandb.init(project="gateway") as run:
    artifact = wandb.Artifact("files", type="dataset")
    for name, size in {SIZES}.items():
        with artifact.new_file(name, mode="wb") as file:
            file.write(random.Random(name).randbytes(size))
    run.log_artifact(artifact).wait()
    print(run.entity)
"""
DIGESTS = {
    name: hashlib.md5(random.Random(name).randbytes(size)).hexdigest()
    for name, size in SIZES.items()
}
TOTAL = sum(SIZES.values())


@pytest.fixture(scope="module")
def source(stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Log a version with the real SDK; return its name."""
    entity = stand_in.run_sdk(LOG, tmp_path_factory.mktemp("gateway"))
    return f"{entity}/gateway/files:v0"


def read_all(folder: Path) -> None:
    """Read all files, one after another as a data loader does, and check all bytes."""
    lines = check("md5sum", *(folder / name for name in SIZES)).splitlines()
    assert [line[:32] for line in lines] == list(DIGESTS.values())


def sent(stand_in: StandIn) -> int:
    """How many bytes of files the store has sent, without manifests."""
    asked = stand_in.requests(port="files", method="GET")
    return sum(one.bytes_sent for one in asked if "manifest" not in one.key)


@pytest.mark.promises("13.1", "13.5")
def test_the_store_sends_once(
    mounter: Mounter, stand_in: StandIn, source: str, tmp_path: Path
) -> None:
    with nginx(tmp_path / "nginx", stand_in.files_url) as gateway:
        option = f"--blob-gateway={gateway.url}"
        stand_in.clear_requests()
        mounts = [
            mounter(source, cache=tmp_path / f"cache{number}", options=[option])
            for number in range(2)
        ]
        readers = [threading.Thread(target=read_all, args=[mount.path]) for mount in mounts]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert sent(stand_in) == TOTAL
        for mount in mounts:
            status = mount.status()
            assert status["fetched"]["prefetched_files"] > 0
            assert status["fetched"]["fetched_bytes"] == TOTAL
            assert status["gateway"] == {"url": gateway.url, "bytes": TOTAL, "trouble": None}
            assert by_gateway(mount) == TOTAL
        told = check(*WBFS, "status", mount.path, env=mount.env)
        assert f"gateway    {gateway.url}: 100% of those fetched" in told
        told = check(*WBFS, "why", mount.path / "large.bin", env=mount.env)
        assert re.search("last fetch .* by the gateway$", told, re.MULTILINE)
        # What has no mount goes the same way.
        env = mounts[0].env | {"WBFS_CACHE_DIR": str(tmp_path / "third")}
        check(*WBFS, "get", option, source, "--root", tmp_path / "got", env=env)
        read_all(tmp_path / "got")
        env = mounts[0].env | {
            "WBFS_CACHE_DIR": str(tmp_path / "fourth"),
            "WBFS_BLOB_GATEWAY": gateway.url,
        }
        check(*WBFS, "prefetch", source, env=env)
        assert sent(stand_in) == TOTAL
    # All of it, now that it has ended.
    written = gateway.written() + b"".join(mount.log_file.read_bytes() for mount in mounts)
    assert SIGNATURE.encode() not in written
    assert stand_in.api_key.encode() not in written


@pytest.mark.promises("13.2")
def test_wrong_bytes_are_fetched_from_the_store(
    mounter: Mounter, stand_in: StandIn, source: str, tmp_path: Path
) -> None:
    with nginx(tmp_path / "nginx", stand_in.files_url) as gateway:
        option = f"--blob-gateway={gateway.url}"
        env = stand_in.env(tmp_path / "home")
        check(*WBFS, "get", option, source, "--root", tmp_path / "got", env=env)
        for path in gateway.kept:
            with path.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                last = file.read(1)[0]
                file.seek(-1, os.SEEK_END)
                file.write(bytes([last ^ 1]))
        stand_in.clear_requests()
        mount = mounter(source, options=[option])
        # Nor is a part of the large one shown.
        with (mount.path / "large.bin").open("rb") as large:
            large.seek(LARGE - 10)
            assert large.read() == random.Random("large.bin").randbytes(LARGE)[-10:]
        read_all(mount.path)
    assert sent(stand_in) == TOTAL
    assert "brought wrong bytes" in mount.status()["gateway"]["trouble"]
    told = check(*WBFS, "status", mount.path, env=mount.env)
    assert "left alone for now: it brought wrong bytes" in told


def test_a_trusted_gateway_s_bytes_are_shown_as_they_come(
    mounter: Mounter, stand_in: StandIn, source: str, tmp_path: Path
) -> None:
    with nginx(tmp_path / "nginx", stand_in.files_url) as gateway:
        mount = mounter(source, options=[f"--blob-gateway={gateway.url}", "--verify=complete"])
        with (mount.path / "large.bin").open("rb") as large:
            assert large.read(10) == random.Random("large.bin").randbytes(LARGE)[:10]
        assert 0 < mount.status()["gateway"]["bytes"] < LARGE // 2


@pytest.mark.promises("13.3")
def test_a_gateway_that_is_not_there_is_asked_once(
    mounter: Mounter, stand_in: StandIn, source: str
) -> None:
    mount = mounter(source, options=[f"--blob-gateway=http://127.0.0.1:{free_port()}"])
    began_s = time.monotonic()
    read_all(mount.path)
    # Not each of them waits for it.
    assert time.monotonic() - began_s < PATIENCE_S * SMALL / 2
    status = mount.status()
    assert status["fetched"]["prefetched_files"] > 0
    assert (status["gateway"]["bytes"], status["fetched"]["fetched_bytes"]) == (0, TOTAL)
    assert mount.log().count("is left alone for now") == 1


def by_gateway(mount: Mount) -> float:
    """What the metrics say of bytes that came by a gateway."""
    text = (mount.path / ".wbfs/metrics").read_text()
    return float(text.partition("\nwbfs_gateway_bytes_total ")[2].split()[0])


@pytest.mark.parametrize(
    "url",
    ["ftp://cache", "http://", "cache:9912", "http://me:secret@cache", "http://cache?a=secret"],
)
def test_what_is_no_gateways_url_is_refused(url: str) -> None:
    done = CliRunner().invoke(commands, ["get", "--blob-gateway", url, "a/b/c"])
    assert done.exit_code != 0
    said = f"{done.output}{done.exception}"
    assert "no gateway's URL" in said
    assert "secret" not in said
