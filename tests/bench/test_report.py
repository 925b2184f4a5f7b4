"""The bench's own arithmetic; the measurements themselves are run by hand."""

from tests.bench.report import KEYS, Figures, lines
from tests.bench.rivals import missing


def test_json_has_every_promised_key_first_and_null_for_what_was_not_measured() -> None:
    figures = Figures()
    figures.put("burst_notices_s", 0.41234)
    figures.put("tasks_per_s", 1000)
    assert list(figures.as_json())[: len(KEYS)] == list(KEYS)
    assert figures.as_json()["hyperqueue_tasks_per_s"] is None
    assert figures.as_json()["burst_notices_s"] == 0.4123


def test_ratios_are_held_against_their_marks() -> None:
    figures = Figures()
    for key, value in (
        ("tasks_per_s", 1000),
        ("spawn_per_s", 1250),
        ("dask_tasks_per_s", 900),
        ("idle_rss_mb", 120),
    ):
        figures.put(key, value)
    text = "\n".join(lines(figures))
    assert "stretch reached" in next(line for line in lines(figures) if line.startswith("tasks, share"))
    assert "BELOW THE GATE" in next(line for line in lines(figures) if line.startswith("tasks, times Dask"))
    assert "ABOVE THE GATE" in next(line for line in lines(figures) if line.startswith("memory of an idle"))
    assert "times HyperQueue" not in text


def test_the_machines_own_rate_needs_nothing_installed() -> None:
    assert not missing("spawn")
