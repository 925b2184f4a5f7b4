"""Whose code uses the cpu: looked at every few milliseconds of cpu time.

What is simulated around a daemon runs in its process, and must not be counted as the daemon's.
"""

import signal
import time
from collections import Counter
from types import FrameType

from tests.bench.runs import ROOT

LOOK_S = 0.002  # of cpu time; the kernel may make it longer
DAEMON = "daemon"
OTHERS = {  # whoever is not told here is the daemon: its libraries and the loop are its too
    f"{ROOT}/providers/simulated/": "cloud",
    f"{ROOT}/providers/agent/agent.py": "cloud",
    f"{ROOT}/controller/simulation/ledger.py": "journal",
}


class Sampler:
    """Looks at the stack of the main thread. What somebody calls is his, so the outermost one counts."""

    def __init__(self) -> None:
        self._looks: Counter[str] = Counter()
        self._owners: dict[str, str] = {}  # by file
        self._cpu_s = 0.0

    def start(self) -> None:
        """Look from now on. Called on the loop: a signal must not wake it, or the run would be another."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, LOOK_S, LOOK_S)
        self._cpu_s = time.process_time()

    def stop(self) -> None:
        """Look no more."""
        signal.setitimer(signal.ITIMER_PROF, 0)

    def taken(self) -> tuple[float, dict[str, float]]:
        """Seconds of cpu since this was asked last: all of them, and by whose they were."""
        now = time.process_time()
        seconds, self._cpu_s = now - self._cpu_s, now
        looks, self._looks = self._looks, Counter()
        share = seconds / max(1, looks.total())
        return seconds, {owner: round(count * share, 3) for owner, count in sorted(looks.items())}

    def _look(self, number: int, frame: FrameType | None) -> None:
        owner = DAEMON
        while frame is not None:
            path = frame.f_code.co_filename
            if (whose := self._owners.get(path)) is None:
                whose = next((name for start, name in OTHERS.items() if path.startswith(start)), DAEMON)
                self._owners[path] = whose
            if whose != DAEMON:
                owner = whose
            frame = frame.f_back
        self._looks[owner] += 1
