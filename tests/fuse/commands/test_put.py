"""`wbfs put`: what is there becomes a version, once; what mounts show is neither read nor sent."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import prepared
import processes
import pytest
from conftest import Mounter
from lineage import used
from mounts import check, wait_until
from stand_in import LoggedRequest, StandIn

PUT_TIMEOUT_S = 150.0
PROJECT = "admin/putting"
ODD = ("a file", "ünï/cödé", "new\nline", "back\\slash", "col:on", "-dash", "deep/er/still/file")
MADE = ("UpsertBucket", "CreateArtifact", "CreateArtifactFiles")
"""What is asked where a run is made, or something is uploaded."""

Putting = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def env(stand_in: StandIn, tmp_path: Path) -> dict[str, str]:
    return stand_in.env(tmp_path / "home") | {
        "WBFS_CACHE_DIR": str(tmp_path / "cache"),
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "TMPDIR": str(tmp_path / "temporary"),
    }


@pytest.fixture
def put(env: Mapping[str, str], tmp_path: Path) -> Putting:
    """Return what runs `wbfs put WORDS...`, which may leave nothing behind."""
    for name in ("temporary", "working directory"):
        (tmp_path / name).mkdir()

    def put(*words: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
        done = prepared.run_wbfs(
            "put",
            *words,
            env=env | settings,
            folder=tmp_path / "working directory",
            timeout_s=PUT_TIMEOUT_S,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert env["WANDB_API_KEY"] not in done.stdout + done.stderr
        left = [*(tmp_path / "temporary").iterdir(), *(tmp_path / "working directory").iterdir()]
        assert left == []
        return done

    return put


def folder(path: Path) -> Path:
    """Make a folder of files with odd names, links and a folder without files."""
    for name in ODD:
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"content of {name}")
    (path / "empty").mkdir()
    (path / "nothing").touch()
    outside = path.parent / "outside"
    outside.mkdir()
    (outside / "linked to").write_text("by a link to its folder")
    (path / "link to folder").symlink_to(outside)
    (path / "link to file").symlink_to("a file")
    return path


def same(left: Path, right: Path) -> bool:
    """Whether two folders have the same files with the same bytes."""
    return not check("diff", "-r", "-x", "empty", left, right)


def made(server: StandIn) -> list[LoggedRequest]:
    return [one for one in server.requests(port="api") if one.operation in MADE]


@pytest.mark.promises("12.1", "12.2", "12.3", "12.4")
def test_once_below_mounts_and_at_once(
    put: Putting, env: Mapping[str, str], stand_in: StandIn, mounter: Mounter, tmp_path: Path
) -> None:
    first, name = folder(tmp_path / "first"), f"{PROJECT}/bikes"
    # A run's own settings are not those of the run that puts.
    run = f"{PROJECT}/trainer"
    log = "import wandb; wandb.init(entity='admin', project='putting', id='trainer').finish()"
    assert prepared.run_sdk("-c", log, env=env).returncode == 0
    words = ("--type", "dataset", "--alias", "best", "--description", "Bikes", "--metadata")
    done = put(first, name, *words, '{"n": 1}', WANDB_RUN_ID="trainer", WANDB_MODE="disabled")
    assert (done.returncode, done.stdout) == (0, f"{name}:v0\n"), done.stderr
    assert "v0 is new: 10 files" in done.stderr
    assert "1 empty folders are left out" in done.stderr

    # Once more, and with another alias: no run, and no upload.
    stand_in.clear_requests()
    words = ("putting/bikes", "--type", "dataset", "--alias", "second")
    done = put(first, *words, WANDB_ENTITY="admin")
    assert (done.returncode, done.stdout) == (0, f"{name}:v0\n"), done.stderr
    assert "nothing was sent" in done.stderr
    assert "second is v0 now" in done.stderr
    assert made(stand_in) == []

    whole = mounter(program=None).path
    # What it leaves out is in the settings of who mounts, and not of who puts.
    settings = tmp_path / "home1" / "wandb-config" / "settings"
    settings.parent.mkdir(parents=True)
    settings.write_text("[default]\nproject = putting\n")
    narrow = mounter("bikes:best/deep", program=None).path
    shown = whole / "admin/putting/bikes"
    assert same(first, shown / "best")
    assert os.listdir(narrow) == ["er"]
    assert os.getxattr(shown / "second", "user.wandb.description") == b"Bikes"
    assert json.loads(os.getxattr(shown / "second", "user.wandb.metadata")) == {"n": 1}

    # A derived version repeats nearly all of it, by links of all kinds.
    derived = tmp_path / "derived"
    check("cp", "-rs", shown / "latest", derived)
    (derived / "new").write_text("new")
    (derived / "deep" / "new").symlink_to(derived / "new")
    (derived / "all").symlink_to(shown / "v0")
    (stand_in.public_dir / "put.bin").write_bytes(b"elsewhere")
    stand_in.clear_requests()
    reference = ("--reference", f"{stand_in.public_url}/put.bin")
    done = put(derived, name, "--type", "dataset", "--alias", "best", *reference, "--use", run)
    assert (done.returncode, done.stdout) == (0, f"{name}:v1\n"), done.stderr
    assert f"{name}:v1 is an input of {run}" in done.stderr
    for path in (shown / "v1", narrow):
        assert f"wbfs: {path} shows it\n" in done.stderr
    # At once, whatever was believed of the alias.
    assert (shown / "best" / "new").read_text() == "new"
    assert sorted(os.listdir(narrow)) == ["er", "new"]
    (derived / "put.bin").write_bytes(b"elsewhere")
    files = stand_in.requests(port="files")
    # The SDK sends what two files have twice.
    sent = {one.key for one in files if one.method == "PUT" and "wandb_artifacts" in one.key}
    assert len(sent) == 1
    got = [one.key for one in files if one.method == "GET" and one.number < files[-1].number]
    assert [key for key in got if "manifest" not in key and "public" not in key] == []
    assert same(derived, shown / "v1")
    assert used(env, [run, f"{name}:v1"]) == {run: [f"{name}:v1"], f"{name}:v1": [run]}

    # What a mount shows is there already; an alias goes back.
    stand_in.clear_requests()
    done = put(shown / "v0", name, "--type", "dataset", "--alias", "best")
    assert (done.returncode, done.stdout) == (0, f"{name}:v0\n"), done.stderr
    assert made(stand_in) == []
    assert stand_in.requests(port="files", method="PUT") == []
    assert not (shown / "best" / "new").exists()
    assert os.listdir(narrow) == ["er"]


@pytest.mark.promises("12.4")
def test_a_file_that_is_cut_while_it_is_sent_ends_it(
    put: Putting, env: Mapping[str, str], stand_in: StandIn, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(5_000_000))
    key_file = tmp_path / "key"
    key_file.write_text(env["WANDB_API_KEY"])
    settings = {"WANDB_API_KEY": "", "WBFS_TOKEN_FILE": str(key_file)}

    def cut() -> list[processes.Process]:
        wait_until(lambda: stand_in.requests(port="files"), what="it is being sent")
        sending = [one for one in processes.descendants() if "/wbfs-put-" in one.command]
        os.truncate(file, 10)
        return sending

    stand_in.clear_requests()
    with (
        stand_in.faults(port="files", match="wandb_artifacts", delay_s=10.0),
        ThreadPoolExecutor() as beside,
    ):
        cutting = beside.submit(cut)
        done = put(file, f"{PROJECT}/cut", "--type", "dataset", **settings)
        sending = cutting.result()
    # What was in a file is in no list of processes.
    assert sending
    assert not any(env["WANDB_API_KEY"] in one.settings.values() for one in sending)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert f"{file} changes while it is put" in done.stderr


def test_an_upload_that_failed_may_go_better(
    put: Putting, stand_in: StandIn, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("content of what is sent twice")
    words = (file, f"{PROJECT}/failed", "--type", "dataset")
    with stand_in.faults(port="files", match="wandb_artifacts", error_share=1.0, error_status=403):
        done = put(*words)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "the wandb SDK says" in done.stderr
    done = put(*words)
    assert (done.returncode, done.stdout) == (0, f"{PROJECT}/failed:v0\n"), done.stderr


def test_what_can_not_be_put_has_a_reason(
    put: Putting, stand_in: StandIn, mounter: Mounter, tmp_path: Path
) -> None:
    good = tmp_path / "good"
    good.write_text("good")
    wrong = {}
    for number, name in enumerate(("fifo", "circle", "dangling", "not UTF-8", "empty")):
        wrong[name] = tmp_path / f"wrong{number}"
        wrong[name].mkdir()
    os.mkfifo(wrong["fifo"] / "pipe")
    (wrong["circle"] / "up").symlink_to(tmp_path)
    (wrong["dangling"] / "link").symlink_to("nowhere")
    os.close(os.open(os.fsencode(wrong["not UTF-8"]) + b"/\xff", os.O_CREAT))
    mount = mounter(program=None).path
    place, dataset = f"{PROJECT}/wrong", ("--type", "dataset")
    stand_in.clear_requests()
    for words, settings, code, reason in (
        ([place, *dataset], {}, 2, "give a PATH, or --reference"),
        ([good, "nothing", *dataset], {}, 2, "names no artifact"),
        ([good, f"{PROJECT}/a b", *dataset], {}, 2, "no artifact can be named 'a b'"),
        ([good, f"{PROJECT}/..", *dataset], {}, 2, "no artifact can be named '..'"),
        ([good, place, *dataset, "--alias", "a" * 256], {}, 2, "up to 255 bytes"),
        ([good, "wandb-registry-x/wrong", *dataset], {}, 2, "is a registry"),
        ([good, place, *dataset, "--alias", "v7"], {}, 2, "v7 is no alias"),
        ([good, place, *dataset, "--metadata", "[1]"], {}, 2, "no JSON object"),
        ([good, place, *dataset, "--metadata", "@gone"], {}, 2, "No such file"),
        ([good, place, *dataset, "--metadata", '{"a": 1e400}'], {}, 2, "can't be read as JSON"),
        ([good, place, *dataset, "--metadata", r'{"a": "\ud800"}'], {}, 2, "can't be read as JSON"),
        ([good, place, *dataset, "--description", "\udcff"], {}, 2, "it is not UTF-8"),
        ([place, *dataset, "--reference", "/no/uri"], {}, 2, "References must be URIs"),
        ([good, place, *dataset], {"WANDB_API_KEY": "e" * 40}, 77, "API key"),
        ([tmp_path / "gone", place, *dataset], {}, 2, "No such file"),
        ([mount / "admin", place, *dataset], {}, 2, "is above the versions"),
        ([mount / ".wbfs", place, *dataset], {}, 2, "is of the mount itself"),
        ([wrong["fifo"], place, *dataset], {}, 2, "neither a file nor a folder"),
        ([wrong["circle"], place, *dataset], {}, 2, "leads in a circle"),
        ([wrong["dangling"], place, *dataset], {}, 2, "No such file"),
        ([wrong["not UTF-8"], place, *dataset], {}, 2, "not UTF-8"),
        ([wrong["empty"], place, *dataset], {}, 2, "there is no file in it"),
    ):
        done = put(*words, **settings)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert reason in done.stderr
    assert made(stand_in) == []
