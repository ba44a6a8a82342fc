"""The commands. Each reads the configuration, calls the part that does the work, and prints the result.

    common.py    what the commands share
    run.py       run, once, upload: send recordings
    query.py     status, explain, check: show and diagnose
    control.py   retry, forget, pause, resume: operator commands
    ledger.py    ledger and link: finished uploads
    simulate.py  simulate and demo: without a VALT server

Decisions about a file are made in the stages, not here. Results go to stdout, everything else to stderr.

Touches: stdout and stderr; everything else through what it calls.
Imports: app, config, diagnostics, domain, files, runtime, server, stages, store, testing.
"""

from uploader.cli import control, ledger, query, run, simulate
from uploader.cli.common import cli

__all__ = ["cli", "control", "ledger", "query", "run", "simulate"]
