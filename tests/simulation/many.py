"""Many seeds, some at a time in processes of their own; outcomes come in the order of the seeds."""

import gc
import multiprocessing
import signal
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice

from tests.simulation.plan import Case
from tests.simulation.run import Outcome, run_case

SEEDS_A_PROCESS = (
    50  # then a fresh one: what one run leaves behind in memory can't be what makes the next equal
)


def outcomes(cases: Iterable[Case], jobs: int) -> Generator[Outcome]:
    """Run cases. The iterable is asked for the next case only when one is about to be run.

    Closing the generator, or an exception where it waits (as Ctrl-C's), ends the processes.
    """
    if jobs == 1:
        yield from map(run_case, cases)
        return
    waiting: deque[Future[Outcome]] = deque()
    left = iter(cases)
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(jobs, context, begin_process, max_tasks_per_child=SEEDS_A_PROCESS)
    try:
        while True:
            waiting += [pool.submit(run_case, case) for case in islice(left, 2 * jobs - len(waiting))]
            if not waiting:
                break
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()


def begin_process() -> None:
    """Only the first process says something at Ctrl-C; in the others that run seeds it is not heard.

    What is there already lives as long as the process: the collector need not look through it again and again
    (a quarter of a seed's time).
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
