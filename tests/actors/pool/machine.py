"""A whole pool, its users and its outside: every rule of every actor, in any order of events."""

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.address import Address
from actors.buying import Budget, Buying
from actors.effects import Launch
from actors.events import (
    BootstrapRequested,
    DrainRequested,
    PoolPauseRequested,
    PoolRequested,
    PoolResizeRequested,
    PoolUpdateRequested,
    Request,
    ShutdownRequested,
    TaskRequested,
    TaskStopRequested,
)
from actors.instance.facts import node_instance
from actors.instance.state import Bootstrapping, Draining, Ready
from actors.messages import MarketsChanged, Move, VendorNotice
from actors.node.state import Filled, Replacing
from actors.pool.state import Active, Destroyed, OpenCluster, PoolState
from actors.pool.state import Draining as DrainingPool
from actors.pool.wanted import told, wanted_count, wanted_ranks
from actors.spec import Image, Nodes, PoolSpec, Step, TaskSpec, Worker
from providers.agent.wire import Unhealthy
from providers.errors import Fault
from providers.gateway import LAUNCH_TIMEOUT_S
from providers.model import Address as HostAddress
from providers.model import ClusterHandle, Notice, Offer
from tests.actors.index import difference
from tests.actors.model import VISIBLE_S, Link, Machine, Outside, offer
from tests.actors.turns import POOL

ME: Address = ("pool", POOL)
OFFERS = (offer("a"), offer("b", dollars=0.2), offer("a", dollars=0.5, spot=False))
FAIR_STEPS_MAX = 900
WORKER = Worker(concurrency=1, buffer=1)


DEARER = (offer("a", dollars=0.4), offer("b", dollars=0.2), offer("c"), offer("a", dollars=0.5, spot=False))


def spec(
    nodes: int, steps: int = 1, dollars: float | None = None, *, spares: int = 0, day: float | None = None
) -> PoolSpec:
    """What the pool is asked to be."""
    phases = tuple(Step(phase=f"p{i}", run="true") for i in range(steps))
    return PoolSpec(
        provider=("sim",),
        nodes=Nodes(desired=nodes),
        worker=WORKER,
        image=Image(steps=phases),
        max_hourly_cost=dollars,
        buying=Buying(spares=spares),
        budget=Budget(per_day=day),
        bootstrap_failures_max=2,
        drain_timeout=60,
        unreachable_timeout=60,
    )


class PoolRules(RuleBasedStateMachine):
    """At the end the pool is shut down: every request has ended once, and nothing is left."""

    def __init__(self) -> None:
        super().__init__()
        self.here = Outside(("pool", "node", "instance", "task"), OFFERS)
        self.turns = self.here.turns
        self.asked = 0
        self.calm = 0  # so many more steps nothing drastic happens
        self.condemned = 0

    @initialize(
        nodes=st.integers(0, 3),
        spares=st.sampled_from([0, 0, 1, 2]),
        ahead=st.sampled_from([0, 0, 3, 9]),
        calm=st.integers(0, 25),
    )
    def begin(self, nodes: int, spares: int, ahead: int, calm: int) -> None:
        self.calm = calm
        made = spec(nodes, spares=spares)
        self.turns.ask(PoolRequested(request_id="make", pool=POOL, spec=made))
        for _ in range(ahead):
            self.here.fair_step()

    @property
    def pool(self) -> PoolState:
        """The pool's state."""
        assert self.turns.index.pool is not None
        return self.turns.index.pool

    @property
    def over(self) -> bool:
        """Whether there is nothing left to do."""
        return isinstance(self.turns.index.pool, Destroyed)

    def ask(self, request: Request) -> None:
        """A user asks, unless all is over."""
        if not self.over:
            self.turns.ask(request)

    def ask_for_size(self, request: Request) -> None:
        """A user asks for another size: who is wanted still is when there are to be more."""
        before = self.pool
        self.ask(request)
        after = self.pool
        if isinstance(before, Active) and isinstance(after, Active) and wanted_count(before):
            if after.desired >= before.desired and after.spares >= before.spares and wanted_count(after):
                assert set(wanted_ranks(before)) <= set(wanted_ranks(after))

    def name(self, what: str) -> str:
        """A new request id; tasks that write no lines end in -0."""
        self.asked += 1
        return f"{what}{self.asked}-0"

    def link(self, i: int) -> Link | None:
        """Some stream, or the wish for one."""
        links = list(self.here.links.values())
        return links[i % len(links)] if links else None

    def machine(self, i: int) -> Machine | None:
        """Some machine."""
        machines = list(self.here.machines.values())
        return machines[i % len(machines)] if machines else None

    # --- users ------------------------------------------------------------------------------------

    @rule(
        what=st.sampled_from(["resize", "update", "replace", "remove"]),
        number=st.integers(0, 3),
        i=st.integers(0, 2),
    )
    def user(self, what: str, number: int, i: int) -> None:
        request = self.name(what)
        match what:
            case "resize":
                self.ask_for_size(PoolResizeRequested(request_id=request, pool=POOL, nodes=number + i // 2))
            case "update":
                spares, day = (i + number) % 3, 0.001 if i == number == 2 else None
                changed = spec(number, i % 2, (None, 0.15, 0.01)[i], spares=spares, day=day)
                self.ask_for_size(PoolUpdateRequested(request_id=request, pool=POOL, spec=changed))
            case "replace":
                self.ask(DrainRequested(request_id=request, pool=POOL, node=number))
            case _:
                self.ask(DrainRequested(request_id=request, pool=POOL, node=number, then="remove"))

    @rule(paused=st.sampled_from([True, False, False]))
    def pause(self, paused: bool) -> None:
        self.ask(PoolPauseRequested(request_id=self.name("pause"), pool=POOL, paused=paused))

    @rule(
        pinned=st.sampled_from([None, None, 0, 1, 7]),
        retries=st.integers(0, 1),
        twice=st.sampled_from([False, False, False, True]),
        priority=st.integers(0, 1),
    )
    def submit(self, pinned: int | None, retries: int, twice: bool, priority: int) -> None:
        task = TaskSpec(argv=("x",), node=pinned, retries=retries, at_least_once=twice, priority=priority)
        if not self.over:
            self.here.submit(TaskRequested(request_id=self.name("task"), pool=POOL, task=task))

    @rule(i=st.integers(0, 3))
    def stop_task(self, i: int) -> None:
        names = [*self.turns.index.tasks, "no-such-task"]
        task = names[i % len(names)]
        self.ask(TaskStopRequested(request_id=self.name("stop"), pool=POOL, task_id=task))

    @precondition(lambda self: self.turns.index.instances)
    @rule(i=st.integers(0, 3))
    def set_up_again(self, i: int) -> None:
        states = list(self.turns.index.instances.values())
        value = node_instance(states[i % len(states)])
        self.ask(BootstrapRequested(request_id=self.name("again"), instance=value, cluster_id="c"))

    @precondition(lambda self: self.calm < -10 and not isinstance(self.pool, DrainingPool | Destroyed))
    @rule()
    def shut_down(self) -> None:
        self.ask(ShutdownRequested(request_id=self.name("end"), cluster_id=POOL))

    # --- the provider -----------------------------------------------------------------------------

    @precondition(lambda self: self.here.calls)
    @rule(i=st.integers(0, 3), fault=st.sampled_from(Fault), landed=st.booleans())
    def answer_badly(self, i: int, fault: Fault, landed: bool) -> None:
        self.here.answer(i, fault, landed, VISIBLE_S)

    @precondition(lambda self: self.here.calls)
    @rule(i=st.integers(0, 3))
    def answer_well(self, i: int) -> None:
        self.here.answer(i, None, True, 1)

    @precondition(lambda self: self.here.machines)
    @rule(addresses=st.booleans())
    def listing(self, addresses: bool) -> None:
        for machine in self.here.machines.values():
            if addresses and machine.address is None:
                machine.address = HostAddress(host=machine.ref)
        self.here.listing()

    @precondition(lambda self: self.here.machines)
    @rule(
        i=st.integers(0, 3), how=st.sampled_from(["vanish", "stop", "notice", "withdraw", "sick", "reboot"])
    )
    def trouble(self, i: int, how: str) -> None:
        machine = self.machine(i)
        assert machine is not None
        match how:
            case "vanish":
                self.here.vanish(machine.key)
            case "stop":
                machine.state = "stopped"
            case "reboot":
                machine.agent.die()
            case "sick":
                machine.agent.report(Unhealthy, reason="disk")
            case _:
                deadline = self.turns.now + 30
                machine.notice = Notice(reason="spot", deadline_at=deadline) if how == "notice" else None
                watched = self.here.watched.get(machine.key)
                if watched is not None:
                    self.turns.hear((("instance", watched.instance), VendorNotice(machine.notice)))

    @rule(offers=st.sampled_from([OFFERS, DEARER, DEARER[2:]]))
    def prices(self, offers: tuple[Offer, ...]) -> None:
        self.turns.world = replace(self.turns.world, offers={"sim": offers})
        self.turns.hear((ME, MarketsChanged()))

    @precondition(lambda self: self.moves_of(self.turns.index.pool))
    @rule(i=st.integers(0, 3), bought=st.sampled_from(OFFERS))
    def better_elsewhere(self, i: int, bought: Offer) -> None:
        moves = self.moves_of(self.pool)
        node, cluster = moves[i % len(moves)]
        self.turns.hear((("node", str(node)), Move(bought, cluster, "better")))

    def moves_of(self, pool: PoolState | None) -> list[tuple[int, ClusterHandle]]:
        """Nodes that placement might move, and where to."""
        if not isinstance(pool, Active) or pool.spec.max_hourly_cost is not None or pool.spend.reached:
            return []
        if pool.paused is not None or self.turns.index.outdated:  # a roll takes the room
            return []
        there = [one.handle for one in pool.clusters.values() if isinstance(one, OpenCluster)]
        filled = [node for node, it in sorted(self.turns.index.nodes.items()) if isinstance(it, Filled)]
        return [(node, there[0]) for node in filled] if there else []

    @rule(seconds=st.sampled_from([1, 5, 20, 70, 400]))
    def advance(self, seconds: float) -> None:
        if seconds > LAUNCH_TIMEOUT_S and any(isinstance(call, Launch) for _, call in self.here.calls):
            self.here.time_out(seconds == 400)
        self.turns.now += seconds
        self.turns.due()
        if seconds > 10:
            self.turns.hear((ME, MarketsChanged()))

    @rule(steps=st.integers(1, 4))
    def goes_well(self, steps: int) -> None:
        for _ in range(steps):
            self.here.fair_step()

    # --- agents -----------------------------------------------------------------------------------

    @precondition(lambda self: self.here.links)
    @rule(
        i=st.integers(0, 3), how=st.sampled_from(["talk", "talk", "open", "hear", "speak", "cut", "deliver"])
    )
    def stream(self, i: int, how: str) -> None:
        link = self.link(i)
        assert link is not None
        if how in ("talk", "open"):
            self.here.open_link(link)
        if how in ("talk", "hear"):
            self.here.agent_hears(link)
        if how in ("talk", "speak"):
            self.here.agent_speaks(link)
        if how == "cut":
            self.here.drop_link(link)
        if how in ("talk", "deliver"):
            self.here.deliver(link, 9 if how == "talk" else 1)

    @precondition(lambda self: self.here.machines)
    @rule(i=st.integers(0, 3), fails=st.booleans(), code=st.sampled_from([0, 1]))
    def agent_works(self, i: int, fails: bool, code: int) -> None:
        machine = self.machine(i)
        assert machine is not None
        machine.agent.work(fails)
        for one, word in list(machine.agent.tasks.items()):
            if word == "waiting" and not machine.agent.draining:
                machine.agent.start(one)
            elif word == "running":
                machine.agent.end(one, code=code)

    # --- the daemon -------------------------------------------------------------------------------

    @rule(landed=st.booleans())
    def crash(self, landed: bool) -> None:
        self.here.crash(dict.fromkeys(range(20), landed), VISIBLE_S)

    @rule(what=st.sampled_from(["due", "listing", "mail", "answer", "resize"]))
    def crash_in_a_turn(self, what: str) -> None:
        def turn() -> None:
            if what == "listing":
                self.here.listing()
            elif what == "mail" and self.here.links:
                link = next(iter(self.here.links.values()))
                self.here.deliver(link, 9)
            elif what == "answer" and self.here.calls:
                self.here.answer(0, None, True, 0)
            elif what == "resize":
                self.user("resize", 2, 0)
            else:
                self.turns.due()

        self.here.crash_after(turn, VISIBLE_S)

    @precondition(lambda self: self.calm < 0 and self.condemned < 3)
    @rule(i=st.integers(0, 20))
    def condemn(self, i: int) -> None:
        self.condemned += 1
        some = [address for address in self.turns.states if address[0] in ("node", "instance", "pool")]
        self.turns.condemn(some[i % len(some)])

    # --- what holds -------------------------------------------------------------------------------

    @invariant()
    def time_passes(self) -> None:
        self.calm -= 1

    @invariant()
    def the_index_is_what_a_restart_would_build(self) -> None:
        assert not difference(self.turns.index, self.turns.states)

    @invariant()
    def the_nodes_are_what_is_wanted(self) -> None:
        pool = self.turns.index.pool
        if not isinstance(pool, Active) or pool.paused is not None:
            return
        assert pool.steered == told(pool)
        wanted = set(wanted_ranks(pool))
        assert len(wanted) == wanted_count(pool)
        for node, state in self.turns.index.nodes.items():
            assert (state.status != "retired") == (node in wanted), (node, wanted)
        assert wanted <= set(self.turns.index.nodes)

    @invariant()
    def the_nodes_that_count_have_machines_that_work(self) -> None:
        for node in self.turns.index.nodes.values():
            if isinstance(node, Filled | Replacing):
                name = node.instance_id if isinstance(node, Filled) else node.old_id
                instance = self.turns.index.instances.get(name)
                assert isinstance(instance, Ready | Bootstrapping | Draining), (node, instance)

    @invariant()
    def no_machine_is_counted_on_twice(self) -> None:
        nodes = self.turns.index.nodes.values()
        named = [
            name for it in nodes for key in ("instance_id", "old_id") if (name := getattr(it, key, None))
        ]
        assert len(set(named)) == len(named), named

    @invariant()
    def nobody_has_more_tasks_than_slots(self) -> None:
        for name in self.turns.index.instances:
            assert len(self.turns.index.tasks_on(name)) <= WORKER.concurrency + WORKER.buffer

    @invariant()
    def every_machine_is_known(self) -> None:
        keys = {state.key for state in self.turns.index.instances.values()}
        assert set(self.here.machines) <= keys

    def teardown(self) -> None:
        """The pool is shut down, and all goes well."""
        if self.turns.index.pool is None:
            return
        self.ask(ShutdownRequested(request_id="over", cluster_id=POOL))
        for _ in range(FAIR_STEPS_MAX):
            if self.over:
                break
            self.here.fair_step()
        assert self.over, (self.turns.index.tasks, self.turns.index.instances, self.pool)
        self.turns.referee.at_the_end(set())
        self.turns.verdict()
