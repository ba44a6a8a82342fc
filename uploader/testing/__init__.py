"""What the daemon does not need: a VALT server to try things out with, and the demonstration.

Touches: the loopback, temporary folders, processes of its own.
Imports: app, config, diagnostics, domain, runtime, store.
"""
