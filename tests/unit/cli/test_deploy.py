"""`wbfs deploy`: each sample is what its reader takes, as it is printed and with values put in."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import requests
import yaml
from click.testing import CliRunner
from gateways import command_of, nginx
from mounts import check, run
from scripted import Server, reply, scripted_servers

from wbfs.cli.deploy import SAMPLES, SETTINGS, deploy
from wbfs.cli.main import commands
from wbfs.cli.mounts.mount_helper import run_helper
from wbfs.model.errors import UsageError

FOLDER = Path(__file__).parents[3] / "wbfs" / "deploy"


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(deploy, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_the_topics_and_their_keys_are_listed() -> None:
    listed = printed()
    assert re.findall(r"^wbfs deploy ([\w-]+) ", listed, re.MULTILINE) == sorted(SAMPLES)
    assert "--set cache-dir, mountpoint, server, source, token-file\n" in listed
    assert {name for name, _ in SAMPLES.values()} == {path.name for path in FOLDER.iterdir()}


@pytest.mark.parametrize("topic", SAMPLES)
def test_every_key_has_a_value_and_can_be_set(topic: str) -> None:
    keys = re.findall(r"<<(.*?)>>", (FOLDER / SAMPLES[topic][0]).read_text())
    assert set(keys) <= SETTINGS.keys()
    assert "<<" not in printed(topic)
    for key in set(keys):
        sample = printed(topic, "--set", f"{key}=4321")
        assert sample.count("4321") >= keys.count(key)


def test_every_key_is_of_some_sample() -> None:
    texts = "".join(path.read_text() for path in FOLDER.iterdir())
    assert {key for key in SETTINGS if f"<<{key}>>" in texts} == SETTINGS.keys()


def texts_in(document: Any) -> Iterator[object]:
    """Yield all that stands in a document, but for names of fields."""
    if isinstance(document, dict | list):
        for one in document.values() if isinstance(document, dict) else document:
            yield from texts_in(one)
    else:
        yield document


@pytest.mark.parametrize("value", ["yes", "null", "0123", "1e3", "12:30:45", "=", "@a", "-", "a:"])
@pytest.mark.parametrize("topic", [one for one, (name, _) in SAMPLES.items() if "yaml" in name])
def test_what_yaml_reads_in_another_way_is_a_text_all_the_same(topic: str, value: str) -> None:
    keys = set(re.findall(r"<<(.*?)>>", (FOLDER / SAMPLES[topic][0]).read_text()))
    for key in keys - {"metrics-port", "proxy-port"}:
        plain, found = (
            list(yaml.safe_load_all(printed(topic, "--set", f"{key}={text}")))
            for text in ("plaintext", value)
        )
        expected = [
            text.replace("plaintext", value) if isinstance(text, str) else text
            for text in texts_in(plain)
        ]
        assert list(texts_in(found)) == expected, key


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["apache"], r"no sample 'apache': there are compose, dragonfly, fluid"),
        (["fstab", "--set", "image=a"], r"its keys are cache-dir, mountpoint, server, source, t"),
        (["fstab", "--set", "mountpoint"], r"give KEY=VALUE"),
        (["grafana", "--set", "a=b"], r"its keys are none"),
        (["fstab", "--set", "mountpoint=/a b"], r"--set mountpoint: '/a b' has characters"),
        (["slurm", "--set", "source=$(reboot)"], r"has characters that may mean"),
        (["systemd", "--set", "token-file=/%i"], r"has characters that may mean"),
        (["compose", "--set", "image="], r"has characters that may mean"),
    ],
)
def test_what_can_not_be_put_in_is_said(arguments: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        printed(*arguments)


def check_command(words: list[str]) -> None:
    """Check that a call of wbfs in a sample is one that this version takes."""
    assert words[0].endswith("wbfs")
    command = commands.commands[words[1]]
    command.make_context(words[1], words[2:])


def test_the_table_is_taken_by_mount_wbfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.environ", {"HOME": str(tmp_path)})
    (line,) = [line for line in printed("fstab").splitlines() if line[0] != "#"]
    source, mountpoint, filesystem_type, options, dump, order = line.split()
    assert (filesystem_type, dump, order) == ("wbfs", "0", "0")
    assert run_helper([source, mountpoint, "-f", "-o", options]) == 0


def test_the_table_makes_units(tmp_path: Path) -> None:
    generator = Path("/lib/systemd/system-generators/systemd-fstab-generator")
    if not generator.exists():
        pytest.skip("systemd is not installed")
    (tmp_path / "fstab").write_text(printed("fstab"))
    made = tmp_path / "made"
    made.mkdir()
    check(generator, made, made, made, env={"SYSTEMD_FSTAB": str(tmp_path / "fstab")})
    unit = (made / "srv-wbfs-data.mount").read_text()
    assert "Type=wbfs" in unit
    assert "What=my-team/my-project/bike-dataset:v3" in unit
    assert (made / "srv-wbfs-data.automount").exists()


def test_the_unit_is_taken_by_systemd(tmp_path: Path) -> None:
    unit = tmp_path / "wbfs@.service"
    unit.write_text(printed("systemd", "--set", f"wbfs={shutil.which('true')}"))
    for call in re.findall(r"^Exec\w+=(/\S+wbfs .*)", printed("systemd"), re.MULTILINE):
        check_command(call.split())
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    done = run("systemd-analyze", "verify", tmp_path / "wbfs@srv-wbfs-data.service")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_script_is_one(tmp_path: Path) -> None:
    script = tmp_path / "slurm.sh"
    script.write_text(printed("slurm"))
    check("bash", "-n", script)


def test_the_services_are_those_of_a_compose_file() -> None:
    document: dict[str, Any] = yaml.safe_load(printed("compose", "--set", "folder=/data"))
    daemon, training = document["services"]["wbfs"], document["services"]["train"]
    assert daemon["command"][-1] == training["command"][-1] == "/data/data"
    assert training["depends_on"]["wbfs"]["condition"] == "service_healthy"
    check_command(["wbfs", *daemon["command"]])
    check_command(daemon["healthcheck"]["test"][1:])
    assert daemon["volumes"][0]["source"] == training["volumes"][0]["source"] == "/data"
    assert document["volumes"].keys() == {daemon["volumes"][1].partition(":")[0]}
    assert document["secrets"].keys() == set(daemon["secrets"])


@pytest.mark.parametrize("topic", ["kubernetes", "kubernetes-unprivileged"])
@pytest.mark.parametrize("version", ["1.29", "1.34"])
def test_the_pod_is_one(topic: str, version: str) -> None:
    document: dict[str, Any] = yaml.safe_load(printed(topic))
    kubernetes_validate.validate(document, version, strict=True)
    spec = document["spec"]
    (daemon,), (training,) = spec["initContainers"], spec["containers"]
    check_command(["wbfs", *daemon["args"]])
    for probe in {"startupProbe", "livenessProbe"} & daemon.keys():
        check_command(daemon[probe]["exec"]["command"])
    volumes = {volume["name"] for volume in spec["volumes"]}
    assert {mount["name"] for mount in daemon["volumeMounts"]} == volumes
    variables = {one["name"] for one in daemon["env"] if one["name"].startswith("WBFS_")}
    options = {option.name for option in commands.commands["mount"].params}
    assert {name.removeprefix("WBFS_").lower() for name in variables} <= options
    # Whatever the daemon needs, what trains needs nothing.
    assert "securityContext" not in training


def test_a_pod_without_privileges_has_none() -> None:
    document: dict[str, Any] = yaml.safe_load(printed("kubernetes-unprivileged"))
    (daemon,) = document["spec"]["initContainers"]
    context = daemon["securityContext"]
    assert context["runAsNonRoot"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert not context["allowPrivilegeEscalation"]
    assert not any("hostPath" in volume for volume in document["spec"]["volumes"])


def test_fluid_mounts_by_it() -> None:
    profile, dataset, runtime = yaml.safe_load_all(printed("fluid", "--set", "name=bikes"))
    assert [one["kind"] for one in (profile, dataset, runtime)] == [
        "ThinRuntimeProfile",
        "Dataset",
        "ThinRuntime",
    ]
    assert {one["apiVersion"] for one in (profile, dataset, runtime)} == {"data.fluid.io/v1alpha1"}
    assert dataset["metadata"] == runtime["metadata"] == {"name": "bikes"}
    assert runtime["spec"]["profileName"] == profile["metadata"]["name"]
    (level,) = runtime["spec"]["tieredstore"]["levels"]
    assert level["path"] == runtime["spec"]["fuse"]["options"]["cache-dir"]
    # What becomes of it, by the chart of Fluid.
    fuse = profile["spec"]["fuse"]
    container = {"name": "thin-fuse", "securityContext": {"privileged": True}}
    names = ("image", "imagePullPolicy", "args", "env", "resources", "readinessProbe")
    container |= {name: fuse[name] for name in (*names, "livenessProbe")}
    assert fuse.keys() <= container.keys()
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "fuse"}}
    pod["spec"] = {"containers": [container], "restartPolicy": "Always"}
    kubernetes_validate.validate(pod, "1.34", strict=True)
    check_command(["wbfs", *fuse["args"]])
    for probe in ("readinessProbe", "livenessProbe"):
        shell, flag, command = fuse[probe]["exec"]["command"]
        assert (shell, flag) == ("/bin/sh", "-c")
        check_command(command.replace('"$MOUNT_POINT"', "/a").split())


def test_the_gateways_configuration_is_taken_by_nginx(tmp_path: Path) -> None:
    done = run(*command_of(tmp_path / "nginx"), "-t")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def store() -> Iterator[Server]:
    """Run a store whose objects have their own paths as bytes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        content = handler.path.partition("?")[0].encode()
        span = {"Content-Range": f"bytes 0-{len(content) - 1}/{len(content)}"}
        reply(206, content, Cache_Control="no-store", Set_Cookie="a=b", **span)(handler)

    with scripted_servers() as start:
        server = start()
        server.answers = [answer]
        yield server


@pytest.mark.promises("13.4")
def test_the_gateway_keeps_no_secret_nor_other_bytes(store: Server, tmp_path: Path) -> None:
    with nginx(tmp_path / "nginx", store.url, resolver="127.0.0.1") as gateway:

        def get(origin: str, digest: str = "0" * 32) -> tuple[int, bytes]:
            with requests.Session() as session:
                session.trust_env = False
                answer = session.get(
                    f"{gateway.url}/md5/{digest}", headers={"X-Blob-Origin": origin}, timeout=50
                )
            return answer.status_code, answer.content

        # Whoever asks for other bytes by a file's digest gets them, and nobody else does.
        assert get(f"{store.url}/other?sig=secret") == (200, b"/other")
        assert get(f"{store.url}/right?sig=secret") == (200, b"/right")
        assert get(f"{store.url}/right?sig=another-secret") == (200, b"/right")
        assert [path for path, _ in store.seen] == ["/other?sig=secret", "/right?sig=secret"]
        for origin in (
            "",
            "file:///etc/passwd",
            f"{store.url}.example/right?sig=secret",
            f"{store.url}@example.com/right?sig=secret",
            f"http://example.com/{store.url}/?sig=secret",
            f"{store.url}1/right?sig=secret",
            f"{store.url}/right HTTP/1.1?sig=secret",
        ):
            assert get(origin)[0] == 403, origin
        assert get(f"{store.url}/right", digest="../../etc/passwd")[0] == 404
        assert len(store.seen) == 2
        store.answers = [lambda handler: setattr(handler, "close_connection", True)]
        assert get(f"{store.url}/broken?sig=secret")[0] == 502
    # All of it, now that it has ended.
    written = gateway.written()
    assert b"/broken" not in written
    assert b"secret" not in written
    assert b'"/md5/00000000000000000000000000000000" 200 6 HIT' in written
    assert b" 502 " in written


def test_dragonfly_asks_the_store_by_https() -> None:
    document: dict[str, Any] = yaml.safe_load(printed("dragonfly", "--set", "store-host=a.example"))
    (rule,) = document["proxy"]["rules"]
    assert rule["useTLS"] is True
    assert re.match(rule["regex"], "http://a.example/bucket/object?signature")
    assert document["log"]["level"] == "warn"
