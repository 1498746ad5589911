"""Python programs that start at once: forks of a process which has imported what they import.

Imports take most of a small program's processor time, and a test run has hundreds under the SDK,
and of mounts that it needs for something else than their start. This file, run as a program, is
that process. A program finds nothing of another's: it gets an environment, a folder, arguments, and
standard streams of its own.
"""

from __future__ import annotations

import atexit
import faulthandler
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NoReturn

import processes

START_TIMEOUT_S = 100.0
"""Where the machine is busy, the imports take as long."""
END_TIMEOUT_S = 50.0
TIMEOUT_S = 100.0
ORDER_BYTES = 1 << 17
# What each kind of programs imports anyway; programs under the SDK need a stand-in server.
SDK_AND_STAND_IN = (
    "requests",
    "wandb",
    "wandb.apis.public",
    "wandb.sdk.artifacts._internal_artifact",
    "wandb.sdk.launch.inputs.internal",
)
WBFS = ("wbfs.cli.main", "wbfs.daemon.background", "wbfs.daemon.mount")
WBFS_SCRIPT = Path(sys.executable).with_name("wbfs")


class Program:
    """One that was started; a child of this process, though forked from another."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._exit_code: int | None = None
        self._descriptor = os.pidfd_open(pid)

    def poll(self) -> int | None:
        """Return how it ended, as `subprocess` tells it, or None while it runs."""
        if self._exit_code is None:
            try:
                self._exit_code = processes.exit_code(self.pid)
            except ChildProcessError:
                # `processes.crashed_orphans` has seen it, and told where it crashed.
                self._exit_code = 0
            if self._exit_code is not None:
                os.close(self._descriptor)
        return self._exit_code

    def wait(self, timeout_s: float) -> int:
        """Return how it ended. Raises subprocess.TimeoutExpired."""
        if self.poll() is None:
            ended = select.poll()
            ended.register(self._descriptor, select.POLLIN)
            ended.poll(timeout_s * 1000)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout_s)
        return code

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            signal.pidfd_send_signal(self._descriptor, number)


class _Starter:
    """The process that has imported everything, and which programs are forks of."""

    def __init__(self, imported: tuple[str, ...]) -> None:
        self._lock = threading.Lock()
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._orders.settimeout(START_TIMEOUT_S)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), *imported],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def start(self, order: Mapping[str, Any], streams: Sequence[IO[Any]]) -> Program:
        descriptors = [one.fileno() for one in streams]
        with self._lock:
            socket.send_fds(self._orders, [json.dumps(order).encode()], descriptors)
            return Program(int(self._orders.recv(ORDER_BYTES)))

    def end(self) -> None:
        self._orders.close()
        self._process.wait(END_TIMEOUT_S)


_starters: dict[tuple[str, ...], _Starter] = {}


def end() -> None:
    """End the processes that programs are forks of; to be called when there will be no more."""
    while _starters:
        _starters.popitem()[1].end()


def start(
    imported: tuple[str, ...],
    *arguments: str | Path,
    env: Mapping[str, str],
    folder: Path | None = None,
    stdout: IO[Any],
    stderr: IO[Any],
) -> Program:
    """Start what `python` would with these arguments: a script's path or -c and a text, and more.

    folder: where it works; None is where this process does. `processes.adopt_orphans` was called.
    """
    if imported not in _starters:
        _starters[imported] = _Starter(imported)
    order = {
        "arguments": [str(one) for one in arguments],
        "env": dict(env),
        "folder": str(folder or Path.cwd()),
    }
    with open(os.devnull, "rb") as nothing:
        return _starters[imported].start(order, [nothing, stdout, stderr])


def run_sdk(
    *arguments: str | Path,
    env: Mapping[str, str],
    folder: Path | None = None,
    timeout_s: float = TIMEOUT_S,
) -> subprocess.CompletedProcess[str]:
    """Run a program under the SDK with a time limit; its output is text.

    What it leaves running is ended. Raises subprocess.TimeoutExpired.
    """
    with processes.leaving_none(env) as marked:
        return _run(SDK_AND_STAND_IN, *arguments, env=marked, folder=folder, timeout_s=timeout_s)


def run_wbfs(
    *arguments: str | Path, env: Mapping[str, str], timeout_s: float, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the `wbfs` command likewise; what it puts in the background stays."""
    return _run(WBFS, WBFS_SCRIPT, *arguments, env=env, folder=folder, timeout_s=timeout_s)


def _run(
    imported: tuple[str, ...],
    *arguments: str | Path,
    env: Mapping[str, str],
    folder: Path | None = None,
    timeout_s: float,
) -> subprocess.CompletedProcess[str]:
    with (
        tempfile.TemporaryFile("w+", errors="replace") as stdout,
        tempfile.TemporaryFile("w+", errors="replace") as stderr,
    ):
        program = start(imported, *arguments, env=env, folder=folder, stdout=stdout, stderr=stderr)
        try:
            code = program.wait(timeout_s)
        finally:
            program.send_signal(signal.SIGKILL)
        for one in (stdout, stderr):
            one.seek(0)
        return subprocess.CompletedProcess(arguments, code, stdout.read(), stderr.read())


def serve(orders: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork a process for each order; return in that one what it has to do, and its streams.

    Its parent is whoever orders: the one that it has at first ends, and leaves an orphan.
    """
    while True:
        order, streams, _, _ = socket.recv_fds(orders, ORDER_BYTES, 3)
        if not order:
            os._exit(0)
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            pid = os.fork()
            if pid == 0:
                for descriptor in (orders.detach(), reading, writing):
                    os.close(descriptor)
                return json.loads(order), streams
            os.write(writing, str(pid).encode())
            os._exit(0)
        os.waitpid(between, 0)
        orders.send(os.read(reading, ORDER_BYTES))
        for descriptor in (reading, writing, *streams):
            os.close(descriptor)


def become(order: Mapping[str, Any], streams: Sequence[int]) -> NoReturn:
    """Be the program that was ordered."""
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(order["env"])
    time.tzset()
    os.chdir(order["folder"])
    code: str | int = 0
    try:
        run_as_main(*order["arguments"])
    except SystemExit as end:
        code = end.code or 0
        if not isinstance(code, int):
            raise
    # As the interpreter ends, but for its modules: taking them apart would copy all their memory.
    threading._shutdown()
    atexit._run_exitfuncs()
    vars(sys.modules["__main__"]).clear()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def run_as_main(what: str, *rest: str) -> None:
    """Run what `python` would with these arguments."""
    main = sys.modules["__main__"] = ModuleType("__main__")
    if what == "-c":
        text, *rest = rest
        name, sys.path[0] = "<string>", ""
    else:
        text, name = Path(what).read_text(), what
        sys.path[0] = str(Path(what).parent)
        main.__file__ = what
    sys.argv = [what, *rest]
    exec(compile(text, name, "exec"), vars(main))


if __name__ == "__main__":
    faulthandler.enable()
    with socket.socket(fileno=int(sys.argv[1])) as asking:
        for module in sys.argv[2:]:
            importlib.import_module(module)
        # What is here stays: looking at it would copy its memory in each fork.
        gc.collect()
        gc.freeze()
        ordered = serve(asking)
    become(*ordered)
