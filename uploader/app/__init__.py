"""The running program: wiring, the daemon with its signals and control socket, operator commands, status, progress.

Touches: signals, the control socket, systemd's socket, the terminal.
Imports: bandwidth, config, diagnostics, domain, files, runtime, server, stages, store.
"""
