"""The record that a file becomes: placeholders, rules for names, and hostile names."""

from __future__ import annotations

import json
import os
import re
import time
import unicodedata
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from uploader.config import RecordConfig
from uploader.domain.mapping import RECORD_NAME_LIMIT, TEMPLATE_VALUE_LIMIT, Mapped, clean, cut, record_for
from uploader.domain.model import RecordSharing
from uploader.domain.placeholders import PLACEHOLDERS, Placeholder, check_placeholders, fill_names

ROOM = re.compile(r"(?P<room>[^_/]+)_(?P<subject>[^/]+)")
KNOWN = " ".join(f"{{{name}}}" for name in PLACEHOLDERS)
NOON = 1_700_000_000.0  # 14 November 2023, 22:13:20 UTC


@pytest.fixture
def new_york() -> Iterator[None]:
    """A machine five hours behind UTC."""
    before = os.environ.get("TZ")
    os.environ["TZ"] = "EST5"
    time.tzset()
    yield
    os.environ.pop("TZ")
    if before is not None:
        os.environ["TZ"] = before
    time.tzset()


def mapped(relpath: str, *, mtime: float = NOON, **rule: object) -> Mapped:
    """What a rule makes of a file."""
    return record_for(RecordConfig.model_validate(rule), relpath=relpath, mtime=mtime)


def name_of(relpath: str, text: str = "{stem}") -> str:
    """The record's name by a rule without ``match``."""
    return mapped(relpath, name=text).record.name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("{name}", "take.1.mp4"),
        ("{stem}", "take.1"),
        ("{suffix}", ".mp4"),
        ("{folder}", "2024/May"),
        ("{relpath}", "2024/May/take.1.mp4"),
        ("{folder}: {stem}", "2024/May: take.1"),
        ("{{{stem}}}", "{take.1}"),
        ("plain", "plain"),
    ],
)
def test_placeholders_are_filled_from_the_path(text: str, name: str) -> None:
    """Each of them, several of them, and braces that are meant as braces."""
    assert name_of("2024/May/take.1.mp4", text) == name


@pytest.mark.usefixtures("new_york")
def test_the_time_is_local_time() -> None:
    """The file's mtime in the machine's time zone, in the given format or in a plain one."""
    assert name_of("a.mp4", "{mtime:%d.%m.%Y %H:%M}") == "14.11.2023 17:13"
    assert name_of("a.mp4", "{mtime}") == "2023-11-14 17:13"


@pytest.mark.parametrize("mtime", [-1e300, -1e12, -1.0, 0.0, 1e12, 1e300])
def test_an_impossible_mtime_is_brought_into_range(mtime: float) -> None:
    """Shares report any time; no file is held up by it."""
    assert re.fullmatch(
        r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}", mapped("a", mtime=mtime, name="{mtime}").record.name
    )


@pytest.mark.parametrize(
    ("relpath", "stem", "suffix"),
    [
        ("a.tar.gz", "a.tar", ".gz"),
        (".hidden", ".hidden", ""),
        ("-rf.mp4", "-rf", ".mp4"),
        ("no suffix", "no suffix", ""),
        ("dir.d/file", "file", ""),
        ("..mp4", ".", ".mp4"),
        ("a.", "a", "."),
    ],
)
def test_the_suffix_is_what_follows_the_last_dot_of_a_name(relpath: str, stem: str, suffix: str) -> None:
    """A leading dot begins no suffix, a dot in a folder's name does not count, a leading dash is a character."""
    assert name_of(relpath, "[{stem}][{suffix}]") == f"[{stem}][{suffix}]"
    assert fill_names("[{stem}][{suffix}]", relpath.rpartition("/")[2]) == f"[{stem}][{suffix}]"


@pytest.mark.parametrize("placeholder", PLACEHOLDERS)
def test_every_placeholder_that_the_configuration_takes_is_filled(placeholder: str) -> None:
    """None makes a record fall back to the stem."""
    found = mapped("2024/take.mp4", name=f"<{{{placeholder}}}>").record.name
    assert re.fullmatch("<.+>", found)


def test_a_named_group_comes_before_a_placeholder_of_its_name() -> None:
    """The rule's author has said what the name means here."""
    found = mapped("3_Miller.mp4", match="(?P<folder>[0-9]+)_(?P<name>.+)", name="{name} in {folder}")
    assert found.record.name == "Miller in 3"


def test_a_group_with_a_placeholder_s_name_is_left_out_when_the_rule_does_not_match() -> None:
    """The placeholder does not take its place: the record would get a name that nobody asked for."""
    found = mapped("odd.mp4", match="(?P<folder>[0-9]+)_.+", name="room {folder}", template={"1": "{folder}"})
    assert (found.record.name, found.record.template) == ("odd", {})
    assert "the name, template field 1" in (found.warning or "")


@pytest.mark.parametrize("relpath", ["Lab_Smith.mp4", "odd.mp4"])
def test_a_placeholder_that_is_added_later_changes_no_rule_that_has_a_group_of_its_name(
    relpath: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an update the configuration loads, and every file gets the same record."""

    def record() -> Mapped:
        return mapped(relpath, match=ROOM.pattern, name="{room}", template={"1": "{room}", "2": "{stem}"})

    before = record()
    assert isinstance(PLACEHOLDERS, dict)
    monkeypatch.setitem(PLACEHOLDERS, "room", Placeholder(lambda file, spec: "new"))
    assert record() == before
    assert name_of(relpath, "{room}") == "new"


def test_named_groups_fill_name_and_template() -> None:
    """What the rule matches becomes the record's name and its template fields."""
    found = mapped(
        "Room 1_Miller.mp4",
        match=ROOM.pattern,
        name="{subject} in {room}",
        template={"1": "{room}", "2": "{subject}", "3": "fixed"},
        share={"users": [1, 2], "groups": [4]},
    )
    assert found.warning is None
    assert found.record.name == "Miller in Room 1"
    assert found.record.template == {"1": "Room 1", "2": "Miller", "3": "fixed"}
    assert found.record.share == RecordSharing(users=(1, 2), groups=(4,))


def test_the_rule_sees_the_whole_relative_path_without_suffix() -> None:
    """Names of folders can be matched."""
    found = mapped("2024/Defence.mp4", match=r"(?P<year>[0-9]+)/(?P<title>.+)", name="{title} ({year})")
    assert found.record.name == "Defence (2024)"


def test_a_rule_for_names_applies_in_sub_folders_too() -> None:
    """When the path does not match, the stem alone is tried."""
    found = mapped("2024/May/Lab_Smith.mp4", match=ROOM.pattern, name="{room}/{subject}")
    assert found == Mapped(found.record, None)
    assert found.record.name == "Lab/Smith"


def test_a_rule_must_match_from_end_to_end() -> None:
    """A match of a part is not enough."""
    assert mapped("Lab_Smith_2.mp4", match="(?P<room>Lab)", name="{room}").warning is not None


def test_a_file_that_the_rule_does_not_match_is_sent_under_its_stem() -> None:
    """It is never held back; the warning names the rule, the file and the fields that were left out."""
    found = mapped(
        "odd.mp4", match=ROOM.pattern, name="{subject}", template={"1": "{room}", "2": "fixed", "3": "{stem}"}
    )
    assert found.record.name == "odd"
    assert found.record.template == {"2": "fixed", "3": "odd"}
    assert found.warning == (
        f"match = '{ROOM.pattern}' does not match odd.mp4: the rule is not used for the name, template field 1"
    )


def test_a_name_that_needs_no_group_is_kept_when_the_rule_does_not_match() -> None:
    """Only fields that use a group of the rule are left out."""
    found = mapped("odd.mp4", match=ROOM.pattern, name="Capture {stem}", template={"1": "{room}"})
    assert found.record.name == "Capture odd"
    assert found.warning is not None
    assert "the name" not in found.warning


def test_an_unmatched_optional_group_leaves_its_field_out() -> None:
    """Without a warning."""
    found = mapped("Lab.mp4", match=r"(?P<room>\w+?)(_(?P<who>\w+))?", name="{room}{who}", template={"1": "{who}"})
    assert found.record.name == "Lab"
    assert found.record.template == {}
    assert found.warning is None


def test_braces_in_a_file_name_are_no_placeholder() -> None:
    """They are characters like any other."""
    assert name_of("{name.__class__}{mtime}{{.mp4") == "{name.__class__}{mtime}{{"


def test_a_rule_matches_composed_and_decomposed_names_alike() -> None:
    """MacOS writes ü as u and two dots; rule and server get one character."""
    found = mapped("Bu\u0308hne_x.mp4", match="(?P<room>B\u00fchne)_x", name="{room}")
    assert found.record.name == "B\u00fchne"


@pytest.mark.parametrize(
    ("relpath", "name"),
    [
        ("a\nb.mp4", "a\\x0ab"),
        ("\u202egpj.mp4", "\\u202egpj"),
        ("caf\udce9.mp4", "caf\\xe9"),
        ("\t take  1 \n.mp4", "take  1"),
        ("\U0001f3a5 take.mp4", "\U0001f3a5 take"),
        ('"quoted".mp4', '"quoted"'),
    ],
)
def test_names_are_made_fit_for_one_line(relpath: str, name: str) -> None:
    """Control and bidi characters and invalid bytes are escaped, spaces at the ends are removed."""
    assert name_of(relpath) == name


@pytest.mark.parametrize(
    ("relpath", "name"),
    [
        ("Take 10\uf02230\uf02215.mp4", "Take 10:30:15"),
        ("\uf020A\uf020 \uf023b\uf024 c\uf025 d\uf021 e\uf026f\uf027g.mp4", '"A" <b> c? d* e\\f|g'),
        ("no. 5\uf029.mp4", "no. 5."),
        ("\uf028take 1\uf028.mp4", "take 1"),
        ("10\uf03a30 \uf03ca\uf03e\uf03f\uf02a\uf05c\uf07c.mp4", "10:30 <a>?*\\|"),
        ("1\uf02f2.mp4", "1/2"),
        ("Ic\uf00don.mp4", "Ic\\x0don"),
        ("\uf8ff take \ue000.mp4", "\uf8ff take \ue000"),
        ("\uf029.mp4", "."),
    ],
)
def test_private_use_characters_stand_for_what_a_share_cannot_hold(relpath: str, name: str) -> None:
    """As macOS, Samba and Linux write them, and Cygwin; all other private-use characters stay."""
    assert name_of(relpath) == name


def test_private_use_characters_are_matched_as_what_they_stand_for() -> None:
    """In folders and names, by ``match`` and by the template; a slash in a name makes no folder."""
    spec = mapped("A\uf022B/10\uf02230_x\uf02fy.mp4", match=r"(?P<room>.+)/(?P<time>\d+:\d+)_.*", name="{room} {time}")
    assert spec.record.name == "A:B 10:30"
    assert spec.warning is None
    assert mapped("1\uf02f2.mp4", template={"1": "{folder}", "2": "{name}"}).record.template == {"2": "1/2.mp4"}
    assert name_of("\uf029\uf029/a.mp4", "{relpath}") == "../a.mp4"


@pytest.mark.parametrize(("relpath", "name"), [("  .mp4", "recording"), ("take.mp4", "take")])
def test_an_empty_name_falls_back_to_the_stem_and_then_to_a_plain_word(relpath: str, name: str) -> None:
    """A record always has a name."""
    assert name_of(relpath, "  ") == name


def test_long_names_that_differ_at_their_end_stay_different() -> None:
    """A name is cut at its limit, with a digest of the whole."""
    first, second = (name_of("x" * 300 + end + ".mp4") for end in "ab")
    assert len(first) == len(second) == RECORD_NAME_LIMIT
    assert first != second
    assert first == name_of("x" * 300 + "a.mp4")
    assert first.startswith("x" * 200)


def test_a_name_of_exactly_the_limit_is_left_alone() -> None:
    """Nothing is cut."""
    assert name_of("y" * RECORD_NAME_LIMIT) == "y" * RECORD_NAME_LIMIT


def test_template_values_have_a_limit_of_their_own() -> None:
    """A path of thousands of characters is not sent with every request."""
    value = mapped("d/" * 2000 + "a.mp4", template={"1": "{relpath}"}).record.template["1"]
    assert len(value) == TEMPLATE_VALUE_LIMIT


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{stme}", "unknown placeholder {stme}; did you mean {stem}?"),
        ("{rom}", "unknown placeholder {rom}; did you mean {room}?"),
        ("{zzz}", f"unknown placeholder {{zzz}}; known are {KNOWN} {{room}}"),
        ("{name.__class__}", "{name.__class__} is not a placeholder"),
        ("{name[0]}", "{name[0]} is not a placeholder"),
        ("{}", "{} is not a placeholder"),
        ("{0}", "{0} is not a placeholder"),
        ("{name!r}", '"!r" after {name} is not supported'),
        ("{stem:>9999999999}", "only {mtime:…} takes a format"),
        ("{mtime:{name}}", "without braces"),
        ("{mtime:\0}", "without braces"),
        ("{stem", "a brace is not closed"),
        ("stem}", "a brace is not closed"),
    ],
)
def test_an_invalid_placeholder_is_refused_at_load(text: str, complaint: str) -> None:
    """Unknown names, attributes, indices, conversions and broken braces, each in plain words."""
    with pytest.raises(ValueError, match=re.escape(complaint)):
        check_placeholders(text, ["room"])


def test_a_named_group_takes_no_format() -> None:
    """Also one that has the name of a placeholder that does."""
    with pytest.raises(ValueError, match=re.escape("{mtime} is a named group of match here, and takes no format")):
        check_placeholders("{mtime:%H:%M}", ["mtime"])
    check_placeholders("{mtime}", ["mtime"])


# Names as a file system can hold them: no slash, no NUL, 255 bytes, whatever else.
_AWKWARD = st.sampled_from(
    ["\n", "\u202e", "\U0001f3a5", "\udcff", '"', "'", "-", ".", " ", "{", "}", "_", "e\u0301", "\u200d"]
)
_PLAIN = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), max_size=8)
_FILE_NAMES = (
    st.lists(_AWKWARD | _PLAIN, min_size=1)
    .map("".join)
    .map(lambda name: os.fsdecode(os.fsencode(name)[:255]))
    .filter(lambda name: name not in {"", ".", ".."})
)
_RELPATHS = st.lists(_FILE_NAMES, min_size=1, max_size=3).map("/".join)
_RULES = st.sampled_from(
    [
        RecordConfig.model_validate(rule)
        for rule in (
            {},
            {"name": "{relpath} {mtime}", "template": {"1": "{folder}", "2": "{name}"}},
            {"match": ROOM.pattern, "name": "{room} {subject}", "template": {"1": "{subject}"}},
            {"match": "(?s)(?P<all>.*)", "name": "{all}", "template": {"1": "{all}{all}{all}"}},
        )
    ]
)


@given(rule=_RULES, relpath=_RELPATHS, mtime=st.floats(allow_nan=False, allow_infinity=False))
@example(rule=RecordConfig(), relpath="\udcff" * 255, mtime=0.0)
@example(rule=RecordConfig(), relpath="a\u200d\u030c", mtime=0.0)
@example(rule=RecordConfig(name="{relpath}"), relpath="\u202e" * 85 + "/x", mtime=0.0)
def test_every_file_gets_a_record_that_any_server_can_take(rule: RecordConfig, relpath: str, mtime: float) -> None:
    """For every name: within the limits, on one line, in composed form, as UTF-8 and as JSON."""
    found = record_for(rule, relpath=relpath, mtime=mtime)
    assert 1 <= len(found.record.name) <= RECORD_NAME_LIMIT
    assert all(1 <= len(value) <= TEMPLATE_VALUE_LIMIT for value in found.record.template.values())
    for text in (found.record.name, *found.record.template.values(), found.warning or ""):
        # All but the joiners, which belong to how some scripts and emoji are spelt.
        kinds = {unicodedata.category(char) for char in text if char not in "\u200c\u200d"}
        assert not kinds & {"Cc", "Cf", "Cs", "Zl", "Zp"}
        assert json.loads(json.dumps(text, ensure_ascii=False).encode()) == text
    for text in (found.record.name, *found.record.template.values()):
        assert text == unicodedata.normalize("NFC", text).strip()
    assert found == record_for(rule, relpath=relpath, mtime=mtime)


@given(st.text(), st.text())
def test_cut_texts_stay_different(one: str, other: str) -> None:
    """However short the limit."""
    first, second = clean(one), clean(other)
    if first != second:
        assert cut(first, 10) != cut(second, 10)
