"""The wire format: requests as protocol.md describes them, and answers of every shape read safely."""

from __future__ import annotations

import contextlib
import json
import unicodedata
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from uploader.domain import errors
from uploader.domain.model import RecordIds, RecordSharing, RecordSpec
from uploader.server.port import RecordDetails, RecordListed
from uploader.server.valt import wire
from uploader.server.valt.answer import ApiAnswer
from uploader.server.valt.wire import FILENAME_LIMIT


def answer(body: Any = b"", status: int = 200, **headers: str) -> ApiAnswer:
    """An answer with this body: bytes as they are, anything else as JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ApiAnswer(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "id", "videos", "status", "type", "records", "url", "name", "author", "created"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
DEEP = b'{"message":' * 900 + b"1" + b"}" * 900


# What we send


def test_a_create_request_has_only_fields_with_a_value() -> None:
    """The name always; template and share only when they are set."""
    assert wire.create_payload(RecordSpec("a")) == {"name": "a"}
    full = RecordSpec("a", {"1": "x"}, RecordSharing((1, 2), (4,)))
    assert wire.create_payload(full) == {
        "name": "a",
        "template": {"1": "x"},
        "share": {"users": [1, 2], "groups": [4]},
    }
    assert wire.create_payload(RecordSpec("a", share=RecordSharing(groups=(4,))))["share"] == {
        "users": [],
        "groups": [4],
    }


def test_a_range_names_its_last_byte() -> None:
    """END is inclusive, and numbers have no padding."""
    assert wire.content_range(0, 1, 1) == "bytes 0-0/1"
    assert wire.content_range(40, 80, 100) == "bytes 40-79/100"
    assert wire.content_range(2**40, 2**41, 2**41) == "bytes 1099511627776-2199023255551/2199023255552"


@pytest.mark.parametrize("span", [(0, 0, 0), (5, 5, 9), (5, 4, 9), (0, 10, 9), (-1, 4, 9)])
def test_an_empty_range_raises(span: tuple[int, int, int]) -> None:
    """Rule 8: an empty file has no range, and neither has a chunk outside the file."""
    with pytest.raises(ValueError, match="no range"):
        wire.content_range(*span)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/rec/a b.mp4", "a b.mp4"),
        ("/rec/Übung 録画.mp4", "Übung 録画.mp4"),
        ('/rec/"; filename="evil.php', "%22; filename=%22evil.php"),
        ("/rec/a\r\nX-Evil: 1\r\n\r\n.mp4", "a%0D%0AX-Evil: 1%0D%0A%0D%0A.mp4"),
        ("/rec/tab\tnul\x01del\x7fc1\x85.mp4", "tab_nul_del_c1_.mp4"),
        ("/rec/bad\udcff.mp4", "bad\ufffd.mp4"),
        ("/rec/100%.mp4", "100%.mp4"),
        ("/rec/" + "x" * 300 + ".mp4", "x" * 196 + ".mp4"),
        ("/rec/" + "x" * 300, "x" * 200),
        ("/rec/." + "x" * 300, "." + "x" * 199),
        ("/rec/" + "x" * 300 + ".not a suffix", "x" * 200),
    ],
)
def test_a_file_name_is_written_as_browsers_do(path: str, name: str) -> None:
    """The base name alone, CR LF and quote percent-encoded, other controls replaced, the suffix kept."""
    assert wire.multipart_filename(path) == name


@given(st.binary(min_size=1, max_size=400))
@example(b'"\r\n' * 100 + b".mp4")
def test_no_name_breaks_out_of_its_header(raw: bytes) -> None:
    """Any name is part of one header of one part, with bounded length."""
    name = wire.multipart_filename("/rec/" + raw.decode("utf-8", "surrogateescape"))
    assert not any(char in '\r\n"' or unicodedata.category(char) == "Cc" for char in name)
    plain = name.replace("%0D", "\r").replace("%0A", "\n").replace("%22", '"')
    assert len(plain) <= FILENAME_LIMIT
    before, after = wire.multipart_frame("b", name)
    assert before.count(b"\r\n") == 4
    assert before.startswith(b'--b\r\nContent-Disposition: form-data; name="file"; filename="')
    assert (before[-4:], after) == (b"\r\n\r\n", b"\r\n--b--\r\n")


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), max_size=300),
    st.from_regex(r"[a-z0-9]{1,9}", fullmatch=True),
)
def test_a_suffix_is_never_cut_off(stem: str, suffix: str) -> None:
    """However long the name: the server recognises the format by it."""
    assert wire.multipart_filename(f"/rec/x{stem}.{suffix}").endswith(f".{suffix}")


def test_a_part_is_read_back_by_an_independent_parser() -> None:
    """One part with the expected name and type, whose content is the chunk."""
    before, after = wire.multipart_frame("b0undary", "a b.mp4")
    raw = b"Content-Type: multipart/form-data; boundary=b0undary\r\n\r\n" + before + b"\x00\r\n--chunk" + after
    (part,) = BytesParser(policy=HTTP).parsebytes(raw).iter_parts()
    assert part["Content-Disposition"].params == {"name": "file", "filename": "a b.mp4"}
    assert part.get_content_type() == "application/octet-stream"
    assert part.get_payload(decode=True) == b"\x00\r\n--chunk"


# Good answers


def test_a_token_is_read_from_the_log_in_answer() -> None:
    """Printable, without spaces, of bounded length."""
    assert wire.token_of(answer({"data": {"access_token": "t0k.en-_~"}})) == "t0k.en-_~"


@pytest.mark.parametrize("token", ["", "a b", "a\nb", "ü", "x" * 5000, 7, None, ["t"], {"t": 1}])
def test_a_harmful_token_is_refused(token: object) -> None:
    """It is part of every URL; the error does not repeat it."""
    with pytest.raises(errors.ServerDown, match="not as a VALT server does") as caught:
        wire.token_of(answer({"data": {"access_token": token}}))
    assert "xxxx" not in str(caught.value)


@given(json_values)
@example([])
def test_a_portal_s_answer_to_a_log_in_is_no_token(body: Any) -> None:
    """A 200 with other content is not from the server."""
    with pytest.raises(errors.ServerDown):
        wire.token_of(answer({"data": body}))


@pytest.mark.parametrize(
    "body",
    [
        {"id": "r-1", "videos": ["v-1"]},
        {"data": {"id": "r-1", "videos": ["v-1"]}},
        {"id": "r-1", "videos": ["v-1", "v-2"], "more": 1},
    ],
)
def test_ids_are_read_with_or_without_a_wrapper(body: Any) -> None:
    """*Create record* answers without one, unlike the other calls; the first video of the list counts."""
    assert wire.ids_of(answer(body)) == RecordIds("r-1", "v-1")


def test_numbers_are_ids_too() -> None:
    """Some servers use numbers."""
    assert wire.ids_of(answer({"id": 17, "videos": [0]})) == RecordIds("17", "0")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"{",
        DEEP,
        {"id": "r"},
        {"id": "r", "videos": []},
        {"id": "r", "videos": None},
        {"id": "r", "videos": {"id": "v"}},
        {"videos": ["v"]},
        [],
    ],
)
def test_a_2xx_without_ids_leaves_the_create_in_doubt(body: Any) -> None:
    """Rule 6: a record may have been made, so a second one is not made at once."""
    with pytest.raises(errors.AnswerLost, match="create record: answered 201 without usable ids"):
        wire.ids_of(answer(body, 201))


evil = st.one_of(
    st.text(max_size=80),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.lists(st.text(max_size=3), max_size=2),
    st.sampled_from(["../login", "a/b", "a?b=c", "a#b", "a\r\nb", "a b", "é", "%2e%2e", ".", "..", "x" * 65, "", "１"]),
)


@given(evil)
def test_an_id_cannot_change_the_url(value: object) -> None:
    """It has letters, digits and hyphens, at most 64."""
    safe = wire.safe_id(value)
    if safe is not None:
        assert 1 <= len(safe) <= 64
        assert set(safe) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-")
        assert safe == str(value)
        assert not isinstance(value, bool)


@pytest.mark.parametrize(
    "value", ["../login", "a/b", "a?b=c", "a\nb", "a\n", "", "x" * 65, "é", "１", True, -1, 1.0, None]
)
def test_a_hostile_id_is_refused(value: object) -> None:
    """Paths, queries, line breaks, foreign digits and endless texts."""
    assert wire.safe_id(value) is None


def test_an_id_may_have_64_characters() -> None:
    """A UUID has 36."""
    assert wire.safe_id("x" * 64) == "x" * 64
    assert wire.safe_id("0F9bC2d4-0000-4000-8000-000000000000") == "0F9bC2d4-0000-4000-8000-000000000000"


def details(**fields: Any) -> RecordDetails:
    """What is read of a record with these fields."""
    return wire.details_of(answer({"data": {"id": "r-1", **fields}}))


def test_details_say_where_a_video_stands() -> None:
    """Name, author, time, and the status word of each video."""
    read = details(
        name="a",
        author={"id": 1, "name": "uploader"},
        created=1_800_000_000,
        videos=[{"id": "v-1", "status": {"type": "created"}}, {"id": "v-2", "status": {"type": "ready"}}],
    )
    assert (read.record, read.name, read.author, read.created) == ("r-1", "a", "uploader", 1_800_000_000.0)
    assert [read.status_of(video) for video in ("v-1", "v-2", "v-3")] == ["created", "ready", None]


@pytest.mark.parametrize("videos", [None, [], {}])
def test_null_videos_mean_that_nothing_has_landed(videos: object) -> None:
    """Or the empty values that serializers write, or a missing key."""
    assert details(videos=videos).videos is None
    assert details().videos is None
    assert details(videos=videos).status_of("v-1") is None


@pytest.mark.parametrize(
    ("videos", "read"),
    [
        ([{"id": "v-1", "status": "ready"}], {"v-1": "ready"}),
        ([{"id": "v-1"}], {"v-1": "unknown"}),
        ([{"id": "v-1", "status": None}], {"v-1": "unknown"}),
        ([{"id": "v-1", "status": {"type": 7}}], {"v-1": "unknown"}),
        ({"1": {"id": "v-1", "status": {"type": "ready"}}}, {"v-1": "ready"}),
        ([{"id": "../v"}, None, 7, "v-1"], {}),
        ([None], {}),
    ],
)
def test_videos_of_an_unknown_shape_count_as_videos(videos: object, read: dict[str, str]) -> None:
    """Rule 7: only a record whose videos are null may be deleted."""
    assert details(videos=videos).videos == read


@pytest.mark.parametrize("videos", ["ready", 1, True, 0, False, ""])
def test_unreadable_videos_are_not_taken_for_none(videos: object) -> None:
    """The record is asked about again later, and not deleted."""
    with pytest.raises(errors.ServerDown, match="record details"):
        details(videos=videos)


@pytest.mark.parametrize("created", [10**400, -(10**400), "soon", None, True, [1]])
def test_an_invalid_time_of_a_record_is_read_as_0(created: object) -> None:
    """No number raises; and a record of unknown time is never adopted."""
    assert details(created=created).created == 0.0


def test_nan_and_infinity_are_no_time() -> None:
    """JSON as PHP writes it may contain them."""
    for number in (b"NaN", b"Infinity", b"1e999"):
        assert wire.details_of(answer(b'{"data": {"id": "r", "created": ' + number + b"}}")).created == 0.0


ROW = {"id": "r-1", "name": "a", "author": {"name": "uploader"}, "created": 5}


@pytest.mark.parametrize("body", [{"data": {"records": [ROW]}}, {"data": [ROW]}])
def test_a_list_comes_in_two_shapes(body: Any) -> None:
    """As the wiki says and as the vendor's client has it."""
    assert wire.listed_of(answer(body)) == (RecordListed("r-1", "a", "uploader", 5.0),)


def test_unreadable_rows_of_a_list_are_left_out() -> None:
    """The others count; an author or a name of another type is read as none."""
    body = {"data": [None, 7, {"id": "../x"}, {"id": "r-2", "name": 7, "author": "me", "created": "now"}, ROW]}
    assert [row.record for row in wire.listed_of(answer(body))] == ["r-2", "r-1"]
    assert wire.listed_of(answer(body))[0] == RecordListed("r-2", "", "", 0.0)
    assert wire.listed_of(answer({"data": []})) == ()


@pytest.mark.parametrize("body", [b"", b"<html>", {"data": None}, {"data": {"records": None}}, {"records": []}, []])
def test_an_answer_without_a_list_raises(body: Any) -> None:
    """An empty list would mean that another record has to be made."""
    with pytest.raises(errors.ServerDown, match="list records"):
        wire.listed_of(answer(body))


def test_a_link_is_read_with_or_without_a_wrapper() -> None:
    """Only a web address is accepted."""
    url = "https://valt:8000/distribution/a.mp4?filename=a&access_token=jwt"
    assert wire.link_of(answer({"url": url})) == wire.link_of(answer({"data": {"url": url}})) == url
    bodies: list[Any] = [{}, {"url": "file:///etc/passwd"}, {"url": 7}, {"url": None}, {"data": []}, b"<html>"]
    for body in bodies:
        with pytest.raises(errors.ServerDown, match="without a link"):
            wire.link_of(answer(body))


def test_a_version_is_a_short_text_or_unknown() -> None:
    """An unknown version raises nothing."""
    assert wire.version_of(answer({"data": {"version": "6.7.2"}})) == "6.7.2"
    assert wire.version_of(answer({"data": {"version": "6\n" + "x" * 99}})) == "6\\x0a" + "x" * 34 + "…"
    bodies: list[Any] = [{"data": {"version": 6}}, {"data": []}, {"x": 1}]
    for body in bodies:
        assert wire.version_of(answer(body)) is None
    others: list[Any] = [{}, [], b"", b"OK"]
    for body in others:
        with pytest.raises(errors.ServerRefused, match="not as a VALT server does"):
            wire.version_of(answer(body))


@pytest.mark.parametrize(
    ("header", "held"),
    [("0-39", 40), ("bytes=0-39", 40), (" 0-0 ", 1), ("0-999999999999999999", 10**18)]
    + [(bad, None) for bad in ("", "1-39", "0-", "-39", "0-39/100", "0-3.9", "0-x", "0-" + "9" * 19, "bytes 0-39")],
)
def test_a_range_in_an_answer_says_how_much_is_held(header: str, held: int | None) -> None:
    """Rule 2: 0-N means N + 1 bytes; anything else says nothing."""
    assert wire.held_of(answer(range=header)) == held
    assert wire.held_of(answer()) is None


@given(json_values, st.sampled_from([wire.ids_of, wire.details_of, wire.listed_of, wire.link_of, wire.version_of]))
def test_any_json_is_read_or_refused_with_a_known_error(body: Any, reader: Any) -> None:
    """Whatever its shape."""
    for wrapped in (body, {"data": body}, {"data": {"id": "r", "videos": body}}):
        with contextlib.suppress(errors.UploaderError):
            reader(answer(wrapped))
