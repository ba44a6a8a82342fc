"""The table of unfinished uploads: a write names the value that it was made from, and a stale one is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import an_upload
from hypothesis import given
from hypothesis import strategies as st

from uploader.domain.model import RecordIds, State, Upload
from uploader.store import Stale
from uploader.store.uploads import UploadTable, worth_saving


def test_a_value_replaces_the_one_that_it_was_made_from() -> None:
    """One write after the other, each from what the last one stored."""
    table = UploadTable()
    upload = table.put(an_upload())
    table.put(replace(table.put(replace(upload, restarts=1)), restarts=2))
    assert table.all[upload.path].restarts == 2


def test_a_stale_write_is_refused() -> None:
    """Made from a value that was replaced meanwhile, it changes nothing."""
    table = UploadTable()
    read = table.put(an_upload())
    table.put(replace(read, restarts=1))
    with pytest.raises(Stale):
        table.put(replace(read, restarts=7))
    with pytest.raises(Stale):
        table.drop(read)
    assert table.all[read.path].restarts == 1


def test_a_write_never_brings_a_dropped_upload_back() -> None:
    """Neither as it was, nor in place of a newer upload at its path."""
    table = UploadTable()
    dropped = table.put(an_upload(State.VERIFYING))
    table.drop(dropped)
    with pytest.raises(Stale):
        table.put(replace(dropped, state=State.FINISHING))
    assert not table.all
    fresh = table.put(an_upload())
    with pytest.raises(Stale):
        table.put(replace(dropped, state=State.FINISHING))
    assert table.all == {fresh.path: fresh}
    assert table.current(dropped) is None
    assert table.current(fresh) is fresh


def test_a_new_upload_does_not_replace_an_existing_one() -> None:
    """It is accepted only when there is none at its path."""
    table = UploadTable([an_upload(State.SENDING)])
    with pytest.raises(Stale):
        table.put(an_upload())


def test_a_file_is_found_by_its_current_and_its_first_name() -> None:
    """Renamed twice, the name in between is free again."""
    table = UploadTable()
    upload = table.put(an_upload(State.SENDING, path="/rec/a.mp4"))
    for name in ("/rec/b.mp4", "/rec/c.mp4"):
        upload = table.put(replace(upload, renamed_to=name))
    assert table.at("/rec/a.mp4") is upload
    assert table.at("/rec/c.mp4") is upload
    assert table.at("/rec/b.mp4") is None
    table.drop(upload)
    assert table.at("/rec/c.mp4") is None


PATHS = ("/rec/a.mp4", "/rec/b.mp4", "/rec/c.mp4")
STATES = (State.QUEUED, State.CREATING, State.SENDING, State.PARKED)
CHANGES = st.tuples(
    st.sampled_from(PATHS), st.sampled_from((*STATES, None)), st.sampled_from((None, "/rec/x.mp4", "/rec/y.mp4"))
)


@given(st.lists(CHANGES, max_size=30))
def test_every_look_up_agrees_with_a_search_through_all(changes: list[tuple[str, State | None, str | None]]) -> None:
    """After any sequence of writes, indices and counts equal what a walk over all uploads finds."""
    table = UploadTable()
    for path, state, name in changes:
        known = table.all.get(path)
        if state is not None:
            made = an_upload(state, path=path, renamed_to=name, ids=RecordIds(f"r{path}", "v") if name else None)
            table.put(made if known is None else replace(made, serial=known.serial, revision=known.revision))
        elif known is not None:
            table.drop(known)
    uploads = list(table.all.values())
    assert {state: count for state, count in table.counts.items() if count} == {
        state: number for state in STATES if (number := sum(upload.state is state for upload in uploads))
    }
    assert dict(table.begun) == {upload.path: upload for upload in uploads if worth_saving(upload)}
    for upload in uploads:
        alike = [one for one in uploads if worth_saving(one) and one.identity == upload.identity]
        creating = [one for one in uploads if one.state is State.CREATING and one.record == upload.record]
        assert _paths(table.with_content(upload.root, upload.identity)) == _paths(alike)
        assert _paths(table.creating(upload.record.name)) == _paths(creating)
        assert upload.ids is None or table.has_record(upload.ids.record)
    assert not table.has_record("r of nobody")


def _paths(uploads: list[Upload]) -> list[str]:
    return sorted(upload.path for upload in uploads)
