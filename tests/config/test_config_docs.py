"""docs/configuration.md: each example can be loaded and does what the page says."""

from __future__ import annotations

import re
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from uploader.bandwidth.limits import rate_now
from uploader.config import Config, load
from uploader.domain.mapping import record_for
from uploader.domain.model import RecordSharing
from uploader.domain.selection import refusal
from uploader.domain.units import UNLIMITED

PAGE = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"(?ms)^```toml\n(.*?)^```$", PAGE)


def loaded(text: str, folder: Path) -> Config:
    """Load an example as the configuration file; a certificate that it names is there."""
    certificate = folder / "certificate.pem"
    certificate.touch()
    path = folder / "config.toml"
    path.write_text(re.sub(r"(?m)^(ca_file = ).*$", rf'\1"{certificate}"', text), encoding="utf-8")
    return load(path, {})


def the_one(tmp_path: Path, line: str) -> Config:
    """The one example that has this line's beginning."""
    (text,) = (example for example in EXAMPLES if re.search(rf"(?m)^{re.escape(line)}", example))
    return loaded(text, tmp_path)


def test_every_block_of_toml_is_an_example() -> None:
    """No block is missed because its fence is written differently."""
    assert len(EXAMPLES) == PAGE.lower().count("toml\n[") == 8


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_is_a_whole_configuration(tmp_path: Path, text: str) -> None:
    """It loads without a fault, sets no key without effect, and keeps TLS verification on."""
    config = loaded(text, tmp_path)
    assert config.not_in_force() == []
    assert config.server.tls_verify


def test_the_example_of_a_proxy_has_its_password_in_a_file(tmp_path: Path) -> None:
    """Never in its address."""
    server = the_one(tmp_path, "proxy =").server
    assert (server.proxy, server.proxy_username) == ("http://proxy.example.com:3128", "recorder7")
    assert server.proxy_password_file is not None


def test_the_clinic_room_gets_the_records_of_its_table(tmp_path: Path) -> None:
    """For each file: the record's name, its two fields, and a warning for the one that does not match."""
    rule = the_one(tmp_path, "match =").watch[0].record
    rows = re.findall(r"(?m)^\| `([^`]+)` \| `([^`]+)` \| (?:`(.*?)`)? ?\| (?:`(.*?)`)? ?\|$", PAGE)
    assert len(rows) == 3
    for relpath, name, room, subject in rows:
        mapped = record_for(rule, relpath=relpath, mtime=0.0)
        fields = {number: value for number, value in (("1", room), ("2", subject)) if value}
        assert (mapped.record.name, mapped.record.template) == (name, fields)
        assert mapped.record.share == RecordSharing(groups=(4,))
        assert (mapped.warning is None) is bool(fields)


def test_the_example_of_a_share_deletes_uploaded_files(tmp_path: Path) -> None:
    """In mode auto, and without an archive."""
    (watch,) = the_one(tmp_path, "after_upload =").watch
    assert (watch.mode, watch.after_upload, watch.move_to) == ("auto", "delete", None)


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("PRIVATE/M4ROOT/CLIP/C0001.MP4", True),
        ("PRIVATE/M4ROOT/SUB/C0001S03.MP4", False),
        ("C0001S03.MP4", False),
        ("DCIM/100GOPRO/GX010001.MP4", True),
        ("DCIM/100GOPRO/GL010001.LRV", False),
        ("live/segment001.ts", False),
        ("a.mxf", True),
        ("a_Proxy.mov", False),
        ("a (Anna's conflicted copy 2026-11-28).mp4", False),
        ("a.sync-conflict-20261128-101500-ABCDEFG.mp4", False),
    ],
)
def test_the_example_of_cards_leaves_out_proxies_and_second_copies(tmp_path: Path, name: str, taken: bool) -> None:
    """What the page says of each."""
    (watch,) = the_one(tmp_path, 'path = "/srv/cards"').watch
    assert (refusal(watch, name) is None) is taken


def test_the_example_of_a_shared_link_has_full_speed_at_nights_and_weekends(tmp_path: Path) -> None:
    """As its table says, hour by hour of a week."""
    upload = the_one(tmp_path, "bandwidth =").upload
    assert (upload.recording_aware, upload.recording_bandwidth) == (True, 1e6)
    monday = datetime(2027, 1, 18, tzinfo=UTC)
    for hour in range(7 * 24):
        office = hour // 24 < 5 and 8 <= hour % 24 < 18
        assert rate_now(upload.bandwidth, monday + timedelta(hours=hour)) == (2.5e6 if office else None)


def test_the_example_of_an_appliance_pins_its_certificate(tmp_path: Path) -> None:
    """One example with the fingerprint as openssl prints it, one with the certificate."""
    pinned, trusted = the_one(tmp_path, "pin_sha256 ="), the_one(tmp_path, "ca_file =")
    assert pinned.server.pin_sha256 is not None
    assert pinned.server.ca_file is None
    assert trusted.server.ca_file is not None
    assert trusted.server.pin_sha256 is None


def test_the_example_of_the_environment_is_a_whole_configuration() -> None:
    """Its variables alone are enough, and each is known."""
    (block,) = re.findall(r"(?ms)^```sh\n(VALT_UPLOADER_.*?)^```$", PAGE)
    environ = dict(word.split("=", 1) for word in shlex.split(block))
    config = load(None, environ)
    assert (config.upload.workers, config.upload.bandwidth) == (2, UNLIMITED)
    assert config.watch[0].move_to == Path("/srv/uploaded")


def test_the_order_of_precedence_is_as_listed(tmp_path: Path) -> None:
    """Variable of the key, variable of the table, file, $STATE_DIRECTORY, default: earlier ones win."""
    path = tmp_path / "config.toml"
    least = "[server]\nurl = 'valt.example.com'\nusername = 'uploader'\n[[watch]]\npath = '/srv'\n"
    places: list[tuple[str, dict[str, str], str]] = [
        (least, {}, "/var/lib/valt-uploader"),
        (least, {"STATE_DIRECTORY": "/systemd"}, "/systemd"),
        (f"{least}[state]\ndir = '/file'", {}, "/file"),
        (f"{least}[state]\ndir = '/file'", {"VALT_UPLOADER_STATE": '{"dir": "/table"}'}, "/table"),
        (f"{least}[state]\ndir = '/file'", {"VALT_UPLOADER_STATE__DIR": "/key"}, "/key"),
    ]
    environ: dict[str, str] = {}
    for text, more, folder in places:
        path.write_text(text, encoding="utf-8")
        environ |= more
        assert load(path, environ).state.dir == Path(folder)
