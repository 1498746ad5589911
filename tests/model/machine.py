"""Random steps in a world of real mounts, as a hypothesis state machine.

Its rules are what is done to the world; after each, programs use the mounts. Real mounts are slow
and not the same twice: what fails is reported with its steps, and not shrunk.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cached_property

from faults import FAULTS
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    precondition,
    rule,
    run_state_machine_as_test,
)
from judge import Violation
from world import World

ALIASES = ("latest", "best", "old one")
MOST_VERSIONS = 8

mounts = st.integers(0, 1)
aliases = st.sampled_from(ALIASES)
chances = st.integers(0, 1 << 16).map(random.Random)


class Machine(RuleBasedStateMachine):
    """The steps. There are few rules, since hypothesis leaves out some of them in each run."""

    make_world: Callable[[], World]
    """Makes the world of one run; set by whoever runs the machine."""
    violation: Violation | None = None
    """What was found: hypothesis wants to see it twice, and it takes too long to come again."""

    @cached_property
    def world(self) -> World:
        """The world, made at the first step: hypothesis' first run is always one of no steps."""
        if type(self).violation is not None:
            raise type(self).violation
        return type(self).make_world()

    def teardown(self) -> None:
        """Let all of it come to rest, which must be in order, and take it down."""
        if "world" not in vars(self):
            return
        judge = self.world.judge
        try:
            if judge.violation is None:
                self.world.settle()
        finally:
            type(self).violation = judge.violation
            self.world.close()

    def check_invariants(self, *args: object, **kwargs: object) -> None:
        """Have programs use the mounts after each step, and look at everything."""
        super().check_invariants(*args, **kwargs)
        if "world" in vars(self):
            self.world.use(ALIASES)
            self.world.look()

    @rule(name=st.sampled_from(["calm", *sorted(FAULTS)]))
    def fault(self, name: str) -> None:
        """Have the server fail in one way, in another, or not."""
        if name == "calm":
            self.world.calm()
        else:
            self.world.fault(name)

    @precondition(lambda self: self.world.is_calm)
    @rule(what=st.sampled_from(["log", "move", "move", "delete"]), alias=aliases, chance=chances)
    def change(self, what: str, alias: str, chance: random.Random) -> None:
        """Change what there is on the server."""
        match what:
            case "log" if len(self.world.versions) < MOST_VERSIONS:
                self.world.log_version()
            case "delete":
                self.world.delete_alias(alias)
            case _:
                self.world.move_alias(alias, chance)

    @rule(
        what=st.sampled_from(["fill", "free", "kill", "remount", "rm"]),
        part=st.sampled_from(["", "blobs", "partial", "manifests", "catalog.sqlite"]),
        mount=mounts,
    )
    def disturb(self, what: str, part: str, mount: int) -> None:
        """Do something to the disk, the cache or a daemon."""
        match what:
            case "fill":
                self.world.fill_disk()
            case "free":
                self.world.free_disk()
            case "kill":
                self.world.kill(mount)
            case "remount":
                self.world.remount(mount)
            case _:
                self.world.remove_cache(part)

    @rule(
        words=st.sampled_from(["clear", "prune --to 10MB", "verify", "get", "prefetch"]),
        mount=mounts,
        chance=chances,
    )
    def command(self, words: str, mount: int, chance: random.Random) -> None:
        """Run a command beside the mounts."""
        match words:
            case "get":
                self.world.get(chance)
            case "prefetch":
                self.world.prefetch(mount, chance)
            case _:
                self.world.cache_command(*words.split())


class MachineWithTheSdk(Machine):
    """The steps, and those that take the real SDK seconds each."""

    @rule(chance=chances)
    def use_the_sdk(self, chance: random.Random) -> None:
        """Log a version, or download one, with the SDK; not every time, it takes so long."""
        match chance.randrange(6):
            case 0 if self.world.is_calm and len(self.world.versions) < MOST_VERSIONS:
                self.world.log_with_the_sdk()
            case 1 | 2:
                self.world.sdk_download(chance)


def run_steps(
    machine: type[Machine], *, number: int, steps: int, make_world: Callable[[], World]
) -> None:
    """Do so many steps, which the number decides. Raises Violation."""

    class Numbered(machine):  # type: ignore[misc, valid-type]
        violation = None

    Numbered.make_world = staticmethod(make_world)
    try:
        run_state_machine_as_test(
            seed(number)(Numbered),
            settings=settings(
                # The first is the one of no steps.
                max_examples=2,
                stateful_step_count=steps,
                deadline=None,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            ),
        )
    except Exception:
        # Of a violation hypothesis says that it does not come again in the same way.
        if Numbered.violation is None:
            raise
    if Numbered.violation is not None:
        raise Numbered.violation
