"""The alerts that are shipped: they name series that exist, fire when they should, and say what to do."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.controller.telemetry.naming import exported_names, series_in

DEPLOY = Path(__file__).parents[3] / "deploy"
RULES = DEPLOY / "prometheus" / "everpool.rules.yml"
RUNBOOKS = DEPLOY / "docs" / "alerts.md"
ALERTS: dict[str, list[dict[str, Any]]] = {}
for _group in yaml.safe_load(RULES.read_text())["groups"]:
    for _rule in _group["rules"]:
        ALERTS.setdefault(_rule["alert"], []).append(_rule)
DAY = 86_400


class Story(NamedTuple):
    """Series a minute apart, and when an alert fires over them. `fires` is the labels, severity left out."""

    series: dict[str, str]
    at: str
    fires: dict[str, str] | None  # None: it does not


POOL = '{pool="a"}'


def pool(ready: str, desired: str = "4x1500", least: str = "2x1500", **more: str) -> dict[str, str]:
    """A pool's series; `more` are values of others by name, or of a state."""
    found = {
        f"everpool_pool_ready_nodes{POOL}": ready,
        f"everpool_pool_desired_nodes{POOL}": desired,
        f"everpool_pool_min_nodes{POOL}": least,
        f"everpool_pool_paused{POOL}": more.pop("paused", "0x1500"),
    }
    for state in ("draining", "parked"):
        found[f'everpool_pool_state{{pool="a",state="{state}"}}'] = more.pop(state, "0x1500")
    assert not more
    return found


def launches(outcome: str, values: str, ok: str = "0x200") -> dict[str, str]:
    return {
        f'everpool_launches_total{{provider="p",outcome="{outcome}"}}': values,
        'everpool_launches_total{provider="p",outcome="ok"}': ok,
    }


def preempted(values: str) -> dict[str, str]:
    return {
        'everpool_preemptions_total{provider="p",reason="gone"}': values,
        'everpool_instances{pool="a",provider="p",state="ready"}': "20x200",
        'everpool_instances{pool="b",provider="p",state="draining"}': "4x200",
    }


def bootstraps(failed: str, ok: str) -> dict[str, str]:
    return {
        'everpool_bootstraps_total{provider="p",outcome="failed"}': failed,
        'everpool_bootstraps_total{provider="p",outcome="ok"}': ok,
    }


def money(spent: str, rate: str = "1x1500", period: str = "day") -> dict[str, str]:
    of = f'{{pool="a",period="{period}"}}'
    return {
        f"everpool_pool_spent_usd{of}": spent,
        f"everpool_pool_budget_usd{of}": "10x1500",
        f"everpool_pool_usd_per_hour{POOL}": rate,
        f"everpool_pool_wasted_usd_total{POOL}": "0x30 2x1500",
    }


def one(name: str, values: str, **labels: str) -> dict[str, str]:
    inside = ",".join(f'{key}="{value}"' for key, value in labels.items())
    return {f"{name}{{{inside}}}": values}


def age(kind: str, state: str, values: str = "0+60x1500") -> dict[str, str]:
    return one("everpool_oldest_state_age_seconds", values, pool="a", kind=kind, state=state)


def links(down: str) -> dict[str, str]:
    return one("everpool_links", down, state="down") | one("everpool_links", "8x60", state="up")


def full(kept: str) -> dict[str, str]:
    return one("everpool_log_kept_bytes", kept) | one("everpool_log_kept_bytes_max", "100x90")


def rolling(outdated: str, **more: str) -> dict[str, str]:
    return pool("4x1500", **more) | {f"everpool_pool_outdated_nodes{POOL}": outdated}


HOUSE = {"job": "everpool", "instance": "h"}
IN_A, AT_P = {"pool": "a"}, {"provider": "p"}
OLD = "everpool_provider_observation_age_seconds"
STORIES: dict[str, list[Story]] = {
    "EverpoolPoolBelowMin": [
        Story(pool("1x1500"), "14m", None),
        Story(pool("1x1500"), "16m", IN_A),
        Story(pool("2x1500"), "16m", None),
        Story(pool("1x1500", paused="1x1500"), "16m", None),
        Story(pool("0x1500", draining="1x1500"), "16m", None),
    ],
    "EverpoolPoolDegraded": [
        Story(pool("3x1500"), "59m", None),
        Story(pool("3x1500"), "61m", IN_A),
        Story(pool("1x1500"), "61m", None),  # that is the other alert's
        Story(pool("4x1500"), "61m", None),
        Story(pool("3x1500", parked="1x1500"), "61m", None),
    ],
    "EverpoolPoolParked": [
        Story(one("everpool_pool_parked", "0x30 1x120", pool="a"), "20m", None),
        Story(one("everpool_pool_parked", "0x30 1x120", pool="a"), "40m", IN_A),
    ],
    "EverpoolPoolPausedLong": [
        Story(pool("4x1500", paused="1x1500"), "23h", None),
        Story(pool("4x1500", paused="1x1500"), "24h5m", IN_A),
    ],
    "EverpoolRollStands": [
        Story(rolling("0x30 3x500"), "89m", None),
        Story(rolling("0x30 3x500"), "97m", IN_A),
        Story(rolling("0x30 3x50 2x500"), "97m", None),  # one was replaced
        Story(rolling("0x30 3x50 2x500"), "150m", IN_A),  # and then none
        Story(rolling("0x30 4x50 3x50 2x50 1x50 0x200"), "220m", None),
        Story(rolling("0x30 4x50 3x50 2x50 1x50 0x200"), "260m", None),
        Story(rolling("0x30 3x500", paused="1x500"), "97m", None),
        Story(rolling("0x30 3x500", paused="1x60 0x500"), "97m", None),  # its hour begins with the resume
        Story(rolling("0x30 3x500", parked="1x500"), "97m", None),
        Story(rolling("0x500"), "97m", None),
    ],
    "EverpoolStuckInState": [
        Story(age("instance", "bootstrapping"), "60m", None),
        Story(age("instance", "bootstrapping"), "66m", IN_A | {"kind": "instance", "state": "bootstrapping"}),
        Story(age("instance", "destroying"), "66m", IN_A | {"kind": "instance", "state": "destroying"}),
        Story(age("task", "stopping"), "66m", IN_A | {"kind": "task", "state": "stopping"}),
        Story(age("pool", "draining"), "66m", IN_A | {"kind": "pool", "state": "draining"}),
        Story(age("instance", "ready"), "10h", None),
        Story(age("task", "running"), "10h", None),
    ],
    "EverpoolPreemptionStorm": [
        Story(preempted("0x30 8x100"), "20m", None),
        Story(preempted("0x30 8x100"), "35m", AT_P),
        Story(preempted("0x30 8x100"), "50m", None),
        Story(preempted("0x30 4x100"), "35m", None),
    ],
    "EverpoolAccountRefused": [
        Story(launches("credentials", "0x30 1x100"), "29m", None),
        Story(launches("credentials", "0x30 1x100"), "31m", AT_P | {"outcome": "credentials"}),
        Story(launches("quota", "0x30 1x100"), "31m", AT_P | {"outcome": "quota"}),
        Story(launches("funds", "0x30 1x100"), "31m", AT_P | {"outcome": "funds"}),
        Story(launches("capacity", "0x30 1x100"), "31m", None),
    ],
    "EverpoolLaunchesFail": [
        Story(launches("rejected", "0x30 9x100"), "35m", None),
        Story(launches("rejected", "0x30 9x100"), "45m", AT_P | {"outcome": "rejected"}),
        Story(launches("unknown", "0x30 3x100"), "45m", None),
    ],
    "EverpoolNoCapacity": [
        Story(launches("capacity", "0x30 9x100"), "50m", AT_P),
        Story(launches("capacity", "0x30 9x100", ok="0x30 1x100"), "50m", None),
        Story(launches("capacity", "0x30 3x100"), "50m", None),
    ],
    "EverpoolSetUpsFail": [
        Story(bootstraps("0x30 4x100", "0x130"), "40m", AT_P),
        Story(bootstraps("0x30 4x100", "0x30 9x100"), "40m", None),
        Story(bootstraps("0x30 1x100", "0x130"), "40m", None),
    ],
    "EverpoolObservationStale": [
        Story(one(OLD, "15x5 0+60x60", provider="p"), "15m", None),
        Story(one(OLD, "15x5 0+60x60", provider="p"), "25m", AT_P),
        Story(one(OLD, "15x60", provider="p"), "25m", None),
    ],
    "EverpoolNothingToBuy": [
        Story(one("everpool_provider_trouble", "0x10 1x60", provider="p"), "30m", None),
        Story(one("everpool_provider_trouble", "0x10 1x60", provider="p"), "45m", AT_P),
    ],
    "EverpoolBudgetBurn": [  # a test's time begins at midnight UTC
        Story(money("1x1500"), "20m", IN_A),  # 1 + 23.7 hours at 1 > 10
        Story(money("1x1500", rate="0.2x1500"), "20m", None),
        Story(money("9x1500", rate="0.2x1500"), "22h", None),
        Story(money("1x1500", period="total"), "20m", None),
    ],
    "EverpoolBudgetNearlySpent": [
        Story(money("7x30 9x100"), "20m", None),
        Story(money("7x30 9x100"), "40m", IN_A | {"period": "day"}),
        Story(money("7x30 9x100", period="total"), "40m", IN_A | {"period": "total"}),
    ],
    "EverpoolMoneyWasted": [
        Story(money("3x1500"), "20m", None),
        Story(money("3x1500"), "40m", IN_A),
        Story(money("9x1500"), "40m", None),
    ],
    "EverpoolLeakSuspected": [
        Story(one("everpool_leak_suspected_machines", "0x10 2x60", pool="a"), "30m", None),
        Story(one("everpool_leak_suspected_machines", "0x10 2x60", pool="a"), "45m", IN_A),
        Story(one("everpool_leak_suspected_machines", "0x60", pool="a"), "45m", None),
    ],
    "EverpoolLeftoversCost": [
        Story(one("everpool_leftovers_dollars_per_hour", "0.1x500", provider="p", kind="disk"), "5h", None),
        Story(
            one("everpool_leftovers_dollars_per_hour", "0.1x500", provider="p", kind="disk"),
            "7h",
            AT_P | {"kind": "disk"},
        ),
        Story(one("everpool_leftovers_dollars_per_hour", "0x500", provider="p", kind="key"), "7h", None),
    ],
    "EverpoolDown": [
        Story(one("up", "1x10 0x60", **HOUSE), "11m", None),
        Story(one("up", "1x10 0x60", **HOUSE), "14m", HOUSE),
        Story(one("up", "1x60", job="other"), "14m", {"job": "everpool"}),
        Story(one("up", "1x60", **HOUSE), "14m", None),
    ],
    "EverpoolNotReady": [
        Story(one("everpool_ready", "1x10 0x60"), "15m", None),
        Story(one("everpool_ready", "1x10 0x60"), "25m", {}),
    ],
    "EverpoolRestarting": [
        Story(one("process_start_time_seconds", "1x10 2x2 3x2 4x60", **HOUSE), "20m", HOUSE),
        Story(one("process_start_time_seconds", "1x10 2x2 3x60", **HOUSE), "20m", None),
    ],
    "EverpoolBugs": [
        Story(one("everpool_bugs_total", "0x10 1x60", kind="node"), "15m", {"kind": "node"}),
        Story(one("everpool_bugs_total", "1x60", kind="node"), "15m", None),
    ],
    "EverpoolJournalFailing": [
        Story(one("everpool_journal_failing", "0x10 1x60"), "10m", None),
        Story(one("everpool_journal_failing", "0x10 1x60"), "13m", {}),
    ],
    "EverpoolJournalLag": [
        Story(one("everpool_journal_lag_seconds", "0x10 3x60"), "15m", {}),
        Story(one("everpool_journal_lag_seconds", "0x10 3 0x60"), "15m", None),
    ],
    "EverpoolLoopLag": [
        Story(one("everpool_loop_lag_seconds", "0.1x10 2x60"), "20m", {}),
        Story(one("everpool_loop_lag_seconds", "0.1x60"), "20m", None),
    ],
    "EverpoolLinksDown": [
        Story(links("4x60"), "10m", None),
        Story(links("4x60"), "20m", {}),
        Story(links("1x60"), "20m", None),
    ],
    "EverpoolLeaseRunningOut": [
        Story(one("everpool_lease_left_min_seconds", "1800-60x30"), "20m", None),
        Story(one("everpool_lease_left_min_seconds", "1800-60x30"), "29m", {}),
    ],
    "EverpoolLogsFull": [
        Story(full("97x90"), "70m", {}),
        Story(full("50x90"), "70m", None),
    ],
    "EverpoolDiskFull": [
        Story(
            one("everpool_state_disk_free_bytes", "4x30") | one("everpool_state_disk_size_bytes", "100x30"),
            "10m",
            {},
        ),
        Story(
            one("everpool_state_disk_free_bytes", "9x30") | one("everpool_state_disk_size_bytes", "100x30"),
            "10m",
            None,
        ),
    ],
    "EverpoolCertificateExpires": [
        Story(one("everpool_certificate_expires_timestamp_seconds", f"{13 * DAY}x30"), "5m", {}),
        Story(one("everpool_certificate_expires_timestamp_seconds", f"{15 * DAY}x30"), "5m", None),
    ],
    "EverpoolCertificateExpiresNow": [
        Story(one("everpool_certificate_expires_timestamp_seconds", f"{DAY}x30"), "5m", {}),
        Story(one("everpool_certificate_expires_timestamp_seconds", f"{3 * DAY}x30"), "5m", None),
    ],
    "EverpoolTokenExpires": [
        Story(
            one("everpool_token_expires_timestamp_seconds", f"{6 * DAY}x30", token="t"), "5m", {"token": "t"}
        ),
        Story(one("everpool_token_expires_timestamp_seconds", f"{8 * DAY}x30", token="t"), "5m", None),
        Story(one("everpool_token_expires_timestamp_seconds", f"-{2 * DAY}x30", token="t"), "5m", None),
    ],
    "EverpoolTokensRefused": [
        Story(one("everpool_api_tokens_refused_total", "0x5 300x60"), "10m", {}),
        Story(one("everpool_api_tokens_refused_total", "0x5 30x60"), "10m", None),
    ],
    "EverpoolWebhookFailing": [
        Story(one("everpool_webhook_failing", "0x5 1x60", webhook="w"), "15m", None),
        Story(one("everpool_webhook_failing", "0x5 1x60", webhook="w"), "25m", {"webhook": "w"}),
    ],
    "EverpoolWebhookDropped": [
        Story(one("everpool_webhook_dropped_total", "0x5 2x60", webhook="w"), "10m", {"webhook": "w"}),
        Story(one("everpool_webhook_dropped_total", "2x60", webhook="w"), "10m", None),
    ],
}


def test_alerts_name_series_that_are_exported() -> None:
    for name, rules in ALERTS.items():
        for rule in rules:
            named = series_in(rule["expr"])
            assert named and named <= exported_names() | {"up"}, name


def test_every_alert_has_a_story_that_fires_and_one_that_does_not() -> None:
    assert STORIES.keys() == ALERTS.keys()
    for name, stories in STORIES.items():
        fired = {story.fires is not None for story in stories}
        assert fired == {True, False}, name


def test_every_alert_says_what_it_is_and_where_its_runbook_is() -> None:
    sections = dict(re.findall(r"(?ms)^## (\w+)\n(.*?)(?=^## |\Z)", RUNBOOKS.read_text()))
    anchors = {heading.lower(): body for heading, body in sections.items()}
    used = set()
    for name, rules in ALERTS.items():
        for rule in rules:
            assert rule["labels"]["severity"] in ("page", "warn"), name
            assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}, name
            page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
            assert page == RUNBOOKS.name and anchor in anchors, f"{name} has no section in {RUNBOOKS.name}"
            used.add(anchor)
            body = anchors[anchor]
            for part in ("**Means.**", "**Felt.**", "**Look.**", "**Do.**", "**Silence.**"):
                assert part in body, (name, part)
            assert "```sh\n" in body, f"{name}: exact commands"
    assert used == anchors.keys(), "sections of alerts that are not there"


def test_alerts_fire_when_they_should(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        assert not os.environ.get("CI"), "promtool is missing: install Debian's prometheus"
        pytest.skip("promtool is not installed")
    files = [str(_story_file(tmp_path, name)) for name in STORIES]
    for arguments in (["check", "rules", str(RULES)], ["test", "rules", *files]):
        ran = subprocess.run([promtool, *arguments], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr


def _story_file(directory: Path, name: str) -> Path:
    """The stories of one alert, and a file with its rule alone: promtool evaluates every rule each minute.

    What an alert says is not compared: only that it fires, for what, and how loudly.
    """
    bare = [{key: rule[key] for key in rule if key != "annotations"} for rule in ALERTS[name]]
    (directory / f"{name}.rules.yml").write_text(json.dumps({"groups": [{"name": "g", "rules": bare}]}))
    told = {
        "rule_files": [f"{name}.rules.yml"],
        "evaluation_interval": "1m",
        "tests": [_promtool(name, story) for story in STORIES[name]],
    }
    story = directory / f"{name}.yml"
    story.write_text(json.dumps(told))
    return story


def _promtool(name: str, story: Story) -> dict[str, Any]:
    [rule] = ALERTS[name]
    wanted: dict[str, Any] = {"eval_time": story.at, "alertname": name}
    if story.fires is not None:
        wanted["exp_alerts"] = [{"exp_labels": story.fires | rule["labels"]}]
    return {
        "name": f"{name} {story.at}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in story.series.items()],
        "alert_rule_test": [wanted],
    }
