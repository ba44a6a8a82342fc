"""Keeps what survives a restart: ``state.json`` (unfinished work) and ``ledger.jsonl`` (finished work). No secrets.

    disk.py         the state folder: lock, atomic replace, durable append; the only code that touches it
    codec.py        bytes ↔ values of ``model``; pure
    tracked.py      a mapping that notes what has changed in it
    statewriter.py  encodes the state for each save, at a cost that depends on the changes alone
    line.py         one line of the ledger, and a fast parser for it
    index.py        line numbers by key, in little memory
    ledger.py       the chain of finished uploads, and questions about a file
    renames.py      inode and present name of the files of the lines, in memory
    touched.py      ``touched.jsonl``: a cache of files that were read again and found to be known
    uploads.py      the unfinished uploads in memory, each with its revision
    opening.py      reads state and ledger at a start
    store.py        all of these together; the only code that changes them, one writer at a time

Touches: the state folder, and nothing outside of it.
Imports: domain, runtime.
"""

from uploader.store.ledger import Ledger
from uploader.store.line import LedgerLine
from uploader.store.store import Store
from uploader.store.uploads import Stale

__all__ = ["Ledger", "LedgerLine", "Stale", "Store"]
