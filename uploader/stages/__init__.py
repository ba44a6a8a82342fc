"""The six stages that a file passes, the queues between them, and what they share. No stage calls another.

Touches: queues, locks and tasks; share, server, state and clock only through what is passed in.
Imports: bandwidth, config, domain, files, runtime, server, store.
"""
