"""What a task costs: its share of its machines while its attempts ran."""

from actors.messages import LinkDown
from tests.actors.model import VISIBLE_S
from tests.actors.task.test_rules import One


def price(one: One) -> int:
    """Of the task's machine, micro-dollars an hour."""
    state = one.turns.index.instances[one.task.instance_id]
    return state.offer.micro_usd_per_hour


def share(one: One, seconds: float) -> float:
    """What an attempt of so long costs, several of which may run at once."""
    return price(one) * seconds / 3600 / one.turns.index.pool_spec.worker.concurrency


def test_a_task_costs_while_it_runs() -> None:
    one = One()
    one.runs()
    cost = share(one, 1800)
    one.turns.now += 1800
    one.ends(0)
    [attempt] = one.turns.facts("task_attempt_ended")
    assert attempt.cost_micro_usd == one.completed.cost_micro_usd == round(cost) > 0


def test_lost_attempts_cost_as_well() -> None:
    one = One()
    one.runs()
    one.turns.now += 600
    one.here.vanish(next(iter(one.here.machines)))
    one.turns.hear((("instance", one.task.instance_id), LinkDown("cut")))
    one.turns.now += VISIBLE_S
    one.here.listing()
    one.here.listing()
    [first] = one.turns.facts("task_attempt_ended")
    assert first.cost_micro_usd > 0
    assert one.task.cost_micro_usd == first.cost_micro_usd
    one.machine()
    one.runs()
    one.turns.now += 600
    one.ends(0)
    costs = [fact.cost_micro_usd for fact in one.turns.facts("task_attempt_ended")]
    assert len(costs) == 2
    assert one.completed.cost_micro_usd == sum(costs)


def test_the_pool_hears_how_long_the_last_attempt_ran() -> None:
    one = One()
    one.runs()
    one.turns.now += 90
    one.ends(0)
    over = [message for address, message in one.turns.told if address[0] == "pool"]
    assert [message.ran_s for message in over if hasattr(message, "ran_s")] == [one.completed.duration]
