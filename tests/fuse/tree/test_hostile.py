"""A manifest made to attack is mounted without harm, and reported."""

from __future__ import annotations

import base64
import errno
import hashlib
import json
import os
from pathlib import Path

import pytest
from conftest import Mounter
from hostile_manifests import DEEP, MD5, STRANGE_VALUES
from mounts import WBFS, check, run
from stand_in import StandIn

from wbfs.model.entries import MAX_REPORTED

LOG = """
import wandb
with wandb.init(project="hostile") as run:
    artifact = wandb.Artifact("attack", type="dataset")
    with artifact.new_file("good.txt") as file:
        file.write("good")
    run.log_artifact(artifact).wait()
    print(run.entity)
"""
BAD = [
    "../x",
    "../../../../tmp/escaped",
    "/etc/passwd",
    "a/../../x",
    "a//b",
    "./c",
    "d/.",
    "",
    "x" * 300,
    "folder/" + "y" * 300,
    "nul\0byte",
    "both",
    "lone\ud800surrogate",
]


def logged(server: StandIn, home: Path) -> tuple[str, Path]:
    """Log an artifact of one file; return the entity, and where the manifest is."""
    entity = server.run_sdk(LOG, home)
    # As a server that was taken over, or an old client, would: behind the SDK's back.
    [path] = [
        path for path in server.data_dir.rglob("*.json") if b'"good.txt"' in path.read_bytes()
    ]
    return entity, path


@pytest.mark.promises("1.6")
def test_attack(mounter: Mounter, fresh_stand_in: StandIn, tmp_path: Path) -> None:
    server = fresh_stand_in
    entity, path = logged(server, tmp_path / "home")
    manifest = json.loads(path.read_text())
    good = manifest["contents"]["good.txt"]
    for name in BAD:
        manifest["contents"][name] = dict(good, local_path="/etc/shadow")
    manifest["contents"]["both/inner.txt"] = good
    manifest["contents"]["no-object"] = "text"
    manifest["contents"]["no-digest"] = {"digest": "not base64!", "size": 4}
    manifest["contents"]["negative"] = dict(good, size=-1)
    manifest["contents"]["café/日本語.txt"] = good
    path.write_text(json.dumps(manifest))

    mount = mounter(server=server)
    version = mount.path / entity / "hostile/attack/v0"
    found = sorted(check("find", version, "-type", "f", "-printf", "%P\n").splitlines())
    assert found == ["both/inner.txt", "café/日本語.txt", "good.txt"]
    assert check("cat", version / "good.txt") == "good"
    check("cp", "-r", version, tmp_path / "copy")
    assert sorted(os.listdir(tmp_path / "copy")) == ["both", "café", "good.txt"]
    assert not Path("/tmp/escaped").exists()
    assert not [path for path in tmp_path.rglob("*") if path.name in ("x", "escaped")]

    [left_out] = mount.status()["left_out"].values()
    assert left_out["count"] == len(BAD) + 3
    reasons = dict(left_out["report"])
    assert reasons["/etc/passwd"] == "its path is absolute"
    assert reasons["both"] == "its name is also a folder's"
    assert f"{len(BAD) + 3} entries are left out" in mount.log()
    assert "does not match" in mount.log()


def test_a_name_forges_no_line_of_the_log(
    mounter: Mounter, fresh_stand_in: StandIn, tmp_path: Path
) -> None:
    server = fresh_stand_in
    entity = server.run_sdk(LOG, tmp_path / "home")
    [path] = [
        path for path in server.data_dir.rglob("*.json") if b'"good.txt"' in path.read_bytes()
    ]
    manifest = json.loads(path.read_text())
    name = "a\n2026-11-25 10:00:00,000 ERROR forged: \x1b[2J\u202e"
    # The server knows no file of that name, so that reading it fails.
    manifest["contents"][name] = manifest["contents"].pop("good.txt")
    manifest["contents"][name]["digest"] = "1B2M2Y8AsgTpgAmY7PhCfg=="
    path.write_text(json.dumps(manifest))
    mount = mounter(server=server, options=["--timeout", "20"])
    with pytest.raises(OSError, match="error|timed out") as caught:
        (mount.path / entity / "hostile/attack/v0" / name).read_bytes()
    assert caught.value.errno in (errno.EIO, errno.ETIMEDOUT)
    log = mount.log()
    assert r"a\n2026-11-25 10:00:00,000 ERROR forged: \x1b[2J\u202e" in log
    assert not [line for line in log.split("\n") if line.startswith("2026-11-25 10:00:00,000")]
    assert all(line.isprintable() for line in log.split("\n"))
    # JSON is its readers' to show, and has it escaped.
    assert "\x1b" not in (mount.path / ".wbfs/errors.jsonl").read_text()


@pytest.mark.promises("1.6")
def test_rows_that_no_program_wrote(
    mounter: Mounter, fresh_stand_in: StandIn, tmp_path: Path
) -> None:
    server = fresh_stand_in
    entity, path = logged(server, tmp_path / "home")
    rows = [
        b'"%s %d":{"digest":%s,"%s":%s}' % (field, number, MD5, field, value)
        for field in (b"size", b"ref", b"extra", b"digest")
        for number, value in enumerate(STRANGE_VALUES)
    ]
    text = path.read_bytes()
    at = text.index(b'"good.txt"')
    path.write_bytes(text[:at] + b",".join([b'"deep":' + DEEP, *rows, text[at:]]))
    mount = mounter(server=server, options=["--timeout", "20"])
    version = mount.path / entity / "hostile/attack/v0"
    assert (version / "good.txt").read_text() == "good"
    shown = os.listdir(version)
    # It fails where nobody can tell a reference's size, and lists the others.
    assert "good.txt" in run("ls", "-l", version).stdout
    [left_out] = mount.status()["left_out"].values()
    assert left_out["count"] + len(shown) == len(rows) + 2
    assert len(left_out["report"]) == MAX_REPORTED
    beyond = STRANGE_VALUES.index(b"9223372036854775808")
    assert f"size {beyond}" not in shown
    assert (version / f"size {beyond - 1}").stat().st_size == (1 << 63) - 1
    # Whatever there is to be read, or not, the mount goes on.
    unreachable = STRANGE_VALUES.index(b'"http://h/x"')
    for name in set(shown) - {f"ref {unreachable}"}:
        run("head", "-c", "1", version / name)
    assert (version / "good.txt").read_text() == "good"
    assert not any(error["error"] == "Defect" for error in mount.errors())
    assert "Traceback" not in mount.log()


LIMIT = {
    "option": {"options": ["--manifest-limit=5MB"]},
    "environment": {"program": ("env", "WBFS_MANIFEST_LIMIT=5MB", *WBFS)},
}


@pytest.mark.parametrize("by", LIMIT)
def test_a_manifest_beyond_the_limit(
    mounter: Mounter, fresh_stand_in: StandIn, tmp_path: Path, by: str
) -> None:
    server = fresh_stand_in
    entity, path = logged(server, tmp_path / "home")
    path.write_bytes(path.read_bytes() + b" " * 9_000_000)
    mount = mounter(server=server, **LIMIT[by])
    version = mount.path / entity / "hostile/attack/v0"
    server.clear_requests()
    assert "Input/output error" in run("ls", version).stderr
    cause = mount.errors()[-1]["cause"]
    assert f"the manifest of {entity}/hostile/attack:v0 has more than 5000000 bytes" in cause
    assert "--manifest-limit" in cause
    # Nor is it asked for again at once: it would be as large.
    assert len(server.requests(operation="FetchArtifactManifest")) == 1
    [folder] = (tmp_path / "cache/manifests").iterdir()
    assert os.listdir(folder) == []
    mount = mounter(server=server, options=["--manifest-limit", "10MB"])
    assert os.listdir(mount.path / entity / "hostile/attack/v0") == ["good.txt"]


LOG_TWO = """
import wandb
from wandb.sdk.lib.hashutil import b64_to_hex_id
ids = []
with wandb.init(project="hostile") as run:
    for name in ("inner", "outer"):
        artifact = wandb.Artifact(name, type="dataset")
        with artifact.new_file(f"{name}.txt") as file:
            file.write(name)
        run.log_artifact(artifact).wait()
        ids.append(b64_to_hex_id(artifact.id))
    print(f"{ids[0]}/{run.entity}")
"""


def test_no_file_of_this_machine_is_shown_through_two_artifacts(
    mounter: Mounter, fresh_stand_in: StandIn, tmp_path: Path
) -> None:
    server = fresh_stand_in
    inner, entity = server.run_sdk(LOG_TWO, tmp_path / "home").split("/")
    secrets = {"small": b"a secret", "large": b"a large secret" * (1 << 19)}
    contents: dict[str, dict[str, dict[str, object]]] = {"inner.txt": {}, "outer.txt": {}}
    for name, secret in secrets.items():
        (tmp_path / name).write_bytes(secret)
        row: dict[str, object] = {"digest": json.loads(MD5), "size": len(secret)}
        contents["inner.txt"][name] = row | {"ref": (tmp_path / name).as_uri()}
        row |= {"ref": f"wandb-artifact://{inner}/{name}"}
        # Only a digest that is the file's shows it.
        right = base64.b64encode(hashlib.md5(secret).digest()).decode()
        for kind, digest in {"other": row["digest"], "none": "none", "right": right}.items():
            contents["outer.txt"][f"{name}-{kind}"] = row | {"digest": digest}
    for path in server.data_dir.rglob("*.json"):
        for name, rows in contents.items():
            if f'"{name}"'.encode() in path.read_bytes():
                path.write_text(json.dumps(json.loads(path.read_text()) | {"contents": rows}))
    # It is the mount that is told to read files for artifacts.
    options = ["--allow-other", "--allow-file-references", "--timeout", "20"]
    mount = mounter(server=server, options=options)
    version = mount.path / entity / "hostile/outer/v0"
    assert len(os.listdir(version)) == len(contents["outer.txt"])
    for name, secret in secrets.items():
        for kind in ("other", "none"):
            with (
                pytest.raises(OSError, match="Stale"),
                (version / f"{name}-{kind}").open("rb") as file,
            ):
                file.read(4096)
        assert (version / f"{name}-right").read_bytes() == secret
    assert all("on this machine" in error["cause"] for error in mount.errors())
