"""Commands that say why: explain, offers."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import typer

from controller.cli.codes import USAGE, CliError
from controller.cli.command import Session, command
from controller.cli.completing import instance_ids, pool_names, task_ids
from controller.cli.costs import usd
from controller.cli.tables import Column, broken
from controller.telling import be, clock, count, hourly, lasting, listed, ranks, when

MARKETS_SHOWN = 20
MACHINES_SHOWN = 12
_NAME = "Name, or a pattern with * and ?. Repeatable."
_WHY, _WHAT = Column("WHY", words=True), Column("WHAT", words=True)
Row = Sequence[Any]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for function in (explain, offers):
        command(app)(function)


async def explain(
    session: Session,
    pool: Annotated[
        str, typer.Argument(metavar="POOL", help="[default: the profile's]", autocompletion=pool_names)
    ] = ".",
    task: Annotated[
        str | None,
        typer.Option("--task", metavar="ID", help="Why is this task pending?", autocompletion=task_ids),
    ] = None,
    instance: Annotated[
        str | None,
        typer.Option(
            "--instance",
            metavar="ID",
            help="Why is this instance where it is, or gone?",
            autocompletion=instance_ids,
        ),
    ] = None,
) -> None:
    """Say why a pool is as it is, and what happens next and when."""
    if task is not None and instance is not None:
        raise CliError(USAGE, "--task and --instance: say one of them")
    async with session.client() as client:
        told: dict[str, Any]
        if task is not None:
            told = await client.explain_task(pool, task)
        elif instance is not None:
            told = await client.explain_instance(pool, instance)
        else:
            told = await client.explain(pool)
    if session.json:
        session.show(told)
        return
    show_story(session, told)
    if task is None and instance is None:
        show_pool(session, told)
    else:
        _section(session, "What happened", ("WHEN", _WHAT), _happened(told))


def show_story(session: Session, told: dict[str, Any]) -> None:
    """What is the matter, in sentences."""
    session.show(told, "\n".join(_wrapped(session, told["story"])))


def _wrapped(session: Session, texts: Sequence[str]) -> list[str]:
    """Sentences as lines, broken between words on a terminal; a pipe gets each whole."""
    if not session.out.is_terminal:
        return list(texts)
    return [line for text in texts for line in broken(text, session.out.width)]


def _section(session: Session, title: str, columns: Sequence[Column | str], rows: Iterable[Row]) -> None:
    """A table with a title; nothing when it has no row."""
    found = list(rows)
    if found:
        session.show(None, f"\n{title}:")
        session.table(None, columns, found, empty="")


def _happened(told: dict[str, Any]) -> list[Row]:
    return [(clock(one["at"], told["at"]), one["message"]) for one in told["log"]]


# --- a pool ---------------------------------------------------------------------------------------


def show_pool(session: Session, told: dict[str, Any]) -> None:
    """The explanation of a pool as tables."""
    now = told["at"]
    missing = told["missing_groups"]
    _section(session, "Missing", ("NODES", "FOR", "NEXT", _WHY), [_group(one, now) for one in missing])
    _section(session, "Being replaced", _REPLACING, _replacing(told))
    _section(session, "Machines", _MACHINES, _machines(told))
    allowed, passed = told["markets_allowed"], told["markets_passed"]
    markets = told["markets"][:MARKETS_SHOWN]
    title = f"Markets that fit, best first ({allowed} may be asked now, {passed} {be(passed)} passed over)"
    why = {one["why"] for one in markets}
    if not allowed and len(markets) > 1 and len(why) == 1:  # said once
        title = f"Markets that fit ({passed}, none may be asked: {next(iter(why))})"
        markets = [one | {"why": ""} for one in markets]
    _section(session, title, _MARKETS, [_market(one, now) for one in markets])
    if not told["markets"]:
        steps = [(one["name"], one["removed"], one["left"]) for one in told["funnel"]]
        _section(session, "Offers that fit", ("FILTER", "REMOVED", "LEFT"), steps)
    silent = [
        (one["provider"], _number(one["offers"]), one["down"] or "has not told its offers yet")
        for one in told["providers"]
        if one["down"] or one["offers"] is None
    ]
    _section(session, "Providers passed over", ("PROVIDER", "OFFERS", _WHY), silent)
    _section(session, "Next", ("WHEN", _WHAT), [(when(one["at"], now), one["what"]) for one in told["next"]])
    session.show(None, "\n" + "\n".join(_wrapped(session, _settings(told))))


def _group(one: dict[str, Any], now: float) -> Row:
    nodes = ranks(one["nodes"]) if one["count"] <= len(one["nodes"]) else count(one["count"], "node")
    at = None if one["next_at"] is None else when(one["next_at"], now)
    return nodes, lasting(now - one["since"]), at, one["why"]


_REPLACING = ("NODE", "MACHINE THAT WORKS", "BY", Column("FOR", drop=2), Column("NEXT", drop=1), _WHY)


def _replacing(told: dict[str, Any]) -> list[Row]:
    """Nodes that lack nothing: their machine works on until another is ready."""
    now, found = told["at"], told["replacing"][:MACHINES_SHOWN]
    rows: list[Row] = []
    for one in found:
        at = None if one["next_at"] is None else when(one["next_at"], now)
        since = lasting(now - one["since"])
        rows.append((one["node"], one["old_instance_id"], one["instance_id"], since, at, one["why"]))
    more = told["replacing_count"] - len(found)
    return [*rows, (f"and {more} more", None, None, None, None, None)] if more else rows


_MACHINES = (
    "MACHINES",
    "NODES",
    "STATUS",
    Column("MARKET", drop=2),
    Column("USD/H", drop=1),
    _WHY,
)


def _machines(told: dict[str, Any]) -> list[Row]:
    """One line a machine; when they are many, one for those that are alike."""
    found: list[dict[str, Any]] = told["machines"]
    if len(found) <= MACHINES_SHOWN:
        return [_machine([one]) for one in found]
    groups: dict[tuple[str, str, str, bool], list[dict[str, Any]]] = {}
    for one in found:
        groups.setdefault((_status(one), one["market"], one["why"], one["outdated"]), []).append(one)
    rows = [_machine(group) for group in groups.values()]
    more = told["machines_count"] - len(found)
    return [*rows, (f"and {more} more", None, None, None, None, None)] if more else rows


def _machine(group: Sequence[dict[str, Any]]) -> Row:
    one = group[0]
    name = one["id"] if len(group) == 1 else str(len(group))
    price = f"{sum(each['usd_per_hour'] for each in group):.4f}"
    why = "; ".join(part for part in ("old spec" if one["outdated"] else "", one["why"]) if part)
    return name, ranks([each["node"] for each in group]), _status(one), one["market"], price, why


def _status(one: dict[str, Any]) -> str:
    spare = ", a spare" if one["spare"] else ""
    reason = f" ({one['reason']})" if one["reason"] else ""
    return f"{one['status']}{reason}{spare}"


_MARKETS = (
    "MARKET",
    "USD/H",
    Column("LOSSES/H", drop=2),
    Column("HELD", drop=1),
    Column("TRIED", words=True),
    Column("WHAT IS SAID OF IT", words=True),
)


def _market(one: dict[str, Any], now: float) -> Row:
    losses = None if one["losses_per_hour"] is None else hourly(one["losses_per_hour"])
    said = (
        one["why"] if not one["allowed"] else "; ".join(part for part in ("may be asked", one["why"]) if part)
    )
    held, memory = one["held"] or None, one["memory"]
    if memory is not None and memory["last_detail"] and memory["last_detail"] in said:
        memory = {**memory, "last_detail": ""}  # once is enough
    return one["market"], f"{one['usd_per_hour']:.4f}", losses, held, tried(memory, now), said


def tried(memory: dict[str, Any] | None, now: float) -> str | None:
    """What a market's memory tells, in a few words, the provider's among them."""
    if memory is None or not (memory["launches"] or memory["refusals"] or memory["losses"]):
        return None
    parts = [
        count(memory[key], one, many)
        for key, one, many in (
            ("launches", "launch", "launches"),
            ("refusals", "refusal", "refusals"),
            ("losses", "loss", "losses"),
        )
        if memory[key]
    ]
    refused_at, fault = memory["last_refusal_at"], memory["last_fault"]
    if fault is not None:
        at = f" {lasting(now - refused_at)} ago" if refused_at is not None else ""
        words = f": {memory['last_detail']}" if memory["last_detail"] else ""
        parts.append(f"last refused{at} ({fault}{words})")
    return ", ".join(parts)


def _settings(told: dict[str, Any]) -> list[str]:
    policy, cash = told["policy"], told["money"]
    knobs = ", ".join(f"{key} {value}" for key, value in policy["knobs"].items())
    lines = [f"Policy: {policy['name']} ({knobs}); allocation {policy['allocation']}"]
    rule = {key: value for key, value in policy["on_demand"].items() if value}
    if rule:
        lines.append("On demand: " + ", ".join(f"{key} {value}" for key, value in rule.items()))
    if policy["spread"]:
        lines.append(f"Spread: {policy['spread']}")
    money = f"Money: ${cash['usd_per_hour']:.4f} an hour now, {usd(cash['usd_today'])} today, "
    money += f"{usd(cash['usd_total'])} in all"
    limits = [f"{key} ${cash[key]:g}" for key in ("per_day", "total") if cash[key] is not None]
    if limits:
        money += f"; budget: {', '.join(limits)}, then {cash['then']}"
    if cash["allowance_usd"] is not None:
        money += f"; ${cash['allowance_usd']:.4f} may be committed to new machines"
    lines.append(money)
    scaling = told["scaling"]
    if scaling is not None:
        bounds = f"{told['wanted']['min']} to {count(told['wanted']['max'], 'node')}"
        idle = lasting(scaling["idle_timeout_s"])
        tasks = ", ".join(f"{number} {status}" for status, number in scaling["tasks"].items())
        lines.append(f"Scaling: {bounds}, an idle one goes after {idle}; tasks: {tasks or 'none'}")
    return lines


# --- offers ---------------------------------------------------------------------------------------


async def offers(
    session: Session,
    pool: Annotated[
        str | None,
        typer.Option(
            "--pool", metavar="POOL", help="Only what fits this pool's own wishes.", autocompletion=pool_names
        ),
    ] = None,
    provider: Annotated[
        list[str] | None, typer.Option("--provider", help="Name or pattern. Repeatable.")
    ] = None,
    region: Annotated[list[str] | None, typer.Option("--region", help="Name or pattern. Repeatable.")] = None,
    zone: Annotated[list[str] | None, typer.Option("--zone", help="Name or pattern. Repeatable.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option("--type", metavar="TYPE", help="Such as 'm7i.*'. Repeatable.")
    ] = None,
    lifecycle: Annotated[
        Literal["spot", "on-demand", "on_demand"] | None, typer.Option("--lifecycle")
    ] = None,
    vcpus: Annotated[float | None, typer.Option("--vcpus", min=0, help="At least so many.")] = None,
    memory: Annotated[float | None, typer.Option("--memory", min=0, help="At least so many GB.")] = None,
    disk: Annotated[float | None, typer.Option("--disk", min=0, help="At least so many GB.")] = None,
    accelerator: Annotated[
        str | None, typer.Option("--accelerator", metavar="NAME[:COUNT]", help="Such as H100:8, or '*'.")
    ] = None,
    architecture: Annotated[Literal["x86_64", "arm64"] | None, typer.Option("--arch")] = None,
    max_price: Annotated[
        float | None, typer.Option("--max-price", min=0, help="At most so many dollars an hour.")
    ] = None,
    sort: Annotated[
        Literal["price", "name", "vcpus", "memory", "price-per-vcpu"], typer.Option("--sort")
    ] = "price",
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, help="So many.")] = 50,
) -> None:
    """List what the providers would rent now, and at what price.

    It says how many each filter removed.
    """
    name, number = accelerator_of(accelerator)
    async with session.client() as client:
        found = await client.offers(
            pool=pool,
            provider=provider or (),
            region=region or (),
            zone=zone or (),
            type=kind or (),
            lifecycle="on_demand" if lifecycle == "on-demand" else lifecycle,
            vcpus=vcpus,
            memory=memory,
            disk=disk,
            accelerator=name,
            count=number,
            architecture=architecture,
            max_price=max_price,
            sort=sort,
            limit=limit,
        )
    show_offers(session, found, per_vcpu=sort == "price-per-vcpu")


def show_offers(session: Session, found: dict[str, Any], *, per_vcpu: bool = False) -> None:
    """A table of offers on stdout, and on stderr what is missing from it."""
    rows = [_offer(one, found["at"]) for one in found["offers"]]
    columns: tuple[Column | str, ...] = _OFFERS
    if per_vcpu:
        after = _OFFERS.index("USD/H") + 1
        prices = [f"{one['usd_per_vcpu_hour']:.4f}" for one in found["offers"]]
        columns = (*_OFFERS[:after], "USD/VCPU/H", *_OFFERS[after:])
        rows = [(*row[:after], price, *row[after:]) for row, price in zip(rows, prices, strict=True)]
    session.table(found, columns, rows, empty="no offer fits")
    if session.json:
        return
    for one in found["providers"]:
        if one["error"] is not None:
            there = "told no offers" if one["offers"] is None else "can't be bought at now"
            session.say(f"{one['provider']} {there}: {one['error']}")
    session.say(_summary(found))


def accelerator_of(text: str | None) -> tuple[str | None, float | None]:
    """Name and count of "NAME" or "NAME:COUNT". Raises CliError."""
    if text is None:
        return None, None
    name, colon, number = text.rpartition(":")
    if not colon:
        return text, None
    try:
        found = float(number)
    except ValueError:
        found = 0.0
    if not name or not 0 < found < float("inf"):
        raise CliError(USAGE, f"--accelerator {text!r}: write NAME or NAME:COUNT, such as H100:8")
    return name, found


_OFFERS = (
    "PROVIDER",
    "TYPE",
    "ZONE",
    "HOW",
    "USD/H",
    "VCPUS",
    "GB",
    Column("DISK", drop=1),
    Column("ACCELERATOR", drop=4),
    Column("AGE", drop=2),
    Column("LOSSES/H", drop=3),
    Column("REMEMBERED", words=True),
)


def _offer(one: dict[str, Any], now: float) -> Row:
    shape = one["instance_type"]
    there = shape["accelerator"]
    accelerator = None if there is None else f"{there['count']:g} {there['name']}"
    losses = None if one["losses_per_hour"] is None else hourly(one["losses_per_hour"])
    age = None if one["age_s"] is None else lasting(one["age_s"])
    head = (one["provider"], shape["name"], one["zone"], one["lifecycle"].replace("_", "-"))
    size = (f"{shape['vcpus']:g}", f"{shape['memory_gb']:g}", _number(one["disk_gb"]))
    return (*head, f"{one['usd_per_hour']:.4f}", *size, accelerator, age, losses, _memory(one["memory"], now))


def _memory(memory: dict[str, Any] | None, now: float) -> str | None:
    if memory is None:
        return None
    parts = [text] if (text := tried(memory, now)) else []
    if memory["cool_until"] is not None and memory["cool_until"] > now:
        parts.insert(0, f"rests until {clock(memory['cool_until'], now)}")
    return ", ".join(parts)


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:g}"


def _summary(found: dict[str, Any]) -> str:
    first, *rest = found["steps"]
    removed = [f"{one['name']} {one['removed']}" for one in rest if one["removed"]]
    text = f"{len(found['offers'])} of {count(first['left'], 'offer')}"
    if removed:
        text += f"; removed by {listed(removed, 20)}"
    hidden = found["count"] - len(found["offers"])
    return f"{text}; {hidden} more fit: raise --limit" if hidden else text
