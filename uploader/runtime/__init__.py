"""General building blocks that know nothing of uploads: clock, delay queue, threads, log, hardening.

    clock.py          the port for time, sleep and randomness
    delay_queue.py    items that become due at a time
    monotonic_age.py  how long ago a saved moment was
    slices.py         long loops that let the event loop run in between
    threads.py        daemon threads for calls that may hang
    log.py            the log, with secrets masked
    garbage.py        short garbage collections
    hardening.py      no core dumps, no TLS key log

Touches: clocks, threads, stderr, the process's own limits.
Imports: domain.
"""
