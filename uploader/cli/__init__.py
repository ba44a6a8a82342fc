"""The commands. Each reads its configuration, calls one thing, and says how it went.

    common.py    what they share
    run.py       run, once, upload: recordings travel
    query.py     status, explain, check: questions
    control.py   retry, forget, pause, resume: the operator's hand
    ledger.py    ledger and link: what was finished
    simulate.py  simulate and demo: without a VALT server

Must never hold a decision about a file: those are in the stages. What a script reads goes to stdout, everything
else to stderr.

Touches: stdout and stderr; everything else through what it calls.
Imports: app, config, diagnostics, domain, files, runtime, server, stages, store, testing.
"""

from uploader.cli import control, ledger, query, run, simulate
from uploader.cli.common import cli

__all__ = ["cli", "control", "ledger", "query", "run", "simulate"]
