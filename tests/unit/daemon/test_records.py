"""Records of mounts, which daemons of several versions of wbfs write side by side."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from wbfs.daemon.mounts.records import Record, Records, pid_namespace, start_of


def record(device: str, *, pid: int) -> Record:
    return Record(
        pid=pid,
        started=start_of(pid) or 0,
        pids=pid_namespace(),
        device=device,
        mountpoint="/data",
        source="",
        path_prefix="",
        server="http://127.0.0.1:1",
        offline=False,
        cache_dir="/cache",
        cache_size=None,
        min_free=0,
        blob_gateway="",
        log_file=None,
    )


def test_only_what_is_known_to_have_ended_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    records = Records()
    ended = record("0:1", pid=2**22 + 1)
    lives = record("0:2", pid=os.getpid())
    records.write(ended)
    records.write(lives)
    assert [path.name[-8:] for path in tmp_path.glob("wbfs/mounts/*")] == ["0-2.json"]
    assert records.find("0:2") == lives
    # Another version may have left out of it what the settings of who mounts said.
    assert replace(lives, source="bikes:best").shown.entity == "-"
    # Another version of wbfs has other fields, and its daemon lives.
    file = next(tmp_path.glob("wbfs/mounts/*"))
    file.write_text(json.dumps(asdict(lives) | {"added later": 1}))
    records.write(record("0:3", pid=os.getpid()))
    assert file.exists()
    assert records.find("0:2") is None
