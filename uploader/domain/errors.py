"""The errors, as a tree. The branch says who must act; ``retry.decide`` says what is done and when.

Each error is one sentence for people (what happened) and may have a hint (what to do). It never carries a URL, a token
or a password: texts are made of route names, statuses and safe excerpts.

    UploaderError
    ├── RetryableError     tried again automatically
    │   ├── ServerDown         no file's fault: connection, DNS, TLS, a redirect, 502/503/504
    │   │   ├── ServerFull         507, or a 500 about its disk: a person must act there, so pauses are long
    │   │   ├── Unreachable        no connection at all: refused, no route, no name, no answer in time
    │   │   ├── AccountShared      each token ends right after its log-in: another program logs in as this user
    │   │   ├── ProxyRefused       the proxy of server.proxy wants a log-in, or does not let us connect
    │   │   ├── ProxyAnswered      an answer without VALT's shape: something before VALT gave it
    │   │   └── BreakerOpen        no call was made: the circuit breaker is open
    │   ├── ServerBusy         429/503 with Retry-After
    │   ├── DownloadUnavailable  the address of a download link does not hand the video out
    │   ├── CallFailed         500 to a call that changes nothing
    │   ├── ChunkCut           ended before its last byte: the server never saw it (rule 3)
    │   ├── AnswerLost         ended after its last byte: in doubt (rule 4)
    │   │   └── NoRoom             because the server has no room
    │   ├── TokenExpired       401 on a call: log in again
    │   ├── RecordGone         404 in VALT's shape: somebody removed the record
    │   ├── RecordSpoilt       its content is wrong or cannot be known: start over
    │   │   └── ArrivedSpoilt      it holds a video, but not what was sent: kept until a new record is proven
    │   ├── StillInDoubt       ask again later
    │   ├── ChunkRefused       400 about a range (rule 5)
    │   ├── ChunkTooLarge      413 and the like (rule 5)
    │   ├── FileReplaced       its name leads to another file of the same size and ends: opened again, and compared
    │   └── ShareNotReady      EIO, EBUSY, ESTALE …: not yet
    ├── FileError          the recording must change first
    │   ├── FileChanged, FileMissing, FileEmpty, NotAFile
    ├── UploadBusy         a command cannot reach an upload: the work on it does not end
    └── OperatorError      a person must act
        ├── ServerRefused      a refusal of the request (400, 405, 422 …)
        │   ├── NamelessOnly       405 to *create record*: this server makes records by GET, without a name
        │   ├── PayloadRefused     VALT's "invalid payload", sent as a 500
        │   └── RightMissing       403, or 401 right after a good log-in
        ├── NotReadyInTime     every byte was acknowledged, but the video is not ready in time
        ├── VideoFailed        every byte was acknowledged, but the server says that it cannot process the video
        ├── Unproven           the video is ready, but nothing can show that it is what was sent
        ├── PasswordRefused    401 at log-in, by VALT
        ├── PasswordUnusable   no password, or a file that others can read
        ├── ConfigError        exit 2
        ├── StateUnusable      exit 73: the folder; exit 78: damaged or newer
        ├── LedgerUnreadable   a line that was good at the start: its file waits, all else goes on
        └── AlreadyRunning     exit 75
"""

from __future__ import annotations

from uploader.domain.model import ActionBy


class UploaderError(Exception):
    """Root of the tree. ``what``: what happened, in one sentence; ``hint``: what to do about it."""

    action_by: ActionBy = ActionBy.UPLOADER
    exit_code: int = 1

    def __init__(self, what: str, *, hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.what}; {self.hint}" if self.hint else self.what


def first_of(error: BaseException) -> BaseException:
    """Return the error that a command ends with: of nested groups the first ``UploaderError``, else the first of all.

    A task group wraps what its tasks raise. The message and the exit code of the process are those of our own error,
    also when a bug has raised something else beside it.
    """
    if not isinstance(error, BaseExceptionGroup):
        return error
    leaves = [first_of(one) for one in error.exceptions]
    return next((leaf for leaf in leaves if isinstance(leaf, UploaderError)), leaves[0])


class RetryableError(UploaderError):
    """The upload is tried again automatically."""


class ServerDown(RetryableError):
    """The server cannot be reached or does not work. This never counts against a file."""


class ServerFull(ServerDown):
    """The server has no room left."""


class Unreachable(ServerDown):
    """No connection to the server could be made, so a connection that can be made shows that it may be back."""


class AccountShared(ServerDown):
    """A token ended right after a good log-in: log in again after ``retry_after`` seconds, and not before."""

    action_by = ActionBy.OPERATOR

    def __init__(self, what: str, *, hint: str = "", retry_after: float) -> None:
        super().__init__(what, hint=hint)
        self.retry_after = retry_after


class ProxyRefused(ServerDown):
    """The proxy that calls go through wants a log-in, or does not let this machine connect to the server."""

    action_by = ActionBy.OPERATOR


class ProxyAnswered(ServerDown):
    """Something before VALT answered in its place: a proxy, a balancer, a portal. It says nothing about a file."""


class BreakerOpen(ServerDown):
    """The circuit breaker is open: no call was made, so this is no further failure of the server."""


class DownloadUnavailable(RetryableError):
    """The address that a download link leads to does not hand the video out. It says nothing of the API.

    ``reached``: False when there was no connection at all, which concerns every video. ``busy``: True when it was asked
    too often (429, 503), as by a proxy that limits the rate.
    """

    def __init__(self, what: str, *, hint: str = "", reached: bool = True, busy: bool = False) -> None:
        super().__init__(what, hint=hint)
        self.reached, self.busy = reached, busy


class CallFailed(RetryableError):
    """The server failed at a call that changes nothing (500), perhaps for this record only."""


class ServerBusy(RetryableError):
    """The server asked us to wait ``retry_after`` seconds (already capped)."""

    def __init__(self, what: str, *, retry_after: float) -> None:
        super().__init__(what)
        self.retry_after = retry_after


class ChunkCut(RetryableError):
    """A chunk ended before its last byte was sent: the server never saw it (rule 3)."""


class AnswerLost(RetryableError):
    """A call's last byte was sent and its answer never came: in doubt (rule 4)."""


class NoRoom(AnswerLost):
    """A 500 about the server's disk, to a call that changes something: how much of it was done is not known."""


class TokenExpired(RetryableError):
    """A call was answered 401: the token is no longer valid."""


class RecordGone(RetryableError):
    """The record, or its video, no longer exists on the server: a 404 in VALT's own shape."""


class RecordSpoilt(RetryableError):
    """The record cannot be finished: its content is wrong, or the outcome of a chunk cannot be known."""


class ArrivedSpoilt(RecordSpoilt):
    """The record holds a video, but not what was sent."""


class StillInDoubt(RetryableError):
    """The server may still be working on a request: ask again in ``wait`` seconds."""

    def __init__(self, what: str, *, wait: float) -> None:
        super().__init__(what)
        self.wait = wait


class ChunkRefused(RetryableError):
    """The server does not take this range (400, rule 5)."""


class ChunkTooLarge(RetryableError):
    """The server, or a proxy before it, does not take a request of this size (413, rule 5)."""


class FileReplaced(RetryableError):
    """Another file with the same size and ends has the name now: it is opened, and compared with what was sent."""


class ShareNotReady(RetryableError):
    """The disk or share said EIO, EBUSY, EACCES, ESTALE …: not yet."""


class FileError(UploaderError):
    """The recording itself must change before its upload can go on."""

    action_by = ActionBy.FILE


class FileChanged(FileError):
    """The file is no longer the one that the upload began with."""


class FileMissing(FileError):
    """The file is not there."""


class FileEmpty(FileError):
    """An empty file cannot be expressed as a range (rule 8)."""


class NotAFile(FileError):
    """A folder, link, FIFO, socket or device: only regular files are sent."""


class UploadBusy(UploaderError):
    """An operator command cannot reach an upload, because the work on it does not end."""


class OperatorError(UploaderError):
    """A person must act."""

    action_by = ActionBy.OPERATOR


class ServerRefused(OperatorError):
    """The server refused the request."""


class NamelessOnly(ServerRefused):
    """The server does not make records in the way that was asked for; it may make them in the other one.

    With a name (POST), or without (GET), as the vendor's first page on uploading says.
    """


class PayloadRefused(ServerRefused):
    """The server refused the content of a new record; or it was a passing fault (500)."""


class RightMissing(ServerRefused):
    """The uploader's user may not do that on the server."""


class NotReadyInTime(OperatorError):
    """Every byte was acknowledged, but the server does not report the video as ready."""


class VideoFailed(OperatorError):
    """Every byte was acknowledged, and the server says that it has failed to process the video."""


class Unproven(OperatorError):
    """The video is ready, but nothing can show that it is what was sent. Its file is kept."""


class PasswordRefused(OperatorError):
    """Log-in was answered 401: user name or password is wrong."""


class PasswordUnusable(OperatorError):
    """There is no password, or its file is unreadable or readable by others."""

    exit_code = 2


class ConfigError(OperatorError):
    """The configuration has faults. All of them are listed, one line each."""

    exit_code = 2

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class StateUnusable(OperatorError):
    """The state folder cannot be written (exit 73), or what is in it cannot be read (exit 78)."""

    def __init__(self, what: str, *, hint: str = "", exit_code: int = 78) -> None:
        super().__init__(what, hint=hint)
        self.exit_code = exit_code


class LedgerUnreadable(OperatorError):
    """A line of the ledger cannot be read, or is not what it was at the start.

    The daemon goes on. The file that this line may be about is neither sent again nor touched: it waits.
    """

    exit_code = 78


class AlreadyRunning(OperatorError):
    """Another daemon holds the lock of this state folder."""

    exit_code = 75
