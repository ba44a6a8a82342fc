"""The settings of the simulator: what kind of server it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from uploader.testing.simulator.semantics import Semantics

LINK_LIFETIME = 1800.0  # seconds, as the vendor says

DownloadKind = Literal[
    "here",  # on the port that the link names: with sizes, ranges and conditional requests, like any static file
    "closed",  # the link leads to a port where nothing listens
    "forbidden",  # 403
    "no-head",  # HEAD is answered 405; GET works
    "no-length",  # sent in pieces, without Content-Length and without ranges
    "redirect",  # 302 to another path of the same host, which serves the bytes
    "elsewhere",  # 302 to another host, which would serve the bytes
    "page",  # 200 with an HTML page instead of the video
]


@dataclass(frozen=True)
class Settings:
    """Settings of the simulator. Times in seconds, sizes in bytes."""

    username: str = "uploader"
    password: str = "secret"  # noqa: S105 - it protects nothing
    semantics: Semantics = Semantics.OFFSET
    token_lifetime: float = 28_800.0
    single_token: bool = False  # a new log-in ends the tokens before it
    processing: float = 2.0  # from complete to ready
    status_word: str = "ready"  # the status of a video after processing; another word stays for ever, say "failed"
    durations: Literal["right", "none", "zero"] = "right"  # in records: of the bytes held, no key, or 0
    refuses_delete: bool = False  # delete is answered 403
    transcodes: bool = False  # downloads give other bytes than were stored, and more of them
    download: DownloadKind = "here"
    public_url: str = ""  # what links begin with, when a proxy stands before the simulator; "": its own address
    own_download_port: bool = False  # downloads have a port of their own, as VALT's 8000
    link_lifetime: float = LINK_LIFETIME
    body_limit: int | None = None  # nginx: a larger request is answered 413 before it is read
    form_limit: int | None = None  # PHP: a larger request is read, and its form is then found empty
    version: str = "6.7.2"
    list_shape: Literal["records", "bare"] = "records"  # {"data": {"records": […]}} or {"data": […]}
    create: Literal["post", "get"] = "post"  # "get": only by GET, without a payload, as the vendor's first page says
    sticky: bool = False  # two nodes behind a load balancer, each with records of its own, and a sticky cookie
