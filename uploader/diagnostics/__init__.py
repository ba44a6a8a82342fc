"""Diagnosis for operators: the tests of ``check``, its probe of the server, the proof of the ledger.

Touches: the server, the state folder, and one hidden file of its own in a watched folder.
Imports: app, config, domain, files, runtime, server, store.
"""
