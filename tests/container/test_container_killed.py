"""Recorders that are killed after any write leave a file that is held, and plays once it has media."""

from __future__ import annotations

import pytest
from encoders import written
from test_container_files import judged

from uploader.container import inspect

MUXERS = [
    ("matroska", "mpeg4", {"cluster_time_limit": "500"}),
    ("matroska", "mpeg4", {"reserve_index_space": "4000", "cluster_time_limit": "500"}),
    ("webm", "libvpx", {"cluster_time_limit": "500"}),
    ("avi", "mpeg4", {}),
    ("avi", "rawvideo", {}),
    ("mxf", "mpeg2video", {}),
    ("asf", "wmv2", {}),
]
SHORTEST = 32  # bytes: by then it is known which container a file is


@pytest.mark.parametrize(("muxer", "codec", "options"), MUXERS)
def test_what_a_killed_recorder_leaves_is_held(muxer: str, codec: str, options: dict[str, str]) -> None:
    """Until its last writes, which finish it: those that fill in the sizes in front."""
    file = written("", muxer, codec, **options)
    states = [file.after(count) for count in range(1, len(file.writes) + 1)]
    whole = states[-1]
    assert judged(whole).unfinished == ""
    verdicts = [judged(part) for part in states if len(part) > SHORTEST and len(part) < len(whole)]
    assert len(verdicts) >= 5
    assert all(verdict.unfinished for verdict in verdicts)
    assert sum(verdict.playable for verdict in verdicts) > len(verdicts) // 2
    assert all("it plays up to" in verdict.unfinished for verdict in verdicts if verdict.playable)


def test_a_killed_live_recorder_leaves_whole_tags_or_clusters_or_is_held() -> None:
    """Nothing is filled in at closing, so what ends behind one of them is complete."""
    file = written("", "matroska", "mpeg4", live="1", cluster_time_limit="500")
    data = file.after(len(file.writes))
    boundaries = {len(data)} | {at for at in range(len(data)) if data.startswith(bytes.fromhex("1f43b675"), at)}
    sizes = {sum(len(part) for _, part in file.writes[:count]) for count in range(1, len(file.writes) + 1)}
    for size in sorted(sizes):
        part = data[:size]
        if size > SHORTEST and inspect(lambda at, count, part=part: part[at : at + count], size, "").unfinished == "":  # type: ignore[misc]
            assert size in boundaries
    assert judged(data).unfinished == ""
