"""The shipped configuration file documents every key and its default, and sets no key without effect."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from uploader.config import Config, RecordConfig, WatchConfig, load
from uploader.domain.placeholders import PLACEHOLDERS

SHIPPED = Path(__file__).parents[2] / "config" / "config.toml"
TEXT = SHIPPED.read_text(encoding="utf-8")
LEAST = {
    "VALT_UPLOADER_SERVER__URL": "https://valt.example.com",
    "VALT_UPLOADER_SERVER__USERNAME": "uploader",
    "VALT_UPLOADER_WATCH": '[{"path": "/srv/recordings"}]',
}


def loaded(text: str, folder: Path) -> Config:
    """Load a text as the configuration file."""
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return load(path, {})


def documented_keys() -> dict[str, set[str]]:
    """The keys of each table of the shipped file, also those that are commented out."""
    tables: dict[str, set[str]] = {}
    for line in TEXT.splitlines():
        if header := re.fullmatch(r"\[+([a-z.]+)\]+", line):
            table = tables.setdefault(header[1], set())
        elif key := re.match(r"(?:# )?([a-z_0-9]+) = ", line):
            table.add(key[1])
    return tables


def known_keys() -> dict[str, set[str]]:
    """The keys of each table that the program knows."""
    tables = {section: field.annotation for section, field in Config.model_fields.items()}
    tables |= {"watch": WatchConfig, "watch.record": RecordConfig}
    known = {}
    for name, table in tables.items():
        assert isinstance(table, type)
        assert issubclass(table, BaseModel)
        known[name] = set(table.model_fields)
    known["watch"].remove("record")  # a table of its own in the file
    return known


def test_the_shipped_file_documents_every_key_and_no_other() -> None:
    """Every key of the program is in it, and every key in it exists."""
    assert documented_keys() == known_keys()


def test_the_shipped_file_documents_every_placeholder_and_no_other() -> None:
    """In the comment on the record's name."""
    (comment,) = re.findall(r"Placeholders: (.+?) \{\{ and \}\}", " ".join(TEXT.replace("\n# ", " ").split()))
    assert re.findall(r"\{(\w+)[:}]", comment) == list(PLACEHOLDERS)


def test_the_shipped_file_says_what_the_defaults_are() -> None:
    """Loading it as it is gives the same as giving the three keys that have no default."""
    assert load(SHIPPED, {}) == load(None, LEAST)


def test_the_shipped_file_sets_no_key_without_effect() -> None:
    """A copy of it causes no warning."""
    assert load(SHIPPED, {}).not_in_force() == []


def test_the_shipped_file_writes_out_every_default() -> None:
    """Only keys are commented out that have a meaning when unset."""
    shipped: dict[str, Any] = tomllib.loads(TEXT)
    watch = shipped.pop("watch")[0]
    written = {**shipped, "watch.record": watch.pop("record"), "watch": watch}
    left_out = {f"{name}.{key}" for name, keys in known_keys().items() for key in keys if key not in written[name]}
    assert left_out == {
        "server.password_file",
        "server.ca_file",
        "server.pin_sha256",
        "server.proxy_password_file",
        "watch.proof",
        "server.resend_is_safe",
        "watch.move_to",
        "watch.record.match",
        "state.dir",
    }


def test_the_examples_of_the_shipped_file_can_be_used(tmp_path: Path) -> None:
    """Each commented key is valid once its # is removed."""
    text = re.sub(r"(?m)^# ([a-z_0-9]+ = )", r"\1", TEXT)
    config = loaded(text.replace("/etc/ssl/our-ca.pem", str(SHIPPED)), tmp_path)
    assert config.server.pin_sha256 is not None
    assert config.watch[0].move_to == Path("/srv/uploaded")
    assert config.watch[0].record.match is not None


def test_the_shipped_file_says_which_keys_have_no_effect() -> None:
    """A comment before each of them says so, and before no other key."""
    remarked = set()
    for block in TEXT.split("\n\n"):
        if "ccepted, not yet in force in this version" in block:
            remarked |= set(re.findall(r"(?m)^(?:# )?([a-z_0-9]+) = ", block))
    assert remarked == {
        "listen",
    }
