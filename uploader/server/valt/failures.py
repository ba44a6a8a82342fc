"""Says what an answer means that is no yes: which error of ``domain.errors``, in which words. Pure.

No text made here holds a URL or a token: an error names the call, the status, and a safe excerpt of the server's words.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from uploader.domain import errors
from uploader.domain.model import shown
from uploader.domain.retry import retry_after
from uploader.domain.units import format_bytes
from uploader.server.valt.answer import (
    ApiAnswer,
    ApiCall,
    excerpt,
    has_failure_shape,
    is_page,
    message_of,
)
from uploader.server.valt.content import CUT_OFF, NOT_JSON

ORIGIN_LIMIT: Final = 120  # characters of a redirect's target that an error shows
SHAPED: Final = frozenset({400, 403, 404, 405})  # refusals that are VALT's only in one of its four shapes
ANYBODYS: Final = frozenset({408, 425, 429})  # means the same from a proxy as from VALT

_NO_SPACE = re.compile(r"no space|disk (?:is )?full|quota exceeded")
_NOT_WRITTEN = re.compile(r"failed to write|temporary folder")  # PHP: UPLOAD_ERR_CANT_WRITE, UPLOAD_ERR_NO_TMP_DIR
# "not transferred": PHP drops a form larger than its post_max_size (rule 5). The others: Symfony's and blueimp's words.
_TOO_LARGE = re.compile(
    r"not transferred|too (?:large|big)|exceeds the (?:upload_|post_)?max|maximum size"
    r"|content-length of \d+ bytes exceeds"  # PHP's own warning, before the application has run
)


def failure(call: ApiCall, answer: ApiAnswer, *, now: float, size: int | None = None) -> errors.UploaderError:
    """Return the error that an answer other than 2xx means.

    *now*: Unix seconds, for a Retry-After with a date; *size*: bytes of the request's body, for a 413.
    """
    status, message = answer.status, message_of(answer)
    what = f"{call.label}: answered {status}" + (f" ({message})" if message else "")
    if status < 200:  # no answer to anything that was asked
        return errors.AnswerLost(what) if call.changes else errors.ServerDown(what)
    if status == 405 and call is ApiCall.CREATE and names_another_method(answer):
        return errors.NamelessOnly(what)
    if 300 <= status < 400:
        return _redirected(f"{call.label}: answered {status}", answer.headers.get("location", ""))
    if is_from_proxy(call, answer):
        return _proxys(call, answer, message)
    if status in {429, 503} and (status == 429 or "retry-after" in answer.headers):
        return errors.ServerBusy(what, retry_after=retry_after(answer.headers.get("retry-after"), now=now))
    if status >= 500 or status in {408, 425}:
        return _server_error(call, status, what)
    return _refusal(call, status, message, what, size)


def names_another_method(answer: ApiAnswer) -> bool:
    """Return True for a 405 that is VALT's, or that allows GET or POST: the other way to make a record may work.

    One of a proxy that answers 405 to everything has neither.
    """
    allowed = {method.strip().upper() for method in answer.headers.get("allow", "").split(",")} - {""}
    return bool(allowed & {"GET", "POST"}) if allowed else has_failure_shape(answer)


def is_from_proxy(call: ApiCall, answer: ApiAnswer) -> bool:
    """Return True when a 4xx comes from something before VALT, and so says nothing about a file or a record.

    A 413 to a chunk counts as the server's: a proxy is right to say it.
    """
    status = answer.status
    if not 400 <= status < 500 or status in ANYBODYS or has_failure_shape(answer):
        return False
    if status == 413:
        return call is not ApiCall.UPLOAD and is_page(answer)
    return status in SHAPED or is_page(answer) or (status == 401 and _demands_log_in(answer))


def _demands_log_in(answer: ApiAnswer) -> bool:
    """Return True for a challenge that is not VALT's: its tokens are not asked for by a scheme (RFC 9110, 11.6.1)."""
    scheme = answer.headers.get("www-authenticate", "").partition(" ")[0].strip(",").lower()
    return scheme in {"basic", "digest", "ntlm", "negotiate"}


def _proxys(call: ApiCall, answer: ApiAnswer, message: str) -> errors.UploaderError:
    hint = {
        401: "it demands a log-in of its own: let VALT's API pass without one",
        403: "allow this machine to use VALT's API there",
    }.get(answer.status, "does it pass VALT's API on, and is server.url right?")
    words = f": '{message}'" if message else ", without a word of VALT's"
    what = f"{call.label}: answered {answer.status} by something before VALT{words}"
    # The version is optional, and its path is one that proxies forbid on purpose: no outage.
    return errors.ServerRefused(what) if call is ApiCall.VERSION else errors.ProxyAnswered(what, hint=hint)


def in_place_of_a_yes(
    call: ApiCall, answer: ApiAnswer, *, now: float, size: int | None = None
) -> errors.UploaderError | None:
    """Return the error for a 2xx that is no yes of VALT's; None when it may be one, as its reader will see.

    Once PHP has printed a notice the status is 200 whatever the application wanted to say. So what counts then is the
    JSON beside it: its error, or its content. The yes to a chunk has no content, so with a notice it is in doubt.
    """
    found = answer.content
    if found.notice and (call is ApiCall.UPLOAD or found.document is NOT_JSON):
        said = refusal_within(call, answer, now=now, size=size)
        return said or _php_instead(call, answer.status, excerpt(answer.mask(found.notice)), size)
    if is_page(answer):
        return page_instead(call, answer)
    if call is ApiCall.UPLOAD and answer.flaw not in {"", CUT_OFF}:  # a page may be in it
        return errors.AnswerLost(f"{call.label}: answered {answer.status} {answer.flaw}")
    if found.notice or call in {ApiCall.UPLOAD, ApiCall.DELETE}:  # the answers to other calls are read
        return refusal_within(call, answer, now=now, size=size)
    return None


def _php_instead(call: ApiCall, status: int, notice: str, size: int | None) -> errors.UploaderError:
    """Return the error for a 2xx in which PHP speaks in place of VALT."""
    what = f"{call.label}: answered {status} with a message of PHP ({notice})"
    if call is ApiCall.UPLOAD and _TOO_LARGE.search(notice.lower()):
        return _refused_chunk(notice, what, size)
    if call is ApiCall.VERSION:
        return errors.ServerRefused(what)
    error = errors.AnswerLost if call.changes else errors.ServerDown
    return error(what, hint="look into PHP's log on the server, and set display_errors = Off in its php.ini")


def page_instead(call: ApiCall, answer: ApiAnswer) -> errors.UploaderError:
    """Return the error for a 2xx that is a page: a balancer's sorry page, a captive portal.

    It says nothing of what became of a call that changes something, so that is in doubt (rule 4).
    """
    title = message_of(answer)
    what = f"{call.label}: answered {answer.status} with a page instead of VALT's answer"
    what += f" ({title})" if title else ""
    if call.changes:
        return errors.AnswerLost(f"{what}, and what became of the call is not known")
    if call is ApiCall.VERSION:
        return errors.ServerRefused(what)  # the call is optional, and unknown paths may show a page
    return errors.ProxyAnswered(what, hint="is server.url the VALT server itself, or does something stand before it?")


def refusal_within(
    call: ApiCall, answer: ApiAnswer, *, now: float, size: int | None = None
) -> errors.UploaderError | None:
    """Return the error that a 2xx reports in its body; None when it reports none.

    Understood are blueimp's ``{"files": [{"error": text}]}``, and VALT's own shapes with a status of their own.
    """
    fields = answer.fields
    files = fields.get("files")
    for row in files if isinstance(files, list) else []:
        if isinstance(row, dict) and isinstance(row.get("error"), str):
            message = excerpt(answer.mask(row["error"]))
            what = f"{call.label}: answered {answer.status} with an error ({message})"
            if _NOT_WRITTEN.search(message.lower()):
                return errors.NoRoom(what, hint="make room on the server")
            return _refused_chunk(message, what, size)
    error = fields.get("error")
    stated = [fields.get("code"), fields.get("status"), error.get("code") if isinstance(error, dict) else None]
    status = next((code for code in stated if type(code) is int and 400 <= code < 600), None)
    if has_failure_shape(answer) and status is not None:
        return failure(call, replace(answer, status=status), now=now, size=size)
    if isinstance(error, dict) and isinstance(error.get("message"), str):
        return errors.AnswerLost(f"{call.label}: answered {answer.status} with an error ({message_of(answer)})")
    return None


def _redirected(what: str, location: str) -> errors.ServerDown:
    """Return the error for a redirect, with the origin of its target and no more. It concerns all files."""
    try:
        parts = urlsplit(location)
        origin = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
    except ValueError:
        parts, origin = None, ""
    known = parts is not None and parts.scheme in {"http", "https"} and parts.hostname
    where = f" to {shown(origin, ORIGIN_LIMIT)}" if known else ""
    return errors.ServerDown(f"{what}: a redirect{where}, which is never followed", hint="set server.url to its target")


def _server_error(call: ApiCall, status: int, what: str) -> errors.UploaderError:
    """Distinguish a client error that VALT reports as 500, an outage, and an answer that leaves a doubt."""
    words = what.lower()
    if status == 500 and "invalid request payload" in words:
        return errors.PayloadRefused(what, hint="look at [watch.record]: template fields and share ids")
    if status == 507 or (status == 500 and _NO_SPACE.search(words)):
        full = errors.NoRoom if status == 500 and call.changes else errors.ServerFull
        return full(what, hint="make room on the server")
    if call.changes and status not in {408, 425, 503}:
        return errors.AnswerLost(what)  # 500, 502, 504: the server may have carried out the call all the same
    # A failed log-in concerns all files. Another call may fail for one record only.
    return errors.CallFailed(what) if status == 500 and call is not ApiCall.LOGIN else errors.ServerDown(what)


def _refusal(call: ApiCall, status: int, message: str, what: str, size: int | None) -> errors.UploaderError:
    """Return the error for a 4xx that is VALT's own."""
    if status == 401:
        return _unauthorized(call, what)
    if status == 403:
        return errors.RightMissing(what, hint="give this user the right on the server")
    if status == 404:
        return _not_found(call, what)
    if call is ApiCall.UPLOAD and status == 413:
        limit = "the limit of the proxy before VALT (nginx: client_max_body_size) is below that"
        return errors.ChunkTooLarge(f"{what} to {_request_of(size)}: {limit}", hint=_LARGER)
    if call is ApiCall.UPLOAD and status == 400:
        return _refused_chunk(message, what, size)
    return errors.ServerRefused(what)


_LARGER: Final = "raise that limit, or set upload.chunk_size below it"


def _refused_chunk(message: str, what: str, size: int | None) -> errors.UploaderError:
    """Distinguish a chunk that is too large for PHP from a range that is not taken (rule 5)."""
    if not _TOO_LARGE.search(message.lower()):
        return errors.ChunkRefused(what)
    limit = "a limit on the server (PHP: upload_max_filesize, post_max_size) may be below that"
    return errors.ChunkTooLarge(f"{what} to {_request_of(size)}: {limit}", hint=_LARGER)


def _request_of(size: int | None) -> str:
    return "a request" if size is None else f"a request of {format_bytes(size)}"


def _unauthorized(call: ApiCall, what: str) -> errors.UploaderError:
    if call is ApiCall.LOGIN:
        return errors.PasswordRefused(
            "the server refused the log-in: user name or password is wrong",
            hint="check server.username and the password",
        )
    return errors.TokenExpired(what)


def _not_found(call: ApiCall, what: str) -> errors.UploaderError:
    if call in {ApiCall.UPLOAD, ApiCall.DETAILS, ApiCall.LINK, ApiCall.DELETE}:
        return errors.RecordGone(what)
    return errors.ServerRefused(what, hint="is server.url a VALT server with API v3?")
