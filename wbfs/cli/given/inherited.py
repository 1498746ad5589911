"""What whoever started this process left it, beside its streams: signals, and /proc."""

from __future__ import annotations

import os
import signal

from wbfs.model.errors import UsageError


def settle_inherited() -> None:
    """Have no signal held back, and children that can be waited for.

    Raises UsageError where there is no /proc: what is mounted, and what other processes are, can't
    be known then.
    """
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if not os.path.exists("/proc/self/mountinfo"):
        raise UsageError("there is no /proc here, which wbfs needs: mount -t proc proc /proc")
