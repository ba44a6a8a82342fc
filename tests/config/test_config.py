"""The configuration: what the file and the environment become, and how the value of each key is read."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from uploader.config import Config, RecordConfig, ServerConfig, WatchConfig, find_config, load
from uploader.domain.model import RecordSharing
from uploader.domain.units import RateStep

SHIPPED = Path(__file__).parents[2] / "config" / "config.toml"
LEAST = """
[server]
url = "https://valt.example.com"
username = "uploader"
[[watch]]
path = "/srv/recordings"
"""
ENVIRON = {
    "VALT_UPLOADER_SERVER__URL": "https://valt.example.com",
    "VALT_UPLOADER_SERVER__USERNAME": "uploader",
    "VALT_UPLOADER_WATCH": '[{"path": "/srv/recordings"}]',
}
Loader = Callable[..., Config]


@pytest.fixture
def loaded(tmp_path: Path) -> Loader:
    """Load a text as the configuration file, with an environment given by name."""

    def load_text(text: str = LEAST, **environ: str) -> Config:
        path = tmp_path / "config.toml"
        path.write_text(text, encoding="utf-8")
        return load(path, environ)

    return load_text


def with_server(lines: str) -> str:
    """The least configuration with more lines in its ``[server]``."""
    return LEAST.replace("[server]", f"[server]\n{lines}")


def test_the_smallest_configuration_is_address_account_and_folder(loaded: Loader) -> None:
    """Everything else has a default, as documented."""
    config = loaded()
    assert config.server == ServerConfig(url="https://valt.example.com", username="uploader")
    assert config.watch == (WatchConfig(path=Path("/srv/recordings")),)
    assert config.upload.chunk_size == 16 * 1024 * 1024
    assert config.upload.bandwidth == (RateStep(0, None),)
    assert config.watch[0].record == RecordConfig(name="{stem}", share=RecordSharing())
    assert config.state.dir == Path("/var/lib/valt-uploader")


def test_the_environment_alone_can_be_the_configuration() -> None:
    """No file is needed when every required key is set."""
    assert load(None, ENVIRON).watch[0].path == Path("/srv/recordings")


def test_the_environment_overrides_the_file_key_by_key(loaded: Loader) -> None:
    """One variable replaces one key and leaves the others alone; texts are read as in the file."""
    config = loaded(
        with_server('stall_timeout = "10s"'),
        VALT_UPLOADER_SERVER__USERNAME="12345",
        VALT_UPLOADER_SERVER__TLS_VERIFY="false",
        VALT_UPLOADER_UPLOAD__CHUNK_SIZE="whole",
        VALT_UPLOADER_UPLOAD__WORKERS="8",
        VALT_UPLOADER_LOG__LEVEL="debug",
    )
    assert (config.server.username, config.server.tls_verify, config.server.stall_timeout) == ("12345", False, 10)
    assert (config.upload.chunk_size, config.upload.workers, config.log.level) == (0, 8, "debug")


@pytest.mark.parametrize(
    ("value", "steps"),
    [
        ("20 Mbit/s", (RateStep(0, 2.5e6),)),
        ('[["08:00", "8 kbit/s"]]', (RateStep(0, 1000), RateStep(480, 1000))),
        ('[["sat,sun 08:00", "8 kbit/s"]]', (RateStep(480, 1000, frozenset({5, 6})),)),
    ],
)
def test_lists_come_from_the_environment_as_json(loaded: Loader, value: str, steps: tuple[RateStep, ...]) -> None:
    """A bandwidth may be plain text or JSON steps."""
    assert loaded(VALT_UPLOADER_UPLOAD__BANDWIDTH=value).upload.bandwidth == steps


def test_tables_come_from_the_environment_as_json(loaded: Loader) -> None:
    """A whole table may be one variable, and a single key still overrides it."""
    config = loaded(VALT_UPLOADER_UPLOAD='{"workers": 7, "order": "newest"}', VALT_UPLOADER_UPLOAD__WORKERS="9")
    assert (config.upload.workers, config.upload.order) == (9, "newest")


def test_every_key_can_be_set_in_the_environment(loaded: Loader) -> None:
    """Each documented key of the shipped file has its variable, with the value written as JSON."""
    shipped = tomllib.loads(SHIPPED.read_text(encoding="utf-8"))
    environ = {
        f"VALT_UPLOADER_{section}__{key}".upper(): value if isinstance(value, str) else json.dumps(value)
        for section, table in shipped.items()
        if section != "watch"
        for key, value in table.items()
    }
    environ["VALT_UPLOADER_WATCH"] = json.dumps(shipped["watch"])
    assert loaded("", **environ) == load(SHIPPED, {})


def test_the_process_environment_is_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the environment that is passed in counts."""
    monkeypatch.setenv("VALT_UPLOADER_UPLOAD__WORKERS", "9")
    monkeypatch.setenv("STATE_DIRECTORY", "/elsewhere")
    config = load(None, ENVIRON)
    assert (config.upload.workers, config.state.dir) == (4, Path("/var/lib/valt-uploader"))


def test_the_password_in_the_environment_is_no_part_of_the_configuration() -> None:
    """It is accepted, and nothing of it is in what was loaded."""
    config = load(None, {**ENVIRON, "VALT_UPLOADER_PASSWORD": "hunter2", "VALT_UPLOADER_CONFIG": "/x"})
    assert "hunter2" not in repr(config)


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        ({}, "/etc/valt-uploader/config.toml"),
        ({"VALT_UPLOADER_CONFIG": ""}, "/etc/valt-uploader/config.toml"),
        ({"VALT_UPLOADER_CONFIG": "/opt/here.toml"}, "/opt/here.toml"),
    ],
)
def test_the_configuration_file_is_the_named_one_or_the_default(environ: dict[str, str], path: str) -> None:
    """$VALT_UPLOADER_CONFIG names it; otherwise it is in /etc."""
    assert find_config(environ) == Path(path)


@pytest.mark.parametrize(
    ("text", "variable", "folder"),
    [
        ("", "", "/var/lib/valt-uploader"),
        ("", "/var/lib/one:/var/lib/two", "/var/lib/one"),
        ('[state]\ndir = "/mine"', "/var/lib/one", "/mine"),
    ],
)
def test_the_state_folder_is_configured_or_the_one_systemd_made(
    loaded: Loader, text: str, variable: str, folder: str
) -> None:
    """The key comes first, then the first folder of $STATE_DIRECTORY, then the default."""
    assert loaded(LEAST + text, STATE_DIRECTORY=variable).state.dir == Path(folder)


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("valt.example.com", "https://valt.example.com"),
        ("valt.example.com:8443/", "https://valt.example.com:8443"),
        ("HTTPS://VALT.example.com", "https://valt.example.com"),
        ("https://[2001:db8::1]:8443", "https://[2001:db8::1]:8443"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[::1]", "http://[::1]"),
        ("http://localhost:1", "http://localhost:1"),
    ],
)
def test_an_address_is_an_origin_and_https_by_default(loaded: Loader, given: str, url: str) -> None:
    """Plain http to the machine itself needs no permission."""
    assert loaded(LEAST.replace("https://valt.example.com", given)).server.url == url


def test_plain_http_to_another_machine_needs_permission(loaded: Loader) -> None:
    """``allow_plaintext`` gives it."""
    text = with_server("allow_plaintext = true").replace("https:", "http:")
    assert loaded(text).server.url == "http://valt.example.com"


def test_a_pin_is_normalised(loaded: Loader) -> None:
    """Colons and capitals do not matter."""
    pin = ":".join(["AB"] * 32)
    assert loaded(with_server(f'pin_sha256 = "{pin}"')).server.pin_sha256 == "ab" * 32


def test_an_empty_text_unsets_an_optional_key(loaded: Loader, tmp_path: Path) -> None:
    """The environment can so remove a key of the file."""
    text = with_server(f'password_file = "/p"\nca_file = "{tmp_path}/config.toml"\npin_sha256 = "{"a" * 64}"')
    assert loaded(text).server.password_file == Path("/p")
    names = ("PASSWORD_FILE", "CA_FILE", "PIN_SHA256")
    server = loaded(text, **{f"VALT_UPLOADER_SERVER__{name}": "" for name in names}).server
    assert (server.password_file, server.ca_file, server.pin_sha256) == (None, None, None)
    watch = loaded(f"{LEAST}move_to = ''\n[watch.record]\nmatch = ''").watch[0]
    assert (watch.move_to, watch.record.match) == (None, None)


def test_a_home_folder_is_expanded(loaded: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    """~ is the home of the user that runs the program."""
    monkeypatch.setenv("HOME", "/home/recorder")
    assert loaded(LEAST.replace("/srv", "~")).watch[0].path == Path("/home/recorder/recordings")


def test_a_record_rule_is_ready_to_use(loaded: Loader) -> None:
    """The expression is compiled, the template is texts, the share is numbers."""
    record = (
        loaded(
            LEAST
            + """[watch.record]
        match = '(?P<room>[^_]+)_(?P<subject>.+)'
        name = "{subject}"
        template = { "1" = "{room}", "2" = "{mtime:%Y}" }
        share = { users = [1, 2], groups = [4] }"""
        )
        .watch[0]
        .record
    )
    assert record.match == re.compile("(?P<room>[^_]+)_(?P<subject>.+)")
    assert record.template == {"1": "{room}", "2": "{mtime:%Y}"}
    assert record.share == RecordSharing((1, 2), (4,))


def test_folders_may_lie_within_each_other(loaded: Loader) -> None:
    """Each has its own rules; only the same folder twice is a fault."""
    assert len(loaded(LEAST + '[[watch]]\npath = "/srv/recordings/special"').watch) == 2


def test_a_configuration_without_folders_can_be_loaded() -> None:
    """Sending single files needs none."""
    environ = {name: value for name, value in ENVIRON.items() if "WATCH" not in name}
    assert load(None, environ, need_watch=False).watch == ()


def test_a_configuration_cannot_be_changed() -> None:
    """It is an immutable value, so that every part of the application may keep it."""
    config = load(None, ENVIRON)
    with pytest.raises(ValidationError, match="frozen"):
        config.server.url = "https://elsewhere.example"  # type: ignore[misc]  # the very thing that must not work


def test_two_configurations_that_say_the_same_are_equal(loaded: Loader) -> None:
    """A reload that changes nothing can so be recognised."""
    text = LEAST + "[watch.record]\nmatch = '(?P<room>.+)'"
    assert loaded(text) == loaded(text.replace("/srv/recordings", "/srv/recordings/"))
    assert loaded(text) != loaded(text, VALT_UPLOADER_UPLOAD__WORKERS="5")


@pytest.mark.parametrize(("written", "gate"), [("true", True), ("false", False), ('"playable"', "playable")])
def test_the_gate_is_a_switch_or_a_word(loaded: Loader, written: str, gate: object) -> None:
    """Without it, it is on."""
    assert loaded().watch[0].gate is True
    assert loaded(LEAST + f"gate = {written}").watch[0].gate == gate
    watch = f'[{{"path": "/srv/recordings", "gate": {written}}}]'
    assert loaded("", **{**ENVIRON, "VALT_UPLOADER_WATCH": watch}).watch[0].gate == gate


def test_the_defaults_use_no_key_without_effect() -> None:
    """They cause no warning."""
    assert load(None, ENVIRON).not_in_force() == []


def test_keys_without_effect_in_this_version_are_named(loaded: Loader) -> None:
    """Each one, and only when its value differs from the default."""
    config = loaded(
        LEAST
        + """mode = "poll"
        [[watch]]
        path = "/srv/more"
        gate = true
        gate_timeout = "5m"
        done_marker = "{name}.done"
        on_duplicate = "skip"
        [status]
        listen = "127.0.0.1:8484" """
    )
    assert sorted(config.not_in_force()) == [
        "status.listen",
    ]


def test_keys_without_effect_in_the_environment_are_named_too() -> None:
    """A key is written in full wherever it is set."""
    environ = {**ENVIRON, "VALT_UPLOADER_STATUS__LISTEN": "127.0.0.1:8484"}
    assert load(None, environ).not_in_force() == ["status.listen"]
