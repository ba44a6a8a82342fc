"""The running program: wiring, the daemon's signals and socket, the operator's commands, status, progress.

Touches: signals, the control socket, systemd's socket, the terminal.
Imports: bandwidth, config, diagnostics, domain, files, runtime, server, stages, store.
"""
