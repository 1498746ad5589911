"""The run of a fleet itself; scripts/fleet sets up what it needs and calls it."""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import processes
from gateways import command_of
from mounts import WBFS, Mount, check, wait_until
from stand_in import StandIn

HOSTS = 4
MANY = 1000
"""What the figures are multiplied by, on paper."""
STORE_RATE = "800mbit"
"""The store's line; the hosts' and the gateway's are as fast as this machine."""
SIZES = {f"small/{number:03}.bin": 20_000 + number for number in range(500)} | {
    f"large{number}.bin": 48 << 20 for number in range(2)
}
TOTAL = sum(SIZES.values())
LOG = f"""
import random
import wandb
with wandb.init(project="fleet") as run:
    artifact = wandb.Artifact("data", type="dataset")
    for name, size in {SIZES}.items():
        with artifact.new_file(name, mode="wb") as file:
            file.write(random.Random(name).randbytes(size))
    run.log_artifact(artifact).wait()
    print(run.entity)
"""
# Set aside for measurements like this one; nothing of it leaves the bridge that is made here.
NETWORK = "198.18.77"
STORE, GATEWAY = f"{NETWORK}.1", f"{NETWORK}.2"
PORT = 9912
TROUBLE_AFTER_S = 2.5
READ_TIMEOUT_S = 120.0
CLONE_NEWNET = 0x40000000


class Network:
    """A bridge with namespaces on it, which have names of their own, by this process's number."""

    def __init__(self) -> None:
        self._prefix = f"wbfleet{os.getpid()}-"
        self._made: list[str] = []

    def make(self) -> None:
        """Make the bridge, the store's place, the gateway's, and the hosts'."""
        self._add("hub")
        self._in("hub", "link", "add", "bridge", "type", "bridge")
        self._in("hub", "link", "set", "bridge", "up")
        places = {"store": STORE, "gateway": GATEWAY}
        places |= {f"host{number}": f"{NETWORK}.{10 + number}" for number in range(HOSTS)}
        for name, address in places.items():
            self._add(name)
            peer = ("peer", "name", "eth0", "netns", self._prefix + name)
            self._in("hub", "link", "add", name, "type", "veth", *peer)
            self._in("hub", "link", "set", name, "master", "bridge", "up")
            self._in(name, "addr", "add", f"{address}/24", "dev", "eth0")
            self._in(name, "link", "set", "eth0", "up")
        rate = ("root", "tbf", "rate", STORE_RATE, "burst", "1m", "latency", "200ms")
        check(*self.prefix("store"), "tc", "qdisc", "add", "dev", "eth0", *rate)

    def enter(self, name: str) -> None:
        """Put this process, and what it starts, into a namespace."""
        with open(f"/run/netns/{self._prefix}{name}") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"can't enter the namespace {name}")

    def prefix(self, name: str) -> tuple[str, ...]:
        """Return what runs a program in a namespace; what it mounts is seen everywhere."""
        return ("nsenter", f"--net=/run/netns/{self._prefix}{name}")

    def remove(self) -> None:
        """Remove all that was made."""
        for name in self._made:
            check("ip", "netns", "del", name)

    def _add(self, name: str) -> None:
        check("ip", "netns", "add", self._prefix + name)
        self._made.append(self._prefix + name)
        self._in(name, "link", "set", "lo", "up")

    def _in(self, name: str, *words: str) -> None:
        check("ip", "-n", self._prefix + name, *words)


@dataclass(frozen=True)
class Fleet:
    """All that takes part."""

    folder: Path
    network: Network
    stand_in: StandIn
    source: str

    @contextmanager
    def nginx(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run a gateway with an empty cache."""
        folder = Path(tempfile.mkdtemp(dir=self.folder)) / "nginx"
        listen = f"{GATEWAY}:{PORT}"
        command = command_of(
            folder, store=self.stand_in.files_url, listen=listen, clients=f"{NETWORK}.0/24"
        )
        with (folder / "output").open("wb") as output:
            words = [*self.network.prefix("gateway"), *map(str, command)]
            process = subprocess.Popen(words, stdout=output, stderr=output)
        try:
            wait_until(_answers, what=f"nginx answers: {(folder / 'output').read_text()}")
            yield process
            self._report(folder / "log", process)
        finally:
            process.kill()
            process.wait()

    def _report(self, log: Path, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is not None:
            return
        rows = [line.rpartition('" ')[2].split() for line in log.read_text().splitlines()]
        sent = sum(int(row[1]) for row in rows)
        ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        seconds = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
        print(
            f"    the gateway sent {_mib(sent)} in {len(rows)} answers, with {seconds:.2f} s of one"
            " processor"
        )

    def read(self, what: str, *options: str, trouble: Callable[[], None] | None = None) -> Figures:
        """Have all hosts read all of it at once, and check every byte; print what it cost."""
        with ExitStack() as stack:
            mounts = [self._mount(stack, number, options) for number in range(HOSTS)]
            asked_before = len(self.stand_in.requests(port="api"))
            timer = threading.Timer(TROUBLE_AFTER_S, trouble or _nothing)
            began_s = time.monotonic()
            timer.start()
            readers = [
                subprocess.Popen(
                    ["md5sum", *(str(mount.path / name) for name in SIZES)],
                    stdout=subprocess.PIPE,
                    text=True,
                )
                for mount in mounts
            ]
            took_s = []
            for reader in readers:
                output, _ = reader.communicate(timeout=READ_TIMEOUT_S)
                took_s.append(time.monotonic() - began_s)
                assert [line[:32] for line in output.splitlines()] == _digests(), "wrong bytes"
            timer.join()
            slowest_s = max(mount.status()["fetched"]["waited_s"] for mount in mounts)
            asked = self.stand_in.requests()
            sent = [one for one in asked if one.port == "files"]
            files = [one for one in sent if "manifest" not in one.key]
            figures = Figures(
                seconds=max(took_s),
                sent=sum(one.bytes_sent for one in files),
                requests=len(files),
                manifests=sum(one.bytes_sent for one in sent if one not in files),
                api=sum(one.port == "api" for one in asked),
                api_at_mount=asked_before,
            )
        print(
            f"{what}: {figures.seconds:.1f} s; the store sent {_mib(figures.sent)}"
            f" ({figures.sent / TOTAL:.2f} times all of it) in {figures.requests} answers; the API"
            f" was asked {figures.api / HOSTS:.1f} times a host, {figures.api_at_mount / HOSTS:.1f}"
            f" of it for the mount; a host's reads waited {slowest_s:.1f} s in all"
        )
        return figures

    def _mount(self, stack: ExitStack, number: int, options: tuple[str, ...]) -> Mount:
        if number == 0:
            self.stand_in.clear_requests()
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        mount = Mount(
            path=folder / "mount",
            env=self.stand_in.env(folder / "home"),
            cache_dir=folder / "cache",
            log_file=folder / "mount.log",
            source=self.source,
            options=options,
            program=(*self.network.prefix(f"host{number}"), *WBFS),
        )
        stack.callback(mount.take_down)
        return mount


@dataclass(frozen=True)
class Figures:
    """What reading it all on all hosts cost: seconds; the store's bytes and answers, and the bytes
    of manifests beside; the API's questions, and those before the first read.
    """

    seconds: float
    sent: int
    requests: int
    manifests: int
    api: int
    api_at_mount: int


def _digests() -> list[str]:
    return [
        hashlib.md5(random.Random(name).randbytes(size)).hexdigest() for name, size in SIZES.items()
    ]


def _answers() -> bool:
    try:
        socket.create_connection((GATEWAY, PORT), timeout=1).close()
    except OSError:
        return False
    return True


def _nothing() -> None:
    """Do nothing: there is no trouble."""


def _mib(size: float) -> str:
    return f"{size / (1 << 20):,.1f} MiB"


def _on_paper(figures: Figures) -> None:
    gigabit_s = MANY * TOTAL * 8 / 1e9
    print(f"{MANY:,} hosts that start at once, by these figures:")
    print(f"    the store sends {_mib(TOTAL)} in {figures.requests} answers, as for {HOSTS}")
    print(f"    and {_mib(MANY * figures.manifests / HOSTS)} of manifests, to each host its own")
    print(
        f"    the gateway sends {_mib(MANY * TOTAL)}: {gigabit_s / 25:,.0f} s at 25 Gbit/s,"
        f" {gigabit_s / 100:,.0f} s at 100"
    )
    print(f"    W&B's API is asked {MANY * figures.api / HOSTS:,.0f} times")


def run() -> None:
    """Do it all, and leave nothing behind."""
    network = Network()
    processes.adopt_orphans()
    with ExitStack() as stack:
        stack.callback(network.remove)
        network.make()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wbfs-fleet-")))
        network.enter("store")
        stand_in = StandIn(folder / "stand-in", "--host", STORE, "--md5")
        stack.callback(stand_in.stop)
        entity = stand_in.run_sdk(LOG, folder / "sdk", timeout_s=300)
        fleet = Fleet(folder, network, stand_in, f"{entity}/fleet/data:v0")
        print(f"{HOSTS} hosts, {len(SIZES)} files, {_mib(TOTAL)}, the store's line {STORE_RATE}")
        fleet.read("without a gateway")
        option = f"--blob-gateway=http://{GATEWAY}:{PORT}"
        with fleet.nginx():
            figures = fleet.read("with a gateway", option)
            assert figures.sent == TOTAL, "the store sent some of it twice"
            fleet.read("with a gateway that has it all", option)
        with fleet.nginx() as process:
            fleet.read("with a gateway that is killed", option, trouble=process.kill)
        with fleet.nginx() as process:
            stop = lambda: process.send_signal(signal.SIGSTOP)  # noqa: E731
            fleet.read("with a gateway that comes to hang", option, trouble=stop)
        _on_paper(figures)


if __name__ == "__main__":
    if os.getuid() != 0:
        sys.exit("scripts/fleet: only root may make network namespaces")
    run()
