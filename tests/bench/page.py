"""The page with 1,000 nodes in headless Chromium: when something is painted, and when all nodes are.

`python -m tests.bench.page`; ends with 1 when a figure is over its gate.
"""

import argparse
import json
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path

from playwright.sync_api import Page

from tests.real.browser import CHROMIUM, Served, chromium, looking
from tests.real.rig import Rig, until

NODES = 1_000
GATE_MS = 1_000.0
KEYS = ("page_first_paint_ms", "page_nodes_painted_ms")
_FIRST = "performance.getEntriesByName('first-contentful-paint')[0].startTime"
_NODES = "performance.getEntriesByName('everpool:nodes')[0].startTime"


def _painted(page: Page) -> bool:
    """Polled from here: the page's policy lets nobody evaluate text in it again and again."""
    return bool(page.evaluate("performance.getEntriesByName('everpool:nodes').length"))


def measure(runs: int) -> dict[str, float]:
    """Medians of so many loads with an empty cache, in milliseconds since the navigation began."""
    with tempfile.TemporaryDirectory(prefix="everpool-", ignore_cleanup_errors=True) as root:
        rig = Rig(Path(root))
        try:
            served = Served(rig)
            served.pool("thousand", NODES)
            served.until_whole("thousand", NODES)
            first, nodes = [], []
            with chromium() as browser:
                for _ in range(runs):
                    with looking(browser) as tab:
                        tab.page.goto(served.at("/pools/thousand"))
                        until(partial(_painted, tab.page), "the nodes are painted")
                        assert tab.page.locator("#node-grid [role=option]").count() == NODES
                        first.append(float(tab.page.evaluate(_FIRST)))
                        nodes.append(float(tab.page.evaluate(_NODES)))
        finally:
            rig.end()
    return dict(zip(KEYS, (round(statistics.median(one), 1) for one in (first, nodes)), strict=True))


def main() -> int:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.page", description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    if CHROMIUM is None:
        sys.stderr.write("chromium is not installed\n")
        return 2
    figures = measure(options.runs)
    sys.stdout.write(f"{json.dumps(figures)}\n")
    return int(any(figures[key] > GATE_MS for key in KEYS))


if __name__ == "__main__":
    sys.exit(main())
