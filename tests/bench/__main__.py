"""`python -m tests.bench`: everything that is measured, in one run."""

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable

from tests.bench import fleet, memory, notices, recovery, scrape, submits, tasks
from tests.bench.report import Figures, lines

PARTS: dict[str, Callable[..., None]] = {
    "tasks": tasks.measure,
    "idle": memory.idle,
    "nodes": memory.nodes,
    "submits": submits.measure,
    "notices": notices.measure,
    "recovery": recovery.measure,
    "fleet": fleet.measure,
    "scrape": scrape.measure,
}


def main() -> int:
    """Measure, then print a table or one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout, all else on stderr")
    parser.add_argument("--quick", action="store_true", help="small numbers, to see that it works")
    parser.add_argument("--only", choices=PARTS, action="append", help="only this part; may be given again")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # so that nothing is left behind
    figures, began = Figures(), time.monotonic()

    def say(text: str) -> None:
        stream = sys.stderr if options.json else sys.stdout
        stream.write(f"{time.monotonic() - began:6.1f} s  {text}\n")
        stream.flush()

    say(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {sys.version.split()[0]}")
    for name in options.only or PARTS:
        PARTS[name](figures, say, quick=options.quick)
    if options.json:
        sys.stdout.write(f"{json.dumps(figures.as_json())}\n")
    else:
        sys.stdout.write("\n" + "\n".join(lines(figures)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
