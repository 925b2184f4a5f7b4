"""A start after kill -9: from the new process to the first machine adopted, launched or reaped.

`python -m tests.bench.recovery build STATE NODES TASKS` lives as a daemon until that many nodes run a task
each and the other tasks wait, then kills itself. `… start STATE` lives again, and its cloud has the same
machines.
"""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path

import anyio

from actors.events import PoolRequested, TaskRequested
from actors.spec import Nodes, PoolSpec, TaskSpec
from controller.daemon import Daemon
from providers.model import ClusterOrder
from tests.bench.inside import POOL, ask, live, ready, tapped, until
from tests.bench.report import Figures, Say
from tests.bench.runs import ROOT

LIST = 1_000
BUILD_S, START_S = 900.0, 120.0
MACHINES = "machines.json"
PLANTED = "planted"
DEEDS = ("instance_adopted", "instance_launched", "instance_reaped")
LONG = TaskSpec(argv=("sim-sleep", "1000000"))


def measure(figures: Figures, say: Say, *, quick: bool) -> None:
    """Build, kill, start."""
    nodes, tasks = (500, 5_000) if quick else (10_000, 100_000)
    say(f"recovery: {nodes} simulated nodes with a task each, {tasks} tasks pending, kill -9, start")
    root = Path(tempfile.mkdtemp(prefix="everpool-bench-"))
    try:
        state, began = root / "state", time.monotonic()
        words = ("build", str(state), str(nodes), str(tasks))
        built = subprocess.run([*_MODULE, *words], cwd=ROOT, timeout=BUILD_S, check=False)
        if built.returncode != -signal.SIGKILL:
            raise RuntimeError(f"building ended with {built.returncode}")
        say(f"  built in {time.monotonic() - began:.0f} s, journal {_size_mb(state):.0f} MB")
        after = _last_seq(state)
        began_at = time.time()
        process = subprocess.Popen([*_MODULE, "start", str(state)], cwd=ROOT)
        try:
            at = _first_deed(state, after, process)
        finally:
            process.kill()
            process.wait()
        planted_s = float((root / PLANTED).read_text())
        took = at - began_at - planted_s
        figures.put("recovery_s", took)
        say(f"  {took:.2f} s, without {planted_s:.2f} s to make the simulated cloud again")
    finally:
        shutil.rmtree(root, ignore_errors=True)


_MODULE = (sys.executable, "-m", "tests.bench.recovery")


def _journal(state: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{state}/journal.sqlite3?mode=ro", uri=True)


def _size_mb(state: Path) -> float:
    return sum(path.stat().st_size for path in state.glob("journal.sqlite3*")) / 1e6


def _last_seq(state: Path) -> int:
    with closing(_journal(state)) as journal:
        return int(journal.execute("SELECT max(seq) FROM events").fetchone()[0])


def _first_deed(state: Path, after: int, process: subprocess.Popen[bytes]) -> float:
    """When the first of `DEEDS` behind a seq was journaled, UTC seconds."""
    marks = ",".join("?" * len(DEEDS))
    query = f"SELECT min(at) FROM events WHERE seq > ? AND kind IN ({marks})"
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        with suppress(sqlite3.OperationalError), closing(_journal(state)) as journal:
            (at,) = journal.execute(query, (after, *DEEDS)).fetchone()
            if at is not None:
                return float(at)
        time.sleep(0.05)
    raise RuntimeError("nothing was adopted, launched or reaped")


# --- in a process of its own ------------------------------------------------------------------------


async def _build(daemon: Daemon, state: Path, nodes: int, tasks: int) -> None:
    await ask(daemon, PoolRequested(pool=POOL, spec=PoolSpec(provider=("sim",), nodes=Nodes(desired=nodes))))
    await until(lambda: ready(daemon) == nodes, 0.1)
    for start in range(0, nodes + tasks, LIST):
        count = min(LIST, nodes + tasks - start)
        await ask(daemon, *(TaskRequested(pool=POOL, task=LONG) for _ in range(count)))
        loop = daemon.acting.loops[POOL]
        await until(lambda: loop.waiting == 0)  # noqa: B023
    counts = daemon.acting.loops[POOL].index.task_counts
    await until(lambda: counts["running"] == nodes and counts["pending"] == tasks, 0.1)
    cloud = tapped(daemon).cloud
    machines = [
        (one.key, one.owner, one.epoch, one.cluster_id, one.offer.id, one.launched_at)
        for one in cloud.machines.values()
    ]
    clusters = [(one.cluster_id, one.region) for one in cloud.clusters.values()]
    text = json.dumps({"machines": machines, "clusters": clusters})
    await anyio.Path(state.parent / MACHINES).write_text(text)
    os.kill(os.getpid(), signal.SIGKILL)


def _plant(daemon: Daemon, state: Path) -> None:
    """Make the cloud again that the killed process had in memory."""
    began = time.perf_counter()
    cloud = tapped(daemon).cloud
    saved = json.loads((state.parent / MACHINES).read_text())
    for cluster, region in saved["clusters"]:
        cloud.open_cluster(
            ClusterOrder(cluster_id=cluster, owner="", pool=POOL, region=region, public_key="")
        )
    offers = {offer.id: offer for offer in cloud.offers}
    for key, owner, epoch, cluster, offer, launched_at in saved["machines"]:
        machine = cloud.plant(key, owner, offers[offer], epoch=epoch, cluster_id=cluster)
        machine.launched_at = machine.visible_at = launched_at
    cloud.timeline.happen_due()
    for machine in cloud.living.values():
        if machine.host is not None:  # what its agent knew is lost, and it says so
            machine.host.core.boot = f"again-{machine.ref}"
    (state.parent / PLANTED).write_text(str(time.perf_counter() - began))


def main() -> None:
    """Build, or start."""
    what, state = sys.argv[1], Path(sys.argv[2])

    async def build(daemon: Daemon) -> None:
        await _build(daemon, state, int(sys.argv[3]), int(sys.argv[4]))

    async def stay(daemon: Daemon) -> None:
        await anyio.sleep_forever()

    if what == "build":
        live(state, lambda _: None, build)
    else:
        live(state, lambda daemon: _plant(daemon, state), stay)


if __name__ == "__main__":
    main()
