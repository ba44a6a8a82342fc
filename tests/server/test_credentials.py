"""The password: where it is looked for, what is refused, and that no error shows it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from uploader.config import ServerConfig
from uploader.domain.errors import PasswordUnusable
from uploader.server.credentials import (
    PASSWORD_SIZE_LIMIT,
    PasswordSource,
    PasswordWatch,
    account,
    fingerprint,
    is_of,
    password_source,
    read_password,
    read_proxy_password,
)

SECRET = "c4nary-pässwörd"


def server(password_file: Path | None = None, proxy_password_file: Path | None = None) -> ServerConfig:
    """A server whose password is in this file, behind a proxy that wants a log-in."""
    return ServerConfig(
        url="https://valt.example.com",
        username="uploader",
        password_file=password_file,
        proxy="http://proxy.example.com:3128",
        proxy_username="ours",
        proxy_password_file=proxy_password_file,
    )


def test_the_password_of_the_proxy_has_places_of_its_own(secret_file: Path, tmp_path: Path) -> None:
    """The credential, the file, the variable; without a user name for the proxy there is none."""
    environ = {"VALT_UPLOADER_PROXY_PASSWORD": "from the environment", "VALT_UPLOADER_PASSWORD": "the account's"}
    assert read_proxy_password(server(), environ) == "from the environment"
    assert read_proxy_password(server(proxy_password_file=secret_file), environ) == SECRET
    (tmp_path / "valt-proxy-password").write_text("from systemd\n", encoding="utf-8")
    environ["CREDENTIALS_DIRECTORY"] = str(tmp_path)
    assert read_proxy_password(server(proxy_password_file=secret_file), environ) == "from systemd"
    assert read_proxy_password(server().model_copy(update={"proxy_username": ""}), environ) == ""
    with pytest.raises(PasswordUnusable, match=r"no password of the proxy is configured; set server\.proxy_pass"):
        read_proxy_password(server(), {})
    secret_file.chmod(0o644)
    with pytest.raises(PasswordUnusable, match="can be used by others"):
        read_proxy_password(server(proxy_password_file=secret_file), {})


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    """A password file as it should be: one line, readable by its owner alone."""
    path = tmp_path / "password"
    path.write_text(f"{SECRET}\n", encoding="utf-8")
    path.chmod(0o600)
    return path


def refusal(password_file: Path | None = None, **environ: str) -> str:
    """Why there is no password; the secret is in neither the error nor anything behind it."""
    with pytest.raises(PasswordUnusable) as caught:
        read_password(server(password_file), environ)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in f"{error}{error!r}"
        assert not isinstance(error, UnicodeError)  # it carries what could not be decoded
        error = error.__cause__ or error.__context__
    return str(caught.value)


def test_the_password_is_the_file_without_its_newline(secret_file: Path) -> None:
    """Editors end a file with a newline."""
    assert read_password(server(secret_file), {}) == SECRET


@pytest.mark.parametrize(
    ("content", "password"),
    [("pw", "pw"), ("pw\r\n", "pw"), ("pw\n\n", "pw"), ("p w", "p w"), ("\ufeffpw\r\n", "pw"), ('"pw"', '"pw"')],
)
def test_only_line_ends_and_a_byte_order_mark_are_taken_off(secret_file: Path, content: str, password: str) -> None:
    """Spaces within a password are part of it."""
    secret_file.write_bytes(content.encode())
    assert read_password(server(secret_file), {}) == password


def test_the_password_is_read_anew_each_time(secret_file: Path) -> None:
    """A changed password needs no restart."""
    read_password(server(secret_file), {})
    secret_file.write_text("new", encoding="utf-8")
    assert read_password(server(secret_file), {}) == "new"


def test_the_systemd_credential_comes_first(secret_file: Path, tmp_path: Path) -> None:
    """Its mode is not checked: some versions of systemd set 0440."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    credential = folder / "valt-password"
    credential.write_text("from systemd\n", encoding="utf-8")
    credential.chmod(0o440)
    environ = {"CREDENTIALS_DIRECTORY": str(folder), "VALT_UPLOADER_PASSWORD": "from the environment"}
    assert read_password(server(secret_file), environ) == "from systemd"


def test_other_credentials_in_the_folder_are_ignored(secret_file: Path, tmp_path: Path) -> None:
    """A credentials folder without the daemon's changes nothing."""
    assert read_password(server(secret_file), {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == SECRET


def test_the_file_comes_before_the_environment(secret_file: Path) -> None:
    """Every process of the same user can read the environment, so it comes last."""
    assert read_password(server(secret_file), {"VALT_UPLOADER_PASSWORD": "other"}) == SECRET
    assert read_password(server(), {"VALT_UPLOADER_PASSWORD": "other"}) == "other"


def test_without_any_password_the_three_places_are_named() -> None:
    """The operator can choose one."""
    assert refusal() == (
        "no password is configured; "
        "set server.password_file, the systemd credential valt-password, or $VALT_UPLOADER_PASSWORD"
    )


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o444, 0o620, 0o601])
def test_a_file_that_others_can_use_is_refused_with_a_hint(secret_file: Path, mode: int) -> None:
    """Also when another source has a password; the hint covers Docker secrets."""
    secret_file.chmod(mode)
    text = refusal(secret_file, VALT_UPLOADER_PASSWORD="other")
    assert f"{secret_file} can be used by others (mode {mode:04o}); chmod 600 {secret_file}" in text
    assert "Docker secret" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(secret_file: Path) -> None:
    """Its owner could replace the password at any time."""
    os.chown(secret_file, 12345, -1)
    assert f"{secret_file} belongs to another user (uid 12345), who could replace it; chown it" in refusal(secret_file)


def test_a_link_is_not_followed(secret_file: Path, tmp_path: Path) -> None:
    """Whoever can place a link could otherwise choose the file."""
    link = tmp_path / "link"
    link.symlink_to(secret_file)
    assert refusal(link).endswith("; name the file itself, not a link to it")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """With the system's reason."""
    assert f"{tmp_path}/none cannot be opened: No such file or directory" in refusal(tmp_path / "none")


def test_a_folder_or_a_fifo_is_no_password_file(tmp_path: Path) -> None:
    """A FIFO is not waited for."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    assert f"{fifo} is not a regular file" in refusal(fifo)
    assert f"{tmp_path} is not a regular file" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"\r\n\n", "is empty"),
        (SECRET.encode("latin-1"), "is not UTF-8 text"),
        (SECRET.encode("utf-16"), "is not UTF-8 text, but UTF-16"),
        (SECRET.encode("utf-16-le"), "is not UTF-8 text, but UTF-16"),
        (f"{SECRET}\r\n".encode("utf-16-be"), "is not UTF-8 text, but UTF-16"),
        ("密码密码".encode("utf-16"), "is not UTF-8 text, but UTF-16"),
        (SECRET.encode() + b"\0\0", "holds bytes that are zero"),
        (f"{SECRET} \n".encode(), "ends with a blank"),
        (f"{SECRET}\t".encode(), "ends with a blank"),
        (f"{SECRET}\u00a0".encode(), "ends with a blank"),
        (f" {SECRET}".encode(), "begins with a blank"),
        (f"{SECRET}\n{SECRET}\n".encode(), "has more than one line"),
        (f"\n{SECRET}\n".encode(), "has more than one line"),
        (f"{SECRET}\r{SECRET}".encode(), "has more than one line"),
        (f"{SECRET}\n \n".encode(), "has more than one line"),
        (f"{SECRET}\u2028x".encode(), "has more than one line"),
        (f"c4nary\u200b{SECRET}".encode(), "holds an invisible character"),
        (f"{SECRET}\x1b[D".encode(), "holds an invisible character"),
        (SECRET.encode() * PASSWORD_SIZE_LIMIT, f"is longer than {PASSWORD_SIZE_LIMIT} bytes"),
    ],
)
def test_invalid_content_of_a_password_file_is_refused(secret_file: Path, content: bytes, complaint: str) -> None:
    """Empty, in another encoding, several lines, a blank or an invisible character: it would cost a log-in each time.

    The same holds for the credential and, as far as it can hold that, for the variable; and for the proxy's password.
    """
    secret_file.write_bytes(content)
    assert f"server.password_file {secret_file} {complaint}" in refusal(secret_file)
    (secret_file.parent / "valt-password").write_bytes(content)
    text = refusal(CREDENTIALS_DIRECTORY=str(secret_file.parent))
    assert text.startswith(f"the systemd credential valt-password {complaint}")
    if b"\0" not in content:
        text = refusal(VALT_UPLOADER_PASSWORD=os.fsdecode(content))
        assert text.startswith(f"$VALT_UPLOADER_PASSWORD {complaint}")
    with pytest.raises(PasswordUnusable, match="server.proxy_password_file .* " + re.escape(complaint)) as caught:
        read_proxy_password(server(proxy_password_file=secret_file), {})
    assert SECRET not in str(caught.value)


def test_an_unusable_credential_is_an_error(secret_file: Path, tmp_path: Path) -> None:
    """No other source is used instead."""
    (tmp_path / "valt-password").write_bytes(b"")
    text = refusal(secret_file, CREDENTIALS_DIRECTORY=str(tmp_path))
    assert text.startswith("the systemd credential valt-password is empty")


@pytest.mark.parametrize(("value", "complaint"), [("", "is empty"), ("p\udcffw", "is not UTF-8 text")])
def test_an_unusable_password_in_the_environment_is_refused(value: str, complaint: str) -> None:
    """By the same rules as the file."""
    assert refusal(VALT_UPLOADER_PASSWORD=value).startswith(f"$VALT_UPLOADER_PASSWORD {complaint}")


@pytest.fixture
def credentials(tmp_path: Path) -> str:
    """The folder of systemd's credentials, with the daemon's in it."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    (folder / "valt-password").write_text("credential", encoding="utf-8")
    return str(folder)


@pytest.mark.parametrize("with_credential", [True, False])
@pytest.mark.parametrize("with_file", [True, False])
@pytest.mark.parametrize("with_variable", [True, False])
def test_the_named_source_is_the_one_that_is_used(
    secret_file: Path, credentials: str, *, with_credential: bool, with_file: bool, with_variable: bool
) -> None:
    """The first of the three places that has a password; none when there is none."""
    secret_file.write_text("file", encoding="utf-8")
    environ = {"CREDENTIALS_DIRECTORY": credentials} if with_credential else {}
    environ |= {"VALT_UPLOADER_PASSWORD": "environment"} if with_variable else {}
    places = {"credential": with_credential, "file": with_file, "environment": with_variable}
    first = next((name for name, there in places.items() if there), None)
    configured = server(secret_file if with_file else None)
    assert password_source(configured, environ) == first
    if first is not None:
        assert read_password(configured, environ) == first


@pytest.mark.parametrize(
    ("password_file", "environ", "source"),
    [
        ("none", {}, "file"),
        ("none", {"VALT_UPLOADER_PASSWORD": "other"}, "file"),
        (None, {"VALT_UPLOADER_PASSWORD": ""}, "environment"),
        (None, {"CREDENTIALS_DIRECTORY": ""}, None),
    ],
)
def test_an_unusable_source_is_still_named(
    tmp_path: Path, password_file: str | None, environ: dict[str, str], source: PasswordSource | None
) -> None:
    """It is not opened, so a missing file or an empty variable is no error here."""
    assert password_source(server(tmp_path / password_file if password_file else None), environ) == source


def test_naming_the_source_opens_no_file(tmp_path: Path) -> None:
    """A dangling link or a FIFO in the place of the credential is named without being opened."""
    (tmp_path / "valt-password").symlink_to(tmp_path / "none")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path), "VALT_UPLOADER_PASSWORD": "other"}
    assert password_source(server(), environ) == "credential"
    (tmp_path / "valt-password").unlink()
    os.mkfifo(tmp_path / "valt-password")
    assert password_source(server(), environ) == "credential"


# What is remembered of a password that was refused


@given(st.text(max_size=40), st.text(max_size=40))
@example("secret", "secret")
@example("secret", "secret ")
@settings(max_examples=5)  # each costs four times scrypt, which is slow on purpose
def test_a_fingerprint_matches_its_secret_alone(secret: str, other: str) -> None:
    """Two fingerprints of one secret differ, and none contains it."""
    made = fingerprint(secret)
    assert is_of(made, secret)
    assert is_of(made, other) == (secret == other)
    assert fingerprint(secret) != made
    assert len(secret) < 4 or secret not in made


@pytest.mark.parametrize("made", ["", "scrypt", "scrypt:zz:00", "md5:00:00", "scrypt:é:00", "scrypt:00:é", "\udcff"])
def test_an_invalid_fingerprint_matches_no_secret(made: str) -> None:
    """Without an error, whatever the state holds."""
    assert not is_of(made, "secret")


def test_an_account_is_server_user_and_password(secret_file: Path) -> None:
    """A change of any of them is another account."""
    ours = server(secret_file)
    one = account(ours, {})
    assert account(ours, {}) == one
    assert account(ours.model_copy(update={"username": "other"}), {}) != one
    assert account(ours.model_copy(update={"url": "https://other.example.com"}), {}) != one
    secret_file.write_text("another")
    assert account(ours, {}) != one


def test_the_fingerprint_is_computed_only_after_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """The password is checked every few seconds while it is refused, and scrypt is slow on purpose."""
    secret, compared = ["one"], []
    watch, made = PasswordWatch(lambda: secret[0]), fingerprint("one")

    def compare(made: str, secret: str) -> bool:
        compared.append(secret)
        return is_of(made, secret)

    monkeypatch.setattr("uploader.server.credentials.is_of", compare)
    assert [watch.differs_from(made) for _ in range(5)] == [False] * 5
    secret[0] = "two"
    assert [watch.differs_from(made) for _ in range(5)] == [True] * 5
    secret[0] = "one"
    assert not watch.differs_from(made)
    assert compared == ["one", "two", "one"]
