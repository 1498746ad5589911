"""A run that reads what is mounted.

Arguments: its project, the folder that it reads, and one that it only names.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import wandb

project, folder, named = sys.argv[1:]

with wandb.init(project=project, job_type="train") as run:
    sizes = [len(path.read_bytes()) for path in Path(folder).rglob("*.*")]
    # What a trainer may say itself, with nothing of wbfs installed.
    run.use_artifact(os.getxattr(named, "user.wandb.name").decode())
    print(run.path)
