"""Every policy on real traces: how whole a pool stays, and what that costs.

    python -m tests.bench.policy --traces DIR [--policy NAME]… [--nodes N]… [--json]

DIR holds one folder a scenario, each with one file a zone and type (zone_type_count.json), or is one
itself. Each is replayed whole, from its beginning to the end of its shortest trace, through the daemon's
own actors on the simulated provider, in virtual time. Samples of 0 and 1 only, in all files of a scenario,
say whether there are machines; others say how many. Shares of time are of what comes after the first cold
start, money and launches are counted from the start. The oracle knows the traces and keeps all nodes ready
at least cost (oracle.py). An average is over scenarios and sizes alike; launches per loss are those beyond
the first ones, of all runs together.
"""

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from actors.buying import Buying, PolicyName
from controller.simulation.assumptions import Unclear

try:
    from tests.bench.replay import (
        DAY_S,
        Run,
        Terms,
        Traces,
        Variant,
        mean,
        oracle_share,
        replayed,
        scenarios_in,
    )
except ImportError as error:
    if error.name is None or error.name.split(".")[0] not in ("scipy", "numpy"):
        raise
    sys.exit("python -m tests.bench.policy needs scipy: pip install 'everpool[bench]'")

SIZES = (1, 4, 8, 16)
PENALTIES = (5, 20, 100, 300)
SPARES_FROM = 20  # with less at stake no spare is worth its price
DEFAULT = "default"
WRONG = 2


@dataclass(frozen=True, slots=True)
class Row:
    """Averages over some runs of one policy."""

    policy: str
    runs: int
    availability: float
    mean_ready: float
    cost: float
    cost_over_oracle: float
    launches: int
    losses: int
    launches_per_loss: float | None
    refused: int
    spot_share: float


# --- which policies ---------------------------------------------------------------------------------


def variants() -> list[Variant]:
    """Every policy by name, with the settings that are compared."""
    found: list[Variant] = []
    for name in get_args(PolicyName):
        if name == "hazard":
            found += [
                Variant(f"hazard:{worth}", Buying(policy=name, missing_node_hour=worth))
                for worth in PENALTIES
            ]
            found += [
                Variant(f"hazard:{worth}+spares", Buying(policy=name, missing_node_hour=worth, spares="auto"))
                for worth in PENALTIES
                if worth >= SPARES_FROM
            ]
        elif name == "spothedge":
            found += [Variant(f"spothedge+{extra}", Buying(policy=name, extra=extra)) for extra in (0, 1, 2)]
            found.append(Variant("spothedge+n", Buying(policy=name), extra_nodes=True))
        else:
            found.append(Variant(name, Buying(policy=name)))
    return found


def default_of(there: Sequence[Variant]) -> Variant:
    """What a pool does that says nothing: one of those, or one more."""
    same = [one for one in there if not one.extra_nodes and one.buying == Buying()]
    return same[0] if same else Variant(DEFAULT, Buying())


def chosen(names: Sequence[str]) -> list[Variant]:
    """The variants that are meant: by label, by name of their policy, or NAME:KEY=VALUE,…

    Raises:
        Unclear: nothing is called so, or the settings are wrong.
    """
    there = variants()
    default = default_of(there)
    if default not in there:
        there.insert(0, default)
    if not names:
        return there
    found: dict[str, Variant] = {}
    problems: list[str] = []
    for name in names:
        some = (
            [default] if name == DEFAULT else [one for one in there if name in (one.label, one.buying.policy)]
        )
        if not some and "=" in name:
            try:
                some = [_custom(name)]
            except ValidationError as error:
                problems += [
                    f"--policy {name}: {'.'.join(map(str, one['loc']))}: {one['msg']}"
                    for one in error.errors()
                ]
                continue
        if not some:
            labels = ", ".join(one.label for one in there)
            problems.append(f"--policy {name}: nothing is called so; there are {labels}, or NAME:KEY=VALUE,…")
        found |= {one.label: one for one in some}
    if problems:
        raise Unclear(*problems)
    return list(found.values())


def _custom(text: str) -> Variant:
    name, _, settings = text.partition(":")
    keys: dict[str, Any] = {"policy": name}
    for one in settings.split(","):
        key, _, value = one.partition("=")
        keys[key] = value
    if keys.get("extra") == "n":
        return Variant(
            text, Buying.model_validate({k: v for k, v in keys.items() if k != "extra"}), extra_nodes=True
        )
    return Variant(text, Buying.model_validate(keys))


# --- the runs ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Job:
    variant: Variant
    traces: Traces
    nodes: int
    oracle: float


def _one(terms: Terms, job: _Job) -> tuple[Run, float]:
    began = time.process_time()
    run = replayed(job.variant, job.traces, job.nodes, terms, job.oracle)
    return run, time.process_time() - began


def _all(jobs: Sequence[_Job], terms: Terms, processes: int) -> list[Run]:
    """Every run, in the order of the jobs; the longest are begun first. Says how far it is on stderr."""
    began = time.monotonic()
    longest_first = sorted(jobs, key=lambda job: -job.traces.seconds * (2 + job.nodes))
    runs: dict[tuple[str, str, int], Run] = {}

    def take(outcomes: Iterable[tuple[Run, float]]) -> None:
        for run, cpu_s in outcomes:
            runs[(run.policy, run.scenario, run.nodes)] = run
            far = f"{time.monotonic() - began:6.1f} s  {len(runs)} of {len(jobs)}"
            size = f"{run.nodes} node{'' if run.nodes == 1 else 's'}"
            how = f"{run.mean_ready:.4f} ready at {run.cost_over_oracle:.3f} x oracle"
            _say(f"{far}: {run.policy}, {run.scenario}, {size}: {how} ({cpu_s:.1f} s of cpu)")
            for bug in run.bugs:
                _say(f"BUG, please report it: {bug}")

    if processes == 1:
        take(_one(terms, job) for job in longest_first)
    else:
        with multiprocessing.get_context("spawn").Pool(min(processes, len(jobs))) as pool:
            take(pool.imap_unordered(partial(_one, terms), longest_first))
    return [runs[(job.variant.label, job.traces.name, job.nodes)] for job in jobs]


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


# --- what is told -------------------------------------------------------------------------------------


def averaged(policy: str, runs: Sequence[Run]) -> Row:
    """One policy's row, over one or more runs."""
    losses = sum(run.losses for run in runs)
    again = sum(max(0, run.launches - run.nodes) for run in runs)
    return Row(
        policy=policy,
        runs=len(runs),
        availability=mean([run.availability for run in runs]),
        mean_ready=mean([run.mean_ready for run in runs]),
        cost=mean([run.cost for run in runs]),
        cost_over_oracle=mean([run.cost_over_oracle for run in runs]),
        launches=sum(run.launches for run in runs),
        losses=losses,
        launches_per_loss=again / losses if losses else None,
        refused=sum(run.refused for run in runs),
        spot_share=mean([run.spot_share for run in runs]),
    )


HEADS = ("all ready", "mean ready", "cost", "/ oracle", "launches", "losses", "per loss", "refused", "spot")


def _cells(row: Row) -> tuple[str, ...]:
    per_loss = "-" if row.launches_per_loss is None else f"{row.launches_per_loss:.2f}"
    return (
        f"{row.availability:.4f}",
        f"{row.mean_ready:.4f}",
        f"{row.cost:.3f}",
        f"{row.cost_over_oracle:.3f}",
        str(row.launches),
        str(row.losses),
        per_loss,
        str(row.refused),
        f"{row.spot_share:.2f}",
    )


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    """Columns as wide as they must be, the first `left` of them words."""
    widths = [max(len(one[i]) for one in (heads, *rows)) for i in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    return "\n".join(map(line, (heads, *rows)))


def _tell(runs: Sequence[Run], default: str, by_size: bool) -> str:
    policies = list(dict.fromkeys(run.policy for run in runs))
    scenarios = list(dict.fromkeys(run.scenario for run in runs))
    sizes = sorted({run.nodes for run in runs})
    marked = {name: f"{name} (default)" if name == default and name != DEFAULT else name for name in policies}
    rows = []
    for scenario in scenarios:
        for policy in policies:
            for size in [(one,) for one in sizes] if by_size else [sizes]:
                some = [
                    one
                    for one in runs
                    if (one.policy, one.scenario) == (policy, scenario) and one.nodes in size
                ]
                oracle = f"{mean([run.oracle for run in some]):.3f}"
                nodes = ",".join(map(str, size))
                rows.append((scenario, nodes, marked[policy], oracle, *_cells(averaged(policy, some))))
    overall = [
        (marked[policy], *_cells(averaged(policy, [run for run in runs if run.policy == policy])))
        for policy in policies
    ]
    return "\n\n".join(
        (
            table(("scenario", "nodes", "policy", "oracle", *HEADS), rows, 3),
            table((f"all {len(scenarios)} scenarios", *HEADS), overall, 1),
        )
    )


def _as_json(runs: Sequence[Run], default: str, terms: Terms) -> dict[str, Any]:
    policies = {
        policy: asdict(averaged(policy, [run for run in runs if run.policy == policy]))
        for policy in dict.fromkeys(run.policy for run in runs)
    }
    ours = policies.get(default) or next(iter(policies.values()))
    return {
        "cost_over_oracle": ours["cost_over_oracle"],
        "availability": ours["availability"],
        "mean_ready": ours["mean_ready"],
        "launches_per_loss": ours["launches_per_loss"],
        "policy": ours["policy"],
        "default_policy": default,
        "terms": asdict(terms),
        "policies": policies,
        "runs": [asdict(run) | {"cost_over_oracle": run.cost_over_oracle} for run in runs],
    }


# --- the command --------------------------------------------------------------------------------------


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.policy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--traces", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--policy", action="append", default=[], metavar="NAME", help="or NAME:KEY=VALUE,…; repeatable [all]"
    )
    parser.add_argument(
        "--nodes", type=_bounded(int, 1, 10_000), action="append", metavar="N", help="repeatable [1 4 8 16]"
    )
    parser.add_argument("--scenario", action="append", metavar="NAME", help="only this one; repeatable")
    parser.add_argument("--cold-start", type=_bounded(float, 0, DAY_S), default=180.0, metavar="S")
    parser.add_argument(
        "--notice", type=_notice, default=None, metavar="S", help="of preemptions, or none [none]"
    )
    parser.add_argument(
        "--spot-share",
        type=_bounded(float, 0, 1),
        default=1 / 3,
        metavar="X",
        help="of the on-demand price [1/3]",
    )
    parser.add_argument(
        "--type-price",
        type=_type_price,
        action="append",
        default=[],
        metavar="TYPE=X",
        help="against the others",
    )
    parser.add_argument(
        "--days", type=_bounded(float, 0, 3660), default=None, metavar="D", help="cut traces there"
    )
    parser.add_argument("--jobs", type=_bounded(int, 1, 256), default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--by-size", action="store_true", help="a line for each size of pool")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    return parser.parse_args(words)


def _bounded(kind: type[float] | type[int], least: float, most: float) -> Any:
    def parse(text: str) -> float:
        value = kind(text)
        if not (math.isfinite(value) and least <= value <= most):
            raise argparse.ArgumentTypeError(f"{text}: has to be from {least:g} to {most:g}")
        return value

    return parse


def _notice(text: str) -> float | None:
    if text == "none":
        return None
    seconds: float = _bounded(float, 0, DAY_S)(text)
    return seconds or None


def _type_price(text: str) -> tuple[str, float]:
    name, _, factor = text.partition("=")
    return name, _bounded(float, 1e-3, 1e3)(factor)


def main(words: Sequence[str] | None = None) -> int:
    """Replay, then print tables, and with --json one object on the last line."""
    options = _options(words)
    terms = Terms(
        cold_start_s=options.cold_start,
        notice_s=options.notice,
        spot_share=options.spot_share,
        type_prices=dict(options.type_price),
        days_max=options.days,
    )
    try:
        some = chosen(options.policy)
        scenarios = scenarios_in(options.traces, terms)
        names = [one.name for one in scenarios]
        wrong = [name for name in options.scenario or () if name not in names]
        if wrong:
            raise Unclear(*(f"--scenario {name}: there are {', '.join(names)}" for name in wrong))
    except Unclear as error:
        for problem in error.problems:
            _say(f"python -m tests.bench.policy: {problem}")
        return WRONG
    if options.scenario:
        scenarios = [one for one in scenarios if one.name in options.scenario]
    sizes = sorted(set(options.nodes or SIZES))
    oracles = {(one.name, nodes): oracle_share(one, nodes, terms) for one in scenarios for nodes in sizes}
    jobs = [
        _Job(variant, traces, nodes, oracles[(traces.name, nodes)])
        for variant in some
        for traces in scenarios
        for nodes in sizes
    ]
    began = time.monotonic()
    runs = _all(jobs, terms, options.jobs)
    _say(f"{len(runs)} replays in {time.monotonic() - began:.0f} s, {options.jobs} at a time")
    default = default_of(variants()).label
    sys.stdout.write(_tell(runs, default, options.by_size) + "\n")
    if options.json:
        sys.stdout.write(json.dumps(_as_json(runs, default, terms)) + "\n")
    return 1 if any(run.bugs for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
