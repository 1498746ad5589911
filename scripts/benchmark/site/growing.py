"""Artifacts of growing sizes, by which a cost's growth is measured."""

from __future__ import annotations

from large_manifest import log_version_of
from population import Population
from stand_in import StandIn

from benchmark.programs import PROJECT

FACTORS = (1, 10, 100)
FOLDER_FILES = 100
"""Of `deep-...`, in each of its folders."""
VERSIONS_SHARE = 50
"""So many times fewer versions are there than files."""


def growing_sizes(least: int) -> list[int]:
    """Return how many files there are, in one artifact after the other."""
    return [least * factor for factor in FACTORS]


def log_growing(stand_in: StandIn, entity: str, least: int) -> None:
    """Log, for each size, that many files in one folder, in many, and a share of it as versions."""
    population = Population(stand_in)
    for files in growing_sizes(least):
        for name, folders, largest in (
            (f"flat-{files}", 0, files),
            (f"deep-{files}", max(1, files // FOLDER_FILES), 0),
        ):
            log_version_of(
                stand_in,
                name,
                folders=folders,
                files_per_folder=FOLDER_FILES,
                large_folder=largest,
                project=PROJECT,
                entity=entity,
            )
        versions = files // VERSIONS_SHARE
        population.add_versions(entity, PROJECT, f"versions-{versions}", versions)
