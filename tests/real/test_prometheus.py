"""Debian's Prometheus scrapes a real daemon, finds its machines, evaluates the alerts that are shipped."""

import json
import os
import shutil
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from actors.events import PoolPauseRequested
from tests.controller.telemetry.naming import PROCESS, listed
from tests.controller.telemetry.test_documented import expressions
from tests.real.rig import REPOSITORY, Rig, until

pytestmark = pytest.mark.real
TOKEN = "a-token-for-prometheus-0123456789"
SHIPPED = REPOSITORY / "deploy" / "prometheus"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Prometheus:
    """A server, asked over its HTTP API."""

    def __init__(self, url: str, log: Path) -> None:
        self.url = url
        self.log = log

    def ask(self, path: str, **parameters: str) -> Any:
        """What the API has under `data`."""
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}{query}", timeout=10) as response:
            told = json.load(response)
        assert told["status"] == "success", told
        return told["data"]

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5):
                return True
        except OSError:
            return False

    def values(self, expression: str) -> dict[tuple[tuple[str, str], ...], float]:
        """An instant vector: labels to value; the labels of the target are left out."""
        found: dict[tuple[tuple[str, str], ...], float] = {}
        for one in self.ask("query", query=expression)["result"]:
            labels = {name: value for name, value in one["metric"].items() if name not in ("job", "instance")}
            found[tuple(sorted(labels.items()))] = float(one["value"][1])
        return found

    def value(self, expression: str) -> float | None:
        """That of one series, or None."""
        found = list(self.values(expression).values())
        assert len(found) <= 1, (expression, found)
        return found[0] if found else None

    def firing(self) -> set[str]:
        """Names of alerts that fire now."""
        found = self.ask("alerts")["alerts"]
        return {one["labels"]["alertname"] for one in found if one["state"] == "firing"}


def configure(directory: Path, port: int) -> Path:
    """The shipped example with this daemon's address, asked each second; alerts fire without waiting."""
    (directory / "everpool.token").write_text(TOKEN)
    rules = yaml.safe_load((SHIPPED / "everpool.rules.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)
    (directory / "everpool.rules.yml").write_text(json.dumps(rules))
    text = (SHIPPED / "prometheus.yml").read_text()
    config = yaml.safe_load(text.replace("127.0.0.1:7070", f"127.0.0.1:{port}"))
    config["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    for job in config["scrape_configs"]:
        for discovered in job.get("http_sd_configs", ()):
            discovered["refresh_interval"] = "1s"
    path = directory / "prometheus.yml"
    path.write_text(json.dumps(config))
    return path


@contextmanager
def running(directory: Path, port: int) -> Iterator[Prometheus]:
    program = shutil.which("prometheus")
    if program is None:
        assert not os.environ.get("CI"), "prometheus is missing: install Debian's"
        pytest.skip("prometheus is not installed")
    directory.mkdir()
    config, listen = configure(directory, port), f"127.0.0.1:{free_port()}"
    log = directory / "log"
    with log.open("wb") as told:
        server = subprocess.Popen(
            [
                program,
                f"--config.file={config}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address={listen}",
                "--log.level=debug",
            ],
            stdin=subprocess.DEVNULL,
            stdout=told,
            stderr=told,
        )
    found = Prometheus(f"http://{listen}", log)
    try:
        until(found.ready, "Prometheus is ready")
        yield found
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def test_prometheus_scrapes_discovers_and_alerts(rig: Rig) -> None:
    port, token = free_port(), rig.root / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN)
    # A lost machine takes longer to replace than a busy server to look once: else the alert might be missed.
    rig.configure(daemon=f'listen = "127.0.0.1:{port}"\ntoken_file = "{token}"', local="launch_delay_s = 8")
    rig.start()
    with running(rig.root / "prometheus", port) as server:
        scripted(rig)
        counted(rig, server)
        targets(rig, server)
        alerts(rig, server)
        dashboard(server)
        clean(server)
        rig.down()
        until(lambda: server.value('everpool_pool_ready_nodes{pool="main"}') is None, "its gauges are gone")
        rig.stop()
        until(lambda: "EverpoolDown" in server.firing(), "a daemon that is down is alerted")


def scripted(rig: Rig) -> None:
    """Two nodes, tasks, and a machine that is taken and replaced."""
    assert rig.up(nodes=2).status == "success"
    old = rig.machine_of(node=0)
    for shell, result in (("true", "success"), ("true", "success"), ("exit 3", "failure")):
        assert rig.run(shell).result == result
    rig.kill_machine(old)
    rig.until_event("instance_replaced")
    until(lambda: len([one for one in rig.client.nodes("main") if one["status"] == "filled"]) == 2, "whole")


def counted(rig: Rig, server: Prometheus) -> None:
    """Counters are what the events say; gauges are what there is."""

    def agrees() -> bool:
        kinds = Counter[str](one.event.kind for one in rig.events())
        told = server.values("sum by (kind) (everpool_events_total)")
        return bool(told) and all(kinds[labels[0][1]] == value for labels, value in told.items())

    until(agrees, "as many events as there are")
    kinds = Counter(one.event.kind for one in rig.events())
    wanted = {
        'everpool_launches_total{provider="local",outcome="ok"}': kinds["instance_launched"],
        'sum(everpool_preemptions_total{provider="local"})': kinds["instance_preempted"],
        'everpool_pool_preemptions_total{pool="main"}': kinds["instance_preempted"],
        'everpool_pool_replacements_total{pool="main"}': kinds["instance_replaced"],
        'everpool_tasks_completed_total{pool="main",result="success"}': 2,
        'everpool_tasks_completed_total{pool="main",result="failure"}': 1,
        'everpool_time_to_ready_seconds_count{provider="local"}': 3,
        'everpool_pool_ready_nodes{pool="main"}': 2,
        'everpool_pool_desired_nodes{pool="main"}': 2,
        'everpool_pool_state{pool="main",state="ready"}': 1,
        'sum(everpool_pool_state{pool="main"})': 1,
        'everpool_nodes{pool="main",state="filled"}': 2,
        'everpool_instances{pool="main",provider="local",state="ready"}': 2,
        'everpool_links{state="up"}': 2,
        "everpool_ready": 1,
        "everpool_journal_failing": 0,
        "sum(everpool_bugs_total)": 0,
    }
    for expression, value in wanted.items():
        until(lambda e=expression, v=value: server.value(e) == v, f"{expression} is {value}", 10)  # type: ignore[misc]
    names = set(server.ask("label/__name__/values"))
    lacking = {name for name in (listed() | PROCESS) if not any(one.startswith(name) for one in names)}
    # What has samples only when there is something: here is no TLS, webhook, token that expires, or leftover.
    rare = ("certificate", "token_exp", "webhook", "budget", "quarantined", "leftovers")
    assert not [name for name in lacking if not any(word in name for word in rare)]
    age = server.value('everpool_provider_observation_age_seconds{provider="local"}')
    assert age is not None and age < 30


def targets(rig: Rig, server: Prometheus) -> None:
    """Daemon and machines are scraped; each ready machine is a target where its exporter would be."""

    def up() -> bool:
        return server.value('sum(up{job=~"everpool|everpool-instances"})') == 2

    until(up, "both of the daemon's pages are scraped")
    ready = {one["id"]: one for one in rig.client.instances("main") if one["status"] == "ready"}

    def discovered() -> bool:
        active = server.ask("targets", state="active")["activeTargets"]
        found = {one["labels"]["instance"]: one for one in active if one["scrapePool"] == "everpool-nodes"}
        return found.keys() == ready.keys()

    until(discovered, "the machines that are ready are targets")
    active = server.ask("targets", state="active")["activeTargets"]
    for one in active:
        if one["scrapePool"] == "everpool-nodes":
            machine = ready[one["labels"]["instance"]]
            assert one["discoveredLabels"]["__address__"] == f"{machine['address']}:9100"
            assert one["labels"]["pool"] == "main" and one["labels"]["node"] == str(machine["node"])
            assert one["labels"]["type"] == machine["instance_type"]
        else:
            assert one["health"] == "up", one["lastError"]

    def measured() -> bool:
        found = server.ask("query", query="everpool_instance_memory_used_bytes")["result"]
        return {one["metric"]["instance"] for one in found} >= ready.keys()

    until(measured, "what machines measure is there, under their own ids")


def alerts(rig: Rig, server: Prometheus) -> None:
    """Rules are healthy; what is planted fires, and ends when it does."""
    loaded = [rule for group in server.ask("rules")["groups"] for rule in group["rules"]]
    shipped = yaml.safe_load((SHIPPED / "everpool.rules.yml").read_text())["groups"]
    assert len(loaded) == sum(len(group["rules"]) for group in shipped)
    until(lambda: _evaluated(server), "every rule was evaluated, well")
    quiet = {"EverpoolPoolBelowMin", "EverpoolPoolPausedLong", "EverpoolDown", "EverpoolBugs"}
    until(lambda: not server.firing() & quiet, "nothing of that fires while all is well")
    rig.client.submit(PoolPauseRequested(pool="main"))
    until(lambda: "EverpoolPoolPausedLong" in server.firing(), "a pause is alerted")
    rig.client.submit(PoolPauseRequested(pool="main", paused=False))
    until(lambda: "EverpoolPoolPausedLong" not in server.firing(), "its end ends that")
    (node,) = [one for one in rig.client.nodes("main") if one["node"] == 1]
    rig.kill_machine(node["instance_id"])
    until(lambda: "EverpoolPoolBelowMin" in server.firing(), "a lost machine is alerted")
    until(lambda: "EverpoolPoolBelowMin" not in server.firing(), "its replacement ends that")


def _evaluated(server: Prometheus) -> bool:
    rules = [rule for group in server.ask("rules")["groups"] for rule in group["rules"]]
    assert not [rule for rule in rules if rule["health"] == "err"], rules
    return all(rule["health"] == "ok" for rule in rules)


def dashboard(server: Prometheus) -> None:
    """A real server understands each expression of the dashboard, and finds series for most."""
    empty = []
    for expression in expressions():
        try:
            if not server.ask("query", query=expression)["result"]:
                empty.append(expression)
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError((expression, error.read())) from error
    assert len(empty) < len(expressions()) / 4, empty


def clean(server: Prometheus) -> None:
    """Nothing was refused of what was scraped: no doubles, nothing out of order, no limits."""
    said = server.log.read_text(errors="replace")
    for word in ("out-of-order", "out of order", "uplicate", "Append failed", "Error on ingesting"):
        assert word not in said, [line for line in said.splitlines() if word in line][:5]
    assert "level=error" not in said and "level=warn" not in said.replace("Error on", ""), said[-3000:]
    assert server.value('min(min_over_time(up{job=~"everpool|everpool-instances"}[2m]))') == 1
    lines = server.value('scrape_samples_scraped{job="everpool"}')
    assert lines is not None and lines < 1500
