"""How a pool replaces machines that are not what its spec asks for any more, a few at a time. Pure.

Which they are is derived (`index.outdated`), never written down. A node with such a machine gets another
beside it, bought like any; the old one works on until that is ready, then leaves when its tasks have ended.
One that can't be had, or be set up, leaves all as it was, and is tried again after a pause that grows.
"""

from collections.abc import Iterable
from typing import NamedTuple

from actors.decision import Decision, Published, View
from actors.events import PoolRolled
from actors.index import Index
from actors.instance.state import InstanceState, Ready
from actors.messages import SetUpEnded
from actors.node.state import Filled
from actors.policy.backoff import retry_delay_s
from actors.policy.built import SHAPE, Build, Unmarked
from actors.policy.placement import MOVING_SHARE
from actors.policy.situation import Asking
from actors.pool.pausing import is_paused, reason
from actors.pool.state import Active, Parked, PoolState, Roll
from actors.pool.wanted import may_launch, wanted_count
from actors.spec import PoolSpec

LOOK_EVERY_S = 15.0  # while there are some; news of nodes is heard sooner
FIRST_S, MOST_S = 5.0, 300.0  # until another try after one that came to nothing
WHY_MAX = 500  # characters
KEPT = ("requested", "provisioning", "bootstrapping", "ready")


class Foreseen(NamedTuple):
    """What an update means for the machines there are.

    Attributes:
        outdated: how many would not be what the new spec asks for.
        kept: of so many that are at work or coming.
        refused: why it can't be; "": it can.
    """

    outdated: int
    kept: int
    refused: str


def changed_keys(old: PoolSpec, new: PoolSpec) -> tuple[str, ...]:
    """Names of the spec's keys that differ."""
    return tuple(name for name in PoolSpec.model_fields if getattr(old, name) != getattr(new, name))


def foreseen(state: PoolState, new: PoolSpec, instances: Iterable[InstanceState]) -> Foreseen:
    """What becomes of these machines of a pool when its spec is `new`. A look at each."""
    build = Build.of(new, unmarked_by(state, new, instances := tuple(instances)))
    outdated = shapeless = kept = 0
    for one in instances:
        if one.status not in KEPT or getattr(one, "leave", None) is not None:
            continue
        kept += 1
        if build.lacks(one.image, one.disk_gb, one.offer) is not None:
            outdated += 1
            shapeless += build.lacks_shape(one.image, one.disk_gb, one.offer) is not None
    keys = [name for name in changed_keys(state.spec, new) if name in SHAPE]
    if keys and shapeless and "together" in (state.spec.spread, new.spread):
        text = f"{', '.join(keys)} can't change under the living machines of a gang (spread = together)"
        text = f"{text}, which a replacement one by one would part: resize to 0 first"
        return Foreseen(outdated, kept, text)
    return Foreseen(outdated, kept, "")


def unmarked_by(state: PoolState, new: PoolSpec, instances: Iterable[InstanceState]) -> Unmarked | None:
    """What machines of an older everpool were made with, kept from the first change of it on."""
    old = state.spec
    if state.unmarked is not None or (old.image, old.disk_gb) == (new.image, new.disk_gb):
        return state.unmarked
    if all(one.image for one in instances):
        return None
    return Unmarked(image=Build.of(old, None).mark, disk_gb=old.disk_gb)


def begun(state: Active | Parked, outdated: int, view: View) -> Roll | None:
    """The roll after an update: what held the last one up may be mended by it."""
    before = state.roll
    if not outdated and (before is None or not before.renewed):
        return None
    return Roll(since=view.now, renewed=0 if before is None else before.renewed)


def followed(state: Active, view: View) -> Active:
    """The state with a roll if there is something to be replaced: a notice may have been withdrawn."""
    if state.roll is not None or not view.index.outdated:
        return state
    return state.model_copy(update={"roll": Roll(since=view.now)})


def waits(state: PoolState, index: Index, now: float) -> str:
    """Why no other machine is replaced just now, for users; "": nothing keeps it."""
    if not index.outdated:
        return ""
    match state:
        case Active() | Parked() if is_paused(state):
            return reason(state)
        case Parked(reason=why):
            return f"the pool is parked: {why}"
        case Active():
            return _held_up(state, index, now) or ("" if state.roll is None else state.roll.why)
        case _:
            return "the pool is being ended"


def _held_up(state: Active, index: Index, now: float) -> str:
    if not may_launch(state):
        return "the budget is spent"
    if index.asking or index.paused or index.node_counts["filling"] or index.node_counts["vacant"]:
        return "nodes without a machine are filled first"
    if state.roll is not None and _rests(state.roll, now):
        return f"tried again soon: {state.roll.why}"
    return "" if _room(state, index) > 0 else "as many as may be are being replaced"


def _rests(roll: Roll, now: float) -> bool:
    """Whether it waits after a failure. A time farther ahead was set by a clock that was ahead."""
    return roll.next_at is not None and now < roll.next_at <= now + MOST_S


def _room(state: Active, index: Index) -> int:
    """How many more may be on their way: one, until some machine was set up by this image."""
    replacing = index.node_counts["replacing"]
    if not state.proven:
        return 1 - replacing
    return max(1, int(wanted_count(state) * MOVING_SHARE)) - replacing - index.moved_away


def due(state: Active, view: View) -> tuple[Asking, ...]:
    """Nodes whose machine is to be replaced now: idle ones first, then the highest numbers."""
    index, roll = view.index, state.roll
    if roll is None or not index.outdated or _held_up(state, index, view.now):
        return ()
    found: list[tuple[bool, int]] = []
    for name in index.outdated:
        machine = index.instances[name]
        node = index.nodes.get(machine.node)
        if not (isinstance(machine, Ready) and machine.link_up and isinstance(node, Filled)):
            continue
        if node.instance_id == name and node.drain_request is None:
            found.append((bool(index.tasks_on(name)), -machine.node))
    # A gang stays where it is, however long there is no room: it would go by how long a node is missing.
    since = None if state.spec.spread == "together" else roll.since
    return tuple(Asking(-rank, since, ()) for _, rank in sorted(found)[: _room(state, index)])


def looked(state: Active, why: str, view: View) -> Active:
    """The state after placement was asked: when it is looked at again, and what it lacked ("": nothing)."""
    if state.roll is None or not view.index.outdated:
        return state
    rests, next_at = _rests(state.roll, view.now), state.roll.next_at
    at = next_at if rests and next_at is not None else view.now + LOOK_EVERY_S
    roll = (
        state.roll if rests or why == state.roll.why else state.roll.model_copy(update={"why": why[:WHY_MAX]})
    )
    look_at = at if state.look_at is None else min(at, state.look_at)
    return state.model_copy(update={"look_at": look_at, "roll": roll})


def failed(state: PoolState, why: str, view: View) -> PoolState:
    """A launch or a set-up came to nothing: all of them wait. Of those that were out together one counts."""
    if not isinstance(state, Active) or state.roll is None:
        return state
    roll = state.roll
    if _rests(roll, view.now):
        return state
    fails = roll.fails + 1
    next_at = view.now + retry_delay_s(fails, view.draw, first_s=FIRST_S, most_s=MOST_S)
    later = roll.model_copy(update={"fails": fails, "next_at": next_at, "why": why[:WHY_MAX]})
    look_at = next_at if state.look_at is None else min(next_at, state.look_at)
    return state.model_copy(update={"roll": later, "look_at": look_at})


def heard(state: PoolState, ended: SetUpEnded, view: View) -> PoolState:
    """A machine was set up, or could not be."""
    if not ended.is_current:
        return state
    if ended.error is not None:
        return failed(state, ended.error, view)
    if not isinstance(state, Active) or state.roll is None or not state.roll.fails:
        return state
    update = {"fails": 0, "next_at": None, "why": ""}
    return state.model_copy(update={"roll": state.roll.model_copy(update=update)})


def renewed(state: PoolState, old: str | None, view: View) -> PoolState:
    """A node has another machine in the place of `old`, which worked until now."""
    if not isinstance(state, Active | Parked) or old not in view.index.outdated:
        return state
    roll = state.roll or Roll(since=view.now)
    return state.model_copy(update={"roll": roll.model_copy(update={"renewed": roll.renewed + 1})})


def concluded(state: Active, view: View) -> Decision:
    """Say it when nothing is left to be replaced."""
    if state.roll is None or view.index.outdated:
        return Decision(state)
    fact = PoolRolled(pool=state.name, renewed=state.roll.renewed)
    return Decision(state.model_copy(update={"roll": None}), facts=(Published(fact),))
