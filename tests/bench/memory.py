"""Memory of an idle daemon, and what each node adds to it."""

import time

from tests.bench.house import SIMULATED, house, memory_kib
from tests.bench.report import Figures, Say
from tests.bench.runs import answer_of

POOL = "bench"
SETTLE_S = 3.0


def idle(figures: Figures, say: Say, *, quick: bool) -> None:
    """A daemon with the local provider only, and no pool."""
    del quick
    say("idle memory: a daemon with `local` only, no pool, after its first garbage collection")
    with house("") as home:
        time.sleep(SETTLE_S)
        figures.put("idle_rss_mb", memory_kib(home.pid, "Rss") * 1024 / 1e6)
        figures.put("idle_pss_mb", memory_kib(home.pid) * 1024 / 1e6)


def nodes(figures: Figures, say: Say, *, quick: bool) -> None:
    """A daemon with simulated nodes, against the same one without."""
    count = 500 if quick else 2_000
    say(f"memory per node: {count} simulated nodes; what a simulated machine itself takes is told beside it")
    with house(SIMULATED) as home:
        home.make_pool(POOL, 1, provider="sim")  # what the first node of all loads
        time.sleep(SETTLE_S)
        before, began = memory_kib(home.pid), time.perf_counter()
        home.resize(POOL, count + 1)
        say(f"  {count} nodes ready after {time.perf_counter() - began:.1f} s")
        time.sleep(SETTLE_S)
        whole = (memory_kib(home.pid) - before) / count
    machine = float(answer_of("tests.bench.machines", str(count)))
    figures.put("kib_per_node", whole)
    figures.put("kib_per_simulated_machine", machine)
    say(f"  {whole:.1f} KiB a node, of which {machine:.1f} are the simulated machine and its agent")
