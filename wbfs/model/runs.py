"""W&B's runs, and which versions are inputs of them."""

from __future__ import annotations

from dataclasses import dataclass

from wbfs.model.errors import NameInvalid
from wbfs.model.names import is_safe_component


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run of a project; `name` is what W&B shows as the run's id."""

    entity: str
    project: str
    name: str

    @property
    def path(self) -> str:
        """`entity/project/run`, as the SDK writes it."""
        return f"{self.entity}/{self.project}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A version that a run has as an input, or will have once the server is told.

    `version` is what it was called when it was used, `entity/project/collection:vN`; `artifact_id`
    is the same by all of its names. A run that isn't known yet is the path of its transaction log.
    """

    run: Run | str
    artifact_id: str
    version: str


def parse_run(text: str, *, default_entity: str = "", default_project: str = "") -> Run:
    """Parse `[[ENTITY/]PROJECT/]RUN`; the defaults fill in what is left out. Raises NameInvalid."""
    parts = text.strip("/").split("/")
    if len(parts) < 3:
        parts = [*(default_entity, default_project)[: 3 - len(parts)], *parts]
    if len(parts) != 3 or not all(map(is_safe_component, parts)):
        raise NameInvalid(
            f"{text!r} is no run: give ENTITY/PROJECT/RUN, where RUN is the run's id as in its"
            " page's address, or set WANDB_ENTITY and WANDB_PROJECT"
        )
    entity, project, name = parts
    return Run(entity=entity, project=project, name=name)
