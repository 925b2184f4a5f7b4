"""The alerts that are shipped: they name series that exist, and fire when they should."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.controller.telemetry.test_series import NAMES

RULES = Path(__file__).parents[3] / "deploy" / "prometheus" / "everpool.rules.yml"

STORY = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: 'everpool_pool_parked{{pool="broken"}}'
        values: '0x30 1x120'
      - series: 'everpool_pool_parked{{pool="well"}}'
        values: '0x150'
      - series: 'everpool_pool_wasted_usd_total{{pool="broken"}}'
        values: '0x30 2x120'
      - series: 'everpool_pool_wasted_usd_total{{pool="well"}}'
        values: '0x150'
      - series: 'everpool_pool_spent_usd{{pool="broken",period="day"}}'
        values: '3x150'
      - series: 'everpool_pool_budget_usd{{pool="broken",period="day"}}'
        values: '10x150'
      - series: 'everpool_pool_spent_usd{{pool="well",period="day"}}'
        values: '9x150'
      - series: 'everpool_pool_budget_usd{{pool="well",period="day"}}'
        values: '10x150'
      - series: 'everpool_pool_cost_usd_total{{pool="well",kind="leaked"}}'
        values: '0+0.01x150'
      - series: 'everpool_pool_cost_usd_total{{pool="broken",kind="leaked"}}'
        values: '0x150'
    alert_rule_test:
      - {{eval_time: 20m, alertname: EverpoolPoolParked}}
      - eval_time: 40m
        alertname: EverpoolPoolParked
        exp_alerts: [{{exp_labels: {{severity: page, pool: broken}}}}]
      - eval_time: 40m
        alertname: EverpoolMoneyWasted
        exp_alerts: [{{exp_labels: {{severity: page, pool: broken}}}}]
      - eval_time: 20m
        alertname: EverpoolBudgetNearlySpent
        exp_alerts: [{{exp_labels: {{severity: warn, pool: well, period: day}}}}]
      - eval_time: 2h
        alertname: EverpoolMachinesLeaked
        exp_alerts: [{{exp_labels: {{severity: page, pool: well, kind: leaked}}}}]
"""


def test_alerts_name_series_that_are_exported() -> None:
    named = set(re.findall(r"everpool_[a-z_]+", "".join(re.findall(r"expr: (.*)", RULES.read_text()))))
    assert named, "no rule was read"
    assert {name.removesuffix("_total") for name in named} <= set(NAMES)


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        assert not os.environ.get("CI"), "promtool is missing: install Debian's prometheus"
        pytest.skip("promtool is not installed")
    # What an alert says is not compared: only that it fires, for which pool, and how loudly.
    bare = re.sub(r"(?m)^        annotations:\n(?:          .*\n)+", "", RULES.read_text())
    (tmp_path / "rules.yml").write_text(bare)
    story = tmp_path / "story.yml"
    story.write_text(STORY.format(rules="rules.yml"))
    for arguments in (["check", "rules", str(RULES)], ["test", "rules", str(story)]):
        told = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stdout + told.stderr
