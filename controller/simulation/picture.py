"""A picture of simulated pools: nodes ready, machines taken, and what an hour costs, over time.

It needs matplotlib, which is not installed with everpool itself: `pip install 'everpool[picture]'`.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from controller.simulation.results import Course

SUFFIXES = (".png", ".svg")
# On a ground of its own, so that it can be read on a light page and on a dark one; colours that differ in
# lightness too, so that they are told apart in grey.
_GROUND, _INK, _FAINT = "#ffffff", "#1f2328", "#d0d7de"
_READY, _LOST, _PAID = "#1f6feb", "#cf222e", "#8250df"
_DAY_S, _HOUR_S = 86_400.0, 3600.0


class NoPicture(Exception):
    """No picture can be made; the text says why."""


def check(path: Path) -> None:
    """Raise NoPicture when it is clear already that no picture can be put there."""
    if path.suffix.lower() not in SUFFIXES:
        raise NoPicture(f"{path}: a picture's name ends in {' or '.join(SUFFIXES)}")
    if path.is_dir():
        raise NoPicture(f"{path}: is a directory")
    if not path.parent.is_dir():
        raise NoPicture(f"{path}: there is no directory {path.parent}")
    if find_spec("matplotlib") is None:
        raise NoPicture("a picture needs matplotlib: pip install 'everpool[picture]'")
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise NoPicture(f"{path}: can't be written: {error.strerror}") from error
    if not existed:
        path.unlink()


def draw(path: Path, courses: Mapping[str, Course], title: str) -> None:
    """Write the picture, PNG or SVG by its name.

    Raises:
        NoPicture: it can't be written.
    """
    matplotlib: Any = import_module("matplotlib")
    figure_class: Any = import_module("matplotlib.figure").Figure
    inks = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    style = {"font.size": 9, **dict.fromkeys(inks, _INK)}
    with matplotlib.rc_context(style):
        figure = figure_class(
            figsize=(11, 0.8 + 3.6 * max(1, len(courses))), facecolor=_GROUND, layout="constrained"
        )
        figure.suptitle(title, fontsize=11)
        axes = figure.subplots(
            2 * max(1, len(courses)), 1, squeeze=False, height_ratios=(3, 2) * max(1, len(courses))
        )
        for number, (pool, course) in enumerate(courses.items()):
            _nodes(axes[2 * number][0], pool, course)
            _dollars(axes[2 * number + 1][0], course)
        try:
            figure.savefig(path, dpi=120, facecolor=_GROUND)
        except OSError as error:
            raise NoPicture(f"{path}: can't be written: {error.strerror}") from error


def _nodes(axes: Any, pool: str, course: Course) -> None:
    times, ready = _steps(course.ready, course)
    axes.fill_between(times, ready, step="post", color=_READY, alpha=0.25, linewidth=0)
    axes.step(times, ready, where="post", color=_READY, linewidth=1.2, label="nodes ready")
    axes.axhline(course.desired, color=_INK, linestyle="--", linewidth=1, label="desired")
    unit = _unit_s(course)
    if course.preempted:
        axes.plot(
            [at / unit for at in course.preempted],
            [0] * len(course.preempted),
            linestyle="none",
            marker="^",
            markersize=5,
            color=_LOST,
            clip_on=False,
            label=f"machine taken ({len(course.preempted)})",
        )
    _finish(axes, course, f"{pool}: nodes", course.desired)
    axes.tick_params(labelbottom=False)


def _dollars(axes: Any, course: Course) -> None:
    times, paid = _steps(course.usd_per_hour, course)
    axes.fill_between(times, paid, step="post", color=_PAID, alpha=0.2, linewidth=0)
    axes.step(times, paid, where="post", color=_PAID, linewidth=1.2, label="paid")
    top = max(paid, default=0.0)
    if course.on_demand_usd_per_hour is not None:
        top = max(top, course.on_demand_usd_per_hour)
        axes.axhline(
            course.on_demand_usd_per_hour, color=_INK, linestyle="--", linewidth=1, label="all on demand"
        )
    _finish(axes, course, "dollars an hour", top)
    axes.set_xlabel("hours" if _unit_s(course) == _HOUR_S else "days")


def _finish(axes: Any, course: Course, label: str, top: float) -> None:
    axes.set_facecolor(_GROUND)
    axes.set_ylabel(label)
    axes.set_xlim(0, max(course.seconds, 1.0) / _unit_s(course))
    axes.set_ylim(0, 1.15 * top or 1)
    axes.grid(color=_FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(
        loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, labelcolor=_INK, borderaxespad=0.2
    )


def _unit_s(course: Course) -> float:
    return _HOUR_S if course.seconds < 2 * _DAY_S else _DAY_S


def _steps(steps: Sequence[tuple[float, float]], course: Course) -> tuple[list[float], list[float]]:
    """Times and values to draw, the last value held until the end."""
    unit = _unit_s(course)
    times = [at / unit for at, _ in steps] + [course.seconds / unit]
    return times, [value for _, value in steps] + [steps[-1][1]]
