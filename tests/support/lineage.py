"""What W&B's runs have as inputs, as the real SDK tells it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import prepared

TELL = """
import json, sys, wandb
api = wandb.Api()
told = {}
for path in sys.argv[1:]:
    if ":" in path:
        told[path] = sorted("/".join(run.path) for run in api.artifact(path).used_by())
    else:
        told[path] = sorted(one.source_qualified_name for one in api.run(path).used_artifacts())
print(json.dumps(told))
"""


def used(env: Mapping[str, str], paths: Iterable[str]) -> dict[str, list[str]]:
    """Return of runs which versions they used, and of versions which runs used them."""
    done = prepared.run_sdk("-c", TELL, *paths, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    told: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return told
