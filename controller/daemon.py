"""The composition root: what is built, in which order it starts, and how it stops.

Start: state directory (flock), journal (epoch + 1), sockets (so that a taken port is said early), providers,
recovery, gateways, links, loops, API; then systemd hears READY. Stop is the reverse; machines, agents and
tasks go on. A kill -9 at any point is an ordinary stop that took no care.
"""

import contextlib
import faulthandler
import gc
import json
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anyio
import structlog
from anyio.abc import TaskGroup

from actors.acting import Acting
from actors.address import Address
from actors.links import Links
from actors.loop import Identity, Letter, Loop
from actors.market.state import MarketState
from actors.ports import Accepted, JournalClosed, StateRow
from actors.supervisor import attempt_call
from controller import clock, sdnotify
from controller.api.app import build_app
from controller.api.serving import AddressInUse, Listening, bind, serve
from controller.blobs import Blobs
from controller.building import build_all
from controller.config import Config, ConfigError, warnings
from controller.desk import Desk
from controller.doctor import diagnose
from controller.followers import Followers
from controller.journal.errors import JournalError, JournalFailing
from controller.journal.journal import SqliteJournal
from controller.journal.lock import StateDirectory
from controller.keys import Keys
from controller.leftovers import LeftoverSweep
from controller.observing import HouseKeeping, Observers
from controller.records import Records
from controller.recovery import MARKETS, Recovered, Sweep, recover
from controller.reloading import AGAIN_S, Hands, Reloading
from controller.secrets.keys import KeyRing
from controller.secrets.store import SecretStore
from controller.secrets.uses import LoopUses
from controller.security.guard import Guard
from controller.status import Status
from controller.telemetry.borders import Borders
from controller.telemetry.console import ConsoleStore
from controller.telemetry.files import FileStore
from controller.telemetry.logging import LogObserver, Secrets, configure
from controller.telemetry.logs import LogStore
from controller.telemetry.metrics_store import MetricsStore
from controller.telemetry.series import Series, new_registry
from controller.telemetry.sink import Sink
from controller.telemetry.sources import Sources
from controller.vitals import Vitals
from controller.webhooks.hook import Tools
from controller.webhooks.webhooks import Webhooks
from providers.contract import Provider
from providers.gateway import Gateway
from providers.host.keys import KeyStore
from providers.model import Listing, Value
from providers.registry import ADAPTERS

VERSION = version("everpool")
PRUNE_EVERY_S = 3600.0
PROBLEMS_MAX = 3  # in the status line
LOOP_RESTARTS_MAX = 3  # of one pool's loop within LOOP_WINDOW_S; then it stays down, loudly
LOOP_WINDOW_S = 600.0
STOP_WITHIN_S = 10.0
FIRST_LOOK_S = 10.0  # how long a start waits for each provider's first listing
HOLD_FILE = "hold.json"
OBSERVING_FILE = "observing-only"  # there while a newer epoch than ours was seen; holds that epoch

log = structlog.get_logger()


class Daemon:
    """Everything, wired. Built once per process, inside the event loop."""

    def __init__(
        self,
        config: Config,
        path: Path | None,
        directory: StateDirectory,
        journal: SqliteJournal,
        hidden: Secrets | None = None,
    ) -> None:
        self.config = config
        self.path = path
        self._began = clock.start(time.time(), journal.last_at(), clock.expected(directory.path))
        self.clock = clock.SteadyClock(self._began.at, clock.boottime)
        journal.keep_time(self.clock.now)
        self.dice = random.Random()
        self.journal = journal
        self._directory = directory
        self._note_clock()
        self._identity = Identity(journal.owner, journal.epoch)
        self._stop = anyio.Event()
        self._tasks: TaskGroup | None = None
        self._troubled: set[str] = set()  # providers where nothing can be bought, as was logged
        self._leads = False  # the first look is over, and showed no newer daemon
        self._restarts: dict[str, list[float]] = {}
        settings = config.daemon
        self.secrets = self._make_secrets(hidden or Secrets())
        self.providers: dict[str, Provider] = build_all(config, directory.providers, self.secrets)
        self.status = Status()
        self.followers = Followers(journal)
        self.logs = LogStore(
            directory.logs, file_bytes=settings.log_file_bytes, total_bytes_max=settings.logs_bytes_max
        )
        self.console = ConsoleStore(directory.logs)
        self.files = FileStore(directory.files)
        self.metrics = MetricsStore()
        self.keys = Keys(KeyStore(directory.keys))
        self.vitals = Vitals(journal, self._mailboxes, self._summary)
        tools = Tools(journal, lambda: self.records, self.clock, self.dice)
        self.webhooks = Webhooks(journal, tools, self._supervised)
        self.webhooks.apply(config.webhooks)
        self.blobs = Blobs(directory.path / "blobs", self._task_done)
        self.sink = Sink(logs=self.logs, console=self.console, files=self.files, metrics=self.metrics)
        self._keeping = HouseKeeping(self.keys, self.sink)
        self.links = Links(
            providers=self.providers,
            paths=self.keys,
            telemetry=self.sink,
            post=self._post,
            clock=self.clock,
            dice=self.dice,
            owner=journal.owner,
            epoch=journal.epoch,
            on_newer=self._led_by_a_newer,
            on_trouble=self._trouble,
        )
        self.series = Series(
            new_registry(),
            providers=tuple(config.providers),
            now=self.clock.now,
            version=VERSION,
            pool_status=self.status.pool_status,
            pool_ready=self.status.pool_ready,
            pool_outdated=self._outdated,
            borders=self._make_borders(),
            sources=Sources(
                now=self.clock.now,
                logs=self.logs,
                files=self.files,
                console=self.console,
                metrics=self.metrics,
                journal=journal.stats,
                epoch=lambda: journal.epoch,
                links=self.links,
                leftovers=lambda: self.leftovers.counted(),
            ),
        )
        loud = LogObserver(settings.log_level)
        observers = (
            self.status,
            self.series,
            loud,
            self._keeping,
            self.followers,
            self.vitals,
            self.webhooks,
        )
        self.observer = Observers(observers)
        self.gateways: dict[str, Gateway] = {}
        self.acting = Acting(
            owner=journal.owner,
            epoch=journal.epoch,
            gateways=self.gateways,
            links=self.links,
            keys=self.keys,
            files=self.blobs,
            env_groups=self.secrets,
            on_listing=self._listed,
            on_trouble=self._trouble,
            on_offers=self._offers_told,
        )
        self._keeping.acting = self.acting
        for name, provider in self.providers.items():
            self.gateways[name] = self._make_gateway(provider)
        self.records = Records(journal, self.observer, self.clock, {})
        self.guard = Guard(self.records, self.clock.now, settings.limits)
        self.sweep = self._make_sweep(Recovered())
        self.leftovers = self._make_leftovers()
        self.desk = self._make_desk()
        self.reloading = Reloading(self.desk, Hands(self._hold_to, self._start_provider), loud)

    def _make_borders(self) -> Borders:
        return Borders(
            now=self.clock.now,
            gateways=lambda: self.gateways,
            webhooks=self.webhooks,
            followers=self.followers,
            guard=lambda: self.guard,
            loop_lag=lambda: self.vitals.lag_max_s,
            health=lambda: self.desk.health(),
            state_dir=self._directory.path,
        )

    def _make_gateway(self, provider: Provider) -> Gateway:
        return Gateway(
            provider,
            owner=self.journal.owner,
            listener=self.acting,
            now=self.clock.now,
            observe_every_s=self.config.daemon.observe_every_s,
        )

    def _make_secrets(self, hidden: Secrets) -> SecretStore:
        return SecretStore(
            records=lambda: self.records,
            ring=KeyRing(lambda: (self.config.daemon.secrets_key, self.config.daemon.secrets_key_old)),
            clock=self.clock,
            hide=hidden.add,
            uses=LoopUses(lambda: self.acting.loops, lambda: self.config.providers),
            on_login=self._login_stored,
        )

    def _login_stored(self) -> None:
        for name, one in self.config.providers.items():
            if ADAPTERS[one.type].pulls:
                self.acting.may_again(name)

    def _make_sweep(self, recovered: Recovered) -> Sweep:
        living = [
            name for states in recovered.pools.values() for (kind, name) in states if kind == "instance"
        ]
        return Sweep(
            owner=self.journal.owner,
            journal=self.journal,
            observer=self.observer,
            clock=self.clock,
            dice=self.dice,
            gateways=self.gateways,
            loops=self.acting.loops,
            guard_s=self.config.daemon.quarantine_s,
            quarantine=dict(recovered.quarantine),
            recovered=living,
            may_act=self._may_act,
        )

    def _make_leftovers(self) -> LeftoverSweep:
        return LeftoverSweep(
            owner=self.journal.owner,
            journal=self.journal,
            observer=self.observer,
            clock=self.clock,
            dice=self.dice,
            machines=self.sweep,
            gateways=self.gateways,
            loops=self.acting.loops,
            guard_s=self.config.daemon.quarantine_s,
            may_act=self._may_act,
        )

    def _may_act(self) -> bool:
        return not (self.desk.observing_only or self.desk.stopping)

    def _make_desk(self) -> Desk:
        return Desk(
            config=self.config,
            config_path=self.path,
            state_dir=self._directory.path,
            clock=self.clock,
            journal=self.journal,
            status=self.status,
            followers=self.followers,
            logs=self.logs,
            files=self.files,
            console=self.console,
            metrics=self.metrics,
            series=self.series,
            blobs=self.blobs,
            gateways=self.gateways,
            links=self.links,
            acting=self.acting,
            sweep=self.sweep,
            leftovers=self.leftovers,
            records=self.records,
            webhooks=self.webhooks,
            guard=self.guard,
            secrets=self.secrets,
            open_pool=self._open_pool,
            reload=self.reload,
            adopt=self.adopt,
            doctor=self._doctor,
            lead=self._lead,
            hold_saved=self._save_hold,
            machine=self._machine,
        )

    def _note_clock(self) -> None:
        with contextlib.suppress(OSError):  # a full disk: the next start then trusts the system's clock less
            clock.keep(self._directory.path, self._began.at)
        wrong = self._began.at - time.time()
        if wrong > clock.WRONG_S:
            log.warning("the system's clock is behind the journal's newest event: ours goes on", by_s=wrong)

    # --- small links between the parts ------------------------------------------------------------

    async def _post(self, pool: str, letter: Letter) -> None:
        loop = self.acting.loops.get(pool)
        if loop is not None:
            await loop.post(letter)

    def _outdated(self, pool: str) -> int:
        loop = self.acting.loops.get(pool)
        return 0 if loop is None else len(loop.index.outdated)

    def _listed(self, provider: str, listing: Listing) -> None:
        self.sweep.listing(provider, listing)
        if self._leads and self.sweep.newest_epoch > self.journal.epoch:
            self._led_by_a_newer(self.sweep.newest_epoch)

    def _offers_told(self, provider: str) -> None:
        """Say it once when nothing can be bought at a provider any more, and when it can again."""
        why = self.gateways[provider].trouble
        if why is not None and provider not in self._troubled:
            self._troubled.add(provider)
            log.warning("nothing can be bought at a provider", provider=provider, why=why)
        elif why is None and provider in self._troubled:
            self._troubled.discard(provider)
            log.info("a provider sells again", provider=provider)

    def _trouble(self, what: str, error: BaseException) -> None:
        self.observer.bug("outside", what, error)

    def _task_done(self, pool: str, task: str) -> None:
        state = self.status.task_state(task)
        self.sink.task_over(pool, task, getattr(state, "instance_id", None))

    def _machine(self, instance: str) -> Any:
        state = self.status.instance_state(instance)
        return self.keys.machine_of(state) if state is not None else None

    def _lead(self, epoch: int) -> None:
        self._identity.epoch = epoch
        self.links.lead(epoch)
        self.acting.lead(epoch)

    def _led_by_a_newer(self, epoch: int) -> None:
        """An agent obeys a newer daemon: this state directory is an old copy, so we only observe."""
        if self.desk.observing_only or self.desk.stopping:
            return
        log.error("machines obey a newer daemon: observing only, until `everpool adopt`", epoch=epoch)
        (self._directory.path / OBSERVING_FILE).write_text(str(epoch))
        self.desk.stopping = True  # at once: the sweep must not act on what it was shown
        self.restart = True
        self._stop.set()

    def _newest_epoch_seen(self) -> int:
        try:
            noted = int((self._directory.path / OBSERVING_FILE).read_text())
        except (OSError, ValueError):
            noted = 0
        return max(noted, self.sweep.newest_epoch)

    async def _doctor(self, names: Sequence[str]) -> list[dict[str, Any]]:
        return await diagnose(self._directory.path, self.desk, names)

    # --- loops ------------------------------------------------------------------------------------

    def _make_loop(self, name: str, states: Mapping[Address, Value] | None = None) -> Loop:
        return Loop(
            name,
            identity=self._identity,
            journal=self.journal,
            observer=self.observer,
            clock=self.clock,
            dice=self.dice,
            world=self.acting.world,
            outside=self.acting,
            states=states,
        )

    def _open_pool(self, name: str, states: Mapping[Address, Value] | None = None) -> Loop:
        loop = self._make_loop(name, states)
        self.acting.loops[name] = loop
        if self._tasks is not None and not self.desk.observing_only:
            self._tasks.start_soon(self._keep_loop, loop)
        return loop

    async def _supervised(self, what: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run what should never end; a bug in it is told, and it starts again after a pause."""

        async def life() -> Exception | None:
            await run()
            return None

        wait = 1.0
        while True:
            began = self.clock.now()
            error = await attempt_call(life, lambda error: error)
            if isinstance(error, JournalClosed):
                self._stop.set()
                return
            self.observer.bug("outside", what, error or RuntimeError(f"{what} ended"))
            wait = 1.0 if self.clock.now() - began > LOOP_WINDOW_S else min(60.0, wait * 2)
            await anyio.sleep(wait)

    async def _unless_closed(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run what may find that the journal is closed: then we stop."""
        try:
            await run()
        except JournalClosed:
            self._stop.set()

    async def _begin_secrets(self) -> None:
        while True:
            try:
                await self.secrets.begin()
            except JournalFailing as error:
                log.warning("secrets are not encrypted anew yet", why=str(error))
                await anyio.sleep(AGAIN_S)
            else:
                return

    async def _keep_loop(self, loop: Loop) -> None:
        """Run a loop to its end. One that breaks (its own bug) starts anew from what is durable."""

        async def life() -> Exception | None:
            await loop.run()
            return None

        error = await attempt_call(life, lambda error: error)
        if isinstance(error, JournalClosed):
            self._stop.set()
            return
        if error is None:
            if self.acting.loops.get(loop.name) is loop:
                del self.acting.loops[loop.name]
                self.series.loop_ended(loop.name)
            named = self.config.pools.get(loop.name)
            if named is not None and named.spec is not None and not named.remove and self._tasks is not None:
                # the config was read again while it went
                self._tasks.start_soon(self._unless_closed, self.reloading.apply_pools)
            return
        self.observer.bug(loop.name, "loop", error)
        self.desk.down.add(loop.name)
        now = self.clock.now()
        times = [at for at in self._restarts.get(loop.name, []) if at > now - LOOP_WINDOW_S]
        self._restarts[loop.name] = [*times, now]
        if len(times) >= LOOP_RESTARTS_MAX:
            log.error("pool stays down after too many failures of its loop", pool=loop.name)
            return
        await anyio.sleep(1.0 * 2 ** len(times))
        recovered = recover(
            (row for row in self.journal.load_states(living_only=True) if row.pool == loop.name), ()
        )
        states = recovered.markets if loop.name == MARKETS else recovered.pools.get(loop.name, {})
        if loop.name == MARKETS:
            self._start_markets(states)
            self.acting.tell_holdings()
        else:
            self.desk.down.discard(loop.name)
            self._open_pool(loop.name, states)
            self.acting.tell_holdings()
            for envelope in self.journal.open_requests():  # what waited in the mailbox
                if envelope.pool == loop.name:
                    await self.desk.hand_over(Accepted(envelope, new=True))

    def _start_markets(self, states: Mapping[Address, Value]) -> None:
        for (_, name), state in states.items():
            if isinstance(state, MarketState):
                self.acting.market_committed(name, state)
        self.acting.markets = self._make_loop(MARKETS, states)
        if self._tasks is not None:
            self._tasks.start_soon(self._keep_loop, self.acting.markets)

    # --- life -------------------------------------------------------------------------------------

    async def run(self, listening: Listening) -> None:
        """Start everything, live until told to stop, stop everything that is ours."""
        gc.disable()  # what is read lives on: looking for garbage in it again and again costs a second
        recovered = recover(
            self.journal.load_states(living_only=True), self.journal.open_requests(), self._began
        )
        self.records = self.desk.records = Records(self.journal, self.observer, self.clock, recovered.records)
        self.guard = self.desk.guard = Guard(self.records, self.clock.now, self.config.daemon.limits)
        self.sweep = self.desk.sweep = self._make_sweep(recovered)
        self.leftovers = self.desk.leftovers = self._make_leftovers()
        for pool, states in recovered.pools.items():
            self.status.load(pool, states)
            self.series.load(pool, [StateRow(kind, name, 0, state) for (kind, name), state in states.items()])
        gc.freeze()
        gc.enable()
        await self._load_telemetry()
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            for gateway in self.gateways.values():
                tasks.start_soon(self._supervised, f"gateway {gateway.name}", gateway.run)
            await self._first_look()
            self.desk.observing_only = (
                self.sweep.newest_epoch > self.journal.epoch
                or (self._directory.path / OBSERVING_FILE).exists()
            )
            if self.desk.observing_only:
                (self._directory.path / OBSERVING_FILE).write_text(str(self._newest_epoch_seen()))
            self._leads = not self.desk.observing_only
            if not self.desk.observing_only:
                tasks.start_soon(self._supervised, "links", self.links.run)
            tasks.start_soon(self._supervised, "sweep", self.sweep.run)
            self._start_markets(recovered.markets)
            for pool, states in recovered.pools.items():
                self._open_pool(pool, states)
            if not self.desk.observing_only:
                self.acting.tell_holdings()
            gc.freeze()
            for envelope in recovered.requests if not self.desk.observing_only else ():
                await self.desk.hand_over(Accepted(envelope, new=True))
            for name in self.gateways:
                tasks.start_soon(
                    self._supervised, f"leftovers of {name}", partial(self.leftovers.watch, name)
                )
            await tasks.start(serve, build_app(self.desk), listening)
            if not self.desk.observing_only:
                tasks.start_soon(self._unless_closed, self.reloading.apply_pools)
                tasks.start_soon(self._unless_closed, self._begin_secrets)
                tasks.start_soon(self._supervised, "webhooks", self.webhooks.run)
            tasks.start_soon(self._supervised, "housekeeping", self._keep_house)
            tasks.start_soon(self._supervised, "certificate", self.guard.watch)
            tasks.start_soon(self._heed_signals)
            tasks.start_soon(self._supervised, "vitals", self.vitals.run)
            gc.collect()
            gc.freeze()
            sdnotify.notify("READY=1", f"STATUS=epoch {self.journal.epoch}")
            for text in warnings(self.config):
                log.warning("config", what=text)
            log.info(
                "ready",
                epoch=self.journal.epoch,
                owner=self.journal.owner,
                socket=str(listening.path),
                listen=listening.address and "{}:{}".format(*listening.address),
            )
            await self._stop.wait()
            sdnotify.notify("STOPPING=1")
            self.desk.stopping = True
            tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True), anyio.move_on_after(STOP_WITHIN_S):
            for provider in self.providers.values():
                await provider.aclose()
        self.sink.close()

    async def _load_telemetry(self) -> None:
        living = self.status.living_tasks()
        await self.logs.load(living)
        await self.files.load(living)
        await self.console.load(
            [(state["pool"], state["id"]) for state in self.status.instances(self.clock.now())]
        )
        hold = self._directory.path / HOLD_FILE
        try:
            saved = json.loads(hold.read_text())
        except (OSError, ValueError):
            saved = {}
        for pool, until in saved.items() if isinstance(saved, dict) else ():
            if isinstance(until, int | float) and until > self.clock.now():
                self.links.hold(str(pool), float(until))

    def _save_hold(self, until: Mapping[str, float]) -> None:
        path = self._directory.path / HOLD_FILE
        new = path.with_suffix(".new")
        new.write_text(json.dumps(dict(until)))
        os.replace(new, path)

    async def _first_look(self) -> None:
        """Wait, within reason, until each provider showed once what is there: epochs, above all."""
        with anyio.move_on_after(FIRST_LOOK_S):
            while any(name not in self.sweep.listed for name in self.gateways):
                if all(
                    gateway.last_error or name in self.sweep.listed for name, gateway in self.gateways.items()
                ):
                    return
                await anyio.sleep(0.01)

    async def adopt(self) -> dict[str, Any]:
        """Lead machines that a newer daemon led (a restored backup): start again under a newer epoch."""
        if not self.desk.observing_only:
            return {"adopted": False, "why": "the daemon leads already", "epoch": self.journal.epoch}
        epoch = await self.journal.advance_epoch(self._newest_epoch_seen())
        (self._directory.path / OBSERVING_FILE).unlink(missing_ok=True)
        log.warning("adopting: starting again under a newer epoch", epoch=epoch)
        self._stop.set()  # a fresh start recovers under the new epoch, with everything observed anew
        self.restart = True
        return {"adopted": True, "epoch": epoch}

    restart = False

    # --- the config -------------------------------------------------------------------------------

    async def reload(self, *, dry_run: bool = False, principal: str = "") -> dict[str, Any]:
        """See `Reloading.reload`."""
        return await self.reloading.reload(dry_run=dry_run, principal=principal)

    def _hold_to(self, config: Config) -> None:
        self.config = self.desk.config = config

    def _start_provider(self, name: str, provider: Provider) -> None:
        self.providers[name] = provider
        gateway = self.gateways[name] = self._make_gateway(provider)
        if self._tasks is not None:
            self._tasks.start_soon(self._supervised, f"gateway {name}", gateway.run)
            self._tasks.start_soon(
                self._supervised, f"leftovers of {name}", partial(self.leftovers.watch, name)
            )

    # --- for ever ---------------------------------------------------------------------------------

    async def _heed_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                if number == signal.SIGHUP:
                    if self._tasks is not None:  # whatever it waits for, SIGTERM must be heard
                        self._tasks.start_soon(self._unless_closed, self.reloading.by_signal)
                else:
                    log.info("stopping; machines and tasks go on", signal=signal.Signals(number).name)
                    self._stop.set()

    def _mailboxes(self) -> list[tuple[str, int]]:
        """Each loop that should run, with the letters that wait for it."""
        if self.desk.observing_only or self.desk.stopping:
            return []
        loops = [*self.acting.loops.values(), *filter(None, [self.acting.markets])]
        return [(loop.name, loop.waiting) for loop in loops if loop.name not in self.desk.down]

    def _summary(self) -> str:
        """How we are, in one line, for `systemctl status`."""
        views = self.status.pools()
        ready, desired = sum(view["ready"] for view in views), sum(view["desired"] for view in views)
        line = f"{len(views)} pool{'' if len(views) == 1 else 's'}, {ready} of {desired} nodes ready"
        unwell = [
            f"{view['name']} is {view['status']}"
            for view in views
            if view["status"] in ("parked", "short", "unhealthy")
        ]
        problems = [*self.desk.health()["reasons"], *unwell]
        more = f", and {len(problems) - PROBLEMS_MAX} more" if len(problems) > PROBLEMS_MAX else ""
        return "; ".join([line, *problems[:PROBLEMS_MAX]]) + more

    async def prune(self) -> None:
        """Forget what the journal need not keep, by the config. Raises JournalError, JournalClosed."""
        settings = self.config.daemon
        oldest = self.clock.now() - settings.retention_days * 86_400
        await self.journal.prune(oldest, events_max=settings.events_max, warn=self.webhooks.before_pruning)

    async def _keep_house(self) -> None:
        """Prune what is over and older than the retention; collect blobs that nobody names."""
        while True:
            await anyio.sleep(PRUNE_EVERY_S)
            try:
                await self.prune()
            except JournalError as error:
                log.warning("not pruned", why=str(error))
            named = {
                file.sha256
                for loop in self.acting.loops.values()
                for task in loop.index.tasks.values()
                for file in task.spec.files
            }
            await anyio.to_thread.run_sync(self.blobs.collect, named)


async def _main(config: Config, path: Path | None, directory: StateDirectory, hidden: Secrets) -> bool:
    """Open the journal, live once; True when the daemon wants to be started again."""
    async with SqliteJournal(directory.journal) as journal:
        with bind(config) as listening:
            daemon = Daemon(config, path, directory, journal, hidden)
            await daemon.run(listening)
            if journal.closed_reason is not None:
                raise JournalClosed(journal.closed_reason)
            return daemon.restart


def run(config: Config, path: Path | None = None) -> int:
    """Run the daemon until it is told to stop; returns the exit code. Says what is wrong on stderr."""
    hidden = configure(level=config.daemon.log_level, format=config.daemon.log_format)
    faulthandler.enable()  # where every thread was, when the watchdog ends a daemon that is stuck
    sys.setswitchinterval(0.0005)  # with a busy loop the writer's thread would wait 5 ms for the GIL
    gc.set_threshold(50_000, 20, 100)  # the default rescans all states again and again
    os.umask(0o077)
    with ExitStack() as stack:
        try:
            directory = stack.enter_context(StateDirectory.take(config.daemon.state_dir))
            options = {"use_uvloop": True}
            while anyio.run(_main, config, path, directory, hidden, backend_options=options):
                gc.unfreeze()
        except ConfigError as error:
            for problem in error.problems:
                log.error(problem)
            return 2
        except (JournalError, AddressInUse, JournalClosed) as error:
            log.error(str(error))
            return 1
    return 0
