"""The container provider: machines that are containers of a docker or podman on this host.

The key is the container's name, so that the engine itself refuses a second one; all marks are labels. What
has died is told once in a listing, with when and how, and removed with its anonymous volumes before that
listing is given, so that nothing of ours stays in `ps -a`. Removals that hang hold no listing up: they are
tried again later, and until then the sweep of leftovers sees the container too.

There are no notices: an engine takes nothing back, and when a container dies the agent's stream ends with it,
upon which the provider is asked at once. No path here ever calls `shutdown`.
"""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from providers.agent.attach import attach_over
from providers.container.clusters import Surroundings
from providers.container.config import ContainerConfig, ContainerOffer
from providers.container.doctor import examined
from providers.container.ends import Ends
from providers.container.engine import Engine
from providers.container.images import PYTHON_MIN, PYTHON_SAYS, Images, python_version, secrets_of
from providers.container.ledger import Ledger
from providers.container.wire import (
    CLUSTER,
    END_COMMAND,
    ID,
    KEY,
    OWNER,
    PROVIDER,
    Seen,
    agent_directory,
    container_name,
    create_body,
    ending,
    filters,
    handle,
    seen,
    sighting,
    tombstone,
)
from providers.contract import AgentChannel
from providers.errors import Fault, HostError, ProviderError
from providers.host.exec import SIGNALLED, ExecHost
from providers.logins import Logins, NoLogins
from providers.model import (
    Capabilities,
    Check,
    ClusterHandle,
    ClusterOrder,
    Handle,
    Leftover,
    Leftovers,
    Listing,
    Machine,
    Notice,
    Offer,
    Order,
    Sighting,
)
from providers.priced import offers_of

STARTS_AT_ONCE = 4
ENDS_AT_ONCE = 8
START_WITHIN_S = 60.0
CLOCKS_DIFFER_S = 2.0  # Date has whole seconds; less than this is not the engine's clock


class ContainerProvider:
    """A `Provider` whose machines are containers.

    Args:
        name: what the config calls this provider.
        config: its engine, offers, and what is in each container.
        directory: where it notes which keys were used; made when something is noted.
        agent_source: the agent's program.
        logins: to registries that the config does not name.
        now: wall time, seconds since the epoch.
    """

    def __init__(
        self,
        name: str,
        config: ContainerConfig,
        directory: Path,
        agent_source: bytes,
        *,
        logins: Logins | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._config = config
        self._offers = {offer.id: offer for offer in offers_of(config.offers, name)}
        self._shapes = {(one.zone, one.instance_type): one for one in config.offers}
        self.capabilities = Capabilities(
            spot=any(one.lifecycle == "spot" for one in self._offers.values()),
            notice_s=None,
            launch_batch_max=16,
            terminate_batch_max=16,
            dead_man_switch=True,
            tags=True,
            billing_unit="second",
            visible_within_s=1,
            machines_max=config.machines_max,
            look_again_s=0.1,
            host_keys=False,
            agent_python=config.python,
        )
        self._agent_source = agent_source
        self._now = now
        self._engine = Engine(name, config.engine, config.socket, lambda: secrets_of(config))
        self._images = Images(name, config, self._engine, logins or NoLogins())
        self._surroundings = Surroundings(name, config, self._engine)
        self._ledger = Ledger(directory / "keys", now)
        self._ends = Ends(name, self._engine, self._ledger, now)
        self._placing = anyio.Lock()
        self._turns: dict[str, tuple[anyio.Lock, int]] = {}
        self._owners: set[str] = set()  # whose leftovers were asked for
        self._launching: set[str] = set()  # keys: a launch looks after their containers itself
        self._starting = anyio.CapacityLimiter(STARTS_AT_ONCE)
        self._ending = anyio.CapacityLimiter(ENDS_AT_ONCE)

    async def offers(self) -> Sequence[Offer]:
        """Every market of the config, full or not. See `Provider.offers`."""
        return tuple(self._offers.values())

    async def open_cluster(self, order: ClusterOrder) -> ClusterHandle:
        """Make the cluster's network and volumes, if the config wants any. See `Provider.open_cluster`."""
        return await self._surroundings.open(order)

    async def close_cluster(self, cluster: ClusterHandle) -> None:
        """Remove them, and before them what has died in the cluster. See `Provider.close_cluster`."""
        owner = cluster.specific.get("owner")
        has_things = "network" in cluster.specific or any(o.scope == "cluster" for o in self._config.volumes)
        if owner and has_things:
            marks = {OWNER: owner, PROVIDER: self.name, CLUSTER: cluster.cluster_id}
            found = await self._listed(marks)
            await self._ends.bury([one for one in found if one.is_dead])
            for one in found:
                if self._is_unstarted(one):  # not by force: somebody may have started it just now
                    await self._ends.delete(one.id, force=False)
        await self._surroundings.close(cluster)

    # --- launching --------------------------------------------------------------------------------

    async def launch(self, orders: Sequence[Order]) -> Sequence[Handle | ProviderError]:
        """Make and start a container per order; returns when they run. See `Provider.launch`."""
        outcomes: dict[int, Handle | ProviderError] = {}

        async def one(index: int, order: Order) -> None:
            try:
                async with self._turn(order.key):
                    outcomes[index] = await self._launch(order)
            except ProviderError as error:
                outcomes[index] = error

        async with anyio.create_task_group() as launching:
            for index, order in enumerate(orders):
                launching.start_soon(one, index, order)
        return [outcomes[index] for index in range(len(orders))]

    async def _launch(self, order: Order) -> Handle:
        shape = self._shape(order)
        there = await self._existing(order)
        image = order.image or self._config.image
        ready = "" if there is not None else await self._images.ready(image)
        async with self._starting:
            if there is None:
                there = await self._made(order, shape, ready)
            elif there.never_ran:  # it took no room as long as nobody was to start it
                async with self._placing:
                    await self._find_room(order, shape)
            if there.state != "running":
                await self._start(there, image)
            if there.image not in self._images.proven:
                await self._prove(there, image)
        return handle(self.name, there.id, there.labels)

    def _shape(self, order: Order) -> ContainerOffer:
        known = self._offers.get(order.offer.id)
        if known is None or known.market != order.offer.market:
            raise ProviderError(Fault.REJECTED, f"launch {order.key}: {order.offer.market} is not on offer")
        return self._shapes[known.zone, known.instance_type.name]

    async def _existing(self, order: Order) -> Seen | None:
        """The container of the order's key; None when there never was one. Raises ProviderError(gone)."""
        about = await self._ends.inspected(container_name(order.key))
        if about is None:
            try:
                is_used = self._ledger.is_used(order.key)
            except OSError as error:
                text = f"launch {order.key}: can't read whether it was launched before: {error}"
                raise ProviderError(Fault.NOT_SENT, text) from error
            if is_used:
                raise ProviderError(Fault.GONE, f"launch {order.key}: its container is gone")
            return None
        one = _as_listed(about)
        if (one.key, one.labels.get(OWNER), one.labels.get(PROVIDER)) != (order.key, order.owner, self.name):
            text = f"launch {order.key}: a container {container_name(order.key)} is there that is not ours"
            raise ProviderError(Fault.REJECTED, text)
        self._ledger.note_made(order.key)
        if one.is_dead or one.state == "removing":
            raise ProviderError(Fault.GONE, f"launch {order.key}: its container has ended: {one.state}")
        return one

    async def _made(self, order: Order, shape: ContainerOffer, image: str) -> Seen:
        await self._surroundings.expect()
        body = create_body(order, self._config, shape, self.name, self._now())
        async with self._placing:  # so that what is counted is what there is
            await self._find_room(order, shape)
            try:
                answer = await self._engine.call(
                    "create",
                    "POST",
                    "/containers/create",
                    query={"name": container_name(order.key)},
                    json=body,
                    timeout_s=START_WITHIN_S,
                )
            except ProviderError as error:
                if error.fault is not Fault.CONFLICT or (there := await self._existing(order)) is None:
                    raise
                return there
        self._ledger.note_made(order.key)
        return Seen(id=str(answer.json()["Id"]), labels=body["Labels"], state="created", image=image)

    async def _find_room(self, order: Order, shape: ContainerOffer) -> None:
        living = [
            one
            for one in await self._listed({PROVIDER: self.name})
            if not one.is_dead and not self._is_unstarted(one) and one.key != order.key
        ]
        if len(living) >= self._config.machines_max:
            text = f"launch {order.key}: {len(living)} containers live, machines_max is that many"
            raise ProviderError(Fault.QUOTA, text)
        market = order.offer.market
        place = (market.zone, market.instance_type, market.lifecycle)
        if shape.capacity is not None and sum(one.market == place for one in living) >= shape.capacity:
            text = f"launch {order.key}: {market} has {shape.capacity}, all taken"
            raise ProviderError(Fault.CAPACITY, text)

    async def _start(self, one: Seen, image: str) -> None:
        path = f"/containers/{one.id}/start"
        try:
            await self._engine.call("start", "POST", path, timeout_s=START_WITHIN_S)
        except ProviderError as error:
            if error.fault is not Fault.REJECTED:
                raise
            await self._discard(one)
            raise ProviderError(Fault.REJECTED, self._why_not(image, error.detail)) from error

    def _why_not(self, image: str, said: str) -> str:
        python = self._config.python
        if python in said and ("not found" in said or "no such file" in said):
            return f"image {image}: {_advice(f'it has no {python}')}"
        return f"image {image}: its container can't be started: {said}"

    async def _prove(self, one: Seen, image: str) -> None:
        """See that an image's Python is one that the agent can use; once per image is enough."""
        python = self._config.python
        host = ExecHost(self._engine, one.id, image, python=python)
        try:
            ran = await host.run((python, "-I", "-S", "-c", PYTHON_SAYS))
        except HostError as error:
            if error.fault not in (Fault.GONE, Fault.REJECTED):
                raise
            wrong = await self._ended_at_once(one, image)
            if wrong is None and error.fault is Fault.GONE:  # and yet it runs
                raise ProviderError(Fault.UNKNOWN, f"image {image}: {error.detail}") from error
            wrong = wrong or error.detail
        else:
            if ran.exit_code == 0:
                version = python_version(ran.stdout)
                shown = "no version" if version is None else f"{version[0]}.{version[1]}"
                is_well = version is not None and version >= PYTHON_MIN
                wrong = None if is_well else f"its {python} says it is {shown}"
            else:
                wrong = await self._ended_at_once(one, image)
                said = f"its {python} ended with {ran.exit_code}: {_line(ran.stderr)}"
                if wrong is None and ran.exit_code not in (126, 127):  # killed, or there was no memory for it
                    raise ProviderError(Fault.UNKNOWN, f"image {image}: {said}")
                wrong = wrong or said
        if wrong is not None:
            await self._discard(one)
            raise ProviderError(Fault.REJECTED, f"image {image}: {_advice(wrong)}")
        self._images.proven.add(one.image)

    async def _ended_at_once(self, one: Seen, image: str) -> str | None:
        """How a container's first process ended by itself, which is its image's fault; None when it runs.

        Raises:
            ProviderError: gone; it was killed or removed, of which the image is innocent.
        """
        about = await self._ends.inspected(one.id) or {}
        state = about.get("State") or {}
        if state.get("Running"):
            return None
        code = state.get("ExitCode")
        if not isinstance(code, int) or code >= SIGNALLED or state.get("OOMKilled"):
            how = ending(state) if state else "removed"
            raise ProviderError(Fault.GONE, f"image {image}: its container has ended: {how}")
        return f"its {self._config.python} ended at once with {code}"

    async def _discard(self, one: Seen) -> None:
        """Remove a container that never came to be a machine; if that fails the sweep finds it."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(START_WITHIN_S):
            try:
                await self._ends.delete(one.id)
            except ProviderError:
                return

    @asynccontextmanager
    async def _turn(self, key: str) -> AsyncGenerator[None]:
        """One launch of a key at a time."""
        lock, waiting = self._turns.get(key, (anyio.Lock(), 0))
        self._turns[key] = (lock, waiting + 1)
        try:
            async with lock:
                self._launching.add(key)
                try:
                    yield
                finally:
                    self._launching.discard(key)
        finally:
            lock, waiting = self._turns[key]
            if waiting > 1:
                self._turns[key] = (lock, waiting - 1)
            else:
                del self._turns[key]

    # --- looking ----------------------------------------------------------------------------------

    async def find(self, key: str) -> Sighting | None:
        """See `Provider.find`. One that has died is there, with `ended_at`, until a listing told of it.

        One that a launch made and did not start is not: launched again, its key has it started.
        """
        for one in await self._listed({KEY: key, PROVIDER: self.name}):
            if one.key == key and not self._is_unstarted(one):
                return await self._ends.shown(one)
        return None

    def _is_unstarted(self, one: Seen) -> bool:
        """Whether a launch made it and never came to start it: no machine until its key is launched again."""
        return one.never_ran and one.key not in self._launching

    async def observe(self, owner: str) -> Listing:
        """See `Provider.observe`. What has died is told once, and is removed before it is told."""
        asked_at = self._now()
        found, date = await self._listed_at({OWNER: owner, PROVIDER: self.name})
        at = asked_at if date is None or abs(date - asked_at) < CLOCKS_DIFFER_S else date
        ours = [one for one in found if one.key and not self._is_unstarted(one)]
        shown = [sighting(self.name, one) for one in ours if not one.is_dead]
        dead = [one for one in ours if one.is_dead and one.key not in self._launching]
        await self._ends.bury(self._ends.due(dead))
        told = self._ledger.tell(lambda end: end.key.partition("/")[0] == owner)
        return Listing(at=at, sightings=(*shown, *told), complete=True)

    async def notices(self) -> AsyncIterator[tuple[str, Notice | None]]:
        """There are none: an engine takes nothing back. See `Provider.notices`."""
        await anyio.sleep_forever()
        yield "", None

    async def _listed(self, labels: Mapping[str, str]) -> list[Seen]:
        return (await self._listed_at(labels))[0]

    async def _listed_at(self, labels: Mapping[str, str] | None) -> tuple[list[Seen], float | None]:
        query = {"all": "true"} | ({} if labels is None else {"filters": filters(labels)})
        answer = await self._engine.call("look", "GET", "/containers/json", query=query)
        wanted = (labels or {}).items()
        found = [seen(entry) for entry in answer.json()]
        return [one for one in found if wanted <= one.labels.items()], answer.date()

    # --- ending -----------------------------------------------------------------------------------

    async def terminate(self, handles: Sequence[Handle]) -> Sequence[ProviderError | None]:
        """Remove containers, with their anonymous volumes. See `Provider.terminate`."""
        outcomes: dict[int, ProviderError | None] = {}

        async def one(index: int, ref: str) -> None:
            try:
                async with self._ending:
                    await self._terminate(ref)
                outcomes[index] = None
            except ProviderError as error:
                outcomes[index] = error

        async with anyio.create_task_group() as ending:
            for index, each in enumerate(handles):
                ending.start_soon(one, index, each.ref)
        return [outcomes[index] for index in range(len(handles))]

    async def _terminate(self, ref: str) -> None:
        if ID.fullmatch(ref) is None:
            raise ProviderError(Fault.REJECTED, f"{ref!r} is no container's id")
        about = await self._ends.inspected(ref)
        if about is None:
            return
        one = _as_listed(about)
        if one.labels.get(PROVIDER) != self.name or not one.labels.get(OWNER) or not one.key:
            raise ProviderError(Fault.REJECTED, f"container {ref[:12]} is not ours: not touched")
        await self._ends.delete(ref)
        if one.is_dead:
            self._ledger.note_ended(await self._ends.ended(one, about))
        else:
            ended = tombstone(self.name, one, {}, self._now())
            self._ledger.note_ended(ended.model_copy(update={"detail": "removed"}))

    async def leftovers(self, owner: str) -> Leftovers:
        """Networks, volumes, and containers that died or were never started. See `Provider.leftovers`."""
        self._owners.add(owner)
        everything, _ = await self._listed_at(None)
        found = await self._surroundings.found(owner, everything)
        for one in everything:
            if (one.is_dead or self._is_unstarted(one)) and (
                one.labels.get(OWNER),
                one.labels.get(PROVIDER),
            ) == (owner, self.name):
                found.append(
                    Leftover(
                        kind="container",
                        handle=handle(self.name, one.id, one.labels),
                        key=one.key,
                        cluster_id=one.labels.get(CLUSTER, ""),
                    )
                )
        return Leftovers(found=tuple(found))

    async def remove(self, leftover: Leftover) -> None:
        """See `Provider.remove`."""
        if leftover.kind not in ("network", "volume", "container"):
            raise ProviderError(Fault.REJECTED, f"an engine has no {leftover.kind}")
        marks = {PROVIDER: self.name, KEY: leftover.key, CLUSTER: leftover.cluster_id}
        await self._surroundings.remove(leftover.kind, leftover.handle.ref, marks, self._owners)

    async def check(self, owner: str) -> Sequence[Check]:
        """See `Provider.check`."""
        return await examined(self._engine, self._config)

    # --- talking ----------------------------------------------------------------------------------

    @asynccontextmanager
    async def attach(self, machine: Machine) -> AsyncGenerator[AgentChannel]:
        """See `Provider.attach`. Also raises HostError(gone) when the container does not run."""
        ref, what = machine.handle.ref, machine.instance_id
        try:
            about = await self._ends.inspected(ref)
        except ProviderError as error:
            raise HostError(error.fault, f"{what}: {error.detail}") from error
        if about is None or not (about.get("State") or {}).get("Running"):
            raise HostError(Fault.GONE, f"{what}: container {ref[:12]} does not run")
        user = str((about.get("Config") or {}).get("User") or "")
        python = self._config.python
        async with attach_over(
            ExecHost(self._engine, ref, what, python=python),
            directory=agent_directory(user),
            agent_source=self._agent_source,
            python=(python, "-I", "-S"),
            options=("--end-command", END_COMMAND),
        ) as channel:
            yield channel

    async def aclose(self) -> None:
        """Let go of the engine. Containers live on; a pull that is under way is given up."""
        self._images.close()
        await self._engine.aclose()


def _as_listed(about: Mapping[str, Any]) -> Seen:
    """What GET /containers/{id}/json says, as far as a listing would."""
    labels = (about.get("Config") or {}).get("Labels") or {}
    state = str((about.get("State") or {}).get("Status")).lower()
    return Seen(id=str(about["Id"]), labels=labels, state=state, image=str(about.get("Image", "")))


def _line(said: bytes) -> str:
    return " ".join(said.decode(errors="replace").split())[-300:]


def _advice(what: str) -> str:
    least = ".".join(str(part) for part in PYTHON_MIN)
    return (
        f"{what}; take an image with Python {least} or newer, such as python:3-slim, or name it by `python`"
    )
