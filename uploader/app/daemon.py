"""The daemon of ``run``: signals, drain, reload, systemd notifications, and the commands of the control socket.

It ends on a signal, when its configuration has a fault at the start, or when its state cannot be used. It never ends
because of a file, a folder or the server.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from uploader import __version__, files
from uploader.app import status
from uploader.app.application import Application
from uploader.app.control_socket import ControlSocket
from uploader.app.explain import FileFacts, explanation, look_at
from uploader.app.operator import Operator
from uploader.app.systemd import Notifier, watchdog_interval
from uploader.config import Config, WatchConfig, load
from uploader.diagnostics.probe_results import apply, parse_probe_result
from uploader.domain import errors, events
from uploader.files import DISPOSALS, ShareThreads
from uploader.runtime.clock import Clock
from uploader.runtime.log import configure, install_hooks, redactor
from uploader.server.credentials import check_passwords
from uploader.server.reachability import connects_to
from uploader.stages.lease import Leases
from uploader.store import Store

STATUS_INTERVAL: Final = 2.0  # s between two status lines to systemd, at least; an unchanged line is not sent again


class Daemon:
    """The daemon process: one store for its lifetime, a new ``Application`` for each configuration."""

    def __init__(
        self, file: Path, config: Config, store: Store, clock: Clock, bus: events.Bus, environ: Mapping[str, str]
    ) -> None:
        self._file, self._config, self._store = file, config, store
        self._clock, self._bus, self._environ = clock, bus, environ
        self._notifier = Notifier(environ, clock.monotonic)
        self._file_checks = ShareThreads("file checks")
        self._leases = Leases(store)
        self._operator = Operator(store, self._leases, clock, bus, config.server.doubt_settle)
        self._application: Application | None = None
        self._stop = asyncio.Event()
        self._reload_asked = asyncio.Event()
        self._ending = False
        self._main: asyncio.Task[Any] | None = None  # the task of ``run``, while a second signal may cancel it

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT. A second signal ends it at once; what was saved stays saved."""
        self._main = asyncio.current_task()
        loop = asyncio.get_running_loop()
        install_hooks(loop)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number)
        loop.add_signal_handler(signal.SIGHUP, self._ask_for_reload)
        self._announce()
        with suppress(asyncio.CancelledError):  # only the second signal cancels this task
            control = ControlSocket(self._config.state.dir, self.answer, leave=lambda: self._store.write_age > 0)
            async with control, asyncio.TaskGroup() as group:
                helpers = [group.create_task(self._keep_systemd_posted()), group.create_task(self._feed_watchdog())]
                helpers.append(group.create_task(self._reload_when_asked()))
                helpers += [group.create_task(self._look_at_folder(watch)) for watch in self._config.watch]
                while not self._ending:
                    self._stop.clear()
                    self._application = Application(
                        self._config,
                        self._store,
                        self._clock,
                        self._bus,
                        self._environ,
                        leases=self._leases,
                        reachable=connects_to,
                    )
                    self._operator.running = self._application
                    await self._application.run(self._stop, discover=True)
                for helper in helpers:
                    helper.cancel()
        self._main = None  # a further signal changes nothing: closing the state takes bounded time
        self._bus.publish(events.Stopped(len(self._store.uploads)))

    def _announce(self) -> None:
        self._bus.publish(
            events.Started(
                __version__,
                self._config.server.url,
                str(self._config.state.dir),
                len(self._store.uploads),
                self._store.ledger.count,
            )
        )
        for warning in status.standing_warnings(self._config, self._environ):
            self._bus.publish(events.ConfigWarning(warning))

    async def _look_at_folder(self, watch: WatchConfig) -> None:
        """Warn at the start about a folder that cannot be used. One that does not answer is reported by its scan."""
        with suppress(errors.ShareNotReady):
            problem = await ShareThreads("folder check").call(
                lambda: files.folder_problem(str(watch.path), writable=DISPOSALS[watch.after_upload].takes_away)
            )
            if problem is not None:
                self._bus.publish(events.ConfigWarning(f"{problem}; checked again every {watch.rescan:g} s"))

    def _end(self, number: signal.Signals) -> None:
        if self._ending:
            if self._main is not None:
                self._main.cancel()
            return
        self._ending = True
        self._notifier.stopping()
        self._bus.publish(events.Stopping(signal.Signals(number).name, self._config.upload.drain))
        self._stop.set()

    def _ask_for_reload(self) -> None:
        self._notifier.reloading()
        self._reload_asked.set()

    async def _reload_when_asked(self) -> None:
        while True:
            await self._reload_asked.wait()
            self._reload_asked.clear()
            await self._reload()

    def _load(self) -> Config:
        """Read the configuration, and make sure that its passwords can be used. Blocks."""
        config = load(self._file, self._environ)
        check_passwords(config.server, self._environ, redactor.remember)
        return config

    async def _reload(self) -> None:
        """Put a new configuration into force, or keep the old one and report what is wrong with the new."""
        try:
            # In a thread, since it reads files.
            config = await self._file_checks.call(self._load)
        except errors.ConfigError as error:
            self._bus.publish(events.ConfigRejected("; ".join(error.faults)))
        except errors.PasswordUnusable as error:
            self._bus.publish(events.ConfigRejected(str(error)))
        except errors.ShareNotReady as error:
            self._bus.publish(events.ConfigRejected(f"{self._file}: {error}"))
        else:
            if config.state.dir != self._config.state.dir:
                text = "state.dir has changed: the old one stays in use until the daemon is restarted"
                self._bus.publish(events.ConfigWarning(text))
                config = config.model_copy(update={"state": self._config.state})
            limits_only, self._config = differ_in_limits_alone(self._config, config), config
            self._operator.reload(config)
            configure(config.log.level, config.log.format, environ=self._environ)
            self._bus.publish(events.ConfigReloaded(str(self._file)))
            for warning in status.standing_warnings(config, self._environ):
                self._bus.publish(events.ConfigWarning(warning))
            if not limits_only or self._application is None:
                self._stop.set()
        self._notifier.ready(self._status_line())

    async def _keep_systemd_posted(self) -> None:
        said = self._status_line()
        self._notifier.ready(said)
        while True:
            await self._clock.sleep(STATUS_INTERVAL)
            if (line := self._status_line()) != said:
                self._notifier.status(line)
                said = line

    async def _feed_watchdog(self) -> None:
        """Feed systemd's watchdog from the event loop: if the loop hangs, systemd restarts the daemon.

        It is not fed either when a write of the state has hung for as long as systemd waits (two intervals) and this
        was reported. The disk may be back while the call still hangs on its old connection. A restart helps then.
        """
        interval = watchdog_interval(self._environ)
        while interval is not None:
            if self._store.write_age <= 2 * interval or not self._store.not_saved:
                self._notifier.watchdog()
            await self._clock.sleep(interval)

    def _status_line(self) -> str:
        return status.one_line(status.brief_document(self._brief_snapshot(), self._clock.now()))

    def _status(self) -> dict[str, Any]:
        """Return the status as of now. Its rows are made when they are read, possibly in another thread."""
        return status.status_by_rows(self._config, self._snapshot(), self._clock.now())

    def _brief_snapshot(self) -> status.StatusSnapshot:
        """Return what is known without looking at each upload."""
        application = self._application
        return status.StatusSnapshot(
            uploads=(),
            orphans=(),
            capabilities=self._store.capabilities,
            done=self._store.ledger.count,
            counts=self._store.counts,
            settling=() if application is None else application.settle.candidates.values(),
            folders=() if application is None else application.discover.folder_stats(),
            outage=0.0 if application is None else application.breaker.wait,
            outage_reason="" if application is None else application.breaker.reason,
            process=os.getpid(),
            not_saved=self._store.not_saved,
        )

    def _snapshot(self) -> status.StatusSnapshot:
        """Return all that is known. The values are frozen, so nothing in the copy changes when work continues."""
        brief, application = self._brief_snapshot(), self._application
        return replace(
            brief,
            uploads=tuple(self._store.uploads.values()),
            orphans=tuple(self._store.orphans.values()),
            settling=tuple(brief.settling),
            warnings=status.standing_warnings(self._config, self._environ),
            paused=tuple(self._store.paused),
            last_words={} if application is None else dict(application.verify.last_words),
        )

    async def _explain(self, application: Application, path: str) -> list[str]:
        upload = self._store.upload_at(path)
        facts = FileFacts(
            upload,
            application.settle.candidates.get(path),
            finished=await self._store.sent_from(path),
            last_word="" if upload is None else application.verify.last_words.get(upload.path, ""),
            paused=upload is not None and self._store.is_paused(upload),
            running=True,
            monotonic=self._clock.monotonic(),
        )
        return explanation(self._config, path, facts, self._clock.now(), await look_at(path, self._file_checks))

    async def answer(self, do: str, paths: list[str]) -> dict[str, Any]:
        """Carry out a command of the control socket, and return its answer. Raises ``UploaderError``."""
        if self._application is None:
            raise errors.UploaderError("the daemon is still starting; type the command again in a moment")
        operator = self._operator
        match do:
            case "status":
                return self._status()
            case "explain":
                return {"lines": await self._explain(self._application, paths[0])}
            case "retry":
                await operator.try_server_again()  # the uploads may be waiting for nothing else
                return {"done": [path for path in paths if await operator.retry(path)]}
            case "forget":
                return {"done": [path for path in paths if await operator.forget(path)]}
            case "probed":  # what ``check --probe``, another process, has found out about the server
                apply(self._store, parse_probe_result(paths[0]))
                await self._store.commit()
                return {"done": paths}
            case "pause":
                return {"done": [path for path in paths if await operator.pause(path)]}
            case "resume":
                return {"done": [path for path in paths if await operator.resume(path)]}
            case _:
                raise errors.UploaderError(
                    "the running daemon does not know this command: it is another version; restart it"
                )


def differ_in_limits_alone(before: Config, after: Config) -> bool:
    """True when the two configurations differ in bandwidth limits and in nothing else: then no upload has to stop.

    False for equal configurations: then a file that the configuration names may have changed, such as a certificate.
    """
    limits = {key: getattr(after.upload, key) for key in ("bandwidth", "recording_aware", "recording_bandwidth")}
    return before != after == before.model_copy(update={"upload": before.upload.model_copy(update=limits)})
