"""Random steps in a world of real mounts.

A step is something that is done to the server, the cache, the disk or a daemon; after each,
programs use the mounts and everything is looked at. Chance decides by a number, so that a run can
be had again; real mounts are slow, and not the same twice, so that nothing tries to make a failing
run shorter.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import closing

from faults import FAULTS
from world import World

FAULTS_OF_A_RUN = 10
MOST_VERSIONS = 8
ALIASES = ("latest", "best", "old one")
PARTS = ("", "", "blobs", "partial", "manifests", "catalog.sqlite")
CACHE_COMMANDS = (("clear",), ("prune", "--to", "10MB"), ("verify",))


class Steps:
    """The steps of one run."""

    def __init__(
        self, world: World, *, number: int, with_the_sdk: bool, daemons_end: bool = True
    ) -> None:
        """`with_the_sdk` has the real SDK take part, which takes seconds each time.

        Without `daemons_end` all mounts stay.
        """
        self._world = world
        self._chance = random.Random(number)
        # Fewer at a time, so that each meets the others often enough.
        self._faults = self._chance.sample(sorted(FAULTS), FAULTS_OF_A_RUN)
        self._kinds: list[Callable[[], None]] = [
            *[self._fault] * 5,
            *[self._change] * 2,
            *[self._disturb] * 2,
            *[self._command] * 3,
            *[self._use_the_sdk] * with_the_sdk,
            *[self._end_daemon] * 2 * daemons_end,
        ]

    def step(self) -> None:
        """Do one step, and see what comes of it. Raises Violation."""
        self._chance.choice(self._kinds)()
        self._world.use(ALIASES, self._chance)
        self._world.look()

    def _mount(self) -> int:
        return self._chance.randrange(len(self._world.mounts))

    def _fault(self) -> None:
        if not self._world.is_calm and self._chance.random() < 0.5:
            self._world.calm()
        else:
            self._world.fault(self._chance.choice(self._faults))

    def _change(self) -> None:
        # The server would fail us, too.
        self._world.calm()
        chance = self._chance
        what = chance.choice(["log", "move", "move", "delete"])
        if what == "log" and len(self._world.versions) < MOST_VERSIONS:
            self._world.log_version()
        elif what == "delete":
            self._world.delete_alias(chance.choice(ALIASES))
        else:
            self._world.move_alias(chance.choice(ALIASES), chance)

    def _disturb(self) -> None:
        match self._chance.choice(["fill", "free", "remove"]):
            case "fill":
                self._world.fill_disk()
            case "free":
                self._world.free_disk()
            case _:
                self._world.remove_cache(self._chance.choice(PARTS))

    def _end_daemon(self) -> None:
        end = self._chance.choice([self._world.kill, self._world.remount])
        end(self._mount())

    def _command(self) -> None:
        match self._chance.choice(["get", "prefetch", "cache"]):
            case "get":
                self._world.get(self._chance)
            case "prefetch":
                self._world.prefetch(self._mount(), self._chance)
            case _:
                self._world.cache_command(*self._chance.choice(CACHE_COMMANDS))

    def _use_the_sdk(self) -> None:
        if self._chance.random() < 0.5 and len(self._world.versions) < MOST_VERSIONS:
            self._world.calm()
            self._world.log_with_the_sdk()
        else:
            self._world.sdk_download(self._chance)


def run_steps(world: World, *, number: int, steps: int, with_the_sdk: bool = False) -> None:
    """Do so many steps, let all of it come to rest, and take it down. Raises Violation."""
    with closing(world):
        taken = Steps(world, number=number, with_the_sdk=with_the_sdk)
        for _ in range(steps):
            taken.step()
        world.settle()
