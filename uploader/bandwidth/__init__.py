"""How fast recordings may travel: one limit for all workers together, by the timetable and by what the disk must do.

    limits.py     what holds at a moment: timetable, recordings that grow, pressure on the disk; pure
    growth.py     which files grow, and whether the disk is pressed, without flapping; pure
    meter.py      when the next bytes may go; arithmetic on the monotonic clock, pure
    pacer.py      who waits, and whose turn it is
    bandwidth.py  the one place that looks at clock, bus and disk, and tells the pacer

Bytes of recordings are what is counted; TLS and TCP add a few per cent on the wire. Must never hold up an upload
that has no limit, nor let one worker's upload take the turn of another's.

Touches: the clock, /proc/pressure/io.
Imports: config, domain, runtime.
"""

from uploader.bandwidth.bandwidth import Bandwidth
from uploader.bandwidth.pacer import Lane

__all__ = ["Bandwidth", "Lane"]
