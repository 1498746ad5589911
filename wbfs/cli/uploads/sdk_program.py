"""Logs a version with the wandb SDK: run as a program, never imported.

Its folder holds `order.json`, and its input the settings that are secret. What became of it goes
to `result.json`, and how many bytes the SDK has read so far to `read`. Whatever the SDK starts ends
with it, and all that it writes is below that folder. Nothing of wbfs is imported, so that it starts
as soon as the SDK does.
"""

import contextlib
import ctypes
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
POLL_S = 0.1
END_TIMEOUT_S = 3.0
"""Seconds that the SDK's own processes have to end by themselves."""


def main(folder: Path, parent: int) -> None:
    """Have the order carried out, and leave no process behind, also where `parent` has died."""
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        return
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
    secrets = json.load(sys.stdin)
    patient = False
    try:
        worker = os.fork()
        if worker == 0:
            try:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                _write(folder / "result.json", carry_out(folder, secrets))
            finally:
                sys.stdout.flush()
                os._exit(0)
        while os.waitpid(worker, os.WNOHANG) == (0, 0):
            _write(folder / "read", _bytes_read(worker))
            time.sleep(POLL_S)
        patient = True
    finally:
        _end_children(time.monotonic() + (END_TIMEOUT_S if patient else 0))
        if os.getppid() != parent:
            # Who would have removed it was killed.
            shutil.rmtree(folder, ignore_errors=True)


def carry_out(folder: Path, secrets: dict[str, Any]) -> dict[str, Any]:
    """Do what is ordered, with these settings; return the result, or the error in words."""
    order = json.loads((folder / "order.json").read_text())
    try:
        import wandb

        wandb.setup(wandb.Settings(base_url=os.environ["WANDB_BASE_URL"], **secrets))
        artifact = wandb.Artifact(order["name"], order["type"], order["description"])
        artifact.metadata = order["metadata"]
        for uri in order["references"]:
            artifact.add_reference(uri)
        if order["references"]:
            names = {"path", "digest", "size", "ref", "extra"}
            entries = artifact.manifest.entries.values()
            return {"entries": [entry.model_dump(include=names) for entry in entries]}
        return log(wandb, artifact, order, folder)
    except Exception as error:  # noqa: BLE001 - it is told where it can be handled
        return {"error": str(error) or type(error).__name__, "kind": type(error).__name__}


def log(wandb: Any, artifact: Any, order: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Log an artifact of the entries that are known already, as `add_file` would, but unread."""
    from wandb.sdk.artifacts.artifact_manifest_entry import ArtifactManifestEntry

    for entry in order["entries"]:
        # What is sent need not be in the SDK's cache as well.
        artifact.manifest.add_entry(ArtifactManifestEntry(**entry, skip_cache=True))
    if artifact.digest != order["digest"]:
        # An SDK that computes it otherwise, or changes a path.
        return {"error": f"this SDK has another digest for it: {artifact.digest}", "kind": ""}
    settings = wandb.Settings(
        mode="online", silent=True, console="off", disable_git=True, save_code=False
    )
    with wandb.init(
        entity=order["entity"],
        project=order["project"],
        job_type="wbfs_put",
        name=f"wbfs put {order['name']}",
        dir=str(folder),
        settings=settings,
    ) as run:
        logged = run.log_artifact(artifact, aliases=order["aliases"])
        try:
            logged.wait()
        except ValueError as error:
            # Of an upload that failed it raises the same as of words that it does not take.
            raise RuntimeError(error) from error
    return {"id": artifact.id}


def _bytes_read(worker: int) -> int:
    """Return what the SDK's service, which sends the files, has read: of files, nearly all."""
    for child in _children(worker):
        with contextlib.suppress(OSError, ValueError):
            if Path(f"/proc/{child}/comm").read_bytes().startswith(b"wandb-core"):
                return int(Path(f"/proc/{child}/io").read_text().split()[1])
    return 0


def _children(of: int) -> list[int]:
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            stat = Path(f"/proc/{name}/stat").read_bytes()
            # The program's name, in parentheses, may have anything in it.
            if int(stat.rpartition(b")")[2].split()[1]) == of:
                found.append(int(name))
    return found


def _end_children(patient_until: float) -> None:
    """Wait for the processes below this one until that moment, and then kill them."""
    while children := _children(os.getpid()):
        for child in children:
            if time.monotonic() > patient_until:
                # It is a child that nobody else waits for: its number is its own.
                os.kill(child, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, os.WNOHANG)
        time.sleep(POLL_S / 10)


def _write(path: Path, value: Any) -> None:
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(value))
    draft.rename(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
