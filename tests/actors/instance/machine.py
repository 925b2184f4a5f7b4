"""One instance among a cloud and an agent that do whatever they may."""

from types import NoneType

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.address import Address
from actors.effects import Call, Launch, TellMarket, Word
from actors.events import InstanceRequested
from actors.instance.state import Alive, Bootstrapping, Destroying, Draining, Provisioning, Ready
from actors.messages import (
    BootstrapWanted,
    Due,
    HoldingTold,
    InstanceMessage,
    InstanceNotLaunched,
    LaunchFailed,
    LaunchWanted,
    LeaveWanted,
    LinkDown,
    LossTold,
    LossWithdrawn,
    MachineBilled,
    Renumbered,
    TaskLeft,
    TerminateFailed,
    TerminateSucceeded,
    VendorNotice,
)
from actors.node.state import Filling
from actors.pool.state import Active
from actors.spec import Image, Nodes, PoolSpec, Step, TaskSpec
from actors.task.state import Running
from providers.agent.wire import NoticeGone, NoticeSeen, Unhealthy
from providers.errors import Fault
from providers.gateway import LAUNCH_TIMEOUT_S
from providers.model import Address as HostAddress
from providers.model import Notice
from tests.actors.model import VISIBLE_S, Outside, cluster_handle, offer
from tests.actors.turns import OWNER, POOL, START

SPEC = PoolSpec(
    provider=("sim",),
    nodes=Nodes(desired=1),
    instance_age_max=7200,
    image=Image(steps=(Step(phase="one", run="true"), Step(phase="two", run="true"))),
)
KEY, NAME, REQUEST = f"{OWNER}/{POOL}/0/1.1/1", f"{POOL}-0-1.1.1", f"instance:{POOL}-0-1.1"
ME: Address = ("instance", NAME)
TASK: Address = ("task", "t")
FAIR_STEPS_MAX = 300
faults = st.sampled_from([None, None, None, *Fault])


class InstanceRules(RuleBasedStateMachine):
    """Answers, notices, streams, crashes in any order; then all goes well, and everything has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.here = Outside(("instance",))
        self.turns = self.here.turns
        self.users = 0
        self.calm = 0  # so many more steps nobody ends the machine
        self.news: list[object] = []  # that the market was told
        self.deaf = False  # some of it was lost with a daemon
        perform = self.turns.perform

        def note(address: Address, effect: Call | Word) -> None:
            if isinstance(effect, TellMarket):
                self.deaf = self.deaf or self.here.dying
                self.news += [] if self.here.dying else [effect.news]
            perform(address, effect)

        self.turns.perform = note
        pool = Active(name=POOL, generation=1, spec=SPEC, desired=1, since=START)
        self.turns.put(("pool", POOL), pool)
        node = Filling(
            pool=POOL, generation=1, node=0, incarnation=1, request_id=REQUEST, tries=1, instance_id=NAME
        )
        self.turns.put(("node", "0"), node)

    @initialize(
        replacing=st.sampled_from([None, "old"]),
        ahead=st.sampled_from([0, 0, 0, 0, 2, 4, 5, 6, 8]),
        calm=st.integers(0, 30),
    )
    def order(self, replacing: str | None, ahead: int, calm: int) -> None:
        self.calm = calm
        asked = InstanceRequested(
            request_id=REQUEST, provider="sim", cluster_id="c", node_id=0, replacing=replacing
        )
        self.turns.journal(asked)
        self.turns.hear((ME, LaunchWanted(KEY, 0, REQUEST, replacing, offer(), cluster_handle(), "cheapest")))
        for _ in range(ahead):  # so that chaos begins anywhere between ordered and ready
            self.here.fair_step()

    @property
    def state(self) -> object:
        """The instance's state; Destroyed is forgotten at once."""
        return self.turns.states.get(ME)

    @property
    def lives(self) -> bool:
        """Whether there is a machine."""
        return bool(self.here.machines)

    def hear(self, message: InstanceMessage) -> None:
        self.turns.hear((ME, message))

    # --- the provider -----------------------------------------------------------------------------

    @precondition(lambda self: self.here.calls)
    @rule(i=st.integers(0, 3), fault=faults, landed=st.booleans(), hidden_s=st.sampled_from([0, 5, 60]))
    def answer(self, i: int, fault: Fault | None, landed: bool, hidden_s: float) -> None:
        self.here.answer(i, fault, landed, hidden_s)

    @precondition(lambda self: self.here.calls)
    @rule(fault=st.sampled_from([*Fault, *[Fault.UNKNOWN] * 6]), landed=st.booleans())
    def answer_badly(self, fault: Fault, landed: bool) -> None:
        self.here.answer(0, fault, landed, VISIBLE_S)

    @precondition(lambda self: self.here.calls)
    @rule()
    def answer_well(self) -> None:
        self.here.answer(0, None, True, 1)

    @precondition(lambda self: any(isinstance(call, Launch) for _, call in self.here.calls))
    @rule(after_s=st.sampled_from([None, 7.0]))
    def waits_for_our_own_pace(self, after_s: float | None) -> None:
        self.here.calls = [one for one in self.here.calls if not isinstance(one[1], Launch)]
        self.hear(LaunchFailed(Fault.THROTTLED, "many calls wait", after_s, paced=True))

    @precondition(lambda self: self.here.watched)
    @rule()
    def listing(self) -> None:
        self.here.listing()

    @precondition(lambda self: self.state is None)
    @rule()
    def rests(self) -> None:
        """It is over: nothing reaches it any more."""

    @precondition(lambda self: self.state is not None)
    @rule(seconds=st.sampled_from([0.1, 1, 5, 31, 70, 400]), landed=st.booleans())
    def advance(self, seconds: float, landed: bool) -> None:
        if seconds > LAUNCH_TIMEOUT_S and any(isinstance(call, Launch) for _, call in self.here.calls):
            self.here.time_out(landed)
        self.turns.now += seconds
        self.turns.due()

    @precondition(lambda self: self.state is not None)
    @rule()
    def early(self) -> None:
        self.hear(Due())

    @precondition(lambda self: self.lives)
    @rule()
    def gets_an_address(self) -> None:
        machine = self.here.machines[KEY]
        machine.address = HostAddress(host=f"{machine.ref}.{machine.agent.lives}")
        self.here.listing()

    @precondition(lambda self: self.lives and self.calm < 0)
    @rule(what=st.sampled_from(["vanishes", "stops", "noticed", "withdrawn"]), push=st.booleans())
    def is_taken(self, what: str, push: bool) -> None:
        machine = self.here.machines[KEY]
        match what:
            case "vanishes":
                self.here.vanish(KEY)
            case "stops":
                machine.state = "stopped"
            case "noticed":
                machine.notice = Notice(reason="spot", deadline_at=self.turns.now + 30)
            case _:
                machine.notice = None
        if push:
            self.hear(VendorNotice(machine.notice))

    @precondition(lambda self: self.state is not None)
    @rule(steps=st.integers(1, 4))
    def goes_well(self, steps: int) -> None:
        for _ in range(steps):
            self.here.fair_step()

    # --- the agent --------------------------------------------------------------------------------

    @precondition(lambda self: self.here.links)
    @rule(hears=st.booleans(), fails=st.sampled_from([False, False, True]))
    def agent_goes_on(self, hears: bool, fails: bool) -> None:
        link = self.here.links[NAME]
        self.here.open_link(link)
        if hears:
            self.here.agent_hears(link)
        if (machine := self.here.machine_of(link)) is not None:
            machine.agent.work(fails)
        self.here.agent_speaks(link)

    @precondition(lambda self: self.here.links and self.here.links[NAME].mail)
    @rule(count=st.integers(1, 3))
    def deliver(self, count: int) -> None:
        self.here.deliver(self.here.links[NAME], count)

    @precondition(lambda self: self.here.links)
    @rule()
    def cut(self) -> None:
        self.here.drop_link(self.here.links[NAME])

    @precondition(lambda self: self.lives)
    @rule(
        kind=st.sampled_from(["notice", "gone", "unhealthy", "reboot"]),
        within_s=st.sampled_from([None, 30.0]),
    )
    def agent_reports(self, kind: str, within_s: float | None) -> None:
        agent = self.here.machines[KEY].agent
        match kind:
            case "notice":
                agent.report(NoticeSeen, reason="spot", within_s=within_s)
            case "gone":
                agent.report(NoticeGone)
            case "unhealthy":
                agent.report(Unhealthy, reason="disk")
            case _:
                agent.die()

    # --- the daemon -------------------------------------------------------------------------------

    @precondition(lambda self: self.state is not None)
    @rule(landed=st.booleans(), hidden_s=st.sampled_from([0, 60]))
    def crash(self, landed: bool, hidden_s: float) -> None:
        self.here.crash(dict.fromkeys(range(10), landed), hidden_s)

    @precondition(lambda self: self.state is not None)
    @rule(what=st.sampled_from(["due", "listing", "mail", "answer"]))
    def crash_in_a_turn(self, what: str) -> None:
        def turn() -> None:
            if what == "listing":
                self.here.listing()
            elif what == "mail" and NAME in self.here.links:
                self.here.deliver(self.here.links[NAME], 9)
            elif what == "answer" and self.here.calls:
                self.here.answer(0, None, True, 0)
            else:
                self.turns.now = max(self.turns.now, getattr(self.state, "due_at", None) or 0)
                self.turns.due()

        self.here.crash_after(turn, VISIBLE_S)

    @precondition(lambda self: isinstance(self.state, Ready | Bootstrapping))
    @rule()
    def set_up_again(self) -> None:
        self.users += 1
        request = f"again-{self.users}"
        self.turns.referee._asked[request] = "bootstrap_requested"
        self.hear(BootstrapWanted(request))

    @precondition(lambda self: self.calm < 0 and self.state is not None)
    @rule(within_s=st.sampled_from([0, 60]), reason=st.sampled_from(["scale_in", "user", "moved", "budget"]))
    def leave(self, within_s: float, reason: str) -> None:
        self.hear(LeaveWanted(reason, within_s))

    @precondition(lambda self: self.state is not None)
    @rule(node=st.integers(0, 2))
    def fills_another_node(self, node: int) -> None:
        before = self.state
        self.hear(Renumbered(node))
        assert self.state == before.model_copy(update={"node": node})  # type: ignore[attr-defined]

    @precondition(lambda self: self.state is not None)
    @rule(
        message=st.sampled_from(
            [
                TaskLeft(),
                LinkDown("late"),
                TerminateSucceeded(),
                TerminateFailed(Fault.GONE, ""),
                TerminateFailed(Fault.CREDENTIALS, ""),
                LaunchWanted(KEY, 0, REQUEST, None, offer(), cluster_handle(), "again"),
            ]
        )
    )
    def noise(self, message: InstanceMessage) -> None:
        self.hear(message)

    @precondition(lambda self: self.calm < 0 and not isinstance(self.state, Destroying | NoneType))
    @rule()
    def condemn(self) -> None:
        self.turns.condemn(ME)

    @precondition(lambda self: isinstance(self.state, Ready) and TASK not in self.turns.states)
    @rule()
    def gets_a_task(self) -> None:
        task = Running(
            id="t",
            pool=POOL,
            spec=TaskSpec(argv=("x",)),
            seq=1,
            instance_id=NAME,
            node=0,
            pid=1,
            started_at=0,
        )
        self.turns.put(TASK, task)
        self.turns.hear()

    @precondition(lambda self: TASK in self.turns.states)
    @rule()
    def loses_its_task(self) -> None:
        self.turns.put(TASK, None)
        self.hear(TaskLeft())

    # --- what holds -------------------------------------------------------------------------------

    @invariant()
    def time_passes(self) -> None:
        self.calm -= 1

    @invariant()
    def none_is_forgotten(self) -> None:
        """Whoever is over has no machine, and no call that could still make one."""
        if self.state is None and self.turns.events:
            assert not self.here.machines, "a machine that nobody knows"
        if isinstance(self.state, Provisioning | Bootstrapping | Ready | Draining):
            assert KEY in self.here.watched, "nobody would see it go"

    @invariant()
    def the_market_knows(self) -> None:
        """That a machine is held, from its launch until it is gone or we end it; and that one was lost."""
        if self.deaf:
            return
        held = [one.held for one in self.news if isinstance(one, HoldingTold)]
        assert held == [1, 0][: len(held)]
        assert bool(held and held[-1]) == isinstance(self.state, Alive)
        losses = sum(isinstance(one, LossTold) for one in self.news)
        withdrawn = sum(isinstance(one, LossWithdrawn) for one in self.news)
        is_told = isinstance(self.state, Draining) and self.state.lost
        assert 0 <= losses - withdrawn <= 1
        if isinstance(self.state, Alive):
            assert losses - withdrawn == is_told

    @invariant()
    def it_is_billed_once_when_it_is_gone(self) -> None:
        bills = [one for address, one in self.turns.told if isinstance(one, MachineBilled)]
        facts = self.turns.facts("instance_destroyed")
        assert [one.cost_micro_usd for one in bills] == [fact.cost_micro_usd for fact in facts]
        assert len(bills) <= 1
        if bills:
            was_ready = bool(self.turns.facts("instance_bootstrapped"))
            assert bills[0].worked == was_ready

    @invariant()
    def it_waits_for_something(self) -> None:
        """Every state has a deadline, a call in flight, or a machine that is watched."""
        due = getattr(self.state, "due_at", None)
        called = any(address == ME for address, _ in self.here.calls)
        if isinstance(self.state, Ready) and self.state.link_up:
            return
        assert self.state is None or due is not None or called, self.state

    def teardown(self) -> None:
        """From here on all goes well and the machine is not wanted: everything ends, once."""
        self.turns.due()
        self.hear(LeaveWanted("end", 0))
        for _ in range(FAIR_STEPS_MAX):
            if self.state is None:
                break
            self.here.fair_step()
        assert self.state is None, f"never over: {self.state}"
        assert not self.here.machines
        assert not [call for _, call in self.here.calls if isinstance(call, Launch)]
        open_requests = set(self.turns.referee._asked) - self.turns.ended
        told = [message for _, message in self.turns.told]
        if any(isinstance(message, InstanceNotLaunched) for message in told):
            open_requests.discard(REQUEST)  # the node places it elsewhere, or ends it
        assert not open_requests, open_requests
        assert sum(isinstance(message, InstanceNotLaunched) for message in told) <= 1
