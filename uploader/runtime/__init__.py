"""What every program needs and Python does not have as we need it: clock, delay queue, threads, log, hardening.

Touches: clocks, threads, stderr, the process's own limits.
Imports: domain.
"""
