"""How a pool replaces machines that are not what its spec asks for any more, a few at a time. Pure.

Which they are is derived (`index.outdated`), never written down. A node with such a machine gets another
beside it, bought like any; the old one works on until that is ready, then leaves when its tasks have ended.
One that can't be had, or be set up, leaves all as it was, and is tried again after a pause that grows.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from actors.address import Address
from actors.decision import Decision, Published, View
from actors.events import InstanceId, PoolRolled
from actors.index import Index
from actors.instance.state import InstanceState, Ready
from actors.messages import Message, MoveGivenUp, SetUpEnded
from actors.node.state import Filled, Replacing
from actors.policy.backoff import retry_delay_s
from actors.policy.built import BUILT_IN, SHAPE, Build, Unmarked
from actors.policy.placement import MOVING_SHARE
from actors.policy.situation import Asking
from actors.pool.pausing import is_paused, reason
from actors.pool.state import Active, Parked, PoolState, Roll
from actors.pool.wanted import may_launch, wanted_count
from actors.spec import PoolSpec
from providers.errors import Fault

LOOK_EVERY_S = 15.0  # while there are some; news of nodes is heard sooner
LOOK_SOON_S = 1.0  # after nodes without a machine
FIRST_S, MOST_S = 5.0, 300.0  # until another try after one that came to nothing
WHY_MAX = 500  # characters
REFUSED_MAX = 64
GOES_ON = "as many as may be are being replaced"
KEPT = ("requested", "provisioning", "bootstrapping", "ready")
FILLED_FIRST = "nodes without a machine are filled first"
BESIDE = (
    "another machine comes beside the one that works, so the quota must let one more: "
    "raise it, or `everpool drain` nodes one by one"
)


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


def is_kept(one: InstanceState) -> bool:
    """Whether a machine is at work or coming, and nobody is ending it."""
    return one.status in KEPT and getattr(one, "leave", None) is None


def foreseen(state: PoolState, new: PoolSpec, instances: Iterable[InstanceState]) -> Foreseen:
    """What becomes of these machines of a pool when its spec is `new`. A look at each."""
    build = Build.of(new, unmarked_by(state, new, instances := tuple(instances)))
    outdated = shapeless = kept = 0
    for one in instances:
        if not is_kept(one):
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
    if not outdated and before is None:
        return None
    return Roll(since=view.now, renewed=0 if before is None else before.renewed)


def unproven(changed: tuple[str, ...], ahead: Foreseen) -> bool:
    """Whether it is not known any more, after an update, that a machine can be set up as it is asked for."""
    return "image" in changed or (ahead.outdated > 0 and any(name in BUILT_IN for name in changed))


def overtaken(state: Active, view: View) -> tuple[tuple[Address, Message], ...]:
    """Have nodes keep machines that are right, or right again, by a spec that is heard in this turn.

    The others, ordered or made already, end before they cost any more.
    """
    build, index = Build.of(state.spec, state.unmarked), view.index
    tells: list[tuple[Address, Message]] = []
    for number, node in index.nodes.items():
        if not (isinstance(node, Replacing) and node.moving and node.instance_id is not None):
            continue
        old, new = index.instances.get(node.old_id), index.instances.get(node.instance_id)
        if old is None or build.lacks(old.image, old.disk_gb, old.offer) is not None:
            continue
        is_worse = new is not None and build.lacks(new.image, new.disk_gb, new.offer) is not None
        if is_worse or node.old_id in index.outdated:
            tells.append((("node", str(number)), MoveGivenUp()))
    return tuple(tells)


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
            return _held_up(state, index, now) or ("" if state.roll is None else _told(state.roll))
        case _:
            return "the pool is being ended"


def _held_up(state: Active, index: Index, now: float) -> str:
    if not may_launch(state):
        return "the budget is spent"
    if index.asking:
        return FILLED_FIRST
    if state.roll is not None and _rests(state.roll, now):
        return f"tried again soon: {_told(state.roll)}"
    if _room(state, index) <= 0:
        return GOES_ON
    return "" if _places(state, index) > 0 else FILLED_FIRST


def _told(roll: Roll) -> str:
    """What it waits for, and what a user may do where waiting alone does not help."""
    return f"{roll.why}; {BESIDE}" if Fault.QUOTA.value in roll.why else roll.why


def _places(state: Active, index: Index) -> int:
    """How many more may be begun: machines that come for nodes without one take of the room.

    While those nodes wait for machines that can't be had just now, one may be begun in any case.
    """
    room, missing = _room(state, index), index.node_counts["filling"] + index.node_counts["vacant"]
    comes = index.node_counts["filling"] > len(index.lost)
    return min(room, max(0 if comes else 1, room - missing))


def _rests(roll: Roll, now: float) -> bool:
    """Whether it waits after a failure. A time farther ahead was set by a clock that was ahead."""
    return roll.next_at is not None and now < roll.next_at <= now + MOST_S


def _room(state: Active, index: Index) -> int:
    """How many more may be on their way: one, until some machine was set up by this image."""
    replacing = index.node_counts["replacing"]
    room = max(1, int(wanted_count(state) * MOVING_SHARE)) - replacing - index.moved_away
    return room if state.proven else min(1 - replacing, room)


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
    ranks = [-rank for _, rank in sorted(found)[: _places(state, index)]]
    return tuple(Asking(rank, _since(rank, state, roll, view), roll.refused, works=True) for rank in ranks)


def _since(node: int, state: Active, roll: Roll, view: View) -> float:
    """Since when another machine is wanted in vain, for patience with spot.

    Nothing is missing, so it is not the roll that counts: in the place of a machine on demand the next may be
    one at once, in the place of spot when that could not be had for so long.
    """
    held = view.index.nodes[node]
    assert isinstance(held, Filled)
    if view.index.instances[held.instance_id].offer.lifecycle != "spot":
        return -math.inf
    return view.now if roll.lacking_since is None else max(roll.lacking_since, state.resumed_at)


def looked(state: Active, why: str, view: View) -> Active:
    """The state after placement was asked: when it is looked at again, and what it lacked ("": nothing)."""
    if state.roll is None or not view.index.outdated:
        return state
    roll, at = state.roll, view.now + LOOK_EVERY_S
    if _rests(roll, view.now):
        assert roll.next_at is not None
        at = roll.next_at
    elif view.index.asking:  # they were answered first, and may ask again for ever
        at = view.now + LOOK_SOON_S
    elif not may_launch(state):  # nobody looks for spot meanwhile
        roll = roll.model_copy(update={"why": "", "lacking_since": None, "refused": ()})
    elif why or roll.why:
        again = {"refused": ()} if why else {}  # there is no other market: all of them may be asked again
        roll = roll.model_copy(update={"why": why[:WHY_MAX]} | again | _lacking(roll, why, view))
    look_at = at if state.look_at is None else min(at, state.look_at)
    return state.model_copy(update={"look_at": look_at, "roll": roll})


def _lacking(roll: Roll, why: str, view: View) -> dict[str, Any]:
    """The first of several tries that come to nothing is when patience begins."""
    return {"lacking_since": view.now} if why and roll.lacking_since is None else {}


def failed(state: PoolState, why: str, view: View, refused: str = "") -> PoolState:
    """A launch or a set-up came to nothing: all of them wait. Of those that were out together one counts.

    The next try goes to another market than the one that refused, as that of a node without a machine does.
    """
    if not isinstance(state, Active) or state.roll is None:
        return state
    roll = state.roll
    if refused and refused not in roll.refused:
        roll = roll.model_copy(update={"refused": (*roll.refused, refused)[-REFUSED_MAX:]})
        state = state.model_copy(update={"roll": roll})
    if _rests(roll, view.now):
        return state
    fails = roll.fails + 1
    next_at = view.now + retry_delay_s(fails, view.draw, first_s=FIRST_S, most_s=MOST_S)
    update = {"fails": fails, "next_at": next_at, "why": why[:WHY_MAX]} | _lacking(roll, why, view)
    later = roll.model_copy(update=update)
    look_at = next_at if state.look_at is None else min(next_at, state.look_at)
    return state.model_copy(update={"roll": later, "look_at": look_at})


def not_renewed(state: PoolState, kept: InstanceId, why: str, view: View) -> PoolState:
    """The machine that was to take the place of `kept` will never be ready, though its steps did not fail."""
    if kept not in view.index.outdated:
        return state
    return failed(state, f"a new machine ended before it was ready: {why}", view)


def heard(state: PoolState, ended: SetUpEnded, view: View) -> PoolState:
    """A machine was set up, or could not be."""
    if not ended.is_current:
        return state
    if ended.error is not None:
        return failed(state, ended.error, view)
    if not isinstance(state, Active) or state.roll is None:
        return state
    if not state.roll.fails and state.roll.lacking_since is None:
        return state
    update = {"fails": 0, "next_at": None, "why": "", "lacking_since": None, "refused": ()}
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
