"""The command that tells what pools cost."""

import time
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from controller.cli.command import Session, command
from controller.cli.completing import pool_names
from controller.sentences import outcome
from controller.telling import count, took

Json = dict[str, Any]
DAYS_SHOWN = 14


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app)(cost)


async def cost(
    session: Session,
    pool: Annotated[
        str | None,
        typer.Argument(metavar="POOL", help="All about this pool.", autocompletion=pool_names),
    ] = None,
) -> None:
    """Tell what pools cost, and what is left of their budgets.

    It tells it for now, today, by day, market and task.
    """
    async with session.client() as client:
        told: Json = await (client.cost() if pool is None else client.pool_cost(pool))
    if pool is None:
        if session.json or not told["pools"]:
            session.show(told, "")
            if not session.json:
                session.say("no pools")
            return
        rows = [_row(one) for one in told["pools"]]
        if len(rows) > 1:
            rows.append(("all", "", *_sums(told), "", ""))
        session.table(told, _POOLS, rows=rows, empty="no pools")
        if told["unknown_usd"]:
            session.show(None, _unknown(told))
        return
    session.show(told, "\n".join(_lines(told)))


def _unknown(told: Json) -> str:
    """What no pool's account has, and of which pools the machines were."""
    text = f"and {usd(told['unknown_usd'])} since {day_time(told['since'])} that no pool owns"
    of = [
        f"{usd(one['usd'])} of machines that pool {one['pool']} lost sight of"
        for one in told["unknown"]
        if one["pool"]
    ]
    return text + (f": {', '.join(of)}" if of else "")


_POOLS = ("POOL", "STATUS", "USD/H", "TODAY", "FORECAST", "TOTAL", "LEFT", "BUDGET")


def usd(dollars: float) -> str:
    """Dollars; more digits for less than a cent."""
    return f"${dollars:,.2f}" if dollars == 0 or abs(dollars) >= 0.01 else f"${dollars:.6f}"


def day_time(at: float) -> str:
    """A moment, UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))


def _sums(one: Json) -> tuple[str, ...]:
    names = ("today_usd", "forecast_usd", "total_usd")
    return (f"{one['usd_per_hour']:.4f}", *(usd(one[name]) for name in names))


def _row(one: Json) -> tuple[Any, ...]:
    budget = one["budget"]
    left = limit = None
    if budget is not None:
        least = min(budget["periods"], key=lambda period: period["left_usd"])
        left = usd(least["left_usd"])
        limit = f"{usd(least['limit_usd'])} {_A[least['period']]}, then {budget['then']}"
        if least["reached"]:
            limit += ": reached"
    return (one["pool"], one["status"], *_sums(one), left, limit)


_A = {"day": "a day", "total": "in all"}


def _lines(told: Json) -> Iterable[str]:
    yield f"{told['pool']} is {told['status']}"
    pairs = [
        ("an hour", f"${told['usd_per_hour']:.4f}"),
        (
            "today",
            f"{usd(told['today_usd'])}, {usd(told['forecast_usd'])} by its end (00:00 UTC) at this rate",
        ),
        ("in all", usd(told["total_usd"])),
        *_budget(told["budget"]),
    ]
    tasks = told["tasks"]
    if tasks["ended"]:
        mean = usd(tasks["mean_usd"])
        first = day_time(tasks["since"])
        pairs.append(("tasks", f"{tasks['ended']} ended since {first}, {usd(tasks['usd'])}, {mean} each"))
    if told["wasted_hour_usd"]:
        pairs.append(
            ("wasted", f"{usd(told['wasted_hour_usd'])} within the hour, on machines that never worked")
        )
    yield from _columns(pairs)
    yield from _table("by day (UTC)", _days(told))
    markets = [
        (
            one["market"],
            f"{count(one['machines'], 'machine')} now",
            f"${one['usd_per_hour']:.4f}/h",
            usd(one["usd"]),
        )
        for one in told["by_market"]
    ]
    since = f"since {day_time(told['since'])}"
    yield from _table(f"by market, {since}", markets)
    kinds = [(kind, usd(spent)) for kind, spent in told["by_kind"].items() if spent]
    yield from _table(f"by what machines did, {since}", kinds)
    last = [
        (one["id"], one["name"], outcome(one["result"]), took(one["duration"]), usd(one["cost_usd"]))
        for one in tasks["last"]
    ]
    yield from _table("last tasks", last)


def _days(told: Json) -> list[tuple[str, str]]:
    days = [(one["day"], usd(one["usd"])) for one in told["days"][-DAYS_SHOWN:]]
    return [*days, (f"{told['day']}, so far", usd(told["today_usd"]))]


def _budget(budget: Json | None) -> Iterable[tuple[str, str]]:
    if budget is None:
        return
    for one in budget["periods"]:
        text = f"{usd(one['left_usd'])} left of {usd(one['limit_usd'])} {_A[one['period']]}"
        text += f", then {budget['then']}"
        if one["reached"]:
            again = "raise it to go on" if one["until"] is None else f"free at {day_time(one['until'])}"
            text += f"; reached, {again}"
        elif one["reached_at"] is not None:
            text += f"; reached at this rate at {day_time(one['reached_at'])}"
        yield "budget", text


def _columns(rows: Iterable[tuple[str, ...]], indent: str = "  ") -> Iterable[str]:
    found = [tuple(str(cell) for cell in row) for row in rows]
    widths = [max(len(row[i]) for row in found) for i in range(len(found[0]))] if found else []
    for row in found:
        yield (
            indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        ).rstrip()


def _table(title: str, rows: Iterable[tuple[str, ...]]) -> Iterable[str]:
    found = list(rows)
    if found:
        yield ""
        yield title
        yield from _columns(found)
