"""References to object stores and to a web server, logged by the real SDK and read by a mount."""

from __future__ import annotations

import errno
import gzip
import os
import random
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import Mounter
from object_stores import (
    azure_server,
    gcs_server,
    isolate,
    running,
    s3_server,
)
from ports import free_port
from stand_in import StandIn

LARGE = random.Random("large").randbytes(9 << 20)
LATER = b"and what came later"
UNPACKED = b"what is kept compressed " * 100
PACKED = gzip.compress(UNPACKED, mtime=0)
KEYS = {
    "data/large.bin": LARGE,
    "data/a folder/é+%23 .txt": b"small",
    "data/last.txt": b"x",
    "data/packed.tar.gz": PACKED,
}


class Store(ABC):
    """An object store, by its vendor's own client."""

    extra: str
    modules: tuple[str, ...]
    versions: bool

    @abstractmethod
    def make(self, bucket: str, *, versioned: bool) -> None:
        """Make a bucket."""

    @abstractmethod
    def put(self, bucket: str, key: str, content: bytes) -> None:
        """Store an object, or replace it."""

    @abstractmethod
    def delete(self, bucket: str, key: str) -> None:
        """Delete an object."""

    @abstractmethod
    def uri(self, bucket: str, key: str) -> str:
        """Return what an artifact refers to."""


class S3(Store):
    extra, modules, versions = "s3", ("botocore.session", "boto3"), True

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        import botocore.session

        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLEEXAMPLE00")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret")
        # As the SDK takes it.
        monkeypatch.setenv("AWS_S3_ENDPOINT_URL", url)
        self._client = botocore.session.Session().create_client("s3", endpoint_url=url)

    def make(self, bucket: str, *, versioned: bool) -> None:
        self._client.create_bucket(Bucket=bucket)
        if versioned:
            self._client.put_bucket_versioning(
                Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
            )

    def put(self, bucket: str, key: str, content: bytes) -> None:
        encoding = {"ContentEncoding": "gzip"} if content == PACKED else {}
        self._client.put_object(Bucket=bucket, Key=key, Body=content, **encoding)

    def delete(self, bucket: str, key: str) -> None:
        self._client.delete_object(Bucket=bucket, Key=key)

    def uri(self, bucket: str, key: str) -> str:
        return f"s3://{bucket}/{key}"


class Gcs(Store):
    extra, modules, versions = "gcs", ("google.auth", "google.cloud.storage"), True

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        from google.cloud import storage

        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        self._client = storage.Client()

    def make(self, bucket: str, *, versioned: bool) -> None:
        made = self._client.bucket(bucket)
        made.versioning_enabled = versioned
        self._client.create_bucket(made)

    def put(self, bucket: str, key: str, content: bytes) -> None:
        blob = self._client.bucket(bucket).blob(key)
        blob.content_encoding = "gzip" if content == PACKED else None
        blob.upload_from_string(content)

    def delete(self, bucket: str, key: str) -> None:
        self._client.bucket(bucket).blob(key).delete()

    def uri(self, bucket: str, key: str) -> str:
        return f"gs://{bucket}/{key}"


class Azure(Store):
    # Azurite keeps no versions.
    extra, modules, versions = "azure", ("azure.identity", "azure.storage.blob"), False
    account = "devstoreaccount1"
    # Azurite's own, which is in its documentation.
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    def __init__(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        from azure.storage.blob import BlobServiceClient

        parts = {"AccountName": self.account, "AccountKey": self.key}
        parts["BlobEndpoint"] = f"{url}/{self.account}"
        text = ";".join(f"{name}={value}" for name, value in parts.items())
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
        self._client = BlobServiceClient.from_connection_string(text)

    def make(self, bucket: str, *, versioned: bool) -> None:
        self._client.create_container(bucket)

    def put(self, bucket: str, key: str, content: bytes) -> None:
        from azure.storage.blob import ContentSettings

        settings = ContentSettings(content_encoding="gzip" if content == PACKED else None)
        client = self._client.get_blob_client(bucket, key)
        client.upload_blob(content, overwrite=True, content_settings=settings)

    def delete(self, bucket: str, key: str) -> None:
        self._client.get_blob_client(bucket, key).delete_blob()

    def uri(self, bucket: str, key: str) -> str:
        return f"https://{self.account}.blob.core.windows.net/{bucket}/{key}"


STORES: list[tuple[type[Store], Any]] = [(S3, s3_server), (Gcs, gcs_server), (Azure, azure_server)]


@dataclass(frozen=True)
class Logged:
    """What the SDK logged of a store, and what it then downloaded."""

    store: Store
    files: Path
    unchecked: Path
    downloaded: Path


@pytest.fixture(scope="module", params=STORES, ids=lambda one: one[0].extra)
def logged(
    request: pytest.FixtureRequest, stand_in: StandIn, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Logged]:
    """Log references to a store, to which the environment leads the SDK and the mounts."""
    kind, start = request.param
    for module in kind.modules:
        pytest.importorskip(module)
    folder = tmp_path_factory.mktemp(kind.extra)
    with start(folder) as url, pytest.MonkeyPatch.context() as monkeypatch:
        isolate(monkeypatch, folder)
        store = kind(url, monkeypatch)
        for bucket in ("versioned", "plain"):
            store.make(bucket, versioned=bucket == "versioned")
            for key, content in KEYS.items():
                store.put(bucket, key, content)
        arguments = [store.extra, folder / "downloaded"]
        arguments += [store.uri("versioned", "data"), store.uri("plain", "data")]
        entity = stand_in.run_sdk(SDK + LOG, folder / "home", *arguments)
        yield Logged(
            store=store,
            files=Path(entity, "stores", f"{store.extra}-files", "v0"),
            unchecked=Path(entity, "stores", f"{store.extra}-unchecked", "v0"),
            downloaded=folder / "downloaded",
        )


SDK = """
import os, sys
import wandb
if "AZURE_STORAGE_CONNECTION_STRING" in os.environ:
    # The SDK has no setting for another server than Azure's.
    import azure.storage.blob
    real = azure.storage.blob.BlobServiceClient
    azure.storage.blob.BlobServiceClient = lambda *args, **settings: real.from_connection_string(
        os.environ["AZURE_STORAGE_CONNECTION_STRING"]
    )
"""
LOG = """
name, folder, versioned, plain = sys.argv[1:]
with wandb.init(project="stores") as run:
    artifact = wandb.Artifact(f"{name}-files", type="dataset")
    artifact.add_reference(versioned, name="versioned")
    artifact.add_reference(plain, name="plain")
    artifact.add_reference(f"{plain}/large.bin")
    run.log_artifact(artifact).wait().download(folder)
    artifact = wandb.Artifact(f"{name}-unchecked", type="dataset")
    artifact.add_reference(f"{plain}/large.bin", name="name.bin", checksum=False)
    artifact.add_reference(f"{plain}/packed.tar.gz", name="packed", checksum=False)
    artifact.add_reference(plain, name="folder", checksum=False)
    artifact.add_reference(f"{plain}/", name="folder with slash", checksum=False)
    run.log_artifact(artifact).wait()
    print(run.entity)
"""
LOG_URL = """
with wandb.init(project="web") as run:
    artifact = wandb.Artifact("web", type="dataset")
    artifact.add_reference(sys.argv[1])
    run.log_artifact(artifact).wait()
    print(run.entity)
"""


def read_error(path: Path) -> int | None:
    """Return the errno of reading a file, if there is any."""
    try:
        path.read_bytes()
    except OSError as error:
        return error.errno
    return None


def read_all(path: Path) -> bytes:
    """Return a file's bytes."""
    return path.read_bytes()


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder, by their paths."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_mount_shows_what_the_sdk_downloads_and_what_was_logged(
    logged: Logged, mounter: Mounter, tmp_path: Path
) -> None:
    expected = contents(logged.downloaded)
    assert len(expected) == 9
    for path in ("versioned/packed.tar.gz", "plain/packed.tar.gz"):
        # Of some stores the SDK unpacks it, which then has not the size that it has logged.
        assert expected[path] in (PACKED, UNPACKED)
        expected[path] = PACKED
    mount = mounter(cache=tmp_path / "one")
    assert contents(mount.path / logged.files) == expected
    unchecked = mount.path / logged.unchecked
    for name, content in (("name.bin", LARGE), ("packed", PACKED)):
        assert (unchecked / name).stat().st_size == len(content)
        assert (unchecked / name).read_bytes() == content
    for name in ("folder", "folder with slash"):
        assert name in os.listdir(unchecked)
        for use in (os.stat, read_all):
            with pytest.raises(IsADirectoryError):
                use(unchecked / name)
        assert "checksum=True" in mount.errors()[-1]["cause"]

    store = logged.store
    for bucket in ("versioned", "plain"):
        store.put(bucket, "data/large.bin", LATER)
        store.put(bucket, "data/a folder/é+%23 .txt", LATER)
        store.put(bucket, "data/packed.tar.gz", LATER)
        store.delete(bucket, "data/last.txt")
    mount = mounter(cache=tmp_path / "two")
    for path in expected:
        shown = mount.path / logged.files / path
        if store.versions and path.startswith("versioned/"):
            assert shown.read_bytes() == expected[path]
        else:
            assert read_error(shown) == errno.ESTALE, path
    causes = [error["cause"] for error in mount.errors()]
    assert any("no longer the object that was logged" in cause for cause in causes)
    assert any("is gone" in cause for cause in causes)
    # Of this one nothing was logged that could tell.
    assert (mount.path / logged.unchecked / "name.bin").read_bytes() == LATER


WITHOUT = """
import sys
for module in {modules}:
    sys.modules[module] = None
from wbfs.cli.main import main
main()
"""


@pytest.mark.promises("6.9")
def test_a_missing_extra_is_named(logged: Logged, mounter: Mounter, tmp_path: Path) -> None:
    program = tmp_path / "without.py"
    program.write_text(WITHOUT.format(modules=logged.store.modules))
    mount = mounter(program=(sys.executable, str(program)))
    assert read_error(mount.path / logged.files / "large.bin") == errno.EOPNOTSUPP
    advice = f"pip install 'wbfs[{logged.store.extra}]'"
    assert advice in mount.errors()[-1]["cause"]
    assert advice in mount.log()


# One process, which keeps to whoever runs it: the folder is nobody else's to read.
NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {folder}/public;
    }}
}}
"""


@contextmanager
def nginx(folder: Path) -> Iterator[str]:
    """Run nginx, which serves the folder `public`; yield its URL."""
    program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    port = free_port()
    (folder / "public").mkdir()
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=port))
    command = [program, "-c", folder / "nginx.conf", "-p", folder, "-e", folder / "error.log"]
    with running(command, port, folder / "nginx.log") as url:
        yield url


def test_a_web_server_s_file_that_changes_between_two_ranges(
    mounter: Mounter, stand_in: StandIn, tmp_path: Path
) -> None:
    content = random.Random("web").randbytes(12 << 20)
    folder = tmp_path / "nginx"
    folder.mkdir()
    with nginx(folder) as url:
        file = folder / "public" / "large.bin"
        file.write_bytes(content)
        entity = stand_in.run_sdk(SDK + LOG_URL, tmp_path / "logging", f"{url}/large.bin")
        version = Path(entity, "web", "web", "v0")
        assert (
            mounter(cache=tmp_path / "one").path / version / "large.bin"
        ).read_bytes() == content

        begun = mounter(cache=tmp_path / "two")
        with (begun.path / version / "large.bin").open("rb", buffering=0) as opened:
            assert opened.read(4096) == content[:4096]
            # The ETag is made of these two.
            file.write_bytes(content[::-1])
            os.utime(file, (1, 1))
            opened.seek(11 << 20)
            with pytest.raises(OSError, match=os.strerror(errno.ESTALE)):
                opened.read(4096)
        fresh = mounter(cache=tmp_path / "three")
        assert read_error(fresh.path / version / "large.bin") == errno.ESTALE
        assert "its ETag is" in fresh.errors()[-1]["cause"]
        file.unlink()
        gone = mounter(cache=tmp_path / "four")
        assert read_error(gone.path / version / "large.bin") == errno.ESTALE
        assert "is gone" in gone.errors()[-1]["cause"]
