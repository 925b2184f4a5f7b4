"""What users want of where machines are bought, of scaling and of money: drawn, so that it can be had."""

import random
from typing import Any

POLICIES = (
    "hazard",
    "hazard",
    "hazard",
    "hazard",
    "sticky-race",
    "karpenter",
    "spothedge",
    "on-demand",
    "round-robin",
    "eager-next-region",
    "even-spread",
)
SPOT_ONLY = ("round-robin", "eager-next-region", "even-spread")  # covered by nothing when no spot is left
KINDS = (
    ({"zone": ("*-1", "*-2")}, {"zone": ("*-3",), "price_factor": 1.5}),
    ({"lifecycle": "spot", "price_factor": 0.8}, {"lifecycle": "on_demand"}),
    ({"provider": ("alpha", "bravo", "charlie"), "instance_type": ("s?m",)},),
)


def wishes_of(dice: random.Random, nodes_max: int) -> dict[str, Any]:
    """Keys of a spec. Every draw is made, so that what follows does not depend on what came out.

    Args:
        dice: what it is drawn from.
        nodes_max: as many nodes as such a pool may have.
    """
    draws = [dice.random() for _ in range(12)]
    wishes: dict[str, Any] = {"buying": _buying(draws[0:4])}
    if draws[4] < 0.25:
        wishes["on_demand"] = _on_demand(draws[5])
    if draws[6] < 0.15:
        wishes["spread"] = "zones" if draws[6] < 0.10 else "together"
    if draws[7] < 0.2:
        wishes["alternatives"] = KINDS[int(draws[7] / 0.2 * len(KINDS))]
    if draws[8] < 0.3:
        wishes["max_hourly_cost"] = 1.0 if draws[8] < 0.15 else 1.2
    if draws[9] < 0.3:
        wishes["budget"] = _budget(draws[9] / 0.3, draws[10])
    if draws[11] < 0.25:
        wishes["scaling"] = {"idle_timeout_s": round(60 + 2400 * draws[11], 3), "down_cooldown_s": 120}
        wishes["least"] = int(draws[11] / 0.25 * 2)
        wishes["most"] = nodes_max
    return wishes


def _buying(draws: list[float]) -> dict[str, Any]:
    policy = POLICIES[int(draws[0] * len(POLICIES))]
    buying: dict[str, Any] = {"policy": policy}
    if policy == "hazard":
        buying["missing_node_hour"] = (5, 20, 20, 100, 300)[int(draws[1] * 5)]
        if draws[1] < 0.1:
            buying["availability"] = 0.999
    if policy == "spothedge":
        buying["extra"] = int(draws[1] * 3)
    if draws[2] < 0.3:
        buying["spares"] = (1, 2, "auto")[int(draws[2] / 0.3 * 3)]
    if draws[3] < 0.15:
        buying["patience_s"] = round(600 * draws[3] / 0.15, 3)
    return buying


def _on_demand(draw: float) -> dict[str, Any]:
    if draw < 0.4:
        return {"floor": 1}
    if draw < 0.7:
        return {"share": 0.5}
    return {"floor": 1, "ceiling": 2}


def _budget(how: float, draw: float) -> dict[str, Any]:
    then = ("warn", "stop-launching", "drain", "drain")[int(how * 4)]
    return {"per_day": round(5 + 40 * draw, 2), "then": then}


def unlimited(wishes: dict[str, Any]) -> dict[str, Any]:
    """The same without what may keep a pool from ever being whole."""
    kept = {key: value for key, value in wishes.items() if key != "budget"}
    if kept["buying"]["policy"] in SPOT_ONLY:
        kept["buying"] = {"policy": "hazard"}
    if "ceiling" in kept.get("on_demand", {}):
        del kept["on_demand"]
    return kept
