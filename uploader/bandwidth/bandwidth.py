"""Applies the bandwidth limits: reads the timetable, the growing files and the disk, and updates the pacer.

Each upload in flight has a throttle, which asks the pacer how many bytes may be sent. The disk pressure is read at most
once a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from uploader.bandwidth.growth import DiskPressure, Growth
from uploader.bandwidth.io_pressure import io_pressure
from uploader.bandwidth.limits import BY_CONFIGURATION, BY_TIMETABLE, Limits, changes, rate_now
from uploader.bandwidth.pacer import Pacer, UploadThrottle
from uploader.config import Config, WatchConfig
from uploader.domain import events
from uploader.domain.retry import MINUTE
from uploader.domain.selection import relative
from uploader.runtime.clock import Clock
from uploader.runtime.delay_queue import wait_for

LIMIT_CHECK_INTERVAL: Final = 1.0  # s between two checks of clock and disk, if limits depend on them
DEFAULT_SETTLE: Final[float] = WatchConfig.model_fields["settle"].default


class Bandwidth:
    """The limit for all uploads of the program together. Each upload has its own ``UploadThrottle``."""

    def __init__(
        self,
        config: Config,
        clock: Clock,
        bus: events.Bus,
        *,
        pressure: Callable[[], float | None] = io_pressure,
    ) -> None:
        """Begin with the limits of this moment. *pressure*: reads the disk pressure, as ``io_pressure`` does."""
        self._config, self._clock, self._bus, self._read_pressure = config, clock, bus, pressure
        self._growth, self._disk_pressure = Growth(), DiskPressure()
        self._pressure_read_at: float | None = None  # monotonic
        self._wake = asyncio.Event()
        self._limits = Limits(self._scheduled(), config.upload.recording_bandwidth)
        self._pacer = Pacer(self._limits, clock)
        self._register_folders()

    @property
    def limits(self) -> Limits:
        """The limits that are in force now."""
        return self._limits

    def throttle(self, root: str) -> UploadThrottle:
        """Return a throttle for one upload of a file in the watched folder *root*."""
        return UploadThrottle(self._pacer, self._pacer.folder(root))

    def apply(self, config: Config) -> None:
        """Put another configuration into force at once, also for chunks that are being sent."""
        self._config = config
        self._register_folders()
        self._update(BY_CONFIGURATION)
        self._wake.set()

    async def run(self) -> None:
        """Grant bytes and keep the limits up to date until cancelled. While this does not run, limited uploads wait."""
        stop_listening = self._bus.listen(self._on_event)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pacer.run(), name="bandwidth: grants")
                group.create_task(self._keep_updated(), name="bandwidth: limits")
        finally:
            stop_listening()

    async def _keep_updated(self) -> None:
        while True:
            self._wake.clear()
            self._update(BY_TIMETABLE)
            await wait_for(self._wake, self._clock, self._next_update())

    def _next_update(self) -> float | None:
        """Return the seconds until the limits are computed again; None: not before something wakes it."""
        upload = self._config.upload
        if len(upload.bandwidth) == 1 and not upload.recording_aware:
            return None
        # Steps begin on whole minutes, so a check on the minute is never late.
        return min(LIMIT_CHECK_INTERVAL, MINUTE - self._clock.now() % MINUTE)

    def _update(self, cause: str) -> None:
        """Compute the limits; if they have changed, put them into force and publish what changed."""
        upload, now = self._config.upload, self._clock.monotonic()
        if upload.recording_aware:
            if self._pressure_read_at is None or now - self._pressure_read_at >= LIMIT_CHECK_INTERVAL:
                self._pressure_read_at = now
                self._disk_pressure.feel(self._read_pressure(), now)
            pressed, recorded = self._disk_pressure.pressed(now), self._growth.folders(self._pacer.roots, now)
        else:
            pressed, recorded = False, frozenset()
        before, after = self._limits, Limits(self._scheduled(), upload.recording_bandwidth, pressed, recorded)
        if after != before:
            self._limits = after
            self._pacer.change(after)
            for event in changes(before, after, cause):
                self._bus.publish(event)

    def _scheduled(self) -> float | None:
        local = datetime.fromtimestamp(self._clock.now(), UTC).astimezone()
        return rate_now(self._config.upload.bandwidth, local)

    def _register_folders(self) -> None:
        """Make the watched folders known to the pacer, also those that nothing is sent from yet."""
        for watch in self._config.watch:
            self._pacer.folder(str(watch.path))

    def _on_event(self, event: events.Event) -> None:
        """Note which files grow; compute the limits at once when a folder's first file grows."""
        if not self._config.upload.recording_aware:
            return
        match event:
            case events.FileFound(path=path) | events.FileStillChanging(path=path):
                self._growth.changed(path, self._settle_of(path), self._clock.monotonic())
                if any(relative(root, path) for root in self._pacer.roots if root not in self._limits.recorded):
                    self._wake.set()
            case events.FileSettled(path=path):
                self._growth.settled(path, self._clock.monotonic())

    def _settle_of(self, path: str) -> float:
        watches = (watch for watch in self._config.watch if relative(watch.path, path) is not None)
        return max((watch.settle for watch in watches), default=DEFAULT_SETTLE)
