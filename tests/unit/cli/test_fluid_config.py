"""`wbfs fluid`: what becomes of what Fluid writes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click
import pytest

from wbfs.cli.mounts import fluid as module
from wbfs.cli.mounts.fluid import fluid
from wbfs.model.errors import UsageError

MOUNT = {"mountPoint": "wandb://team/project/data:v3/images", "name": "data", "path": "/"}
CONFIG = {"mounts": [MOUNT], "targetPath": "/runtime-mnt/thin/default/data/thin-fuse"}


@pytest.fixture
def mounted(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return what would have been mounted, by the options' names."""
    found: list[dict[str, Any]] = []

    def invoke(context: click.Context) -> None:
        found.append(context.params)

    monkeypatch.setattr(module.mount, "invoke", invoke)
    # What it does to the environment is undone.
    monkeypatch.setenv("WANDB_BASE_URL", "https://elsewhere.example")
    monkeypatch.setenv("WBFS_SOURCE", "another/project")
    return found


def run_on(document: object, folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    fluid.main(["--config", str(path)], standalone_mode=False)


def test_the_nearest_options_go_first(
    mounted: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOUNT_OPTIONS", "ro,cache-size=1GB,alias_ttl=1,timeout=7")
    options = {"alias-ttl": "3", "pin": "", "offline": "false", "base-url": "https://a.example"}
    options["token-file"] = "/etc/fluid/secrets/wandb/api-key"
    document = CONFIG | {
        "mounts": [MOUNT | {"options": options}],
        "runtimeOptions": {"alias-ttl": "2", "cache-size": "2GB"},
        "accessModes": ["ReadOnlyMany"],
        "persistentVolumeAttrs": {},
    }
    run_on(document, tmp_path)
    (found,) = mounted
    assert found["source_and_mountpoint"] == ("team/project/data:v3/images", CONFIG["targetPath"])
    assert all(found[name] for name in ("foreground", "make_dir", "allow_other"))
    assert (found["alias_ttl"], found["timeout"], found["cache_size"]) == (3, 7, 2 * 10**9)
    assert (found["pin"], found["offline"]) == (True, False)
    assert found["token_file"] == Path("/etc/fluid/secrets/wandb/api-key")
    assert os.environ["WANDB_BASE_URL"] == "https://a.example"
    assert "WBFS_SOURCE" not in os.environ


def test_numbers_and_truths_are_what_they_say(
    mounted: list[dict[str, Any]], tmp_path: Path
) -> None:
    options = {"pin": True, "offline": False, "alias-ttl": 0, "timeout": 7.5, "debug": None}
    run_on(CONFIG | {"runtimeOptions": options}, tmp_path)
    (found,) = mounted
    assert (found["pin"], found["offline"], found["debug"]) == (True, False, True)
    assert (found["alias_ttl"], found["timeout"]) == (0, 7.5)


def test_everything_is_a_source(mounted: list[dict[str, Any]], tmp_path: Path) -> None:
    run_on(CONFIG | {"mounts": [MOUNT | {"mountPoint": "wandb://"}]}, tmp_path)
    assert mounted[0]["source_and_mountpoint"] == (CONFIG["targetPath"],)


def with_options(**options: str) -> dict[str, object]:
    return CONFIG | {
        "mounts": [MOUNT | {"options": {k.replace("_", "-"): v for k, v in options.items()}}]
    }


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{hunter2", "is no JSON"),
        ([], "is not what Fluid writes"),
        ({"mounts": [MOUNT]}, "is not what Fluid writes: it needs a targetPath"),
        (CONFIG | {"mounts": [{}]}, "is not what Fluid writes: it needs a targetPath"),
        (CONFIG | {"mounts": None}, "has 0 mounts"),
        (CONFIG | {"targetPath": None}, "is not what Fluid writes"),
        (CONFIG | {"targetPath": ""}, "is not what Fluid writes"),
        (CONFIG | {"mounts": [MOUNT | {"mountPoint": None}]}, "is not what Fluid writes"),
        (CONFIG | {"mounts": [MOUNT | {"options": ["pin"]}]}, "is not what Fluid writes"),
        (CONFIG | {"runtimeOptions": "pin"}, "is not what Fluid writes"),
        (CONFIG | {"runtimeOptions": {"pin": {"a": "hunter2"}}}, "options are texts"),
        (CONFIG | {"mounts": [MOUNT, MOUNT]}, "has 2 mounts, and wbfs fluid makes one"),
        (with_options(alow_other=""), "no option 'alow-other': there are .*, and base-url"),
        (with_options(foreground=""), "no option 'foreground'"),
        (with_options(pin="hunter2"), "the option pin takes no value"),
        # A secret where its file's path should be.
        (with_options(token_file="hunter2"), "token-file must be the path of a file"),
        (with_options(api_key="hunter2"), "no option 'api-key'"),
    ],
)
def test_what_is_wrong_is_said_without_secrets(
    mounted: list[dict[str, Any]], tmp_path: Path, document: object, words: str
) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        run_on(document, tmp_path)
    assert not mounted
    assert "hunter2" not in str(raised.value)


def test_a_file_that_is_not_there(mounted: list[dict[str, Any]], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"can't read .*none.json: No such file .* deploy fluid"):
        fluid.main(["--config", str(tmp_path / "none.json")], standalone_mode=False)
