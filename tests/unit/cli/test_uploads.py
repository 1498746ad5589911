"""`wbfs put`, without a mount: files that change, the SDK's process, and where there is none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import processes
import pytest
from click.testing import CliRunner
from mounts import wait_until

from wbfs.cli.main import commands
from wbfs.cli.uploads.entries import Tally, Watch, read_all
from wbfs.cli.uploads.sdk import run_sdk
from wbfs.model.errors import NotNow, StoreError, UsageError
from wbfs.remote.credentials import load_credentials
from wbfs.store.content.hashing import RunningDigest


def nobody_waits() -> None:
    """Stand for a command that goes on."""


@pytest.mark.promises("12.4")
def test_a_file_that_changes_meanwhile_is_not_put(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: tmp_path / name for name in ("a", "b")}
    for path in files.values():
        path.write_text("content")
    tally = Tally()
    drafts = read_all(files, tally, checkpoint=nobody_waits)
    assert [draft.digest for draft in drafts] == ["mgNkuembtIDdJeHwKEyFVQ=="] * 2
    assert (tally.done, tally.files, tally.position, tally.bytes) == (2, 2, 14, 14)
    watch = Watch(drafts, checkpoint=nobody_waits)
    watch.look()
    files["b"].write_text("CONTENT")
    with pytest.raises(NotNow, match="b changes while it is put"):
        watch.look()

    normal = RunningDigest.advance

    def advance(self: RunningDigest, stop: int) -> None:
        normal(self, stop)
        with files["a"].open("a") as file:
            file.write("more")

    monkeypatch.setattr(RunningDigest, "advance", advance)
    with pytest.raises(NotNow, match="a changes while it is put"):
        read_all({"a": files["a"]}, tally, checkpoint=nobody_waits)
    monkeypatch.undo()
    files["a"].unlink()
    with pytest.raises(UsageError, match="can't read .*a: No such file"):
        read_all(files, tally, checkpoint=nobody_waits)


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


ORDER = {"name": "n", "type": "t", "description": None, "metadata": {}, "entries": []}


@pytest.mark.usefixtures("credentials")
def test_the_sdk_leaves_nothing_behind_and_tells_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(Exception):
        """Stands for a signal."""

    def interrupt() -> None:
        raise Interrupted

    started = processes.note_starts(monkeypatch)
    order = ORDER | {"references": []}
    with pytest.raises(Interrupted):
        run_sdk(order, load_credentials(), timeout_s=1, checkpoint=interrupt)
    assert [one.returncode is not None for one in started] == [True]
    wait_until(lambda: not _left(tmp_path), what="what the SDK started has ended")
    assert os.listdir(tmp_path) == []

    secret = f"file://user:pass@/gone?signature={'k' * 40}"
    order = ORDER | {"references": [secret]}
    with pytest.raises(UsageError, match="the wandb SDK says") as caught:
        run_sdk(order, load_credentials(), timeout_s=1, checkpoint=nobody_waits)
    assert not any(text in str(caught.value) for text in ("k" * 40, "pass", "signature"))
    assert os.listdir(tmp_path) == []


def _left(folder: Path) -> list[processes.Process]:
    return [one for one in processes.descendants() if str(folder) in one.command]


@pytest.mark.usefixtures("credentials")
def test_no_temporary_folder_is_an_error_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(StoreError, match="No such file or directory; make room .* TMPDIR"):
        run_sdk(
            ORDER | {"references": []}, load_credentials(), timeout_s=1, checkpoint=nobody_waits
        )


def test_without_the_sdk_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r"run pip install 'wbfs\[put\]'"):
        CliRunner().invoke(commands, ["put", ".", "a/b", "--type", "t"], catch_exceptions=False)
