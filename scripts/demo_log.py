"""Log the demo's artifacts with the wandb SDK, as anybody would. Argument: the data's folder."""

from __future__ import annotations

import sys
from pathlib import Path

import wandb

data = Path(sys.argv[1])
PROJECT = "first-steps"
TEAM = "birds"

with wandb.init(project=PROJECT, job_type="upload") as run:
    bikes = wandb.Artifact("bike-dataset", type="dataset", description="Pictures of bicycles")
    bikes.add_file(str(data / "bike.png"))
    bikes.add_dir(str(data / "images" / "bikes"), name="images/bikes")
    run.log_artifact(bikes, aliases=["small"]).wait()

    more = wandb.Artifact(
        "bike-dataset",
        type="dataset",
        description="Pictures of bicycles, and two years of rentals",
        metadata={"pictures": 4, "source": "a bicycle rental"},
    )
    more.add_file(str(data / "bike.png"))
    more.add_file(str(data / "rentals.csv"))
    more.add_dir(str(data / "images"), name="images")
    run.log_artifact(more, aliases=["best"], tags=["demo"]).wait()

with wandb.init(project=PROJECT, job_type="train") as run:
    run.use_artifact("bike-dataset:best")
    model = wandb.Artifact("speech-detector", type="model", metadata={"format": "onnx"})
    model.add_dir(str(data / "silero"))
    run.log_artifact(model, aliases=["production"]).wait()

with wandb.init(entity=TEAM, project="field-work", job_type="upload") as run:
    penguins = wandb.Artifact("penguins", type="dataset")
    penguins.add_dir(str(data / "penguins"))
    run.log_artifact(penguins).wait()
