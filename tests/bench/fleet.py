"""Ten thousand nodes on the virtual clock: cpu and memory of the daemon, and notices all at once.

The daemon is the one of production, with its own times between listings and leases; its journal is in memory,
and it has no read model, API and telemetry around it. Cpu is the daemon's own: what the simulated cloud with
its agents and the journal use is told apart by sampling (`sampler.py`). Memory is PSS beyond what was there
before the first node, less what the cloud alone holds (`cloud.py`).
"""

from typing import Any

from tests.bench.report import Figures, Say
from tests.bench.runs import answer_of
from tests.bench.sampler import DAEMON

WITHIN_S = 4 * 3600.0
METRICS_S = 10.0  # as a pool's spec has it when it does not say
SPAN_S = 600.0  # virtual, in which a day's share is measured where a whole day would be too long
DAY_S = 86_400.0
COMMIT_S = 0.005  # of the journal's window and a write, in virtual time


def measure(figures: Figures, say: Say, *, quick: bool) -> None:
    """Hours of preemptions, ten quiet minutes without and with metrics, and two bursts.

    A whole day, of which the shares are the same: `python -m tests.simulation.fleet --nodes 10000 --days 1`.
    """
    nodes, days, burst = (1_000, 0.02, 200) if quick else (10_000, 0.1, 1_000)
    say(f"fleet: {nodes} simulated nodes from nothing to ready, then {days:g} virtual days, each node is")
    say("       preempted once a day with 120 s of notice; listings every 5 s, leases of 30 min")
    cloud = answer_of("tests.bench.cloud", str(nodes))
    day = _run("--nodes", nodes, "--days", days)
    _tell_day(figures, say, day, cloud, nodes, days)
    _shares(figures, say, day, nodes, days)
    for count in (burst, nodes):
        _burst(figures, say, count, burst)


def _run(*words: object) -> dict[str, Any]:
    answer: dict[str, Any] = answer_of("tests.simulation.fleet", *map(str, words), within_s=WITHIN_S)
    return answer


def _tell_day(
    figures: Figures, say: Say, day: dict[str, Any], cloud: dict[str, float], nodes: int, days: float
) -> None:
    ended = cloud["ended_kib"] * (day["machines"] - nodes) / nodes
    figures.put("fleet_up_cpu_s", day["up_parts"][DAEMON])
    figures.put("fleet_up_all_cpu_s", day["up_cpu_s"])
    figures.put("fleet_kib_per_node", day["ready_kib"] - cloud["living_kib"])
    figures.put("fleet_peak_kib_per_node", day["ready_peak_kib"] - cloud["living_kib"])
    figures.put("fleet_end_kib_per_node", day["end_kib"] - cloud["aged_kib"] - ended)
    figures.put("fleet_cloud_kib_per_node", cloud["living_kib"])
    figures.put("fleet_preemptions", day["preemptions"])
    figures.put("fleet_launches", day["launches"])
    figures.put("fleet_missing_share", day["short_share"])
    say(f"  hash {day['hash']}")
    say(
        f"  all ready after {day['up_virtual_s']:.0f} virtual s and {day['up_cpu_s']:.1f} s of cpu, by whose:"
    )
    say(f"    {day['up_parts']}")
    say(f"  then {day['days_cpu_s']:.1f} s of cpu: {day['days_parts']}")
    say(f"  {day['preemptions']} preemptions, {day['launches']} launches, {day['listings']} listings")
    say(f"  node-seconds without a machine that works: {day['short_share']:.6%}")
    say(f"  KiB a node, cloud and all: {day['ready_kib']:.1f} (most {day['ready_peak_kib']:.1f}) when ready,")
    say(f"    {day['end_kib']:.1f} (most {day['end_peak_kib']:.1f}) at the end; the cloud alone: {cloud}")


def _shares(figures: Figures, say: Say, day: dict[str, Any], nodes: int, days: float) -> None:
    words = ("--nodes", nodes, "--days", SPAN_S / DAY_S, "--preemptions-per-day", 0)
    quiet, told = _run(*words), _run(*words, "--metrics-every-s", METRICS_S)
    rest, still, metrics = (
        100 * one["days_parts"][DAEMON] / span
        for one, span in ((day, days * DAY_S), (quiet, SPAN_S), (told, SPAN_S))
    )
    reports = nodes * SPAN_S / METRICS_S
    figures.put("fleet_quiet_cpu_percent", still)
    figures.put("fleet_day_cpu_percent", rest)
    figures.put("fleet_metrics_cpu_percent", metrics - still)
    figures.put("fleet_cpu_percent", rest + metrics - still)
    figures.put("fleet_preemption_cpu_ms", 10 * (rest - still) * days * DAY_S / max(1, day["preemptions"]))
    figures.put("fleet_report_cpu_us", 1e4 * (metrics - still) * SPAN_S / reports)
    say(f"  of a core: {still:.2f} % while nothing happens, {rest:.2f} % with the preemptions, and")
    say(f"    {metrics - still:.2f} % more with an agent's metrics every {METRICS_S:g} s")


def _burst(figures: Figures, say: Say, nodes: int, burst: int) -> None:
    words = ("--nodes", nodes, "--burst", burst)
    at_once, slow = _run(*words), _run(*words, "--commit-s", COMMIT_S)
    key = f"fleet_burst_{nodes}"
    figures.put(f"{key}_virtual_ms", 1000 * at_once["burst_virtual_s"])
    figures.put(f"{key}_virtual_commit_ms", 1000 * slow["burst_virtual_s"])
    figures.put(f"{key}_real_s", at_once["burst_real_s"])
    figures.put(f"{key}_cpu_s", at_once["burst_cpu_s"])
    slowly, calls = 1000 * slow["burst_virtual_s"], at_once["burst_calls"]
    say(f"  {burst} notices in one moment at {nodes} nodes, until the last of {calls} launch calls:")
    real, cpu = at_once["burst_real_s"], at_once["burst_cpu_s"]
    say(f"    {1000 * at_once['burst_virtual_s']:.1f} ms of virtual time, {slowly:.1f} when a commit takes")
    say(f"    {1000 * COMMIT_S:g} ms; {real:.2f} s real, {cpu:.2f} s of cpu")
