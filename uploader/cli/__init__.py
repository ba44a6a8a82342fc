"""The commands. Each reads its configuration, calls one thing, and says how it went.

    common.py  what they share
    work.py    run, once, upload: recordings travel
    ask.py     status, explain, check: questions
    hand.py    retry, forget, pause, resume: the operator's hand
    prove.py   ledger and link: what was finished
    show.py    simulate and demo: without a VALT server

Must never hold a decision about a file: those are in the stages. What a script reads goes to stdout, everything
else to stderr.
"""

from uploader.cli import ask, hand, prove, show, work
from uploader.cli.common import cli

__all__ = ["ask", "cli", "hand", "prove", "show", "work"]
