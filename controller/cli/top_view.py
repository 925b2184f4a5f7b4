"""What `everpool top` shows: one frame from what is known, fitted to a width and a height."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from actors.events import Envelope
from controller.cli.costs import usd
from controller.cli.happenings import line
from controller.sentences import told
from controller.telling import lasting

Json = Mapping[str, Any]
View = Literal["nodes", "machines", "tasks"]
VIEWS: tuple[View, ...] = ("nodes", "machines", "tasks")
EVENTS_KEPT = 200
SMALL = 20  # rows of a terminal below which events are left out
_POOL_STYLES = {
    "ready": "green",
    "degraded": "yellow",
    "short": "yellow",
    "unhealthy": "red",
    "parked": "bold red",
    "paused": "magenta",
    "draining": "magenta",
    "provisioning": "cyan",
    "requesting": "cyan",
}
_STYLES = {
    "filled": "green",
    "ready": "green",
    "running": "green",
    "filling": "cyan",
    "requested": "cyan",
    "provisioning": "cyan",
    "bootstrapping": "cyan",
    "replacing": "yellow",
    "draining": "magenta",
    "destroying": "magenta",
    "vacant": "dim",
    "pending": "dim",
}
HELP = (
    ("q, Ctrl-C", "quit"),
    ("up down, k j", "choose a pool"),
    ("tab, 1 2 3", "nodes, machines, tasks of the chosen pool"),
    ("space", "stand still, and go on"),
    ("r", "look again now"),
    ("?", "this help, and back"),
)


@dataclass(slots=True)
class Known:
    """All that the screen shows.

    Attributes:
        pools, cost: as /v1/pools and /v1/cost tell them.
        rows: of the view, of the chosen pool; `rows_of` names both.
        more: rows that there are and that were not asked for.
        events: the newest, oldest first.
        lost: why the daemon does not answer; empty: it does.
        missed: which events could not be had; until a key is pressed.
        is_help, is_still: help is shown; nothing is asked for.
    """

    pools: Sequence[Json] = ()
    cost: Json | None = None
    rows: Sequence[Json] = ()
    rows_of: tuple[str, View] | None = None
    more: int = 0
    events: deque[Envelope] = field(default_factory=lambda: deque(maxlen=EVENTS_KEPT))
    lost: str = ""
    missed: str = ""
    chosen: str = ""
    view: View = "nodes"
    is_help: bool = False
    is_still: bool = False

    def choose(self, step: int) -> None:
        """Go to another pool."""
        names = [one["name"] for one in self.pools]
        if names:
            at = names.index(self.chosen) if self.chosen in names else 0
            self.chosen = names[max(0, min(len(names) - 1, at + step))]

    def took_pools(self, pools: Sequence[Json]) -> None:
        """Take in the pools; the chosen one stays chosen while it is there."""
        self.pools = pools
        names = [one["name"] for one in pools]
        if self.chosen not in names:
            self.chosen = names[0] if names else ""


def frame(known: Known, width: int, height: int) -> RenderableType:
    """One screen of `height` lines."""
    if known.is_help:
        return Group(_head(known, width), Text(""), _help())
    pools_most = max(3, min(len(known.pools), height // 3))
    events_most = 0 if height < SMALL else max(3, height // 4)
    rows_most = height - 1 - (pools_most + 1) - 2 - (events_most + 1 if events_most else 0) - 1
    parts: list[RenderableType] = [_head(known, width), _pools(known, pools_most, width)]
    parts += [_tabs(known), _rows(known, max(1, rows_most), width)]
    if events_most:
        parts.append(_rule("events", width))
        found = [one for one in known.events if one.pool in (known.chosen, "") and told(one)[0] != "DEBUG"]
        parts += [_fit(line(one, kind=False)) for one in found[-events_most:]]
    return Group(*parts)


def _fit(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _rule(title: str, width: int) -> Text:
    return Text(
        f"── {title} {'─' * max(0, width - len(title) - 4)}", style="dim", no_wrap=True, overflow="crop"
    )


def _head(known: Known, width: int) -> Text:
    running = sum(_running(one) for one in known.pools)
    queued = sum(one["queue"] for one in known.pools)
    ready, desired = (sum(one[key] for one in known.pools) for key in ("ready", "desired"))
    rate = sum(one["usd_per_hour"] for one in known.pools)
    left = Text("everpool", style="bold")
    left.append(
        f"  {ready}/{desired} nodes  {running} running  {queued} queued  ${rate:,.4f}/h", style="not bold"
    )
    if known.cost is not None:
        left.append(f"  {usd(known.cost['today_usd'])} today", style="not bold")
    if known.lost:
        left.append(f"  {known.lost}", style="bold red")
    elif known.missed:
        left.append(f"  {known.missed}", style="yellow")
    elif known.is_still:
        left.append("  stands still (space)", style="yellow")
    right = time.strftime("%H:%M:%S  ? help  q quit")
    gap = width - left.cell_len - len(right)
    if gap > 1:
        left.append(" " * gap)
        left.append(right, style="not bold dim")
    return _fit(left)


def _help() -> Table:
    table = Table.grid(padding=(0, 3))
    for keys, what in HELP:
        table.add_row(Text(f"  {keys}", style="bold"), what)
    return table


def _grid(columns: Sequence[tuple[str, Literal["left", "right"]]], width: int) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0), width=width)
    for place, (title, justify) in enumerate(columns):
        last = place == len(columns) - 1
        table.add_column(title, justify=justify, no_wrap=True, overflow="ellipsis", ratio=1 if last else None)
    return table


_POOLS: tuple[tuple[str, Literal["left", "right"]], ...] = (
    ("", "left"),
    ("POOL", "left"),
    ("STATUS", "left"),
    ("NODES", "right"),
    ("RUN", "right"),
    ("QUEUE", "right"),
    ("USD/H", "right"),
    ("TODAY", "right"),
    ("BUDGET", "left"),
)


def _running(pool: Json) -> int:
    return int(sum(pool["tasks"].values())) - int(pool["queue"])


def _pools(known: Known, most: int, width: int) -> Table:
    table = _grid(_POOLS, width)
    costs = {one["pool"]: one for one in known.cost["pools"]} if known.cost is not None else {}
    names = [one["name"] for one in known.pools]
    at = names.index(known.chosen) if known.chosen in names else 0
    first = max(0, min(at - most // 2, len(names) - most))
    for one in known.pools[first : first + most]:
        is_chosen = one["name"] == known.chosen
        cost = costs.get(one["name"])
        table.add_row(
            "▶" if is_chosen else " ",
            Text(one["name"]),
            Text(one["status"], style=_POOL_STYLES.get(one["status"], "")),
            f"{one['ready']}/{one['desired']}",
            str(_running(one)),
            str(one["queue"]),
            f"{one['usd_per_hour']:.4f}",
            usd(cost["today_usd"]) if cost is not None else "-",
            _budget(one, cost),
            style="bold" if is_chosen else "",
        )
    if not known.pools:
        table.add_row("", "no pools")
    return table


def _budget(pool: Json, cost: Json | None) -> Text:
    if cost is None or cost["budget"] is None:
        return Text(pool["reason"] or "", style="red")
    least = min(cost["budget"]["periods"], key=lambda period: float(period["left_usd"]))
    spent, limit = least["limit_usd"] - least["left_usd"], least["limit_usd"]
    share = min(1.0, spent / limit) if limit else 1.0
    style = "red" if least["reached"] else "yellow" if share >= 0.8 else "green"
    full = round(share * 8)
    text = Text("█" * full, style=style)
    text.append("░" * (8 - full), style="dim")
    text.append(f" {share:.0%} of {usd(limit)} {'a day' if least['period'] == 'day' else 'in all'}")
    return text


def _tabs(known: Known) -> Text:
    text = Text("\n")
    for number, view in enumerate(VIEWS, 1):
        style = "reverse" if view == known.view else "dim"
        text.append(f" {number} {view} ", style=style)
        text.append(" ")
    if known.chosen:
        text.append(f"of {known.chosen}", style="dim")
    return _fit(text)


_COLUMNS: Mapping[View, Sequence[tuple[str, Literal["left", "right"]]]] = {
    "nodes": (
        ("NODE", "right"),
        ("STATUS", "left"),
        ("INSTANCE", "left"),
        ("MACHINE", "left"),
        ("FOR", "right"),
        ("WAITS FOR", "left"),
    ),
    "machines": (
        ("INSTANCE", "left"),
        ("NODE", "right"),
        ("STATUS", "left"),
        ("USD/H", "right"),
        ("TASKS", "right"),
        ("FOR", "right"),
        ("MARKET", "left"),
    ),
    "tasks": (
        ("TASK", "left"),
        ("STATUS", "left"),
        ("NODE", "right"),
        ("TRY", "right"),
        ("FOR", "right"),
        ("NAME", "left"),
    ),
}


def _rows(known: Known, most: int, width: int) -> Table:
    table = _grid(_COLUMNS[known.view], width)
    fresh = known.rows_of == (known.chosen, known.view)
    found = sorted(known.rows, key=_order) if fresh else ()
    now = time.time()
    more = len(found) + known.more - most if fresh else 0
    shown = found[: most - 1 if more > 0 else most]
    for one in shown:
        table.add_row(*_CELLS[known.view](one, now))
    if more > 0:
        table.add_row("", Text(f"and {more + 1} more", style="dim"))
    elif not found:
        table.add_row("", Text("none" if fresh else "…", style="dim"))
    return table


_CALM = ("filled", "ready", "running", "pending")


def _order(one: Json) -> tuple[bool, int]:
    """What is on its way first: it is what one looks for when not all fits."""
    return one["status"] in _CALM, int(one.get("node") or 0)


def _status(word: str | None) -> Text:
    return Text(word or "-", style=_STYLES.get(word or "", ""))


def _for(since: float | None, now: float) -> str:
    return "-" if since is None else lasting(now - since)


def _node(one: Json, now: float) -> Sequence[str | Text]:
    name = one["instance_id"] or one["old_instance_id"] or "-"
    machine = _status(one["instance_status"])
    return (
        str(one["node"]),
        _status(one["status"]),
        name,
        machine,
        _for(one["since"], now),
        Text(one["why_waiting"]),
    )


def _machine(one: Json, now: float) -> Sequence[str | Text]:
    reason = f" ({one['reason']})" if one["reason"] else ""
    status = Text(one["status"] + reason, style=_STYLES.get(one["status"], ""))
    price, tasks = f"{one['usd_per_hour']:.4f}", str(len(one["tasks"]))
    return (
        one["id"],
        str(one["node"]),
        status,
        price,
        tasks,
        _for(one["created_at"], now),
        Text(one["market"]),
    )


def _task(one: Json, now: float) -> Sequence[str | Text]:
    node = "-" if one["node"] is None else str(one["node"])
    since = one["started_at"] or one["queued_at"]
    return one["id"], _status(one["status"]), node, str(one["attempt"]), _for(since, now), Text(one["name"])


_CELLS = {"nodes": _node, "machines": _machine, "tasks": _task}
