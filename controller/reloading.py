"""Makes a daemon that runs what its config says now: at a start, on SIGHUP, and when the API asks for it.

What it takes is in reload.py, which is pure; here it is done. One at a time: what was decided by the states
of pools must be sent before anybody looks at them again.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import anyio
import structlog

from actors.events import Administered, ConfigReloaded, Request
from controller import sdnotify
from controller.building import build_all, missing_extras
from controller.config import Config, ConfigError, load
from controller.desk import CONFIG, Desk, Refused
from controller.journal.errors import JournalError
from controller.reload import NOT_APPLIED, UNNAMED, Plan, as_json, changes, in_force, plan, unnamed
from controller.telemetry.logging import LogObserver, set_level
from providers.contract import Provider

LINES_MAX = 200  # of a reload's plan in its fact
SIGNAL = "signal"  # the principal of SIGHUP
AGAIN_S = 5.0  # until pools are asked for again while the journal can't be written

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Hands:
    """What only the daemon can do.

    Attributes:
        hold_to: take another config as the one in force.
        start_provider: have one more provider, from now on.
    """

    hold_to: Callable[[Config], None]
    start_provider: Callable[[str, Provider], None]


class Reloading:
    """Applies configs. `loud`: who writes events to the log."""

    def __init__(self, desk: Desk, hands: Hands, loud: LogObserver) -> None:
        self._desk = desk
        self._hands = hands
        self._loud = loud
        self._turn = anyio.Lock()
        self._signals = 0  # that wait for their turn

    async def reload(self, *, dry_run: bool = False, principal: str = "") -> dict[str, Any]:
        """Read the config again, say what differs, and apply what can be applied while running.

        Args:
            dry_run: only say it.
            principal: who asked for it.

        Raises:
            ConfigError: nothing was changed.
            JournalFailing: the config holds, and its pools are not what it says yet: reload again.
            JournalClosed: the daemon is at its end.
        """
        async with self._turn:
            return await self._reload(dry_run, principal)

    async def by_signal(self) -> None:
        """Reload on SIGHUP, and tell systemd; what is wrong is told in the log.

        One that waits for its turn reads what is there then, so more need not wait.
        """
        if self._signals:
            return
        self._signals += 1
        try:
            await self._turn.acquire()
        finally:
            self._signals -= 1
        try:
            sdnotify.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
            await self._reload(False, SIGNAL)
            await self._desk.records.note(Administered(action="reload"), SIGNAL)
        except ConfigError as error:
            log.error("config not reloaded", problems=list(error.problems))
        except JournalError as error:
            log.error("config not applied: reload again later", why=str(error))
        finally:
            self._turn.release()
            sdnotify.notify("READY=1")

    async def apply_pools(self) -> None:
        """Make the config's pools what it says; tried again while the journal can't be written."""
        while True:
            try:
                async with self._turn:
                    await self._ask(self._wanted())
            except JournalError as error:
                log.warning("the config's pools wait", why=str(error))
                await anyio.sleep(AGAIN_S)
            else:
                return

    async def _reload(self, dry_run: bool, principal: str) -> dict[str, Any]:
        desk = self._desk
        old, new = desk.config, load(desk.config_path)
        waiting = await desk.webhooks.waiting(new.webhooks)
        states = {name: desk.status.pool_state(name) for name in desk.acting.loops}
        machines = {name: loop.index.instances.values() for name, loop in desk.acting.loops.items()}
        made = plan(old, new, states, machines, waiting)
        if dry_run:
            return as_json(made, applied=False)
        config = in_force(old, new, made.providers_added)
        for name, provider in self._built(new, made).items():
            self._hands.start_provider(name, provider)
        self._hands.hold_to(config)
        made = replace(made, lines=[*made.lines, *self._apply_settings(config)])
        made = replace(made, pools={**made.pools, **await self._ask(made.requests)})
        for line in made.lines:
            log.info("reload", change=line)
        log.info("reloaded", changes=len(made.lines), needs_restart=list(made.needs_restart))
        fact = ConfigReloaded(plan=tuple(made.lines[:LINES_MAX]), needs_restart=tuple(made.needs_restart))
        await desk.records.note(fact, principal)
        return as_json(made, applied=True)

    def _built(self, new: Config, made: Plan) -> dict[str, Provider]:
        providers = {name: new.providers[name] for name in made.providers_added}
        missing = missing_extras(providers)
        if missing:
            raise ConfigError(missing)
        directory = self._desk.state_dir / "providers"
        return build_all(replace(new, providers=providers), directory, self._desk.secrets)

    def _apply_settings(self, config: Config) -> list[str]:
        """What of [daemon] holds at once, besides what is read where it is used; answers what was refused."""
        desk, daemon = self._desk, config.daemon
        set_level(daemon.log_level)
        self._loud.set_level(daemon.log_level)
        for gateway in desk.gateways.values():
            gateway.observe_every(daemon.observe_every_s)
        desk.sweep.guard_s = desk.leftovers.guard_s = daemon.quarantine_s
        desk.webhooks.apply(config.webhooks)
        problems = [*desk.guard.reload(daemon), *desk.secrets.reread()]
        return [f"refused: {problem}" for problem in problems]

    def _wanted(self) -> dict[str, Request]:
        """What the pools that the config names ask for now."""
        desk = self._desk
        states = {name: desk.status.pool_state(name) for name in desk.acting.loops}
        wanted: dict[str, Request] = {}
        for name in unnamed(desk.config.pools, states):
            log.warning("a pool that the config made is left alone", pool=name, why=UNNAMED)
        for name, what, request in changes(desk.config.pools, states, desk.config.unfillable):
            if request is not None:
                wanted[name] = request
            elif what.startswith(NOT_APPLIED):
                log.error("a pool of the config is not applied", pool=name, why=what)
        return wanted

    async def _ask(self, requests: Mapping[str, Request]) -> dict[str, str]:
        """Send the config's Requests; answers why of those that were refused, by pool."""
        refused: dict[str, str] = {}
        if requests:
            answers = await self._desk.submit(list(requests.values()), CONFIG)
            for name, answer in zip(requests, answers, strict=True):
                if isinstance(answer, Refused):
                    refused[name] = f"{NOT_APPLIED}{answer.message}"
                    log.error("a pool of the config is not applied", pool=name, why=answer.message)
        return refused
