"""Server and key are found where, and in the order in which, the wandb SDK finds them."""

from __future__ import annotations

import base64
import json
import os
import traceback
from pathlib import Path

import pytest

from wbfs.model.errors import AccessDenied, LoginRefused, UsageError
from wbfs.remote.credentials import DEFAULT_BASE_URL, Credentials, NoKey, load_credentials

KEYS = [str(number) * 40 for number in range(4)]
SERVER = "https://wandb.example.com:8443"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def load(home: Path, **environ: str) -> Credentials:
    return load_credentials({"HOME": str(home), **environ}, home)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)


def settings(**values: str) -> str:
    return "[default]\n" + "".join(f"{name} = {value}\n" for name, value in values.items())


def test_key_sources_in_their_order(home: Path) -> None:
    write(home / ".config/wandb/settings", settings(base_url=SERVER, api_key=KEYS[0]))
    assert load(home).read_key().value == KEYS[0]
    write(home / ".netrc", f"machine wandb.example.com:8443 login user password {KEYS[1]}\n")
    assert load(home).read_key().value == KEYS[1]
    write(home / "elsewhere", f"machine wandb.example.com:8443 login user password {KEYS[2]}\n")
    assert load(home, NETRC=str(home / "elsewhere")).read_key().value == KEYS[2]
    assert load(home, WANDB_API_KEY=KEYS[3]).read_key().value == KEYS[3]


def test_netrc_goes_by_host_and_port(home: Path) -> None:
    write(home / ".netrc", f"machine wandb.example.com login user password {KEYS[0]}\n")
    with pytest.raises(
        AccessDenied, match=r"wandb\.example\.com:8443 was found: run `wandb login`"
    ):
        load(home, WANDB_BASE_URL=SERVER)
    assert load(home, WANDB_BASE_URL="https://wandb.example.com/").read_key().value == KEYS[0]


def test_a_settings_key_is_for_its_own_server(home: Path) -> None:
    write(home / ".config/wandb/settings", settings(base_url=SERVER, api_key=KEYS[0]))
    with pytest.raises(AccessDenied):
        load(home, WANDB_BASE_URL="https://other.example.com")


def test_the_public_server_has_two_names(home: Path) -> None:
    write(home / ".netrc", f"machine api.wandb.ai login user password {KEYS[0]}\n")
    found = load(home)
    assert (found.base_url, found.read_key().value) == (DEFAULT_BASE_URL, KEYS[0])
    assert load(home, WANDB_BASE_URL="https://api.wandb.ai").read_key().value == KEYS[0]


def test_local_settings_win_and_the_environment_wins_over_them(home: Path) -> None:
    write(home / ".config/wandb/settings", settings(entity="global", project="global"))
    write(home / "wandb/settings", settings(entity="local"))
    found = load(home, WANDB_API_KEY=KEYS[0])
    assert (found.entity, found.project) == ("local", "global")
    found = load(home, WANDB_API_KEY=KEYS[0], WANDB_ENTITY="environment")
    assert found.entity == "environment"


def test_a_changed_key_is_read_again(home: Path) -> None:
    write(home / ".netrc", f"machine api.wandb.ai login user password {KEYS[0]}\n")
    found = load(home)
    write(home / ".netrc", f"machine api.wandb.ai login user password {KEYS[1]}\n")
    assert found.read_key().value == KEYS[1]


@pytest.mark.parametrize("key", ["local-" + "a" * 40, "eyJhbGci.eyJzdWIi.c2ln", "a_b-" * 12])
def test_kinds_of_keys(home: Path, key: str) -> None:
    assert load(home, WANDB_API_KEY=key).read_key().value == key


def test_what_is_no_key_is_refused_and_not_shown(home: Path) -> None:
    with pytest.raises(AccessDenied, match="it has 6 characters") as caught:
        load(home, WANDB_API_KEY="secret")
    assert "secret" not in str(caught.value)
    found = load(home, WANDB_API_KEY=KEYS[0])
    assert KEYS[0] not in repr(found) + repr(found.read_key()) + str(found.read_key())


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"WANDB_BASE_URL": "wandb.example.com"}, "no http"),
        ({"WANDB_BASE_URL": "https://app.wandb.ai"}, r"api\.wandb\.ai"),
        ({"WANDB_BASE_URL": "https://wandb.ai"}, r"api\.wandb\.ai"),
        ({"WANDB_BASE_URL": "https://forge.coreweave.com"}, r"api\.forge\.coreweave\.com"),
        ({"WANDB_X_EXTRA_HTTP_HEADERS": "{"}, "WANDB_X_EXTRA_HTTP_HEADERS must be"),
        ({"WANDB_X_EXTRA_HTTP_HEADERS": '{"a": 1}'}, "JSON object of texts"),
    ],
)
def test_settings_that_make_no_sense(home: Path, environ: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load(home, WANDB_API_KEY=KEYS[0], **environ)


def test_broken_files(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    netrc = home / ".netrc"
    write(netrc, "machine password secret without sense")
    with pytest.raises(AccessDenied):
        load(home)
    assert caplog.messages == [
        f"the netrc file {netrc} is left out: it is malformed; correct or remove it"
    ]
    caplog.clear()
    netrc.write_bytes(b"\xff\xfe\0")
    with pytest.raises(AccessDenied):
        load(home)
    assert caplog.messages == [
        f"the netrc file {netrc} is left out: it is malformed; correct or remove it"
    ]
    caplog.clear()
    with pytest.raises(AccessDenied):
        load(home, NETRC=str(home))
    assert caplog.messages == [
        f"the netrc file {home} is left out: Is a directory; correct or remove it"
    ]


def token(**claims: str) -> str:
    parts = [json.dumps(part).encode() for part in ({"alg": "RS256"}, claims)]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + ".sig"


def test_a_login_tells_users_apart(home: Path) -> None:
    logins = [load(home, WANDB_API_KEY=key).read_login().value for key in KEYS]
    logins.append(load(home, WANDB_API_KEY=KEYS[0], WANDB_USERNAME="x").read_login().value)
    file = home / "token"
    found = load(home, WANDB_IDENTITY_TOKEN_FILE=str(file))
    for text in (token(iss="a", sub="b"), token(iss="a", sub="c"), token(iss="a"), "opaque"):
        file.write_text(text)
        logins.append(found.read_login().value)
    assert len(set(logins)) == len(logins)
    # A renewed token is the same user's.
    file.write_text(token(iss="a", sub="b", exp="later"))
    assert found.read_login().value in logins
    file.unlink()
    with pytest.raises(LoginRefused, match="can't read the identity token"):
        found.read_login()


def test_a_key_that_is_not_needed(home: Path) -> None:
    found = load_credentials({"HOME": str(home)}, home, key_is_needed=False)
    with pytest.raises(NoKey):
        found.read_login()
    with pytest.raises(LoginRefused, match="it has 6 characters"):
        load_credentials({"HOME": str(home), "WANDB_API_KEY": "secret"}, home, key_is_needed=False)


def test_a_netrc_that_is_not_there_is_named(home: Path) -> None:
    with pytest.raises(NoKey, match=r"was found \(NETRC names .*/gone, which isn't there\): run"):
        load(home, NETRC="gone")
    with pytest.raises(NoKey, match="was found: run"):
        load(home)


@pytest.mark.parametrize("name", ["WBFS_TOKEN_FILE", "WANDB_IDENTITY_TOKEN_FILE"])
@pytest.mark.parametrize(
    "secret",
    [
        KEYS[0],
        f"local-{KEYS[0]}",
        ".".join([KEYS[0] * 9] * 3),
        f"{KEYS[0]}\n",
        f'"{KEYS[0]}"',
        f"Bearer {KEYS[0]}",
    ],
)
def test_a_secret_in_place_of_its_file_is_not_shown(home: Path, name: str, secret: str) -> None:
    with pytest.raises(AccessDenied, match="looks like that itself") as refused:
        load(home, **{name: secret}).read_login()
    assert KEYS[0] not in "".join(traceback.format_exception(refused.value, chain=True))
    with pytest.raises(AccessDenied, match="can't read the .* .*/api.key.txt: No such file"):
        load(home, **{name: "api.key.txt"}).read_login()


def test_two_identities_are_one_too_many(home: Path) -> None:
    with pytest.raises(AccessDenied, match="both WANDB_API_KEY and WANDB_IDENTITY_TOKEN_FILE"):
        load(home, WANDB_API_KEY=KEYS[0], WANDB_IDENTITY_TOKEN_FILE="/token")


def test_proxies_headers_and_cas(home: Path) -> None:
    found = load(
        home,
        WANDB_API_KEY=KEYS[0],
        WANDB_HTTPS_PROXY="http://proxy.example.com:3128",
        WANDB_X_EXTRA_HTTP_HEADERS='{"X-Gateway": "sesame"}',
    )
    assert found.proxies == {"https": "http://proxy.example.com:3128"}
    assert found.extra_headers == {"X-Gateway": "sesame"}
    assert found.verify is True
    assert "sesame" not in repr(found)
    assert load(home, WANDB_API_KEY=KEYS[0], WANDB_INSECURE_DISABLE_SSL="true").verify is False


@pytest.mark.parametrize("url", ["https://user:verysecret@wandb.example.com:8443/", "{netrc}"])
def test_user_and_password_in_the_servers_address_go_nowhere(
    home: Path, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(home / ".netrc", f"machine wandb.example.com:8443 login user password {KEYS[0]}\n")
    url = url.replace("{netrc}", "https://verysecret@wandb.example.com:8443")
    found = load(home, WANDB_BASE_URL=url)
    assert found.base_url == SERVER
    assert found.read_key().value == KEYS[0]
    assert "left out" in caplog.text
    assert "verysecret" not in repr(found) + caplog.text


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1",
        "http://",
        "http://user:verysecret@",
        "http://user:verysecret@[",
        "nowhere://user:verysecret@host",
        "https://host:99999",
        "https://some host",
        "https://%zz",
        "https://host:port",
        "https://host/?token=verysecret",
        "https://host/#verysecret",
        "user:verysecret@host",
    ],
)
def test_an_address_that_is_none_is_refused_and_not_shown(home: Path, url: str) -> None:
    with pytest.raises(UsageError, match="WANDB_BASE_URL") as caught:
        load(home, WANDB_BASE_URL=url, WANDB_API_KEY=KEYS[0])
    assert "verysecret" not in str(caught.value)


def test_a_proxy_s_header_goes_to_no_server(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    headers = json.dumps({"proxy-Authorization": "verysecret", "X-Gateway": "sesame"})
    found = load(home, WANDB_API_KEY=KEYS[0], WANDB_X_EXTRA_HTTP_HEADERS=headers)
    assert found.extra_headers == {"X-Gateway": "sesame"}
    assert "left out" in caplog.text
    assert "verysecret" not in caplog.text


@pytest.mark.parametrize(
    ("files", "environ"),
    [
        ({"wandb/settings": settings(api_key="{key}")}, {}),
        ({".wandb/settings": settings(api_key="{key}")}, {}),
        ({"there/wandb/settings": settings(api_key="{key}")}, {"WANDB_DIR": "there"}),
        ({"there/settings": settings(api_key="{key}")}, {"WANDB_CONFIG_DIR": "./there"}),
        (
            {"there/netrc": "machine api.wandb.ai login user password {key}"},
            {"NETRC": "there/../there/netrc"},
        ),
        ({"there/.netrc": "machine api.wandb.ai login user password {key}"}, {"HOME": "there"}),
    ],
)
def test_a_key_is_found_again_from_elsewhere(
    home: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], environ: dict[str, str]
) -> None:
    (home / "work").mkdir()
    monkeypatch.chdir(home / "work")
    found = None
    for key in KEYS[:2]:
        for name, text in files.items():
            write(home / "work" / name, text.replace("{key}", key))
        found = found or load_credentials({"HOME": str(home)} | environ)
        assert found.read_key().value == key
        # As a daemon does.
        monkeypatch.chdir("/")


def test_a_working_directory_that_is_gone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "work").mkdir()
    monkeypatch.chdir(home / "work")
    (home / "work").rmdir()
    environ = {"HOME": str(home), "WANDB_API_KEY": KEYS[0]}
    assert load_credentials(environ).read_key().value == KEYS[0]


@pytest.mark.parametrize(
    "text",
    [
        b"entity = verysecret\n",
        b"no section",
        b"[default]\nentity = verysecret\nverysecret\n",
        b"[default]\nentity = verysecret\nentity = verysecret\n",
        b"[default]\n[default]\n",
        b"\xef\xbb\xbf[default]\nentity = verysecret\n",
        b"[default]\nentity = \xff\xfe\n",
    ],
)
def test_a_settings_file_that_is_none_is_left_out(
    home: Path, caplog: pytest.LogCaptureFixture, text: bytes
) -> None:
    write(home / ".config/wandb/settings", settings(entity="global"))
    local = home / "wandb/settings"
    write(local, "")
    local.write_bytes(text)
    found = load(home, WANDB_API_KEY=KEYS[0])
    assert found.entity == "global"
    # Once, however often it is read.
    assert found.read_key()
    assert len(caplog.messages) == 1
    assert f"the W&B settings file {local} is left out: it is malformed" in caplog.text
    assert "verysecret" not in caplog.text


def test_nothing_waits_for_a_pipe(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    local = home / "wandb/settings"
    write(local, "")
    local.unlink()
    for path in (local, home / "pipe"):
        os.mkfifo(path)
    with pytest.raises(AccessDenied):
        load(home, NETRC=str(home / "pipe"))
    for path in (local, home / "pipe"):
        assert f"{path} is left out: it is no regular file" in caplog.text
    found = load(home, WANDB_IDENTITY_TOKEN_FILE=str(home / "pipe"))
    with pytest.raises(AccessDenied, match="it is no regular file"):
        found.read_login()
    caplog.clear()
    # What says that there is none.
    local.unlink()
    with pytest.raises(AccessDenied):
        load(home, NETRC="/dev/null")
    assert not caplog.messages


def test_settings_that_are_no_file(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    (home / "wandb/settings").mkdir(parents=True)
    write(home / "file", "")
    load(home, WANDB_API_KEY=KEYS[0], WANDB_CONFIG_DIR=str(home / "file"))
    assert caplog.messages == [
        f"the W&B settings file {home}/wandb/settings is left out: Is a directory; correct or"
        " remove it"
    ]


def test_a_settings_file_without_its_section_says_nothing(
    home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(home / "wandb/settings", "[other]\nentity = other\n")
    assert load(home, WANDB_API_KEY=KEYS[0]).entity == ""
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"WANDB_USERNAME": "ada\nX-Other: 1"}, "WANDB_USERNAME can't be sent"),
        ({"WANDB_USER_EMAIL": "\x1b[0m"}, "WANDB_USER_EMAIL can't be sent"),
        ({"WANDB_X_EXTRA_HTTP_HEADERS": '{"X-A": "1\\n2"}'}, "'X-A' of WANDB_X_EXTRA_HTTP_HEADERS"),
        ({"WANDB__EXTRA_HTTP_HEADERS": '{"X A": "1"}'}, "no HTTP header can be named so"),
    ],
)
def test_what_no_header_can_hold(home: Path, environ: dict[str, str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load(home, WANDB_API_KEY=KEYS[0], **environ)


def test_names_are_sent_as_they_are(home: Path) -> None:
    found = load(home, WANDB_API_KEY=KEYS[0], WANDB_USERNAME=" 数\n")
    assert found.username.encode("latin-1").decode() == "数"
