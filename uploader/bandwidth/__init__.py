"""Limits how fast recordings are sent: one limit for all workers, by timetable, growing recordings and disk pressure.

    limits.py       the limits in force at a moment; pure
    growth.py       which files grow, and whether the disk is under pressure; pure
    meter.py        when the next bytes may be sent at a rate; pure
    pacer.py        queue of the uploads that wait for a grant; fair between them
    bandwidth.py    reads clock, bus and disk, and updates the pacer
    io_pressure.py  reads Linux's pressure stall information

Bytes of recordings are counted; TLS and TCP add a few per cent on the wire. An upload without a limit never waits.

Touches: the clock, /proc/pressure/io.
Imports: config, domain, runtime.
"""

from uploader.bandwidth.bandwidth import Bandwidth
from uploader.bandwidth.pacer import UploadThrottle

__all__ = ["Bandwidth", "UploadThrottle"]
