"""Histories about what is bought, and about scaling and money."""

from typing import Any

from actors.buying import Budget, OnDemand, Scaling
from actors.instance.state import Requested
from actors.node.state import Replacing
from actors.policy.budget import Spend
from actors.pool.state import Parked, Paused, Scaled
from actors.spec import Nodes
from tests.simulation.referee.story import POOL, Story, pool, requested
from tests.simulation.referee.told.histories import broken, holds

FITS = "only what fits is bought"


def _ordered(story: Story, price_usd: float, **spec: Any) -> None:
    """A machine is ordered at a price."""
    story.pool(**spec)
    order = requested(now=story.now)
    offer = order.offer.model_copy(update={"micro_usd_per_hour": round(price_usd * 1e6)})
    story.keep(order.model_copy(update={"offer": offer}))


@broken(FITS)
def dearer_than_may_be(story: Story) -> None:
    _ordered(story, 1.01, max_hourly_cost=1.0)


@holds(FITS)
def as_dear_as_may_be(story: Story) -> None:
    _ordered(story, 1.0, max_hourly_cost=1.0)


@broken(FITS)
def ordered_with_the_budget_spent(story: Story) -> None:
    state = pool(budget=Budget(per_day=5, then="stop-launching"))
    story.keep(state.model_copy(update={"spend": Spend(reached="day")}), requested(now=story.now))


@holds(FITS)
def ordered_with_the_budget_spent_that_only_warns(story: Story) -> None:
    state = pool(budget=Budget(per_day=5, then="warn"))
    story.keep(state.model_copy(update={"spend": Spend(reached="day")}), requested(now=story.now))


@broken(FITS)
def ordered_for_a_pool_that_is_parked(story: Story) -> None:
    state = pool()
    parked = Parked(name=POOL, generation=1, spec=state.spec, desired=1, steered=(1, ()), reason="x")
    story.keep(parked, requested(now=story.now))


CEILING = "the ceiling of on demand holds"


def _on_demand(node: int, now: float) -> Requested:
    order = requested(node, now=now)
    return order.model_copy(update={"offer": order.offer.model_copy(update={"lifecycle": "on_demand"})})


@broken(CEILING)
def one_on_demand_too_many(story: Story) -> None:
    story.pool(desired=2, on_demand=OnDemand(ceiling=1))
    story.keep(_on_demand(0, story.now))
    story.keep(_on_demand(1, story.now))


@holds(CEILING)
def one_on_demand_beside_one_that_is_replaced(story: Story) -> None:
    story.pool(desired=1, on_demand=OnDemand(ceiling=1))
    old = _on_demand(0, story.now)
    story.keep(old)
    new = requested(0, 2, now=story.now)
    new = new.model_copy(update={"offer": old.offer})
    node = Replacing(
        pool=POOL, generation=1, node=0, request_id="again", instance_id=new.id, old_id=old.id, tries=1
    )
    story.keep(node, new)


BOUNDS = "sizes are within bounds"


def _scaled(story: Story, before: int, after: int) -> None:
    """A pool of one to three nodes follows its tasks."""
    state = pool(desired=before)
    nodes = Nodes(desired=before, min=1, max=3)
    spec = state.spec.model_copy(update={"nodes": nodes, "scaling": Scaling()})
    state = state.model_copy(update={"spec": spec})
    story.keep(state)
    scaled = Scaled(grew_at=story.now, why="tasks")
    story.keep(state.model_copy(update={"desired": after, "scaled": scaled}))


@broken(BOUNDS)
def larger_than_its_most(story: Story) -> None:
    _scaled(story, 2, 4)


@broken(BOUNDS)
def smaller_than_its_least(story: Story) -> None:
    _scaled(story, 1, 0)


@holds(BOUNDS)
def as_large_as_may_be(story: Story) -> None:
    _scaled(story, 2, 3)


SPENT = "what is spent is ended"


@broken(SPENT)
def machines_are_kept_without_money(story: Story) -> None:
    state = pool(budget=Budget(per_day=5, then="drain"))
    story.keep(state.model_copy(update={"spend": Spend(reached="day")}))


@holds(SPENT)
def machines_are_given_up(story: Story) -> None:
    state = pool(steered=0, budget=Budget(per_day=5, then="drain"))
    story.keep(state.model_copy(update={"spend": Spend(reached="day")}))


RESTS = "a paused pool rests"


def _paused(story: Story) -> Any:
    """A pool that a user paused a while ago."""
    state = pool().model_copy(update={"paused": Paused(by="user", since=story.now)})
    story.keep(state)
    story.wait(60)
    return state


@broken(RESTS)
def ordered_in_a_pause(story: Story) -> None:
    _paused(story)
    story.keep(requested(now=story.now))


@broken(RESTS)
def scaled_in_a_pause(story: Story) -> None:
    state = _paused(story)
    story.keep(state.model_copy(update={"scaled": Scaled(shrank_at=story.now, why="idle")}))


@holds(RESTS)
def ordered_in_the_commit_that_resumes(story: Story) -> None:
    state = _paused(story)
    story.keep(state.model_copy(update={"paused": None}), requested(now=story.now))
