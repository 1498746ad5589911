"""`wbfs help`: the pages, that they are found, and that README names each."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from wbfs.cli.help import help_
from wbfs.model.errors import UsageError

ROOT = Path(__file__).parents[3]
PAGES = sorted((ROOT / "wbfs" / "help").glob("*.md"))


def said(*arguments: str) -> str:
    done = CliRunner().invoke(help_, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_the_topics_are_listed() -> None:
    listed = said().splitlines()
    assert [line.split()[2] for line in listed] == [page.stem for page in PAGES]
    assert all(len(line.split()) > 4 for line in listed)


def test_a_page_is_printed_as_it_is() -> None:
    for page in PAGES:
        assert said(page.stem) == page.read_text()


def test_an_unknown_topic_names_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"no help on '\.\./cli'.*cache, containers, fleet, ho"):
        said("../cli")


def test_the_readme_is_short_and_names_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) < 200
    for page in PAGES:
        assert f"`wbfs help {page.stem}`" in readme


def test_every_promise_has_a_test_and_every_test_a_promise() -> None:
    made = re.findall(
        r"^(\d+\.\d+)\. ", (ROOT / "wbfs/help/semantics.md").read_text(), re.MULTILINE
    )
    marks = [
        mark
        for path in (ROOT / "tests").rglob("test_*.py")
        for mark in ast.walk(ast.parse(path.read_text()))
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.promises"
    ]
    shown = {ast.literal_eval(number) for mark in marks for number in mark.args}
    assert len(made) == len(set(made))
    assert set(made) == shown
