"""Why a pool is as it is: what is wanted and there, what is missing and why, and what happens next.

Pure over one moment of the read model. What placement would do now is asked of placement itself, on the
situation that the states describe, so that an explanation can't differ from the decision.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from actors.pool import rolling
from actors.pool.state import Active, Parked
from controller import explain_parts as parts
from controller.explain_parts import NEXT_MAX, SHOWN_MAX, TOLD_MAX, Picture
from controller.telling import ago, be, clock, count, lasting, ranks, sentence, when
from controller.views import Json, outdated_text, pool_reason

__all__ = ["Picture", "explained"]

REFUSED_LATELY_S = 3600.0
CONFIG = "config"  # the principal of pools that the config names
RELOADED = "then `everpool reload`"
PAUSED_TEXT = "nothing is launched, replaced or started; what runs goes on"


def explained(picture: Picture) -> Json:
    """Everything that is known of why a pool is as it is; `story` says the main things in sentences."""
    state, now = picture.pool.state, picture.now
    replacing, waits = parts.replacing(picture), rolling.waits(state, picture.index, now)
    there, missing, markets = parts.there(picture), parts.missing(picture), parts.markets(picture)
    cash, next_ = parts.account(picture), parts.next_steps(picture)
    cooling = parts.cooling(picture)
    scaling = parts.scaling(picture)
    told: Json = {
        "pool": state.name,
        "at": now,
        "status": picture.pool.status,
        "reason": pool_reason(state),
        "outdated": len(picture.index.outdated),
        "roll_waits": waits,
        "paused": paused.model_dump() if (paused := getattr(state, "paused", None)) else None,
        "desired": state.desired,
        "ready": there["ready"],
        "wanted": {
            "desired": state.desired,
            "min": state.spec.nodes.min if state.spec.nodes.min is not None else state.desired,
            "max": state.spec.nodes.max,
            "spares": picture.spares,
        },
        "there": there,
        "short_since": getattr(state, "short_since", None),
        "missing": missing[:SHOWN_MAX],
        "missing_count": len(missing),
        "missing_groups": parts.groups(missing),
        "replacing": replacing[:SHOWN_MAX],
        "replacing_count": len(replacing),
        **parts.machines(picture),
        **markets,
        "cooling": cooling[:SHOWN_MAX],
        "providers": parts.providers(picture),
        "funnel": picture.sieve.shown(),
        "money": cash,
        "policy": parts.policy(picture),
        "scaling": scaling,
        "next": next_[:NEXT_MAX],
        "next_at": next_[0]["at"] if next_ else None,
        "hopeless": picture.plan.hopeless if picture.plan else False,
        "retry_at": picture.plan.retry_at if picture.plan and not picture.plan.considered else None,
    }
    told["story"] = _story(picture, told)
    return told


# --- the story ------------------------------------------------------------------------------------


def _story(picture: Picture, told: Mapping[str, Any]) -> list[str]:
    state = picture.pool.state
    story = [_headline(picture, told)]
    if isinstance(state, Active | Parked) and state.paused is not None:
        by = f" by {state.paused.by}" if state.paused.by else ""
        story.append(f"It was paused{by} {ago(state.paused.since, picture.now)}: {PAUSED_TEXT}.")
        story.append(f"What was asked for meanwhile is done after `everpool resume {state.name}`.")
    story += _rolling_told(picture)
    match state:
        case Parked():
            since = ago(state.since, picture.now)
            story.append(f"It was parked {since}: {sentence(state.reason)}")
            story += _failed_told(picture)
            changed = f"changed in the config ({RELOADED})" if state.made_by == CONFIG else "updated"
            story.append(f"It launches nothing until it is {changed} or resized; machines that work stay.")
        case Active():
            story += _why_short(picture, told)
            story += _replacing_told(told)
            if state.failures:
                story += _failed_told(picture)
        case _:
            reason = getattr(state, "reason", "")
            why = f" ({reason})" if reason else ""
            story.append(f"It is {state.status}{why}: nothing is launched for it.")
            return story
    story += _money_told(picture, told["money"])
    if told["scaling"] is not None:
        story += _scaling_told(told["scaling"], picture.now)
    told_already = {group["next_at"] for group in told["missing_groups"][:TOLD_MAX]}
    first = next((one for one in told["next"] if one["what"] not in parts.ROUTINE), None)
    if first is not None and isinstance(state, Active) and first["at"] not in told_already:
        story.append(f"Next, {when(first['at'], picture.now)}: {first['what']}.")
    return story


def _rolling_told(picture: Picture) -> list[str]:
    """Machines that the spec asks for no more, and what keeps them from being replaced."""
    index = picture.index
    if not index.outdated:
        return []
    waits = rolling.waits(picture.pool.state, index, picture.now)
    held_up = "" if waits == rolling.GOES_ON else waits
    return [f"{outdated_text(len(index.outdated), held_up)}."]


def _replacing_told(told: Mapping[str, Any]) -> list[str]:
    """Nodes that will have another machine, and lack none."""
    story, groups = list[str](), parts.groups(told["replacing"])
    for group in groups[:TOLD_MAX]:
        alone = group["count"] == 1
        by = next(one["instance_id"] for one in told["replacing"] if one["node"] == group["nodes"][0])
        who = f"Node {group['nodes'][0]} is" if alone else f"Nodes {ranks(group['nodes'])} are"
        what = "being replaced" if group["starting"] else "to be replaced"
        which = f" by {by}" if alone and by is not None else ""
        works = "its machine works on" if alone else "their machines work on"
        story.append(sentence(f"{who} {what}{which}, {works}: {group['why']}"))
    return story


def _failed_told(picture: Picture) -> list[str]:
    """The last step that failed, with its words and where to look."""
    if picture.failed is None:
        return []
    name, phase, error = picture.failed
    more = f"`everpool explain {picture.pool.state.name} --instance {name}` says more"
    return [f"The set-up of {name} failed in step {phase!r}: {sentence(error)} {more}."]


def _headline(picture: Picture, told: Mapping[str, Any]) -> str:
    state, there = picture.pool.state, told["there"]
    ready, desired = there["ready"], state.desired
    text = f"{state.name} is {picture.pool.status}: "
    if desired == 0:
        text += "it wants no nodes"
    elif ready >= desired:
        text += f"{count(desired, 'node')} of {desired}"
    else:
        text += f"{ready} of {count(desired, 'node')} {be(ready)} ready"
        since = told["short_since"]
        text += f", short for {lasting(picture.now - since)}" if since is not None else ""
        text += "; its budget is reached" if told["money"]["reached"] else ""
    parts = [f"{there[key]} {key}" for key in ("starting", "leaving") if there[key]]
    if picture.spares or there["spares"]:
        parts.append(f"{there['spares']} of {count(picture.spares, 'spare')}")
    if parts:
        text += f" ({', '.join(parts)})"
    return f"{text}."


def _why_short(picture: Picture, told: Mapping[str, Any]) -> list[str]:
    now, story = picture.now, list[str]()
    for group in told["missing_groups"][:TOLD_MAX]:
        nodes = f"{'Node' if group['count'] == 1 else 'Nodes'} {ranks(group['nodes'])}"
        verb = "has" if group["count"] == 1 else "have"
        wanted = "another machine, its own is going" if group["works"] else "a machine"
        what = "given up" if group["starting"] else "looked at again"
        again = f"; {what} {when(group['next_at'], now)}" if group["next_at"] is not None else ""
        since = lasting(now - group["since"])
        story.append(f"{nodes} {verb} waited {since} for {wanted}: {group['why']}{again}.")
    if len(told["missing_groups"]) > TOLD_MAX:
        story.append(f"And {count(len(told['missing_groups']) - TOLD_MAX, 'more reason')} for other nodes.")
    if not told["missing_groups"]:
        return story
    unsold = [lack.text for _, lack in picture.sieve.lacks()]
    if unsold:
        story += unsold
    elif told["hopeless"]:
        story.append("Every market that fits was stopped: machines there could not be set up.")
    for one in told["passed_providers"]:
        story.append(f"{one['market']} is passed over: {one['why']}.")
    if all(group["starting"] for group in told["missing_groups"]):
        return story
    return story + _cooling_told(told["cooling"], now) + _refused_told(told, now)


def _cooling_told(cooling: Sequence[Json], now: float) -> list[str]:
    """A sentence for each provider and fault, with the provider's words."""
    groups: dict[tuple[str, str], list[Json]] = {}
    for one in cooling:
        groups.setdefault((one["market"].partition("/")[0], one["fault"]), []).append(one)
    story = []
    for (provider, fault), group in list(groups.items())[:TOLD_MAX]:
        first = group[0]
        which = first["market"] if len(group) == 1 else f"{count(len(group), 'market')} of {provider}"
        words = f", saying {first['detail']!r}" if first["detail"] else ""
        verb = "rests" if len(group) == 1 else "rest"
        until = (
            f"until {clock(first['until'], now)}"
            if len(group) == 1
            else f"the first until {clock(first['until'], now)}"
        )
        story.append(f"{which} {verb} {until}: refused ({fault}){words}.")
    return story


def _refused_told(told: Mapping[str, Any], now: float) -> list[str]:
    """The last words of markets that refused lately and have launched nothing since."""
    resting = {one["market"] for one in told["cooling"]}
    found: list[tuple[float, str]] = []
    for row in told["markets"]:
        memory = row["memory"]
        at = memory["last_refusal_at"] if memory is not None else None
        if at is None or row["market"] in resting or at < now - REFUSED_LATELY_S:
            continue
        if at >= (memory["last_launch_at"] or 0.0):
            words = f": {memory['last_detail']}" if memory["last_detail"] else ""
            found.append(
                (at, sentence(f"{row['market']} refused {ago(at, now)}, {memory['last_fault']}{words}"))
            )
    return [text for _, text in sorted(found, reverse=True)[:TOLD_MAX]]


def _scaling_told(scaling: Mapping[str, Any], now: float) -> list[str]:
    story = []
    grew, shrank = scaling["grew_at"] or 0.0, scaling["shrank_at"] or 0.0
    if scaling["why"]:
        verb = "grew" if grew >= shrank else "shrank"
        story.append(sentence(f"It {verb} {ago(max(grew, shrank), now)}: {scaling['why']}"))
    if scaling["waits_for"]:
        story.append(sentence(f"Scaling: {scaling['waits_for']}"))
    return story


def _money_told(picture: Picture, cash: Mapping[str, Any]) -> list[str]:
    if cash["per_day"] is None and cash["total"] is None:
        return []
    parts = []
    if cash["per_day"] is not None:
        parts.append(f"${cash['usd_today']:,.2f} of ${cash['per_day']:,.2f} today")
    if cash["total"] is not None:
        parts.append(f"${cash['usd_total']:,.2f} of ${cash['total']:,.2f} in all")
    text = f"Spent {' and '.join(parts)}"
    if cash["reached"] is None:
        return [
            f"{text}.",
            *([sentence(f"No machine is launched: {cash['forbids']}")] if cash["forbids"] else []),
        ]
    then = {
        "warn": "nothing is done about it",
        "stop-launching": "nothing is launched",
        "drain": "its machines are ended",
    }[cash["then"]]
    until = f" {until_text}" if (until_text := _until(cash["until"], picture.now)) else ""
    what = "the day's budget" if cash["reached"] == "day" else "the whole budget"
    aside = cash["usd_set_aside"]
    kept = f" with ${aside:,.2f} set aside to end machines or to start one" if aside else ""
    return [f"{text}: {what} is reached{kept}, and {then}{until}."]


def _until(at: float | None, now: float) -> str:
    return f"until {clock(at, now)}" if at is not None else "until it is raised"
