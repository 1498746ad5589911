"""The kernel's settings of a mount."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

from mounts import run

from benchmark.samples import Skipped
from wbfs.daemon.fuse.kernel import READ_AHEAD_KB

FUSE_CONTROL = "/sys/fs/fuse/connections"
KERNEL_DEFAULTS = {"read_ahead_kb": 128, "max_background": 12, "congestion_threshold": 9}


def read_ahead_as_wbfs(path: Path) -> None:
    """Have the kernel read ahead of a mount's readers as far as wbfs has it, where permitted."""
    device = os.stat(path).st_dev
    setting = Path(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb")
    with contextlib.suppress(OSError):
        setting.write_text(str(READ_AHEAD_KB))


def kernel_settings(path: Path, wanted: Mapping[str, int] | None = None) -> dict[str, float]:
    """Return the kernel's settings of a mount, after changing them if others are wanted.

    Raises Skipped where that is not permitted.
    """
    device = os.stat(path).st_dev
    major, minor = os.major(device), os.minor(device)
    read_ahead = Path(f"/sys/class/bdi/{major}:{minor}/read_ahead_kb")
    names = ("max_background", "congestion_threshold")
    script = ["set -e"]
    # It is not mounted everywhere: root mounts it for a moment, where nobody else sees it.
    if not Path(FUSE_CONTROL, str(minor)).exists():
        script += ["mount --make-private /sys", f"mount -t fusectl none {FUSE_CONTROL}"]
    script += [f"cd {FUSE_CONTROL}/{minor}"]
    if wanted is not None:
        script += [f"echo {wanted[name]} > {name}" for name in names]
    script += [f"cat {' '.join(names)}"]
    try:
        if wanted is not None:
            read_ahead.write_text(str(wanted[read_ahead.name]))
        done = run(
            "unshare", "--mount", "--propagation", "unchanged", "sh", "-c", "\n".join(script)
        )
        if done.returncode:
            raise Skipped(f"the kernel's settings can't be changed: {done.stderr.strip()}")
        values = [read_ahead.read_text(), *done.stdout.split()]
    except OSError as error:
        raise Skipped(f"the kernel's settings can't be changed: {error.strerror}") from error
    return dict(zip((read_ahead.name, *names), map(float, values), strict=True))
