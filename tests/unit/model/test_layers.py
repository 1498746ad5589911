"""The rule that each layer imports only those below it: it holds, covers everything, and bites."""

from __future__ import annotations

import ast
import importlib
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPTS = ROOT / "scripts"
TIMEOUT_S = 300


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the contracts of the pyproject.toml in `folder` against the wbfs package there."""
    return subprocess.run(
        [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


def test_the_contracts_hold() -> None:
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_package_is_in_the_contracts() -> None:
    configuration = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers, server, starters, plain = configuration["tool"]["importlinter"]["contracts"]
    found = {
        f"wbfs.{path.relative_to(ROOT / 'wbfs').parts[0].removesuffix('.py')}"
        for path in (ROOT / "wbfs").rglob("*.py")
    } - {"wbfs.__init__"}
    assert set(layers["layers"]) == found - {"wbfs.devserver"}
    assert server["source_modules"] == ["wbfs.devserver"]
    assert set(server["forbidden_modules"]) == found - {"wbfs.devserver", "wbfs.model"}
    assert set(starters["source_modules"]) == found - {"wbfs.devserver", "wbfs.cli"}
    assert set(plain["source_modules"]) == {"wbfs.model", "wbfs.remote", "wbfs.store"}


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*.py")))
def test_scripts_import_what_there_is(script: str) -> None:
    # Most take too long for tests, and nothing else notices what was renamed.
    for node in ast.walk(ast.parse((SCRIPTS / script).read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wbfs"):
            module = importlib.import_module(node.module or "")
            for name in node.names:
                if not hasattr(module, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")


@pytest.mark.parametrize(
    ("module", "offence", "contract"),
    [
        ("store/content/blobs.py", "import wbfs.fs.tree", "Each layer imports only those below it"),
        (
            "model/names.py",
            "import wbfs.remote",
            "Each layer imports only those below it",
        ),
        (
            "devserver/objects/files.py",
            "import wbfs.store",
            "The stand-in server imports the model only",
        ),
        ("fs/tree.py", "import wbfs.devserver", "Only the command line starts the stand-in server"),
        ("remote/api/graphql.py", "import trio", "Model, remote and store know nothing of trio"),
    ],
)
def test_an_offence_is_found(tmp_path: Path, module: str, offence: str, contract: str) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "wbfs", tmp_path / "wbfs", ignore=shutil.ignore_patterns("__pycache__"))
    with (tmp_path / "wbfs" / module).open("a") as file:
        file.write(f"\n{offence}\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    assert f"{contract} BROKEN" in done.stdout, done.stdout + done.stderr
