"""`wbfs deploy`: samples for hosts and clusters, which are files in the package."""

from __future__ import annotations

import re
from pathlib import Path

import click

import wbfs
from wbfs.cli.words.echo import echo, echo_page
from wbfs.model.errors import UsageError

SAMPLES = {
    "compose": ("compose.yaml", "Docker or podman compose: the daemon as a service"),
    "dragonfly": ("dragonfly.yaml", "Dragonfly's daemon as a blob gateway on each machine"),
    "fluid": ("fluid.yaml", "Fluid's ThinRuntime: one daemon a node, a volume for many pods"),
    "fstab": ("fstab", "a line of /etc/fstab"),
    "grafana": ("grafana.json", "a dashboard over the metrics of wbfs mount --metrics-port"),
    "kubernetes": ("kubernetes.yaml", "a pod with the daemon as a native sidecar"),
    "kubernetes-unprivileged": (
        "kubernetes-unprivileged.yaml",
        "a pod without any privilege, by a CSI driver that mounts",
    ),
    "nginx": ("nginx.conf", "nginx as a blob gateway that machines share"),
    "slurm": ("slurm.sh", "a prolog and epilog: one mount a node"),
    "systemd": ("wbfs@.service", "a unit for each mountpoint"),
}
"""Each topic's file in the package, and what it is."""

SETTINGS = {
    "ca-file": "/etc/ssl/certs/ca-certificates.crt",
    "cache-dir": "/var/cache/wbfs",
    "clients": "10.0.0.0/8",
    "folder": "/srv/wbfs",
    "gateway-cache": "/var/cache/nginx-wbfs",
    "gateway-log": "/var/log/nginx/wbfs.log",
    "gateway-size": "500g",
    "image": "registry.example/wbfs:latest",
    "listen": "9912",
    "metrics-port": "9170",
    "mountpoint": "/srv/wbfs/data",
    "name": "bike-dataset",
    "proxy-port": "4001",
    "resolver": "127.0.0.53",
    "server": "https://api.wandb.ai",
    "slice": "1m",
    "source": "my-team/my-project/bike-dataset:v3",
    "store": "https://storage.googleapis.com",
    "store-host": "storage.googleapis.com",
    "token-file": "/etc/wbfs/api-key",
    "training-image": "python:3.12",
    "wbfs": "/opt/wbfs/bin/wbfs",
}
"""What is put in for <<name>> in a sample, where the user names nothing else."""

_VALUE = re.compile(r"[\w./:@+=-]+")
_PLACE = re.compile(r"<<([a-z-]+)>>")


@click.command(short_help="Print samples for hosts and clusters.")
@click.argument("topic", required=False)
@click.option(
    "--set",
    "texts",
    multiple=True,
    metavar="KEY=VALUE",
    help="Put VALUE in for a sample's KEY; may be given several times.",
)
def deploy(topic: str | None, texts: tuple[str, ...]) -> None:
    """Print the sample for a TOPIC, or list the topics there are with their keys.

    The samples fit this version of wbfs. wbfs help hosts and containers say more.

    \b
    Examples:
      wbfs deploy
      wbfs deploy fstab --set source=my-team/my-project --set mountpoint=/data
      wbfs deploy systemd | sudo tee /etc/systemd/system/wbfs@.service
    """
    if topic is None:
        for name, (_, title) in SAMPLES.items():
            echo(f"wbfs deploy {name:<{max(map(len, SAMPLES))}}  {title}")
            if keys := _keys(_text(name)):
                echo(f"    --set {', '.join(keys)}")
        return
    if topic not in SAMPLES:
        raise UsageError(f"there is no sample {topic!r}: there are {', '.join(SAMPLES)}")
    text = _text(topic)
    keys = _keys(text)
    settings = dict(SETTINGS)
    for given in texts:
        key, is_set, value = given.partition("=")
        if key not in keys or not is_set:
            raise UsageError(
                f"--set {given!r} sets nothing in the sample for {topic}: give KEY=VALUE; its keys"
                f" are {', '.join(keys) or 'none'}"
            )
        if not _VALUE.fullmatch(value):
            raise UsageError(
                f"--set {key}: {value!r} has characters that may mean something else in a sample:"
                " letters, digits and . / : @ + = _ - don't; leave it out, and change what is"
                " printed"
            )
        settings[key] = value
    echo_page(_PLACE.sub(lambda place: settings[place[1]], text))


def _text(topic: str) -> str:
    sample = Path(wbfs.__file__).parent / "deploy" / SAMPLES[topic][0]
    return sample.read_text(encoding="utf-8")


def _keys(text: str) -> list[str]:
    """Return what can be set in a sample."""
    return sorted(set(_PLACE.findall(text)))
