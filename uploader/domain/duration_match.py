"""Compares the duration that a recording's container states with the one that the server shows. Pure.

Equal durations do not prove equal bytes: a demuxer often takes the duration of a damaged file from its header. But a
cut or doubled video usually shows another one, also where the server transcodes.

The tolerance is the sum of three parts:

* ``_TRACKS``, at most a quarter of the recording. Containers round to frames, audio and video tracks end up to some
  hundred milliseconds apart, and a transcoder may drop the frames before the first key frame, or trailing audio. Key
  frames of cameras are rarely more than two seconds apart.
* ``_CLOCKS`` of the recording: 3.6 s in 10 hours. Cheap clocks of audio and video differ by up to 100 parts per
  million, and a frame rate of 29.97 stands for 30000/1001.
* ``_WHOLE_SECOND``, if the server shows whole seconds: it may round down, up, or to the nearest.

So a difference of up to 2 s, or 3 s, is not seen in most recordings. A chunk of 16 MiB lasts 17 s at 8 Mbit/s.
"""

from __future__ import annotations

import math
from typing import Final

_TRACKS: Final = 2.0  # s
_TRACKS_FRACTION: Final = 0.25  # of the recording: the most that ``_TRACKS`` may be
_CLOCKS: Final = 1e-4  # of the recording
_WHOLE_SECOND: Final = 1.0  # s


def durations_agree(recorded: float | None, shown: float | None) -> bool | None:
    """Compare two durations in seconds: *recorded* by the container, *shown* by the server.

    False: they differ by more than the tolerance. None: no evidence. One of them is missing, or not a positive finite
    number; or they are close, but half or twice the recording would be close too. That is so below about 4 s where
    whole seconds are shown. No evidence is neither a proof nor a contradiction.
    """
    if recorded is None or shown is None or not (0 < recorded < math.inf and 0 < shown < math.inf):
        return None
    tolerance = min(_TRACKS, recorded * _TRACKS_FRACTION) + recorded * _CLOCKS
    if shown == math.floor(shown):
        tolerance += _WHOLE_SECOND
    if abs(recorded - shown) > tolerance:
        return False
    return True if tolerance < recorded / 2 else None
