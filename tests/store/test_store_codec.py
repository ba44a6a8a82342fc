"""``state.json``: what is written is read back equal, and anything else is refused."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any, get_args

import pytest
from fakes import EPOCH, LAST_ERROR, an_upload
from hypothesis import given
from hypothesis import strategies as st

from uploader.domain.lifecycle import broken_rule
from uploader.domain.model import (
    ActionBy,
    AfterUpload,
    Identity,
    LastError,
    Orphan,
    RecordSharing,
    RecordSpec,
    ServerCapabilities,
    State,
    Upload,
)
from uploader.store import codec
from uploader.store.codec import NewerVersion, StateSnapshot, UnreadableContent, decode_state, encode_state

ORPHAN = Orphan("record-9", "a", "/rec/\udcff.mp4", since=EPOCH, next_look=EPOCH + 20, landed=True)
LEARNT = ServerCapabilities(whole_only_until=EPOCH, chunk_limit=65536, login_refusals=2, login_not_before=EPOCH + 300)
STATES = [state for state in State if state is not State.DONE]
SAVED = StateSnapshot(
    7,
    tuple(an_upload(state, path=f"/rec/{state}.mp4") for state in STATES),
    (ORPHAN,),
    LEARNT,
)
CONTENT = encode_state(SAVED, now=EPOCH)


def edited(change: Any, *, keep_sum: bool = False) -> bytes:
    """The state as a person leaves it who has edited it: with *change* made to the document, and no sum."""
    document = json.loads(CONTENT)
    if not keep_sum:
        del document["sha256"]
    change(document)
    return json.dumps(document).encode()


def test_every_value_is_read_back_equal() -> None:
    """An upload in every state, an orphan, and capabilities."""
    assert decode_state(CONTENT) == SAVED


def test_an_empty_state_is_read_back() -> None:
    """It is a valid state."""
    assert decode_state(encode_state(StateSnapshot(1), now=0.0)) == StateSnapshot(1)


def test_the_file_is_readable_for_people() -> None:
    """ASCII, one upload to a line, with its purpose and the time of the save at the top."""
    text = CONTENT.decode("ascii")
    head = json.loads(text.split("\n", 1)[0].rstrip(",") + "}")
    assert (head["format"], head["version"], head["sequence"]) == ("valt-uploader state", 1, 7)
    assert head["saved"] == "2027-01-15T08:00:00+00:00"
    assert sum('"path": "/rec/' in line for line in text.splitlines()) == len(SAVED.uploads) + 1


paths = st.binary(min_size=1, max_size=40).map(os.fsdecode)
times = st.none() | st.floats(0, 4e9)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
uploads = st.builds(
    Upload,
    path=paths,
    root=paths,
    identity=st.builds(Identity, size=st.just(2**50), mtime_ns=st.integers(-(2**65), 2**65), edges=texts),
    record=st.builds(
        RecordSpec,
        texts,
        st.dictionaries(texts, texts, max_size=3),
        st.builds(RecordSharing, st.lists(st.integers(0, 9)).map(tuple), st.just(())),
    ),
    chunk_size=st.integers(0, 2**40),
    move_to=st.none() | paths,
    after_upload=st.sampled_from(get_args(AfterUpload)),
    begun_at=times,
    restarts=st.integers(0, 9),
    last_error=st.none()
    | st.builds(
        LastError, texts, st.sampled_from(ActionBy), st.integers(0, 99), st.integers(0, 99), st.booleans(), times
    ),
)


@given(st.lists(uploads, max_size=4, unique_by=lambda upload: upload.path))
def test_every_name_and_text_is_read_back_equal(found: list[Upload]) -> None:
    """Names that are not UTF-8, line breaks, every script."""
    assert all(broken_rule(upload) is None for upload in found)
    saved = StateSnapshot(1, tuple(found))
    again = decode_state(encode_state(saved, now=EPOCH))
    assert again == saved
    assert [os.fsencode(upload.path) for upload in again.uploads] == [os.fsencode(upload.path) for upload in found]


def unharmed(content: bytes) -> bool:
    """True when *content* is refused, or says the very same as the state that it once was."""
    try:
        read = decode_state(content)
    except UnreadableContent:
        return True
    return replace(read, sequence=7) == SAVED


@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
def test_a_flipped_byte_never_makes_another_state(place: int, flip: int) -> None:
    """Any flipped byte is found or changes no value."""
    damaged = bytearray(CONTENT)
    damaged[place] ^= flip
    assert unharmed(bytes(damaged))


def test_every_flipped_bit_is_found_or_changes_no_value() -> None:
    """The lowest bit of each single byte, so that digits stay digits."""
    assert all(unharmed(CONTENT[:at] + bytes([CONTENT[at] ^ 1]) + CONTENT[at + 1 :]) for at in range(len(CONTENT)))


@given(st.integers(0, len(CONTENT) - 1))
def test_a_file_that_was_cut_is_refused(length: int) -> None:
    """However much is left of it, even all but the last byte."""
    with pytest.raises(UnreadableContent):
        decode_state(CONTENT[:length])


@given(st.integers(0, len(CONTENT)), st.integers(1, 600))
def test_zeros_in_the_file_are_found(start: int, length: int) -> None:
    """A power cut leaves them in place of a block that was never written."""
    damaged = CONTENT[:start] + b"\0" * min(length, len(CONTENT) - start) + CONTENT[start + length :]
    assert unharmed(damaged)


@given(st.binary(max_size=200))
def test_foreign_bytes_are_refused(content: bytes) -> None:
    """With a known error."""
    with pytest.raises(UnreadableContent):
        decode_state(content)


@pytest.mark.parametrize("content", [b"", b"\n", b"\0" * 4096, b" \0\n"])
def test_an_empty_file_is_reported_as_empty(content: bytes) -> None:
    """Zero bytes, or only zeros, as after a power cut."""
    with pytest.raises(UnreadableContent, match="it is empty"):
        decode_state(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"7", "not a JSON object"),
        (b"{}", "not a state file of valt-uploader"),
        (b'{"format": "another"}', "not a state file of valt-uploader"),
        (b'{"format": "valt-uploader state"}', "its version is not a number"),
        (b'{"format": "valt-uploader state", "version": "1"}', "its version is not a number"),
        (b'{"format": "valt-uploader state", "version": true}', "its version is not a number"),
        (b'{"format": "valt-uploader state", "version": 1.0}', "its version is not a number"),
        (b'{"format": "valt-uploader state", "version": 0}', "its version is not a number"),
        (b'{"format": "valt-uploader state", "version": 1}', "sequence: expected a whole number"),
        (b'{"a": 1, "a": 1}', "a key appears twice"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": -Infinity}', "-Infinity is no number"),
        (b'{"a": ' + b"9" * 5000 + b"}", "it is not JSON"),
        (b"[" * 1_000_000, "it is not JSON"),
        (b'{"a":' * 200_000, "it is not JSON"),
        (b"\xff\xfe{", "it is not JSON"),
        (b"<html>", "it is not JSON"),
    ],
)
def test_an_invalid_state_is_refused_with_the_reason(content: bytes, said: str) -> None:
    """Foreign JSON, lists, endless nesting, doubled keys, invalid numbers."""
    with pytest.raises(UnreadableContent, match=said):
        decode_state(content)


def test_a_newer_version_is_not_reported_as_damage() -> None:
    """An older program leaves it alone."""
    with pytest.raises(NewerVersion, match="version 2; this one knows 1"):
        decode_state(CONTENT.replace(b'"version": 1', b'"version": 2'))


def test_whatever_can_be_written_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state has no size limit: one of more than 256 MiB was once refused at the next start."""
    monkeypatch.setattr(codec, "SIZE_LIMIT", len(CONTENT) - 1, raising=False)  # as it was called then
    assert decode_state(CONTENT) == SAVED


def test_an_edited_file_without_its_checksum_is_accepted() -> None:
    """Then only its shape is checked; an edit under the old checksum is damage."""

    def forget_the_first(document: dict[str, Any]) -> None:
        del document["uploads"][0]

    assert decode_state(edited(forget_the_first)).uploads == SAVED.uploads[1:]
    with pytest.raises(UnreadableContent, match="checksum"):
        decode_state(edited(forget_the_first, keep_sum=True))
    with pytest.raises(UnreadableContent, match="checksum"):
        decode_state(edited(lambda document: document.update(sha256="0" * 64)))


DEEP: Any = 0
for _ in range(300):
    DEEP = [DEEP]


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("offset", 101, r"uploads\[2\]: offset outside the file"),
        ("offset", -1, r"uploads\[2\].offset: expected a whole number, not negative, got '-1'"),
        ("offset", 2**63, "offset: expected a whole number"),
        ("offset", 1.5, "offset: expected a whole number"),
        ("offset", True, "offset: expected a whole number"),
        ("offset", None, "offset: expected a whole number, not negative, got 'None'"),
        ("begun_at", 10**400, "begun_at: expected a number"),
        ("begun_at", 1e300, "begun_at: expected a number"),
        ("begun_at", "now", "begun_at: expected a number, got 'now'"),
        ("begun_at", False, "begun_at: expected a number"),
        ("state", "flying", "state: expected one of queued, creating"),
        ("state", ["queued"], "state: expected one of"),
        ("state", "done", "a finished upload belongs in the ledger"),
        ("after_upload", "burn", "after_upload: expected 'keep' or 'move' or 'delete', got 'burn'"),
        ("path", 7, "path: expected a text, got '7'"),
        ("path", DEEP, "path: expected a text, got list"),
        ("identity", [], "identity: expected an object, got list"),
        ("identity", {"size": 1}, "identity: missing edges, mtime_ns"),
        ("record", {"name": "a", "template": []}, "template: expected an object"),
        ("record", {"name": "a", "template": {"1": 2}}, "template.1: expected a text"),
        ("record", {"name": "a", "share": {"users": [1, "x"]}}, r"share.users\[1\]: expected a whole number"),
        ("record", {"name": "a", "share": {"users": 1}}, "share.users: expected a list"),
        ("extra", 1, "unknown extra"),
        ("path", "/rec/queued.mp4", "a path appears twice"),
    ],
)
def test_a_value_of_the_wrong_shape_is_refused_with_its_place(place: str, value: Any, said: str) -> None:
    """The load stops, and the error says where it is and what is expected there."""

    def change(document: dict[str, Any]) -> None:
        assert document["uploads"][2]["state"] == "sending"
        document["uploads"][2][place] = value

    with pytest.raises(UnreadableContent, match=said):
        decode_state(edited(change))


@pytest.mark.parametrize("key", ["sequence", "uploads", "orphans", "learnt"])
def test_a_missing_part_is_refused(key: str) -> None:
    """A state without its uploads is not an empty state."""
    with pytest.raises(UnreadableContent, match=key):
        decode_state(edited(lambda document: document.pop(key)))


@given(st.integers(1, 3000))
def test_deep_nesting_is_refused(depth: int) -> None:
    """With a known error, in a place where a text is expected."""
    head = b'{"format": "valt-uploader state", "version": 1, "sequence": '
    with pytest.raises(UnreadableContent):
        decode_state(head + b"[" * depth + b"]" * depth + b"}")


def test_whole_numbers_are_accepted_as_seconds() -> None:
    """As people write them."""
    assert codec.build(float, 7, "x") == 7.0
    line = b'{"reason": "x", "turn": "ours", "next_try": 7}'
    assert codec.from_json(LastError, line) == LastError("x", ActionBy.UPLOADER, next_try=7.0)


def test_values_that_are_none_are_left_out() -> None:
    """So that lines are short."""
    defaults = {"attempts": 0, "not_ready": 0, "must_change": False, "cuts": 0}
    assert json.loads(codec.to_json(LastError("x", ActionBy.FILE))) == {"reason": "x", "turn": "file", **defaults}
    assert codec.from_json(LastError, codec.to_json(LAST_ERROR).encode()) == LAST_ERROR
