"""A machine that nobody hears of or sees: its tasks go elsewhere when its dead-man lease is surely over."""

from actors.decision import View, World
from actors.index import Index
from actors.instance import rules
from actors.instance.state import Destroying, Ready
from actors.messages import Due, LinkDown, LinkUp, MachineGone
from actors.spec import TaskSpec
from actors.task.state import Running
from tests.actors import kinds

LEASE_UNTIL = kinds.NOW + 1800
GRACE_S = 45.0


def _view(index: Index, now: float) -> View:
    return View(now=now, began=0, draw=0.5, owner="o", epoch=1, world=World(), index=index)


def _silent() -> tuple[Index, Destroying]:
    """A ready machine with a task, whose stream broke and which was given up."""
    index = Index()
    pool = next(one for one in kinds.POOLS if one.status == "active")
    ready = next(one for one in kinds.INSTANCES if isinstance(one, Ready) and one.link_up)
    task = Running(
        id="t",
        pool=pool.name,
        seq=1,
        spec=TaskSpec(argv=("true",), grace_s=GRACE_S),
        instance_id=ready.id,
        node=0,
        since=0,
        pid=1,
        started_at=0,
    )
    index.apply(("pool", pool.name), None, pool)
    index.apply(("instance", ready.id), None, ready)
    index.apply(("task", "t"), None, task)
    down = rules.decide(ready, LinkDown("no answer", LEASE_UNTIL), _view(index, kinds.NOW)).state
    assert isinstance(down, Ready)
    assert down.gone_at is not None
    index.apply(("instance", ready.id), ready, down)
    given_up = rules.decide(down, Due(), _view(index, down.gone_at)).state
    assert isinstance(given_up, Destroying)
    index.apply(("instance", ready.id), down, given_up)
    return index, given_up


def test_tasks_are_free_only_after_lease_skew_and_grace() -> None:
    index, state = _silent()
    over_at = state.tasks_over_at
    assert over_at == LEASE_UNTIL + 60 + GRACE_S
    waiting = state.model_copy(update={"next_at": over_at + 100})
    assert not rules.decide(waiting, Due(), _view(index, over_at - 1)).tells
    over = rules.decide(waiting, Due(), _view(index, over_at))
    assert over.tells == ((("task", "t"), MachineGone(state.id, "lease")),)
    assert isinstance(over.state, Destroying)  # the machine itself is not given up
    assert over.state.due_at == over_at + 100


def test_a_stream_that_comes_back_renews_the_lease() -> None:
    index, state = _silent()
    back = rules.decide(state, LinkUp("boot", True, ()), _view(index, kinds.NOW + 300)).state
    assert isinstance(back, Destroying)
    assert back.tasks_over_at is None
    again = rules.decide(back, LinkDown("gone", LEASE_UNTIL + 600), _view(index, kinds.NOW + 400)).state
    assert isinstance(again, Destroying)
    assert again.tasks_over_at == LEASE_UNTIL + 600 + 60 + GRACE_S
