"""Bugs: how many are forgiven, who ends when they are not, and that all else goes on as without them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import loop as loops
from actors.address import Address, Kind
from actors.decision import Decision, View, World
from actors.effects import Call, Word
from actors.events import BugCaught, Error
from actors.instance.state import Ready
from actors.loop import Identity, Letter, Loop
from actors.messages import Fill, Message, RequestHeard
from actors.node.state import Filled, Vacant
from actors.pool import settle
from actors.ports import Accepted, Commit, Conflict, Submission
from actors.supervisor import BUDGETS, Bug, Supervisor, attempt, attempt_call
from providers.model import Value
from tests.actors import kinds
from tests.actors.index import difference
from tests.actors.model import CAPABILITIES, offer
from tests.actors.turns import OWNER, POOL, RULES

KINDS: list[Kind] = ["task", "instance", "node", "pool", "market"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_is_spent_by_one_bug_more_than_it_allows(kind: Kind) -> None:
    budget, supervisor = BUDGETS[kind], Supervisor()
    spent = [supervisor.failed((kind, "a"), 100.0) for _ in range(budget.bugs_max + 1)]
    assert spent == [False] * budget.bugs_max + [True]
    assert not supervisor.failed((kind, "a"), 100.0)  # it starts anew


@pytest.mark.parametrize("kind", KINDS)
def test_bugs_that_are_far_apart_are_forgiven(kind: Kind) -> None:
    supervisor, budget = Supervisor(), BUDGETS[kind]
    step = budget.window_s / budget.bugs_max
    assert not any(supervisor.failed((kind, "a"), i * step) for i in range(200))


@given(
    bugs=st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from("ab"), st.floats(0, 200)), max_size=60)
)
def test_a_budget_is_spent_exactly_when_its_window_holds_too_many(
    bugs: list[tuple[Kind, str, float]],
) -> None:
    supervisor, now = Supervisor(), 0.0
    since: dict[Address, list[float]] = {}
    for kind, name, later in bugs:
        now += later
        times = since.setdefault((kind, name), [])
        times.append(now)
        recent = [at for at in times if at > now - BUDGETS[kind].window_s]
        spent = len(recent) > BUDGETS[kind].bugs_max
        assert supervisor.failed((kind, name), now) == spent
        since[kind, name] = [] if spent else recent


def test_what_was_long_ago_is_forgotten() -> None:
    supervisor = Supervisor()
    for i in range(5000):
        supervisor.failed(("task", str(i)), float(i))
    assert len(supervisor._bugs) <= 1001 + 600  # those of the longest window may be kept


def test_a_bug_in_a_rule_becomes_a_value() -> None:
    def rule() -> int:
        raise KeyError("planted")

    bug = attempt(("task", "a"), "Due", rule)
    assert isinstance(bug, Bug)
    assert (bug.address, bug.message, type(bug.error)) == (("task", "a"), "Due", KeyError)
    assert attempt(("task", "a"), "Due", lambda: 5) == 5


@pytest.mark.anyio
async def test_a_bug_in_a_call_becomes_an_answer_and_a_cancellation_does_not() -> None:
    async def call() -> str:
        raise KeyError("planted")

    assert await attempt_call(call, lambda error: type(error).__name__) == "KeyError"
    answers: list[str] = []

    async def endless() -> str:
        await anyio.sleep_forever()
        return "never"

    with anyio.move_on_after(0.01) as scope:
        answers.append(await attempt_call(endless, lambda error: "answer"))
    assert scope.cancelled_caught
    assert not answers


# --- the budgets climb ------------------------------------------------------------------------------


class Nowhere:
    """Everything around a loop that is only asked what it decides."""

    def now(self) -> float:
        return kinds.NOW

    def random(self) -> float:
        return 0.5

    def reserve(self, count: int) -> int:
        return 1

    async def commit(self, commit: Commit) -> None:
        raise AssertionError("nothing is written")

    async def accept(self, submissions: Sequence[Submission]) -> Sequence[Accepted | Conflict]:
        raise AssertionError("nothing is written")

    def committed(self, commit: Commit) -> None:
        return

    def turn_ended(self, pool: str, *, messages: int, seconds: float, waiting: int) -> None:
        return

    def bug(self, address: str, message: str, error: BaseException) -> None:
        return

    async def call(self, pool: str, call: Call) -> Message:
        raise AssertionError("nothing is done")

    def word(self, pool: str, word: Word) -> None:
        raise AssertionError("nothing is done")


@contextmanager
def lone(states: Mapping[Address, Value]) -> Iterator[Loop]:
    """A loop of these states, to be asked."""
    nowhere = Nowhere()
    world = World({"sim": (offer(), offer("b", spot=False))}, {"sim": CAPABILITIES}, {})
    loop = Loop(
        POOL,
        identity=Identity(OWNER, 1),
        journal=nowhere,
        observer=nowhere,
        clock=nowhere,
        dice=nowhere,
        world=lambda: world,
        outside=nowhere,
        states=states,
        checking=True,
    )
    with loop._send, loop._receive:
        yield loop


READY = next(one for one in kinds.INSTANCES if isinstance(one, Ready))
FAMILY: dict[Address, Address | None] = {  # who is above whom
    ("task", "t1"): ("pool", POOL),
    ("task", "t2"): ("pool", POOL),
    ("instance", "i1"): ("node", "0"),
    ("instance", "i2"): ("node", "0"),
    ("instance", "i3"): ("node", "1"),
    ("instance", "unknown"): None,  # it is over: nobody's any more
    ("node", "0"): ("pool", POOL),
    ("node", "1"): ("pool", POOL),
    ("pool", POOL): None,
    ("market", "m"): None,
}
HOUSE: dict[Address, Value] = {
    ("instance", name): READY.model_copy(update={"id": name, "node": node})
    for name, node in (("i1", 0), ("i2", 0), ("i3", 1))
}


@given(
    bugs=st.lists(
        st.tuples(st.sampled_from(list(FAMILY)), st.sampled_from([0.0, 1.0, 30.0, 400.0])), max_size=80
    )
)
def test_a_spent_budget_counts_one_level_up_and_nowhere_else(bugs: list[tuple[Address, float]]) -> None:
    counted: dict[Address, list[float]] = {}
    now = kinds.NOW
    with lone(HOUSE) as loop:
        for address, later in bugs:
            now += later
            wanted: list[Address] = []
            here: Address | None = address
            while here is not None:
                budget = BUDGETS[here[0]]
                recent = [at for at in counted.get(here, []) if at > now - budget.window_s]
                counted[here] = [*recent, now]
                if len(counted[here]) <= budget.bugs_max:
                    break
                counted[here] = []
                wanted.append(here)
                here = FAMILY[here]
            assert loop._climb(address, now) == wanted


# --- a bug costs its message, and nothing else ------------------------------------------------------


class Planted(Exception):
    """The bug."""


class Trap:
    """Rules of which one raises: in the decision about one letter, or about what that one led to.

    Args:
        letters: of the turn.
        victim: which of them.
        depth: decisions after the one about the letter itself.
    """

    def __init__(self, letters: Sequence[Letter], victim: int, depth: int) -> None:
        self._roots = [letter.message for letter in letters]
        self._victim = letters[victim].message
        self._depth = depth
        self._decisions: int | None = None  # since the victim's; None: another letter's turn
        self.sprung = False

    def _decide(self, rule: Callable[..., Decision]) -> Callable[..., Decision]:
        def decide(state: Any, message: Any, view: View) -> Decision:
            if message is self._victim:
                self._decisions = 0
            elif any(message is root for root in self._roots):
                self._decisions = None
            if self._decisions is not None:
                self._decisions += 1
                if self._decisions == self._depth + 1:
                    self.sprung = True
                    raise Planted
            return rule(state, message, view)

        return decide

    @contextmanager
    def set(self) -> Iterator[None]:
        """For a while the rules are like that."""
        with pytest.MonkeyPatch.context() as patch:
            for rules in RULES.values():
                patch.setattr(rules, "decide", self._decide(rules.decide))
            for name in ("steer", "place", "schedule", "conclude"):
                patch.setattr(settle, name, self._settling(getattr(settle, name)))
            yield

    def _settling(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def settling(state: Any, view: View) -> Any:
            self._decisions = None  # what a pool does at the end of a turn is no letter's
            return step(state, view)

        return settling


EVERY: dict[Kind, tuple[Sequence[Value], Sequence[Message]]] = {
    "pool": (kinds.POOLS, kinds.POOL_MESSAGES),
    "node": (kinds.NODES, kinds.NODE_MESSAGES),
    "instance": (kinds.INSTANCES, kinds.INSTANCE_MESSAGES),
    "task": (kinds.TASKS, kinds.TASK_MESSAGES),
}


@st.composite
def houses(draw: st.DrawFn) -> dict[Address, Value]:
    """A pool with one actor of each kind, each in any state; some may be missing."""
    states: dict[Address, Value] = {("pool", POOL): draw(st.sampled_from(kinds.POOLS))}
    for kind in ("node", "instance", "task"):
        state = draw(st.none() | st.sampled_from(EVERY[kind][0]))
        if state is not None:
            states[kinds.ADDRESSES[kind]] = state
    return states


@st.composite
def letters(draw: st.DrawFn) -> Letter:
    """Any message to whoever hears it; each time a value of its own."""
    kind: Kind = draw(st.sampled_from(["pool", "node", "instance", "task"]))
    return Letter(kinds.ADDRESSES[kind], copy(draw(st.sampled_from(EVERY[kind][1]))))


@settings(max_examples=400, deadline=None)
@given(
    states=houses(),
    some=st.lists(letters(), min_size=1, max_size=6),
    victim=st.integers(0, 5),
    depth=st.sampled_from([0, 0, 1, 2, 3]),
)
def test_a_turn_goes_as_if_the_letter_that_met_a_bug_had_not_come(
    states: dict[Address, Value], some: list[Letter], victim: int, depth: int
) -> None:
    victim %= len(some)
    trap, bugs = Trap(some, victim, depth), list[Bug]()
    with lone(states) as hit, trap.set():
        turn = hit._decided(list(some), kinds.NOW, bugs)
        assert not difference(hit.index, hit._states)
    if not trap.sprung:
        return
    assert [type(bug.error) for bug in bugs] == [Planted]
    left = [*some[:victim], *loops._smaller(some[victim]), *some[victim + 1 :]]
    with lone(states) as spared:
        other = spared._decided(left, kinds.NOW, [])
    assert hit._states == spared._states
    assert turn.changed == other.changed
    assert turn.effects == other.effects
    assert turn.taken == other.taken
    told = [published for published, _ in turn.facts]
    spared_told = [published for published, _ in other.facts]
    assert told[: len(spared_told)] == spared_told
    bug, *lost = [one.event for one in told[len(spared_told) :]]
    assert isinstance(bug, BugCaught)
    assert bug.address == "/".join(bugs[0].address)
    message = some[victim].message
    asked = [message.envelope.request_id] if isinstance(message, RequestHeard) else []
    assert [one.request_id for one in lost if isinstance(one, Error)] == asked
    assert len(lost) == len(asked)


# --- any order, repeated, late ----------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(
    states=houses(),
    turns=st.lists(st.lists(letters() | st.integers(0, 30), max_size=5), min_size=1, max_size=8),
)
def test_letters_in_any_order_repeated_and_late_meet_no_bug(
    states: dict[Address, Value], turns: list[list[Letter | int]]
) -> None:
    heard: list[Letter] = []
    with lone(states) as loop:
        for turn in turns:
            batch = [one for one in turn if isinstance(one, Letter)]
            batch += [heard[one % len(heard)] for one in turn if isinstance(one, int) and heard]
            heard += batch
            bugs: list[Bug] = []
            draft = loop._decided(batch, kinds.NOW, bugs)
            assert not bugs, bugs
            assert loop._commit_of(draft, kinds.NOW).pool == POOL
            loop._settle_memory(draft, batch, kinds.NOW, 1)
            assert not difference(loop.index, loop._states)


def test_the_last_words_of_who_is_condemned_are_heard() -> None:
    """A node whose rules failed too often tells its machine to go: nobody else would."""
    node = next(one for one in kinds.NODES if isinstance(one, Filled))
    states: dict[Address, Value] = {kinds.ADDRESSES["pool"]: kinds.POOLS[0], ("node", "0"): node}
    states[kinds.ADDRESSES["instance"]] = READY.model_copy(update={"id": node.instance_id})
    with lone(states) as loop:
        for _ in range(BUDGETS["node"].bugs_max + 1):
            letter = Letter(("node", "0"), Fill())
            trap = Trap([letter], 0, 0)
            with trap.set():
                draft = loop._decided([letter], kinds.NOW, [])
            loop._settle_memory(draft, [], kinds.NOW, 1)
        assert isinstance(loop._states["node", "0"], Vacant)
        assert not isinstance(loop._states[kinds.ADDRESSES["instance"]], Ready)
