"""Faults of the configuration: reported all at once, with place and remedy, and without secrets."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from uploader.config import load
from uploader.domain.errors import ConfigError

SERVER = '[server]\nurl = "https://valt.example.com"\nusername = "uploader"\n'
WATCH = '[[watch]]\npath = "/srv/recordings"\n'
ENVIRON = {
    "VALT_UPLOADER_SERVER__URL": "https://valt.example.com",
    "VALT_UPLOADER_SERVER__USERNAME": "uploader",
    "VALT_UPLOADER_WATCH": '[{"path": "/srv/recordings"}]',
}
Faults = Callable[..., list[str]]


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Load a text as ``config.toml`` of the current folder and return its faults."""
    monkeypatch.chdir(tmp_path)

    def load_text(text: str | bytes, **environ: str) -> list[str]:
        Path("config.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ConfigError) as caught:
            load(Path("config.toml"), environ)
        assert str(caught.value).splitlines() == caught.value.faults
        return caught.value.faults

    return load_text


def test_every_fault_is_reported_at_once(faults: Faults) -> None:
    """File and environment, each table, unknown keys, single values and whole lists: one load, one list."""
    found = faults(
        """
        [server]
        url = "https://valt.example.com/path"
        pasword_file = "x"
        [upload]
        chunk_size = "16 MBB"
        [[watch]]
        path = "recordings"
        settle = "soon"
        after_upload = "move"
        [watch.record]
        name = "{stme}"
        [[watch]]
        path = "/srv/a"
        [[watch]]
        path = "/srv/a"
        """,
        VALT_UPLOADER_UPLOAD__WORKERS="200",
        VALT_UPLOADER_LOG__LEVLE="info",
    )
    assert found == [
        'config.toml: server.url: expected only scheme, host and port, like "https://valt.example.com:8443"',
        'config.toml: server.username: is missing; give the name of a VALT account like "uploader"',
        "config.toml: server.pasword_file: unknown key; did you mean password_file?",
        'environment: VALT_UPLOADER_UPLOAD__WORKERS: expected a whole number from 1 to 64, got "200"',
        'config.toml: upload.chunk_size: expected a size like "16 MiB" or "whole", got "16 MBB"',
        'config.toml: watch[0].path: expected an absolute path like "/srv/recordings"',
        'config.toml: watch[0].settle: expected a duration like "10s", "500ms", "1.5h" or "2d", got "soon"',
        'config.toml: watch[0].move_to: is required by after_upload = "move"; name a folder like "/srv/uploaded"',
        "config.toml: watch[0].record.name: unknown placeholder {stme}; did you mean {stem}?",
        "environment: VALT_UPLOADER_LOG__LEVLE: unknown variable; did you mean VALT_UPLOADER_LOG__LEVEL?",
        "config.toml: watch[2].path: the same folder as watch[1].path; remove one of them",
    ]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("tls_verify = 'maybe'", 'server.tls_verify: expected true or false, got "maybe"'),
        ("stall_timeout = '0s'", 'server.stall_timeout: expected a duration above zero like "60s"'),
        (
            "stall_timeout = []",
            'server.stall_timeout: expected a duration like "10s", "500ms", "1.5h" or "2d", got a list',
        ),
        ("password_file = 'secret'", 'server.password_file: expected an absolute path like "/srv/recordings"'),
        ("ca_file = '/no/such.pem'", "server.ca_file: /no/such.pem cannot be read: No such file or directory"),
        ("ca_file = '/proc'", "server.ca_file: /proc cannot be read: Is a directory"),
        ("ca_file = '/a\\u0000b'", 'server.ca_file: expected an absolute path like "/srv/recordings"'),
        ("pin_sha256 = 'abc'", "server.pin_sha256: expected the SHA-256 of the server's certificate: 64 hexadecimal"),
        ("timeout = 3", "server.timeout: unknown key; did you mean stall_timeout?"),
        ("zzz = 3", "server.zzz: unknown key; known here are allow_plaintext, ca_file, doubt_settle,"),
    ],
)
def test_a_fault_in_server_says_what_is_expected(faults: Faults, line: str, fault: str) -> None:
    """Plain words, an example, and what was given where that is no secret."""
    (found,) = faults(SERVER + line.replace("'", '"') + "\n" + WATCH)
    assert found.startswith(f"config.toml: {fault}")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("settle = true", 'settle: expected a duration like "10s", "500ms", "1.5h" or "2d", got true'),
        ("rescan = 0", 'rescan: expected a duration above zero like "60s"'),
        ('include = "*.mp4"', 'include: expected a list of patterns like ["*.mp4", "*.mov"], got plain text'),
        ("include = [3]", 'include[0]: expected a list of patterns like ["*.mp4", "*.mov"], got 3'),
        ("gate = 'maybe'", 'gate: expected true, false or "playable", got "maybe"'),
        ("gate = []", 'gate: expected true, false or "playable", got a list'),
        ("mode = 'fast'", 'mode: expected "auto", "events" or "poll", got "fast"'),
        ("after_upload = 3", 'after_upload: expected "keep", "move" or "delete", got 3'),
        ("path = '~nobody-here/x'", "path: the home folder of ~ is not known here; write the whole path"),
        ("move_to = '/srv/recordings/'", "move_to: is the watched folder itself; name another one"),
        ("move_to = 'uploaded'", 'move_to: expected an absolute path like "/srv/recordings"'),
        ("done_marker = 1", "done_marker: expected text in quotes, got 1"),
        ("record = 3", "record: expected a [watch.record] table, got 3"),
    ],
)
def test_a_fault_in_a_watched_folder_names_the_folder_and_the_key(faults: Faults, line: str, fault: str) -> None:
    """Folders are counted from zero, in the order of the file."""
    body = WATCH if not line.startswith("path") else "[[watch]]\n"
    (found,) = faults(f"{SERVER}{body}{line}")
    assert found.startswith(f"config.toml: watch[0].{fault}")


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("match = '(?P<room>x'", "match: not a regular expression: missing ), unterminated subpattern at character 1"),
        ("match = 'a{99999999999999999999}'", "match: not a regular expression that can be used: it is too large"),
        ("match = 3", "match: expected a regular expression in 'single quotes', got 3"),
        ("name = '{name.__class__}'", "name: {name.__class__} is not a placeholder; a placeholder is one name"),
        ("name = '{room}'", "name: unknown placeholder {room}; known are {name} {stem} {suffix} {folder}"),
        ("match = '(?P<mtime>.*)'\nname = '{mtime:%H}'", "name: {mtime} is a named group of match here, and takes no"),
        ("template = { 4 = '{folder' }", "template.4: a brace is not closed or not opened; write {{ or }} for the"),
        ("template = { 4 = 1 }", 'template.4: expected a table of texts like { "1" = "{stem}" }, got 1'),
        ("share = { user = [1] }", "share.user: unknown key; did you mean users?"),
        ("share = { users = ['me'] }", "share.users[0]: expected a table of numbers like { users = [1, 2], groups"),
        ("share = 3", "share: expected a table of numbers like { users = [1, 2], groups = [4] }, got 3"),
        ("settle = '3s'", "settle: unknown key; known here are match, name, share, template"),
    ],
)
def test_a_fault_in_a_record_rule_is_found_at_load(faults: Faults, line: str, fault: str) -> None:
    """Not only when the first file comes."""
    (found,) = faults(f"{SERVER}{WATCH}[watch.record]\n{line}")
    assert found.startswith(f"config.toml: watch[0].record.{fault}")


def test_a_broken_rule_does_not_make_its_groups_unknown(faults: Faults) -> None:
    """One fault is one line: references to groups of a broken rule are not reported."""
    (found,) = faults(f"{SERVER}{WATCH}[watch.record]\nmatch = '(?P<room>'\nname = '{{room}}'")
    assert "record.match" in found


def test_all_faults_of_a_timetable_are_reported_at_once(faults: Faults) -> None:
    """Steps are counted from zero; faults elsewhere are reported, too."""
    steps = [
        '["08:00", "20 Mbit/s"]',
        '["25:00", "20 Mbit/s"]',
        '["mon-fri 18:00", "20 Mb/s"]',
        '["mon 08:00", "unlimited"]',
        '"09:00"',
        '["sun 20:00", "unlimited"]',
    ]
    found = faults(f"{SERVER}{WATCH}settle = 'x'\n[upload]\nbandwidth = [{', '.join(steps)}]")
    for fault, begins in zip(
        found,
        [
            'upload.bandwidth[1]: expected a time of day like "08:00" or "mon-fri 08:00", got "25:00"',
            'upload.bandwidth[2]: expected "unlimited" or a rate like "20 Mbit/s"',
            "upload.bandwidth[3]: 08:00 is given twice on mon",
            'upload.bandwidth[4]: expected steps like ["08:00", "20 Mbit/s"], got "09:00"',
            "watch[0].settle: expected a duration",
        ],
        strict=True,
    ):
        assert fault.startswith(f"config.toml: {begins}")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[upload]\nworkers = 0", "upload.workers: expected a whole number from 1 to 64, got 0"),
        ("[upload]\nchunk_size = '1 KiB'", 'upload.chunk_size: expected at least "64 KiB", or "whole", got "1 KiB"'),
        ("[upload]\nbandwidth = '20 Mb/s'", 'upload.bandwidth: expected "unlimited" or a rate like "20 Mbit/s"'),
        ("[upload]\nrecording_bandwidth = 20", 'upload.recording_bandwidth: expected a rate like "20 Mbit/s"'),
        ("[state]\ndir = 'here'", 'state.dir: expected an absolute path like "/srv/recordings"'),
        ("[status]\nlisten = '8484'", 'status.listen: expected an address and a port like "127.0.0.1:8484", or "",'),
        ("[status]\nlisten = 'localhost:99999'", "status.listen: expected an address and a port like"),
        ("[log]\nformat = 'xml'", 'log.format: expected "auto", "json" or "console", got "xml"'),
        ("[sever]\nx = 1", "sever: unknown key; did you mean server?"),
    ],
)
def test_faults_in_every_table_have_the_same_form(faults: Faults, text: str, fault: str) -> None:
    """They name table, key and remedy."""
    (found,) = faults(SERVER + WATCH + text)
    assert found.startswith(f"config.toml: {fault}")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (SERVER, 'watch: at least one folder is required; add [[watch]] with path = "/srv/recordings"'),
        (SERVER + "[watch]\npath = '/srv'", "watch: expected [[watch]] tables, in double brackets, got a table"),
        ("watch = ['/srv']\n" + SERVER, "watch[0]: expected [[watch]] tables, in double brackets, got plain text"),
        ("server = 3\n" + WATCH, "server: expected a [server] table, got 3"),
    ],
)
def test_a_table_of_the_wrong_shape_is_named_with_its_brackets(faults: Faults, text: str, fault: str) -> None:
    """As it is written in the file."""
    (found,) = faults(text)
    assert found.startswith(f"config.toml: {fault}")


def test_an_empty_file_asks_for_what_has_no_default(faults: Faults) -> None:
    """Address, account and folder."""
    assert [fault.split(": ")[1] for fault in faults("")] == ["server.url", "server.username", "watch"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[server]\nurl = https", "config.toml: line 2, column 7: not TOML: Invalid value; "),
        ('[server]\nurl = "x', "config.toml: end of document: not TOML: Unterminated string; "),
        ("[a]\n[a]\n", "config.toml: line 2, column 3: not TOML: Cannot declare ('a',) twice; "),
        (b"[server]\n\nurl = '\xe9'", "config.toml: line 3: not UTF-8 text; save the file as UTF-8"),
    ],
)
def test_a_toml_error_has_its_line_and_column(faults: Faults, text: str | bytes, fault: str) -> None:
    """Faults in the environment are reported with it."""
    found = faults(text, VALT_UPLOADER_LOG__LEVLE="info")
    assert found[0].startswith(fault)
    assert found[1].startswith("environment: VALT_UPLOADER_LOG__LEVLE: unknown variable")


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    """Windows editors put one at the beginning."""
    path = tmp_path / "config.toml"
    path.write_text("\ufeff" + SERVER + WATCH, encoding="utf-8")
    assert load(path, {}).server.username == "uploader"


@pytest.mark.parametrize(("name", "reason"), [("none.toml", "No such file or directory"), (".", "Is a directory")])
def test_a_file_that_cannot_be_read_is_a_clear_fault(tmp_path: Path, name: str, reason: str) -> None:
    """It names the system's reason and what to do."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / name, {})
    assert caught.value.faults == [
        f"{tmp_path / name}: cannot be read: {reason}; name another file with -c, or change its permissions"
    ]


def test_without_a_file_missing_keys_are_reported_without_a_file_name() -> None:
    """There is no file to name."""
    with pytest.raises(ConfigError) as caught:
        load(None, {})
    assert caught.value.faults[0].startswith("configuration: server.url: is missing")


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("UPLOAD__ORDER", "big", 'UPLOAD__ORDER: expected "oldest", "smallest" or "newest", got "big"'),
        ("UPLOAD", '{"order": "big"}', 'UPLOAD order: expected "oldest", "smallest" or "newest", got "big"'),
        ("UPLOAD", "{order", "UPLOAD: expected an [upload] table, got plain text (in the environment, lists and"),
        ("UPLOAD", "[1]", "UPLOAD: expected an [upload] table, got a list"),
        ("WATCH", "/srv", "WATCH: expected [[watch]] tables, in double brackets, got plain text (in the environment"),
        ("WATCH", '[{"path": "srv"}]', 'WATCH [0].path: expected an absolute path like "/srv/recordings"'),
        ("WATCH", "[]", "WATCH: at least one folder is required"),
        ("WATCH__0__PATH", "/srv", "WATCH__0__PATH: unknown variable; did you mean VALT_UPLOADER_WATCH?"),
        ("ZZZZZZZZZZZZZZZZZZZZZZZZ", "", "ZZZZZZZZZZZZZZZZZZZZZZZZ: unknown variable; sections and keys are joined"),
        ("PASWORD", "hunter2", "PASWORD: unknown variable; did you mean VALT_UPLOADER_PASSWORD?"),
    ],
)
def test_a_fault_in_the_environment_names_the_variable(name: str, value: str, fault: str) -> None:
    """Not the file, which is not at fault."""
    with pytest.raises(ConfigError) as caught:
        load(None, {**ENVIRON, f"VALT_UPLOADER_{name}": value})
    (found,) = caught.value.faults
    assert found.startswith(f"environment: VALT_UPLOADER_{fault}")


@pytest.mark.parametrize(
    "url",
    [
        "https://",
        "ftp://valt.example.com",
        "https://user:hunter2@valt.example.com",
        "user:hunter2@valt.example.com",
        "https://valt.example.com/hunter2",
        "https://valt.example.com?hunter2",
        "https://valt.example.com#hunter2",
        "https://valt.example.com:hunter2",
        "https://valt.exa mple.com",
        "https://valt\texample.com",
        "https://[hunter2",
        "http://valt.example.com",
        "http://127.0.0.1.hunter2.example",
        "http://192.168.1.5",
    ],
)
def test_an_invalid_address_is_refused_without_repeating_it(url: str) -> None:
    """It may hold a password, and faults end up in logs."""
    with pytest.raises(ConfigError) as caught:
        load(None, {**ENVIRON, "VALT_UPLOADER_SERVER__URL": url})
    (found,) = caught.value.faults
    assert found.startswith("environment: VALT_UPLOADER_SERVER__URL: ")
    assert "hunter2" not in found


@pytest.mark.parametrize(
    "environ",
    [
        {"VALT_UPLOADER_SERVER__PASSWORD": "hunter2"},
        {"VALT_UPLOADER_SERVER__PASSWORD_FILE": "hunter2"},
        {"VALT_UPLOADER_SERVER": '{"password": "hunter2"}'},
        {"VALT_UPLOADER_SERVER": '{"password": "hunter2"'},
        {"VALT_UPLOADER_SERVER": '["hunter2"]'},
        {"VALT_UPLOADER_WATCH": "hunter2"},
        {"VALT_UPLOADER_WATCH": '["hunter2"]'},
        {"VALT_UPLOADER_SERVER": '{"password_file": ["hunter2"]}'},
        {"VALT_UPLOADER_SERVER": '{"password_file": 4711}'},
    ],
)
def test_a_password_in_the_wrong_place_is_never_repeated(environ: dict[str, str]) -> None:
    """Neither in the faults nor in the errors that caused them."""
    with pytest.raises(ConfigError) as caught:
        load(None, {**ENVIRON, **environ})
    error: BaseException | None = caught.value
    while error is not None:
        assert "hunter2" not in f"{error}{error!r}"
        assert "4711" not in f"{error}{error!r}"
        error = error.__cause__ or error.__context__


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_certificate_that_may_not_be_read_is_a_fault(faults: Faults, tmp_path: Path) -> None:
    """It is found at load, not at the first connection."""
    certificate = tmp_path / "ca.pem"
    certificate.touch(mode=0)
    (found,) = faults(f'{SERVER}ca_file = "{certificate}"\n{WATCH}')
    assert found.endswith("cannot be read: Permission denied")


def test_foreign_characters_in_a_fault_stay_on_its_line(faults: Faults) -> None:
    """A fault is one line, whatever the file holds."""
    (found,) = faults(SERVER + WATCH + '[upload]\n"wor\\nkers" = 1')
    assert found == "config.toml: upload.wor\\x0akers: unknown key; did you mean workers?"
