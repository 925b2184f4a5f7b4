"""The command `simulate`: try the pools of a config for days, in seconds, at no cost."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.progress import BarColumn, Progress, TextColumn

from controller.cli import specs
from controller.cli.codes import DETACHED, FAILED, OK, USAGE, CliError
from controller.cli.command import Session, command
from controller.cli.daemons import ConfigFile, loaded
from controller.telling import took

if TYPE_CHECKING:
    from controller.simulation.assumptions import Given
    from controller.simulation.results import PoolFigures
    from controller.simulation.trial import Report, Scenario, Trial

DAYS_MAX = 3660
DAY_S = 86_400.0
SHOW_EVERY_S = 0.2  # real seconds between two looks of the progress bar

Pools = Annotated[
    list[str] | None,
    typer.Option("--pool", metavar="NAME", help="Only this pool. Repeatable. [default: all of the config]"),
]
Traces = Annotated[
    Path | None,
    typer.Option(
        "--traces",
        metavar="DIR",
        help="How many spot machines there were: a file zone_type_count.json for each zone and type.",
    ),
]
SpotPrice = Annotated[
    float | None, typer.Option("--spot-price", metavar="USD", help="Of one machine, an hour.")
]
OnDemandPrice = Annotated[
    float | None, typer.Option("--on-demand-price", metavar="USD", help="Of one machine, an hour.")
]
Preemptions = Annotated[
    float | None,
    typer.Option("--preemptions-per-hour", metavar="N", help="Of each spot machine. [default: 0]"),
]
Notice = Annotated[
    str | None,
    typer.Option("--notice", metavar="DURATION", help="Lead time of a preemption, or none. [default: 2m]"),
]
Zones = Annotated[int | None, typer.Option("--zones", metavar="N", help="That sell. [default: 1]")]
Boot = Annotated[
    float | None,
    typer.Option("--boot-seconds", metavar="S", help="From a launch to an address. [default: 120; local: 1]"),
]
SetUp = Annotated[
    float | None,
    typer.Option(
        "--setup-seconds", metavar="S", help="Of all set-up steps of a machine. [default: 1 for each step]"
    ),
]
Tasks = Annotated[
    int | None, typer.Option("--tasks", metavar="N", help="Give each pool so many tasks at the start.")
]
TaskSeconds = Annotated[
    float | None, typer.Option("--task-seconds", metavar="S", help="What each of them takes.")
]
Picture = Annotated[
    Path | None,
    typer.Option("--picture", metavar="FILE", help="Draw it too: a .png or .svg. Needs everpool[picture]."),
]


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    command(app)(simulate)


def simulate(
    session: Session,
    config: ConfigFile = None,
    days: Annotated[float, typer.Option("--days", metavar="D", help="How long.")] = 7,
    pool: Pools = None,
    traces: Traces = None,
    spot_price: SpotPrice = None,
    on_demand_price: OnDemandPrice = None,
    preemptions_per_hour: Preemptions = None,
    notice: Notice = None,
    zones: Zones = None,
    boot_seconds: Boot = None,
    setup_seconds: SetUp = None,
    tasks: Tasks = None,
    task_seconds: TaskSeconds = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, other luck.")] = 0,
    picture: Picture = None,
) -> int:
    """Try pools for days, in seconds and at no cost.

    It says how whole they would stay, and what they would cost.

    The daemon's own actors run on a virtual clock against clouds in memory. Nothing is launched.
    """
    _bounded("--days", days, above=0, most=DAYS_MAX)
    for flag, value in (("--spot-price", spot_price), ("--on-demand-price", on_demand_price)):
        _bounded(flag, value, least=0, most=100_000)
    _bounded("--preemptions-per-hour", preemptions_per_hour, least=0, most=3600)
    for flag, value in (("--boot-seconds", boot_seconds), ("--setup-seconds", setup_seconds)):
        _bounded(flag, value, least=0, most=DAY_S)
    _bounded("--zones", zones, least=1, most=26)
    _bounded("--tasks", tasks, least=1, most=1_000_000)
    _bounded("--task-seconds", task_seconds, above=0, most=31_536_000)
    if (tasks is None) != (task_seconds is None):
        raise CliError(USAGE, "--tasks and --task-seconds need each other")
    read = loaded(config)
    # Imported here because it takes a quarter of a second, and no other command needs it.
    assumptions: Any = import_module("controller.simulation.assumptions")
    given: Given = assumptions.Given(
        traces=traces,
        spot_price=spot_price,
        on_demand_price=on_demand_price,
        zones=zones,
        preemptions_per_hour=preemptions_per_hour,
        notice_s=_notice(notice),
        boot_seconds=boot_seconds,
        setup_seconds=setup_seconds,
    )
    load = None if tasks is None else assumptions.Load(tasks, task_seconds)
    try:
        scenario: Scenario = assumptions.scenario_of(
            read, given, seconds=days * DAY_S, pools=pool or (), seed=seed, load=load
        )
    except assumptions.Unclear as error:
        first, *rest = error.problems
        raise CliError(USAGE, first, rest) from error
    draw = None if picture is None else _pictured(picture.expanduser())
    report, trial, took_s = _run(session, scenario)
    _tell(session, report, took_s)
    if draw is not None:
        draw(trial, f"{report.seconds / DAY_S:g} days, seed {report.seed}")
        session.say(f"picture: {picture}")
    return OK if report.seconds >= report.asked_seconds else DETACHED


def _bounded(
    flag: str, value: float | None, *, least: float = -math.inf, above: float = -math.inf, most: float
) -> None:
    """Raise CliError unless a number is within its bounds; nan never is."""
    if value is None or (least <= value <= most and value > above):
        return
    lower = f"more than {above:g}" if above > -math.inf else f"{least:g} or more"
    raise CliError(USAGE, f"{flag} {value:g}: has to be {lower}, and {most:g} at most")


def _notice(text: str | None) -> float | Literal["none"] | None:
    if text is None or text == "none":
        return "none" if text else None
    seconds = specs.seconds(text)
    _bounded("--notice", seconds, least=0, most=31_536_000)
    return seconds or "none"


def _pictured(path: Path) -> Callable[["Trial", str], None]:
    """What draws the picture. Raises CliError when it is clear already that it can't."""
    drawing: Any = import_module("controller.simulation.picture")
    try:
        drawing.check(path)
    except drawing.NoPicture as error:
        raise CliError(USAGE, str(error)) from error

    def draw(trial: "Trial", title: str) -> None:
        try:
            drawing.draw(path, trial.courses, title)
        except drawing.NoPicture as error:
            raise CliError(FAILED, str(error)) from error

    return draw


# --- the run --------------------------------------------------------------------------------------


def _run(session: Session, scenario: "Scenario") -> tuple["Report", "Trial", float]:
    """Simulate, with a bar on a terminal. Ctrl-C ends it early, a second one at once."""
    trial_class: Any = import_module("controller.simulation.trial").Trial
    began = time.perf_counter()
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        console=session.err,
        transient=True,
        auto_refresh=False,
        disable=not session.err.is_terminal,
    )
    shown = bar.add_task(f"{scenario.seconds / DAY_S:g} days", total=scenario.seconds)
    shown_at = began

    def progress(seconds: float) -> None:
        nonlocal shown_at
        if not bar.disable and time.perf_counter() >= shown_at + SHOW_EVERY_S:
            shown_at = time.perf_counter()
            bar.update(shown, completed=seconds, refresh=True)

    trial: Trial = trial_class(scenario, progress)
    with _interruptible(trial.stop):
        names = ", ".join(scenario.pools)
        session.say(f"simulating {scenario.seconds / DAY_S:g} days of {names}; Ctrl-C: the figures so far")
        with bar:
            report = trial.run()
    return report, trial, time.perf_counter() - began


@contextmanager
def _interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """Let the first SIGINT stop gently; the next does what it did before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def interrupted(number: int, frame: object) -> None:
        del number, frame
        signal.signal(signal.SIGINT, before)
        stop()

    signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# --- what is shown --------------------------------------------------------------------------------


def _tell(session: Session, report: "Report", took_s: float) -> None:
    if report.seconds < report.asked_seconds:
        far = f"{took(report.seconds)} of {took(report.asked_seconds)}"
        session.say(f"interrupted: simulated {far}; the figures are of that time")
    session.say(f"seed {report.seed}, {took(took_s)}")
    for line in (*report.assumed, *(f"BUG, please report it: {bug}" for bug in report.bugs)):
        session.say(f"  {line}")
    for one in report.pools:
        if not one.is_whole_at_end:
            session.say(f"  pool {one.pool} is short at the end: {one.why_short or 'no reason given'}")
    figures = [_rows(one) for one in report.pools]
    rows = [(name, *(one[name] for one in figures)) for name in figures[0]]
    columns = ("POOL", *(one.pool for one in report.pools))
    session.table(report.model_dump(mode="json"), columns, rows, empty="")


def _rows(one: "PoolFigures") -> dict[str, str | None]:
    """One pool's column of the table."""
    again = one.whole_again
    rows = {
        "nodes (min)": f"{one.nodes_desired} ({one.nodes_min})",
        "all nodes ready": _percent(one.availability),
        "nodes ready, mean": _percent(one.ready_share),
        "below min": _percent(one.below_min_share),
        "cost": f"{one.cost_usd:.2f} USD",
        "all on demand": None if one.on_demand_usd is None else f"{one.on_demand_usd:.2f} USD",
        "share of that": (
            None if one.cost_percent_of_on_demand is None else f"{one.cost_percent_of_on_demand:.1f} %"
        ),
        "machine hours, spot": f"{one.machine_hours_spot:.1f}",
        "machine hours, on demand": f"{one.machine_hours_on_demand:.1f}",
        "preemptions": str(one.preemptions),
        "launches": str(one.launches),
        "launches refused": str(one.launches_refused),
        "launches per loss": None if one.launches_per_loss is None else f"{one.launches_per_loss:.2f}",
        "whole first after": _took(one.whole_first_after_s),
        "short, times": str(again.count),
        "whole again, median": _took(again.median_s),
        "whole again, p95": _took(again.p95_s),
        "whole again, max": _took(again.max_s),
    }
    if one.tasks is not None:
        load = one.tasks
        rows["tasks done"] = f"{load.done} of {load.asked}"
        rows["tasks failed"] = str(load.failed)
        rows["attempts lost"] = str(load.attempts_lost)
        rows["all done after"] = _took(load.all_done_after_s)
    rows["at the end"] = "whole" if one.is_whole_at_end else "short"
    return rows


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.3f} %"


def _took(seconds: float | None) -> str | None:
    return None if seconds is None else took(seconds)
