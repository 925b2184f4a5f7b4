"""Tasks on machines whose agents, streams and lives do whatever they may."""

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from actors.events import (
    InstanceRequested,
    TaskAttemptEnded,
    TaskCompleted,
    TaskRequested,
    TaskStarted,
    TaskStopRequested,
)
from actors.instance.state import Ready
from actors.messages import (
    Assigned,
    Due,
    LaunchWanted,
    LeaveWanted,
    MachineLeaving,
    MachineUnreachable,
    StopWanted,
    Submitted,
    VendorNotice,
)
from actors.node.state import Filling
from actors.pool.state import Active
from actors.spec import Nodes, PoolSpec, TaskSpec
from actors.task.state import Pending, TaskState
from providers.agent.wire import Refused
from providers.model import Notice
from tests.actors.model import Link, Machine, Outside, cluster_handle, offer
from tests.actors.turns import OWNER, POOL, START

LOSSES_MAX = 2
LOST = ("gone", "unreachable", "preempted")
OWN = ("failure", "killed", "startup_failure")  # results that are the task's own fault
FAIR_STEPS_MAX = 400
SPEC = PoolSpec(
    provider=("sim",),
    nodes=Nodes(desired=3),
    retry_on_interruption=LOSSES_MAX,
    unreachable_timeout=60,
    drain_timeout=60,
)


class TaskRules(RuleBasedStateMachine):
    """Attempts end as they may; every task ends once, and never runs beside itself."""

    def __init__(self) -> None:
        super().__init__()
        self.here = Outside(("instance", "task"))
        self.turns = self.here.turns
        self.made = 0
        self.stops = 0
        self.specs: dict[str, TaskSpec] = {}
        pool = Active(name=POOL, generation=1, spec=SPEC, desired=3, since=START)
        self.turns.put(("pool", POOL), pool)

    @initialize(count=st.integers(1, 2))
    def begin(self, count: int) -> None:
        for _ in range(count):
            self.machine()

    def machine(self) -> None:
        """Another machine, ready."""
        node = self.made
        self.made += 1
        key, name = f"{OWNER}/{POOL}/{node}/1.1/1", f"{POOL}-{node}-1.1.1"
        request = f"instance:{POOL}-{node}-1.1"
        asking = {"incarnation": 1, "request_id": request, "tries": 1, "instance_id": name}
        state = {"pool": POOL, "generation": 1, "node": node}
        self.turns.put(("node", str(node)), Filling.model_validate(state | asking))
        asked = InstanceRequested(request_id=request, provider="sim", cluster_id="c", node_id=node)
        self.turns.journal(asked)
        wanted = LaunchWanted(key, node, request, None, offer(), cluster_handle(), "cheapest")
        self.turns.hear((("instance", name), wanted))
        for _ in range(10):
            if not isinstance(self.turns.states[("instance", name)], Ready):
                self.here.fair_step()

    @property
    def tasks(self) -> list[TaskState]:
        """Tasks that are not over."""
        return list(self.turns.index.tasks.values())

    @property
    def ready(self) -> list[str]:
        """Machines that take tasks."""
        states = self.turns.index.instances.items()
        return [name for name, state in states if isinstance(state, Ready) and state.link_up]

    def link(self, i: int) -> Link | None:
        """Some stream, or the wish for one."""
        links = list(self.here.links.values())
        return links[i % len(links)] if links else None

    def living(self, i: int) -> Machine | None:
        """Some machine."""
        machines = list(self.here.machines.values())
        return machines[i % len(machines)] if machines else None

    # --- users and the pool -----------------------------------------------------------------------

    @precondition(lambda self: len(self.tasks) < 3)
    @rule(
        retries=st.integers(0, 2),
        losses=st.sampled_from([None, 0, 1]),
        twice=st.sampled_from([False, False, True]),
    )
    def submit(self, retries: int, losses: int | None, twice: bool) -> None:
        name = f"t{self.made}x{len(self.turns.events)}-0"
        spec = TaskSpec(
            argv=("x",), retries=retries, retries_infrastructure=losses, at_least_once=twice, grace_s=5
        )
        request = TaskRequested(request_id=name, pool=POOL, task=spec)
        if twice:
            self.here.twice.add(name)
        self.specs[name] = spec
        self.turns.journal(request)
        self.turns.hear((("task", name), Submitted(self.turns.heard[-1])))

    @precondition(lambda self: self.ready)
    @rule(i=st.integers(0, 3))
    def assign(self, i: int) -> None:
        waiting = [one for one in self.tasks if isinstance(one, Pending) and one.not_before is None]
        if waiting:
            name = self.ready[i % len(self.ready)]
            node = self.turns.index.instances[name].node
            self.turns.hear((("task", waiting[0].id), Assigned(name, node)))

    @precondition(lambda self: self.tasks)
    @rule(i=st.integers(0, 3), user=st.booleans(), grace_s=st.sampled_from([None, 0.0]))
    def stop(self, i: int, user: bool, grace_s: float | None) -> None:
        task = self.tasks[i % len(self.tasks)].id
        request = None
        if user:
            self.stops += 1
            request = f"stop-{self.stops}"
            self.turns.journal(TaskStopRequested(request_id=request, pool=POOL, task_id=task))
        self.turns.hear((("task", task), StopWanted(request, "user", grace_s)))

    @precondition(lambda self: self.tasks)
    @rule(steps=st.integers(1, 3), code=st.sampled_from([None, None, 0, 1]))
    def goes_on(self, steps: int, code: int | None) -> None:
        self.here.exit_code = code
        for _ in range(steps):
            self.fair_step()

    @precondition(lambda self: self.here.machines)
    @rule(i=st.integers(0, 3))
    def falls_silent(self, i: int) -> None:
        if (link := self.link(i)) is not None:
            self.here.drop_link(link)
            self.here.deliver(link, len(link.mail))
            self.turns.now += SPEC.unreachable_timeout
            self.turns.due()

    # --- machines ---------------------------------------------------------------------------------

    @precondition(lambda self: self.made < 5)
    @rule()
    def another_machine(self) -> None:
        self.machine()

    @rule(i=st.integers(0, 3), how=st.sampled_from(["vanish", "notice", "withdraw", "leave", "reboot"]))
    def trouble(self, i: int, how: str) -> None:
        if (machine := self.living(i)) is None:
            return
        watched = self.here.watched.get(machine.key)
        if how == "vanish":
            self.here.vanish(machine.key)
        elif how == "reboot":
            machine.agent.die()
        elif watched is not None:
            address = ("instance", watched.instance)
            notice = Notice(reason="spot", deadline_at=self.turns.now + 30)
            message = {"notice": VendorNotice(notice), "withdraw": VendorNotice(None)}.get(how)
            self.turns.hear((address, message or LeaveWanted("scale_in", 60)))  # type: ignore[arg-type]

    @precondition(lambda self: self.here.calls)
    @rule()
    def answer(self) -> None:
        self.here.answer(0, None, True, 0)

    @rule()
    def listing(self) -> None:
        self.here.listing()

    @rule(seconds=st.sampled_from([1, 10, 40, 130]))
    def advance(self, seconds: float) -> None:
        self.turns.now += seconds
        self.turns.due()

    # --- agents -----------------------------------------------------------------------------------

    @rule(i=st.integers(0, 3), how=st.sampled_from(["open", "hear", "speak", "cut"]))
    def stream(self, i: int, how: str) -> None:
        if (link := self.link(i)) is None:
            return
        match how:
            case "open":
                self.here.open_link(link)
            case "hear":
                self.here.agent_hears(link)
            case "speak":
                self.here.agent_speaks(link)
            case _:
                self.here.drop_link(link)

    @rule(i=st.integers(0, 3), count=st.integers(1, 4))
    def deliver(self, i: int, count: int) -> None:
        if (link := self.link(i)) is not None:
            self.here.deliver(link, count)

    @rule(i=st.integers(0, 3))
    def talk(self, i: int) -> None:
        if (link := self.link(i)) is not None:
            self.here.open_link(link)
            self.here.agent_hears(link)
            self.here.agent_speaks(link)
            self.here.deliver(link, len(link.mail))

    @rule(i=st.integers(0, 3), code=st.sampled_from([0, 0, 1, 137, None]))
    def run(self, i: int, code: int | None) -> None:
        if (machine := self.living(i)) is None:
            return
        for one, word in list(machine.agent.tasks.items()):
            if word == "waiting" and not machine.agent.draining:
                machine.agent.start(one)
                return
            if word == "running":
                machine.agent.end(one, code=code, signal=9 if code is None else None)
                return

    @rule(i=st.integers(0, 3))
    def refuse(self, i: int) -> None:
        if (machine := self.living(i)) is not None:
            for task, attempt in list(machine.agent.tasks)[:1]:
                machine.agent.report(Refused, command="start", reason="no", task=task, attempt=attempt)

    # --- the daemon -------------------------------------------------------------------------------

    @rule()
    def crash(self) -> None:
        self.here.crash({}, 0)

    @precondition(lambda self: self.tasks)
    @rule(i=st.integers(0, 3), message=st.sampled_from(["due", "elsewhere", "unreachable elsewhere"]))
    def noise(self, i: int, message: str) -> None:
        address = ("task", self.tasks[i % len(self.tasks)].id)
        messages = {
            "due": Due(),
            "elsewhere": MachineLeaving("nowhere", "gone"),
            "unreachable elsewhere": MachineUnreachable("nowhere"),
        }
        self.turns.hear((address, messages[message]))  # type: ignore[arg-type]

    # --- what holds -------------------------------------------------------------------------------

    @invariant()
    def attempts_follow_one_another(self) -> None:
        """Attempt n+1 is queued only after attempt n ended; one end each; nothing after the last."""
        ended: dict[str, int] = {}
        over: set[str] = set()
        for envelope in self.turns.events:
            match envelope.event:
                case TaskAttemptEnded(task_id=task, attempt=attempt):
                    assert attempt == ended.get(task, 0) + 1
                    assert task not in over
                    ended[task] = attempt
                case TaskStarted(task_id=task, attempt=attempt):
                    assert attempt == ended.get(task, 0) + 1
                case TaskCompleted(task_id=task):
                    assert task not in over, "completed twice"
                    over.add(task)
                case _:
                    continue

    @invariant()
    def budgets_hold(self) -> None:
        """Its own failures and lost machines, each counted by what was told of the attempts."""
        failures, losses = Counter[str](), Counter[str]()
        for one in self.turns.facts("task_attempt_ended"):
            if one.result in OWN:
                failures[one.task_id] += 1
            elif one.reason in ("gone", "unreachable", "preempted") and one.task_id in self.started(
                one.attempt
            ):
                losses[one.task_id] += 1
        for name, spec in self.specs.items():
            allowed = LOSSES_MAX if spec.retries_infrastructure is None else spec.retries_infrastructure
            assert failures[name] <= spec.retries + 1
            assert losses[name] <= allowed + 1

    def started(self, attempt: int) -> set[str]:
        """Tasks whose attempt of this number had a process, as far as was told."""
        return {one.task_id for one in self.turns.facts("task_started") if one.attempt == attempt}

    def fair_step(self) -> None:
        """What waits is assigned, and everything outside goes well."""
        for task in self.tasks:
            if isinstance(task, Pending) and task.not_before is None and self.ready:
                node = self.turns.index.instances[self.ready[0]].node
                self.turns.hear((("task", task.id), Assigned(self.ready[0], node)))
        self.here.fair_step()

    def teardown(self) -> None:
        """All goes well: every task comes to its end."""
        self.here.exit_code = 0
        for _ in range(FAIR_STEPS_MAX):
            if not self.tasks:
                break
            if not self.ready and not self.here.machines:
                self.machine()
            self.fair_step()
        assert not self.tasks, self.tasks
        left = [one for one in self.turns.referee.unended() if not one.startswith(("instance", "bootstrap"))]
        assert not left, left
        completed = [one.task_id for one in self.turns.facts("task_completed")]
        assert sorted(self.here.files_done) == sorted(completed)
