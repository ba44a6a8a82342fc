"""The six stages that a file passes, the queues between them, and what they share. No stage calls another.

Touches: queues, locks and tasks; shares, server, state and clock only through objects that are passed in.
Imports: bandwidth, config, domain, files, runtime, server, store.
"""
