"""The figures of one run, what they are held against, and how both are printed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Say = Callable[[str], None]

KEYS = (
    "tasks_per_s",
    "spawn_per_s",
    "hyperqueue_tasks_per_s",
    "dask_tasks_per_s",
    "idle_rss_mb",
    "kib_per_node",
    "submits_per_s",
    "batched_messages_per_s",
    "notice_to_launch_p99_ms",
    "recovery_s",
)


@dataclass(slots=True)
class Figures:
    """What was measured; None: it could not be."""

    values: dict[str, float | None] = field(default_factory=dict)

    def put(self, key: str, value: float | None) -> None:
        """Keep a figure, to four digits."""
        self.values[key] = None if value is None else float(f"{value:.4g}")

    def get(self, key: str) -> float | None:
        """A figure, None when it was not measured."""
        return self.values.get(key)

    def as_json(self) -> Mapping[str, float | None]:
        """Every key of `KEYS`, then the others."""
        return {**{key: self.values.get(key) for key in KEYS}, **self.values}


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure, or the ratio of two, and how good it should be."""

    what: str
    of: str
    by: str | None  # divided by this one
    gate: float
    stretch: float | None
    least: bool  # at least so much; else at most
    unit: str = ""


GOALS = (
    Goal("tasks, share of the spawn rate", "tasks_per_s", "spawn_per_s", 0.5, 0.75, True),
    Goal("tasks, times HyperQueue's", "tasks_per_s", "hyperqueue_tasks_per_s", 1.2, 2.0, True),
    Goal("tasks, times Dask's", "tasks_per_s", "dask_tasks_per_s", 1.5, 2.5, True),
    Goal("memory of an idle daemon", "idle_rss_mb", None, 100, 80, False, "MB"),
    Goal("memory per node", "kib_per_node", None, 24, 16, False, "KiB"),
    Goal("single submits", "submits_per_s", None, 2_000, 4_000, True, "/s"),
    Goal("messages in lists", "batched_messages_per_s", None, 20_000, 50_000, True, "/s"),
    Goal("notice to launch call, p99", "notice_to_launch_p99_ms", None, 50, 20, False, "ms"),
    Goal("all notices at once to all launch calls", "burst_notices_s", None, 2.0, 0.5, False, "s"),
    Goal("fleet of 10,000: cpu until all are ready", "fleet_up_cpu_s", None, 15.0, 10.0, False, "s"),
    Goal("fleet: then, of a core", "fleet_cpu_percent", None, 5.0, None, False, "%"),
    Goal("fleet: memory per node, without the cloud", "fleet_kib_per_node", None, 24, 16, False, "KiB"),
    Goal("start after kill -9 to the first deed", "recovery_s", None, 5.0, 2.0, False, "s"),
)


def lines(figures: Figures) -> list[str]:
    """All figures, then the goals and whether they are reached."""
    out = [f"{key:28} {_shown(value)}" for key, value in figures.as_json().items()]
    out += ["", f"{'':41} {'measured':>10}  {'gate':>9}  {'stretch':>9}"]
    for goal in GOALS:
        value = measured(goal, figures)
        if value is not None:
            sign = ">=" if goal.least else "<="
            stretch = f"{'none':>9}" if goal.stretch is None else f"{sign}{goal.stretch:7g}"
            out.append(
                f"{goal.what:41} {value:10.4g}  {sign}{goal.gate:7g}  {stretch} "
                f"{goal.unit:4} {verdict(goal, value)}"
            )
    return out


def measured(goal: Goal, figures: Figures) -> float | None:
    """The goal's figure of this run."""
    value = figures.get(goal.of)
    if value is None or goal.by is None:
        return value
    by = figures.get(goal.by)
    return None if not by else value / by


def verdict(goal: Goal, value: float) -> str:
    """Which of its marks a figure reaches."""
    for mark, word in ((goal.stretch, "stretch reached"), (goal.gate, "gate held")):
        if mark is not None and (value >= mark if goal.least else value <= mark):
            return word
    return "BELOW THE GATE" if goal.least else "ABOVE THE GATE"


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:g}"
