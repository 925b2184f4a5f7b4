"""What `everpool top` shows: one frame from what is known, fitted to a width and a height."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from actors.events import Envelope
from controller.cli.costs import usd
from controller.cli.happenings import line
from controller.cli.shows import machine_word
from controller.cli.tables import broken, plain
from controller.sentences import told
from controller.telling import lasting

Json = Mapping[str, Any]
View = Literal["nodes", "machines", "tasks"]
VIEWS: tuple[View, ...] = ("nodes", "machines", "tasks")
EVENTS_KEPT = 200
SMALL = 20  # rows of a terminal below which events are left out
NARROW = 60  # columns of one that has no room for our name
ROWS_LEAST = 3  # of a pool's nodes, before its reason takes room
LAST_LEAST = 12  # cells that the last column needs when it says something
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
        events: the newest of all pools, oldest first.
        older: the newest of the pool `older_of` when it was chosen, which may be older than those.
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
    older: Sequence[Envelope] = ()
    older_of: str = ""
    lost: str = ""
    missed: str = ""
    chosen: str = ""
    view: View = "nodes"
    is_help: bool = False
    is_still: bool = False

    def told(self) -> list[Envelope]:
        """What happened to the chosen pool and to the daemon, oldest first, without chatter."""
        found = {one.seq: one for one in (*self.older, *self.events) if one.pool in (self.chosen, "")}
        return [one for _, one in sorted(found.items()) if told(one)[0] != "DEBUG"]

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


def frame(known: Known, width: int, height: int, *, once: bool = False) -> RenderableType:
    """One screen of `height` lines; `once`: nobody can press a key, and nothing more will come."""
    if known.is_help:
        return Group(_head(known, width, once), Text(""), _help())
    found = known.told()
    pools_most = max(1, min(len(known.pools), max(3, height // 3)))
    events_most = 0 if height < SMALL or (once and not found) else max(3, height // 4)
    rows_most = height - 1 - (pools_most + 1) - 2 - (events_most + 1 if events_most else 0) - 1
    reason = _reason(known, width, most=rows_most - ROWS_LEAST)
    rows_most -= len(reason)
    parts: list[RenderableType] = [_head(known, width, once), _pools(known, pools_most, width)]
    parts += [_tabs(known, once), *reason, _rows(known, max(1, rows_most), width)]
    if events_most:
        parts.append(_rule("events", width))
        parts += [_fit(line(one, kind=False, pool=False)) for one in found[-events_most:]]
        if not found:
            parts.append(Text("none yet", style="dim"))
    return Group(*parts)


def _reason(known: Known, width: int, most: int) -> list[Text]:
    """The chosen pool's reason, whole where there is room for `most` lines."""
    told = next((one["reason"] for one in known.pools if one["name"] == known.chosen), "")
    if not told or most < 1:
        return []
    lines = broken(plain(told), width)
    if len(lines) > most:
        lines = [*lines[: most - 1], f"{lines[most - 1][: width - 1]}…"]
    return [Text(line, style="red", no_wrap=True, overflow="ellipsis") for line in lines]


def _fit(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def _rule(title: str, width: int) -> Text:
    return Text(
        f"── {title} {'─' * max(0, width - len(title) - 4)}", style="dim", no_wrap=True, overflow="crop"
    )


def _head(known: Known, width: int, once: bool) -> Text:
    running = sum(_running(one) for one in known.pools)
    queued = sum(one["queue"] for one in known.pools)
    ready, desired = (sum(one[key] for one in known.pools) for key in ("ready", "desired"))
    rate = sum(one["usd_per_hour"] for one in known.pools)
    left = Text("everpool  " if width >= NARROW else "", style="bold")
    if known.lost:
        left.append(known.lost, style="bold red")
    elif known.missed:
        left.append(known.missed, style="yellow")
    elif known.is_still:
        left.append("stands still (space)", style="yellow")
    parts = [f"{ready}/{desired} nodes", f"{running} running", f"{queued} queued", f"${rate:,.4f}/h"]
    if known.cost is not None:
        parts.append(f"{usd(known.cost['today_usd'])} today")
    for part in parts:  # as many as there is room for
        gap = "  " if left.plain.strip() and not left.plain.endswith("  ") else ""
        if left.cell_len + len(gap) + len(part) <= width:
            left.append(f"{gap}{part}", style="not bold")
    clock, keys = time.strftime("%H:%M:%S"), "? help  q quit"
    for right in (clock,) if once else (f"{clock}  {keys}", keys, "? q"):
        gap_size = width - left.cell_len - len(right)
        if gap_size > 1:
            left.append(" " * gap_size)
            left.append(right, style="not bold dim")
            break
    return _fit(left)


def _help() -> Table:
    table = Table.grid(padding=(0, 3))
    for keys, what in HELP:
        table.add_row(Text(f"  {keys}", style="bold"), what)
    return table


Title = tuple[str, Literal["left", "right"], int]  # the last: what goes first when there is no room; 0: never


def _grid(
    columns: Sequence[Title], rows: Sequence[Sequence[str | Text]], width: int, bold: int = -1
) -> Table:
    """Columns side by side, as many as there is room for; the last takes what is left. `bold`: a row."""
    cells = [[one if isinstance(one, Text) else Text(one) for one in row] for row in rows]
    sizes = [
        max([cell_len(title), *(row[at].cell_len for row in cells)])
        for at, (title, _, _) in enumerate(columns)
    ]
    said = max((row[-1].cell_len for row in cells), default=0)
    sizes[-1] = min(max(said, cell_len(columns[-1][0])), LAST_LEAST) if said else 0
    chosen = list(range(len(columns)))
    for drop in sorted({one[2] for one in columns} - {0}):
        if sum(sizes[at] + 2 for at in chosen) - 2 <= width:
            break
        chosen = [at for at in chosen if columns[at][2] != drop]
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0), width=width)
    for at in chosen:
        title, justify, _ = columns[at]
        ratio = 1 if at == chosen[-1] else None
        title = "" if ratio and not said else title  # half a title over nothing helps nobody
        table.add_column(title, justify=justify, no_wrap=True, overflow="ellipsis", ratio=ratio)
    for number, row in enumerate(cells):
        table.add_row(*(row[at] for at in chosen), style="bold" if number == bold else "")
    return table


_POOLS: tuple[Title, ...] = (
    ("", "left", 0),
    ("POOL", "left", 0),
    ("STATUS", "left", 0),
    ("NODES", "right", 0),
    ("RUN", "right", 3),
    ("QUEUE", "right", 3),
    ("USD/H", "right", 4),
    ("TODAY", "right", 1),
)


def _running(pool: Json) -> int:
    return int(sum(pool["tasks"].values())) - int(pool["queue"])


def _pools(known: Known, most: int, width: int) -> Table:
    costs = {one["pool"]: one for one in known.cost["pools"]} if known.cost is not None else {}
    names = [one["name"] for one in known.pools]
    at = names.index(known.chosen) if known.chosen in names else 0
    first = max(0, min(at - most // 2, len(names) - most))
    rows = []
    for one in known.pools[first : first + most]:
        cost = costs.get(one["name"])
        rows.append(
            (
                "▶" if one["name"] == known.chosen else " ",
                Text(one["name"]),
                Text(one["status"], style=_POOL_STYLES.get(one["status"], "")),
                f"{one['ready']}/{one['desired']}",
                str(_running(one)),
                str(one["queue"]),
                f"{one['usd_per_hour']:.4f}",
                usd(cost["today_usd"]) if cost is not None else "-",
                Text(one["reason"], style="red") if one["reason"] else _budget(cost),
            )
        )
    if not rows:
        return _grid((("", "left", 0), ("POOL", "left", 0)), [("", "no pools: everpool up NAME")], width)
    last = [
        title
        for title, there in (
            ("REASON", any(one["reason"] for one in known.pools)),
            ("BUDGET", any(cost["budget"] is not None for cost in costs.values())),
        )
        if there
    ]
    return _grid((*_POOLS, (" / ".join(last), "left", 0)), rows, width, bold=at - first)


def _budget(cost: Json | None) -> Text:
    if cost is None or cost["budget"] is None:
        return Text("")
    least = min(cost["budget"]["periods"], key=lambda period: float(period["left_usd"]))
    spent, limit = least["limit_usd"] - least["left_usd"], least["limit_usd"]
    share = min(1.0, spent / limit) if limit else 1.0
    style = "red" if least["reached"] else "yellow" if share >= 0.8 else "green"
    full = round(share * 8)
    text = Text("█" * full, style=style)
    text.append("░" * (8 - full), style="dim")
    text.append(f" {share:.0%} of {usd(limit)} {'a day' if least['period'] == 'day' else 'in all'}")
    return text


def _tabs(known: Known, once: bool) -> Text:
    text = Text("\n")
    for number, view in enumerate(VIEWS, 1):
        if once and view != known.view:
            continue
        style = "reverse" if view == known.view and not once else "dim"
        text.append(view if once else f" {number}:{view} ", style=style)
        text.append(" ")
    if known.chosen:
        text.append(f"of {known.chosen}", style="dim")
    return _fit(text)


_COLUMNS: Mapping[View, Sequence[Title]] = {
    "nodes": (
        ("NODE", "right", 0),
        ("STATUS", "left", 0),
        ("INSTANCE", "left", 2),
        ("MACHINE", "left", 1),
        ("FOR", "right", 3),
        ("WAITS FOR", "left", 0),
    ),
    "machines": (
        ("INSTANCE", "left", 0),
        ("NODE", "right", 1),
        ("STATUS", "left", 0),
        ("USD/H", "right", 3),
        ("TASKS", "right", 2),
        ("FOR", "right", 4),
        ("MARKET", "left", 5),
    ),
    "tasks": (
        ("TASK", "left", 0),
        ("STATUS", "left", 0),
        ("NODE", "right", 2),
        ("TRY", "right", 1),
        ("FOR", "right", 3),
        ("NAME", "left", 0),
    ),
}


def _rows(known: Known, most: int, width: int) -> RenderableType:
    fresh = known.rows_of == (known.chosen, known.view)
    found = sorted(known.rows, key=_order) if fresh else ()
    now = time.time()
    more = len(found) + known.more - most if fresh else 0
    shown = found[: most - 1 if more > 0 else most]
    parts: list[RenderableType] = [
        _grid(_COLUMNS[known.view], [_CELLS[known.view](one, now) for one in shown], width)
    ]
    if more > 0:
        parts.append(Text(f"and {more + 1} more", style="dim"))
    elif not found:
        parts.append(Text(("none" if fresh else "…") if known.chosen else "", style="dim"))
    return Group(*parts)


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
    machine = Text(machine_word(one) or "-", style=_STYLES.get(one["instance_status"] or "", ""))
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
