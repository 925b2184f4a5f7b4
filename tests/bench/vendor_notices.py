"""From a notice at a vendor's metadata server to the agent's report on its stream, with real processes.

`python -m tests.bench.vendor_notices [--quick] [--json]` prints milliseconds for aws, whose service has to
be asked again and again (every 2 s: that is most of it), and for gcp, whose server answers when something
changes; and how much of a core an agent needs for it.
"""

import argparse
import json
import math
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from tests.fakes.metadata import GceMetadata, Imds
from tests.fakes.serving import served
from tests.providers.agent.rig import Rig, Stream, until

Kind = Literal["aws", "gcp"]
KINDS: tuple[Kind, ...] = ("aws", "gcp")
AGENTS = 4
APART_S = (0.5, 2.5)  # at random, longer than the period: a notice comes at any point of it
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def measure(kind: Kind, runs: int) -> dict[str, float]:
    """Notices to a few machines, each on its own.

    Returns:
        runs, p50_ms, p99_ms, most_ms of the time from notice to report, and cpu_percent of an agent.
    """
    with ThreadPoolExecutor(AGENTS) as pool, tempfile.TemporaryDirectory(prefix="everpool-bench-") as folder:
        machines = [
            pool.submit(_machine, kind, Path(folder) / str(number), math.ceil(runs / AGENTS), number)
            for number in range(AGENTS)
        ]
        results = [machine.result() for machine in machines]
    waits = sorted(wait for some, _ in results for wait in some)
    return {
        "runs": len(waits),
        "p50_ms": round(waits[len(waits) // 2], 2),
        "p99_ms": round(waits[math.ceil(len(waits) * 0.99) - 1], 2),
        "most_ms": round(waits[-1], 2),
        "cpu_percent": round(sum(cpu for _, cpu in results) / len(results), 3),
    }


def _machine(kind: Kind, folder: Path, runs: int, seed: int) -> tuple[list[float], float]:
    """Milliseconds of each notice to one machine, and the share of a core that its agent took."""
    chance = random.Random(seed)
    app: Imds | GceMetadata = Imds() if kind == "aws" else GceMetadata()
    folder.mkdir()
    rig = Rig(folder)
    waits = []
    with ExitStack() as stack:
        url = stack.enter_context(served(app))
        stack.callback(app.close)
        stack.callback(rig.end)
        rig.options = ["--metadata", kind, "--metadata-url", url]
        stream = rig.attach()
        call = "get" if kind == "aws" else "instance/preempted"
        until(lambda: app.controls.calls[call] >= 2)
        used, began = _cpu_s(rig.agent_pid()), time.monotonic()
        for _ in range(runs):
            time.sleep(chance.uniform(*APART_S))
            noticed_at = time.perf_counter()
            app.notice(120)
            _until_heard(stream, "notice")
            waits.append((time.perf_counter() - noticed_at) * 1000)
            app.withdraw()
            _until_heard(stream, "notice_gone")
            stream.ack()
        cpu = 100 * (_cpu_s(rig.agent_pid()) - used) / (time.monotonic() - began)
    return waits, cpu


def _until_heard(stream: Stream, kind: str) -> None:
    stream.heard[:] = [message for message in stream.heard if message["t"] == "hello"]
    stream.until(lambda message: message["t"] == kind)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def main(argv: Sequence[str] | None = None) -> int:
    """Run it in this process."""
    parser = argparse.ArgumentParser(prog="tests.bench.vendor_notices", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of the runs")
    parser.add_argument("--json", action="store_true", help="figures for programs")
    options = parser.parse_args(argv)
    runs = 20 if options.quick else 100
    figures = {kind: measure(kind, runs) for kind in KINDS}
    if options.json:
        sys.stdout.write(f"{json.dumps(figures)}\n")
        return 0
    for kind, found in figures.items():
        words = ", ".join(f"{name} {value:g}" for name, value in found.items())
        sys.stdout.write(f"notice at {kind}'s metadata server -> agent's report: {words}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
