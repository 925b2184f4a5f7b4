"""A cloud, its machines and their agents as plain values: what may happen outside, one step at a time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from actors.address import Address, Kind
from actors.decision import World
from actors.effects import (
    Acknowledge,
    Call,
    CloseCluster,
    Connect,
    Disconnect,
    Find,
    Launch,
    OpenCluster,
    Say,
    StartTask,
    TaskFilesDone,
    TellMarket,
    Terminate,
    Unwatch,
    Watch,
    Word,
)
from actors.events import TaskRequested
from actors.market import rules as market_rules
from actors.market.state import MarketState
from actors.messages import (
    AbsenceObserved,
    AgentSaid,
    ClusterClosed,
    ClusterCloseFailed,
    ClusterOpened,
    ClusterOpenFailed,
    FindFailed,
    Found,
    LaunchFailed,
    LaunchSucceeded,
    LinkDown,
    LinkUp,
    Message,
    NothingFound,
    TerminateFailed,
    TerminateSucceeded,
)
from providers.agent.wire import (
    Bootstrap,
    Drain,
    Start,
    Stop,
)
from providers.errors import Fault
from providers.model import Address as HostAddress
from providers.model import (
    Capabilities,
    ClusterHandle,
    Handle,
    InstanceType,
    Notice,
    Offer,
    Sighting,
    SightingState,
)
from tests.actors.agent import Agent
from tests.actors.turns import Turns

VISIBLE_S = 60.0
FAIR_STEP_MOST_S = 20.0  # no deadline is shorter, so nothing that goes well runs into one
CAPABILITIES = Capabilities(
    spot=True,
    notice_s=30,
    launch_batch_max=10,
    dead_man_switch=True,
    tags=True,
    billing_unit="second",
    visible_within_s=VISIBLE_S,
    machines_max=100,
)


def offer(zone: str = "a", *, provider: str = "sim", dollars: float = 0.1, spot: bool = True) -> Offer:
    """One market of the model's provider."""
    lifecycle: Literal["spot", "on_demand"] = "spot" if spot else "on_demand"
    return Offer(
        id=f"{zone}-{lifecycle}",
        instance_type=InstanceType(name="small", vcpus=4, memory_gb=16),
        provider=provider,
        region="r",
        zone=zone,
        lifecycle=lifecycle,
        micro_usd_per_hour=round(dollars * 1_000_000),
    )


def cluster_handle(cluster_id: str = "c") -> ClusterHandle:
    """A cluster that is open."""
    return ClusterHandle(cluster_id=cluster_id, provider="sim", region="r", ssh_user="u")


@dataclass(slots=True)
class Machine:
    """One machine that exists, and costs money."""

    key: str
    ref: str
    made_at: float
    visible_at: float
    agent: Agent
    address: HostAddress | None = None
    state: SightingState = "running"
    notice: Notice | None = None


@dataclass(slots=True)
class Link:
    """One wish for a stream; `mail` is what the loop will hear of it."""

    wish: Connect
    up: bool = False
    boot: str | None = None
    acked: int = 0
    sent: int = 0
    stream: list[Bootstrap | Start | Stop | Drain] = field(default_factory=list)
    mail: list[Message] = field(default_factory=list)


@dataclass(slots=True)
class Watched:
    """One key that listings are compared for."""

    instance: str
    launched_at: float
    missing: int = 0


class Outside:
    """All that is outside of one pool's loop."""

    def __init__(self, deciding: tuple[Kind, ...], offers: tuple[Offer, ...] = ()) -> None:
        self.turns = Turns(deciding, self._perform)
        self.machines: dict[str, Machine] = {}  # living, by key
        self.keys: set[str] = set()  # that ever had a machine
        self.calls: list[tuple[Address, Call]] = []
        self.watched: dict[str, Watched] = {}
        self.links: dict[str, Link] = {}
        self.markets: dict[str, MarketState] = {}
        self.twice: set[str] = set()  # tasks that may run beside themselves
        self.files_done: list[str] = []
        self.steps_are_broken = False
        self.dying = False  # a turn's effects come to nothing: the daemon dies after its commit
        self.exit_code: int | None = 0  # of processes, when all goes well; None: they run on
        self.turns.world = World({"sim": offers}, {"sim": CAPABILITIES}, self.markets)

    # --- effects ----------------------------------------------------------------------------------

    def _perform(self, address: Address, effect: Call | Word) -> None:
        if self.dying:
            return
        match effect:
            case Launch() | Find() | Terminate() | OpenCluster() | CloseCluster():
                self.calls.append((address, effect))
            case Watch(key=key, instance_id=instance, launched_at=at):
                self.watched.setdefault(key, Watched(instance, at))
            case Unwatch(key=key):
                self.watched.pop(key, None)
            case Connect(instance_id=instance):
                self.links[instance] = Link(effect, boot=effect.boot, acked=effect.acked)
            case Disconnect(instance_id=instance):
                self.links.pop(instance, None)
            case (
                Say(instance_id=instance, command=command) | StartTask(instance_id=instance, command=command)
            ):
                if (link := self.links.get(instance)) is not None and link.up:
                    link.stream.append(command)
            case Acknowledge(instance_id=instance, boot=boot, last_id=last):
                self._acknowledge(instance, boot, last)
            case TellMarket(news=news):
                name = str(news.market)
                told = market_rules.decide(self.markets.get(name), news, self.turns.view()).state
                assert isinstance(told, MarketState)
                self.markets[name] = told
            case TaskFilesDone(task_id=task):
                self.files_done.append(task)
            case _:
                return

    def _acknowledge(self, instance: str, boot: str, last: int) -> None:
        link = self.links.get(instance)
        if link is None or link.boot != boot or not link.up:
            return
        link.acked = max(link.acked, last)
        machine = self.machine_of(link)
        if machine is not None and machine.agent.boot == boot:
            machine.agent.spool = [one for one in machine.agent.spool if one.id > last]

    # --- machines ---------------------------------------------------------------------------------

    def make(self, key: str, hidden_s: float) -> Machine:
        """A launch lands: a machine begins to cost money."""
        ref = f"m{len(self.keys)}"
        self.turns.referee.machine_made("sim", key, ref, False)
        self.turns.verdict()
        self.keys.add(key)
        now = self.turns.now
        machine = Machine(key, ref, now, now + min(hidden_s, VISIBLE_S), Agent(ref, self))
        self.machines[key] = machine
        return machine

    def vanish(self, key: str) -> None:
        """A machine is gone."""
        machine = self.machines.pop(key)
        machine.agent.die()
        self.turns.referee.machine_ended("sim", key, machine.ref, "gone")

    def now(self) -> float:
        """The clock of every machine."""
        return self.turns.now

    def began(self, ref: str, task: str, attempt: int) -> None:
        """A process runs."""
        self.turns.referee.process_began(ref, task, attempt)
        if task in self.twice:
            self.turns.referee.process_ended(ref, task, attempt)
        self.turns.verdict()

    def over(self, ref: str, task: str, attempt: int) -> None:
        """A process is over."""
        self.turns.referee.process_ended(ref, task, attempt)

    def sighting(self, machine: Machine) -> Sighting:
        """The machine as the provider shows it."""
        return Sighting(
            key=machine.key,
            handle=Handle(provider="sim", ref=machine.ref),
            state=machine.state,
            address=machine.address,
            launched_at=machine.made_at,
            notice=machine.notice,
        )

    def visible(self, key: str) -> Machine | None:
        """The machine under a key, if it can be seen by now."""
        machine = self.machines.get(key)
        return machine if machine is not None and machine.visible_at <= self.turns.now else None

    # --- answers ----------------------------------------------------------------------------------

    def answer(self, i: int, fault: Fault | None, landed: bool, hidden_s: float) -> None:
        """End one call in flight; with an unknown outcome it may have worked."""
        address, call = self.calls.pop(i % len(self.calls))
        works = fault is None or (fault in (Fault.UNKNOWN, Fault.CONFLICT) and landed)
        self.turns.hear((address, self._answer(call, fault, works, hidden_s)))

    def time_out(self, landed: bool) -> None:
        """Launch calls end without an answer."""
        for i in reversed(range(len(self.calls))):
            if isinstance(self.calls[i][1], Launch):
                self.answer(i, Fault.UNKNOWN, landed, VISIBLE_S)

    def _answer(self, call: Call, fault: Fault | None, works: bool, hidden_s: float) -> Message:
        match call:
            case Launch(key=key):
                if fault is None and key in self.keys and key not in self.machines:
                    return LaunchFailed(Fault.GONE, "that machine has ended")
                if works:
                    ref = self.make(key, hidden_s).ref
                if fault is None:
                    return LaunchSucceeded(Handle(provider="sim", ref=ref))
                return LaunchFailed(fault, "planned")
            case Find(key=key):
                if fault is not None:
                    return FindFailed(fault)
                seen = self.visible(key)
                return NothingFound() if seen is None else Found(self.sighting(seen))
            case Terminate(handle=handle):
                living = [one.key for one in self.machines.values() if one.ref == handle.ref]
                if works and living:
                    self.vanish(living[0])
                return TerminateSucceeded() if fault is None else TerminateFailed(fault, "planned")
            case OpenCluster(cluster_id=name):
                return (
                    ClusterOpened(cluster_handle(name))
                    if fault is None
                    else ClusterOpenFailed(name, fault, "")
                )
            case CloseCluster(cluster=cluster):
                if fault is None:
                    return ClusterClosed(cluster.cluster_id)
                return ClusterCloseFailed(cluster.cluster_id, fault, "")

    def listing(self) -> None:
        """One complete listing, compared with what is watched."""
        letters: list[tuple[Address, Message]] = []
        for key, watched in list(self.watched.items()):
            address: Address = ("instance", watched.instance)
            if (machine := self.visible(key)) is not None:
                watched.missing = 0
                letters.append((address, Found(self.sighting(machine))))
            elif self.turns.now >= watched.launched_at + VISIBLE_S:
                watched.missing += 1
                if watched.missing >= 2:
                    watched.missing = 0
                    letters.append((address, AbsenceObserved()))
        self.turns.hear(*letters)

    # --- links ------------------------------------------------------------------------------------

    def machine_of(self, link: Link) -> Machine | None:
        """The machine a link leads to, while it lives."""
        ref = link.wish.handle.ref
        return next((one for one in self.machines.values() if one.ref == ref), None)

    def open_link(self, link: Link) -> None:
        """The agent's hello: what it holds, as it is now."""
        machine = self.machine_of(link)
        if link.up:
            return
        if machine is None:  # nobody answers, and that is told each time
            link.mail.append(LinkDown("no answer"))
            return
        agent = machine.agent
        if link.boot != agent.boot:
            link.boot, link.acked = agent.boot, 0
        link.up, link.sent = True, link.acked
        tasks = tuple((task, attempt, word) for (task, attempt), word in agent.tasks.items())
        link.mail.append(LinkUp(agent.boot, True, tasks))

    def drop_link(self, link: Link) -> None:
        """The stream breaks: what was on its way to the agent is lost."""
        link.up, link.stream = False, []
        link.mail.append(LinkDown("cut"))

    def agent_hears(self, link: Link) -> None:
        """The agent obeys what was said on the stream."""
        machine = self.machine_of(link)
        commands, link.stream = link.stream, []
        if machine is not None and link.up and link.boot == machine.agent.boot:
            for command in commands:
                machine.agent.hear(command)

    def agent_speaks(self, link: Link) -> None:
        """The agent tells what it has not told on this stream."""
        machine = self.machine_of(link)
        if machine is None or not link.up or link.boot != machine.agent.boot:
            return
        reports = tuple(one for one in machine.agent.spool if one.id > link.sent)
        if reports:
            link.sent = reports[-1].id
            link.mail.append(AgentSaid(machine.agent.boot, link.sent, reports))

    def deliver(self, link: Link, count: int) -> None:
        """The loop takes the first letters of a link, in one turn."""
        letters, link.mail = link.mail[:count], link.mail[count:]
        self.turns.hear(*((("instance", link.wish.instance_id), message) for message in letters))

    # --- the daemon -------------------------------------------------------------------------------

    def crash(self, landed: Mapping[int, bool], hidden_s: float) -> None:
        """The daemon dies and another starts. Launches that were in flight may land."""
        calls, self.calls = self.calls, []
        for i, (_, call) in enumerate(calls):
            if isinstance(call, Launch) and landed.get(i, False) and call.key not in self.keys:
                self.make(call.key, hidden_s)
            elif isinstance(call, Launch) and landed.get(i, False) and call.key in self.machines:
                self.make(call.key, hidden_s)  # the referee sees the second
        self.watched.clear()
        self.links.clear()
        self.turns.restart()

    def crash_after(self, turn: Callable[[], None], hidden_s: float) -> None:
        """The daemon dies in this turn, between its commit and its effects."""
        self.dying = True
        turn()
        self.dying = False
        self.crash({}, hidden_s)

    # --- the end ----------------------------------------------------------------------------------

    def submit(self, request: TaskRequested) -> None:
        """A user's task."""
        if request.task.at_least_once:
            self.twice.add(request.request_id)
        self.turns.ask(request)

    def fair_step(self) -> None:
        """Everything that can go on goes on, and well."""
        while self.calls:
            self.answer(0, None, True, 0)
        for link in list(self.links.values()):
            there = self.machine_of(link)
            if link.up and (there is None or there.agent.boot != link.boot):
                self.drop_link(link)  # a stream to what is not there any more ends, sooner or later
            self.open_link(link)
            self.agent_hears(link)
            if (machine := self.machine_of(link)) is not None:
                machine.agent.work(self.steps_are_broken)
                for one, word in list(machine.agent.tasks.items()):
                    if word == "waiting":
                        machine.agent.start(one)
                    elif word == "running" and self.exit_code is not None:
                        machine.agent.end(one, code=self.exit_code)
            self.agent_speaks(link)
            self.deliver(link, len(link.mail))
        for machine in self.machines.values():
            machine.address = machine.address or HostAddress(host=machine.ref)
        self.listing()
        times = [at for _, at in self.turns.timers()]
        soonest = min(times, default=self.turns.now)
        self.turns.now = min(max(self.turns.now + 1.0, soonest), self.turns.now + FAIR_STEP_MOST_S)
        self.turns.due()
