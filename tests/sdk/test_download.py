"""Every way of the real SDK to download gives the bytes that were logged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sdk import run_program
from stand_in import StandIn

pytestmark = pytest.mark.sdk

ODD = "other/odd name & ü?#.bin"
BIKES = {"images/bikes/1.txt": 1, "images/bikes/2.txt": 1}
SIZES = BIKES | {"images/bikes2/3.txt": 1, ODD: 256 * 20000, "root.txt": 4}


def check(result: Any) -> None:
    assert result["digest"][0] == result["digest"][2]
    assert result["entry"] == {Path(ODD).name: SIZES[ODD]}
    assert result["prefix"] == BIKES
    assert result["no_slash"] == BIKES | {"images/bikes2/3.txt": 1}
    assert result["parts"] == result["root"] == result["checkout"] == SIZES
    assert result["equal"] is True
    assert result["corrupt"] == "Digest mismatch for file: root.txt"


@pytest.mark.parametrize("algorithm", ["md5", "xxh128"])
def test_layout_v2(stand_in: StandIn, tmp_path: Path, algorithm: str) -> None:
    environment = stand_in.env(tmp_path / "home")
    result = run_program("download", environment, tmp_path, f"download-{algorithm}", algorithm)
    check(result)
    assert result["digest"][1] == f"MANIFEST_{algorithm.upper()}"
    assert result["layout"] == {"storageLayout": "V2"}


def test_layout_v1_without_xxh128_and_in_pages_of_two(tmp_path: Path) -> None:
    server = StandIn(tmp_path / "server", "--storage-layout", "V1", "--md5", "--max-page-size", "2")
    try:
        environment = server.env(tmp_path / "home")
        result = run_program("download", environment, tmp_path, "download", "xxh128")
        single = [r.path for r in server.requests(port="api") if r.path.startswith("/artifacts/")]
        pages = len(server.requests(operation="GetArtifactMembershipFileUrls"))
    finally:
        server.stop()
    check(result)
    assert result["digest"][1] == "MANIFEST_MD5"
    assert result["layout"] == {"storageLayout": "V1"}
    assert len(single) == 1
    assert pages >= 3
