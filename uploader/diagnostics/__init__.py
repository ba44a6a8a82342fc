"""Answers to an operator's questions: ``check``, its probe, the proof of the ledger, whether events arrive.

Touches: the server, the state folder, and one hidden file of its own in a watched folder.
Imports: app, config, domain, files, runtime, server, store.
"""
