"""What users build on is written down, and what is written down is there: metrics.md and the dashboard."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.telemetry import machines
from tests.controller.telemetry.naming import PROCESS, exported_names, listed, series_in

DEPLOY = Path(__file__).parents[3] / "deploy"
PAGE = DEPLOY / "docs" / "metrics.md"
DASHBOARD = DEPLOY / "grafana" / "everpool.json"
UNITS = {"short", "s", "bytes", "currencyUSD", "percentunit", "ops", "reqps"}


def documented() -> dict[str, str]:
    """Rows of the page's tables: name to type and labels, as in series.txt."""
    found: dict[str, str] = {}
    for name, kind, labels, unit, meaning in re.findall(
        r"(?m)^\| `(\w+)` \| (\w+) \| (.*?) ?\| (.+?) \| (.+) \|$", PAGE.read_text()
    ):
        assert name not in found and unit and meaning.endswith("."), name
        found[name] = " ".join([kind, ",".join(re.findall(r"`(\w+)`", labels)) or "-"])
    return found


def test_every_series_is_documented_as_it_is() -> None:
    of_machines = {
        f"everpool_instance_{short}": f"gauge {labels}"
        for labels, known in (
            ("instance,node,pool,provider", machines._KNOWN),
            ("gpu,instance,node,pool,provider", machines._GPU_KNOWN),
        )
        for short, _, _ in known.values()
    }
    process = {name: f"{kind} -" for name, kind in PROCESS.items()}
    there = listed() | process | of_machines
    page = documented()
    assert page.keys() == there.keys(), f"add or take away rows of {PAGE.name}"
    assert page == there, f"types or labels differ in {PAGE.name}"


def panels() -> Iterator[dict[str, Any]]:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        if panel["type"] != "row":
            yield panel


def expressions() -> list[str]:
    """All expressions of the dashboard, with Grafana's variables filled in."""
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    filled = [one.replace("$pool", ".*").replace("$__rate_interval", "5m") for one in found]
    assert filled and not any("$" in one for one in filled)
    return filled


def test_the_dashboard_is_whole() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["schemaVersion"] >= 41 and dashboard["uid"] == "everpool"
    every = dashboard["panels"]
    assert len({panel["id"] for panel in every}) == len(every)
    taken: set[tuple[int, int]] = set()
    for panel in every:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
    names = {variable["name"] for variable in dashboard["templating"]["list"]}
    assert names == {"datasource", "pool"}
    for panel in panels():
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}" and panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


def test_the_dashboard_shows_series_that_are_exported() -> None:
    for expression in expressions():
        named = series_in(expression)
        assert named and named <= exported_names(), expression
    variables = json.loads(DASHBOARD.read_text())["templating"]["list"]
    assert series_in(variables[1]["definition"]) <= exported_names()


def test_expressions_of_the_dashboard_are_understood(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        assert not os.environ.get("CI"), "promtool is missing: install Debian's prometheus"
        pytest.skip("promtool is not installed")
    rules = [{"record": f"panel:{i}", "expr": text} for i, text in enumerate(expressions())]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    ran = subprocess.run([promtool, "check", "rules", str(path)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_the_example_of_a_configuration_is_understood(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        assert not os.environ.get("CI"), "promtool is missing: install Debian's prometheus"
        pytest.skip("promtool is not installed")
    shutil.copytree(DEPLOY / "prometheus", tmp_path, dirs_exist_ok=True)
    (tmp_path / "everpool.token").write_text("t")
    ran = subprocess.run(
        [promtool, "check", "config", "prometheus.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
