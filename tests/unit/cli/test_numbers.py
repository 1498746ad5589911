"""Options that are numbers take none that nothing can be done with, whatever command has them."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from contextlib import suppress

import click
import pytest

from wbfs.cli.main import commands

WORDS = ("-1", "0", "9", "1e10", "1e300", "nan", "inf", "-inf", "7777", "99999", "8EiB", "9" * 400)
"""Numbers that people and programs give, and some that are none."""

READY = select.poll()
READY.register(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))


def all_of(group: click.Group) -> Iterator[click.Command]:
    """Yield a group's commands, and those of the groups in it."""
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from all_of(command)
        else:
            yield command


NUMBERS = {
    f"{command.name} {option.opts[-1]}": option
    for command in all_of(commands)
    for option in command.params
    if isinstance(option.type, type(click.INT) | type(click.FLOAT))
    or option.type.name in ("size", "octal")
}


def taken(option: click.Parameter) -> set[float]:
    """Return what an option makes of the words that it takes."""
    numbers: set[float] = set()
    for word in WORDS:
        with suppress(click.BadParameter):
            numbers.add(option.type.convert(word, option, None))
    return numbers


@pytest.mark.parametrize("name", NUMBERS)
def test_what_is_taken_can_be_used(name: str) -> None:
    numbers = taken(NUMBERS[name])
    # 0 may be as good as none; a limit that lets nothing through isn't.
    least = 1 if "--manifest-limit" in name else 0
    assert all(least <= number < 1 << 63 for number in numbers), numbers
    if NUMBERS[name].metavar == "SECONDS":
        for seconds in numbers:
            assert READY.poll(seconds * 1000)
    if "port" in name:
        assert max(numbers) <= 65535
    if name.endswith("--umask"):
        assert numbers == {0}
