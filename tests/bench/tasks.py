"""No-op process tasks a second: everpool beside the machine's own spawn rate, HyperQueue and Dask."""

import time
from statistics import median

from tests.bench.house import House, cpu_s, house
from tests.bench.rawhttp import Connection
from tests.bench.report import Figures, Say
from tests.bench.rivals import COMMAND, INSTALL, MODULES
from tests.bench.runs import answer_of

POOL = "bench"
CONCURRENCY, BUFFER = 2, 256  # tasks that run at once on a node, and that wait there
LIST = 500  # messages in one request
ROUNDS, ROUND_TASKS = 4, 2_000
QUICK_ROUNDS, QUICK_TASKS = 2, 1_000
IDLE_S = 5.0


def everpool(home: House, count: int) -> float:
    """Seconds from the first task sent to the last TaskCompleted journaled."""
    before = home.journaled("task_completed")
    message = {"kind": "task_requested", "pool": POOL, "task": {"argv": COMMAND}}
    began = time.perf_counter()
    with Connection(home.socket) as connection:
        for start in range(0, count, LIST):
            connection.post([message] * min(LIST, count - start))
    home.until(lambda: home.results(POOL).get("success", 0) >= before + count)
    seconds = time.perf_counter() - began
    done = home.journaled("task_completed") - before
    if done != count:
        raise RuntimeError(f"{done} of {count} tasks have a TaskCompleted in the journal")
    return seconds


def measure(figures: Figures, say: Say, *, quick: bool) -> None:
    """Rounds of all four, one after the other; the medians count."""
    rounds, count = (QUICK_ROUNDS, QUICK_TASKS) if quick else (ROUNDS, ROUND_TASKS)
    say(f"tasks: {rounds} rounds of {count} no-op processes each; everpool: journaled, 2 local nodes,")
    say(f"       concurrency {CONCURRENCY}, buffer {BUFFER} on each, sent as lists of {LIST}")
    rates: dict[str, list[float]] = {"everpool": [], "spawn": [], "hyperqueue": [], "dask": []}
    absent: set[str] = set()
    with house("") as home:
        home.make_pool(POOL, 2, provider="local", worker={"concurrency": CONCURRENCY, "buffer": BUFFER})
        everpool(home, 100)
        idle(home, figures)
        for turn in range(1, rounds + 1):
            for name in rates:
                if name in absent:
                    continue
                seconds = everpool(home, count) if name == "everpool" else rival(name, count)
                if seconds is None:
                    absent.add(name)
                    say(f"  {MODULES[name]} is not installed: {INSTALL}")
                    continue
                rates[name].append(count / seconds)
                say(f"  round {turn}: {name:10} {count / seconds:7.0f} /s")
        home.drop_pool(POOL)
    keys = {"everpool": "tasks_per_s", "spawn": "spawn_per_s"}
    for name, values in rates.items():
        figures.put(keys.get(name, f"{name}_tasks_per_s"), median(values) if values else None)


def rival(name: str, count: int) -> float | None:
    """Seconds that another system needs; None when it is not installed."""
    seconds = answer_of("tests.bench.rivals", name, str(count))
    return None if seconds is None else float(seconds)


def idle(home: House, figures: Figures) -> None:
    """What the daemon and its machines' agents use of one core while nothing happens."""
    agents = home.agents()
    time.sleep(2.0)  # what the warm-up left to do
    daemon, others = cpu_s(home.pid), sum(map(cpu_s, agents))
    time.sleep(IDLE_S)
    figures.put("idle_daemon_cpu_percent", 100 * (cpu_s(home.pid) - daemon) / IDLE_S)
    if agents:
        share = (sum(map(cpu_s, agents)) - others) / len(agents)
        figures.put("idle_agent_cpu_percent", 100 * share / IDLE_S)
