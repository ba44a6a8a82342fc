"""What survives a restart: ``state.json`` (unfinished work) and ``ledger.jsonl`` (finished work).

    disk.py    the state folder: lock, atomic replace, durable append; the only code that touches it
    codec.py   bytes ↔ values of ``model``, pure
    tracked.py a mapping that knows what has changed in it
    statewriter.py  the state's bytes, save after save, at a cost that follows what has changed
    line.py    one line of the ledger, and the quick way to read it
    index.py   numbers of lines by a key, compact
    ledger.py  the chain of finished uploads, and what it says of a file
    touched.py ``touched.jsonl``: a cache of files that were read again and found to be known
    uploads.py the unfinished uploads in memory, each with its revision
    store.py   all together: the one place that changes them, one writer at a time

Must never hold a secret, and never answer "saved" before it is durable.

Touches: the state folder, and nothing outside of it.
Imports: domain, runtime.
"""

from uploader.store.ledger import Ledger
from uploader.store.line import LedgerLine
from uploader.store.store import Store
from uploader.store.uploads import Stale

__all__ = ["Ledger", "LedgerLine", "Stale", "Store"]
