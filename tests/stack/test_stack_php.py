"""A real PHP behind a real nginx: what it does with a form that is too large, when it dies, and when it is late."""

from __future__ import annotations

from pathlib import Path

import pytest
from php import php_at
from process import until
from stack import LARGE, events_of, outages, stacked
from warm import Warm

pytestmark = pytest.mark.asyncio(loop_scope="module")  # all of them share what ``warm`` has imported

DISPLAYED = {"display_errors": "1", "display_startup_errors": "1"}


@pytest.mark.parametrize("words", ["transferred", "symfony", "null", "blueimp"])
@pytest.mark.parametrize("limit", ["upload_max_filesize", "post_max_size"])
async def test_a_limit_of_php_makes_chunks_smaller_in_whatever_words_it_is_told(
    tmp_path: Path, warm: Warm, limit: str, words: str
) -> None:
    """PHP leaves an error in place of the file, or empties the form; the application says so in its own words."""
    async with (
        php_at(tmp_path / "php", **{limit: "150K"}) as php,
        stacked(tmp_path, warm, php.front(words), upload='chunk_size = "256 KiB"') as stack,
    ):
        stack.record(3, 2 * LARGE)
        ended = await stack.run("once")
        assert ended.code == 0, ended.err
        assert php.held() == stack.sent
        stack.done()
        assert events_of(ended, "upload-parked") == []
        (learnt,) = events_of(ended, "server-limit-learnt")
        assert learnt["limit"].startswith("chunks of at most 128 KiB until ")


async def test_a_limit_of_php_below_a_whole_file_is_parked_with_what_to_set(tmp_path: Path, warm: Warm) -> None:
    """Nothing smaller can be sent with ``chunk_size = "whole"``."""
    async with (
        php_at(tmp_path / "php", post_max_size="150K") as php,
        stacked(tmp_path, warm, php.front(), upload='chunk_size = "whole"') as stack,
    ):
        (large,) = stack.record(1, LARGE)
        ended = await stack.run("once")
        assert ended.code == 1
        words = "answered 400 (The chunk file was not transferred) to a request of 196 KiB: a limit on the server"
        assert f"{large}: parked: upload chunk: {words} (PHP: upload_max_filesize, post_max_size)" in ended.lines[1]
        assert stack.kept() == {large.stem}


async def test_a_first_contact_finds_out_that_php_puts_chunks_together(tmp_path: Path, warm: Warm) -> None:
    """With nothing known of the server, a probe comes before the first chunk, and leaves nothing behind."""
    async with (
        php_at(tmp_path / "php") as php,
        stacked(tmp_path, warm, php.front(), probed=False) as stack,
    ):
        stack.record(2, LARGE)
        ended = await stack.run("once")
        assert ended.code == 0, ended.err
        assert php.held() == stack.sent
        stack.done()
        assert {line["upload"]["chunks"] for line in stack.site.ledger()} == {4}


async def test_killed_workers_of_php_cost_no_recording(tmp_path: Path, warm: Warm) -> None:
    """``kill -9`` of all of them, three times during an upload: nginx answers 502."""
    async with (
        php_at(tmp_path / "php") as php,
        stacked(tmp_path, warm, php.front(), upload='bandwidth = "16 Mbit/s"') as stack,
    ):
        stack.record(6, 2 * LARGE)
        daemon = await stack.site.start("run")
        for kills in range(3):
            await stack.passed(3 * kills + 2)
            php.kill_workers()
        ended = await stack.finished(daemon)
        assert php.held() == stack.sent
        stack.done()
        assert events_of(ended, "upload-parked") == []


async def test_a_php_that_is_away_is_waited_for(tmp_path: Path, warm: Warm) -> None:
    """Killed as a whole in the middle of an upload, and started again: one outage, and nothing is parked."""
    async with (
        php_at(tmp_path / "php") as php,
        stacked(tmp_path, warm, php.front(), upload='bandwidth = "16 Mbit/s"') as stack,
    ):
        stack.record(4, 2 * LARGE)
        daemon = await stack.site.start("run")
        await stack.passed(3)
        await php.kill()
        await daemon.event("outage-began")
        await php.start()
        ended = await stack.finished(daemon)
        assert php.held() == stack.sent
        stack.done()
        assert outages(ended).count("outage-began") == 1
        assert events_of(ended, "upload-parked") == []


async def test_a_last_chunk_that_php_takes_up_late_makes_no_second_record(tmp_path: Path, warm: Warm) -> None:
    """A backlog: nginx gives up with 504, and PHP stores the chunk long after that."""
    async with (
        php_at(tmp_path / "php") as php,
        stacked(tmp_path, warm, php.front(location="fastcgi_read_timeout 1s;")) as stack,
    ):
        php.switch("hold")
        stack.record(1, LARGE)
        daemon = await stack.site.start("run")
        doubt = await daemon.event("upload-in-doubt")
        assert doubt["what"] == "upload chunk: answered 504 (504 Gateway Time-out)"
        asked = len(stack.nginx.requests())
        await until(lambda: len(stack.nginx.requests()) >= asked + 3, "the server is asked, again and again")
        php.switch("hold", on=False)
        ended = await stack.finished(daemon)
        assert php.held() == stack.sent
        stack.done()
        assert len(stack.nginx.requests("/create-upload")) == 1
        assert events_of(ended, "upload-started-over") == []


async def test_a_report_of_php_before_the_json_is_no_yes(tmp_path: Path, warm: Warm) -> None:
    """``display_errors``: each answer begins with a report in HTML. Nothing is deleted until that is mended."""
    async with php_at(tmp_path / "php", **DISPLAYED) as php, stacked(tmp_path, warm, php.front()) as stack:
        php.switch("notice")
        stack.record(2, LARGE)
        daemon = await stack.site.start("run")
        doubts = ("outage-began", "upload-in-doubt")
        await until(lambda: any(daemon.events(name) for name in doubts), "an outage, or a doubt")
        assert stack.kept() == set(stack.sent)
        php.switch("notice", on=False)
        ended = await stack.finished(daemon)
        assert php.held() == stack.sent
        stack.done()
        assert events_of(ended, "upload-parked") == []


async def test_a_report_of_php_before_the_json_is_named(tmp_path: Path, warm: Warm) -> None:
    """The operator learns whose words these are, and that they should not be displayed."""
    async with php_at(tmp_path / "php", **DISPLAYED) as php, stacked(tmp_path, warm, php.front()) as stack:
        php.switch("notice")
        stack.record(1)
        ended = await stack.run("once")
        assert "PHP" in ended.err


async def test_a_report_of_php_that_a_form_is_too_large_makes_chunks_smaller(tmp_path: Path, warm: Warm) -> None:
    """``display_errors`` without ``output_buffering``: 200, and before the JSON what PHP says of the form."""
    async with (
        php_at(tmp_path / "php", post_max_size="150K", **DISPLAYED) as php,
        stacked(tmp_path, warm, php.front(), upload='chunk_size = "256 KiB"') as stack,
    ):
        stack.record(2, 2 * LARGE)
        daemon = await stack.site.start("run")
        await daemon.event("upload-started-over")
        (learnt,) = daemon.events("server-limit-learnt")
        assert learnt["limit"].startswith("chunks of at most 128 KiB until ")
        await stack.finished(daemon, cleared=True)
        assert php.held() == stack.sent
        stack.done()
